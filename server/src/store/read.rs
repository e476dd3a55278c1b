//! Reading: which series a host has, their points over a span as the union of all parts of all tiers, last values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use diesel::prelude::*;
use forewarn_common::block::{DecodeError, LastValue, Layout, Metric, RawBlock};
use forewarn_common::id::{EntityId, HostId, LayoutId};
use forewarn_common::metric::Kind;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::column::{GroupEntry, Row};
use super::connection::{Conn, Tx};
use super::push::{
    BLOCK_SPAN_MS_MAX, SEEN_LAG_MS, TIER_DAY, TIER_DAY_PART, TIER_HOUR, TIER_MONTH, TIER_MONTH_PART, TIER_PUSHED,
};
use super::schema::{block, host_state, layout, series_group};
use super::summary::{self, DAY_STEP_MS, MONTH_STEP_MS, bucket_end};
use super::{Store, StoreError, host_id, last, signed, unsigned};
use crate::model::series::{Points, SeriesInfo, SeriesKey};

/// Buckets of one series in one answer: two years at five minutes.
const BUCKETS_MAX: i64 = 210_000;
/// Values of one answer: beyond it the span must be narrowed or the step widened.
const VALUES_MAX: usize = 24_000_000;

/// Longest span of a row of each tier, with the block that may reach over its end.
const DAY_SPAN_MS_MAX: i64 = 24 * 3_600_000 + BLOCK_SPAN_MS_MAX;
const MONTH_SPAN_MS_MAX: i64 = 30 * 24 * 3_600_000 + DAY_SPAN_MS_MAX;
/// Rows whose bytes are asked for at once: what a read holds in memory.
const ROWS_AT_ONCE: usize = 32;
/// Connections that fetch rows for one read, of those that the store has.
const FETCHERS_MAX: usize = 4;
/// Fewer rows than this are not worth a connection of their own.
const ROWS_A_FETCH_MIN: usize = 3;
/// How often a read starts again because of a merge.
const READ_TRIES_MAX: usize = 12;

/// The coarsest tiers that can tell what happens within `step_ms`. Each sample is in one of them.
fn tiers_for(step_ms: i64) -> &'static [i16] {
    if step_ms > 0 && step_ms % MONTH_STEP_MS == 0 {
        &[TIER_PUSHED, TIER_DAY_PART, TIER_MONTH_PART, TIER_MONTH]
    } else if step_ms > 0 && step_ms % DAY_STEP_MS == 0 {
        &[TIER_PUSHED, TIER_DAY_PART, TIER_DAY]
    } else {
        &[TIER_PUSHED, TIER_HOUR]
    }
}

/// How long before a span a row of a tier may start and still reach into it.
fn reach_ms(tier: i16) -> i64 {
    match tier {
        TIER_PUSHED | TIER_HOUR => BLOCK_SPAN_MS_MAX + 3_600_000,
        TIER_DAY_PART | TIER_DAY => DAY_SPAN_MS_MAX,
        _ => MONTH_SPAN_MS_MAX,
    }
}

/// What becomes of the values of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// The mean of a gauge, the sum of an increment.
    Natural,
    /// The mean of either, as the forecast's grid has it.
    Mean,
}

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
            // In order: `read_as` saw to that.
            Self::Series(keys) => {
                let wanted = (host, entity, metric.name.as_str(), metric.instance.as_str());
                keys.binary_search_by(|key| (key.host, key.entity, &*key.metric, &*key.instance).cmp(&wanted)).is_ok()
            }
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

/// The layouts of `ids` that the database has; one that is damaged is as good as none: agents are asked for it.
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
            match Layout::decode(&bytes) {
                Ok(layout) if layout.id() == id => layouts.push((id, Arc::new(layout))),
                _ => tracing::warn!(%id, "Passed over a damaged layout; the next block that has it brings it again"),
            }
        }
    }
    Ok(layouts)
}

