//! What was acknowledged is stored exactly once, and read back as it was.

use diesel::connection::SimpleConnection;
use forewarn_common::block::{EngineEvent, EventKind, KeywordHit, LogSample};
use forewarn_common::keyword::Severity;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::model::host::Host;
use crate::model::series::SeriesKey;

on_both_engines!(
    a_block_sent_twice_is_stored_once,
    any_order_and_any_grouping_stores_each_block_once,
    what_a_restarted_server_receives_again_is_not_stored_again,
    a_storm_of_blocks_goes_in_by_batches,
    damaged_layouts_entities_and_receipts_stop_nobody_and_come_again,
    unknown_layouts_and_entities_are_asked_for_until_they_come,
    a_changed_entity_replaces_its_record,
    the_last_values_are_those_of_the_newest_block,
    keyword_hits_and_events_come_back_as_they_were,
    reading_by_steps_means_gauges_and_sums_increments,
    only_wanted_series_within_the_span_are_read,
    impossible_blocks_are_refused_alone,
    several_servers_take_blocks_of_one_host,
    what_a_clock_wrote_that_was_set_back_since_gives_way,
    a_wrong_clock_is_stored_under_corrected_time,
    impossible_times_of_values_and_hits_are_bounded,
    the_lines_of_a_storm_of_hits_are_bounded_and_their_counts_kept,
);

async fn a_block_sent_twice_is_stored_once(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let first = store.push(vec![agent.arriving(0, 3)]).await.unwrap();
    assert_eq!(first, vec![PushOutcome { stored: true, ..PushOutcome::default() }]);
    let again = store.push(vec![agent.arriving(0, 3), agent.arriving(1, 3), agent.arriving(1, 3)]).await.unwrap();
    assert_eq!(again.iter().map(|outcome| outcome.stored).collect::<Vec<_>>(), [false, true, false]);
    let all = [agent.arriving(0, 3), agent.arriving(1, 3)];
    assert_same(&everything(&store, agent.host).await, &expected(&times_of(&all)));
}

/// Runs a property over a real store: few cases, each a new host, on a fixed seed that is printed when it fails.
fn cases<S: Strategy>(count: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    TestRunner::new_with_rng(config, rng).run(strategy, test).unwrap();
}

async fn any_order_and_any_grouping_stores_each_block_once(place: Place) {
    let store = place.open().await;
    let runtime = tokio::runtime::Handle::current();
    let next = std::cell::Cell::new(1_u8);
    // Block numbers with repetitions, in any order, cut into requests.
    let strategy = proptest::collection::vec(proptest::collection::vec(0_u64..12, 1..5), 1..8);
    tokio::task::block_in_place(|| {
        cases(12, &strategy, |requests| {
            let agent = Agent::new(next.replace(next.get() + 1));
            let mut seen = std::collections::BTreeSet::new();
            for request in requests {
                let fresh: Vec<bool> = request.iter().map(|seq| seen.insert(*seq)).collect();
                let arrivals = request.iter().map(|seq| agent.arriving(*seq, 3)).collect();
                let outcomes = runtime.block_on(store.push(arrivals)).unwrap();
                let stored: Vec<bool> = outcomes.iter().map(|outcome| outcome.stored).collect();
                prop_assert_eq!(stored, fresh);
            }
            let all: Vec<Arriving> = seen.iter().map(|seq| agent.arriving(*seq, 3)).collect();
            prop_assert_eq!(runtime.block_on(everything(&store, agent.host)), expected(&times_of(&all)));
            Ok(())
        });
    });
}

async fn what_a_restarted_server_receives_again_is_not_stored_again(place: Place) {
    let agent = Agent::new(1);
    place.open().await.push(vec![agent.arriving(0, 3), agent.arriving(2, 3)]).await.unwrap();
    let restarted = place.open().await;
    let outcomes = restarted.push((0..4).map(|seq| agent.arriving(seq, 3)).collect()).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.stored).collect::<Vec<_>>(), [false, true, false, true]);
    // The layout came in an earlier life: nothing has to be asked for.
    assert!(outcomes.iter().all(|outcome| outcome.unknown_layouts.is_empty() && outcome.unknown_entities.is_empty()));
}

