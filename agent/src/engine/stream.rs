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
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                    // Its last words came after it was forgotten.
                    lock(&self.heard).remove(&self.id);
                    return;
                }
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
        let (mut old, mut has_come) = (last, false);
        let mut pieces = std::pin::pin!(self.docker.logs(&self.id, Some(options)));
        while let Some(Ok(piece)) = pieces.next().await {
            let piece = piece.into_bytes();
            let (at, text) = stamped(&piece);
            // The engine knows whole seconds only: what was heard of the first one comes again. After the first news
            // nothing does, and a clock that is set back hides nothing.
            if at.zip(old).is_some_and(|(at, old)| at <= old) {
                continue;
            }
            old = None;
            // Of a line in parts nothing is heard before its end: it comes again as a whole.
            let heard = at.filter(|_| text.ends_with(b"\n"));
            // A full channel holds the stream up, and with it the engine's reader, not the container.
            if self.notices.send(Notice::Fed { id: self.id.clone(), piece: text.to_vec(), heard }).await.is_err() {
                return has_come;
            }
            // Only now: whoever ends this while it waits takes the piece with him.
            if let Some(at) = heard {
                lock(&self.heard).insert(self.id.clone(), at);
            }
            has_come = true;
        }
        has_come
    }
}

/// The time that the engine wrote before a piece, unix nanoseconds, and the piece itself.
pub(super) fn stamped(piece: &[u8]) -> (Option<i64>, &[u8]) {
    let space = piece.iter().take(TIME_BYTES_MAX).position(|byte| *byte == b' ');
    let parsed = space.and_then(|end| Some((nanos(piece.get(..end)?)?, piece.get(end + 1..)?)));
    parsed.map_or((None, piece), |(at, text)| (Some(at), text))
}

/// A time of RFC 3339, `2026-11-23T17:57:24.123456789+08:00`, as unix nanoseconds. A library for it would be a fiftieth
/// of the program; the tests hold this to one.
fn nanos(time: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| {
        let digits = time.get(from..to).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse::<i64>().ok()
    };
    let is = |at: usize, byte: u8| time.get(at) == Some(&byte);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let digits = time.get(20..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, zone) = match (is(19, b'.'), u32::try_from(digits).ok()?) {
        (true, digits @ 1..=9) => (number(20, 20 + digits as usize)? * 10_i64.pow(9 - digits), 20 + digits as usize),
        (true, _) => return None,
        (false, _) => (0, 19),
    };
    let east_s = match (time.get(zone)?, time.len() - zone) {
        (b'Z', 1) => 0,
        (sign @ (b'+' | b'-'), 6) if is(zone + 3, b':') => {
            let east_s = number(zone + 1, zone + 3)? * 3600 + number(zone + 4, zone + 6)? * 60;
            if *sign == b'+' { east_s } else { -east_s }
        }
        _ => return None,
    };
    // Days since 1970 in years that begin in March, so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - east_s;
    seconds.checked_mul(NANOS_A_SECOND)?.checked_add(fraction)
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
