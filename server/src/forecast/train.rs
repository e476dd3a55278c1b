//! Training: which settings would have served these series best, chosen on the first part of their
//! history and reported on the last part, which the choice has not seen. It refuses what the
//! history cannot support, so that a trained model is never worse known than the default.
//! Replays the same step function as everything else; no I/O, no clock.

use serde::{Deserialize, Serialize};

use super::score::{CLASSES, Decision, Kept, Question, Score, TICK_MS, Total, crossings, median, score, total};
use super::{Model, ModelError, State, step};

/// Version of [`TrainedModel`].
pub const TRAINED_VERSION: u32 = 1;
/// Share of the time that settings are chosen on; the rest is for the report.
const CHOOSE_RATIO: f64 = 0.6;
/// Share of the series that is history only, and its limits.
const WARM_RATIO: f64 = 0.15;
const WARM_MS_MIN: i64 = 2 * 3_600_000;
const WARM_MS_MAX: i64 = 24 * 3_600_000;
/// Fewer horizons than this cannot be divided into a part to choose on and a part to report on.
const HORIZONS_MIN: i64 = 20;
/// Crossings that are needed to choose on, and to report on.
pub const CHOOSE_CROSSINGS_MIN: usize = 3;
/// See [`CHOOSE_CROSSINGS_MIN`].
pub const REPORT_CROSSINGS_MIN: usize = 2;
/// Series that may be trained on together.
pub const SERIES_MAX: usize = 50;
/// How much better than the default the choice must be before it is looked at on the last part: a
/// hair's breadth on a handful of crossings is luck.
const GAIN_MIN: f64 = 0.005;
/// Upper ends of the distances, in horizons, for which the error of the time is told.
const DISTANCES: [f64; 3] = [0.25, 0.5, 1.25];

/// Settings that served some series better than the default, and how that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrainedModel {
    /// Version of this record.
    pub version: u32,
    /// The settings.
    pub settings: Model,
    /// What was changed of the default, in a word for programs: `default` never appears here.
    pub variants: Vec<String>,
    /// The level judged against.
    pub threshold: f64,
    /// How far ahead was looked.
    pub horizon_ms: i64,
    /// Series it was trained on.
    pub series: usize,
    /// Begin of their history.
    pub from_ms: i64,
    /// The choice was made on what lies before, the report on what lies after.
    pub split_ms: i64,
    /// End of their history.
    pub to_ms: i64,
    /// Crossings that the choice was made on.
    pub crossings_chosen_on: usize,
    /// How it did on the last part.
    pub report: Report,
    /// How the default did there.
    pub default_report: Report,
    /// How wrong the predicted times were there, by how far ahead the crossing was.
    pub time_error: Vec<TimeError>,
    /// How often what it said there came true, by the probability it said.
    pub calibration: Vec<Calibration>,
}

/// What warnings were worth over a span: "7 warnings in 12 days, 6 of them right, 3 h 40 min ahead".
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    /// Crossings.
    pub crossings: usize,
    /// Crossings warned of in time.
    pub warned: usize,
    /// Warnings that nothing followed.
    pub false_warnings: usize,
    /// Warnings that nothing followed, in a week of one series.
    pub false_per_week: f64,
    /// Median time from the warning to the crossing.
    pub lead_ms: i64,
    /// Share of the warnings that came true.
    pub precision: f64,
    /// Share of the crossings that were warned of in time.
    pub recall: f64,
    /// Recall and precision in one figure, in which precision counts more.
    pub f05: f64,
    /// Mean squared error of the probability.
    pub brier: f64,
}

/// Error of the predicted time of crossings at one distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TimeError {
    /// The crossing was at most this far ahead, and farther than the row before.
    pub ahead_ms: i64,
    /// Moments that this rests on.
    pub moments: usize,
    /// Half of the predictions were at most this factor too long or too short; `None` of none.
    pub factor: Option<f64>,
}

