//! The settings file and the command line's share of it. The only room that reads settings and the environment.
//!
//! `RawSettings` is what the file says; [`Settings`] is what the server runs with: complete, checked, absolute.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::model::channel::{ChannelKind, Language};

/// Why the server does not start with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; give an existing file or leave the setting out")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("settings file {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Key, place and accepted values.
        message: String,
    },
    /// A value is out of its range.
    #[error("{origin}: {key} = {got} is not accepted; {accepted}")]
    Value {
        /// The file, or `defaults`.
        origin: String,
        /// The key, with its table.
        key: &'static str,
        /// What was given.
        got: String,
        /// What may be given.
        accepted: &'static str,
    },
}

/// What the settings file may say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSettings {
    data_dir: PathBuf,
    database: Database,
    console: Console,
    https: Https,
    site: Site,
    judge: Judge,
    store: Store,
    notify: Notify,
    fallback_channel: FallbackChannel,
    limits: Limits,
}

/// `[database]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `sqlite://FILE` or `mysql://user:password@host:port/name`; empty: a file in the data directory.
    pub url: String,
}

/// `[console]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// Where the console answers plain HTTP; loopback only.
    pub listen: SocketAddr,
}

/// `[https]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Https {
    /// Where agents and browsers are answered over TLS.
    pub listen: SocketAddr,
    /// Names and addresses for the server's own certificate, beside the site's name.
    pub names: Vec<String>,
    /// An own certificate chain, PEM; empty: the server makes its own CA.
    pub cert_file: PathBuf,
    /// The key of `cert_file`, PEM.
    pub key_file: PathBuf,
}

/// `[site]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// The name that agents verify, whatever address they dial.
    pub name: String,
    /// IANA time zone of messages; empty: the machine's.
    pub zone: String,
    /// Where people reach the console; links in messages begin with it. Empty: no links.
    pub public_url: String,
}

/// `[judge]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// Width of a bucket of the grid that forecasts read.
    pub grid_ms: i64,
    /// How long after its end a bucket is closed.
    pub close_after_ms: i64,
    /// How often each host is forecast.
    pub forecast_every_ms: i64,
    /// How much history a forecast reads.
    pub history_ms: i64,
    /// How often silence and quiet are looked at.
    pub tick_ms: i64,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Days that samples are kept at full resolution.
    pub full_days: u32,
    /// Days that sums of five minutes are kept.
    pub day_tier_days: u32,
    /// Days that sums of an hour are kept.
    pub month_tier_days: u32,
    /// Days that keyword hits and engine events are kept.
    pub log_days: u32,
    /// Days that resolved incidents are kept.
    pub incident_days: u32,
    /// How often blocks are compacted; a backlog is gone on with at once.
    pub compact_every_ms: i64,
    /// Bytes of merged rows that are kept in memory for reading them again.
    pub cache_bytes: usize,
    /// How often the database is measured; 0: never.
    pub measure_every_ms: i64,
    /// How many bytes a MySQL database may come to; 0: not known.
    pub size_bytes_max: i64,
}

/// `[notify]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// Whether channels may point to this machine's loopback addresses.
    pub allow_loopback: bool,
    /// More CA certificates to trust when sending, PEM; empty: none.
    pub ca_file: PathBuf,
}

/// `[fallback_channel]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FallbackChannel {
    /// `dingtalk`, `wecom`, `feishu` or `webhook`; empty: nobody is told when the database is gone.
    pub kind: String,
    /// The robot's address, with its token.
    pub url: String,
    /// Key of the signature; empty without one.
    pub secret: String,
    /// The language of the two messages.
    pub language: Language,
}

impl FallbackChannel {
    /// What speaks on the other side; `None` without a channel.
    #[must_use]
    pub fn kind(&self) -> Option<ChannelKind> {
        ChannelKind::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&self.kind)).ok()
    }
}

/// Address and secret are not for logs.
impl std::fmt::Debug for FallbackChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackChannel").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// Blocks at once between their last byte and their answer.
    pub blocks_in_flight_max: usize,
}

impl Default for RawSettings {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            database: Database::default(),
            console: Console::default(),
            https: Https::default(),
            site: Site::default(),
            judge: Judge::default(),
            store: Store::default(),
            notify: Notify::default(),
            fallback_channel: FallbackChannel::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8440)) }
    }
}

impl Default for Https {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8441)),
            names: Vec::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self { name: "forewarn.site".into(), zone: String::new(), public_url: String::new() }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            grid_ms: 300_000,
            close_after_ms: 60_000,
            forecast_every_ms: 300_000,
            history_ms: 14 * 86_400_000,
            tick_ms: 5_000,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            full_days: 14,
            day_tier_days: 400,
            month_tier_days: 1826,
            log_days: 90,
            incident_days: 400,
            compact_every_ms: 600_000,
            cache_bytes: 32 << 20,
            measure_every_ms: 60_000,
            size_bytes_max: 0,
        }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self { allow_loopback: false, ca_file: PathBuf::new() }
    }
}

