//! `make bench-agent`: what the agent costs, measured from outside beside the peers that are installed.
//!
//! A real engine with containers that log, a real server behind a relay that counts bytes, the shipped agent binary.
//! CPU is scheduler time of every thread, so a busy machine changes it little; memory is the kernel's PSS. Nothing
//! here is a test: the figures are printed, the bars are kept in the issue.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::folder::Folder;
use forewarn_tests::process::{Process, run};
use forewarn_tests::program::program;
use forewarn_tests::server::Server;
use rustix::time::{ClockId, clock_gettime};

/// The interval at which agent and peers sample.
const ROUND_S: u64 = 10;
/// Caches, dictionary and the first blocks are behind it.
const WARM_UP: Duration = Duration::from_secs(45);
/// How long the storm blows.
const STORM: Duration = Duration::from_secs(20);
const USAGE: &str = "usage: bench_agent [--minutes N] [--containers N] [--line-seconds N] [--no-peers] [--no-storm] \
                     [--beside FOLDER]...";

struct Plan {
    minutes: u64,
    containers: u64,
    line_seconds: u64,
    peers: bool,
    storm: bool,
    /// Folders with other builds of the agent that run in the same minutes: the only fair before and after.
    beside: Vec<PathBuf>,
}

impl Plan {
    fn read() -> Result<Self> {
        let (peers, storm) = (true, true);
        let mut plan = Self { minutes: 3, containers: 10, line_seconds: 5, peers, storm, beside: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--beside" {
                plan.beside.push(words.next().context(USAGE)?.into());
                continue;
            }
            let mut number = || words.next().and_then(|text| text.parse().ok()).context(USAGE);
            match word.as_str() {
                "--minutes" => plan.minutes = number()?,
                "--containers" => plan.containers = number()?,
                "--line-seconds" => plan.line_seconds = number()?,
                "--no-peers" => plan.peers = false,
                "--no-storm" => plan.storm = false,
                _ => bail!(USAGE),
            }
        }
        Ok(plan)
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }

    fn rounds(&self) -> f64 {
        (self.minutes * 60 / ROUND_S) as f64
    }
}

