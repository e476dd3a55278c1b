//! Housekeeping: pushed blocks of closed hours become rows of the hour tier and sums of the coarser ones, and what is
//! too old goes.
//!
//! Rows are immutable. A merge deletes exactly the parents that it read and inserts their children in one
//! transaction, or does nothing; so two servers may do the same at once, and dying in the middle leaves everything as
//! it was. A sample counts in a coarser tier from the transaction on that takes it out of the pushed one: once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::prelude::*;
use forewarn_common::block::{DecodeError, RawBlock};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId, LayoutId};
use forewarn_common::limit;
use futures_util::stream::{self, StreamExt};

use super::column::{self, AXIS_POINTS_MAX, MergedGroup, Row};
use super::connection::{Conn, Tx};
use super::many;
use super::push::{
    BLOCKS, INSERT_ROWS_MAX, NewBlock, TIER_DAY, TIER_DAY_PART, TIER_HOUR, TIER_MONTH, TIER_MONTH_PART, TIER_PUSHED,
    part_of,
};
use super::schema::{audit, block, delivery, engine_event, host_state, incident, keyword_hit, series_group};
use super::summary::{DAY_STEP_MS, Sums};
use super::{Store, StoreError, host_id, read, unsigned};

/// An hour is merged this long after its end: blocks on their way are in by then.
const MERGE_AFTER_MS: i64 = 5 * 60_000;
/// Pushed blocks looked at together; an hour of one block every five seconds is 720.
const PARENTS_MAX: i64 = 4096;
/// Hosts whose rows are put together at once: while one waits for the disk or for its turn to write, another is worked on.
const HOSTS_AT_ONCE: usize = 3;
/// An hour of late data in more rows than this is put together again.
const HOUR_PARTS_MAX: usize = 4;
/// Values of one merged row: at their worst 8 bytes each, below any sensible `max_allowed_packet`.
const ROW_VALUES_MAX: usize = 1 << 20;
/// Rows that one transaction of retention deletes.
const DELETE_ROWS_MAX: i64 = 500;
pub(super) const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What a round of compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Host-hours that were merged.
    pub merges: usize,
    /// Host-days and host-months of sums that were put together.
    pub folds: usize,
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

impl CompactReport {
    fn add(&mut self, other: Self) {
        self.merges += other.merges;
        self.folds += other.folds;
        self.parents += other.parents;
        self.parent_bytes += other.parent_bytes;
        self.merged_bytes += other.merged_bytes;
        self.samples += other.samples;
        self.raced += other.raced;
        self.waiting += other.waiting;
        self.damaged.extend(other.damaged);
        self.finished &= other.finished;
    }
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Samples at full resolution, milliseconds.
    pub full_ms: i64,
    /// Sums of five minutes, milliseconds.
    pub day_ms: i64,
    /// Sums of an hour, milliseconds.
    pub month_ms: i64,
    /// Keyword hits and engine events, milliseconds.
    pub log_ms: i64,
    /// Resolved incidents with their deliveries, and the record of who did what, milliseconds.
    pub incident_ms: i64,
}

