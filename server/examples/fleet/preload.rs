//! A database with a past: hosts with weeks of history, written by the store's own intake and merged by its own
//! compaction as if the days had gone by, without a server and its network. Nothing in it is made up by another path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use forewarn_common::clock;
use forewarn_common::id::HostId;
use forewarn_server::http::auth::hash_secret;
use forewarn_server::intake::Intake;
use forewarn_server::model;
use forewarn_server::store::{Retention, Store};
use tokio::task::JoinSet;

use crate::host::{Host, Span, Story};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Days that are pushed before they are merged: what the database holds unmerged.
const DAYS_AT_ONCE: i64 = 5;
/// One epoch of each host: what `load` sends later has another.
const EPOCH: u64 = 1;
/// Nothing is left for a later round.
const BUDGET: Duration = Duration::from_secs(100_000);

/// The id of a preloaded host: known from its number, so that a later `load` is the same hosts.
pub(crate) fn id_of(number: usize) -> HostId {
    let mut bytes = [0x5a; 16];
    // Spread over the key space as random ids are.
    let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0123_4567_89ab_cdef;
    bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    HostId(bytes)
}

/// The key of a preloaded host. Of a database for measuring only.
pub(crate) fn key_of(number: usize) -> String {
    hex::encode(hash_secret(&format!("fleet-{number}")))
}

/// What is written.
#[derive(clap::Args, Clone)]
pub(crate) struct Preload {
    /// The database's URL.
    #[arg(long)]
    database: String,
    /// Hosts.
    #[arg(long, default_value_t = 100)]
    hosts: usize,
    /// Containers of each host.
    #[arg(long, default_value_t = 4)]
    containers: usize,
    /// Days of history; none leaves hosts without blocks.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(0..=400))]
    days: i64,
    /// The last so many days have a sample every ten seconds, those before one every five minutes.
    #[arg(long, default_value_t = 1)]
    full_days: i64,
}

pub(crate) async fn preload(args: Preload) -> Result<()> {
    let (store, _) = Store::open(&args.database).await?;
    let (now_ms, started) = (clock::wall_ms(), Instant::now());
    let end_ms = now_ms / HOUR_MS * HOUR_MS;
    let begin_ms = (end_ms - args.days * DAY_MS) / DAY_MS * DAY_MS;
    let full_ms = (end_ms - args.full_days * DAY_MS) / DAY_MS * DAY_MS;
    let hosts: Vec<Arc<Host>> = (1..=args.hosts)
        .map(|number| Arc::new(Host::new(id_of(number), number, args.containers, Story::Calm, now_ms / 1000 * 1000)))
        .collect();
    for (number, host) in (1..).zip(&hosts) {
        let record = model::host::Host {
            id: host.id,
            name: format!("plant-{number}"),
            component: String::new(),
            enrolled_ms: begin_ms,
            seen_ms: 0,
            skew_ms: 0,
            agent_version: "fleet".to_owned(),
        };
        store.host_enroll(&record, hash_secret(&key_of(number))).await?;
    }
    let mut at_ms = if args.days == 0 { end_ms } else { begin_ms };
    let mut seqs = vec![0_u64; hosts.len()];
    while at_ms < end_ms {
        let until_ms = end_ms.min(at_ms + if at_ms < full_ms { DAYS_AT_ONCE * DAY_MS } else { DAY_MS });
        let until_ms = if at_ms < full_ms { until_ms.min(full_ms) } else { until_ms };
        let intake = Intake::start(store.clone(), 128);
        let mut pushing = JoinSet::new();
        for (host, seq) in hosts.iter().zip(&mut seqs) {
            let spans: Vec<Span> = spans(at_ms, until_ms, full_ms, seq).collect();
            let (intake, host) = (intake.clone(), Arc::clone(host));
            pushing.spawn(async move {
                for span in spans {
                    let block = host.block(EPOCH, &span, span.seq == 0, false)?;
                    intake.take(host.id, block, Some(span.end_ms()), span.end_ms()).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(done) = pushing.join_next().await {
            done??;
        }
        // Two hours later: the days are closed and quiet.
        let report = store.compact(until_ms + 2 * HOUR_MS, BUDGET).await?;
        ensure!(report.finished && report.damaged.is_empty() && report.waiting == 0, "not merged: {report:?}");
        store.retain(until_ms, Retention::default(), BUDGET).await?;
        at_ms = until_ms;
    }
    println!(
        "{} hosts with {} days of history, the last {} at 10 s, are in the database after {:.0} s",
        args.hosts,
        args.days,
        args.full_days,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Blocks of hours at ten seconds, or of half days at five minutes, that fill a span.
fn spans(from_ms: i64, to_ms: i64, full_ms: i64, seq: &mut u64) -> impl Iterator<Item = Span> {
    let (step_ms, block_ms) = if from_ms >= full_ms { (10_000, HOUR_MS) } else { (300_000, 12 * HOUR_MS) };
    let mut start_ms = from_ms;
    std::iter::from_fn(move || {
        let end_ms = to_ms.min(start_ms + block_ms);
        let ticks = u16::try_from((end_ms - start_ms) / i64::from(step_ms)).ok().filter(|ticks| *ticks > 0)?;
        let span = Span { seq: *seq, start_ms, step_ms, ticks };
        (*seq, start_ms) = (*seq + 1, end_ms);
        Some(span)
    })
}
