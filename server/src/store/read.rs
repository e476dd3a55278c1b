//! Reading: which series a host has, their points over a span as the union of all parts of all tiers, last values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use diesel::prelude::*;
use forewarn_common::block::{DecodeError, LastValue, Layout, Metric, RawBlock, Reader, Writer};
use forewarn_common::id::{EntityId, HostId, LayoutId};
use forewarn_common::limit;
use forewarn_common::metric::{Id, Kind};

use super::column::Row;
use super::connection::{Conn, Tx};
use super::push::{BLOCK_SPAN_MS_MAX, SEEN_LAG_MS, TIER_HOUR, TIER_PUSHED};
use super::schema::{block, host_state, layout, series_group};
use super::{Store, StoreError, host_id, signed, unsigned};
use crate::model::series::{Points, SeriesInfo, SeriesKey};

/// Buckets of one series in one answer: two years at five minutes.
const BUCKETS_MAX: i64 = 210_000;
/// Values of one answer: beyond it the span must be narrowed or the step widened.
const VALUES_MAX: usize = 24_000_000;

/// Which series of a host to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// All with one of these metric names.
    Metrics(Vec<String>),
    /// These.
    Series(Vec<SeriesKey>),
}

impl Wanted {
    fn has(&self, host: HostId, entity: EntityId, metric: &Metric) -> bool {
        match self {
            Self::All => true,
            Self::Metrics(names) => names.contains(&metric.name),
            Self::Series(keys) => keys.iter().any(|key| {
                key.host == host && key.entity == entity && key.metric == metric.name && key.instance == metric.instance
            }),
        }
    }
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// A wanted series that has points in the span, each once.
    pub series: Vec<Points>,
    /// Rows or columns that could not be read and were passed over: a sentence each, with host and span.
    pub damaged: Vec<String>,
}

/// The last values of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Latest {
    /// Whose.
    pub host: HostId,
    /// When they were taken, unix milliseconds by the server's clock.
    pub at_ms: i64,
    /// The urgent metrics' last values.
    pub values: Vec<LastValue>,
}

pub(super) fn encode_last(values: &[LastValue]) -> Vec<u8> {
    let values = &values[..values.len().min(limit::SERIES_MAX)];
    let mut writer = Writer::default();
    writer.varint(values.len() as u64);
    for value in values {
        writer.u64(value.entity.0);
        writer.varint(value.metric as u64);
        writer.text(&value.instance, limit::NAME_BYTES_MAX);
        writer.f64(value.value);
    }
    writer.into_bytes()
}

fn decode_last(bytes: &[u8]) -> Result<Vec<LastValue>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    if reader.is_empty() {
        return Ok(values);
    }
    for _ in 0..reader.count("last values", limit::SERIES_MAX)? {
        let entity = EntityId(reader.u64("last value")?);
        let code = reader.varint("last value")?;
        let instance = reader.text("last value", limit::NAME_BYTES_MAX)?;
        let value = reader.f64("last value")?;
        if let Some(metric) = u16::try_from(code).ok().and_then(Id::from_code) {
            values.push(LastValue { entity, metric, instance, value });
        }
    }
    Ok(values)
}

/// The layouts of `ids` that the database has.
pub(super) fn load_layouts(
    connection: &mut Conn,
    ids: impl IntoIterator<Item = LayoutId>,
) -> Tx<Vec<(LayoutId, Arc<Layout>)>> {
    let ids: Vec<i64> = ids.into_iter().map(|id| signed(id.0)).collect();
    let mut layouts = Vec::new();
    for ids in ids.chunks(super::push::INSERT_ROWS_MAX) {
        let rows: Vec<(i64, Vec<u8>)> = layout::table.filter(layout::id.eq_any(ids)).load(connection)?;
        for (id, bytes) in rows {
            let id = LayoutId(unsigned(id));
            let layout =
                Layout::decode(&bytes).map_err(|error| StoreError::Corrupt(format!("layout {id}: {error}")))?;
            layouts.push((id, Arc::new(layout)));
        }
    }
    Ok(layouts)
}

