//! A keyword rule of the agents has hit: told at once and once; further hits only extend the evidence; over after
//! `quiet_ms` without one.

use forewarn_common::keyword::Severity;

use super::evidence::{add_lines, cut};
use super::{Case, Change, NAME_BYTES_MAX, Seen};
use crate::model::incident::{Ended, IncidentKind};

/// Hits from further back (an agent's backlog after a long outage) are in the series, but nobody is woken for them.
const HIT_AGE_MS_MAX: i64 = 24 * 3_600_000;

pub(super) fn judge(case: &Case<'_>, severity_min: Severity, quiet_ms: i64) -> Option<Change> {
    match case.seen {
        Seen::Hit(hit) => {
            let old = case.context.now_ms.saturating_sub(hit.last_ms) > HIT_AGE_MS_MAX;
            if hit.severity < severity_min || hit.count == 0 || (case.open.is_none() && old) {
                return None;
            }
            let mut next = case.incident(IncidentKind::Alarm);
            next.severity = if case.is_firing() { next.severity.max(hit.severity) } else { hit.severity };
            let evidence = &mut next.evidence;
            evidence.keyword = Some(cut(&hit.rule, NAME_BYTES_MAX));
            evidence.hits = evidence.hits.saturating_add(hit.count);
            evidence.last_ms = evidence.last_ms.max(case.not_after_now(hit.last_ms));
            add_lines(evidence, &hit.samples);
            Some(if case.is_firing() { case.keep(next) } else { case.fire(next, IncidentKind::Alarm) })
        }
        Seen::Tick => {
            let open = case.open?;
            // Told late is not over early: the quiet counts from the telling.
            let from_ms = open.evidence.last_ms.max(open.fired_ms.unwrap_or(open.opened_ms));
            (case.elapsed_ms(open, from_ms) >= quiet_ms).then(|| case.resolve(open.clone(), Ended::Quiet))
        }
        _ => None,
    }
}
