//! Judgement: what was seen of a subject and where its incident stands → where it stands now and what is told.
//!
//! Pure: no clock, no store, no network, nothing remembered between calls but the incident itself. The caller loads
//! the subject's open incident, calls [`judge`], stores the change together with its deliveries, and drops a
//! [`Change::is_forgotten`] one. What the rules mean stands in the file of each kind.

mod event;
mod evidence;
mod keyword;
mod silence;
mod subject;
mod threshold;

#[cfg(test)]
mod tests;

use forewarn_common::block::{EngineEvent, KeywordHit};

pub use event::order_events;
pub use subject::{Target, subject};

use crate::model::forecast::Forecast;
use crate::model::incident::{Ended, Evidence, Incident, IncidentKind, IncidentState, Subject, Transition};
use crate::model::rule::{Condition, Rule};

/// How often an open incident is rewritten only because its value moved: a row a block would be too much.
const REFRESH_MS: i64 = 60_000;
/// A firing incident whose data ceased while its host goes on is over after this long: a container was removed or a
/// filesystem unmounted. Longer than an agent's restart or a slow mount.
const GONE_MS: i64 = 30 * 60_000;
/// Names kept in evidence.
const NAME_BYTES_MAX: usize = 256;

/// What can be seen of a subject.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// The last value of a series.
    Level {
        /// In the metric's unit.
        value: f64,
        /// When it was taken, unix milliseconds.
        at_ms: i64,
    },
    /// A forecast of a series against the rule's threshold.
    Forecast(&'a Forecast),
    /// Hits of a keyword rule.
    Hit(&'a KeywordHit),
    /// An engine event of a container.
    Event(&'a EngineEvent),
    /// The host was last heard of then; whether that is too long ago is judged here.
    HostSilent {
        /// When its last block arrived, by the server's clock; never called for a host that sent none.
        seen_ms: i64,
    },
    /// A block of the host has arrived.
    HostBack,
    /// Time has passed: once a minute for every open incident.
    Tick,
}

/// What the judgement needs to know around the subject.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The server's clock.
    pub now_ms: i64,
    /// Since when this server has been taking in blocks: silence before that is its own, not the host's.
    pub listening_since_ms: i64,
    /// Nothing may be concluded from the host's silence about anything else: it is silent, its data are stale, or its
    /// clock is off. Incidents are then neither resolved nor newly warned of.
    pub held: bool,
    /// Name of the host.
    pub host_name: &'a str,
    /// Name of the entity.
    pub entity_name: &'a str,
    /// Component label; empty without one.
    pub component: &'a str,
    /// Id of the incident if one is opened: hex of 16 random bytes.
    pub new_id: &'a str,
    /// SHA-256 of the closed grid behind a forecast, hex.
    pub digest: Option<&'a str>,
}

/// The whole new state of an incident, and what is to be told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// To be inserted when no incident was open, else to replace it. Its revision is the one that was seen.
    pub incident: Incident,
    /// One delivery a channel, in the same transaction.
    pub told: Option<Transition>,
}

impl Change {
    /// Whether it was pending and came to nothing, so that its row may be deleted instead of kept.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.incident.state == IncidentState::Resolved && self.incident.fired_ms.is_none()
    }
}

/// What happens to the incident of `subject` (see [`subject()`]) by what was seen; `None` when nothing does.
#[must_use]
pub fn judge(
    rule: &Rule,
    subject: &Subject,
    open: Option<&Incident>,
    seen: Seen<'_>,
    context: &Context<'_>,
) -> Option<Change> {
    let open = open.filter(|incident| incident.state != IncidentState::Resolved);
    let case = Case { rule, subject, open, seen, context };
    if open.is_some_and(|incident| incident.subject != *subject) {
        return None;
    }
    if !rule.enabled {
        return open.map(|incident| Change { told: None, ..case.resolve(incident.clone(), Ended::RuleOff) });
    }
    let happened = matches!(seen, Seen::Hit(_) | Seen::Event(_));
    if context.held && !happened && !matches!(rule.condition, Condition::HostSilent { .. }) {
        return case.hold();
    }
    match &rule.condition {
        Condition::Threshold { metric, threshold, for_ms, .. } => {
            threshold::judge(&case, &threshold::Limit::of(metric, *threshold, *for_ms))
        }
        Condition::Keyword { severity_min, quiet_ms } => keyword::judge(&case, *severity_min, *quiet_ms),
        Condition::HostSilent { after_ms } => silence::judge(&case, *after_ms),
        Condition::ContainerDied => event::judge_death(&case),
        Condition::ContainerOom => event::judge_oom(&case),
        Condition::RestartLoop { restarts, within_ms } => event::judge_loop(&case, *restarts, *within_ms),
        Condition::Unhealthy => event::judge_health(&case),
    }
}