async fn a_storm_of_blocks_goes_in_by_batches(place: Place) {
    let store = place.open().await;
    // More rows than one INSERT takes, from several hosts, in one transaction.
    let agents: Vec<Agent> = (1..5).map(Agent::new).collect();
    let arrivals: Vec<Arriving> =
        agents.iter().flat_map(|agent| (0..300).map(move |seq| agent.arriving(seq, 3))).collect();
    let outcomes = store.push(arrivals.clone()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.stored));
    let again = store.push(arrivals).await.unwrap();
    assert!(again.iter().all(|outcome| !outcome.stored));
    for agent in agents {
        let all: Vec<Arriving> = (0..300).map(|seq| agent.arriving(seq, 3)).collect();
        assert_same(&everything(&store, agent.host).await, &expected(&times_of(&all)));
    }
}

async fn damaged_layouts_entities_and_receipts_stop_nobody_and_come_again(place: Place) {
    let (agent, other) = (Agent::new(1), Agent::new(2));
    let store = place.open().await;
    store.push(vec![agent.arriving(0, 3), other.arriving(0, 3)]).await.unwrap();
    let spoil = "UPDATE layout SET bytes = X'FF00FF'; UPDATE entity SET record = X'FF00FF';
                 UPDATE receipt SET ranges = X'FF00FF'";
    for statement in spoil.split(';') {
        store.inner.pool.bare(move |c| Ok(c.batch_execute(statement)?)).await.unwrap();
    }
    // One that has no memory of how it was.
    let restarted = place.open().await;
    assert!(restarted.entities(None).await.unwrap().is_empty());
    assert!(everything(&restarted, agent.host).await.is_empty(), "what no layout names cannot be read yet");
    let silent = agent.made(1, T0 + 30_000, 3, &layout(), Dictionary::default());
    let asked = restarted.push(vec![silent]).await.unwrap().pop().unwrap();
    assert!(asked.stored);
    assert_eq!((asked.unknown_layouts, asked.unknown_entities), (vec![layout().id()], vec![agent.entity()]));
    let report = restarted.compact(T0 + 3 * HOUR_MS, std::time::Duration::from_secs(60)).await.unwrap();
    assert!(report.finished, "merging goes on with the others");

    let outcomes = restarted.push(vec![agent.arriving(2, 3), other.arriving(1, 3)]).await.unwrap();
    assert!(outcomes.iter().all(|o| o.stored && o.unknown_layouts.is_empty() && o.unknown_entities.is_empty()));
    let all: Vec<Arriving> = (0..3).map(|seq| agent.arriving(seq, 3)).collect();
    for store in [restarted, place.open().await] {
        assert_same(&everything(&store, agent.host).await, &expected(&times_of(&all)));
        assert_eq!(store.entities(None).await.unwrap().len(), 2);
    }
}

async fn unknown_layouts_and_entities_are_asked_for_until_they_come(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let silent = |seq| agent.made(seq, T0 + seq as i64 * 30_000, 3, &layout(), Dictionary::default());
    for seq in 0..2 {
        let outcome = store.push(vec![silent(seq)]).await.unwrap().pop().unwrap();
        assert!(outcome.stored);
        assert_eq!(outcome.unknown_layouts, [layout().id()]);
        assert_eq!(outcome.unknown_entities, [agent.entity()]);
    }
    assert!(everything(&store, agent.host).await.is_empty());
    let told = store.push(vec![agent.arriving(2, 3)]).await.unwrap().pop().unwrap();
    assert_eq!((told.unknown_layouts.len(), told.unknown_entities.len()), (0, 0));
    // What came before its layout can be read now.
    let times: Vec<i64> = (0..9).map(|tick| T0 + tick * STEP_MS).collect();
    assert_same(&everything(&store, agent.host).await, &expected(&times));
}

