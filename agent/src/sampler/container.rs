//! Containers, from the cgroup files (v1 and v2) of each and from the network table of its first process.
//!
//! A container's folder is looked for once, when it is first seen; afterwards only held descriptors are read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use forewarn_common::id::EntityId;
use forewarn_common::metric::Id;

use super::proc_text::{Held, lines, number, only_number, value_of, words};
use super::seldom::Seldom;
use super::{Counter, Row, Shape, net, pressure, ratio};

/// How deep and how wide the cgroup tree is searched for a container that is not where engines usually put it.
const SEARCH_DEPTH_MAX: usize = 6;
const SEARCH_FOLDERS_MAX: usize = 20_000;
/// Between two readings of the limits: they change only by hand.
const LIMITS_EVERY_MS: i64 = 60_000;
/// What is dear to read and follows the memory in use (page cache that can go, kills for want of memory) is read when
/// that has moved by this much and by this part of it, and else after this long.
const MOVED_BYTES: u64 = 256 << 10;
const MOVED_SHARE: u64 = 128;
const KEPT_FOR_MS: i64 = 30_000;
/// Memory limits at or above this mean "none": v1 writes a page short of 2^63.
const UNLIMITED_BYTES: u64 = 1 << 60;

const METRICS: [Id; 14] = [
    Id::CpuUsed,
    Id::CpuCores,
    Id::CpuThrottled,
    Id::MemUsed,
    Id::MemUsedRatio,
    Id::MemLimit,
    Id::OomKills,
    Id::DiskRead,
    Id::DiskWrite,
    Id::Pids,
    Id::NetRx,
    Id::NetTx,
    Id::NetRxErrors,
    Id::NetTxErrors,
];

/// A container to sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The workload that it is an instance of.
    pub(crate) entity: EntityId,
    /// The container's full id.
    pub(crate) id: String,
    /// Its first process, as the host numbers it.
    pub(crate) pid: u32,
    /// Whether it has a network of its own; without one its traffic is the host's.
    pub(crate) own_network: bool,
}

/// What the host has, against which a container without a limit is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostSize {
    /// Memory of the host.
    pub(crate) mem_total_bytes: Option<u64>,
    /// Cores of the host.
    pub(crate) cpu_count: Option<usize>,
}

/// All containers that are sampled.
#[derive(Debug)]
pub(crate) struct Containers {
    root: PathBuf,
    tree: Tree,
    shape: Rc<Shape>,
    shape_pressure: Rc<Shape>,
    by_id: HashMap<String, Container>,
    buffer: Vec<u8>,
}

impl Containers {
    /// A sampler of the containers of the host whose root is at `root`.
    #[must_use]
    pub(crate) fn new(root: &Path) -> Self {
        let plain = METRICS.map(|id| (id, ""));
        Self {
            root: root.to_owned(),
            tree: Tree::detect(&root.join("sys/fs/cgroup")),
            shape: Shape::of(plain),
            shape_pressure: Shape::of(plain.into_iter().chain(pressure::METRICS.map(|id| (id, "")))),
            by_id: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Which cgroup version is read.
    #[must_use]
    pub(crate) fn cgroup_version(&self) -> u8 {
        match self.tree {
            Tree::Unified(_) => 2,
            Tree::Split { .. } => 1,
        }
    }

    /// Samples exactly these containers from now on; counters of those that stay go on.
    pub(crate) fn set_targets(&mut self, targets: impl IntoIterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.by_id);
        for target in targets {
            let known = before.remove(&target.id).filter(|container| container.target == target);
            let container = known.or_else(|| Container::open(&self.root, &self.tree, target, &mut self.buffer));
            if let Some(container) = container {
                self.by_id.insert(container.target.id.clone(), container);
            }
        }
    }

    /// How many containers are sampled.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// One sample of every container. `boot_ms` only measures the time since the last one.
    pub(crate) fn sample(&mut self, boot_ms: i64, host: HostSize, rows: &mut Vec<Row>) {
        for container in self.by_id.values_mut() {
            let Some((values, has_pressure)) = container.sample(boot_ms, host, &mut self.buffer) else { continue };
            let shape = Rc::clone(if has_pressure { &self.shape_pressure } else { &self.shape });
            rows.push(Row { entity: container.target.entity, shape, values });
        }
    }
}

/// Where the hierarchies are mounted.
#[derive(Debug)]
enum Tree {
    Unified(PathBuf),
    Split { cpu: PathBuf, cpuacct: PathBuf, memory: PathBuf, blkio: PathBuf, pids: PathBuf },
}

impl Tree {
    fn detect(base: &Path) -> Self {
        if base.join("cgroup.controllers").exists() {
            return Self::Unified(base.to_owned());
        }
        let find = |names: [&str; 3]| {
            let known = names.iter().map(|name| base.join(name)).find(|path| path.is_dir());
            known.unwrap_or_else(|| base.join(names[0]))
        };
        Self::Split {
            cpu: find(["cpu", "cpu,cpuacct", "cpuacct,cpu"]),
            cpuacct: find(["cpuacct", "cpu,cpuacct", "cpuacct,cpu"]),
            memory: base.join("memory"),
            blkio: base.join("blkio"),
            pids: base.join("pids"),
        }
    }