impl Store {
    /// The series that a host had at or after `since_ms` (up to an hour more), ascending by key.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn series(&self, host: HostId, since_ms: i64) -> Result<Vec<SeriesInfo>, StoreError> {
        let groups = self.groups_of(host, since_ms).await?;
        let mut series = BTreeMap::new();
        for (entity, layout) in groups {
            for metric in &layout.metrics {
                let info = info(host, entity, metric);
                series.insert(info.key.clone(), info);
            }
        }
        Ok(series.into_values().collect())
    }

    async fn groups_of(&self, host: HostId, since_ms: i64) -> Result<Vec<(EntityId, Arc<Layout>)>, StoreError> {
        let store = self.clone();
        let (groups, learned) = self
            .inner
            .pool
            .read(move |connection| {
                let rows: Vec<(i64, i64)> = series_group::table
                    .filter(series_group::host.eq(host.0.as_slice()))
                    .filter(series_group::last_ms.ge(since_ms.saturating_sub(SEEN_LAG_MS)))
                    .select((series_group::entity, series_group::layout))
                    .load(connection)?;
                let groups: Vec<_> = rows
                    .into_iter()
                    .map(|(entity, layout)| (EntityId(unsigned(entity)), LayoutId(unsigned(layout))))
                    .collect();
                let missing: BTreeSet<LayoutId> =
                    groups.iter().map(|(_, id)| *id).filter(|id| store.layout(*id).is_none()).collect();
                Ok((groups, load_layouts(connection, missing)?))
            })
            .await?;
        self.learn_layouts(learned);
        Ok(groups.into_iter().filter_map(|(entity, id)| Some((entity, self.layout(id)?))).collect())
    }

    /// The points of a host's series in `[from_ms, to_ms)`: as stored when `step_ms` is 0, otherwise one a bucket
    /// of `step_ms` (aligned to the epoch): the mean of a gauge, the sum of an increment.
    ///
    /// # Errors
    /// The database does not answer, or more is asked for than one answer may hold. Damaged rows are no error.
    pub async fn read(
        &self,
        host: HostId,
        wanted: Wanted,
        from_ms: i64,
        to_ms: i64,
        step_ms: i64,
    ) -> Result<Reading, StoreError> {
        if from_ms >= to_ms || step_ms < 0 {
            return Err(StoreError::Refused("the span to read is empty or its step negative".into()));
        }
        if step_ms > 0 && (to_ms - from_ms) / step_ms > BUCKETS_MAX {
            return Err(StoreError::Refused(format!("more than {BUCKETS_MAX} points a series: widen the step")));
        }
        // Learns the layouts that the parts may refer to.
        self.groups_of(host, from_ms).await?;
        let (store, wanted) = (self.clone(), Arc::new(wanted));
        self.inner
            .pool
            .read(move |connection| {
                let mut gather = Gather {
                    store: &store,
                    host,
                    wanted: &wanted,
                    from_ms,
                    to_ms,
                    step_ms,
                    series: Vec::new(),
                    by_key: HashMap::new(),
                    by_group: HashMap::new(),
                    values: 0,
                    damaged: Vec::new(),
                };
                each_part(connection, host, from_ms, to_ms, |part| gather.part(part))?;
                Ok(gather.finish())
            })
            .await
    }

    /// The last values of every host, in one query.
    ///
    /// # Errors
    /// The database does not answer. A damaged row is passed over with a warning.
    pub async fn latest_all(&self) -> Result<Vec<Latest>, StoreError> {
        self.latest_where(None).await
    }

    /// The last values of one host.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn latest(&self, host: HostId) -> Result<Option<Latest>, StoreError> {
        Ok(self.latest_where(Some(host)).await?.pop())
    }

    async fn latest_where(&self, host: Option<HostId>) -> Result<Vec<Latest>, StoreError> {
        let rows = self
            .inner
            .pool
            .read(move |connection| {
                let mut query = host_state::table
                    .select((host_state::host, host_state::last_at_ms, host_state::last_values))
                    .into_boxed();
                if let Some(host) = host {
                    query = query.filter(host_state::host.eq(host.0.to_vec()));
                }
                let rows: Vec<(Vec<u8>, i64, Vec<u8>)> = query.load(connection)?;
                Ok(rows)
            })
            .await?;
        let mut all = Vec::with_capacity(rows.len());
        for (host, at_ms, bytes) in rows {
            let host = host_id(&host)?;
            match decode_last(&bytes) {
                Ok(values) => all.push(Latest { host, at_ms, values }),
                Err(error) => {
                    tracing::warn!(%host, %error, "Passed over damaged last values of a host; its next block replaces them");
                }
            }
        }
        Ok(all)
    }
}

