//! Which containers there are, what they are called, and what happens to them: through the engine's socket, or
//! without one from the engine's own state files.
//!
//! The only room that knows bollard. It takes no statistics from the engine, and log content only where there is
//! no file to read. Of the environment of a container nothing is kept.

mod bolt;
mod docker;
mod podman;
mod state;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarn_common::block::{EngineEvent, EventKind};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use tokio::sync::mpsc::Sender;

use crate::settings::Socket;

const LABEL_COMPONENT: &str = "forewarn.component";
const LABEL_PROJECT: &str = "com.docker.compose.project";
const LABEL_SERVICE: &str = "com.docker.compose.service";
const LABEL_NUMBER: &str = "com.docker.compose.container-number";
const LABEL_ONE_OFF: &str = "com.docker.compose.oneoff";
/// Labels of the user for this program, such as those that keyword rules select by.
const LABEL_PREFIX: &str = "forewarn.";
/// Labels that are kept of one container.
const LABELS_MAX: usize = 32;
/// The labels that are kept, of all.
const LABELS: [&str; 5] = [LABEL_COMPONENT, LABEL_PROJECT, LABEL_SERVICE, LABEL_NUMBER, LABEL_ONE_OFF];
/// Containers of one host; beyond it the oldest that have ended are left out.
const INSTANCES_MAX: usize = 2000;
/// Digits of a container id that people read.
const SHORT_ID_CHARS: usize = 12;
/// How often the state files are looked at when there is no socket.
const STATE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a socket that is not there is tried.
const SOCKET_RETRY: Duration = Duration::from_secs(15);

/// Whose containers these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Docker Engine.
    Docker,
    /// Podman, which speaks Docker's language with words of its own.
    Podman,
}

/// How the lines of a log file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// As Docker's driver `json-file` does.
    JsonFile,
    /// As Kubernetes and Podman do, whatever Podman calls it.
    Cri,
}

/// Where the content of a container's log comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogWay {
    /// A file, as this process sees it.
    File(PathBuf, Writing),
    /// The engine's API; pieces come as [`Notice::Fed`].
    Stream,
    /// The container keeps no log, or none that can be had.
    None,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Its full id.
    pub(crate) id: String,
    /// Its name, without the slash.
    pub(crate) name: String,
    /// The image as the user named it.
    pub(crate) image: String,
    /// The few labels that mean something here.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its first process; 0 when it does not run.
    pub(crate) pid: u32,
    /// Whether it runs.
    pub(crate) is_running: bool,
    /// Exit code of its last end.
    pub(crate) exit_code: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub(crate) is_oom_killed: bool,
    /// 0 healthy, 1 starting, 2 unhealthy.
    pub(crate) health: Option<u8>,
    /// When it was started last, as the engine writes it; empty when never.
    pub(crate) started_at: String,
    /// The engine's count of restarts by policy.
    pub(crate) restart_count: u64,
    /// Whether it has a network of its own.
    pub(crate) has_own_network: bool,
    /// Where it can be reached from this host; unknown while it does not run, or without a network.
    pub(crate) address: Option<IpAddr>,
    /// Its log driver.
    pub(crate) log_driver: String,
    /// Where its log comes from.
    pub(crate) log: LogWay,
}

impl Instance {
    /// What the container is an instance of: compose project, service and replica, else its name.
    #[must_use]
    pub(crate) fn identity(&self) -> String {
        match self.compose() {
            Some((project, service, number)) => format!("compose:{project}/{service}/{number}"),
            None => format!("container:{}", self.name),
        }
    }

    /// The workload's entity on `host`.
    #[must_use]
    pub(crate) fn entity(&self, host: HostId) -> EntityId {
        EntityId::of(host, &self.identity())
    }

    /// What people call the workload.
    #[must_use]
    pub(crate) fn display_name(&self) -> String {
        match self.compose() {
            Some((project, service, "1")) => format!("{project}/{service}"),
            Some((project, service, number)) => format!("{project}/{service}/{number}"),
            None => self.name.clone(),
        }
    }

    /// The component: its own label, else the compose project, else empty.
    #[must_use]
    pub(crate) fn component(&self) -> &str {
        self.label(LABEL_COMPONENT).or_else(|| self.label(LABEL_PROJECT)).unwrap_or_default()
    }

    /// What is shown with the workload, ascending by key.
    #[must_use]
    pub(crate) fn attributes(&self) -> Vec<(String, String)> {
        let mut attributes = vec![
            ("container".to_owned(), self.name.clone()),
            ("container_id".to_owned(), short(&self.id).to_owned()),
            ("image".to_owned(), self.image.clone()),
            ("log_driver".to_owned(), self.log_driver.clone()),
        ];
        for (key, label) in [("project", LABEL_PROJECT), ("service", LABEL_SERVICE)] {
            if let Some(value) = self.label(label) {
                attributes.push((key.to_owned(), value.to_owned()));
            }
        }
        attributes
    }

    fn compose(&self) -> Option<(&str, &str, &str)> {
        // One-off containers (`compose run`) share the service's labels, but are no replica of it.
        if self.label(LABEL_ONE_OFF).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        Some((self.label(LABEL_PROJECT)?, self.label(LABEL_SERVICE)?, self.label(LABEL_NUMBER).unwrap_or("1")))
    }

