//! The contract of the store, run on SQLite and on MariaDB: the same promises, the same code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archive;
mod compaction;
mod fault;
mod intake;
mod judgement;
mod mariadb;
mod people;
mod tiers;

use std::collections::BTreeMap;

use forewarn_common::block::{
    Block, Dictionary, Entity, EntityKind, Group, Header, LastValue, Layout, Metric, Ticks, Urgent,
};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::Id;

use super::*;

/// Makes a test of a promise for each engine. The promise is an async function of a place to open stores at.
macro_rules! on_both_engines {
    ($($promise:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite://{}", folder.path().join("forewarn.db").display());
                super::$promise($crate::store::tests::Place { url }).await;
            })*
        }
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let url = $crate::store::tests::mariadb::shared().new_database();
                super::$promise($crate::store::tests::Place { url }).await;
            })*
        }
    };
}
pub(super) use on_both_engines;

/// An empty database.
pub(super) struct Place {
    pub(super) url: String,
}

impl Place {
    pub(super) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap().0
    }

    pub(super) fn is_mysql(&self) -> bool {
        self.url.starts_with("mysql://")
    }
}

pub(super) const HOUR_MS: i64 = 3_600_000;
/// 2026-01-01, on the hour.
pub(super) const T0: i64 = 1_767_225_600_000;
pub(super) const STEP_MS: i64 = 10_000;

/// A host whose blocks are made by a rule, so that a test knows what must come back.
#[derive(Clone, Copy)]
pub(super) struct Agent {
    pub(super) host: HostId,
    pub(super) epoch: u64,
}

pub(super) fn layout() -> Layout {
    Layout {
        metrics: vec![
            Metric::of(Id::CpuUsed, ""),
            Metric::of(Id::FsUsedRatio, "/"),
            Metric::of(Id::FsUsedRatio, "/data"),
            Metric::of(Id::NetRx, "eth0"),
        ],
    }
}

pub(super) fn value(metric: usize, time_ms: i64) -> f64 {
    let tick = time_ms / STEP_MS;
    match metric {
        0 => (tick * 37 % 10_000) as f64 / 10_000.0,
        1 => 0.5,
        2 if tick % 7 == 0 => f64::NAN,
        2 => (tick % 1000) as f64 / 1000.0,
        _ => (tick * 13 % 4096) as f64 * 10.0,
    }
}

impl Agent {
    pub(super) fn new(number: u8) -> Self {
        Self { host: HostId([number; 16]), epoch: u64::MAX - u64::from(number) }
    }

    pub(super) fn entity(&self) -> EntityId {
        EntityId::of_host(self.host)
    }

    /// Block `seq` of `ticks` ticks; blocks follow each other without a gap.
    pub(super) fn arriving(&self, seq: u64, ticks: u16) -> Arriving {
        self.arriving_at(seq, T0 + seq as i64 * i64::from(ticks) * STEP_MS, ticks)
    }

    pub(super) fn arriving_at(&self, seq: u64, start_ms: i64, ticks: u16) -> Arriving {
        let layout = layout();
        let dictionary = Dictionary { layouts: vec![layout.clone()], entities: vec![self.record("plant-3")] };
        self.made(seq, start_ms, ticks, &layout, dictionary)
    }

    pub(super) fn record(&self, name: &str) -> Entity {
        Entity {
            id: self.entity(),
            kind: EntityKind::Host,
            name: name.into(),
            component: "数据库".into(),
            attributes: vec![("kernel".into(), "6.18".into())],
        }
    }

    pub(super) fn made(
        &self,
        seq: u64,
        start_ms: i64,
        ticks: u16,
        layout: &Layout,
        dictionary: Dictionary,
    ) -> Arriving {
        let header = Header {
            host: self.host,
            epoch: self.epoch,
            seq,
            start_ms,
            step_ms: STEP_MS as u32,
            ticks,
            boot_id: [1; 16],
            boot_ms: 1,
            closed_ms: start_ms + i64::from(ticks) * STEP_MS,
        };
        let times: Vec<i64> = (0..i64::from(ticks)).map(|tick| start_ms + tick * STEP_MS).collect();
        let columns: Vec<Vec<f64>> =
            (0..layout.metrics.len()).map(|metric| times.iter().map(|time| value(metric, *time)).collect()).collect();
        let group = Group { entity: self.entity(), layout: layout.id(), ticks: Ticks::all(ticks), columns };
        let last = LastValue {
            entity: self.entity(),
            metric: Id::CpuUsed,
            instance: String::new(),
            value: value(0, *times.last().unwrap()),
        };
        let urgent = Urgent { at_ms: *times.last().unwrap(), last: vec![last], ..Urgent::default() };
        let block = Block { header, urgent, dictionary, groups: vec![group] };
        let arriving = Arriving::in_time(block, std::slice::from_ref(layout)).unwrap();
        Arriving { received_ms: header.closed_ms + 20, ..arriving }
    }
}

/// What a host's series must read as when its blocks cover these times.
pub(super) fn expected(times: &[i64]) -> BTreeMap<(String, String), Vec<(i64, u64)>> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let mut all = BTreeMap::new();
    for (index, metric) in layout().metrics.iter().enumerate() {
        let points: Vec<(i64, u64)> = times
            .iter()
            .map(|time| (*time, value(index, *time)))
            .filter(|(_, value)| !value.is_nan())
            .map(|(time, value)| (time, forewarn_common::block::round(value, metric.decimals).to_bits()))
            .collect();
        if !points.is_empty() {
            all.insert((metric.name.clone(), metric.instance.clone()), points);
        }
    }
    all
}

/// Everything that the store has of a host, bit by bit.
pub(super) async fn everything(store: &Store, host: HostId) -> BTreeMap<(String, String), Vec<(i64, u64)>> {
    let reading = store.read(host, Wanted::All, 0, T0 * 2, 0).await.unwrap();
    assert_eq!(reading.damaged, Vec::<String>::new());
    reading
        .series
        .into_iter()
        .map(|points| {
            let key = (points.info.key.metric, points.info.key.instance);
            (key, points.points.into_iter().map(|(time, value)| (time, value.to_bits())).collect())
        })
        .collect()
}

/// Compares two such maps and tells only where they part.
pub(super) fn assert_same(
    got: &BTreeMap<(String, String), Vec<(i64, u64)>>,
    want: &BTreeMap<(String, String), Vec<(i64, u64)>>,
) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (key, want) in want {
        let got = &got[key];
        let parts = got.iter().zip(want).position(|(got, want)| got != want).unwrap_or(got.len().min(want.len()));
        assert!(
            got == want,
            "{key:?}: {} points, {} wanted; from point {parts}: {:?}, wanted {:?}",
            got.len(),
            want.len(),
            got.get(parts),
            want.get(parts)
        );
    }
}

pub(super) fn times_of(arrivals: &[Arriving]) -> Vec<i64> {
    arrivals
        .iter()
        .flat_map(|a| (0..i64::from(a.header.ticks)).map(move |tick| a.corrected_start_ms + tick * STEP_MS))
        .collect()
}
