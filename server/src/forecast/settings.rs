//! The settings of a forecast as data: versioned, serialisable, with defaults that need no
//! configuration. What view B trains and a rule adopts. No behaviour.

use serde::{Deserialize, Serialize};

/// Version of [`Model`]; a stored model of another version is refused, not guessed at.
pub const MODEL_VERSION: u32 = 1;

/// How a series is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Version of this record.
    pub version: u32,
    /// Bucket length.
    pub step_ms: i64,
    /// How long after its end a bucket still takes points.
    pub close_after_ms: i64,
    /// Buckets that are remembered.
    pub window_buckets: usize,
    /// Probability from which a warning may start.
    pub on_probability: f64,
    /// Probability below which a warning ends.
    pub off_probability: f64,
    /// Probability above which a bucket counts as evidence, and below which it takes some away.
    pub evidence_from: f64,
    /// Sum of probability above `evidence_from` before a warning starts: one sure bucket does not
    /// suffice, three likely ones do.
    pub evidence_needed: f64,
    /// Weight of the present trend against the record, in horizons.
    pub prior_horizons: f64,
    /// How sharply better experts are preferred.
    pub selection_power: f64,
    /// Age at which a past state counts half.
    pub halflife_ms: i64,
    /// Relative error granted to a trend's rise.
    pub trend_error_ratio: f64,
    /// Share of the judgement that takes the whole past alike, not only what resembles the present.
    pub whole_past_ratio: f64,
    /// Share of the decomposition's probability where it is fitted.
    pub decomposition_ratio: f64,
    /// How much each comparable past horizon counts.
    pub record_weight: f64,
    /// Fewest closed buckets for a forecast; at least an eighth of the horizon is needed too.
    pub buckets_min: usize,
    /// Largest accepted share of missing buckets among the recent ones.
    pub gap_ratio_max: f64,
    /// Points of the band; 0 for none.
    pub band_points: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            version: MODEL_VERSION,
            step_ms: crate::series::STEP_MS,
            close_after_ms: crate::series::CLOSE_AFTER_MS,
            window_buckets: 4032,
            on_probability: 0.60,
            off_probability: 0.30,
            evidence_from: 0.40,
            evidence_needed: 0.65,
            prior_horizons: 1.0,
            selection_power: 4.0,
            halflife_ms: 4 * 86_400_000,
            trend_error_ratio: 0.5,
            whole_past_ratio: 0.5,
            decomposition_ratio: 0.35,
            record_weight: 2.0,
            buckets_min: 24,
            gap_ratio_max: 0.5,
            band_points: 48,
        }
    }
}
