//! A simulated fleet: hosts with containers, realistic series and a few stories, that speak the real protocol over TLS
//! with the real block encoder. It serves `make demo`, the load tests and `make bench-store`, and knows what it sent,
//! so that it can say whether every acknowledged sample is stored once.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

mod check;
mod floor;
mod host;
mod link;
mod peer;
mod preload;
mod read;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use forewarn_common::clock;
use forewarn_common::id::{HostId, random_u64};
use forewarn_server::store::Store;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::host::{Host, Span, Story};
use crate::link::{Link, PeerWay, Way};

/// Pause before a block is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// A block is given up after so many tries: a minute of an outage.
const TRIES_MAX: u32 = 300;
const DAY_MS: i64 = 86_400_000;
/// A process that used less of a processor than this over a second has nothing left of what came before.
const IDLE_CPU_S: f64 = 0.05;
/// A server looks at new hosts within so many seconds of their first block; that is waited for, and its end.
const MET_WITHIN_S: usize = 6;
const IDLE_WITHIN_S: usize = 60;
/// First blocks under way at once.
const FIRST_AT_ONCE: usize = 50;
/// Blocks of history: an hour at one sample a minute.
const HISTORY_STEP_MS: u32 = 60_000;
const HISTORY_TICKS: u16 = 60;

/// Hosts that do not exist.
#[derive(Parser)]
#[command(name = "fleet")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Some dozens of hosts with history and stories, in real time, until Ctrl-C.
    Live(Live),
    /// Sends blocks that were made beforehand as fast as it can or at a rate, and says what it cost.
    Load(Load),
    /// Reads a database that a fleet has filled, cold and hot, and says how long it took.
    Read(read::Read),
    /// Writes hosts with weeks of history into a database, without a server.
    Preload(preload::Preload),
    /// Takes every request and looks at none, for `load --preloaded`: what TLS and HTTP alone cost.
    Floor(floor::Floor),
}

#[derive(Args, Clone)]
struct Site {
    /// The server, `https://ADDRESS:PORT`; for `load` also a peer, `http://ADDRESS:PORT/PATH`, that takes remote writes.
    #[arg(long)]
    server: String,
    /// An enrolment token; several when one does not let all hosts in.
    #[arg(long = "token")]
    tokens: Vec<String>,
    /// Hosts.
    #[arg(long, default_value_t = 24)]
    hosts: usize,
    /// Containers of each host: it has 49 series of its own and 13 of each container.
    #[arg(long, default_value_t = 4)]
    containers: usize,
}

#[derive(Args)]
struct Live {
    #[command(flatten)]
    site: Site,
    /// Days of history at a sample a minute, sent first.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=90))]
    history_days: u16,
    /// Seconds of one block, at a sample every ten.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(10..=600))]
    block_s: u16,
    /// Stop after so many seconds; 0 never.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    site: Site,
    /// Minutes of data of each host.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Milliseconds between samples.
    #[arg(long, default_value_t = 10_000)]
    step_ms: u32,
    /// Samples of one block and series.
    #[arg(long, default_value_t = 6)]
    ticks: u16,
    /// The data end so many minutes ago.
    #[arg(long, default_value_t = 0)]
    ago_min: i64,
    /// The hosts are those that `preload` wrote, instead of new ones.
    #[arg(long)]
    preloaded: bool,
    /// Every block ends now, as those of live agents do; they overlap. Otherwise each follows the one before.
    #[arg(long)]
    fresh: bool,
    /// Blocks a second over all hosts; 0 as fast as they are taken.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Blocks under way at once.
    #[arg(long, default_value_t = 100)]
    in_flight: usize,
    /// A shell command after the last answer, whose cost counts as merging: a peer is asked to flush.
    #[arg(long, default_value = "")]
    then: String,
    /// Wait so many seconds after the last answer, for the server to merge.
    #[arg(long, default_value_t = 0)]
    settle_s: u64,
    /// Processes whose cost is told, `NAME=PID`.
    #[arg(long = "watch")]
    watched: Vec<String>,
    /// Make each block when it is sent: for long runs, whose blocks would not fit into memory. The fleet's own
    /// processor time is then ten times as much.
    #[arg(long)]
    lazy: bool,
    /// Read the database at this URL afterwards and compare every sample.
    #[arg(long, default_value = "")]
    verify: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Live(args) => live(args).await,
        Command::Load(args) => load(args).await,
        Command::Read(args) => read::read(args).await,
        Command::Preload(args) => preload::preload(args).await,
        Command::Floor(args) => floor::floor(args).await,
    }
}

/// A host with its connection.
struct Member {
    host: Host,
    link: Link,
    epoch: u64,
    /// What it is called where blocks are not taken but remote writes.
    peer_name: Option<String>,
}

