//! WeCom group robot: markdown of at most 4096 bytes; the key in the URL is all the secret there is.

use serde_json::{Value, json};
use url::Url;

use super::{MINUTE_MS, Post, Room, Style, Verdict, json as bytes, markdown, number};
use crate::notify::NotifyError;
use crate::notify::message::Message;

/// Bytes of UTF-8, not characters.
const TEXT_ROOM: Room = Room::Utf8(4096);
const STYLE: Style = Style {
    title: |title| format!("#### {title}"),
    fact: |fact| format!("> {fact}"),
    line: |line| format!("> {line}"),
    gap: "\n",
};

pub(super) fn build(url: Url, message: &Message) -> Result<Post, NotifyError> {
    let body = json!({
        "msgtype": "markdown",
        "markdown": { "content": markdown(message, &STYLE, TEXT_ROOM) },
    });
    Ok(Post { url, headers: Vec::new(), body: bytes(&body) })
}

pub(super) fn read(answer: &Value) -> Option<Verdict> {
    Some(match number(answer, "errcode")? {
        0 => Verdict::Sent,
        -1 => Verdict::Busy,
        45_009 => Verdict::Limited { wait_ms: MINUTE_MS },
        _ => Verdict::Refused,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn the_text_stays_within_4096_bytes_of_utf8() {
        let url = Url::parse("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=k").unwrap();
        let post = build(url, &message(vec!["数据库连接超时，重试失败".repeat(20); 30])).unwrap();
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        let text = body["markdown"]["content"].as_str().unwrap();
        assert!(text.len() <= 4096 && text.len() > 3000, "{}", text.len());
        assert!(text.contains("已截断"));
    }

    #[test]
    fn answers_are_read_by_their_code() {
        let said = |text: &str| super::super::read(crate::model::channel::ChannelKind::WeCom, 200, text);
        assert_eq!(said(r#"{"errcode":0,"errmsg":"ok"}"#), Verdict::Sent);
        assert_eq!(said(r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#), Verdict::Limited { wait_ms: 60_000 });
        for code in [93_000, 40_058, 44_004] {
            assert_eq!(said(&format!(r#"{{"errcode":{code}}}"#)), Verdict::Refused);
        }
        assert_eq!(said("ok"), Verdict::Unsure);
    }
}
