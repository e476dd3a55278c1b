//! What the store costs: `cargo run --release -p forewarn-server --example store_figures -- URL FILE.csv [HOSTS] [HOURS]`.
//!
//! Plays a recording (a header line, a time in the first column, a series in each other one, one line a second) as
//! the blocks of HOSTS agents, 10 s samples, 30 s blocks, over HOURS hours; pushes them one by one and in groups of a
//! hundred, compacts, reads, and prints what each took. The database must be empty. Times of the process include
//! SQLite; MySQL's own processor time is not in them.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forewarn_common::block::{
    Block, Dictionary, Entity, EntityKind, Group, Header, LastValue, Layout, Metric, Ticks, Urgent,
};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{Id, Kind, Unit};
use forewarn_server::store::{Arriving, Store, Wanted};

const STEP_MS: i64 = 10_000;
const TICKS: u16 = 3;
const HOUR_MS: i64 = 3_600_000;
/// 2026-01-01, on the hour.
const START_MS: i64 = 1_767_225_600_000;

/// A recording at one second, to be read every tenth line from any of the first ten.
struct Recording {
    layout: Layout,
    columns: Vec<Vec<f64>>,
}

impl Recording {
    fn load(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().context("the file is empty")?.split(',').skip(1).collect();
        let mut columns: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
        for line in lines {
            let cells = line.split(',').skip(1);
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell.parse().unwrap_or(f64::NAN)));
        }
        let mut metrics = Vec::new();
        for (name, column) in names.iter().zip(&mut columns) {
            let counter = column.is_sorted() && column.first() != column.last();
            let whole = column.iter().all(|value| value.is_nan() || value.fract() == 0.0);
            let large = column.iter().any(|value| *value > 1e6);
            let (kind, decimals) = match (counter, whole, large) {
                (true, ..) => (Kind::Increment, 0),
                (false, true, true) => (Kind::Gauge, -4),
                (false, true, false) => (Kind::Gauge, 0),
                (false, false, _) => (Kind::Gauge, 2),
            };
            if counter {
                // What was added over the last ten seconds, as a sampler at ten seconds would say.
                *column = column.windows(11).map(|span| span[10] - span[0]).collect();
            } else {
                column.drain(..10.min(column.len()));
            }
            metrics.push(Metric {
                name: (*name).to_owned(),
                instance: String::new(),
                kind,
                unit: Unit::Count,
                decimals,
            });
        }
        if columns.first().is_none_or(|column| column.len() < 1000) {
            bail!("the recording is too short: a thousand lines at least");
        }
        Ok(Self { layout: Layout { metrics }, columns })
    }

    /// The value of a column at a tick, as this host plays it: each host starts elsewhere.
    fn value(&self, column: usize, host: usize, tick: usize) -> f64 {
        let values = &self.columns[column];
        let ticks = values.len() / 10;
        values[(tick + host * 37) % ticks * 10 + host % 10]
    }

    fn arriving(&self, host: usize, seq: usize) -> Result<Arriving> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(host as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = HostId(id);
        let entity = EntityId::of_host(id);
        let first = seq * usize::from(TICKS);
        let start_ms = START_MS + first as i64 * STEP_MS + (host as i64 * 7919) % STEP_MS;
        let header = Header {
            host: id,
            epoch: host as u64 + 1,
            seq: seq as u64,
            start_ms,
            step_ms: STEP_MS as u32,
            ticks: TICKS,
            boot_id: [1; 16],
            boot_ms: 1,
            closed_ms: start_ms + i64::from(TICKS) * STEP_MS,
        };
        let columns: Vec<Vec<f64>> = (0..self.columns.len())
            .map(|column| (first..first + usize::from(TICKS)).map(|tick| self.value(column, host, tick)).collect())
            .collect();
        let group = Group { entity, layout: self.layout.id(), ticks: Ticks::all(TICKS), columns };
        let last = [Id::CpuUsed, Id::MemUsedRatio, Id::FsUsedRatio].map(|metric| LastValue {
            entity,
            metric,
            instance: String::new(),
            value: 0.5,
        });
        let urgent = Urgent { at_ms: start_ms, last: last.to_vec(), ..Urgent::default() };
        let dictionary = if seq == 0 {
            let record = Entity {
                id: entity,
                kind: EntityKind::Host,
                name: format!("host-{host}"),
                component: String::new(),
                attributes: Vec::new(),
            };
            Dictionary { layouts: vec![self.layout.clone()], entities: vec![record] }
        } else {
            Dictionary::default()
        };
        let block = Block { header, urgent, dictionary, groups: vec![group] };
        Ok(Arriving::in_time(block, std::slice::from_ref(&self.layout))?)
    }
}

/// Processor time of this process so far: user and system, from the kernel's own count.
fn cpu() -> Duration {
    let nanos = std::fs::read_dir("/proc/self/task").map_or(0, |tasks| {
        tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next().and_then(|field| field.parse::<u64>().ok()))
            .sum()
    });
    Duration::from_nanos(nanos)
}

struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn tell(&self, what: &str, count: usize, samples: usize) {
        let (wall, cpu) = (self.0.elapsed(), cpu().saturating_sub(self.1));
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count.max(1) as f64;
        let million = cpu.as_secs_f64() / (samples.max(1) as f64 / 1e6);
        println!(
            "{what}: {count} in {:.2} s; each {:.0} us, of them {:.0} us processor; {million:.3} CPU-s a million samples",
            wall.as_secs_f64(),
            each(wall),
            each(cpu),
        );
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, path, rest @ ..] = arguments.as_slice() else { bail!("say the database URL and the CSV file") };
    let hosts: usize = rest.first().map_or(Ok(100), |text| text.parse())?;
    let hours: usize = rest.get(1).map_or(Ok(2), |text| text.parse())?;
    let recording = Recording::load(path)?;
    let (store, found) = Store::open(url).await?;
    found.iter().for_each(|sentence| println!("{sentence}"));
    let (series, blocks) = (recording.columns.len(), hours * 120);
    println!("{hosts} hosts of {series} series, {hours} h at 10 s, a block of {TICKS} ticks every 30 s");

    let (mut wire, mut samples, mut pushed) = (0, 0, 0);
    let single: Vec<Arriving> = (0..10.min(blocks))
        .flat_map(|seq| (0..hosts).map(move |host| (host, seq)))
        .map(|(host, seq)| recording.arriving(host, seq))
        .collect::<Result<_>>()?;
    let count = |arrivals: &[Arriving]| arrivals.iter().map(|a| a.values as usize).sum::<usize>();
    wire += single.iter().map(|arriving| arriving.bytes.len()).sum::<usize>();
    samples += count(&single);
    let (blocks_single, samples_single) = (single.len(), count(&single));
    let watch = Watch::start();
    for arriving in single {
        store.push(vec![arriving]).await?;
        pushed += 1;
    }
    watch.tell("push, one block a transaction", blocks_single, samples_single);

    let (mut wall, mut processor, mut grouped, mut samples_grouped) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for seq in 10..blocks {
        let all: Vec<Arriving> = (0..hosts).map(|host| recording.arriving(host, seq)).collect::<Result<_>>()?;
        wire += all.iter().map(|arriving| arriving.bytes.len()).sum::<usize>();
        samples_grouped += count(&all);
        grouped += all.len();
        let (from, before) = (Instant::now(), cpu());
        for group in all.chunks(100) {
            store.push(group.to_vec()).await?;
        }
        wall += from.elapsed();
        processor += cpu().saturating_sub(before);
    }
    samples += samples_grouped;
    pushed += grouped;
    println!(
        "push, 100 blocks a transaction: {grouped} in {:.2} s; each {:.0} us, of them {:.0} us processor; {:.3} CPU-s a million samples",
        wall.as_secs_f64(),
        wall.as_secs_f64() * 1e6 / grouped.max(1) as f64,
        processor.as_secs_f64() * 1e6 / grouped.max(1) as f64,
        processor.as_secs_f64() / (samples_grouped.max(1) as f64 / 1e6),
    );
    println!("blocks: {pushed}, {samples} samples, {:.2} bytes a sample on the wire", wire as f64 / samples as f64);

    let now_ms = START_MS + (hours as i64 + 2) * HOUR_MS;
    let watch = Watch::start();
    let report = store.compact(now_ms, Duration::from_secs(3600)).await?;
    watch.tell("compaction, a host's hour", report.merges, samples);
    println!(
        "merged {} blocks of {:.2} bytes a sample into rows of {:.2}",
        report.parents,
        report.parent_bytes as f64 / report.samples.max(1) as f64,
        report.merged_bytes as f64 / report.samples.max(1) as f64
    );

    let host = recording.arriving(0, 0)?.header.host;
    let name = vec![recording.layout.metrics[0].name.clone()];
    let end_ms = START_MS + hours as i64 * HOUR_MS;
    for (what, wanted, step_ms) in [
        ("read one series at full resolution", Wanted::Metrics(name.clone()), 0),
        ("read one series at 5 min", Wanted::Metrics(name), 300_000),
        ("read all series of a host at 5 min", Wanted::All, 300_000),
    ] {
        let from = Instant::now();
        let reading = store.read(host, wanted, START_MS, end_ms, step_ms).await?;
        let points: usize = reading.series.iter().map(|series| series.points.len()).sum();
        println!("{what}: {points} points of {hours} h in {:.1} ms", from.elapsed().as_secs_f64() * 1e3);
    }
    let from = Instant::now();
    let latest = store.latest_all().await?.len();
    println!("last values of {latest} hosts in {:.1} ms", from.elapsed().as_secs_f64() * 1e3);

    let sizes = store.sizes().await?;
    for tier in &sizes.tiers {
        println!(
            "tier {}: {} rows, {} samples, {:.3} bytes a sample in the blobs",
            tier.tier,
            tier.rows,
            tier.samples,
            tier.blob_bytes as f64 / tier.samples.max(1) as f64
        );
    }
    println!(
        "database: {} bytes used = {:.3} a sample, {} free",
        sizes.used_bytes,
        sizes.used_bytes as f64 / samples as f64,
        sizes.free_bytes
    );
    Ok(())
}
