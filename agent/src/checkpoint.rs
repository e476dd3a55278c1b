//! Log positions on disk, tied to the block that carries the counts of what was read up to them.
//!
//! The positions are staged before the block is spooled and take effect after it: whatever dies in between, either
//! both survive or neither, so each line is counted once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::spool::{Key, Spool};

const FILE: &str = "positions";
const STAGED_FILE: &str = "positions.staged";
/// A position is some 150 bytes; more than ten thousand logs are no log positions.
const BYTES_MAX: u64 = 4 << 20;

/// The positions' folder.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    folder: PathBuf,
}

impl Checkpoint {
    /// Opens the folder and settles what a crash left staged: it counts if its block was spooled.
    #[must_use]
    pub(crate) fn open(folder: &Path, spool: &Spool) -> Self {
        let checkpoint = Self { folder: folder.to_owned() };
        let staged = folder.join(STAGED_FILE);
        let key = read(&staged).and_then(|bytes| {
            let first = bytes.split(|byte| *byte == b'\n').next()?;
            Key::parse(std::str::from_utf8(first).ok()?)
        });
        match key {
            Some(key) if spool.is_on_disk(key) => checkpoint.commit(),
            // Nothing staged, or staged for a block that never was.
            _ => drop(fs::remove_file(&staged)),
        }
        checkpoint
    }

    /// The positions that count; `None` when there are none.
    #[must_use]
    pub(crate) fn positions(&self) -> Option<Vec<u8>> {
        let bytes = read(&self.folder.join(FILE))?;
        let body = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        bytes.get(body..).map(<[u8]>::to_vec)
    }

    /// Writes positions that take effect with the block `key`.
    ///
    /// # Errors
    /// The disk refuses them.
    pub(crate) fn stage(&self, key: Key, positions: &[u8]) -> io::Result<()> {
        let mut file = File::create(self.folder.join(STAGED_FILE))?;
        file.write_all(key.file_name().as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(positions)?;
        file.sync_data()
    }

    /// Lets the staged positions take effect.
    pub(crate) fn commit(&self) {
        let renamed = fs::rename(self.folder.join(STAGED_FILE), self.folder.join(FILE));
        let synced = renamed.and_then(|()| File::open(&self.folder)?.sync_all());
        if let Err(error) = synced {
            tracing::warn!(%error, "log positions could not be kept; after a restart some lines may be counted again");
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let is_small = fs::metadata(path).ok()?.len() <= BYTES_MAX;
    is_small.then(|| fs::read(path).ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn key(seq: u64) -> Key {
        Key { closed_ms: 5, epoch: 7, seq }
    }

    #[test]
    fn positions_count_only_with_their_block() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), 1 << 20).unwrap();
        let checkpoint = Checkpoint::open(dir.path(), &spool);
        assert_eq!(checkpoint.positions(), None);
        checkpoint.stage(key(1), b"one").unwrap();
        assert_eq!(checkpoint.positions(), None, "staged is not in effect");
        checkpoint.commit();
        assert_eq!(checkpoint.positions().unwrap(), b"one");

        checkpoint.stage(key(2), b"two").unwrap();
        let reopened = Checkpoint::open(dir.path(), &spool);
        assert_eq!(reopened.positions().unwrap(), b"one", "the block was never spooled");

        reopened.stage(key(3), b"three").unwrap();
        fs::write(dir.path().join("spool").join(key(3).file_name()), b"x").unwrap();
        let spool = Spool::open(&dir.path().join("spool"), 1 << 20).unwrap();
        assert_eq!(Checkpoint::open(dir.path(), &spool).positions().unwrap(), b"three", "the block was spooled");
    }
}