impl Default for Retention {
    /// Two weeks to look at closely, a year and some to learn from, five years to compare with.
    fn default() -> Self {
        Self {
            full_ms: 14 * DAY_MS,
            day_ms: 400 * DAY_MS,
            month_ms: 5 * 366 * DAY_MS,
            log_ms: 90 * DAY_MS,
            incident_ms: 400 * DAY_MS,
        }
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
pub(super) struct Parent {
    pub(super) tier: i16,
    pub(super) start_ms: i64,
    pub(super) part: i64,
    pub(super) end_ms: i64,
    pub(super) stored_ms: i64,
    pub(super) skewed: bool,
    pub(super) bytes: Vec<u8>,
}

pub(super) type ParentRow = (i16, i64, i64, i64, i64, bool, Vec<u8>);

impl Parent {
    pub(super) fn of((tier, start_ms, part, end_ms, stored_ms, skewed, bytes): ParentRow) -> Self {
        Self { tier, start_ms, part, end_ms, stored_ms, skewed, bytes }
    }

    pub(super) fn key(&self) -> ParentKey {
        (self.tier, self.start_ms, self.part)
    }

    /// A sentence about this row and what is wrong with it.
    pub(super) fn damage(&self, host: HostId, error: &DecodeError) -> String {
        let Self { tier, start_ms, part, end_ms, .. } = self;
        format!("host {host}, {start_ms} to {end_ms}, tier {tier}, part {part}: {error}")
    }
}

/// What names a parent among the rows of its host: tier, start, part.
pub(super) type ParentKey = (i16, i64, i64);

/// All samples of one group, in the order of their times.
#[derive(Default)]
struct Gathered {
    times: Vec<i64>,
    columns: Vec<Vec<f64>>,
}

/// What a merge writes.
pub(super) struct Child {
    pub(super) tier: i16,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) part: i64,
    pub(super) stored_ms: i64,
    pub(super) samples: i64,
    pub(super) skewed: bool,
    pub(super) bytes: Vec<u8>,
}

/// The span, the newest arrival and the flag that children have from their parents.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start_ms: i64,
    end_ms: i64,
    stored_ms: i64,
    skewed: bool,
}

impl Span {
    pub(super) fn of<'a>(parents: impl IntoIterator<Item = &'a Parent>) -> Self {
        let empty = Self { start_ms: i64::MAX, end_ms: i64::MIN, stored_ms: i64::MIN, skewed: false };
        parents.into_iter().fold(empty, |span, parent| Self {
            start_ms: span.start_ms.min(parent.start_ms),
            end_ms: span.end_ms.max(parent.end_ms),
            stored_ms: span.stored_ms.max(parent.stored_ms),
            skewed: span.skewed | parent.skewed,
        })
    }
}

/// Fills rows of one tier with groups, none larger than a row may be.
pub(super) struct Rows<'a> {
    tier: i16,
    span: Span,
    parents: &'a [ParentKey],
    groups: Vec<MergedGroup>,
    values: usize,
    columns: usize,
    done: Vec<Child>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(tier: i16, span: Span, parents: &'a [ParentKey]) -> Self {
        Self { tier, span, parents, groups: Vec::new(), values: 0, columns: 0, done: Vec::new() }
    }

    pub(super) fn add(&mut self, group: MergedGroup) -> Result<(), DecodeError> {
        let (values, columns) = (group.times.len() * group.columns.len(), group.columns.len());
        let full = self.values + values > ROW_VALUES_MAX || self.columns + columns > limit::SERIES_MAX;
        if full && !self.groups.is_empty() {
            self.close()?;
        }
        self.values += values;
        self.columns += columns;
        self.groups.push(group);
        Ok(())
    }

    fn close(&mut self) -> Result<(), DecodeError> {
        let groups = std::mem::take(&mut self.groups);
        (self.values, self.columns) = (0, 0);
        let present = |column: &Vec<f64>| column.iter().filter(|value| !value.is_nan()).count();
        let samples: usize = groups.iter().flat_map(|group| &group.columns).map(present).sum();
        let Span { start_ms, end_ms, stored_ms, skewed } = self.span;
        self.done.push(Child {
            tier: self.tier,
            start_ms,
            end_ms,
            part: part_of(&(self.tier, self.parents, self.done.len())),
            stored_ms,
            samples: samples as i64,
            skewed,
            bytes: column::encode(&groups)?,
        });
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<Child>, DecodeError> {
        if !self.groups.is_empty() {
            self.close()?;
        }
        Ok(self.done)
    }
}

/// Buckets of one group that a row may hold.
pub(super) fn points_max(columns: usize) -> usize {
    AXIS_POINTS_MAX.min(ROW_VALUES_MAX / columns.max(1)).max(1)
}