async fn a_changed_entity_replaces_its_record(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push(vec![agent.arriving(0, 3)]).await.unwrap();
    let mut renamed = agent.arriving(1, 3);
    renamed.dictionary.entities = vec![agent.record("plant-3-新")];
    store.push(vec![renamed]).await.unwrap();
    let entities = store.entities(Some(agent.host)).await.unwrap();
    assert_eq!(entities.len(), 1);
    assert_eq!(entities[0].entity, agent.record("plant-3-新"));
    assert!(entities[0].updated_ms > entities[0].first_ms);
    assert!(store.entities(Some(Agent::new(2).host)).await.unwrap().is_empty());
}

async fn the_last_values_are_those_of_the_newest_block(place: Place) {
    let (store, agent, other) = (place.open().await, Agent::new(1), Agent::new(2));
    // After an outage the newest block comes first, the backlog later.
    store.push(vec![agent.arriving(9, 3), other.arriving(0, 3)]).await.unwrap();
    store.push(vec![agent.arriving(1, 3)]).await.unwrap();
    let mut all = store.latest_all().await.unwrap();
    all.sort_by_key(|latest| latest.host);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].at_ms, agent.arriving(9, 3).urgent.at_ms);
    assert_eq!(all[0].values, agent.arriving(9, 3).urgent.last);
    assert_eq!(store.latest(other.host).await.unwrap().unwrap().values, other.arriving(0, 3).urgent.last);
}

async fn keyword_hits_and_events_come_back_as_they_were(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let mut arriving = agent.arriving(0, 3);
    let hit = KeywordHit {
        entity: agent.entity(),
        rule: "database_timeout".into(),
        severity: Severity::Critical,
        count: 4_000_000_000,
        first_ms: T0 + 5,
        last_ms: T0 + 700,
        samples: vec![LogSample {
            at_ms: T0 + 5,
            line: "ERROR 数据库连接超时 \u{1F525} \\ ' \" \0 \u{7f}".into(),
            before: vec![String::new(), "before".into()],
            after: vec!["after".into()],
        }],
    };
    let event = EngineEvent {
        entity: agent.entity(),
        at_ms: T0 + 900,
        kind: EventKind::Die,
        code: -9,
        detail: "c0ffee".into(),
    };
    arriving.urgent.hits = vec![hit.clone(), KeywordHit { rule: "crash".into(), last_ms: T0 + 600, ..hit.clone() }];
    arriving.urgent.events = vec![event.clone(), event.clone()];
    store.push(vec![arriving.clone()]).await.unwrap();
    store.push(vec![arriving]).await.unwrap();
    let hits = store.hits(None, T0, T0 + 1000, 10).await.unwrap();
    assert_eq!(hits.len(), 2);
    assert_eq!(hits[0], StoredHit { host: agent.host, hit });
    assert_eq!(store.hits(Some(agent.host), T0, T0 + 700, 10).await.unwrap().len(), 1);
    assert_eq!(store.hits(Some(Agent::new(2).host), T0, T0 + 1000, 10).await.unwrap(), []);
    assert_eq!(store.hits(None, T0, T0 + 1000, 1).await.unwrap().len(), 1);
    let events = store.events(Some(agent.host), T0, T0 + 1000, 10).await.unwrap();
    assert_eq!(
        events,
        vec![StoredEvent { host: agent.host, event: event.clone() }, StoredEvent { host: agent.host, event }]
    );
}

