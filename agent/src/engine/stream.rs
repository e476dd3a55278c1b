//! Logs that only the engine's API can give: followed, and gone on with after the newest line that was handed on,
//! whoever ended meanwhile. What the lines say is nobody's business here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, LogsOptions};
use forewarn_common::clock;
use futures_util::StreamExt;
use tokio::sync::mpsc::Sender;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::{Heard, Notice};

/// Pauses before a stream that ended under a running container is asked for again.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
const NANOS_A_SECOND: i64 = 1_000_000_000;
/// A time before a line is not longer than this.
const TIME_BYTES_MAX: usize = 40;

/// Where a log is begun of which nothing was heard before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Its past is not news.
    Now,
    /// At this time, unix seconds.
    At(i64),
}

/// The logs that are followed, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Streams {
    heard: Arc<Mutex<Heard>>,
    tasks: JoinSet<()>,
    by_id: HashMap<String, AbortHandle>,
}

impl Streams {
    /// None yet; each will go on where `heard` says.
    pub(super) fn new(heard: &Arc<Mutex<Heard>>) -> Self {
        Self { heard: Arc::clone(heard), ..Self::default() }
    }

    /// Follows the log of a running container. One that is followed already is asked for anew.
    pub(super) fn follow(&mut self, docker: &Docker, notices: &Sender<Notice>, id: &str, begin: Begin) {
        while self.tasks.try_join_next().is_some() {}
        let stream = Stream {
            docker: docker.clone(),
            notices: notices.clone(),
            heard: Arc::clone(&self.heard),
            id: id.to_owned(),
        };
        let handle = self.tasks.spawn(stream.follow(begin));
        if let Some(before) = self.by_id.insert(id.to_owned(), handle) {
            before.abort();
        }
    }

    /// Forgets a container that is no more. What is left of its stream is still taken.
    pub(super) fn forget(&mut self, id: &str) {
        self.by_id.remove(id);
        lock(&self.heard).remove(id);
    }

    /// Forgets all containers but those that are `known`.
    pub(super) fn keep<T>(&self, known: &HashMap<String, T>) {
        lock(&self.heard).retain(|id, _| known.contains_key(id));
    }
}

struct Stream {
    docker: Docker,
    notices: Sender<Notice>,
    heard: Arc<Mutex<Heard>>,
    id: String,
}

impl Stream {
    async fn follow(self, mut begin: Begin) {
        let begun_s = clock::wall_ms() / 1000;
        let mut pause = RETRY_MIN;
        loop {
            if self.take(begin).await {
                pause = RETRY_MIN;
            }
            if self.notices.is_closed() {
                return;
            }
            sleep(pause).await;
            pause = RETRY_MAX.min(pause * 2);
            match self.docker.inspect_container(&self.id, None::<InspectContainerOptions>).await {
                // Whoever starts it again begins this again.
                Ok(said) if said.state.as_ref().and_then(|state| state.running) != Some(true) => return,
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return,
                Ok(_) | Err(_) => {}
            }
            if begin == Begin::Now {
                begin = Begin::At(begun_s);
            }
        }
    }

    /// Hands on what comes until the stream ends; whether anything came.
    async fn take(&self, begin: Begin) -> bool {
        let last = lock(&self.heard).get(&self.id).copied();
        let (since_s, tail) = match (last, begin) {
            (Some(last), _) => (last / NANOS_A_SECOND, "all"),
            (None, Begin::At(since_s)) => (since_s, "all"),
            (None, Begin::Now) => (0, "0"),
        };
        let options = LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(since_s).unwrap_or(0),
            tail: tail.to_owned(),
            ..LogsOptions::default()
        };
        let mut has_come = false;
        let mut pieces = std::pin::pin!(self.docker.logs(&self.id, Some(options)));
        while let Some(Ok(piece)) = pieces.next().await {
            let piece = piece.into_bytes();
            let (at, text) = stamped(&piece);
            // The engine knows whole seconds only: what was heard of the first one comes again.
            if at.zip(last).is_some_and(|(at, last)| at <= last) {
                continue;
            }
            // Of a line in parts nothing is heard before its end: it comes again as a whole.
            let heard = at.filter(|_| text.ends_with(b"\n"));
            if let Some(at) = heard {
                lock(&self.heard).insert(self.id.clone(), at);
            }
            // A full channel holds the stream up, and with it the engine's reader, not the container.
            if self.notices.send(Notice::Fed { id: self.id.clone(), piece: text.to_vec(), heard }).await.is_err() {
                return has_come;
            }
            has_come = true;
        }
        has_come
    }
}

/// The time that the engine wrote before a piece, unix nanoseconds, and the piece itself.
pub(super) fn stamped(piece: &[u8]) -> (Option<i64>, &[u8]) {
    let space = piece.iter().take(TIME_BYTES_MAX).position(|byte| *byte == b' ');
    let parsed = space.and_then(|end| {
        let (time, text) = piece.split_at_checked(end)?;
        let at: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        Some((i64::try_from(at.as_nanosecond()).ok()?, text.get(1..)?))
    });
    parsed.map_or((None, piece), |(at, text)| (Some(at), text))
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
