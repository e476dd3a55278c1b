//! What people are given: static programs, images with nothing else in them, one command to try it,
//! and a bundle that installs on a host without a way out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forewarn_tests::engine::Engine;
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::folder::Folder;
use forewarn_tests::network::Namespace;
use forewarn_tests::process::{Process, run};
use forewarn_tests::program::program;
use forewarn_tests::server::password_in;
use forewarn_tests::{repository, wait_until};
use rustix::process::Signal;

/// A first start: migrations, CA, enrolment, first block.
const FIRST_START: Duration = Duration::from_secs(90);

/// The release's own limits on what is shipped.
const AGENT_BYTES_MAX: u64 = 6_000_000;
const SERVER_BYTES_MAX: u64 = 60 << 20;

const CONSOLE: &str = "http://127.0.0.1:8440";

#[test]
fn programs_are_static_and_small() {
    for (name, bytes_max) in [("forewarn-agent", AGENT_BYTES_MAX), ("forewarn-server", SERVER_BYTES_MAX)] {
        let path = program(name).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes[..4096].windows(8).any(|w| w == b"ld-linux"), "{name} asks for a dynamic loader");
        assert!(bytes.len() as u64 <= bytes_max, "{name} has {} bytes", bytes.len());
        assert!(run(Command::new(path).arg("--version")).unwrap().contains(env!("CARGO_PKG_VERSION")));
    }
}

/// Asks an address on a host of its own; the answer has its headers before the body.
fn ask(host: &Namespace, path: &str, headers: &[&str], body: Option<&str>) -> anyhow::Result<String> {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--include", "--noproxy", "*", "--max-time", "5"]);
    for header in headers {
        curl.args(["--header", header]);
    }
    if let Some(body) = body {
        curl.args(["--header", "content-type: application/json", "--data", body]);
    }
    run(curl.arg(format!("{CONSOLE}{path}")))
}

/// Logs in on a host of its own and waits until the overview lists a host that has sent samples.
fn wait_for_live_host(host: &Namespace, password: &str) -> anyhow::Result<()> {
    let login = format!(r#"{{"user":"admin","password":"{password}"}}"#);
    let answer = ask(host, "/api/v1/login", &[], Some(&login))?;
    let cookie = answer.lines().find_map(|line| {
        let (name, value) = line.trim().split_once(':')?;
        name.eq_ignore_ascii_case("set-cookie").then(|| value.trim().split(';').next().unwrap_or_default().to_owned())
    });
    let cookie = format!("cookie: {}", cookie.ok_or_else(|| anyhow::anyhow!("no cookie in {answer}"))?);
    wait_until("a host with live samples", FIRST_START, || {
        let answer = ask(host, "/api/v1/overview", &[&cookie], None)?;
        let json = answer.find('{').map(|at| serde_json::from_str::<serde_json::Value>(&answer[at..])).transpose()?;
        let used = json.and_then(|json| json.pointer("/hosts/0/mem_used_ratio").and_then(serde_json::Value::as_f64));
        Ok(used.filter(|ratio| (0.0..=1.0).contains(ratio)).map(|_| ()))
    })
}

#[test]
fn make_run_starts_both_stops_both_and_continues() {
    let host = Namespace::new().unwrap();
    let folder = Folder::new("run").unwrap();
    let start = |log: &str| {
        let mut script = host.command(repository().join("packaging/run-local.sh"));
        script
            .env("FOREWARN_DATA", folder.join("data"))
            .env("FOREWARN_BIN", program("forewarn-server").unwrap().parent().unwrap());
        Process::start("run-local.sh", &script, &folder.join(log)).unwrap()
    };

    let mut first = start("first.log");
    first.wait_for_output("login", FIRST_START).unwrap();
    let said = first.log_text();
    assert!(said.contains(CONSOLE), "{said}");
    let password = password_in(&said).unwrap();
    wait_for_live_host(&host, &password).unwrap();
    let ours = programs_with(&folder.join("data"));
    assert_eq!(ours.len(), 2, "{ours:?}");
    first.signal(Signal::INT).unwrap();
    wait_until("the end of both programs", FIRST_START, || {
        Ok((!first.is_running() && programs_with(&folder.join("data")).is_empty()).then_some(()))
    })
    .unwrap();

    let mut second = start("second.log");
    second.wait_for_output(CONSOLE, FIRST_START).unwrap();
    wait_for_live_host(&host, &password).unwrap();
    assert_eq!(password_in(&second.log_text()), None, "the password is shown once");
    second.stop().unwrap();
    assert_eq!(programs_with(&folder.join("data")), Vec::<String>::new());
}

/// Command lines of our programs that name a folder.
fn programs_with(folder: &Path) -> Vec<String> {
    let needle = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&needle) && !line.contains("run-local.sh")).collect()
}