pub(super) fn info(host: HostId, entity: EntityId, metric: &Metric) -> SeriesInfo {
    let key = SeriesKey { host, entity, metric: metric.name.clone(), instance: metric.instance.clone() };
    SeriesInfo { key, kind: metric.kind, unit: metric.unit, decimals: metric.decimals }
}

/// A row of the block table.
pub(super) struct Part {
    pub(super) tier: i16,
    pub(super) start_ms: i64,
    pub(super) part: i64,
    pub(super) end_ms: i64,
    pub(super) bytes: Vec<u8>,
}

type PartRow = (i16, i64, i64, i64, Vec<u8>);

/// Hands every part of a host that touches the span to `take`, one in memory at a time. One statement, so that a
/// merge that commits meanwhile shows either its parents or its child.
fn each_part(
    connection: &mut Conn,
    host: HostId,
    from_ms: i64,
    to_ms: i64,
    mut take: impl FnMut(&Part) -> Tx<()>,
) -> Tx<()> {
    let rows = block::table
        .filter(block::host.eq(host.0.as_slice()))
        .filter(block::tier.eq_any([TIER_PUSHED, TIER_HOUR]))
        .filter(block::start_ms.ge(from_ms.saturating_sub(BLOCK_SPAN_MS_MAX)))
        .filter(block::start_ms.lt(to_ms))
        .filter(block::end_ms.gt(from_ms))
        .select((block::tier, block::start_ms, block::part, block::end_ms, block::bytes))
        .load_iter::<PartRow, _>(connection)?;
    for row in rows {
        let (tier, start_ms, part, end_ms, bytes) = row?;
        take(&Part { tier, start_ms, part, end_ms, bytes })?;
    }
    Ok(())
}

/// Where the values of one series go.
enum Sink {
    /// As stored.
    Raw(Vec<(i64, f64)>),
    /// Sum and count of each bucket from the first.
    Buckets(Vec<(f64, u32)>),
}

struct Gather<'a> {
    store: &'a Store,
    host: HostId,
    wanted: &'a Wanted,
    from_ms: i64,
    to_ms: i64,
    step_ms: i64,
    series: Vec<(SeriesInfo, Sink)>,
    by_key: HashMap<SeriesKey, usize>,
    by_group: HashMap<(EntityId, LayoutId), Arc<Vec<Option<usize>>>>,
    values: usize,
    damaged: Vec<String>,
}