    /// The value of a label that is kept.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The first twelve characters of an id.
fn short(id: &str) -> &str {
    id.get(..SHORT_ID_CHARS).unwrap_or(id)
}

/// What this room tells the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// All containers there are now; `first` when nothing was known before.
    Synced(Vec<Instance>),
    /// A container is new or has changed.
    Changed(Box<Instance>),
    /// A container is no more.
    Removed {
        /// Its full id.
        id: String,
    },
    /// Something happened to a container.
    Happened {
        /// The container's full id.
        id: String,
        /// When, unix milliseconds.
        at_ms: i64,
        /// What.
        kind: EventKind,
        /// Exit code or health.
        code: i32,
    },
    /// A piece of a log that has no file.
    Fed {
        /// The container's full id.
        id: String,
        /// The bytes.
        piece: Vec<u8>,
        /// When the line was printed that ends with them, unix nanoseconds by the engine's clock.
        heard: Option<i64>,
    },
}

impl Notice {
    /// The event of the block, for a container that is known as `entity`.
    #[must_use]
    pub(crate) fn event(entity: EntityId, id: &str, at_ms: i64, kind: EventKind, code: i32) -> EngineEvent {
        EngineEvent { entity, at_ms, kind, code, detail: short(id).to_owned() }
    }
}

/// When the newest line was printed that was handed on of each log without a file, by container id; unix nanoseconds.
pub(crate) type Heard = HashMap<String, i64>;

/// Where the engine is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The socket as this process sees it; `None` works from the state files alone.
    pub(crate) socket: Option<Socket>,
    /// The host's root as this process sees it.
    pub(crate) host_root: PathBuf,
    /// The engine's data folder on the host.
    pub(crate) data_root: PathBuf,
}

impl Place {
    fn on_host(&self, path: &Path) -> PathBuf {
        self.host_root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn containers_folder(&self) -> PathBuf {
        self.on_host(&self.data_root).join("containers")
    }

    /// The way to the log of a container, by what the engine says of it.
    fn log_way(&self, driver: &str, path: &str, maker: Maker, has_socket: bool) -> LogWay {
        let file = self.on_host(Path::new(path));
        let is_there = || !path.is_empty() && std::fs::File::open(&file).is_ok();
        match (driver, maker) {
            ("json-file", Maker::Docker) if is_there() => LogWay::File(file, Writing::JsonFile),
            // Podman calls its one file driver by both names.
            ("json-file" | "k8s-file", Maker::Podman) if is_there() => LogWay::File(file, Writing::Cri),
            ("none" | "", _) => LogWay::None,
            _ if has_socket => LogWay::Stream,
            _ => LogWay::None,
        }
    }
}

/// How the engine can be reached, for `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Through the socket; the engine's version.
    Socket(String),
    /// From the state files; why not through the socket.
    StateFiles(String),
    /// Not at all; why.
    None(String),
}

/// Reads a text as each of the engine's state files: for fuzz targets.
pub(crate) fn read_every_way(text: &[u8]) -> impl std::fmt::Debug {
    (state::read_every_way(text), bolt::read_every_way(text), stream::stamped(text).0)
}

/// Looks once: how the engine can be reached, and which containers there are.
pub(crate) async fn look(place: &Place) -> (Reach, Vec<Instance>) {
    let no_socket = match &place.socket {
        None => "no socket is configured".to_owned(),
        Some(socket) => match docker::look(place, socket).await {
            Ok((version, instances)) => return (Reach::Socket(version), instances),
            Err(error) => format!("{socket}: {error}"),
        },
    };
    match state::read_all(place) {
        Ok(instances) => (Reach::StateFiles(no_socket), instances),
        Err(error) => {
            (Reach::None(format!("{no_socket}; {}: {error}", place.on_host(&place.data_root).display())), Vec::new())
        }
    }
}

/// Tells `notices` about the containers for as long as someone listens. Logs without a file go on after what was
/// `heard`.
pub(crate) async fn watch(place: Place, heard: Heard, notices: Sender<Notice>) {
    let heard = Arc::new(Mutex::new(heard));
    let mut said = String::new();
    let mut diff = state::Diff::default();
    while !notices.is_closed() {
        let trouble = match &place.socket {
            None => "no socket is configured".to_owned(),
            Some(socket) => {
                let ended = docker::watch(&place, socket, &heard, &notices, &mut diff).await;
                if let Some(connected) = ended.connected {
                    tracing::warn!(version = connected, error = ended.error, "the container engine went away");
                    said.clear();
                }
                ended.error
            }
        };
        if said != trouble {
            tracing::info!(trouble, "containers are read from the engine's state files, its socket is not usable");
            said = trouble;
        }
        // Until the socket is tried again, the state files say what there is.
        let rounds = SOCKET_RETRY.as_secs() / STATE_INTERVAL.as_secs();
        for _ in 0..rounds.max(1) {
            if let Ok(instances) = state::read_all(&place) {
                for notice in diff.step(instances, clock::wall_ms()) {
                    if notices.send(notice).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(STATE_INTERVAL).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