    /// The hierarchy in which folders are looked for; the others of v1 have the same ones.
    fn leading(&self) -> &Path {
        match self {
            Self::Unified(base) => base,
            Self::Split { memory, .. } => memory,
        }
    }
}

#[derive(Debug)]
enum Files {
    V1 {
        usage: Held,
        throttle: Held,
        quota: Held,
        period: Held,
        memory: Held,
        stat: Held,
        limit: Held,
        oom: Held,
        io: Held,
        pids: Held,
    },
    V2 {
        cpu: Held,
        max: Held,
        memory: Held,
        stat: Held,
        limit: Held,
        events: Held,
        io: Held,
        pids: Held,
        pressure: pressure::Pressure,
    },
}

#[derive(Debug)]
struct Container {
    target: Target,
    files: Files,
    network: Option<Held>,
    sampled_at_ms: Option<i64>,
    limits_due: Seldom,
    limits: Limits,
    kept: Kept,
    cpu_us: Counter,
    periods: Counter,
    throttled: Counter,
    oom_kills: Counter,
    io: [Counter; 2],
    net: [Counter; 4],
}

/// What the container may have at most.
#[derive(Debug, Default)]
struct Limits {
    cores: Option<f64>,
    memory: Option<u64>,
}

/// What is not read at every sample.
#[derive(Debug)]
struct Kept {
    due: Seldom,
    /// The memory in use for which it holds.
    memory: Option<u64>,
    inactive_file: Option<u64>,
    oom_kills: Option<u64>,
}

impl Kept {
    fn new() -> Self {
        Self { due: Seldom::every(KEPT_FOR_MS), memory: None, inactive_file: None, oom_kills: None }
    }

    /// Whether it is to be read again; then it is taken to be.
    fn expires(&mut self, memory: Option<u64>, boot_ms: i64) -> bool {
        let has_moved = match (self.memory, memory) {
            (Some(before), Some(now)) => before.abs_diff(now) >= MOVED_BYTES.max(before / MOVED_SHARE),
            (before, now) => before != now,
        };
        let expires = self.due.is_due_or(has_moved, boot_ms);
        if expires {
            self.memory = memory;
        }
        expires
    }
}

/// What the files say at one moment.
#[derive(Debug, Default)]
struct Reading {
    cpu_us: Option<u64>,
    periods: Option<u64>,
    throttled: Option<u64>,
    memory: Option<u64>,
    io: Option<[u64; 2]>,
    pids: Option<u64>,
}

impl Container {
    fn open(root: &Path, tree: &Tree, target: Target, buffer: &mut Vec<u8>) -> Option<Self> {
        let process = root.join("proc").join(target.pid.to_string());
        let own = Held::new(process.join("cgroup")).read(buffer).map(<[u8]>::to_vec).unwrap_or_default();
        let folder = find_folder(tree.leading(), &own, &target.id)?;
        let files = match tree {
            Tree::Unified(base) => {
                let at = |name: &str| Held::new(base.join(&folder).join(name));
                Files::V2 {
                    cpu: at("cpu.stat"),
                    max: at("cpu.max"),
                    memory: at("memory.current"),
                    stat: at("memory.stat"),
                    limit: at("memory.max"),
                    events: at("memory.events"),
                    io: at("io.stat"),
                    pids: at("pids.current"),
                    pressure: pressure::Pressure::new(
                        &base.join(&folder),
                        ["cpu.pressure", "memory.pressure", "io.pressure"],
                    ),
                }
            }
            Tree::Split { cpu, cpuacct, memory, blkio, pids } => {
                let at = |base: &Path, name: &str| Held::new(base.join(&folder).join(name));
                Files::V1 {
                    usage: at(cpuacct, "cpuacct.usage"),
                    throttle: at(cpu, "cpu.stat"),
                    quota: at(cpu, "cpu.cfs_quota_us"),
                    period: at(cpu, "cpu.cfs_period_us"),
                    memory: at(memory, "memory.usage_in_bytes"),
                    stat: at(memory, "memory.stat"),
                    limit: at(memory, "memory.limit_in_bytes"),
                    oom: at(memory, "memory.oom_control"),
                    io: at(blkio, "blkio.throttle.io_service_bytes"),
                    pids: at(pids, "pids.current"),
                }
            }
        };
        let network = target.own_network.then(|| Held::new(process.join("net/dev")));
        let limits_due = Seldom::spread(LIMITS_EVERY_MS, target.entity.0);
        Some(Self {
            target,
            files,
            network,
            sampled_at_ms: None,
            limits_due,
            limits: Limits::default(),
            kept: Kept::new(),
            cpu_us: Counter::default(),
            periods: Counter::default(),
            throttled: Counter::default(),
            oom_kills: Counter::default(),
            io: [Counter::default(); 2],
            net: [Counter::default(); 4],
        })
    }

