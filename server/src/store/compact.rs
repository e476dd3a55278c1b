//! Housekeeping: pushed blocks of closed hours become rows of the hour tier, and what is too old goes.
//!
//! Rows are immutable. A merge deletes exactly the parents that it read and inserts their child in one transaction,
//! or does nothing; so two servers may do the same at once, and dying in the middle leaves everything as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::prelude::*;
use forewarn_common::block::{DecodeError, Layout, RawBlock};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId, LayoutId};

use super::column::{self, AXIS_POINTS_MAX, MergedGroup, Row};
use super::connection::{Conn, Tx, insert_many};
use super::push::{INSERT_ROWS_MAX, NewBlock, TIER_HOUR, TIER_PUSHED, part_of};
use super::schema::{audit, block, delivery, engine_event, host_state, incident, keyword_hit, series_group, session};
use super::{Store, StoreError, host_id, read, unsigned};

/// An hour is merged this long after its end: blocks on their way are in by then.
const MERGE_AFTER_MS: i64 = 5 * 60_000;
/// Pushed blocks looked at together; an hour of one block every five seconds is 720.
const PARENTS_MAX: i64 = 4096;
/// An hour of late data in more rows than this is put together again.
const HOUR_PARTS_MAX: usize = 4;
/// Values of one merged row: at their worst 8 bytes each, below any sensible `max_allowed_packet`.
const ROW_VALUES_MAX: usize = 1 << 20;
/// Rows that one transaction of retention deletes.
const DELETE_ROWS_MAX: i64 = 500;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What a round of compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Host-hours that were merged.
    pub merges: usize,
    /// Rows that went into them.
    pub parents: usize,
    /// Bytes of those rows.
    pub parent_bytes: usize,
    /// Bytes of the rows that came out.
    pub merged_bytes: usize,
    /// Values in them.
    pub samples: i64,
    /// Merges that another server did first.
    pub raced: usize,
    /// Blocks that wait for a layout.
    pub waiting: usize,
    /// Damaged rows, left where they are: a sentence each, with host and span.
    pub damaged: Vec<String>,
    /// False when the budget ended first: go on next time.
    pub finished: bool,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Samples at full resolution, milliseconds.
    pub full_ms: i64,
    /// Keyword hits and engine events, milliseconds.
    pub log_ms: i64,
    /// Resolved incidents with their deliveries, and the record of who did what, milliseconds.
    pub incident_ms: i64,
}

impl Default for Retention {
    /// 35 days at full resolution: a month to train on, as long as there is no coarser tier.
    fn default() -> Self {
        Self { full_ms: 35 * DAY_MS, log_ms: 90 * DAY_MS, incident_ms: 400 * DAY_MS }
    }
}

/// What a round of retention deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Rows of the block table.
    pub blocks: usize,
    /// Keyword hits and engine events.
    pub log_rows: usize,
    /// Resolved incidents.
    pub incidents: usize,
    /// False when the budget ended first: go on next time.
    pub finished: bool,
}

/// A parent as it was read.
struct Parent {
    tier: i16,
    start_ms: i64,
    part: i64,
    end_ms: i64,
    stored_ms: i64,
    skewed: bool,
    bytes: Vec<u8>,
}

type ParentRow = (i16, i64, i64, i64, i64, bool, Vec<u8>);

/// All samples of one group, in the order of their times.
#[derive(Default)]
struct Gathered {
    times: Vec<i64>,
    columns: Vec<Vec<f64>>,
}

/// What a merge writes.
struct Child {
    start_ms: i64,
    end_ms: i64,
    part: i64,
    stored_ms: i64,
    samples: i64,
    skewed: bool,
    bytes: Vec<u8>,
}

/// A moment of the clock that never jumps, after which to stop.
struct Deadline(i64);

impl Deadline {
    fn after(budget: Duration) -> Self {
        Self(clock::boot_ms().saturating_add(i64::try_from(budget.as_millis()).unwrap_or(i64::MAX)))
    }

    fn is_over(&self) -> bool {
        clock::boot_ms() >= self.0
    }
}

