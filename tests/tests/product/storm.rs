//! Logs on a real engine: one container that prints as fast as it can, many that print a little, and many that come
//! and go. What was printed is what was counted, in bounded memory, with nothing left behind.
//!
//! The sizes are for every day; `make torture` makes them those of a bad one.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::folder::Folder;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{Dice, now_ms, seed, torture, wait_until};

use super::site::{AGENT, SERVER, SOON, live_host, sum, tell};

/// Memory that the agent may ever have resident.
const PEAK_BYTES_MAX: u64 = 8 << 20;
/// A line of the storm, with what an engine writes as escapes; the n-th of a thousand has a keyword.
const LINE: &str = "level=info msg=\"all is <well> & nothing is said\"\tuser=7 path=/api/v1/orders/4711 took=12ms";
const KEYWORD_LINE: &str = "level=info msg=\"ENOSPC\"";
const KEYWORD_EVERY: u64 = 1000;

struct Site {
    engine: Engine,
    session: Session,
    agent: Agent,
    host: String,
    begun_ms: i64,
    // The agent and the session go before what they talk to.
    _server: Server,
    _store: Store,
}

impl Site {
    fn start() -> Result<Self> {
        Self::start_with(AGENT)
    }

    fn start_with(settings: &str) -> Result<Self> {
        let begun_ms = now_ms();
        let engine = Engine::start()?;
        let store = Store::sqlite()?;
        let server = Server::start(&store, SERVER)?;
        let session = server.log_in()?;
        let agent = Agent::start(&server, Some(&engine), settings)?;
        let host = live_host(&session)?["id"].as_str().context("a host without an id")?.to_owned();
        Ok(Self { engine, session, agent, host, begun_ms, _server: server, _store: store })
    }

    /// The sum of a metric over the workloads whose names begin so.
    fn sum(&self, workloads: &str, metric: &str, instance: &str) -> Result<u64> {
        sum(&self.session, &self.host, self.begun_ms, workloads, metric, instance)
    }

    /// Waits until as many lines and hits were counted as were printed, and no more.
    fn expect(&self, workloads: &str, lines: u64, hits: u64) -> Result<()> {
        let seen = || -> Result<(u64, u64, u64)> {
            let hits = self.sum(workloads, "log_hits", "disk_full")?;
            Ok((self.sum(workloads, "log_lines", "")?, hits, self.sum(workloads, "log_lost_bytes", "")?))
        };
        let counted = wait_until("every line to be counted", SOON, || Ok(Some(seen()?).filter(|seen| seen.0 >= lines)));
        // What comes twice comes a little later.
        std::thread::sleep(Duration::from_secs(3));
        let last = seen()?;
        ensure!(last == (lines, hits, 0), "lines, hits, lost: {last:?}, printed {lines} and {hits}; {counted:?}");
        Ok(())
    }

    /// The agent's memory as the kernel shares it out, and its descriptors.
    fn weigh(&mut self) -> Result<(u64, usize)> {
        let place = Path::new("/proc").join(self.agent.process()?.id().to_string());
        let text = std::fs::read_to_string(place.join("smaps_rollup"))?;
        Ok((kib_of(&text, "Pss:")? << 10, std::fs::read_dir(place.join("fd"))?.count()))
    }

    /// The most memory that the agent ever had resident, as the kernel keeps it, and the CPU that it has used, in ms.
    fn peak(&mut self) -> Result<(u64, u64)> {
        let place = Path::new("/proc").join(self.agent.process()?.id().to_string());
        let spent = std::fs::read_to_string(place.join("schedstat"))?;
        let spent_ns: u64 = spent.split_whitespace().next().context("no time")?.parse()?;
        Ok((kib_of(&std::fs::read_to_string(place.join("status"))?, "VmHWM:")? << 10, spent_ns / 1_000_000))
    }
}

fn kib_of(text: &str, key: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
    Ok(value.split_whitespace().next().context("no number")?.parse()?)
}

/// So many lines as they are printed, every thousandth with a keyword.
fn printed(lines: u64) -> String {
    let line = |n: u64| if n.is_multiple_of(KEYWORD_EVERY) { KEYWORD_LINE } else { LINE };
    (1..=lines).flat_map(|n| [line(n), "\n"]).collect()
}

/// The same as an engine writes them to its file.
fn recorded(lines: u64) -> String {
    let escaped = |text: &str| {
        let text = text.replace('"', "\\\"").replace('\t', "\\t").replace('<', "\\u003c").replace('>', "\\u003e");
        text.replace('&', "\\u0026")
    };
    let record = |line: &str| {
        format!(
            "{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T00:00:01.123456789Z\"}}\n",
            escaped(line)
        )
    };
    printed(lines).lines().map(record).collect()
}

