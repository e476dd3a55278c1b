//! From what was learnt to a probability and a time: the experts, weighed by their own errors,
//! against one threshold. Reads a memory, changes nothing.

use super::learn::{HELD_BUCKETS, Memory};
use super::settings::Model;

/// Trends below this support claim nothing.
const SUPPORT_MIN: f64 = 1.5;
/// A trend that has bent is believed less: by this much of what its line ends above the level, as a share of its rise.
const BEND_DOUBT: f64 = 2.0;
/// What one horizon of past counts against the prior.
const HORIZON_WEIGHT: f64 = 3.0;
/// An expert's loss is its spread, plus these shares of the noise and of its bias.
const NOISE_LOSS: f64 = 0.5;
const BIAS_LOSS: f64 = 0.15;
/// No half-life of the past is shorter than this many horizons.
const HALFLIFE_HORIZONS_MIN: f64 = 4.0;
/// How alike two states must be: in the rise their trends claim, in the depth below the recent top
/// (as a share of the range), in the phase of the day (as a share of a day).
const RISE_WIDTH: f64 = 0.3;
const DEPTH_WIDTH: f64 = 0.2;
const PHASE_WIDTH: f32 = 0.06;
/// The same for the claims of a trend, as logarithms.
const CLAIM_WIDTH: f32 = 1.1;
/// Weight left to states of another phase of the day.
const OTHER_PHASE: f32 = 0.35;

/// So many horizons of a past that resembles the present weigh as much as the present trend's line, when it comes to
/// times: a little of it tells how a rise runs, and a rise that is new here has none.
const ALIKE_HORIZONS: f64 = 0.25;
/// A line that is believed this far stands alone: no past rise is asked how it ran.
const LINE_ALONE: f64 = 0.8;
/// The time to the crossing is never called surer than this: one in ten before the first share of
/// it, one in ten after the second.
const EARLY_RATIO: f64 = 0.5;
const LATE_RATIO: f64 = 1.8;
/// Horizons with fewer buckets go without the heavy expert: there it changes nothing for the better.
const SLOW_HORIZON_BUCKETS_MIN: usize = 96;
/// Below this probability the heavy expert is not asked: at the default share it could not start a warning …
const ASKED_PROBABILITY: f64 = 0.05;
/// … unless the threshold is within this many times what the series moved over the last horizon.
const ASKED_RANGES: f64 = 3.0;
/// Past states that show how a rise runs.
const SHAPES_MAX: usize = 24;

/// A probability with what it rests on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) probability: f64,
    /// Buckets until the crossing, if it comes.
    pub(crate) ahead: f64,
    /// Range of `ahead`: one in ten before, one in ten after.
    pub(crate) ahead_range: (f64, f64),
    /// Independent horizons of comparable past.
    pub(crate) horizons: f64,
    /// How far the line of the present trend is believed, before what the past did next.
    pub(crate) line: f64,
    /// Probability by the past alone.
    pub(crate) record: f64,
    /// Probability by the present trend alone, and which window.
    pub(crate) trend: Option<(usize, f64)>,
    /// Strongest expert, its weight, what it expects.
    pub(crate) best: Option<(usize, f64, f64)>,
    /// Probability by the heavy expert.
    pub(crate) slow: Option<f64>,
}

/// Weights of the past states, in room that is reused between steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// By age alone.
    plain: Vec<f32>,
    /// By how much each resembles the present one.
    pub(crate) alike: Vec<f32>,
}