impl Gather<'_> {
    fn part(&mut self, part: &Part) -> Tx<()> {
        let read = if part.tier == TIER_PUSHED { self.pushed(part) } else { self.merged(part) };
        if let Err(error) = read {
            self.damage(part, &error);
        }
        if self.values > VALUES_MAX {
            let text = format!("more than {VALUES_MAX} values in one answer: narrow the span or widen the step");
            return Err(StoreError::Refused(text).into());
        }
        Ok(())
    }

    fn damage(&mut self, part: &Part, error: &DecodeError) {
        let (host, from_ms, to_ms) = (self.host, part.start_ms, part.end_ms);
        tracing::warn!(%host, from_ms, to_ms, tier = part.tier, part = part.part, %error, "Passed over a damaged row of the block table");
        let text = format!("host {host}, {from_ms} to {to_ms}, tier {}, part {}: {error}", part.tier, part.part);
        self.damaged.push(text);
    }

    fn pushed(&mut self, part: &Part) -> Result<(), DecodeError> {
        let raw = RawBlock::parse(&part.bytes)?;
        let store = self.store;
        let (groups, _) = raw.groups(|id| store.layout(id).map(|layout| Layout::clone(&layout)))?;
        let step_ms = i64::from(raw.header.step_ms);
        for group in groups {
            let Some(sinks) = self.sinks(group.entity, group.layout) else { continue };
            let times: Vec<i64> = group.ticks.iter().map(|tick| part.start_ms + i64::from(tick) * step_ms).collect();
            for (sink, column) in sinks.iter().zip(&group.columns) {
                if let Some(index) = sink {
                    self.add(*index, &times, column);
                }
            }
        }
        Ok(())
    }

    fn merged(&mut self, part: &Part) -> Result<(), DecodeError> {
        let row = Row::parse(&part.bytes)?;
        for group in row.groups() {
            let Some(layout) = self.store.layout(group.layout) else { continue };
            let Some(sinks) = self.sinks(group.entity, group.layout) else { continue };
            if sinks.iter().all(Option::is_none) {
                continue;
            }
            let times = match row.times(group) {
                Ok(times) => times,
                Err(error) => {
                    self.damage(part, &error);
                    continue;
                }
            };
            for (column, (sink, metric)) in sinks.iter().zip(&layout.metrics).enumerate() {
                let Some(index) = sink else { continue };
                match row.column(group, column, metric.decimals) {
                    Ok(values) => self.add(*index, &times, &values),
                    Err(error) => self.damage(part, &error),
                }
            }
        }
        Ok(())
    }

    /// For each column of a group the series that it belongs to, or none when it is not wanted.
    fn sinks(&mut self, entity: EntityId, id: LayoutId) -> Option<Arc<Vec<Option<usize>>>> {
        if let Some(sinks) = self.by_group.get(&(entity, id)) {
            return Some(Arc::clone(sinks));
        }
        let layout = self.store.layout(id)?;
        let mut sinks = Vec::with_capacity(layout.metrics.len());
        for metric in &layout.metrics {
            sinks.push(self.wanted.has(self.host, entity, metric).then(|| self.open(info(self.host, entity, metric))));
        }
        let sinks = Arc::new(sinks);
        self.by_group.insert((entity, id), Arc::clone(&sinks));
        Some(sinks)
    }

    fn open(&mut self, info: SeriesInfo) -> usize {
        if let Some(index) = self.by_key.get(&info.key) {
            return *index;
        }
        let sink = if self.step_ms == 0 {
            Sink::Raw(Vec::new())
        } else {
            let first = self.from_ms.div_euclid(self.step_ms);
            let last = (self.to_ms - 1).div_euclid(self.step_ms);
            let buckets = usize::try_from(last - first + 1).unwrap_or(0);
            self.values += buckets;
            Sink::Buckets(vec![(0.0, 0); buckets])
        };
        self.by_key.insert(info.key.clone(), self.series.len());
        self.series.push((info, sink));
        self.series.len() - 1
    }

    fn add(&mut self, index: usize, times: &[i64], column: &[f64]) {
        let (from_ms, to_ms, step_ms) = (self.from_ms, self.to_ms, self.step_ms);
        let inside =
            times.iter().zip(column).filter(|(time, value)| (from_ms..to_ms).contains(*time) && !value.is_nan());
        match &mut self.series[index].1 {
            Sink::Raw(points) => {
                let before = points.len();
                points.extend(inside.map(|(time, value)| (*time, *value)));
                self.values += points.len() - before;
            }
            Sink::Buckets(buckets) => {
                let first = from_ms.div_euclid(step_ms);
                for (time, value) in inside {
                    let bucket = usize::try_from(time.div_euclid(step_ms) - first).unwrap_or(usize::MAX);
                    if let Some((sum, count)) = buckets.get_mut(bucket) {
                        *sum += value;
                        *count += 1;
                    }
                }
            }
        }
    }

    fn finish(self) -> Reading {
        let (first, step_ms) =
            (if self.step_ms == 0 { 0 } else { self.from_ms.div_euclid(self.step_ms) }, self.step_ms);
        let mut series: Vec<Points> = Vec::with_capacity(self.series.len());
        for (info, sink) in self.series {
            let points = match sink {
                Sink::Raw(mut points) => {
                    points.sort_by_key(|(time, _)| *time);
                    points
                }
                Sink::Buckets(buckets) => {
                    let mean = info.kind == Kind::Gauge;
                    let at = |bucket: i64| (first + bucket) * step_ms;
                    let full = (0_i64..).zip(buckets).filter(|(_, (_, count))| *count > 0);
                    full.map(|(i, (sum, count))| (at(i), if mean { sum / f64::from(count) } else { sum })).collect()
                }
            };
            if !points.is_empty() {
                series.push(Points { info, points });
            }
        }
        series.sort_by(|a, b| a.info.key.cmp(&b.info.key));
        Reading { series, damaged: self.damaged }
    }
}
