//! Settings: the file, the command line's overrides and the one environment variable. Nothing else reads either.
//!
//! Paths, globs and sockets come from here alone: the server's configuration may narrow what the agent reads,
//! never widen it.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use forewarn_common::keyword::{self, KeywordRule};
use forewarn_common::limit;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Where the settings are looked for when `--config` does not say.
pub(crate) const FILE_DEFAULT: &str = "/etc/forewarn/agent.toml";

/// A settings file is a page, not a book.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Faster than this, a sample would mostly measure the agent.
const SAMPLE_INTERVAL_MS_MIN: u64 = 200;
/// Slower than this, nothing is early.
const SAMPLE_INTERVAL_MS_MAX: u64 = 300_000;
/// Room for a day of blocks of a small host.
const SPOOL_BYTES_MIN: u64 = 1 << 20;

/// Entries of log files; each may find many.
const LOG_FILES_MAX: usize = 32;
/// Faster than this a component would mostly be busy telling of itself.
const SCRAPE_INTERVAL_MS_MIN: u64 = 1_000;
/// Endpoints by address.
const SCRAPE_TARGETS_MAX: usize = 64;
/// Series of one endpoint; all of a host have a limit of their own.
const SCRAPE_SERIES_MAX: usize = 2_000;
/// Names to include and to exclude.
const SCRAPE_NAMES_MAX: usize = 64;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read settings file {}: {source}; create it or name another with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("settings file {} is not valid: {detail}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and accepted values.
        detail: String,
    },
    /// A value is outside what it may be.
    #[error("{origin}: {key} is {got}, accepted is {accepted}")]
    Value {
        /// The file, or what stands in for it.
        origin: String,
        /// The key, with its table.
        key: &'static str,
        /// What it is.
        got: String,
        /// What it may be.
        accepted: String,
    },
}

/// All settings with their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Identity, spool and log positions live here.
    pub(crate) data_dir: PathBuf,
    /// Milliseconds between samples.
    pub(crate) sample_interval_ms: u64,
    /// Milliseconds between blocks.
    pub(crate) block_interval_ms: u64,
    /// At most one early block (keyword hit, engine event) in this many milliseconds.
    pub(crate) early_block_ms: u64,
    /// Where the host's root is mounted: `/`, or `/host` inside a container.
    pub(crate) host_root: PathBuf,
    /// What people call the host; empty takes the host's own name.
    pub(crate) hostname: String,
    /// Groups the host in the console; containers may carry the label `forewarn.component`.
    pub(crate) component: String,
    /// Unsent blocks kept on disk; the oldest are dropped first.
    pub(crate) spool_bytes_max: u64,
    /// Regular expressions whose matches are masked in sampled lines, besides the built-in ones.
    pub(crate) masks: Vec<String>,
    /// Where to push.
    pub(crate) server: Server,
    /// The container engine.
    pub(crate) engine: Engine,
    /// Container logs.
    pub(crate) log: Log,
    /// Endpoints of components that show metrics as text.
    pub(crate) scrape: Scrape,
    /// Keyword rules until the server sends its own.
    pub(crate) keywords: Vec<KeywordRule>,
}

/// Where to push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    /// Servers of the site, tried in this order.
    pub(crate) urls: Vec<String>,
    /// A proxy to go through; empty goes directly, whatever the environment says.
    pub(crate) proxy: String,
}

/// The container engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Engine {
    /// Where the engine answers; `None` (empty) works without.
    #[serde(with = "optional_socket")]
    pub(crate) socket: Option<Socket>,
    /// The engine's data folder, below `host_root`: log files, and the state files when there is no socket.
    pub(crate) data_root: PathBuf,
}

/// Where a container engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Socket {
    /// A socket, below `host_root`.
    Path(PathBuf),
    /// A proxy of it. By address, so that nobody is asked for a name.
    Address(SocketAddr),
}

impl Display for Socket {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for Socket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let accepted = "engine.socket takes a path, unix:// and a path, tcp:// with an address and a port such as \
                        tcp://127.0.0.1:2375, or nothing";
        if let Some(address) = text.strip_prefix("tcp://") {
            return address.parse().map(Self::Address).map_err(|_| accepted);
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') { Ok(Self::Path(path.into())) } else { Err(accepted) }
    }
}

/// A socket as text, or an empty one.
mod optional_socket {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Socket;

    pub(super) fn serialize<S: Serializer>(socket: &Option<Socket>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&socket.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Socket>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }
}