fn main() -> Result<()> {
    let plan = Plan::read()?;
    let engine = Engine::start()?;
    let script = format!(
        "n=0; while true; do n=$((n+1)); echo \"level=info request $n served in 12 ms\"; sleep {}; done",
        plan.line_seconds
    );
    let mut containers = Vec::new();
    for number in 0..plan.containers {
        containers.push(engine.run_script(&format!("bench-{number}"), &["--memory", "64m"], &script)?);
    }
    let alone = if plan.peers { Duration::from_secs(60) } else { Duration::from_secs(ROUND_S) };
    let dockerd_alone = dockerd_per_round(&engine, alone);

    let server = Server::start(&Store::sqlite()?, "")?;
    let relay = Relay::start(&server.agent_url("127.0.0.1"))?;
    let mut agent = Agent::new(&relay.url(), &server.token_file(), Some(&engine), "")?;
    agent.restart()?;
    let (session, tokens, mut others) = (server.log_in()?, Folder::new("bench-tokens")?, Vec::new());
    for folder in &plan.beside {
        let made = session.send("POST", "/api/v1/tokens", &serde_json::json!({ "uses": 1, "ttl_ms": 600_000 }))?;
        let name = format!("token-{}", others.len());
        let token = tokens.write(&name, made["token"].as_str().context("no token")?)?;
        let mut other = Agent::new(&server.agent_url("127.0.0.1"), &token, Some(&engine), "")?;
        other.use_binary(folder.join("forewarn-agent"));
        other.restart()?;
        others.push(other);
    }
    std::thread::sleep(WARM_UP);
    let id = agent.process()?.id();

    // The peer that costs least runs in the same minutes, so that both meet the same machine.
    let collectd = plan.peers.then(Peer::collectd);
    let floor = Floor::start(id);
    let wire_before = relay.counts();
    let (before, dockerd_before) = (Cost::of(id), dockerd_ns(&engine));
    let collectd_before = collectd.as_ref().and_then(|peer| Some(Cost::of(peer.as_ref().ok()?.process.id())));
    let costs = |others: &mut [Agent]| -> Result<Vec<Cost>> {
        others.iter_mut().map(|other| Ok(Cost::of(other.process()?.id()))).collect()
    };
    let others_before = costs(&mut others)?;
    std::thread::sleep(plan.span());
    let others_after = costs(&mut others)?;
    let (after, dockerd_after) = (Cost::of(id), dockerd_ns(&engine));
    let floor = floor.end();
    let wire = relay.counts();
    let memory = Memory::of(id);
    let collectd = collectd.map(|peer| peer.map(|peer| peer.after(&collectd_before.unwrap_or_default(), &plan)));

    let series = series(&agent, &engine)?;
    println!("series ({}):", series.len());
    for (metric, count) in counted(&series) {
        println!("  {count:>4} x {metric}");
    }
    let rounds = plan.rounds();
    let binary = program("forewarn-agent")?;
    let cpu_ms = (after.cpu_ns - before.cpu_ns) as f64 / 1e6 / rounds;
    println!(
        "forewarn-agent: {} containers, a line each {} s, {} minutes",
        plan.containers, plan.line_seconds, plan.minutes
    );
    println!("  cpu               {cpu_ms:.3} ms a {ROUND_S} s round, encode and TLS push included");
    println!("  wake-ups          {:.1} a round", (after.switches - before.switches) as f64 / rounds);
    println!(
        "  floor             {:.3} ms a round for the bare reads of the {} kernel files that the agent holds",
        floor.cpu_ns as f64 / 1e6 / rounds,
        floor.files
    );
    let dockerd = (dockerd_after - dockerd_before) as f64 / 1e6 / rounds;
    println!("  dockerd           {dockerd:.2} ms a round beside the agent, {dockerd_alone:.2} ms without it");
    println!("  {memory}");
    println!("  binary            {} bytes", binary.metadata()?.len());
    let samples = series.len() as f64 * rounds;
    let (sent, received) = (wire.sent - wire_before.sent, wire.received - wire_before.received);
    println!(
        "  wire              {:.2} bytes a sample sent with TLS and HTTP, {:.2} received, {} new connections",
        sent as f64 / samples,
        received as f64 / samples,
        wire.connections - wire_before.connections
    );

    for (at, other) in others.iter_mut().enumerate() {
        let (before, after) = (&others_before[at], &others_after[at]);
        println!("  beside: {}", plan.beside[at].display());
        println!("    cpu             {:.3} ms a round", (after.cpu_ns - before.cpu_ns) as f64 / 1e6 / rounds);
        println!("    wake-ups        {:.1} a round", (after.switches - before.switches) as f64 / rounds);
        println!("    {}", Memory::of(other.process()?.id()));
    }
    drop(others);

    if plan.storm {
        storm(&engine, id)?;
    }
    agent.stop()?;
    let tell = |peer: Result<Peer>| match peer {
        Ok(peer) => println!("{peer}  ratio             agent / peer: cpu {:.2}", cpu_ms / peer.cpu_ms),
        Err(error) => println!("peer left out: {error:#}"),
    };
    if let Some(collectd) = collectd {
        tell(collectd);
        tell(Peer::node_exporter(&plan));
    }
    Ok(())
}