impl Store {
    /// Merges the pushed blocks of closed hours, host by host, for at most about `budget`.
    ///
    /// # Errors
    /// The database does not answer; what was merged before stays merged.
    pub async fn compact(&self, now_ms: i64, budget: Duration) -> Result<CompactReport, StoreError> {
        let deadline = Deadline::after(budget);
        let closed_ms = (now_ms - MERGE_AFTER_MS).div_euclid(HOUR_MS) * HOUR_MS;
        let mut report = CompactReport::default();
        let load = |connection: &mut Conn| -> Tx<Vec<Vec<u8>>> {
            Ok(host_state::table.select(host_state::host).load(connection)?)
        };
        let mut hosts = self.inner.pool.read(load).await?;
        // A round that ends early must not always end before the same hosts.
        if !hosts.is_empty() {
            let first = usize::try_from(now_ms.div_euclid(60_000).rem_euclid(hosts.len() as i64)).unwrap_or(0);
            hosts.rotate_left(first);
        }
        for host in hosts {
            if !self.compact_host(host_id(&host)?, closed_ms, &deadline, &mut report).await? {
                return Ok(report);
            }
        }
        report.finished = true;
        Ok(report)
    }

    /// False when the deadline came first.
    async fn compact_host(
        &self,
        host: HostId,
        closed_ms: i64,
        deadline: &Deadline,
        report: &mut CompactReport,
    ) -> Result<bool, StoreError> {
        let mut from_ms = i64::MIN;
        loop {
            let load = move |connection: &mut Conn| -> Tx<Vec<i64>> {
                Ok(block::table
                    .filter(block::host.eq(host.0.as_slice()))
                    .filter(block::tier.eq(TIER_PUSHED))
                    .filter(block::start_ms.ge(from_ms))
                    .filter(block::start_ms.lt(closed_ms))
                    .select(block::start_ms)
                    .order(block::start_ms)
                    .limit(PARENTS_MAX)
                    .load(connection)?)
            };
            let starts = self.inner.pool.read(load).await?;
            let mut hours: Vec<i64> = starts.iter().map(|start| start.div_euclid(HOUR_MS) * HOUR_MS).collect();
            hours.dedup();
            let Some(last) = hours.last().copied() else { return Ok(true) };
            for hour_ms in hours {
                if deadline.is_over() {
                    return Ok(false);
                }
                self.merge_hour(host, hour_ms, report).await?;
            }
            from_ms = last + HOUR_MS;
        }
    }

