//! What is wrong gets a clear refusal or is counted, the programs go on, and nothing that was
//! acknowledged is lost.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use forewarn_common::block::Block;
use forewarn_common::limit;
use forewarn_common::wire::{BLOCK_PATH, ENROLL_PATH, EnrollToken, PushReply};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::folder::Folder;
use forewarn_tests::process::run;
use forewarn_tests::program::program;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{now_ms, wait_until};
use serde_json::json;

use super::site::{
    AGENT, HandAgent, SERVER, SOON, Series, change_rule, enroll, incidents, keep_rules, live_host, new_token, refusal,
    tell,
};

const DAY_MS: i64 = 86_400_000;
const MIB: u64 = 1 << 20;

/// A server on SQLite with a session.
fn site() -> (Store, Server, Session) {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    (store, server, session)
}

/// The most memory that a process has had, bytes.
fn memory_peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Block numbers in the database, each row one.
fn stored_seqs(store: &Store) -> Vec<u64> {
    let rows = store.query("SELECT hex(bytes) FROM block WHERE tier = 0").unwrap();
    let seq = |row: &String| Block::decode(&hex::decode(row).unwrap(), |_| None).unwrap().0.header.seq;
    let mut seqs: Vec<u64> = rows.iter().map(seq).collect();
    seqs.sort_unstable();
    seqs
}

// ---------------------------------------------------------------- who may speak

#[test]
fn strangers_are_turned_away_with_a_reason() {
    let (_store, server, session) = site();
    let client = server.agent_client().unwrap();
    let agent = HandAgent::enroll(&server, &session).unwrap();

    let made_up = EnrollToken { secret: "0".repeat(64), ca_sha256: "ab".repeat(32) }.encode();
    let (status, error, detail) = refusal(&enroll(&client, &made_up).unwrap());
    assert_eq!((status, error.as_str()), (403, "token_refused"));
    assert!(detail.contains("make a new one"), "{detail}");

    let once = new_token(&session, 1).unwrap();
    assert_eq!(enroll(&client, &once).unwrap().status, 201);
    let (status, error, detail) = refusal(&enroll(&client, &once).unwrap());
    assert_eq!((status, error.as_str()), (403, "token_refused"));
    assert!(detail.contains("used up"), "{detail}");

    // A key that nobody has, none at all, and the right key of another host.
    let bytes = HandAgent::encode(&agent.block(0, now_ms() - 10_000, 0.5));
    let wrong = format!("Bearer {}:{}", agent.host, "0".repeat(64));
    for headers in [&[("authorization", wrong.as_str())][..], &[]] {
        let (status, error, _) = refusal(&client.send("POST", BLOCK_PATH, headers, bytes.clone()).unwrap());
        assert_eq!((status, error.as_str()), (401, "unauthorized"));
    }
    let other = HandAgent::enroll(&server, &session).unwrap();
    let (status, error, detail) = refusal(&other.push(bytes.clone()).unwrap());
    assert_eq!((status, error.as_str()), (403, "foreign_block"));
    assert!(detail.contains(&agent.host.to_string()) && detail.contains(&other.host.to_string()), "{detail}");
    assert_eq!(agent.push(bytes).unwrap().status, 200);

    // The agent itself says so too, and ends instead of trying for ever.
    let folder = Folder::new("token").unwrap();
    let token = folder.write("token", &once).unwrap();
    let mut command = Command::new(program("forewarn-agent").unwrap());
    command.args(["enroll", "--enroll-file"]).arg(token).arg("--data-dir").arg(folder.join("data"));
    let said = run(command.arg("--server").arg(server.agent_url("127.0.0.1"))).unwrap_err().to_string();
    assert!(said.contains("used up"), "{said}");
}

// ---------------------------------------------------------------- what may be said