/// Container logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// Whether logs are read at all.
    pub(crate) enabled: bool,
    /// Milliseconds between looks at a file that is written to all the time or cannot be watched.
    pub(crate) poll_interval_ms: u64,
    /// Containers whose logs are read: a name, `image:name` or `label:key=value`; empty reads all.
    pub(crate) include: Vec<String>,
    /// Containers whose logs are never read; wins over `include`.
    pub(crate) exclude: Vec<String>,
    /// Regular expression of a record's first line; empty takes what is indented as belonging to the line before it.
    pub(crate) first_line: String,
    /// Log files of the host itself.
    pub(crate) files: Vec<LogFiles>,
}

/// Log files of the host that are shown as one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogFiles {
    /// What they are called.
    pub(crate) name: String,
    /// Where they are, below `host_root`; `*` and `?` match within one name.
    pub(crate) glob: PathBuf,
    /// How they are written.
    #[serde(default)]
    pub(crate) format: LogFormat,
    /// Groups them in the console.
    #[serde(default)]
    pub(crate) component: String,
    /// Regular expression of a record's first line; empty as for containers.
    #[serde(default)]
    pub(crate) first_line: String,
}

/// Endpoints of components that show metrics in the Prometheus text format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrape {
    /// Milliseconds between two readings of an endpoint.
    pub(crate) interval_ms: u64,
    /// Series that are kept of one endpoint.
    pub(crate) series_max: usize,
    /// Whether a container may ask for it with the label `forewarn.scrape`.
    pub(crate) labels: bool,
    /// Certificates that https endpoints are verified by, PEM, below `host_root`; empty refuses https.
    pub(crate) ca_file: PathBuf,
    /// Endpoints by address.
    pub(crate) targets: Vec<ScrapeTarget>,
}

/// One endpoint by address; what it leaves out is as for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScrapeTarget {
    /// What it is called.
    pub(crate) name: String,
    /// Its address.
    pub(crate) url: String,
    /// Groups it in the console.
    #[serde(default)]
    pub(crate) component: String,
    /// Milliseconds between two readings.
    pub(crate) interval_ms: Option<u64>,
    /// Series that are kept.
    pub(crate) series_max: Option<usize>,
    /// Metrics that are taken: names, `*` at either end matches anything; empty takes all.
    #[serde(default)]
    pub(crate) include: Vec<String>,
    /// Metrics that are left out; wins.
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
}

/// How a log file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// A line is a line.
    #[default]
    Plain,
    /// As Docker's driver of that name writes.
    JsonFile,
    /// As Kubernetes and Podman's `k8s-file` write.
    Cri,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/forewarn-agent".into(),
            sample_interval_ms: 10_000,
            block_interval_ms: 30_000,
            early_block_ms: 5_000,
            host_root: "/".into(),
            hostname: String::new(),
            component: String::new(),
            spool_bytes_max: 256 << 20,
            masks: Vec::new(),
            server: Server::default(),
            engine: Engine::default(),
            log: Log::default(),
            scrape: Scrape::default(),
            keywords: keyword::default_rules(),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self { socket: Some(Socket::Path("/run/docker.sock".into())), data_root: "/var/lib/docker".into() }
    }
}

impl Default for Scrape {
    fn default() -> Self {
        Self { interval_ms: 30_000, series_max: 200, labels: false, ca_file: PathBuf::new(), targets: Vec::new() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            enabled: true,
            poll_interval_ms: 5_000,
            include: Vec::new(),
            exclude: Vec::new(),
            first_line: String::new(),
            files: Vec::new(),
        }
    }
}

/// What the command line says beside the file; set values win.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Settings file [default: /etc/forewarn/agent.toml when it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder for identity, spool and log positions
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// URL of a server; may be given several times
    #[arg(long = "server", value_name = "URL")]
    pub(crate) servers: Vec<String>,
    /// Where the host's root is mounted
    #[arg(long, value_name = "DIR")]
    pub(crate) host_root: Option<PathBuf>,
}

impl Settings {
    /// Reads the file (the default one only if it exists), applies the overrides and checks every value.
    ///
    /// # Errors
    /// The file cannot be read or parsed, or a value is not accepted.
    pub(crate) fn load(overrides: &Overrides) -> Result<Self, SettingsError> {
        let fallback = Path::new(FILE_DEFAULT);
        let file = overrides.config.as_deref().or_else(|| fallback.exists().then_some(fallback));
        let mut settings = file.map_or_else(|| Ok(Self::default()), Self::read)?;
        if let Some(dir) = &overrides.data_dir {
            settings.data_dir.clone_from(dir);
        }
        if !overrides.servers.is_empty() {
            settings.server.urls.clone_from(&overrides.servers);
        }
        if let Some(root) = &overrides.host_root {
            settings.host_root.clone_from(root);
        }
        let origin = file.map_or_else(|| "settings".to_owned(), |path| format!("settings file {}", path.display()));
        settings.check(&origin)?;
        Ok(settings)
    }

