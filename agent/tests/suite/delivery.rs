//! What the agent does when a server takes no block: against a TLS server that answers by a script and remembers when
//! it was asked. Needs no container engine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarn_common::block::{Block, Layout};
use forewarn_common::id::LayoutId;
use forewarn_common::wire::TrustBundle;

use super::site::Site;

const AGENT: &str = env!("CARGO_BIN_EXE_forewarn-agent");
const PATIENCE: Duration = Duration::from_secs(20);

/// A push: when it came, what it was answered, and the block.
type Push = (Instant, u16, Block);

/// Answers the n-th push as `answer` says: a status and further headers.
struct Server {
    url: String,
    trust: TrustBundle,
    pushes: Arc<Mutex<Vec<Push>>>,
}

impl Server {
    fn start(answer: impl Fn(usize) -> (u16, &'static str) + Send + Sync + 'static) -> Self {
        let pushes = Arc::<Mutex<Vec<Push>>>::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&pushes));
        let site = Site::new();
        let url = site.listen(move |stream| talk(BufReader::new(stream), &seen, &*answer));
        Self { url, trust: site.trust, pushes }
    }

    fn statuses(&self) -> Vec<u16> {
        self.pushes.lock().unwrap().iter().map(|(_, status, _)| *status).collect()
    }
}

fn talk(
    mut stream: BufReader<impl Read + Write>,
    seen: &Mutex<Vec<Push>>,
    answer: &dyn Fn(usize) -> (u16, &'static str),
) -> std::io::Result<()> {
    let mut layouts: HashMap<LayoutId, Layout> = HashMap::new();
    loop {
        let (mut line, mut length, mut is_push) = (String::new(), 0, false);
        while !line.ends_with("\r\n\r\n") {
            let start = line.len();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let last = line[start..].to_ascii_lowercase();
            is_push |= last.starts_with("post ");
            if let Some(value) = last.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let (status, head) = if is_push {
            let (block, _) = Block::decode(&body, |id| layouts.get(&id).cloned()).unwrap();
            layouts.extend(block.dictionary.layouts.iter().map(|layout| (layout.id(), layout.clone())));
            let mut seen = seen.lock().unwrap();
            let (status, head) = answer(seen.len());
            seen.push((Instant::now(), status, block));
            (status, head)
        } else {
            answer(usize::MAX)
        };
        let body = if status == 200 { "{}" } else { r#"{"error":"said","detail":"by the script"}"# };
        write!(stream.get_mut(), "HTTP/1.1 {status} X\r\n{head}content-length: {}\r\n\r\n{body}", body.len())?;
        stream.get_mut().flush()?;
    }
}

/// An agent that makes a block every 400 ms, enrolled by hand.
struct Agent {
    folder: tempfile::TempDir,
    child: Child,
}

impl Agent {
    fn start(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| -> PathBuf { folder.path().join(name) };
        let identity =
            serde_json::json!({ "host": "00112233445566778899aabbccddeeff", "key": "00", "trust": server.trust });
        std::fs::write(at("identity.json"), identity.to_string()).unwrap();
        let text = format!(
            "data_dir = '{0}'\nsample_interval_ms = 200\nblock_interval_ms = 400\n[server]\nurls = ['{1}']\n\
             [engine]\nsocket = ''\ndata_root = '{0}'\n",
            folder.path().display(),
            server.url
        );
        std::fs::write(at("agent.toml"), text).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = Command::new(AGENT);
        command.arg("run").arg("--config").arg(at("agent.toml")).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        Self { folder, child }
    }

    fn wait_for_log(&self, text: &str) {
        until(&format!("{text:?} in the log"), || {
            std::fs::read_to_string(self.folder.path().join("log")).unwrap().contains(text)
        });
    }

    fn ask(&self, command: &str) -> String {
        let output =
            Command::new(AGENT).arg(command).arg("--config").arg(self.folder.path().join("agent.toml")).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }

    fn stop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.unwrap().success() && self.child.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_server_that_asks_for_patience_is_left_alone_as_long_as_it_asked_and_then_gets_everything() {
    let server = Server::start(|push| if push == 1 { (429, "retry-after: 3\r\n") } else { (200, "") });
    let agent = Agent::start(&server);
    agent.wait_for_log("the server asks for patience");
    until("the block of the refusal, behind the newer ones", || {
        let pushes = server.pushes.lock().unwrap();
        pushes.iter().skip(2).any(|push| push.2.header.seq == pushes[1].2.header.seq)
    });
    let pushes = server.pushes.lock().unwrap();
    let pause = pushes[2].0 - pushes[1].0;
    assert!(pause >= Duration::from_secs(3) && pause < Duration::from_secs(9), "{pause:?}");
}

#[test]
fn a_block_that_is_too_large_for_the_server_is_dropped_and_counted_and_the_next_one_goes_on() {
    let server = Server::start(|push| if push == 1 { (413, "") } else { (200, "") });
    let agent = Agent::start(&server);
    agent.wait_for_log("the server refused a block for good, it is dropped and counted");
    until("blocks after it", || server.statuses().len() >= 8);
    let pushes = server.pushes.lock().unwrap();
    let refused = pushes[1].2.header.seq;
    assert!(pushes[2..].iter().all(|push| push.2.header.seq != refused), "it is not sent again");
    let dropped = |block: &Block| -> f64 {
        let shape = |name: &str| {
            pushes.iter().flat_map(|push| &push.2.dictionary.layouts).find_map(|layout| {
                let column = layout.metrics.iter().position(|metric| metric.name == name)?;
                Some((layout.id(), column))
            })
        };
        let (layout, column) = shape("agent_dropped_blocks").unwrap();
        let groups = block.groups.iter().filter(|group| group.layout == layout);
        groups.flat_map(|group| &group.columns[column]).filter(|value| !value.is_nan()).sum()
    };
    assert_eq!(pushes.iter().map(|push| dropped(&push.2)).sum::<f64>(), 1.0);
}

#[test]
fn a_server_that_does_not_know_the_key_is_asked_seldom_and_the_log_and_check_say_what_to_do() {
    let server = Server::start(|_| (401, ""));
    let agent = Agent::start(&server);
    agent.wait_for_log("does not accept this host's key; blocks are kept; enrol it again");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(server.statuses(), [401], "half a minute at least between two tries, whatever is made meanwhile");
    let page = agent.ask("check");
    let waiting = page.lines().find_map(|line| line.strip_suffix(" blocks wait")?.rsplit(' ').next()?.parse().ok());
    assert!(waiting.is_some_and(|count: u32| count >= 10), "blocks are kept: {page}");
    assert!(page.contains("the server does not accept this host's key; enrol it again"), "{page}");
}

#[test]
fn an_agent_that_stops_hands_over_all_that_waits_and_the_push_that_the_stop_broke_off() {
    const SLOW: Duration = Duration::from_millis(1500);
    let slow = Arc::new(AtomicBool::new(false));
    let began = Arc::clone(&slow);
    let server = Server::start(move |push| {
        if push == 3 {
            began.store(true, Ordering::Relaxed);
            std::thread::sleep(SLOW);
        }
        (200, "")
    });
    let mut agent = Agent::start(&server);
    until("the slow push", || slow.load(Ordering::Relaxed));
    // Two blocks more are made meanwhile.
    std::thread::sleep(SLOW * 2 / 3);
    agent.stop();
    assert_eq!(agent.ask("spool").lines().last(), Some("0 blocks wait"));
    let mut seqs: Vec<u64> = server.pushes.lock().unwrap().iter().map(|push| push.2.header.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
}
