//! One server, killed again and again at random points under load: on the embedded database, and on a MariaDB that is
//! killed too. The generator knows what it sent: each acknowledged sample is stored once, and counted once in the sums.
//!
//! Ten rounds here; `make torture` runs as many as are wanted. The seed is printed.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forewarn_common::block::Reader;
use forewarn_tests::database::Store;
use forewarn_tests::folder::Folder;
use forewarn_tests::process::run;
use forewarn_tests::program::program;
use forewarn_tests::server::Server;
use forewarn_tests::{Dice, now_ms, seed, torture_rounds, wait_until};

use super::site::{HandAgent, SERVER, SOON, tell};

/// Agents that push at once: their blocks are committed in groups.
const AGENTS: usize = 4;
/// Where the data begin: long closed hours, so that they are merged while their neighbours still arrive.
const AGO_MS: i64 = 9 * 86_400_000;
/// Samples of a block: ten of each of two series.
const TICKS: u64 = 10;
const BUCKET_MS: i64 = 300_000;
/// Pause before a block is sent again.
const RETRY: Duration = Duration::from_millis(20);

/// An agent that sends one block after the other, each until it is acknowledged.
struct Generator {
    agent: HandAgent,
    base_ms: i64,
    blocks: u64,
}

impl Generator {
    fn bytes(&self) -> Vec<u8> {
        let start_ms = self.base_ms + (self.blocks * TICKS * 1000) as i64;
        let mut block = self.agent.block(self.blocks, start_ms, 0.5);
        // Each sample is its own number, so that none can stand in for another.
        block.groups[0].columns[0] = (0..TICKS).map(|tick| (self.blocks * TICKS + tick) as f64).collect();
        HandAgent::encode(&block)
    }

