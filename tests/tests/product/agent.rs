//! What an operator is promised of an agent at work: killed at any moment it tells everything once, it follows the
//! site's rules without widening its own, it listens to nobody and says what it costs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{Dice, now_ms, seed, torture_rounds, wait_until};
use serde_json::{Value, json};

use super::site::{AGENT, SERVER, SOON, Series, incidents, keep_rules, live_host, sum, tell};

/// Kills of an everyday run.
const ROUNDS: u64 = 8;

#[test]
fn every_line_and_hit_is_told_once_however_often_the_agent_is_killed() {
    let run = seed();
    let (mut dice, begun_ms) = (Dice::new(run), now_ms());
    let engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let mut agent = Agent::start(&server, Some(&engine), AGENT).unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let script = "i=0; while [ ! -e /enough ]; do i=$((i+1)); case $i in *[05]0) echo \"ENOSPC $i\";; *) echo \"line $i\";; esac; \
                  case $i in *00) usleep 20000;; esac; done; sleep 600";
    let talker = engine.run_script("talker", &["--network", "none"], script).unwrap();
    for _ in 0..torture_rounds(ROUNDS) {
        std::thread::sleep(Duration::from_millis(dice.between(50, 4000)));
        agent.kill().unwrap();
        std::thread::sleep(Duration::from_millis(dice.between(0, 1500)));
        agent.restart().unwrap();
    }
    talker.exec("touch /enough").unwrap();
    let printed = std::fs::read_to_string(talker.log_file()).unwrap();
    let lines = printed.lines().count() as u64;
    let hits = printed.lines().filter(|line| line.contains("ENOSPC")).count() as u64;
    assert!(lines > 10_000 && hits > 200, "{lines} lines with {hits} keywords");
    let counted = || sum(&session, &host, begun_ms, "talker", "log_lines", "");
    let seen = wait_until("every line to be counted", SOON, || Ok((counted()? >= lines).then_some(())));
    // What comes twice comes a little later.
    std::thread::sleep(Duration::from_secs(5));
    let told = store.number("SELECT COALESCE(SUM(hits), 0) FROM keyword_hit WHERE rule = 'disk_full'").unwrap();
    let in_series = sum(&session, &host, begun_ms, "talker", "log_hits", "disk_full").unwrap();
    tell(&format!("an agent that was killed {} times, seed {run}: {lines} lines, {hits} hits", torture_rounds(ROUNDS)));
    assert_eq!((counted().unwrap(), in_series, told.unsigned_abs()), (lines, hits, hits), "seed {run}, {seen:?}");
}

/// The first line with this text that is the evidence of an incident: itself, not among the lines around another.
fn evidence(session: &Session, text: &str) -> anyhow::Result<Option<Value>> {
    let lines =
        incidents(session)?.into_iter().flat_map(|i| i["evidence"]["lines"].as_array().cloned().unwrap_or_default());
    Ok(lines.into_iter().find(|line| line["line"].as_str().is_some_and(|line| line.contains(text))))
}

#[test]
fn the_sites_rules_are_followed_without_a_restart_and_never_widen_what_the_host_allows() {
    let engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["keyword"]).unwrap();
    let masked = format!("masks = ['order-[0-9]+']\n{AGENT}");
    let mut agent = Agent::start(&server, Some(&engine), &masked).unwrap();
    live_host(&session).unwrap();
    let process = agent.process().unwrap().id();
    let talker = engine.run_script("talker", &["--network", "none"], "sleep 600").unwrap();
    let say = |line: &str| talker.exec(&format!("echo '{line}' > /proc/1/fd/1")).unwrap();
    let rules = || session.get("/api/v1/keywords").unwrap();
    let change = |agent: &Agent, wanted: &Value| {
        let before = agent.log_text().matches("the configuration is taken over").count();
        session.send("PUT", "/api/v1/keywords", wanted).unwrap();
        // An agent hears of another version with the next block.
        wait_until("the agent to take it over", SOON, || {
            Ok((agent.log_text().matches("the configuration is taken over").count() > before).then_some(()))
        })
        .unwrap();
    };

    say("first wombat order-4711 password=hunter2");
    let mut wanted = rules();
    let wombat = json!({ "name": "wombat", "severity": "critical", "literals": ["wombat"] });
    wanted["rules"].as_array_mut().unwrap().push(wombat.clone());
    change(&agent, &wanted);
    say("second wombat order-4711 password=hunter2");
    let line = wait_until("the second line", SOON, || evidence(&session, "second")).unwrap();
    assert!(line.to_string().contains("second wombat *** password=***"), "{line}");
    let severity = |severity: &str| {
        let found = incidents(&session).unwrap();
        found.iter().any(|incident| incident["severity"] == severity && incident.to_string().contains("wombat"))
    };
    assert!(severity("critical"), "{:?}", incidents(&session).unwrap());

    // Another word and a container that is left out.
    wanted["rules"].as_array_mut().unwrap().last_mut().unwrap()["literals"] = json!(["platypus"]);
    change(&agent, &wanted);
    say("third wombat");
    say("fourth platypus");
    wait_until("the fourth line", SOON, || evidence(&session, "fourth")).unwrap();
    wanted["exclude"] = json!(["talker"]);
    change(&agent, &wanted);
    say("fifth platypus");
    std::thread::sleep(Duration::from_secs(4));
    for unseen in ["first", "third", "fifth"] {
        assert!(evidence(&session, unseen).unwrap().is_none(), "{unseen}");
    }
    assert_eq!(agent.process().unwrap().id(), process, "it was not restarted");

    // What would widen has no place: neither in a rule nor beside the rules.
    let kept = rules();
    for (place, key, value) in [
        ("/rules/0", "path", json!("/etc/shadow")),
        ("/rules/0", "glob", json!("/var/log/*")),
        ("", "files", json!([{ "name": "x", "glob": "/etc/*" }])),
        ("", "masks", json!([])),
        ("", "scrape", json!({ "targets": [] })),
    ] {
        let mut wider = kept.clone();
        wider.pointer_mut(place).unwrap()[key] = value;
        let answer = session.answer("PUT", "/api/v1/keywords", &wider).unwrap();
        assert_eq!(answer.status, 400, "{key}: {}", answer.text());
        assert!(answer.text().contains(key), "{key}: {}", answer.text());
    }
    assert_eq!(rules(), kept);
}

