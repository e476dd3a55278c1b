//! What engines say of containers: ends that nobody asked for, kills for want of memory, restart loops, failed health
//! checks. A request to stop is remembered in a pending incident, so that the end that follows is known to be none.

use forewarn_common::block::{EngineEvent, EventKind};
use forewarn_common::limit::CLOCK_SKEW_MS_MAX;

use super::evidence::{EVENTS_MAX, add_event};
use super::{Case, Change, Seen};
use crate::model::incident::{Ended, EventEvidence, Incident, IncidentKind};

/// An end within this long after a request to stop was asked for, whatever its exit code …
const STOP_MS: i64 = 30_000;
/// … and with the exit code of a signal, within this long: engines wait for slow containers.
const STOP_SIGNAL_MS: i64 = 5 * 60_000;
/// Exit codes of SIGTERM and SIGKILL.
const SIGNAL_CODES: [i32; 2] = [TERMINATED, 137];
/// Exit code of SIGTERM, which is itself a request to end: agents without the engine's API see no other.
const TERMINATED: i32 = 143;
/// Some engines report the request just after the end that it caused.
const STOP_LATE_MS: i64 = 2000;
/// A container that runs again for this long has recovered.
const RUNNING_MS: i64 = 2 * 60_000;
/// An out-of-memory kill is over after this long without another.
const OOM_QUIET_MS: i64 = 10 * 60_000;
/// Events from further back, out of an agent's backlog, are evidence at most.
const EVENT_AGE_MS_MAX: i64 = 24 * 3_600_000;
/// A dead or unhealthy container of which nothing more is heard is let go after this long.
const GONE_MS: i64 = 24 * 3_600_000;
/// Health as the engine events code it.
const HEALTHY: i32 = 0;
const UNHEALTHY: i32 = 2;

/// Puts the events of one block into the order in which they mean something: by time, a request to stop before the end
/// that it caused.
pub fn order_events(events: &mut [EngineEvent]) {
    events.sort_by_key(|event| {
        let early_ms = if event.kind == EventKind::Stop { STOP_LATE_MS } else { 0 };
        event.at_ms.saturating_sub(early_ms)
    });
}

/// Whether a last value of a container's health says what the event says.
pub(super) fn is_unhealthy(value: f64) -> bool {
    value >= f64::from(UNHEALTHY)
}

pub(super) fn judge_death(case: &Case<'_>) -> Option<Change> {
    match case.seen {
        Seen::Event(event) => judge_death_event(case, event),
        Seen::Level { value, at_ms } => {
            let mut next = fresh_level(case, at_ms).filter(|_| case.is_firing())?;
            let evidence = &mut next.evidence;
            if value >= 1.0 && at_ms > evidence.last_ms {
                evidence.under_since_ms.get_or_insert(at_ms);
            } else if value < 1.0 {
                evidence.under_since_ms = None;
            }
            case.refresh(next)
        }
        Seen::Tick => {
            let open = case.open?;
            let running_ms = open.evidence.under_since_ms.map(|since_ms| case.elapsed_ms(open, since_ms));
            if running_ms.is_some_and(|running_ms| running_ms >= RUNNING_MS) {
                return Some(case.resolve(open.clone(), Ended::Running));
            }
            let kept_ms = if case.is_firing() { GONE_MS } else { STOP_SIGNAL_MS };
            (case.elapsed_ms(open, open.updated_ms) >= kept_ms).then(|| case.resolve(open.clone(), Ended::Gone))
        }
        _ => None,
    }
}

fn judge_death_event(case: &Case<'_>, event: &EngineEvent) -> Option<Change> {
    let firing = case.is_firing();
    match event.kind {
        EventKind::Die => {
            let asked = case.open.is_some_and(|open| was_asked(&open.evidence.events, event));
            let fault = event.code != 0 && event.code != TERMINATED && !asked;
            if !fault || (!firing && is_old(case, event)) {
                return case.open.filter(|_| !firing).map(|open| case.resolve(open.clone(), Ended::Removed));
            }
            let mut next = with_event(case, event);
            next.evidence.hits = next.evidence.hits.saturating_add(1);
            next.evidence.last_ms = next.evidence.last_ms.max(case.not_after_now(event.at_ms));
            next.evidence.under_since_ms = None;
            Some(if firing { case.keep(next) } else { case.fire(next, IncidentKind::Alarm) })
        }
        EventKind::Start => {
            let open = case.open?;
            if !firing {
                return Some(case.resolve(open.clone(), Ended::Running));
            }
            let mut next = with_event(case, event);
            if event.at_ms >= next.evidence.last_ms {
                next.evidence.under_since_ms.get_or_insert(case.not_after_now(event.at_ms));
            }
            Some(case.keep(next))
        }
        EventKind::Stop => (!is_old(case, event)).then(|| case.keep(with_event(case, event))),
        EventKind::Destroy => case.open.map(|_| case.resolve(with_event(case, event), Ended::Removed)),
        EventKind::Oom | EventKind::Health => None,
    }
}

pub(super) fn judge_oom(case: &Case<'_>) -> Option<Change> {
    match case.seen {
        Seen::Event(event) if event.kind == EventKind::Oom => {
            if case.open.is_none() && is_old(case, event) {
                return None;
            }
            let mut next = with_event(case, event);
            next.evidence.hits = next.evidence.hits.saturating_add(1);
            next.evidence.last_ms = next.evidence.last_ms.max(case.not_after_now(event.at_ms));
            Some(if case.is_firing() { case.keep(next) } else { case.fire(next, IncidentKind::Alarm) })
        }
        Seen::Tick => {
            let open = case.open?;
            let from_ms = open.evidence.last_ms.max(open.fired_ms.unwrap_or(open.opened_ms));
            (case.elapsed_ms(open, from_ms) >= OOM_QUIET_MS).then(|| case.resolve(open.clone(), Ended::Quiet))
        }
        _ => None,
    }
}

