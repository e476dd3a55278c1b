//! The console's routes under `/api/v1`.

use std::sync::Arc;

use forewarn_common::clock;
use forewarn_common::keyword::{self, KeywordRule};
use forewarn_common::limit;
use http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use super::reply::{Refused, json};
use super::route::Access::{Open, User};
use super::route::{Call, Route};
use super::{App, auth, fleet, overview, view};
use crate::model::channel::{Channel, ChannelKind};
use crate::model::rule::{Condition, Rule, default_rules};
use crate::model::user::Session;

const HOUR_MS: i64 = 3_600_000;
const OK: StatusCode = StatusCode::OK;
/// An enrolment token lives at most this long.
const TOKEN_TTL_MS_MAX: i64 = 30 * 24 * HOUR_MS;
/// Hosts that one token lets in at most.
const TOKEN_USES_MAX: u32 = 1000;
/// Channels of a site.
const CHANNELS_MAX: usize = 100;
/// Characters of a name that people give.
const NAME_CHARS_MAX: usize = 80;
/// Rules of a site: each is asked of every series that it looks at.
const RULES_MAX: usize = 100;
/// Bytes of a channel's url: Teams' are the longest known, at about 500.
const URL_BYTES_MAX: usize = 2048;

pub(super) fn routes() -> Vec<Route> {
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let read = |path, summary| (get.clone(), path, User, summary);
    macro_rules! route {
        ($at:expr, $handler:expr) => {{
            let (method, path, access, summary) = $at;
            Route::new(method, path, access, summary, $handler)
        }};
    }
    vec![
        route!((get.clone(), "/api/v1/health", Open, "Whether the server is well"), health).gives::<view::Health>(OK),
        route!((get.clone(), "/api/v1/openapi.json", Open, "This document"), document),
        route!((post.clone(), "/api/v1/login", Open, "Log in"), login).takes::<view::Login>().gives::<view::Me>(OK),
        route!((post.clone(), "/api/v1/logout", User, "Log out"), logout).gives::<view::Me>(OK),
        route!(read("/api/v1/me", "Who is logged in"), me).gives::<view::Me>(OK),
        route!(
            read("/api/v1/overview", "Hosts, open incidents, and whether anybody would be told"),
            overview::overview
        )
        .gives::<view::Overview>(OK),
        route!(read("/api/v1/hosts/{host}", "A host"), overview::host).gives::<view::HostDetail>(OK),
        route!(read("/api/v1/hosts/{host}/plot", "One series with threshold and forecast"), overview::plot)
            .reads(&["entity", "metric", "instance", "from_ms", "to_ms", "points"])
            .gives::<view::Plot>(OK),
        route!(
            read(
                "/api/v1/rank",
                "The highest series of a metric over all hosts, and how all are spread. Reads each host's days: hosts \
                 times the span's whole days and one more are at most 20,000 (24 hours of 10,000 hosts); beyond that \
                 only by=now answers"
            ),
            fleet::rank
        )
        .reads(&["metric", "by", "from_ms", "to_ms", "limit", "quantiles"])
        .gives::<view::Rank>(OK),
        route!(read("/api/v1/forecasting", "What the last round of forecasts came to on this server"), forecasting)
            .gives::<view::Forecasting>(OK),
        route!(read("/api/v1/incidents", "Incidents, newest first"), overview::incidents)
            .reads(&["state", "host", "cursor"])
            .gives::<view::IncidentPage>(OK),
        route!(read("/api/v1/incidents/{id}", "An incident"), overview::incident).gives::<view::Incident>(OK),
        route!(read("/api/v1/rules", "Rules"), rules).gives::<Vec<view::Rule>>(OK),
        route!((post.clone(), "/api/v1/rules", User, "Add a rule with a threshold"), add_rule)
            .takes::<view::NewRule>()
            .gives::<view::Rule>(StatusCode::CREATED),
        route!((patch.clone(), "/api/v1/rules/{id}", User, "Change a rule"), change_rule)
            .takes::<view::RuleChange>()
            .gives::<view::Rule>(OK),
        route!((delete.clone(), "/api/v1/rules/{id}", User, "Remove a rule of the site's own"), remove_rule)
            .gives::<view::Rule>(OK),
        route!(read("/api/v1/channels", "Channels"), channels).gives::<Vec<view::Channel>>(OK),
        route!((post.clone(), "/api/v1/channels", User, "Add a channel"), add_channel)
            .takes::<view::NewChannel>()
            .gives::<view::Channel>(StatusCode::CREATED),
        route!((patch, "/api/v1/channels/{id}", User, "Change a channel"), change_channel)
            .takes::<view::ChannelChange>()
            .gives::<view::Channel>(OK),
        route!((delete, "/api/v1/channels/{id}", User, "Remove a channel"), remove_channel).gives::<view::Channel>(OK),
        route!((post.clone(), "/api/v1/channels/{id}/test", User, "Send a test message"), test_channel)
            .gives::<view::ChannelTest>(OK),
        route!((post, "/api/v1/tokens", User, "Make an enrolment token"), make_token)
            .takes::<view::NewToken>()
            .gives::<view::TokenView>(StatusCode::CREATED),
        route!(read("/api/v1/keywords", "Keyword rules"), keywords).gives::<view::Keywords>(OK),
        route!((put, "/api/v1/keywords", User, "Replace the keyword rules"), set_keywords)
            .takes::<view::Keywords>()
            .gives::<view::Keywords>(OK),
    ]
}

