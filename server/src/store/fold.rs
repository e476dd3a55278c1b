//! Housekeeping of the coarser tiers: parts of sums become days of five minutes, and these months of hours.
//!
//! The same bargain as a merge of hours: exactly the parents that were read are deleted in the transaction that
//! inserts their children. Each step moves sums up: a part that joins its day leaves one for its month in the same
//! transaction, so a reader finds each sample in exactly one of the tiers that it looks at.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use forewarn_common::block::DecodeError;
use forewarn_common::id::{EntityId, HostId, LayoutId};

use super::column::Row;
use super::compact::{Child, CompactReport, Deadline, HOUR_MS, Parent, ParentKey, ParentRow, Rows, Span, points_max};
use super::connection::{Conn, Tx};
use super::push::{TIER_DAY, TIER_DAY_PART, TIER_MONTH, TIER_MONTH_PART};
use super::schema::block;
use super::summary::{DAY_STEP_MS, MONTH_STEP_MS, Sums};
use super::{Store, StoreError, read};

/// A day or a month is put together this long after its end.
const FOLD_AFTER_MS: i64 = HOUR_MS;
/// While parts still arrive they are left to become more.
const QUIET_MS: i64 = HOUR_MS;
/// So many parts are put together without waiting for quiet: a day of hours.
const PARTS_FULL: usize = 24;
/// Parts looked at together: a day of late data in small pieces.
const PARTS_MAX: usize = 512;

/// One step up.
#[derive(Clone, Copy)]
struct Step {
    from: i16,
    into: i16,
    /// What one row of the second spans.
    span_ms: i64,
    /// Bucket of both.
    step_ms: i64,
    /// The tier and the bucket of what is left for the next step.
    beside: Option<(i16, i64)>,
}

const DAY: Step = Step {
    from: TIER_DAY_PART,
    into: TIER_DAY,
    span_ms: 24 * HOUR_MS,
    step_ms: DAY_STEP_MS,
    beside: Some((TIER_MONTH_PART, MONTH_STEP_MS)),
};
/// Thirty days: a cut that needs no calendar.
const MONTH: Step =
    Step { from: TIER_MONTH_PART, into: TIER_MONTH, span_ms: 720 * HOUR_MS, step_ms: MONTH_STEP_MS, beside: None };

impl Step {
    /// Begin and end of the day (UTC) or the thirty days that a time is in.
    fn span_of(self, time_ms: i64) -> (i64, i64) {
        let begin = time_ms.div_euclid(self.span_ms) * self.span_ms;
        (begin, begin + self.span_ms)
    }
}

struct Folded {
    parents: Vec<ParentKey>,
    children: Vec<Child>,
    damaged: Vec<String>,
}

impl Store {
    /// Puts the days and months of a host together that are due. False when the deadline came first.
    pub(super) async fn fold_host(
        &self,
        host: HostId,
        now_ms: i64,
        deadline: &Deadline,
        report: &mut CompactReport,
    ) -> Result<bool, StoreError> {
        for step in [DAY, MONTH] {
            let load = move |connection: &mut Conn| -> Tx<Vec<(i64, i64)>> {
                Ok(block::table
                    .filter(block::host.eq(host.0.as_slice()))
                    .filter(block::tier.eq(step.from))
                    .filter(block::start_ms.lt(now_ms))
                    .select((block::start_ms, block::stored_ms))
                    .load(connection)?)
            };
            let mut spans: BTreeMap<(i64, i64), (usize, i64)> = BTreeMap::new();
            for (start_ms, stored_ms) in self.inner.pool.read(load).await? {
                let (parts, newest_ms) = spans.entry(step.span_of(start_ms)).or_insert((0, i64::MIN));
                (*parts, *newest_ms) = (*parts + 1, stored_ms.max(*newest_ms));
            }
            for ((begin_ms, end_ms), (parts, newest_ms)) in spans {
                let settled = end_ms + FOLD_AFTER_MS <= now_ms;
                if !settled || (newest_ms + QUIET_MS > now_ms && parts < PARTS_FULL) {
                    continue;
                }
                if deadline.is_over() {
                    return Ok(false);
                }
                self.fold_span(host, step, (begin_ms, end_ms), report).await?;
            }
        }
        Ok(true)
    }

