//! How each robot judges a request: who may speak, what a message must look like, how often. The
//! codes are those that the real rooms answer, with HTTP 200 throughout.

use serde_json::Value;

use super::{Message, Robot, SECRET, Shared, TOKEN, sign};

/// Signatures older or newer than this are refused by DingTalk and Feishu alike.
const CLOCK_SKEW_MS_MAX: i64 = 3_600_000;

const DINGTALK_BODY_BYTES_MAX: usize = 20_000;
const FEISHU_BODY_BYTES_MAX: usize = 20 * 1024;
const WECOM_TEXT_BYTES_MAX: usize = 2048;
const WECOM_MARKDOWN_BYTES_MAX: usize = 4096;

/// Feishu's second limit, beside the one for a minute.
const FEISHU_MESSAGES_A_SECOND_MAX: usize = 5;
const FEISHU_MESSAGES_A_MINUTE_MAX: usize = 100;

/// One request as it came.
pub(super) struct Request {
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) received_at_ms: i64,
}

/// An error code with its message; 0 is delivered.
type Verdict = (i64, &'static str);

const DELIVERED: Verdict = (0, "ok");

/// Judges a request and turns it into what the room remembers.
pub(super) fn judge(shared: &Shared, request: Request) -> (Message, String) {
    let path = request.target.split('?').next().unwrap_or_default();
    let robot = match path {
        "/robot/send" => Robot::DingTalk,
        "/cgi-bin/webhook/send" => Robot::WeCom,
        _ if path.starts_with("/open-apis/bot/v2/hook/") => Robot::Feishu,
        _ => Robot::Webhook,
    };
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let json = serde_json::from_str::<Value>(&body).ok().filter(Value::is_object);
    let verdict = match (robot, &json) {
        (Robot::DingTalk, json) => dingtalk(shared, &request, json.as_ref()),
        (Robot::WeCom, json) => wecom(shared, &request, json.as_ref()),
        (Robot::Feishu, json) => feishu(shared, &request, json.as_ref()),
        (Robot::Webhook, Some(_)) => DELIVERED,
        (Robot::Webhook, None) => (-1, "not a JSON object"),
    };
    let mut text = String::new();
    json.iter().for_each(|json| gather_strings(json, &mut text));
    let (errcode, errmsg) = verdict;
    let message = Message {
        robot,
        received_at_ms: request.received_at_ms,
        errcode,
        target: request.target,
        headers: request.headers,
        text,
        body,
    };
    (message, answer_body(robot, errcode, errmsg))
}

/// The body of an answer in the robot's own form.
pub(super) fn answer_body(robot: Robot, errcode: i64, errmsg: &str) -> String {
    match robot {
        Robot::Feishu if errcode == 0 => {
            r#"{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}"#.to_owned()
        }
        Robot::Feishu => serde_json::json!({ "code": errcode, "data": {}, "msg": errmsg }).to_string(),
        Robot::DingTalk | Robot::WeCom => serde_json::json!({ "errcode": errcode, "errmsg": errmsg }).to_string(),
        Robot::Webhook => "{}".to_owned(),
    }
}

fn dingtalk(shared: &Shared, request: &Request, json: Option<&Value>) -> Verdict {
    let now_ms = request.received_at_ms;
    if query(&request.target, "access_token").as_deref() != Some(TOKEN) {
        return (300_001, "token is not exist");
    }
    let timestamp_ms = query(&request.target, "timestamp").and_then(|t| t.parse::<i64>().ok());
    let Some(timestamp_ms) = timestamp_ms.filter(|t| (now_ms - t).abs() <= CLOCK_SKEW_MS_MAX) else {
        return (310_000, "invalid timestamp");
    };
    if query(&request.target, "sign") != Some(sign::dingtalk(SECRET, timestamp_ms)) {
        return (310_000, "sign not match");
    }
    if request.body.len() > DINGTALK_BODY_BYTES_MAX {
        return (460_101, "message too long");
    }
    let Some(json) = json.filter(|_| is_json(request)) else {
        return (43_004, "the Content-Type must be application/json");
    };
    let fields: &[&str] = match json["msgtype"].as_str() {
        Some("text") => &["/text/content"],
        Some("markdown") => &["/markdown/title", "/markdown/text"],
        Some("link") => &["/link/title", "/link/text", "/link/messageUrl"],
        Some("actionCard") => &["/actionCard/title", "/actionCard/text"],
        _ => return (40_035, "unknown msgtype"),
    };
    if !has_all(json, fields) {
        return (40_035, "a required field is missing or empty");
    }
    let limits = &shared.limits;
    if now_ms < shared.state().locked_until_ms {
        return (130_101, "send too fast");
    }
    if count_since(shared, Robot::DingTalk, now_ms - limits.span_ms) >= limits.messages_max {
        shared.state().locked_until_ms = now_ms + limits.lockout_ms;
        return (130_101, "send too fast");
    }
    DELIVERED
}

fn wecom(shared: &Shared, request: &Request, json: Option<&Value>) -> Verdict {
    if query(&request.target, "key").as_deref() != Some(TOKEN) {
        return (93_000, "invalid webhook url");
    }
    let Some(json) = json else { return (40_008, "invalid message type") };
    let (field, bytes_max) = match json["msgtype"].as_str() {
        Some("text") => ("/text/content", WECOM_TEXT_BYTES_MAX),
        Some("markdown") => ("/markdown/content", WECOM_MARKDOWN_BYTES_MAX),
        Some("markdown_v2") => ("/markdown_v2/content", WECOM_MARKDOWN_BYTES_MAX),
        _ => return (40_008, "invalid message type"),
    };
    let content = json.pointer(field).and_then(Value::as_str).unwrap_or_default();
    if content.is_empty() {
        return (44_004, "empty content");
    }
    if content.len() > bytes_max {
        return (40_058, "content exceed max length");
    }
    let limits = &shared.limits;
    if count_since(shared, Robot::WeCom, request.received_at_ms - limits.span_ms) >= limits.messages_max {
        return (45_009, "api freq out of limit");
    }
    DELIVERED
}

fn feishu(shared: &Shared, request: &Request, json: Option<&Value>) -> Verdict {
    let now_ms = request.received_at_ms;
    let path = request.target.split('?').next().unwrap_or_default();
    if path.rsplit('/').next() != Some(TOKEN) {
        return (19_001, "param invalid: incoming webhook access token invalid");
    }
    let Some(json) = json else { return (9499, "Bad Request") };
    let timestamp_s = json["timestamp"].as_str().and_then(|t| t.parse::<i64>().ok());
    let fresh = timestamp_s.filter(|t| (now_ms - t * 1000).abs() <= CLOCK_SKEW_MS_MAX);
    let signed = fresh.is_some_and(|t| json["sign"].as_str() == Some(&sign::feishu(SECRET, t)));
    if !signed {
        return (19_021, "sign match fail or timestamp is not within one hour from current time");
    }
    if request.body.len() > FEISHU_BODY_BYTES_MAX {
        return (19_036, "message body is too large");
    }
    let whole = match json["msg_type"].as_str() {
        Some("text") => has_all(json, &["/content/text"]),
        Some("post") => json.pointer("/content/post").is_some_and(Value::is_object),
        Some("interactive") => json["card"].is_object(),
        _ => false,
    };
    if !whole {
        return (9499, "Bad Request");
    }
    let too_many = count_since(shared, Robot::Feishu, now_ms - 1000) >= FEISHU_MESSAGES_A_SECOND_MAX
        || count_since(shared, Robot::Feishu, now_ms - 60_000) >= FEISHU_MESSAGES_A_MINUTE_MAX;
    if too_many { (11_232, "frequency limited") } else { DELIVERED }
}

/// Messages that a robot delivered after an instant.
fn count_since(shared: &Shared, robot: Robot, after_ms: i64) -> usize {
    let state = shared.state();
    state.messages.iter().filter(|m| m.robot == robot && m.is_delivered() && m.received_at_ms > after_ms).count()
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers.iter().find(|(name, _)| name == "content-type");
    kind.is_some_and(|(_, value)| value.to_lowercase().starts_with("application/json"))
}

fn has_all(json: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| json.pointer(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
}

/// A query parameter, decoded.
fn query(target: &str, name: &str) -> Option<String> {
    let base = url::Url::parse("http://room.invalid").ok()?;
    let url = base.join(target).ok()?;
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn gather_strings(json: &Value, text: &mut String) {
    match json {
        Value::String(one) => {
            text.push_str(one);
            text.push('\n');
        }
        Value::Array(many) => many.iter().for_each(|one| gather_strings(one, text)),
        Value::Object(many) => many.values().for_each(|one| gather_strings(one, text)),
        _ => {}
    }
}