async fn health(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let well = app.store.ping().await.is_ok();
    let health = view::Health {
        status: if well { "ok" } else { "degraded" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_ms: call.now_ms,
    };
    Ok(json(if well { OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health))
}

async fn forecasting(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    Ok(json(OK, &view::Forecasting { now_ms: call.now_ms, last_period: *app.period.borrow() }))
}

async fn document(_: Arc<App>, _: Call) -> Result<Response, Refused> {
    Ok(json(OK, &super::openapi()))
}

fn failed(error: impl std::fmt::Display) -> Refused {
    tracing::error!(%error, "a request failed");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why")
}

async fn login(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let login: view::Login = call.json()?;
    let address = call.peer.address.ip();
    if let Some(seconds) = app.logins.wait_s(address, call.now_ms) {
        return Err(Refused::busy(seconds, format!("too many failed logins from here; try again in {seconds} s")));
    }
    let known = app.store.user(&login.user).await?.map(|user| user.password_hash);
    // An unknown name costs the same time as a wrong password.
    let hash = known.clone().unwrap_or_else(|| auth::DECOY_HASH.to_owned());
    let password = login.password;
    let right = tokio::task::spawn_blocking(move || auth::is_password(&password, &hash)).await.map_err(failed)?;
    if !right || known.is_none() {
        app.logins.failed(address, call.now_ms);
        return Err(Refused::unauthorized("name or password is wrong"));
    }
    let secret = auth::new_secret().map_err(failed)?;
    let expires_ms = call.now_ms + auth::SESSION_MS;
    let session = Session { secret_sha256: auth::hash_secret(&secret), user: login.user.clone(), expires_ms };
    app.store.session_put(&session).await?;
    app.store.audit(call.now_ms, &login.user, "login", &format!("from {address}")).await?;
    let mut response = json(OK, &view::Me { user: login.user });
    set_cookie(&mut response, &secret, auth::SESSION_MS / 1000, call.peer.tls)?;
    Ok(response)
}

fn set_cookie(response: &mut Response, secret: &str, max_age_s: i64, tls: bool) -> Result<(), Refused> {
    let secure = if tls { "; Secure" } else { "" };
    let cookie = format!("{}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}", auth::COOKIE);
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).map_err(failed)?);
    Ok(())
}

async fn logout(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    if let Some(secret) = auth::session_cookie(&call.headers) {
        app.store.session_delete(secret).await?;
    }
    let mut response = json(OK, &view::Me { user: call.user });
    set_cookie(&mut response, "", 0, call.peer.tls)?;
    Ok(response)
}

async fn me(_: Arc<App>, call: Call) -> Result<Response, Refused> {
    Ok(json(OK, &view::Me { user: call.user }))
}

fn rule_view(rule: Rule) -> view::Rule {
    let Rule { id, name, enabled, send, severity, condition } = rule;
    view::Rule { id, name, enabled, send, severity, condition }
}

async fn rules(app: Arc<App>, _: Call) -> Result<Response, Refused> {
    let rules: Vec<_> = app.store.rules().await?.into_iter().map(rule_view).collect();
    Ok(json(OK, &rules))
}