/// One container prints as fast as the engine takes it; the log rotates meanwhile.
fn storm(engine: &Engine, agent: u32) -> Result<()> {
    // Writing 5 resets the peak that the kernel keeps.
    std::fs::write(format!("/proc/{agent}/clear_refs"), "5").context("reset the peak (needs root)")?;
    let before = Cost::of(agent);
    let line = "level=info ts=1700000000 msg=\"a line of a storm that never ends\" user=7 ms=12";
    let options = ["--log-opt", "max-size=100m", "--log-opt", "max-file=2"];
    let container = engine.run_script("bench-storm", &options, &format!("exec yes '{line}'"))?;
    let mut pss_max = 0;
    let begun = Instant::now();
    while begun.elapsed() < STORM {
        std::thread::sleep(Duration::from_millis(200));
        pss_max = pss_max.max(Memory::of(agent).pss_kib);
    }
    let cpu_ms = (Cost::of(agent).cpu_ns - before.cpu_ns) as f64 / 1e6;
    let printed_mb = printed_bytes(&container.inspect("{{.State.Pid}}")?)? as f64 / 1e6;
    let mb_a_second = printed_mb / begun.elapsed().as_secs_f64();
    container.kill()?;
    let memory = Memory::of(agent);
    println!(
        "  storm of {} s      {mb_a_second:.0} MB/s, peak RSS {:.2} MiB, peak PSS seen {:.2} MiB, {cpu_ms:.0} ms of cpu, \
         {:.2} a MB",
        STORM.as_secs(),
        mib(memory.peak_kib),
        mib(pss_max),
        cpu_ms / printed_mb
    );
    Ok(())
}

/// What the only child of a container's first process has written.
fn printed_bytes(first: &str) -> Result<u64> {
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
    let child = children.split_whitespace().next().context("the container prints nothing")?;
    let io = std::fs::read_to_string(format!("/proc/{child}/io"))?;
    Ok(io.lines().find_map(|line| line.strip_prefix("wchar: ")).context("no wchar")?.parse()?)
}

/// Reads what the agent holds of `/proc` and cgroups as often as it samples, and does nothing else: what is left of
/// the agent's cost when all that is its own is taken away.
struct Floor {
    stop: Sender<()>,
    thread: JoinHandle<FloorCost>,
}

struct FloorCost {
    cpu_ns: u64,
    files: usize,
}

impl Floor {
    fn start(agent: u32) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let held = std::fs::read_dir(format!("/proc/{agent}/fd")).into_iter().flatten().flatten();
            let names = held.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let kernel = names.filter(|name| name.starts_with("/proc") || name.starts_with("/sys/fs/cgroup"));
            let files: Vec<File> = kernel.filter_map(|name| File::open(name).ok()).collect();
            let mut buffer = vec![0; 64 << 10];
            let spent_ns = || {
                let spent = clock_gettime(ClockId::ThreadCPUTime);
                (spent.tv_sec * 1_000_000_000 + spent.tv_nsec).unsigned_abs()
            };
            let begun_ns = spent_ns();
            while stopped.recv_timeout(Duration::from_secs(ROUND_S)).is_err() {
                for file in &files {
                    _ = file.read_at(&mut buffer, 0);
                }
            }
            FloorCost { cpu_ns: spent_ns() - begun_ns, files: files.len() }
        });
        Self { stop, thread }
    }

    fn end(self) -> FloorCost {
        _ = self.stop.send(());
        self.thread.join().unwrap_or(FloorCost { cpu_ns: 0, files: 0 })
    }
}

/// Entity-less names of the series of one sample, by the agent's own word.
fn series(agent: &Agent, engine: &Engine) -> Result<Vec<String>> {
    let folder = Folder::new("bench-once")?;
    let config = folder.write(
        "agent.toml",
        format!(
            "data_dir = '{}'\n[engine]\nsocket = '{}'\ndata_root = '{}'\n",
            agent.data_folder().display(),
            engine.socket().display(),
            engine.data_folder().display()
        ),
    )?;
    let mut once = Command::new(program("forewarn-agent")?);
    let text = run(once.args(["once", "--json", "--config"]).arg(config))?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let rows = value.as_array().or_else(|| value["series"].as_array()).context("no list of series")?;
    let mut names: Vec<String> = rows.iter().filter_map(|row| Some(row["metric"].as_str()?.to_owned())).collect();
    // `once` follows no log and has no vitals: four and five a workload and a host.
    let workloads: std::collections::BTreeSet<_> = rows.iter().filter_map(|row| row["entity"].as_str()).collect();
    for _ in 1..workloads.len() {
        names.extend(["log_lines", "log_bytes", "log_lost", "log_cut"].map(str::to_owned));
    }
    names.extend(["agent_cpu", "agent_rss", "spool_bytes", "spool_dropped", "late_ticks"].map(str::to_owned));
    Ok(names)
}

