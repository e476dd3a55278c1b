//! Judgement with its memory: shows `watch` what was seen beside the rules and the open incidents, and saves what
//! becomes of them together with what is to be told. Rules and open incidents are cached; the database decides.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forewarn_common::block::{EntityKind, Urgent};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::limit;
use tokio::sync::Mutex as AsyncMutex;

use crate::model::forecast::State;
use crate::model::host::Host;
use crate::model::incident::{Incident, IncidentState, Subject};
use crate::model::rule::{Condition, Rule};
use crate::model::series::SeriesKey;
use crate::outbox::Outbox;
use crate::share::Share;
use crate::store::{Store, StoreError, StoredForecast};
use crate::watch::{self, Context, Seen, Target};

/// Another server may have changed the rules: they are read anew after this long.
const CACHE_MS: i64 = 10_000;
/// Names change seldom, and reading them costs more than taking a block: another server's changes show after this long.
const NAMES_MS: i64 = 300_000;
/// How often a change is judged again because somebody else changed the incident first.
const TRIES: usize = 4;
/// Without a rule for silence a host's data are no longer of now after this long.
const SILENT_AFTER_MS: i64 = 3 * 60_000;

/// What people call a host and its entities.
#[derive(Debug, Default)]
struct Names {
    host: String,
    entities: HashMap<EntityId, (String, String, EntityKind)>,
}

/// One host's open incidents. Whatever concerns a host is judged one after the other on this server; another server may
/// judge it at the same time, which the database decides by revisions and by one open incident a subject.
#[derive(Default)]
struct Lane {
    open: Option<HashMap<Subject, Incident>>,
    /// In which solitude of this server `open` was read.
    read_in: Option<u64>,
    /// What was open when this server last looked.
    stale: Option<HashMap<Subject, Incident>>,
    names: Option<(i64, Arc<Names>)>,
    /// The id of the next incident: most looks end without one.
    next_id: Option<Arc<str>>,
    /// Subjects whose incident has ended while their forecast, which follows some buckets behind, may still stand
    /// from before. It is no news until it has been withdrawn once. Not kept over a restart: a rebuilt forecast does
    /// not stand by itself.
    ended: HashSet<Subject>,
}

/// What of a block is news.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// Its values are of now: neither a wrong clock nor a spool stands between.
    pub values: bool,
    /// It was stored before. Perhaps it was judged as well, perhaps the server died in between.
    pub repeated: bool,
}

/// One thing that was seen, and of what.
struct Sight<'a> {
    target: Target<'a>,
    seen: Seen<'a>,
}

/// One look: what was seen, when, and whether the host's silence may be taken for news.
#[derive(Clone, Copy)]
struct Look<'a> {
    seen: Seen<'a>,
    held: bool,
    now_ms: i64,
    /// SHA-256 of the grid behind a forecast.
    digest: Option<&'a str>,
}

/// Judges what was seen.
pub struct Judge {
    store: Store,
    outbox: Arc<Outbox>,
    share: Arc<Share>,
    listening_since_ms: AtomicI64,
    /// Whether the database did not answer at the last tick: agents could not be heard either.
    deaf: AtomicBool,
    rules: RwLock<Option<(i64, Arc<Vec<Rule>>)>>,
    lanes: Mutex<HashMap<HostId, Arc<AsyncMutex<Lane>>>>,
}

impl Judge {
    /// A judge over the store's rules and incidents. Silence before `listening_since_ms` is the server's own.
    #[must_use]
    pub fn new(store: Store, outbox: Arc<Outbox>, share: Arc<Share>, listening_since_ms: i64) -> Self {
        let (listening_since_ms, deaf) = (AtomicI64::new(listening_since_ms), AtomicBool::new(false));
        Self { store, outbox, share, listening_since_ms, deaf, rules: RwLock::default(), lanes: Mutex::default() }
    }

