//! The only place that reads a clock. Everything else is handed the time as a number.

use rustix::time::{ClockId, clock_gettime};

/// Unix time in milliseconds by the wall clock, which may jump.
#[must_use]
pub fn wall_ms() -> i64 {
    millis(ClockId::Realtime)
}

/// Milliseconds since boot, suspended time included (`CLOCK_BOOTTIME`); never jumps.
#[must_use]
pub fn boot_ms() -> i64 {
    millis(ClockId::Boottime)
}

/// Microseconds of `CLOCK_MONOTONIC`, for protocols that ask for it.
#[must_use]
pub fn monotonic_us() -> u64 {
    micros(ClockId::Monotonic)
}

/// Microseconds of processor time that this thread has taken.
#[must_use]
pub fn thread_us() -> u64 {
    micros(ClockId::ThreadCPUTime)
}

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1000).unwrap_or(0)
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_is_behind_wall_time_and_does_not_run_backwards() {
        let first = boot_ms();
        assert!(first > 0 && first < wall_ms());
        assert!(boot_ms() >= first);
    }
}
