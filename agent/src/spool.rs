//! Blocks that no server has acknowledged yet, with the log positions that they cover, in segments that only grow.
//!
//! Constraints: a block and its positions are whole or absent together after a power cut at any point (one record, one
//! sync; what was acknowledged may come back and is sent again); the folder never exceeds its cap, the oldest segment
//! goes first and its blocks are counted; a full disk costs at most the oldest blocks held in memory meanwhile, counted
//! too. Nothing here knows the network.

mod disk;
mod earlier;
mod record;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use disk::{Disk, Folder};
use forewarn_common::block::{Header, RawBlock};
use forewarn_common::limit;
use record::{HEAD_BYTES, Head};

/// Blocks that wait in memory while the disk refuses them.
const MEMORY_BYTES_MAX: u64 = 2 << 20;
/// A segment that has grown beyond this is followed by the next.
const SEGMENT_BYTES: u64 = 64 << 10;
/// A block that needs more than this part of the cap is dropped: it would push out too many others.
const BLOCK_SHARE: u64 = 4;
/// Below the data folder.
const FOLDER: &str = "spool";
const SEGMENT_SUFFIX: &str = ".segment";
/// Blocks of versions up to 0.1 are a file each.
const SUFFIX: &str = "block";

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use spool folder {}: {source}; make it a folder that the agent may write to", path.display())]
pub(crate) struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

/// Says whether the spool below `data_dir` can be written, without touching what a running agent does.
///
/// # Errors
/// The folder cannot be made or written.
pub(crate) fn probe(data_dir: &Path) -> Result<(), SpoolError> {
    let folder = data_dir.join(FOLDER);
    let probe = folder.join(format!("probe-{}", std::process::id()));
    let tried =
        fs::create_dir_all(&folder).and_then(|()| fs::File::create(&probe)).and_then(|_| fs::remove_file(&probe));
    tried.map_err(|source| SpoolError { path: folder, source })
}

/// The blocks that wait below `data_dir`, oldest first, as a running agent has written them so far.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn waiting(data_dir: &Path) -> Result<Vec<Key>, SpoolError> {
    let folder = data_dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let index = Index::read(&Folder::new(&folder)).map_err(|source| SpoolError { path: folder, source })?;
    Ok(index.blocks.into_keys().collect())
}

/// The blocks in the bytes of one file of a spool, or the one that the bytes are.
#[must_use]
pub(crate) fn blocks_in(bytes: &[u8]) -> Vec<&[u8]> {
    let (records, _) = record::scan(bytes);
    let block = |(at, head): &(u64, Head)| {
        let begin = usize::try_from(*at).ok()? + HEAD_BYTES;
        bytes.get(begin..begin + head.block_bytes as usize).filter(|_| !head.is_done)
    };
    if records.is_empty() { vec![bytes] } else { records.iter().filter_map(block).collect() }
}

/// Names a block and orders it: by time, then by epoch and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// When the block was closed, unix milliseconds.
    pub(crate) closed_ms: i64,
    /// The block's epoch.
    pub(crate) epoch: u64,
    /// The block's number in its epoch.
    pub(crate) seq: u64,
}

impl Key {
    /// The key of the block with this header.
    #[must_use]
    pub(crate) fn of(header: &Header) -> Self {
        Self { closed_ms: header.closed_ms.max(0), epoch: header.epoch, seq: header.seq }
    }

    /// The key as text.
    #[must_use]
    pub(crate) fn file_name(self) -> String {
        format!("{:015}-{:016x}-{:010}.{SUFFIX}", self.closed_ms, self.epoch, self.seq)
    }

    /// Reads what [`Self::file_name`] wrote.
    #[must_use]
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.strip_suffix('.')?.split('-');
        let key = Self {
            closed_ms: parts.next()?.parse().ok()?,
            epoch: u64::from_str_radix(parts.next()?, 16).ok()?,
            seq: parts.next()?.parse().ok()?,
        };
        (key.file_name() == name).then_some(key)
    }
}

/// Where a block is.
#[derive(Debug)]
enum Place {
    /// In a segment.
    Record { segment: u64, at: u64, head: Head },
    /// In a file of its own.
    File { bytes: u64 },
    /// In memory, with its positions, because the disk refuses it.
    Memory { block: Vec<u8>, positions: Vec<u8> },
}

impl Place {
    fn bytes(&self) -> u64 {
        match self {
            Self::Record { head, .. } => HEAD_BYTES as u64 + head.body_bytes(),
            Self::File { bytes } => *bytes,
            Self::Memory { block, .. } => block.len() as u64,
        }
    }
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    /// Blocks that have not been acknowledged.
    waiting: u64,
    /// Whether it says of blocks, maybe of older segments, that they are done.
    says_done: bool,
}

