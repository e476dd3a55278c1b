//! The way to the container engine: a socket proxy that only lets reading through, and an engine that restarts.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::folder::Folder;
use forewarn_tests::server::Server;
use forewarn_tests::{now_ms, wait_until};

use super::site::{AGENT, SERVER, SOON, Series, keep_rules, live_host, sum};

/// A socket that passes on what reads and hangs up on anything else, as the usual proxies before an engine do.
struct ReadOnly {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    _folder: Folder,
}

impl ReadOnly {
    fn of(engine: &Engine) -> Self {
        let folder = Folder::new("read-only").unwrap();
        let socket = folder.join("sock");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (listener, place, heard) = (UnixListener::bind(&socket).unwrap(), engine.socket(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // While the engine restarts nobody is there: the caller sees its connection end.
                let Ok(far) = UnixStream::connect(&place) else { continue };
                let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || {
                    let mut chunk = [0; 16384];
                    while let Ok(got @ 1..) = from.read(&mut chunk) {
                        // What reads has no body: each piece is a request from its beginning.
                        let first =
                            String::from_utf8_lossy(&chunk[..got]).lines().next().unwrap_or_default().to_owned();
                        let may_pass = first.starts_with("GET ");
                        heard.lock().unwrap().push(first);
                        if !may_pass || to.write_all(&chunk[..got]).is_err() {
                            break;
                        }
                    }
                    _ = to.shutdown(Shutdown::Both);
                });
                let (mut from, mut to) = (far, near);
                std::thread::spawn(move || {
                    _ = std::io::copy(&mut from, &mut to);
                    _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { socket, asked, _folder: folder }
    }
}

#[test]
fn a_socket_that_only_reads_is_enough_and_an_engine_that_restarts_is_found_again() {
    let begun_ms = now_ms();
    let mut engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let proxy = ReadOnly::of(&engine);
    let mut agent = Agent::new(&server.agent_url("127.0.0.1"), &server.token_file(), Some(&engine), AGENT).unwrap();
    agent.change("engine.socket", proxy.socket.display().to_string());
    agent.restart().unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let lines = |workload: &str, wanted: u64| {
        let count = || sum(&session, &host, begun_ms, workload, "log_lines", "");
        wait_until(workload, SOON, || Ok((count()? == wanted).then_some(()))).unwrap();
    };
    let say = |count: u32| format!("for i in $(seq {count}); do echo line $i; done; sleep 600");
    engine.run_script("before", &["--network", "none"], &say(100)).unwrap();
    lines("before", 100);

    engine.stop().unwrap();
    engine.start_daemon().unwrap();
    engine.docker(&["start", "before"]).unwrap();
    engine.run_script("after", &["--network", "none"], &say(70)).unwrap();
    lines("after", 70);
    lines("before", 200);
    assert!(agent.log_text().contains("the container engine went away"), "{}", agent.log_text());
    let reached = || Ok((agent.log_text().matches("the container engine is reached").count() == 2).then_some(()));
    wait_until("the socket to be used again", SOON, reached).unwrap();
    {
        let asked = proxy.asked.lock().unwrap();
        assert!(asked.len() > 5 && asked.iter().all(|line| line.starts_with("GET ")), "{asked:?}");
    }

    // From now on the events come by themselves, and all else from the kernel's files.
    let (asked, ticks) = (proxy.asked.lock().unwrap().len(), 10);
    std::thread::sleep(Duration::from_secs(ticks));
    assert_eq!(proxy.asked.lock().unwrap().len(), asked, "nothing is asked for in {ticks} ticks");
    let entity = session.get(&format!("/api/v1/hosts/{host}")).unwrap();
    let series = entity["series"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["entity_name"] == "after" && s["metric"] == "mem_used_bytes");
    let entity = series.unwrap()["entity"].as_str().unwrap();
    let series = Series { host: &host, entity, metric: "mem_used_bytes", instance: "" };
    assert!(series.points(&session, now_ms() - 9000, now_ms()).unwrap().len() >= 5, "its statistics went on");
}
