//! The containers as workloads: what the engine tells, handed on to sampler and tailer, and their state as series.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use forewarn_common::block::{EngineEvent, Entity, EntityKind};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Subject;
use forewarn_common::metric::Id;

use crate::engine::{Instance, LogWay, Notice, Writing};
use crate::sampler::{Row, Shape, Target};
use crate::settings;
use crate::tailer::{Counts, FirstLine, Format, Source};

const STATE_METRICS: [Id; 4] = [Id::Running, Id::Restarts, Id::Health, Id::ExitCode];
const LOG_METRICS: [Id; 4] = [Id::LogLines, Id::LogBytes, Id::LogLost, Id::LogCut];

#[derive(Debug)]
struct Workload {
    instance: Instance,
    entity: EntityId,
    /// Restarts since the last tick.
    restarts: u64,
    /// Whether it was there before the agent first looked.
    is_old: bool,
}

impl Workload {
    /// Of several instances the one that runs is meant, else the one started last.
    fn rank(&self) -> (bool, &str, &str) {
        (self.instance.is_running, &self.instance.started_at, &self.instance.id)
    }
}

/// All containers of the host.
#[derive(Debug)]
pub(crate) struct Workloads {
    host: HostId,
    by_id: HashMap<String, Workload>,
    state_shape: Rc<Shape>,
    log_shape: Rc<Shape>,
    /// Of the workloads and log files whose rules have hit, and whether that was said since the last tick.
    hit_shapes: HashMap<EntityId, (Rc<Shape>, bool)>,
}

impl Workloads {
    /// No containers yet.
    #[must_use]
    pub(crate) fn new(host: HostId) -> Self {
        Self {
            host,
            by_id: HashMap::new(),
            state_shape: Shape::of(STATE_METRICS.map(|id| (id, ""))),
            log_shape: Shape::of(LOG_METRICS.map(|id| (id, ""))),
            hit_shapes: HashMap::new(),
        }
    }

    /// Takes in what the engine tells; gives the event for the block, if it is one.
    pub(crate) fn apply(&mut self, notice: Notice) -> Option<EngineEvent> {
        match notice {
            Notice::Synced(instances) => {
                self.by_id.clear();
                for instance in instances {
                    self.insert(instance, true);
                }
            }
            Notice::Changed(instance) => self.insert(*instance, false),
            Notice::Removed { id } => {
                self.by_id.remove(&id);
            }
            Notice::Happened { id, at_ms, kind, code } => {
                let entity = self.by_id.get(&id)?.entity;
                return Some(Notice::event(entity, &id, at_ms, kind, code));
            }
            Notice::Fed { .. } => {}
        }
        None
    }

    fn insert(&mut self, instance: Instance, is_old: bool) {
        let before = self.by_id.remove(&instance.id);
        let restarted = before.as_ref().map_or(0, |before| restarts(&before.instance, &instance));
        let workload = Workload {
            entity: instance.entity(self.host),
            restarts: before.as_ref().map_or(0, |before| before.restarts) + restarted,
            is_old: before.map_or(is_old, |before| before.is_old),
            instance,
        };
        self.by_id.insert(workload.instance.id.clone(), workload);
    }

    /// One container a workload: of several the one that runs, else the one started last.
    fn current(&self) -> impl Iterator<Item = &Workload> {
        let mut all: Vec<&Workload> = self.by_id.values().collect();
        all.sort_by(|a, b| b.rank().cmp(&a.rank()));
        let mut seen = HashSet::new();
        all.into_iter().filter(move |workload| seen.insert(workload.entity))
    }

