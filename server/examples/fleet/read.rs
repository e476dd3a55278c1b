//! How long reading takes: the questions of a console and of the forecaster, each cold (after a command that restarts
//! the database and drops the kernel's pages, with a store that has just connected) and hot.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use forewarn_server::model::series::SeriesKey;
use forewarn_server::store::{RankBy, Store, Wanted};

const HOUR_MS: i64 = 3_600_000;
/// How often each question is asked again.
const AGAIN: usize = 9;
/// The server's default, `store.cache_bytes`.
const CACHE_BYTES: usize = 32 << 20;

/// What is asked and how.
#[derive(clap::Args)]
pub(crate) struct Read {
    /// The database's URL.
    #[arg(long)]
    database: String,
    /// Hosts that each question is asked of; with none only sizes are told.
    #[arg(long, default_value_t = 5)]
    hosts: usize,
    /// A shell command before each cold reading: restarts the database, drops the kernel's pages.
    #[arg(long, default_value = "")]
    before_cold: String,
    /// Questions over the whole fleet too, once each.
    #[arg(long)]
    fleet: bool,
}

struct Question {
    name: &'static str,
    /// One series, or all.
    one: bool,
    span_ms: i64,
    step_ms: i64,
    means: bool,
    cold_ms_max: f64,
    hot_ms_max: f64,
}

fn questions() -> Vec<Question> {
    let ask = |name, one, hours: i64, step_ms, means, cold_ms_max, hot_ms_max| Question {
        name,
        one,
        span_ms: hours * HOUR_MS,
        step_ms,
        means,
        cold_ms_max,
        hot_ms_max,
    };
    vec![
        ask("1 series x 7 d at 5 min", true, 168, 300_000, false, 20.0, 2.0),
        ask("1 series x 6 h at 10 s", true, 6, 10_000, false, 20.0, 2.0),
        ask("all series x 14 d at 5 min", false, 336, 300_000, true, 30.0, f64::INFINITY),
        ask("all series x 14 d at 1 h", false, 336, HOUR_MS, false, f64::INFINITY, f64::INFINITY),
    ]
}

fn wanted(host: HostId, one: bool) -> Wanted {
    if !one {
        return Wanted::All;
    }
    let (entity, metric) = (EntityId::of_host(host), "cpu_used_ratio".to_owned());
    Wanted::Series(vec![SeriesKey { host, entity, metric, instance: String::new() }])
}

async fn open(args: &Read) -> Result<Store> {
    let (store, _) = Store::open(&args.database).await?;
    store.set_cache_bytes(CACHE_BYTES);
    store.ping().await?;
    Ok(store)
}

/// Milliseconds that this process has had a processor, over all its threads: what the clock on the wall says depends on
/// who else is at work.
fn cpu_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ran = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.filter_map(ran).sum::<f64>() / 1e6
}

fn middle(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) async fn read(args: Read) -> Result<()> {
    let mut store = open(&args).await?;
    let hosts = store.hosts().await?;
    let now_ms = clock::wall_ms();
    // Asked of no host, it tells the sizes only.
    let questions = if args.hosts == 0 { Vec::new() } else { questions() };
    for (index, question) in questions.into_iter().enumerate() {
        let (mut cold, mut hot, mut points, mut series) = (Vec::new(), Vec::new(), 0, 0);
        let (mut cold_cpu, mut hot_cpu) = (Vec::new(), Vec::new());
        // Each question about other hosts, so that none is warm from the one before.
        for host in hosts.iter().cycle().skip(index * args.hosts).take(args.hosts) {
            if !args.before_cold.is_empty() {
                drop(store);
                let done = Command::new("sh").args(["-c", &args.before_cold]).status()?;
                ensure!(done.success(), "the command before a cold reading failed");
                store = open(&args).await?;
            }
            for turn in 0..=AGAIN {
                let (from, cpu) = (Instant::now(), cpu_ms());
                let (begin, wanted) = (now_ms - question.span_ms, wanted(host.id, question.one));
                let reading = if question.means {
                    store.means(host.id, wanted, begin, now_ms, question.step_ms).await?
                } else {
                    store.read(host.id, wanted, begin, now_ms, question.step_ms).await?
                };
                let times = if turn == 0 { &mut cold } else { &mut hot };
                times.push(from.elapsed().as_secs_f64() * 1e3);
                (if turn == 0 { &mut cold_cpu } else { &mut hot_cpu }).push(cpu_ms() - cpu);
                points = reading.series.iter().map(|series| series.points.len()).sum::<usize>();
                series = reading.series.len();
            }
        }
        let (cold_ms, hot_ms) = (middle(&mut cold), middle(&mut hot));
        let bar = |ms: f64, max: f64| match max {
            max if max.is_infinite() => String::new(),
            max if ms <= max => format!(" (at most {max})"),
            max => format!(" (MISSES {max})"),
        };
        println!(
            "{}: {series} series, {points} points; cold {cold_ms:.1} ms{}, worst {:.1}, processor {:.1}; hot {hot_ms:.2} ms{}, processor {:.2}",
            question.name,
            bar(cold_ms, question.cold_ms_max),
            cold.last().copied().unwrap_or(f64::NAN),
            middle(&mut cold_cpu),
            bar(hot_ms, question.hot_ms_max),
            middle(&mut hot_cpu),
        );
    }
    if args.fleet {
        let day = (now_ms - 24 * HOUR_MS, now_ms);
        let from = Instant::now();
        let ranking = store.rank("cpu_used_ratio", RankBy::Mean, day, 10, &[0.5, 0.95]).await?;
        let rank_ms = from.elapsed().as_secs_f64() * 1e3;
        let from = Instant::now();
        let latest = store.latest_all().await?.len();
        let latest_ms = from.elapsed().as_secs_f64() * 1e3;
        println!(
            "the fleet: {} series ranked over a day in {rank_ms:.0} ms; last values of {latest} hosts in {latest_ms:.1} ms",
            ranking.series
        );
    }
    let sizes = store.sizes().await?;
    for tier in sizes.tiers.iter().filter(|tier| tier.rows > 0) {
        println!(
            "tier {}: {} rows, {} values, {} bytes in the blobs, {:.2} a value",
            tier.tier,
            tier.rows,
            tier.samples,
            tier.blob_bytes,
            tier.blob_bytes as f64 / tier.samples.max(1) as f64
        );
    }
    println!("the database has {} bytes in use, {} free", sizes.used_bytes, sizes.free_bytes);
    Ok(())
}