/// The hosts of a load on a peer.
fn with_peer(site: &Site, way: &PeerWay) -> Result<Vec<Member>> {
    let story_ms = clock::wall_ms() / 1000 * 1000;
    let member = |number| {
        let host = Host::new(preload::id_of(number), number, site.containers, Story::Calm, story_ms);
        let peer_name = Some(format!("plant-{number}"));
        Ok(Member { host, link: Link::peer(way.clone()), epoch: random_u64()?, peer_name })
    };
    (1..=site.hosts).map(member).collect()
}

async fn enroll(site: &Site, with_stories: bool, preloaded: bool) -> Result<Vec<Member>> {
    let way = Way::unknown(&site.server)?;
    let (mut members, now_ms) = (Vec::with_capacity(site.hosts), clock::wall_ms());
    for number in 1..=site.hosts {
        let (link, id) = if preloaded {
            let id = preload::id_of(number);
            (Link::known(&way, id, &preload::key_of(number)), id)
        } else {
            Link::enroll(&way, &site.tokens, &format!("plant-{number}")).await?
        };
        let story = if with_stories { Story::of(number) } else { Story::Calm };
        let host = Host::new(id, number, site.containers, story, now_ms / 1000 * 1000);
        members.push(Member { host, link, epoch: random_u64()?, peer_name: None });
    }
    Ok(members)
}

impl Member {
    /// A block of a span, or the request that stands for it at a peer.
    fn body(&self, span: &Span, told: bool) -> Result<Vec<u8>> {
        match &self.peer_name {
            Some(name) => peer::remote_write(&self.host, name, span),
            None => self.host.block(self.epoch, span, told, false),
        }
    }

    /// Sends a block until it is acknowledged; true if it was, false if it never will be.
    async fn send(&mut self, block: &[u8], busy: &AtomicU64) -> Result<bool> {
        for _ in 0..TRIES_MAX {
            match self.link.push(block).await {
                Ok((200..=299, _)) => return Ok(true),
                Ok((429 | 500..=599, _)) => _ = busy.fetch_add(1, Ordering::Relaxed),
                Ok((status, answer)) => bail!("refused: {status} {}", String::from_utf8_lossy(&answer)),
                Err(_) => _ = busy.fetch_add(1, Ordering::Relaxed),
            }
            tokio::time::sleep(RETRY).await;
        }
        Ok(false)
    }
}

async fn live(args: Live) -> Result<()> {
    let members = enroll(&args.site, true, false).await?;
    let (hosts, series) = (members.len(), members.iter().map(|member| member.host.series()).sum::<usize>());
    println!("{hosts} hosts are enrolled, {series} series; {} days of history go first", args.history_days);
    let now_ms = clock::wall_ms();
    let begin_ms = (now_ms - i64::from(args.history_days) * DAY_MS) / 3_600_000 * 3_600_000;
    let (gate, started) = (Arc::new(Semaphore::new(16)), Instant::now());
    let block_ms = i64::from(args.block_s) * 1000;
    let live_ms = now_ms / block_ms * block_ms;
    let mut sending = JoinSet::new();
    for mut member in members {
        let gate = Arc::clone(&gate);
        sending.spawn(async move {
            let (busy, mut seq, mut at_ms) = (AtomicU64::new(0), 0, begin_ms);
            while at_ms < live_ms {
                let left = (live_ms - at_ms) / i64::from(HISTORY_STEP_MS);
                let ticks = u16::try_from(left.min(i64::from(HISTORY_TICKS))).unwrap_or(HISTORY_TICKS);
                if ticks == 0 {
                    break;
                }
                let span = Span { seq, start_ms: at_ms, step_ms: HISTORY_STEP_MS, ticks };
                let permit = gate.acquire().await?;
                let block = member.host.block(member.epoch, &span, seq == 0, false)?;
                member.send(&block, &busy).await?;
                drop(permit);
                (seq, at_ms) = (seq + 1, span.end_ms());
            }
            Ok::<_, anyhow::Error>((member, seq))
        });
    }
    let mut ready = Vec::new();
    while let Some(done) = sending.join_next().await {
        ready.push(done??);
    }
    println!("the history is there after {:.0} s; from now on in real time", started.elapsed().as_secs_f64());
    let mut running = JoinSet::new();
    let step_ms = 10_000_u32;
    for (member, next) in ready {
        running.spawn(tell_live(member, next, live_ms, step_ms, block_ms));
    }
    let ended = async {
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok::<_, anyhow::Error>(())
    };
    let limit = if args.seconds == 0 { Duration::from_secs(400 * 86_400) } else { Duration::from_secs(args.seconds) };
    tokio::select! {
        ended = ended => ended,
        () = tokio::time::sleep(limit) => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn tell_live(mut member: Member, mut seq: u64, mut at_ms: i64, step_ms: u32, block_ms: i64) -> Result<()> {
    let busy = AtomicU64::new(0);
    let ticks = u16::try_from(block_ms / i64::from(step_ms)).unwrap_or(1).max(1);
    loop {
        let span = Span { seq, start_ms: at_ms, step_ms, ticks };
        let wait_ms = span.end_ms() - clock::wall_ms();
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms as u64)).await;
        }
        let block = member.host.block(member.epoch, &span, seq.is_multiple_of(200), true)?;
        if !member.send(&block, &busy).await? {
            println!("{}: the server does not answer; this block is given up", member.host.id);
        }
        (seq, at_ms) = (seq + 1, span.end_ms());
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    cpu_s: f64,
    resident_mib: f64,
    peak_mib: f64,
}

