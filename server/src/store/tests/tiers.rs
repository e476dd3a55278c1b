//! The coarser tiers say exactly what can be computed from the samples, whatever the order in which they came.

use std::time::Duration;

use diesel::prelude::*;
use forewarn_common::block::round;
use forewarn_common::id::LayoutId;
use forewarn_common::metric::Kind;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::column::Row;
use super::super::schema::block;
use super::super::summary::{DAY_STEP_MS, MONTH_STEP_MS, Sum, Sums, bucket_end};
use super::*;

const LONG: Duration = Duration::from_secs(120);
const DAY_MS: i64 = 24 * HOUR_MS;

on_both_engines!(
    any_arrival_order_gives_the_same_days_and_months,
    a_day_is_put_together_once_it_is_settled_and_not_before,
    late_blocks_of_a_finished_month_count_once,
    each_tier_is_kept_as_long_as_it_should_be,
    coarse_reads_reach_beyond_full_resolution,
    a_damaged_day_is_told_and_the_rest_goes_on,
    the_cache_of_rows_changes_nothing,
    the_fleet_is_ranked_over_days_parts_and_fresh_blocks,
);

/// Block `seq` of a host that sends one block of three ticks every seven minutes.
fn sparse(agent: Agent, seq: u64) -> Arriving {
    agent.arriving_at(seq, T0 + seq as i64 * 420_000, 3)
}

/// How many rows each tier has.
async fn rows(store: &Store) -> [i64; 6] {
    let count = |connection: &mut connection::Conn| {
        let mut counts = [0; 6];
        for (tier, count) in (0_i16..).zip(&mut counts) {
            *count = block::table.filter(block::tier.eq(tier)).count().get_result(connection)?;
        }
        Ok(counts)
    };
    store.inner.pool.read(count).await.unwrap()
}

/// Sums of every column and bucket: count, and the bits of sum, least, greatest and last.
type Told = BTreeMap<(usize, i64), (u32, u64, u64, u64, u64)>;

fn tell(all: &[(i64, Vec<Sum>)]) -> Told {
    let mut told = Told::new();
    for (end_ms, sums) in all {
        for (index, (sum, metric)) in sums.iter().zip(&layout().metrics).enumerate().filter(|(_, (s, _))| s.count > 0) {
            let total = round(sum.sum, metric.decimals).to_bits();
            let rest = match metric.kind {
                Kind::Gauge => (sum.min.to_bits(), sum.max.to_bits(), sum.last.to_bits()),
                // Of an increment the greatest is kept, the least and the last are not.
                Kind::Increment => (0, sum.max.to_bits(), 0),
            };
            told.insert((index, *end_ms), (sum.count, total, rest.0, rest.1, rest.2));
        }
    }
    told
}

/// What the rows of these tiers say together.
async fn stored(store: &Store, host: HostId, tiers: &'static [i16], step_ms: i64) -> Told {
    let load = move |connection: &mut connection::Conn| {
        let rows = block::table.filter(block::host.eq(host.0.to_vec())).filter(block::tier.eq_any(tiers));
        Ok(rows.select((block::tier, block::bytes)).load::<(i16, Vec<u8>)>(connection)?)
    };
    let mut all = Sums::default();
    for (tier, bytes) in store.inner.pool.read(load).await.unwrap() {
        let row = Row::parse(&bytes).unwrap();
        row.verify().unwrap();
        for group in row.groups() {
            assert_eq!(group.layout, layout().id());
            let own_ms = if tier < 4 { DAY_STEP_MS } else { MONTH_STEP_MS };
            all.join(&Sums::of(&row, group, &layout(), own_ms).unwrap(), step_ms);
        }
    }
    tell(&all.buckets())
}

