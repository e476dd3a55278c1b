//! The JSON of `/api/v1`: what the console and scripts see. Only shapes; how they are made stands with the routes.
//! Ids are strings, times unix milliseconds, shares of one are ratios, secrets never appear.

use forewarn_common::block::EntityKind;
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::{KeywordRule, Severity};
use forewarn_common::metric::{Kind, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::forecast::train::{Report, TrainedModel};
use crate::model::channel::{ChannelKind, DeliveryState, Language};
use crate::model::forecast::{BandPoint, Forecast, Period};
use crate::model::incident::{Evidence, IncidentKind, IncidentState, Transition};
use crate::model::rule::Condition;
use crate::model::trained::{Adoption, Selection};

/// Whether the server is well; needs no login.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`, or `degraded` when the database does not answer.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// The server's clock.
    pub now_ms: i64,
}

/// Whether forecasts keep up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Forecasting {
    /// The server's clock.
    pub now_ms: i64,
    /// What the last whole period came to; none before there was one.
    pub last_period: Option<Period>,
}

/// Name and password.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Who is logged in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Me {
    /// Name.
    pub user: String,
}

/// Everything the first page needs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// The server's clock.
    pub now_ms: i64,
    /// Hosts, the ones in trouble first, then by name.
    pub hosts: Vec<HostSummary>,
    /// Open incidents, the newest 100 at most: alarms first, each kind newest first.
    pub incidents: Vec<Incident>,
    /// Whether any rule with `send` and any channel with `send` exist: whether anybody would be told.
    pub sending: bool,
}

/// A host in the list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostSummary {
    /// Its id.
    pub id: HostId,
    /// What people call it.
    pub name: String,
    /// Component label; empty without one.
    pub component: String,
    /// When its last block arrived.
    pub seen_ms: i64,
    /// Whether it has been silent for too long.
    pub silent: bool,
    /// Its clock less the server's; beyond five minutes its data are not judged as fresh.
    pub skew_ms: i64,
    /// The agent's version.
    pub agent_version: String,
    /// Containers known, running ones.
    pub containers: u32,
    /// Last CPU share.
    pub cpu_used_ratio: Option<f64>,
    /// Last memory share.
    pub mem_used_ratio: Option<f64>,
    /// The fullest filesystem.
    pub disk: Option<Fullest>,
    /// Its most urgent forecast that is a warning or breached.
    pub outlook: Option<Outlook>,
    /// Series that a rule asks a forecast of.
    pub series_asked: u32,
    /// Those of them that have one; the rest are too young or too full of gaps.
    pub series_judged: u32,
    /// Incidents that fire.
    pub incidents: u32,
    /// Those of them that are alarms: what has happened, not what is expected.
    pub alarms: u32,
}

/// The fullest filesystem of a host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Fullest {
    /// Mount point.
    pub instance: String,
    /// Used share.
    pub used_ratio: f64,
}

/// A forecast of one series against its rule's threshold.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Outlook {
    /// The rule's id.
    pub rule: String,
    /// Which entity.
    pub entity: EntityId,
    /// What people call the entity.
    pub entity_name: String,
    /// Metric name.
    pub metric: String,
    /// Mount point and the like.
    pub instance: String,
    /// The trained model that it was judged by; none by the site's settings.
    #[serde(default)]
    pub model: Option<String>,
    /// The answer.
    pub forecast: Forecast,
}

/// A host's page.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostDetail {
    /// As in the list.
    pub summary: HostSummary,
    /// When it was enrolled.
    pub enrolled_ms: i64,
    /// Kernel, operating system, CPU model and the like.
    pub attributes: Vec<Attribute>,
    /// Its containers, running ones first.
    pub workloads: Vec<Workload>,
    /// Its forecasts, the most urgent first.
    pub outlooks: Vec<Outlook>,
    /// Its series.
    pub series: Vec<SeriesView>,
    /// Its open incidents and those of the last day, newest first, at most 100.
    pub incidents: Vec<Incident>,
}

/// A key and its value.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Attribute {
    /// Key.
    pub key: String,
    /// Value; untrusted text.
    pub value: String,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Its entity.
    pub entity: EntityId,
    /// Its name.
    pub name: String,
    /// Component label; empty without one.
    pub component: String,
    /// Image and the like.
    pub attributes: Vec<Attribute>,
    /// Whether it runs; `null` when nothing is known.
    pub running: Option<bool>,
    /// Last CPU share of its limit.
    pub cpu_used_ratio: Option<f64>,
    /// Last memory share of its limit.
    pub mem_used_ratio: Option<f64>,
    /// When its record was last refreshed.
    pub updated_ms: i64,
}

