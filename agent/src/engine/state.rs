//! The engine's own state files: Docker's `containers/<id>/config.v2.json` and `hostconfig.json`, or Podman's.
//!
//! Only the fields below are parsed; the environment section is never among them.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

use forewarn_common::block::EventKind;
use forewarn_common::limit::NAME_BYTES_MAX;
use serde::Deserialize;

use super::podman;
use super::{INSTANCES_MAX, Instance, IpAddr, Ipv4Addr, LABEL_PREFIX, LABELS, LABELS_MAX, Maker, Notice, Place};

/// A container's state file with a long list of mounts is far below.
const FILE_BYTES_MAX: u64 = 2 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(default)]
    log_path: String,
    #[serde(default)]
    restart_count: u64,
    state: State,
    config: Inner,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Debug, Default, Deserialize)]
struct Network {
    #[serde(default, rename = "IPAddress")]
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    #[serde(default)]
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    exit_code: i32,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    health: Option<Health>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    #[serde(default)]
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    log_config: LogConfig,
    #[serde(default)]
    network_mode: String,
}

#[derive(Debug, Default, Deserialize)]
struct LogConfig {
    #[serde(default, rename = "Type")]
    driver: String,
}

/// All containers that the state files describe. A file that cannot be understood is left out.
pub(super) fn read_all(place: &Place) -> io::Result<Vec<Instance>> {
    if let Some(instances) = podman::read_all(place) {
        return instances;
    }
    let mut instances = Vec::new();
    for entry in std::fs::read_dir(place.containers_folder())?.flatten() {
        if let Some(instance) = read_one(place, &entry.path()) {
            instances.push(instance);
        }
        if instances.len() >= INSTANCES_MAX {
            break;
        }
    }
    Ok(instances)
}

fn read_one(place: &Place, folder: &Path) -> Option<Instance> {
    let config: Config = parse(&folder.join("config.v2.json"))?;
    let host: HostConfig = parse(&folder.join("hostconfig.json")).unwrap_or_default();
    let was_started = is_moment(&config.state.started_at);
    Some(Instance {
        log: place.log_way(&host.log_config.driver, &config.log_path, Maker::Docker, false),
        log_driver: host.log_config.driver,
        name: config.name.trim_start_matches('/').to_owned(),
        image: config.config.image,
        labels: kept_labels(config.config.labels.unwrap_or_default()),
        pid: if config.state.running { config.state.pid } else { 0 },
        is_running: config.state.running,
        exit_code: (!config.state.running && was_started).then_some(config.state.exit_code),
        is_oom_killed: config.state.oom_killed,
        health: config.state.health.as_ref().and_then(|health| health_code(&health.status)),
        started_at: if was_started { config.state.started_at } else { String::new() },
        restart_count: config.restart_count,
        address: address(
            &host.network_mode,
            config.network_settings.networks.iter().flat_map(|all| all.values()).map(|one| one.address.as_str()),
        ),
        has_own_network: has_own_network(&host.network_mode),
        id: config.id,
    })
    .filter(|instance| folder.file_name().is_some_and(|name| name.to_str() == Some(&instance.id)))
}

/// Reads a text as each of the state files: for fuzz targets.
pub(super) fn read_every_way(text: &[u8]) -> impl std::fmt::Debug {
    (serde_json::from_slice::<Config>(text).is_ok(), serde_json::from_slice::<HostConfig>(text).is_ok())
}

/// Whether an engine's time is one; what never happened is written as the year one.
pub(super) fn is_moment(text: &str) -> bool {
    !text.is_empty() && !text.starts_with("0001-")
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

pub(super) fn kept_labels(labels: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let is_kept = |key: &str| LABELS.contains(&key) || key.starts_with(LABEL_PREFIX);
    let is_small = |key: &str, value: &str| key.len() <= NAME_BYTES_MAX && value.len() <= NAME_BYTES_MAX;
    let kept = labels.into_iter().filter(|(key, value)| is_kept(key) && is_small(key, value));
    kept.take(LABELS_MAX).collect()
}

pub(super) fn health_code(status: &str) -> Option<u8> {
    match status {
        "healthy" => Some(0),
        "starting" => Some(1),
        "unhealthy" => Some(2),
        _ => None,
    }
}

/// Where a container with this network mode and these addresses is reached.
pub(super) fn address<'a>(mode: &str, mut addresses: impl Iterator<Item = &'a str>) -> Option<IpAddr> {
    match mode {
        "host" => Some(Ipv4Addr::LOCALHOST.into()),
        _ => addresses.find_map(|text| text.parse().ok()),
    }
}

pub(super) fn has_own_network(mode: &str) -> bool {
    !matches!(mode, "host" | "none") && !mode.starts_with("container:")
}

/// Turns successive readings into notices, where no event stream does it.
#[derive(Debug, Default)]
pub(super) struct Diff {
    known: Option<HashMap<String, Instance>>,
}

impl Diff {
    /// What the socket's side knew last, so that a change of the way is no news.
    pub(super) fn set(&mut self, instances: impl IntoIterator<Item = Instance>) {
        self.known = Some(instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect());
    }

    /// Whether a container is one that earlier readings did not show. Before the first one nothing is.
    pub(super) fn is_news(&self, id: &str) -> bool {
        self.known.as_ref().is_some_and(|known| !known.contains_key(id))
    }

    /// The notices of one more reading.
    pub(super) fn step(&mut self, instances: Vec<Instance>, now_ms: i64) -> Vec<Notice> {
        let now: HashMap<String, Instance> =
            instances.iter().map(|instance| (instance.id.clone(), instance.clone())).collect();
        let Some(known) = self.known.replace(now) else {
            return vec![Notice::Synced(instances)];
        };
        let mut notices = Vec::new();
        let mut stayed = 0;
        for instance in instances {
            let before = known.get(&instance.id);
            stayed += usize::from(before.is_some());
            let happened = happenings(before, &instance);
            if before != Some(&instance) {
                notices.push(Notice::Changed(Box::new(instance.clone())));
            }
            let id = || instance.id.clone();
            notices.extend(happened.into_iter().map(|(kind, code)| Notice::Happened {
                id: id(),
                at_ms: now_ms,
                kind,
                code,
            }));
        }
        if stayed < known.len() {
            let now = self.known.as_ref();
            let gone = known.into_keys().filter(|id| now.is_none_or(|now| !now.contains_key(id)));
            for id in gone {
                notices.push(Notice::Happened { id: id.clone(), at_ms: now_ms, kind: EventKind::Destroy, code: 0 });
                notices.push(Notice::Removed { id });
            }
        }
        notices
    }
}

fn happenings(before: Option<&Instance>, now: &Instance) -> Vec<(EventKind, i32)> {
    let mut happened = Vec::new();
    let was_running = before.is_some_and(|before| before.is_running);
    let restarted = before.is_some_and(|before| before.started_at != now.started_at);
    let was_killed = before.is_some_and(|before| before.is_oom_killed);
    if now.is_oom_killed && before.is_some() && (!was_killed || restarted) {
        happened.push((EventKind::Oom, 0));
    }
    if was_running && (!now.is_running || restarted) {
        happened.push((EventKind::Die, now.exit_code.unwrap_or(0)));
    }
    if now.is_running && (!was_running || restarted) {
        happened.push((EventKind::Start, 0));
    }
    if let (Some(health), true) = (now.health, before.is_some_and(|before| before.health != now.health)) {
        happened.push((EventKind::Health, i32::from(health)));
    }
    happened
}
