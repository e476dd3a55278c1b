//! The forecast: will this series cross its threshold within the horizon, how surely, and when.
//! One pure step function; live rounds, backtests and the command line all fold it. No I/O, no
//! clock, no knowledge of hosts, rules or channels.

mod band;
mod judge;
mod learn;
pub mod score;
mod settings;
mod slow;
mod standing;
pub mod train;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::forecast::{Because, Forecast, Reason, State as Answer};
use crate::series::{Closed, Gridder};
use judge::{Scratch, Verdict, judge};
use learn::Memory;
pub use settings::{MODEL_VERSION, Model, ModelError, WINDOW_BUCKETS_MAX};
use standing::{Judged, Standing, YOUNG_HORIZONS};

const DAY_MS: i64 = 86_400_000;
/// Past states kept per horizon: closer ones tell nothing new.
const STATES_PER_HORIZON: usize = 12;
/// The same for horizons of few buckets, where the past holds very many of them.
const STATES_PER_SHORT_HORIZON: usize = 6;
/// A sample older than this many usual distances is stale.
const STALE_DISTANCES: usize = 3;
/// Distances between samples that are remembered, to know the usual one.
const DISTANCES_MAX: usize = 64;
/// Gaps are counted over at least this many recent buckets.
const GAP_BUCKETS_MIN: usize = 96;
/// The memory is cut to its window whenever a bucket number divides by this, so that a state
/// carried for months and one rebuilt from the store hold the same buckets.
const CUT_EVERY_BUCKETS: i64 = 288;

/// A series is calm while it is further from its threshold than this many times the most it ever rose within a
/// horizon, and this many times its noise, and its probability is as good as none.
const CALM_RISES: f64 = 2.0;
const CALM_NOISE: f64 = 6.0;
const CALM_PROBABILITY: f64 = 0.02;

/// The small part of a state that is worth keeping across restarts: the rest is learnt again from the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    standing: Standing,
    /// Boxed: most series never need a fit, and there is one of these for every series.
    fitted: Option<Box<slow::Fitted>>,
}

impl Kept {
    /// Whether a warning stands.
    #[must_use]
    pub fn warned(&self) -> bool {
        self.standing.warning
    }

    /// The same without what holds only for the very bucket it was kept at.
    #[must_use]
    pub fn standing_only(self) -> Self {
        Self { fitted: None, ..self }
    }
}

/// Bounds within which a series is calm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calm {
    /// It stays below this level …
    pub below: f32,
    /// … and does not rise by more than this.
    pub rise: f32,
}

/// Leave for heavy fits.
#[derive(Clone, Copy, Debug)]
struct Fits {
    left: usize,
    made: usize,
    waits: bool,
}

/// What is carried from step to step for one series, threshold and horizon.
#[derive(Clone, Debug)]
pub struct State {
    horizon_ms: i64,
    gridder: Gridder,
    window: Window,
    memory: Memory,
    scratch: Scratch,
    /// The last heavy fit.
    slow: Option<slow::Fitted>,
    fits: Fits,
    closed_ms: i64,
    standing: Standing,
    verdict: Verdict,
}

/// The retained buckets, and how regularly they came.
#[derive(Clone, Debug, Default)]
struct Window {
    /// Bucket number of the first mean.
    first: i64,
    /// Means, `NaN` where there was no sample.
    means: VecDeque<f32>,
    last_value: Option<f64>,
    /// Buckets since the last one with a sample.
    age: usize,
    distances: VecDeque<u32>,
    /// The usual one of them; 0 of none.
    usual: usize,
}

impl Window {
    /// Takes a bucket; gives the value to learn and whether it is too old to teach.
    fn push(&mut self, number: i64, mean: f32) -> Option<(f64, bool)> {
        if mean.is_finite() {
            if self.last_value.is_some() {
                self.learn_distance(self.age as u32 + 1);
            }
            self.last_value = Some(f64::from(mean));
            self.age = 0;
        } else {
            self.age += 1;
        }
        let value = self.last_value?;
        if self.means.is_empty() {
            self.first = number;
        }
        self.means.push_back(mean);
        Some((value, self.age > self.stale_after()))
    }

