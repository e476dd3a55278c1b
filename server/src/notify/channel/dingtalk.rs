//! DingTalk custom robot: markdown; the signature goes into the URL; a refusal comes with HTTP 200.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;

use super::{DINGTALK_LOCK_MS, Post, Room, Style, Verdict, json as bytes, mac, markdown, number};
use crate::notify::NotifyError;
use crate::notify::message::Message;
use crate::notify::text::defuse;

/// The body may have 20 000 bytes; JSON and escapes are around the text.
const TEXT_ROOM: Room = Room::Json(16_000);
/// The title is what the list of conversations shows.
const TITLE_ROOM: Room = Room::Json(300);
const STYLE: Style = Style {
    title: |title| format!("#### {title}"),
    fact: |fact| format!("- {fact}"),
    line: |line| format!("> {line}"),
    // Without an empty line between them it runs paragraphs together.
    gap: "\n\n",
};

pub(super) fn build(mut url: Url, secret: &str, message: &Message, now_ms: i64) -> Result<Post, NotifyError> {
    if !secret.is_empty() {
        let sign = sign(secret, now_ms)?;
        url.query_pairs_mut().append_pair("timestamp", &now_ms.to_string()).append_pair("sign", &sign);
    }
    let body = json!({
        "msgtype": "markdown",
        "markdown": {
            "title": TITLE_ROOM.cut(&defuse(&message.title)),
            "text": markdown(message, &STYLE, TEXT_ROOM),
        },
        "at": { "isAtAll": false },
    });
    Ok(Post { url, headers: Vec::new(), body: bytes(&body) })
}

fn sign(secret: &str, now_ms: i64) -> Result<String, NotifyError> {
    Ok(STANDARD.encode(mac(secret.as_bytes(), format!("{now_ms}\n{secret}").as_bytes())?))
}

pub(super) fn read(answer: &Value) -> Option<Verdict> {
    Some(match number(answer, "errcode")? {
        0 => Verdict::Sent,
        -1 => Verdict::Busy,
        // Too fast: whoever goes on is shut out for ten minutes.
        130_101 => Verdict::Limited { wait_ms: DINGTALK_LOCK_MS },
        _ if number(answer, "status") == Some(1111) => Verdict::Limited { wait_ms: DINGTALK_LOCK_MS },
        _ => Verdict::Refused,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn the_signature_is_the_published_one() {
        assert_eq!(sign("this is secret", 1_700_000_000_000).unwrap(), "sSFWELbV2YwjdDQhWZwTcWlX5BWUx5J6TPpsZmuPii0=");
    }

    #[test]
    fn the_signature_travels_in_the_url_encoded() {
        let url = Url::parse("https://oapi.dingtalk.com/robot/send?access_token=tok").unwrap();
        let post = build(url, "this is secret", &message(vec![]), 1_700_000_000_000).unwrap();
        assert_eq!(
            post.url.as_str(),
            "https://oapi.dingtalk.com/robot/send?access_token=tok&timestamp=1700000000000&sign=sSFWELbV2YwjdDQhWZwTcWlX5BWUx5J6TPpsZmuPii0%3D"
        );
    }

    #[test]
    fn the_body_stays_below_twenty_thousand_bytes() {
        let url = || Url::parse("https://oapi.dingtalk.com/robot/send?access_token=tok").unwrap();
        for line in ["\"\"\"\"".repeat(100), "数据库连接超时".repeat(60), "\\\u{1}".repeat(200)] {
            let post = build(url(), "", &message(vec![line; 60]), 0).unwrap();
            assert!(post.body.len() <= 20_000, "{}", post.body.len());
        }
    }

    #[test]
    fn answers_are_read_by_their_code() {
        let said = |text: &str| super::super::read(crate::model::channel::ChannelKind::DingTalk, 200, text);
        assert_eq!(said(r#"{"errcode":0,"errmsg":"ok"}"#), Verdict::Sent);
        assert_eq!(said(r#"{"errcode":130101,"errmsg":"send too fast"}"#), Verdict::Limited { wait_ms: 600_000 });
        assert_eq!(
            said(r#"{"status":1111,"wait":5,"punish":"deny","errcode":130101}"#),
            Verdict::Limited { wait_ms: 600_000 }
        );
        assert_eq!(said(r#"{"errcode":310000,"errmsg":"sign not match"}"#), Verdict::Refused);
        assert_eq!(said(r#"{"errcode":300001,"errmsg":"token is not exist"}"#), Verdict::Refused);
        assert_eq!(said(r#"{"errcode":-1,"errmsg":"busy"}"#), Verdict::Busy);
        for unknown in ["", "ok", "<html>login</html>", "{}", r#"{"errcode":"0"}"#, "null", "[0]"] {
            assert_eq!(said(unknown), Verdict::Unsure, "{unknown}: 200 alone is not delivery");
        }
    }
}