/// Whether an incident of `rule` may begin by what was seen. Where it says no, [`judge`] has nothing to say either
/// unless an incident is open; asking first spares naming the subject of every value of every block.
#[must_use]
pub fn may_begin(rule: &Rule, seen: Seen<'_>) -> bool {
    match (seen, &rule.condition) {
        (Seen::HostBack | Seen::Tick, _) | (Seen::Level { .. }, Condition::ContainerDied) => false,
        (Seen::Level { value, .. }, Condition::Threshold { threshold, .. }) => threshold::is_over(value, *threshold),
        (Seen::Level { value, .. }, Condition::Unhealthy) => event::is_unhealthy(value),
        _ => true,
    }
}

/// One judgement with its makings.
struct Case<'a> {
    rule: &'a Rule,
    subject: &'a Subject,
    open: Option<&'a Incident>,
    seen: Seen<'a>,
    context: &'a Context<'a>,
}

impl Case<'_> {
    /// The open incident to go on with, or a new pending one.
    fn incident(&self, kind: IncidentKind) -> Incident {
        self.open.cloned().unwrap_or_else(|| Incident {
            id: self.context.new_id.to_owned(),
            subject: self.subject.clone(),
            kind,
            state: IncidentState::Pending,
            severity: self.rule.severity,
            opened_ms: self.context.now_ms,
            fired_ms: None,
            resolved_ms: None,
            updated_ms: self.context.now_ms,
            evidence: Evidence::default(),
            revision: 0,
        })
    }

    /// Whether somebody has been told already.
    fn is_firing(&self) -> bool {
        self.open.is_some_and(|incident| incident.state == IncidentState::Firing)
    }

    /// How long ago `ms` was, not counting from before the host was last out of hearing or the server started.
    fn elapsed_ms(&self, incident: &Incident, ms: i64) -> i64 {
        let from_ms = ms.max(incident.evidence.held_ms).max(self.context.listening_since_ms);
        self.context.now_ms.saturating_sub(from_ms)
    }

    /// A moment by the host's clock, not later than now: a fast clock must not put an end off.
    fn not_after_now(&self, at_ms: i64) -> i64 {
        at_ms.min(self.context.now_ms)
    }

    fn fire(&self, mut incident: Incident, kind: IncidentKind) -> Change {
        incident.kind = kind;
        incident.state = IncidentState::Firing;
        incident.fired_ms.get_or_insert(self.context.now_ms);
        let told = match kind {
            IncidentKind::Warning => Transition::Warned,
            IncidentKind::Alarm => Transition::Alarmed,
        };
        Change { told: Some(told), ..self.keep(incident) }
    }

    fn resolve(&self, mut incident: Incident, ended: Ended) -> Change {
        let told = (incident.state == IncidentState::Firing).then_some(Transition::Resolved);
        incident.state = IncidentState::Resolved;
        incident.resolved_ms = Some(self.context.now_ms);
        incident.evidence.ended = Some(ended);
        Change { told, ..self.keep(incident) }
    }

    /// A change of evidence of which nobody is told.
    fn keep(&self, mut incident: Incident) -> Change {
        incident.updated_ms = self.context.now_ms;
        let evidence = &mut incident.evidence;
        evidence.host_name = evidence::cut(self.context.host_name, NAME_BYTES_MAX);
        evidence.entity_name = evidence::cut(self.context.entity_name, NAME_BYTES_MAX);
        evidence.component = evidence::cut(self.context.component, NAME_BYTES_MAX);
        Change { incident, told: None }
    }

    /// As [`Self::keep`], but not if only the last value moved since a moment ago.
    fn refresh(&self, incident: Incident) -> Option<Change> {
        let Some(open) = self.open else { return Some(self.keep(incident)) };
        let due = self.context.now_ms.saturating_sub(open.updated_ms) >= REFRESH_MS;
        let mut moved = incident.clone();
        moved.evidence.value = open.evidence.value;
        moved.evidence.value_ms = open.evidence.value_ms;
        moved.evidence.last_ms = open.evidence.last_ms;
        (due || moved != *open).then(|| self.keep(incident))
    }

    /// Remembers that the host is out of hearing, so that no length is counted across it.
    fn hold(&self) -> Option<Change> {
        let open = self.open.filter(|_| matches!(self.seen, Seen::Tick))?;
        let due = self.context.now_ms.saturating_sub(open.evidence.held_ms) >= REFRESH_MS;
        due.then(|| {
            let mut incident = open.clone();
            incident.evidence.held_ms = self.context.now_ms;
            self.keep(incident)
        })
    }
}