/// How often warnings that were said with some probability came true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Calibration {
    /// The probability was at least this.
    pub from_probability: f64,
    /// Moments at which a warning stood with it.
    pub moments: usize,
    /// Share of them that a crossing followed; `None` of none.
    pub came_true_ratio: Option<f64>,
}

/// Why nothing was trained. The default goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// The threshold, the horizon or the number of series is not usable.
    #[error("threshold and horizon must be usable numbers, and 1 to {SERIES_MAX} series be given")]
    BadQuestion,
    /// The base settings are not usable.
    #[error("{said}")]
    BadSettings {
        /// What is wrong with them.
        said: String,
    },
    /// The longest history is too short for a part to choose on and a part to report on.
    #[error("the history is too short: {have_ms} ms of {need_ms} ms; train again when there is more")]
    TooShort {
        /// Span of the longest history.
        have_ms: i64,
        /// Span needed.
        need_ms: i64,
    },
    /// Too few crossings to learn from or to check on.
    #[error(
        "too few crossings: {chosen_on} in the first part ({CHOOSE_CROSSINGS_MIN} are needed) and {reported_on} in the last ({REPORT_CROSSINGS_MIN}); lower the threshold, take more history or more series, or keep the default"
    )]
    TooFewCrossings {
        /// Crossings in the first part.
        chosen_on: usize,
        /// Crossings in the last part.
        reported_on: usize,
    },
    /// Nothing was better than the default where it counts.
    #[error("no settings did better than the default on the last part; keep the default")]
    NoBetter {
        /// How the default did on the last part.
        default_report: Box<Report>,
        /// How the best of the first part did on the last part.
        best_report: Box<Report>,
    },
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        Self::BadSettings { said: error.to_string() }
    }
}

type Change = fn(&mut Model);

/// What is tried, in two rounds: how the past is weighed, then when a warning is given. Few and far
/// apart: with a handful of crossings a fine grid would fit noise.
const ROUNDS: [&[(&str, Change)]; 2] = [
    &[
        ("long_memory", |m| (m.halflife_ms, m.recent_halflife_ms) = (m.halflife_ms * 5 / 2, m.recent_halflife_ms * 3)),
        ("short_memory", |m| (m.halflife_ms, m.recent_halflife_ms) = (m.halflife_ms / 2, m.recent_halflife_ms / 2)),
        ("present_state", |m| m.whole_past_ratio *= 0.4),
        ("whole_past", |m| m.whole_past_ratio = (1.8 * m.whole_past_ratio).min(1.0)),
        ("trend", |m| m.prior_horizons *= 2.5),
    ],
    &[
        ("cautious", |m| (m.on_probability, m.evidence_needed) = (0.70, 1.2)),
        ("bold", |m| (m.on_probability, m.evidence_from, m.evidence_needed) = (0.50, 0.30, 0.5)),
        ("patient", |m| m.off_probability = 0.15),
    ],
];

/// Replays that a training takes: the default, then each variant.
fn replays() -> usize {
    1 + ROUNDS.iter().map(|round| round.len()).sum::<usize>()
}

/// One series as it is judged: its points, the whole question, and where the parts divide.
struct Case<'a> {
    points: &'a [(i64, f64)],
    question: Question,
}

/// Settings and what they were worth on each part.
struct Tried {
    settings: Model,
    variants: Vec<String>,
    first: Total,
    last: Vec<Score>,
}

/// What is aimed at: precision before recall, and probabilities that can be believed.
fn worth(t: &Total) -> f64 {
    t.f05 - if t.brier.is_finite() { t.brier } else { 0.0 }
}

