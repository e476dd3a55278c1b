//! The agent's life from outside: what it tells its service manager, how it takes other settings over, how it looks
//! names up. It is enrolled by hand at a server that cannot be reached, and needs no container engine.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const AGENT: &str = env!("CARGO_BIN_EXE_forewarn-agent");
const PATIENCE: Duration = Duration::from_secs(20);

struct Agent {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let trust =
            serde_json::json!({ "version": 1, "site_name": "site.forewarn.internal", "ca_pem": [authority.pem()] });
        let identity = serde_json::json!({ "host": "00112233445566778899aabbccddeeff", "key": "00", "trust": trust });
        std::fs::write(folder.path().join("identity.json"), identity.to_string()).unwrap();
        Self { folder, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Settings with this server and whatever is `more`.
    fn settings(&self, server: &str, more: &str) {
        let text = format!(
            "data_dir = '{0}'\nsample_interval_ms = 200\nblock_interval_ms = 400\n{more}\n\
             [server]\nurls = ['{server}']\n[engine]\nsocket = ''\n\
             data_root = '{0}'\n",
            self.folder.path().display()
        );
        std::fs::write(self.path("agent.toml"), text).unwrap();
    }

    /// Starts `command`, which ends in the agent; what it logs goes to a file.
    fn start(&mut self, mut command: Command) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Blocks in the spool, once there are more than `before`.
    fn more_blocks_than(&self, before: usize) -> usize {
        let begun = Instant::now();
        loop {
            let listed = Command::new(AGENT).arg("spool").arg("--data-dir").arg(self.folder.path()).output().unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let count =
                listed.lines().last().and_then(|line| line.strip_suffix(" blocks wait")?.parse().ok()).unwrap_or(0);
            if count > before {
                return count;
            }
            assert!(begun.elapsed() < PATIENCE, "no more than {before} blocks in the spool:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_log(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Waits until the manager is told `word`, whatever it is told before.
fn hear(manager: &UnixDatagram, word: &str) {
    let (mut room, begun) = ([0; 200], Instant::now());
    loop {
        let len = manager.recv(&mut room).unwrap_or_else(|error| panic!("never told {word}: {error}"));
        if String::from_utf8_lossy(&room[..len]).starts_with(word) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never told {word}");
    }
}

#[test]
fn the_service_manager_is_told_and_a_hang_up_takes_good_settings_over_and_refuses_bad_ones() {
    let mut agent = Agent::new();
    let manager = UnixDatagram::bind(agent.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    agent.settings("https://127.0.0.1:1", "");
    let mut command = Command::new(AGENT);
    command.arg("run").arg("--config").arg(agent.path("agent.toml"));
    command.env("NOTIFY_SOCKET", agent.path("notify")).env("WATCHDOG_USEC", "3000000");
    agent.start(command);
    hear(&manager, "READY=1");
    hear(&manager, "WATCHDOG=1");
    hear(&manager, "WATCHDOG=1");

    agent.settings("https://127.0.0.1:1", "sample_interval_ms_ = 5");
    agent.signal("-HUP");
    hear(&manager, "RELOADING=1");
    hear(&manager, "READY=1");
    agent.wait_for_log("the new settings are refused, the old ones stay");
    assert!(agent.log().contains("unknown field `sample_interval_ms_`"), "{}", agent.log());

    let before = agent.more_blocks_than(0);
    agent.settings("https://127.0.0.1:2", "component = 'plant'");
    agent.signal("-HUP");
    hear(&manager, "RELOADING=1");
    hear(&manager, "READY=1");
    agent.wait_for_log("the settings are taken over");
    agent.wait_for_log("127.0.0.1:2");

    agent.more_blocks_than(before);
    agent.signal("-TERM");
    hear(&manager, "STOPPING=1");
    assert!(agent.child.take().unwrap().wait().unwrap().success());
}

#[test]
fn names_are_looked_up_without_the_name_modules_of_the_host() {
    let mut agent = Agent::new();
    agent.settings("https://forewarn.invalid:8441", "");
    // A module that does not exist: whoever calls getaddrinfo looks for it, and the loader says so.
    std::fs::write(agent.path("nsswitch.conf"), "hosts: forewarntest\n").unwrap();
    std::fs::write(agent.path("resolv.conf"), "nameserver 127.0.0.77\n").unwrap();
    let script = format!(
        "mount --bind '{0}/nsswitch.conf' /etc/nsswitch.conf && mount --bind '{0}/resolv.conf' /etc/resolv.conf && \
         export LD_DEBUG=libs && exec \"$@\"",
        agent.folder.path().display()
    );
    let within = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", &script, "sh"]).args(program);
        command
    };
    let output = within(&["getent", "hosts", "forewarn.invalid"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("libnss_forewarntest"), "the trap does not work here: {said}");

    let config = agent.path("agent.toml");
    agent.start(within(&[AGENT, "run", "--config", config.to_str().unwrap()]));
    agent.wait_for_log("the server cannot be reached");
    assert!(agent.log().contains("about forewarn.invalid"), "{}", agent.log());
    assert!(!agent.log().contains("libnss"), "{}", agent.log());
}
