//! The loop that joins the rooms: one thread, one `enum Event`, everything bounded.
//!
//! It owns the clock's ticks and decides when a block ends and when one is pushed. It reads no files of the host
//! and speaks no protocol itself.

use std::fs::File;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use forewarn_common::block::{Entity, EntityKind};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, random_u64};
use forewarn_common::wire::AgentConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::{JoinHandle, JoinSet};

use crate::alarm::Alarm;
use crate::assembly::{Assembly, Moment, Origin};
use crate::endpoint;
use crate::engine::{self, Notice};
use crate::hostlog::HostLogs;
use crate::sampler::{self, Containers, Host, HostFacts, HostSize, Row};
use crate::scrape::Scrapes;
use crate::sender::{self, Fetcher, Identity, Link, Outcome, Pacing, SenderError};
use crate::settings::{self, Overrides, Settings, Socket};
use crate::spool::{Key, Spool};
use crate::supervisor::{Supervisor, Word};
use crate::tailer::{FirstLine, Tailer};
use crate::vitals::Vitals;
use crate::workload::Workloads;

const LOCK_FILE: &str = "lock";
const CONFIG_FILE: &str = "config.json";
/// Notices of the engine that may wait: a burst of starts; beyond it the engine's room waits.
const NOTICES_MAX: usize = 256;
/// How long a stopping agent tries to hand over what waits: half of what `docker stop` leaves it.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause before the configuration is asked for again after a failure.
const CONFIG_RETRY_MS: i64 = 30_000;

/// This host's identity: the stored one, else a new enrolment with `token`.
///
/// # Errors
/// There is neither, or no server took the token.
pub(crate) async fn identity(settings: &Settings, token: Option<&str>) -> anyhow::Result<Identity> {
    match Identity::load(&settings.data_dir)? {
        Some(identity) => Ok(identity),
        None => enrol(settings, token).await,
    }
}

/// Enrols with `token`. A host that was enrolled before keeps its id, and so its history.
///
/// # Errors
/// There is no token, no server took it, or the identity cannot be kept.
pub(crate) async fn enrol(settings: &Settings, token: Option<&str>) -> anyhow::Result<Identity> {
    let token = token.ok_or(SenderError::NotEnrolled)?;
    // Before the token is spent: an identity that cannot be kept would ask for another one.
    drop(lock(&settings.data_dir)?);
    let before = Identity::load(&settings.data_dir)?;
    let hostname = host_name(settings);
    let server = &settings.server;
    let identity = sender::enroll(&server.urls, &server.proxy, token, before.as_ref(), &hostname).await?;
    identity.save(&settings.data_dir)?;
    tracing::info!(host = %identity.host, "this host is enrolled");
    Ok(identity)
}

/// Samples and pushes until SIGTERM or SIGINT; SIGHUP has the settings read again.
///
/// # Errors
/// The agent cannot start; once it runs it does not give up.
pub(crate) async fn run(settings: Settings, identity: Identity, overrides: &Overrides) -> anyhow::Result<()> {
    let _lock = lock(&settings.data_dir)?;
    let mut signals = Signals::new()?;
    let mut agent = Agent::new(settings, identity)?;
    let (socket, watchdog_ms) = settings::service_manager();
    let mut supervisor = Supervisor::new(socket.as_deref(), watchdog_ms);
    loop {
        supervisor.tell(Word::Ready);
        let (notices, mut heard) = channel(NOTICES_MAX);
        let watch = engine::watch(engine_place(&agent.settings), agent.tailer.heard(), notices);
        let watching: JoinHandle<()> = tokio::spawn(watch);
        let next = agent.serve(&mut signals, &mut heard, &mut supervisor, overrides).await;
        watching.abort();
        match next {
            Some(renewed) => agent = *renewed,
            None => break,
        }
    }
    supervisor.tell(Word::Stopping);
    agent.say_farewell().await;
    Ok(())
}

/// Two agents on one folder would send the same series twice.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join(LOCK_FILE);
    std::fs::create_dir_all(data_dir)
        .and_then(|()| File::create(&path))
        .and_then(|file| file.try_lock().map(|()| file).map_err(std::io::Error::from))
        .with_context(|| {
            format!("cannot lock {}: is another agent running, and may this one write there?", path.display())
        })
}