    /// Settings of a text, checked.
    ///
    /// # Errors
    /// It cannot be parsed, or a value is not accepted.
    pub(crate) fn of_text(text: &str) -> Result<Self, SettingsError> {
        let fail = |error: toml::de::Error| SettingsError::Parse { path: PathBuf::new(), detail: error.to_string() };
        let settings: Self = toml::from_str(text).map_err(fail)?;
        settings.check("text").map(|()| settings)
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        let fail = |source| SettingsError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(fail)?.len();
        if bytes > FILE_BYTES_MAX {
            let detail = format!("it has {bytes} bytes, the limit is {FILE_BYTES_MAX}");
            return Err(SettingsError::Parse { path: path.to_owned(), detail });
        }
        let text = std::fs::read_to_string(path).map_err(fail)?;
        toml::from_str(&text).map_err(|error| SettingsError::Parse { path: path.to_owned(), detail: error.to_string() })
    }

    fn check(&self, origin: &str) -> Result<(), SettingsError> {
        let accept = |key: &'static str, got: &dyn std::fmt::Display, sound: bool, accepted: &dyn Fn() -> String| {
            let refusal =
                || SettingsError::Value { origin: origin.to_owned(), key, got: got.to_string(), accepted: accepted() };
            if sound { Ok(()) } else { Err(refusal()) }
        };
        let range = SAMPLE_INTERVAL_MS_MIN..=SAMPLE_INTERVAL_MS_MAX;
        accept("sample_interval_ms", &self.sample_interval_ms, range.contains(&self.sample_interval_ms), &|| {
            format!("{SAMPLE_INTERVAL_MS_MIN} to {SAMPLE_INTERVAL_MS_MAX}")
        })?;
        let longest = self.sample_interval_ms * (limit::TICKS_MAX as u64 / 4);
        let range = self.sample_interval_ms..=longest;
        accept("block_interval_ms", &self.block_interval_ms, range.contains(&self.block_interval_ms), &|| {
            format!("sample_interval_ms ({}) to {longest}", self.sample_interval_ms)
        })?;
        accept("early_block_ms", &self.early_block_ms, self.early_block_ms >= 100, &|| "100 or more".to_owned())?;
        accept("log.poll_interval_ms", &self.log.poll_interval_ms, self.log.poll_interval_ms >= 100, &|| {
            "100 or more".to_owned()
        })?;
        accept("spool_bytes_max", &self.spool_bytes_max, self.spool_bytes_max >= SPOOL_BYTES_MIN, &|| {
            format!("{SPOOL_BYTES_MIN} or more")
        })?;
        accept("log.files", &self.log.files.len(), self.log.files.len() <= LOG_FILES_MAX, &|| {
            format!("at most {LOG_FILES_MAX} entries")
        })?;
        for (at, files) in self.log.files.iter().enumerate() {
            let is_new = self.log.files.iter().take(at).all(|other| other.name != files.name);
            let is_named = !files.name.is_empty() && files.name.len() <= limit::NAME_BYTES_MAX / 2;
            accept("log.files.name", &files.name, is_new && is_named, &|| "a name of its own".to_owned())?;
            let is_place = files.glob.is_absolute()
                && files.glob.components().all(|part| !matches!(part, std::path::Component::ParentDir));
            accept("log.files.glob", &files.glob.display(), is_place, &|| {
                "an absolute path without .., such as /var/log/nginx/*.log".to_owned()
            })?;
        }
        for selector in self.log.include.iter().chain(&self.log.exclude) {
            let fault = keyword::selector_fault(selector);
            accept("log.include and log.exclude", selector, fault.is_none(), &|| {
                "a name, image:name or label:key=value".to_owned()
            })?;
        }
        self.check_scrape(&accept)?;
        for (key, path) in [("data_dir", &self.data_dir), ("host_root", &self.host_root)] {
            accept(key, &path.display(), !path.as_os_str().is_empty(), &|| "a folder".to_owned())?;
        }
        for url in &self.server.urls {
            let sound = url::Url::parse(url).is_ok_and(|url| url.scheme() == "https" && url.host().is_some());
            accept("server.urls", &url, sound, &|| "urls like https://forewarn.example:8441".to_owned())?;
        }
        if !self.server.proxy.is_empty() {
            let sound = url::Url::parse(&self.server.proxy).is_ok_and(|url| url.scheme() == "http");
            accept("server.proxy", &self.server.proxy, sound, &|| "empty, or a url like http://proxy:3128".to_owned())?;
        }
        accept("keywords", &self.keywords.len(), self.keywords.len() <= limit::KEYWORD_RULES_MAX, &|| {
            format!("at most {} rules", limit::KEYWORD_RULES_MAX)
        })
    }

    fn check_scrape(&self, accept: &Accept<'_>) -> Result<(), SettingsError> {
        let (all, ranges) = (&self.scrape, || format!("{SCRAPE_INTERVAL_MS_MIN} to {SAMPLE_INTERVAL_MS_MAX}"));
        let targets = || all.targets.iter();
        for interval_ms in targets().filter_map(|target| target.interval_ms).chain([all.interval_ms]) {
            let range = SCRAPE_INTERVAL_MS_MIN..=SAMPLE_INTERVAL_MS_MAX;
            accept("scrape.interval_ms", &interval_ms, range.contains(&interval_ms), &ranges)?;
        }
        for series_max in targets().filter_map(|target| target.series_max).chain([all.series_max]) {
            accept("scrape.series_max", &series_max, (1..=SCRAPE_SERIES_MAX).contains(&series_max), &|| {
                format!("1 to {SCRAPE_SERIES_MAX}")
            })?;
        }
        accept("scrape.targets", &all.targets.len(), all.targets.len() <= SCRAPE_TARGETS_MAX, &|| {
            format!("at most {SCRAPE_TARGETS_MAX} entries")
        })?;
        for (at, target) in targets().enumerate() {
            let is_new = targets().take(at).all(|other| other.name != target.name);
            let is_named = !target.name.is_empty() && target.name.len() <= limit::NAME_BYTES_MAX / 2;
            accept("scrape.targets.name", &target.name, is_new && is_named, &|| "a name of its own".to_owned())?;
            let is_address = url::Url::parse(&target.url).is_ok_and(|url| {
                let is_known = url.scheme() == "http" || url.scheme() == "https" && !all.ca_file.as_os_str().is_empty();
                is_known && url.has_host() && url.username().is_empty() && url.password().is_none()
            });
            accept("scrape.targets.url", &target.url, is_address, &|| {
                "a url like http://127.0.0.1:9100/metrics, or https:// with scrape.ca_file".to_owned()
            })?;
            let names = target.include.len().max(target.exclude.len());
            accept("scrape.targets.include and exclude", &names, names <= SCRAPE_NAMES_MAX, &|| {
                format!("at most {SCRAPE_NAMES_MAX} names each")
            })?;
        }
        Ok(())
    }

    /// `path` of the host as this process sees it.
    #[must_use]
    pub(crate) fn on_host(&self, path: &Path) -> PathBuf {
        below(&self.host_root, path)
    }
}

