//! What each kind of receiver wants to be sent and how it answers. Builds requests and reads answers; sends nothing.

mod dingtalk;
mod feishu;
mod webhook;
mod wecom;

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;
use url::Url;

use super::NotifyError;
use super::delivery::Letter;
use super::message::Message;
use super::text::{cut, defuse};
use crate::model::channel::{Channel, ChannelKind};

/// A request as it goes out. No `Debug`: URL and headers carry secrets.
pub(super) struct Post {
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The receiver said that it has it.
    Sent,
    /// It may take it later.
    Busy,
    /// It takes nothing from us for this long.
    Limited {
        /// Milliseconds.
        wait_ms: i64,
    },
    /// Nobody can say whether it was delivered: tried a few times more, not for a day.
    Unsure,
    /// It never will.
    Refused,
}

/// How long DingTalk shuts out a robot that was too fast.
const DINGTALK_LOCK_MS: i64 = 10 * 60_000;
const MINUTE_MS: i64 = 60_000;

/// The request for `message`, which tells of `letters`.
pub(super) fn build(
    channel: &Channel,
    message: &Message,
    letters: &[&Letter],
    now_ms: i64,
) -> Result<Post, NotifyError> {
    let url = Url::parse(&channel.url).map_err(|_| NotifyError::Url)?;
    match channel.kind {
        ChannelKind::Webhook => webhook::build(url, &channel.secret, message, letters, now_ms),
        ChannelKind::DingTalk => dingtalk::build(url, &channel.secret, message, now_ms),
        ChannelKind::WeCom => wecom::build(url, message),
        ChannelKind::Feishu => feishu::build(url, &channel.secret, message, now_ms),
    }
}

/// What status and body of an answer mean. The body goes first: robots refuse with 200.
pub(super) fn read(kind: ChannelKind, status: u16, body: &str) -> Verdict {
    let answer: Option<Value> = serde_json::from_str(body).ok();
    let said = match kind {
        ChannelKind::Webhook => webhook::read(status),
        ChannelKind::DingTalk => answer.as_ref().and_then(dingtalk::read),
        ChannelKind::WeCom => answer.as_ref().and_then(wecom::read),
        ChannelKind::Feishu => answer.as_ref().and_then(feishu::read),
    };
    said.unwrap_or(match status {
        429 => Verdict::Limited { wait_ms: MINUTE_MS },
        500..=599 | 408 => Verdict::Busy,
        400..=499 => Verdict::Refused,
        _ => Verdict::Unsure,
    })
}

fn mac(key: &[u8], text: &[u8]) -> Result<Vec<u8>, NotifyError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| NotifyError::Secret)?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn number(answer: &Value, key: &str) -> Option<i64> {
    answer.get(key)?.as_i64()
}

