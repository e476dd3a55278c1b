//! Merging changes where samples are kept and nothing else.

use std::time::Duration;

use diesel::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::schema::block;
use super::*;

const LONG: Duration = Duration::from_secs(120);

on_both_engines!(
    a_merged_hour_reads_as_its_blocks_did,
    any_arrival_order_with_gaps_and_late_blocks_gives_the_same_samples,
    two_compactors_at_once_keep_every_sample_once,
    what_was_merged_is_still_covered_by_its_receipt,
    the_open_hour_is_left_alone,
    blocks_of_an_unknown_layout_wait_for_it,
    a_damaged_row_is_told_and_the_rest_goes_on,
    many_late_parts_become_one,
    retention_deletes_what_is_old_and_nothing_else,
    a_round_out_of_time_goes_on_next_time,
    reading_while_hours_are_merged_misses_nothing,
    a_very_wide_hour_becomes_several_rows,
    a_clock_set_back_keeps_both_samples,
    a_server_clock_that_jumps_keeps_every_sample_once,
);

/// How many rows each tier has.
async fn rows(store: &Store) -> (i64, i64) {
    store
        .inner
        .pool
        .read(|connection| {
            let count = |connection: &mut connection::Conn, tier: i16| {
                block::table.filter(block::tier.eq(tier)).count().get_result::<i64>(connection)
            };
            Ok((count(connection, 0)?, count(connection, 1)?))
        })
        .await
        .unwrap()
}

/// Two hours and a bit of blocks of three ticks.
fn blocks(agent: Agent) -> Vec<Arriving> {
    (0..260).map(|seq| agent.arriving(seq, 3)).collect()
}

const AFTER_MS: i64 = T0 + 4 * HOUR_MS;

async fn a_merged_hour_reads_as_its_blocks_did(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    let report = store.compact(AFTER_MS, LONG).await.unwrap();
    assert!(report.finished && report.damaged.is_empty() && report.waiting == 0);
    assert_eq!((report.merges, report.parents), (3, 260));
    assert_eq!(report.samples, blocks(agent).iter().map(|arriving| arriving.values).sum::<i64>());
    assert_eq!(rows(&store).await, (0, 3));
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&blocks(agent))));
    // Nothing is left to do.
    let again = store.compact(AFTER_MS, LONG).await.unwrap();
    assert_eq!(again, CompactReport { finished: true, ..CompactReport::default() });
    // A restarted server, which knows no layout yet, reads the same.
    assert_same(&everything(&place.open().await, agent.host).await, &expected(&times_of(&blocks(agent))));
}

