//! What a series teaches: one bucket in, features, expert forecasts and the experts' errors kept.
//! Everything here is threshold-free, so that one memory serves any threshold. No judgement.

use std::collections::VecDeque;

use crate::model::forecast::{Carry, Expert};
use crate::series::VALUE_MIN;

/// Trend windows as quarters of the horizon.
const TREND_QUARTERS: [usize; 4] = [1, 2, 4, 8];
/// A level counts once it was held for this many buckets.
pub(crate) const HELD_BUCKETS: usize = 3;
/// A smaller share of the series' scale is not told apart from noise.
const NOISE_FLOOR_RATIO: f64 = 1e-4;
/// A drop below this share of the scale is no reset.
const RESET_FLOOR_RATIO: f64 = 0.02;
/// A drop of this many noise steps is a reset.
const RESET_NOISE: f64 = 10.0;
/// Trends need this many buckets since the last reset.
const TREND_BUCKETS_MIN: usize = 4;
/// Tooth tops that are remembered.
const TOPS_MAX: usize = 12;

/// Running sums for a straight line over any window of the last `keep` values.
#[derive(Clone, Debug)]
struct Line {
    keep: usize,
    base: f64,
    count: usize,
    /// Up to each value: the sum, the sum weighted by index, the sum of squares.
    sums: VecDeque<[f64; 3]>,
}

/// A straight line through a window, at the window's last bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fit {
    pub(crate) slope: f64,
    pub(crate) level: f64,
    pub(crate) slope_error: f64,
}

impl Line {
    fn new(keep: usize) -> Self {
        Self { keep: keep.max(3), base: 0.0, count: 0, sums: VecDeque::from([[0.0; 3]]) }
    }

    fn push(&mut self, value: f64) {
        if self.count == 0 {
            self.base = value;
        }
        let index = self.count as f64;
        let b = value - self.base;
        let [s, k, q] = self.sums.back().copied().unwrap_or_default();
        self.sums.push_back([s + b, k + index * b, q + b * b]);
        if self.sums.len() > self.keep + 1 {
            self.sums.pop_front();
        }
        self.count += 1;
    }

    /// Mean of the last `window` values.
    fn mean(&self, window: usize) -> f64 {
        let end = self.sums.len() - 1;
        let window = window.min(end).max(1);
        self.base + (self.sums[end][0] - self.sums[end - window.min(end)][0]) / window as f64
    }

    /// Least squares over the last `window` values (at least 3, at most all).
    fn fit(&self, window: usize) -> Fit {
        let end = self.sums.len() - 1;
        if end == 0 {
            return Fit::default();
        }
        let window = window.max(3).min(end);
        let (to, from) = (self.sums[end], self.sums[end - window]);
        let start = self.count - window;
        let n = window as f64;
        // Sums of 0..n-1 relative to the window's first bucket keep the numbers small.
        let k1 = n * (n - 1.0) / 2.0;
        let k2 = n * (n - 1.0) * (2.0 * n - 1.0) / 6.0;
        let s = to[0] - from[0];
        let ks = to[1] - from[1] - start as f64 * s;
        let q = to[2] - from[2];
        let den = n * k2 - k1 * k1;
        let slope = if den > 0.0 { (n * ks - k1 * s) / den } else { 0.0 };
        let mean = s / n;
        let level = mean - slope * k1 / n + slope * (n - 1.0) + self.base;
        let total = (q - s * mean).max(0.0);
        let rest = (total - slope * slope * den / n).max(0.0);
        let slope_error = if window >= 3 && den > 0.0 {
            (rest / (n - 2.0).max(1.0) / (den / n).max(1e-12)).sqrt()
        } else {
            f64::INFINITY
        };
        Fit { slope, level, slope_error }
    }
}

/// Rolling maximum over a fixed window.
#[derive(Clone, Debug)]
struct Peak {
    window: usize,
    queue: VecDeque<(usize, f64)>,
}

impl Peak {
    fn new(window: usize) -> Self {
        Self { window: window.max(1), queue: VecDeque::new() }
    }