/// What is in the folder.
#[derive(Debug, Default)]
struct Index {
    blocks: BTreeMap<Key, Place>,
    segments: BTreeMap<u64, Segment>,
    /// The newest positions and the segment that they are in.
    positions: Option<(u64, Vec<u8>)>,
    damaged: u64,
    /// Bytes of all blocks that wait, and of those that are files of their own or in memory.
    waiting_bytes: u64,
    file_bytes: u64,
    memory_bytes: u64,
    /// Files that a crash left half written.
    scraps: Vec<String>,
}

impl Index {
    fn read(disk: &dyn Disk) -> io::Result<Self> {
        let mut index = Self::default();
        let mut segments = Vec::new();
        for (name, bytes) in disk.list()? {
            if let Some(key) = Key::parse(&name) {
                index.insert(key, Place::File { bytes });
            } else if let Some(number) = segment_number(&name) {
                segments.push((number, bytes));
            } else if name.ends_with(".tmp") {
                index.scraps.push(name);
            }
        }
        segments.sort_unstable();
        for (number, bytes) in segments {
            let len = usize::try_from(bytes).unwrap_or(usize::MAX).min(2 * limit::BLOCK_BYTES_MAX);
            // A running agent may have removed it meanwhile.
            let Ok(content) = disk.read(&segment_name(number), 0, len) else { continue };
            index.segments.insert(number, Segment { bytes, ..Segment::default() });
            index.add(number, &content);
        }
        Ok(index)
    }

    fn add(&mut self, segment: u64, content: &[u8]) {
        let (records, damaged) = record::scan(content);
        self.damaged += damaged;
        for (at, head) in records {
            if head.is_done {
                self.remove(head.key);
                self.segments.entry(segment).or_default().says_done = true;
                continue;
            }
            let begin = usize::try_from(at).unwrap_or(usize::MAX).saturating_add(HEAD_BYTES);
            let body = content.get(begin..begin.saturating_add(head.body_bytes() as usize));
            if let Some((_, positions)) = body.and_then(|body| head.open(body)) {
                self.positions = Some((segment, positions.to_vec()));
            }
            self.insert(head.key, Place::Record { segment, at, head });
        }
    }

    fn insert(&mut self, key: Key, place: Place) {
        self.count(&place, u64::wrapping_add);
        if let Some(replaced) = self.blocks.insert(key, place) {
            self.count(&replaced, u64::wrapping_sub);
        }
    }

    fn remove(&mut self, key: Key) -> Option<Place> {
        let place = self.blocks.remove(&key)?;
        self.count(&place, u64::wrapping_sub);
        Some(place)
    }

    /// Adds a block to the sums, or takes it away.
    fn count(&mut self, place: &Place, change: fn(u64, u64) -> u64) {
        self.waiting_bytes = change(self.waiting_bytes, place.bytes());
        match place {
            Place::Record { segment, .. } => {
                if let Some(segment) = self.segments.get_mut(segment) {
                    segment.waiting = change(segment.waiting, 1);
                }
            }
            Place::File { bytes } => self.file_bytes = change(self.file_bytes, *bytes),
            Place::Memory { .. } => self.memory_bytes = change(self.memory_bytes, place.bytes()),
        }
    }
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    disk: Box<dyn Disk>,
    /// Where positions of earlier versions are, until there are newer ones.
    earlier: Option<PathBuf>,
    bytes_max: u64,
    segment_bytes: u64,
    index: Index,
    /// The segment that is added to. What a start finds is never added to: its end may be torn.
    current: Option<u64>,
    /// Whether its name survives a power cut.
    is_current_named: bool,
    next_segment: u64,
    /// Blocks in memory in the order in which they came.
    memory: VecDeque<Key>,
    /// The block that was written last: it is the next to be sent, and need not be read back for that.
    fresh: Option<(Key, Vec<u8>)>,
    dropped: u64,
}