pub(super) fn judge_loop(case: &Case<'_>, restarts: u32, within_ms: i64) -> Option<Change> {
    // Each restart leaves an end and a start, and only so many events are kept.
    let restarts_max = (EVENTS_MAX / 2 - 1) as u64;
    let wanted = u64::from(restarts).clamp(1, restarts_max);
    match case.seen {
        Seen::Event(event) => match event.kind {
            EventKind::Destroy => case.open.map(|_| case.resolve(with_event(case, event), Ended::Removed)),
            EventKind::Start | EventKind::Die | EventKind::Stop if !is_old(case, event) => {
                let mut next = with_event(case, event);
                let restarted = restarts_within(&next.evidence.events, within_ms);
                if event.kind == EventKind::Start {
                    next.evidence.last_ms = next.evidence.last_ms.max(case.not_after_now(event.at_ms));
                    next.evidence.hits =
                        if case.is_firing() { next.evidence.hits.saturating_add(1) } else { restarted };
                }
                let fires = !case.is_firing() && restarted >= wanted;
                Some(if fires { case.fire(next, IncidentKind::Alarm) } else { case.keep(next) })
            }
            _ => None,
        },
        Seen::Tick => {
            let open = case.open?;
            let last_ms = open.evidence.events.first().map_or(open.updated_ms, |event| case.not_after_now(event.at_ms));
            let from_ms = last_ms.max(open.fired_ms.unwrap_or(last_ms));
            (case.elapsed_ms(open, from_ms) >= within_ms).then(|| case.resolve(open.clone(), Ended::Running))
        }
        _ => None,
    }
}

pub(super) fn judge_health(case: &Case<'_>) -> Option<Change> {
    match case.seen {
        Seen::Event(event) => match (event.kind, event.code) {
            (EventKind::Health, UNHEALTHY) if !case.is_firing() && !is_old(case, event) => {
                let mut next = with_event(case, event);
                next.evidence.last_ms = case.not_after_now(event.at_ms);
                Some(case.fire(next, IncidentKind::Alarm))
            }
            (EventKind::Health, HEALTHY) => resolve_if_newer(case, event, Ended::Healthy),
            (EventKind::Die | EventKind::Stop | EventKind::Destroy, _) => resolve_if_newer(case, event, Ended::Removed),
            _ => None,
        },
        Seen::Level { value, at_ms } => {
            let mut next = fresh_level(case, at_ms).filter(|next| at_ms >= next.evidence.last_ms)?;
            if is_unhealthy(value) {
                next.evidence.last_ms = case.not_after_now(at_ms);
                return if case.is_firing() { case.refresh(next) } else { Some(case.fire(next, IncidentKind::Alarm)) };
            }
            let well = case.open.is_some() && value < 1.0;
            well.then(|| case.resolve(next, Ended::Healthy))
        }
        Seen::Tick => {
            let open = case.open?;
            (case.elapsed_ms(open, open.updated_ms) >= GONE_MS).then(|| case.resolve(open.clone(), Ended::Gone))
        }
        _ => None,
    }
}

fn resolve_if_newer(case: &Case<'_>, event: &EngineEvent, ended: Ended) -> Option<Change> {
    let open = case.open?;
    (event.at_ms >= open.evidence.last_ms).then(|| case.resolve(with_event(case, event), ended))
}

fn with_event(case: &Case<'_>, event: &EngineEvent) -> Incident {
    let mut next = case.incident(IncidentKind::Alarm);
    add_event(&mut next.evidence, event);
    next
}

/// The incident to go on with, when the level is of now and not older than the last one.
fn fresh_level(case: &Case<'_>, at_ms: i64) -> Option<Incident> {
    let fresh = case.context.now_ms.saturating_sub(at_ms).saturating_abs() <= CLOCK_SKEW_MS_MAX;
    let mut next = case.incident(IncidentKind::Alarm);
    if !fresh || next.evidence.value_ms.is_some_and(|last_ms| at_ms < last_ms) {
        return None;
    }
    next.evidence.value_ms = Some(at_ms);
    Some(next)
}

fn is_old(case: &Case<'_>, event: &EngineEvent) -> bool {
    case.context.now_ms.saturating_sub(event.at_ms) > EVENT_AGE_MS_MAX
}

fn was_asked(events: &[EventEvidence], end: &EngineEvent) -> bool {
    events.iter().any(|stop| {
        let after_ms = end.at_ms.saturating_sub(stop.at_ms);
        let allowed_ms = if SIGNAL_CODES.contains(&end.code) { STOP_SIGNAL_MS } else { STOP_MS };
        stop.kind == EventKind::Stop && (-STOP_LATE_MS..=allowed_ms).contains(&after_ms)
    })
}

/// Starts after an end that nobody asked for, within `within_ms` before the newest event. The first start of all is
/// no restart.
fn restarts_within(events: &[EventEvidence], within_ms: i64) -> u64 {
    let newest_ms = events.first().map_or(0, |event| event.at_ms);
    let (mut known, mut asked, mut restarts) = (false, false, 0);
    for event in events.iter().rev() {
        match event.kind {
            EventKind::Start => {
                if known && !asked && newest_ms.saturating_sub(event.at_ms) <= within_ms {
                    restarts += 1;
                }
                (known, asked) = (true, false);
            }
            EventKind::Die => known = true,
            EventKind::Stop => asked = true,
            EventKind::Oom | EventKind::Health | EventKind::Destroy => {}
        }
    }
    restarts
}