fn counted(names: &[String]) -> std::collections::BTreeMap<&str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_insert(0) += 1;
    }
    counts
}

/// Scheduler time of all threads and how often they slept.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu_ns: u64,
    switches: u64,
}

impl Cost {
    fn of(process: u32) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        tasks.fold(Self::default(), |sum, task| {
            let text = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let run_ns = text("schedstat").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
            let slept = field(&text("status"), "voluntary_ctxt_switches:");
            Self { cpu_ns: sum.cpu_ns + run_ns, switches: sum.switches + slept }
        })
    }
}

/// What a process takes of memory now, and the peak since it was last reset.
#[derive(Clone, Copy, Default)]
struct Memory {
    pss_kib: u64,
    dirty_kib: u64,
    anonymous_kib: u64,
    peak_kib: u64,
    threads: u64,
    files: usize,
}

impl Memory {
    fn of(process: u32) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
        let (rollup, status) = (text("smaps_rollup"), text("status"));
        Self {
            pss_kib: field(&rollup, "Pss:"),
            dirty_kib: field(&rollup, "Private_Dirty:"),
            anonymous_kib: field(&rollup, "Anonymous:"),
            peak_kib: field(&status, "VmHWM:"),
            threads: field(&status, "Threads:"),
            files: std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().count(),
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "memory            PSS {:.2} MiB (private dirty {:.2}, anonymous {:.2}), peak RSS {:.2} MiB, {} threads, {} files",
            mib(self.pss_kib),
            mib(self.dirty_kib),
            mib(self.anonymous_kib),
            mib(self.peak_kib),
            self.threads,
            self.files
        )
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The engine's own processes: dockerd and containerd, not the shims of the containers.
fn dockerd_ns(engine: &Engine) -> u64 {
    let folder = engine.data_folder();
    let needle = folder.parent().unwrap_or(&folder).display().to_string();
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if matches!(name.trim(), "dockerd" | "containerd") && String::from_utf8_lossy(&line).contains(&needle) {
            sum += Cost::of(id).cpu_ns;
        }
    }
    sum
}

fn dockerd_per_round(engine: &Engine, span: Duration) -> f64 {
    let before = dockerd_ns(engine);
    std::thread::sleep(span);
    (dockerd_ns(engine) - before) as f64 / 1e6 / (span.as_secs() / ROUND_S) as f64
}

/// Stands before the server and counts what goes through.
struct Relay {
    port: u16,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
}

struct Counts {
    sent: u64,
    received: u64,
    connections: u64,
}

impl Relay {
    fn start(server_url: &str) -> Result<Self> {
        let server = server_url.strip_prefix("https://").context("an https url")?.to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, wire) = (listener.local_addr()?.port(), Arc::new(Wire::default()));
        let counted = Arc::clone(&wire);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                counted.connections.fetch_add(1, Ordering::Relaxed);
                for up in [true, false] {
                    let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) else { continue };
                    let counted = Arc::clone(&counted);
                    std::thread::spawn(move || match up {
                        true => pass(&client, &server, &counted.sent),
                        false => pass(&server, &client, &counted.received),
                    });
                }
            }
        });
        Ok(Self { port, wire })
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn counts(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            sent: get(&self.wire.sent),
            received: get(&self.wire.received),
            connections: get(&self.wire.connections),
        }
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(got) = from.read(&mut buffer) {
        if got == 0 || to.write_all(&buffer[..got]).is_err() {
            break;
        }
        count.fetch_add(got as u64, Ordering::Relaxed);
    }
    _ = to.shutdown(Shutdown::Write);
}

