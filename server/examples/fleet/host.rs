//! A simulated host: which series it has, what they are worth at any moment, and the blocks of it. Every value follows
//! from the host's number, the series and the time, so that what was sent can be computed again when it is checked.

use anyhow::Result;
use forewarn_common::block::{
    Block, Dictionary, EngineEvent, Entity, EntityKind, EventKind, Group, Header, KeywordHit, LastValue, Layout,
    LogSample, Metric, Ticks, Urgent, round,
};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Severity;
use forewarn_common::metric::Id;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Of the leaking container when the demo begins: its warning, alarm and end can be seen within an hour.
const LEAK_LEFT_MIN: i64 = 60;

/// What goes wrong on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// Nothing: busy days, quiet nights.
    Calm,
    /// `/data` grows and is nine tenths full three hours from now.
    DiskFills,
    /// A container's memory grows to its limit within two hours, it is killed and begins anew.
    MemoryLeak,
    /// A container's log says so before anything else does.
    LogStorm,
    /// A container ends and starts every few minutes.
    CrashLoop,
    /// The processor is a little busier every day.
    CpuClimbs,
}

impl Story {
    /// The story of a host of the demo: the first few have one.
    pub(crate) fn of(number: usize) -> Self {
        match number {
            1 => Self::DiskFills,
            2 => Self::MemoryLeak,
            3 => Self::LogStorm,
            4 => Self::CrashLoop,
            5 => Self::CpuClimbs,
            _ => Self::Calm,
        }
    }
}

/// How a series moves.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Always the same.
    Flat(f64),
    /// Level, daily swing, slow noise, quick noise.
    Wave(f64, f64, f64, f64),
    /// Level and growth a day.
    Growth(f64, f64),
    /// What is added a tick: as a wave, never below nothing.
    Flow(f64),
    /// A few now and then.
    Rare(f64),
}

struct Series {
    metric: Metric,
    shape: Shape,
}

/// One entity of a host: itself or a container.
struct Part {
    record: Entity,
    layout: Layout,
    series: Vec<Series>,
}

/// A simulated host.
pub(crate) struct Host {
    pub(crate) id: HostId,
    number: u64,
    story: Story,
    /// When the story's end is told from: the start of the program.
    story_ms: i64,
    parts: Vec<Part>,
}