/// Sockets of a process that wait for somebody: TCP and Unix ones that listen, UDP ones that are bound to a port.
fn listening(process: u32) -> Vec<String> {
    let place = Path::new("/proc").join(process.to_string());
    let links =
        std::fs::read_dir(place.join("fd")).unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned);
    let own: HashSet<String> = links.filter_map(inode).collect();
    // The column of the state, what it says of a socket that waits, and the column of the inode.
    let tables = [
        ("tcp", 3, "0A", 9),
        ("tcp6", 3, "0A", 9),
        ("udp", 3, "07", 9),
        ("udp6", 3, "07", 9),
        ("unix", 3, "00010000", 6),
    ];
    let mut found = Vec::new();
    for (table, state, waits, at) in tables {
        for line in std::fs::read_to_string(place.join("net").join(table)).unwrap().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(state) == Some(&waits) && words.get(at).is_some_and(|inode| own.contains(*inode)) {
                found.push(format!("{table}: {line}"));
            }
        }
    }
    found
}

#[test]
fn an_agent_listens_to_nobody_and_says_what_it_costs() {
    let engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let mut server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let mut agent = Agent::start(&server, Some(&engine), AGENT).unwrap();
    let host = live_host(&session).unwrap();
    let (host, name) = (host["id"].as_str().unwrap(), host["name"].as_str().unwrap());
    let process = agent.process().unwrap().id();
    let of_server = listening(server.process().unwrap().id());
    assert_eq!(of_server.len(), 2, "the console's and the agents' address: {of_server:?}");
    assert!(listening(process).is_empty(), "{:?}", listening(process));

    let detail = session.get(&format!("/api/v1/hosts/{host}")).unwrap();
    let own = detail["series"].as_array().unwrap().iter().find(|s| s["metric"] == "agent_rss_bytes").unwrap();
    let entity = own["entity"].as_str().unwrap();
    assert_eq!(own["entity_name"], name);
    let series = |metric| Series { host, entity, metric, instance: "" };
    let stat = || std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap();
    let spent_ms = |stat: &str| stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6;
    // Between two ticks there is a sample at either end.
    let (from_ms, before) = (now_ms(), spent_ms(&stat()));
    std::thread::sleep(Duration::from_secs(20));
    let (to_ms, after) = (now_ms(), spent_ms(&stat()));
    let points = wait_until("the last seconds", SOON, || {
        let points = series("agent_cpu_ms").points(&session, from_ms, to_ms)?;
        Ok(points.last().is_some_and(|last| last.0 >= to_ms - 2500).then_some(points))
    })
    .unwrap();
    let told: f64 = points.iter().map(|point| point.1).sum();
    let real = after - before;
    assert!(told > 0.7 * real && told < 1.3 * real, "told {told} ms, by the scheduler {real}");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0;
    let told = series("agent_rss_bytes").last(&session).unwrap().unwrap();
    // It is read once a minute.
    assert!((told - resident).abs() < 1.5 * 1048576.0, "told {told}, by the kernel {resident}");
}
