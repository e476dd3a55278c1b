//! Tells which followed files were written to, so that quiet logs cost nothing: inotify on the held descriptors.
//!
//! There are two queues. What was written gathers in one until it is looked at, and wakes the loop only after a rest;
//! that a file was renamed or removed wakes it at once, because what follows may be gone before the next look.
//!
//! It reads no file. What cannot be watched (the kernel's limit, a filesystem without notices) is left to looking.

use std::collections::HashSet;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of notices read at once; one is 16 bytes.
const NOTICES_BYTES: usize = 4096;
/// Reads of notices in one go; the kernel keeps 16384 notices and then says that there were more.
const READS_MAX: u32 = 128;

/// A queue of notices of the kernel.
#[derive(Debug)]
enum Queue {
    /// There is none to be had.
    None,
    /// Nobody is woken.
    Held(OwnedFd),
    /// The loop is woken by the next notice.
    Listening(AsyncFd<OwnedFd>),
}

/// Watches held files.
#[derive(Debug)]
pub(super) struct Wake {
    /// What was written.
    writes: Queue,
    /// What was renamed or removed.
    turns: Queue,
    refusal: Option<Errno>,
    #[cfg(test)]
    pub(super) watches_max: std::cell::Cell<usize>,
}

/// The two watches on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    write: i32,
    turn: i32,
}

/// What woke the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// A watched file was written to.
    Write,
    /// A watched file was renamed or removed.
    Turn,
}

/// What happened to files since it was asked last.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Notices were lost: anything may have been.
    pub(super) all: bool,
    marks: HashSet<i32>,
    ended: HashSet<i32>,
}

impl Touched {
    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.marks.is_empty() && self.ended.is_empty()
    }

    /// Whether these are notices of writing, and the file of this mark was written to.
    pub(super) fn was_written(&self, mark: Mark) -> bool {
        self.all || self.marks.contains(&mark.write)
    }

    /// Whether these are notices of turns, and the file of this mark was renamed or removed.
    pub(super) fn has_turned(&self, mark: Mark) -> bool {
        self.all || self.marks.contains(&mark.turn)
    }

    /// Whether the kernel ended this watch of what was written.
    pub(super) fn ended(&self, mark: Mark) -> bool {
        self.ended.contains(&mark.write)
    }
}

impl Queue {
    fn new() -> Result<Self, Errno> {
        inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map(Self::Held)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Held(queue) => Some(queue.as_fd()),
            Self::Listening(listening) => Some(listening.get_ref().as_fd()),
        }
    }

    /// Nobody is woken from now on until [`Self::heard`] is asked.
    fn rest(&mut self) {
        *self = match std::mem::replace(self, Self::None) {
            Self::Listening(listening) => Self::Held(listening.into_inner()),
            other => other,
        };
    }

    /// Takes the notices that wait.
    fn take(&self) -> Touched {
        let mut touched = Touched::default();
        let Some(queue) = self.fd() else { return touched };
        let mut room = [MaybeUninit::uninit(); NOTICES_BYTES];
        let mut notices = Reader::new(queue, &mut room);
        for _ in 0..READS_MAX * (NOTICES_BYTES as u32 / 16) {
            let Ok(notice) = notices.next() else { return touched };
            if notice.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                touched.all = true;
            } else if notice.events().intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
                touched.ended.insert(notice.wd());
            } else {
                touched.marks.insert(notice.wd());
            }
        }
        // They come faster than they can be read.
        touched.all = true;
        touched
    }

    /// Ends when a notice waits; never without a queue.
    #[expect(deprecated, reason = "what replaces it is unsafe; the descriptor is owned here, so it is sound")]
    async fn heard(&mut self) {
        if let Self::Held(_) = self
            && let Self::Held(queue) = std::mem::replace(self, Self::None)
        {
            *self = match AsyncFd::try_with_interest(queue, Interest::READABLE) {
                Ok(listening) => Self::Listening(listening),
                Err(refused) => {
                    tracing::warn!(error = %refused, "notices of the kernel cannot be waited for; logs are looked at");
                    Self::Held(refused.into_parts().0)
                }
            };
        }
        match self {
            Self::Listening(listening) => match listening.readable().await {
                // It is taken now; what comes from here on is heard anew.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            },
            _ => std::future::pending().await,
        }
    }
}

impl Wake {
    pub(super) fn new() -> Self {
        let (writes, turns, refusal) = match (Queue::new(), Queue::new()) {
            (Ok(writes), Ok(turns)) => (writes, turns, None),
            (Err(error), _) | (_, Err(error)) => (Queue::None, Queue::None, Some(error)),
        };
        Self {
            writes,
            turns,
            refusal,
            #[cfg(test)]
            watches_max: std::cell::Cell::new(usize::MAX),
        }
    }

    /// Watches the file behind a held descriptor, whatever it is called by now. `None` where it cannot be.
    pub(super) fn watch(&mut self, file: &File) -> Option<Mark> {
        #[cfg(test)]
        {
            let left = self.watches_max.get().checked_sub(1);
            let Some(left) = left else {
                self.refusal = Some(Errno::NOSPC);
                return None;
            };
            self.watches_max.set(left);
        }
        let (writes, turns) = (self.writes.fd()?, self.turns.fd()?);
        // A name could show another file by now; the descriptor cannot.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = |queue, what| inotify::add_watch(queue, &path, what | WatchFlags::MASK_CREATE);
        let marked = watch(writes, WatchFlags::MODIFY).and_then(|write| {
            let turn = watch(turns, WatchFlags::ATTRIB | WatchFlags::MOVE_SELF);
            if turn.is_err() {
                _ = inotify::remove_watch(writes, write);
            }
            turn.map(|turn| Mark { write, turn })
        });
        marked.map_err(|error| self.refusal = Some(error)).ok()
    }

    /// Ends a watch.
    pub(super) fn forget(&self, mark: Mark) {
        for (queue, mark) in [(self.writes.fd(), mark.write), (self.turns.fd(), mark.turn)] {
            if let Some(queue) = queue {
                // It may have ended with its file.
                _ = inotify::remove_watch(queue, mark);
            }
        }
    }

    /// Why the last file that could not be watched was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.map(|error| match error {
            Errno::NOSPC => "fs.inotify.max_user_watches is used up".to_owned(),
            Errno::MFILE => "fs.inotify.max_user_instances is used up".to_owned(),
            Errno::EXIST => "two names of one file are followed".to_owned(),
            other => format!("inotify: {other}"),
        })
    }

    /// Takes the notices of what was written, and none wakes the loop any more until [`Self::woken`] asks for them.
    pub(super) fn take_writes(&mut self) -> Touched {
        self.writes.rest();
        self.writes.take()
    }

    /// Takes the notices of what was renamed or removed.
    pub(super) fn take_turns(&self) -> Touched {
        self.turns.take()
    }

    /// Ends when a watched file was renamed or removed or, where that is asked for, written to; never without a queue.
    pub(super) async fn woken(&mut self, by_writes: bool) -> Woken {
        let Self { writes, turns, .. } = self;
        let written = async {
            match by_writes {
                true => writes.heard().await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = turns.heard() => Woken::Turn,
            () = written => Woken::Write,
        }
    }
}