    /// Remembers a distance. The usual one is the lower quartile, so that random gaps do not pass for a slow rhythm.
    fn learn_distance(&mut self, distance: u32) {
        let full = self.distances.len() == DISTANCES_MAX;
        let leaves = if full { self.distances.pop_front() } else { None };
        self.distances.push_back(distance);
        // A regular series changes nothing here, bucket after bucket.
        if leaves == Some(distance) || (distance == 1 && self.usual == 1 && leaves.is_none()) {
            return;
        }
        let mut sorted = [0; DISTANCES_MAX];
        let sorted = &mut sorted[..self.distances.len()];
        for (place, distance) in sorted.iter_mut().zip(&self.distances) {
            *place = *distance;
        }
        sorted.sort_unstable();
        self.usual = sorted[sorted.len() / 4] as usize;
    }

    /// The usual distance between buckets with a sample.
    fn distance(&self) -> usize {
        self.usual.max(1)
    }

    fn stale_after(&self) -> usize {
        STALE_DISTANCES * self.distance()
    }

    /// Share of the expected samples that the last `buckets` lack.
    fn missing_ratio(&self, buckets: usize) -> f64 {
        let span = buckets.min(self.means.len());
        let seen = self.means.iter().rev().take(span).filter(|m| m.is_finite()).count();
        let expected = (span / self.distance()).max(1);
        (1.0 - seen as f64 / expected as f64).max(0.0)
    }
}

impl State {
    /// The empty state for a horizon.
    #[must_use]
    pub fn new(horizon_ms: i64, model: &Model) -> Self {
        let step_ms = model.step_ms.max(1);
        Self {
            horizon_ms,
            gridder: Gridder::new(step_ms, model.close_after_ms),
            window: Window::default(),
            memory: empty_memory(horizon_ms, model),
            scratch: Scratch::default(),
            slow: None,
            fits: Fits { left: usize::MAX, made: 0, waits: false },
            closed_ms: 0,
            standing: Standing::default(),
            verdict: Verdict::default(),
        }
    }