async fn add_rule(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let new: view::NewRule = call.json()?;
    let metric = new.metric.trim();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    if !(1..=limit::NAME_BYTES_MAX).contains(&metric.len()) || !metric.bytes().all(is_name) {
        return Err(Refused::bad_request("metric must be a name of letters, digits, _ and :, such as queue_depth"));
    }
    if app.store.rules().await?.len() >= RULES_MAX {
        return Err(Refused::bad_request(format!("there are {RULES_MAX} rules already; remove one first")));
    }
    let mut rule = Rule {
        id: format!("site-{:016x}", forewarn_common::id::random_u64().map_err(failed)?),
        name: check_name(&new.name)?,
        enabled: true,
        send: true,
        severity: new.severity,
        condition: Condition::Threshold {
            metric: metric.to_owned(),
            entity_kind: new.entity_kind,
            threshold: new.threshold,
            horizon_ms: new.horizon_ms,
            for_ms: new.for_ms,
        },
    };
    apply(&view::RuleChange::default(), &mut rule).map_err(Refused::bad_request)?;
    app.store.rule_save(&rule).await?;
    app.judge.forget_rules();
    app.store.audit(call.now_ms, &call.user, "add rule", &format!("{} {metric}", rule.name)).await?;
    Ok(json(StatusCode::CREATED, &rule_view(rule)))
}

async fn remove_rule(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let rules = app.store.rules().await?;
    let rule = rules.into_iter().find(|rule| rule.id == call.param(0)).ok_or_else(|| Refused::not_found("rule"))?;
    if default_rules().iter().any(|given| given.id == rule.id) {
        return Err(Refused::bad_request("a rule that every site has can be switched off, not removed"));
    }
    // Its incidents end with it only while it is there to end them.
    if rule.enabled || app.store.has_open_incidents(&rule.id).await? {
        let detail = "switch the rule off first, and wait a minute until its incidents have ended";
        return Err(Refused::new(StatusCode::CONFLICT, "in_use", detail));
    }
    app.store.rule_delete(&rule.id).await?;
    app.judge.forget_rules();
    app.store.audit(call.now_ms, &call.user, "remove rule", &rule.name).await?;
    Ok(json(OK, &rule_view(rule)))
}

async fn change_rule(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let change: view::RuleChange = call.json()?;
    let rules = app.store.rules().await?;
    let mut rule = rules.into_iter().find(|rule| rule.id == call.param(0)).ok_or_else(|| Refused::not_found("rule"))?;
    apply(&change, &mut rule).map_err(Refused::bad_request)?;
    app.store.rule_save(&rule).await?;
    app.judge.forget_rules();
    let detail = format!("{} enabled {} send {}", rule.id, rule.enabled, rule.send);
    app.store.audit(call.now_ms, &call.user, "change rule", &detail).await?;
    Ok(json(OK, &rule_view(rule)))
}

fn apply(change: &view::RuleChange, rule: &mut Rule) -> Result<(), &'static str> {
    rule.enabled = change.enabled.unwrap_or(rule.enabled);
    rule.send = change.send.unwrap_or(rule.send);
    match &mut rule.condition {
        Condition::Threshold { threshold, horizon_ms, for_ms, .. } => {
            *threshold = change.threshold.unwrap_or(*threshold);
            *horizon_ms = change.horizon_ms.unwrap_or(*horizon_ms);
            *for_ms = change.for_ms.unwrap_or(*for_ms);
            let sound = threshold.is_finite() && *threshold > 0.0;
            if !sound {
                return Err("threshold must be a number above 0; ratios are shares of one, 0.9 = 90 %");
            }
            if !(60_000..=90 * 24 * HOUR_MS).contains(horizon_ms) {
                return Err("horizon_ms must be between 60000 (a minute) and 7776000000 (90 days)");
            }
            if !(0..=24 * HOUR_MS).contains(for_ms) {
                return Err("for_ms must be between 0 and 86400000 (a day)");
            }
        }
        Condition::Keyword { quiet_ms, .. } => {
            *quiet_ms = change.quiet_ms.unwrap_or(*quiet_ms).clamp(1000, 24 * HOUR_MS)
        }
        Condition::HostSilent { after_ms } => {
            *after_ms = change.after_ms.unwrap_or(*after_ms).clamp(5000, 24 * HOUR_MS)
        }
        _ => {}
    }
    Ok(())
}

async fn channels(app: Arc<App>, _: Call) -> Result<Response, Refused> {
    let mut last = app.store.last_deliveries().await?;
    let channels = app.outbox.channels(clock::wall_ms()).await?;
    let views: Vec<_> = channels
        .iter()
        .cloned()
        .map(|channel| {
            let delivery = last.remove(&channel.id).map(|delivery| overview::delivery_view(delivery, &channel.name));
            channel_view(channel, delivery)
        })
        .collect();
    Ok(json(OK, &views))
}

fn channel_view(channel: Channel, last: Option<view::Delivery>) -> view::Channel {
    let url = url::Url::parse(&channel.url).ok();
    let target = url.map_or_else(String::new, |url| url.origin().ascii_serialization());
    view::Channel {
        target,
        signed: !channel.secret.is_empty(),
        id: channel.id,
        name: channel.name,
        kind: channel.kind,
        language: channel.language,
        severity_min: channel.severity_min,
        send: channel.send,
        last,
    }
}