/// What the host is called.
pub(crate) fn host_name(settings: &Settings) -> String {
    if settings.hostname.is_empty() { sampler::hostname(&settings.host_root) } else { settings.hostname.clone() }
}

/// What reads endpoints, where there may be any.
///
/// # Errors
/// The certificates that the settings name cannot be used.
pub(crate) fn fetcher(settings: &Settings) -> Result<Option<Fetcher>, SenderError> {
    let scrape = &settings.scrape;
    let is_wanted = scrape.labels || !scrape.targets.is_empty();
    let ca_file = (!scrape.ca_file.as_os_str().is_empty()).then(|| settings.on_host(&scrape.ca_file));
    is_wanted.then(|| Fetcher::new(ca_file.as_deref())).transpose()
}

/// Where the settings say that the engine is.
#[must_use]
pub(crate) fn engine_place(settings: &Settings) -> engine::Place {
    let socket = settings.engine.socket.clone().map(|socket| match socket {
        Socket::Path(path) => Socket::Path(settings.on_host(&path)),
        Socket::Address(address) => Socket::Address(address),
    });
    engine::Place { socket, host_root: settings.host_root.clone(), data_root: settings.engine.data_root.clone() }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// What can happen.
enum Event {
    /// A tick, a look at the logs or a push is due.
    Timer,
    /// A followed log was written to.
    Written,
    /// The engine's room tells something.
    Engine(Notice),
    /// A push ended.
    Pushed(Outcome),
    /// The configuration came, or did not.
    Configured(Result<AgentConfig, String>),
    /// An endpoint was read, or could not be.
    Scraped(String, Result<Vec<u8>, String>),
    /// The settings are to be read again.
    Reload,
    /// It is time to stop.
    Stop,
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

struct Agent {
    settings: Settings,
    alarm: Alarm,
    assembly: Assembly,
    spool: Spool,
    link: Link,
    pacing: Pacing,
    push: Pending<Outcome>,
    pushing: Option<Key>,
    config: Pending<Result<AgentConfig, String>>,
    config_version: u64,
    config_not_before_ms: i64,
    epoch: u64,
    host: Host,
    containers: Containers,
    workloads: Workloads,
    /// Whether sampler and tailer have yet to hear of a change.
    is_stale: bool,
    tailer: Tailer,
    first_line: Rc<FirstLine>,
    host_logs: HostLogs,
    /// Containers whose logs the server leaves out.
    log_exclude: Vec<String>,
    scrapes: Scrapes,
    fetcher: Option<Fetcher>,
    fetches: JoinSet<(String, Result<Vec<u8>, String>)>,
    /// What was asked for and cannot be scraped, as it was said last.
    refused_endpoints: Vec<String>,
    vitals: Vitals,
    rows: Vec<Row>,
    /// Wall clock of the next tick.
    next_tick_ms: i64,
    last_early_ms: i64,
    trouble_said: bool,
}

impl Agent {
    fn new(settings: Settings, identity: Identity) -> anyhow::Result<Self> {
        sampler::raise_descriptor_limit();
        let root = settings.host_root.clone();
        let epoch = random_u64()?;
        let host_entity = EntityId::of_host(identity.host);
        let mut assembly = Assembly::new(Origin {
            host: identity.host,
            epoch,
            boot_id: sampler::boot_id(&root),
            step_ms: u32::try_from(settings.sample_interval_ms)?,
        });
        assembly.describe(Entity {
            id: host_entity,
            kind: EntityKind::Host,
            name: host_name(&settings),
            component: settings.component.clone(),
            attributes: HostFacts::read(&root).attributes,
        });
        let spool = Spool::open(&settings.data_dir, settings.spool_bytes_max)?;
        let mut tailer = Tailer::new(&settings.keywords, &settings.masks, spool.positions().as_deref())?;
        let stored = load_config(&settings.data_dir);
        if let Some(config) = &stored {
            // Rules that an earlier version of the agent took may be refused by this one.
            if let Err(error) = tailer.set_rules(&config.keywords, config.version) {
                tracing::error!(%error, "the stored keyword rules are not used");
            }
            tailer.set_samples_a_day_max(config.samples_a_day_max);
        }
        let first_line = FirstLine::compile(&settings.log.first_line)
            .map_err(|error| anyhow::anyhow!("log.first_line cannot be used: {error}"))?;
        let files = if settings.log.enabled { &settings.log.files[..] } else { &[] };
        let mut host_logs = HostLogs::new(identity.host, &root, files).map_err(anyhow::Error::msg)?;
        // Before the engine tells its containers: then the positions of logs that are gone are forgotten.
        host_logs.look(clock::boot_ms());
        tailer.set_interval(i64::try_from(settings.log.poll_interval_ms)?);
        let host_id = identity.host;
        let fetcher = fetcher(&settings)?;
        let link = Link::new(identity, &settings.server.urls, &settings.server.proxy)?;
        let interval_ms = i64::try_from(settings.sample_interval_ms)?;
        tracing::info!(waiting_blocks = spool.len(), "the agent has started");
        Ok(Self {
            alarm: Alarm::new()?,
            assembly,
            spool,
            link,
            pacing: Pacing::default(),
            push: None,
            pushing: None,
            config: None,
            config_version: stored.as_ref().map_or(0, |config| config.version),
            log_exclude: stored.map_or_else(Vec::new, |config| config.exclude),
            first_line: Rc::new(first_line),
            host_logs,
            config_not_before_ms: 0,
            epoch,
            host: Host::new(host_entity, &root),
            containers: Containers::new(&root),
            workloads: Workloads::new(host_id),
            is_stale: true,
            tailer,
            scrapes: Scrapes::default(),
            fetcher,
            fetches: JoinSet::new(),
            refused_endpoints: Vec::new(),
            vitals: Vitals::new(host_entity),
            rows: Vec::new(),
            next_tick_ms: next_multiple(clock::wall_ms(), interval_ms),
            last_early_ms: 0,
            trouble_said: false,
            settings,
        })
    }

    /// Works until it is told to stop, or gives the agent that goes on with other settings.
    async fn serve(
        &mut self,
        signals: &mut Signals,
        heard: &mut Receiver<Notice>,
        supervisor: &mut Supervisor,
        overrides: &Overrides,
    ) -> Option<Box<Self>> {
        loop {
            let boot_ms = clock::boot_ms();
            supervisor.show_life(boot_ms);
            let wait_ms = self.wait_ms(clock::wall_ms(), boot_ms).min(supervisor.due_ms() - boot_ms).max(0);
            match self.next_event(wait_ms.unsigned_abs(), signals, heard).await {
                Event::Stop => return None,
                Event::Reload => {
                    supervisor.tell(Word::Reloading { monotonic_us: clock::monotonic_us() });
                    match self.renewed(overrides) {
                        Ok(renewed) => return Some(Box::new(renewed)),
                        Err(error) => {
                            tracing::error!(
                                error = format!("{error:#}"),
                                "the new settings are refused, the old ones stay"
                            );
                            supervisor.tell(Word::Ready);
                        }
                    }
                }
                event => self.handle(event),
            }
        }
    }

    /// The agent that goes on after this one with the settings as they are on disk now.
    fn renewed(&mut self, overrides: &Overrides) -> anyhow::Result<Self> {
        let settings = Settings::load(overrides)?;
        anyhow::ensure!(settings.data_dir == self.settings.data_dir, "data_dir cannot change while the agent runs");
        // Rules and masks are tried before anything of this agent ends.
        Tailer::new(&settings.keywords, &settings.masks, None)?;
        self.close_block(Moment { wall_ms: clock::wall_ms(), boot_ms: clock::boot_ms() });
        self.spool.settle();
        anyhow::ensure!(!self.spool.is_in_memory(), "blocks wait in memory until the disk takes them again");
        let renewed = Self::new(settings, self.link.identity().clone())?;
        tracing::info!("the settings are taken over");
        Ok(renewed)
    }

    async fn next_event(&mut self, wait_ms: u64, signals: &mut Signals, heard: &mut Receiver<Notice>) -> Event {
        tokio::select! {
            _ = signals.terminate.recv() => Event::Stop,
            _ = signals.interrupt.recv() => Event::Stop,
            _ = signals.hang_up.recv() => Event::Reload,
            () = self.alarm.after(Duration::from_millis(wait_ms)) => Event::Timer,
            () = self.tailer.written() => Event::Written,
            Some(notice) = heard.recv() => Event::Engine(notice),
            outcome = pending(&mut self.push) => Event::Pushed(outcome),
            config = pending(&mut self.config) => Event::Configured(config),
            Some(Ok((id, page))) = self.fetches.join_next() => Event::Scraped(id, page),
        }
    }

    /// Milliseconds until something is due.
    fn wait_ms(&self, wall_ms: i64, boot_ms: i64) -> i64 {
        // A clock that was set back would make this wait long: no wait is longer than one interval.
        let tick = (self.next_tick_ms - wall_ms).min(self.interval_ms());
        let push =
            if self.push.is_none() && self.spool.len() > 0 { self.pacing.not_before_ms() - boot_ms } else { i64::MAX };
        let early = if self.is_urgent() { self.last_early_ms + self.early_ms() - boot_ms } else { i64::MAX };
        tick.min(push).min(early).min(self.tailer.due_ms() - boot_ms).max(0)
    }

    fn interval_ms(&self) -> i64 {
        i64::try_from(self.settings.sample_interval_ms).unwrap_or(i64::MAX)
    }

    /// Deals with an event of the work; the loop itself deals with the others.
    fn handle(&mut self, event: Event) {
        let now = Moment { wall_ms: clock::wall_ms(), boot_ms: clock::boot_ms() };
        match event {
            Event::Timer | Event::Written | Event::Stop | Event::Reload => {}
            Event::Engine(notice) => self.on_notice(notice, now),
            Event::Pushed(outcome) => self.on_pushed(&outcome, now),
            Event::Configured(config) => self.on_configured(config, now),
            Event::Scraped(id, page) => self.scrapes.take(&id, page, now.boot_ms),
        }
        self.is_stale |= self.host_logs.look(now.boot_ms);
        if self.is_stale {
            self.hand_on();
        }
        let is_tick = now.wall_ms >= self.next_tick_ms || self.next_tick_ms - now.wall_ms > self.interval_ms();
        // Whoever is awake for a tick looks at what was written as well: that saves a wake-up.
        if now.boot_ms >= self.tailer.due_ms() || (is_tick && self.tailer.may_look(now.boot_ms)) {
            self.tailer.look(now.wall_ms, now.boot_ms);
        }
        if is_tick {
            self.tick(now);
        }
        self.close_early(now);
        self.start_push(now);
    }

    fn on_notice(&mut self, notice: Notice, now: Moment) {
        if let Notice::Fed { id, piece, heard } = &notice {
            return self.tailer.feed(id, piece, *heard, now.wall_ms);
        }
        if matches!(notice, Notice::Synced(_) | Notice::Changed(_) | Notice::Removed { .. }) {
            self.is_stale = true;
        }
        let is_first = matches!(notice, Notice::Synced(_));
        if let Some(event) = self.workloads.apply(notice) {
            self.assembly.add_event(event);
        }
        if is_first {
            self.hand_on();
            self.tailer.forget_earlier();
        }
    }

    /// Hands the engine's table on to sampler, tailer and dictionary.
    fn hand_on(&mut self) {
        self.is_stale = false;
        self.containers.set_targets(self.workloads.targets());
        let of_containers = self.workloads.sources(&self.settings.log, &self.log_exclude, &self.first_line);
        self.tailer.set_sources(of_containers.chain(self.host_logs.sources()));
        let host = self.link.identity().host;
        let of_endpoints = endpoint::entities(&self.settings.scrape, host);
        for entity in self.workloads.entities().chain(self.host_logs.entities()).chain(of_endpoints) {
            self.assembly.describe(entity);
        }
        let (targets, refused) = endpoint::targets(&self.settings.scrape, host, &self.workloads);
        self.scrapes.set_targets(targets);
        if self.refused_endpoints != refused {
            refused.iter().for_each(|why| tracing::warn!("{why}"));
            self.refused_endpoints = refused;
        }
    }

    /// Begins to read the endpoints whose turn it is; what comes stands at the next tick.
    fn start_fetches(&mut self, now: Moment) {
        let Some(fetcher) = &self.fetcher else { return };
        for (id, url) in self.scrapes.due(now.boot_ms, self.interval_ms() / 2) {
            let page = fetcher.page(&url);
            self.fetches.spawn(async move { (id, page.await) });
        }
    }

    fn is_urgent(&self) -> bool {
        self.assembly.is_urgent() || self.tailer.has_hits()
    }

    fn early_ms(&self) -> i64 {
        i64::try_from(self.settings.early_block_ms).unwrap_or(i64::MAX)
    }

    fn tick(&mut self, now: Moment) {
        let interval_ms = self.interval_ms();
        let late_ms = now.wall_ms - self.next_tick_ms;
        if late_ms >= interval_ms {
            self.vitals.skip_ticks((late_ms / interval_ms).unsigned_abs());
        }
        let tick_ms = now.wall_ms - now.wall_ms.rem_euclid(interval_ms);
        let at = Moment { wall_ms: tick_ms, boot_ms: now.boot_ms - (now.wall_ms - tick_ms) };
        self.next_tick_ms = tick_ms + interval_ms;
        if self.assembly.must_close_before(at) {
            self.close_block(now);
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        self.host.sample(now.boot_ms, &mut rows);
        let size = HostSize { mem_total_bytes: self.host.mem_total_bytes(), cpu_count: self.host.cpu_count() };
        self.containers.sample(now.boot_ms, size, &mut rows);
        self.workloads.state_rows(&mut rows);
        let workloads = &mut self.workloads;
        self.tailer.take_counts(|entity, counts| workloads.log_rows(entity, counts, &mut rows));
        self.scrapes.sample(&mut rows);
        let (waiting_bytes, dropped) = (self.spool.bytes(), self.spool.dropped());
        rows.push(self.vitals.sample(now.boot_ms, waiting_bytes, dropped, self.tailer.unwatched()));
        self.assembly.add_tick(at, &rows);
        self.rows = rows;
        self.start_fetches(now);
        let ticks_per_block = i64::try_from(self.settings.block_interval_ms).unwrap_or(i64::MAX) / interval_ms;
        if (tick_ms / interval_ms + 1) % ticks_per_block.max(1) == 0 {
            self.close_block(now);
            self.pacing.spread(now.boot_ms, interval_ms / 10, sender::random());
        }
    }

    fn close_early(&mut self, now: Moment) {
        if self.is_urgent() && now.boot_ms - self.last_early_ms >= self.early_ms() {
            self.last_early_ms = now.boot_ms;
            self.close_block(now);
        }
    }

    fn close_block(&mut self, now: Moment) {
        self.assembly.add_hits(self.tailer.take_hits(), self.tailer.rules_version());
        if self.assembly.is_empty() {
            return;
        }
        let next_tick = Moment { wall_ms: self.next_tick_ms, boot_ms: now.boot_ms + (self.next_tick_ms - now.wall_ms) };
        match self.assembly.close(now, next_tick) {
            Ok((header, bytes)) => {
                self.spool.push(Key::of(&header), bytes, self.tailer.checkpoint());
            }
            Err(error) => tracing::error!(%error, "a block could not be made and its samples are lost"),
        }
        let lost = self.assembly.take_lost();
        if lost > 0 {
            tracing::warn!(lost, "rows, events or hits were left out of a block because it was full");
        }
    }

    fn start_push(&mut self, now: Moment) {
        if self.push.is_some() || now.boot_ms < self.pacing.not_before_ms() {
            return;
        }
        self.link.come_home(now.boot_ms);
        if let Some((key, bytes)) = self.spool.newest() {
            self.pushing = Some(key);
            self.push = Some(Box::pin(self.link.push(bytes, (now.boot_ms, now.wall_ms))));
        }
    }

    fn on_pushed(&mut self, outcome: &Outcome, now: Moment) {
        self.push = None;
        let Some(key) = self.pushing.take() else { return };
        self.pacing.note(outcome, now.boot_ms, sender::random());
        match outcome {
            Outcome::Stored(reply) => {
                if self.trouble_said {
                    tracing::info!(waiting_blocks = self.spool.len(), "the server takes blocks again");
                    self.trouble_said = false;
                }
                self.spool.remove(key);
                self.spool.settle();
                if key.epoch == self.epoch {
                    self.assembly.acknowledge(key.seq, &reply.unknown_layouts, &reply.unknown_entities);
                }
                if reply.config_version != self.config_version && now.boot_ms >= self.config_not_before_ms {
                    self.config.get_or_insert_with(|| Box::pin(self.link.config()));
                }
            }
            Outcome::Refused(detail) => {
                tracing::error!(detail, "the server refused a block for good, it is dropped and counted");
                self.spool.refuse(key);
            }
            Outcome::Busy { .. } => self.say_trouble("the server asks for patience"),
            Outcome::Unauthorized(detail) => {
                self.say_trouble(&format!(
                    "the server does not accept this host's key; blocks are kept; enrol it again: {detail}"
                ));
                self.link.fail_over(now.boot_ms);
            }
            Outcome::Failed(detail) => {
                self.say_trouble(&format!("the server cannot be reached, blocks are kept: {detail}"));
                self.link.fail_over(now.boot_ms);
            }
        }
    }

    /// Says it once a trouble, not once a try.
    fn say_trouble(&mut self, text: &str) {
        if !self.trouble_said {
            tracing::warn!("{text}");
            self.trouble_said = true;
        }
    }

    fn on_configured(&mut self, config: Result<AgentConfig, String>, now: Moment) {
        self.config = None;
        let config = match config {
            Ok(config) => config,
            Err(detail) => {
                tracing::warn!(detail, "the configuration could not be fetched and is asked for again");
                self.config_not_before_ms = now.boot_ms + CONFIG_RETRY_MS;
                return;
            }
        };
        match self.link.renew_trust(&config.trust) {
            Ok(true) => {
                if let Err(error) = self.link.identity().save(&self.settings.data_dir) {
                    tracing::error!(%error, "the new certificates are used but could not be kept");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the new certificates are not used"),
        }
        self.config_version = config.version;
        match self.tailer.set_rules(&config.keywords, config.version) {
            Ok(()) => tracing::info!(version = config.version, "the configuration is taken over"),
            Err(error) => tracing::error!(%error, version = config.version, "the keyword rules are not used"),
        }
        self.tailer.set_samples_a_day_max(config.samples_a_day_max);
        self.log_exclude.clone_from(&config.exclude);
        self.is_stale = true;
        if let Err(error) = save_config(&self.settings.data_dir, &config) {
            tracing::warn!(%error, "the configuration is used but could not be kept");
        }
    }

    /// Ends the open block, keeps it, and hands over what waits until a block is not taken. A push that the stop broke
    /// off is sent again.
    async fn say_farewell(mut self) {
        let now = Moment { wall_ms: clock::wall_ms(), boot_ms: clock::boot_ms() };
        self.close_block(now);
        if !self.pacing.is_failing() {
            // What is not taken by then waits in the spool for the next start.
            _ = tokio::time::timeout(FAREWELL, self.hand_over()).await;
        }
        tracing::info!(waiting_blocks = self.spool.len(), "the agent has stopped");
    }

    async fn hand_over(&mut self) {
        while let Some((key, bytes)) = self.spool.newest()
            && let Outcome::Stored(_) = self.link.push(bytes, (clock::boot_ms(), clock::wall_ms())).await
        {
            self.spool.remove(key);
        }
    }
}

/// The configuration that the server sent last, so that a restart without a server keeps the site's rules.
fn load_config(data_dir: &Path) -> Option<AgentConfig> {
    serde_json::from_slice(&std::fs::read(data_dir.join(CONFIG_FILE)).ok()?).ok()
}

fn save_config(data_dir: &Path, config: &AgentConfig) -> std::io::Result<()> {
    let temporary = data_dir.join(format!("{CONFIG_FILE}.tmp"));
    std::fs::write(&temporary, serde_json::to_vec(config)?)?;
    std::fs::rename(temporary, data_dir.join(CONFIG_FILE))
}

async fn pending<T>(future: &mut Pending<T>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn next_multiple(now_ms: i64, interval_ms: i64) -> i64 {
    now_ms - now_ms.rem_euclid(interval_ms) + interval_ms
}