    fn push(&mut self, index: usize, value: f64) -> f64 {
        while self.queue.back().is_some_and(|b| b.1 <= value) {
            self.queue.pop_back();
        }
        self.queue.push_back((index, value));
        while self.queue.front().is_some_and(|f| f.0 + self.window <= index) {
            self.queue.pop_front();
        }
        self.top()
    }

    fn top(&self) -> f64 {
        self.queue.front().map_or(f64::NEG_INFINITY, |f| f.1)
    }
}

/// One trend window as it stands now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trend {
    /// Level expected at the horizon.
    pub(crate) up: f64,
    /// How well the slope is supported, with an allowance for autocorrelation.
    pub(crate) support: f64,
    /// Buckets used.
    pub(crate) window: usize,
    pub(crate) slope: f64,
    /// How far the line ends above the level, as a share of its rise over the window.
    pub(crate) bend: f64,
}

/// What a trend window claimed and what came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) at: Vec<u32>,
    /// Real rise over claimed rise.
    pub(crate) ratio: Vec<f32>,
    /// Logarithm of the claimed rise.
    pub(crate) claim_log: Vec<f32>,
}

/// A past state that waits until its outcome is known.
#[derive(Clone, Debug)]
struct Pending {
    at: usize,
    experts: Vec<f64>,
    rise: f64,
    depth: f64,
    claims: [Option<f64>; 4],
}

/// The newest bucket's features and expert forecasts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    pub(crate) level: f64,
    pub(crate) noise: f64,
    pub(crate) rise: f64,
    pub(crate) depth: f64,
    pub(crate) range: f64,
    pub(crate) teeth: f64,
    pub(crate) cap: f64,
    pub(crate) tooth_period: f64,
    pub(crate) since_reset: Option<usize>,
    pub(crate) trends: [Trend; 4],
    pub(crate) experts: Vec<f64>,
}

/// The memory of one series, in buckets.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// Horizon in buckets.
    pub(crate) horizon: usize,
    /// Buckets in a day, if the grid can tell days apart.
    pub(crate) day: Option<usize>,
    /// Thinning of past states.
    pub(crate) stride: usize,
    pub(crate) experts: Vec<Expert>,
    /// From which bucket on each expert may speak.
    pub(crate) ready_at: Vec<usize>,
    /// Bucket means as they came.
    pub(crate) raw: Vec<f32>,
    /// Buckets so far in which nothing was known.
    voids: Vec<u32>,
    pub(crate) level: Vec<f32>,
    pub(crate) held: Vec<f32>,
    peak_h: Vec<f32>,
    day_mean: Vec<f32>,
    scale: f64,
    pub(crate) noise: f64,
    noise_start: (f64, usize),
    level_line: Line,
    horizon_peak: Peak,
    outcome_peak: Peak,
    trough: Peak,
    envelopes: Vec<(usize, Peak, Line)>,
    last_reset: Option<usize>,
    resets: Vec<u32>,
    tops: Vec<(usize, f64)>,
    tooth: f64,
    pending: VecDeque<Pending>,
    /// Past states with a known outcome.
    pub(crate) at: Vec<u32>,
    /// Phase of the day of each, in buckets.
    pub(crate) past_phase: Vec<f32>,
    pub(crate) past_rise: Vec<f32>,
    pub(crate) past_depth: Vec<f32>,
    /// Highest held level within the horizon after each past state.
    pub(crate) outcome: Vec<f64>,
    /// Outcome less forecast, one row an expert.
    pub(crate) errors: Vec<Vec<f32>>,
    pub(crate) records: [Record; 4],
    pub(crate) now: Now,
}

