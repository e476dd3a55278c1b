//! What the agent does when a server takes no block: against a TLS server that answers by a script and remembers when
//! it was asked. Needs no container engine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarn_common::block::{Block, Layout};
use forewarn_common::id::LayoutId;
use forewarn_common::wire::TrustBundle;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;

const AGENT: &str = env!("CARGO_BIN_EXE_forewarn-agent");
const SITE: &str = "site.forewarn.internal";
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
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let site = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![SITE.to_owned()]).unwrap().signed_by(&key, &site).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let trust = TrustBundle { version: 1, site_name: SITE.to_owned(), ca_pem: vec![site.pem()] };
        let pushes = Arc::<Mutex<Vec<Push>>>::default();
        let (config, answer, seen) = (Arc::new(config), Arc::new(answer), Arc::clone(&pushes));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = rustls::StreamOwned::new(connection, socket.unwrap());
                std::thread::spawn(move || drop(talk(BufReader::new(stream), &seen, &*answer)));
            }
        });
        Self { url, trust, pushes }
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

    fn check(&self) -> String {
        let output =
            Command::new(AGENT).arg("check").arg("--config").arg(self.folder.path().join("agent.toml")).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
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
    let page = agent.check();
    let waiting = page.lines().find_map(|line| line.strip_suffix(" blocks wait")?.rsplit(' ').next()?.parse().ok());
    assert!(waiting.is_some_and(|count: u32| count >= 10), "blocks are kept: {page}");
    assert!(page.contains("the server does not accept this host's key; enrol it again"), "{page}");
}