/// A block whose samples are a gigabyte of zeros once unpacked, though its table claims `raw_bytes`.
fn bomb(agent: &HandAgent, raw_bytes: u32) -> Vec<u8> {
    const HEAD_BYTES: usize = 86;
    let mut zeros = std::io::repeat(0).take(1 << 30);
    let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
    std::io::copy(&mut zeros, &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    let mut bytes = HandAgent::encode(&agent.block(77, now_ms(), 0.5))[..HEAD_BYTES].to_vec();
    bytes[5] = 1; // sections
    bytes.extend([3, 1]); // samples, zstd
    bytes.extend(raw_bytes.to_le_bytes());
    bytes.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    bytes.extend(crc32c::crc32c(&packed).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(packed);
    bytes
}

#[test]
fn damaged_and_oversized_blocks_are_refused_and_cost_no_memory() {
    let (store, mut server, session) = site();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let good = HandAgent::encode(&agent.block(0, now_ms() - 10_000, 0.5));

    for cut in [0, 3, 50, 86, good.len() / 2, good.len() - 1] {
        let (status, error, _) = refusal(&agent.push(good[..cut].to_vec()).unwrap());
        assert_eq!((status, error.as_str()), (422, "block_refused"), "cut at {cut}");
    }
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (status, error, detail) = refusal(&agent.push(flipped).unwrap());
    assert_eq!((status, error.as_str()), (422, "block_refused"));
    assert!(detail.contains("checksum"), "{detail}");
    let mut newer = good.clone();
    newer[4] = 9;
    let (status, _, detail) = refusal(&agent.push(newer).unwrap());
    assert!(status == 422 && detail.contains("version 9"), "{status} {detail}");

    let pid = server.process().unwrap().id();
    let before = memory_peak_bytes(pid);
    let (status, error, detail) = refusal(&agent.push(vec![7; limit::BLOCK_BYTES_MAX + 1]).unwrap());
    assert_eq!((status, error.as_str()), (413, "too_large"));
    assert!(detail.contains(&limit::BLOCK_BYTES_MAX.to_string()), "{detail}");
    let over = u32::try_from(limit::SECTION_RAW_BYTES_MAX).unwrap() + 1;
    let (status, error, detail) = refusal(&agent.push(bomb(&agent, over)).unwrap());
    assert_eq!((status, error.as_str()), (413, "block_limit"));
    assert!(detail.contains("the limit is"), "{detail}");
    for raw_bytes in [1000, over - 1] {
        let (status, error, _) = refusal(&agent.push(bomb(&agent, raw_bytes)).unwrap());
        assert_eq!((status, error.as_str()), (422, "block_refused"));
    }
    let grown = memory_peak_bytes(pid).saturating_sub(before);
    assert!(grown < 128 * MIB, "refusing these took {} MiB", grown / MIB);

    // Strangers may say even less.
    let client = server.agent_client().unwrap();
    let much = format!("{{\"secret\":\"{}\"}}", "x".repeat(limit::JSON_BYTES_MAX as usize));
    let (status, error, _) = refusal(&client.send("POST", ENROLL_PATH, &[], much.into_bytes()).unwrap());
    assert_eq!((status, error.as_str()), (413, "too_large"));

    // None of it is stored, and the next sound block is.
    assert_eq!(agent.push(good).unwrap().status, 200);
    assert_eq!(stored_seqs(&store), [0]);
}

#[test]
fn block_sent_twice_is_acknowledged_twice_and_stored_once() {
    let (store, server, session) = site();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let start_ms = now_ms() - 30_000;
    let first = HandAgent::encode(&agent.block(0, start_ms, 0.5));
    for _ in 0..3 {
        assert_eq!(agent.push(first.clone()).unwrap().status, 200);
    }
    // At once, too, on connections of their own.
    let second = HandAgent::encode(&agent.block(1, start_ms + 10_000, 0.5));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let twin = HandAgent { client: server.agent_client().unwrap(), key: agent.key.clone(), ..agent };
            let bytes = second.clone();
            scope.spawn(move || assert_eq!(twin.push(bytes).unwrap().status, 200));
        }
    });
    assert_eq!(stored_seqs(&store), [0, 1]);
}