impl Memory {
    pub(crate) fn new(horizon: usize, day: Option<usize>, stride: usize) -> Self {
        let horizon = horizon.max(1);
        let mut experts = vec![Expert::Hold];
        let mut ready_at = vec![0];
        for quarters in TREND_QUARTERS {
            let window = (horizon * quarters / 4).max(6);
            experts.push(Expert::Trend { window, half: false });
            experts.push(Expert::Trend { window, half: true });
        }
        experts.push(Expert::LongTrend);
        let mut windows = vec![(horizon / 4).max(6), horizon, 2 * horizon];
        windows.extend(day);
        windows.sort_unstable();
        windows.dedup();
        let envelopes: Vec<_> = windows.iter().map(|w| (*w, Peak::new(*w), Line::new(3 * *w))).collect();
        experts.extend(windows.iter().map(|w| Expert::Envelope { window: *w }));
        ready_at.resize(experts.len(), 0);
        if let Some(day) = day {
            for days in [1, 2, 7] {
                if horizon <= day * days {
                    for carry in [Carry::Level, Carry::Rise, Carry::Drift, Carry::Growth] {
                        experts.push(Expert::Season { days, carry });
                        ready_at.push(day * days + horizon + 2);
                    }
                }
            }
        }
        Self {
            horizon,
            day,
            stride: stride.max(1),
            errors: vec![Vec::new(); experts.len()],
            experts,
            ready_at,
            raw: Vec::new(),
            voids: Vec::new(),
            level: Vec::new(),
            held: Vec::new(),
            peak_h: Vec::new(),
            day_mean: Vec::new(),
            scale: 0.0,
            noise: 0.0,
            noise_start: (0.0, 0),
            level_line: Line::new((2 * horizon).max(day.unwrap_or(0))),
            horizon_peak: Peak::new(horizon),
            outcome_peak: Peak::new(horizon + 2),
            trough: Peak::new(horizon),
            envelopes,
            last_reset: None,
            resets: Vec::new(),
            tops: Vec::new(),
            tooth: f64::NEG_INFINITY,
            pending: VecDeque::new(),
            at: Vec::new(),
            past_phase: Vec::new(),
            past_rise: Vec::new(),
            past_depth: Vec::new(),
            outcome: Vec::new(),
            records: Default::default(),
            now: Now::default(),
        }
    }

    /// Buckets seen.
    pub(crate) fn len(&self) -> usize {
        self.level.len()
    }

    /// Makes room for so many more buckets: rows that double as they grow are moved, and a history comes at once.
    pub(crate) fn expect(&mut self, buckets: usize) {
        for row in [&mut self.raw, &mut self.level, &mut self.held, &mut self.peak_h, &mut self.day_mean] {
            row.reserve(buckets);
        }
        self.voids.reserve(buckets);
        self.resets.reserve(buckets);
        let states = buckets.div_ceil(self.stride);
        self.at.reserve(states);
        self.outcome.reserve(states);
        for row in [&mut self.past_phase, &mut self.past_rise, &mut self.past_depth] {
            row.reserve(states);
        }
        for row in &mut self.errors {
            row.reserve(states);
        }
        for line in self.envelopes.iter_mut().map(|(_, _, line)| line).chain([&mut self.level_line]) {
            line.sums.reserve(buckets.min((line.keep + 2).saturating_sub(line.sums.len())));
        }
    }