fn check_name(name: &str) -> Result<String, Refused> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Refused::bad_request(format!("name must have 1 to {NAME_CHARS_MAX} printable characters")));
    }
    Ok(name.to_owned())
}

async fn add_channel(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let new: view::NewChannel = call.json()?;
    let url = url::Url::parse(new.url.trim()).map_err(|e| Refused::bad_request(format!("url: {e}")))?;
    let loopback = app.settings.notify.allow_loopback;
    let plain_allowed = loopback || new.kind == ChannelKind::Webhook;
    let scheme_fits = url.scheme() == "https" || (url.scheme() == "http" && plain_allowed);
    if new.url.len() > URL_BYTES_MAX || !scheme_fits {
        return Err(Refused::bad_request(
            "url must be an https:// address of at most 2048 bytes; a webhook may be http://",
        ));
    }
    crate::notify::check_url(&url, loopback).map_err(|error| Refused::bad_request(error.to_string()))?;
    if app.store.channels().await?.len() >= CHANNELS_MAX {
        return Err(Refused::bad_request(format!("there are {CHANNELS_MAX} channels already; remove one first")));
    }
    let id = format!("{:016x}", forewarn_common::id::random_u64().map_err(failed)?);
    let channel = Channel {
        id,
        name: check_name(&new.name)?,
        kind: new.kind,
        url: url.into(),
        secret: new.secret.trim().to_owned(),
        language: new.language,
        severity_min: new.severity_min,
        send: true,
    };
    app.outbox.save(&channel).await?;
    app.store.audit(call.now_ms, &call.user, "add channel", &channel.name).await?;
    Ok(json(StatusCode::CREATED, &channel_view(channel, None)))
}

async fn find_channel(app: &App, id: &str) -> Result<Channel, Refused> {
    let channels = app.outbox.channels(clock::wall_ms()).await?;
    channels.iter().find(|channel| channel.id == id).cloned().ok_or_else(|| Refused::not_found("channel"))
}

async fn change_channel(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let change: view::ChannelChange = call.json()?;
    let mut channel = find_channel(&app, call.param(0)).await?;
    if let Some(name) = &change.name {
        channel.name = check_name(name)?;
    }
    channel.language = change.language.unwrap_or(channel.language);
    channel.severity_min = change.severity_min.unwrap_or(channel.severity_min);
    channel.send = change.send.unwrap_or(channel.send);
    app.outbox.save(&channel).await?;
    let detail = format!("{} send {}", channel.name, channel.send);
    app.store.audit(call.now_ms, &call.user, "change channel", &detail).await?;
    Ok(json(OK, &channel_view(channel, None)))
}

async fn remove_channel(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let channel = find_channel(&app, call.param(0)).await?;
    app.outbox.remove(&channel.id).await?;
    app.store.audit(call.now_ms, &call.user, "remove channel", &channel.name).await?;
    Ok(json(OK, &channel_view(channel, None)))
}

async fn test_channel(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let channel = find_channel(&app, call.param(0)).await?;
    let (sent, answer) = app.outbox.test(&channel, call.now_ms).await;
    app.store.audit(call.now_ms, &call.user, "test channel", &channel.name).await?;
    Ok(json(OK, &view::ChannelTest { sent, answer }))
}

async fn make_token(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let new: view::NewToken = call.json()?;
    if !(1..=TOKEN_USES_MAX).contains(&new.uses) || !(60_000..=TOKEN_TTL_MS_MAX).contains(&new.ttl_ms) {
        return Err(Refused::bad_request("uses must be 1 to 1000, ttl_ms 60000 (a minute) to 2592000000 (30 days)"));
    }
    let (token, record) = auth::new_token(&app.site.ca_sha256, new.uses, new.ttl_ms, call.now_ms).map_err(failed)?;
    app.store.token_create(&record).await?;
    app.store.audit(call.now_ms, &call.user, "make token", &format!("{} uses", new.uses)).await?;
    let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = if name.is_empty() || name == "localhost" || name == "127.0.0.1" { "SERVER" } else { name };
    let command = format!(
        "docker run -d --name forewarn-agent --restart unless-stopped --read-only --network host --cap-drop ALL --cap-add DAC_READ_SEARCH \
         --group-add $(stat -c %g /var/run/docker.sock) -v /:/host:ro,rslave -v forewarn-agent-data:/data forewarn-agent:{} run --host-root /host --data-dir /data --server https://{name}:{} --token {}",
        env!("CARGO_PKG_VERSION"),
        app.settings.https.listen.port(),
        token.encode()
    );
    let view = view::TokenView { token: token.encode(), expires_ms: record.expires_ms, command };
    Ok(json(StatusCode::CREATED, &view))
}

