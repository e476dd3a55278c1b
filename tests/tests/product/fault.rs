//! The hard promise: whatever dies in between, each sample that the agent took is stored exactly
//! once. The server is killed and the network is cut while the agent goes on sampling.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use forewarn_common::block::{Block, Layout, Reader};
use forewarn_common::id::{EntityId, LayoutId};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::network::{Cable, Place};
use forewarn_tests::server::Server;
use forewarn_tests::{now_ms, wait_until};
use serde_json::Value;

use super::site::{AGENT, SERVER, SOON, Series, live_host, tell};

/// The longest that an agent waits between two tries.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Before the trouble and after it.
const CALM: Duration = Duration::from_secs(15);

#[test]
fn every_sample_is_stored_once_after_two_minutes_of_outage_on_sqlite() {
    every_sample_is_stored_once_after_an_outage(&Store::sqlite().unwrap(), Duration::from_secs(120));
}

#[test]
fn every_sample_is_stored_once_after_an_outage_on_mariadb() {
    every_sample_is_stored_once_after_an_outage(&Store::mariadb().unwrap(), Duration::from_secs(40));
}

/// A column of blobs.
fn blobs(store: &Store, query: &str) -> Result<Vec<Vec<u8>>> {
    store.query(query)?.iter().map(|row| Ok(hex::decode(row)?)).collect()
}

/// The layouts that the database holds.
pub(crate) fn layouts(store: &Store) -> Result<BTreeMap<LayoutId, Layout>> {
    let all = blobs(store, "SELECT hex(bytes) FROM layout")?;
    all.iter().map(|bytes| Ok((LayoutId::of(bytes), Layout::decode(bytes)?))).collect()
}

/// The blocks that the database holds, every sample of them readable.
pub(crate) fn stored_blocks(store: &Store) -> Result<Vec<Block>> {
    let layouts = layouts(store)?;
    let decode = |bytes: &Vec<u8>| {
        let (block, unknown) = Block::decode(bytes, |id| layouts.get(&id).cloned())?;
        ensure!(unknown == 0, "block {} has samples that nobody can read", block.header.seq);
        Ok(block)
    };
    blobs(store, "SELECT hex(bytes) FROM block ORDER BY start_ms")?.iter().map(decode).collect()
}

/// The values of one series without an instance, by their second.
pub(crate) fn samples(
    blocks: &[Block],
    layouts: &BTreeMap<LayoutId, Layout>,
    entity: EntityId,
    metric: &str,
) -> BTreeMap<i64, Vec<f64>> {
    let mut found: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for block in blocks {
        for group in block.groups.iter().filter(|group| group.entity == entity) {
            let columns = layouts[&group.layout].metrics.iter().zip(&group.columns);
            for (_, column) in columns.filter(|(own, _)| own.name == metric && own.instance.is_empty()) {
                for (tick, value) in group.ticks.iter().zip(column).filter(|(_, value)| !value.is_nan()) {
                    let at_ms = block.header.start_ms + i64::from(tick) * i64::from(block.header.step_ms);
                    found.entry(at_ms).or_default().push(*value);
                }
            }
        }
    }
    found
}

/// The numbers of the only receipt: how many ranges, and of each how far to its first and how long.
fn receipt(store: &Store) -> Vec<u64> {
    let receipts = blobs(store, "SELECT hex(ranges) FROM receipt").unwrap();
    assert_eq!(receipts.len(), 1, "one host, one start of its agent");
    let mut reader = Reader::new(&receipts[0]);
    std::iter::from_fn(|| reader.varint("receipt").ok()).collect()
}

