//! Held descriptors of kernel text files and the few ways to take numbers out of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use memchr::{memchr, memmem};
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
            Ok(filled) => buffer.get(..filled),
            Err(_) => {
                self.file = None;
                None
            }
        }
    }
}

/// Reads until a read gives less than `end_below` bytes; how many there are. The buffer only grows: to clear it for every
/// file would cost a tenth of a sample.
fn read_all(file: &File, buffer: &mut Vec<u8>, end_below: usize) -> std::io::Result<usize> {
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
    Ok(filled)
}

/// Lines without their ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    })
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

/// The number after `key` in a text of `key value` lines. It looks for the key, not at every line: some texts are long.
pub(super) fn value_of(text: &[u8], key: &[u8]) -> Option<u64> {
    memmem::find_iter(text, key).find_map(|at| {
        let begins_line = at == 0 || text.get(at - 1) == Some(&b'\n');
        let rest = text.get(at + key.len()..).filter(|_| begins_line)?;
        let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
        matches!(line.first(), Some(b' ' | b'\t')).then(|| words(line).next().and_then(number))?
    })
}

/// The only number of a text; `max` and anything else is `None`.
pub(super) fn only_number(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}
