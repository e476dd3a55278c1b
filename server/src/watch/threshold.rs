//! A level that must not reach a threshold. The forecast warns (it has its own confirmation and hysteresis), the last
//! values alarm: at or over the threshold for `for_ms`. One incident carries both; it is over when the level has been
//! *clearly* below for `for_ms`, or, for a warning, when the forecast says that it is stable.

use forewarn_common::limit::CLOCK_SKEW_MS_MAX;
use forewarn_common::metric::{Unit, unit_of_name};

use super::evidence::kept_forecast;
use super::{Case, Change, GONE_MS, Seen};
use crate::model::forecast::{Forecast, State};
use crate::model::incident::{Ended, Incident, IncidentKind, IncidentState};

/// How far below its threshold a level must be to be well again, as a share of the threshold …
const CLEAR_RATIO: f64 = 0.02;
/// … and at least, for a share of one.
const CLEAR_MIN_RATIO: f64 = 0.01;
/// A forecast older than this says nothing about now: two of its rounds and the closing of a bucket.
const FORECAST_AGE_MS_MAX: i64 = 15 * 60_000;
/// Two looks further apart than this are not one length of time; forecasts look every five minutes.
const GAP_MS: i64 = 11 * 60_000;
/// A warning of which no forecast can be made any more is kept for this long.
const WARNING_KEPT_MS: i64 = 2 * 3_600_000;
/// A pending incident of which nothing more comes is forgotten after at least this long.
const PENDING_MS: i64 = 15 * 60_000;

/// The rule's numbers.
pub(super) struct Limit<'a> {
    metric: &'a str,
    threshold: f64,
    clear: f64,
    for_ms: i64,
}

impl<'a> Limit<'a> {
    pub(super) fn of(metric: &'a str, threshold: f64, for_ms: i64) -> Self {
        let is_ratio = unit_of_name(metric) == Unit::Ratio;
        let margin = (threshold.abs() * CLEAR_RATIO).max(if is_ratio { CLEAR_MIN_RATIO } else { 0.0 });
        Self { metric, threshold, clear: threshold - margin, for_ms: for_ms.max(0) }
    }
}

// Exactly at the threshold is over, also after a rounding in the last bit.
pub(super) fn is_over(value: f64, threshold: f64) -> bool {
    value >= threshold - threshold.abs() * 1e-12
}

pub(super) fn judge(case: &Case<'_>, limit: &Limit<'_>) -> Option<Change> {
    match case.seen {
        Seen::Level { value, at_ms } => {
            let fresh = case.context.now_ms.saturating_sub(at_ms).saturating_abs() <= CLOCK_SKEW_MS_MAX;
            (fresh && value.is_finite()).then(|| judge_level(case, limit, value, at_ms))?
        }
        Seen::Forecast(forecast) => judge_forecast(case, limit, &kept_forecast(forecast)?),
        Seen::Tick => judge_tick(case, limit),
        Seen::Hit(_) | Seen::Event(_) | Seen::HostSilent { .. } | Seen::HostBack => None,
    }
}

fn judge_level(case: &Case<'_>, limit: &Limit<'_>, value: f64, at_ms: i64) -> Option<Change> {
    let over = is_over(value, limit.threshold);
    if case.open.is_none() && !over {
        return None;
    }
    let mut next = begin(case, limit, IncidentKind::Alarm);
    let is_alarm = is_alarm(case);
    let evidence = &mut next.evidence;
    if evidence.value_ms.is_some_and(|last_ms| at_ms < last_ms) {
        return None;
    }
    if evidence.value_ms.is_some_and(|last_ms| at_ms.saturating_sub(last_ms) > GAP_MS) {
        evidence.under_since_ms = None;
        if !is_alarm {
            evidence.over_since_ms = None;
        }
    }
    evidence.value = Some(value);
    evidence.value_ms = Some(at_ms);
    if over {
        evidence.under_since_ms = None;
        evidence.last_ms = at_ms;
        let since_ms = *evidence.over_since_ms.get_or_insert(at_ms);
        if !is_alarm && at_ms.saturating_sub(since_ms) >= limit.for_ms {
            return Some(case.fire(next, IncidentKind::Alarm));
        }
        return case.refresh(next);
    }
    if !is_alarm {
        evidence.over_since_ms = None;
    }
    if value >= limit.clear {
        evidence.under_since_ms = None;
    } else {
        let since_ms = *evidence.under_since_ms.get_or_insert(at_ms);
        if next.state == IncidentState::Pending {
            return Some(case.resolve(next, Ended::Cleared));
        }
        if is_alarm && at_ms.saturating_sub(since_ms) >= limit.for_ms {
            return Some(case.resolve(next, Ended::Cleared));
        }
    }
    case.refresh(next)
}