/// A series that can be plotted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SeriesView {
    /// Which entity.
    pub entity: EntityId,
    /// Host or workload.
    pub entity_kind: EntityKind,
    /// What people call the entity.
    pub entity_name: String,
    /// Metric name.
    pub metric: String,
    /// Mount point and the like.
    pub instance: String,
    /// Gauge or increment.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
}

/// A plot: points, threshold and forecast of one series.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Plot {
    /// What it is.
    pub series: SeriesView,
    /// Milliseconds between points.
    pub step_ms: i64,
    /// `[unix milliseconds, value]`, ascending; gaps are simply absent.
    pub points: Vec<(i64, f64)>,
    /// The threshold of the rule that watches it.
    pub threshold: Option<f64>,
    /// The rule's id.
    pub rule: Option<String>,
    /// The last forecast.
    pub forecast: Option<Forecast>,
    /// The forecast's expected course.
    pub band: Vec<BandPoint>,
}

/// The series of one metric over the whole fleet: the highest, and how all are spread.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Rank {
    /// The metric.
    pub metric: String,
    /// By what: `max`, `mean`, `last`, `p50`, `p90`, `p95`, `p99` of the means of five minutes, or `now`.
    pub by: String,
    /// Begin of the span.
    pub from_ms: i64,
    /// End of the span.
    pub to_ms: i64,
    /// How many series were looked at.
    pub series: u32,
    /// How the series are spread.
    pub quantiles: Vec<Quantile>,
    /// The highest, highest first.
    pub top: Vec<Ranked>,
    /// Rows of the database that could not be read and were passed over.
    pub damaged_rows: u32,
}

/// A share of the series and the value that it does not exceed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Quantile {
    /// The share, 0.95 for instance.
    pub share: f64,
    /// The value.
    pub value: f64,
}

/// One of the highest series.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Ranked {
    /// Whose host.
    pub host: HostId,
    /// What people call it.
    pub host_name: String,
    /// Which entity.
    pub entity: EntityId,
    /// Its name.
    pub entity_name: String,
    /// Mount point, device and the like.
    pub instance: String,
    /// What it is ranked by.
    pub value: f64,
}

/// An incident.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// The rule's id.
    pub rule: String,
    /// Whose host.
    pub host: HostId,
    /// Which entity.
    pub entity: EntityId,
    /// Mount point, keyword rule and the like.
    pub instance: String,
    /// Warning or alarm.
    pub kind: IncidentKind,
    /// Pending, firing or resolved.
    pub state: IncidentState,
    /// How bad it is.
    pub severity: Severity,
    /// When it was first seen.
    pub opened_ms: i64,
    /// When it first fired.
    pub fired_ms: Option<i64>,
    /// When it was over.
    pub resolved_ms: Option<i64>,
    /// When its evidence last changed.
    pub updated_ms: i64,
    /// What it was judged on.
    pub evidence: Evidence,
    /// What was sent of it.
    pub deliveries: Vec<Delivery>,
}

/// Incidents, a page.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct IncidentPage {
    /// Newest first.
    pub incidents: Vec<Incident>,
    /// Hand it back as `cursor` for the next page; absent on the last.
    pub next: Option<String>,
}

/// What was or will be sent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// The channel's id.
    pub channel: String,
    /// The channel's name.
    pub channel_name: String,
    /// What is told.
    pub transition: Transition,
    /// How far it has come.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was made.
    pub created_ms: i64,
    /// When it was sent or given up.
    pub done_ms: Option<i64>,
    /// What the receiver answered last; untrusted text. Of a muted one the reason: `channel_off`, `rule_off`,
    /// `below_severity` or `beginning_not_sent`.
    pub answer: String,
}

/// A rule.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Its id; the default rules' are translated by the console.
    pub id: String,
    /// What people call it; empty for a default rule.
    pub name: String,
    /// Whether it is judged.
    pub enabled: bool,
    /// Whether its incidents are sent.
    pub send: bool,
    /// How bad its incidents are.
    pub severity: Severity,
    /// What it looks at.
    pub condition: Condition,
}

