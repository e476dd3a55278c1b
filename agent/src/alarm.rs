//! Wakes the loop at one moment: a timer of the kernel.
//!
//! The runtime's own timers wake once for each level of their wheel, so that one pause of seconds costs up to three
//! wake-ups. Nothing here knows what is due.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The timer.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// A timer that is not set. It belongs to the runtime in which it is made.
    ///
    /// # Errors
    /// The kernel gives none.
    #[expect(deprecated, reason = "what replaces it is unsafe; the descriptor is owned here, so it is sound")]
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Ends after `wait`.
    pub(crate) async fn after(&mut self, wait: Duration) {
        // Nothing would switch it off.
        let wait = wait.max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        if let Err(error) = timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &spec) {
            tracing::error!(%error, "the timer cannot be set");
            return tokio::time::sleep(wait).await;
        }
        // Setting it has taken back what rang before; a ring that was heard and not taken ends this too early, once.
        match self.0.readable().await {
            Ok(mut ring) => ring.clear_ready(),
            Err(_) => tokio::time::sleep(wait).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_rings_when_it_is_time_however_often_it_was_set_before() {
        let mut alarm = Alarm::new().unwrap();
        for wait_ms in [0, 30, 1, 50] {
            // Set and left alone, as when something else happened first.
            let early = tokio::time::timeout(Duration::from_millis(1), alarm.after(Duration::from_secs(60))).await;
            assert!(early.is_err());
            let (begun, wait) = (Instant::now(), Duration::from_millis(wait_ms));
            tokio::time::timeout(Duration::from_secs(10), alarm.after(wait)).await.unwrap();
            assert!(begun.elapsed() >= wait, "{:?} of {wait:?}", begun.elapsed());
        }
    }
}
