//! Where our own two programs are: `FOREWARN_BIN` (a folder), else `target/release`, because what is
//! tested end to end is what ships: static, with the console inside, at its real speed and size.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::repository;

/// The path of `forewarn-server` or `forewarn-agent`.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("FOREWARN_BIN").map_or_else(|| repository().join("target/release"), PathBuf::from);
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing: make build", path.display());
    Ok(path.canonicalize()?)
}