    async fn merge_hour(&self, host: HostId, hour_ms: i64, report: &mut CompactReport) -> Result<(), StoreError> {
        let end_ms = hour_ms + HOUR_MS;
        let store = self.clone();
        let (mut parents, learned) = self
            .inner
            .pool
            .read(move |connection| {
                let of_tier = |tier: i16| {
                    block::table
                        .filter(block::host.eq(host.0.to_vec()))
                        .filter(block::tier.eq(tier))
                        .filter(block::start_ms.ge(hour_ms))
                        .filter(block::start_ms.lt(end_ms))
                };
                let columns = (
                    block::tier,
                    block::start_ms,
                    block::part,
                    block::end_ms,
                    block::stored_ms,
                    block::skewed,
                    block::bytes,
                );
                let pushed = of_tier(TIER_PUSHED).select(columns).order((block::start_ms, block::part));
                let mut rows: Vec<ParentRow> = pushed.limit(PARENTS_MAX).load(connection)?;
                let merged: i64 = of_tier(TIER_HOUR).count().get_result(connection)?;
                if merged >= HOUR_PARTS_MAX as i64 {
                    rows.extend(of_tier(TIER_HOUR).select(columns).load::<ParentRow>(connection)?);
                }
                let ids: Vec<i64> = series_group::table
                    .filter(series_group::host.eq(host.0.as_slice()))
                    .select(series_group::layout)
                    .distinct()
                    .load(connection)?;
                let ids = ids.into_iter().map(|id| LayoutId(unsigned(id))).filter(|id| store.layout(*id).is_none());
                Ok((rows, read::load_layouts(connection, ids)?))
            })
            .await?;
        self.learn_layouts(learned);
        parents.sort_by_key(|(tier, start_ms, part, ..)| (*start_ms, *tier, *part));
        let parents: Vec<Parent> = parents
            .into_iter()
            .map(|(tier, start_ms, part, end_ms, stored_ms, skewed, bytes)| Parent {
                tier,
                start_ms,
                part,
                end_ms,
                stored_ms,
                skewed,
                bytes,
            })
            .collect();
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || merge(&store, host, parents));
        let merged = work.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        report.waiting += merged.waiting;
        report.damaged.extend(merged.damaged);
        if !merged.parents.iter().any(|(tier, ..)| *tier == TIER_PUSHED) {
            return Ok(());
        }
        let (count, samples) = (merged.parents.len(), merged.children.iter().map(|child| child.samples).sum::<i64>());
        let bytes = merged.children.iter().map(|child| child.bytes.len()).sum::<usize>();
        match self.replace(host, merged.parents, merged.children).await {
            Ok(()) => {
                report.merges += 1;
                report.parents += count;
                report.parent_bytes += merged.parent_bytes;
                report.merged_bytes += bytes;
                report.samples += samples;
                Ok(())
            }
            Err(StoreError::Conflict) => {
                report.raced += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes exactly these parents and inserts their children, or does nothing and says `Conflict`.
    async fn replace(
        &self,
        host: HostId,
        parents: Vec<(i16, i64, i64)>,
        children: Vec<Child>,
    ) -> Result<(), StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                for tier in [TIER_PUSHED, TIER_HOUR] {
                    let of_tier: Vec<_> = parents.iter().filter(|parent| parent.0 == tier).collect();
                    for some in of_tier.chunks(INSERT_ROWS_MAX) {
                        let parts: Vec<i64> = some.iter().map(|(.., part)| *part).collect();
                        let starts = || some.iter().map(|(_, start_ms, _)| *start_ms);
                        let (first_ms, last_ms) = (starts().min().unwrap_or(0), starts().max().unwrap_or(0));
                        let these = block::table
                            .filter(block::host.eq(host.0.as_slice()))
                            .filter(block::tier.eq(tier))
                            .filter(block::start_ms.between(first_ms, last_ms))
                            .filter(block::part.eq_any(parts));
                        if diesel::delete(these).execute(connection)? != some.len() {
                            return Err(StoreError::Conflict.into());
                        }
                    }
                }
                for child in &children {
                    let row = NewBlock {
                        tier: TIER_HOUR,
                        start_ms: child.start_ms,
                        host: host.0.as_slice(),
                        part: child.part,
                        end_ms: child.end_ms,
                        stored_ms: child.stored_ms,
                        samples: child.samples,
                        skewed: child.skewed,
                        bytes: &child.bytes,
                    };
                    insert_many!(connection, block::table, &vec![row])?;
                }
                Ok(())
            })
            .await
    }

    /// Deletes what is older than `retention` says, in small transactions, for at most about `budget`.
    ///
    /// # Errors
    /// The database does not answer; what was deleted before stays deleted.
    pub async fn retain(
        &self,
        now_ms: i64,
        retention: Retention,
        budget: Duration,
    ) -> Result<RetainReport, StoreError> {
        let deadline = Deadline::after(budget);
        let mut report = RetainReport::default();
        let full_ms = now_ms.saturating_sub(retention.full_ms);
        let log_ms = now_ms.saturating_sub(retention.log_ms);
        let incident_ms = now_ms.saturating_sub(retention.incident_ms);
        for tier in [TIER_PUSHED, TIER_HOUR] {
            while until_empty(
                &mut report.blocks,
                self.inner.pool.write(move |connection| delete_blocks(connection, tier, full_ms)).await?,
            ) {
                if deadline.is_over() {
                    return Ok(report);
                }
            }
        }
        while until_empty(
            &mut report.log_rows,
            self.inner.pool.write(move |connection| delete_log(connection, log_ms)).await?,
        ) {
            if deadline.is_over() {
                return Ok(report);
            }
        }
        while until_empty(
            &mut report.incidents,
            self.inner.pool.write(move |connection| delete_incidents(connection, incident_ms)).await?,
        ) {
            if deadline.is_over() {
                return Ok(report);
            }
        }
        self.inner
            .pool
            .write(move |connection| {
                diesel::delete(audit::table.filter(audit::at_ms.lt(incident_ms))).execute(connection)?;
                diesel::delete(session::table.filter(session::expires_ms.le(now_ms))).execute(connection)?;
                Ok(())
            })
            .await?;
        report.finished = true;
        Ok(report)
    }
}

