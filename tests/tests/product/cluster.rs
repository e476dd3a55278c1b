//! Two servers on a Galera cluster of three nodes, under load, while nodes and servers are killed and nodes are cut off
//! at random: every acknowledged block is kept once, one incident a cause, and it is told.
//!
//! A few rounds here; `make torture` runs as many as are wanted. The seed is printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forewarn_common::block::{Block, KeywordHit, Reader};
use forewarn_common::id::EntityId;
use forewarn_common::keyword::Severity;
use forewarn_common::wire::{BLOCK_PATH, SENT_HEADER};
use forewarn_tests::chat::{ChatRoom, Robot};
use forewarn_tests::database::Store;
use forewarn_tests::galera::{Galera, NODES};
use forewarn_tests::http::Client;
use forewarn_tests::server::Server;
use forewarn_tests::{Dice, now_ms, seed, torture_rounds, wait_until};
use serde_json::json;

use super::site::{HandAgent, SERVER, SOON, change_rule, keep_rules, tell};

/// How long the load goes on with a fault, and after it.
const FAULT: Duration = Duration::from_secs(4);
/// Until a block is acknowledged by one of the servers, whatever was broken.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
const AGENTS: usize = 3;

/// An agent that knows both servers and what they acknowledged.
struct Load {
    agent: HandAgent,
    clients: Vec<Client>,
    seq: u64,
    causes: u64,
    slowest_ms: i64,
}

impl Load {
    fn block(&self) -> Block {
        let mut block = self.agent.block(self.seq, now_ms() - 10_000, 0.5);
        let at_ms = block.urgent.at_ms;
        // Each fourth block brings a cause that was not there before, the one after it the same again.
        if self.seq % 4 < 2 {
            block.urgent.hits.push(KeywordHit {
                entity: EntityId::of_host(self.agent.host),
                rule: format!("cause-{}", self.seq / 4),
                severity: Severity::Critical,
                count: 1,
                first_ms: at_ms,
                last_ms: at_ms,
                samples: Vec::new(),
            });
        }
        block
    }