/// A rule of the site's own: a level that must not reach a threshold.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// What people call it.
    pub name: String,
    /// The metric: of the catalogue, or as a scraped endpoint calls it.
    pub metric: String,
    /// Hosts or workloads; scraped endpoints are workloads.
    pub entity_kind: forewarn_common::block::EntityKind,
    /// The level, in the metric's unit; ratios are shares of one.
    pub threshold: f64,
    /// How far ahead to look, milliseconds.
    pub horizon_ms: i64,
    /// How long the level must be over before the alarm, milliseconds.
    pub for_ms: i64,
    /// How bad its incidents are.
    pub severity: Severity,
}

/// What may be changed of a rule.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleChange {
    /// Whether it is judged.
    pub enabled: Option<bool>,
    /// Whether its incidents are sent.
    pub send: Option<bool>,
    /// The threshold, for rules that have one.
    pub threshold: Option<f64>,
    /// How far ahead to look, milliseconds, for rules that do.
    pub horizon_ms: Option<i64>,
    /// How long a level must be over before the alarm, milliseconds, for rules with a threshold.
    pub for_ms: Option<i64>,
    /// After how long without a hit it is over, milliseconds, for keyword rules.
    pub quiet_ms: Option<i64>,
    /// After how long a host counts as silent, milliseconds.
    pub after_ms: Option<i64>,
}

/// A channel; its url and secret are never shown again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Channel {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What speaks on the other side.
    pub kind: ChannelKind,
    /// Scheme, host and port of its url.
    pub target: String,
    /// Whether it signs.
    pub signed: bool,
    /// The language of its messages.
    pub language: Language,
    /// Incidents below this severity are not sent.
    pub severity_min: Severity,
    /// Whether anything is sent.
    pub send: bool,
    /// Its last delivery.
    pub last: Option<Delivery>,
}

/// A new channel.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChannel {
    /// What people call it.
    pub name: String,
    /// What speaks on the other side.
    pub kind: ChannelKind,
    /// Where to, with the robot's token.
    pub url: String,
    /// Key of the signature; empty without one.
    #[serde(default)]
    pub secret: String,
    /// The language of its messages.
    pub language: Language,
    /// Incidents below this severity are not sent.
    pub severity_min: Severity,
}

/// What may be changed of a channel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelChange {
    /// What people call it.
    pub name: Option<String>,
    /// The language of its messages.
    pub language: Option<Language>,
    /// Incidents below this severity are not sent.
    pub severity_min: Option<Severity>,
    /// Whether anything is sent.
    pub send: Option<bool>,
}

/// What a test message came to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ChannelTest {
    /// Whether the receiver said that it has it.
    pub sent: bool,
    /// What it answered; untrusted text.
    pub answer: String,
}

/// What a new enrolment token may be used for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// How many hosts it lets in, 1 to 1000.
    pub uses: u32,
    /// How long it lives, milliseconds, at most 30 days.
    pub ttl_ms: i64,
}

/// A new enrolment token; shown once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires_ms: i64,
    /// The command that starts an agent container with it.
    pub command: String,
}

/// The site's keyword rules.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keywords {
    /// The rules, sent to every agent.
    pub rules: Vec<KeywordRule>,
    /// Containers whose logs no agent reads: a name, `image:name` or `label:key=value`; `*` at either end matches
    /// anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Sampled lines of one workload in one day; the agent's own bound without it, and never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_a_day_max: Option<u32>,
}

/// A trained model in the list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The rule it was trained for.
    pub rule: String,
    /// When.
    pub created_ms: i64,
    /// Where it is used.
    pub adoptions: Vec<Adoption>,
    /// Why it cannot be used by this release, if so.
    pub unusable: Option<String>,
    /// How it did on the part of the history that its choice had not seen.
    pub report: Option<Report>,
}

/// A trained model as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ModelDetail {
    /// As in the list.
    pub summary: Model,
    /// Span, settings, report, the default's report, errors of the time, calibration.
    pub trained: Option<TrainedModel>,
}

/// What to train.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTraining {
    /// What people will call the model.
    pub name: String,
    /// For this rule: its metric, threshold and horizon.
    pub rule: String,
    /// On these of its series; all of them (at most 50) if left out.
    #[serde(default)]
    pub selection: Selection,
    /// On so many of the last days; 30 if left out.
    pub days: Option<i64>,
    /// Against this threshold instead of the rule's: where the rule's was hardly ever crossed.
    pub threshold: Option<f64>,
}
