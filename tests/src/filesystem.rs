//! A small real filesystem that can be filled: ext4 in a file, on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::folder::Folder;
use crate::process::run;

/// A mounted filesystem of a few megabytes.
#[derive(Debug)]
pub struct SmallFilesystem {
    mount_point: PathBuf,
    // Dropped last, after the unmount.
    folder: Folder,
}

impl SmallFilesystem {
    /// Makes and mounts an ext4 filesystem of this size (without a journal or reserved blocks).
    ///
    /// # Errors
    /// When e2fsprogs or loop devices are missing, or the test is not root.
    pub fn new(size_mb: u64) -> Result<Self> {
        let folder = Folder::new("fs")?;
        let image = folder.join("image");
        std::fs::File::create(&image)?.set_len(size_mb * 1024 * 1024)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-O", "^has_journal"]).arg(&image))?;
        let mount_point = folder.join("mount");
        std::fs::create_dir(&mount_point)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount_point))
            .context("mount a small filesystem")?;
        Ok(Self { mount_point, folder })
    }

    /// Where it is mounted; give it to a container with `-v`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Used and total bytes, as `df` counts them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn used_and_total_bytes(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.mount_point)?;
        Ok(((stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    /// The folder that holds the image, outside of the small filesystem.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallFilesystem {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.mount_point)).is_err() {
            // Something still holds a file in it: let go of the name now, of the rest later.
            _ = run(Command::new("umount").arg("-l").arg(&self.mount_point));
        }
    }
}
