//! A host has not been heard of for `after_ms`, while this server was listening.

use super::{Case, Change, Seen};
use crate::model::incident::{Ended, IncidentKind};

pub(super) fn judge(case: &Case<'_>, after_ms: i64) -> Option<Change> {
    match case.seen {
        Seen::HostSilent { seen_ms } if seen_ms > 0 && !case.is_firing() => {
            let mut next = case.incident(IncidentKind::Alarm);
            if case.elapsed_ms(&next, seen_ms) < after_ms {
                return None;
            }
            next.evidence.last_ms = seen_ms;
            Some(case.fire(next, IncidentKind::Alarm))
        }
        Seen::HostBack => case.open.map(|open| case.resolve(open.clone(), Ended::HostBack)),
        _ => None,
    }
}