/// Judges the newest bucket against `threshold`. The heavy expert (`course`) is asked only where its
/// answer could make a difference.
pub(crate) fn judge(
    m: &Memory,
    course: impl FnOnce() -> Option<f64>,
    threshold: f64,
    model: &Model,
    scratch: &mut Scratch,
) -> Verdict {
    let now = &m.now;
    let h = m.horizon as f64;
    let k = m.len().saturating_sub(1);
    let gap = threshold - now.level;
    let halflife = model.halflife_ms as f64 / model.step_ms as f64;
    let mut verdict = Verdict::default();

    // The best supported trend stands in while there is little past, corrected by its own record.
    let mut trend = 0.0;
    let mut trend_level = now.level;
    let mut trend_faith = 0.0;
    let mut best_support = f64::NEG_INFINITY;
    let shortest = (m.horizon / 8).max(6);
    for (index, (t, record)) in now.trends.iter().zip(&m.records).enumerate() {
        let gain = t.up - now.level;
        if t.window < shortest || t.support <= SUPPORT_MIN || gain <= 1e-9 * now.noise {
            continue;
        }
        let spread = model.trend_error_ratio * gain + 3.0 * now.noise;
        let faith = ((t.support - SUPPORT_MIN) / 3.0 + 0.25).min(1.0) * (1.0 - BEND_DOUBT * t.bend).max(0.0);
        let mut p = upper_tail((threshold - t.up) / spread) * faith;
        if !record.at.is_empty() {
            let (mut all, mut over) = (0.0_f64, 0.0_f64);
            let gain_log = gain.ln() as f32;
            let need = (gap / gain) as f32;
            let age_scale = (std::f64::consts::LN_2 / halflife) as f32;
            for ((at, ratio), claim) in record.at.iter().zip(&record.ratio).zip(&record.claim_log) {
                let z = (claim - gain_log) / CLAIM_WIDTH;
                let w = f64::from(exp_approx(-((k as u32 - at) as i32 as f32) * age_scale - 0.5 * z * z));
                all += w;
                over += if *ratio >= need { w } else { 0.0 };
            }
            let n = all * m.stride as f64 / h * now.teeth * model.record_weight;
            p = (n * over / (all + 1e-12) + p) / (n + 1.0);
        }
        let support = t.support * (t.window as f64).sqrt();
        if support > best_support {
            best_support = support;
            trend = p;
            trend_level = t.up;
            trend_faith = faith;
            verdict.trend = Some((index, p));
        }
    }

    let past = m.at.len();
    let mut probability = trend;
    let expected = trend_level.max(now.level);
    let mut gain = expected - now.level;
    verdict.line = 1.0;
    if past >= 3 {
        let n0 = model.prior_horizons;
        let whole_share = model.whole_past_ratio;
        // A long horizon needs a few of its own lengths to learn from.
        let recent =
            (model.recent_halflife_ms as f64 / model.step_ms as f64).max(HALFLIFE_HORIZONS_MIN * h).min(halflife);
        weigh_plain(m, k, recent, &mut scratch.plain);
        weigh(m, k, halflife, &mut scratch.alike);
        let [plain, alike] = mixtures(m, threshold, model, scratch, k);
        let (mut p_sum, mut e_sum, mut h_sum) = (0.0, 0.0, 0.0);
        for (mix, share) in [(&plain, whole_share), (&alike, 1.0 - whole_share)] {
            p_sum += share * (mix.horizons * mix.over + n0 * trend) / (mix.horizons + n0);
            e_sum += share * (mix.horizons * mix.level + n0 * expected) / (mix.horizons + n0);
            h_sum += share * mix.horizons;
        }
        probability = p_sum;
        verdict.line = trend_faith * ALIKE_HORIZONS / (alike.horizons + ALIKE_HORIZONS);
        gain = verdict.line * expected + (1.0 - verdict.line) * e_sum - now.level;
        verdict.horizons = h_sum;
        verdict.record = whole_share * plain.over + (1.0 - whole_share) * alike.over;
        verdict.best = Some(alike.best);
    } else {
        scratch.alike.clear();
    }
    if m.horizon >= SLOW_HORIZON_BUCKETS_MIN {
        let share = model.decomposition_ratio;
        if probability < ASKED_PROBABILITY && gap > ASKED_RANGES * now.range {
            // Not asked, it counts as no: with its full consent there would be no warning either.
            probability *= 1.0 - share;
        } else if let Some(p) = course() {
            probability = (1.0 - share) * probability + share * p;
            verdict.slow = Some(p);
        }
    }
    if gap <= 0.0 {
        probability = probability.max(0.5);
    }
    verdict.probability = probability.clamp(0.0, 1.0);
    verdict.ahead = if gain > 1e-9 * now.noise { h * gap.max(0.0) / gain } else { 1.25 * h };
    // A line that does not get there within the horizon tells no time: any is possible.
    verdict.ahead_range = (if verdict.ahead <= h { verdict.ahead } else { 0.0 }, verdict.ahead);
    if verdict.probability >= model.off_probability && past >= 3 && gain > 1e-9 * now.noise && verdict.line < LINE_ALONE
    {
        shape(m, gap, gain, &scratch.alike, &mut verdict);
    }
    verdict.ahead = verdict.ahead.clamp(1.0, 1.25 * h);
    let (early, late) = verdict.ahead_range;
    verdict.ahead_range = (early.min(verdict.ahead * EARLY_RATIO).max(1.0), late.max(verdict.ahead * LATE_RATIO));
    verdict
}