    /// SHA-256 over the closed buckets that were judged (number of the first, then each mean as eight bytes), hex:
    /// the same grid, live or replayed, has the same digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.window.first.to_le_bytes());
        for mean in &self.window.means {
            // One NaN stands for every missing bucket.
            let mean = if mean.is_nan() { f64::NAN } else { f64::from(*mean) };
            hasher.update(mean.to_bits().to_le_bytes());
        }
        hex::encode(hasher.finalize())
    }

    /// Whether a warning stands.
    #[must_use]
    pub fn warned(&self) -> bool {
        self.standing.warning
    }

    /// What would be lost, or be dear to find again, if this state were learnt anew from the retained window.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept { standing: self.standing, fitted: self.slow.clone().map(Box::new) }
    }

    /// Carries on from what was kept of this series when it had been judged up to this bucket.
    #[must_use]
    pub fn with_kept(mut self, kept: Kept) -> Self {
        self.standing = kept.standing;
        self.slow = kept.fitted.map(|fitted| *fitted);
        self
    }

    /// Within which bounds nothing in the retained window suggests a crossing soon: below a level from which the
    /// series would have to rise twice as far within a horizon as it ever did, without such a rise since. None while
    /// the last probability is more than nothing, or anything of it would last.
    #[must_use]
    pub fn calm(&self, threshold: f64) -> Option<Calm> {
        let m = &self.memory;
        let known = m.len() >= YOUNG_HORIZONS * m.horizon && self.verdict.probability < CALM_PROBABILITY;
        let whole = self.window.age == 0 && self.window.missing_ratio(gap_buckets(m.horizon)) == 0.0;
        if !known || !whole || !self.standing.is_quiet() {
            return None;
        }
        let rises = m.at.iter().zip(&m.outcome).map(|(at, best)| best - f64::from(m.level[*at as usize]));
        let most = rises.fold(0.0_f64, f64::max);
        let below = threshold - CALM_RISES * most - CALM_NOISE * m.noise;
        below.is_finite().then_some(Calm { below: below as f32, rise: (most + CALM_NOISE * m.noise) as f32 })
    }

    /// The level of the newest bucket.
    #[must_use]
    pub fn level(&self) -> f64 {
        self.memory.now.level
    }

    /// Gives leave for so many heavy fits; one that is due beyond them waits, and the answer says so.
    #[must_use]
    pub fn with_fits_left(mut self, fits: usize) -> Self {
        (self.fits.left, self.fits.made) = (fits, 0);
        self
    }

    /// Heavy fits since leave was given.
    #[must_use]
    pub fn fits_made(&self) -> usize {
        self.fits.made
    }

    /// Whether a heavy fit is due that there was no leave for.
    #[must_use]
    pub fn fit_waits(&self) -> bool {
        self.fits.waits
    }

    /// Lets a warning stand that was given before this state was rebuilt, when no more is known.
    #[must_use]
    pub fn with_warning(mut self, standing: bool) -> Self {
        self.standing = Standing::of_warning(standing);
        self
    }

    /// Points that came too late for their bucket, or were unusable, so far.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.gridder.late() + self.gridder.refused()
    }

    /// Whether the newest bucket has a sample and is over.
    fn is_over(&self, threshold: f64) -> bool {
        mean_is_over(&self.window, threshold)
    }

    fn take(&mut self, bucket: Closed, threshold: Option<f64>, model: &Model) {
        let step_ms = model.step_ms.max(1);
        let number = bucket.end_ms.div_euclid(step_ms);
        // Seven digits are kept, from the start, so that a carried and a rebuilt state agree.
        let Some((value, void)) = self.window.push(number, bucket.mean as f32) else {
            return;
        };
        self.closed_ms = bucket.end_ms;
        self.memory.push(value, void, threshold.is_some());
        if number.rem_euclid(CUT_EVERY_BUCKETS) == 0 {
            self.cut(number, model);
        }
        let Some(threshold) = threshold else { return };
        if void || self.memory.len() < buckets_needed(self.memory.horizon, model) {
            self.standing.lapse();
            return;
        }
        let over = mean_is_over(&self.window, threshold);
        if !over && self.window.missing_ratio(gap_buckets(self.memory.horizon)) > model.gap_ratio_max {
            self.standing.lapse();
            return;
        }
        let (memory, slow, fits) = (&self.memory, &mut self.slow, &mut self.fits);
        fits.waits = false;
        let course = || Some(refit(slow, memory, number, fits)?.judge(number, memory.horizon, threshold));
        self.verdict = judge(memory, course, threshold, model, &mut self.scratch);
        let judged = Judged { number, probability: self.verdict.probability, over };
        self.standing.confirm(judged, self.memory.horizon, self.memory.len(), model);
    }

    /// Forgets what lies before the window, by learning the rest afresh.
    fn cut(&mut self, number: i64, model: &Model) {
        let from = number - model.window_buckets as i64 + 1;
        if self.window.first >= from {
            return;
        }
        let kept: Vec<f32> = self.window.means.iter().skip((from - self.window.first) as usize).copied().collect();
        self.slow = None;
        self.window = Window::default();
        self.memory = empty_memory(self.horizon_ms, model);
        let newest = from + kept.len() as i64 - 1;
        for (number, mean) in (from..).zip(kept) {
            if let Some((value, void)) = self.window.push(number, mean) {
                self.memory.push(value, void, number == newest);
            }
        }
    }
}

/// Refits the heavy expert at fixed bucket numbers, and once more in between where the fit drifted: always from the
/// data up to the bucket in question, so that it does not matter when the state was built or the expert first asked.
fn refit<'a>(
    slow: &'a mut Option<slow::Fitted>,
    memory: &Memory,
    number: i64,
    fits: &mut Fits,
) -> Option<&'a slow::Course> {
    let every = slow::refit_buckets(memory.horizon) as i64;
    let due = number - number.rem_euclid(every);
    let is_stale = |slow: &Option<slow::Fitted>| slow.as_ref().is_none_or(|fitted| fitted.due != due);
    let mut fit_at = |slow: &mut Option<slow::Fitted>, at: i64| {
        if fits.left == 0 {
            fits.waits = true;
            return;
        }
        let end = (memory.len() - 1).checked_sub((number - at) as usize);
        *slow = Some(slow::Fitted { due, at, course: end.and_then(|end| slow::fit(memory, end, at)) });
        (fits.left, fits.made) = (fits.left - 1, fits.made + 1);
    };
    if is_stale(slow) {
        fit_at(slow, due);
    }
    // Once a turn: what drifts again is no course at all.
    let first = slow.as_ref().filter(|fitted| fitted.due == due && fitted.at == due);
    if let Some(at) = first.and_then(|fitted| fitted.drifted_at(memory, number)) {
        fit_at(slow, at);
    }
    slow.as_ref()?.course.as_ref()
}