    /// The values, and whether those of pressure are among them. `None` when the container is gone.
    fn sample(&mut self, boot_ms: i64, host: HostSize, buffer: &mut Vec<u8>) -> Option<(Vec<f64>, bool)> {
        if self.limits_due.is_due(boot_ms) {
            self.limits = self.files.limits(buffer);
        }
        let now = self.files.read(self.limits.cores.is_some(), boot_ms, &mut self.kept, buffer);
        if now.cpu_us.is_none() && now.memory.is_none() {
            return None;
        }
        let elapsed_us =
            self.sampled_at_ms.replace(boot_ms).map_or(f64::NAN, |at_ms| (boot_ms - at_ms) as f64 * 1000.0);
        let cores = ratio(self.cpu_us.step(now.cpu_us), elapsed_us);
        let cores_max = self.limits.cores.or(host.cpu_count.map(|count| count as f64)).unwrap_or(f64::NAN);
        let (periods, throttled) = (self.periods.step(now.periods), self.throttled.step(now.throttled));
        let throttled = if self.limits.cores.is_some() && periods == 0.0 { 0.0 } else { ratio(throttled, periods) };
        let float = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
        let working_set = float(now.memory.map(|bytes| bytes.saturating_sub(self.kept.inactive_file.unwrap_or(0))));
        let host_bytes = host.mem_total_bytes;
        let limit = self.limits.memory.filter(|limit| *limit < host_bytes.unwrap_or(u64::MAX).min(UNLIMITED_BYTES));
        let network = self.network.as_mut().and_then(|table| table.read(buffer)).map(net::total);
        let mut values = Vec::with_capacity(METRICS.len() + pressure::METRICS.len());
        values.extend([
            ratio(cores, cores_max),
            cores,
            throttled,
            working_set,
            ratio(working_set, float(limit.or(host_bytes))),
            float(limit),
            self.oom_kills.step(self.kept.oom_kills),
            self.io[0].step(now.io.map(|io| io[0])),
            self.io[1].step(now.io.map(|io| io[1])),
            float(now.pids),
        ]);
        values.extend((0..4).map(|i| self.net[i].step(network.map(|net| net[i]))));
        let has_pressure = match &mut self.files {
            Files::V2 { pressure, .. } => {
                values.extend(pressure.sample(boot_ms).1);
                true
            }
            Files::V1 { .. } => false,
        };
        Some((values, has_pressure))
    }
}

impl Files {
    fn limits(&mut self, buffer: &mut Vec<u8>) -> Limits {
        match self {
            Self::V1 { quota, period, limit, .. } => {
                let quota_us = quota.read(buffer).and_then(only_number);
                let period_us = period.read(buffer).and_then(only_number).filter(|period| *period > 0);
                let cores = quota_us.zip(period_us).map(|(quota, period)| quota as f64 / period as f64);
                Limits { cores, memory: limit.read(buffer).and_then(only_number) }
            }
            Self::V2 { max, limit, .. } => {
                Limits { cores: max.read(buffer).and_then(cores_v2), memory: limit.read(buffer).and_then(only_number) }
            }
        }
    }

