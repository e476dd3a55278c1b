//! Follows one log file by a held descriptor: growth, rotation by rename, rotation by truncation.
//!
//! A position is inode, offset and a fingerprint of the file's first bytes, so that a file is known again under
//! another name, and a truncated one is not taken for itself.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memchr_iter, memrchr};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::frame::{Format, Joiner, Line, Record, SPLIT_BYTES};

/// Bytes that tell a file from another of the same inode; log lines begin with times, so few are enough.
const FINGERPRINT_BYTES_MAX: usize = 256;
/// Bytes read at once; a record longer than this is cut.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Rotated files that are looked at: `.1` to this, or so many with a date.
const ROTATED_MAX: u32 = 20;
/// Files of the log's folder among which those with a date are looked for.
const SIBLINGS_MAX: usize = 4096;
/// A new log is seen within this; the rotated ones that were not written to since are those of an earlier one.
const NEW_WITHIN_MS: i64 = 600_000;
/// Digits of a date at least: what has fewer is another log.
const DATE_DIGITS_MIN: usize = 8;
/// Files read one after the other in one poll when a log rotates faster than it is polled.
const FILES_A_POLL_MAX: u32 = ROTATED_MAX + 2;

/// Where a reader is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Reading goes on here: where the oldest open line begins.
    pub(super) offset: u64,
    /// Lines that end in a record before this have been counted: those of one stream pass those of the other.
    #[serde(default)]
    pub(super) counted: u64,
    /// Within a record that is longer than a chunk and has been counted.
    #[serde(default)]
    pub(super) is_skipping: bool,
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
    /// Whether the path shows neither the held file nor one to go on with: somebody is about to make one.
    pub(super) is_turning: bool,
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

    /// Goes past lines that were not chosen, between two that were.
    fn go_past(&mut self, lines: &[u8]);
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
    beneath: Option<PathBuf>,
    format: Format,
    begin: Begin,
    open: Option<Open>,
    joiner: Joiner,
    /// The file before the held one, or what was the newest rotated one when the first was opened: it and what is
    /// older is not read.
    previous: Option<Position>,
    /// When the held file was changed last (a rename counts), if its path was looked at long enough after that:
    /// while this stays, the path still shows the held file.
    settled_at: Option<(i64, i64)>,
}

impl Follower {
    pub(super) fn new(path: PathBuf, beneath: Option<PathBuf>, format: Format, begin: Begin) -> Self {
        Self { path, beneath, format, begin, open: None, joiner: Joiner::default(), previous: None, settled_at: None }
    }

    /// Where reading goes on after a restart; `None` while no file was found.
    pub(super) fn position(&self) -> Option<Position> {
        match (&self.open, self.begin) {
            (Some(open), _) => Some(open.at),
            (None, Begin::At(position)) => Some(position),
            (None, _) => None,
        }
    }

    /// The file that is held, and what tells it from others.
    pub(super) fn held(&self) -> Option<(&File, (u64, u64))> {
        self.open.as_ref().map(|open| (&open.file, (open.at.device, open.at.inode)))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.joiner.held_bytes()
    }

    /// Reads what is new, at most about `budget` bytes, and gives every whole line to `see`. Whether the path still
    /// shows the held file is looked at only where it may not.
    pub(super) fn poll(
        &mut self,
        buffer: &mut Vec<u8>,
        budget: u64,
        may_have_turned: bool,
        now_ms: i64,
        sink: &mut dyn Sink,
    ) -> Progress {
        let mut progress = Progress::default();
        if self.open.is_none() && !self.open_first(now_ms, &mut progress) {
            return progress;
        }
        for _ in 0..FILES_A_POLL_MAX {
            if !self.read_on(buffer, budget, &mut progress, sink) {
                break;
            }
            if progress.more || !may_have_turned {
                return progress;
            }
            // The held file is read to its end. If the path shows another one by now, it follows.
            let Some(next) = self.successor(now_ms, &mut progress) else { break };
            // Rotation happens after the last write: what came between is read before the file is left.
            self.read_on(buffer, budget, &mut progress, sink);
            if progress.more {
                return progress;
            }
            self.finish(sink);
            match Open::new(next, 0) {
                Ok(open) => {
                    // A file that was removed is no mark in the row of rotated ones; the one before it still is.
                    let left = self.open.replace(open);
                    let left = left.filter(|left| self.rotated().any(|file| left.is(&file)));
                    self.previous = left.map(|left| left.at).or(self.previous);
                }
                Err(_) => break,
            }
        }
        progress
    }

