//! The database goes away and comes back: who is told, what the agents are answered, what is stored in the end. With one
//! server and with two on one database.

use std::time::Duration;

use forewarn_common::id::EntityId;
use forewarn_tests::agent::Agent;
use forewarn_tests::chat::{ChatRoom, Robot, SECRET};
use forewarn_tests::database::Store;
use forewarn_tests::server::Server;
use forewarn_tests::{now_ms, wait_until};

use super::fault::{layouts, samples, stored_blocks};
use super::site::{AGENT, SERVER, SOON, live_host, tell};

pub(crate) const GONE: &str = "数据库无法访问";
pub(crate) const BACK: &str = "数据库已恢复";

/// Settings whose fallback channel is a robot of the room.
pub(crate) fn with_fallback(room: &ChatRoom) -> String {
    format!(
        "{SERVER}\n[store]\ncompact_every_ms = 86400000\n[fallback_channel]\nkind = \"dingtalk\"\nurl = \"{}\"\n\
         secret = \"{SECRET}\"\nlanguage = \"zh\"",
        room.url(Robot::DingTalk)
    )
}

pub(crate) fn told(room: &ChatRoom, text: &str) -> usize {
    room.messages().iter().filter(|message| message.says(text)).count()
}

/// Every second that the agent sampled is stored once; what it skipped it has counted.
fn assert_every_sample_once(store: &Store, host: &str) {
    let blocks = stored_blocks(store).unwrap();
    let mut seqs: Vec<u64> = blocks.iter().map(|block| block.header.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "each block once, none missing");
    let entity = EntityId::of_host(host.parse().unwrap());
    let layouts = layouts(store).unwrap();
    let ticks = samples(&blocks, &layouts, entity, "cpu_count");
    assert!(ticks.values().all(|values| values.len() == 1), "a sample is stored twice");
    let skipped: f64 = samples(&blocks, &layouts, entity, "agent_late_ticks").values().flatten().sum();
    let (first, last) = (*ticks.keys().next().unwrap(), *ticks.keys().last().unwrap());
    assert_eq!(ticks.len() as i64 + skipped as i64, (last - first) / 1000 + 1);
}

#[test]
fn a_lost_database_is_told_once_by_one_server_and_nothing_acknowledged_is_missing() {
    let room = ChatRoom::open().unwrap();
    let mut store = Store::mariadb().unwrap();
    let first = Server::start(&store, &with_fallback(&room)).unwrap();
    let second = first.companion(&store.url(), &with_fallback(&room)).unwrap();
    let session = first.log_in().unwrap();
    let mut agent = Agent::start(&first, None, AGENT).unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();

    let gone_ms = now_ms();
    store.as_mariadb().unwrap().kill().unwrap();
    room.wait_for("the news that the database is gone", SOON, |message| message.says(GONE)).unwrap();
    tell(&format!("outage: told {} ms after the database was killed", now_ms() - gone_ms));
    let refused = session.client().get("/api/v1/health").unwrap();
    assert_eq!(refused.status, 503);
    // Long enough for the turn of the second server.
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!((told(&room, GONE), told(&room, BACK)), (1, 0));

    let back_ms = now_ms();
    store.as_mariadb().unwrap().restart().unwrap();
    room.wait_for("the news that the database is back", SOON, |message| message.says(BACK)).unwrap();
    tell(&format!("outage: told {} ms after the database was started again", now_ms() - back_ms));
    wait_until("the backlog to drain", SOON + SOON, || Ok((agent.waiting_blocks()? <= 1).then_some(()))).unwrap();
    assert!(agent.stop().unwrap().success());
    assert_eq!(agent.waiting_blocks().unwrap(), 0, "a block still waits after the farewell");
    assert_every_sample_once(&store, &host);
    assert_eq!((told(&room, GONE), told(&room, BACK)), (1, 1));
    assert!(!first.log_text().contains(SECRET) && !second.log_text().contains(SECRET));
}
