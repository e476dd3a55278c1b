//! Whether every acknowledged sample is in the database, once: the store is read and compared with what was sent.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use forewarn_common::id::EntityId;
use forewarn_server::store::{Store, Wanted};

use crate::host::{Host, Span};

const WINDOW_MS: i64 = 6 * 3_600_000;
const BUCKET_MS: i64 = 300_000;

/// Series of one host: entity, metric, instance.
type Key = (EntityId, String, String);

/// Compares one host at full resolution with its acknowledged blocks; how many samples there were.
pub(crate) async fn samples(store: &Store, host: &Host, spans: &[Span]) -> Result<usize> {
    let mut times: Vec<i64> = spans.iter().flat_map(|span| span.times().collect::<Vec<_>>()).collect();
    times.sort_unstable();
    let (Some(first), Some(last)) = (times.first().copied(), times.last().copied()) else { return Ok(0) };
    let (mut from_ms, mut count) = (first, 0);
    while from_ms <= last {
        let to_ms = from_ms + WINDOW_MS;
        let inside = &times[times.partition_point(|t| *t < from_ms)..times.partition_point(|t| *t < to_ms)];
        let reading = store.read(host.id, Wanted::All, from_ms, to_ms, 0).await?;
        ensure!(reading.damaged.is_empty(), "damaged rows: {:?}", reading.damaged);
        let mut sent: BTreeMap<Key, Vec<(i64, f64)>> = BTreeMap::new();
        for time in inside {
            for (entity, metric, value) in host.at(*time) {
                let key = (entity, metric.name.clone(), metric.instance.clone());
                sent.entry(key).or_default().push((*time, value));
            }
        }
        ensure!(sent.len() == reading.series.len(), "{} of {} series are there", reading.series.len(), sent.len());
        for series in reading.series {
            let key = series.info.key;
            let key = (key.entity, key.metric, key.instance);
            let wanted = sent.remove(&key).unwrap_or_default();
            let same = wanted.len() == series.points.len()
                && wanted.iter().zip(&series.points).all(|(a, b)| a.0 == b.0 && a.1.to_bits() == b.1.to_bits());
            ensure!(
                same,
                "host {} {key:?}, {from_ms} to {to_ms}: {} samples stored, {} acknowledged",
                host.id,
                series.points.len(),
                wanted.len()
            );
            count += wanted.len();
        }
        from_ms = to_ms;
    }
    Ok(count)
}

/// Compares the five-minute means of one host with those of its acknowledged blocks; how many there were.
pub(crate) async fn means(store: &Store, host: &Host, spans: &[Span]) -> Result<usize> {
    let (Some(first), Some(last)) =
        (spans.iter().map(|span| span.start_ms).min(), spans.iter().map(Span::end_ms).max())
    else {
        return Ok(0);
    };
    let mut sent: BTreeMap<Key, BTreeMap<i64, (f64, f64)>> = BTreeMap::new();
    for time in spans.iter().flat_map(|span| span.times().collect::<Vec<_>>()) {
        let end_ms = (time + BUCKET_MS - 1).div_euclid(BUCKET_MS) * BUCKET_MS;
        for (entity, metric, value) in host.at(time) {
            let key = (entity, metric.name.clone(), metric.instance.clone());
            let (sum, count) = sent.entry(key).or_default().entry(end_ms).or_insert((0.0, 0.0));
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
    }
    let reading = store.means(host.id, Wanted::All, first - BUCKET_MS, last + BUCKET_MS, BUCKET_MS).await?;
    ensure!(reading.damaged.is_empty(), "damaged rows: {:?}", reading.damaged);
    let mut count = 0;
    for series in reading.series {
        let key = series.info.key;
        let wanted = sent.remove(&(key.entity, key.metric, key.instance)).unwrap_or_default();
        let same = wanted.len() == series.points.len()
            && wanted.iter().zip(&series.points).all(|((end_ms, (sum, count)), point)| {
                *end_ms == point.0 && (sum / count - point.1).abs() <= 1e-9 * point.1.abs().max(1.0)
            });
        ensure!(same, "host {}: {} means stored, {} sent", host.id, series.points.len(), wanted.len());
        count += wanted.len();
    }
    ensure!(sent.is_empty(), "{} series are missing", sent.len());
    Ok(count)
}