fn used(pid: u32) -> Result<Used> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    // User and system time in hundredths of a second.
    Ok(Used {
        cpu_s: (ticks(11) + ticks(12)) / 100.0,
        resident_mib: kib("VmRSS:") / 1024.0,
        peak_mib: kib("VmHWM:") / 1024.0,
    })
}

struct Watched {
    name: String,
    pid: u32,
    before: Used,
}

/// What one member has to send: what each block covers, and the block, unless it is to be made when it is sent.
type Work = Vec<(Span, Option<Vec<u8>>)>;

fn prepare(args: &Load, member: &Member, end_ms: i64) -> Result<Work> {
    let block_ms = i64::from(args.step_ms) * i64::from(args.ticks);
    // The first is told before the measuring begins.
    let count = (i64::from(args.minutes) * 60_000 / block_ms).max(1) + 1;
    // Hosts do not tick together.
    let phase_ms = i64::from(member.host.id.0[0]) * i64::from(args.step_ms) / 256;
    (0..count)
        .map(|index| {
            let back_ms = if args.fresh { block_ms } else { (count - index) * block_ms };
            let span = Span {
                seq: index as u64,
                start_ms: end_ms - back_ms - phase_ms,
                step_ms: args.step_ms,
                ticks: args.ticks,
            };
            let made = index == 0 || !args.lazy;
            let block = made.then(|| member.body(&span, index == 0)).transpose()?;
            Ok((span, block))
        })
        .collect()
}

/// Sends the first block of every host, with its dictionary, before anything is measured: that happens once in the
/// life of a host. Which block it was of each.
async fn introduce(members: &mut [Member], work: &mut [Work]) -> Result<HashMap<HostId, Span>> {
    let (mut told, busy) = (HashMap::new(), AtomicU64::new(0));
    let sending = members.iter_mut().zip(work).map(|(member, work)| {
        let (span, block) = work.remove(0);
        let busy = &busy;
        async move {
            let block = block.unwrap_or_default();
            ensure!(member.send(&block, busy).await?, "the first block of a host was not acknowledged");
            Ok::<_, anyhow::Error>((member.host.id, span))
        }
    });
    let mut sending = futures_util::stream::iter(sending).buffer_unordered(FIRST_AT_ONCE);
    while let Some(done) = sending.next().await {
        let (host, span) = done?;
        told.insert(host, span);
    }
    Ok(told)
}

