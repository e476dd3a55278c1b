//! The engine's API through its socket: list, inspect at a start, events, and logs that have no file.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, EventMessage};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use forewarn_common::block::EventKind;
use forewarn_common::clock;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::state::{Diff, address, has_own_network, health_code, kept_labels};
use super::stream::{Begin, Streams};
use super::{Heard, INSTANCES_MAX, Instance, LogWay, Maker, Notice, Place};
use crate::settings::Socket;

/// Seconds that a request may take; the event stream has no end of its own.
const TIMEOUT_S: u64 = 30;
/// Signals that ask a program to reload or report, not to end: HUP, USR1, USR2, CHLD, CONT, URG, WINCH.
const HARMLESS_SIGNALS: [&str; 7] = ["1", "10", "12", "17", "18", "23", "28"];
/// Events that matter here, as Docker calls them and as Podman does.
const EVENTS: [&str; 11] =
    ["start", "die", "died", "oom", "health_status", "exec_died", "kill", "stop", "destroy", "remove", "rename"];
/// Podman says that a check of health begins, and when its command has ended; what came of it is written after that.
const HEALTH_AFTER: Duration = Duration::from_millis(300);
/// The states of Podman's containers that can be said in Docker's language.
const PODMAN_STATES: [&str; 4] = ["created", "running", "paused", "exited"];
/// How often, and after which pause, an answer that cannot be understood is asked for again.
const TRIES: usize = 5;
const TRY_PAUSE: Duration = Duration::from_millis(200);
/// How Podman calls itself among the parts of the engine.
const PODMAN: &str = "Podman Engine";

/// How watching ended.
pub(super) struct Ended {
    /// The engine's version, if it was reached at all.
    pub(super) connected: Option<String>,
    /// Why it ended.
    pub(super) error: String,
}

/// The engine behind a socket.
#[derive(Debug, Clone)]
struct Engine {
    docker: Docker,
    maker: Maker,
    version: String,
}

async fn connect(socket: &Socket) -> Result<Engine, bollard::errors::Error> {
    let docker = match socket {
        Socket::Path(path) => Docker::connect_with_unix(&path.to_string_lossy(), TIMEOUT_S, API_DEFAULT_VERSION)?,
        Socket::Address(address) => {
            let address = *address;
            let transport = move |request| over_tcp(address, request);
            Docker::connect_with_custom_transport(
                transport,
                Some(format!("http://{address}")),
                TIMEOUT_S,
                API_DEFAULT_VERSION,
            )?
        }
    };
    let docker = docker.negotiate_version().await?;
    let said = docker.version().await?;
    let is_podman = said.components.unwrap_or_default().iter().any(|part| part.name == PODMAN);
    let maker = if is_podman { Maker::Podman } else { Maker::Docker };
    let name = if is_podman { "Podman " } else { "" };
    Ok(Engine { docker, maker, version: format!("{name}{}", said.version.unwrap_or_default()) })
}

/// A request to an address, each on a connection of its own: the library's own way would ask the system's resolver.
async fn over_tcp(
    address: SocketAddr,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, bollard::errors::Error> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    // A server is asked for a path, a proxy that goes on from there for the whole address.
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    Ok(sender.send_request(request).await?)
}

/// Looks once.
pub(super) async fn look(place: &Place, socket: &Socket) -> Result<(String, Vec<Instance>), bollard::errors::Error> {
    let engine = connect(socket).await?;
    let instances = list(&engine, place).await?;
    Ok((engine.version, instances))
}