#[test]
fn samples_of_an_unknown_layout_are_kept_and_the_layout_is_asked_for() {
    let (_store, server, session) = site();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let start_ms = (now_ms() - 30_000).div_euclid(1000) * 1000;
    let mut terse = agent.block(0, start_ms, 0.5);
    terse.dictionary = forewarn_common::block::Dictionary::default();
    let reply: PushReply =
        serde_json::from_value(agent.push(HandAgent::encode(&terse)).unwrap().ok().unwrap()).unwrap();
    assert_eq!(reply.unknown_layouts, [HandAgent::layout().id()]);
    assert_eq!(reply.unknown_entities, [terse.groups[0].entity]);
    let full = HandAgent::encode(&agent.block(1, start_ms + 10_000, 0.5));
    let reply: PushReply = serde_json::from_value(agent.push(full).unwrap().ok().unwrap()).unwrap();
    assert!(reply.unknown_layouts.is_empty() && reply.unknown_entities.is_empty());
    // What was stored unread can be read from now on.
    let (host, entity) = (agent.host.to_string(), terse.groups[0].entity.to_string());
    let series = Series { host: &host, entity: &entity, metric: "cpu_count", instance: "" };
    assert_eq!(series.points(&session, start_ms, start_ms + 20_000).unwrap().len(), 20);
}

#[test]
fn clock_a_day_off_is_shown_stored_corrected_and_not_judged() {
    let (store, server, session) = site();
    keep_rules(&session, &["disk"]).unwrap();
    change_rule(&session, "disk", &json!({ "for_ms": 0 })).unwrap();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let sent_ms = now_ms();
    let ahead = agent.block(0, sent_ms - 10_000 + DAY_MS, 0.97);
    assert_eq!(agent.push_with_skew(HandAgent::encode(&ahead), DAY_MS).unwrap().status, 200);

    let host = session.get("/api/v1/overview").unwrap()["hosts"][0].clone();
    let skew_ms = host["skew_ms"].as_i64().unwrap();
    assert!((skew_ms - DAY_MS).abs() < 10_000, "{skew_ms}");
    assert_eq!(store.query("SELECT skewed FROM block").unwrap(), ["1"]);
    let start_ms = store.number("SELECT start_ms FROM block").unwrap();
    assert!((start_ms - (sent_ms - 10_000)).abs() < 10_000, "stored {} ms off", start_ms - sent_ms);
    // Made by a clock that was half a day ahead, sent when it had been put right.
    let put_right = agent.block(1, sent_ms - 10_000 + DAY_MS / 2, 0.97);
    assert_eq!(agent.push(HandAgent::encode(&put_right)).unwrap().status, 200);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(incidents(&session).unwrap(), Vec::<serde_json::Value>::new());

    // The same values under a right clock are judged at once.
    for turn in 0..2 {
        let right = agent.block(2 + turn, now_ms() - 10_000, 0.97);
        assert_eq!(agent.push(HandAgent::encode(&right)).unwrap().status, 200);
    }
    let fired = |all: &serde_json::Value| (all["incidents"][0]["state"] == "firing").then_some(());
    session.wait_for("/api/v1/incidents?state=all", "the alarm", SOON, fired).unwrap();
}

// ---------------------------------------------------------------- what fails below

