//! Blocks that no server has acknowledged yet, one file each.
//!
//! Constraints: a block is whole or absent after a power cut at any point (temporary file, sync, rename, sync of
//! the folder; the block carries its own checksums); the folder never exceeds its cap, the oldest block goes first
//! and is counted; a full disk costs at most the oldest blocks held in memory meanwhile, counted too. Nothing here
//! knows the network.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use forewarn_common::block::{Header, RawBlock};
use forewarn_common::limit;

/// Blocks that wait in memory while the disk refuses them.
const MEMORY_BYTES_MAX: u64 = 2 << 20;
/// What a file takes at least: the cap counts disk, not payload.
const FILE_BYTES_MIN: u64 = 4096;
const SUFFIX: &str = "block";

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use spool folder {}: {source}; make it a folder that the agent may write to", path.display())]
pub(crate) struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

/// How many blocks wait in `folder`; says whether it can be written without touching what a running agent does.
///
/// # Errors
/// The folder cannot be made, read or written.
pub(crate) fn probe(folder: &Path) -> Result<usize, SpoolError> {
    let fail = |source| SpoolError { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(fail)?;
    let probe = folder.join(format!("probe-{}", std::process::id()));
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(fail)?;
    let names = fs::read_dir(folder).map_err(fail)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_str().and_then(Key::parse).is_some()).count())
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

    /// The key as text: the name of the block's file.
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

#[derive(Debug)]
enum Place {
    File { bytes: u64 },
    Memory(Vec<u8>),
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    blocks: BTreeMap<Key, Place>,
    file_bytes: u64,
    memory_bytes: u64,
    dropped: u64,
    damaged: u64,
}

impl Spool {
    /// Opens the folder, makes it where it is missing and removes what a crash left half written.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        let fail = |source| SpoolError { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(fail)?;
        let mut spool = Self {
            folder: folder.to_owned(),
            bytes_max,
            blocks: BTreeMap::new(),
            file_bytes: 0,
            memory_bytes: 0,
            dropped: 0,
            damaged: 0,
        };
        for entry in fs::read_dir(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            match name.to_str().and_then(Key::parse) {
                Some(key) => {
                    let bytes = disk_bytes(entry.metadata().map_err(fail)?.len());
                    spool.file_bytes += bytes;
                    spool.blocks.insert(key, Place::File { bytes });
                }
                None if name.to_str().is_some_and(|name| name.ends_with(".tmp")) => {
                    fs::remove_file(entry.path()).map_err(fail)?;
                }
                None => {}
            }
        }
        probe(folder)?;
        spool.drop_oldest_beyond_cap();
        Ok(spool)
    }

    /// Keeps a block; whether it is on disk. When the disk refuses it, it waits in memory; what no longer fits is
    /// dropped and counted.
    pub(crate) fn push(&mut self, key: Key, bytes: Vec<u8>) -> bool {
        let place = match self.write(key, &bytes) {
            Ok(()) => {
                let bytes = disk_bytes(bytes.len() as u64);
                self.file_bytes += bytes;
                Place::File { bytes }
            }
            Err(error) => {
                tracing::warn!(%error, "the spool cannot write a block to disk and keeps it in memory");
                self.memory_bytes += bytes.len() as u64;
                Place::Memory(bytes)
            }
        };
        let is_on_disk = matches!(place, Place::File { .. });
        if let Some(replaced) = self.blocks.insert(key, place) {
            self.forget(&replaced);
        }
        self.drop_oldest_beyond_cap();
        is_on_disk
    }

    /// Moves blocks from memory to disk if the disk takes them again.
    pub(crate) fn settle(&mut self) {
        let waiting: Vec<Key> =
            self.blocks.iter().filter(|(_, place)| matches!(place, Place::Memory(_))).map(|(key, _)| *key).collect();
        for key in waiting {
            let Some(Place::Memory(bytes)) = self.blocks.get(&key) else { continue };
            let bytes = bytes.clone();
            if self.write(key, &bytes).is_err() {
                return;
            }
            self.memory_bytes -= bytes.len() as u64;
            let bytes = disk_bytes(bytes.len() as u64);
            self.file_bytes += bytes;
            self.blocks.insert(key, Place::File { bytes });
        }
    }

    fn write(&self, key: Key, bytes: &[u8]) -> io::Result<()> {
        let name = key.file_name();
        let temporary = self.folder.join(format!("{name}.tmp"));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        });
        let kept = written.and_then(|()| fs::rename(&temporary, self.folder.join(&name)));
        if kept.is_err() {
            // What is half written would take the room that is missing.
            let _ = fs::remove_file(&temporary);
        }
        kept?;
        File::open(&self.folder)?.sync_all()
    }

    /// The newest block and its bytes. Damaged files are removed and counted on the way.
    pub(crate) fn newest(&mut self) -> Option<(Key, Vec<u8>)> {
        loop {
            let key = *self.blocks.keys().next_back()?;
            match self.read(key) {
                Some(bytes) => return Some((key, bytes)),
                None => {
                    self.damaged += 1;
                    self.remove(key);
                }
            }
        }
    }

    fn read(&self, key: Key) -> Option<Vec<u8>> {
        let bytes = match self.blocks.get(&key)? {
            Place::Memory(bytes) => bytes.clone(),
            Place::File { bytes } if *bytes <= disk_bytes(limit::BLOCK_BYTES_MAX as u64) => {
                fs::read(self.folder.join(key.file_name())).ok()?
            }
            Place::File { .. } => return None,
        };
        let sound = RawBlock::parse(&bytes).is_ok_and(|block| Key::of(&block.header) == key);
        sound.then_some(bytes)
    }

    /// Removes a block that was acknowledged or refused for good.
    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(place) = self.blocks.remove(&key) {
            self.forget(&place);
            if matches!(place, Place::File { .. }) {
                // A file that stays is sent again and acknowledged as known: once, exactly, holds.
                let _ = fs::remove_file(self.folder.join(key.file_name()));
            }
        }
    }

    fn forget(&mut self, place: &Place) {
        match place {
            Place::File { bytes } => self.file_bytes -= bytes,
            Place::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
        }
    }

    fn drop_oldest_beyond_cap(&mut self) {
        while self.file_bytes > self.bytes_max {
            let oldest = self.blocks.iter().find(|(_, place)| matches!(place, Place::File { .. }));
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            self.remove(key);
            self.dropped += 1;
        }
        while self.memory_bytes > MEMORY_BYTES_MAX {
            let oldest = self.blocks.iter().find(|(_, place)| matches!(place, Place::Memory(_)));
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            self.remove(key);
            self.dropped += 1;
        }
    }

    /// Whether a block waits on disk.
    #[must_use]
    pub(crate) fn is_on_disk(&self, key: Key) -> bool {
        matches!(self.blocks.get(&key), Some(Place::File { .. }))
    }

    /// Whether a block waits in memory, because the disk refused it.
    #[must_use]
    pub(crate) fn is_in_memory(&self) -> bool {
        self.memory_bytes > 0
    }

    /// Blocks that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes that wait, on disk and in memory.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.file_bytes + self.memory_bytes
    }

    /// Counts a block that the server refused for good.
    pub(crate) fn refuse(&mut self, key: Key) {
        self.remove(key);
        self.dropped += 1;
    }

    /// Blocks dropped for want of room, refused or found damaged, since the start.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped + self.damaged
    }
}

fn disk_bytes(len: u64) -> u64 {
    len.div_ceil(FILE_BYTES_MIN).max(1) * FILE_BYTES_MIN
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
