//! When to read again what is dear for the kernel to make and hardly moves. What is read and kept stays with its room.

/// A tick may come a little early: what is due at it is not left to the next.
const TICK_JITTER_MS: i64 = 1000;

/// Is due at once, and again after a while.
#[derive(Debug)]
pub(super) struct Seldom {
    every_ms: i64,
    /// By so much the second time comes earlier than the others would have it.
    early_ms: i64,
    due_ms: Option<i64>,
}

impl Seldom {
    pub(super) const fn every(every_ms: i64) -> Self {
        Self { every_ms, early_ms: 0, due_ms: None }
    }

    /// As `every`, but not at the same ticks as others that begin together: `salt` tells them apart.
    pub(super) const fn spread(every_ms: i64, salt: u64) -> Self {
        Self { every_ms, early_ms: (salt % every_ms.unsigned_abs()).cast_signed(), due_ms: None }
    }

    /// Whether it is time; then it is taken to be read.
    pub(super) fn is_due(&mut self, boot_ms: i64) -> bool {
        self.is_due_or(false, boot_ms)
    }

    /// Whether it is time, or something else says so; then it is taken to be read.
    pub(super) fn is_due_or(&mut self, has_moved: bool, boot_ms: i64) -> bool {
        let is_due = has_moved || self.due_ms.is_none_or(|due_ms| boot_ms >= due_ms);
        if is_due {
            let wait_ms = self.every_ms - std::mem::take(&mut self.early_ms) - TICK_JITTER_MS;
            self.due_ms = Some(boot_ms.saturating_add(wait_ms));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which ticks of ten seconds it is due in so many, with this jitter.
    fn due_at(seldom: &mut Seldom, ticks: i64, jitter_ms: fn(i64) -> i64) -> Vec<i64> {
        (0..ticks).filter(|tick| seldom.is_due(tick * 10_000 + jitter_ms(*tick))).collect()
    }

    #[test]
    fn what_is_seldom_read_is_read_at_once_and_then_every_so_often_whatever_the_jitter() {
        assert_eq!(due_at(&mut Seldom::every(30_000), 10, |_| 0), [0, 3, 6, 9]);
        let jitter = |tick: i64| if tick % 2 == 0 { 300 } else { -300 };
        assert_eq!(due_at(&mut Seldom::every(30_000), 10, jitter), [0, 3, 6, 9]);
        assert_eq!(due_at(&mut Seldom::every(10_000), 4, jitter), [0, 1, 2, 3]);
    }

    #[test]
    fn what_moved_is_read_at_once_and_the_time_begins_anew() {
        let mut seldom = Seldom::every(30_000);
        assert!(seldom.is_due(0));
        assert!(!seldom.is_due_or(false, 10_000));
        assert!(seldom.is_due_or(true, 20_000));
        assert!(!seldom.is_due_or(false, 40_000));
        assert!(seldom.is_due_or(false, 50_000));
    }

    #[test]
    fn those_that_begin_together_are_spread_over_their_time_and_stay_so() {
        let mut by_tick = [0; 13];
        for salt in 0..60 {
            let due = due_at(&mut Seldom::spread(60_000, salt * 1000), 13, |_| 0);
            assert_eq!(due[0], 0);
            assert!(due[1] <= 6 && due.windows(2).skip(1).all(|pair| pair[1] - pair[0] == 6), "{due:?}");
            due.iter().for_each(|tick| by_tick[*tick as usize] += 1);
        }
        assert!(by_tick[1..].iter().all(|count| (9..=11).contains(count)), "{by_tick:?}");
    }
}
