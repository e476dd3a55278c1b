//! Generic webhook: JSON for programs, signed with HMAC-SHA256. Any 2xx is delivery; there is no other agreement.
//!
//! `Forewarn-Signature: sha256=<hex of HMAC(secret, "<Forewarn-Timestamp>.<body>")>`. The first event's delivery id
//! is also in `Forewarn-Delivery`: the same id means the same message again.

use serde_json::{Value, json};
use url::Url;

use super::{Post, Verdict, json as bytes, mac};
use crate::model::forecast::State;
use crate::model::incident::LineEvidence;
use crate::notify::NotifyError;
use crate::notify::delivery::Letter;
use crate::notify::message::Message;
use crate::notify::text::clean;

/// Lines of one event; a digest has up to a hundred events, and the console has the rest.
const LINES_MAX: usize = 3;
const LINE_CHARS_MAX: usize = 400;
/// Version of the body's shape.
const SHAPE: u32 = 1;

pub(super) fn build(
    url: Url,
    secret: &str,
    message: &Message,
    letters: &[&Letter],
    now_ms: i64,
) -> Result<Post, NotifyError> {
    let text: Vec<String> = message
        .facts
        .iter()
        .map(|(label, value)| format!("{label}{}{value}", message.colon()))
        .chain(message.lines.iter().cloned())
        .collect();
    let events: Vec<Value> = letters.iter().map(|letter| event(letter)).collect();
    let body = bytes(&json!({
        "version": SHAPE,
        "title": message.title,
        "text": text.join("\n"),
        "url": message.link,
        "events": events,
    }));
    let mut headers = vec![("forewarn-delivery", message.id.clone()), ("forewarn-timestamp", now_ms.to_string())];
    if !secret.is_empty() {
        let signed = [format!("{now_ms}.").as_bytes(), &body].concat();
        headers.push(("forewarn-signature", format!("sha256={}", hex::encode(mac(secret.as_bytes(), &signed)?))));
    }
    Ok(Post { url, headers, body })
}

fn event(letter: &Letter) -> Value {
    let (incident, evidence) = (&letter.incident, &letter.incident.evidence);
    let outlook = evidence.forecast.as_ref().and_then(|forecast| match forecast.state {
        State::Warning { probability, earliest_ms, likely_ms, latest_ms } => Some(json!({
            "probability": probability,
            "earliest_ms": earliest_ms,
            "likely_ms": likely_ms,
            "latest_ms": latest_ms,
        })),
        State::NoForecast { .. } | State::Stable | State::Breached => None,
    });
    let line = |kept: &LineEvidence| json!({ "at_ms": kept.at_ms, "line": clean(&kept.line, LINE_CHARS_MAX) });
    let lines: Vec<Value> = evidence.lines.iter().take(LINES_MAX).map(line).collect();
    json!({
        "delivery": letter.delivery.id,
        "incident": incident.id,
        "event": letter.delivery.transition,
        "kind": incident.kind,
        "state": incident.state,
        "severity": incident.severity,
        "rule": incident.subject.rule,
        "host": incident.subject.host,
        "host_name": evidence.host_name,
        "entity": incident.subject.entity,
        "entity_name": evidence.entity_name,
        "component": evidence.component,
        "instance": incident.subject.instance,
        "metric": evidence.metric,
        "value": evidence.value,
        "threshold": evidence.threshold,
        "outlook": outlook,
        "keyword": evidence.keyword,
        "hits": evidence.hits,
        "lines": lines,
        "opened_ms": incident.opened_ms,
        "fired_ms": incident.fired_ms,
        "resolved_ms": incident.resolved_ms,
        "ended": evidence.ended,
    })
}

pub(super) fn read(status: u16) -> Option<Verdict> {
    (200..=299).contains(&status).then_some(Verdict::Sent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn the_signature_covers_time_and_body() {
        let url = || Url::parse("https://relay.example/hook").unwrap();
        let signature = |now_ms, lines| {
            let post = build(url(), "key", &message(lines), &[], now_ms).unwrap();
            let expected = mac(b"key", &[format!("{now_ms}.").as_bytes(), &post.body].concat()).unwrap();
            let header = post.headers.into_iter().find(|(name, _)| *name == "forewarn-signature").unwrap().1;
            assert_eq!(header, format!("sha256={}", hex::encode(expected)));
            header
        };
        let first = signature(1, vec![]);
        assert_ne!(first, signature(2, vec![]));
        assert_ne!(first, signature(1, vec!["x".into()]));
        let unsigned = build(url(), "", &message(vec![]), &[], 1).unwrap();
        assert!(unsigned.headers.iter().all(|(name, _)| *name != "forewarn-signature"));
    }

    #[test]
    fn only_2xx_is_delivery() {
        let said = |status| super::super::read(crate::model::channel::ChannelKind::Webhook, status, "whatever");
        assert_eq!((said(200), said(204)), (Verdict::Sent, Verdict::Sent));
        assert_eq!(said(302), Verdict::Unsure);
        assert_eq!(said(404), Verdict::Refused);
        assert_eq!(said(503), Verdict::Busy);
        assert_eq!(said(429), Verdict::Limited { wait_ms: 60_000 });
    }
}