async fn any_arrival_order_with_gaps_and_late_blocks_gives_the_same_samples(place: Place) {
    let stores = [place.open().await, place.open().await];
    let runtime = tokio::runtime::Handle::current();
    let next = std::cell::Cell::new(1_u8);
    // Rounds of block numbers in any order with repetitions and gaps; between rounds one or both servers compact.
    let round = (proptest::collection::vec(0_u64..300, 1..40), 0_u8..4);
    let strategy = proptest::collection::vec(round, 1..6);
    let cases = if place.is_mysql() { 6 } else { 12 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    tokio::task::block_in_place(|| {
        TestRunner::new_with_rng(config, rng)
            .run(&strategy, |rounds| {
                let agent = Agent::new(next.replace(next.get() + 1));
                let mut seen = std::collections::BTreeSet::new();
                for (seqs, compactors) in rounds {
                    let arrivals = seqs.iter().map(|seq| agent.arriving(*seq, 3)).collect();
                    runtime.block_on(stores[seqs.len() % 2].push(arrivals)).unwrap();
                    seen.extend(seqs);
                    runtime.block_on(async {
                        let first = stores[0].compact(AFTER_MS, LONG);
                        let second = stores[1].compact(AFTER_MS, LONG);
                        match compactors {
                            0 => {}
                            1 => drop(first.await.unwrap()),
                            _ => {
                                let (first, second) = tokio::join!(first, second);
                                assert!(first.unwrap().damaged.is_empty() && second.unwrap().damaged.is_empty());
                            }
                        }
                    });
                    let all: Vec<Arriving> = seen.iter().map(|seq| agent.arriving(*seq, 3)).collect();
                    let got = runtime.block_on(everything(&stores[0], agent.host));
                    prop_assert_eq!(got, expected(&times_of(&all)));
                }
                Ok(())
            })
            .unwrap();
    });
}

async fn two_compactors_at_once_keep_every_sample_once(place: Place) {
    let agents: Vec<Agent> = (1..7).map(Agent::new).collect();
    let store = place.open().await;
    for agent in &agents {
        store.push(blocks(*agent)).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let store = place.open().await;
        tasks.spawn(async move { store.compact(AFTER_MS, LONG).await.unwrap() });
    }
    let reports = tasks.join_all().await;
    assert_eq!(reports.iter().map(|report| report.merges).sum::<usize>(), 18);
    assert_eq!(rows(&store).await, (0, 18));
    for agent in agents {
        assert_same(&everything(&store, agent.host).await, &expected(&times_of(&blocks(agent))));
    }
}

async fn what_was_merged_is_still_covered_by_its_receipt(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    store.compact(AFTER_MS, LONG).await.unwrap();
    let again = store.push(blocks(agent)).await.unwrap();
    assert!(again.iter().all(|outcome| !outcome.stored && outcome.refused.is_none()));
    assert_eq!(rows(&store).await, (0, 3));
}

async fn the_open_hour_is_left_alone(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    // Four minutes after the end of the first hour its blocks may still be on their way.
    assert_eq!(store.compact(T0 + HOUR_MS + 240_000, LONG).await.unwrap().merges, 0);
    assert_eq!(store.compact(T0 + HOUR_MS + 300_000, LONG).await.unwrap().merges, 1);
    assert_eq!(rows(&store).await, (140, 1));
}

async fn blocks_of_an_unknown_layout_wait_for_it(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let silent = agent.made(0, T0, 3, &layout(), Dictionary::default());
    store.push(vec![silent]).await.unwrap();
    let report = store.compact(AFTER_MS, LONG).await.unwrap();
    assert_eq!((report.merges, report.waiting), (0, 1));
    store.push(vec![agent.arriving(1, 3)]).await.unwrap();
    let report = store.compact(AFTER_MS, LONG).await.unwrap();
    assert_eq!((report.merges, report.parents, report.waiting), (1, 2, 0));
    let times: Vec<i64> = (0..6).map(|tick| T0 + tick * STEP_MS).collect();
    assert_same(&everything(&store, agent.host).await, &expected(&times));
}

async fn flip(store: &Store, tier: i16, start_ms: i64) {
    store
        .inner
        .pool
        .write(move |connection| {
            let row = block::table.filter(block::tier.eq(tier)).filter(block::start_ms.eq(start_ms));
            let mut bytes: Vec<u8> = row.select(block::bytes).first(connection)?;
            let last = bytes.len() - 1;
            bytes[last] ^= 0x40;
            diesel::update(row).set(block::bytes.eq(bytes)).execute(connection)?;
            Ok(())
        })
        .await
        .unwrap();
}

async fn a_damaged_row_is_told_and_the_rest_goes_on(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let all = blocks(agent);
    store.push(all.clone()).await.unwrap();
    flip(&store, 0, T0 + 30_000).await;
    let reading = store.read(agent.host, Wanted::All, T0, AFTER_MS, 0).await.unwrap();
    assert_eq!(reading.damaged.len(), 1);
    assert!(
        reading.damaged[0].contains(&agent.host.to_string()) && reading.damaged[0].contains(&(T0 + 30_000).to_string())
    );
    assert_eq!(reading.series[0].points.len(), 260 * 3 - 3);
    let report = store.compact(AFTER_MS, LONG).await.unwrap();
    assert_eq!((report.merges, report.parents, report.damaged.len()), (3, 259, 1));
    // The damaged row stays for somebody to look at.
    assert_eq!(rows(&store).await, (1, 3));
    // A damaged column costs that column of that hour and no more.
    flip(&store, 1, T0 + HOUR_MS).await;
    let reading = store.read(agent.host, Wanted::All, T0 + HOUR_MS, T0 + 2 * HOUR_MS, 0).await.unwrap();
    assert_eq!((reading.damaged.len(), reading.series.len()), (1, 3));
}

async fn many_late_parts_become_one(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    for seq in 0..12 {
        store.push(vec![agent.arriving(seq, 3)]).await.unwrap();
        store.compact(AFTER_MS, LONG).await.unwrap();
        let (pushed, merged) = rows(&store).await;
        assert!(pushed == 0 && merged <= 4, "{pushed} {merged}");
    }
    let all: Vec<Arriving> = (0..12).map(|seq| agent.arriving(seq, 3)).collect();
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&all)));
}

async fn retention_deletes_what_is_old_and_nothing_else(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    store.compact(T0 + HOUR_MS + 300_000, LONG).await.unwrap();
    let retention = Retention { full_ms: HOUR_MS, ..Retention::default() };
    // The first hour is merged, the second is not: of that, only what also arrived that long ago goes.
    let report = store.retain(T0 + 2 * HOUR_MS + 600_000, retention, LONG).await.unwrap();
    assert!(report.finished);
    assert_eq!(report.blocks, 1 + 19);
    let kept: Vec<Arriving> = blocks(agent).into_iter().filter(|a| a.received_ms >= T0 + HOUR_MS + 600_000).collect();
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&kept)));
    // What was deleted is not taken again: its receipt stays.
    assert!(!store.push(vec![agent.arriving(0, 3)]).await.unwrap()[0].stored);
    let report = store.retain(T0 + 2 * HOUR_MS + 600_000, retention, LONG).await.unwrap();
    assert_eq!(report, RetainReport { finished: true, ..RetainReport::default() });
}

