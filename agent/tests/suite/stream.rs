//! Logs that only the engine has, through a proxy of its socket on TCP: each line once, whoever ends meanwhile.

use std::io::{Read, Write, copy, sink};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::live::{Agent, Engine, Server, run, until};

const LINES: u32 = 700;

/// What passes bytes on between a port and the engine's socket, until it is cut.
struct Relay {
    port: u16,
    /// Connections and what was asked for on them.
    open: Arc<Mutex<Vec<(String, TcpStream)>>>,
}

impl Relay {
    fn of(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), open: Arc::default() };
        let open = Arc::clone(&relay.open);
        std::thread::spawn(move || {
            for mut near in listener.incoming().map_while(Result::ok) {
                let (Ok(mut far), mut first) = (UnixStream::connect(&socket), [0; 4096]) else { continue };
                // A connection has one request, which has no body.
                let got = near.read(&mut first).unwrap();
                far.write_all(&first[..got]).unwrap();
                let asked = String::from_utf8_lossy(&first[..got]).lines().next().unwrap_or_default().to_owned();
                open.lock().unwrap().push((asked, near.try_clone().unwrap()));
                let (mut asking, answering) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || {
                    // Nothing more is asked for: this ends when the agent does, or lets go.
                    _ = copy(&mut asking, &mut sink());
                    _ = answering.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || {
                    _ = copy(&mut far, &mut near);
                    _ = near.shutdown(Shutdown::Both);
                });
            }
        });
        relay
    }

    /// Ends the open connections on which this was asked for; how many.
    fn cut(&self, what: &str) -> usize {
        let open = self.open.lock().unwrap();
        let meant = open.iter().filter(|(asked, _)| asked.contains(what));
        meant.filter(|(_, stream)| stream.shutdown(Shutdown::Both).is_ok()).count()
    }
}

#[test]
fn a_log_that_only_the_engine_has_is_counted_once_through_cuts_of_its_stream_reloads_and_kills() {
    let (engine, server, data) = (Engine::start(), Server::start(), tempfile::tempdir().unwrap());
    engine.import_image();
    let relay = Relay::of(engine.dir.path().join("sock"));
    let path = engine.settings();
    let text = std::fs::read_to_string(&path).unwrap();
    let socket = format!("{}/sock", engine.dir.path().display());
    assert!(text.contains(&socket));
    std::fs::write(&path, text.replace(&socket, &format!("tcp://127.0.0.1:{}", relay.port))).unwrap();

    let mut agent = Agent::start_with(&path, &server, data.path());
    let lines = || server.see(|kept| kept.sum("talker", "log_lines", ""));
    until("the first block", || server.see(|kept| (!kept.blocks.is_empty()).then_some(())));
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); case $i in *0) echo \"$i 数据库连接超时\";; *) echo $i;; esac; usleep 20000; done; sleep 600"
    );
    engine.start_container("talker", &["--log-driver=local"], &script);
    // The events last: without them the agent looks at files until it tries again.
    for fault in ["kill", "reload", "/logs", "kill", "/logs", "reload", "/logs", "/events"] {
        let before = lines();
        until("more lines", || (lines() >= before + 30.0).then_some(()));
        assert!(lines() < f64::from(LINES), "there are too few lines for this");
        match fault {
            "kill" => {
                agent.kill();
                std::thread::sleep(Duration::from_millis(700));
                agent = Agent::start_with(&path, &server, data.path());
            }
            "reload" => drop(run(Command::new("kill").args(["-HUP", &agent.0.id().to_string()]))),
            asked => assert_eq!(relay.cut(asked), 1, "{asked}"),
        }
    }
    until("all lines", || (lines() >= f64::from(LINES)).then_some(()));
    // Another stream would bring what there was again.
    assert_eq!(relay.cut("/logs"), 1);
    std::thread::sleep(Duration::from_secs(3));
    let hits: u64 = server.see(|kept| {
        let hits = kept.blocks.values().flat_map(|block| &block.urgent.hits);
        hits.filter(|hit| hit.rule == "database_timeout").map(|hit| hit.count).sum()
    });
    assert_eq!((lines(), hits), (f64::from(LINES), u64::from(LINES) / 10));
}
