//! The grid that forecasts read is the same whether it is made of the samples or read from the day tier.

use std::time::Duration;

use forewarn_common::block::{Block, Dictionary, Group, Header, Layout, Metric, Ticks, Urgent};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::Id;
use forewarn_server::series::{CLOSE_AFTER_MS, Grid, STEP_MS};
use forewarn_server::store::{Arriving, Store, Wanted};

const HOUR_MS: i64 = 3_600_000;
/// 2026-01-01, and seven milliseconds for good measure.
const T0: i64 = 1_767_225_600_000;

fn arriving(seq: u64, phase_ms: i64) -> Arriving {
    let (host, step_ms, ticks) = (HostId([7; 16]), 10_000, 6_u16);
    let start_ms = T0 + phase_ms + seq as i64 * i64::from(ticks) * step_ms;
    let layout = Layout { metrics: vec![Metric::of(Id::CpuUsed, ""), Metric::of(Id::NetRx, "eth0")] };
    let values = |scale: f64| {
        (0..u64::from(ticks)).map(|tick| ((seq * 6 + tick) as f64 * 0.37).sin().abs() * scale).collect::<Vec<_>>()
    };
    let entity = EntityId::of_host(host);
    let columns = vec![values(1.0), values(1e7)];
    let groups = vec![Group { entity, layout: layout.id(), ticks: Ticks::all(ticks), columns }];
    let closed_ms = start_ms + i64::from(ticks) * step_ms;
    let header = Header {
        host,
        epoch: 1,
        seq,
        start_ms,
        step_ms: step_ms as u32,
        ticks,
        boot_id: [1; 16],
        boot_ms: 1,
        closed_ms,
    };
    let dictionary = Dictionary { layouts: vec![layout.clone()], entities: Vec::new() };
    let block = Block { header, urgent: Urgent::default(), dictionary, groups };
    Arriving::in_time(block, &[layout]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_day_tier_makes_the_grid_that_the_samples_make() {
    for phase_ms in [0, 7] {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("forewarn.db").display());
        let store = Store::open(&url).await.unwrap().0;
        // Two days and a half, an agent away for some hours in between.
        let blocks = (0..3600).filter(|seq| !(900..1100).contains(seq)).map(|seq| arriving(seq, phase_ms));
        for some in blocks.collect::<Vec<_>>().chunks(200) {
            store.push(some.to_vec()).await.unwrap();
        }
        let (host, to_ms) = (HostId([7; 16]), T0 + 60 * HOUR_MS);
        let close = to_ms + CLOSE_AFTER_MS;
        let samples = store.read(host, Wanted::All, T0 - HOUR_MS, to_ms + HOUR_MS, 0).await.unwrap();
        store.compact(to_ms, Duration::from_secs(60)).await.unwrap();
        let means = store.means(host, Wanted::All, T0 - HOUR_MS, to_ms, STEP_MS).await.unwrap();
        assert_eq!((samples.series.len(), means.series.len()), (2, 2));
        for (raw, mean) in samples.series.iter().zip(&means.series) {
            let from_samples = Grid::build(&raw.points, STEP_MS, CLOSE_AFTER_MS, close);
            let from_means = Grid::build(&mean.points, STEP_MS, CLOSE_AFTER_MS, close);
            assert_eq!(from_samples.start_ms, from_means.start_ms);
            assert_eq!(from_samples.values.len(), from_means.values.len());
            assert!(from_samples.values.len() >= 720);
            for (a, b) in from_samples.values.iter().zip(&from_means.values) {
                let same = (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * a.abs();
                assert!(same, "{a} {b}");
            }
        }
    }
}
