//! Promises of the whole room: what people read (golden texts), and what real receivers on loopback get and answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use forewarn_common::block::EventKind;
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Severity;
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

use super::message::{compose, compose_digest};
use super::*;
use crate::model::channel::{Channel, ChannelKind, Delivery, DeliveryState, Language};
use crate::model::forecast::{Because, Expert, Forecast, State};
use crate::model::incident::{
    Ended, EventEvidence, Evidence, Incident, IncidentKind, IncidentState, LineEvidence, Subject, Transition,
};
use crate::model::rule::{Rule, default_rules};

/// 2026-11-22 18:00 in Shanghai.
pub(super) const T0: i64 = 1_795_341_600_000;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const SECRET: &str = "SEC-of-the-robot";
const TOKEN: &str = "token-of-the-robot";

// ---- makings

pub(super) fn channel(url: &str) -> Channel {
    Channel {
        id: "c0ffee00c0ffee00".into(),
        name: "值班群".into(),
        kind: ChannelKind::DingTalk,
        url: format!("{url}/robot/send?access_token={TOKEN}"),
        secret: SECRET.into(),
        language: Language::Chinese,
        severity_min: Severity::Info,
        send: true,
    }
}

fn rule(id: &str) -> Rule {
    default_rules().into_iter().find(|rule| rule.id == id).unwrap()
}

fn incident(rule: &str, container: Option<&str>, instance: &str) -> Incident {
    let host = HostId([3; 16]);
    let entity = container.map_or_else(|| EntityId::of_host(host), |name| EntityId::of(host, name));
    Incident {
        id: "0123456789abcdef0123456789abcdef".into(),
        subject: Subject { rule: rule.into(), host, entity, instance: instance.into() },
        kind: IncidentKind::Alarm,
        state: IncidentState::Firing,
        severity: self::rule(rule).severity,
        opened_ms: T0 - 5 * MINUTE,
        fired_ms: Some(T0 - 3 * MINUTE),
        resolved_ms: None,
        updated_ms: T0,
        evidence: Evidence {
            host_name: "plant-3".into(),
            entity_name: container.unwrap_or("plant-3").into(),
            component: "erp".into(),
            last_ms: T0 - MINUTE,
            ..Evidence::default()
        },
        revision: 1,
    }
}

pub(super) fn disk_warning() -> Incident {
    let mut incident = incident("disk", None, "/data");
    incident.kind = IncidentKind::Warning;
    incident.evidence.metric = Some("fs_used_ratio".into());
    incident.evidence.value = Some(0.8437);
    incident.evidence.threshold = Some(0.9);
    incident.evidence.forecast = Some(Forecast {
        state: State::Warning {
            probability: 0.87,
            earliest_ms: T0 + 3 * HOUR + 12 * MINUTE,
            likely_ms: T0 + 4 * HOUR,
            latest_ms: T0 + 5 * HOUR + 37 * MINUTE,
        },
        warned: true,
        probability: 0.87,
        at_ms: T0 - MINUTE,
        value: 0.8437,
        threshold: 0.9,
        horizon_ms: 24 * HOUR,
        likely_ms: Some(T0 + 4 * HOUR),
        reasons: vec![
            Because::Trend { window_ms: 6 * HOUR, slope_per_hour: 0.0132, probability: 0.9 },
            Because::Reset { age_ms: 9 * HOUR },
            Because::Expert { expert: Expert::LongTrend, weight_ratio: 0.4, expects: 0.95 },
        ],
        band: vec![],
    });
    incident
}

fn ended(mut incident: Incident, ended: Ended, value: Option<f64>) -> Incident {
    incident.state = IncidentState::Resolved;
    incident.resolved_ms = Some(T0 + 40 * MINUTE);
    incident.evidence.ended = Some(ended);
    incident.evidence.value = value.or(incident.evidence.value);
    incident
}

fn keyword(lines: &[&str]) -> Incident {
    let mut incident = incident("keyword", Some("app"), "database_timeout");
    incident.severity = Severity::Critical;
    incident.evidence.keyword = Some("database_timeout".into());
    incident.evidence.hits = lines.len() as u64;
    let line = |(index, line): (usize, &&str)| LineEvidence {
        at_ms: T0 - index as i64 * SECOND,
        line: (*line).to_owned(),
        before: vec![],
        after: vec![],
    };
    incident.evidence.lines = lines.iter().enumerate().map(line).collect();
    incident
}

