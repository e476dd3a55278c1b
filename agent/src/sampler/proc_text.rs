//! Held descriptors of kernel text files and the few ways to take numbers out of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A `/proc/stat` of a host with many interrupts stays below; what is longer is cut.
const TEXT_BYTES_MAX: usize = 1 << 20;
const CHUNK_BYTES: usize = 4096;
/// The kernel fills a read up to the next line that does not fit its page: less than this is the end of every file
/// but a mount table, whose lines may be as long as a page.
const SHORT_BYTES: usize = 2048;

/// A kernel file that is opened at its first reading and kept open.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    file: Option<File>,
    has_long_lines: bool,
}

impl Held {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, has_long_lines: false }
    }

    /// A file whose lines may be as long as a page.
    pub(super) fn with_long_lines(path: impl Into<PathBuf>) -> Self {
        Self { has_long_lines: true, ..Self::new(path) }
    }

    /// Whether the kernel says that the file has changed since this was asked last, as it does of mount tables; `true`
    /// where the file is not open.
    pub(super) fn has_changed(&self) -> bool {
        let Some(file) = &self.file else { return true };
        let mut asked = [PollFd::new(file, PollFlags::PRI)];
        let answer = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        answer.is_err() || asked[0].revents().intersects(PollFlags::PRI | PollFlags::ERR)
    }

    /// Reads the whole file into `buffer`. `None` when it is not there (any more); the next call opens it anew.
    pub(super) fn read<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let file = self.file.as_ref()?;
        match read_all(file, buffer, if self.has_long_lines { 1 } else { SHORT_BYTES }) {
            Ok(()) => Some(buffer.as_slice()),
            Err(_) => {
                self.file = None;
                None
            }
        }
    }
}

/// Reads until a read gives less than `end_below` bytes.
fn read_all(file: &File, buffer: &mut Vec<u8>, end_below: usize) -> std::io::Result<()> {
    let mut filled = 0;
    loop {
        if buffer.len() < filled + CHUNK_BYTES {
            buffer.resize(filled + CHUNK_BYTES, 0);
        }
        let Some(room) = buffer.get_mut(filled..) else { break };
        let got = file.read_at(room, filled as u64)?;
        filled += got;
        if got < end_below || filled >= TEXT_BYTES_MAX {
            break;
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// Lines without their ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Words between blanks.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty())
}

/// A decimal number; `None` for anything else, overflow included.
pub(super) fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |acc, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        acc.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The number after `key` in a text of `key value` lines.
pub(super) fn value_of(text: &[u8], key: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| {
        let mut words = words(line);
        (words.next()? == key).then(|| words.next().and_then(number)).flatten()
    })
}

/// The only number of a text; `max` and anything else is `None`.
pub(super) fn only_number(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}