    /// The rules.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rules(&self, now_ms: i64) -> Result<Arc<Vec<Rule>>, StoreError> {
        let cached = self.rules.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at_ms, rules)) = cached
            && (0..CACHE_MS).contains(&(now_ms - at_ms))
        {
            return Ok(rules);
        }
        let rules = Arc::new(self.store.rules().await?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Arc::clone(&rules)));
        Ok(rules)
    }

    /// Reads the rules anew at the next look: one was changed.
    pub fn forget_rules(&self) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lane(&self, host: HostId) -> Arc<AsyncMutex<Lane>> {
        Arc::clone(self.lanes.lock().unwrap_or_else(PoisonError::into_inner).entry(host).or_default())
    }

    /// Judges the urgent section of a block that is stored. Values of a skewed clock or of an old block are history:
    /// only their keyword hits and events are looked at.
    ///
    /// # Errors
    /// The database does not answer; the block should not be acknowledged.
    pub async fn urgent(&self, host: HostId, urgent: &Urgent, fresh: Freshness, now_ms: i64) -> Result<(), StoreError> {
        let lane = self.lane(host);
        let mut lane = lane.lock().await;
        self.refresh(&mut lane);
        let mut names = self.names(&mut lane, host, now_ms).await?;
        if speakers(urgent).any(|entity| !names.knows(host, entity)) {
            // Born since the names were read: its record has just been stored with the block.
            lane.names = None;
            names = self.names(&mut lane, host, now_ms).await?;
        }
        let mut events = urgent.events.clone();
        watch::order_events(&mut events);
        let mut sights = Vec::with_capacity(urgent.last.len() + events.len() + urgent.hits.len() + 1);
        for event in &events {
            sights.push(Sight { target: Target::Event(event), seen: Seen::Event(event) });
        }
        for hit in &urgent.hits {
            sights.push(Sight { target: Target::Hit(hit), seen: Seen::Hit(hit) });
        }
        if fresh.values && !fresh.repeated {
            sights.push(Sight { target: Target::Host, seen: Seen::HostBack });
            for last in &urgent.last {
                let kind = names.kind(host, last.entity);
                let metric = last.metric.spec().name;
                let target = Target::Series { entity: last.entity, kind, metric, instance: &last.instance };
                sights.push(Sight { target, seen: Seen::Level { value: last.value, at_ms: urgent.at_ms } });
            }
        }
        if fresh.repeated {
            let open = self.open(&mut lane, host).await?;
            sights.retain(|sight| !open.values().any(|incident| is_known(incident, sight)));
        }
        self.show_all(&mut lane, host, &names, &sights, !fresh.values, now_ms).await
    }

    /// Judges the forecasts of a host. `digests` has those of the grids behind them, by rule and series.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forecasts(
        &self,
        host: &Host,
        forecasts: &[StoredForecast],
        digests: &HashMap<(String, SeriesKey), String>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let lane = self.lane(host.id);
        let mut lane = lane.lock().await;
        self.refresh(&mut lane);
        // Read before anything is judged: what another server ended since must be known as ended.
        self.open(&mut lane, host.id).await?;
        let mut names = self.names(&mut lane, host.id, now_ms).await?;
        if forecasts.iter().any(|known| !names.knows(host.id, known.key.entity)) {
            // Born since the names were read.
            lane.names = None;
            names = self.names(&mut lane, host.id, now_ms).await?;
        }
        let rules = self.rules(now_ms).await?;
        let held = self.is_held(host, &rules, now_ms);
        for known in forecasts {
            let Some(rule) = rules.iter().find(|rule| rule.id == known.rule) else { continue };
            let kind = names.kind(host.id, known.key.entity);
            let (metric, instance) = (known.key.metric.as_str(), known.key.instance.as_str());
            let target = Target::Series { entity: known.key.entity, kind, metric, instance };
            let digest = digests.get(&(known.rule.clone(), known.key.clone())).map(String::as_str);
            if let Some(subject) = watch::subject(rule, host.id, &target)
                && lane.ended.contains(&subject)
            {
                if !known.forecast.warned {
                    lane.ended.remove(&subject);
                } else if matches!(known.forecast.state, State::Warning { .. }) {
                    continue;
                }
            }
            let look = Look { seen: Seen::Forecast(&known.forecast), held, now_ms, digest };
            self.show(&mut lane, rule, host.id, &names, &target, look).await?;
        }
        Ok(())
    }

    /// Rule and series of each warning that stands for a host: what a rebuilt forecast must not forget.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn standing(&self, host: HostId) -> Result<HashSet<(String, SeriesKey)>, StoreError> {
        let lane = self.lane(host);
        let mut lane = lane.lock().await;
        self.refresh(&mut lane);
        let open = self.open(&mut lane, host).await?.values();
        let firing = open.filter(|incident| incident.state == IncidentState::Firing);
        let series = firing.filter_map(|incident| {
            let Subject { rule, host, entity, instance } = incident.subject.clone();
            Some((rule, SeriesKey { host, entity, metric: incident.evidence.metric.clone()?, instance }))
        });
        Ok(series.collect())
    }

    /// Looks at what only time changes: silent hosts, quiet incidents; of the hosts that this server owns.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tick(&self, now_ms: i64) -> Result<(), StoreError> {
        let hosts = self.store.hosts().await;
        if hosts.is_err() {
            self.deaf.store(true, Ordering::Relaxed);
        } else if self.deaf.swap(false, Ordering::Relaxed) {
            // No agent could be heard while the database was gone: that silence was our own.
            self.listen_from(now_ms);
        }
        let rules = self.rules(now_ms).await?;
        for host in hosts?.into_iter().filter(|host| self.share.owns(host.id)) {
            let lane = self.lane(host.id);
            let mut lane = lane.lock().await;
            self.refresh(&mut lane);
            let names = self.names(&mut lane, host.id, now_ms).await?;
            let held = self.is_held(&host, &rules, now_ms);
            if host.seen_ms > 0 {
                let sight =
                    Sight { target: Target::Host, seen: Seen::HostSilent { seen_ms: self.seen_ms(&host, now_ms) } };
                self.show_all(&mut lane, host.id, &names, std::slice::from_ref(&sight), held, now_ms).await?;
            }
            let tick = Look { seen: Seen::Tick, held, now_ms, digest: None };
            let subjects: Vec<Subject> = self.open(&mut lane, host.id).await?.keys().cloned().collect();
            for subject in subjects {
                match rules.iter().find(|rule| rule.id == subject.rule) {
                    Some(rule) => self.judge(&mut lane, rule, &subject, &names, tick).await?,
                    None => tracing::warn!(rule = %subject.rule, "an open incident belongs to a rule that is gone"),
                }
            }
        }
        Ok(())
    }

    /// A host whose data are not of now: nothing may be concluded from what it does not say.
    fn is_held(&self, host: &Host, rules: &[Rule], now_ms: i64) -> bool {
        let silent_after_ms = rules.iter().find_map(|rule| match rule.condition {
            Condition::HostSilent { after_ms } => Some(after_ms),
            _ => None,
        });
        let heard_ms = self.seen_ms(host, now_ms).max(self.listening_since_ms());
        let silent = now_ms - heard_ms > silent_after_ms.unwrap_or(SILENT_AFTER_MS);
        silent || host.skew_ms.abs() > limit::CLOCK_SKEW_MS_MAX
    }

    /// Silence before `now_ms` was this server's own: its clock was set, or it stood still.
    pub fn listen_from(&self, now_ms: i64) {
        self.listening_since_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When a host was last heard. What a clock wrote that has been set back since is not believed.
    fn seen_ms(&self, host: &Host, now_ms: i64) -> i64 {
        if host.seen_ms > now_ms.saturating_add(limit::CLOCK_SKEW_MS_MAX) {
            self.listening_since_ms()
        } else {
            host.seen_ms
        }
    }

    fn listening_since_ms(&self) -> i64 {
        self.listening_since_ms.load(Ordering::Relaxed)
    }

    /// Incidents that another server may have changed are read anew; what it ended is found out by comparing.
    fn refresh(&self, lane: &mut Lane) {
        let solitude = self.share.solitude();
        if solitude.is_none() || solitude != lane.read_in {
            lane.stale = lane.open.take().or(lane.stale.take());
            lane.read_in = solitude;
        }
    }

    async fn names(&self, lane: &mut Lane, host: HostId, now_ms: i64) -> Result<Arc<Names>, StoreError> {
        if let Some((at_ms, names)) = &lane.names
            && (0..NAMES_MS).contains(&(now_ms - at_ms))
        {
            return Ok(Arc::clone(names));
        }
        let known = self.store.host(host).await?;
        let mut names = Names { host: known.map(|host| host.name).unwrap_or_default(), ..Names::default() };
        for known in self.store.entities(Some(host)).await? {
            let entity = known.entity;
            names.entities.insert(entity.id, (entity.name, entity.component, entity.kind));
        }
        let names = Arc::new(names);
        lane.names = Some((now_ms, Arc::clone(&names)));
        Ok(names)
    }

    async fn open<'a>(
        &self,
        lane: &'a mut Lane,
        host: HostId,
    ) -> Result<&'a mut HashMap<Subject, Incident>, StoreError> {
        let open: HashMap<Subject, Incident> = match lane.open.take() {
            Some(open) => open,
            None => {
                let incidents = self.store.open_incidents_of(host).await?;
                incidents.into_iter().map(|incident| (incident.subject.clone(), incident)).collect()
            }
        };
        for (subject, incident) in lane.stale.take().into_iter().flatten() {
            let fired = incident.state == IncidentState::Firing && incident.evidence.metric.is_some();
            if fired && !open.contains_key(&subject) {
                lane.ended.insert(subject);
            }
        }
        Ok(lane.open.insert(open))
    }

    async fn show_all(
        &self,
        lane: &mut Lane,
        host: HostId,
        names: &Names,
        sights: &[Sight<'_>],
        held: bool,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let rules = self.rules(now_ms).await?;
        self.open(lane, host).await?;
        for sight in sights {
            for rule in rules.iter() {
                // Most looks end here: nothing is open, and nothing begins.
                let is_calm = lane.open.as_ref().is_some_and(HashMap::is_empty);
                if is_calm && !watch::may_begin(rule, sight.seen) {
                    continue;
                }
                let look = Look { seen: sight.seen, held, now_ms, digest: None };
                self.show(lane, rule, host, names, &sight.target, look).await?;
            }
        }
        Ok(())
    }

    async fn show(
        &self,
        lane: &mut Lane,
        rule: &Rule,
        host: HostId,
        names: &Names,
        target: &Target<'_>,
        look: Look<'_>,
    ) -> Result<(), StoreError> {
        match watch::subject(rule, host, target) {
            Some(subject) => self.judge(lane, rule, &subject, names, look).await,
            None => Ok(()),
        }
    }

    /// Judges one subject and saves what becomes of it; reads again and judges again if somebody else was first.
    async fn judge(
        &self,
        lane: &mut Lane,
        rule: &Rule,
        subject: &Subject,
        names: &Names,
        look: Look<'_>,
    ) -> Result<(), StoreError> {
        let Look { seen, held, now_ms, digest } = look;
        for _ in 0..TRIES {
            let next_id = match &lane.next_id {
                Some(id) => Arc::clone(id),
                None => Arc::clone(lane.next_id.insert(new_id()?.into())),
            };
            let open = self.open(lane, subject.host).await?;
            let current = open.get(subject);
            let new_id = current.map_or(&*next_id, |incident| incident.id.as_str());
            let (entity_name, component) = names.of(subject.entity);
            let context = Context {
                now_ms,
                listening_since_ms: self.listening_since_ms(),
                held,
                host_name: &names.host,
                entity_name,
                component,
                new_id,
                digest,
            };
            let Some(change) = watch::judge(rule, subject, current, seen, &context) else {
                return Ok(());
            };
            let expected = current.map(|incident| incident.revision);
            let forgotten = change.is_forgotten();
            let mut incident = change.incident;
            incident.revision = expected.map_or(0, |revision| revision + 1);
            let deliveries = match change.told {
                Some(transition) => self.outbox.deliveries(&incident, transition, now_ms).await?,
                None => Vec::new(),
            };
            let channels = deliveries.len();
            let saved = match (forgotten, expected) {
                (true, None) => return Ok(()),
                (true, Some(revision)) => self.store.incident_forget(&incident.id, revision).await,
                (false, expected) => self.store.incident_save(&incident, expected, deliveries).await,
            };
            match saved {
                Ok(()) => {
                    if let Some(transition) = change.told {
                        tracing::info!(
                            rule = %subject.rule, host = %names.host, entity = %entity_name, instance = %subject.instance,
                            told = transition.word(), channels, "an incident changed"
                        );
                    }
                    let still_forecast = incident.evidence.metric.is_some();
                    if incident.state == IncidentState::Resolved {
                        open.remove(subject);
                        if still_forecast {
                            lane.ended.insert(subject.clone());
                        }
                    } else {
                        open.insert(subject.clone(), incident);
                    }
                    // An id is used once.
                    lane.next_id = None;
                    return Ok(());
                }
                Err(StoreError::Conflict) => lane.stale = lane.open.take(),
                Err(error) => {
                    // Whether it was written is not known: read again next time.
                    lane.stale = lane.open.take();
                    return Err(error);
                }
            }
        }
        Err(StoreError::Conflict)
    }
}