fn died() -> Incident {
    let mut incident = incident("container_died", Some("mysql"), "");
    incident.evidence.events = vec![EventEvidence { at_ms: T0, kind: EventKind::Die, code: 139 }];
    incident.evidence.hits = 1;
    incident
}

pub(super) fn letter(incident: Incident, transition: Transition) -> Letter {
    let delivery = Delivery {
        id: format!("{}-{}-c0ffee00c0ffee00", incident.id, transition.word()),
        incident: incident.id.clone(),
        channel: "c0ffee00c0ffee00".into(),
        transition,
        state: DeliveryState::Queued,
        attempts: 0,
        due_ms: T0,
        created_ms: T0,
        done_ms: None,
        answer: String::new(),
    };
    let rule = rule(&incident.subject.rule);
    Letter { delivery, incident, rule, siblings: vec![] }
}

fn letters(count: usize, created_ms: i64) -> Vec<Letter> {
    let numbered = |number: usize| {
        let mut incident = disk_warning();
        incident.id = format!("{created_ms:x}{number:04x}");
        let mut letter = letter(incident, Transition::Warned);
        letter.delivery.created_ms = created_ms;
        letter
    };
    (0..count).map(numbered).collect()
}

fn site() -> Site {
    Site { zone: TimeZone::get("Asia/Shanghai").unwrap(), public_url: Some("https://fw.plant.example".into()) }
}

// ---- what people read

fn stories() -> Vec<Letter> {
    use Transition::{Alarmed, Resolved, Warned};
    let mut disk_alarm = disk_warning();
    disk_alarm.kind = IncidentKind::Alarm;
    disk_alarm.evidence.value = Some(0.9123);
    disk_alarm.evidence.over_since_ms = Some(T0 - 2 * MINUTE);
    let mut memory = disk_warning();
    memory.subject = Subject { instance: String::new(), ..incident("container_memory", Some("mysql"), "").subject };
    memory.evidence.entity_name = "mysql".into();
    // What is drawn on beyond all there is, is told as all there is.
    memory.evidence.forecast.as_mut().unwrap().reasons = vec![
        Because::Sawtooth { period_ms: 2 * HOUR, top: 1.053 },
        Because::Expert { expert: Expert::LongTrend, weight_ratio: 0.4, expects: 1.375 },
    ];
    let mut silent = incident("host_silent", None, "");
    silent.evidence.last_ms = T0 - 4 * MINUTE;
    let mut restarts = incident("restart_loop", Some("web"), "");
    restarts.evidence.hits = 3;
    vec![
        letter(disk_warning(), Warned),
        letter(disk_alarm.clone(), Alarmed),
        letter(ended(disk_alarm, Ended::Cleared, Some(0.61)), Resolved),
        letter(ended(disk_warning(), Ended::Withdrawn, None), Resolved),
        letter(ended(disk_warning(), Ended::Gone, None), Resolved),
        letter(memory, Warned),
        letter(
            keyword(&[
                "2026-11-22 17:59:58 ERROR Pool-7 数据库连接超时 (30000 ms), active=50/50",
                "ERROR 数据库连接超时",
            ]),
            Alarmed,
        ),
        letter(ended(keyword(&["ERROR 数据库连接超时"]), Ended::Quiet, None), Resolved),
        letter(silent.clone(), Alarmed),
        letter(ended(silent, Ended::HostBack, None), Resolved),
        letter(died(), Alarmed),
        letter(ended(died(), Ended::Running, None), Resolved),
        letter(incident("container_oom", Some("mysql"), ""), Alarmed),
        letter(restarts, Alarmed),
        letter(incident("unhealthy", Some("web"), ""), Alarmed),
        letter(ended(incident("unhealthy", Some("web"), ""), Ended::Healthy, None), Resolved),
    ]
}

fn dingtalk_text(channel: &Channel, message: &message::Message, letters: &[&Letter]) -> String {
    let post = super::channel::build(channel, message, letters, T0).unwrap();
    let body: Value = serde_json::from_slice(&post.body).unwrap();
    body["markdown"]["text"].as_str().unwrap().replace("\n\n", "\n")
}

