//! Finds the log files of a host by pattern, and tells nobody's link from a file.
//!
//! Patterns come from the host's own settings only. Below the part without wildcards no link is followed: whoever may
//! write there could point it at anything. It reads no log.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Entries of folders that are looked at for one pattern.
const ENTRIES_MAX: usize = 20_000;
/// Files of one pattern.
const FILES_MAX: usize = 256;
/// What compressed files end with.
const COMPRESSED: [&str; 6] = [".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip"];

/// What a pattern found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Found {
    /// The part of the pattern without wildcards, below which no link is followed.
    pub(crate) base: PathBuf,
    /// The files, ascending, without rotated and compressed ones.
    pub(crate) files: Vec<PathBuf>,
    /// Whether there are more than are followed.
    pub(crate) has_more: bool,
}

/// The files of an absolute pattern below `root`; `*` and `?` match within one name.
#[must_use]
pub(crate) fn find(root: &Path, pattern: &Path) -> Found {
    let names: Vec<&OsStr> = pattern
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let Some((last, folders)) = names.split_last() else { return Found::default() };
    let literal = folders.iter().take_while(|name| !is_pattern(name)).count();
    let base = folders.iter().take(literal).fold(root.to_owned(), |path, name| path.join(name));
    let (mut left, mut has_more) = (ENTRIES_MAX, false);
    let mut within = vec![base.clone()];
    for name in folders.iter().skip(literal) {
        within = within.iter().flat_map(|folder| entries(folder, name, true, &mut left)).collect();
    }
    let mut files: Vec<PathBuf> = within.iter().flat_map(|folder| entries(folder, last, false, &mut left)).collect();
    files.sort();
    let all: HashSet<PathBuf> = files.iter().cloned().collect();
    files.retain(|path| !is_rotated(path, &all));
    has_more |= files.len() > FILES_MAX || left == 0;
    files.truncate(FILES_MAX);
    Found { base, files, has_more }
}

/// Whether a file is an older one of another that was found: that one's follower reads it.
fn is_rotated(path: &Path, all: &HashSet<PathBuf>) -> bool {
    let text = path.as_os_str().as_bytes();
    if COMPRESSED.iter().any(|end| text.ends_with(end.as_bytes())) {
        return true;
    }
    let cuts = text.iter().enumerate().filter(|(_, byte)| matches!(byte, b'.' | b'-')).map(|(at, _)| at);
    let ends_in_number = |at: usize| text[at + 1..].first().is_some_and(u8::is_ascii_digit);
    cuts.into_iter().any(|at| ends_in_number(at) && all.contains(Path::new(OsStr::from_bytes(&text[..at]))))
}

fn is_pattern(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?'))
}

/// The entries of a folder that match, folders or regular files, no links.
fn entries(folder: &Path, pattern: &OsStr, folders: bool, left: &mut usize) -> Vec<PathBuf> {
    let is_wanted = |path: &Path| {
        std::fs::symlink_metadata(path).is_ok_and(|meta| if folders { meta.is_dir() } else { meta.is_file() })
    };
    if !is_pattern(pattern) {
        return Some(folder.join(pattern)).filter(|path| is_wanted(path)).into_iter().collect();
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let name = entry.file_name();
        // As in a shell, what is hidden has to be named.
        let is_hidden = name.as_bytes().first() == Some(&b'.') && pattern.as_bytes().first() != Some(&b'.');
        if !is_hidden && name_matches(name.as_bytes(), pattern.as_bytes()) && is_wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    found
}

/// `*` matches any bytes, `?` one. Of two stars the first never has to be tried again: linear in the pattern's stars.
fn name_matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of, mut back) = (0, 0, None);
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                back = Some((of, at));
                of += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == name.get(at) => {
                (at, of) = (at + 1, of + 1);
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (at, of) = (from + 1, star + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(of..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// What tells a file from others, without opening it.
#[must_use]
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_by_pattern_and_rotated_ones_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "log/app/a.log",
            "log/app/b.log",
            "log/app/a.log.1",
            "log/app/a.log-20261122",
            "log/app/c.log.2.gz",
            "log/web/a.log",
            "log/web/.hidden.log",
            "log/web/x.txt",
            "outside/secret.log",
        ] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "x").unwrap();
        }
        symlink(root.join("outside/secret.log"), root.join("log/app/link.log")).unwrap();
        symlink(root.join("outside"), root.join("log/linked")).unwrap();
        fs::create_dir(root.join("log/app/folder.log")).unwrap();
        let names = |pattern: &str| {
            let found = find(root, Path::new(pattern));
            let names = found.files.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("/log/*/*.log"), "log/app/a.log log/app/b.log log/web/a.log");
        assert_eq!(names("/log/app/*.log*"), "log/app/a.log log/app/b.log");
        assert_eq!(names("/log/app/?.log"), "log/app/a.log log/app/b.log");
        assert_eq!(names("/log/web/a.log"), "log/web/a.log");
        assert_eq!(
            names("/log/linked/*.log"),
            "log/linked/secret.log",
            "what is named without wildcards is the host's own"
        );
        assert_eq!(names("/log/app/link.log"), "");
        assert_eq!(names("/absent/*.log"), "");
        assert_eq!(find(root, Path::new("/log/*/*.log")).base, root.join("log"));
    }

    #[test]
    fn more_files_than_may_be_followed_are_said() {
        let dir = tempfile::tempdir().unwrap();
        (0..FILES_MAX + 3).for_each(|n| fs::write(dir.path().join(format!("{n}.log")), "").unwrap());
        let found = find(dir.path(), Path::new("/*.log"));
        assert_eq!((found.files.len(), found.has_more), (FILES_MAX, true));
    }

    proptest::proptest! {
        #[test]
        fn patterns_match_as_regular_expressions_do(name in "[ab]{0,8}", pattern in "[ab*?]{0,8}") {
            let regex = format!("^{}$", pattern.replace('*', ".*").replace('?', "."));
            let expected = regex::Regex::new(&regex).unwrap().is_match(&name);
            proptest::prop_assert_eq!(name_matches(name.as_bytes(), pattern.as_bytes()), expected);
        }
    }
}
