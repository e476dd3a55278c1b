//! The agent inside its own container: it sees the host, not the container, and cannot write to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use forewarn_tests::database::Store;
use forewarn_tests::engine::{BUSYBOX, Engine};
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::folder::Folder;
use forewarn_tests::process::run;
use forewarn_tests::program::program;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{repository, wait_until};
use serde_json::Value;

use super::site::{AGENT, SERVER, SOON, Series, live_host};

/// What the installer gives an agent's container: the host, read-only, and one right, to read past permissions.
const GUARDED: &[&str] = &[
    "-v",
    "/:/host:ro,rslave",
    "--cap-drop",
    "ALL",
    "--cap-add",
    "DAC_READ_SEARCH",
    "--read-only",
    "--network",
    "host",
];

/// The newest value of a metric of the host itself, by instance.
fn newest(session: &Session, detail: &Value, metric: &str, instance: &str) -> f64 {
    let host = detail["summary"]["id"].as_str().unwrap();
    let own = |s: &&Value| s["entity_kind"] == "host" && s["metric"] == metric && s["instance"] == instance;
    let series = detail["series"].as_array().unwrap().iter().find(own);
    let entity = series.unwrap_or_else(|| panic!("no {metric} of {instance:?}"))["entity"].as_str().unwrap();
    let series = Series { host, entity, metric, instance };
    wait_until(metric, SOON, || series.last(session)).unwrap()
}

/// The instances of a metric of the host itself.
fn instances(detail: &Value, metric: &str) -> BTreeSet<String> {
    let own = |s: &&Value| s["entity_kind"] == "host" && s["metric"] == metric;
    let all = detail["series"].as_array().unwrap().iter().filter(own);
    all.map(|s| s["instance"].as_str().unwrap().to_owned()).collect()
}

fn meminfo(key: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
}

/// Size and used share of a filesystem as `df` says it.
fn df(path: &Path) -> (f64, f64) {
    let text = run(Command::new("df").args(["-B1", "--output=size,used,avail"]).arg(path)).unwrap();
    let numbers: Vec<f64> = text.lines().nth(1).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
    (numbers[0], numbers[1] / (numbers[1] + numbers[2]))
}

