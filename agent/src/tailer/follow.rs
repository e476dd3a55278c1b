//! Follows one log file by a held descriptor: growth, rotation by rename, rotation by truncation.
//!
//! A position is inode, offset and a fingerprint of the file's first bytes, so that a file is known again under
//! another name, and a truncated one is not taken for itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memchr_iter, memrchr};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::frame::{Format, Joiner, Line, Record, SPLIT_BYTES};

/// Bytes that tell a file from another of the same inode; log lines begin with times, so few are enough.
const FINGERPRINT_BYTES_MAX: usize = 256;
/// Bytes read at once; a record longer than this is cut.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Rotated files that are looked at: `.1` to this.
const ROTATED_MAX: u32 = 20;
/// Files read one after the other in one poll when a log rotates faster than it is polled.
const FILES_A_POLL_MAX: u32 = ROTATED_MAX + 2;

/// Where a reader is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Everything before this has been counted.
    pub(super) offset: u64,
    /// How many of the first bytes are in the fingerprint.
    pub(super) print_bytes: u32,
    /// Their crc32c.
    pub(super) print: u32,
}

/// Where reading begins when nothing is known of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// A log of a container born under the agent's eyes.
    Start,
    /// A log that was there before: its past is not news.
    End,
    /// Where an earlier run of the agent stopped.
    At(Position),
}

/// A file that was changed this shortly before it was looked at may change again without its times showing it.
const SETTLED_AFTER_MS: i64 = 1_000;

/// What a poll met.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes read.
    pub(super) bytes: u64,
    /// Bytes known to be gone before they were read.
    pub(super) lost_bytes: u64,
    /// Whether the budget ended before the data did.
    pub(super) more: bool,
}

/// Takes lines.
pub(super) trait Sink {
    /// Takes one line.
    fn see(&mut self, seen: &Seen<'_>);

    /// Puts where the lines begin that have to be seen into `starts`, ascending; all others are only counted.
    /// `false` when every line has to be seen.
    fn choose(&mut self, lines: &[u8], starts: &mut Vec<usize>) -> bool;

    /// Counts lines that were not chosen.
    fn pass_over(&mut self, lines: u64);
}

/// A line in its surroundings.
pub(super) struct Seen<'a> {
    pub(super) line: &'a Line<'a>,
    /// The file that the line is in.
    pub(super) file: &'a File,
    /// What follows the line in the same batch.
    pub(super) rest: &'a [u8],
}

/// A file that is being read.
#[derive(Debug)]
struct Open {
    file: File,
    at: Position,
    /// How far records have been taken; ahead of the position while a line is open.
    read: u64,
    /// The length at the last look.
    len: u64,
    /// When it was written to last, at the last look.
    written_at: (i64, i64),
    /// When it was changed in any way, at the last look.
    changed_at: (i64, i64),
}

/// Follows the log at one path.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    format: Format,
    begin: Begin,
    open: Option<Open>,
    joiner: Joiner,
    /// Within a record that is longer than a chunk.
    skipping: bool,
    marked: Option<Position>,
    /// When the held file was changed last (a rename counts), if its path was looked at long enough after that:
    /// while this stays, the path still shows the held file.
    settled_at: Option<(i64, i64)>,
}

impl Follower {
    pub(super) fn new(path: PathBuf, format: Format, begin: Begin) -> Self {
        let marked = if let Begin::At(position) = begin { Some(position) } else { None };
        Self { path, format, begin, open: None, joiner: Joiner::default(), skipping: false, marked, settled_at: None }
    }

    /// Takes the position as it is now for the next checkpoint.
    pub(super) fn mark(&mut self) {
        match (&self.open, self.begin) {
            (Some(open), _) => self.marked = Some(open.at),
            (None, Begin::At(position)) => self.marked = Some(position),
            (None, _) => {}
        }
    }

    pub(super) fn marked(&self) -> Option<Position> {
        self.marked
    }

    /// The file that is held, and what tells it from others.
    pub(super) fn held(&self) -> Option<(&File, (u64, u64))> {
        self.open.as_ref().map(|open| (&open.file, (open.at.device, open.at.inode)))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.joiner.held_bytes()
    }

    /// Reads what is new, at most about `budget` bytes, and gives every whole line to `see`.
    pub(super) fn poll(&mut self, buffer: &mut Vec<u8>, budget: u64, now_ms: i64, sink: &mut dyn Sink) -> Progress {
        let mut progress = Progress::default();
        if self.open.is_none() && !self.open_first(&mut progress) {
            return progress;
        }
        for _ in 0..FILES_A_POLL_MAX {
            if !self.read_on(buffer, budget, &mut progress, sink) {
                break;
            }
            if progress.more {
                return progress;
            }
            // The held file is read to its end. If the path shows another one by now, it follows.
            let Some(next) = self.successor(now_ms) else { break };
            // Rotation happens after the last write: what came between is read before the file is left.
            self.read_on(buffer, budget, &mut progress, sink);
            if progress.more {
                return progress;
            }
            self.finish(sink);
            match Open::new(next, 0) {
                Ok(open) => self.open = Some(open),
                Err(_) => break,
            }
        }
        progress
    }