fn every_sample_is_stored_once_after_an_outage(store: &Store, outage: Duration) {
    let cable = Cable::from(Place::Here).unwrap();
    // Blocks stay as they came, whatever the hour is.
    let mut server = Server::start(store, &format!("{SERVER}\n[store]\ncompact_every_ms = 86400000")).unwrap();
    let session = server.log_in().unwrap();
    let mut agent = Agent::start_in(cable.host(), cable.near_address(), &server, None, AGENT).unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    std::thread::sleep(CALM);

    // The server dies at once, in the middle of a push perhaps, and its network a little later. It
    // comes back before the network does, and dies a second time where the agent cannot see it.
    let gone_ms = now_ms();
    server.kill().unwrap();
    std::thread::sleep(outage / 4);
    cable.cut().unwrap();
    std::thread::sleep(outage / 4);
    server.restart().unwrap();
    std::thread::sleep(outage / 4);
    server.kill().unwrap();
    server.restart().unwrap();
    std::thread::sleep(outage / 4);
    cable.heal().unwrap();
    let healed_ms = now_ms();

    // The newest block goes first, the backlog is drained behind it, and one more death disturbs it.
    let seen_since = |overview: &Value| overview["hosts"][0]["seen_ms"].as_i64().filter(|seen_ms| *seen_ms > healed_ms);
    let session = server.log_in().unwrap();
    session.wait_for("/api/v1/overview", "a block after the outage", RETRY_MAX + SOON, seen_since).unwrap();
    tell(&format!("fault: a block arrived {} ms after the network was back", now_ms() - healed_ms));
    server.kill().unwrap();
    server.restart().unwrap();
    wait_until("the backlog to drain", RETRY_MAX + SOON, || Ok((agent.waiting_blocks()? <= 1).then_some(()))).unwrap();
    tell(&format!("fault: all were stored {} ms after the network was back", now_ms() - healed_ms));
    std::thread::sleep(CALM / 3);
    assert!(agent.stop().unwrap().success());
    assert_eq!(agent.waiting_blocks().unwrap(), 0, "a block still waits after the farewell");
    let log = agent.log_text();
    assert!(log.contains("cannot be reached") && log.contains("takes blocks again"), "{log}");

    // Each block is there once, and none is missing.
    let blocks = stored_blocks(store).unwrap();
    let mut seqs: Vec<u64> = blocks.iter().map(|block| block.header.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
    assert!(blocks.iter().all(|block| block.header.epoch == blocks[0].header.epoch));
    assert_eq!(receipt(store), [1, 0, seqs.len() as u64 - 1], "one range, from 0 to the last block");

    // Each second of the host has its sample once; what the agent skipped, it has counted.
    let entity = EntityId::of_host(host.parse().unwrap());
    let layouts = layouts(store).unwrap();
    let ticks = samples(&blocks, &layouts, entity, "cpu_count");
    assert!(ticks.values().all(|values| values.len() == 1), "a sample is stored twice");
    let skipped: f64 = samples(&blocks, &layouts, entity, "agent_late_ticks").values().flatten().sum();
    let (first, last) = (*ticks.keys().next().unwrap(), *ticks.keys().last().unwrap());
    let slots = (last - first) / 1000 + 1;
    assert_eq!(ticks.len() as i64 + skipped as i64, slots);
    assert!(skipped <= slots as f64 / 20.0, "{skipped} of {slots} samples were skipped");
    assert!(first < gone_ms && last > healed_ms);

    // A user sees the same through the API: a point a second, rising as an uptime does.
    let (entity, session) = (entity.to_string(), server.log_in().unwrap());
    let uptime = Series { host: &host, entity: &entity, metric: "uptime_ms", instance: "" };
    let points = uptime.points(&session, first, last + 1000).unwrap();
    let seen: Vec<i64> = points.iter().map(|point| point.0).collect();
    assert_eq!(seen, ticks.keys().copied().collect::<Vec<_>>());
    let rises = |pair: &[(i64, f64)]| (0.0..=(pair[1].0 - pair[0].0 + 1000) as f64).contains(&(pair[1].1 - pair[0].1));
    assert!(points.windows(2).all(rises));

    let bytes = store.number("SELECT SUM(LENGTH(bytes)) FROM block").unwrap();
    let columns = blocks.iter().flat_map(|block| &block.groups).flat_map(|group| &group.columns).flatten();
    let values = columns.filter(|value| !value.is_nan()).count();
    tell(&format!(
        "fault: {} blocks with {} samples of each series over {slots} s, {skipped} skipped, none lost, none twice; \
         {:.2} bytes a value as pushed, before any merge",
        seqs.len(),
        ticks.len(),
        bytes as f64 / values as f64
    ));
}