    /// Learns one bucket. A missing one comes with the last known value; `void` says that this
    /// value is too old to teach anything, and outcomes across it are not booked. The experts are
    /// asked only where somebody wants to know: now, or when this state's outcome is booked.
    pub(crate) fn push(&mut self, value: f64, void: bool, judged: bool) {
        let i = self.level.len();
        let voids = self.voids.last().copied().unwrap_or(0) + u32::from(void);
        self.voids.push(voids);
        let level = if i >= 2 { median(value, f64::from(self.raw[i - 1]), f64::from(self.raw[i - 2])) } else { value };
        self.raw.push(value as f32);
        self.scale = self.scale.max(level.abs());
        let before = self.level.last().map_or(level, |l| f64::from(*l));
        self.level.push(level as f32);
        if !void {
            self.learn_noise((level - before).abs());
        }
        let noise = self.noise;
        let held =
            if i >= 2 { level.min(f64::from(self.level[i - 1])).min(f64::from(self.level[i - 2])) } else { level };
        self.held.push(held as f32);
        self.level_line.push(level);
        let peak = self.horizon_peak.push(i, held);
        self.peak_h.push(peak as f32);
        if let Some(day) = self.day {
            let mean = self.level_line.mean(day) as f32;
            self.day_mean.push(mean);
        }
        let best = self.outcome_peak.push(i, held);
        let trough = -self.trough.push(i, -held);

        let drop = before - level;
        let drop_before = if i >= 2 { f64::from(self.level[i - 2] - self.level[i - 1]) } else { 0.0 };
        let reset = drop + drop_before > (RESET_NOISE * noise).max(RESET_FLOOR_RATIO * self.scale);
        let resets = self.resets.last().copied().unwrap_or(0) + u32::from(reset);
        self.resets.push(resets);
        if reset {
            self.last_reset = Some(i);
        }
        let since = self.last_reset.map_or(i + 1, |r| i - r);
        self.learn_tooth(i, reset, held);

        self.settle(i, best);

        for (_, peak, line) in &mut self.envelopes {
            let top = peak.push(i, held);
            line.push(top);
        }
        let remembered = self.is_remembered(i);
        if !judged && (void || !remembered) {
            self.now.level = level;
            self.now.noise = noise;
            return;
        }

        let h = self.horizon as f64;
        let (cap, tooth_period) = self.tooth_cap(i);
        let mut forecasts = std::mem::take(&mut self.now.experts);
        forecasts.clear();
        forecasts.reserve(self.experts.len());
        forecasts.push(level);
        let mut trends = [Trend::default(); 4];
        for (trend, quarters) in trends.iter_mut().zip(TREND_QUARTERS) {
            let window = (self.horizon * quarters / 4).max(6);
            let usable = since >= TREND_BUCKETS_MIN;
            let fit = self.level_line.fit(window.min(since.max(TREND_BUCKETS_MIN)));
            let slope = if usable { fit.slope } else { 0.0 };
            let gain = slope.max(0.0) * h;
            let from = fit.level.min(level + 3.0 * noise).max(level - 3.0 * noise);
            let up = (from + gain).min(cap).max(level);
            let support = if fit.slope_error > 0.0 && fit.slope_error.is_finite() {
                slope / (3.0 * fit.slope_error + 1e-9 * noise / h)
            } else {
                0.0
            };
            let bend = (fit.level - level - 3.0 * noise).max(0.0) / (slope * window.min(since) as f64).max(noise);
            *trend = Trend { up, support, window: window.min(since), slope, bend };
            forecasts.push(up);
            forecasts.push(level + 0.5 * gain);
        }
        let long = self.level_line.fit(2 * self.horizon);
        forecasts.push(level + long.slope.max(0.0) * h);
        for (window, peak, line) in &self.envelopes {
            let top = peak.top();
            let fit = line.fit(3 * *window);
            forecasts.push((top + fit.slope.max(0.0) * h).max(level));
        }
        self.season_forecasts(i, level, &mut forecasts);

        let range = peak - trough;
        let depth = peak - level;
        let rise = (trends[1].up - level).max(0.0);
        let span = (i + 1).min(4 * self.horizon);
        let count = resets - if i + 1 > span { self.resets[i - span] } else { 0 };
        let teeth = (f64::from(count) / (span as f64 / h).max(1.0)).max(1.0);
        self.now = Now {
            level,
            noise,
            rise,
            depth,
            range,
            teeth,
            cap,
            tooth_period,
            since_reset: self.last_reset.map(|r| i - r),
            trends,
            experts: forecasts,
        };
        if !void && remembered {
            self.remember(i);
        }
    }

    fn learn_noise(&mut self, step: f64) {
        // The first buckets take the plain mean, then a slow average that one jump cannot blow up.
        let (sum, count) = &mut self.noise_start;
        if *count < 24 {
            *sum += step;
            *count += 1;
            self.noise = *sum / *count as f64;
        } else {
            let bounded = step.min(8.0 * self.noise + 1e-6 * self.scale);
            self.noise += (bounded - self.noise) * 0.01;
        }
        self.noise = self.noise.max(NOISE_FLOOR_RATIO * self.scale.max(VALUE_MIN));
    }

    fn learn_tooth(&mut self, i: usize, reset: bool, held: f64) {
        if reset {
            let apart = self.tops.last().is_none_or(|t| i - t.0 >= 4);
            if self.tooth.is_finite() && apart {
                self.tops.push((i, self.tooth));
                if self.tops.len() > TOPS_MAX {
                    self.tops.remove(0);
                }
            }
            self.tooth = f64::NEG_INFINITY;
        }
        self.tooth = self.tooth.max(held);
    }