async fn keywords(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let set = app.keywords(call.now_ms).await?;
    let (rules, exclude) = (set.rules.clone(), set.exclude.clone());
    Ok(json(OK, &view::Keywords { rules, exclude, samples_a_day_max: set.samples_a_day_max }))
}

async fn set_keywords(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let keywords: view::Keywords = call.json()?;
    check_keywords(&keywords.rules).map_err(Refused::bad_request)?;
    check_exclude(&keywords.exclude).map_err(Refused::bad_request)?;
    app.set_keywords(keywords.clone(), call.now_ms).await?;
    app.store.audit(call.now_ms, &call.user, "change keywords", &format!("{} rules", keywords.rules.len())).await?;
    Ok(json(OK, &keywords))
}

fn check_exclude(selectors: &[String]) -> Result<(), String> {
    if selectors.len() > limit::KEYWORD_RULES_MAX {
        return Err(format!("exclude at most {} names", limit::KEYWORD_RULES_MAX));
    }
    selectors.iter().find_map(|text| keyword::selector_fault(text)).map_or(Ok(()), Err)
}

fn check_keywords(rules: &[KeywordRule]) -> Result<(), String> {
    if rules.len() > limit::KEYWORD_RULES_MAX {
        return Err(format!("at most {} keyword rules", limit::KEYWORD_RULES_MAX));
    }
    let mut names = std::collections::HashSet::new();
    for rule in rules {
        let name = &rule.name;
        let sound = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !sound {
            return Err(format!("keyword rule {name:?}: the name must be 1 to 64 of a-z, 0-9, _ and -"));
        }
        if !names.insert(name) {
            return Err(format!("keyword rule {name}: the name is there twice"));
        }
        if !(1..=limit::KEYWORD_PATTERNS_MAX).contains(&rule.patterns()) {
            let most = limit::KEYWORD_PATTERNS_MAX;
            return Err(format!("keyword rule {name}: give 1 to {most} literals, regexes and fields"));
        }
        if let Some(fault) = rule.fault() {
            return Err(format!("keyword rule {name}: {fault}"));
        }
        if let Some(bad) =
            rule.literals.iter().find(|text| text.trim().is_empty() || text.len() > limit::NAME_BYTES_MAX)
        {
            return Err(format!("keyword rule {name}: literal {bad:?} must have 1 to {} bytes", limit::NAME_BYTES_MAX));
        }
        for text in &rule.regexes {
            let built = regex::RegexBuilder::new(text).size_limit(limit::REGEX_BYTES_MAX).build();
            if let Err(error) = built {
                return Err(format!("keyword rule {name}: regex {text:?}: {error}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use forewarn_common::keyword::Severity;

    use super::*;

    #[test]
    fn the_default_keywords_are_accepted_and_bad_ones_are_named() {
        check_keywords(&forewarn_common::keyword::default_rules()).unwrap();
        let rule = |name: &str, literal: &str, regex: &str| KeywordRule {
            name: name.into(),
            severity: Severity::Info,
            literals: vec![literal.into()],
            regexes: vec![regex.into()],
            ignore_case: false,
            fields: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
        };
        let selecting = KeywordRule { include: vec!["label:x".into()], ..rule("ok", "a", "b") };
        let with_field = KeywordRule { fields: vec!["level".into()], ..rule("ok", "a", "b") };
        for (bad, expected) in [
            (rule("Über", "a", "b"), "the name must be"),
            (rule("ok", " ", "b"), "literal \" \""),
            (rule("ok", "a", "("), "regex \"(\""),
            (rule("ok", "a", "(a{1000}){1000}"), "regex"),
            (selecting, "label:key=value"),
            (with_field, "level=error"),
        ] {
            let message = check_keywords(&[bad]).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_rule_refuses_a_threshold_that_cannot_be() {
        let mut rule = crate::model::rule::default_rules().remove(0);
        let change = |text: &str| serde_json::from_str::<view::RuleChange>(text).unwrap();
        assert!(apply(&change(r#"{"threshold": -1.0}"#), &mut rule.clone()).is_err());
        assert!(apply(&change(r#"{"horizon_ms": 1}"#), &mut rule.clone()).is_err());
        apply(&change(r#"{"threshold": 0.8, "send": false}"#), &mut rule).unwrap();
        assert!(!rule.send && rule.enabled);
    }
}
