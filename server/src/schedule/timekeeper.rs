//! The server's own clock: whether it jumped or stood still since it was last looked at, and whether the hosts
//! confirm it. Pure: both clocks are handed in, what follows from the answer is the jobs' business.

use forewarn_common::id::HostId;
use forewarn_common::limit;

use crate::model::host::Host;

/// The wall clock and the one that never jumps may part by so much between two looks: a slewed clock parts slower.
const JUMP_MS: i64 = 30_000;
/// A server that did not look for so long was suspended or starved, and heard no agent meanwhile.
const STILL_MS: i64 = 90_000;
/// Only a host that was heard this lately can confirm a clock.
const HEARD_WITHIN_MS: i64 = 3_600_000;
/// So long nothing is deleted by a clock that the hosts contradict. Then it is: a site whose only host has the wrong
/// time must not fill its disk.
const DOUBTED_MS_MAX: i64 = 7 * 86_400_000;

/// Why the time since the last look is no time in which the hosts could be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// The wall clock was set, forwards or backwards.
    Jumped {
        /// By how much.
        by_ms: i64,
    },
    /// Nothing was looked at.
    StoodStill {
        /// For how long.
        for_ms: i64,
    },
}

/// Compares the two clocks from look to look.
#[derive(Debug, Default)]
pub struct Timekeeper {
    /// Wall clock and boot clock at the last look.
    last: Option<(i64, i64)>,
}

impl Timekeeper {
    /// Takes in both clocks. A jump is told before a standstill.
    pub(super) fn look(&mut self, wall_ms: i64, boot_ms: i64) -> Option<Gap> {
        let (wall_before_ms, boot_before_ms) = self.last.replace((wall_ms, boot_ms))?;
        let for_ms = boot_ms.saturating_sub(boot_before_ms);
        let by_ms = wall_ms.saturating_sub(wall_before_ms).saturating_sub(for_ms);
        if by_ms.saturating_abs() > JUMP_MS {
            Some(Gap::Jumped { by_ms })
        } else {
            (for_ms > STILL_MS).then_some(Gap::StoodStill { for_ms })
        }
    }
}

/// What the hosts say of the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// More hosts agree with it than not.
    Agrees,
    /// Nobody was heard lately: nobody knows.
    Silent,
    /// Most hosts have another time; `by_ms` is what the one in the middle would add to the server's clock.
    Contradicts {
        /// Hosts that have another time.
        hosts: usize,
        /// The middle one's distance.
        by_ms: i64,
    },
}

/// Asks the hosts; one whose id is `own` is the server itself and knows no better.
pub(super) fn witness(hosts: &[Host], own: Option<HostId>, now_ms: i64) -> Witness {
    let heard = |host: &&Host| Some(host.id) != own && now_ms.saturating_sub(host.seen_ms).abs() <= HEARD_WITHIN_MS;
    let mut skews_ms: Vec<i64> = hosts.iter().filter(heard).map(|host| host.skew_ms).collect();
    skews_ms.sort_unstable();
    let far: Vec<i64> =
        skews_ms.iter().copied().filter(|skew| skew.saturating_abs() > limit::CLOCK_SKEW_MS_MAX).collect();
    if skews_ms.is_empty() {
        Witness::Silent
    } else if 2 * far.len() < skews_ms.len() {
        Witness::Agrees
    } else {
        Witness::Contradicts { hosts: far.len(), by_ms: far[far.len() / 2] }
    }
}

/// How long the hosts have contradicted.
#[derive(Debug, Default)]
pub struct Doubt {
    /// Since when, by the boot clock.
    since_ms: Option<i64>,
}

impl Doubt {
    /// Whether what is past its retention by the server's clock may be deleted: what is gone does not come back when
    /// the clock is put right.
    pub(super) fn may_delete(&mut self, witness: Witness, boot_ms: i64) -> bool {
        match witness {
            Witness::Agrees => {
                self.since_ms = None;
                true
            }
            Witness::Silent => false,
            Witness::Contradicts { .. } => {
                boot_ms.saturating_sub(*self.since_ms.get_or_insert(boot_ms)) >= DOUBTED_MS_MAX
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forewarn_common::id::HostId;

    use super::*;

    const NOW_MS: i64 = 1_767_225_600_000;
    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn a_clock_that_is_set_and_a_server_that_stood_still_are_told_once() {
        let mut keeper = Timekeeper::default();
        let looks = [
            ((NOW_MS, 5_000), None),
            ((NOW_MS + 5_000, 10_000), None),
            ((NOW_MS + DAY_MS + 10_000, 15_000), Some(Gap::Jumped { by_ms: DAY_MS })),
            ((NOW_MS + DAY_MS + 15_000, 20_000), None),
            ((NOW_MS + 20_000, 25_000), Some(Gap::Jumped { by_ms: -DAY_MS })),
            ((NOW_MS + 620_000, 625_000), Some(Gap::StoodStill { for_ms: 600_000 })),
            ((NOW_MS + 640_000, 630_000), None),
        ];
        for ((wall_ms, boot_ms), gap) in looks {
            assert_eq!(keeper.look(wall_ms, boot_ms), gap, "at {boot_ms}");
        }
    }

    #[test]
    fn nothing_is_deleted_by_a_clock_that_nobody_confirms_and_a_doubt_does_not_fill_the_disk() {
        let mut keeper = Doubt::default();
        let doubt = Witness::Contradicts { hosts: 1, by_ms: DAY_MS };
        assert!(keeper.may_delete(Witness::Agrees, 0));
        assert!(!keeper.may_delete(Witness::Silent, 1) && !keeper.may_delete(Witness::Silent, 100 * DAY_MS));
        assert!(!keeper.may_delete(doubt, 0) && !keeper.may_delete(doubt, 7 * DAY_MS - 1));
        assert!(keeper.may_delete(doubt, 7 * DAY_MS));
        assert!(keeper.may_delete(Witness::Agrees, 8 * DAY_MS) && !keeper.may_delete(doubt, 9 * DAY_MS), "a new doubt");
    }

    #[test]
    fn the_hosts_outvote_a_wrong_server_and_a_wrong_host_does_not() {
        let host = |number: u8, skew_ms: i64| Host {
            id: HostId([number; 16]),
            name: String::new(),
            component: String::new(),
            enrolled_ms: 0,
            seen_ms: NOW_MS,
            skew_ms,
            agent_version: String::new(),
        };
        let (right, wrong) = (host(1, 20), host(2, -DAY_MS));
        assert_eq!(witness(&[], None, NOW_MS), Witness::Silent);
        assert_eq!(witness(&[Host { seen_ms: NOW_MS - DAY_MS, ..right.clone() }], None, NOW_MS), Witness::Silent);
        assert_eq!(witness(&[right.clone(), host(3, 0), wrong.clone()], None, NOW_MS), Witness::Agrees);
        let contradicts = Witness::Contradicts { hosts: 1, by_ms: -DAY_MS };
        assert_eq!(witness(&[wrong.clone(), right.clone()], None, NOW_MS), contradicts, "no majority for it");
        assert_eq!(witness(&[wrong, right], Some(HostId([1; 16])), NOW_MS), contradicts, "its own word does not count");
    }
}
