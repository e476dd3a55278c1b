//! What rounds of forecasts cost where there are many series, on the live path with its database:
//!
//!     cargo run --release -p forewarn-server --example forecast_scale -- fill DIR --hosts 1000 --near 0.05
//!     cargo run --release -p forewarn-server --example forecast_scale -- run DIR --rounds 6
//!
//! `fill` makes an SQLite database of HOSTS hosts with a hundred series each (a processor, a memory, eight disks,
//! ninety containers) and DAYS days of five-minute samples, through the store's own intake and compaction. `run` plays
//! the periods after it: new samples of ten seconds for every host, with `--merge` what is due to be merged, then one
//! round of the real forecaster. It prints the processor time of the round and of the judgements alone, resident memory
//! over what there was before (as the server runs: with `MIMALLOC_PURGE_DELAY=0` in the environment), heavy fits, and
//! what is kept.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use forewarn_common::block::{Block, Dictionary, Entity, EntityKind, Group, Header, Layout, Metric, Ticks, Urgent};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{Id, Kind, Unit};
use forewarn_server::intake::Intake;
use forewarn_server::judge::Judge;
use forewarn_server::model::host::Host;
use forewarn_server::model::rule::default_rules;
use forewarn_server::notify::{Notifier, NotifySettings, Site};
use forewarn_server::outbox::Outbox;
use forewarn_server::schedule::{Forecaster, Jobs};
use forewarn_server::seal::Seal;
use forewarn_server::settings::Settings;
use forewarn_server::share::Share;
use forewarn_server::store::{Arriving, Store};
use tokio::sync::watch;

/// As the server has it: what is resident is measured with the allocator that will run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DISKS: usize = 8;
const CONTAINERS: usize = 90;
const SERIES: usize = 2 + DISKS + CONTAINERS;
const BUCKET_MS: i64 = 300_000;
const DAY_MS: i64 = 86_400_000;
/// A block of history: half a day of five-minute samples.
const FILL_TICKS: u16 = 144;
/// A block of a played period: five minutes of ten-second samples.
const LIVE_TICKS: u16 = 30;
/// 2026-01-01.
const START_MS: i64 = 1_767_225_600_000;
/// Longest merging before a round.
const MERGE_FOR: Duration = Duration::from_secs(600);
/// Looks, and lists of hosts, that are timed.
const LOOKS: u32 = 200;
const LISTS: u32 = 20;
/// Blocks of one transaction.
const PUSHED_AT_ONCE: usize = 64;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Makes the database.
    Fill {
        /// An empty or new folder.
        dir: PathBuf,
        /// Hosts, of a hundred series each.
        #[arg(long, default_value_t = 100)]
        hosts: u32,
        /// Days of history.
        #[arg(long, default_value_t = 14)]
        days: u32,
        /// Share of the series that live near their threshold.
        #[arg(long, default_value_t = 0.05)]
        near: f64,
        /// Share of the series that have a daily peak of some minutes.
        #[arg(long, default_value_t = 0.0)]
        spiky: f64,
    },
    /// Plays periods and prints what each round took.
    Run {
        /// The folder that `fill` made.
        dir: PathBuf,
        /// Periods of five minutes.
        #[arg(long, default_value_t = 6)]
        rounds: i64,
        /// Bytes of merged rows that the store keeps in memory; the server's default if left out.
        #[arg(long)]
        cache_bytes: Option<usize>,
        /// Merge what is due before each round, in the same process, as a server does.
        #[arg(long)]
        merge: bool,
    },
}

/// What `run` has to know of what was filled.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy)]
struct Plan {
    hosts: u32,
    end_ms: i64,
    near: f64,
    spiky: f64,
}