    /// Opens the file for the first time. `false` while there is none.
    fn open_first(&mut self, now_ms: i64, progress: &mut Progress) -> bool {
        let Ok(file) = open_log(&self.path, self.beneath.as_deref()) else { return false };
        let open = match self.begin {
            // A new log may have rotated before the first look: its oldest file comes first. Those of an earlier life
            // were written to before that.
            Begin::Start => {
                let is_of_now = |file: &File| {
                    let written = file.metadata().map(|meta| meta.mtime().saturating_mul(1000));
                    written.is_ok_and(|written_ms| written_ms > now_ms.saturating_sub(NEW_WITHIN_MS))
                };
                Open::new(self.rotated().take_while(is_of_now).last().unwrap_or(file), 0)
            }
            Begin::End => file.metadata().and_then(|meta| Open::new(file, meta.len())),
            Begin::At(position) => self.resume(file, position, progress),
        };
        self.previous = open.as_ref().ok().and_then(|open| self.older(open));
        self.open = open.ok();
        self.open.is_some()
    }

    /// Finds the file in which an earlier run stopped, under its path or among the rotated ones.
    fn resume(&self, current: File, position: Position, progress: &mut Progress) -> io::Result<Open> {
        if position.matches(&current) {
            return Ok(Open::at(current, position));
        }
        let rotated = self.rotated().find(|file| position.matches(file));
        let copy = || self.rotated().next().filter(|file| position.is_copied_to(file));
        match rotated.or_else(copy) {
            Some(file) => Open::new(file, position.offset).map(|open| open.from(position)),
            None => {
                // How much there was after the position cannot be known; that something is missing can.
                progress.lost_bytes += 1;
                Open::new(current, 0)
            }
        }
    }