async fn reading_by_steps_means_gauges_and_sums_increments(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..40).map(|seq| agent.arriving(seq, 3)).collect()).await.unwrap();
    let reading = store.read(agent.host, Wanted::All, T0, T0 + 1_200_000, 300_000).await.unwrap();
    let of = |name: &str, instance: &str| {
        let found = reading.series.iter().find(|p| p.info.key.metric == name && p.info.key.instance == instance);
        found.unwrap().points.clone()
    };
    for bucket in 0..4 {
        let from = T0 + bucket * 300_000;
        let values = |metric: usize| -> Vec<f64> {
            // A bucket holds its end and not its begin; the last sample is that of tick 119.
            let ticks = 1..=30.min(119 - bucket * 30);
            ticks.map(|tick| value(metric, from + tick * STEP_MS)).filter(|v| !v.is_nan()).collect()
        };
        let (gauge, sparse, sum) = (values(0), values(2), values(3));
        let near =
            |a: (i64, f64), time: i64, b: f64| assert!(a.0 == time && (a.1 - b).abs() < 1e-9, "{a:?} {time} {b}");
        let index = bucket as usize;
        let end = from + 300_000;
        near(of("cpu_used_ratio", "")[index], end, gauge.iter().sum::<f64>() / gauge.len() as f64);
        near(of("fs_used_ratio", "/data")[index], end, sparse.iter().sum::<f64>() / sparse.len() as f64);
        near(of("net_rx_bytes", "eth0")[index], end, sum.iter().sum());
    }
}

async fn only_wanted_series_within_the_span_are_read(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..20).map(|seq| agent.arriving(seq, 3)).collect()).await.unwrap();
    let key =
        SeriesKey { host: agent.host, entity: agent.entity(), metric: "fs_used_ratio".into(), instance: "/".into() };
    let (from, to) = (T0 + 45_000, T0 + 95_000);
    let reading = store.read(agent.host, Wanted::Series(vec![key.clone()]), from, to, 0).await.unwrap();
    assert_eq!(reading.series.len(), 1);
    assert_eq!(reading.series[0].info.key, key);
    let times: Vec<i64> = reading.series[0].points.iter().map(|point| point.0).collect();
    assert_eq!(times, [T0 + 50_000, T0 + 60_000, T0 + 70_000, T0 + 80_000, T0 + 90_000]);
    let named = store.read(agent.host, Wanted::Metrics(vec!["fs_used_ratio".into()]), from, to, 0).await.unwrap();
    assert_eq!(named.series.len(), 2);
    assert_eq!(store.series(agent.host, T0).await.unwrap().len(), 4);
    assert!(store.series(agent.host, T0 + 3 * HOUR_MS).await.unwrap().is_empty());
    assert!(matches!(store.read(agent.host, Wanted::All, 0, T0, 1).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.read(agent.host, Wanted::All, T0, T0, 0).await, Err(StoreError::Refused(_))));
}

async fn impossible_blocks_are_refused_alone(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let mut endless = agent.arriving(0, 3);
    endless.header.step_ms = u32::MAX;
    let mut timeless = agent.arriving(1, 3);
    timeless.corrected_start_ms = -5;
    let future = agent.arriving_at(3, T0 + 90 * 24 * HOUR_MS, 3);
    let future = Arriving { received_ms: T0, ..future };
    let outcomes = store.push(vec![endless, agent.arriving(2, 3), timeless, future]).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.stored).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(outcomes.iter().map(|outcome| outcome.refused.is_some()).collect::<Vec<_>>(), [true, false, true, true]);
    // A refused number was not received: sound bytes under it are taken.
    assert!(store.push(vec![agent.arriving(0, 3)]).await.unwrap()[0].stored);
}

async fn several_servers_take_blocks_of_one_host(place: Place) {
    let agent = Agent::new(1);
    let mut tasks = tokio::task::JoinSet::new();
    for server in 0..4_u64 {
        let store = place.open().await;
        tasks.spawn(async move {
            let mut stored = 0;
            // Each sends all, in its own order: every block must be stored by exactly one of them.
            for turn in 0..20_u64 {
                let seq = (turn * 7 + server * 5) % 20;
                stored += usize::from(store.push(vec![agent.arriving(seq, 3)]).await.unwrap()[0].stored);
            }
            stored
        });
    }
    let stored: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(stored, 20);
    let all: Vec<Arriving> = (0..20).map(|seq| agent.arriving(seq, 3)).collect();
    assert_same(&everything(&place.open().await, agent.host).await, &expected(&times_of(&all)));
}

