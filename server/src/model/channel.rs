//! Channels: chat rooms and other receivers; deliveries: what was or will be sent to them.

use forewarn_common::keyword::Severity;
use serde::{Deserialize, Serialize};

use super::incident::Transition;

/// What speaks on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// JSON by HTTP POST, signed with HMAC-SHA256.
    Webhook,
    /// DingTalk custom robot.
    DingTalk,
    /// WeCom group robot.
    WeCom,
    /// Feishu or Lark custom bot.
    Feishu,
}

/// The language of a channel's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Language {
    /// Simplified Chinese.
    #[serde(rename = "zh")]
    Chinese,
    /// English.
    #[serde(rename = "en")]
    English,
}

/// A receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    /// Hex of 8 random bytes.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What speaks on the other side.
    pub kind: ChannelKind,
    /// Where to; carries the robot's token, so it is a secret.
    pub url: String,
    /// Key of the signature; empty without one.
    pub secret: String,
    /// The language of its messages.
    pub language: Language,
    /// Incidents below this severity are not sent.
    pub severity_min: Severity,
    /// Whether anything is sent.
    pub send: bool,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// To be sent.
    Queued,
    /// The receiver said that it has it.
    Sent,
    /// Given up; `answer` says why.
    Failed,
    /// Not to be sent: rule or channel was switched off when it was due.
    Muted,
}

/// One message for one channel. The id travels with it, so that a receiver can tell a repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `<incident>-<transition>-<channel>`.
    pub id: String,
    /// The incident's id.
    pub incident: String,
    /// The channel's id.
    pub channel: String,
    /// What is told.
    pub transition: Transition,
    /// How far it has come.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is to be tried next, unix milliseconds.
    pub due_ms: i64,
    /// When it was made, unix milliseconds.
    pub created_ms: i64,
    /// When it was sent or given up, unix milliseconds.
    pub done_ms: Option<i64>,
    /// What the receiver answered last, short; untrusted text. Of a muted one the reason: `channel_off`, `rule_off`,
    /// `below_severity` or `beginning_not_sent`.
    pub answer: String,
}