/// Chooses settings for series that share a threshold and a horizon. `points` of each series are in
/// time order, unix milliseconds. `progress` hears the share done and answers whether to go on.
///
/// # Errors
/// The history does not support a choice, or the default is as good; see [`Refusal`].
pub fn train(
    histories: &[Vec<(i64, f64)>],
    threshold: f64,
    horizon_ms: i64,
    base: &Model,
    progress: &dyn Fn(f64) -> bool,
) -> Result<TrainedModel, Refusal> {
    base.check()?;
    let usable = threshold.is_finite() && horizon_ms >= base.step_ms && (1..=SERIES_MAX).contains(&histories.len());
    if !usable {
        return Err(Refusal::BadQuestion);
    }
    // All points of the past are there: nothing more will come for a bucket.
    let base = Model { close_after_ms: 0, band_points: 0, ..base.clone() };
    let spans = histories.iter().filter_map(|points| Some((points.first()?.0, points.last()?.0)));
    let (from_ms, to_ms) = spans.fold((i64::MAX, i64::MIN), |(from, to), span| (from.min(span.0), to.max(span.1)));
    let have_ms = to_ms.saturating_sub(from_ms).max(0);
    let need_ms = horizon_ms.saturating_mul(HORIZONS_MIN);
    if have_ms < need_ms {
        return Err(Refusal::TooShort { have_ms, need_ms });
    }
    let split_ms = from_ms + (CHOOSE_RATIO * have_ms as f64) as i64;
    let cases: Vec<Case<'_>> = histories.iter().filter_map(|points| case(points, threshold, horizon_ms)).collect();
    let (mut chosen_on, mut reported_on) = (0, 0);
    for case in &cases {
        let (before, after) = parts(case, split_ms);
        chosen_on += crossings(before, &case.question).len();
        reported_on += crossings(case.points, &after).len();
    }
    if chosen_on < CHOOSE_CROSSINGS_MIN || reported_on < REPORT_CROSSINGS_MIN {
        return Err(Refusal::TooFewCrossings { chosen_on, reported_on });
    }

    let mut done = 0;
    let mut try_out = |settings: Model, variants: Vec<String>| {
        let share = |case: usize| (done as f64 + case as f64 / cases.len() as f64) / replays() as f64;
        let tried = try_settings(&cases, split_ms, settings, variants, &|case| progress(share(case)));
        done += 1;
        tried.ok_or(Refusal::Cancelled)
    };
    let default = try_out(base, Vec::new())?;
    let default_report = report(&total(&default.last), horizon_ms);
    let mut best: Option<Tried> = None;
    for round in ROUNDS {
        let start = best.as_ref().unwrap_or(&default);
        let (mut settings, variants) = (start.settings.clone(), start.variants.clone());
        let mut better: Option<Tried> = None;
        for (name, change) in round {
            change(&mut settings);
            if settings.check().is_ok() {
                let tried = try_out(settings, [variants.as_slice(), &[(*name).to_owned()]].concat())?;
                let to_beat = worth(&better.as_ref().unwrap_or(start).first);
                if worth(&tried.first) > to_beat + if better.is_none() { GAIN_MIN } else { 0.0 } {
                    better = Some(tried);
                }
            }
            settings = start.settings.clone();
        }
        best = better.or(best);
    }
    let Some(best) = best else {
        return Err(no_better(default_report, default_report));
    };
    let all = total(&best.last);
    let report = report(&all, horizon_ms);
    if worth(&all) <= worth(&total(&default.last)) {
        return Err(no_better(default_report, report));
    }
    Ok(TrainedModel {
        version: TRAINED_VERSION,
        settings: best.settings,
        variants: best.variants,
        threshold,
        horizon_ms,
        series: cases.len(),
        from_ms,
        split_ms,
        to_ms,
        crossings_chosen_on: chosen_on,
        report,
        default_report,
        time_error: time_error(&best.last, horizon_ms),
        calibration: calibration(&all.moments),
    })
}

fn no_better(default_report: Report, best_report: Report) -> Refusal {
    Refusal::NoBetter { default_report: Box::new(default_report), best_report: Box::new(best_report) }
}