/// A moment of the clock that never jumps, after which to stop.
pub(super) struct Deadline(i64);

impl Deadline {
    fn after(budget: Duration) -> Self {
        Self(clock::boot_ms().saturating_add(i64::try_from(budget.as_millis()).unwrap_or(i64::MAX)))
    }

    pub(super) fn is_over(&self) -> bool {
        clock::boot_ms() >= self.0
    }
}

impl Store {
    /// Merges the pushed blocks of closed hours, and puts days and months of sums together, some hosts at once, for at
    /// most about `budget`.
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
        report.finished = true;
        let (store, deadline) = (self, &deadline);
        let mut hosts = stream::iter(hosts)
            .map(|host| async move { store.tidy(host_id(&host)?, closed_ms, now_ms, deadline).await })
            .buffer_unordered(HOSTS_AT_ONCE);
        while let Some(done) = hosts.next().await {
            report.add(done?);
        }
        Ok(report)
    }

    /// One host's part of a round; nothing of it where the deadline came first.
    async fn tidy(
        &self,
        host: HostId,
        closed_ms: i64,
        now_ms: i64,
        deadline: &Deadline,
    ) -> Result<CompactReport, StoreError> {
        let mut report = CompactReport::default();
        report.finished = !deadline.is_over()
            && self.compact_host(host, closed_ms, deadline, &mut report).await?
            && self.fold_host(host, now_ms, deadline, &mut report).await?;
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
        let parents: Vec<Parent> = parents.into_iter().map(Parent::of).collect();
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || merge(&store, host, parents));
        let merged = work.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        report.waiting += merged.waiting;
        report.damaged.extend(merged.damaged);
        if !merged.parents.iter().any(|(tier, ..)| *tier == TIER_PUSHED) {
            return Ok(());
        }
        let hours = || merged.children.iter().filter(|child| child.tier == TIER_HOUR);
        let (count, samples) = (merged.parents.len(), hours().map(|child| child.samples).sum::<i64>());
        let bytes = hours().map(|child| child.bytes.len()).sum::<usize>();
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
    pub(super) async fn replace(
        &self,
        host: HostId,
        parents: Vec<ParentKey>,
        children: Vec<Child>,
    ) -> Result<(), StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                let tiers: BTreeSet<i16> = parents.iter().map(|(tier, ..)| *tier).collect();
                for tier in tiers {
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
                        tier: child.tier,
                        start_ms: child.start_ms,
                        host: host.0.as_slice(),
                        part: child.part,
                        end_ms: child.end_ms,
                        stored_ms: child.stored_ms,
                        samples: child.samples,
                        skewed: child.skewed,
                        bytes: &child.bytes,
                    };
                    many::write(connection, &BLOCKS, std::slice::from_ref(&row))?;
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
        let tiers = [
            (TIER_PUSHED, retention.full_ms),
            (TIER_HOUR, retention.full_ms),
            (TIER_DAY_PART, retention.day_ms),
            (TIER_DAY, retention.day_ms),
            (TIER_MONTH_PART, retention.month_ms),
            (TIER_MONTH, retention.month_ms),
        ];
        let log_ms = now_ms.saturating_sub(retention.log_ms);
        let incident_ms = now_ms.saturating_sub(retention.incident_ms);
        for (tier, kept_ms) in tiers {
            let before_ms = now_ms.saturating_sub(kept_ms);
            while until_empty(
                &mut report.blocks,
                self.inner.pool.write(move |connection| delete_blocks(connection, tier, before_ms)).await?,
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
        // What has just come, however old, is first merged into the tiers that keep it longer.
        .filter(block::stored_ms.lt(before_ms).or(block::tier.gt(TIER_PUSHED)))
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
    parents: Vec<ParentKey>,
    children: Vec<Child>,
    parent_bytes: usize,
    waiting: usize,
    damaged: Vec<String>,
}

/// Takes the parents apart and puts their samples together, group by group. Sums are made of what was pushed only:
/// what is in the hour tier is in them already.
fn merge(store: &Store, host: HostId, mut parents: Vec<Parent>) -> Result<Merged, StoreError> {
    let mut merged =
        Merged { parents: Vec::new(), children: Vec::new(), parent_bytes: 0, waiting: 0, damaged: Vec::new() };
    parents.sort_by_key(|parent| parent.tier);
    let mut groups: BTreeMap<(EntityId, LayoutId), Gathered> = BTreeMap::new();
    let (mut sums, mut used, mut used_pushed) = (None, Vec::new(), 0);
    for parent in &parents {
        if parent.tier == TIER_HOUR && sums.is_none() {
            sums = Some(summed(&mut groups));
        }
        match take_apart(store, parent) {
            Ok(Some(parts)) => {
                for (key, times, columns) in parts {
                    let gathered = groups.entry(key).or_default();
                    gathered.columns.resize_with(columns.len(), Vec::new);
                    gathered.times.extend(times);
                    gathered.columns.iter_mut().zip(columns).for_each(|(all, column)| all.extend(column));
                }
                merged.parents.push(parent.key());
                merged.parent_bytes += parent.bytes.len();
                used_pushed += usize::from(parent.tier == TIER_PUSHED);
                used.push(parent);
            }
            Ok(None) => merged.waiting += 1,
            Err(error) => {
                let text = parent.damage(host, &error);
                tracing::warn!("Left a damaged row of the block table unmerged: {text}");
                merged.damaged.push(text);
            }
        }
    }
    if merged.parents.is_empty() {
        return Ok(merged);
    }
    let sums = sums.unwrap_or_else(|| summed(&mut groups));
    let failed = |error| StoreError::Corrupt(format!("an hour of host {host}: {error}"));
    let mut hours = Rows::new(TIER_HOUR, Span::of(used.iter().copied()), &merged.parents);
    for ((entity, id), mut gathered) in groups {
        let Some(layout) = store.layout(id) else { continue };
        gathered.sort();
        let decimals: Vec<i8> = layout.metrics.iter().map(|metric| metric.decimals).collect();
        for Gathered { times, columns } in split(gathered) {
            let group = MergedGroup { entity, layout: id, times, decimals: decimals.clone(), columns };
            hours.add(group).map_err(failed)?;
        }
    }
    merged.children = hours.finish().map_err(failed)?;
    let pushed = Span::of(used[..used_pushed].iter().copied());
    let mut parts = Rows::new(TIER_DAY_PART, pushed, &merged.parents);
    for ((entity, id), sums) in sums {
        let Some(layout) = store.layout(id) else { continue };
        for group in sums.pieces(entity, id, &layout, points_max(6 * layout.metrics.len())) {
            parts.add(group).map_err(failed)?;
        }
    }
    merged.children.extend(parts.finish().map_err(failed)?);
    Ok(merged)
}

fn summed(groups: &mut BTreeMap<(EntityId, LayoutId), Gathered>) -> Vec<((EntityId, LayoutId), Sums)> {
    let sum = |(key, gathered): (&(EntityId, LayoutId), &mut Gathered)| {
        gathered.sort();
        let mut sums = Sums::default();
        sums.add(&gathered.times, &gathered.columns, DAY_STEP_MS);
        (*key, sums)
    };
    groups.iter_mut().map(sum).collect()
}

impl Gathered {
    /// Puts the samples in the order of their times.
    fn sort(&mut self) {
        if self.times.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.times.len()).collect();
        order.sort_by_key(|index| self.times[*index]);
        self.times = order.iter().map(|index| self.times[*index]).collect();
        for column in &mut self.columns {
            *column = order.iter().map(|index| column[*index]).collect();
        }
    }
}

/// Puts samples apart where there are more than a row may hold.
fn split(all: Gathered) -> Vec<Gathered> {
    let points = points_max(all.columns.len());
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
        let (groups, unknown) = raw.groups(|id| store.layout(id))?;
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