/// What must be said of these samples, computed one by one.
fn computed(times: &[i64], step_ms: i64) -> Told {
    let mut told = Told::new();
    let mut times = times.to_vec();
    times.sort_unstable();
    for (index, metric) in layout().metrics.iter().enumerate() {
        let mut buckets: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for time in &times {
            let value = value(index, *time);
            if !value.is_nan() {
                buckets.entry(bucket_end(*time, step_ms)).or_default().push(round(value, metric.decimals));
            }
        }
        for (end_ms, values) in buckets {
            let (least, greatest) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            let sum = round(values.iter().sum(), metric.decimals).to_bits();
            let last = values[values.len() - 1].to_bits();
            let rest = match metric.kind {
                Kind::Gauge => (least.to_bits(), greatest.to_bits(), last),
                Kind::Increment => (0, greatest.to_bits(), 0),
            };
            told.insert((index, end_ms), (values.len() as u32, sum, rest.0, rest.1, rest.2));
        }
    }
    told
}

/// Everything that was pushed and merged is told by both coarser tiers, and full resolution has lost nothing.
async fn assert_told(store: &Store, agent: Agent, seen: &std::collections::BTreeSet<u64>) {
    let all: Vec<Arriving> = seen.iter().map(|seq| sparse(agent, *seq)).collect();
    let times = times_of(&all);
    assert_same(&everything(store, agent.host).await, &expected(&times));
    assert_eq!(stored(store, agent.host, &[2, 3], DAY_STEP_MS).await, computed(&times, DAY_STEP_MS));
    assert_eq!(stored(store, agent.host, &[2, 4, 5], MONTH_STEP_MS).await, computed(&times, MONTH_STEP_MS));
}

async fn any_arrival_order_gives_the_same_days_and_months(place: Place) {
    let stores = [place.open().await, place.open().await];
    stores[1].set_cache_bytes(1 << 20);
    let runtime = tokio::runtime::Handle::current();
    let next = std::cell::Cell::new(1_u8);
    // Rounds of blocks of three days in any order with repetitions and gaps; after each, one or two servers compact.
    let round = (proptest::collection::vec(0_u64..600, 1..60), any::<bool>());
    let strategy = proptest::collection::vec(round, 1..5);
    let cases = if place.is_mysql() { 4 } else { 8 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[4; 32]);
    tokio::task::block_in_place(|| {
        TestRunner::new_with_rng(config, rng)
            .run(&strategy, |rounds| {
                let agent = Agent::new(next.replace(next.get() + 1));
                let mut seen = std::collections::BTreeSet::new();
                for (turn, (seqs, racing)) in rounds.into_iter().enumerate() {
                    let arrivals = seqs.iter().map(|seq| sparse(agent, *seq)).collect();
                    runtime.block_on(stores[turn % 2].push(arrivals)).unwrap();
                    seen.extend(seqs);
                    // Later each round: days first, then the month.
                    let now_ms = T0 + 5 * DAY_MS + turn as i64 * 12 * DAY_MS;
                    runtime.block_on(async {
                        let first = stores[0].compact(now_ms, LONG);
                        if racing {
                            let (first, second) = tokio::join!(first, stores[1].compact(now_ms, LONG));
                            assert!(first.unwrap().damaged.is_empty() && second.unwrap().damaged.is_empty());
                        } else {
                            assert!(first.await.unwrap().damaged.is_empty());
                        }
                        // Who lost a race leaves work for the next round.
                        stores[1].compact(now_ms, LONG).await.unwrap();
                        assert_told(&stores[0], agent, &seen).await;
                    });
                    let [pushed, _, day_parts, ..] = runtime.block_on(rows(&stores[0]));
                    prop_assert_eq!((pushed, day_parts), (0, 0));
                }
                Ok(())
            })
            .unwrap();
    });
}

async fn a_day_is_put_together_once_it_is_settled_and_not_before(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..206).map(|seq| sparse(agent, seq)).collect()).await.unwrap();
    store.compact(T0 + DAY_MS + 1_000_000, LONG).await.unwrap();
    assert_eq!(rows(&store).await, [0, 24, 24, 0, 0, 0]);
    let report = store.compact(T0 + DAY_MS + 2 * HOUR_MS, LONG).await.unwrap();
    assert_eq!((report.folds, rows(&store).await), (1, [0, 24, 0, 1, 1, 0]));
    assert_told(&store, agent, &(0..206).collect()).await;
    // Nothing is left to do.
    let again = store.compact(T0 + DAY_MS + 2 * HOUR_MS, LONG).await.unwrap();
    assert_eq!(again, CompactReport { finished: true, ..CompactReport::default() });
}

