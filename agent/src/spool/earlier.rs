//! Log positions as versions up to 0.1 kept them: a file beside the spool, staged before a block was written and
//! taken over after it. They are read once and gone with the first block that is written.

use std::fs;
use std::path::Path;

use super::Key;

const FILE: &str = "positions";
const STAGED_FILE: &str = "positions.staged";
/// A position is some 150 bytes; more than ten thousand logs are no log positions.
const BYTES_MAX: u64 = 4 << 20;

/// The positions that count: those staged, if the block that they were staged for was written.
pub(super) fn positions(data_dir: &Path, is_written: impl Fn(Key) -> bool) -> Option<Vec<u8>> {
    let staged = read(&data_dir.join(STAGED_FILE)).filter(|(key, _)| is_written(*key));
    staged.or_else(|| read(&data_dir.join(FILE))).map(|(_, positions)| positions)
}

/// Removes them.
pub(super) fn forget(data_dir: &Path) {
    for name in [STAGED_FILE, FILE] {
        // Whatever stays counts for nothing any more.
        let _ = fs::remove_file(data_dir.join(name));
    }
}

/// A line with the block's name, then the positions.
fn read(path: &Path) -> Option<(Key, Vec<u8>)> {
    let is_small = fs::metadata(path).ok()?.len() <= BYTES_MAX;
    let bytes = is_small.then(|| fs::read(path).ok())??;
    let end = memchr::memchr(b'\n', &bytes)?;
    let key = Key::parse(std::str::from_utf8(&bytes[..end]).ok()?)?;
    Some((key, bytes.get(end + 1..)?.to_vec()))
}