struct Mixture {
    over: f64,
    level: f64,
    horizons: f64,
    best: (usize, f64, f64),
}

/// One expert under one weighing of the past: its loss, its mean error, its share of errors that go over.
#[derive(Clone, Copy)]
struct Showing {
    loss: f64,
    mean: f64,
    over: f64,
}

/// The experts, each corrected by its weighted errors and weighed by them: over the whole past taken
/// alike, without the envelopes, and over what resembles the present. One pass for both.
fn mixtures(m: &Memory, threshold: f64, model: &Model, scratch: &Scratch, k: usize) -> [Mixture; 2] {
    let now = &m.now;
    let weights = [scratch.plain.as_slice(), scratch.alike.as_slice()];
    let inverse = weights.map(|w| 1.0 / f64::from(sum(w)));
    let silent = Showing { loss: f64::INFINITY, mean: 0.0, over: 0.0 };
    let mut table = [vec![silent; m.experts.len()], vec![silent; m.experts.len()]];
    for (e, errors) in m.errors.iter().enumerate() {
        if k < m.ready_at[e] {
            continue;
        }
        let sums = dots(weights, errors);
        let mean = [f64::from(sums[0]) * inverse[0], f64::from(sums[1]) * inverse[1]];
        let need = (threshold - now.experts[e]) as f32 - 1e-6 * now.noise as f32;
        let (away, over) = spreads(weights, errors, mean.map(|x| x as f32), need);
        for (side, showings) in table.iter_mut().enumerate() {
            let loss = f64::from(away[side]) * inverse[side] + NOISE_LOSS * now.noise + BIAS_LOSS * mean[side].abs();
            showings[e] = Showing { loss, mean: mean[side], over: f64::from(over[side]) * inverse[side] };
        }
    }
    for (e, expert) in m.experts.iter().enumerate() {
        if matches!(expert, crate::model::forecast::Expert::Envelope { .. }) {
            table[0][e] = silent;
        }
    }
    let per_state = m.stride as f64 / m.horizon as f64 * HORIZON_WEIGHT * now.teeth;
    [mixture(m, &table[0], per_state / inverse[0], model), mixture(m, &table[1], per_state / inverse[1], model)]
}

fn mixture(m: &Memory, showings: &[Showing], horizons: f64, model: &Model) -> Mixture {
    let now = &m.now;
    let loss_min = showings.iter().map(|s| s.loss).fold(f64::INFINITY, f64::min);
    let (mut share, mut over, mut level) = (0.0, 0.0, 0.0);
    let mut best = (0, 0.0, 0.0);
    for (e, showing) in showings.iter().enumerate().filter(|(_, s)| s.loss.is_finite()) {
        let w = (showing.loss / loss_min).powf(-model.selection_power);
        share += w;
        over += w * showing.over;
        level += w * (now.experts[e] + showing.mean);
        if w > best.1 {
            best = (e, w, now.experts[e] + showing.mean);
        }
    }
    Mixture { over: over / share, level: level / share, horizons, best: (best.0, best.1 / share, best.2) }
}