/// A number in 0..1 that follows from its arguments alone.
fn unit(a: u64, b: u64, c: u64) -> f64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ c.wrapping_add(0x94d0);
    for _ in 0..2 {
        x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    }
    ((x ^ (x >> 29)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The level of a series at a time: a day in it, a slow wander, noise.
fn value(plan: &Plan, host: u32, series: usize, t_ms: i64) -> f64 {
    let (host, index) = (u64::from(host), series as u64);
    let kind = unit(host, index, 1);
    let days = t_ms as f64 / DAY_MS as f64;
    let phase = unit(host, index, 2);
    let day = ((days + phase) * std::f64::consts::TAU).sin();
    let wander = ((days / 5.3 + phase) * std::f64::consts::TAU).sin();
    let noise = unit(host, index, t_ms as u64) - 0.5;
    if kind < plan.near {
        return (0.78 + 0.05 * day + 0.03 * wander + 0.03 * noise).clamp(0.0, 0.895);
    }
    let base = 0.15 + 0.3 * unit(host, index, 3);
    let peak = kind < plan.near + plan.spiky && (days + phase).fract() < 0.014;
    base + 0.03 * day + 0.02 * wander + 0.01 * noise + if peak { 0.4 } else { 0.0 }
}

fn host_id(host: u32) -> HostId {
    let mut id = [0x17; 16];
    // Turns are staggered by the first bytes of the id.
    id[..8].copy_from_slice(&u64::from(host + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    HostId(id)
}

fn metric(id: Id, instance: &str) -> Metric {
    let spec = id.spec();
    Metric {
        name: spec.name.to_owned(),
        instance: instance.to_owned(),
        kind: Kind::Gauge,
        unit: Unit::Ratio,
        decimals: 4,
    }
}

fn host_layout() -> Layout {
    let mut metrics = vec![metric(Id::CpuUsed, ""), metric(Id::MemUsedRatio, "")];
    metrics.extend((0..DISKS).map(|disk| metric(Id::FsUsedRatio, &format!("/data{disk}"))));
    Layout { metrics }
}

fn container_layout() -> Layout {
    Layout { metrics: vec![metric(Id::MemUsedRatio, "")] }
}

fn container_id(host: u32, container: usize) -> EntityId {
    EntityId(u64::from(host + 1) << 16 | container as u64)
}

/// One block of all series of a host.
fn arriving(plan: &Plan, host: u32, seq: u64, start_ms: i64, step_ms: i64, ticks: u16) -> Result<Arriving> {
    let (id, own, inside) = (host_id(host), host_layout(), container_layout());
    let header = Header {
        host: id,
        epoch: u64::from(host) + 1,
        seq,
        start_ms,
        step_ms: step_ms as u32,
        ticks,
        boot_id: [1; 16],
        boot_ms: 1,
        closed_ms: start_ms + i64::from(ticks) * step_ms,
    };
    let column = |series: usize| -> Vec<f64> {
        (0..i64::from(ticks)).map(|tick| value(plan, host, series, start_ms + tick * step_ms)).collect()
    };
    let mut groups = vec![Group {
        entity: EntityId::of_host(id),
        layout: own.id(),
        ticks: Ticks::all(ticks),
        columns: (0..2 + DISKS).map(column).collect(),
    }];
    groups.extend((0..CONTAINERS).map(|container| Group {
        entity: container_id(host, container),
        layout: inside.id(),
        ticks: Ticks::all(ticks),
        columns: vec![column(2 + DISKS + container)],
    }));
    let record = |id: EntityId, kind: EntityKind, name: String| Entity {
        id,
        kind,
        name,
        component: String::new(),
        attributes: Vec::new(),
    };
    let mut entities = vec![record(EntityId::of_host(id), EntityKind::Host, format!("plant-{host}"))];
    entities
        .extend((0..CONTAINERS).map(|i| record(container_id(host, i), EntityKind::Workload, format!("service-{i}"))));
    let dictionary = if seq == 0 {
        Dictionary { layouts: vec![own.clone(), inside.clone()], entities }
    } else {
        Dictionary::default()
    };
    let urgent = Urgent { at_ms: header.closed_ms, ..Urgent::default() };
    let block = Block { header, urgent, dictionary, groups };
    Ok(Arriving::in_time(block, &[own, inside])?)
}

async fn fill(dir: &Path, plan: Plan, days: u32) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let (store, _) = Store::open(&url(dir)).await?;
    for rule in default_rules() {
        store.rule_save(&rule).await?;
    }
    for host in 0..plan.hosts {
        let known = Host {
            id: host_id(host),
            name: format!("plant-{host}"),
            component: String::new(),
            enrolled_ms: START_MS,
            seen_ms: 0,
            skew_ms: 0,
            agent_version: String::new(),
        };
        store.host_enroll(&known, [(host % 251) as u8; 32]).await?;
    }
    for day in 0..days {
        let begin_ms = START_MS + i64::from(day) * DAY_MS;
        for half in 0..2 {
            let start_ms = begin_ms + half * DAY_MS / 2;
            let hosts: Vec<u32> = (0..plan.hosts).collect();
            for some in hosts.chunks(PUSHED_AT_ONCE) {
                let blocks = some.iter().map(|host| {
                    arriving(&plan, *host, u64::from(day) * 2 + half as u64, start_ms, BUCKET_MS, FILL_TICKS)
                });
                store.push(blocks.collect::<Result<_>>()?).await?;
            }
        }
        // Two hours after its end a day is closed and quiet.
        let report = store.compact(begin_ms + DAY_MS + 7_200_000, Duration::from_secs(36_000)).await?;
        ensure!(report.finished && report.damaged.is_empty(), "not merged: {report:?}");
    }
    std::fs::write(dir.join("plan.json"), serde_json::to_string(&plan)?)?;
    let sizes = store.sizes().await?;
    println!("{} hosts of {SERIES} series, {days} days: {} MB used", plan.hosts, sizes.used_bytes >> 20);
    Ok(())
}

fn url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("scale.db").display())
}

/// Processor time of this process, ended threads included, in milliseconds.
fn cpu_ms() -> Result<i64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit(')').next().context("no stat")?;
    let fields: Vec<i64> = rest.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    // A tick is a hundredth of a second on every Linux that we run on.
    Ok(fields.iter().sum::<i64>() * 10)
}

fn memory_kib(field: &str) -> Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
    Ok(line.split_whitespace().nth(1).unwrap_or("0").parse()?)
}

