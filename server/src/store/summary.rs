//! The coarser tiers: what stays of a series in a bucket of five minutes or an hour, and how it stands in a row.
//!
//! Pure: samples in, sums out, and sums join in any order to the same sums. A bucket is the grid's (`series`): named
//! by its end, which it holds, while it does not hold its begin. `docs/block-format.md` describes the columns.

use std::collections::BTreeMap;

use forewarn_common::block::{DecodeError, Layout, Metric, round};
use forewarn_common::id::{EntityId, LayoutId};
use forewarn_common::metric::Kind;

use super::column::{GroupEntry, MergedGroup, Row};

/// A bucket of the day tier: the grid that forecasts read.
pub(super) const DAY_STEP_MS: i64 = 300_000;
/// A bucket of the month tier.
pub(super) const MONTH_STEP_MS: i64 = 3_600_000;
/// Larger magnitudes are no measurement; the grid leaves them out too.
const VALUE_MAX: f64 = 1e30;

/// The end of the bucket that holds a time.
pub(super) fn bucket_end(time_ms: i64, step_ms: i64) -> i64 {
    let begin = time_ms.div_euclid(step_ms) * step_ms;
    if begin == time_ms { begin } else { begin + step_ms }
}

/// Whether a value counts in a bucket.
pub(super) fn counts(value: f64) -> bool {
    value.abs() <= VALUE_MAX
}

/// What is known of one series in one bucket; nothing of it means anything while `count` is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sum {
    pub(super) sum: f64,
    pub(super) count: u32,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
    pub(super) last_ms: i64,
}

impl Sum {
    const EMPTY: Self =
        Self { sum: 0.0, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, last: 0.0, last_ms: i64::MIN };

    fn add(&mut self, time_ms: i64, value: f64) {
        self.join(&Self { sum: value, count: 1, min: value, max: value, last: value, last_ms: time_ms });
    }

    /// Takes in what another part knows of the same bucket.
    pub(super) fn join(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.sum += other.sum;
        self.count = self.count.saturating_add(other.count);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        // Two values of one moment (a clock set back): the larger, whichever came first.
        if (other.last_ms, other.last) > (self.last_ms, self.last) || self.last_ms == i64::MIN {
            (self.last_ms, self.last) = (other.last_ms, other.last);
        }
    }
}

/// The sums of one group: for each bucket, named by its end, a sum a metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sums(BTreeMap<i64, Vec<Sum>>);

impl Sums {
    fn at(&mut self, end_ms: i64, width: usize) -> &mut Vec<Sum> {
        self.0.entry(end_ms).or_insert_with(|| vec![Sum::EMPTY; width])
    }

    /// Each bucket's end and its sums.
    #[cfg(test)]
    pub(super) fn buckets(&self) -> Vec<(i64, Vec<Sum>)> {
        self.0.iter().map(|(end_ms, sums)| (*end_ms, sums.clone())).collect()
    }

    /// Takes in samples; `columns` are as long as `times`.
    pub(super) fn add(&mut self, times: &[i64], columns: &[Vec<f64>], step_ms: i64) {
        let mut from = 0;
        while let Some(first) = times.get(from) {
            let end_ms = bucket_end(*first, step_ms);
            let len = times[from..].iter().take_while(|time| bucket_end(**time, step_ms) == end_ms).count();
            let sums = self.at(end_ms, columns.len());
            for (sum, column) in sums.iter_mut().zip(columns) {
                for (time, value) in times[from..from + len].iter().zip(&column[from..from + len]) {
                    if counts(*value) {
                        sum.add(*time, *value);
                    }
                }
            }
            from += len;
        }
    }

    /// Takes in the sums of another part, whose buckets must lie within those of `step_ms`.
    pub(super) fn join(&mut self, other: &Self, step_ms: i64) {
        for (end_ms, others) in &other.0 {
            let sums = self.at(bucket_end(*end_ms, step_ms), others.len());
            sums.iter_mut().zip(others).for_each(|(sum, other)| sum.join(other));
        }
    }

    /// The group as a row keeps it, in pieces of at most `points_max` buckets.
    pub(super) fn pieces(
        &self,
        entity: EntityId,
        id: LayoutId,
        layout: &Layout,
        points_max: usize,
    ) -> Vec<MergedGroup> {
        let full: Vec<&Vec<Sum>> = self.0.values().filter(|sums| sums.iter().any(|sum| sum.count > 0)).collect();
        full.chunks(points_max.max(1)).map(|some| piece(entity, id, layout, some)).collect()
    }