impl Spool {
    /// Opens the spool below `data_dir`, makes it where it is missing and removes what a crash left half written.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub(crate) fn open(data_dir: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        probe(data_dir)?;
        let folder = data_dir.join(FOLDER);
        let mut spool = Self::on(Box::new(Folder::new(&folder)), bytes_max)
            .map_err(|source| SpoolError { path: folder.clone(), source })?;
        spool.earlier = Some(data_dir.to_owned());
        Ok(spool)
    }

    fn on(disk: Box<dyn Disk>, bytes_max: u64) -> io::Result<Self> {
        let mut index = Index::read(&*disk)?;
        let scraps = std::mem::take(&mut index.scraps);
        let next_segment = index.segments.keys().next_back().map_or(0, |last| last + 1);
        let mut spool = Self {
            disk,
            earlier: None,
            bytes_max,
            segment_bytes: SEGMENT_BYTES.min(bytes_max / 16),
            index,
            current: None,
            is_current_named: false,
            next_segment,
            memory: VecDeque::new(),
            fresh: None,
            dropped: 0,
        };
        for scrap in scraps {
            spool.disk.remove(&scrap)?;
        }
        spool.tidy();
        spool.make_room(0);
        Ok(spool)
    }

    /// The newest log positions that were written with a block; `None` when there are none.
    #[must_use]
    pub(crate) fn positions(&self) -> Option<Vec<u8>> {
        let own = self.index.positions.as_ref().map(|(_, positions)| positions.clone());
        own.or_else(|| earlier::positions(self.earlier.as_deref()?, |key| self.index.blocks.contains_key(&key)))
    }

    /// Keeps a block and the log positions that it covers; whether both are on disk. When the disk refuses them, they
    /// wait in memory, and so does what comes after them; what no longer fits is dropped and counted.
    pub(crate) fn push(&mut self, key: Key, block: Vec<u8>, positions: Vec<u8>) -> bool {
        let bytes = (HEAD_BYTES + block.len() + positions.len()) as u64;
        if bytes > self.bytes_max / BLOCK_SHARE {
            tracing::error!(bytes, "a block is too large for spool_bytes_max and is dropped");
            self.dropped += 1;
            return false;
        }
        if self.settle() {
            match self.write(key, &block, &positions) {
                Ok(()) => {
                    self.fresh = Some((key, block));
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, "the spool cannot write a block to disk and keeps it in memory");
                }
            }
        }
        self.index.insert(key, Place::Memory { block, positions });
        self.memory.push_back(key);
        while self.index.memory_bytes > MEMORY_BYTES_MAX {
            let Some(key) = self.memory.pop_front() else { break };
            self.index.remove(key);
            self.dropped += 1;
        }
        false
    }

    /// Moves blocks from memory to disk if the disk takes them again, oldest first; whether none is left.
    pub(crate) fn settle(&mut self) -> bool {
        while let Some(key) = self.memory.front().copied() {
            let Some(Place::Memory { block, positions }) = self.index.remove(key) else {
                self.memory.pop_front();
                continue;
            };
            if self.write(key, &block, &positions).is_err() {
                self.index.insert(key, Place::Memory { block, positions });
                return false;
            }
            self.memory.pop_front();
        }
        true
    }

    fn write(&mut self, key: Key, block: &[u8], positions: &[u8]) -> io::Result<()> {
        let record = record::of_block(key, block, positions);
        let head = Head::parse(&record).ok_or(io::ErrorKind::InvalidData)?;
        self.make_room(record.len() as u64);
        let is_full = |number: u64| self.index.segments.get(&number).is_none_or(|it| it.bytes >= self.segment_bytes);
        self.current.take_if(|number| is_full(*number));
        let (segment, at) = self.append(&record)?;
        let named = |spool: &mut Self| if spool.is_current_named { Ok(()) } else { spool.disk.sync_folder() };
        let synced = self.disk.sync(&segment_name(segment)).and_then(|()| named(self));
        if let Err(error) = synced {
            self.take_back(segment, at);
            return Err(error);
        }
        self.is_current_named = true;
        self.index.insert(key, Place::Record { segment, at, head });
        let before = self.index.positions.replace((segment, positions.to_vec()));
        if let Some(data_dir) = self.earlier.take() {
            earlier::forget(&data_dir);
        }
        if before.is_none_or(|(before, _)| before != segment) {
            self.tidy();
        }
        Ok(())
    }

    /// Adds to the current segment, or to a new one; which, and where it begins there.
    fn append(&mut self, record: &[u8]) -> io::Result<(u64, u64)> {
        let segment = *self.current.get_or_insert_with(|| {
            (self.is_current_named, self.next_segment) = (false, self.next_segment + 1);
            self.next_segment - 1
        });
        let at = self.index.segments.entry(segment).or_default().bytes;
        if let Err(error) = self.disk.append(&segment_name(segment), record) {
            self.take_back(segment, at);
            return Err(error);
        }
        self.index.segments.entry(segment).or_default().bytes += record.len() as u64;
        Ok((segment, at))
    }

    /// Takes back what was only half written: it must not stand before what comes next.
    fn take_back(&mut self, segment: u64, len: u64) {
        let name = segment_name(segment);
        let is_back = match len {
            0 => self.disk.remove(&name).is_ok(),
            _ => self.disk.cut(&name, len).is_ok(),
        };
        if let Some(kept) = self.index.segments.get_mut(&segment) {
            kept.bytes = len;
        }
        if len == 0 {
            self.index.segments.remove(&segment);
        }
        if len == 0 || !is_back {
            self.current = None;
        }
    }

    /// The newest block and its bytes. What is damaged is removed and counted on the way.
    pub(crate) fn newest(&mut self) -> Option<(Key, Vec<u8>)> {
        loop {
            let key = *self.index.blocks.keys().next_back()?;
            if let Some((_, block)) = self.fresh.take().filter(|(fresh, _)| *fresh == key) {
                return Some((key, block));
            }
            match self.read(key) {
                Some(bytes) => return Some((key, bytes)),
                None => {
                    self.index.damaged += 1;
                    self.remove(key);
                }
            }
        }
    }

    fn read(&self, key: Key) -> Option<Vec<u8>> {
        let bytes = match self.index.blocks.get(&key)? {
            Place::Memory { block, .. } => block.clone(),
            Place::File { .. } => self.disk.read(&key.file_name(), 0, limit::BLOCK_BYTES_MAX + 1).ok()?,
            Place::Record { segment, at, head } => {
                let body = usize::try_from(head.body_bytes()).ok()?;
                let mut body = self.disk.read(&segment_name(*segment), at + HEAD_BYTES as u64, body).ok()?;
                let block = head.open(&body)?.0.len();
                body.truncate(block);
                body
            }
        };
        let sound = RawBlock::parse(&bytes).is_ok_and(|block| Key::of(&block.header) == key);
        sound.then_some(bytes)
    }

    /// Removes a block that was acknowledged or refused for good.
    pub(crate) fn remove(&mut self, key: Key) {
        match self.index.remove(key) {
            Some(Place::Record { segment, .. }) => {
                // Not synced: a block that comes back is sent again and found to be known.
                if let Ok((current, _)) = self.append(&record::of_done(key)) {
                    self.index.segments.entry(current).or_default().says_done = true;
                }
                if Some(segment) != self.current {
                    self.tidy();
                }
            }
            Some(Place::File { .. }) => drop(self.disk.remove(&key.file_name())),
            Some(Place::Memory { .. }) | None => {}
        }
    }

    /// Removes the segments in which nothing waits; the one with the newest positions stays, and so does what says of
    /// blocks of older segments that they are done.
    fn tidy(&mut self) {
        let kept = [self.current, self.index.positions.as_ref().map(|(segment, _)| *segment)];
        let mut is_oldest = true;
        let mut done = Vec::new();
        for (number, segment) in &self.index.segments {
            let is_done = segment.waiting == 0 && !kept.contains(&Some(*number)) && (is_oldest || !segment.says_done);
            is_oldest &= is_done;
            done.extend(is_done.then_some(*number));
        }
        done.into_iter().for_each(|number| self.remove_segment(number));
    }

    fn remove_segment(&mut self, number: u64) {
        // One that stays is found again at the next start, and its blocks are sent again and found to be known.
        let _ = self.disk.remove(&segment_name(number));
        self.index.segments.remove(&number);
    }

    /// Drops the oldest until so many bytes fit below the cap.
    fn make_room(&mut self, bytes: u64) {
        while self.disk_bytes() + bytes > self.bytes_max {
            let mut blocks = self.index.blocks.iter();
            let is_file = |place: &Place| matches!(place, Place::File { .. });
            let file = if self.index.file_bytes > 0 { blocks.find(|(_, place)| is_file(place)) } else { None };
            if let Some(key) = file.map(|(key, _)| *key) {
                self.remove(key);
                self.dropped += 1;
                continue;
            }
            let kept = self.index.positions.as_ref().map(|(segment, _)| *segment);
            let Some(number) = self.index.segments.keys().copied().find(|number| Some(*number) != kept) else { break };
            let is_in = |place: &Place| matches!(place, Place::Record { segment, .. } if *segment == number);
            let gone: Vec<Key> =
                self.index.blocks.iter().filter(|(_, place)| is_in(place)).map(|(key, _)| *key).collect();
            self.dropped += gone.len() as u64;
            gone.into_iter().for_each(|key| drop(self.index.remove(key)));
            self.current.take_if(|current| *current == number);
            self.remove_segment(number);
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.index.segments.values().map(|segment| segment.bytes).sum::<u64>() + self.index.file_bytes
    }

    /// Whether a block waits in memory, because the disk refused it.
    #[must_use]
    pub(crate) fn is_in_memory(&self) -> bool {
        self.index.memory_bytes > 0
    }

    /// Blocks that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.index.blocks.len()
    }

    /// Bytes that wait, on disk and in memory.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.index.waiting_bytes
    }

    /// Counts a block that the server refused for good.
    pub(crate) fn refuse(&mut self, key: Key) {
        self.remove(key);
        self.dropped += 1;
    }

    /// Blocks dropped for want of room, refused or found damaged, since the start.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped + self.index.damaged
    }
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}{SEGMENT_SUFFIX}")
}

fn segment_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(SEGMENT_SUFFIX)?, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
