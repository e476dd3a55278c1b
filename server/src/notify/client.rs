//! The notifier: one HTTP client for all channels, the limiter of each, and the way from claimed deliveries to their
//! outcomes. Connections have time limits, follow no redirect, use no proxy of the environment, reach only allowed
//! addresses, and read a bounded answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forewarn_common::clock;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::Mutex;
use url::Url;

use super::channel::{self, Post, Verdict};
use super::delivery::{Letter, Outcome, after, plan, put_off};
use super::guard::{GuardedResolver, check_url};
use super::limiter::Limiter;
use super::message::{Message, Site, Tone, compose, compose_digest, say};
use super::text::clean;
use super::{NotifyError, time::Clock};
use crate::model::channel::{Channel, DeliveryState};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time for one round of a channel, well below the lease on its deliveries; what is left comes next time.
const SEND_BUDGET_MS: i64 = 45_000;
/// Answers are a line of JSON; a login page that a proxy puts in between may be longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// As kept with the delivery.
const ANSWER_CHARS_MAX: usize = 300;
/// Parts of a URL at least this long may be a token and are removed from answers.
const TOKEN_BYTES_MIN: usize = 6;

/// How the notifier connects.
#[derive(Debug, Clone, Default)]
pub struct NotifySettings {
    /// Whether channels may be on this machine (a chat relay, a test).
    pub allow_loopback: bool,
    /// More CA certificates to trust, PEM: an air-gapped site's own. The public ones are built in.
    pub ca_pem: String,
}

/// What is said outside of incidents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Somebody asked for a test message.
    Test,
    /// The database does not answer; nothing is judged meanwhile.
    DatabaseGone,
    /// It does again.
    DatabaseBack,
}

/// Sends. One for the whole server; has no `Debug`.
pub struct Notifier {
    client: reqwest::Client,
    allow_loopback: bool,
    limiters: Mutex<HashMap<String, Arc<Mutex<Limiter>>>>,
}

impl Notifier {
    /// Makes the client.
    ///
    /// # Errors
    /// The extra certificates do not parse, or the client cannot be made.
    pub fn new(settings: &NotifySettings) -> Result<Self, NotifyError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&settings.ca_pem)?)
            .dns_resolver(GuardedResolver::new(settings.allow_loopback))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("forewarn/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| NotifyError::Client(error.without_url().to_string()))?;
        Ok(Self { client, allow_loopback: settings.allow_loopback, limiters: Mutex::default() })
    }

    /// Takes claimed deliveries of one channel as far as they get now, and says what became of each. Store the
    /// outcomes: what is still queued is due again at its `due_ms`. Calls for one channel queue up behind each other.
    pub async fn deliver(&self, channel: &Channel, letters: Vec<Letter>, site: &Site, now_ms: i64) -> Vec<Outcome> {
        let limiter = self.limiter(channel).await;
        let mut limiter = limiter.lock().await;
        let (room, free_ms) = (limiter.room(channel.kind, now_ms), limiter.free_ms(channel.kind, now_ms));
        let plan = plan(channel, letters, room, free_ms, now_ms);
        let mut outcomes = plan.settled;
        // What comes after a failure waits as long: the receiver is not well, and the order of messages is kept.
        let mut stopped: Option<(i64, String)> = None;
        let started_ms = clock::boot_ms();
        for letters in plan.messages {
            let spent_ms = clock::boot_ms().saturating_sub(started_ms);
            if spent_ms > SEND_BUDGET_MS {
                outcomes.extend(letters.into_iter().map(|letter| letter.delivery));
                continue;
            }
            if let Some((due_ms, answer)) = &stopped {
                outcomes.extend(letters.into_iter().map(|letter| put_off(letter.delivery, *due_ms, answer)));
                continue;
            }
            // The limit counts when a message really goes, which after a slow one is later than planned.
            limiter.record(channel.kind, now_ms.saturating_add(spent_ms));
            let (verdict, answer) = self.tell(channel, &letters, site, now_ms).await;
            if let Verdict::Limited { wait_ms } = verdict {
                limiter.lock(now_ms.saturating_add(wait_ms));
            }
            for letter in letters {
                let outcome = after(letter.delivery, verdict, &answer, now_ms);
                if outcome.state == DeliveryState::Queued {
                    stopped = Some((outcome.due_ms, answer.clone()));
                }
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// Sends a notice at once; whether the receiver has it, and what it answered (short, untrusted).
    pub async fn send_notice(&self, channel: &Channel, notice: Notice, site: &Site, now_ms: i64) -> (bool, String) {
        let limiter = self.limiter(channel).await;
        let mut limiter = limiter.lock().await;
        if limiter.room(channel.kind, now_ms) == 0 {
            let wait_s = (limiter.free_ms(channel.kind, now_ms) - now_ms).div_euclid(1000) + 1;
            return (false, format!("too many messages to this channel, try again in {wait_s} s"));
        }
        limiter.record(channel.kind, now_ms);
        let message = notice_message(notice, channel, site, now_ms);
        let (verdict, answer) = match channel::build(channel, &message, &[], now_ms) {
            Ok(post) => self.post(channel, post).await,
            Err(error) => (Verdict::Refused, error.to_string()),
        };
        if let Verdict::Limited { wait_ms } = verdict {
            limiter.lock(now_ms.saturating_add(wait_ms));
        }
        (verdict == Verdict::Sent, answer)
    }

    async fn tell(&self, channel: &Channel, letters: &[Letter], site: &Site, now_ms: i64) -> (Verdict, String) {
        let told: Vec<&Letter> = letters.iter().collect();
        let message = match letters {
            [letter] => compose(letter, channel.language, site, now_ms),
            _ => compose_digest(&told, channel.language, site, now_ms),
        };
        match channel::build(channel, &message, &told, now_ms) {
            Ok(post) => self.post(channel, post).await,
            Err(error) => (Verdict::Refused, error.to_string()),
        }
    }

    async fn post(&self, channel: &Channel, post: Post) -> (Verdict, String) {
        if let Err(error) = check_url(&post.url, self.allow_loopback) {
            return (Verdict::Refused, error.to_string());
        }
        let mut request =
            self.client.post(post.url).header("content-type", "application/json; charset=utf-8").body(post.body);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                let (body, whole) = read_answer(response).await;
                let verdict = if whole { channel::read(channel.kind, status, &body) } else { Verdict::Unsure };
                let body = redact(&clean(&body, ANSWER_CHARS_MAX), channel);
                (verdict, if status == 200 { body } else { format!("HTTP {status} {body}").trim_end().to_owned() })
            }
            // The error of the client names the URL, and with it the token: only its kind is kept.
            Err(error) => (Verdict::Busy, describe(&error)),
        }
    }

    async fn limiter(&self, channel: &Channel) -> Arc<Mutex<Limiter>> {
        self.limiters.lock().await.entry(channel.id.clone()).or_default().clone()
    }
}

