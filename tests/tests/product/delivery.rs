//! The way of a block to the server: through a real proxy, and past a way that is cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::folder::Folder;
use forewarn_tests::process::Process;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{free_port, now_ms, wait_until};

use super::site::{AGENT, SERVER, SOON, Series, keep_rules, live_host};

/// Passes bytes on from a port of its own to the server's, until it is cut.
struct Relay {
    port: u16,
    passed: Arc<AtomicUsize>,
    is_cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            passed: Arc::default(),
            is_cut: Arc::default(),
            ends: Arc::default(),
        };
        let server = server.trim_start_matches("https://").to_owned();
        let (passed, is_cut, ends) = (Arc::clone(&relay.passed), Arc::clone(&relay.is_cut), Arc::clone(&relay.ends));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok).take_while(|_| !is_cut.load(Ordering::SeqCst)) {
                let Ok(far) = TcpStream::connect(&server) else { continue };
                passed.fetch_add(1, Ordering::SeqCst);
                ends.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    std::thread::spawn(move || {
                        let mut chunk = [0; 16384];
                        while let Ok(got @ 1..) = from.read(&mut chunk) {
                            if to.write_all(&chunk[..got]).is_err() {
                                break;
                            }
                        }
                        _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        // The listener goes with the next caller, which is this one.
        _ = TcpStream::connect(("127.0.0.1", self.port));
        self.ends.lock().unwrap().drain(..).for_each(|end| _ = end.shutdown(Shutdown::Both));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Every second of the host's memory from `from_ms` to `to_ms`, once there is no gap in it.
fn wait_for_every_second(session: &Session, host: &str, from_ms: i64, to_ms: i64) {
    let detail = session.get(&format!("/api/v1/hosts/{host}")).unwrap();
    let own = |s: &&serde_json::Value| s["entity_kind"] == "host" && s["metric"] == "mem_used_bytes";
    let entity = detail["series"].as_array().unwrap().iter().find(own).unwrap()["entity"].as_str().unwrap().to_owned();
    let series = Series { host, entity: &entity, metric: "mem_used_bytes", instance: "" };
    // A busy machine skips a tick now and then; a lost block is three at once.
    let whole = || {
        let times: Vec<i64> = series.points(session, from_ms, to_ms)?.into_iter().map(|point| point.0).collect();
        let gap_ms = [from_ms].iter().chain(&times).zip(times.iter().chain([&to_ms])).map(|(a, b)| b - a).max();
        Ok(gap_ms.is_some_and(|gap_ms| gap_ms < 3000).then_some(()))
    };
    wait_until("every second", SOON, whole).unwrap();
}

#[test]
fn blocks_go_through_a_proxy_and_wait_while_it_is_away() {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let (folder, port) = (Folder::new("proxy").unwrap(), free_port().unwrap());
    let log = folder.join("proxy.log");
    let agents_port = server.agent_url("127.0.0.1").rsplit(':').next().unwrap().to_owned();
    let text = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 20\nLogLevel Connect\nLogFile \"{}\"\nConnectPort {agents_port}\n",
        log.display()
    );
    let file = folder.write("tinyproxy.conf", text).unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(&file);
    let start = || {
        let mut proxy = Process::start("tinyproxy", &command, &folder.join("out.log")).unwrap();
        proxy.wait_until("the proxy", SOON, || Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))).unwrap();
        proxy
    };
    let mut proxy = start();
    let mut agent = Agent::new(&server.agent_url("127.0.0.1"), &server.token_file(), None, AGENT).unwrap();
    agent.change("server.proxy", format!("http://127.0.0.1:{port}"));
    agent.restart().unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("CONNECT 127.0.0.1:{agents_port}")), "enrolled and sent through it: {said}");
    let from_ms = now_ms();
    proxy.kill().unwrap();
    wait_until("the agent to say so", SOON, || {
        Ok(agent.log_text().contains("the server cannot be reached, blocks are kept").then_some(()))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let _proxy = start();
    wait_until("blocks again", SOON, || Ok(agent.log_text().contains("takes blocks again").then_some(()))).unwrap();
    wait_for_every_second(&session, &host, from_ms, now_ms());
}

#[test]
fn blocks_go_to_the_next_server_when_the_first_is_cut_off_and_none_is_lost() {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let url = server.agent_url("127.0.0.1");
    let (first, second) = (Relay::to(&url), Relay::to(&url));
    let mut agent = Agent::new(&url, &server.token_file(), None, AGENT).unwrap();
    let urls = [first.port, second.port].map(|port| format!("https://127.0.0.1:{port}"));
    agent.change("server.urls", urls.to_vec());
    agent.restart().unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let from_ms = now_ms();
    assert!(
        first.passed.load(Ordering::SeqCst) > 0 && second.passed.load(Ordering::SeqCst) == 0,
        "the first comes first"
    );
    std::thread::sleep(Duration::from_secs(4));
    first.cut();
    wait_until("the second way", SOON, || Ok((second.passed.load(Ordering::SeqCst) > 0).then_some(()))).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    wait_for_every_second(&session, &host, from_ms, now_ms());
}