fn until_empty(sum: &mut usize, count: usize) -> bool {
    *sum += count;
    count > 0
}

fn delete_blocks(connection: &mut Conn, tier: i16, before_ms: i64) -> Tx<usize> {
    let keys: Vec<(i64, Vec<u8>, i64)> = block::table
        .filter(block::tier.eq(tier))
        .filter(block::start_ms.lt(before_ms))
        .filter(block::end_ms.le(before_ms))
        .order((block::start_ms, block::host, block::part))
        .select((block::start_ms, block::host, block::part))
        .limit(DELETE_ROWS_MAX)
        .load(connection)?;
    let mut count = 0;
    for (start_ms, host, part) in keys {
        count += diesel::delete(block::table.find((tier, start_ms, host, part))).execute(connection)?;
    }
    Ok(count)
}

fn delete_log(connection: &mut Conn, before_ms: i64) -> Tx<usize> {
    let bound: Option<i64> = keyword_hit::table
        .filter(keyword_hit::last_ms.lt(before_ms))
        .order(keyword_hit::last_ms)
        .select(keyword_hit::last_ms)
        .limit(1)
        .offset(DELETE_ROWS_MAX)
        .first(connection)
        .optional()?;
    let hits = keyword_hit::table.filter(keyword_hit::last_ms.lt(bound.map_or(before_ms, |bound| bound + 1)));
    let mut count = diesel::delete(hits).execute(connection)?;
    let bound: Option<i64> = engine_event::table
        .filter(engine_event::at_ms.lt(before_ms))
        .order(engine_event::at_ms)
        .select(engine_event::at_ms)
        .limit(1)
        .offset(DELETE_ROWS_MAX)
        .first(connection)
        .optional()?;
    let events = engine_event::table.filter(engine_event::at_ms.lt(bound.map_or(before_ms, |bound| bound + 1)));
    count += diesel::delete(events).execute(connection)?;
    Ok(count)
}

fn delete_incidents(connection: &mut Conn, before_ms: i64) -> Tx<usize> {
    let ids: Vec<String> = incident::table
        .filter(incident::state.eq("resolved"))
        .filter(incident::resolved_ms.lt(before_ms))
        .order(incident::opened_ms)
        .select(incident::id)
        .limit(DELETE_ROWS_MAX)
        .load(connection)?;
    diesel::delete(delivery::table.filter(delivery::incident.eq_any(&ids))).execute(connection)?;
    Ok(diesel::delete(incident::table.filter(incident::id.eq_any(&ids))).execute(connection)?)
}

struct Merged {
    parents: Vec<(i16, i64, i64)>,
    children: Vec<Child>,
    parent_bytes: usize,
    waiting: usize,
    damaged: Vec<String>,
}