async fn late_blocks_of_a_finished_month_count_once(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let later_ms = T0 + 70 * DAY_MS;
    let on_time: Vec<u64> = (0..400).filter(|seq| seq % 5 != 0).collect();
    store.push(on_time.iter().map(|seq| sparse(agent, *seq)).collect()).await.unwrap();
    store.compact(later_ms, LONG).await.unwrap();
    assert_eq!(rows(&store).await[2..], [0, 2, 0, 1]);
    let late = |seq| Arriving { received_ms: later_ms, ..sparse(agent, seq) };
    let all = (0..400).collect();
    store.push((0..400).map(late).collect()).await.unwrap();
    store.compact(later_ms + 1, LONG).await.unwrap();
    assert_told(&store, agent, &all).await;
    store.compact(later_ms + 3 * HOUR_MS, LONG).await.unwrap();
    assert_told(&store, agent, &all).await;
    assert_eq!(rows(&store).await[2..], [0, 2, 0, 1]);
}

async fn each_tier_is_kept_as_long_as_it_should_be(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..600).map(|seq| sparse(agent, seq)).collect()).await.unwrap();
    let now_ms = T0 + 40 * DAY_MS;
    store.compact(now_ms, LONG).await.unwrap();
    let before = rows(&store).await;
    assert_eq!(before[3..], [3, 0, 1]);
    let long = Retention { full_ms: 60 * DAY_MS, day_ms: 60 * DAY_MS, month_ms: 60 * DAY_MS, ..Retention::default() };
    store.retain(now_ms, long, LONG).await.unwrap();
    assert_eq!(rows(&store).await, before);
    store.retain(now_ms, Retention { full_ms: DAY_MS, ..long }, LONG).await.unwrap();
    assert_eq!(rows(&store).await, [0, 0, 0, 3, 0, 1]);
    store.retain(now_ms, Retention { full_ms: DAY_MS, day_ms: 39 * DAY_MS, ..long }, LONG).await.unwrap();
    assert_eq!(rows(&store).await, [0, 0, 0, 2, 0, 1]);
    let none = Retention { full_ms: DAY_MS, day_ms: DAY_MS, month_ms: DAY_MS, ..long };
    store.retain(now_ms, none, LONG).await.unwrap();
    assert_eq!(rows(&store).await, [0; 6]);
    // What comes so late that full resolution would not keep it is not lost: it is summed first.
    let late = Arriving { received_ms: now_ms, ..sparse(agent, 700) };
    store.push(vec![late]).await.unwrap();
    store.retain(now_ms, Retention { full_ms: DAY_MS, ..long }, LONG).await.unwrap();
    store.compact(now_ms, LONG).await.unwrap();
    store.retain(now_ms, Retention { full_ms: DAY_MS, ..long }, LONG).await.unwrap();
    assert_eq!(rows(&store).await, [0, 0, 1, 0, 0, 0]);
}

async fn coarse_reads_reach_beyond_full_resolution(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    let all: Vec<Arriving> = (0..600).map(|seq| sparse(agent, seq)).collect();
    let times = times_of(&all);
    store.push(all).await.unwrap();
    let end_ms = T0 + 4 * DAY_MS;
    let read = async |step_ms| {
        let natural = store.read(agent.host, Wanted::All, T0 - DAY_MS, end_ms, step_ms).await.unwrap();
        let means = store.means(agent.host, Wanted::All, T0 - DAY_MS, end_ms, step_ms).await.unwrap();
        assert!(natural.damaged.is_empty() && means.damaged.is_empty());
        [natural.series, means.series]
    };
    let steps = [DAY_STEP_MS, 3 * DAY_STEP_MS, MONTH_STEP_MS, 6 * MONTH_STEP_MS];
    let mut before = Vec::new();
    for step_ms in steps {
        before.push(read(step_ms).await);
    }
    let cpu = computed(&times, DAY_STEP_MS).into_iter().filter(|((metric, _), _)| *metric == 0);
    let cpu: Vec<(i64, f64)> =
        cpu.map(|((_, end_ms), (count, sum, ..))| (end_ms, f64::from_bits(sum) / f64::from(count))).collect();
    let near = |a: &[(i64, f64)], b: &[(i64, f64)]| {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= 1e-9 * b.1.abs().max(1.0)));
    };
    near(&before[0][0][0].points, &cpu);
    store.compact(T0 + 3 * DAY_MS, LONG).await.unwrap();
    let check = async || {
        for (step_ms, before) in steps.into_iter().zip(&before) {
            for (now, before) in read(step_ms).await.iter().zip(before) {
                assert_eq!(now.len(), 4);
                now.iter().zip(before).for_each(|(now, before)| near(&now.points, &before.points));
            }
        }
    };
    check().await;
    // Days, parts and pushed blocks, with full resolution gone where it may.
    store.retain(T0 + 4 * DAY_MS, Retention { full_ms: DAY_MS, ..Retention::default() }, LONG).await.unwrap();
    check().await;
    store.compact(T0 + 100 * DAY_MS, LONG).await.unwrap();
    check().await;
}