impl Default for FallbackChannel {
    fn default() -> Self {
        Self { kind: String::new(), url: String::new(), secret: String::new(), language: Language::Chinese }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 4096, blocks_in_flight_max: 128 }
    }
}

/// What the server runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the server keeps its files.
    pub data_dir: PathBuf,
    /// Database URL, never empty.
    pub database_url: String,
    /// `[console]`
    pub console: Console,
    /// `[https]`
    pub https: Https,
    /// `[site]`
    pub site: Site,
    /// `[judge]`
    pub judge: Judge,
    /// `[store]`
    pub store: Store,
    /// `[notify]`
    pub notify: Notify,
    /// `[fallback_channel]`
    pub fallback_channel: FallbackChannel,
    /// `[limits]`
    pub limits: Limits,
}

impl Site {
    /// The zone of messages: the configured one, else the machine's.
    #[must_use]
    pub fn time_zone(&self) -> TimeZone {
        TimeZone::get(&self.zone).unwrap_or_else(|_| TimeZone::system())
    }
}

impl Notify {
    /// The extra CA certificates, PEM; empty without any.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_ca(&self) -> Result<String, SettingsError> {
        if self.ca_file.as_os_str().is_empty() {
            return Ok(String::new());
        }
        std::fs::read_to_string(&self.ca_file)
            .map_err(|source| SettingsError::Read { path: self.ca_file.clone(), source })
    }
}

/// The environment's word for how long the allocator keeps freed pages.
pub const ALLOCATOR_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Whether the environment says it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the settings room")]
pub fn allocator_is_told() -> bool {
    std::env::var_os(ALLOCATOR_DELAY).is_some()
}

impl Settings {
    /// Reads `file`, or takes the defaults; `data_dir` overrides the file's.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown key or a value that is not accepted.
    pub fn load(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, SettingsError> {
        let (raw, origin) = match file {
            None => (RawSettings::default(), "defaults".to_owned()),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
                let raw = toml::from_str(&text)
                    .map_err(|e| SettingsError::Parse { path: path.to_owned(), message: e.to_string() })?;
                (raw, path.display().to_string())
            }
        };
        raw.check(&origin, data_dir)
    }

    /// File that holds the key which seals secrets in the database.
    #[must_use]
    pub fn site_key_file(&self) -> PathBuf {
        self.data_dir.join("site.key")
    }
}

