//! Podman's own state: the database of 4.x (`libpod/bolt_state.db`), else the list of its storage, which every version
//! keeps and which knows less.
//!
//! Only the fields below are parsed; neither environment nor command line is ever among them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::bolt::{Database, Torn};
use super::state::{health_code, is_moment, kept_labels, parse};
use super::{INSTANCES_MAX, Instance, Maker, Place};

/// The database of a host with thousands of containers is some tens of megabytes; it is looked at only when it changed.
const DATABASE_BYTES_MAX: u64 = 64 << 20;
/// Where Podman keeps what need not survive a reboot.
const RUN_ROOT: &str = "run/containers/storage";
/// `ContainerStateRunning`, `ContainerStatePaused`, `ContainerStateStopping`.
const RUNNING_STATES: [u8; 3] = [3, 5, 8];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    id: String,
    name: String,
    #[serde(default, rename = "rootfsImageName")]
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    log_path: String,
    #[serde(default)]
    log_driver: String,
    #[serde(default, rename = "createNetNS")]
    has_own_network: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(default)]
    state: u8,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    oom_killed: bool,
    #[serde(default)]
    started_time: String,
    #[serde(default)]
    restart_count: u64,
    #[serde(default)]
    run_dir: String,
    #[serde(default)]
    network_status: Option<BTreeMap<String, NetworkStatus>>,
}

#[derive(Debug, Default, Deserialize)]
struct NetworkStatus {
    #[serde(default)]
    interfaces: Option<BTreeMap<String, Interface>>,
}

#[derive(Debug, Default, Deserialize)]
struct Interface {
    #[serde(default)]
    subnets: Option<Vec<Subnet>>,
}

#[derive(Debug, Default, Deserialize)]
struct Subnet {
    /// With its prefix length.
    #[serde(default)]
    ipnet: String,
}

#[derive(Debug, Deserialize)]
struct Health {
    #[serde(default, rename = "Status")]
    status: String,
}

/// A line of the storage's list.
#[derive(Debug, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    metadata: String,
    #[serde(default)]
    created: String,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default, rename = "image-name")]
    image: String,
}

/// All containers that Podman's files below the data folder describe; `None` when they are none of Podman's.
///
/// # Errors
/// They are there and cannot be read now.
pub(super) fn read_all(place: &Place) -> Option<io::Result<Vec<Instance>>> {
    let storage = place.on_host(&place.data_root);
    let database = storage.join("libpod/bolt_state.db");
    if database.is_file() {
        return Some(read_database(place, &database));
    }
    let folder = std::fs::read_dir(&storage)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-containers") && path.join("containers.json").is_file())?;
    Some(read_list(place, &folder))
}

fn read_database(place: &Place, path: &Path) -> io::Result<Vec<Instance>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(DATABASE_BYTES_MAX).read_to_end(&mut bytes)?;
    of_database(place, &bytes).map_err(|torn| io::Error::new(io::ErrorKind::InvalidData, torn))
}

fn of_database(place: &Place, bytes: &[u8]) -> Result<Vec<Instance>, Torn> {
    let database = Database::of(bytes)?;
    let mut instances = Vec::new();
    // Podman makes the bucket with its first container.
    let Some(containers) = database.bucket(database.root()?, b"ctr")? else { return Ok(instances) };
    database.each(containers, &mut |_, container| {
        let (mut config, mut state) = (None, None);
        let Some(bucket) = container.bucket else { return Ok(()) };
        database.each(bucket, &mut |key, value| {
            match key {
                b"config" => config = serde_json::from_slice::<Config>(value.bytes).ok(),
                b"state" => state = serde_json::from_slice::<State>(value.bytes).ok(),
                _ => {}
            }
            Ok(())
        })?;
        if let (Some(config), Some(state)) = (config, state)
            && instances.len() < INSTANCES_MAX
        {
            instances.push(instance(place, config, state));
        }
        Ok(())
    })?;
    Ok(instances)
}

fn instance(place: &Place, config: Config, state: State) -> Instance {
    let is_running = RUNNING_STATES.contains(&state.state) && state.pid > 0;
    let was_started = is_moment(&state.started_time);
    let health = place.on_host(Path::new(&state.run_dir)).parent().map(|folder| folder.join("healthcheck.log"));
    let health: Option<Health> =
        health.filter(|_| is_running && !state.run_dir.is_empty()).and_then(|path| parse(&path));
    let addresses = state.network_status.iter().flat_map(BTreeMap::values).flat_map(|status| &status.interfaces);
    let addresses = addresses.flat_map(BTreeMap::values).flat_map(|interface| &interface.subnets).flatten();
    let mut addresses = addresses.filter_map(|subnet| subnet.ipnet.split('/').next());
    Instance {
        log: place.log_way(&config.log_driver, &config.log_path, Maker::Podman, false),
        log_driver: config.log_driver,
        name: config.name,
        image: config.image,
        labels: kept_labels(config.labels.unwrap_or_default()),
        pid: if is_running { state.pid } else { 0 },
        is_running,
        exit_code: (!is_running && was_started).then_some(state.exit_code),
        is_oom_killed: state.oom_killed,
        health: health.and_then(|health| health_code(&health.status)),
        started_at: if was_started { state.started_time } else { String::new() },
        restart_count: state.restart_count,
        has_own_network: config.has_own_network,
        address: addresses.find_map(|text| text.parse().ok()).filter(|_| is_running),
        id: config.id,
    }
}

/// Names and images from the storage's list, the process from its pid file: what every version of Podman keeps.
fn read_list(place: &Place, folder: &Path) -> io::Result<Vec<Instance>> {
    let list: Vec<Stored> = parse(&folder.join("containers.json"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "containers.json cannot be understood"))?;
    let run = place.host_root.join(RUN_ROOT).join(folder.file_name().unwrap_or_default());
    let instances = list.into_iter().take(INSTANCES_MAX).map(|stored| {
        let pid = std::fs::read_to_string(run.join(&stored.id).join("userdata/pidfile")).ok();
        let pid = pid.and_then(|text| text.trim().parse().ok()).filter(|pid| is_alive(place, *pid, &stored.id));
        let path = PathBuf::from("/").join(place.data_root.strip_prefix("/").unwrap_or(&place.data_root));
        let path = path.join(folder.file_name().unwrap_or_default()).join(&stored.id).join("userdata/ctr.log");
        let metadata: Metadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
        Instance {
            log: place.log_way("k8s-file", &path.to_string_lossy(), Maker::Podman, false),
            log_driver: "k8s-file".to_owned(),
            name: stored.names.into_iter().next().unwrap_or_else(|| stored.id.clone()),
            image: metadata.image,
            labels: BTreeMap::new(),
            is_running: pid.is_some(),
            // The list does not say when it was started; another process is another start.
            started_at: pid.map_or_else(String::new, |pid| format!("{} {pid}", stored.created)),
            pid: pid.unwrap_or(0),
            exit_code: None,
            is_oom_killed: false,
            health: None,
            restart_count: 0,
            has_own_network: true,
            address: None,
            id: stored.id,
        }
    });
    Ok(instances.collect())
}

/// Whether the process is of this container and no other that was given the same number since.
fn is_alive(place: &Place, pid: u32, id: &str) -> bool {
    let groups = std::fs::read_to_string(place.host_root.join(format!("proc/{pid}/cgroup")));
    groups.is_ok_and(|groups| groups.contains(id))
}
