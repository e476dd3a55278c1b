//! The agent's binary from outside: on a real Docker Engine of its own, against a small TLS server that keeps what
//! it is sent. Needs root, docker.io, busybox-static and libcap2-bin; everything it starts it stops.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarn_common::block::{Block, EventKind, Layout};
use forewarn_common::id::{HostId, LayoutId};
use forewarn_common::wire::{AgentConfig, EnrollReply, EnrollToken, PushReply, TrustBundle};
use serde_json::Value;

use super::site::Site;

pub(super) const AGENT: &str = env!("CARGO_BIN_EXE_forewarn-agent");
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Blocks by epoch and number, and every layout seen.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) blocks: BTreeMap<(u64, u64), Block>,
    bodies: HashMap<(u64, u64), Vec<u8>>,
    names: HashMap<u64, String>,
    layouts: HashMap<LayoutId, Layout>,
    pushes: usize,
}

/// A server of one site. It answers every push with `status` and keeps the block when that is 200.
pub(super) struct Server {
    url: String,
    token: String,
    kept: Arc<Mutex<Kept>>,
    status: Arc<AtomicU16>,
}

impl Server {
    pub(super) fn start() -> Self {
        let (kept, status) = (Arc::<Mutex<Kept>>::default(), Arc::new(AtomicU16::new(200)));
        let site = Site::new();
        let (seen, said, trust) = (Arc::clone(&kept), Arc::clone(&status), site.trust.clone());
        let url = site.listen(move |stream| talk(stream, &seen, &said, &trust));
        let token = EnrollToken { secret: "s3cret".to_owned(), ca_sha256: site.ca_sha256 }.encode();
        Self { url, token, kept, status }
    }

    pub(super) fn see<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.kept.lock().unwrap())
    }
}

fn talk(stream: impl Read + Write, kept: &Mutex<Kept>, status: &AtomicU16, trust: &TrustBundle) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if stream.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let status = status.load(Ordering::Relaxed);
        let reply = if first.contains("/enroll") {
            serde_json::to_vec(&EnrollReply { host: HostId([5; 16]), key: "00".repeat(32), trust: trust.clone() })
        } else if first.contains("/config") {
            serde_json::to_vec(&AgentConfig {
                version: 0,
                keywords: Vec::new(),
                exclude: Vec::new(),
                samples_a_day_max: None,
                trust: trust.clone(),
            })
        } else {
            let mut kept = kept.lock().unwrap();
            kept.pushes += 1;
            if status == 200 {
                keep(&mut kept, &body);
            }
            serde_json::to_vec(&PushReply::default())
        }
        .unwrap();
        write!(stream.get_mut(), "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", reply.len())?;
        stream.get_mut().write_all(&reply)?;
        stream.get_mut().flush()?;
    }
}

fn keep(kept: &mut Kept, body: &[u8]) {
    let layouts = kept.layouts.clone();
    let (block, unknown) = Block::decode(body, |id| layouts.get(&id).cloned()).unwrap();
    assert_eq!(unknown, 0, "the agent must send a layout before it relies on it");
    kept.layouts.extend(block.dictionary.layouts.iter().map(|layout| (layout.id(), layout.clone())));
    kept.names.extend(block.dictionary.entities.iter().map(|entity| (entity.id.0, entity.name.clone())));
    let number = (block.header.epoch, block.header.seq);
    kept.blocks.insert(number, block);
    let known = kept.bodies.insert(number, body.to_vec());
    assert!(known.is_none_or(|known| known == body), "one number, two blocks");
}

impl Kept {
    /// The values of one metric of one entity over all blocks, by tick time.
    pub(super) fn series(&self, entity: &str, metric: &str, instance: &str) -> BTreeMap<i64, f64> {
        let mut series = BTreeMap::new();
        for block in self.blocks.values() {
            for group in &block.groups {
                if self.names.get(&group.entity.0).map(String::as_str) != Some(entity) {
                    continue;
                }
                let columns = self.layouts[&group.layout].metrics.iter().zip(&group.columns);
                for (_, column) in columns.filter(|(m, _)| m.name == metric && m.instance == instance) {
                    for (tick, value) in group.ticks.iter().zip(column) {
                        let at_ms = block.header.start_ms + i64::from(tick) * i64::from(block.header.step_ms);
                        assert!(series.insert(at_ms, *value).is_none(), "{entity} {metric} twice at {at_ms}");
                    }
                }
            }
        }
        series
    }