async fn read_answer(mut response: reqwest::Response) -> (String, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > ANSWER_BYTES_MAX {
                    bytes.truncate(ANSWER_BYTES_MAX);
                    return (String::from_utf8_lossy(&bytes).into_owned(), false);
                }
            }
            Ok(None) => return (String::from_utf8_lossy(&bytes).into_owned(), true),
            Err(_) => return (String::from_utf8_lossy(&bytes).into_owned(), false),
        }
    }
}

fn describe(error: &reqwest::Error) -> String {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<NotifyError>() {
            return ours.to_string();
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return format!("the connection is not secure: {tls}");
        }
        // An I/O error names as its source not the error that it carries, but that one's source.
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    let what = if error.is_timeout() {
        "the receiver did not answer in time"
    } else if error.is_connect() {
        "the receiver cannot be reached"
    } else {
        "the connection broke off"
    };
    what.to_owned()
}

/// Answers are shown and kept; a receiver that echoes its token must not put it there.
fn redact(answer: &str, channel: &Channel) -> String {
    let url = Url::parse(&channel.url).ok();
    let query = url.iter().flat_map(|url| url.query_pairs().map(|(_, value)| value.into_owned()).collect::<Vec<_>>());
    let path = url.iter().flat_map(|url| url.path().split('/').map(str::to_owned).collect::<Vec<_>>());
    let secrets = query.chain(path.filter(|part| part.len() >= 2 * TOKEN_BYTES_MIN)).chain([channel.secret.clone()]);
    secrets
        .filter(|secret| secret.len() >= TOKEN_BYTES_MIN)
        .fold(answer.to_owned(), |answer, secret| answer.replace(&secret, "***"))
}

fn tls(ca_pem: &str) -> Result<rustls::ClientConfig, NotifyError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| NotifyError::Certificates(error.to_string()))?;
        roots.add(certificate).map_err(|error| NotifyError::Certificates(error.to_string()))?;
        added += 1;
    }
    if added == 0 && !ca_pem.trim().is_empty() {
        return Err(NotifyError::Certificates("none found".to_owned()));
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NotifyError::Client(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn notice_message(notice: Notice, channel: &Channel, site: &Site, now_ms: i64) -> Message {
    let language = channel.language;
    let (tone, title, fact) = match notice {
        Notice::Test => (
            Tone::Info,
            say(language, "【测试】先见已接通本通道", "Test: Forewarn reaches this channel"),
            say(language, "收到此消息即表示配置正确", "receiving this means that the channel is set up well"),
        ),
        Notice::DatabaseGone => (
            Tone::Alarm,
            say(language, "【告警】先见的数据库无法访问", "Alarm: Forewarn's database does not answer"),
            say(language, "恢复前不会有新的预警和告警", "no warnings or alarms until it is back"),
        ),
        Notice::DatabaseBack => (
            Tone::Good,
            say(language, "【恢复】先见的数据库已恢复", "Resolved: Forewarn's database answers again"),
            say(language, "预警和告警已恢复", "warnings and alarms work again"),
        ),
    };
    let clock = Clock { zone: &site.zone, language, now_ms };
    let word = match notice {
        Notice::Test => "test",
        Notice::DatabaseGone => "database-gone",
        Notice::DatabaseBack => "database-back",
    };
    Message {
        tone,
        language,
        title: title.to_owned(),
        facts: vec![
            (say(language, "时间", "Time"), clock.moment(now_ms)),
            (say(language, "说明", "Note"), fact.to_owned()),
        ],
        lines: Vec::new(),
        link: site.public_url.clone(),
        id: format!("{word}-{now_ms}"),
    }
}
