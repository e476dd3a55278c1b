//! Rules: what is watched, and the default ones that need no configuration.

use forewarn_common::block::EntityKind;
use forewarn_common::keyword::Severity;
use forewarn_common::metric::Id;
use serde::{Deserialize, Serialize};

/// One thing that is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// A short word; the default rules' are fixed, the console translates them.
    pub id: String,
    /// What people call it; empty for a default rule.
    pub name: String,
    /// Whether it is judged at all.
    pub enabled: bool,
    /// Whether its incidents are sent to the channels.
    pub send: bool,
    /// How bad its incidents are.
    pub severity: Severity,
    /// What it looks at.
    pub condition: Condition,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// A level that must not reach a threshold: warned of by forecast, alarmed when reached.
    Threshold {
        /// Catalogue name of the metric.
        metric: String,
        /// Hosts or workloads.
        entity_kind: EntityKind,
        /// The level, in the metric's unit.
        threshold: f64,
        /// How far ahead to look, milliseconds.
        horizon_ms: i64,
        /// How long the level must be over before the alarm, milliseconds.
        for_ms: i64,
    },
    /// A keyword rule of the agents has hit.
    Keyword {
        /// Hits below this severity are only counted.
        severity_min: Severity,
        /// Resolved after this long without a hit, milliseconds.
        quiet_ms: i64,
    },
    /// A host has not been heard of.
    HostSilent {
        /// For this long, milliseconds.
        after_ms: i64,
    },
    /// A container ended with a failure and without having been asked to.
    ContainerDied,
    /// The kernel killed a process of a container for want of memory.
    ContainerOom,
    /// A container keeps restarting.
    RestartLoop {
        /// This often,
        restarts: u32,
        /// within this long, milliseconds.
        within_ms: i64,
    },
    /// A container's health check fails.
    Unhealthy,
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The rules of a site that configured none.
#[must_use]
pub fn default_rules() -> Vec<Rule> {
    let threshold = |id: &str, metric: Id, entity_kind, threshold, horizon_ms| {
        let condition = Condition::Threshold {
            metric: metric.spec().name.to_owned(),
            entity_kind,
            threshold,
            horizon_ms,
            for_ms: 2 * MINUTE_MS,
        };
        (id.to_owned(), Severity::Warning, condition)
    };
    let rule = |id: &str, severity, condition| (id.to_owned(), severity, condition);
    [
        threshold("disk", Id::FsUsedRatio, EntityKind::Host, 0.9, 24 * HOUR_MS),
        threshold("inodes", Id::FsInodeUsedRatio, EntityKind::Host, 0.9, 24 * HOUR_MS),
        threshold("memory", Id::MemUsedRatio, EntityKind::Host, 0.9, 4 * HOUR_MS),
        threshold("cpu", Id::CpuUsed, EntityKind::Host, 0.9, HOUR_MS),
        threshold("container_memory", Id::MemUsedRatio, EntityKind::Workload, 0.9, 4 * HOUR_MS),
        rule(
            "keyword",
            Severity::Warning,
            Condition::Keyword { severity_min: Severity::Warning, quiet_ms: 10 * MINUTE_MS },
        ),
        rule("host_silent", Severity::Critical, Condition::HostSilent { after_ms: 3 * MINUTE_MS }),
        rule("container_died", Severity::Warning, Condition::ContainerDied),
        rule("container_oom", Severity::Critical, Condition::ContainerOom),
        rule("restart_loop", Severity::Critical, Condition::RestartLoop { restarts: 3, within_ms: 10 * MINUTE_MS }),
        rule("unhealthy", Severity::Warning, Condition::Unhealthy),
    ]
    .into_iter()
    .map(|(id, severity, condition)| Rule { id, name: String::new(), enabled: true, send: true, severity, condition })
    .collect()
}