fn judge_forecast(case: &Case<'_>, limit: &Limit<'_>, forecast: &Forecast) -> Option<Change> {
    let age_ms = case.context.now_ms.saturating_sub(forecast.at_ms);
    let asked = (forecast.threshold - limit.threshold).abs() <= limit.threshold.abs() * 1e-9;
    // An answer to the question of before the rule was changed, or of too long ago, is no answer.
    if !asked || !(-CLOCK_SKEW_MS_MAX..=FORECAST_AGE_MS_MAX).contains(&age_ms) {
        return None;
    }
    let is_warning = case.is_firing() && !is_alarm(case);
    let is_over = case.open.is_some_and(|incident| incident.evidence.over_since_ms.is_some());
    match forecast.state {
        State::Warning { .. } => {
            let mut next = begin(case, limit, IncidentKind::Warning);
            next.evidence.forecast = Some(forecast.clone());
            next.evidence.digest = case.context.digest.map(str::to_owned);
            if next.evidence.value.is_none() {
                next.evidence.value = Some(forecast.value);
            }
            if !is_alarm(case) {
                next.evidence.last_ms = case.context.now_ms;
            }
            if case.is_firing() { case.refresh(next) } else { Some(case.fire(next, IncidentKind::Warning)) }
        }
        State::Breached => judge_breach(case, limit, forecast),
        State::Stable if is_warning && !is_over => {
            Some(case.resolve(begin(case, limit, IncidentKind::Warning), Ended::Withdrawn))
        }
        // The mean of the last bucket is a look too, for metrics whose last values do not travel urgently.
        State::Stable if case.open.is_some() => judge_level(case, limit, forecast.value, forecast.at_ms),
        State::NoForecast { .. } if is_warning && !is_over => {
            let next = begin(case, limit, IncidentKind::Warning);
            let last_ms = next.evidence.last_ms;
            (case.elapsed_ms(&next, last_ms) >= WARNING_KEPT_MS).then(|| case.resolve(next, Ended::Withdrawn))
        }
        State::Stable | State::NoForecast { .. } => None,
    }
}

/// A whole bucket was over. It is older than the last value, so a value that is below by now has the last word.
fn judge_breach(case: &Case<'_>, limit: &Limit<'_>, forecast: &Forecast) -> Option<Change> {
    let newer = case.open.and_then(|incident| {
        let at_ms = incident.evidence.value_ms.filter(|at_ms| *at_ms > forecast.at_ms)?;
        Some((incident, at_ms))
    });
    let Some((open, value_ms)) = newer else {
        return judge_level(case, limit, forecast.value.max(limit.threshold), forecast.at_ms);
    };
    let since_ms = open.evidence.over_since_ms?.min(forecast.at_ms);
    if is_alarm(case) {
        return None;
    }
    let mut next = open.clone();
    next.evidence.over_since_ms = Some(since_ms);
    if value_ms.saturating_sub(since_ms) >= limit.for_ms {
        return Some(case.fire(next, IncidentKind::Alarm));
    }
    case.refresh(next)
}

fn judge_tick(case: &Case<'_>, limit: &Limit<'_>) -> Option<Change> {
    let open = case.open?;
    let unheard_ms = case.elapsed_ms(open, open.updated_ms);
    let kept_ms = match open.state {
        IncidentState::Pending => PENDING_MS.max(limit.for_ms.saturating_mul(2)),
        IncidentState::Firing | IncidentState::Resolved => GONE_MS,
    };
    (unheard_ms >= kept_ms).then(|| case.resolve(open.clone(), Ended::Gone))
}

fn begin(case: &Case<'_>, limit: &Limit<'_>, kind: IncidentKind) -> Incident {
    let mut incident = case.incident(kind);
    incident.evidence.metric = Some(limit.metric.to_owned());
    incident.evidence.threshold = Some(limit.threshold);
    incident
}

fn is_alarm(case: &Case<'_>) -> bool {
    case.is_firing() && case.open.is_some_and(|incident| incident.kind == IncidentKind::Alarm)
}