/// Whether the newest bucket has a sample and is over.
fn mean_is_over(window: &Window, threshold: f64) -> bool {
    window.age == 0 && window.last_value.is_some_and(|value| value >= threshold)
}

fn gap_buckets(horizon: usize) -> usize {
    GAP_BUCKETS_MIN.max(2 * horizon)
}

fn empty_memory(horizon_ms: i64, model: &Model) -> Memory {
    let step_ms = model.step_ms.max(1);
    let horizon = (horizon_ms / step_ms).clamp(1, horizon_buckets_max(model)) as usize;
    let day = DAY_MS / step_ms;
    let sensible = DAY_MS % step_ms == 0 && day >= 24 && day * 2 <= model.window_buckets as i64;
    let stride = (horizon / STATES_PER_HORIZON).max((horizon / STATES_PER_SHORT_HORIZON).clamp(1, 2));
    Memory::new(horizon, sensible.then_some(day as usize), stride)
}

fn horizon_buckets_max(model: &Model) -> i64 {
    (model.window_buckets as i64 / 2).max(1)
}

fn buckets_needed(horizon: usize, model: &Model) -> usize {
    model.buckets_min.max(horizon / 8).max(6)
}

/// Takes new points (any order, unix milliseconds) and says what they mean at `now_ms`.
///
/// The horizon is that of the state; another horizon needs a state of its own.
#[must_use]
pub fn step(
    state: State,
    new_points: &[(i64, f64)],
    threshold: f64,
    horizon_ms: i64,
    now_ms: i64,
    model: &Model,
) -> (State, Forecast) {
    let judged = threshold.is_finite().then_some(threshold);
    let state = advance(state, new_points, judged, horizon_ms, now_ms, model);
    let said = answer(&state, threshold, now_ms, model);
    (state, said)
}

/// Learns points without judging them: how a state is rebuilt from the store in a fraction of the
/// time. The next [`step`] judges as if the state had been carried; a standing warning is handed
/// over with [`State::with_warning`].
#[must_use]
pub fn learn(state: State, new_points: &[(i64, f64)], horizon_ms: i64, now_ms: i64, model: &Model) -> State {
    advance(state, new_points, None, horizon_ms, now_ms, model)
}

/// Judges a whole history: the fold of [`step`] from the empty state.
#[must_use]
pub fn assess(
    history: &[(i64, f64)],
    threshold: f64,
    horizon_ms: i64,
    now_ms: i64,
    model: &Model,
) -> (State, Forecast) {
    step(State::new(horizon_ms, model), history, threshold, horizon_ms, now_ms, model)
}

fn advance(
    mut state: State,
    new_points: &[(i64, f64)],
    threshold: Option<f64>,
    horizon_ms: i64,
    now_ms: i64,
    model: &Model,
) -> State {
    let step_ms = model.step_ms.max(1);
    let newest = state.gridder.closable(now_ms);
    // The same cut that a carried state has made by now.
    let cut_at = newest - newest.rem_euclid(CUT_EVERY_BUCKETS);
    let oldest_ms = cut_at.saturating_sub(model.window_buckets as i64).saturating_mul(step_ms);
    if state.horizon_ms != horizon_ms || (state.closed_ms != 0 && state.closed_ms <= oldest_ms) {
        let (standing, fits) = (state.standing, state.fits);
        state = State { standing, fits, ..State::new(horizon_ms, model) };
    }
    let mut points: Vec<(i64, f64)> =
        new_points.iter().copied().filter(|p| p.0 > oldest_ms && p.0 <= now_ms.saturating_add(step_ms)).collect();
    points.sort_by_key(|p| p.0);
    for (t_ms, value) in points {
        state.gridder.add(t_ms, value);
    }
    let buckets = state.gridder.close(now_ms);
    state.window.means.reserve(buckets.len());
    state.memory.expect(buckets.len());
    for bucket in buckets {
        state.take(bucket, threshold, model);
    }
    state
}