async fn load(args: Load) -> Result<()> {
    let mut members = match PeerWay::of(&args.site.server) {
        Some(way) => with_peer(&args.site, &way)?,
        None => enroll(&args.site, false, args.preloaded).await?,
    };
    let series = members.first().map_or(0, |member| member.host.series());
    for member in &mut members {
        member.link.connect().await?;
    }
    let end_ms = clock::wall_ms() - args.ago_min * 60_000;
    let mut work = Vec::with_capacity(members.len());
    for member in &members {
        work.push(prepare(&args, member, end_ms)?);
    }
    let told = introduce(&mut members, &mut work).await?;
    let blocks: usize = work.iter().map(Vec::len).sum();
    let wire: usize = work.iter().flatten().filter_map(|(_, block)| Some(block.as_ref()?.len())).sum();
    let samples = blocks * series * usize::from(args.ticks);
    println!(
        "{} hosts of {series} series, {blocks} blocks of {} samples ({:.2} bytes each), every host its own kept-alive connection{}",
        members.len(),
        series * usize::from(args.ticks),
        wire as f64 / samples as f64,
        if PeerWay::of(&args.site.server).is_some() { ", plain HTTP" } else { ", TLS" }
    );
    let watched = watch(&args.watched).await?;
    let own = used(std::process::id())?;
    let started = Instant::now();
    let (gate, busy) = (Arc::new(Semaphore::new(args.in_flight)), Arc::new(AtomicU64::new(0)));
    let sent = Arc::new(AtomicU64::new(0));
    let mut sending = JoinSet::new();
    for (mut member, work) in members.into_iter().zip(work) {
        let (gate, busy, sent, rate) = (Arc::clone(&gate), Arc::clone(&busy), Arc::clone(&sent), args.rate);
        sending.spawn(async move {
            let (mut acknowledged, mut waits) = (Vec::with_capacity(work.len()), Vec::with_capacity(work.len()));
            for (span, block) in work {
                let permit = gate.acquire().await?;
                if rate > 0 {
                    let turn = sent.fetch_add(1, Ordering::Relaxed);
                    let due = Duration::from_secs_f64(turn as f64 / f64::from(rate));
                    tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
                }
                let block = block.map_or_else(|| member.body(&span, false), Ok)?;
                let from = Instant::now();
                if member.send(&block, &busy).await? {
                    acknowledged.push(span);
                }
                waits.push(from.elapsed());
                drop(permit);
            }
            Ok::<_, anyhow::Error>((member, acknowledged, waits))
        });
    }
    let (mut fleet, mut waits) = (Vec::new(), Vec::new());
    while let Some(done) = sending.join_next().await {
        let (member, acknowledged, own) = done??;
        waits.extend(own);
        fleet.push((member, acknowledged));
    }
    let wall_s = started.elapsed().as_secs_f64();
    waits.sort_unstable();
    let wait_ms = |share: f64| {
        waits.get(((waits.len() as f64 - 1.0) * share) as usize).map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
    };
    let acknowledged: usize = fleet.iter().map(|(_, spans)| spans.len()).sum();
    println!(
        "sent in {wall_s:.2} s: {:.2} M samples/s durable; answer after {:.1} ms (median), {:.1} ms (99 of 100); {} tries again; fleet's own processor time {:.2} s",
        samples as f64 / wall_s / 1e6,
        wait_ms(0.5),
        wait_ms(0.99),
        busy.load(Ordering::Relaxed),
        used(std::process::id())?.cpu_s - own.cpu_s
    );
    tell_cost("intake", &watched, blocks, samples)?;
    if args.settle_s > 0 {
        let done = std::process::Command::new("sh").args(["-c", &args.then]).status()?;
        ensure!(done.success(), "the command after the load failed");
        tokio::time::sleep(Duration::from_secs(args.settle_s)).await;
        tell_cost("intake and merging", &watched, blocks, samples)?;
    }
    if acknowledged != blocks {
        bail!("{} blocks were not acknowledged", blocks - acknowledged);
    }
    if !args.verify.is_empty() {
        let (store, _) = Store::open(&args.verify).await?;
        let (mut count, mut means) = (0, 0);
        for (member, spans) in &mut fleet {
            spans.extend(told.get(&member.host.id));
            count += check::samples(&store, &member.host, spans).await?;
            means += check::means(&store, &member.host, spans).await?;
        }
        println!("verified: {count} acknowledged samples are stored, each once; {means} five-minute means are theirs");
    }
    Ok(())
}

/// Begins the account of each process when all are done with the new hosts, which happens once in the life of a host.
async fn watch(named: &[String]) -> Result<Vec<Watched>> {
    let mut watched = Vec::new();
    for named in named {
        let (name, pid) = named.split_once('=').context("say --watch NAME=PID")?;
        let pid = pid.parse()?;
        watched.push(Watched { name: name.to_owned(), pid, before: used(pid)? });
    }
    for second in 0..IDLE_WITHIN_S {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut is_idle = true;
        for Watched { pid, before, .. } in &mut watched {
            let now = used(*pid)?;
            is_idle &= now.cpu_s - before.cpu_s < IDLE_CPU_S;
            *before = now;
        }
        if is_idle && second >= MET_WITHIN_S {
            break;
        }
    }
    Ok(watched)
}

fn tell_cost(what: &str, watched: &[Watched], blocks: usize, samples: usize) -> Result<()> {
    let mut all = 0.0;
    for Watched { name, pid, before } in watched {
        let now = used(*pid)?;
        let cpu_s = now.cpu_s - before.cpu_s;
        all += cpu_s;
        println!(
            "{what}, {name}: {cpu_s:.2} CPU-s = {:.3} a million samples, {:.1} us a request; resident {:.1} MiB, peak {:.1} MiB",
            cpu_s / samples as f64 * 1e6,
            cpu_s / blocks as f64 * 1e6,
            now.resident_mib,
            now.peak_mib
        );
    }
    if watched.len() > 1 {
        println!("{what}, together: {:.3} CPU-s a million samples", all / samples as f64 * 1e6);
    }
    Ok(())
}