#[test]
fn a_container_that_prints_as_fast_as_it_can_is_counted_to_the_line_in_bounded_memory() {
    let mut site = Site::start().unwrap();
    let (piece_lines, pieces) = (100_000, if torture().is_some() { 200 } else { 20 });
    let folder = Folder::new("storm").unwrap();
    let piece = printed(piece_lines);
    let volume = format!("{}:/piece:ro", folder.write("piece", &piece).unwrap().display());
    // The container's own clock: starting it takes longer than some storms.
    let script = format!(
        "sleep 1; cp /proc/uptime /begun; for i in $(seq {pieces}); do cat /piece; done; cp /proc/uptime /ended; sleep 600"
    );
    for (name, options) in
        [("storm", &[][..]), ("rotating", &["--log-opt", "max-size=64m", "--log-opt", "max-file=3"][..])]
    {
        let (_, before_ms) = site.peak().unwrap();
        let options = [options, &["-v", &volume]].concat();
        let container = site.engine.run_script(name, &options, &script).unwrap();
        let id = container.id().to_owned();
        let lines = pieces * piece_lines;
        wait_until("every line", SOON * 10, || Ok((site.sum(name, "log_lines", "")? >= lines).then_some(()))).unwrap();
        site.expect(name, lines, lines / KEYWORD_EVERY).unwrap();
        let clock = site.engine.docker(&["exec", &id, "cat", "/begun", "/ended"]).unwrap();
        let at = |line: usize| clock.lines().nth(line).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
        let megabytes = (pieces * piece.len() as u64) as f64 / 1e6;
        let (peak_bytes, spent_ms) = site.peak().unwrap();
        tell(&format!(
            "{name}: {megabytes:.0} MB in {lines} lines at {:.0} MB/s, which is what the engine takes; the agent: {} ms, \
             peak RSS {} KiB",
            megabytes / (at(1) - at(0)),
            spent_ms - before_ms,
            peak_bytes >> 10
        ));
        assert!(peak_bytes <= PEAK_BYTES_MAX, "{peak_bytes} bytes");
    }
}

/// As an engine would write it that is faster than the one here.
#[test]
fn a_log_that_grows_by_100_megabytes_a_second_is_counted_to_the_line_in_bounded_memory() {
    let (piece_lines, pieces_a_second, seconds) = (10_000, 110, if torture().is_some() { 30 } else { 4 });
    let folder = Folder::new("storm").unwrap();
    let log = folder.write("fast.log", "").unwrap();
    let files = format!("200, files = [{{ name = 'fast', glob = '{}', format = 'json-file' }}] }}", log.display());
    let followed = AGENT.replace("200 }", &files);
    let mut site = Site::start_with(&followed).unwrap();
    let (piece, payload) = (recorded(piece_lines), printed(piece_lines).len() as u64);
    let (_, before_ms) = site.peak().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    let (begun, pieces) = (Instant::now(), pieces_a_second * seconds);
    for n in 0..pieces {
        file.write_all(piece.as_bytes()).unwrap();
        let due = Duration::from_secs(1) * u32::try_from(n + 1).unwrap() / u32::try_from(pieces_a_second).unwrap();
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let rate = (pieces * payload) as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let lines = pieces * piece_lines;
    site.expect("fast", lines, lines / KEYWORD_EVERY).unwrap();
    let (peak_bytes, spent_ms) = site.peak().unwrap();
    let cost = (spent_ms - before_ms) as f64 / ((pieces * payload) as f64 / 1e6);
    tell(&format!(
        "fast: {rate:.0} MB/s for {seconds} s, {lines} lines; the agent: {cost:.2} ms for each MB, peak RSS {} KiB",
        peak_bytes >> 10
    ));
    assert!(rate >= 95.0, "the test itself wrote {rate:.0} MB/s only");
    assert!(peak_bytes <= PEAK_BYTES_MAX, "{peak_bytes} bytes");
}

#[test]
fn containers_that_print_a_little_come_and_go_and_leave_nothing_behind() {
    let mut site = Site::start().unwrap();
    let mut dice = Dice::new(seed());
    let (count, starts) = if torture().is_some() { (200, 100) } else { (12, 8) };
    let mut lines = 0;
    for n in 0..count {
        let printed = dice.between(1, 20);
        lines += printed;
        let script = format!("for i in $(seq {printed}); do echo a little; sleep 0.2; done; sleep 600");
        site.engine.run_script(&format!("little-{n}"), &["--network", "none"], &script).unwrap();
    }
    site.expect("little-", lines, 0).unwrap();
    let before = site.weigh().unwrap();
    let begun = Instant::now();
    let mut lines = 0;
    for n in 0..starts {
        let printed = dice.between(1, 200);
        lines += printed;
        let script = format!("sleep 1; for i in $(seq {printed}); do echo ENOSPC $i; done");
        let name = format!("churn-{n}");
        site.engine.run_script(&name, &["--network", "none", "--rm"], &script).unwrap();
    }
    tell(&format!("{starts} starts in {:?}", begun.elapsed()));
    site.expect("churn-", lines, lines).unwrap();
    let after =
        wait_until("descriptors to be let go", SOON, || Ok(Some(site.weigh()?).filter(|after| after.1 <= before.1)));
    tell(&format!("before {before:?}, after {:?} bytes of PSS and descriptors", after.as_ref().ok()));
    after.unwrap();
}