/// Recent past states count more, and nothing else.
fn weigh_plain(m: &Memory, k: usize, halflife: f64, weights: &mut Vec<f32>) {
    weights.clear();
    weights.resize(m.at.len(), 0.0);
    let age_scale = (std::f64::consts::LN_2 / halflife) as f32;
    for (w, at) in weights.iter_mut().zip(&m.at) {
        *w = exp_approx(-((k as u32 - at) as i32 as f32) * age_scale) + 1e-9;
    }
}

/// How much each past state resembles this one.
fn weigh(m: &Memory, k: usize, halflife: f64, weights: &mut Vec<f32>) {
    let now = &m.now;
    weights.clear();
    weights.resize(m.at.len(), 0.0);
    let rise_scale = (1.0 / (RISE_WIDTH * now.rise).max(4.0 * now.noise)) as f32;
    let depth_scale = (1.0 / (DEPTH_WIDTH * now.range + 4.0 * now.noise)) as f32;
    let age_scale = (std::f64::consts::LN_2 / halflife) as f32;
    let (rise, depth) = (now.rise as f32, now.depth as f32);
    let states = m.at.iter().zip(&m.past_rise).zip(&m.past_depth);
    for (w, ((at, r), d)) in weights.iter_mut().zip(states) {
        let zr = (r - rise) * rise_scale;
        let zd = (d - depth) * depth_scale;
        let age = (k as u32 - at) as i32 as f32 * age_scale;
        *w = exp_approx(-0.5 * (zr * zr + zd * zd) - age) + 1e-9;
    }
    if let Some(day) = m.day
        && k > 2 * day
    {
        // The same phase of the day counts more once there are two days.
        let length = day as f32;
        let phase = (k % day) as f32;
        let scale = 1.0 / (PHASE_WIDTH * length);
        for (w, then) in weights.iter_mut().zip(&m.past_phase) {
            let apart = (phase - then).abs();
            let z = apart.min(length - apart) * scale;
            *w *= OTHER_PHASE + exp_approx(-0.5 * z * z);
        }
    }
}

/// The time a rise takes to reach the needed share, as it did in the most similar past.
fn shape(m: &Memory, gap: f64, gain: f64, weights: &[f32], verdict: &mut Verdict) {
    let mut order: Vec<u32> = (0..weights.len() as u32).collect();
    let by_weight = |a: &u32, b: &u32| weights[*b as usize].total_cmp(&weights[*a as usize]);
    if order.len() > SHAPES_MAX {
        order.select_nth_unstable_by(SHAPES_MAX - 1, by_weight);
        order.truncate(SHAPES_MAX);
    }
    let top = order.iter().map(|i| weights[*i as usize]).fold(0.0, f32::max);
    let need = (gap / gain).min(1.0);
    let mut times: Vec<(usize, f32)> = Vec::with_capacity(order.len());
    for i in order {
        let i = i as usize;
        if weights[i] <= 0.05 * top {
            continue;
        }
        let at = m.at[i] as usize;
        let from = f64::from(m.level[at]);
        let rise = m.outcome[i] - from;
        if rise <= 3.0 * m.now.noise {
            continue;
        }
        let target = from + need * rise;
        let slack = 1e-12 * rise;
        let path = &m.held[at + 1..(at + m.horizon + HELD_BUCKETS).min(m.held.len())];
        let after = path.iter().position(|s| f64::from(*s) >= target - slack).unwrap_or(0) + 1;
        times.push((after, weights[i]));
    }
    if times.len() < 3 {
        return;
    }
    times.sort_by_key(|t| t.0);
    let total = times.iter().map(|t| t.1).sum::<f32>();
    let quantile = |share: f32| {
        let mut run = 0.0;
        let found = times.iter().find(|(_, w)| {
            run += w;
            run >= share * total
        });
        // A level is called held only when it has stood for three buckets: the rise came earlier.
        let after = found.or(times.last()).map_or(1, |t| t.0);
        after.saturating_sub(HELD_BUCKETS - 1).max(1) as f64
    };
    let a = 1.0 - verdict.line;
    let line = verdict.ahead;
    let blend = |seen: f64, straight: f64| a * seen + (1.0 - a) * straight;
    verdict.ahead = blend(quantile(0.5), line);
    verdict.ahead_range = (blend(quantile(0.1), line * EARLY_RATIO), blend(quantile(0.9), line * LATE_RATIO));
}