async fn a_round_out_of_time_goes_on_next_time(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    let report = store.compact(AFTER_MS, Duration::ZERO).await.unwrap();
    assert!(!report.finished && report.merges == 0);
    assert!(store.compact(AFTER_MS, LONG).await.unwrap().finished);
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&blocks(agent))));
}

async fn reading_while_hours_are_merged_misses_nothing(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(blocks(agent)).await.unwrap();
    let reader = place.open().await;
    let reading = tokio::spawn(async move {
        let want = expected(&times_of(&blocks(agent)));
        for _ in 0..15 {
            assert_same(&everything(&reader, agent.host).await, &want);
        }
    });
    store.compact(AFTER_MS, LONG).await.unwrap();
    reading.await.unwrap();
    assert_eq!(rows(&store).await, (0, 3));
}

async fn a_very_wide_hour_becomes_several_rows(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let wide = Layout { metrics: (0..600).map(|i| Metric::of(Id::LogHits, &format!("rule-{i}"))).collect() };
    let dictionary = Dictionary { layouts: vec![wide.clone()], entities: vec![agent.record("wide")] };
    // An hour at one second.
    let mut arriving = agent.made(0, T0, 3600, &wide, dictionary);
    arriving.header.step_ms = 1000;
    let mut block = Block::decode(&arriving.bytes, |_| None).unwrap().0;
    block.header.step_ms = 1000;
    arriving.bytes = block.encode(|_| Some(&wide)).unwrap();
    store.push(vec![arriving.clone()]).await.unwrap();
    let before = everything(&store, agent.host).await;
    let report = store.compact(AFTER_MS, LONG).await.unwrap();
    assert_eq!((report.merges, report.samples), (1, arriving.values));
    assert_eq!(rows(&store).await, (0, 3));
    assert_same(&everything(&store, agent.host).await, &before);
}

async fn a_clock_set_back_keeps_both_samples(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let again =
        [agent.arriving_at(0, T0, 3), agent.arriving_at(1, T0 + 10_000, 3), agent.arriving_at(2, T0 + 5_000, 3)];
    store.push(again.to_vec()).await.unwrap();
    let before = everything(&store, agent.host).await;
    assert_eq!(before[&("cpu_used_ratio".into(), String::new())].len(), 9);
    store.compact(AFTER_MS, LONG).await.unwrap();
    assert_same(&everything(&store, agent.host).await, &before);
}

/// The server's clock goes half a day ahead and back between blocks, and its housekeeping goes by it.
async fn a_server_clock_that_jumps_keeps_every_sample_once(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(vec![agent.arriving(0, 3)]).await.unwrap();
    for (index, some) in blocks(agent).chunks(13).enumerate() {
        let jump_ms = [0, 12 * HOUR_MS, -12 * HOUR_MS, 1][index % 4];
        let at = |mut arriving: Arriving| {
            arriving.received_ms += jump_ms;
            arriving
        };
        let now_ms = some[0].received_ms + jump_ms;
        store.push(some.iter().cloned().map(at).collect()).await.unwrap();
        // What was stored is acknowledged again, whatever the clock says by now.
        let again = store.push(some[..3].to_vec()).await.unwrap();
        assert!(again.iter().all(|outcome| !outcome.stored && outcome.refused.is_none()));
        store.compact(now_ms, LONG).await.unwrap();
        store.retain(now_ms, super::super::Retention::default(), LONG).await.unwrap();
    }
    store.compact(AFTER_MS + 24 * HOUR_MS, LONG).await.unwrap();
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&blocks(agent))));
    // Each is once in the sums too.
    let counted = |step_ms| {
        let (store, host) = (store.clone(), agent.host);
        async move {
            let wanted = Wanted::Metrics(vec!["net_rx_bytes".to_owned()]);
            let reading = store.read(host, wanted, T0 - 300_000, T0 + 4 * HOUR_MS, step_ms).await.unwrap();
            reading.series.iter().flat_map(|series| &series.points).map(|point| point.1).sum::<f64>()
        }
    };
    let sent: f64 = times_of(&blocks(agent)).iter().map(|time| value(3, *time)).sum();
    assert_eq!((counted(300_000).await, counted(10_000).await), (sent, sent));
}