#[test]
fn database_outage_is_told_and_nothing_acknowledged_is_lost() {
    let mut store = Store::mariadb().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let start_ms = now_ms() - 3_600_000;
    let block = |seq: u64| HandAgent::encode(&agent.block(seq, start_ms + seq as i64 * 10_000, 0.5));
    let mut acknowledged = BTreeSet::new();
    for seq in 0..20 {
        assert_eq!(agent.push(block(seq)).unwrap().status, 200);
        acknowledged.insert(seq);
    }

    // Frozen: a push waits, and is stored once the database moves again.
    store.as_mariadb().unwrap().freeze().unwrap();
    std::thread::scope(|scope| {
        let twin = HandAgent { client: server.agent_client().unwrap(), key: agent.key.clone(), ..agent };
        let waiting = scope.spawn(move || twin.push(block(20)).unwrap().status);
        std::thread::sleep(Duration::from_secs(4));
        assert!(!waiting.is_finished(), "acknowledged by a database that stands still");
        store.as_mariadb().unwrap().thaw().unwrap();
        assert_eq!(waiting.join().unwrap(), 200);
    });
    acknowledged.insert(20);

    // Killed right behind an acknowledgement: told with a time to come back at, for agents and people.
    assert_eq!(agent.push(block(21)).unwrap().status, 200);
    acknowledged.insert(21);
    store.as_mariadb().unwrap().kill().unwrap();
    let answer = agent.push(block(22)).unwrap();
    let (status, error, detail) = refusal(&answer);
    assert_eq!((status, error.as_str()), (503, "database_unavailable"));
    assert!(detail.contains("nothing was stored"), "{detail}");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    let health = session.client().get("/api/v1/health").unwrap();
    assert_eq!((health.status, health.json().unwrap()["status"].as_str()), (503, Some("degraded")));

    store.as_mariadb().unwrap().restart().unwrap();
    for seq in 22..25 {
        let taken = || Ok((agent.push(block(seq))?.status == 200).then_some(()));
        wait_until("the database's return", SOON, taken).unwrap();
        acknowledged.insert(seq);
    }
    assert_eq!(session.client().get("/api/v1/health").unwrap().status, 200);
    assert_eq!(stored_seqs(&store), acknowledged.into_iter().collect::<Vec<_>>());
}

#[test]
fn agent_goes_on_without_the_engine_and_says_so() {
    let (_store, server, session) = site();
    let settings =
        format!("{AGENT}\n[engine]\nsocket = \"/run/forewarn-test-no-engine.sock\"\ndata_root = \"/nonexistent\"");
    let mut agent = Agent::start(&server, None, &settings).unwrap();
    live_host(&session).unwrap();
    agent.process().unwrap().wait_for_output("its socket is not usable", SOON).unwrap();
    assert!(agent.log_text().contains("/run/forewarn-test-no-engine.sock"), "{}", agent.log_text());
    let said_once = agent.log_text().matches("its socket is not usable").count();
    assert_eq!(said_once, 1, "{}", agent.log_text());
    assert!(agent.process().unwrap().is_running());
}

