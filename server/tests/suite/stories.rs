//! Seeded series of the kinds an operator meets, written from their mechanism: a disk that fills, a
//! log that rotates, a heap under garbage collection. Same seed, same series.

#![allow(dead_code, reason = "each user of this file takes the stories it needs")]

/// Five minutes.
pub(crate) const STEP_MS: i64 = 300_000;
/// One day in steps.
pub(crate) const DAY: usize = 288;
/// Where every story starts: a Monday, 00:00 UTC.
pub(crate) const START_MS: i64 = 1_735_516_800_000;

/// A small generator (splitmix64), so that no crate decides what a seed means.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Roughly normal, mean 0, deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// Values on the five-minute grid as points.
pub(crate) fn points(values: &[f64]) -> Vec<(i64, f64)> {
    values.iter().enumerate().map(|(i, v)| (START_MS + i as i64 * STEP_MS, *v)).collect()
}

fn hour_of_day(i: usize) -> f64 {
    (i % DAY) as f64 / 12.0
}

fn office_hours(i: usize) -> f64 {
    let hour = hour_of_day(i);
    (-0.5 * ((hour - 14.0) / 3.0).powi(2)).exp()
}

/// A disk filled by a log that is rotated when it is large or at night; the top stays under 90 %.
pub(crate) fn log_rotation(seed: u64, days: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let base = dice.between(40.0, 62.0);
    let tooth = dice.between(8.0, 24.0);
    let hours = dice.between(5.0, 40.0);
    let by_size = dice.unit() < 0.5;
    let daily = dice.between(0.0, 0.8);
    let mut fill = dice.between(0.0, tooth);
    let mut since = 0;
    (0..days * DAY)
        .map(|i| {
            let busy = 1.0 + daily * (2.5 * office_hours(i) - 1.0);
            fill += tooth / (hours * 12.0) * busy * dice.between(0.6, 1.4);
            since += 1;
            let due = if by_size { fill >= tooth } else { since as f64 >= hours * 12.0 };
            // A full log is always rotated: the story is one that never crosses.
            if due || fill >= 1.1 * tooth {
                fill *= dice.between(0.0, 0.1);
                since = 0;
            }
            base + fill + 0.02 * dice.normal()
        })
        .collect()
}

/// A disk that fills steadily and crosses 90 % near the end.
pub(crate) fn steady_fill(seed: u64, days: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let end = dice.between(91.0, 95.0);
    let start = dice.between(30.0, 45.0);
    let n = days * DAY;
    let mut level = start;
    (0..n)
        .map(|i| {
            level += (end - start) / n as f64 * (0.7 + 0.6 * office_hours(i) * 2.4) * dice.between(0.5, 1.5) / 1.13;
            level + 0.03 * dice.normal()
        })
        .collect()
}

/// CPU with office hours and a weekend; its peaks grow from week to week.
pub(crate) fn growing_weeks(seed: u64, days: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let base = dice.between(12.0, 18.0);
    (0..days * DAY)
        .map(|i| {
            let day = i / DAY;
            let peak = if day % 7 >= 5 { 14.0 } else { 52.0 + 0.9 * day as f64 };
            (base + peak * office_hours(i) + 1.2 * dice.normal()).clamp(0.0, 100.0)
        })
        .collect()
}

/// A heap that leaks under garbage collection: small teeth on a rising floor.
pub(crate) fn leak_under_collection(seed: u64, days: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let n = days * DAY;
    let (start, end) = (dice.between(32.0, 40.0), dice.between(80.0, 84.0));
    let tooth = dice.between(6.0, 9.0);
    let period = dice.between(6.0, 14.0);
    let mut phase = 0.0;
    (0..n)
        .map(|i| {
            phase += dice.between(0.7, 1.3) / period;
            if phase >= 1.0 {
                phase = 0.0;
            }
            start + (end - start) * i as f64 / n as f64 + tooth * phase + 0.2 * dice.normal()
        })
        .collect()
}

/// Memory that steps up with a deploy and then stays.
pub(crate) fn deploy_step(seed: u64, days: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let n = days * DAY;
    let at = n - n / 4;
    let (before, after) = (dice.between(42.0, 48.0), dice.between(66.0, 72.0));
    (0..n).map(|i| if i < at { before } else { after } + 0.4 * dice.normal()).collect()
}
