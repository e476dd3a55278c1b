//! Samples of the host and of containers, read from `/proc`, cgroup files and `statvfs`.
//!
//! Files are opened once and read again through the held descriptor. Nothing here asks the engine, reads
//! settings or a clock, or knows where samples go.

mod container;
mod disk;
mod filesystem;
mod host;
mod inventory;
mod net;
mod pressure;
mod proc_text;
mod seldom;

use std::path::Path;
use std::rc::Rc;

use forewarn_common::block::{Layout, Metric};
use forewarn_common::id::{EntityId, LayoutId};
use forewarn_common::metric;

pub(crate) use container::{Containers, HostSize, Target};
pub(crate) use inventory::{HostFacts, boot_id, hostname};
use seldom::Seldom;

/// Instances of one kind (filesystems, disks, interfaces) of one host; beyond it the rest is left out and counted.
const INSTANCES_MAX: usize = 64;

/// A layout with what is worked out from it once.
#[derive(Debug, PartialEq)]
pub(crate) struct Shape {
    /// The columns.
    pub(crate) layout: Layout,
    /// Its hash.
    pub(crate) id: LayoutId,
    /// Columns whose last value travels in the urgent section.
    pub(crate) urgent: Vec<(usize, metric::Id)>,
}

impl Shape {
    /// The shape of these metrics and instances.
    #[must_use]
    pub(crate) fn of<'a>(metrics: impl IntoIterator<Item = (metric::Id, &'a str)>) -> Rc<Self> {
        let ids: Vec<_> = metrics.into_iter().collect();
        let layout = Layout { metrics: ids.iter().map(|(id, instance)| Metric::of(*id, instance)).collect() };
        let urgent =
            ids.iter().enumerate().filter(|(_, (id, _))| id.spec().urgent).map(|(i, (id, _))| (i, *id)).collect();
        Rc::new(Self { id: layout.id(), layout, urgent })
    }

    /// The shape of columns that are not of the catalogue.
    #[must_use]
    pub(crate) fn of_metrics(metrics: Vec<Metric>) -> Rc<Self> {
        let layout = Layout { metrics };
        Rc::new(Self { id: layout.id(), layout, urgent: Vec::new() })
    }
}

/// Values of one entity at one tick, in the order of their shape; NaN where one is missing.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Whose.
    pub(crate) entity: EntityId,
    /// What the values mean.
    pub(crate) shape: Rc<Shape>,
    /// The values.
    pub(crate) values: Vec<f64>,
}

/// Everything about the host itself.
#[derive(Debug)]
pub(crate) struct Host {
    entity: EntityId,
    core: host::Core,
    filesystems: filesystem::Filesystems,
    disks: disk::Disks,
    interfaces: net::Interfaces,
    pressure: pressure::Pressure,
}

impl Host {
    /// A sampler of the host whose root is at `root`.
    #[must_use]
    pub(crate) fn new(entity: EntityId, root: &Path) -> Self {
        Self {
            entity,
            core: host::Core::new(root),
            filesystems: filesystem::Filesystems::new(root),
            disks: disk::Disks::new(root),
            interfaces: net::Interfaces::new(&root.join("proc/1/net/dev")),
            pressure: pressure::Pressure::new(&root.join("proc/pressure"), ["cpu", "memory", "io"]),
        }
    }

    /// One sample. `boot_ms` only measures the time since the last one.
    pub(crate) fn sample(&mut self, boot_ms: i64, rows: &mut Vec<Row>) {
        let entity = self.entity;
        let mut row = |(shape, values): (Rc<Shape>, Vec<f64>)| {
            if values.iter().any(|value| !value.is_nan()) {
                rows.push(Row { entity, shape, values });
            }
        };
        row(self.core.sample(boot_ms));
        row(self.filesystems.sample(boot_ms));
        row(self.disks.sample(boot_ms));
        row(self.interfaces.sample());
        row(self.pressure.sample(boot_ms));
    }

    /// Memory of the host, once it has been sampled.
    #[must_use]
    pub(crate) fn mem_total_bytes(&self) -> Option<u64> {
        self.core.mem_total_bytes()
    }

    /// Cores of the host, once it has been sampled.
    #[must_use]
    pub(crate) fn cpu_count(&self) -> Option<usize> {
        self.core.cpu_count()
    }
}

/// What the agent itself takes.
#[derive(Debug)]
pub(crate) struct OwnCost {
    status: proc_text::Held,
    resident: Seldom,
    resident_bytes: Option<u64>,
    buffer: Vec<u8>,
}

/// Between two readings of the agent's own memory.
const RESIDENT_EVERY_MS: i64 = 60_000;

impl OwnCost {
    /// Nothing read yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        let status = proc_text::Held::new("/proc/self/status");
        Self { status, resident: Seldom::every(RESIDENT_EVERY_MS), resident_bytes: None, buffer: Vec::new() }
    }

    /// CPU time in microseconds since the start, and resident bytes.
    pub(crate) fn read(&mut self, boot_ms: i64) -> (Option<u64>, Option<u64>) {
        use rustix::time::{ClockId, clock_gettime};
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_us = u64::try_from(spent.tv_sec * 1_000_000 + spent.tv_nsec / 1000).ok();
        if self.resident.is_due(boot_ms) {
            let kib = self.status.read(&mut self.buffer).and_then(|status| proc_text::value_of(status, b"VmRSS:"));
            self.resident_bytes = kib.map(|kib| kib * 1024);
        }
        (cpu_us, self.resident_bytes)
    }
}

/// Reads a text in every way in which kernel texts are read: for fuzz targets.
pub(crate) fn read_every_way(text: &[u8]) -> impl std::fmt::Debug {
    let lines = (disk::parse(text), net::parse(text), net::total(text), pressure::parse(text));
    let points = filesystem::real_mount_points(text).len();
    let numbers = (proc_text::value_of(text, b"MemTotal:"), proc_text::only_number(text));
    let rest = (host::read_every_way(text), container::read_every_way(text));
    format!("{lines:?} {points} {numbers:?} {rest:?}")
}

/// Lifts the soft limit of open files to the hard one: every container holds a dozen descriptors.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it is; sampling then misses containers and says which.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// Turns a counter that only grows, until it restarts from zero, into increments.
#[derive(Debug, Clone, Copy, Default)]
struct Counter(Option<u64>);

impl Counter {
    /// What was added since the last call; NaN the first time.
    fn step(&mut self, now: Option<u64>) -> f64 {
        let before = std::mem::replace(&mut self.0, now);
        match (before, now) {
            (Some(before), Some(now)) => now.checked_sub(before).unwrap_or(now) as f64,
            _ => f64::NAN,
        }
    }
}

/// `part / whole`, NaN for an empty whole.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { f64::NAN }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
