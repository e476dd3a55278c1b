//! Which rule applies to what: the subject names the one incident that may be open for it.

use forewarn_common::block::{EngineEvent, EntityKind, EventKind, KeywordHit};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::Id;

use crate::model::incident::Subject;
use crate::model::rule::{Condition, Rule};

/// What a rule may apply to.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A series: its last value or its forecast.
    Series {
        /// Whose.
        entity: EntityId,
        /// Host or workload.
        kind: EntityKind,
        /// Catalogue name.
        metric: &'a str,
        /// Mount point and the like.
        instance: &'a str,
    },
    /// Hits of a keyword rule.
    Hit(&'a KeywordHit),
    /// An engine event.
    Event(&'a EngineEvent),
    /// The host itself: heard of or not.
    Host,
}

/// The subject of `rule` for `target` of `host`; `None` when the rule does not look at such a thing.
#[must_use]
pub fn subject(rule: &Rule, host: HostId, target: &Target<'_>) -> Option<Subject> {
    let (entity, instance) = match (&rule.condition, *target) {
        (
            Condition::Threshold { metric: wanted, entity_kind, .. },
            Target::Series { entity, kind, metric, instance },
        ) => (*wanted == metric && *entity_kind == kind).then_some((entity, instance))?,
        // Levels back up events that were missed while the agent was down.
        (Condition::ContainerDied, Target::Series { entity, kind: EntityKind::Workload, metric, .. }) => {
            (metric == Id::Running.spec().name).then_some((entity, ""))?
        }
        (Condition::Unhealthy, Target::Series { entity, kind: EntityKind::Workload, metric, .. }) => {
            (metric == Id::Health.spec().name).then_some((entity, ""))?
        }
        (Condition::Keyword { severity_min, .. }, Target::Hit(hit)) => {
            (hit.severity >= *severity_min).then_some((hit.entity, hit.rule.as_str()))?
        }
        (condition, Target::Event(event)) => concerns(condition, event.kind).then_some((event.entity, ""))?,
        (Condition::HostSilent { .. }, Target::Host) => (EntityId::of_host(host), ""),
        _ => return None,
    };
    Some(Subject { rule: rule.id.clone(), host, entity, instance: instance.to_owned() })
}

fn concerns(condition: &Condition, kind: EventKind) -> bool {
    use EventKind::{Destroy, Die, Health, Oom, Start, Stop};
    match condition {
        Condition::ContainerDied | Condition::RestartLoop { .. } => matches!(kind, Start | Die | Stop | Destroy),
        Condition::ContainerOom => kind == Oom,
        Condition::Unhealthy => matches!(kind, Health | Die | Stop | Destroy),
        Condition::Threshold { .. } | Condition::Keyword { .. } | Condition::HostSilent { .. } => false,
    }
}
