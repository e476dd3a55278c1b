//! What the journeys share: settings that scale time, a robot in the fake room, a look at a host
//! through the API, and blocks made by hand. Every scale is a setting that a user also has.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forewarn_common::block::{
    Block, Dictionary, Entity, EntityKind, Group, Header, LastValue, Layout, Metric, Ticks, Urgent,
};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::Id;
use forewarn_common::wire::{BLOCK_PATH, ENROLL_PATH, EnrollReply, EnrollToken, SENT_HEADER};
use forewarn_tests::chat::{ChatRoom, Robot, SECRET};
use forewarn_tests::http::{Answer, Client};
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{artefacts, now_ms};
use serde_json::{Value, json};

/// Long enough for anything that should happen at once, on a machine that builds something else too.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Times of the judgement three hundred times shorter than the defaults.
pub(crate) const SERVER: &str = r#"
[site]
zone = "Asia/Shanghai"

[judge]
grid_ms = 1000
close_after_ms = 1500
forecast_every_ms = 2000
history_ms = 600000
tick_ms = 500
"#;

/// Ten times faster than the defaults.
pub(crate) const AGENT: &str = "
sample_interval_ms = 1000
block_interval_ms = 3000
early_block_ms = 1000
log = { poll_interval_ms = 200 }
";

/// Prints what a journey drew or measured, and keeps it among the artefacts.
pub(crate) fn tell(line: &str) {
    eprintln!("{line}");
    let mut kept = std::fs::OpenOptions::new();
    let kept = kept.create(true).append(true).open(artefacts().unwrap().join("measured.txt"));
    writeln!(kept.unwrap(), "{line}").unwrap();
}

/// Leaves only these rules switched on: the machine that runs the tests is busy, and its processor,
/// memory and other disks are not what a journey is about.
pub(crate) fn keep_rules(session: &Session, kept: &[&str]) -> Result<()> {
    for rule in session.get("/api/v1/rules")?.as_array().context("rules")? {
        let id = rule["id"].as_str().context("a rule without an id")?;
        change_rule(session, id, &json!({ "enabled": kept.contains(&id) }))?;
    }
    Ok(())
}

/// Changes a rule.
pub(crate) fn change_rule(session: &Session, id: &str, change: &Value) -> Result<()> {
    session.send("PATCH", &format!("/api/v1/rules/{id}"), change).map(|_| ())
}

/// Adds a DingTalk robot of the room as a channel in Chinese and returns the channel's id.
pub(crate) fn add_robot(session: &Session, room: &ChatRoom) -> Result<String> {
    let channel = json!({
        "name": "值班群", "kind": "dingtalk", "url": room.url(Robot::DingTalk), "secret": SECRET,
        "language": "zh", "severity_min": "info",
    });
    let made = session.send("POST", "/api/v1/channels", &channel)?;
    Ok(made["id"].as_str().context("a channel without an id")?.to_owned())
}

/// Waits until the only host of the site has sent samples; its line of the overview.
pub(crate) fn live_host(session: &Session) -> Result<Value> {
    session.wait_for("/api/v1/overview", "a host with live samples", SOON, |overview| {
        let host = &overview["hosts"][0];
        host["mem_used_ratio"].as_f64().map(|_| host.clone())
    })
}

/// All incidents of the site, newest first.
pub(crate) fn incidents(session: &Session) -> Result<Vec<Value>> {
    Ok(session.get("/api/v1/incidents?state=all")?["incidents"].as_array().context("incidents")?.clone())
}

/// One series of a host, to be looked at through the API.
#[derive(Debug, Clone)]
pub(crate) struct Series<'a> {
    pub(crate) host: &'a str,
    pub(crate) entity: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) instance: &'a str,
}

impl Series<'_> {
    /// Its points of a span, at the finest step that the API gives.
    pub(crate) fn points(&self, session: &Session, from_ms: i64, to_ms: i64) -> Result<Vec<(i64, f64)>> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("entity", self.entity).append_pair("metric", self.metric);
        query.append_pair("instance", self.instance).append_pair("points", "2000");
        query.append_pair("from_ms", &from_ms.to_string()).append_pair("to_ms", &to_ms.to_string());
        let plot = session.get(&format!("/api/v1/hosts/{}/plot?{}", self.host, query.finish()))?;
        ensure!(plot["step_ms"] == 1000, "the step is {} ms", plot["step_ms"]);
        serde_json::from_value(plot["points"].clone()).context("points")
    }

    /// Its newest value of the last minutes.
    pub(crate) fn last(&self, session: &Session) -> Result<Option<f64>> {
        let now_ms = now_ms();
        Ok(self.points(session, now_ms - 300_000, now_ms + 2000)?.last().map(|point| point.1))
    }
}

/// The sum of a metric over the workloads whose names begin so, since `begun_ms`.
pub(crate) fn sum(
    session: &Session,
    host: &str,
    begun_ms: i64,
    workloads: &str,
    metric: &str,
    instance: &str,
) -> Result<u64> {
    let detail = session.get(&format!("/api/v1/hosts/{host}"))?;
    let all = detail["series"].as_array().context("series")?.iter();
    let named = |s: &&Value| {
        let is_named = s["entity_name"].as_str().is_some_and(|name| name.starts_with(workloads));
        is_named && s["metric"] == metric && s["instance"] == instance
    };
    let mut sum = 0.0;
    for entity in all.filter(named).filter_map(|s| s["entity"].as_str()) {
        let series = Series { host, entity, metric, instance };
        sum += series.points(session, begun_ms, now_ms() + 2000)?.iter().map(|point| point.1).sum::<f64>();
    }
    Ok(sum as u64)
}