#[test]
fn agent_in_its_container_reports_the_host_and_cannot_write_to_it() {
    let engine = Engine::start().unwrap();
    let mut images = Command::new(repository().join("packaging/images.sh"));
    engine.point(images.arg("agent"));
    run(images.env("FOREWARN_BIN", program("forewarn-agent").unwrap().parent().unwrap())).unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    let small = SmallFilesystem::new(48).unwrap();
    std::fs::write(small.path().join("some"), vec![1; 20 << 20]).unwrap();
    run(&mut Command::new("sync")).unwrap();

    // Settings and token come in as files; the socket's group is handed over as the installer does.
    let folder = Folder::new("etc").unwrap();
    let settings = format!(
        "hostname = \"\"\n{AGENT}\n[server]\nurls = [\"{}\"]\n[engine]\nsocket = \"{}\"\ndata_root = \"{}\"\n",
        server.agent_url("127.0.0.1"),
        engine.socket().display(),
        engine.data_folder().display()
    );
    let file = folder.write("agent.toml", settings).unwrap();
    let token = folder.write("token", std::fs::read(server.token_file()).unwrap()).unwrap();
    for file in [&file, &token] {
        run(Command::new("chmod").arg("644").arg(file)).unwrap();
    }
    run(Command::new("chmod").arg("755").arg(folder.path())).unwrap();
    let group = run(Command::new("stat").args(["-c", "%g"]).arg(engine.socket())).unwrap();
    let (file, token) = (format!("{}:/agent.toml:ro", file.display()), format!("{}:/token:ro", token.display()));
    let mut arguments =
        vec!["run", "-d", "--name", "forewarn-agent", "--group-add", group.trim(), "-v", "agent-data:/data"];
    arguments.extend(["-v", &file, "-v", &token]);
    arguments.extend(GUARDED);
    arguments.extend(["forewarn-agent:latest", "run", "--config", "/agent.toml", "--data-dir", "/data"]);
    arguments.extend(["--host-root", "/host", "--enroll-file", "/token"]);
    engine.docker(&arguments).unwrap();
    let live = live_host(&session);
    if live.is_err() {
        eprintln!("{}", run(engine.docker_command().args(["logs", "forewarn-agent"])).unwrap_or_default());
    }
    let host = live.unwrap();

    // The host's values, as the host's own tools say them.
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(host["name"], hostname.trim());
    let path = format!("/api/v1/hosts/{}", host["id"].as_str().unwrap());
    let small_at = small.path().display().to_string();
    let detail = session
        .wait_for(&path, "the small filesystem", SOON, |detail| {
            instances(detail, "fs_used_ratio").contains(&small_at).then(|| detail.clone())
        })
        .unwrap();
    assert_eq!(newest(&session, &detail, "mem_total_bytes", ""), meminfo("MemTotal"));
    let available = newest(&session, &detail, "mem_available_bytes", "");
    assert!((available - meminfo("MemAvailable")).abs() < meminfo("MemTotal") * 0.05, "{available}");
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(newest(&session, &detail, "cpu_count", "") as usize, cores);
    for place in [small.path(), Path::new("/")] {
        let (size, ratio) = df(place);
        let at = place.display().to_string();
        assert_eq!(newest(&session, &detail, "fs_total_bytes", &at), size, "{at}");
        let seen = newest(&session, &detail, "fs_used_ratio", &at);
        assert!((seen - ratio).abs() < 0.01, "{at}: the agent says {seen}, df {ratio}");
    }
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime_s: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let seen_s = newest(&session, &detail, "uptime_ms", "") / 1000.0;
    // It is told in whole seconds, rounded.
    assert!((-0.6..20.0).contains(&(uptime_s - seen_s)), "{uptime_s} {seen_s}");
    let links: BTreeSet<String> =
        std::fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let seen = session.wait_for(&path, "the host's interfaces", SOON, |detail| {
        let seen = instances(detail, "net_rx_bytes");
        (!seen.is_empty()).then_some(seen)
    });
    let seen = seen.unwrap();
    assert!(seen.is_subset(&links), "{seen:?} of {links:?}");
    // No filesystem twice, and none of the container's own.
    let mounts = instances(&detail, "fs_used_ratio");
    assert!(!mounts.iter().any(|m| m.starts_with("/host") || m == "/data" || m == "/agent.toml"), "{mounts:?}");
    // And it sees the host's containers: itself.
    let has_itself =
        |detail: &Value| detail["workloads"].as_array()?.iter().find(|w| w["name"] == "forewarn-agent").map(|_| ());
    session.wait_for(&path, "the agent's own container", SOON, has_itself).unwrap();

    // Nobody with the agent's user and rights can write to the host: not to its root, not to a
    // filesystem mounted below it.
    let user = engine.docker(&["inspect", "-f", "{{.Config.User}}", "forewarn-agent"]).unwrap();
    run(Command::new("chmod").arg("755").arg(small.path())).unwrap();
    let write = |at: &str| {
        let mut arguments = vec!["run", "--rm", "--user", &user];
        arguments.extend(GUARDED);
        let script = format!("cat /host{small_at}/some >/dev/null && touch /host{at}/written");
        arguments.extend([BUSYBOX, "/bin/sh", "-c", &script]);
        engine.docker(&arguments).unwrap_err().to_string()
    };
    for at in ["", "/tmp", &small_at] {
        let said = write(at);
        assert!(said.contains("Read-only file system") || said.contains("Permission denied"), "{at}: {said}");
        assert!(!Path::new(&format!("{at}/written")).exists());
    }
}