fn refusal(state: &State, threshold: f64, now_ms: i64, model: &Model) -> Option<Reason> {
    let step_ms = model.step_ms.max(1);
    if !threshold.is_finite() || state.horizon_ms <= 0 {
        return Some(Reason::BadQuestion);
    }
    let limit = horizon_buckets_max(model);
    if state.horizon_ms / step_ms > limit {
        return Some(Reason::HorizonTooLong { limit_ms: limit * step_ms });
    }
    let seen_ms = state.closed_ms - state.window.age as i64 * step_ms;
    let limit_ms = state.window.stale_after() as i64 * step_ms + model.close_after_ms + step_ms;
    if state.memory.len() > 0 && now_ms.saturating_sub(seen_ms) > limit_ms {
        return Some(Reason::Stale { age_ms: now_ms.saturating_sub(seen_ms), limit_ms });
    }
    if state.is_over(threshold) {
        // A fact needs no history.
        return None;
    }
    let need = buckets_needed(state.memory.horizon, model);
    if state.memory.len() < need {
        return Some(Reason::TooShort { have_ms: state.memory.len() as i64 * step_ms, need_ms: need as i64 * step_ms });
    }
    let missing_ratio = state.window.missing_ratio(gap_buckets(state.memory.horizon));
    if missing_ratio > model.gap_ratio_max {
        return Some(Reason::TooManyGaps { missing_ratio, limit_ratio: model.gap_ratio_max });
    }
    None
}

fn answer(state: &State, threshold: f64, now_ms: i64, model: &Model) -> Forecast {
    let v = &state.verdict;
    let step_ms = model.step_ms.max(1);
    let at = |buckets: f64| state.closed_ms + (buckets * step_ms as f64) as i64;
    let reason = refusal(state, threshold, now_ms, model);
    let outcome = match reason {
        Some(reason) => Answer::NoForecast { reason },
        None if state.is_over(threshold) => Answer::Breached,
        None if state.standing.warning => Answer::Warning {
            probability: v.probability,
            earliest_ms: at(v.ahead_range.0),
            likely_ms: at(v.ahead),
            latest_ms: at(v.ahead_range.1),
        },
        None => Answer::Stable,
    };
    let said = reason.is_none();
    Forecast {
        state: outcome,
        warned: state.standing.warning,
        probability: if said { v.probability } else { 0.0 },
        at_ms: state.closed_ms,
        value: state.memory.now.level,
        threshold,
        horizon_ms: state.horizon_ms,
        likely_ms: (said && v.probability >= model.off_probability).then(|| at(v.ahead)),
        reasons: if said { reasons(state, model) } else { Vec::new() },
        band: if said {
            band::band(&state.memory, v, &state.scratch.alike, state.closed_ms, model)
        } else {
            Vec::new()
        },
    }
}

fn reasons(state: &State, model: &Model) -> Vec<Because> {
    let (m, v) = (&state.memory, &state.verdict);
    let mut because = Vec::new();
    let step_ms = model.step_ms.max(1);
    if v.horizons > 0.0 {
        because.push(Because::Record { crossed_ratio: v.record, horizons: v.horizons });
    }
    if let Some((index, weight_ratio, expects)) = v.best
        && let Some(expert) = m.experts.get(index)
    {
        because.push(Because::Expert { expert: *expert, weight_ratio, expects });
    }
    if let Some((index, probability)) = v.trend
        && let Some(trend) = m.now.trends.get(index)
    {
        because.push(Because::Trend {
            window_ms: trend.window as i64 * step_ms,
            slope_per_hour: trend.slope * 3_600_000.0 / step_ms as f64,
            probability,
        });
    }
    if m.now.cap.is_finite() {
        because.push(Because::Sawtooth { period_ms: (m.now.tooth_period * step_ms as f64) as i64, top: m.now.cap });
    }
    if let (Some(probability), Some(fitted)) = (v.slow, &state.slow) {
        let age_ms = state.closed_ms - fitted.at * step_ms;
        because.push(Because::Decomposition { probability, age_ms });
    }
    if state.fits.waits {
        because.push(Because::DecompositionWaits);
    }
    if let Some(since) = m.now.since_reset {
        because.push(Because::Reset { age_ms: since as i64 * step_ms });
    }
    because
}