/// To accept new texts, read the file that the failing test names and copy it over the golden one.
fn check_golden(language: Language, golden: &str, file: &str) {
    let channel = Channel { language, ..channel("http://robot.example") };
    let stories = stories();
    let mut actual = String::from("# What people are sent (DingTalk's markdown, empty lines removed)\n");
    for story in &stories {
        let message = compose(story, language, &site(), T0);
        let word = story.delivery.transition.word();
        actual.push_str(&format!("\n## {} {word}\n\n", story.rule.id));
        actual.push_str(&dingtalk_text(&channel, &message, &[story]));
        actual.push('\n');
    }
    let all: Vec<&Letter> = stories.iter().collect();
    actual.push_str("\n## digest\n\n");
    actual.push_str(&dingtalk_text(&channel, &compose_digest(&all, language, &site(), T0), &all));
    actual.push('\n');
    compare(&actual, golden, file);
}

fn compare(actual: &str, golden: &str, file: &str) {
    if actual != golden {
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, actual).unwrap();
        panic!("the texts differ from golden/{file}; the new ones are in {}", path.display());
    }
}

#[test]
fn every_channel_gets_the_body_that_it_wants() {
    let story = letter(keyword(&["ERROR 数据库连接超时"]), Transition::Alarmed);
    let message = compose(&story, Language::Chinese, &site(), T0);
    let mut bodies = serde_json::Map::new();
    for (name, kind) in [
        ("dingtalk", ChannelKind::DingTalk),
        ("feishu", ChannelKind::Feishu),
        ("webhook", ChannelKind::Webhook),
        ("wecom", ChannelKind::WeCom),
    ] {
        let channel = Channel { kind, ..channel("https://robot.example") };
        let post = super::channel::build(&channel, &message, &[&story], T0).unwrap();
        bodies.insert(name.to_owned(), serde_json::from_slice(&post.body).unwrap());
    }
    // Compared as values: the order of keys is the JSON library's affair.
    let (actual, file) = (Value::Object(bodies), include_str!("golden/bodies.json"));
    if serde_json::from_str::<Value>(file).unwrap() != actual {
        compare(&(serde_json::to_string_pretty(&actual).unwrap() + "\n"), file, "bodies.json");
    }
}

#[test]
fn chinese_messages_read_as_agreed() {
    check_golden(Language::Chinese, include_str!("golden/zh.md"), "zh.md");
}

#[test]
fn english_messages_read_as_agreed() {
    check_golden(Language::English, include_str!("golden/en.md"), "en.md");
}

#[test]
fn a_warning_names_host_mount_point_range_and_threshold() {
    let message = compose(&letter(disk_warning(), Transition::Warned), Language::Chinese, &site(), T0);
    assert_eq!(message.title, "【预警】plant-3 /data 预计今晚 21:10–23:40 达到 90%");
    assert_eq!(message.link.unwrap(), "https://fw.plant.example/incidents/0123456789abcdef0123456789abcdef");
    let without = Site { public_url: None, ..site() };
    assert_eq!(compose(&letter(disk_warning(), Transition::Warned), Language::Chinese, &without, T0).link, None);
}

#[test]
fn an_alarm_told_late_does_not_claim_a_value_that_has_fallen() {
    let mut incident = disk_warning();
    incident.evidence.value = Some(0.4);
    let message = compose(&letter(incident, Transition::Alarmed), Language::Chinese, &site(), T0);
    assert_eq!(message.title, "【告警】plant-3 /data 已达到 90%");
}

#[test]
fn hostile_names_and_lines_stay_text_in_every_robot() {
    for kind in [ChannelKind::DingTalk, ChannelKind::WeCom, ChannelKind::Feishu] {
        let body = |text: &str| {
            let mut incident = keyword(&[text, text]);
            incident.evidence.host_name = text.to_owned();
            incident.evidence.entity_name = text.to_owned();
            incident.evidence.component = text.to_owned();
            incident.evidence.keyword = Some(text.to_owned());
            let letter = letter(incident, Transition::Alarmed);
            let channel = Channel { kind, secret: String::new(), ..channel("https://robot.example") };
            let single = compose(&letter, Language::Chinese, &site(), T0);
            let digest = compose_digest(&[&letter, &letter], Language::Chinese, &site(), T0);
            [single, digest].map(|message| {
                String::from_utf8(super::channel::build(&channel, &message, &[&letter], T0).unwrap().body).unwrap()
            })
        };
        let plain = body("x");
        for hostile in super::text::HOSTILE_LINES {
            for (hostile, plain) in body(hostile).iter().zip(&plain) {
                serde_json::from_str::<Value>(hostile).unwrap();
                for part in ["](", "<", "@", "://", "![", "**", "&", "`", "isAtAll\":true"] {
                    assert_eq!(hostile.matches(part).count(), plain.matches(part).count(), "{kind:?} {part} {hostile}");
                }
            }
        }
    }
}

