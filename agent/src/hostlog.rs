//! Log files of the host that its own settings name: found by pattern, and shown as workloads of their own.
//!
//! Only the settings of the host say what is read here; nothing of it comes from a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use forewarn_common::block::{Entity, EntityKind};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Subject;

use crate::settings::{LogFiles, LogFormat};
use crate::tailer::{self, FirstLine, Format, Source};

/// How often the patterns are looked at anew.
const LOOK_MS: i64 = 30_000;

/// The files of one entry of the settings.
#[derive(Debug)]
struct Entry {
    files: LogFiles,
    first_line: Rc<FirstLine>,
    /// Whether the patterns were looked at before: what shows up later is read from its start.
    was_looked_at: bool,
    /// Each file with whether it was there at the first look.
    found: BTreeMap<PathBuf, bool>,
    base: PathBuf,
}

/// All log files of the host that are followed.
#[derive(Debug)]
pub(crate) struct HostLogs {
    host: HostId,
    root: PathBuf,
    entries: Vec<Entry>,
    look_at_ms: i64,
}

impl HostLogs {
    /// The entries of the settings, nothing looked at yet.
    ///
    /// # Errors
    /// A first line's pattern does not compile; the text names it.
    pub(crate) fn new(host: HostId, root: &Path, files: &[LogFiles]) -> Result<Self, String> {
        let entries = files.iter().map(|files| {
            let first_line = FirstLine::compile(&files.first_line)
                .map_err(|error| format!("log.files {}: first_line cannot be used: {error}", files.name))?;
            let first_line = Rc::new(first_line);
            let (found, base) = (BTreeMap::new(), PathBuf::new());
            Ok(Entry { files: files.clone(), first_line, was_looked_at: false, found, base })
        });
        Ok(Self { host, root: root.to_owned(), entries: entries.collect::<Result<_, String>>()?, look_at_ms: 0 })
    }

    /// Looks for files when it is time. `true` when there are others than before.
    pub(crate) fn look(&mut self, boot_ms: i64) -> bool {
        if self.entries.is_empty() || boot_ms < self.look_at_ms {
            return false;
        }
        self.look_at_ms = boot_ms + LOOK_MS;
        let mut has_changed = false;
        for entry in &mut self.entries {
            let now = tailer::find(&self.root, &entry.files.glob);
            if now.has_more && !entry.was_looked_at {
                tracing::warn!(files = entry.files.name, "a pattern finds more log files than are followed");
            }
            let is_old = !entry.was_looked_at;
            let before = std::mem::take(&mut entry.found);
            entry.found =
                now.files.into_iter().map(|path| (path.clone(), *before.get(&path).unwrap_or(&is_old))).collect();
            has_changed |= is_old || !before.keys().eq(entry.found.keys());
            (entry.was_looked_at, entry.base) = (true, now.base);
        }
        has_changed
    }

    /// What the tailer is to follow. A file that two patterns find is the first one's.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let mut seen = std::collections::HashSet::new();
        let all =
            self.entries.iter().flat_map(|entry| entry.found.iter().map(move |(path, is_old)| (entry, path, is_old)));
        let new = all.filter(|(_, path, _)| tailer::identity(path).is_none_or(|file| seen.insert(file)));
        new.map(|(entry, path, is_old)| {
            let whose = Whose::of(&entry.files, path);
            Source {
                id: format!("file:{}", path.display()),
                entity: whose.entity(self.host),
                path: Some(path.clone()),
                beneath: Some(entry.base.clone()),
                subject: Subject { name: whose.name, ..Subject::default() },
                format: match entry.files.format {
                    LogFormat::Plain => Format::Plain,
                    LogFormat::JsonFile => Format::JsonFile,
                    LogFormat::Cri => Format::Cri,
                },
                first_line: Rc::clone(&entry.first_line),
                is_old: *is_old,
                is_running: true,
            }
        })
        .collect()
    }

    /// What the dictionary says of them.
    pub(crate) fn entities(&self) -> Vec<Entity> {
        let mut entities = BTreeMap::new();
        for entry in &self.entries {
            for path in entry.found.keys() {
                let whose = Whose::of(&entry.files, path);
                let attributes = vec![("log_files".to_owned(), entry.files.glob.display().to_string())];
                let (id, name, component) = (whose.entity(self.host), whose.name, whose.component);
                entities.insert(id.0, Entity { id, kind: EntityKind::Workload, name, component, attributes });
            }
        }
        entities.into_values().collect()
    }

    /// Each entry's name and files, for `check`.
    pub(crate) fn found(&self) -> impl Iterator<Item = (&LogFiles, Vec<&Path>)> {
        self.entries.iter().map(|entry| (&entry.files, entry.found.keys().map(PathBuf::as_path).collect()))
    }
}

/// Whose log a file is.
struct Whose {
    name: String,
    component: String,
}

impl Whose {
    /// A container of a pod where the path says so (`<namespace>_<pod>_<uid>/<container>/<restarts>.log`), else the
    /// entry of the settings.
    fn of(files: &LogFiles, path: &Path) -> Self {
        let pod = || {
            let container = path.parent()?;
            let folder = container.parent()?.file_name()?.to_str()?;
            let (namespace, rest) = folder.split_once('_')?;
            let (pod, _) = rest.split_once('_')?;
            Some((namespace.to_owned(), format!("{namespace}/{pod}/{}", container.file_name()?.to_str()?)))
        };
        match pod().filter(|_| files.format == LogFormat::Cri) {
            Some((component, name)) => Self { name, component },
            None => Self { name: files.name.clone(), component: files.component.clone() },
        }
    }

    fn entity(&self, host: HostId) -> EntityId {
        EntityId::of(host, &format!("log:{}", self.name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_followed_as_workloads_and_pods_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("var/log/pods/shop_web-7d9f_0a1b/nginx")).unwrap();
        fs::write(at("var/log/app.log"), "old\n").unwrap();
        fs::write(at("var/log/pods/shop_web-7d9f_0a1b/nginx/0.log"), "").unwrap();
        let files = |name: &str, glob: &str, format| LogFiles {
            name: name.into(),
            glob: glob.into(),
            format,
            component: "site".into(),
            first_line: String::new(),
        };
        let entries = [
            files("app", "/var/log/*.log", LogFormat::Plain),
            files("pods", "/var/log/pods/*/*/*.log", LogFormat::Cri),
        ];
        let mut logs = HostLogs::new(HostId([1; 16]), dir.path(), &entries).unwrap();
        assert!(logs.look(0));
        fs::write(at("var/log/new.log"), "new\n").unwrap();
        assert!(!logs.look(LOOK_MS - 1), "it is not time yet");
        assert!(logs.look(LOOK_MS));
        assert!(!logs.look(2 * LOOK_MS), "nothing has changed");
        let names: Vec<_> = logs.entities().into_iter().map(|entity| (entity.name, entity.component)).collect();
        assert!(names.contains(&("app".to_owned(), "site".to_owned())), "{names:?}");
        assert!(names.contains(&("shop/web-7d9f/nginx".to_owned(), "shop".to_owned())), "{names:?}");
        let sources = logs.sources();
        let old: Vec<_> = sources.iter().map(|source| (source.id.rsplit('/').next().unwrap(), source.is_old)).collect();
        assert_eq!(old, [("app.log", true), ("new.log", false), ("0.log", true)]);
        assert!(
            HostLogs::new(HostId([1; 16]), dir.path(), &[LogFiles { first_line: "(".into(), ..entries[0].clone() }])
                .unwrap_err()
                .contains("log.files app: first_line cannot be used")
        );
    }
}
