//! The expected course over the horizon, for a plot: what the most similar past states did next,
//! and the present trend where there is little past. Reads a memory, changes nothing.

use super::judge::Verdict;
use super::learn::Memory;
use super::settings::Model;
use crate::model::forecast::BandPoint;

/// Past courses that are drawn from.
const COURSES_MAX: usize = 32;
/// The tenth and the ninetieth percentile of a normal distribution.
const TENTH_SIGMA: f64 = 1.2816;

pub(crate) fn band(m: &Memory, v: &Verdict, weights: &[f32], at_ms: i64, model: &Model) -> Vec<BandPoint> {
    let points = model.band_points.min(m.horizon);
    if points == 0 {
        return Vec::new();
    }
    let now = &m.now;
    let mut order: Vec<usize> = (0..m.at.len().min(weights.len())).collect();
    let by_weight = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]);
    if order.len() > COURSES_MAX {
        order.select_nth_unstable_by(COURSES_MAX - 1, by_weight);
        order.truncate(COURSES_MAX);
    }
    // A trend may climb no higher than what the judgement expects.
    let slope = v.trend.map_or(0.0, |(index, _)| now.trends[index].slope);
    // Past courses, the more the more of them there are; a line that is new here and likely to cross, instead of them.
    let past = (v.horizons / (v.horizons + model.prior_horizons)).min(1.0 - v.line * v.probability);
    let share = if order.len() < 3 { 0.0 } else { past };
    let mut moves: Vec<(f32, f32)> = Vec::with_capacity(order.len());
    (1..=points)
        .map(|i| {
            let ahead = (i * m.horizon) / points;
            let rise = (slope * ahead as f64).min((now.cap - now.level).max(0.0));
            let sigma =
                model.trend_error_ratio * rise.abs() + 3.0 * now.noise * (ahead as f64 / m.horizon as f64).sqrt();
            let spread = TENTH_SIGMA * sigma;
            let line = [rise - spread, rise, rise + spread];
            moves.clear();
            moves.extend(order.iter().filter_map(|j| {
                let at = m.at[*j] as usize;
                let then = m.level.get(at + ahead)?;
                Some((then - m.level[at], weights[*j]))
            }));
            moves.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let total: f32 = moves.iter().map(|x| x.1).sum();
            let mut levels = [0.0; 3];
            for ((level, quantile), straight) in levels.iter_mut().zip([0.1, 0.5, 0.9]).zip(line) {
                let mut run = 0.0;
                let seen = moves.iter().find(|x| {
                    run += x.1;
                    run >= quantile * total
                });
                let seen = seen.map_or(straight, |x| f64::from(x.0));
                *level = now.level + share * seen + (1.0 - share) * straight;
            }
            let t_ms = at_ms + ahead as i64 * model.step_ms;
            BandPoint { t_ms, low: levels[0], mid: levels[1], high: levels[2] }
        })
        .collect()
}