    pub(super) fn sum(&self, entity: &str, metric: &str, instance: &str) -> f64 {
        self.series(entity, metric, instance).values().filter(|value| !value.is_nan()).sum()
    }

    pub(super) fn events(&self, entity: &str) -> Vec<(EventKind, i32)> {
        let events = self.blocks.values().flat_map(|block| &block.urgent.events);
        let of = events.filter(|event| self.names.get(&event.entity.0).map(String::as_str) == Some(entity));
        of.map(|event| (event.kind, event.code)).collect()
    }
}

/// An engine of its own: own folder, socket and mount namespace (whose root is shared, as it is under systemd).
pub(super) struct Engine {
    pub(super) dir: tempfile::TempDir,
    process: Child,
}

impl Engine {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let daemon = format!(
            "mount --make-rshared / && exec dockerd --data-root {} --exec-root {} -H unix://{} --pidfile {} --bridge=none --iptables=false",
            at("data"),
            at("exec"),
            at("sock"),
            at("pid")
        );
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new("unshare")
            .args(["-m", "sh", "-c", &daemon])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let engine = Self { dir, process };
        until("the engine", || engine.docker().arg("version").output().unwrap().status.success().then_some(()));
        engine
    }

    pub(super) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        let socket = format!("unix://{}", self.dir.path().join("sock").display());
        command.env("DOCKER_HOST", socket).env("DOCKER_API_VERSION", "1.41");
        command
    }

    pub(super) fn start_container(&self, name: &str, extra: &[&str], script: &str) {
        run(self
            .docker()
            .args(["run", "-d", "--network", "none", "--name", name])
            .args(extra)
            .args(["base:1", "sh", "-c", script]));
    }

    /// An image with busybox, the agent and its libraries; the agent may read every file and write none.
    pub(super) fn import_image(&self) {
        let root = self.dir.path().join("image");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        std::fs::copy(AGENT, root.join("forewarn-agent")).unwrap();
        run(Command::new("setcap").arg("cap_dac_read_search+ep").arg(root.join("forewarn-agent")));
        for library in run(Command::new("ldd").arg(AGENT)).split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(library, copy).unwrap();
        }
        let tar = format!(
            "tar --xattrs --xattrs-include=security.capability -C {} -c . | docker import - base:1",
            root.display()
        );
        let docker = self.docker();
        let mut pack = Command::new("sh");
        pack.args(["-c", &tar]).envs(docker.get_envs().filter_map(|(key, value)| Some((key, value?))));
        run(&mut pack);
    }

    pub(super) fn settings(&self) -> PathBuf {
        let path = self.dir.path().join("agent.toml");
        let text = format!(
            "sample_interval_ms = 500\nblock_interval_ms = 1000\nearly_block_ms = 300\n[log]\npoll_interval_ms = 200\n[engine]\nsocket = \"{0}/sock\"\ndata_root = \"{0}/data\"\n",
            self.dir.path().display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ids = self.docker().args(["ps", "-aq"]).output().map(|output| output.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&ids).split_whitespace() {
            let _ = self.docker().args(["rm", "-f", id]).output();
        }
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

pub(super) struct Agent(pub(super) Child);

impl Agent {
    fn start(engine: &Engine, server: &Server, data_dir: &Path) -> Self {
        Self::start_with(&engine.settings(), server, data_dir)
    }

    pub(super) fn start_with(settings: &Path, server: &Server, data_dir: &Path) -> Self {
        let mut command = Command::new(AGENT);
        command.arg("run").arg("--config").arg(settings).arg("--data-dir").arg(data_dir);
        Self(command.args(["--server", &server.url, "--token", &server.token]).spawn().unwrap())
    }

    pub(super) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn stop(&mut self) {
        run(Command::new("kill").args(["-TERM", &self.0.id().to_string()]));
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A filesystem of its own on a loop device.
struct LoopDisk(tempfile::TempDir);

impl LoopDisk {
    fn mount() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let image = disk.0.path().join("disk.img");
        std::fs::create_dir_all(disk.point()).unwrap();
        std::fs::File::create(&image).unwrap().set_len(20 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([image, disk.point()]));
        disk
    }

    fn point(&self) -> PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.point()).status();
    }
}

#[test]
fn containers_are_discovered_sampled_followed_and_counted_once_through_kills_and_an_outage() {
    let (engine, server, data) = (Engine::start(), Server::start(), tempfile::tempdir().unwrap());
    engine.import_image();
    engine.start_container("old", &[], "echo 'OutOfMemoryError of yesterday'; sleep 600");
    engine.start_container("stream", &["--log-driver=local"], "sleep 2; while :; do echo tick; sleep 1; done");
    let mut agent = Agent::start(&engine, &server, data.path());
    until("the first series of a container", || {
        server.see(|kept| (!kept.series("old", "running", "").is_empty()).then_some(()))
    });

    let labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=db"];
    let limits = ["-m", "64m", "--cpus", "0.5", "--restart=on-failure:1"];
    let script = "echo first; echo '数据库连接超时 password=hunter2 <x>'; echo after; sleep 2; exit 3";
    engine.start_container("db", &[&labels[..], &limits[..]].concat(), script);
    let hit = until("the keyword hit", || {
        server.see(|kept| {
            let hits = kept.blocks.values().flat_map(|block| &block.urgent.hits);
            hits.filter(|hit| hit.rule == "database_timeout").find(|hit| !hit.samples.is_empty()).cloned()
        })
    });
    assert_eq!(hit.samples[0].line, "数据库连接超时 password=*** <x>");
    assert_eq!(hit.samples[0].before, ["first"]);
    until("the second end of the container", || {
        server.see(|kept| {
            (kept.events("shop/db").iter().filter(|event| **event == (EventKind::Die, 3)).count() == 2).then_some(())
        })
    });

    // The limit is lowered for a user namespace of its own, not for the machine.
    let check = |watches: u32| {
        let script =
            format!("echo {watches} > /proc/sys/user/max_inotify_watches && exec {AGENT} check --config \"$0\"");
        run(Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", &script]).arg(engine.settings()))
    };
    let blind = "MISSING  notices for 1 of 2 log files, these are looked at every 200 ms: fs.inotify.max_user_watches";
    // Two watches a file: what is written to it, and that it rotates.
    assert!(check(3).contains(blind), "{}", check(3));
    assert!(check(9).contains("2 log files, the kernel tells when they are written to"), "{}", check(9));

    let health = ["--health-cmd", "exit 1", "--health-interval", "1s", "--health-retries", "1"];
    engine.start_container("sick", &health, "sleep 600");
    engine.start_container("greedy", &["-m", "8m"], "tail /dev/zero");
    until("the OOM kill", || {
        server.see(|kept| {
            let events = kept.events("greedy");
            (events.contains(&(EventKind::Oom, 0)) && events.contains(&(EventKind::Die, 137))).then_some(())
        })
    });
    until("the failing health check", || {
        server.see(|kept| kept.events("sick").contains(&(EventKind::Health, 2)).then_some(()))
    });

    // A writer of exactly 3000 lines, while the agent is killed, the server is away, and the log goes on.
    let writer = "i=0; while [ $i -lt 3000 ]; do echo \"line $i: No space left on device\"; i=$((i+1)); [ $((i % 10)) = 0 ] && sleep 0.02; done; sleep 600";
    engine.start_container("writer", &[], writer);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(1300));
        agent.kill();
        agent = Agent::start(&engine, &server, data.path());
    }
    server.status.store(500, Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(2));
    agent.kill();
    agent = Agent::start(&engine, &server, data.path());
    std::thread::sleep(Duration::from_secs(2));
    server.status.store(200, Ordering::Relaxed);
    engine.start_container("short", &[], "exit 7");
    run(engine.docker().args(["stop", "-t", "0", "old"]));
    until("the events of the end", || {
        server.see(|kept| (!kept.events("old").is_empty() && kept.events("short").len() >= 2).then_some(()))
    });
    until("all lines", || server.see(|kept| (kept.sum("writer", "log_lines", "") >= 3000.0).then_some(())));
    run(engine.docker().args(["rm", "-f", "writer"]));
    std::thread::sleep(Duration::from_secs(2));
    agent.stop();

    server.see(|kept| {
        // Stored exactly once: `series` refuses two values at one tick, the sums are those of what was written.
        assert_eq!(kept.sum("writer", "log_lines", ""), 3000.0);
        assert_eq!(kept.sum("writer", "log_hits", "disk_full"), 3000.0);
        assert_eq!(kept.sum("old", "log_lines", ""), 0.0, "the past of a log is no news");
        assert_eq!(kept.sum("shop/db", "log_lines", ""), 6.0, "two runs of three lines");
        assert_eq!(kept.sum("shop/db", "restarts", ""), 1.0);
        assert!(kept.sum("stream", "log_lines", "") > 3.0, "a log without a file comes through the engine");
        // One Stop for each signal of `docker stop`, all before the end.
        assert_eq!(kept.events("old").first(), Some(&(EventKind::Stop, 0)));
        assert_eq!(kept.events("old").last(), Some(&(EventKind::Die, 137)));
        assert!(
            kept.events("short").starts_with(&[(EventKind::Start, 0), (EventKind::Die, 7)]),
            "{:?}",
            kept.events("short")
        );
        let limit = kept.series("shop/db", "mem_limit_bytes", "");
        assert!(limit.values().any(|bytes| *bytes == f64::from(64 << 20)), "{limit:?}");
        assert_eq!(kept.series("sick", "health", "").values().last(), Some(&2.0));
        let exit = kept.series("shop/db", "exit_code", "");
        assert_eq!(exit.values().last(), Some(&3.0));
        let cores = kept.series("writer", "cpu_used_cores", "");
        assert!(cores.values().any(|cores| *cores > 0.0), "{cores:?}");
    });
    let waiting = run(Command::new(AGENT).args(["spool", "--data-dir"]).arg(data.path()));
    assert_eq!(waiting.trim(), "0 blocks wait");
}

