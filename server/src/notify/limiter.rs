//! How fast a channel may be written to: windows over the moments of the last sends, so that no minute ever sees more
//! than a robot allows (a bucket that refills would let twice as many through in its first one).
//! Pure: the time is a parameter.

use std::collections::VecDeque;

use crate::model::channel::ChannelKind;

/// At most `count` sends in any `span_ms`.
struct Window {
    count: usize,
    span_ms: i64,
}

const MINUTE_MS: i64 = 60_000;
// Robots allow 20 a minute and punish the 21st; two are left for a test message and for our clock.
const ROBOT: &[Window] = &[Window { count: 18, span_ms: MINUTE_MS }];
// 5 a second and 100 a minute are allowed.
const FEISHU: &[Window] = &[Window { count: 4, span_ms: 1000 }, Window { count: 90, span_ms: MINUTE_MS }];
// A receiver of the site's own: enough for any burst of incidents, too little to hurt it.
const WEBHOOK: &[Window] = &[Window { count: 10, span_ms: 1000 }, Window { count: 300, span_ms: MINUTE_MS }];

/// Marks of the future beyond this come from a clock that was set back since, and do not count.
const AHEAD_MS_MAX: i64 = 2 * MINUTE_MS;
/// No lockout is longer.
const LOCK_MS_MAX: i64 = 30 * MINUTE_MS;

/// The recent sends of one channel, ascending.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    sent_ms: VecDeque<i64>,
    locked_until_ms: i64,
}

impl Limiter {
    /// How many messages may be sent now.
    #[must_use]
    pub(super) fn room(&self, kind: ChannelKind, now_ms: i64) -> usize {
        if self.is_locked(now_ms) {
            return 0;
        }
        let room = |window: &Window| window.count.saturating_sub(self.sent_within(window.span_ms, now_ms));
        windows(kind).iter().map(room).min().unwrap_or(0)
    }

    /// When there is room again; `now_ms` when there is.
    #[must_use]
    pub(super) fn free_ms(&self, kind: ChannelKind, now_ms: i64) -> i64 {
        let free = |window: &Window| {
            let blocking = self.counted(now_ms).nth(window.count - 1);
            blocking.map_or(now_ms, |sent_ms| sent_ms.saturating_add(window.span_ms))
        };
        let locked_until_ms = if self.is_locked(now_ms) { self.locked_until_ms } else { now_ms };
        windows(kind).iter().map(free).max().unwrap_or(now_ms).max(locked_until_ms).max(now_ms)
    }

    /// A message goes out; whether the receiver takes it or not, it has counted it.
    pub(super) fn record(&mut self, kind: ChannelKind, now_ms: i64) {
        self.sent_ms.retain(|sent_ms| sent_ms.saturating_sub(now_ms) <= AHEAD_MS_MAX);
        // Who waited for its turn may come with an older clock than the one before it.
        let at_ms = self.sent_ms.back().map_or(now_ms, |last_ms| now_ms.max(*last_ms));
        self.sent_ms.push_back(at_ms);
        let kept = windows(kind).iter().map(|window| window.count).max().unwrap_or(0);
        while self.sent_ms.len() > kept {
            self.sent_ms.pop_front();
        }
    }

    /// The receiver has shut us out until then.
    pub(super) fn lock(&mut self, until_ms: i64) {
        self.locked_until_ms = until_ms;
    }

    fn is_locked(&self, now_ms: i64) -> bool {
        (1..=LOCK_MS_MAX).contains(&self.locked_until_ms.saturating_sub(now_ms))
    }

    fn sent_within(&self, span_ms: i64, now_ms: i64) -> usize {
        self.counted(now_ms).take_while(|sent_ms| now_ms.saturating_sub(*sent_ms) < span_ms).count()
    }

    /// The sends that count, newest first.
    fn counted(&self, now_ms: i64) -> impl Iterator<Item = i64> {
        self.sent_ms.iter().rev().copied().filter(move |sent_ms| sent_ms.saturating_sub(now_ms) <= AHEAD_MS_MAX)
    }
}

fn windows(kind: ChannelKind) -> &'static [Window] {
    match kind {
        ChannelKind::DingTalk | ChannelKind::WeCom => ROBOT,
        ChannelKind::Feishu => FEISHU,
        ChannelKind::Webhook => WEBHOOK,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: i64 = 1_800_000_000_000;

    #[test]
    fn the_nineteenth_message_of_a_minute_waits_for_the_first_to_age() {
        let mut limiter = Limiter::default();
        for second in 0..18 {
            assert!(limiter.room(ChannelKind::DingTalk, T0 + second * 1000) > 0);
            limiter.record(ChannelKind::DingTalk, T0 + second * 1000);
        }
        assert_eq!(limiter.room(ChannelKind::DingTalk, T0 + 59_999), 0);
        assert_eq!(limiter.free_ms(ChannelKind::DingTalk, T0 + 20_000), T0 + 60_000);
        assert_eq!(limiter.room(ChannelKind::DingTalk, T0 + 60_000), 1);
    }

    #[test]
    fn a_lockout_holds_until_its_end() {
        let mut limiter = Limiter::default();
        limiter.lock(T0 + 600_000);
        assert_eq!(limiter.room(ChannelKind::DingTalk, T0 + 599_999), 0);
        assert_eq!(limiter.free_ms(ChannelKind::DingTalk, T0), T0 + 600_000);
        assert_eq!(limiter.room(ChannelKind::DingTalk, T0 + 600_000), 18);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_a_channel_for_hours() {
        let mut limiter = Limiter::default();
        for _ in 0..18 {
            limiter.record(ChannelKind::WeCom, T0 + 3_600_000);
        }
        limiter.lock(T0 + 3_600_000);
        assert_eq!(limiter.room(ChannelKind::WeCom, T0), 18);
        assert_eq!(limiter.free_ms(ChannelKind::WeCom, T0), T0);
    }

    #[test]
    fn a_sender_with_an_older_clock_does_not_wipe_the_newer_sends() {
        let mut limiter = Limiter::default();
        for second in 0..17 {
            limiter.record(ChannelKind::WeCom, T0 + second * 1000);
        }
        limiter.record(ChannelKind::WeCom, T0);
        assert_eq!(limiter.room(ChannelKind::WeCom, T0 + 20_000), 0);
    }

    proptest! {
        #[test]
        fn no_minute_ever_sees_more_than_the_robot_allows(steps in proptest::collection::vec(0i64..9000, 1..200)) {
            let (mut limiter, mut now_ms, mut sent) = (Limiter::default(), T0, Vec::new());
            for step_ms in steps {
                now_ms += step_ms;
                if limiter.room(ChannelKind::WeCom, now_ms) > 0 {
                    limiter.record(ChannelKind::WeCom, now_ms);
                    sent.push(now_ms);
                } else {
                    let free_ms = limiter.free_ms(ChannelKind::WeCom, now_ms);
                    prop_assert!(free_ms > now_ms && limiter.room(ChannelKind::WeCom, free_ms) > 0);
                }
            }
            for first in &sent {
                prop_assert!(sent.iter().filter(|ms| (*first..*first + 60_000).contains(*ms)).count() <= 18);
            }
        }
    }
}
