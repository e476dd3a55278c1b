//! Feishu or Lark custom bot: an interactive card; timestamp and signature go into the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;

use super::{MINUTE_MS, Post, Room, Style, Verdict, json as bytes, mac, markdown, number};
use crate::notify::NotifyError;
use crate::notify::message::{Message, Tone};
use crate::notify::text::defuse;

/// The body may have 20 KB; the card and its escapes are around the text.
const TEXT_ROOM: Room = Room::Json(15_000);
const TITLE_ROOM: Room = Room::Json(300);
const STYLE: Style = Style {
    // The card has a header of its own.
    title: |_| String::new(),
    fact: |fact| format!("- {fact}"),
    line: |line| format!("- {line}"),
    gap: "\n",
};

pub(super) fn build(url: Url, secret: &str, message: &Message, now_ms: i64) -> Result<Post, NotifyError> {
    let template = match message.tone {
        Tone::Info => "blue",
        Tone::Warning => "orange",
        Tone::Alarm => "red",
        Tone::Good => "green",
    };
    let mut body = json!({
        "msg_type": "interactive",
        "card": {
            "config": { "wide_screen_mode": true },
            "header": {
                "template": template,
                "title": { "tag": "plain_text", "content": TITLE_ROOM.cut(&defuse(&message.title)) },
            },
            "elements": [{ "tag": "markdown", "content": markdown(message, &STYLE, TEXT_ROOM) }],
        },
    });
    if !secret.is_empty() {
        let seconds = now_ms.div_euclid(1000);
        body["timestamp"] = seconds.to_string().into();
        body["sign"] = sign(secret, seconds)?.into();
    }
    Ok(Post { url, headers: Vec::new(), body: bytes(&body) })
}

// The reverse of DingTalk's: the text is the key, and nothing is signed with it.
fn sign(secret: &str, seconds: i64) -> Result<String, NotifyError> {
    Ok(STANDARD.encode(mac(format!("{seconds}\n{secret}").as_bytes(), b"")?))
}

pub(super) fn read(answer: &Value) -> Option<Verdict> {
    let code = number(answer, "code").or_else(|| number(answer, "StatusCode"))?;
    Some(match code {
        0 => Verdict::Sent,
        11_232 => Verdict::Limited { wait_ms: MINUTE_MS },
        // Says both "bad request" and "too many request".
        9499 => Verdict::Unsure,
        _ => Verdict::Refused,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn the_signature_is_the_published_one_and_travels_in_the_body() {
        assert_eq!(sign("this is secret", 1_700_000_000).unwrap(), "OfGzRzoUICBOoc8wVra1e4A1hPfbZ9zqXozA8CWVUuY=");
        let url = Url::parse("https://open.feishu.cn/open-apis/bot/v2/hook/tok").unwrap();
        let post = build(url.clone(), "this is secret", &message(vec![]), 1_700_000_000_999).unwrap();
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        assert_eq!(body["timestamp"], "1700000000");
        assert_eq!(body["sign"], "OfGzRzoUICBOoc8wVra1e4A1hPfbZ9zqXozA8CWVUuY=");
        assert_eq!(post.url, url);
    }

    #[test]
    fn the_body_stays_below_twenty_kilobytes() {
        for line in ["\"\"\"\"".repeat(100), "数据库连接超时".repeat(60)] {
            let url = Url::parse("https://open.feishu.cn/open-apis/bot/v2/hook/tok").unwrap();
            let post = build(url, "s", &message(vec![line; 60]), 0).unwrap();
            assert!(post.body.len() <= 20_000, "{}", post.body.len());
        }
    }

    #[test]
    fn answers_are_read_by_their_code() {
        let said = |status, text: &str| super::super::read(crate::model::channel::ChannelKind::Feishu, status, text);
        assert_eq!(said(200, r#"{"code":0,"msg":"success","data":{}}"#), Verdict::Sent);
        assert_eq!(said(200, r#"{"StatusCode":0,"StatusMessage":"success"}"#), Verdict::Sent);
        assert_eq!(said(400, r#"{"code":9499,"msg":"too many request"}"#), Verdict::Unsure);
        assert_eq!(said(200, r#"{"code":11232,"msg":"limited"}"#), Verdict::Limited { wait_ms: 60_000 });
        for code in [19_021, 19_022, 19_024, 19_036] {
            assert_eq!(said(200, &format!(r#"{{"code":{code}}}"#)), Verdict::Refused);
        }
        assert_eq!(said(200, "{}"), Verdict::Unsure);
        assert_eq!(said(502, "bad gateway"), Verdict::Busy);
    }
}
