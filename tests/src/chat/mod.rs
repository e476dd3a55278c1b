//! A fake chat room on loopback that is as strict as the real ones: DingTalk, WeCom, Feishu and a
//! plain webhook. It checks signatures, clocks, sizes and message types, limits the rate and locks
//! a robot out, answers HTTP 200 with an error code as they do, and remembers every message with
//! the time it came. Faults can be ordered: error codes, slow answers, dropped connections.

mod listen;
mod robot;
pub mod sign;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait_until;

/// The secret of the room's DingTalk and Feishu robots.
pub const SECRET: &str = "SEC-forewarn-fake-room";

/// The token of the room's robots; any other is unknown.
pub const TOKEN: &str = "room-token";

/// How the room limits its robots; tests shorten the times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Messages that a robot may send in a span.
    pub messages_max: usize,
    /// The span.
    pub span_ms: i64,
    /// How long DingTalk blocks a robot that went over.
    pub lockout_ms: i64,
}

impl Default for Limits {
    /// What DingTalk and WeCom publish: 20 a minute; DingTalk then blocks for ten minutes.
    fn default() -> Self {
        Self { messages_max: 20, span_ms: 60_000, lockout_ms: 600_000 }
    }
}

/// Which robot a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Robot {
    /// `/robot/send`
    DingTalk,
    /// `/cgi-bin/webhook/send`
    WeCom,
    /// `/open-apis/bot/v2/hook/…`
    Feishu,
    /// Any other path.
    Webhook,
}

/// One request to the room.
#[derive(Debug, Clone)]
pub struct Message {
    /// Which robot it came to.
    pub robot: Robot,
    /// When its last byte came.
    pub received_at_ms: i64,
    /// What the room answered: 0 is delivered.
    pub errcode: i64,
    /// Path and query of the request.
    pub target: String,
    /// Request headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// All strings of the body, one a line: what people would read.
    pub text: String,
    /// The body as it came.
    pub body: String,
}

impl Message {
    /// Whether the room took it.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.errcode == 0
    }

    /// Whether what people would read contains a text.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

/// A fault for one coming request, whichever robot it is for.
#[derive(Debug, Clone)]
pub enum Fault {
    /// HTTP 200 with this error code.
    Errcode(i64),
    /// This HTTP status with an HTML body, as a proxy would answer.
    Status(u16),
    /// Read the request, then close without an answer. The message counts as seen, not delivered.
    Hangup,
    /// Deliver it, then close without an answer: the sender cannot know.
    DeliverThenHangup,
    /// Answer properly, but only after this time.
    Slow(Duration),
}

/// What the accepting thread and the test share.
#[derive(Debug)]
pub(crate) struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    faults: VecDeque<Fault>,
    down: bool,
    locked_until_ms: i64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chat room that listens on a port of its own.
#[derive(Debug)]
pub struct ChatRoom {
    shared: Arc<Shared>,
    listener: listen::Listener,
}

impl ChatRoom {
    /// Opens a room with the published limits.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn open() -> Result<Self> {
        Self::open_with(Limits::default())
    }

    /// Opens a room with limits of one's own.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn open_with(limits: Limits) -> Result<Self> {
        let shared = Arc::new(Shared { limits, state: Mutex::default() });
        let listener = listen::Listener::start(Arc::clone(&shared)).context("open a port for the chat room")?;
        Ok(Self { shared, listener })
    }

    /// Where the room listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The webhook address of a robot, as its users paste it.
    #[must_use]
    pub fn url(&self, robot: Robot) -> String {
        let base = format!("http://{}", self.address());
        match robot {
            Robot::DingTalk => format!("{base}/robot/send?access_token={TOKEN}"),
            Robot::WeCom => format!("{base}/cgi-bin/webhook/send?key={TOKEN}"),
            Robot::Feishu => format!("{base}/open-apis/bot/v2/hook/{TOKEN}"),
            Robot::Webhook => format!("{base}/webhook"),
        }
    }

    /// Every request so far, refused ones too, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Message> {
        self.shared.state().messages.clone()
    }

    /// What people have seen in the room so far.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.requests().into_iter().filter(Message::is_delivered).collect()
    }

    /// Waits for a delivered message, come already or still to come.
    ///
    /// # Errors
    /// When none came in time; the error lists what did come.
    pub fn wait_for(&self, what: &str, patience: Duration, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        let found = wait_until(what, patience, || Ok(self.messages().into_iter().find(&wanted)));
        found.with_context(|| {
            let seen: Vec<String> = self.requests().iter().map(|m| format!("[{}] {}", m.errcode, m.body)).collect();
            format!("the room saw {} requests:\n{}", seen.len(), seen.join("\n"))
        })
    }

    /// Orders a fault for the next request; several orders are served in turn.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Takes the whole room off the network: connections are closed unread.
    pub fn go_down(&self) {
        self.shared.state().down = true;
    }

    /// Brings it back.
    pub fn come_back(&self) {
        self.shared.state().down = false;
    }
}
