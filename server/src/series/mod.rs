//! The grid: raw points become means over buckets of one length, once, and then stay frozen.
//! A bucket is named by its end and holds the points with `end - step < t <= end`; it closes
//! `close_after_ms` after its end, and what arrives later is counted, never judged.
//! No forecasting, no I/O, no clock enters here.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bucket length used live, in backtests and on the command line.
pub const STEP_MS: i64 = 300_000;
/// How long after its end a bucket still takes points.
pub const CLOSE_AFTER_MS: i64 = 60_000;
/// Buckets that are kept open at once; points further ahead are refused and counted.
pub const OPEN_BUCKETS_MAX: i64 = 1 << 16;

/// Open buckets that keep their room between calls.
const OPEN_ROOM: usize = 16;
/// Larger magnitudes are no measurement, and would overflow the arithmetic on errors.
pub const VALUE_MAX: f64 = 1e30;
/// Smaller magnitudes are taken as zero.
pub const VALUE_MIN: f64 = 1e-30;

/// A regular series of bucket means. `NaN` is a bucket without a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Bucket length.
    pub step_ms: i64,
    /// End of the first bucket.
    pub start_ms: i64,
    /// Means, oldest first.
    pub values: Vec<f64>,
}

impl Grid {
    /// Buckets all points that are closed at `now_ms`. Order does not matter; points that are not
    /// finite are left out.
    #[must_use]
    pub fn build(points: &[(i64, f64)], step_ms: i64, close_after_ms: i64, now_ms: i64) -> Self {
        let mut sorted: Vec<(i64, f64)> = points.to_vec();
        sorted.sort_by_key(|p| p.0);
        let mut gridder = Gridder::new(step_ms, close_after_ms);
        for (t_ms, value) in sorted {
            gridder.add(t_ms, value);
        }
        let closed = gridder.close(now_ms);
        let start_ms = closed.first().map_or(0, |b| b.end_ms);
        Self { step_ms: gridder.step_ms, start_ms, values: closed.iter().map(|b| b.mean).collect() }
    }

    /// End of bucket `index`.
    #[must_use]
    pub fn end_ms(&self, index: usize) -> i64 {
        self.start_ms + self.step_ms * i64::try_from(index).unwrap_or(0)
    }
}

/// A bucket that takes no more points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closed {
    /// End of the bucket.
    pub end_ms: i64,
    /// Mean of its points, `NaN` if it had none.
    pub mean: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Open {
    sum: f64,
    count: u32,
}

/// Turns arriving points into closed buckets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gridder {
    step_ms: i64,
    close_after_ms: i64,
    /// Index (end / step) of the first bucket in `open`.
    first: i64,
    open: VecDeque<Open>,
    started: bool,
    late: u64,
    refused: u64,
}

impl Gridder {
    /// An empty grid. A step below one millisecond is taken as one.
    #[must_use]
    pub fn new(step_ms: i64, close_after_ms: i64) -> Self {
        Self {
            step_ms: step_ms.max(1),
            close_after_ms: close_after_ms.max(0),
            first: 0,
            open: VecDeque::new(),
            started: false,
            late: 0,
            refused: 0,
        }
    }

    /// Points that came after their bucket had closed.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Points that were not finite, or lay so far ahead that no bucket is kept for them.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes one point into its bucket.
    pub fn add(&mut self, t_ms: i64, value: f64) {
        if !value.is_finite() || value.abs() > VALUE_MAX {
            self.refused += 1;
            return;
        }
        let value = if value.abs() < VALUE_MIN { 0.0 } else { value };
        // The bucket that ends at or after the point.
        let index = t_ms.div_euclid(self.step_ms) + i64::from(t_ms.rem_euclid(self.step_ms) != 0);
        if !self.started {
            self.started = true;
            self.first = index;
        }
        if index < self.first {
            self.late += 1;
            return;
        }
        if index.saturating_sub(self.first) >= OPEN_BUCKETS_MAX {
            self.refused += 1;
            return;
        }
        let slot = usize::try_from(index - self.first).unwrap_or(0);
        if slot >= self.open.len() {
            self.open.resize(slot + 1, Open { sum: 0.0, count: 0 });
        }
        if let Some(open) = self.open.get_mut(slot) {
            open.sum += value;
            open.count += 1;
        }
    }

    /// Index of the newest bucket whose time is up at `now_ms`.
    #[must_use]
    pub fn closable(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.close_after_ms).div_euclid(self.step_ms)
    }

    /// Closes every bucket whose time is up at `now_ms`, empty ones included; at most
    /// [`OPEN_BUCKETS_MAX`] in one call.
    pub fn close(&mut self, now_ms: i64) -> Vec<Closed> {
        let mut closed = Vec::new();
        let until = self.closable(now_ms);
        while self.started && self.first <= until && (closed.len() as i64) < OPEN_BUCKETS_MAX {
            let open = self.open.pop_front().unwrap_or(Open { sum: 0.0, count: 0 });
            let mean = if open.count == 0 { f64::NAN } else { open.sum / f64::from(open.count) };
            closed.push(Closed { end_ms: self.first * self.step_ms, mean });
            self.first += 1;
        }
        // A long history in one call must not leave its room behind.
        self.open.shrink_to(OPEN_ROOM);
        closed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn bucket_holds_its_end_and_not_its_begin() {
        let grid = Grid::build(&[(0, 1.0), (1, 3.0), (10, 5.0), (11, 7.0)], 10, 0, 20);
        assert_eq!((grid.start_ms, grid.values.as_slice()), (0, &[1.0, 4.0, 7.0][..]));
        assert_eq!(grid.end_ms(2), 20);
    }

    #[test]
    fn missing_bucket_is_nan_not_zero() {
        let grid = Grid::build(&[(10, 1.0), (40, 2.0)], 10, 0, 40);
        assert_eq!(grid.values.len(), 4);
        assert!(grid.values[1].is_nan() && grid.values[2].is_nan());
    }

    #[test]
    fn bucket_stays_open_until_its_time_is_up() {
        let mut gridder = Gridder::new(300, 60);
        gridder.add(100, 1.0);
        assert!(gridder.close(359).is_empty());
        gridder.add(300, 3.0);
        assert_eq!(gridder.close(360), vec![Closed { end_ms: 300, mean: 2.0 }]);
        gridder.add(299, 9.0);
        assert_eq!(gridder.late(), 1);
    }

    #[test]
    fn worthless_points_are_counted_and_left_out() {
        let mut gridder = Gridder::new(10, 0);
        gridder.add(5, f64::NAN);
        gridder.add(5, f64::INFINITY);
        gridder.add(5, 1.0);
        gridder.add(i64::MAX, 1.0);
        assert_eq!(gridder.refused(), 3);
        assert_eq!(gridder.close(10).len(), 1);
    }
}