    /// The sums of a group of a row.
    pub(super) fn of(row: &Row<'_>, group: &GroupEntry, layout: &Layout, step_ms: i64) -> Result<Self, DecodeError> {
        if group.width() != width(layout) {
            return Err(DecodeError::Malformed("summed row: a group does not fit its layout"));
        }
        let times = row.times(group)?;
        let mut buckets = vec![vec![Sum::EMPTY; layout.metrics.len()]; times.len()];
        for ((index, metric), first) in layout.metrics.iter().enumerate().zip(first_columns(layout)) {
            let columns: Vec<Vec<f64>> = (0..columns_of(metric))
                .map(|column| row.column(group, first + column, decimals_of(metric, column)))
                .collect::<Result<_, _>>()?;
            for (at, (time, bucket)) in times.iter().zip(&mut buckets).enumerate() {
                let cell = |column: usize| columns.get(column).and_then(|c| c.get(at)).copied().unwrap_or(f64::NAN);
                if let (Some(slot), Some(sum)) = (bucket.get_mut(index), open(metric, *time, cell)) {
                    *slot = sum;
                }
            }
        }
        let mut sums = Self::default();
        for (time, bucket) in times.iter().zip(buckets) {
            let all = sums.at(bucket_end(*time, step_ms), layout.metrics.len());
            all.iter_mut().zip(&bucket).for_each(|(sum, other)| sum.join(other));
        }
        Ok(sums)
    }
}

/// Columns of a metric: sum and count first, so that a mean is had without the others.
fn columns_of(metric: &Metric) -> usize {
    match metric.kind {
        // Sum, count; how far the least, the greatest and the last are from the mean; how long before the group's
        // last tick the last was.
        Kind::Gauge => 6,
        // Sum, count, greatest.
        Kind::Increment => 3,
    }
}

fn decimals_of(metric: &Metric, column: usize) -> i8 {
    match column {
        1 | 5 => 0,
        _ => metric.decimals,
    }
}

/// How many columns a group of this layout has.
fn width(layout: &Layout) -> usize {
    layout.metrics.iter().map(columns_of).sum()
}

/// The number of the first column of each metric of a layout.
pub(super) fn first_columns(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    layout.metrics.iter().scan(0, |next, metric| {
        let first = *next;
        *next += columns_of(metric);
        Some(first)
    })
}

/// The mean as the other columns refer to it: rounded as the metric is, the same when it is read again.
fn middle(sum: f64, count: f64, decimals: i8) -> f64 {
    round(sum / count, decimals)
}

fn piece(entity: EntityId, id: LayoutId, layout: &Layout, buckets: &[&Vec<Sum>]) -> MergedGroup {
    // A bucket's place on the axis is the group's last tick in it, which names the bucket and dates the last values.
    let newest = |sums: &&Vec<Sum>| sums.iter().map(|sum| sum.last_ms).max().unwrap_or(0);
    let times: Vec<i64> = buckets.iter().map(newest).collect();
    let (mut columns, mut decimals) = (Vec::with_capacity(width(layout)), Vec::with_capacity(width(layout)));
    for (index, metric) in layout.metrics.iter().enumerate() {
        for column in 0..columns_of(metric) {
            let cell = |(time, sums): (&i64, &&Vec<Sum>)| {
                let sum = sums.get(index).filter(|sum| sum.count > 0);
                sum.map_or(f64::NAN, |sum| close(metric, *time, sum, column))
            };
            columns.push(times.iter().zip(buckets).map(cell).collect());
            decimals.push(decimals_of(metric, column));
        }
    }
    MergedGroup { entity, layout: id, times, decimals, columns }
}

/// One cell of a bucket.
fn close(metric: &Metric, time_ms: i64, sum: &Sum, column: usize) -> f64 {
    let total = round(sum.sum, metric.decimals);
    let count = f64::from(sum.count);
    let middle = middle(total, count, metric.decimals);
    match (column, metric.kind) {
        (0, _) => total,
        (1, _) => count,
        (2, Kind::Increment) => sum.max,
        (2, Kind::Gauge) => middle - sum.min,
        (3, _) => sum.max - middle,
        (4, _) => sum.last - middle,
        _ => (time_ms - sum.last_ms) as f64,
    }
}

/// A bucket of a metric from its cells; none when it has no value there.
fn open(metric: &Metric, time_ms: i64, cell: impl Fn(usize) -> f64) -> Option<Sum> {
    let (sum, count) = (cell(0), cell(1));
    if sum.is_nan() || count.is_nan() || count < 1.0 {
        return None;
    }
    let (middle, whole) = (middle(sum, count, metric.decimals), |value: f64| round(value, metric.decimals));
    let count = count as u32;
    Some(match metric.kind {
        Kind::Increment => Sum { sum, count, min: cell(2), max: cell(2), last: cell(2), last_ms: time_ms },
        Kind::Gauge => Sum {
            sum,
            count,
            min: whole(middle - cell(2)),
            max: whole(middle + cell(3)),
            last: whole(middle + cell(4)),
            last_ms: time_ms - cell(5) as i64,
        },
    })
}
