//! The settings of a forecast as data: versioned, serialisable, with defaults that need no
//! configuration. What view B trains and a rule adopts. No behaviour.

use serde::{Deserialize, Serialize};

/// Version of [`Model`]; a stored model of another version is refused, not guessed at.
pub const MODEL_VERSION: u32 = 1;

/// The longest memory: four weeks of five-minute buckets.
pub const WINDOW_BUCKETS_MAX: usize = 8064;

/// How a series is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
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
    /// How much surer, in log odds, a series must be whose own warnings were false: times the
    /// logarithm of false over true ones.
    pub doubt: f64,
    /// Weight of the present trend against the record, in horizons.
    pub prior_horizons: f64,
    /// How sharply better experts are preferred.
    pub selection_power: f64,
    /// Age at which a past state counts half.
    pub halflife_ms: i64,
    /// The same where the whole past is taken alike: there what is recent tells most.
    pub recent_halflife_ms: i64,
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
            off_probability: 0.25,
            evidence_from: 0.40,
            evidence_needed: 0.65,
            doubt: 0.2,
            prior_horizons: 1.0,
            selection_power: 4.0,
            halflife_ms: 4 * 86_400_000,
            recent_halflife_ms: 36 * 3_600_000,
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

/// A model that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Written by another version.
    #[error("model has version {0}, this server knows {MODEL_VERSION}; train it again")]
    Version(u32),
    /// A setting outside its range.
    #[error("model setting {0} is out of range; leave it out to take the default")]
    Range(&'static str),
}

impl Model {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.version != MODEL_VERSION {
            return Err(ModelError::Version(self.version));
        }
        let unit = 0.0..=1.0;
        let checks = [
            ("step_ms", self.step_ms > 0 && self.step_ms <= 86_400_000),
            ("close_after_ms", (0..=86_400_000).contains(&self.close_after_ms)),
            ("window_buckets", (48..=WINDOW_BUCKETS_MAX).contains(&self.window_buckets)),
            ("on_probability", unit.contains(&self.on_probability)),
            ("off_probability", (0.0..=self.on_probability).contains(&self.off_probability)),
            ("evidence_from", (0.0..1.0).contains(&self.evidence_from)),
            ("evidence_needed", (0.0..=100.0).contains(&self.evidence_needed)),
            ("doubt", (0.0..=10.0).contains(&self.doubt)),
            ("prior_horizons", (0.01..=1000.0).contains(&self.prior_horizons)),
            ("selection_power", (0.0..=32.0).contains(&self.selection_power)),
            ("halflife_ms", self.halflife_ms >= self.step_ms),
            ("recent_halflife_ms", self.recent_halflife_ms >= self.step_ms),
            ("trend_error_ratio", (0.01..=10.0).contains(&self.trend_error_ratio)),
            ("whole_past_ratio", unit.contains(&self.whole_past_ratio)),
            ("decomposition_ratio", unit.contains(&self.decomposition_ratio)),
            ("record_weight", (0.0..=1000.0).contains(&self.record_weight)),
            ("buckets_min", (6..=WINDOW_BUCKETS_MAX).contains(&self.buckets_min)),
            ("gap_ratio_max", unit.contains(&self.gap_ratio_max)),
            ("band_points", self.band_points <= 1000),
        ];
        match checks.iter().find(|(_, fine)| !fine) {
            Some((name, _)) => Err(ModelError::Range(name)),
            None => Ok(()),
        }
    }
}