/// The layouts of all groups that a host ever had, as far as this process does not know them.
pub(super) fn load_unknown_layouts(
    connection: &mut Conn,
    store: &Store,
    host: HostId,
) -> Tx<Vec<(LayoutId, Arc<Layout>)>> {
    let ids: Vec<i64> = series_group::table
        .filter(series_group::host.eq(host.0.as_slice()))
        .select(series_group::layout)
        .distinct()
        .load(connection)?;
    let ids = ids.into_iter().map(|id| LayoutId(unsigned(id))).filter(|id| store.layout(*id).is_none());
    load_layouts(connection, ids)
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

    /// The points of a host's series: those in `[from_ms, to_ms)` as stored when `step_ms` is 0, otherwise one a
    /// bucket of `step_ms`: the mean of a gauge, the sum of an increment, of all whole buckets that the span touches.
    /// A bucket is the grid's: named by its end (aligned to the epoch), which it holds while it does not hold its
    /// begin; one that is still open at `to_ms` is named by the span's last millisecond.
    /// Steps of whole hours or whole five minutes are answered from the coarser tiers, which reach back further.
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
        self.read_as(host, wanted, (from_ms, to_ms), step_ms, Value::Natural).await
    }

    /// The means that a grid of `step_ms` has of a host's series, a point at each bucket's end in `(from_ms, to_ms]`:
    /// of gauges and of increments alike, and only of buckets with a value. Handed to the forecast's gridder as
    /// points they make the grid that the samples themselves would have made.
    ///
    /// # Errors
    /// As [`Self::read`]; `step_ms` must not be 0.
    pub async fn means(
        &self,
        host: HostId,
        wanted: Wanted,
        from_ms: i64,
        to_ms: i64,
        step_ms: i64,
    ) -> Result<Reading, StoreError> {
        if step_ms < 1 {
            return Err(StoreError::Refused("the step of a grid must be a millisecond at least".into()));
        }
        let (first, last) = (from_ms.div_euclid(step_ms) * step_ms, to_ms.div_euclid(step_ms) * step_ms);
        if first >= last {
            return Ok(Reading::default());
        }
        self.read_as(host, wanted, (first, last), step_ms, Value::Mean).await
    }

    async fn read_as(
        &self,
        host: HostId,
        mut wanted: Wanted,
        (from_ms, to_ms): (i64, i64),
        step_ms: i64,
        value: Value,
    ) -> Result<Reading, StoreError> {
        if let Wanted::Series(keys) = &mut wanted {
            keys.sort_unstable();
        }
        if from_ms >= to_ms || step_ms < 0 {
            return Err(StoreError::Refused("the span to read is empty or its step negative".into()));
        }
        if step_ms > 0 && (to_ms - from_ms) / step_ms > BUCKETS_MAX {
            return Err(StoreError::Refused(format!("more than {BUCKETS_MAX} points a series: widen the step")));
        }
        // Learns the layouts that the parts may refer to.
        self.groups_of(host, from_ms).await?;
        let asked = Asked { host, wanted: Arc::new(wanted), from_ms, to_ms, step_ms, value };
        for _ in 0..READ_TRIES_MAX {
            match self.read_once(&asked).await {
                // A part was merged away between its name and its bytes.
                Err(StoreError::Conflict) => {}
                result => return result,
            }
        }
        Err(StoreError::Busy)
    }

    /// Hands every part that touches the span to the gatherer, a few in memory at a time. Which parts there are is one
    /// statement, so that a merge that commits meanwhile shows either its parents or its children; what it names and is
    /// gone when it is fetched is a `Conflict`: the whole read starts again.
    async fn read_once(&self, asked: &Asked) -> Result<Reading, StoreError> {
        let question = asked.clone();
        let places = self.inner.pool.read(move |connection| places(connection, &question)).await?;
        let mut gather = Gather::new(self, asked);
        for some in places.chunk_by(|a, b| a.0 == b.0).flat_map(|tier| tier.chunks(ROWS_AT_ONCE)) {
            let mut found: HashMap<(i64, i64), Arc<Vec<u8>>> = HashMap::with_capacity(some.len());
            {
                let mut cache = self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner);
                for (tier, start_ms, part, _) in some {
                    if let Some(bytes) = cache.get(&(*tier, *start_ms, asked.host, *part)) {
                        found.insert((*start_ms, *part), bytes);
                    }
                }
            }
            let missing: Vec<Place> =
                some.iter().filter(|place| !found.contains_key(&(place.1, place.2))).copied().collect();
            // Rows of a cold disk are waited for side by side, and opened while those after them are on their way.
            let piece = missing.len().div_ceil(FETCHERS_MAX).max(ROWS_A_FETCH_MIN);
            let mut fetches: FuturesOrdered<_> =
                missing.chunks(piece).map(|piece| self.fetch(asked.host, piece.to_vec())).collect();
            let mut ready = Vec::with_capacity(some.len());
            for (tier, start_ms, part, end_ms) in some {
                if !found.contains_key(&(*start_ms, *part)) {
                    gather = gather.parts(std::mem::take(&mut ready)).await?;
                    for (start_ms, part, bytes) in fetches.next().await.ok_or(StoreError::Conflict)?? {
                        found.insert((start_ms, part), Arc::new(bytes));
                    }
                }
                let bytes = found.remove(&(*start_ms, *part)).ok_or(StoreError::Conflict)?;
                // Who asks for means goes through all hosts: what people look at stays.
                if *tier != TIER_PUSHED && asked.value == Value::Natural {
                    let key = (*tier, *start_ms, asked.host, *part);
                    self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner).put(key, Arc::clone(&bytes));
                }
                ready.push(Part { tier: *tier, start_ms: *start_ms, part: *part, end_ms: *end_ms, bytes });
            }
            gather = gather.parts(ready).await?;
        }
        Ok(gather.finish())
    }

    /// The bytes of rows of one tier.
    async fn fetch(&self, host: HostId, places: Vec<Place>) -> Result<Vec<Fetched>, StoreError> {
        let (Some(first), Some(last)) = (places.first().copied(), places.last().copied()) else {
            return Ok(Vec::new());
        };
        self.inner
            .pool
            .read(move |connection| {
                let rows = block::table
                    .filter(block::host.eq(host.0.as_slice()))
                    .filter(block::tier.eq(first.0))
                    .filter(block::start_ms.between(first.1, last.1))
                    .filter(block::part.eq_any(places.iter().map(|place| place.2)))
                    .select((block::start_ms, block::part, block::bytes))
                    .load(connection)?;
                Ok(rows)
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
            match last::decode(&bytes) {
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
    pub(super) bytes: Arc<Vec<u8>>,
}

/// Tier, start, part, end.
type Place = (i16, i64, i64, i64);

/// Start, part, bytes.
type Fetched = (i64, i64, Vec<u8>);

/// A question about one host.
#[derive(Debug, Clone)]
struct Asked {
    host: HostId,
    wanted: Arc<Wanted>,
    from_ms: i64,
    to_ms: i64,
    step_ms: i64,
    value: Value,
}

/// Every part of a host that touches the span, in the order in which they are read.
fn places(connection: &mut Conn, asked: &Asked) -> Tx<Vec<Place>> {
    let step_ms = asked.step_ms;
    let tiers = tiers_for(step_ms);
    let reach_ms = tiers.iter().map(|tier| reach_ms(*tier)).max().unwrap_or(0).saturating_add(step_ms);
    // The first bucket begins up to a step before the span, the last ends up to a step after it and holds its end.
    let from_ms = asked.from_ms.saturating_sub(step_ms);
    let to_ms = asked.to_ms.saturating_add(step_ms + i64::from(step_ms > 0));
    let mut places: Vec<Place> = block::table
        .filter(block::host.eq(asked.host.0.as_slice()))
        .filter(block::tier.eq_any(tiers))
        .filter(block::start_ms.ge(from_ms.saturating_sub(reach_ms)))
        .filter(block::start_ms.lt(to_ms))
        .filter(block::end_ms.gt(from_ms))
        .select((block::tier, block::start_ms, block::part, block::end_ms))
        .load(connection)?;
    places.sort_unstable();
    Ok(places)
}

/// Where the values of one series go.
enum Sink {
    /// As stored.
    Raw(Vec<(i64, f64)>),
    /// Sum and count of each bucket, the first ends in the span's first step.
    Buckets(Vec<(f64, u32)>),
}

struct Gather {
    store: Store,
    host: HostId,
    wanted: Arc<Wanted>,
    from_ms: i64,
    to_ms: i64,
    step_ms: i64,
    value: Value,
    series: Vec<(SeriesInfo, Sink)>,
    by_key: HashMap<SeriesKey, usize>,
    by_group: HashMap<(EntityId, LayoutId), Arc<Vec<Option<usize>>>>,
    values: usize,
    damaged: Vec<String>,
}

/// What a read wants of one group of a row.
struct Chosen {
    layout: Arc<Layout>,
    /// For each column the series that it goes to.
    sinks: Arc<Vec<Option<usize>>>,
    times: Vec<i64>,
}

impl Gather {
    fn new(store: &Store, asked: &Asked) -> Self {
        let Asked { host, wanted, from_ms, to_ms, step_ms, value } = asked.clone();
        Self {
            store: store.clone(),
            host,
            wanted,
            from_ms,
            to_ms,
            step_ms,
            value,
            series: Vec::new(),
            by_key: HashMap::new(),
            by_group: HashMap::new(),
            values: 0,
            damaged: Vec::new(),
        }
    }

    /// Takes parts in, on a thread that may work.
    async fn parts(mut self, parts: Vec<Part>) -> Result<Self, StoreError> {
        if parts.is_empty() {
            return Ok(self);
        }
        let work = tokio::task::spawn_blocking(move || {
            parts.iter().try_for_each(|part| self.part(part))?;
            Ok(self)
        });
        work.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    fn part(&mut self, part: &Part) -> Result<(), StoreError> {
        let read = match part.tier {
            TIER_PUSHED => self.pushed(part),
            TIER_HOUR => self.merged(part),
            _ => self.summed(part),
        };
        if let Err(error) = read {
            self.damage(part, &error);
        }
        if self.values > VALUES_MAX {
            let text = format!("more than {VALUES_MAX} values in one answer: narrow the span or widen the step");
            return Err(StoreError::Refused(text));
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
        let store = self.store.clone();
        let (groups, _) = raw.groups(|id| store.layout(id))?;
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

    /// A group of a row that is there and of which something is wanted; damaged times are told.
    fn chosen(&mut self, part: &Part, row: &Row<'_>, group: &GroupEntry) -> Option<Chosen> {
        let layout = self.store.layout(group.layout)?;
        let sinks = self.sinks(group.entity, group.layout)?;
        if sinks.iter().all(Option::is_none) {
            return None;
        }
        let times = row.times(group).map_err(|error| self.damage(part, &error)).ok()?;
        Some(Chosen { layout, sinks, times })
    }

    fn merged(&mut self, part: &Part) -> Result<(), DecodeError> {
        let row = Row::parse(&part.bytes)?;
        for group in row.groups() {
            let Some(Chosen { layout, sinks, times }) = self.chosen(part, &row, group) else { continue };
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

    fn summed(&mut self, part: &Part) -> Result<(), DecodeError> {
        let row = Row::parse(&part.bytes)?;
        // Groups of one row mostly tick together: one after the other with the same times shares their buckets.
        let mut shared: Option<(Vec<i64>, Vec<usize>)> = None;
        for group in row.groups() {
            let Some(Chosen { layout, sinks, times }) = self.chosen(part, &row, group) else { continue };
            let (_, places) = match shared.take().filter(|(known, _)| *known == times) {
                Some(same) => shared.insert(same),
                None => {
                    let places = times.iter().map(|time| self.bucket(*time).unwrap_or(usize::MAX)).collect();
                    shared.insert((times, places))
                }
            };
            for ((sink, metric), first) in sinks.iter().zip(&layout.metrics).zip(summary::first_columns(&layout)) {
                let Some(index) = sink else { continue };
                let read = || Ok((row.column(group, first, metric.decimals)?, row.column(group, first + 1, 0)?));
                match read() {
                    Ok((sums, counts)) => self.add_sums(*index, places, &sums, &counts),
                    Err(error) => self.damage(part, &error),
                }
            }
        }
        Ok(())
    }

    /// The number of the bucket that a time belongs to.
    fn bucket(&self, time_ms: i64) -> Option<usize> {
        let first = self.from_ms.div_euclid(self.step_ms) + 1;
        usize::try_from(bucket_end(time_ms, self.step_ms) / self.step_ms - first).ok()
    }

    fn add_sums(&mut self, index: usize, places: &[usize], sums: &[f64], counts: &[f64]) {
        let Some((_, Sink::Buckets(buckets))) = self.series.get_mut(index) else { return };
        for ((place, sum), count) in places.iter().zip(sums).zip(counts) {
            if let (Some((total, number)), false) = (buckets.get_mut(*place), sum.is_nan()) {
                *total += sum;
                *number += *count as u32;
            }
        }
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
            let buckets = (self.to_ms - 1).div_euclid(self.step_ms) - self.from_ms.div_euclid(self.step_ms) + 1;
            let buckets = usize::try_from(buckets).unwrap_or(0);
            self.values += buckets;
            Sink::Buckets(vec![(0.0, 0); buckets])
        };
        self.by_key.insert(info.key.clone(), self.series.len());
        self.series.push((info, sink));
        self.series.len() - 1
    }

    fn add(&mut self, index: usize, times: &[i64], column: &[f64]) {
        let (from_ms, to_ms, step_ms) = (self.from_ms, self.to_ms, self.step_ms);
        let points = || times.iter().zip(column).filter(|(_, value)| !value.is_nan());
        match &mut self.series[index].1 {
            Sink::Raw(all) => {
                let before = all.len();
                all.extend(
                    points().filter(|(time, _)| (from_ms..to_ms).contains(*time)).map(|(time, value)| (*time, *value)),
                );
                self.values += all.len() - before;
            }
            Sink::Buckets(buckets) => {
                let first = from_ms.div_euclid(step_ms) + 1;
                for (time, value) in points().filter(|(_, value)| summary::counts(**value)) {
                    let bucket = usize::try_from(bucket_end(*time, step_ms) / step_ms - first).unwrap_or(usize::MAX);
                    if let Some((sum, count)) = buckets.get_mut(bucket) {
                        *sum += value;
                        *count += 1;
                    }
                }
            }
        }
    }

    fn finish(self) -> Reading {
        let (step_ms, to_ms) = (self.step_ms, self.to_ms);
        let first = if step_ms == 0 { 0 } else { self.from_ms.div_euclid(step_ms) + 1 };
        let mut series: Vec<Points> = Vec::with_capacity(self.series.len());
        for (info, sink) in self.series {
            let points = match sink {
                Sink::Raw(mut points) => {
                    points.sort_by_key(|(time, _)| *time);
                    points
                }
                Sink::Buckets(buckets) => {
                    let mean = info.kind == Kind::Gauge || self.value == Value::Mean;
                    let at = |bucket: usize| {
                        let end_ms = (first + bucket as i64) * step_ms;
                        if end_ms > to_ms { to_ms - 1 } else { end_ms }
                    };
                    // Each point takes the place of its bucket in memory: nothing is allocated.
                    let full = buckets.into_iter().enumerate().filter(|(_, (_, count))| *count > 0);
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
