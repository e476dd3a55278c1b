//! Incidents: a warning or an alarm, tracked from pending to resolved, with what it was judged on.

use forewarn_common::block::EventKind;
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Severity;
use serde::{Deserialize, Serialize};

use super::forecast::Forecast;

/// What an incident is about; at most one is open per subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// The rule's id.
    pub rule: String,
    /// Whose host.
    pub host: HostId,
    /// Which entity.
    pub entity: EntityId,
    /// Mount point, keyword rule and the like; empty where there is only one.
    pub instance: String,
}

/// Whether it will be or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IncidentKind {
    /// It will cross.
    Warning,
    /// It has crossed, or has happened.
    Alarm,
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IncidentState {
    /// Seen, not yet long enough to tell anybody.
    Pending,
    /// Told.
    Firing,
    /// Over.
    Resolved,
}

/// A warning or an alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Hex of 16 random bytes.
    pub id: String,
    /// What it is about.
    pub subject: Subject,
    /// Will be or is.
    pub kind: IncidentKind,
    /// Where it stands.
    pub state: IncidentState,
    /// How bad it is.
    pub severity: Severity,
    /// When it was first seen, unix milliseconds.
    pub opened_ms: i64,
    /// When it first fired, unix milliseconds.
    pub fired_ms: Option<i64>,
    /// When it was over, unix milliseconds.
    pub resolved_ms: Option<i64>,
    /// When its evidence last changed, unix milliseconds.
    pub updated_ms: i64,
    /// What it was judged on.
    pub evidence: Evidence,
    /// Grows by one with each change: an update must name the one it saw.
    pub revision: i64,
}

/// What an incident was judged on. Texts from hosts are untrusted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Evidence {
    /// Name of the host at that time.
    pub host_name: String,
    /// Name of the entity at that time.
    pub entity_name: String,
    /// Component label at that time.
    pub component: String,
    /// Catalogue name of the metric, for thresholds.
    pub metric: Option<String>,
    /// The last value seen.
    pub value: Option<f64>,
    /// The threshold.
    pub threshold: Option<f64>,
    /// When that value was taken, unix milliseconds by the host's clock.
    #[serde(default)]
    pub value_ms: Option<i64>,
    /// When the level was first over, unix milliseconds.
    pub over_since_ms: Option<i64>,
    /// Since when it has been well again, not yet long enough to say so, unix milliseconds.
    #[serde(default)]
    pub under_since_ms: Option<i64>,
    /// The forecast that it warned on.
    pub forecast: Option<Forecast>,
    /// Keyword rule, for keyword incidents.
    pub keyword: Option<String>,
    /// Keyword hits since the incident opened.
    pub hits: u64,
    /// The last matching lines, newest first, masked on the host.
    pub lines: Vec<LineEvidence>,
    /// Engine events, newest first.
    pub events: Vec<EventEvidence>,
    /// When it last happened or was last over, unix milliseconds.
    pub last_ms: i64,
    /// Until when nothing could be concluded because the host was not heard of, unix milliseconds; 0 if never.
    #[serde(default)]
    pub held_ms: i64,
    /// Why it is over, once it is.
    #[serde(default)]
    pub ended: Option<Ended>,
    /// SHA-256 of the closed grid that was judged, hex.
    pub digest: Option<String>,
}

/// Why an incident is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The level is clearly below its threshold again.
    Cleared,
    /// The crossing is no longer expected.
    Withdrawn,
    /// It has not happened again for long enough.
    Quiet,
    /// The container has been running again for long enough.
    Running,
    /// The health check passes again.
    Healthy,
    /// The container was stopped or removed.
    Removed,
    /// The host is heard of again.
    HostBack,
    /// Its data ceased while the host went on: the filesystem or container is no longer there.
    Gone,
    /// The rule was switched off; nobody is told.
    RuleOff,
}

/// A matching line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LineEvidence {
    /// When it was read, unix milliseconds.
    pub at_ms: i64,
    /// The line.
    pub line: String,
    /// Lines before it.
    pub before: Vec<String>,
    /// Lines after it.
    pub after: Vec<String>,
}

/// An engine event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EventEvidence {
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// What.
    pub kind: EventKind,
    /// Exit code or health.
    pub code: i32,
}

/// What is told: one delivery a channel for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// A warning fired.
    Warned,
    /// An alarm fired, or a warning became one.
    Alarmed,
    /// It is over.
    Resolved,
}

impl Transition {
    /// The word kept in the database.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Warned => "warned",
            Self::Alarmed => "alarmed",
            Self::Resolved => "resolved",
        }
    }

    /// The transition of a word of the database.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Warned, Self::Alarmed, Self::Resolved].into_iter().find(|transition| transition.word() == word)
    }
}