#[test]
fn agent_survives_garbage_and_a_line_of_50_megabytes() {
    const AGENT_BYTES_MAX: u64 = 64 * MIB;
    let engine = Engine::start().unwrap();
    let (_store, server, session) = site();
    keep_rules(&session, &["keyword"]).unwrap();
    let mut agent = Agent::start(&server, Some(&engine), AGENT).unwrap();
    let host = live_host(&session).unwrap();
    let wait = "while [ ! -e /tmp/go-$1 ]; do sleep 0.2; done";
    let script = format!(
        "step() {{ {wait}; }}; step 1; head -c 3000000 /dev/urandom; head -c 52428800 /dev/zero | tr '\\0' x; echo; \
         echo 'java.lang.OutOfMemoryError after the noise'; step 2; echo 'No space left on device after the damage'; sleep 3600"
    );
    let noisy = engine.run_script("noisy", &[], &script).unwrap();
    let detail = format!("/api/v1/hosts/{}", host["id"].as_str().unwrap());
    let entity = session.wait_for(&detail, "the container", SOON, |detail| {
        let noisy = detail["workloads"].as_array()?.iter().find(|w| w["name"] == "noisy")?;
        noisy["entity"].as_str().map(str::to_owned)
    });
    let entity = entity.unwrap();
    let told = |text: &str| {
        wait_until(&format!("the incident of {text:?}"), SOON, || {
            Ok(incidents(&session)?.into_iter().find(|i| i["evidence"]["lines"].to_string().contains(text)))
        })
    };
    noisy.exec("touch /tmp/go-1").unwrap();
    told("after the noise").unwrap();

    // The engine's own file is damaged as well: bytes that are no record, and one record without end.
    let mut log = std::fs::OpenOptions::new().append(true).open(noisy.log_file()).unwrap();
    let garbage: Vec<u8> = (0..1_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    log.write_all(&garbage).unwrap();
    for _ in 0..50 {
        log.write_all(&vec![b'y'; 1 << 20]).unwrap();
    }
    log.write_all(b"\n").unwrap();
    noisy.exec("touch /tmp/go-2").unwrap();
    told("after the damage").unwrap();

    let peak = memory_peak_bytes(agent.process().unwrap().id());
    tell(&format!("log: the agent's memory peaked at {} MiB", peak / MIB));
    assert!(peak < AGENT_BYTES_MAX, "{} MiB", peak / MIB);
    let cut = Series { host: host["id"].as_str().unwrap(), entity: &entity, metric: "log_cut_lines", instance: "" };
    let counted = || {
        let points = cut.points(&session, now_ms() - 300_000, now_ms())?;
        Ok((points.iter().map(|point| point.1).sum::<f64>() >= 2.0).then_some(()))
    };
    wait_until("two lines counted as cut", SOON, counted).unwrap();
}

// ---------------------------------------------------------------- what a person gets wrong

/// Runs a program with a settings file until it ends, and returns what it said.
fn refused_settings(name: &str, file: &Path) -> String {
    let mut command = Command::new(program(name).unwrap());
    let output = command.arg("run").arg("--config").arg(file).output().unwrap();
    assert!(!output.status.success(), "{name} runs with {}", std::fs::read_to_string(file).unwrap_or_default());
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn bad_settings_are_refused_with_file_key_and_accepted_values() {
    let folder = Folder::new("settings").unwrap();
    let cases: &[(&str, &str, &[&str])] = &[
        ("forewarn-server", "colour = 1", &["colour", "expected one of", "data_dir"]),
        ("forewarn-server", "[judge]\ngrid = 5", &["grid", "expected one of", "grid_ms"]),
        ("forewarn-server", "[judge]\ngrid_ms = 5", &["judge.grid_ms", "1000 to 3600000"]),
        ("forewarn-server", "[judge]\ngrid_ms = \"five\"", &["grid_ms", "i64"]),
        ("forewarn-server", "[console]\nlisten = \"0.0.0.0:80\"", &["console.listen", "127.0.0.1:8440"]),
        ("forewarn-server", "[database]\nurl = \"pg://u:hush@h/d\"", &["database.url", "sqlite:// or mysql://"]),
        ("forewarn-server", "[judge\n", &["line 1"]),
        ("forewarn-agent", "colour = 1", &["colour", "expected one of", "data_dir"]),
        ("forewarn-agent", "[server]\nurl = \"x\"", &["url", "urls"]),
        ("forewarn-agent", "sample_interval_ms = 5", &["sample_interval_ms", "200 to 300000"]),
        ("forewarn-agent", "sample_interval_ms = \"often\"", &["sample_interval_ms", "u64"]),
        ("forewarn-agent", "[server]\nurls = [\"http://plain\"]", &["server.urls", "https://"]),
        ("forewarn-agent", "= 3", &["line 1"]),
    ];
    for (name, text, words) in cases {
        let file = folder.write("bad.toml", text).unwrap();
        let said = refused_settings(name, &file);
        for word in words.iter().chain(&["bad.toml"]) {
            assert!(said.contains(word), "{name} with {text:?} does not say {word:?}:\n{said}");
        }
        assert!(!said.contains("hush"), "a password is shown: {said}");
    }
    for name in ["forewarn-server", "forewarn-agent"] {
        let said = refused_settings(name, &folder.join("absent.toml"));
        assert!(said.contains("absent.toml") && said.contains("No such file"), "{said}");
    }
}

#[test]
fn unwritable_data_directory_is_named() {
    let (_store, server, _session) = site();
    let full = SmallFilesystem::new(16).unwrap();
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(full.path())).unwrap();
    let data = full.path().join("data");
    for (name, more) in [("forewarn-server", None), ("forewarn-agent", Some(server.token_file()))] {
        for data in [full.path(), &data] {
            let mut command = Command::new(program(name).unwrap());
            command.arg("run").arg("--data-dir").arg(data);
            if let Some(token) = &more {
                command.arg("--server").arg(server.agent_url("127.0.0.1")).arg("--enroll-file").arg(token);
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{name} runs on {}", data.display());
            assert!(said.contains(&data.display().to_string()) && said.contains("Read-only file system"), "{said}");
        }
    }
}
