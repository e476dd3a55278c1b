//! The heavy expert for long horizons: seasons and trend taken apart (MSTL) and the trend carried on by exponential
//! smoothing (AutoETS), refitted at fixed bucket numbers, and once between two of them where it promised what did not
//! come. The one room that knows augurs; nothing here judges.

use augurs::ets::AutoETS;
use augurs::mstl::MSTLModel;
use augurs::prelude::*;
use serde::{Deserialize, Serialize};

use super::judge::upper_tail;
use super::learn::Memory;
use crate::series::VALUE_MIN;

/// Points over one horizon that a fit works on.
const POINTS_PER_HORIZON: usize = 24;
/// Points of history that a fit may take.
const POINTS_MAX: usize = 336;
/// Fewest points worth a fit.
const POINTS_MIN: usize = 12;
/// Refits over one horizon.
const REFITS_PER_HORIZON: usize = 4;
/// A span below this share of the level is flat.
const FLAT_RATIO: f64 = 1e-7;
/// A fit has drifted when so many points in a row were further than this many of its standard deviations from what
/// it promised, on the same side. They are counted within the history that was fitted, where MSTL fits some of the noise:
/// what comes is usually off by more.
const DRIFT_POINTS: usize = 2;
const DRIFT_SIGMAS: f64 = 6.0;
/// The interval that spans one standard deviation.
const ONE_SIGMA: f64 = 0.6827;

/// A fit, and the bucket numbers it was due and made at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fitted {
    /// The fixed number of its turn.
    pub(crate) due: i64,
    /// Up to where its data go: later than `due` when the first fit of the turn had drifted.
    #[serde(default)]
    pub(crate) at: i64,
    /// Nothing where there was too little to fit.
    pub(crate) course: Option<Course>,
}

/// What the last fit expects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    /// Bucket number after which the course begins.
    from: i64,
    /// Buckets per point.
    stride: i64,
    mean: Vec<f32>,
    sigma: Vec<f32>,
}

/// Buckets between two fits.
pub(crate) fn refit_buckets(horizon: usize) -> usize {
    (horizon / REFITS_PER_HORIZON).max(1)
}

/// Fits the history up to bucket `end` of the memory (inclusive), which has the number `from`.
pub(crate) fn fit(m: &Memory, end: usize, from: i64) -> Option<Course> {
    let stride = (m.horizon / POINTS_PER_HORIZON).max(1);
    let count = ((end + 1) / stride).min(POINTS_MAX);
    if count < POINTS_MIN {
        return None;
    }
    let begin = end + 1 - count * stride;
    let points: Vec<f64> = m.raw[begin..=end]
        .chunks_exact(stride)
        .map(|chunk| chunk.iter().map(|v| f64::from(*v)).sum::<f64>() / stride as f64)
        .collect();
    let low = points.iter().copied().fold(f64::INFINITY, f64::min);
    let high = points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = high - low;
    let ahead = POINTS_PER_HORIZON + POINTS_PER_HORIZON / REFITS_PER_HORIZON;
    // Not the noise of now: a fit must be the same whenever it is made.
    let floor = FLAT_RATIO * high.abs().max(low.abs()).max(VALUE_MIN);
    if span <= floor {
        return Some(Course {
            from,
            stride: stride as i64,
            mean: vec![high as f32; ahead],
            sigma: vec![floor as f32; ahead],
        });
    }
    // MSTL computes in f32: ratios of the span keep the digits that matter.
    let ratios: Vec<f64> = points.iter().map(|p| (p - low) / span + 1.0).collect();
    let said = decompose(m, stride, &ratios, ahead)?;
    let intervals = said.intervals?;
    let mean: Vec<f32> = said.point.iter().map(|p| ((p - 1.0) * span + low) as f32).collect();
    let sigma: Vec<f32> =
        intervals.upper.iter().zip(&said.point).map(|(u, p)| ((u - p) * span).max(floor) as f32).collect();
    let sound = mean.iter().chain(&sigma).all(|v| v.is_finite());
    sound.then_some(Course { from, stride: stride as i64, mean, sigma })
}

fn decompose(m: &Memory, stride: usize, ratios: &[f64], ahead: usize) -> Option<Forecast> {
    let trend = AutoETS::non_seasonal();
    let periods: Vec<usize> = m
        .day
        .into_iter()
        .flat_map(|day| [day / stride, 7 * day / stride])
        .filter(|period| *period >= 4 && ratios.len() >= 2 * period + 2)
        .collect();
    if periods.is_empty() {
        return trend.fit(ratios).ok()?.predict(ahead, ONE_SIGMA).ok();
    }
    let model = MSTLModel::new(periods, trend.into_trend_model());
    model.fit(ratios).ok()?.predict(ahead, ONE_SIGMA).ok()
}

impl Fitted {
    /// The first bucket number up to `number` at which what came no longer fits what was promised.
    pub(crate) fn drifted_at(&self, m: &Memory, number: i64) -> Option<i64> {
        let course = self.course.as_ref()?;
        let (mut run, mut side) = (0, 0.0);
        for (i, (mean, sigma)) in (1..).zip(course.mean.iter().zip(&course.sigma)) {
            let at = course.from + i * course.stride;
            if at > number {
                return None;
            }
            let end = m.len().checked_sub((number - at) as usize)?;
            let points = m.raw.get(end.checked_sub(course.stride as usize)?..end)?;
            let came = points.iter().map(|v| f64::from(*v)).sum::<f64>() / points.len() as f64;
            let off = (came - f64::from(*mean)) / f64::from(*sigma);
            if off.abs() <= DRIFT_SIGMAS {
                run = 0;
                continue;
            }
            run = if off.signum() == side { run + 1 } else { 1 };
            side = off.signum();
            if run >= DRIFT_POINTS {
                return Some(at);
            }
        }
        None
    }
}

impl Course {
    /// Probability that some point of the next `horizon` buckets is over.
    pub(crate) fn judge(&self, now: i64, horizon: usize, threshold: f64) -> f64 {
        let last = now + horizon as i64 + self.stride;
        let ahead = (1..).map(|i| self.from + i * self.stride);
        ahead
            .zip(self.mean.iter().zip(&self.sigma))
            .filter(|(at, _)| *at > now && *at <= last)
            .map(|(_, (mean, sigma))| upper_tail((threshold - f64::from(*mean)) / f64::from(*sigma)))
            .fold(0.0, f64::max)
    }
}