    /// The rotated file that is older than `open`.
    fn older(&self, open: &Open) -> Option<Position> {
        let is_current = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| open.at.is_same_file(&meta));
        let mut chain = self.rotated();
        let older = if is_current { chain.next() } else { chain.skip_while(|file| !open.is(file)).nth(1) };
        older.and_then(|file| Open::new(file, 0).ok()).map(|open| open.at)
    }

    /// The rotated files, newest first: `.1`, `.2`, …, or where there are none those with a date.
    fn rotated(&self) -> impl Iterator<Item = File> + '_ {
        let named = |number| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let open = |path: PathBuf| open_log(&path, self.beneath.as_deref()).ok();
        let mut numbered = (1..=ROTATED_MAX).map(named).map_while(open).peekable();
        let dated = if numbered.peek().is_none() { dated(&self.path) } else { Vec::new() };
        numbered.chain(dated.into_iter().map_while(open))
    }

    /// The file that follows the held one, if the path no longer shows that.
    fn successor(&mut self, now_ms: i64, progress: &mut Progress) -> Option<File> {
        let held = self.open.as_ref()?;
        if self.settled_at == Some(held.changed_at) {
            return None;
        }
        let Ok(shown) = std::fs::symlink_metadata(&self.path) else {
            progress.is_turning = true;
            return None;
        };
        if held.at.is_same_file(&shown) {
            let changed_at = (shown.ctime(), shown.ctime_nsec());
            let is_settled = changed_at.0.saturating_mul(1000).saturating_add(SETTLED_AFTER_MS + 1000) < now_ms;
            self.settled_at = is_settled.then_some(changed_at);
            return None;
        }
        let Ok(current) = open_log(&self.path, self.beneath.as_deref()) else {
            progress.is_turning = true;
            return None;
        };
        // Between two looks a log may rotate more than once: the one made right after the held one is next.
        let mut newer = None;
        for file in self.rotated() {
            if held.is(&file) || self.previous.is_some_and(|previous| previous.matches(&file)) {
                return Some(newer.unwrap_or(current));
            }
            newer = Some(file);
        }
        if newer.is_some() {
            // The held file was the oldest and is removed: whether others were before the next look cannot be known.
            progress.lost_bytes += 1;
        }
        Some(newer.unwrap_or(current))
    }

    /// The copy that was made of the held file before that was emptied, if it has all that was read.
    fn copied(&self) -> Option<Open> {
        let held = self.open.as_ref()?;
        let at = Position { offset: held.read, ..held.at };
        let copy = self.rotated().next().filter(|file| at.is_copied_to(file))?;
        Open::new(copy, held.read).ok()
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
                let (read, len) = (open.read, open.len);
                let copy = self.copied();
                let has_rest = |copy: &Open| copy.file.metadata().is_ok_and(|meta| meta.len() > read);
                self.previous = copy.as_ref().map(|copy| copy.at).or(self.previous);
                if let Some(copy) = copy.filter(has_rest) {
                    // Copied and emptied: the rest is in the copy, and the emptied file follows that by its path.
                    self.open = self.open.take().map(|emptied| copy.from(emptied.at));
                    self.settled_at = None;
                    continue;
                }
                let Some(open) = &mut self.open else { return false };
                // Truncated: what had been seen and not yet read is gone; what came after that nobody knows.
                progress.lost_bytes += len.saturating_sub(read);
                while let Some(line) = self.joiner.finish() {
                    sink.see(&Seen { line: &line, file: &open.file, rest: &[] });
                }
                self.joiner.reset();
                open.at = Position { device: open.at.device, inode: open.at.inode, ..Position::default() };
                open.read = 0;
            }
            let Some(open) = &mut self.open else { return false };
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
            let fresh_from = open.read.max(open.at.counted);
            let taken = take_records(open, chunk, self.format, &mut self.joiner, sink);
            progress.bytes += open.read.saturating_sub(fresh_from);
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
        if !tail.is_empty() && !open.at.is_skipping {
            let record = Record { ends_line: true, ..self.format.parse(tail, &mut scratch) };
            if let Some(line) = self.joiner.add(&record, open.read) {
                sink.see(&Seen { line: &line, file: &open.file, rest: &[] });
            }
        }
        while let Some(line) = self.joiner.finish() {
            sink.see(&Seen { line: &line, file: &open.file, rest: &[] });
        }
        self.joiner.reset();
    }
}

/// Takes the whole records of a chunk; how many bytes they have. A chunk without an end is taken as a cut record.
fn take_records(open: &mut Open, chunk: &[u8], format: Format, joiner: &mut Joiner, sink: &mut dyn Sink) -> usize {
    let mut taken = 0;
    if open.at.is_skipping {
        match memchr(b'\n', chunk) {
            Some(end) => {
                taken = end + 1;
                open.at.is_skipping = false;
            }
            None => taken = chunk.len(),
        }
    }
    let whole = memrchr(b'\n', chunk).map_or(taken, |end| end + 1);
    let mut scratch = Vec::new();
    let lines = chunk.get(taken..whole).unwrap_or_default();
    let is_plain = joiner.open_from().is_none() && open.read >= open.at.counted;
    let mut starts = Vec::new();
    if is_plain && !has_long_record(lines) && !format.has_parts(lines) && sink.choose(lines, &mut starts) {
        let mut past = 0;
        for start in &starts {
            let rest = lines.get(*start..).unwrap_or_default();
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let from = open.read + (taken + start) as u64;
            sink.go_past(lines.get(past..*start).unwrap_or_default());
            past = start + end + 1;
            take_record(open, &rest[..end], from, format, joiner, &mut scratch, rest.get(end + 1..), sink);
        }
        sink.go_past(lines.get(past..).unwrap_or_default());
        sink.pass_over(memchr_iter(b'\n', lines).count() as u64 - starts.len() as u64);
        taken = whole;
    }
    while taken < whole {
        let rest = chunk.get(taken..whole).unwrap_or_default();
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let from = open.read + taken as u64;
        take_record(open, &rest[..end], from, format, joiner, &mut scratch, rest.get(end + 1..), sink);
        taken += end + 1;
    }
    let mut taken = taken.min(chunk.len());
    if taken == 0 && chunk.len() == CHUNK_BYTES {
        take_record(open, chunk, open.read, format, joiner, &mut scratch, None, sink);
        open.at.is_skipping = true;
        taken = chunk.len();
    }
    open.read += taken as u64;
    open.at.counted = open.read.max(open.at.counted);
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
    open: &Open,
    record: &[u8],
    from: u64,
    format: Format,
    joiner: &mut Joiner,
    scratch: &mut Vec<u8>,
    rest: Option<&[u8]>,
    sink: &mut dyn Sink,
) {
    let record = format.parse(record, scratch);
    if let Some(line) = joiner.add(&record, from)
        && from >= open.at.counted
    {
        sink.see(&Seen { line: &line, file: &open.file, rest: rest.unwrap_or_default() });
    }
}