async fn a_damaged_day_is_told_and_the_rest_goes_on(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..400).map(|seq| sparse(agent, seq)).collect()).await.unwrap();
    store.compact(T0 + 3 * DAY_MS, LONG).await.unwrap();
    let flip = |connection: &mut connection::Conn| {
        let row = block::table.filter(block::tier.eq(3_i16)).filter(block::start_ms.eq(T0));
        let mut bytes: Vec<u8> = row.select(block::bytes).first(connection)?;
        bytes[40] ^= 4;
        diesel::update(row).set(block::bytes.eq(bytes)).execute(connection)?;
        Ok(())
    };
    store.inner.pool.write(flip).await.unwrap();
    let reading = store.read(agent.host, Wanted::All, T0, T0 + 3 * DAY_MS, DAY_STEP_MS).await.unwrap();
    assert_eq!((reading.damaged.len(), reading.series.len()), (1, 4));
    assert!(reading.damaged[0].contains(&agent.host.to_string()));
    // A late block of that day makes a day of its own beside the damaged one.
    store.push(vec![agent.arriving_at(1000, T0 + 200_000, 3)]).await.unwrap();
    let report = store.compact(T0 + 4 * DAY_MS, LONG).await.unwrap();
    assert_eq!((report.damaged.len(), rows(&store).await[2..4].to_vec()), (1, vec![0, 3]));
}

async fn the_cache_of_rows_changes_nothing(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    store.push((0..300).map(|seq| sparse(agent, seq)).collect()).await.unwrap();
    store.compact(T0 + 3 * DAY_MS, LONG).await.unwrap();
    let cold = everything(&store, agent.host).await;
    for bytes_max in [1 << 20, 5_000] {
        store.set_cache_bytes(bytes_max);
        for _ in 0..3 {
            assert_same(&everything(&store, agent.host).await, &cold);
        }
    }
    // What was cached and has been merged away since is not read twice.
    store.set_cache_bytes(1 << 20);
    everything(&store, agent.host).await;
    for seq in 0..6 {
        store.push(vec![agent.arriving_at(2000 + seq, T0 + 60_000 + seq as i64 * 60_000, 3)]).await.unwrap();
        store.compact(T0 + 3 * DAY_MS, LONG).await.unwrap();
        let got = everything(&store, agent.host).await;
        assert_eq!(got[&("cpu_used_ratio".into(), String::new())].len() as u64, 900 + 3 * (seq + 1));
    }
}

