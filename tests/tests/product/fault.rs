//! The hard promise: whatever dies in between, each sample that the agent took is stored exactly
//! once. The server is killed and the network is cut while the agent goes on sampling.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use forewarn_common::block::{Block, Layout};
use forewarn_common::id::{EntityId, LayoutId};
use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::network::{Cable, Place};
use forewarn_tests::now_ms;
use forewarn_tests::server::Server;

use super::site::{AGENT, SERVER, SOON, Series, live_host};

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

/// The blocks that the database holds, decoded.
fn stored_blocks(store: &Store) -> Result<Vec<Block>> {
    let bytes = |rows: Vec<String>| -> Result<Vec<Vec<u8>>> { rows.iter().map(|row| Ok(hex::decode(row)?)).collect() };
    let layouts: BTreeMap<LayoutId, Layout> = bytes(store.query("SELECT hex(bytes) FROM layout")?)?
        .iter()
        .map(|bytes| Ok((LayoutId::of(bytes), Layout::decode(bytes)?)))
        .collect::<Result<_>>()?;
    let rows = bytes(store.query("SELECT hex(bytes) FROM block WHERE tier = 0 ORDER BY start_ms")?)?;
    let decode = |bytes: &Vec<u8>| {
        let (block, unknown) = Block::decode(bytes, |id| layouts.get(&id).cloned())?;
        anyhow::ensure!(unknown == 0, "block {} has samples that nobody can read", block.header.seq);
        Ok(block)
    };
    rows.iter().map(decode).collect()
}

fn every_sample_is_stored_once_after_an_outage(store: &Store, outage: Duration) {
    let cable = Cable::from(Place::Here).unwrap();
    let mut server = Server::start(store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    let mut agent = Agent::start_in(cable.host(), cable.near_address(), &server, None, AGENT).unwrap();
    let host = live_host(&session).unwrap();
    std::thread::sleep(CALM);

    // In the middle of a push, perhaps: the server dies at once, its network a little later; the
    // server is back before the network is.
    let gone_ms = now_ms();
    server.kill().unwrap();
    std::thread::sleep(outage / 4);
    cable.cut().unwrap();
    std::thread::sleep(outage / 4);
    server.restart().unwrap();
    std::thread::sleep(outage / 4);
    // A second death, while the agent cannot see it.
    server.kill().unwrap();
    server.restart().unwrap();
    std::thread::sleep((outage / 4).saturating_sub(Duration::from_secs(2)));
    cable.heal().unwrap();
    let healed_ms = now_ms();

    // The newest block goes first; the backlog is drained behind it, and one more death disturbs it.
    let session = server.log_in().unwrap();
    session
        .wait_for("/api/v1/overview", "a block after the outage", SOON, |overview| {
            overview["hosts"][0]["seen_ms"].as_i64().filter(|seen_ms| *seen_ms > healed_ms)
        })
        .unwrap();
    eprintln!("fault: back {} ms after the network was", now_ms() - healed_ms);
    server.kill().unwrap();
    server.restart().unwrap();
    let session = server.log_in().unwrap();
    let (id, entity) = (host["id"].as_str().unwrap(), EntityId::of_host(host["id"].as_str().unwrap().parse().unwrap()));
    let series =
        |metric| Series { host: id, entity: Box::leak(entity.to_string().into_boxed_str()), metric, instance: "" };
    let spool = agent.data_folder().join("spool");
    let drained = || Ok((std::fs::read_dir(&spool)?.count() <= 1).then_some(()));
    forewarn_tests::wait_until("the backlog to drain", SOON, drained).unwrap();
    eprintln!("fault: drained {} ms after the network was back", now_ms() - healed_ms);
    std::thread::sleep(CALM / 3);
    assert!(agent.stop().unwrap().success());
    let log = agent.log_text();
    assert!(log.contains("cannot be reached") && log.contains("takes blocks again"), "{log}");

    // What is stored, by tick: nothing twice, nothing missing.
    let blocks = stored_blocks(store).unwrap();
    let seqs: Vec<u64> = {
        let mut seqs: Vec<u64> = blocks.iter().map(|block| block.header.seq).collect();
        seqs.sort_unstable();
        seqs
    };
    let waiting = std::fs::read_dir(&spool).unwrap().count();
    assert_eq!(waiting, 0, "blocks still wait after the farewell");
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "each block once, none missing");
    assert!(blocks.iter().all(|block| block.header.epoch == blocks[0].header.epoch));
    let mut ticks: BTreeMap<i64, usize> = BTreeMap::new();
    let mut skipped = 0.0;
    for block in &blocks {
        for group in block.groups.iter().filter(|group| group.entity == entity) {
            let layout = layout_of(store, group.layout).unwrap();
            for (metric, column) in layout.metrics.iter().zip(&group.columns) {
                match metric.name.as_str() {
                    "cpu_count" => {
                        for tick in group.ticks.iter() {
                            *ticks.entry(block.header.start_ms + i64::from(tick) * 1000).or_default() += 1;
                        }
                    }
                    "agent_late_ticks" => skipped += column.iter().filter(|value| !value.is_nan()).sum::<f64>(),
                    _ => {}
                }
            }
        }
    }
    assert!(ticks.values().all(|count| *count == 1), "a sample is stored twice");
    let (first, last) = (*ticks.keys().next().unwrap(), *ticks.keys().last().unwrap());
    let slots = (last - first) / 1000 + 1;
    assert_eq!(ticks.len() as i64 + skipped as i64, slots, "each second has its sample, or is counted as skipped");
    assert!(skipped <= slots as f64 / 20.0, "{skipped} of {slots} samples were skipped");
    assert!(first < gone_ms && last > healed_ms);
    assert!(slots * 1000 > i64::try_from((CALM + outage).as_millis()).unwrap());

    // A user sees the same through the API: one point a second.
    let points = series("uptime_ms").points(&session, first, last + 1000).unwrap();
    let seen: Vec<i64> = points.iter().map(|point| point.0).collect();
    let wanted: Vec<i64> = ticks.keys().map(|at| at.div_euclid(1000) * 1000).collect();
    assert_eq!(seen, wanted);
    assert!(points.windows(2).all(|pair| pair[1].1 - pair[0].1 <= 1000.0 * (1 + pair[1].0 - pair[0].0) as f64));

    // And the books agree: one receipt, without a hole, over all of them.
    let receipts = store.query("SELECT hex(ranges) FROM receipt").unwrap();
    assert_eq!(receipts.len(), 1);
    let receipt = hex::decode(&receipts[0]).unwrap();
    let mut reader = forewarn_common::block::Reader::new(&receipt);
    let numbers: Vec<u64> = std::iter::from_fn(|| reader.varint("receipt").ok()).collect();
    assert_eq!(numbers, [1, 0, seqs.len() as u64 - 1], "one range from 0 to the last block");
    eprintln!(
        "fault: {} blocks, {} samples of each series over {slots} s, {skipped} skipped, none lost, none twice",
        seqs.len(),
        ticks.len()
    );
}

fn layout_of(store: &Store, id: LayoutId) -> Result<Layout> {
    let wanted = store.query(&format!("SELECT hex(bytes) FROM layout WHERE id = {}", id.0 as i64))?;
    Ok(Layout::decode(&hex::decode(wanted.first().context("a layout that is not stored")?)?)?)
}