    async fn fold_span(
        &self,
        host: HostId,
        step: Step,
        (begin_ms, end_ms): (i64, i64),
        report: &mut CompactReport,
    ) -> Result<(), StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<ParentRow>> {
            let columns = (
                block::tier,
                block::start_ms,
                block::part,
                block::end_ms,
                block::stored_ms,
                block::skewed,
                block::bytes,
            );
            let of_tier = |tier: i16| {
                block::table
                    .filter(block::host.eq(host.0.to_vec()))
                    .filter(block::tier.eq(tier))
                    .filter(block::start_ms.ge(begin_ms))
                    .filter(block::start_ms.lt(end_ms))
                    .select(columns)
                    .order((block::start_ms, block::part))
                    .limit(PARTS_MAX as i64)
            };
            let mut rows: Vec<ParentRow> = of_tier(step.from).load(connection)?;
            rows.extend(of_tier(step.into).load::<ParentRow>(connection)?);
            Ok(rows)
        };
        let rows = self.inner.pool.read(load).await?;
        self.know_layouts(host).await?;
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || fold(&store, host, step, rows));
        let folded = work.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        report.damaged.extend(folded.damaged);
        if !folded.parents.iter().any(|(tier, ..)| *tier == step.from) {
            return Ok(());
        }
        match self.replace(host, folded.parents, folded.children).await {
            Ok(()) => report.folds += 1,
            Err(StoreError::Conflict) => report.raced += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Learns the layouts of all groups that a host ever had.
    async fn know_layouts(&self, host: HostId) -> Result<(), StoreError> {
        let store = self.clone();
        let learned =
            self.inner.pool.read(move |connection| read::load_unknown_layouts(connection, &store, host)).await?;
        self.learn_layouts(learned);
        Ok(())
    }
}

fn fold(store: &Store, host: HostId, step: Step, rows: Vec<ParentRow>) -> Result<Folded, StoreError> {
    let mut parents: Vec<Parent> = rows.into_iter().map(Parent::of).collect();
    let mut damaged = Vec::new();
    parents.retain(|parent| {
        let fault = open(store, parent).err();
        if let Some(error) = &fault {
            let text = parent.damage(host, error);
            tracing::warn!("Left a damaged row of the block table as it was: {text}");
            damaged.push(text);
        }
        fault.is_none()
    });
    let keys: Vec<_> = parents.iter().map(Parent::key).collect();
    let mut folded = Folded { parents: Vec::new(), children: Vec::new(), damaged };
    if parents.is_empty() {
        return Ok(folded);
    }
    let failed = |error| StoreError::Corrupt(format!("sums of host {host}: {error}"));
    let rows: Vec<Row<'_>> =
        parents.iter().map(|parent| Row::parse(&parent.bytes)).collect::<Result<_, _>>().map_err(failed)?;
    let groups: BTreeSet<(EntityId, LayoutId)> =
        rows.iter().flat_map(|row| row.groups().iter().map(|group| (group.entity, group.layout))).collect();
    let mut into = Rows::new(step.into, Span::of(&parents), &keys);
    let fresh = Span::of(parents.iter().filter(|parent| parent.tier == step.from));
    let mut beside = step.beside.map(|(tier, step_ms)| (Rows::new(tier, fresh, &keys), step_ms));
    for (entity, id) in groups {
        // Parents whose layout is not known were set aside above.
        let Some(layout) = store.layout(id) else { continue };
        let points = points_max(6 * layout.metrics.len());
        let (mut all, mut new) = (Sums::default(), Sums::default());
        for (row, parent) in rows.iter().zip(&parents) {
            for group in row.groups().iter().filter(|group| (group.entity, group.layout) == (entity, id)) {
                let sums = Sums::of(row, group, &layout, step.step_ms).map_err(failed)?;
                if let (Some((_, step_ms)), true) = (&beside, parent.tier == step.from) {
                    new.join(&sums, *step_ms);
                }
                all.join(&sums, step.step_ms);
            }
        }
        for group in all.pieces(entity, id, &layout, points) {
            into.add(group).map_err(failed)?;
        }
        if let Some((rows, _)) = &mut beside {
            for group in new.pieces(entity, id, &layout, points) {
                rows.add(group).map_err(failed)?;
            }
        }
    }
    folded.children = into.finish().map_err(failed)?;
    if let Some((rows, _)) = beside {
        folded.children.extend(rows.finish().map_err(failed)?);
    }
    folded.parents = keys;
    Ok(folded)
}

/// Whether a row can be taken apart to its last column.
fn open(store: &Store, parent: &Parent) -> Result<(), DecodeError> {
    let row = Row::parse(&parent.bytes)?;
    if row.groups().iter().any(|group| store.layout(group.layout).is_none()) {
        return Err(DecodeError::Malformed("summed row: a layout is not known"));
    }
    row.verify()
}