fn case(points: &[(i64, f64)], threshold: f64, horizon_ms: i64) -> Option<Case<'_>> {
    let (first, last) = (points.first()?.0, points.last()?.0);
    let mut distances: Vec<f64> = points.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
    let interval_ms = median(&mut distances).map_or(TICK_MS, |ms| (ms as i64).clamp(1, horizon_ms));
    let warm_ms = ((WARM_RATIO * (last - first) as f64) as i64).clamp(WARM_MS_MIN, WARM_MS_MAX);
    let question = Question::new(threshold, horizon_ms, interval_ms, first + warm_ms);
    Some(Case { points, question })
}

/// The first part's points, and the question of the last part, which still sees what came before.
fn parts<'a>(case: &Case<'a>, split_ms: i64) -> (&'a [(i64, f64)], Question) {
    let before = &case.points[..case.points.partition_point(|point| point.0 < split_ms)];
    let judged_from_ms = case.question.judged_from_ms.max(split_ms);
    (before, Question { judged_from_ms, ..case.question })
}

fn try_settings(
    cases: &[Case<'_>],
    split_ms: i64,
    settings: Model,
    variants: Vec<String>,
    progress: &dyn Fn(usize) -> bool,
) -> Option<Tried> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (index, case) in cases.iter().enumerate() {
        let decisions = replay(case, &settings, &|| progress(index))?;
        let (before, after) = parts(case, split_ms);
        first.push(score(before, &case.question, &decisions));
        last.push(score(case.points, &after, &decisions));
    }
    Some(Tried { settings, variants, first: total(&first), last })
}

/// Steps through a series; `None` when told to stop.
fn replay(case: &Case<'_>, settings: &Model, go_on: &dyn Fn() -> bool) -> Option<Vec<Decision>> {
    /// Ticks between two looks whether to go on.
    const LOOK_TICKS: usize = 256;
    let (points, q) = (case.points, &case.question);
    let first_ms = points.first()?.0;
    let mut state = State::new(q.horizon_ms, settings);
    let mut decisions = Vec::new();
    let mut taken = 0;
    let begin = first_ms - first_ms.rem_euclid(TICK_MS) + TICK_MS;
    for (count, tick) in (begin..=points.last()?.0).step_by(TICK_MS as usize).enumerate() {
        if count % LOOK_TICKS == 0 && !go_on() {
            return None;
        }
        let upto = taken + points[taken..].partition_point(|point| point.0 <= tick);
        let (next, said) = step(state, &points[taken..upto], q.threshold, q.horizon_ms, tick, settings);
        (state, taken) = (next, upto);
        if tick >= q.judged_from_ms {
            let (likely_ms, probability) = (said.likely_ms, Some(said.probability));
            decisions.push(Decision { at_ms: tick, warned: said.warned, likely_ms, probability });
        }
    }
    Some(decisions)
}

fn report(all: &Total, horizon_ms: i64) -> Report {
    Report {
        crossings: all.events,
        warned: all.warned,
        false_warnings: all.false_pieces,
        false_per_week: all.false_per_week,
        lead_ms: (all.lead_ratio * horizon_ms as f64) as i64,
        precision: all.precision,
        recall: all.recall,
        f05: all.f05,
        brier: if all.brier.is_finite() { all.brier } else { 0.0 },
    }
}

fn time_error(scores: &[Score], horizon_ms: i64) -> Vec<TimeError> {
    let mut from = 0.0;
    DISTANCES
        .iter()
        .map(|upto| {
            let near = scores.iter().flat_map(|s| &s.moment_errors).filter(|(ahead, _)| from < *ahead && ahead <= upto);
            let mut errors: Vec<f64> = near.map(|e| e.1).collect();
            from = *upto;
            let factor = median(&mut errors).map(f64::exp);
            TimeError { ahead_ms: (upto * horizon_ms as f64) as i64, moments: errors.len(), factor }
        })
        .collect()
}

fn calibration(moments: &[Kept; 4]) -> Vec<Calibration> {
    let row = |(from_probability, kept): (&f64, &Kept)| Calibration {
        from_probability: *from_probability,
        moments: kept.said,
        came_true_ratio: kept.ratio(),
    };
    CLASSES.iter().zip(moments).map(row).collect()
}