    /// What the dictionary says of the workloads.
    pub(crate) fn entities(&self) -> impl Iterator<Item = Entity> + '_ {
        self.current().map(|workload| Entity {
            id: workload.entity,
            kind: EntityKind::Workload,
            name: workload.instance.display_name(),
            component: workload.instance.component().to_owned(),
            attributes: workload.instance.attributes(),
        })
    }

    /// The containers that run, each with its workload.
    pub(crate) fn running(&self) -> impl Iterator<Item = (EntityId, &Instance)> {
        let running = self.current().filter(|workload| workload.instance.is_running);
        running.map(|workload| (workload.entity, &workload.instance))
    }

    /// What the sampler is to read.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let running = self.current().filter(|workload| workload.instance.is_running && workload.instance.pid > 0);
        running.map(|workload| Target {
            entity: workload.entity,
            id: workload.instance.id.clone(),
            pid: workload.instance.pid,
            own_network: workload.instance.has_own_network,
        })
    }

    /// What the tailer is to follow.
    ///
    /// `exclude` are the selectors of the server: they leave out what the host's own settings let in.
    pub(crate) fn sources<'a>(
        &'a self,
        log: &'a settings::Log,
        exclude: &'a [String],
        first_line: &'a Rc<FirstLine>,
    ) -> impl Iterator<Item = Source> + 'a {
        self.by_id.values().filter_map(|workload| {
            let subject = subject(&workload.instance);
            if !log.enabled || !subject.is_wanted(&log.include, &log.exclude) || !subject.is_wanted(&[], exclude) {
                return None;
            }
            let (path, format) = match &workload.instance.log {
                LogWay::File(path, Writing::JsonFile) => (Some(path.clone()), Format::JsonFile),
                LogWay::File(path, Writing::Cri) => (Some(path.clone()), Format::Cri),
                LogWay::Stream => (None, Format::JsonFile),
                LogWay::None => return None,
            };
            Some(Source {
                id: workload.instance.id.clone(),
                entity: workload.entity,
                path,
                beneath: None,
                subject,
                format,
                first_line: Rc::clone(first_line),
                is_old: workload.is_old,
                is_running: workload.instance.is_running,
            })
        })
    }

    /// The state of every workload as series; what is counted in logs comes after it.
    pub(crate) fn state_rows(&mut self, rows: &mut Vec<Row>) {
        self.hit_shapes.retain(|_, (_, is_in_use)| std::mem::take(is_in_use));
        for workload in self.current() {
            let instance = &workload.instance;
            let values = vec![
                f64::from(u8::from(instance.is_running)),
                workload.restarts as f64,
                instance.health.map_or(f64::NAN, f64::from),
                instance.exit_code.map_or(f64::NAN, f64::from),
            ];
            rows.push(Row { entity: workload.entity, shape: Rc::clone(&self.state_shape), values });
        }
        self.by_id.values_mut().for_each(|workload| workload.restarts = 0);
    }

    /// What was counted in one workload's log as series.
    pub(crate) fn log_rows(&mut self, entity: EntityId, counts: &Counts, rows: &mut Vec<Row>) {
        let values = [counts.lines, counts.bytes, counts.lost_bytes, counts.cut_lines];
        let values = values.iter().map(|count| *count as f64).collect();
        rows.push(Row { entity, shape: Rc::clone(&self.log_shape), values });
        if counts.hits.is_empty() {
            return;
        }
        let (shape, is_in_use) = self.hit_shapes.entry(entity).or_insert_with(|| (Shape::of([]), true));
        *is_in_use = true;
        let names = || counts.hits.keys().map(String::as_str);
        if !shape.layout.metrics.iter().map(|metric| metric.instance.as_str()).eq(names()) {
            *shape = Shape::of(names().map(|name| (Id::LogHits, name)));
        }
        let values = counts.hits.values().map(|count| *count as f64).collect();
        rows.push(Row { entity, shape: Rc::clone(shape), values });
    }
}

/// The container as selectors see it.
#[must_use]
pub(crate) fn subject(instance: &Instance) -> Subject {
    Subject { name: instance.name.clone(), image: instance.image.clone(), labels: instance.labels.clone() }
}

/// Restarts between two readings of one container. A first start is none.
fn restarts(before: &Instance, now: &Instance) -> u64 {
    if before.started_at.is_empty() || before.started_at == now.started_at {
        return 0;
    }
    now.restart_count.saturating_sub(before.restart_count).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