// ---- what real receivers get

/// One request as a receiver saw it.
#[derive(Debug, Clone)]
struct Received {
    url: Url,
    headers: http::HeaderMap,
    body: String,
}

type Answer = Box<dyn Fn(&Received, usize) -> (u16, String) + Send + Sync>;

/// A receiver on loopback; stops with its value.
struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn start(answer: impl Fn(&Received, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_with(None, Box::new(answer)).await
    }

    async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (received.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, answer, tls) = (shared.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| reply(request, shared.clone(), answer.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                            }
                        }
                        None => {
                            let _ = http.serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Self { address, received, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn reply(
    request: Request<Incoming>,
    shared: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Answer>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let url = Url::parse(&format!("http://robot{}", parts.uri)).unwrap();
    let received = Received { url, headers: parts.headers, body };
    let mut all = shared.lock().unwrap();
    let (status, text) = answer(&received, all.len());
    all.push(received);
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    if status == 302 {
        response.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
    }
    Ok(response)
}

/// DingTalk's robot as it behaves: refuses with HTTP 200, checks token, signature and clock, and shuts out for ten
/// minutes whoever sends more than twenty a minute. Takes its time from the request's timestamp.
fn dingtalk() -> impl Fn(&Received, usize) -> (u16, String) + Send + Sync + 'static {
    let sent: Mutex<(Vec<i64>, i64)> = Mutex::default();
    move |received, _| {
        let query = |key: &str| {
            received
                .url
                .query_pairs()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        let refuse = |code: i64, text: &str| (200, format!(r#"{{"errcode":{code},"errmsg":"{text}"}}"#));
        if query("access_token") != TOKEN {
            return refuse(300_001, "token is not exist");
        }
        let timestamp = query("timestamp");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(format!("{timestamp}\n{SECRET}").as_bytes());
        let sign = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
        if query("sign") != sign {
            return refuse(310_000, "sign not match");
        }
        let body: Value = serde_json::from_str(&received.body).unwrap();
        let text = body["markdown"]["text"].as_str().unwrap_or_default();
        if body["msgtype"] != "markdown" || text.is_empty() || received.body.len() > 20_000 {
            return refuse(460_101, "message too long");
        }
        let now_ms: i64 = timestamp.parse().unwrap();
        let (times, locked_until_ms) = &mut *sent.lock().unwrap();
        times.retain(|sent_ms| now_ms - sent_ms < MINUTE);
        if now_ms < *locked_until_ms || times.len() >= 20 {
            *locked_until_ms = now_ms + 10 * MINUTE;
            return refuse(130_101, "send too fast");
        }
        times.push(now_ms);
        refuse(0, "ok")
    }
}

fn notifier() -> Notifier {
    Notifier::new(&NotifySettings { allow_loopback: true, ..NotifySettings::default() }).unwrap()
}

fn states(outcomes: &[Outcome]) -> Vec<DeliveryState> {
    outcomes.iter().map(|outcome| outcome.state).collect()
}

#[tokio::test]
async fn a_signed_message_arrives_and_is_marked_sent() {
    let robot = Receiver::start(dingtalk()).await;
    let story = letter(disk_warning(), Transition::Warned);
    let outcomes = notifier().deliver(&channel(&robot.url()), vec![story], &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Sent]);
    assert_eq!((outcomes[0].attempts, outcomes[0].done_ms), (1, Some(T0)));
    let got = robot.received();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].headers["content-type"], "application/json; charset=utf-8");
    assert!(got[0].body.contains("预计今晚 21:10–23:40 达到 90%"), "{}", got[0].body);
}

#[tokio::test]
async fn http_200_with_a_refusal_is_not_delivery() {
    let robot = Receiver::start(dingtalk()).await;
    let wrong = Channel { secret: "SEC-of-another".into(), ..channel(&robot.url()) };
    let outcomes = notifier().deliver(&wrong, letters(1, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Failed]);
    assert!(outcomes[0].answer.contains("310000"), "{}", outcomes[0].answer);
}

#[tokio::test]
async fn http_200_with_a_login_page_is_shown_and_given_up_after_three_tries() {
    let robot = Receiver::start(|_, _| (200, "<html>please log in</html>".into())).await;
    let (notifier, channel) = (notifier(), channel(&robot.url()));
    let (mut batch, mut now_ms) = (letters(1, T0), T0);
    for attempt in 1..=3 {
        let outcome = notifier.deliver(&channel, batch.clone(), &site(), now_ms).await.remove(0);
        assert_eq!(outcome.answer, "<html>please log in</html>");
        assert_eq!(outcome.state == DeliveryState::Failed, attempt == 3);
        now_ms = outcome.due_ms;
        batch[0].delivery = outcome;
    }
    assert_eq!(robot.received().len(), 3);
}

#[tokio::test]
async fn forty_incidents_at_once_are_one_digest() {
    let robot = Receiver::start(dingtalk()).await;
    let outcomes = notifier().deliver(&channel(&robot.url()), letters(40, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Sent; 40]);
    let got = robot.received();
    assert_eq!(got.len(), 1);
    assert!(got[0].body.contains("【汇总】40 条") && got[0].body.contains("另有 20 条"), "{}", got[0].body);
}

#[tokio::test]
async fn a_robot_is_never_provoked_and_everything_arrives() {
    let robot = Receiver::start(dingtalk()).await;
    let (notifier, channel) = (notifier(), channel(&robot.url()));
    let mut queue: Vec<Letter> = Vec::new();
    let mut sent = 0;
    for second in 0..600 {
        let now_ms = T0 + second * SECOND;
        if second < 300 && second % 2 == 0 {
            queue.extend(letters(1, now_ms));
        }
        let (due, later): (Vec<_>, Vec<_>) = queue.into_iter().partition(|letter| letter.delivery.due_ms <= now_ms);
        queue = later;
        for outcome in notifier.deliver(&channel, due.clone(), &site(), now_ms).await {
            assert_ne!(outcome.state, DeliveryState::Failed, "{}", outcome.answer);
            match outcome.state {
                DeliveryState::Sent => sent += 1,
                _ => {
                    let letter = due.iter().find(|letter| letter.delivery.id == outcome.id).unwrap();
                    queue.push(Letter { delivery: outcome, ..letter.clone() });
                }
            }
        }
    }
    assert_eq!((sent, queue.len()), (150, 0));
    assert!(robot.received().len() < 100, "{}", robot.received().len());
}

#[tokio::test]
async fn a_lockout_is_waited_out_in_silence() {
    let robot = Receiver::start(|_, count| match count {
        0 => (200, r#"{"errcode":130101,"errmsg":"send too fast"}"#.into()),
        _ => (200, r#"{"errcode":0,"errmsg":"ok"}"#.into()),
    })
    .await;
    let (notifier, channel) = (notifier(), channel(&robot.url()));
    let outcomes = notifier.deliver(&channel, letters(3, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Queued; 3]);
    assert!(outcomes.iter().all(|outcome| outcome.due_ms >= T0 + 10 * MINUTE));
    assert_eq!(robot.received().len(), 1, "the other two did not go on hammering");
    let early = notifier.deliver(&channel, letters(1, T0 + MINUTE), &site(), T0 + 9 * MINUTE).await;
    assert_eq!((states(&early), early[0].attempts), (vec![DeliveryState::Queued], 0));
    assert_eq!(robot.received().len(), 1);
    let late = notifier.deliver(&channel, letters(1, T0 + MINUTE), &site(), T0 + 10 * MINUTE).await;
    assert_eq!(states(&late), [DeliveryState::Sent]);
}

#[tokio::test]
async fn the_resolved_message_waits_for_an_alarm_of_which_nobody_knows() {
    let robot = Receiver::start(|_, count| match count {
        0 => (200, "what?".into()),
        _ => (200, r#"{"errcode":0}"#.into()),
    })
    .await;
    let alarm = letter(died(), Transition::Alarmed);
    let end = Letter { siblings: vec![alarm.delivery.clone()], ..letter(died(), Transition::Resolved) };
    let outcomes = notifier().deliver(&channel(&robot.url()), vec![alarm, end], &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Queued; 2]);
    assert!(outcomes[1].due_ms > outcomes[0].due_ms && outcomes[1].attempts == 0);
    assert_eq!(robot.received().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_down_is_tried_again_and_its_token_is_not_told() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let outcomes = notifier().deliver(&channel(&format!("http://127.0.0.1:{port}")), letters(2, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Queued; 2]);
    assert_eq!(outcomes[0].answer, "the receiver cannot be reached");
    assert_eq!((outcomes[0].attempts, outcomes[1].attempts), (1, 0), "only the first was tried");
}

#[tokio::test]
async fn an_answer_that_echoes_token_or_secret_is_kept_without_them() {
    let robot = Receiver::start(|got, _| {
        (400, format!("bad request {} and {SECRET}\u{1b}[31m {}", got.url, "x".repeat(100_000)))
    })
    .await;
    let outcomes = notifier().deliver(&channel(&robot.url()), letters(1, T0), &site(), T0).await;
    let answer = &outcomes[0].answer;
    assert!(!answer.contains(TOKEN) && !answer.contains(SECRET) && !answer.contains('\u{1b}'), "{answer}");
    assert!(answer.starts_with("HTTP 400 bad request") && answer.chars().count() <= 310, "{answer}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let robot = Receiver::start(|_, _| (302, String::new())).await;
    let outcomes = notifier().deliver(&channel(&robot.url()), letters(1, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Queued]);
    assert_eq!(outcomes[0].answer, "HTTP 302");
}

#[tokio::test]
async fn loopback_is_refused_unless_allowed_by_address_and_by_name() {
    let robot = Receiver::start(dingtalk()).await;
    let strict = Notifier::new(&NotifySettings::default()).unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let channel = channel(&format!("http://{host}:{}", robot.address.port()));
        let (sent, answer) = strict.send_notice(&channel, Notice::Test, &site(), T0).await;
        assert!(!sent && answer.contains("refused"), "{host}: {answer}");
    }
    assert!(robot.received().is_empty());
}

#[tokio::test]
async fn a_test_message_says_what_came_of_it() {
    let robot = Receiver::start(dingtalk()).await;
    let (sent, answer) = notifier().send_notice(&channel(&robot.url()), Notice::Test, &site(), T0).await;
    assert!(sent, "{answer}");
    assert!(robot.received()[0].body.contains("【测试】"));
    let wrong = Channel { secret: "SEC-of-another".into(), ..channel(&robot.url()) };
    let (sent, answer) = notifier().send_notice(&wrong, Notice::Test, &site(), T0).await;
    assert!(!sent && answer.contains("sign not match"), "{answer}");
}

#[tokio::test]
async fn a_webhook_gets_every_event_of_a_digest_signed() {
    let hook = Receiver::start(|_, _| (204, String::new())).await;
    let channel = Channel { kind: ChannelKind::Webhook, ..channel(&hook.url()) };
    let outcomes = notifier().deliver(&channel, letters(30, T0), &site(), T0).await;
    assert_eq!(states(&outcomes), [DeliveryState::Sent; 30]);
    let got = hook.received().remove(0);
    let body: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(body["events"].as_array().unwrap().len(), 30);
    assert_eq!(body["events"][0]["event"], "warned");
    assert_eq!(body["events"][0]["outlook"]["probability"], 0.87);
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.{}", got.headers["forewarn-timestamp"].to_str().unwrap(), got.body).as_bytes());
    let expected = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    assert_eq!(got.headers["forewarn-signature"], expected);
}

#[tokio::test]
async fn a_site_with_a_ca_of_its_own_is_trusted_only_when_told() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_cert = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let robot = Receiver::start_with(Some(tls), Box::new(dingtalk())).await;
    let channel = channel(&format!("https://{}", robot.address));

    let (sent, answer) = notifier().send_notice(&channel, Notice::Test, &site(), T0).await;
    assert!(!sent && answer.contains("not secure"), "{answer}");
    let settings = NotifySettings { allow_loopback: true, ca_pem: authority_cert.pem() };
    let (sent, answer) = Notifier::new(&settings).unwrap().send_notice(&channel, Notice::Test, &site(), T0).await;
    assert!(sent, "{answer}");
}

#[test]
fn extra_certificates_that_are_none_are_an_error() {
    for ca_pem in ["rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let settings = NotifySettings { allow_loopback: false, ca_pem: ca_pem.into() };
        assert!(matches!(Notifier::new(&settings), Err(NotifyError::Certificates(_))), "{ca_pem}");
    }
}

#[tokio::test]
async fn a_broken_url_is_refused_without_repeating_it() {
    for url in ["not a url token-x", "ftp://h/token-x", "http://user:token-x@h/", ""] {
        let channel = Channel { url: url.into(), ..channel("") };
        let (sent, answer) = notifier().send_notice(&channel, Notice::Test, &site(), T0).await;
        assert!(!sent && !answer.contains("token-x") && answer.starts_with("the channel's url"), "{answer}");
    }
}