fn values(json: &str) -> HashMap<(String, String), Option<f64>> {
    let value: Value = serde_json::from_str(json).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let series = value["series"].as_array().unwrap().iter();
    series.map(|one| ((text(one, "metric"), text(one, "instance")), one["value"].as_f64())).collect()
}

#[test]
fn in_its_own_container_it_reports_the_host_and_cannot_write_to_it() {
    // Mounted first: the engine has a mount namespace of its own.
    let disk = LoopDisk::mount();
    let engine = Engine::start();
    engine.import_image();
    engine.start_container("seen", &[], "echo hello; sleep 600");
    std::fs::write(disk.point().join("ballast"), vec![1; 5 << 20]).unwrap();
    let inside = |arguments: &[&str]| {
        let mut command = engine.docker();
        // As the documentation says: no root, one capability, which only reads.
        command.args(["run", "--rm", "--network", "none", "--user", "65534:65534", "--cap-drop", "ALL"]);
        command.args(["--cap-add", "DAC_READ_SEARCH", "-v", "/:/host:ro,rslave", "base:1"]).args(arguments);
        command
    };
    let there = values(&run(&mut inside(&["/forewarn-agent", "once", "--json", "--host-root", "/host"])));
    let here = values(&run(Command::new(AGENT).args(["once", "--json"])));
    let host_only = |map: &HashMap<(String, String), Option<f64>>| {
        let mut names: Vec<_> =
            map.keys().filter(|(metric, _)| !matches!(metric.as_str(), "running" | "restarts")).cloned().collect();
        names.sort();
        names
    };
    assert_eq!(host_only(&there), host_only(&here), "the same series, inside and outside");
    // As its systemd unit runs it: an account of its own, the same one capability.
    let bare = tempfile::tempdir().unwrap();
    run(Command::new("chmod").arg("755").arg(bare.path()));
    let agent = bare.path().join("forewarn-agent");
    std::fs::copy(AGENT, &agent).unwrap();
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        unprivileged.arg(format!("--{set}=-all,+dac_read_search"));
    }
    let own = values(&run(unprivileged.arg(&agent).args(["once", "--json"])));
    assert_eq!(host_only(&own), host_only(&here), "the same series, as root and as nobody");

    let point = disk.point().display().to_string();
    let df = run(Command::new("df").args(["-B1", "--output=size,used,avail", &point]));
    let df: Vec<f64> = df.lines().nth(1).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
    let get = |metric: &str, instance: &str| there[&(metric.to_owned(), instance.to_owned())].unwrap();
    assert_eq!(get("fs_total_bytes", &point), df[0]);
    assert_eq!(get("fs_used_bytes", &point), df[1]);
    assert!((get("fs_used_ratio", &point) - df[1] / (df[1] + df[2])).abs() < 1e-9);
    let free = run(Command::new("free").arg("-b"));
    let total: f64 = free.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(get("mem_total_bytes", ""), total);
    assert_eq!(get("cpu_count", ""), here[&("cpu_count".to_owned(), String::new())].unwrap());

    for target in [disk.point().join("written"), engine.dir.path().join("written"), PathBuf::from("/etc/written")] {
        let path = format!("/host{}", target.display());
        let output = inside(&["/bin/busybox", "touch", &path]).output().unwrap();
        assert!(!output.status.success() && !target.exists(), "{path} was written");
    }
    let file = disk.point().join("root-only");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().uid(), 0);

    // Without the socket, from the engine's state files: names, state and logs are still there.
    let settings = format!(
        "host_root = \"/host\"\n[engine]\nsocket = \"\"\ndata_root = \"{}/data\"\n",
        engine.dir.path().display()
    );
    std::fs::write(engine.dir.path().join("inside.toml"), settings).unwrap();
    let config = format!("/host{}/inside.toml", engine.dir.path().display());
    run(Command::new("chmod").arg("755").arg(engine.dir.path()));
    let page = run(&mut inside(&["/forewarn-agent", "check", "--config", &config, "--data-dir", "/tmp/data"]));
    assert!(page.contains("ok       state files of the engine"), "{page}");
    assert!(page.contains("ok       log of seen from /host"), "{page}");
    assert!(page.contains("MISSING  this host is not enrolled"), "{page}");
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let refuse = |arguments: &[&str], words: &[&str]| {
        let output = Command::new(AGENT).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?} went well");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: {text} lacks {word}");
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    refuse(&["run", "--data-dir", &at("d"), "--server", "https://127.0.0.1:1"], &["not enrolled", "--token"]);
    refuse(&["run", "--data-dir", &at("d"), "--server", "http://127.0.0.1:1"], &["server.urls", "https://"]);
    refuse(
        &["run", "--data-dir", &at("d"), "--server", "https://127.0.0.1:1", "--token", "x"],
        &["token is malformed"],
    );
    let token = EnrollToken { secret: "s".to_owned(), ca_sha256: "ab".repeat(32) }.encode();
    refuse(&["run", "--data-dir", &at("d"), "--token", &token], &["no server is named"]);
    refuse(
        &["run", "--data-dir", &at("d"), "--server", "https://127.0.0.1:1", "--token", &token],
        &["cannot be reached"],
    );
    std::fs::write(at("agent.toml"), "sample_interval = 5\n").unwrap();
    refuse(
        &["run", "--config", &at("agent.toml")],
        &["agent.toml", "unknown field `sample_interval`", "`sample_interval_ms`"],
    );

    let server = Server::start();
    std::fs::write(at("file"), "").unwrap();
    let below = format!("{}/d", at("file"));
    let enrol = ["--server", server.url.as_str(), "--token", server.token.as_str()];
    refuse(&[&["run", "--data-dir", &below], &enrol[..]].concat(), &["cannot use", "identity.json", "Not a directory"]);
}
