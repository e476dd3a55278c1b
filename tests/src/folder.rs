//! A folder of its own for each part of a test, short enough for unix sockets. Removed at the end,
//! with whatever is still mounted below it; kept, and named, when the test failed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A temporary folder that a failing test leaves behind for reading.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder whose name starts with `fw-` and the label.
    ///
    /// # Errors
    /// When the temporary directory is not writable.
    pub fn new(label: &str) -> Result<Self> {
        let made = tempfile::Builder::new().prefix(&format!("fw-{label}-")).tempdir();
        let path = made.context("a test needs a writable temporary directory")?.keep();
        Ok(Self { path })
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file below the folder, making its parents.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Unmounts everything below the folder, innermost first.
    fn unmount_below(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(&self.path));
        let mut below: Vec<&str> = below.collect();
        below.sort_unstable_by_key(|at| std::cmp::Reverse(at.len()));
        for at in below {
            _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.unmount_below();
        if std::thread::panicking() {
            eprintln!("kept for reading: {}", self.path.display());
        } else {
            _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