/// The files beside a log that have its name and a date behind it, newest first: `app.log-20261122` (logrotate's
/// `dateext`), `0.log.20261122-101500` (kubelet). What is compressed cannot be read on and has letters there.
fn dated(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let Ok(siblings) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_date = |rest: &[u8]| {
        rest.iter().all(|byte| byte.is_ascii_digit() || b"-._T:".contains(byte))
            && rest.iter().filter(|byte| byte.is_ascii_digit()).count() >= DATE_DIGITS_MIN
            && matches!(rest.first(), Some(b'-' | b'.'))
    };
    let of_log = |sibling: &OsString| sibling.as_bytes().strip_prefix(name.as_bytes()).is_some_and(is_date);
    let names = siblings.take(SIBLINGS_MAX).filter_map(|sibling| Some(sibling.ok()?.file_name()));
    let mut names: Vec<OsString> = names.filter(of_log).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.truncate(ROTATED_MAX as usize);
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Opens a log. A name may have become a link, a pipe or a device since it was chosen: none of them is read, nor is
/// a link followed on the way below `beneath`.
pub(super) fn open_log(path: &Path, beneath: Option<&Path>) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let below = beneath.and_then(|base| Some((base, path.strip_prefix(base).ok()?)));
    let opened = below.map(|(base, rest)| {
        let folder = rustix::fs::open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(folder, rest, how, Mode::empty(), within)
    });
    let opened = match opened {
        // Kernels before 5.6 do not know it; the last name is still no link.
        None | Some(Err(Errno::NOSYS)) => rustix::fs::open(path, how, Mode::empty()),
        Some(opened) => opened,
    };
    let file = File::from(opened?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

impl Open {
    fn new(file: File, offset: u64) -> io::Result<Self> {
        let meta = file.metadata()?;
        let mut at = Position { device: meta.dev(), inode: meta.ino(), offset, ..Position::default() };
        at.take_print(&file);
        Ok(Self::at(file, at))
    }

    fn at(file: File, at: Position) -> Self {
        Self { file, read: at.offset, len: at.offset, at, written_at: (0, 0), changed_at: (0, 0) }
    }

    /// Goes on in this file, where reading is by now, with what was known at `at`.
    fn from(mut self, at: Position) -> Self {
        self.at = Position { offset: at.offset, counted: at.counted, is_skipping: at.is_skipping, ..self.at };
        self
    }

    fn is(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|meta| self.at.is_same_file(&meta))
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

    /// Whether `file` begins as the file of this position did, and goes as far.
    fn is_copied_to(&self, file: &File) -> bool {
        self.print_bytes > 0 && file.metadata().is_ok_and(|meta| meta.len() >= self.offset) && self.has_print_of(file)
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