    /// Sends until it is stopped; the block under way is still brought to its acknowledgement.
    fn send(mut self, stop: &AtomicBool, acknowledged: &AtomicU64) -> Result<Self> {
        while !stop.load(Ordering::SeqCst) {
            let bytes = self.bytes();
            loop {
                match self.agent.push(bytes.clone()) {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => {
                        let later = [429, 503].contains(&answer.status);
                        ensure!(later, "a block was answered {} {}", answer.status, answer.text());
                    }
                    // Killed in between.
                    Err(_) => {}
                }
                std::thread::sleep(RETRY);
            }
            self.blocks += 1;
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Ok(self)
    }
}

/// The points of the numbered series of a host, from `export`.
fn export(server: &Server, generator: &Generator, folder: &Folder, step_ms: i64) -> Result<Vec<(i64, f64)>> {
    let to = folder.join(&format!("{}-{step_ms}.csv", generator.agent.host));
    let end_ms = generator.base_ms + (generator.blocks * TICKS * 1000) as i64 + BUCKET_MS;
    let mut command = Command::new(program("forewarn-server")?);
    command.arg("export").arg("--config").arg(server.settings_file()?).arg("--to").arg(&to);
    command.args(["--metric", "cpu_count", "--host", &generator.agent.host.to_string()]);
    command.args(["--from", &generator.base_ms.to_string(), "--until", &end_ms.to_string()]);
    command.args(["--step-ms", &step_ms.to_string()]);
    run(&mut command)?;
    let text = std::fs::read_to_string(to)?;
    let point = |line: &str| -> Option<(i64, f64)> {
        Some((line.split(',').nth(1)?.parse().ok()?, line.rsplit(',').next()?.parse().ok()?))
    };
    text.lines().skip(1).map(|line| point(line).with_context(|| format!("line {line:?}"))).collect()
}

fn check(server: &Server, store: &Store, generators: &[Generator]) -> Result<()> {
    let folder = Folder::new("export")?;
    for generator in generators {
        let host = generator.agent.host;
        let rows = store.query(&format!("SELECT hex(ranges) FROM receipt WHERE host = x'{host}'"))?;
        let bytes = hex::decode(rows.first().context("no receipt")?)?;
        let mut reader = Reader::new(&bytes);
        let numbers: Vec<u64> = std::iter::from_fn(|| reader.varint("receipt").ok()).collect();
        ensure!(numbers == [1, 0, generator.blocks - 1], "receipt {numbers:?} of {} blocks", generator.blocks);
        let samples = generator.blocks * TICKS;
        let of_host = format!("host = x'{host}' AND tier IN (0, 1)");
        let stored = store.query(&format!("SELECT SUM(samples) FROM block WHERE {of_host}"))?;
        ensure!(stored == [(2 * samples).to_string()], "{stored:?} values of {}", 2 * samples);
        let points = export(server, generator, &folder, 0)?;
        ensure!(points.len() as u64 == samples, "{} points of {samples}", points.len());
        for (number, (at_ms, value)) in (0_i64..).zip(&points) {
            let sent = (generator.base_ms + number * 1000, number as f64);
            ensure!((*at_ms, *value) == sent, "{at_ms} {value} is stored, {sent:?} was sent");
        }
        // The sums of five minutes: a block that were in them twice or not at all would shift a mean.
        let means = export(server, generator, &folder, BUCKET_MS)?;
        let mut sums = std::collections::BTreeMap::<i64, (f64, f64)>::new();
        for (at_ms, value) in &points {
            let end_ms = (at_ms + BUCKET_MS - 1).div_euclid(BUCKET_MS) * BUCKET_MS;
            let (sum, count) = sums.entry(end_ms).or_default();
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
        ensure!(means.len() == sums.len(), "{} means of {}", means.len(), sums.len());
        for ((at_ms, mean), (end_ms, (sum, count))) in means.iter().zip(&sums) {
            ensure!(at_ms == end_ms && (mean - sum / count).abs() < 1e-6, "{at_ms}: mean {mean}, {sum} / {count} sent");
        }
    }
    Ok(())
}

fn start(
    generators: Vec<Generator>,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<AtomicU64>,
) -> Vec<JoinHandle<Result<Generator>>> {
    let run = |generator: Generator| {
        let (stop, acknowledged) = (Arc::clone(stop), Arc::clone(acknowledged));
        std::thread::spawn(move || generator.send(&stop, &acknowledged))
    };
    generators.into_iter().map(run).collect()
}

fn every_sample_is_stored_once_whatever_is_killed(store: &mut Store, run: u64) {
    let seed = seed();
    let (mut dice, rounds) = (Dice::new(seed.wrapping_add(run)), torture_rounds(10));
    let on_mariadb = store.as_mariadb().is_ok();
    let mut server = Server::start(store, &format!("{SERVER}\n[store]\ncompact_every_ms = 1000")).unwrap();
    let session = server.log_in().unwrap();
    let base_ms = (now_ms() - AGO_MS) / 1000 * 1000;
    let generator = |_| Generator { agent: HandAgent::enroll(&server, &session).unwrap(), base_ms, blocks: 0 };
    let generators: Vec<Generator> = (0..AGENTS).map(generator).collect();
    let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let loads = start(generators, &stop, &acknowledged);
    let mut pause = |low: u64, high: u64| std::thread::sleep(Duration::from_millis(dice.between(low, high)));
    let kinds = if on_mariadb { 3 } else { 2 };
    for round in 0..rounds {
        pause(100, 1000);
        match round % kinds {
            0 => {
                server.kill().unwrap();
                pause(0, 200);
            }
            // Killed a second time while it starts.
            1 => {
                server.kill().unwrap();
                server.launch().unwrap();
                pause(0, 400);
                server.kill().unwrap();
            }
            _ => {
                store.as_mariadb().unwrap().kill().unwrap();
                pause(0, 400);
                store.as_mariadb().unwrap().restart().unwrap();
            }
        }
        if round % kinds < 2 {
            server.restart().unwrap();
        }
        let before = acknowledged.load(Ordering::SeqCst);
        wait_until("a block after the fault", SOON, || {
            Ok((acknowledged.load(Ordering::SeqCst) > before + AGENTS as u64).then_some(()))
        })
        .unwrap();
    }
    pause(100, 1000);
    stop.store(true, Ordering::SeqCst);
    let generators: Vec<Generator> = loads.into_iter().map(|load| load.join().unwrap().unwrap()).collect();
    server.kill().unwrap();
    server.restart().unwrap();
    let waiting = || store.number("SELECT COUNT(*) FROM block WHERE tier = 0");
    wait_until("every block to be merged", SOON * 2, || Ok((waiting()? == 0).then_some(()))).unwrap();
    check(&server, store, &generators).unwrap();
    let verified = run_command(&server, "verify").unwrap();
    assert!(verified.contains(", 0 damaged"), "{verified}");
    let blocks: u64 = generators.iter().map(|generator| generator.blocks).sum();
    tell(&format!(
        "crash: {} rounds on {}, seed {seed}: {blocks} blocks with {} samples acknowledged, each stored once",
        rounds,
        if on_mariadb { "MariaDB, server and database killed" } else { "SQLite, server killed" },
        blocks * TICKS * 2
    ));
}

fn run_command(server: &Server, name: &str) -> Result<String> {
    run(Command::new(program("forewarn-server")?).arg(name).arg("--config").arg(server.settings_file()?))
}

#[test]
fn every_sample_is_stored_once_whenever_the_server_on_sqlite_is_killed() {
    every_sample_is_stored_once_whatever_is_killed(&mut Store::sqlite().unwrap(), 1);
}

#[test]
fn every_sample_is_stored_once_whenever_server_or_mariadb_is_killed() {
    every_sample_is_stored_once_whatever_is_killed(&mut Store::mariadb().unwrap(), 2);
}