impl RawSettings {
    fn check(self, origin: &str, data_dir: Option<&Path>) -> Result<Settings, SettingsError> {
        let refuse =
            |key, got: String, accepted| Err(SettingsError::Value { origin: origin.to_owned(), key, got, accepted });
        let data_dir = data_dir.map_or(self.data_dir, Path::to_owned);
        if !self.console.listen.ip().is_loopback() {
            let got = self.console.listen.to_string();
            return refuse(
                "console.listen",
                got,
                "give a loopback address such as 127.0.0.1:8440; everything else is HTTPS",
            );
        }
        if (self.https.cert_file.as_os_str().is_empty()) != (self.https.key_file.as_os_str().is_empty()) {
            return refuse(
                "https.cert_file",
                self.https.cert_file.display().to_string(),
                "give cert_file and key_file, or neither",
            );
        }
        if !self.site.zone.is_empty() && TimeZone::get(&self.site.zone).is_err() {
            return refuse("site.zone", self.site.zone, "give an IANA zone such as Asia/Shanghai, or leave it empty");
        }
        let fallback = &self.fallback_channel;
        if fallback.kind().is_none() && !(fallback.kind.is_empty() && fallback.url.is_empty()) {
            let got = fallback.kind.clone();
            return refuse("fallback_channel.kind", got, "give dingtalk, wecom, feishu or webhook");
        }
        if fallback.kind().is_some() && fallback.url.is_empty() {
            return refuse("fallback_channel.url", String::new(), "give the address of the robot");
        }
        if self.site.name.is_empty() || rustls_pki_types::ServerName::try_from(self.site.name.clone()).is_err() {
            return refuse("site.name", self.site.name, "give a DNS name such as forewarn.site");
        }
        let durations: [(&'static str, i64, i64, i64, &'static str); 6] = [
            ("judge.grid_ms", self.judge.grid_ms, 1000, 3_600_000, "give 1000 to 3600000"),
            ("judge.close_after_ms", self.judge.close_after_ms, 0, 3_600_000, "give 0 to 3600000"),
            ("judge.forecast_every_ms", self.judge.forecast_every_ms, 1000, 3_600_000, "give 1000 to 3600000"),
            (
                "judge.history_ms",
                self.judge.history_ms,
                60_000,
                400 * 86_400_000,
                "give 60000 (a minute) to 34560000000 (400 days)",
            ),
            ("judge.tick_ms", self.judge.tick_ms, 100, 60_000, "give 100 to 60000"),
            ("store.compact_every_ms", self.store.compact_every_ms, 1000, 86_400_000, "give 1000 to 86400000"),
        ];
        for (key, got, min, max, accepted) in durations {
            if !(min..=max).contains(&got) {
                return refuse(key, got.to_string(), accepted);
            }
        }
        for (key, got) in [
            ("store.full_days", self.store.full_days),
            ("store.day_tier_days", self.store.day_tier_days),
            ("store.month_tier_days", self.store.month_tier_days),
            ("store.log_days", self.store.log_days),
            ("store.incident_days", self.store.incident_days),
        ] {
            if !(1..=3650).contains(&got) {
                return refuse(key, got.to_string(), "give 1 to 3650 days");
            }
        }
        if self.store.cache_bytes > 64 << 30 {
            return refuse("store.cache_bytes", self.store.cache_bytes.to_string(), "give 0 to 68719476736 (64 GiB)");
        }
        let every_ms = self.store.measure_every_ms;
        if every_ms != 0 && !(1000..=120_000).contains(&every_ms) {
            // A host that says nothing for three minutes counts as silent.
            return refuse("store.measure_every_ms", every_ms.to_string(), "give 0 (never) or 1000 to 120000");
        }
        if self.store.size_bytes_max < 0 {
            let got = self.store.size_bytes_max.to_string();
            return refuse("store.size_bytes_max", got, "give 0 (not known) or a number of bytes");
        }
        for (key, got) in [
            ("limits.connections_max", self.limits.connections_max),
            ("limits.blocks_in_flight_max", self.limits.blocks_in_flight_max),
        ] {
            if !(1..=1_000_000).contains(&got) {
                return refuse(key, got.to_string(), "give 1 to 1000000");
            }
        }
        let database_url = match self.database.url.as_str() {
            "" => format!("sqlite://{}", data_dir.join("forewarn.db").display()),
            url if url.starts_with("sqlite://") || url.starts_with("mysql://") => url.to_owned(),
            // The URL may hold a password: only its scheme is repeated.
            url => {
                let scheme = url.split("://").next().unwrap_or_default().chars().take(20).collect();
                return refuse("database.url", scheme, "begin it with sqlite:// or mysql://");
            }
        };
        Ok(Settings {
            data_dir,
            database_url,
            console: self.console,
            https: self.https,
            site: self.site,
            judge: self.judge,
            store: self.store,
            notify: self.notify,
            fallback_channel: self.fallback_channel,
            limits: self.limits,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_says_exactly_the_defaults() {
        let shipped: RawSettings = toml::from_str(include_str!("../../config/server.toml")).unwrap();
        assert_eq!(shipped, RawSettings::default());
        let text = include_str!("../../config/server.toml");
        for key in ["listen", "grid_ms", "full_days", "allow_loopback", "connections_max", "zone", "url"] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{key} is not in config/server.toml");
        }
    }

    #[test]
    fn every_bad_settings_file_is_refused_with_file_key_and_accepted_values() {
        let cases = [
            ("colour = 1", "unknown field `colour`, expected one of"),
            (
                "[console]\nlisten = \"0.0.0.0:80\"",
                "console.listen = 0.0.0.0:80 is not accepted; give a loopback address",
            ),
            ("[judge]\ngrid_ms = 5", "judge.grid_ms = 5 is not accepted; give 1000 to 3600000"),
            ("[judge]\ngrid_ms = \"five\"", "invalid type"),
            (
                "[database]\nurl = \"postgres://u:secret@h/d\"",
                "database.url = postgres is not accepted; begin it with sqlite:// or mysql://",
            ),
            ("[site]\nzone = \"Mars/Base\"", "site.zone = Mars/Base is not accepted"),
            ("[https]\ncert_file = \"a.pem\"", "give cert_file and key_file, or neither"),
            ("[store]\nfull_days = 0", "store.full_days = 0 is not accepted; give 1 to 3650 days"),
            ("[store]\nmeasure_every_ms = 300000", "measure_every_ms = 300000 is not accepted; give 0 (never) or 1000"),
            ("[store]\nsize_bytes_max = -1", "store.size_bytes_max = -1 is not accepted; give 0 (not known)"),
            (
                "[fallback_channel]\nkind = \"pager\"",
                "fallback_channel.kind = pager is not accepted; give dingtalk, wecom",
            ),
            ("[fallback_channel]\nkind = \"wecom\"", "fallback_channel.url =  is not accepted; give the address"),
            ("[limits\n", "TOML parse error at line 1"),
        ];
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in cases {
            let file = dir.path().join("server.toml");
            std::fs::write(&file, text).unwrap();
            let message = Settings::load(Some(&file), None).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?} → {message}");
            assert!(message.contains("server.toml") && !message.contains("secret"), "{message}");
        }
    }
}
