//! What a forecast answers: one state, a probability, a range of times, and the reasons in
//! numbers, so that a message or the console can say *why* in any language.
//! Plain data; nothing here computes.

use serde::{Deserialize, Serialize};

/// The answer for one series against one threshold at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Forecast {
    /// Which of the four states the series is in.
    pub state: State,
    /// Whether a warning stands. A breach does not end it.
    pub warned: bool,
    /// Probability (0..=1) that the series is held over the threshold within the horizon.
    pub probability: f64,
    /// Moment of judgement: the end of the last closed bucket, unix milliseconds.
    pub at_ms: i64,
    /// Mean of the last closed bucket after removing single-bucket glitches.
    pub value: f64,
    /// The threshold judged against; a series is over when its value is at or above it.
    pub threshold: f64,
    /// How far ahead was looked.
    pub horizon_ms: i64,
    /// When the crossing is expected, if one is worth naming (also given while stable, as a hint).
    pub likely_ms: Option<i64>,
    /// Why, most telling first.
    pub reasons: Vec<Because>,
    /// The expected course over the horizon, for a plot. Empty when it was not asked for.
    pub band: Vec<BandPoint>,
}

/// What the rounds of forecasts of one period came to on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Period {
    /// When it ended, unix milliseconds.
    pub ended_ms: i64,
    /// How long it is: every series has its turn once.
    pub period_ms: i64,
    /// Hosts whose turns are taken by this server.
    pub hosts: u32,
    /// Series that were judged in full.
    pub judged: u32,
    /// Calm series that were looked at, and keep the answer they had.
    pub looked_at: u32,
    /// Series that there was no time for: judged at their next turn.
    pub left_over: u32,
    /// Heavy fits (a decomposition into seasons and trend).
    pub heavy_fits: u32,
    /// Series that were judged while their heavy fit waits for its turn.
    pub heavy_fits_waiting: u32,
    /// Time that all turns took from begin to end, waiting for the database included.
    pub duration_ms: i64,
    /// Processor time of the judgements alone, reading and writing apart.
    pub processor_ms: i64,
    /// Of that, the judgements with a heavy fit in them.
    pub heavy_fit_ms: i64,
    /// Time that forecasts may take of a period.
    pub budget_ms: i64,
}

/// Exactly one of four; "ok" is never said of a series that is over its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// Nothing can be said, and why.
    NoForecast {
        /// What was missing.
        reason: Reason,
    },
    /// No crossing is expected within the horizon.
    Stable,
    /// It will cross: how sure, and when.
    Warning {
        /// Probability of crossing within the horizon.
        probability: f64,
        /// One in ten crossings come before this.
        earliest_ms: i64,
        /// The middle of the expected times.
        likely_ms: i64,
        /// One in ten crossings come after this.
        latest_ms: i64,
    },
    /// It is over the threshold now.
    Breached,
}

/// Why there is no forecast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The history is shorter than what a judgement needs.
    TooShort {
        /// Span of closed buckets.
        have_ms: i64,
        /// Span needed.
        need_ms: i64,
    },
    /// Too much of the recent past is missing.
    TooManyGaps {
        /// Share of the recent buckets without a sample.
        missing_ratio: f64,
        /// The most that is accepted.
        limit_ratio: f64,
    },
    /// The last sample is too old to say anything about now.
    Stale {
        /// Age of the last bucket with a sample.
        age_ms: i64,
        /// The oldest that is accepted.
        limit_ms: i64,
    },
    /// More buckets lie within the horizon than are remembered for it.
    HorizonTooLong {
        /// The longest horizon at this bucket length.
        limit_ms: i64,
    },
    /// The threshold or the horizon is not a usable number.
    BadQuestion,
}

/// One reason behind a probability, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Because {
    /// The expert with most say.
    Expert {
        /// Which way of looking ahead.
        expert: Expert,
        /// Its share of the mixture, 0..=1.
        weight_ratio: f64,
        /// The highest level it expects within the horizon.
        expects: f64,
    },
    /// How often the same expectation, corrected by its errors at the same horizon in the series'
    /// own past, went over the threshold.
    Record {
        /// Share of the comparable past that would have crossed from here.
        crossed_ratio: f64,
        /// How many independent horizons of the past that rests on.
        horizons: f64,
    },
    /// The straight trend that is best supported right now.
    Trend {
        /// Length of the window.
        window_ms: i64,
        /// Rise per hour.
        slope_per_hour: f64,
        /// Probability the trend alone gives.
        probability: f64,
    },
    /// The series comes down by itself; its peaks bound what a rise may promise.
    Sawtooth {
        /// Mean time between resets.
        period_ms: i64,
        /// The highest level the next tooth is granted.
        top: f64,
    },
    /// The last reset (rotation, restart, deploy), which no trend looks across.
    Reset {
        /// How long ago.
        age_ms: i64,
    },
    /// A season-and-trend model of long history agrees or disagrees.
    Decomposition {
        /// Its own probability.
        probability: f64,
        /// Age of the fit.
        age_ms: i64,
    },
    /// That model is due to be fitted again and waits for its turn: an older fit speaks for it, or none.
    DecompositionWaits,
}

/// A way of looking ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "expert", rename_all = "snake_case")]
pub enum Expert {
    /// It stays where it is.
    Hold,
    /// A straight line over a recent window, not across the last reset.
    Trend {
        /// Window in buckets.
        window: usize,
        /// Whether only half of the slope is believed.
        half: bool,
    },
    /// A straight line over two horizons, across resets.
    LongTrend,
    /// The rolling peaks and their drift.
    Envelope {
        /// Window in buckets.
        window: usize,
    },
    /// The same hours some days ago.
    Season {
        /// How many days ago.
        days: usize,
        /// What is carried over.
        carry: Carry,
    },
}

/// What a seasonal expert carries over from the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// The level itself.
    Level,
    /// The rise from the level at that hour.
    Rise,
    /// The level plus the drift of the daily mean since.
    Drift,
    /// The level times the growth of the daily mean since.
    Growth,
}

/// One point of the expected course.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BandPoint {
    /// Unix milliseconds.
    pub t_ms: i64,
    /// One in ten courses lie below.
    pub low: f64,
    /// The middle course.
    pub mid: f64,
    /// One in ten courses lie above.
    pub high: f64,
}