/// A peer that runs.
struct Running {
    name: &'static str,
    process: Process,
    folder: Folder,
    binary_bytes: u64,
}

impl Running {
    fn start(name: &'static str, command: &Command, folder: Folder) -> Result<Self> {
        let binary = Path::new(command.get_program());
        let binary_bytes =
            std::fs::metadata(binary).with_context(|| format!("{} is not installed", binary.display()))?.len();
        let process = Process::start(name, command, &folder.join("log"))?;
        std::thread::sleep(Duration::from_secs(2 * ROUND_S));
        Ok(Self { name, process, folder, binary_bytes })
    }

    /// What it cost since `before`.
    fn after(self, before: &Cost, plan: &Plan) -> Peer {
        let cpu_ms = (Cost::of(self.process.id()).cpu_ns - before.cpu_ns) as f64 / 1e6 / plan.rounds();
        let memory = Memory::of(self.process.id());
        Peer {
            name: self.name,
            cpu_ms,
            memory,
            series: csv_columns(&self.folder.join("data")),
            binary_bytes: self.binary_bytes,
        }
    }
}

/// A peer under the same measure.
struct Peer {
    name: &'static str,
    cpu_ms: f64,
    memory: Memory,
    series: usize,
    binary_bytes: u64,
}

impl Peer {
    fn collectd() -> Result<Running> {
        let folder = Folder::new("collectd")?;
        let plugins: String = ["cpu", "memory", "df", "disk", "interface", "load", "csv"]
            .map(|name| format!("LoadPlugin {name}\n"))
            .concat();
        let config = folder.write(
            "collectd.conf",
            format!(
                "Hostname \"bench\"\nFQDNLookup false\nBaseDir \"{0}\"\nPIDFile \"{0}/pid\"\n\
                 PluginDir \"/usr/lib/collectd\"\nTypesDB \"/usr/share/collectd/types.db\"\nInterval {ROUND_S}\n\
                 {plugins}<Plugin csv>\nDataDir \"{0}/data\"\n</Plugin>\n",
                folder.path().display()
            ),
        )?;
        let mut command = Command::new("/usr/sbin/collectd");
        command.arg("-f").arg("-C").arg(config);
        Running::start("collectd (csv, no push, no containers)", &command, folder)
    }

    fn node_exporter(plan: &Plan) -> Result<Self> {
        let folder = Folder::new("node-exporter")?;
        let address = format!("127.0.0.1:{}", forewarn_tests::free_port()?);
        let mut command = Command::new("/usr/bin/prometheus-node-exporter");
        command.arg(format!("--web.listen-address={address}"));
        let scrape = || -> Result<String> {
            let mut stream = TcpStream::connect(&address)?;
            write!(stream, "GET /metrics HTTP/1.0\r\nHost: bench\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let running = Running::start("node_exporter (scraped plain, no push, no containers)", &command, folder)?;
        let (before, begun, mut series) = (Cost::of(running.process.id()), Instant::now(), 0);
        while begun.elapsed() < plan.span() {
            series = scrape()?.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).count();
            std::thread::sleep(Duration::from_secs(ROUND_S));
        }
        Ok(Self { series, ..running.after(&before, plan) })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {} series", self.name, self.series)?;
        writeln!(f, "  cpu               {:.3} ms a round", self.cpu_ms)?;
        writeln!(f, "  {}", self.memory)?;
        writeln!(f, "  binary            {} bytes", self.binary_bytes)
    }
}

/// Columns of all tables below a folder, without that of the time.
fn csv_columns(folder: &Path) -> usize {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            sum += csv_columns(&entry.path());
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            sum += text.lines().next().map_or(0, |line| line.matches(',').count());
        }
    }
    sum
}