    /// Nothing is throttled that has no limit.
    fn read(&mut self, has_quota: bool, boot_ms: i64, kept: &mut Kept, buffer: &mut Vec<u8>) -> Reading {
        let mut reading = Reading::default();
        match self {
            Self::V1 { usage, throttle, memory, stat, oom, io, pids, .. } => {
                reading.cpu_us = usage.read(buffer).and_then(only_number).map(|ns| ns / 1000);
                if has_quota {
                    (reading.periods, reading.throttled) = throttle.read(buffer).map_or((None, None), throttling);
                }
                reading.memory = memory.read(buffer).and_then(only_number);
                if kept.expires(reading.memory, boot_ms) {
                    kept.inactive_file = stat.read(buffer).and_then(|text| value_of(text, b"total_inactive_file"));
                    kept.oom_kills = oom.read(buffer).and_then(|text| value_of(text, b"oom_kill"));
                }
                reading.io = io.read(buffer).map(io_v1);
                reading.pids = pids.read(buffer).and_then(only_number);
            }
            Self::V2 { cpu, memory, stat, events, io, pids, .. } => {
                if let Some(text) = cpu.read(buffer) {
                    reading.cpu_us = value_of(text, b"usage_usec");
                    (reading.periods, reading.throttled) = throttling(text);
                }
                reading.memory = memory.read(buffer).and_then(only_number);
                if kept.expires(reading.memory, boot_ms) {
                    kept.inactive_file = stat.read(buffer).and_then(|text| value_of(text, b"inactive_file"));
                    kept.oom_kills = events.read(buffer).and_then(|text| value_of(text, b"oom_kill"));
                }
                reading.io = io.read(buffer).map(io_v2);
                reading.pids = pids.read(buffer).and_then(only_number);
            }
        }
        reading
    }
}

fn throttling(text: &[u8]) -> (Option<u64>, Option<u64>) {
    (value_of(text, b"nr_periods"), value_of(text, b"nr_throttled"))
}

/// `200000 100000` is two cores, `max 100000` is no limit.
fn cores_v2(text: &[u8]) -> Option<f64> {
    let mut words = words(text.trim_ascii());
    let quota = number(words.next()?)?;
    let period = number(words.next()?).filter(|period| *period > 0)?;
    Some(quota as f64 / period as f64)
}

/// Bytes read and written in `8:0 Read 4096` lines.
fn io_v1(text: &[u8]) -> [u64; 2] {
    let mut sum = [0_u64; 2];
    for line in lines(text) {
        let mut words = words(line).skip(1);
        let slot = match words.next() {
            Some(b"Read") => 0,
            Some(b"Write") => 1,
            _ => continue,
        };
        sum[slot] = sum[slot].saturating_add(words.next().and_then(number).unwrap_or(0));
    }
    sum
}

/// Bytes read and written in `8:0 rbytes=4096 wbytes=0 …` lines.
fn io_v2(text: &[u8]) -> [u64; 2] {
    let mut sum = [0_u64; 2];
    for word in lines(text).flat_map(words) {
        for (slot, key) in [(0, &b"rbytes="[..]), (1, b"wbytes=")] {
            let value = word.strip_prefix(key).and_then(number).unwrap_or(0);
            sum[slot] = sum[slot].saturating_add(value);
        }
    }
    sum
}

/// Every way in which this file reads a text of a cgroup.
pub(super) fn read_every_way(text: &[u8]) -> impl std::fmt::Debug {
    (throttling(text), cores_v2(text), io_v1(text), io_v2(text))
}

/// The container's folder below `base`: where its process says it is, where engines put it, or wherever it is.
fn find_folder(base: &Path, process_cgroup: &[u8], id: &str) -> Option<PathBuf> {
    if id.len() < 12 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    // The process's own word is relative to the reader's cgroup namespace, so it is tried, not trusted.
    let said = lines(process_cgroup).filter_map(|line| {
        let path = std::str::from_utf8(line).ok()?.splitn(3, ':').nth(2)?;
        let path = path.trim_start_matches('/');
        // crun puts the process into a folder below the one that has the limits.
        let end = path.find(id)? + id.len();
        let end = path.get(end..)?.find('/').map_or(path.len(), |further| end + further);
        path.get(..end).filter(|path| !path.contains("..")).map(PathBuf::from)
    });
    let usual = [
        format!("docker/{id}"),
        format!("system.slice/docker-{id}.scope"),
        format!("machine.slice/libpod-{id}.scope"),
        format!("libpod_parent/libpod-{id}"),
    ];
    let candidates = said.chain(usual.into_iter().map(PathBuf::from));
    let known = candidates.into_iter().find(|path| base.join(path).is_dir());
    known.or_else(|| search_folder(base, id))
}

fn search_folder(base: &Path, id: &str) -> Option<PathBuf> {
    let mut level = vec![base.to_owned()];
    let mut seen = 0;
    for _ in 0..SEARCH_DEPTH_MAX {
        let mut next = Vec::new();
        for entry in level.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(id) {
                return entry.path().strip_prefix(base).ok().map(Path::to_owned);
            }
            seen += 1;
            if seen > SEARCH_FOLDERS_MAX {
                return None;
            }
            next.push(entry.path());
        }
        level = next;
    }
    None
}
