//! Tells which followed files were written to, so that quiet logs cost nothing: inotify on the held descriptors.
//!
//! It reads no file. What cannot be watched (the kernel's limit, a filesystem without notices) is left to looking.

use std::collections::HashSet;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of notices read at once; one is 16 bytes.
const NOTICES_BYTES: usize = 4096;
/// Reads of notices in one go; the kernel keeps 16384 notices and then says that there were more.
const READS_MAX: u32 = 128;

/// The kernel's queue of notices.
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
    queue: Queue,
    refusal: Option<Errno>,
    #[cfg(test)]
    pub(super) watches_max: std::cell::Cell<usize>,
}

/// What was written to since the last look.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Notices were lost: anything may have been.
    pub(super) all: bool,
    /// Watches with a notice.
    pub(super) marks: HashSet<i32>,
    /// Watches that the kernel ended.
    pub(super) ended: HashSet<i32>,
}

impl Wake {
    pub(super) fn new() -> Self {
        let (queue, refusal) = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(queue) => (Queue::Held(queue), None),
            Err(error) => (Queue::None, Some(error)),
        };
        Self {
            queue,
            refusal,
            #[cfg(test)]
            watches_max: std::cell::Cell::new(usize::MAX),
        }
    }

    /// Watches the file behind a held descriptor, whatever it is called by now. `None` where it cannot be.
    pub(super) fn watch(&mut self, file: &File) -> Option<i32> {
        #[cfg(test)]
        {
            let left = self.watches_max.get().checked_sub(1);
            let Some(left) = left else {
                self.refusal = Some(Errno::NOSPC);
                return None;
            };
            self.watches_max.set(left);
        }
        // A name could show another file by now; the descriptor cannot.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let what = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::MASK_CREATE;
        match inotify::add_watch(self.fd()?, path, what) {
            Ok(mark) => Some(mark),
            Err(error) => {
                self.refusal = Some(error);
                None
            }
        }
    }

    /// Ends a watch.
    pub(super) fn forget(&self, mark: i32) {
        if let Some(queue) = self.fd() {
            // It may have ended with its file.
            _ = inotify::remove_watch(queue, mark);
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

    /// Takes the notices that wait, and none wakes the loop any more until [`Self::written`] is asked.
    pub(super) fn take(&mut self) -> Touched {
        let mut touched = Touched::default();
        self.queue = match std::mem::replace(&mut self.queue, Queue::None) {
            Queue::Listening(listening) => Queue::Held(listening.into_inner()),
            other => other,
        };
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

    /// Ends when a watched file was written to; never without a queue.
    #[expect(deprecated, reason = "what replaces it is unsafe; the descriptor is owned here, so it is sound")]
    pub(super) async fn written(&mut self) {
        if let Queue::Held(_) = self.queue
            && let Queue::Held(queue) = std::mem::replace(&mut self.queue, Queue::None)
        {
            self.queue = match AsyncFd::try_with_interest(queue, Interest::READABLE) {
                Ok(listening) => Queue::Listening(listening),
                Err(refused) => {
                    tracing::warn!(error = %refused, "notices of the kernel cannot be waited for; logs are looked at");
                    Queue::Held(refused.into_parts().0)
                }
            };
        }
        match &self.queue {
            Queue::Listening(listening) if listening.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match &self.queue {
            Queue::None => None,
            Queue::Held(queue) => Some(queue.as_fd()),
            Queue::Listening(listening) => Some(listening.get_ref().as_fd()),
        }
    }
}