/// Refuses a value under its key unless it is sound, saying what is accepted.
type Accept<'a> =
    dyn Fn(&'static str, &dyn std::fmt::Display, bool, &dyn Fn() -> String) -> Result<(), SettingsError> + 'a;

/// `path`, which may be absolute, below `root`.
#[must_use]
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Who started the agent and wants to hear from it: the manager's socket, and the milliseconds within which a sign of
/// life is expected.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the settings room")]
pub(crate) fn service_manager() -> (Option<std::ffi::OsString>, Option<i64>) {
    let watchdog_us = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<i64>().ok());
    (std::env::var_os("NOTIFY_SOCKET"), watchdog_us.map(|us| us / 1000))
}

/// The log filter: `FOREWARN_LOG` (a level, or `target=level,...`), or `info` when that is absent or unreadable.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the settings room")]
pub(crate) fn log_filter() -> Targets {
    let wanted = std::env::var("FOREWARN_LOG").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides { config: Some(path), ..Overrides::default() };
        Settings::load(&overrides).map_err(|error| error.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn the_shipped_file_names_every_key_with_its_default() {
        let text = include_str!("../../config/agent.toml");
        let shipped: Settings = toml::from_str(text).unwrap();
        assert_eq!(shipped, Settings::default());
        let shipped: toml::Table = text.parse().unwrap();
        let full = toml::Table::try_from(Settings::default()).unwrap();
        for (key, value) in &full {
            let there = shipped.get(key).unwrap_or_else(|| panic!("config/agent.toml lacks {key}"));
            for inner in value.as_table().into_iter().flat_map(toml::Table::keys) {
                assert!(there.get(inner).is_some(), "config/agent.toml lacks {key}.{inner}");
            }
        }
    }

    #[test]
    fn the_engine_answers_at_a_path_an_address_or_nowhere() {
        for (text, socket) in [
            ("/run/docker.sock", Some(Socket::Path("/run/docker.sock".into()))),
            ("unix:///run/docker.sock", Some(Socket::Path("/run/docker.sock".into()))),
            ("tcp://127.0.0.1:2375", Some(Socket::Address(([127, 0, 0, 1], 2375).into()))),
            ("", None),
        ] {
            assert_eq!(load(&format!("engine.socket = '{text}'")).unwrap().engine.socket, socket, "{text}");
        }
    }

    #[test]
    fn bad_files_are_refused_with_file_key_and_what_is_accepted() {
        for (text, words) in [
            (
                "sample_intervall_ms = 1",
                &["/agent.toml", "unknown field `sample_intervall_ms`", "`sample_interval_ms`"][..],
            ),
            ("[server]\nurl = 'x'", &["/agent.toml", "unknown field `url`", "`urls`"]),
            ("sample_interval_ms = 'often'", &["/agent.toml", "sample_interval_ms", "expected u64"]),
            (
                "engine.socket = 'tcp://proxy:2375'",
                &["/agent.toml", "engine.socket takes a path", "tcp://127.0.0.1:2375"],
            ),
            ("engine.socket = 'run/docker.sock'", &["/agent.toml", "engine.socket takes a path"]),
            ("sample_interval_ms = 5", &["sample_interval_ms is 5, accepted is 200 to 300000"]),
            ("block_interval_ms = 9", &["block_interval_ms is 9, accepted is sample_interval_ms (10000) to 9000000"]),
            ("spool_bytes_max = 3", &["spool_bytes_max is 3, accepted is 1048576 or more"]),
            ("server.urls = ['http://plain']", &["server.urls is http://plain, accepted is urls like https://"]),
            ("server.proxy = 'socks'", &["server.proxy is socks, accepted is empty, or"]),
            ("[[log.files]]\nname = 'a'\nglob = 'x.log'", &["log.files.glob is x.log, accepted is an absolute path"]),
            ("[[log.files]]\nname = 'a'\nglob = '/x/../*'", &["log.files.glob is /x/../*"]),
            ("[[log.files]]\nname = ''\nglob = '/x'", &["log.files.name is , accepted is a name of its own"]),
            ("[[log.files]]\nname = 'a'\nglob = '/x'\nformat = 'syslog'", &["unknown variant `syslog`", "`json-file`"]),
            ("log.include = ['label:x']", &["log.include and log.exclude is label:x", "label:key=value"]),
            ("data_dir = ''", &["data_dir is , accepted is a folder"]),
            ("scrape.interval_ms = 5", &["scrape.interval_ms is 5, accepted is 1000 to 300000"]),
            (
                "[[scrape.targets]]\nname='a'\nurl='http://x'\nseries_max=0",
                &["scrape.series_max is 0, accepted is 1 to"],
            ),
            ("[[scrape.targets]]\nname='a'\nurl='file:///etc/passwd'", &["scrape.targets.url is file:///etc/passwd"]),
            ("[[scrape.targets]]\nname='a'\nurl='https://x/m'", &["accepted is a url like", "with scrape.ca_file"]),
            ("[[scrape.targets]]\nname='a'\nurl='http://u:p@x/m'", &["scrape.targets.url is http://u:p@x/m"]),
            (
                "[[scrape.targets]]\nname=''\nurl='http://x'",
                &["scrape.targets.name is , accepted is a name of its own"],
            ),
            (
                "[[keywords]]\nname = 'x'\nseverity = 'loud'",
                &["unknown variant `loud`", "`info`, `warning`, `critical`"],
            ),
            ("= 3", &["/agent.toml", "line 1"]),
        ] {
            let message = load(text).unwrap_err();
            for word in words {
                assert!(message.contains(word), "{text}: {message} lacks {word}");
            }
        }
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        let overrides = Overrides { config: Some("/nonexistent/agent.toml".into()), ..Overrides::default() };
        let message = Settings::load(&overrides).unwrap_err().to_string();
        assert!(message.starts_with("cannot read settings file /nonexistent/agent.toml"), "{message}");
    }

    #[test]
    fn paths_of_the_host_go_through_its_root() {
        let settings = Settings { host_root: "/host".into(), ..Settings::default() };
        assert_eq!(settings.on_host(Path::new("/proc/1")), Path::new("/host/proc/1"));
        assert_eq!(Settings::default().on_host(Path::new("/proc/1")), Path::new("/proc/1"));
    }

    proptest::proptest! {
        #[test]
        fn random_text_never_panics(text in "\\PC{0,200}") {
            let _ = toml::from_str::<Settings>(&text);
        }
    }
}