    /// How far up the line of the tooth tops lets the next tooth come, and how far the teeth are apart.
    fn tooth_cap(&self, i: usize) -> (f64, f64) {
        let (Some(first), Some(end)) = (self.tops.first(), self.tops.last()) else {
            return (f64::INFINITY, 0.0);
        };
        if self.tops.len() < 2 {
            return (f64::INFINITY, 0.0);
        }
        let span = (end.0 - first.0) as f64;
        let period = span / (self.tops.len() - 1) as f64;
        let h = self.horizon as f64;
        if period < 1.5 * h && ((i - end.0) as f64) < 2.5 * period + 6.0 {
            let drift = tops_drift(&self.tops);
            let top = self.tops.iter().rev().take(3).fold(f64::NEG_INFINITY, |m, t| m.max(t.1));
            return (top + drift.max(0.0) * h + 3.0 * self.noise, period);
        }
        (f64::INFINITY, period)
    }

    fn season_forecasts(&self, i: usize, level: f64, forecasts: &mut Vec<f64>) {
        let Some(day) = self.day else { return };
        for days in [1, 2, 7] {
            let shift = day * days;
            if self.horizon > shift {
                continue;
            }
            if i < shift {
                forecasts.extend([level; 4]);
                continue;
            }
            // The peak over the same hours, `days` ago.
            let then = i - shift;
            let past = f64::from(self.peak_h[then + self.horizon]);
            let (today, that_day) = (f64::from(self.day_mean[i]), f64::from(self.day_mean[then]));
            let drift = today - that_day;
            let growth = if that_day > 0.0 { (today / that_day).clamp(0.5, 2.0) } else { 1.0 };
            forecasts.push(past.max(level));
            forecasts.push(level + (past - f64::from(self.level[then])).max(0.0));
            forecasts.push((past + drift).max(level));
            forecasts.push((past * growth).max(level));
        }
    }

    fn is_remembered(&self, i: usize) -> bool {
        let first = self.horizon / 4;
        i >= first && (i - first).is_multiple_of(self.stride)
    }

    /// Keeps the present state until its outcome is known.
    fn remember(&mut self, i: usize) {
        let now = &self.now;
        let mut claims = [None; 4];
        for (claim, trend) in claims.iter_mut().zip(&now.trends) {
            let gain = trend.up - now.level;
            if trend.support > 1.5 && gain > 4.0 * now.noise {
                *claim = Some(gain);
            }
        }
        self.pending.push_back(Pending {
            at: i,
            experts: now.experts.clone(),
            rise: now.rise,
            depth: now.depth,
            claims,
        });
    }

    /// Books the outcome of the past state whose horizon ends with bucket `i`.
    fn settle(&mut self, i: usize, best: f64) {
        while self.pending.front().is_some_and(|p| p.at + self.horizon + 2 <= i) {
            let Some(state) = self.pending.pop_front() else {
                return;
            };
            if self.voids[i] > self.voids[state.at] {
                continue;
            }
            let level = f64::from(self.level[state.at]);
            for (row, forecast) in self.errors.iter_mut().zip(&state.experts) {
                row.push((best - forecast) as f32);
            }
            self.at.push(state.at as u32);
            self.past_phase.push(self.day.map_or(0.0, |day| (state.at % day) as f32));
            self.past_rise.push(state.rise as f32);
            self.past_depth.push(state.depth as f32);
            self.outcome.push(best);
            for (record, claim) in self.records.iter_mut().zip(state.claims) {
                if let Some(claim) = claim {
                    record.at.push(state.at as u32);
                    record.ratio.push(((best - level) / claim) as f32);
                    record.claim_log.push(claim.ln() as f32);
                }
            }
        }
    }
}

/// Rise of the tooth tops per bucket: the median over pairs, so that one odd tooth does not lead.
fn tops_drift(tops: &[(usize, f64)]) -> f64 {
    let mut slopes: Vec<f64> = Vec::with_capacity(TOPS_MAX * TOPS_MAX / 2);
    for (i, a) in tops.iter().enumerate() {
        for b in tops.iter().skip(i + 1) {
            slopes.push((b.1 - a.1) / (b.0 - a.0).max(1) as f64);
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}

fn median(a: f64, b: f64, c: f64) -> f64 {
    a.min(b).max(a.max(b).min(c))
}