/// Upper tail of the normal distribution (Abramowitz and Stegun 7.1.26; error below 2e-7).
pub(crate) fn upper_tail(z: f64) -> f64 {
    if !z.is_finite() {
        return if z > 0.0 { 0.0 } else { 1.0 };
    }
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * series * (-x * x).exp();
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// `e^x` for x <= 0, good to about 1e-5, in a form that vectorises.
#[inline]
fn exp_approx(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let y = (x * std::f32::consts::LOG2_E).max(-126.0);
    let rounded = y + ROUNDER;
    let part = y - (rounded - ROUNDER);
    let curve = 1.0
        + part
            * (std::f32::consts::LN_2
                + part * (0.240_226_5 + part * (0.055_504_1 + part * (0.009_618_1 + part * 0.001_333_4))));
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    f32::from_bits(exponent << 23) * curve
}

const LANES: usize = 8;

fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The sum of the values under each of two weighings.
fn dots(weights: [&[f32]; 2], values: &[f32]) -> [f32; 2] {
    let mut lanes = [[0.0_f32; LANES]; 2];
    let (a, b, v) = (weights[0].chunks_exact(LANES), weights[1].chunks_exact(LANES), values.chunks_exact(LANES));
    let mut rest = [0.0; 2];
    for ((wa, wb), v) in a.remainder().iter().zip(b.remainder()).zip(v.remainder()) {
        rest[0] += wa * v;
        rest[1] += wb * v;
    }
    for ((wa, wb), v) in a.zip(b).zip(v) {
        for lane in 0..LANES {
            lanes[0][lane] += wa[lane] * v[lane];
            lanes[1][lane] += wb[lane] * v[lane];
        }
    }
    [lanes[0].iter().sum::<f32>() + rest[0], lanes[1].iter().sum::<f32>() + rest[1]]
}

/// Weighted mean distance from `mean` and weighted share at or above `need`, unnormalised, under each of two weighings.
fn spreads(weights: [&[f32]; 2], values: &[f32], mean: [f32; 2], need: f32) -> ([f32; 2], [f32; 2]) {
    let mut away = [[0.0_f32; LANES]; 2];
    let mut over = [[0.0_f32; LANES]; 2];
    let (a, b, v) = (weights[0].chunks_exact(LANES), weights[1].chunks_exact(LANES), values.chunks_exact(LANES));
    let (mut rest_away, mut rest_over) = ([0.0; 2], [0.0; 2]);
    for ((wa, wb), v) in a.remainder().iter().zip(b.remainder()).zip(v.remainder()) {
        for (side, w) in [wa, wb].into_iter().enumerate() {
            rest_away[side] += w * (v - mean[side]).abs();
            rest_over[side] += if *v >= need { *w } else { 0.0 };
        }
    }
    for ((wa, wb), v) in a.zip(b).zip(v) {
        for lane in 0..LANES {
            let is_over = if v[lane] >= need { 1.0 } else { 0.0 };
            away[0][lane] += wa[lane] * (v[lane] - mean[0]).abs();
            away[1][lane] += wb[lane] * (v[lane] - mean[1]).abs();
            over[0][lane] += wa[lane] * is_over;
            over[1][lane] += wb[lane] * is_over;
        }
    }
    let total = |lanes: [[f32; LANES]; 2], rest: [f32; 2]| {
        [lanes[0].iter().sum::<f32>() + rest[0], lanes[1].iter().sum::<f32>() + rest[1]]
    };
    (total(away, rest_away), total(over, rest_over))
}
