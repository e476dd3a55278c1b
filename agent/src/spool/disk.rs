//! The few things that the spool asks of its folder, so that a test can pull the plug between any two of them.
//!
//! Nothing here knows what is in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A folder of files that only grow at their end.
pub(super) trait Disk: std::fmt::Debug {
    /// Names and lengths of all files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// At most `len` bytes from `from` on; fewer where the file ends.
    fn read(&self, name: &str, from: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Adds bytes at the end; makes the file where it is missing.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Takes away what is beyond `len`.
    fn cut(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Has what was added survive a power cut.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Has new names survive a power cut.
    fn sync_folder(&mut self) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A folder of the filesystem.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The file that is added to.
    open: Option<(String, File)>,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    fn writable(&mut self, name: &str) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some((known, file)) if known == name => file,
            _ => OpenOptions::new().append(true).create(true).open(self.path.join(name))?,
        };
        Ok(&mut self.open.insert((name.to_owned(), file)).1)
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str() {
                files.push((name.to_owned(), entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn read(&self, name: &str, from: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        let left = file.metadata()?.len().saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(len).min(len)];
        file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.writable(name)?.write_all(bytes)
    }

    fn cut(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.writable(name)?.set_len(len)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.writable(name)?.sync_data()
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.take_if(|(known, _)| known == name);
        fs::remove_file(self.path.join(name))
    }
}