async fn a_wrong_clock_is_stored_under_corrected_time(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let mut arriving = agent.arriving(0, 3);
    let day_ms = 24 * HOUR_MS;
    arriving.skew_ms = -day_ms;
    arriving.corrected_start_ms += day_ms;
    arriving.received_ms += day_ms;
    store.push(vec![arriving.clone()]).await.unwrap();
    let reading = store.read(agent.host, Wanted::All, T0 + day_ms, T0 + day_ms + 30_000, 0).await.unwrap();
    assert_eq!(reading.series.len(), 4);
    assert_eq!(store.latest(agent.host).await.unwrap().unwrap().at_ms, arriving.urgent.at_ms + day_ms);
}

async fn what_a_clock_wrote_that_was_set_back_since_gives_way(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let day_ms = 24 * HOUR_MS;
    let (id, name, component, agent_version) = (agent.host, "h".into(), String::new(), String::new());
    let host = Host { id, name, component, enrolled_ms: T0, seen_ms: 0, skew_ms: 0, agent_version };
    store.host_enroll(&host, [1; 32]).await.unwrap();
    let mut ahead = agent.arriving(0, 3);
    (ahead.skew_ms, ahead.received_ms) = (-day_ms, ahead.received_ms + day_ms);
    ahead.corrected_start_ms += day_ms;
    store.push(vec![ahead]).await.unwrap();
    let now = agent.arriving(1, 3);
    store.push(vec![now.clone()]).await.unwrap();
    let host = store.host(agent.host).await.unwrap().unwrap();
    assert_eq!((host.seen_ms, host.skew_ms), (now.received_ms, 0));
    let latest = store.latest(agent.host).await.unwrap().unwrap();
    assert_eq!((latest.at_ms, latest.values), (now.urgent.at_ms, now.urgent.last));
    // A moment is no jump: several servers are never quite of one time.
    let mut earlier = agent.arriving(2, 3);
    earlier.received_ms = now.received_ms - 60_000;
    earlier.urgent.at_ms = now.urgent.at_ms - 30_000;
    earlier.corrected_start_ms -= 60_000;
    store.push(vec![earlier]).await.unwrap();
    assert_eq!(store.latest(agent.host).await.unwrap().unwrap().at_ms, now.urgent.at_ms);
}

async fn impossible_times_of_values_and_hits_are_bounded(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let mut wild = agent.arriving(0, 3);
    wild.urgent.at_ms = i64::MAX;
    wild.urgent.events = vec![EngineEvent {
        entity: agent.entity(),
        at_ms: i64::MAX,
        kind: EventKind::Start,
        code: 0,
        detail: String::new(),
    }];
    store.push(vec![wild]).await.unwrap();
    store.push(vec![agent.arriving(1, 3)]).await.unwrap();
    let latest = store.latest(agent.host).await.unwrap().unwrap();
    assert_eq!((latest.at_ms, latest.values), (T0 + 50_000, agent.arriving(1, 3).urgent.last));
    assert_eq!(store.events(None, T0, T0 + HOUR_MS, 10).await.unwrap().len(), 1);
}

async fn the_lines_of_a_storm_of_hits_are_bounded_and_their_counts_kept(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let mut storm = agent.arriving(0, 3);
    let line = "错".repeat(680);
    let sample = LogSample { at_ms: T0, line: line.clone(), before: vec![line.clone(); 20], after: vec![line; 10] };
    let hit = |rule: usize| KeywordHit {
        entity: agent.entity(),
        rule: format!("rule-{rule}"),
        severity: Severity::Info,
        count: 7,
        first_ms: T0,
        last_ms: T0 + 1,
        samples: vec![sample.clone(); 3],
    };
    storm.urgent.hits = (0..40).map(hit).collect();
    store.push(vec![storm]).await.unwrap();
    let hits = store.hits(None, T0, T0 + 10, 100).await.unwrap();
    assert_eq!(hits.iter().map(|stored| stored.hit.count).sum::<u64>(), 40 * 7);
    let with_lines = hits.iter().filter(|stored| !stored.hit.samples.is_empty()).count();
    assert!((3..10).contains(&with_lines), "{with_lines}");
}