    /// Opens the file for the first time. `false` while there is none.
    fn open_first(&mut self, progress: &mut Progress) -> bool {
        let Ok(file) = open_log(&self.path) else { return false };
        let open = match self.begin {
            // A new log may have rotated before the first look: its oldest file comes first.
            Begin::Start => Open::new(self.rotated().last().map_or(file, |(_, oldest)| oldest), 0),
            Begin::End => file.metadata().and_then(|meta| Open::new(file, meta.len())),
            Begin::At(position) => self.resume(file, position, progress),
        };
        self.open = open.ok();
        self.open.is_some()
    }

    /// Finds the file in which an earlier run stopped, under its path or among the rotated ones.
    fn resume(&self, current: File, position: Position, progress: &mut Progress) -> io::Result<Open> {
        if position.matches(&current) {
            return Ok(Open::at(current, position));
        }
        let rotated = self.rotated().map(|(_, file)| file).find(|file| position.matches(file));
        match rotated {
            Some(file) => Ok(Open::at(file, position)),
            None => {
                // How much there was after the position cannot be known; that something is missing can.
                progress.lost_bytes += 1;
                Open::new(current, 0)
            }
        }
    }

    /// The rotated files, newest first: `.1`, `.2`, …
    fn rotated(&self) -> impl Iterator<Item = (u32, File)> + '_ {
        (1..=ROTATED_MAX).map_while(|number| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            open_log(&PathBuf::from(name)).ok().map(|file| (number, file))
        })
    }

    /// The file that follows the held one, if the path no longer shows that.
    fn successor(&mut self, now_ms: i64) -> Option<File> {
        let held = self.open.as_ref()?;
        if self.settled_at == Some(held.changed_at) {
            return None;
        }
        let is_held = |file: &File| file.metadata().is_ok_and(|meta| held.at.is_same_file(&meta));
        let shown = std::fs::metadata(&self.path).ok()?;
        if held.at.is_same_file(&shown) {
            let changed_at = (shown.ctime(), shown.ctime_nsec());
            let is_settled = changed_at.0.saturating_mul(1000).saturating_add(SETTLED_AFTER_MS + 1000) < now_ms;
            self.settled_at = is_settled.then_some(changed_at);
            return None;
        }
        let current = open_log(&self.path).ok()?;
        // Between two looks a log may rotate more than once: the one made right after the held one is next.
        let mut newer = None;
        for (_, file) in self.rotated() {
            if is_held(&file) {
                return Some(newer.unwrap_or(current));
            }
            newer = Some(file);
        }
        Some(current)
    }

    /// Reads the held file to its end or to the budget's. `false` when it cannot be read any more.
    fn read_on(&mut self, buffer: &mut Vec<u8>, budget: u64, progress: &mut Progress, sink: &mut dyn Sink) -> bool {
        loop {
            let Some(open) = &mut self.open else { return false };
            let Ok(meta) = open.file.metadata() else {
                self.let_go();
                return false;
            };
            let len = meta.len();
            // A file that was emptied and written again may have any length by now.
            open.changed_at = (meta.ctime(), meta.ctime_nsec());
            let written_at = (meta.mtime(), meta.mtime_nsec());
            let was_written = std::mem::replace(&mut open.written_at, written_at) != written_at;
            if len < open.read || ((was_written || len > open.read) && !open.at.has_print_of(&open.file)) {
                // Truncated: what had been seen and not yet read is gone; what came after that nobody knows.
                progress.lost_bytes += open.len.saturating_sub(open.read);
                self.joiner.reset();
                self.skipping = false;
                open.at = Position { offset: 0, print_bytes: 0, print: 0, ..open.at };
                open.read = 0;
            }
            open.len = len;
            if len <= open.read {
                self.joiner.shrink();
                return true;
            }
            if progress.bytes >= budget {
                progress.more = true;
                return true;
            }
            let wanted = usize::try_from(len - open.read).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            if buffer.len() < wanted {
                buffer.resize(wanted, 0);
            }
            let Some(room) = buffer.get_mut(..wanted) else { return false };
            let Ok(got) = open.file.read_at(room, open.read) else {
                self.let_go();
                return false;
            };
            let chunk = room.get(..got).unwrap_or_default();
            if open.at.print_bytes < FINGERPRINT_BYTES_MAX as u32 {
                open.at.take_print(&open.file);
            }
            let taken = take_records(open, chunk, self.format, &mut self.joiner, &mut self.skipping, sink);
            progress.bytes += taken as u64;
            if taken == 0 || open.read >= len {
                // The last record is not whole yet, or there was no more at this look.
                self.joiner.shrink();
                return true;
            }
        }
    }

    /// Closes the file; it is looked for again where reading stopped.
    pub(super) fn let_go(&mut self) {
        if let Some(open) = self.open.take() {
            self.begin = Begin::At(open.at);
        }
        self.joiner.reset();
    }

    /// The held file is left for good: what it ends with is a line.
    pub(super) fn finish(&mut self, sink: &mut dyn Sink) {
        let Some(open) = &self.open else { return };
        let mut tail = vec![0; CHUNK_BYTES];
        let got = open.file.read_at(&mut tail, open.read).unwrap_or(0);
        let tail = tail.get(..got).unwrap_or_default();
        let mut scratch = Vec::new();
        if !tail.is_empty() && !self.skipping {
            let record = self.format.parse(tail, &mut scratch);
            let record = Record { text: record.text, ends_line: true };
            if let Some(line) = self.joiner.add(&record, open.read) {
                sink.see(&Seen { line: &line, file: &open.file, rest: &[] });
            }
        }
        if let Some(line) = self.joiner.finish() {
            sink.see(&Seen { line: &line, file: &open.file, rest: &[] });
        }
        self.joiner.reset();
        self.skipping = false;
    }
}