async fn run(dir: &Path, rounds: i64, cache_bytes: Option<usize>, merge: bool) -> Result<()> {
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(dir.join("plan.json"))?)?;
    let settings = Settings::load(None, Some(dir))?;
    let (store, _) = Store::open(&url(dir)).await?;
    store.set_cache_bytes(cache_bytes.unwrap_or(settings.store.cache_bytes));
    let key = Seal::new(&[7; 32]);
    let notifier = Notifier::new(&NotifySettings { allow_loopback: false, ca_pem: String::new() })?;
    let words = Site { zone: settings.site.time_zone(), public_url: None };
    let share = Arc::new(Share::alone("scale".into()));
    let outbox = Arc::new(Outbox::new(store.clone(), key, notifier, words, "scale".into()));
    let judge = Arc::new(Judge::new(store.clone(), Arc::clone(&outbox), Arc::clone(&share), plan.end_ms));
    let intake = Intake::start(store.clone(), settings.limits.blocks_in_flight_max);
    let jobs = Jobs {
        store: store.clone(),
        settings: settings.clone(),
        intake,
        judge,
        outbox,
        share,
        period: watch::channel(None).0,
    };
    let (_running, stopped) = watch::channel(false);
    let mut forecaster = Forecaster::default();
    let base_kib = memory_kib("VmRSS")?;
    println!("{} hosts of {SERIES} series; resident before the first round {} MiB", plan.hosts, base_kib >> 10);
    println!(
        "round   cpu s  judging s  judged    calm   left   fits  fit ms  waits  resident MiB: samples   round    peak"
    );
    let end_ms =
        if dir.join("played").exists() { std::fs::read_to_string(dir.join("played"))?.parse()? } else { plan.end_ms };
    for round in 0..rounds {
        let start_ms = end_ms + round * BUCKET_MS;
        let seq = 10_000 + ((start_ms - plan.end_ms) / BUCKET_MS) as u64;
        for some in (0..plan.hosts).collect::<Vec<_>>().chunks(PUSHED_AT_ONCE) {
            let blocks = some.iter().map(|host| arriving(&plan, *host, seq, start_ms, 10_000, LIVE_TICKS));
            store.push(blocks.collect::<Result<_>>()?).await?;
        }
        let now_ms = start_ms + BUCKET_MS + settings.judge.close_after_ms + 1000;
        if merge {
            store.compact(now_ms, MERGE_FOR).await?;
        }
        let before_kib = memory_kib("VmRSS")?;
        // The peak of this round, not of what made its samples.
        std::fs::write("/proc/self/clear_refs", "5")?;
        let before_ms = cpu_ms()?;
        forecaster.round(&jobs, &stopped, now_ms).await?;
        let cpu_s = (cpu_ms()? - before_ms) as f64 / 1000.0;
        let tally = forecaster.last_period();
        println!(
            "{round:>5} {cpu_s:>7.2} {:>10.2} {:>7} {:>7} {:>6} {:>6} {:>7} {:>6} {:>21} {:>7} {:>7}",
            tally.work_us as f64 / 1e6,
            tally.judged,
            tally.calm,
            tally.left_over,
            tally.fits,
            tally.fit_us / 1000,
            tally.fits_waiting,
            (before_kib - base_kib) >> 10,
            (memory_kib("VmRSS")? - base_kib) >> 10,
            (memory_kib("VmHWM")? - base_kib) >> 10,
        );
        std::fs::write(dir.join("played"), (start_ms + BUCKET_MS).to_string())?;
    }
    let now_ms = end_ms + rounds * BUCKET_MS + settings.judge.close_after_ms + 1000;
    forecaster.round(&jobs, &stopped, now_ms).await?;
    let before_ms = cpu_ms()?;
    for _ in 0..LOOKS {
        forecaster.round(&jobs, &stopped, now_ms).await?;
    }
    let look_ms = (cpu_ms()? - before_ms) as f64 / f64::from(LOOKS);
    let before_ms = cpu_ms()?;
    for _ in 0..LISTS {
        store.hosts().await?;
    }
    let list_ms = (cpu_ms()? - before_ms) as f64 / f64::from(LISTS);
    println!("a look at which nothing is due (two a second): {look_ms:.2} ms; the list of all hosts: {list_ms:.1} ms");
    let (mut bytes, mut series) = (0, 0);
    for host in 0..plan.hosts {
        if let Some((_, body)) = store.forecast_state(host_id(host)).await? {
            (bytes, series) = (bytes + body.len(), series + SERIES);
        }
    }
    println!("kept in the database: {:.0} bytes a series", bytes as f64 / series.max(1) as f64);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().what {
        What::Fill { dir, hosts, days, near, spiky } => {
            let end_ms = START_MS + i64::from(days) * DAY_MS;
            fill(&dir, Plan { hosts, end_ms, near, spiky }, days).await
        }
        What::Run { dir, rounds, cache_bytes, merge } => run(&dir, rounds, cache_bytes, merge).await,
    }
}