impl Names {
    fn of(&self, entity: EntityId) -> (&str, &str) {
        self.entities.get(&entity).map_or((self.host.as_str(), ""), |(name, component, _)| (name, component))
    }

    fn knows(&self, host: HostId, entity: EntityId) -> bool {
        self.entities.contains_key(&entity) || entity == EntityId::of_host(host)
    }

    fn kind(&self, host: HostId, entity: EntityId) -> EntityKind {
        if let Some((.., kind)) = self.entities.get(&entity) {
            return *kind;
        }
        if entity == EntityId::of_host(host) { EntityKind::Host } else { EntityKind::Workload }
    }
}

/// Whether an open incident has this hit or event among its evidence already.
fn is_known(incident: &Incident, sight: &Sight<'_>) -> bool {
    let (subject, evidence) = (&incident.subject, &incident.evidence);
    match sight.seen {
        Seen::Hit(hit) => {
            subject.entity == hit.entity && subject.instance == hit.rule && evidence.last_ms >= hit.last_ms
        }
        Seen::Event(event) => {
            let same =
                |known: &crate::model::incident::EventEvidence| known.at_ms == event.at_ms && known.kind == event.kind;
            subject.entity == event.entity && evidence.events.iter().any(same)
        }
        _ => false,
    }
}

/// Whose hits and events these are.
fn speakers(urgent: &Urgent) -> impl Iterator<Item = EntityId> + '_ {
    urgent.hits.iter().map(|hit| hit.entity).chain(urgent.events.iter().map(|event| event.entity))
}

fn new_id() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Setup(format!("the random generator failed: {error}")))?;
    Ok(hex::encode(bytes))
}