/// Well-mixed bits of three numbers.
fn mix(a: u64, b: u64, c: u64) -> u64 {
    let mut bits = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(23) ^ c.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for shift in [32, 29, 32] {
        bits = (bits ^ (bits >> shift)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    bits ^ (bits >> 32)
}

/// Between -1 and 1.
fn noise(a: u64, b: u64, c: i64) -> f64 {
    (mix(a, b, c as u64) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Noise that takes `period_ms` to change.
fn slow(a: u64, b: u64, time_ms: i64, period_ms: i64) -> f64 {
    let (at, share) = (time_ms.div_euclid(period_ms), time_ms.rem_euclid(period_ms) as f64 / period_ms as f64);
    noise(a, b, at) * (1.0 - share) + noise(a, b, at + 1) * share
}

fn host_series(number: u64) -> Vec<(Id, String, Shape)> {
    let gib = 1_073_741_824.0;
    let level = 0.15 + 0.4 * (noise(number, 1, 0) + 1.0) / 2.0;
    let mut all = vec![
        (Id::CpuUsed, "", Shape::Wave(level, 0.15, 0.05, 0.02)),
        (Id::CpuUser, "", Shape::Wave(level * 0.7, 0.1, 0.04, 0.02)),
        (Id::CpuSystem, "", Shape::Wave(level * 0.2, 0.04, 0.01, 0.01)),
        (Id::CpuIowait, "", Shape::Wave(0.01, 0.005, 0.005, 0.005)),
        (Id::CpuIrq, "", Shape::Wave(0.002, 0.001, 0.001, 0.001)),
        (Id::CpuSteal, "", Shape::Flat(0.0)),
        (Id::CpuCount, "", Shape::Flat(8.0)),
        (Id::Load1, "", Shape::Wave(level * 8.0, 1.0, 0.5, 0.3)),
        (Id::Load5, "", Shape::Wave(level * 8.0, 1.0, 0.3, 0.05)),
        (Id::Load15, "", Shape::Wave(level * 8.0, 1.0, 0.1, 0.01)),
        (Id::ProcsRunning, "", Shape::Wave(3.0, 1.0, 1.0, 2.0)),
        (Id::ProcsBlocked, "", Shape::Rare(1.0)),
        (Id::MemTotal, "", Shape::Flat(32.0 * gib)),
        (Id::MemAvailable, "", Shape::Wave(14.0 * gib, 1.0 * gib, 0.3 * gib, 0.001 * gib)),
        (Id::MemUsed, "", Shape::Wave(18.0 * gib, 1.0 * gib, 0.3 * gib, 0.001 * gib)),
        (Id::MemUsedRatio, "", Shape::Wave(0.56, 0.03, 0.01, 0.0002)),
        (Id::SwapTotal, "", Shape::Flat(4.0 * gib)),
        (Id::SwapUsed, "", Shape::Flat(0.2 * gib)),
        (Id::SwapUsedRatio, "", Shape::Flat(0.05)),
        (Id::OomKills, "", Shape::Flat(0.0)),
        (Id::PressureCpu, "", Shape::Wave(0.02, 0.01, 0.01, 0.005)),
        (Id::PressureMemSome, "", Shape::Flat(0.0)),
        (Id::PressureIoSome, "", Shape::Wave(0.01, 0.005, 0.005, 0.003)),
        (Id::PressureIoFull, "", Shape::Wave(0.005, 0.002, 0.002, 0.002)),
        (Id::AgentCpu, "", Shape::Flow(4.0)),
        (Id::AgentRss, "", Shape::Wave(6e6, 0.0, 2e4, 0.0)),
        (Id::SpoolBytes, "", Shape::Flat(0.0)),
        (Id::LateTicks, "", Shape::Flat(0.0)),
    ];
    for (disk, level) in [("/", 0.42), ("/data", 0.61)] {
        let level = level + 0.1 * noise(number, 2, 0);
        all.push((Id::FsUsedRatio, disk, Shape::Growth(level, 0.001)));
        all.push((Id::FsUsed, disk, Shape::Growth(level * 500.0 * gib, 0.5 * gib)));
        all.push((Id::FsTotal, disk, Shape::Flat(500.0 * gib)));
        all.push((Id::FsInodeUsedRatio, disk, Shape::Growth(0.1, 0.0001)));
    }
    all.push((Id::DiskRead, "vda", Shape::Flow(2e5)));
    all.push((Id::DiskWrite, "vda", Shape::Flow(4e6)));
    all.push((Id::DiskReads, "vda", Shape::Rare(20.0)));
    all.push((Id::DiskWrites, "vda", Shape::Flow(300.0)));
    all.push((Id::DiskBusy, "vda", Shape::Wave(0.08, 0.03, 0.02, 0.02)));
    for card in ["eth0", "docker0"] {
        all.push((Id::NetRx, card, Shape::Flow(3e6)));
        all.push((Id::NetTx, card, Shape::Flow(2e6)));
        all.push((Id::NetRxErrors, card, Shape::Flat(0.0)));
        all.push((Id::NetTxErrors, card, Shape::Flat(0.0)));
    }
    all.into_iter().map(|(id, instance, shape)| (id, instance.to_owned(), shape)).collect()
}

fn container_series(number: u64, which: u64) -> Vec<(Id, String, Shape)> {
    let level = 0.1 + 0.1 * (noise(number, 3, which as i64) + 1.0);
    let all = [
        (Id::CpuUsed, Shape::Wave(level, 0.08, 0.03, 0.02)),
        (Id::CpuCores, Shape::Wave(level * 2.0, 0.16, 0.06, 0.04)),
        (Id::MemUsed, Shape::Wave(level * 2e9, 1e7, 3e7, 1e5)),
        (Id::MemUsedRatio, Shape::Wave(level * 2.0, 0.01, 0.02, 0.0002)),
        (Id::MemLimit, Shape::Flat(1e9)),
        (Id::DiskRead, Shape::Rare(4096.0)),
        (Id::DiskWrite, Shape::Flow(4e5)),
        (Id::NetRx, Shape::Flow(8e5)),
        (Id::NetTx, Shape::Flow(6e5)),
        (Id::Running, Shape::Flat(1.0)),
        (Id::Restarts, Shape::Flat(0.0)),
        (Id::Pids, Shape::Wave(24.0, 0.0, 3.0, 0.4)),
        (Id::LogLines, Shape::Flow(120.0)),
    ];
    all.into_iter().map(|(id, shape)| (id, String::new(), shape)).collect()
}

const SERVICES: [&str; 8] = ["gateway", "orders", "mysql", "redis", "reports", "search", "billing", "worker"];

impl Host {
    /// Host `number` with `containers` containers: 49 series and 13 a container.
    pub(crate) fn new(id: HostId, number: usize, containers: usize, story: Story, story_ms: i64) -> Self {
        let seed = number as u64;
        let part = |record: Entity, all: Vec<(Id, String, Shape)>| {
            let series: Vec<Series> = all
                .into_iter()
                .map(|(id, instance, shape)| Series { metric: Metric::of(id, &instance), shape })
                .collect();
            let layout = Layout { metrics: series.iter().map(|series| series.metric.clone()).collect() };
            Part { record, layout, series }
        };
        let record = |id: EntityId, kind: EntityKind, name: String, facts: &[(&str, &str)]| Entity {
            id,
            kind,
            name,
            component: String::new(),
            attributes: facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let facts = [("agent", "fleet"), ("arch", "x86_64"), ("kernel", "6.1.0"), ("os", "Debian 12 (simulated)")];
        let own = record(EntityId::of_host(id), EntityKind::Host, format!("plant-{number}"), &facts);
        let mut parts = vec![part(own, host_series(seed))];
        for which in 0..containers {
            let service = SERVICES[which % SERVICES.len()];
            let name =
                format!("shop/{service}{}", if which < SERVICES.len() { String::new() } else { format!("-{which}") });
            let facts = [("image", format!("shop/{service}:2.4"))];
            let facts = facts.each_ref().map(|(key, value)| (*key, value.as_str()));
            let record = record(EntityId::of(id, &name), EntityKind::Workload, name, &facts);
            parts.push(part(record, container_series(seed, which as u64)));
        }
        Self { id, number: seed, story, story_ms, parts }
    }

    /// How many series it has.
    pub(crate) fn series(&self) -> usize {
        self.parts.iter().map(|part| part.series.len()).sum()
    }

    /// What a series is worth at a moment, rounded as it is sent.
    fn value(&self, part: usize, index: usize, time_ms: i64) -> f64 {
        let series = &self.parts[part].series[index];
        let (a, b) = (self.number, (part * 1000 + index) as u64);
        let day = (time_ms.rem_euclid(DAY_MS) as f64 / DAY_MS as f64 * std::f64::consts::TAU).sin();
        let plain = match series.shape {
            Shape::Flat(level) => level,
            Shape::Wave(level, swing, gentle, quick) => {
                let drift = slow(a, b, time_ms, 20 * MINUTE_MS);
                (level + swing * day + gentle * drift + quick * noise(a, b, time_ms)).max(0.0)
            }
            Shape::Growth(level, daily) => {
                level + daily * ((time_ms - self.story_ms) as f64 / DAY_MS as f64).max(-90.0)
            }
            Shape::Flow(level) => {
                let drift = 1.0 + 0.4 * day + 0.3 * slow(a, b, time_ms, 5 * MINUTE_MS);
                (level * drift * (1.0 + 0.2 * noise(a, b, time_ms))).max(0.0).round()
            }
            Shape::Rare(level) if noise(a, b, time_ms) > 0.9 => (level * (1.0 + noise(b, a, time_ms).abs())).round(),
            Shape::Rare(_) => 0.0,
        };
        let told = self.told(part, &series.metric, time_ms).unwrap_or(plain);
        let told = if series.metric.name.ends_with("_ratio") { told.clamp(0.0, 1.0) } else { told };
        round(told, series.metric.decimals)
    }

    /// What the host's story makes of a series.
    fn told(&self, part: usize, metric: &Metric, time_ms: i64) -> Option<f64> {
        let since_ms = (time_ms - self.story_ms) as f64;
        let jitter = 0.002 * noise(self.number, 9, time_ms);
        match (self.story, part, metric.name.as_str()) {
            (Story::DiskFills, 0, "fs_used_ratio") if metric.instance == "/data" => {
                Some((0.81 + 0.03 * since_ms / HOUR_MS as f64).clamp(0.35, 0.99) + jitter / 10.0)
            }
            (Story::MemoryLeak, 1, "mem_used_ratio") => {
                let along = (since_ms - LEAK_LEFT_MIN as f64 * MINUTE_MS as f64).rem_euclid(120.0 * MINUTE_MS as f64);
                Some(0.3 + 0.69 * along / (120.0 * MINUTE_MS as f64) + jitter)
            }
            (Story::CpuClimbs, 0, "cpu_used_ratio") => {
                let day = (time_ms.rem_euclid(DAY_MS) as f64 / DAY_MS as f64 * std::f64::consts::TAU).sin();
                Some(0.7 + 0.02 * since_ms / HOUR_MS as f64 * 0.5 + 0.05 * day + 10.0 * jitter)
            }
            _ => None,
        }
    }

    /// What the engine and the logs say in `[from_ms, to_ms)`.
    fn news(&self, from_ms: i64, to_ms: i64) -> (Vec<KeywordHit>, Vec<EngineEvent>) {
        let Some(container) = self.parts.get(1).map(|part| part.record.id) else { return (Vec::new(), Vec::new()) };
        let every = |period_ms: i64| (from_ms..to_ms).find(|time| (time - self.story_ms).rem_euclid(period_ms) == 0);
        let event =
            |at_ms, kind, code| EngineEvent { entity: container, at_ms, kind, code, detail: "simulated".to_owned() };
        match self.story {
            Story::LogStorm => {
                let hit = every(2 * MINUTE_MS).map(|at_ms| {
                    let line = "ERROR gateway: java.lang.OutOfMemoryError: Java heap space".to_owned();
                    let before = vec!["WARN gateway: request queue is 4096 long".to_owned()];
                    KeywordHit {
                        entity: container,
                        rule: "out_of_memory".to_owned(),
                        severity: Severity::Critical,
                        count: 3,
                        first_ms: at_ms,
                        last_ms: at_ms,
                        samples: vec![LogSample { at_ms, line, before, after: Vec::new() }],
                    }
                });
                (hit.into_iter().collect(), Vec::new())
            }
            Story::CrashLoop => {
                let events = every(3 * MINUTE_MS)
                    .map(|at_ms| vec![event(at_ms, EventKind::Die, 137), event(at_ms, EventKind::Start, 0)]);
                (Vec::new(), events.unwrap_or_default())
            }
            Story::MemoryLeak => {
                let events = (from_ms..to_ms)
                    .find(|time| (time - self.story_ms - LEAK_LEFT_MIN * MINUTE_MS).rem_euclid(120 * MINUTE_MS) == 0)
                    .map(|at_ms| {
                        vec![
                            event(at_ms, EventKind::Oom, 0),
                            event(at_ms, EventKind::Die, 137),
                            event(at_ms, EventKind::Start, 0),
                        ]
                    });
                (Vec::new(), events.unwrap_or_default())
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// The block `span` of an epoch, encoded; with the dictionary if it is to be told.
    pub(crate) fn block(&self, epoch: u64, span: &Span, told: bool, live: bool) -> Result<Vec<u8>> {
        let times: Vec<i64> = span.times().collect();
        let end_ms = span.end_ms();
        let at_ms = times.last().copied().unwrap_or(span.start_ms);
        let (mut groups, mut last) = (Vec::new(), Vec::new());
        for (number, part) in self.parts.iter().enumerate() {
            let column = |index| times.iter().map(|time| self.value(number, index, *time)).collect::<Vec<_>>();
            let columns: Vec<Vec<f64>> = (0..part.series.len()).map(column).collect();
            for (series, column) in part.series.iter().zip(&columns) {
                let id = forewarn_common::metric::CATALOGUE
                    .iter()
                    .find(|spec| spec.name == series.metric.name && spec.urgent)
                    .map(|spec| spec.id);
                if let (Some(metric), Some(value)) = (id, column.last()) {
                    let instance = series.metric.instance.clone();
                    last.push(LastValue { entity: part.record.id, metric, instance, value: *value });
                }
            }
            let (entity, layout) = (part.record.id, part.layout.id());
            groups.push(Group { entity, layout, ticks: Ticks::all(span.ticks), columns });
        }
        let (hits, events) = if live { self.news(span.start_ms, end_ms) } else { (Vec::new(), Vec::new()) };
        let mut dictionary = Dictionary::default();
        if told {
            dictionary.entities = self.parts.iter().map(|part| part.record.clone()).collect();
            dictionary.layouts = self.parts.iter().map(|part| part.layout.clone()).collect();
            dictionary.layouts.dedup();
        }
        let header = Header {
            host: self.id,
            epoch,
            seq: span.seq,
            start_ms: span.start_ms,
            step_ms: span.step_ms,
            ticks: span.ticks,
            boot_id: [7; 16],
            boot_ms: 1,
            closed_ms: end_ms,
        };
        let urgent = Urgent { at_ms, last, hits, events, ..Urgent::default() };
        let block = Block { header, urgent, dictionary, groups };
        Ok(block.encode(|id| self.parts.iter().map(|part| &part.layout).find(|layout| layout.id() == id))?)
    }

    /// Every series with the name of its container, empty for the host's own, and its values at the times of a span.
    pub(crate) fn over(&self, span: &Span) -> impl Iterator<Item = (&str, &Metric, Vec<f64>)> {
        self.parts.iter().enumerate().flat_map(move |(number, part)| {
            let container = if number == 0 { "" } else { part.record.name.as_str() };
            part.series.iter().enumerate().map(move |(index, series)| {
                (container, &series.metric, span.times().map(|time| self.value(number, index, time)).collect())
            })
        })
    }

    /// Every series with its value at a moment, as a reader of the store must find it.
    pub(crate) fn at(&self, time_ms: i64) -> impl Iterator<Item = (EntityId, &Metric, f64)> {
        let of_part = move |(number, part): (usize, &'_ Part)| {
            (0..part.series.len()).map(|index| self.value(number, index, time_ms)).collect::<Vec<_>>()
        };
        self.parts.iter().enumerate().flat_map(move |(number, part)| {
            let values = of_part((number, part));
            part.series.iter().zip(values).map(|(series, value)| (part.record.id, &series.metric, value))
        })
    }
}

/// What of a host's time one block covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) seq: u64,
    pub(crate) start_ms: i64,
    pub(crate) step_ms: u32,
    pub(crate) ticks: u16,
}

impl Span {
    pub(crate) fn times(&self) -> impl Iterator<Item = i64> + '_ {
        (0..i64::from(self.ticks)).map(|tick| self.start_ms + tick * i64::from(self.step_ms))
    }

    pub(crate) fn end_ms(&self) -> i64 {
        self.start_ms + i64::from(self.ticks) * i64::from(self.step_ms)
    }
}