/// An agent made by hand, which sends exactly what a test wants.
#[derive(Debug)]
pub(crate) struct HandAgent {
    pub(crate) client: Client,
    pub(crate) host: HostId,
    pub(crate) key: String,
    pub(crate) epoch: u64,
}

/// Enrols with a token's secret; whatever the server answers.
pub(crate) fn enroll(client: &Client, token: &str) -> Result<Answer> {
    enroll_as(client, token, "plant-3")
}

fn enroll_as(client: &Client, token: &str, name: &str) -> Result<Answer> {
    let secret = EnrollToken::decode(token).context("not a token")?.secret;
    client.send_json("POST", ENROLL_PATH, &json!({ "secret": secret, "hostname": name, "version": "0" }))
}

/// A fresh enrolment token.
pub(crate) fn new_token(session: &Session, uses: u32) -> Result<String> {
    let made = session.send("POST", "/api/v1/tokens", &json!({ "uses": uses, "ttl_ms": 600_000 }))?;
    Ok(made["token"].as_str().context("no token")?.to_owned())
}

impl HandAgent {
    /// Enrols a host of its own.
    pub(crate) fn enroll(server: &Server, session: &Session) -> Result<Self> {
        Self::enroll_as(server, session, "plant-3")
    }

    /// Enrols a host of this name.
    pub(crate) fn enroll_as(server: &Server, session: &Session, name: &str) -> Result<Self> {
        let client = server.agent_client()?;
        let reply: EnrollReply = serde_json::from_value(enroll_as(&client, &new_token(session, 1)?, name)?.ok()?)?;
        Ok(Self { client, host: reply.host, key: reply.key, epoch: now_ms().unsigned_abs() })
    }

    /// The layout of the blocks that [`Self::block`] makes.
    pub(crate) fn layout() -> Layout {
        Layout { metrics: vec![Metric::of(Id::CpuCount, ""), Metric::of(Id::FsUsedRatio, "/data")] }
    }

    /// A block of ten seconds that starts at an instant: ten samples of two series, and the fill level
    /// of `/data` in the urgent section.
    pub(crate) fn block(&self, seq: u64, start_ms: i64, used_ratio: f64) -> Block {
        let last = LastValue {
            entity: EntityId::of_host(self.host),
            metric: Id::FsUsedRatio,
            instance: "/data".into(),
            value: used_ratio,
        };
        let mut block = self.block_of(seq, start_ms, 1000, &Self::layout(), vec![vec![4.0; 10], vec![used_ratio; 10]]);
        block.urgent.last = vec![last];
        block
    }

    /// A block of the host's own series with a value a step from an instant on, and nothing urgent.
    pub(crate) fn block_of(
        &self,
        seq: u64,
        start_ms: i64,
        step_ms: i64,
        layout: &Layout,
        columns: Vec<Vec<f64>>,
    ) -> Block {
        let entity = EntityId::of_host(self.host);
        let ticks = u16::try_from(columns[0].len()).unwrap();
        let closed_ms = start_ms + i64::from(ticks) * step_ms;
        let record = Entity {
            id: entity,
            kind: EntityKind::Host,
            name: "plant-3".into(),
            component: String::new(),
            attributes: Vec::new(),
        };
        Block {
            header: Header {
                host: self.host,
                epoch: self.epoch,
                seq,
                start_ms,
                step_ms: u32::try_from(step_ms).unwrap(),
                ticks,
                boot_id: [7; 16],
                boot_ms: 1_000_000,
                closed_ms,
            },
            urgent: Urgent { at_ms: closed_ms - step_ms, ..Urgent::default() },
            dictionary: Dictionary { layouts: vec![layout.clone()], entities: vec![record] },
            groups: vec![Group { entity, layout: layout.id(), ticks: Ticks::all(ticks), columns }],
        }
    }

    /// Its bytes.
    pub(crate) fn encode(block: &Block) -> Vec<u8> {
        let layout = Self::layout();
        block.encode(|id| (id == layout.id()).then_some(&layout)).unwrap()
    }

    /// Sends bytes as a block with this agent's key, its clock `skew_ms` off.
    pub(crate) fn push_with_skew(&self, bytes: Vec<u8>, skew_ms: i64) -> Result<Answer> {
        let bearer = format!("Bearer {}:{}", self.host, self.key);
        let sent = format!("2000000,{}", now_ms() + skew_ms);
        self.client.send("POST", BLOCK_PATH, &[("authorization", &bearer), (SENT_HEADER, &sent)], bytes)
    }

    /// Sends bytes as a block with this agent's key.
    pub(crate) fn push(&self, bytes: Vec<u8>) -> Result<Answer> {
        self.push_with_skew(bytes, 0)
    }
}

/// Status, error word and sentence of a refusal.
pub(crate) fn refusal(answer: &Answer) -> (u16, String, String) {
    let json = answer.json().unwrap();
    let word = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let (error, detail) = (word("error"), word("detail"));
    assert!(!error.is_empty() && !detail.is_empty(), "a refusal says why: {}", answer.text());
    (answer.status, error, detail)
}
