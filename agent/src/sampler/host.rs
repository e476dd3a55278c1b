//! CPU, load, memory and uptime of the host.

use std::path::Path;
use std::rc::Rc;

use forewarn_common::metric::Id;

use super::proc_text::{Held, lines, number, value_of, words};
use super::seldom::Seldom;
use super::{Counter, Shape, ratio};

const CPU_METRICS: [Id; 9] = [
    Id::CpuUsed,
    Id::CpuUser,
    Id::CpuSystem,
    Id::CpuIowait,
    Id::CpuIrq,
    Id::CpuSteal,
    Id::CpuCount,
    Id::ProcsRunning,
    Id::ProcsBlocked,
];
const LOAD_METRICS: [Id; 3] = [Id::Load1, Id::Load5, Id::Load15];
const MEM_METRICS: [Id; 7] =
    [Id::MemTotal, Id::MemAvailable, Id::MemUsed, Id::MemUsedRatio, Id::SwapTotal, Id::SwapUsed, Id::SwapUsedRatio];
const LAST_METRICS: [Id; 2] = [Id::Uptime, Id::OomKills];

/// Between two readings of the host's kills for want of memory: the table that has them is long.
const KILLS_EVERY_MS: i64 = 30_000;

/// Host-wide numbers of `/proc`.
#[derive(Debug)]
pub(super) struct Core {
    stat: Held,
    meminfo: Held,
    loadavg: Held,
    vmstat: Held,
    uptime: Held,
    cpu: [Counter; 8],
    oom_kills: Counter,
    /// As last read.
    kills: Option<u64>,
    kills_due: Seldom,
    mem_total_bytes: Option<u64>,
    cpu_count: Option<usize>,
    buffer: Vec<u8>,
    shape: Rc<Shape>,
}

impl Core {
    pub(super) fn new(root: &Path) -> Self {
        let proc = root.join("proc");
        let metrics = CPU_METRICS.into_iter().chain(LOAD_METRICS).chain(MEM_METRICS).chain(LAST_METRICS);
        Self {
            stat: Held::new(proc.join("stat")),
            meminfo: Held::new(proc.join("meminfo")),
            loadavg: Held::new(proc.join("loadavg")),
            vmstat: Held::new(proc.join("vmstat")),
            uptime: Held::new(proc.join("uptime")),
            cpu: [Counter::default(); 8],
            oom_kills: Counter::default(),
            kills: None,
            kills_due: Seldom::every(KILLS_EVERY_MS),
            mem_total_bytes: None,
            cpu_count: None,
            buffer: Vec::new(),
            shape: Shape::of(metrics.map(|id| (id, ""))),
        }
    }

    pub(super) fn mem_total_bytes(&self) -> Option<u64> {
        self.mem_total_bytes
    }

    pub(super) fn cpu_count(&self) -> Option<usize> {
        self.cpu_count
    }

    pub(super) fn sample(&mut self, boot_ms: i64) -> (Rc<Shape>, Vec<f64>) {
        let mut values = Vec::with_capacity(self.shape.layout.metrics.len());
        self.sample_cpu(&mut values);
        let load = self.loadavg.read(&mut self.buffer).map(loads).unwrap_or([f64::NAN; 3]);
        values.extend(load);
        self.sample_memory(&mut values);
        values.push(self.uptime.read(&mut self.buffer).and_then(uptime_ms).unwrap_or(f64::NAN));
        if self.kills_due.is_due(boot_ms) {
            self.kills = self.vmstat.read(&mut self.buffer).and_then(|text| value_of(text, b"oom_kill"));
        }
        values.push(self.oom_kills.step(self.kills));
        (Rc::clone(&self.shape), values)
    }

    fn sample_cpu(&mut self, values: &mut Vec<f64>) {
        let Some(text) = self.stat.read(&mut self.buffer) else {
            return values.extend([f64::NAN; CPU_METRICS.len()]);
        };
        let mut jiffies = [None; 8];
        let mut cores = 0_usize;
        for line in lines(text) {
            let mut words = words(line);
            match words.next() {
                Some(b"cpu") => jiffies.iter_mut().for_each(|slot| *slot = words.next().and_then(number)),
                Some(name) if name.starts_with(b"cpu") => cores += 1,
                _ => break,
            }
        }
        let mut spent = [0.0; 8];
        for ((spent, counter), now) in spent.iter_mut().zip(&mut self.cpu).zip(jiffies) {
            *spent = counter.step(now);
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = spent;
        // A kernel may step idle and iowait back by a jiffy: a reset of one mode is no reset of the host.
        let total: f64 = spent.iter().sum();
        values.extend([
            ratio(total - idle - iowait, total),
            ratio(user + nice, total),
            ratio(system, total),
            ratio(iowait, total),
            ratio(irq + softirq, total),
            ratio(steal, total),
            cores as f64,
        ]);
        for key in [&b"procs_running"[..], b"procs_blocked"] {
            values.push(value_of(text, key).map_or(f64::NAN, |value| value as f64));
        }
        self.cpu_count = Some(cores).filter(|cores| *cores > 0);
    }

    fn sample_memory(&mut self, values: &mut Vec<f64>) {
        let Some(text) = self.meminfo.read(&mut self.buffer) else {
            return values.extend([f64::NAN; MEM_METRICS.len()]);
        };
        let bytes = |key: &[u8]| value_of(text, key).map(|kib| kib.saturating_mul(1024));
        self.mem_total_bytes = bytes(b"MemTotal:");
        let float = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
        let total = float(self.mem_total_bytes);
        let available = float(bytes(b"MemAvailable:"));
        let swap_total = float(bytes(b"SwapTotal:"));
        let swap_used = swap_total - float(bytes(b"SwapFree:"));
        values.extend([
            total,
            available,
            total - available,
            ratio(total - available, total),
            swap_total,
            swap_used,
            ratio(swap_used, swap_total),
        ]);
    }
}

/// Every way in which this file reads a text of `/proc`.
pub(super) fn read_every_way(text: &[u8]) -> impl std::fmt::Debug {
    (loads(text), uptime_ms(text))
}

fn loads(text: &[u8]) -> [f64; 3] {
    let mut words = words(text);
    std::array::from_fn(|_| words.next().and_then(decimal).unwrap_or(f64::NAN))
}

fn uptime_ms(text: &[u8]) -> Option<f64> {
    words(text).next().and_then(decimal).map(|seconds| seconds * 1000.0)
}

fn decimal(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