/// Takes the whole records of a chunk; how many bytes they have. A chunk without an end is taken as a cut record.
fn take_records(
    open: &mut Open,
    chunk: &[u8],
    format: Format,
    joiner: &mut Joiner,
    skipping: &mut bool,
    sink: &mut dyn Sink,
) -> usize {
    let mut taken = 0;
    if *skipping {
        match memchr(b'\n', chunk) {
            Some(end) => {
                taken = end + 1;
                *skipping = false;
            }
            None => taken = chunk.len(),
        }
    }
    let whole = memrchr(b'\n', chunk).map_or(taken, |end| end + 1);
    let mut scratch = Vec::new();
    let lines = chunk.get(taken..whole).unwrap_or_default();
    let mut starts = Vec::new();
    if joiner.open_from().is_none() && !has_long_record(lines) && sink.choose(lines, &mut starts) {
        for start in &starts {
            let rest = lines.get(*start..).unwrap_or_default();
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let from = open.read + (taken + start) as u64;
            take_record(&open.file, &rest[..end], from, format, joiner, &mut scratch, rest.get(end + 1..), sink);
        }
        sink.pass_over(memchr_iter(b'\n', lines).count() as u64 - starts.len() as u64);
        taken = whole;
    }
    while taken < whole {
        let rest = chunk.get(taken..whole).unwrap_or_default();
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let from = open.read + taken as u64;
        take_record(&open.file, &rest[..end], from, format, joiner, &mut scratch, rest.get(end + 1..), sink);
        taken += end + 1;
    }
    let taken = taken.min(chunk.len());
    if taken == 0 && chunk.len() == CHUNK_BYTES {
        take_record(&open.file, chunk, open.read, format, joiner, &mut scratch, None, sink);
        *skipping = true;
        open.read += chunk.len() as u64;
        open.at.offset = open.read;
        return chunk.len();
    }
    open.read += taken as u64;
    open.at.offset = joiner.open_from().unwrap_or(open.read);
    taken
}

/// Whether a record may be long enough to be only a part of a line: then no newline is within one of these strides.
fn has_long_record(lines: &[u8]) -> bool {
    let strides = lines.chunks_exact(SPLIT_BYTES / 2);
    strides.into_iter().any(|stride| memchr(b'\n', stride).is_none())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one borrow, split so that they can be lent apart")]
fn take_record(
    file: &File,
    record: &[u8],
    from: u64,
    format: Format,
    joiner: &mut Joiner,
    scratch: &mut Vec<u8>,
    rest: Option<&[u8]>,
    sink: &mut dyn Sink,
) {
    let record = format.parse(record, scratch);
    if let Some(line) = joiner.add(&record, from) {
        sink.see(&Seen { line: &line, file, rest: rest.unwrap_or_default() });
    }
}

/// Opens a log. A name may have become a link, a pipe or a device since it was chosen: none of them is read.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, how, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

impl Open {
    fn new(file: File, offset: u64) -> io::Result<Self> {
        let meta = file.metadata()?;
        let mut at = Position { device: meta.dev(), inode: meta.ino(), offset, print_bytes: 0, print: 0 };
        at.take_print(&file);
        Ok(Self::at(file, at))
    }

    fn at(file: File, at: Position) -> Self {
        Self { file, read: at.offset, len: at.offset, at, written_at: (0, 0), changed_at: (0, 0) }
    }
}

impl Position {
    fn is_same_file(&self, meta: &std::fs::Metadata) -> bool {
        (self.device, self.inode) == (meta.dev(), meta.ino())
    }

    fn matches(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|meta| self.is_same_file(&meta) && meta.len() >= self.offset)
            && self.has_print_of(file)
    }

    fn has_print_of(&self, file: &File) -> bool {
        let mut first = [0; FINGERPRINT_BYTES_MAX];
        let want = (self.print_bytes as usize).min(FINGERPRINT_BYTES_MAX);
        let Some(first) = first.get_mut(..want) else { return false };
        file.read_exact_at(first, 0).is_ok() && crc32c::crc32c(first) == self.print
    }

    fn take_print(&mut self, file: &File) {
        let mut first = [0; FINGERPRINT_BYTES_MAX];
        if let Some(first) = file.read_at(&mut first, 0).ok().and_then(|got| first.get(..got)) {
            self.print_bytes = first.len() as u32;
            self.print = crc32c::crc32c(first);
        }
    }
}