/// Takes the parents apart and puts their samples together, group by group.
fn merge(store: &Store, host: HostId, parents: Vec<Parent>) -> Result<Merged, StoreError> {
    let mut merged =
        Merged { parents: Vec::new(), children: Vec::new(), parent_bytes: 0, waiting: 0, damaged: Vec::new() };
    let mut groups: BTreeMap<(EntityId, LayoutId), Gathered> = BTreeMap::new();
    let (mut start_ms, mut end_ms, mut stored_ms, mut skewed) = (i64::MAX, i64::MIN, i64::MIN, false);
    for parent in parents {
        match take_apart(store, &parent) {
            Ok(Some(parts)) => {
                for (key, times, columns) in parts {
                    let gathered = groups.entry(key).or_default();
                    gathered.columns.resize_with(columns.len(), Vec::new);
                    gathered.times.extend(times);
                    gathered.columns.iter_mut().zip(columns).for_each(|(all, column)| all.extend(column));
                }
                merged.parents.push((parent.tier, parent.start_ms, parent.part));
                merged.parent_bytes += parent.bytes.len();
                start_ms = start_ms.min(parent.start_ms);
                end_ms = end_ms.max(parent.end_ms);
                stored_ms = stored_ms.max(parent.stored_ms);
                skewed |= parent.skewed;
            }
            Ok(None) => merged.waiting += 1,
            Err(error) => {
                let (from_ms, to_ms) = (parent.start_ms, parent.end_ms);
                tracing::warn!(%host, from_ms, to_ms, tier = parent.tier, part = parent.part, %error, "Left a damaged row of the block table unmerged");
                merged.damaged.push(format!(
                    "host {host}, {from_ms} to {to_ms}, tier {}, part {}: {error}",
                    parent.tier, parent.part
                ));
            }
        }
    }
    if merged.parents.is_empty() {
        return Ok(merged);
    }
    let mut rows: Vec<Vec<MergedGroup>> = vec![Vec::new()];
    let mut values = 0;
    for ((entity, layout), gathered) in groups {
        let decimals = store
            .layout(layout)
            .map(|layout| layout.metrics.iter().map(|metric| metric.decimals).collect::<Vec<_>>())
            .unwrap_or_default();
        for group in split(gathered) {
            values += group.times.len() * group.columns.len();
            if values > ROW_VALUES_MAX && rows.last().is_some_and(|row| !row.is_empty()) {
                rows.push(Vec::new());
                values = group.times.len() * group.columns.len();
            }
            let (times, columns, decimals) = (group.times, group.columns, decimals.clone());
            if let Some(row) = rows.last_mut() {
                row.push(MergedGroup { entity, layout, times, decimals, columns });
            }
        }
    }
    for (index, groups) in rows.iter().enumerate() {
        let bytes = column::encode(groups)
            .map_err(|error| StoreError::Corrupt(format!("hour {start_ms} of host {host}: {error}")))?;
        let present = |column: &Vec<f64>| column.iter().filter(|value| !value.is_nan()).count();
        let samples: usize = groups.iter().flat_map(|group| &group.columns).map(present).sum();
        merged.children.push(Child {
            start_ms,
            end_ms,
            part: part_of(&(&merged.parents, index)),
            stored_ms,
            samples: samples as i64,
            skewed,
            bytes,
        });
    }
    Ok(merged)
}

/// Puts the samples in the order of their times, and apart where there are more than a row may hold.
fn split(mut all: Gathered) -> Vec<Gathered> {
    if !all.times.is_sorted() {
        let mut order: Vec<usize> = (0..all.times.len()).collect();
        order.sort_by_key(|index| all.times[*index]);
        all.times = order.iter().map(|index| all.times[*index]).collect();
        for column in &mut all.columns {
            *column = order.iter().map(|index| column[*index]).collect();
        }
    }
    let points = AXIS_POINTS_MAX.min(ROW_VALUES_MAX / all.columns.len().max(1)).max(1);
    if all.times.len() <= points {
        return vec![all];
    }
    let cuts = (0..all.times.len()).step_by(points);
    cuts.map(|from| {
        let to = (from + points).min(all.times.len());
        Gathered {
            times: all.times[from..to].to_vec(),
            columns: all.columns.iter().map(|column| column[from..to].to_vec()).collect(),
        }
    })
    .collect()
}

type Apart = Vec<((EntityId, LayoutId), Vec<i64>, Vec<Vec<f64>>)>;

/// The groups of a parent; `None` when a layout is not known yet, so that the block must wait.
fn take_apart(store: &Store, parent: &Parent) -> Result<Option<Apart>, DecodeError> {
    let mut apart = Vec::new();
    if parent.tier == TIER_PUSHED {
        let raw = RawBlock::parse(&parent.bytes)?;
        let step_ms = i64::from(raw.header.step_ms);
        let (groups, unknown) = raw.groups(|id| store.layout(id).map(|layout| Layout::clone(&layout)))?;
        if unknown > 0 {
            return Ok(None);
        }
        for group in groups {
            let times = group.ticks.iter().map(|tick| parent.start_ms + i64::from(tick) * step_ms).collect();
            apart.push(((group.entity, group.layout), times, group.columns));
        }
        return Ok(Some(apart));
    }
    let row = Row::parse(&parent.bytes)?;
    for group in row.groups() {
        let Some(layout) = store.layout(group.layout) else { return Ok(None) };
        if layout.metrics.len() != group.width() {
            return Err(DecodeError::Malformed("merged row: a group does not fit its layout"));
        }
        let mut columns = Vec::with_capacity(group.width());
        for (index, metric) in layout.metrics.iter().enumerate() {
            columns.push(row.column(group, index, metric.decimals)?);
        }
        apart.push(((group.entity, group.layout), row.times(group)?, columns));
    }
    Ok(Some(apart))
}
