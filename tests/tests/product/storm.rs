//! Logs on a real engine: one container that prints as fast as it can, many that print a little, and many that come
//! and go. What was printed is what was counted, in bounded memory, with nothing left behind.
//!
//! The sizes are for every day; `make torture` makes them those of a bad one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{Dice, now_ms, seed, torture, wait_until};

use super::site::{AGENT, SERVER, SOON, live_host, sum, tell};

/// Memory that the agent may ever have, as the kernel shares it out among processes.
const PSS_BYTES_MAX: u64 = 8 << 20;

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
        let begun_ms = now_ms();
        let engine = Engine::start()?;
        let store = Store::sqlite()?;
        let server = Server::start(&store, SERVER)?;
        let session = server.log_in()?;
        let agent = Agent::start(&server, Some(&engine), AGENT)?;
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
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok((kib << 10, std::fs::read_dir(place.join("fd"))?.count()))
    }
}

/// Prints `lines` lines, every thousandth with a keyword.
fn printer(lines: u64) -> String {
    format!(
        "sleep 1; awk 'BEGIN {{ for (i = 1; i <= {lines}; i++) print (i % 1000 ? \"all is <well>\" : \"ENOSPC\") \" in line \" i }}'; sleep 600"
    )
}

#[test]
fn a_container_that_prints_as_fast_as_it_can_is_counted_to_the_line_in_bounded_memory() {
    let mut site = Site::start().unwrap();
    let lines = if torture().is_some() { 8_000_000 } else { 400_000 };
    for (name, options) in
        [("storm", &[][..]), ("rotating", &["--log-opt", "max-size=8m", "--log-opt", "max-file=3"][..])]
    {
        let begun = Instant::now();
        site.engine.run_script(name, options, &printer(lines)).unwrap();
        let mut peak_bytes = 0;
        wait_until("every line", SOON * 10, || {
            peak_bytes = peak_bytes.max(site.weigh()?.0);
            Ok((site.sum(name, "log_lines", "")? >= lines).then_some(()))
        })
        .unwrap();
        site.expect(name, lines, lines / 1000).unwrap();
        tell(&format!("{name}: {lines} lines in {:?}, peak PSS {} KiB", begun.elapsed(), peak_bytes >> 10));
        assert!(peak_bytes <= PSS_BYTES_MAX, "{peak_bytes} bytes");
    }
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