/// Makes the bundle with one engine and unpacks it.
fn unpacked_bundle(folder: &Folder) -> PathBuf {
    let engine = Engine::start().unwrap();
    let mut bundle = Command::new(repository().join("packaging/bundle.sh"));
    engine.point(bundle.arg(folder.join("made")));
    bundle.env("FOREWARN_BIN", program("forewarn-server").unwrap().parent().unwrap());
    run(&mut bundle).unwrap();
    let archive = std::fs::read_dir(folder.join("made")).unwrap().flatten().next().unwrap().path();
    run(Command::new("tar").arg("-C").arg(folder.path()).arg("-xzf").arg(archive)).unwrap();
    let entries = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.join("install.sh").is_file()).unwrap()
}

#[test]
fn bundle_installs_on_a_host_without_a_way_out() {
    let folder = Folder::new("bundle").unwrap();
    let bundle = unpacked_bundle(&folder);
    let host = Namespace::new().unwrap();
    assert_eq!(run(host.command("ip").args(["route"])).unwrap(), "", "the host must have no route at all");

    let engine = Engine::start_in(&host).unwrap();
    let mut install = host.command(bundle.join("install.sh"));
    engine.point(install.arg("both"));
    run(&mut install).unwrap();
    let password = wait_until("the server's first words", FIRST_START, || {
        let log = engine.docker(&["logs", "forewarn-server"])?;
        anyhow::ensure!(engine.docker(&["inspect", "-f", "{{.RestartCount}}", "forewarn-server"])? == "0", "{log}");
        Ok(password_in(&log))
    });
    let live = wait_for_live_host(&host, &password.unwrap());
    if live.is_err() {
        for name in ["forewarn-server", "forewarn-agent"] {
            eprintln!("{name}:\n{}", run(engine.docker_command().args(["logs", name])).unwrap_or_default());
        }
    }
    live.unwrap();

    // Owner and group before the size; the engine itself adds empty files.
    let is_empty = |line: &str| line.split_whitespace().nth(2) == Some("0");
    // The images hold one program each, and the server is not root.
    for name in ["forewarn-server", "forewarn-agent"] {
        let listing = folder.join(&format!("{name}.tar"));
        engine.docker(&["export", "-o", listing.to_str().unwrap(), name]).unwrap();
        let files = run(Command::new("tar").arg("-tvf").arg(&listing)).unwrap();
        let files: Vec<&str> = files.lines().filter(|line| line.starts_with('-') && !is_empty(line)).collect();
        assert!(files.len() == 1 && files[0].ends_with(name), "{files:?}");
    }
    assert_eq!(engine.docker(&["inspect", "-f", "{{.Config.User}}", "forewarn-server"]).unwrap(), "10001:10001");
    agent_can_read_and_not_write(&engine);
}

/// The agent's process may pass by read permissions (capability 2) and nothing else. Docker's `ro`
/// covers the root mount only, so what keeps a mount below it unwritten is who the agent is.
fn agent_can_read_and_not_write(engine: &Engine) {
    let small = SmallFilesystem::new(8).unwrap();
    std::fs::write(small.path().join("file"), "kept").unwrap();
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "forewarn-agent"]).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(name), ["0000000000000004"], "{name}");
    }
    let (user, group) = (field("Uid:")[1].clone(), field("Gid:")[1].clone());
    assert_ne!(user, "0", "root would write to what root owns, capability or not");

    // As that user, inside the agent's mounts: the program is the host's own static busybox.
    let attempt = |script: &str| {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-S", &user, "-G", &group, "--"]);
        run(command.args(["/host/bin/busybox", "sh", "-c", script]))
    };
    let below = format!("/host{}", small.path().display());
    assert!(attempt("id -u").unwrap().trim() == user);
    wait_until("the new mount to appear inside", FIRST_START, || {
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        Ok(mounts.contains(&below).then_some(()))
    })
    .unwrap();
    for script in [format!("echo x >{below}/new"), format!("echo x >>{below}/file"), format!("rm {below}/file")] {
        let refused = format!("{:#}", attempt(&script).unwrap_err());
        assert!(refused.contains("ermission denied"), "{script}: {refused}");
    }
    let refused = format!("{:#}", attempt("echo x >/host/tmp/new").unwrap_err());
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(std::fs::read_to_string(small.path().join("file")).unwrap(), "kept");
}

#[test]
fn damaged_bundle_is_refused() {
    let folder = Folder::new("damaged").unwrap();
    let bundle = unpacked_bundle(&folder);
    let images = bundle.join("images.tar");
    let mut bytes = std::fs::read(&images).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&images, bytes).unwrap();
    let refused = run(Command::new(bundle.join("install.sh")).arg("load")).unwrap_err();
    assert!(format!("{refused:#}").contains("the bundle is damaged"), "{refused:#}");
}