fn json(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

/// How a channel writes its lines.
struct Style {
    title: fn(&str) -> String,
    fact: fn(&str) -> String,
    line: fn(&str) -> String,
    gap: &'static str,
}

/// How a receiver counts the bytes of a text.
#[derive(Clone, Copy)]
enum Room {
    /// UTF-8.
    Utf8(usize),
    /// As part of a JSON body, escapes included.
    Json(usize),
}

impl Room {
    fn holds(self, text: &str) -> bool {
        match self {
            Self::Utf8(bytes_max) => text.len() <= bytes_max,
            Self::Json(bytes_max) => Value::from(text).to_string().len() <= bytes_max,
        }
    }

    /// The longest head of `text` that there is room for, found by halving what is cut away.
    fn cut(self, text: &str) -> &str {
        let (mut fits, mut too_long) = (0, text.len() + 1);
        while fits + 1 < too_long {
            let middle = fits.midpoint(too_long);
            if self.holds(cut(text, middle)) { fits = middle } else { too_long = middle }
        }
        cut(text, fits)
    }
}

/// The message as markdown that there is room for: lines go first, then facts; title, link and id stay.
fn markdown(message: &Message, style: &Style, room: Room) -> String {
    let title = (style.title)(&defuse(&message.title));
    let fact = |label: &str, value: &str| (style.fact)(&format!("{label}{}{}", message.colon(), defuse(value)));
    let facts: Vec<String> = message.facts.iter().map(|(label, value)| fact(label, value)).collect();
    let lines: Vec<String> = message.lines.iter().map(|line| (style.line)(&defuse(line))).collect();
    let id = fact(message.id_label(), &message.id);
    // The link is ours: its address comes from the site's settings and an id of hex digits. It stands in a paragraph of
    // its own, or it would be read as the end of the list or quotation before it.
    let link = message.link.as_ref().map(|url| format!("\n[{}]({url})", message.link_label()));
    let parts = |facts_kept: usize, lines_kept: usize| {
        let whole = facts_kept == facts.len() && lines_kept == lines.len();
        let note = (!whole).then(|| (style.fact)(message.cut_note()));
        let kept = facts.iter().take(facts_kept).chain(lines.iter().take(lines_kept)).cloned();
        let title = (!title.is_empty()).then(|| title.clone());
        let all: Vec<String> =
            title.into_iter().chain(kept).chain(note).chain([id.clone()]).chain(link.clone()).collect();
        all.join(style.gap)
    };
    let (mut facts_kept, mut lines_kept) = (facts.len(), lines.len());
    loop {
        let text = parts(facts_kept, lines_kept);
        if room.holds(&text) {
            return text;
        }
        match (lines_kept, facts_kept) {
            (1.., _) => lines_kept -= 1,
            (0, 1..) => facts_kept -= 1,
            (0, 0) => return room.cut(&text).to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::channel::Language;
    use crate::notify::message::Tone;
    use crate::notify::text::HOSTILE_LINES;

    pub(super) fn message(lines: Vec<String>) -> Message {
        Message {
            tone: Tone::Alarm,
            language: Language::Chinese,
            title: "【告警】plant-3 /data 已达到 90%".into(),
            facts: vec![("主机", "plant-3".into()), ("当前", "磁盘使用率 91.2%（阈值 90%）".into())],
            lines,
            link: Some("https://fw.example/incidents/ab12".into()),
            id: "ab12-alarmed-cd34".into(),
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters_and_says_so() {
        for bytes_max in [40, 100, 300, 1000, 4096] {
            let style = Style {
                title: |title| format!("#### {title}"),
                fact: |fact| format!("> {fact}"),
                line: |line| format!("> {line}"),
                gap: "\n",
            };
            let text = markdown(&message(vec!["数据库连接超时".repeat(40); 9]), &style, Room::Utf8(bytes_max));
            assert!(text.len() <= bytes_max, "{} of {bytes_max}", text.len());
            assert!(text.starts_with("#### 【告警】"), "{text}");
            if bytes_max >= 300 {
                assert!(text.contains("已截断") && text.contains("/incidents/ab12"), "{text}");
            }
        }
    }

    #[test]
    fn hostile_lines_add_no_markup_to_any_robot() {
        for kind in [ChannelKind::DingTalk, ChannelKind::WeCom, ChannelKind::Feishu] {
            let body = |lines| {
                let channel = Channel {
                    id: "c".into(),
                    name: "c".into(),
                    kind,
                    url: "https://robot.example/x".into(),
                    secret: String::new(),
                    language: Language::Chinese,
                    severity_min: forewarn_common::keyword::Severity::Info,
                    send: true,
                };
                let post = build(&channel, &message(lines), &[], 0).unwrap();
                String::from_utf8(post.body).unwrap()
            };
            let count = |text: &str, part: &str| text.matches(part).count();
            let plain = body(vec!["line".into()]);
            for hostile in HOSTILE_LINES {
                let text = body(vec![crate::notify::text::clean(hostile, 400)]);
                serde_json::from_str::<Value>(&text).unwrap();
                for part in ["](", "<", "@", "://", "isAtAll\":true", "![", "**", "&"] {
                    assert_eq!(count(&text, part), count(&plain, part), "{kind:?} {part} in {text}");
                }
            }
        }
    }
}