    /// Sends the next block, now to this server and now to that, until one acknowledges it.
    fn push(&mut self, dice: &mut Dice) {
        let (block, started_ms) = (self.block(), now_ms());
        let bytes = HandAgent::encode(&block);
        wait_until("a block to be acknowledged", ACKNOWLEDGED, || {
            let chosen = dice.between(0, self.clients.len() as u64 - 1) as usize;
            std::mem::swap(&mut self.agent.client, &mut self.clients[chosen]);
            let answer = self.agent.push(bytes.clone());
            std::mem::swap(&mut self.agent.client, &mut self.clients[chosen]);
            let answer = answer?;
            assert!([200, 429, 500, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
            Ok((answer.status == 200).then_some(()))
        })
        .unwrap();
        self.slowest_ms = self.slowest_ms.max(now_ms() - started_ms);
        self.causes += u64::from(self.seq.is_multiple_of(4));
        self.seq += 1;
    }
}

#[test]
fn two_servers_on_a_cluster_keep_every_block_and_tell_each_incident_whatever_dies() {
    let (mut dice, rounds) = (Dice::new(seed()), torture_rounds(2));
    let mut cluster = Galera::start().unwrap();
    let room = ChatRoom::open().unwrap();
    let settings = format!("{SERVER}\n[store]\ncompact_every_ms = 2000");
    let first =
        Server::at(&cluster.url(0), &settings).and_then(|mut server| server.restart().map(|()| server)).unwrap();
    let session = first.log_in().unwrap();
    let second = first.companion(&cluster.url(1), &settings).unwrap();
    let channel = json!({ "name": "duty", "kind": "webhook", "url": room.url(Robot::Webhook), "secret": "s-of-the-room",
        "language": "en", "severity_min": "info" });
    session.send("POST", "/api/v1/channels", &channel).unwrap();
    keep_rules(&session, &["keyword"]).unwrap();
    let load = |_| Load {
        agent: HandAgent::enroll(&first, &session).unwrap(),
        clients: vec![first.agent_client().unwrap(), second.agent_client().unwrap()],
        seq: 0,
        causes: 0,
        slowest_ms: 0,
    };
    let mut loads: Vec<Load> = (0..AGENTS).map(load).collect();
    let mut servers = [first, second];
    // The other servers have read the channel by then.
    std::thread::sleep(Duration::from_secs(6));

    let work = |loads: &mut Vec<Load>, dice: &mut Dice, span: Duration| {
        let until = Instant::now() + span;
        while Instant::now() < until {
            loads.iter_mut().for_each(|load| load.push(dice));
            std::thread::sleep(Duration::from_millis(dice.between(0, 200)));
        }
    };
    // Each kind of fault comes before one comes again.
    let (first_fault, mut faults) = (dice.between(0, 3), 0);
    for round in 0..rounds {
        let calm = Duration::from_millis(dice.between(200, 1500));
        work(&mut loads, &mut dice, calm);
        let (node, server) = (dice.between(0, NODES as u64 - 1) as usize, dice.between(0, 1) as usize);
        let fault = (first_fault + round) % 4;
        // A cut is felt where servers are connected.
        let node = if fault == 2 { cluster.busiest().unwrap() } else { node };
        match fault {
            0 => cluster.kill(node).unwrap(),
            1 => servers[server].kill().unwrap(),
            2 => cluster.cut(node).unwrap(),
            _ => {
                cluster.kill(node).unwrap();
                servers[server].kill().unwrap();
            }
        }
        faults += 1;
        work(&mut loads, &mut dice, FAULT);
        if fault == 2 {
            cluster.heal(node).unwrap();
        }
        if fault == 0 || fault == 3 {
            cluster.restart(node).unwrap();
        }
        if fault == 1 || fault == 3 {
            servers[server].restart().unwrap();
        }
        cluster.wait_whole().unwrap();
        let slowest_ms = loads.iter().map(|load| load.slowest_ms).max().unwrap_or(0);
        tell(&format!(
            "cluster: round {round}, fault {fault}, node {node}, server {server}; slowest block {slowest_ms} ms"
        ));
    }
    work(&mut loads, &mut dice, FAULT);

    // Every acknowledged block has one receipt, and what is stored is what was sent.
    let rows = cluster.agreed("SELECT HEX(host), HEX(ranges) FROM receipt ORDER BY host").unwrap();
    assert_eq!(rows.len(), AGENTS);
    let hosts: BTreeMap<String, &Load> =
        loads.iter().map(|load| (load.agent.host.to_string().to_uppercase(), load)).collect();
    for row in &rows {
        let (host, ranges) = row.split_once('\t').unwrap();
        let bytes = hex::decode(ranges).unwrap();
        let mut reader = Reader::new(&bytes);
        let numbers: Vec<u64> = std::iter::from_fn(|| reader.varint("receipt").ok()).collect();
        assert_eq!(numbers, [1, 0, hosts[host].seq - 1], "one range, from 0 to the last block");
    }
    let samples: u64 = loads.iter().map(|load| load.seq * 20).sum();
    let stored = cluster.agreed("SELECT CAST(SUM(samples) AS SIGNED) FROM block WHERE tier IN (0, 1)").unwrap();
    assert_eq!(stored, [samples.to_string()], "each value once");

    // One incident a cause, each told; one that was told twice had its sender die in between.
    let causes: u64 = loads.iter().map(|load| load.causes).sum();
    let incidents =
        cluster.agreed("SELECT HEX(host), instance, COUNT(*) FROM incident GROUP BY 1, 2 ORDER BY 1, 2").unwrap();
    assert_eq!(incidents.len() as u64, causes);
    assert!(incidents.iter().all(|row| row.ends_with("\t1")), "{incidents:?}");
    let unsent = || cluster.query(0, "SELECT COUNT(*) FROM delivery WHERE state <> 'sent'");
    wait_until("every delivery to be sent", SOON + SOON, || Ok((unsent()? == ["0"]).then_some(()))).unwrap();
    let deliveries = cluster.agreed("SELECT id FROM delivery ORDER BY id").unwrap();
    assert_eq!(deliveries.len() as u64, causes);
    let messages = room.messages();
    let told = |id: &String| messages.iter().filter(|message| message.body.contains(id.as_str())).count();
    let counts: Vec<usize> = deliveries.iter().map(told).collect();
    assert!(counts.iter().all(|count| *count >= 1), "an incident was not told");
    let twice: usize = counts.iter().map(|count| count - 1).sum();
    assert!(twice <= faults * AGENTS, "{twice} messages came twice after {faults} faults");
    tell(&format!(
        "cluster: {rounds} rounds, {} blocks, {causes} incidents, {twice} messages twice, slowest block {} ms",
        loads.iter().map(|load| load.seq).sum::<u64>(),
        loads.iter().map(|load| load.slowest_ms).max().unwrap_or(0)
    ));
}

#[test]
fn two_servers_tell_each_incident_once_and_one_goes_on_within_seconds_when_the_other_dies() {
    let store = Store::mariadb().unwrap();
    let room = ChatRoom::open().unwrap();
    let first = Server::start(&store, SERVER).unwrap();
    let second = first.companion(&store.url(), SERVER).unwrap();
    let (session, of_second) = (first.log_in().unwrap(), second.log_in().unwrap());
    let channel = json!({ "name": "duty", "kind": "webhook", "url": room.url(Robot::Webhook), "secret": "s-of-the-room",
        "language": "en", "severity_min": "info" });
    session.send("POST", "/api/v1/channels", &channel).unwrap();
    keep_rules(&session, &["keyword"]).unwrap();
    let enrol = |_| HandAgent::enroll(&first, &session).unwrap();
    let agents: Vec<HandAgent> = (0..12).map(enrol).collect();
    let mut clients = [first.agent_client().unwrap(), second.agent_client().unwrap()];
    // Both have read the channel and the rules, and know of each other, by then.
    std::thread::sleep(Duration::from_secs(8));

    let push = |agent: &HandAgent, client: &Client, seq: u64, cause: Option<&str>| {
        let mut block = agent.block(seq, now_ms() - 10_000, 0.5);
        let at_ms = block.urgent.at_ms;
        block.urgent.hits.extend(cause.map(|cause| KeywordHit {
            entity: EntityId::of_host(agent.host),
            rule: cause.to_owned(),
            severity: Severity::Critical,
            count: 1,
            first_ms: at_ms,
            last_ms: at_ms,
            samples: Vec::new(),
        }));
        let bearer = format!("Bearer {}:{}", agent.host, agent.key);
        let sent = format!("2000000,{}", now_ms());
        let headers = [("authorization", bearer.as_str()), (SENT_HEADER, sent.as_str())];
        let answer = client.send("POST", BLOCK_PATH, &headers, HandAgent::encode(&block)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    // A cause that both servers hear of at the same time is one incident, and one message.
    let (rounds, mut seq) = (3, 0);
    for round in 0..rounds {
        for (at, agent) in agents.iter().enumerate() {
            std::thread::scope(|scope| {
                for (step, client) in clients.iter().enumerate() {
                    let (seq, cause) = (seq + step as u64, format!("cause-{round}"));
                    scope.spawn(move || push(agent, client, seq, Some(&cause)));
                }
            });
            clients.swap(0, at % 2);
        }
        seq += 2;
    }
    let causes = rounds * agents.len();
    // How often each delivery was told: one message may tell several.
    let told = || -> anyhow::Result<Vec<usize>> {
        let (ids, messages) = (store.query("SELECT id FROM delivery ORDER BY id")?, room.messages());
        let count = |id: &String| messages.iter().filter(|message| message.body.contains(id.as_str())).count();
        Ok(ids.iter().map(count).collect())
    };
    let all_told = |count: usize| {
        let all = || Ok(Some(told()?).filter(|told| told.len() >= count && told.iter().all(|times| *times > 0)));
        wait_until("every incident to be told", SOON, all)
    };
    all_told(causes).unwrap();
    // What comes twice comes a little later.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(told().unwrap(), vec![1; causes], "one message a cause");

    // Half of the hosts are the second server's. It dies; their silence is told by the first, once.
    let client = first.agent_client().unwrap();
    agents.iter().for_each(|agent| push(agent, &client, seq, None));
    change_rule(&session, "host_silent", &json!({ "enabled": true, "after_ms": 9000 })).unwrap();
    wait_until("the second server to know the rule", SOON, || {
        let rules = of_second.get("/api/v1/rules")?;
        let mut rules = rules.as_array().into_iter().flatten();
        Ok(rules.any(|rule| rule["id"] == "host_silent" && rule["enabled"] == true).then_some(()))
    })
    .unwrap();
    agents.iter().for_each(|agent| push(agent, &client, seq + 1, None));
    let (mut second, died_ms) = (second, now_ms());
    second.kill().unwrap();
    let all = all_told(causes + agents.len());
    let took_ms = now_ms() - died_ms;
    tell(&format!("cluster: {} silent hosts told {took_ms} ms after one of two servers died", agents.len()));
    all.unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(told().unwrap(), vec![1; causes + agents.len()], "each silence once");
    assert!(took_ms < 30_000, "nine seconds of silence and the other server's end are told after {took_ms} ms");
}