async fn the_fleet_is_ranked_over_days_parts_and_fresh_blocks(place: Place) {
    let store = place.open().await;
    let layout = Layout { metrics: vec![Metric::of(Id::CpuUsed, "")] };
    for number in 1..=10 {
        let agent = Agent::new(number);
        let host = crate::model::host::Host {
            id: agent.host,
            name: format!("plant-{number}"),
            component: String::new(),
            enrolled_ms: T0,
            seen_ms: 0,
            skew_ms: 0,
            agent_version: String::new(),
        };
        store.host_enroll(&host, [number; 32]).await.unwrap();
        // Host n is at n tenths less three hundredths a day.
        for day in 0..3 {
            let dictionary = Dictionary { layouts: vec![layout.clone()], entities: vec![agent.record("plant")] };
            let mut arriving = agent.made(day, T0 + day as i64 * DAY_MS, 3, &layout, dictionary);
            let mut block = Block::decode(&arriving.bytes, |_| None).unwrap().0;
            block.groups[0].columns[0] = vec![f64::from(number) / 10.0 - 0.03 * day as f64; 3];
            arriving.bytes = block.encode(|_| Some(&layout)).unwrap();
            store.push(vec![arriving]).await.unwrap();
        }
    }
    store.compact(T0 + 2 * DAY_MS, LONG).await.unwrap();
    let span = (T0 - DAY_MS, T0 + 4 * DAY_MS);
    let rank = async |by| store.rank("cpu_used_ratio", by, span, 3, &[0.0, 0.5, 0.9, 1.0]).await.unwrap();
    for (by, off) in [(RankBy::Greatest, 0.0), (RankBy::Last, 0.06), (RankBy::Share(0.5), 0.03)] {
        let ranking = rank(by).await;
        assert_eq!((ranking.series, ranking.top.len(), ranking.damaged.len()), (10, 3, 0));
        let near = |got: f64, want: f64| assert!((got - (want - off)).abs() < 1e-9, "{got} {want}");
        for (place, want) in [1.0, 0.9, 0.8].into_iter().enumerate() {
            near(ranking.top[place].1, want);
            assert_eq!(ranking.top[place].0.host, Agent::new((want * 10.0) as u8).host);
        }
        ranking.quantiles.iter().zip([0.1, 0.5, 0.9, 1.0]).for_each(|(got, want)| near(*got, want));
    }
}

#[test]
fn sums_join_to_the_same_in_any_order_and_through_rows() {
    let times: Vec<i64> = (0..500).map(|tick| T0 + tick * STEP_MS).collect();
    let strategy = (proptest::collection::vec(0_usize..4, 500), proptest::collection::vec(-1e9..1e9_f64, 500));
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let metric = |id| Metric::of(id, "");
    let layout = Layout { metrics: vec![metric(Id::CpuUsed), metric(Id::NetRx), metric(Id::MemUsed)] };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
        .run(&strategy, |(owner, values)| {
            let column = |metric: &Metric| values.iter().map(|v| round(*v, metric.decimals)).collect::<Vec<_>>();
            let columns: Vec<Vec<f64>> = layout.metrics.iter().map(column).collect();
            let mut whole = Sums::default();
            whole.add(&times, &columns, DAY_STEP_MS);
            let mut joined = Sums::default();
            for part in (0..4).rev() {
                let of_part = |all: &[f64]| all.iter().zip(&owner).filter(|p| *p.1 == part).map(|p| *p.0).collect();
                let own: Vec<i64> = times.iter().zip(&owner).filter(|p| *p.1 == part).map(|p| *p.0).collect();
                let mut sums = Sums::default();
                sums.add(&own, &columns.iter().map(|c| of_part(c)).collect::<Vec<_>>(), DAY_STEP_MS);
                let pieces = sums.pieces(EntityId(1), LayoutId(2), &layout, 7);
                let bytes = super::super::column::encode(&pieces).unwrap();
                let row = Row::parse(&bytes).unwrap();
                for group in row.groups() {
                    joined.join(&Sums::of(&row, group, &layout, DAY_STEP_MS).unwrap(), DAY_STEP_MS);
                }
            }
            for ((end_a, a), (end_b, b)) in whole.buckets().iter().zip(&joined.buckets()) {
                prop_assert_eq!(end_a, end_b);
                for ((a, b), metric) in a.iter().zip(b).zip(&layout.metrics) {
                    prop_assert_eq!((a.count, round(a.sum, metric.decimals)), (b.count, round(b.sum, metric.decimals)));
                    prop_assert_eq!(a.max, b.max);
                    if metric.kind == Kind::Gauge {
                        prop_assert_eq!((a.min, a.last, a.last_ms), (b.min, b.last, b.last_ms));
                    }
                }
            }
            prop_assert_eq!(whole.buckets().len(), joined.buckets().len());
            Ok(())
        })
        .unwrap();
}