async fn list(engine: &Engine, place: &Place) -> Result<Vec<Instance>, bollard::errors::Error> {
    // Podman has a state between stopped and cleaned up for which Docker's language has no word.
    let states = PODMAN_STATES.map(str::to_owned).to_vec();
    let filters = (engine.maker == Maker::Podman).then(|| HashMap::from([("status".to_owned(), states)]));
    let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
    let mut found = engine.docker.list_containers(Some(options)).await?;
    // Running ones first: of too many, those that ended long ago are left out.
    found.sort_by_key(|one| std::cmp::Reverse(one.created));
    let mut instances = Vec::new();
    for id in found.into_iter().filter_map(|one| one.id).take(INSTANCES_MAX) {
        match inspect(engine, place, &id).await {
            Ok(instance) => instances.push(instance),
            // It ended and was removed since the list was made, or is about to be cleaned up.
            Err(
                bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }
                | bollard::errors::Error::JsonDataError { .. },
            ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(instances)
}

async fn inspect(engine: &Engine, place: &Place, id: &str) -> Result<Instance, bollard::errors::Error> {
    let mut tries = 1;
    loop {
        match engine.docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Err(bollard::errors::Error::JsonDataError { .. }) if tries < TRIES => tries += 1,
            said => return said.map(|said| instance(said, place, engine.maker)),
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
}

fn instance(said: ContainerInspectResponse, place: &Place, maker: Maker) -> Instance {
    let state = said.state.unwrap_or_default();
    let config = said.config.unwrap_or_default();
    let host = said.host_config.unwrap_or_default();
    let log_driver = host.log_config.and_then(|log| log.typ).unwrap_or_default();
    let is_running = state.running.unwrap_or(false);
    let started_at = state.started_at.filter(|at| !at.starts_with("0001-")).unwrap_or_default();
    let network_mode = host.network_mode.unwrap_or_default();
    let networks = said.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let addresses = networks.values().filter_map(|network| network.ip_address.as_deref());
    let exit_code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    Instance {
        id: said.id.unwrap_or_default(),
        name: said.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        labels: kept_labels(config.labels.unwrap_or_default()),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        is_running,
        exit_code: exit_code.filter(|_| !is_running && !started_at.is_empty()),
        is_oom_killed: state.oom_killed.unwrap_or(false),
        health: state.health.and_then(|health| health.status).and_then(|status| health_code(status.as_ref())),
        started_at,
        restart_count: said.restart_count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
        address: address(&network_mode, addresses),
        has_own_network: has_own_network(&network_mode),
        log: place.log_way(&log_driver, &said.log_path.unwrap_or_default(), maker, true),
        log_driver,
    }
}

/// Tells about containers until the engine goes away or nobody listens.
pub(super) async fn watch(
    place: &Place,
    socket: &Socket,
    heard: &Arc<Mutex<Heard>>,
    notices: &Sender<Notice>,
    diff: &mut Diff,
) -> Ended {
    let engine = match connect(socket).await {
        Ok(reached) => reached,
        Err(error) => return Ended { connected: None, error: format!("{socket}: {error}") },
    };
    let version = engine.version.clone();
    tracing::info!(version, "the container engine is reached");
    let mut session = Session {
        engine,
        place,
        notices,
        known: HashMap::new(),
        listed_at_ms: 0,
        health_due: BTreeMap::new(),
        streams: Streams::new(heard),
    };
    let error = session.run(diff).await.err().map_or_else(|| "the event stream ended".to_owned(), |e| e.to_string());
    // Before the first list nothing is known, which is not that there is nothing.
    if session.listed_at_ms > 0 {
        diff.set(session.known.into_values());
    }
    Ended { connected: Some(version), error }
}

struct Session<'a> {
    engine: Engine,
    place: &'a Place,
    notices: &'a Sender<Notice>,
    known: HashMap<String, Instance>,
    /// When the list was complete: events from before may be in it already.
    listed_at_ms: i64,
    /// Containers of Podman whose health is asked for then.
    health_due: BTreeMap<String, Instant>,
    /// Logs that are followed through the API; they end with the session.
    streams: Streams,
}

impl Session<'_> {
    async fn run(&mut self, diff: &mut Diff) -> Result<(), bollard::errors::Error> {
        // Events are asked for from before the list: nothing falls between the two.
        let since_s = clock::wall_ms() / 1000;
        let instances = list(&self.engine, self.place).await?;
        self.listed_at_ms = clock::wall_ms();
        self.known = instances.iter().map(|instance| (instance.id.clone(), instance.clone())).collect();
        self.streams.keep(&self.known);
        for instance in &instances {
            // Of what came to be while nobody looked all is news.
            self.follow_stream(instance, if diff.is_news(&instance.id) { Begin::At(0) } else { Begin::Now });
        }
        for notice in diff.step(instances, clock::wall_ms()) {
            self.tell(notice).await;
        }
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), EVENTS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptions { since: Some(since_s.to_string()), until: None, filters: Some(filters) };
        let docker = self.engine.docker.clone();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        loop {
            let due = self.health_due.values().min().copied();
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.ask_for_health().await;
                    continue;
                }
            };
            let Some(event) = event else { return Ok(()) };
            self.on_event(event?).await?;
            if self.notices.is_closed() {
                return Ok(());
            }
        }
    }

    /// What came of the checks of health whose time has come.
    async fn ask_for_health(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self.health_due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.health_due.remove(&id);
            if let Ok(Some(health)) = inspect(&self.engine, self.place, &id).await.map(|now| now.health) {
                self.on_health(id, health, clock::wall_ms()).await;
            }
        }
    }

    /// Tells of a health that is news.
    async fn on_health(&mut self, id: String, health: u8, at_ms: i64) {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.health != Some(health)) else { return };
        known.health = Some(health);
        let changed = Notice::Changed(Box::new(known.clone()));
        self.tell(changed).await;
        self.tell(Notice::Happened { id, at_ms, kind: EventKind::Health, code: i32::from(health) }).await;
    }

    async fn on_event(&mut self, event: EventMessage) -> Result<(), bollard::errors::Error> {
        let actor = event.actor.unwrap_or_default();
        let (Some(id), Some(action)) = (actor.id, event.action) else { return Ok(()) };
        let attribute = |key: &str| actor.attributes.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let at_ms = event.time_nano.map_or_else(clock::wall_ms, |nano| nano / 1_000_000);
        let may_be_known = at_ms <= self.listed_at_ms;
        let (kind, code) = match action.split(':').next().unwrap_or_default() {
            "start" => {
                // What the list already showed as started is no second start.
                let before = self.known.get(&id).map(|known| known.started_at.clone());
                let is_there = self.refresh(&id).await?;
                let same = before == self.known.get(&id).map(|now| now.started_at.clone());
                if may_be_known && (!is_there || same) {
                    return Ok(());
                }
                if let Some(instance) = self.known.get(&id).cloned() {
                    self.follow_stream(&instance, Begin::At(at_ms / 1000));
                }
                (EventKind::Start, 0)
            }
            "die" | "died" => {
                let code = attribute("exitCode").and_then(|code| code.parse().ok()).unwrap_or(0);
                let Some(known) = self.known.get_mut(&id).filter(|known| known.is_running || !may_be_known) else {
                    return Ok(());
                };
                (known.is_running, known.pid, known.exit_code) = (false, 0, Some(code));
                let changed = Notice::Changed(Box::new(known.clone()));
                self.tell(changed).await;
                // Podman has no event of its own for it.
                if self.engine.maker == Maker::Podman
                    && inspect(&self.engine, self.place, &id).await.is_ok_and(|now| now.is_oom_killed)
                {
                    self.tell(Notice::Happened { id: id.clone(), at_ms, kind: EventKind::Oom, code: 0 }).await;
                }
                (EventKind::Die, code)
            }
            "oom" => (EventKind::Oom, 0),
            "health_status" | "exec_died" => {
                match action.split_once(": ") {
                    Some((_, status)) => {
                        if let Some(health) = health_code(status) {
                            self.on_health(id, health, at_ms).await;
                        }
                    }
                    None if self
                        .known
                        .get(&id)
                        .is_some_and(|known| action != "exec_died" || known.health.is_some()) =>
                    {
                        self.health_due.insert(id, Instant::now() + HEALTH_AFTER);
                    }
                    None => {}
                }
                return Ok(());
            }
            "kill" if attribute("signal").is_none_or(|signal| !HARMLESS_SIGNALS.contains(&signal)) => {
                (EventKind::Stop, 0)
            }
            // Podman's word for it, before the end; Docker says this after the end, where it tells nothing new.
            "stop" if self.known.get(&id).is_some_and(|known| known.is_running) => (EventKind::Stop, 0),
            "destroy" | "remove" => {
                self.tell(Notice::Happened { id: id.clone(), at_ms, kind: EventKind::Destroy, code: 0 }).await;
                self.known.remove(&id);
                self.streams.forget(&id);
                self.tell(Notice::Removed { id }).await;
                return Ok(());
            }
            "rename" => {
                self.refresh(&id).await?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.tell(Notice::Happened { id, at_ms, kind, code }).await;
        Ok(())
    }

    /// Asks about one container and tells. `false` when it is gone already.
    async fn refresh(&mut self, id: &str) -> Result<bool, bollard::errors::Error> {
        let instance = match inspect(&self.engine, self.place, id).await {
            Ok(instance) => instance,
            Err(
                bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }
                | bollard::errors::Error::JsonDataError { .. },
            ) => return Ok(false),
            Err(error) => return Err(error),
        };
        if self.known.len() >= INSTANCES_MAX && !self.known.contains_key(id) {
            tracing::warn!(limit = INSTANCES_MAX, "a container is left out: there are too many");
            return Ok(false);
        }
        self.known.insert(id.to_owned(), instance.clone());
        self.tell(Notice::Changed(Box::new(instance))).await;
        Ok(true)
    }

    /// Follows the log of a running container that has no file.
    fn follow_stream(&mut self, instance: &Instance, begin: Begin) {
        if instance.log == LogWay::Stream && instance.is_running {
            self.streams.follow(&self.engine.docker, self.notices, &instance.id, begin);
        }
    }

    async fn tell(&self, notice: Notice) {
        // Nobody listens any more only when the agent stops.
        let _ = self.notices.send(notice).await;
    }
}
