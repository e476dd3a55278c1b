//! The samples section: groups of `(entity, layout, tick bitmap, columns)`, series by series.
//!
//! A column is a tag and its payload: nothing, one constant, deltas of scaled integers, deltas with a bitmap of
//! the missing, or plain doubles with that bitmap. Values are rounded to the layout's decimals when written.

use std::borrow::Borrow;

use super::{Block, DecodeError, EncodeError, Layout, Reader, Writer, bound, check};
use crate::id::{EntityId, LayoutId};
use crate::limit;

const TAG_MISSING: u8 = 0;
const TAG_CONSTANT: u8 = 1;
const TAG_DELTAS: u8 = 2;
const TAG_DELTAS_SPARSE: u8 = 3;
const TAG_DOUBLES: u8 = 4;

/// Below this, scaling there and back in doubles errs by less than a half, so rounding twice is rounding once.
/// What is larger, scaled or not, is kept as a double.
const EXACT_MAX: f64 = 1e15;

/// The ticks of a block that a group has, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticks(Vec<u8>);

impl Ticks {
    /// No tick of `len`.
    #[must_use]
    pub fn none(len: u16) -> Self {
        Self(vec![0; usize::from(len).div_ceil(8)])
    }

    /// All ticks of `len`.
    #[must_use]
    pub fn all(len: u16) -> Self {
        let mut ticks = Self::none(len);
        (0..len).for_each(|tick| ticks.set(tick));
        ticks
    }

    /// Adds a tick; one beyond the block's is ignored.
    pub fn set(&mut self, tick: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(tick / 8)) {
            *byte |= 1 << (tick % 8);
        }
    }

    /// Whether the tick is there.
    #[must_use]
    pub fn contains(&self, tick: u16) -> bool {
        self.0.get(usize::from(tick / 8)).is_some_and(|byte| byte & (1 << (tick % 8)) != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// The ticks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let len = u16::try_from(self.0.len() * 8).unwrap_or(u16::MAX);
        (0..len).filter(|tick| self.contains(*tick))
    }

    fn read(reader: &mut Reader<'_>, ticks: u16) -> Result<Self, DecodeError> {
        let own = Self(reader.take(usize::from(ticks).div_ceil(8), "tick bitmap")?.to_vec());
        match own.iter().last() {
            Some(last) if last >= ticks => Err(DecodeError::Malformed("tick bitmap")),
            _ => Ok(own),
        }
    }
}

/// One series over the ticks of its group; NaN where the value is missing.
pub type Column = Vec<f64>;

/// All series of one entity with one layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Whose.
    pub entity: EntityId,
    /// What the columns mean.
    pub layout: LayoutId,
    /// When.
    pub ticks: Ticks,
    /// A column a metric of the layout, each as long as `ticks` has bits.
    pub columns: Vec<Column>,
}

/// The powers of ten that a double holds exactly: looked up for every value of every tier.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

fn power(decimals: i8) -> f64 {
    let exponent = decimals.unsigned_abs();
    POWERS.get(usize::from(exponent)).copied().unwrap_or_else(|| 10_f64.powi(i32::from(exponent)))
}

/// `value` as it comes back out of a block: rounded to `decimals`, or unchanged where it cannot be scaled exactly.
#[must_use]
pub fn round(value: f64, decimals: i8) -> f64 {
    scale(value, decimals).map_or(value, |scaled| unscale(scaled, decimals))
}

/// `value` as a whole number of its last decimal place; `None` where that would not be exact.
#[must_use]
pub fn scale(value: f64, decimals: i8) -> Option<i64> {
    let power = power(decimals);
    let scaled = if decimals >= 0 { value * power } else { value / power }.round();
    (scaled.abs() <= EXACT_MAX && value.abs() <= EXACT_MAX).then_some(scaled as i64)
}

/// The value of a scaled whole number, the same in every tier.
#[must_use]
pub fn unscale(scaled: i64, decimals: i8) -> f64 {
    let power = power(decimals);
    if decimals >= 0 { scaled as f64 / power } else { scaled as f64 * power }
}

pub(super) fn write<'a>(
    writer: &mut Writer,
    groups: &[Group],
    ticks: u16,
    layout: impl Fn(LayoutId) -> Option<&'a Layout>,
) -> Result<(), EncodeError> {
    bound("groups", groups.len(), limit::GROUPS_MAX)?;
    writer.varint(groups.len() as u64);
    let (mut series, mut values) = (0, 0);
    for (index, group) in groups.iter().enumerate() {
        let layout = layout(group.layout).ok_or(EncodeError::Shape(index))?;
        let count = group.ticks.count();
        let fits = group.ticks.0.len() == usize::from(ticks).div_ceil(8)
            && group.ticks.iter().all(|tick| tick < ticks)
            && group.columns.len() == layout.metrics.len()
            && group.columns.iter().all(|column| column.len() == count);
        if !fits {
            return Err(EncodeError::Shape(index));
        }
        series = bound("series", series + group.columns.len(), limit::SERIES_MAX)?;
        values = bound("values", values + group.columns.len() * count, limit::VALUES_MAX)?;
        let mut body = Writer::default();
        for (column, metric) in group.columns.iter().zip(&layout.metrics) {
            write_column(&mut body, column, metric.decimals);
        }
        writer.u64(group.entity.0);
        writer.u64(group.layout.0);
        writer.raw(&group.ticks.0);
        writer.bytes(&body.into_bytes());
    }
    Ok(())
}

fn write_column(writer: &mut Writer, column: &[f64], decimals: i8) {
    let present = || column.iter().filter(|value| !value.is_nan());
    if present().next().is_none() {
        return writer.u8(TAG_MISSING);
    }
    let Some(scaled) = present().map(|value| scale(*value, decimals)).collect::<Option<Vec<i64>>>() else {
        writer.u8(TAG_DOUBLES);
        write_missing(writer, column);
        present().for_each(|value| writer.f64(round(*value, decimals)));
        return;
    };
    let dense = scaled.len() == column.len();
    if dense && scaled.windows(2).all(|pair| pair[0] == pair[1]) {
        writer.u8(TAG_CONSTANT);
        return writer.signed(scaled[0]);
    }
    if dense {
        writer.u8(TAG_DELTAS);
    } else {
        writer.u8(TAG_DELTAS_SPARSE);
        write_missing(writer, column);
    }
    let mut previous = 0;
    for value in scaled {
        writer.signed(value - previous);
        previous = value;
    }
}

fn write_missing(writer: &mut Writer, column: &[f64]) {
    for chunk in column.chunks(8) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (i, value)| bits | (u8::from(value.is_nan()) << i));
        writer.u8(bits);
    }
}

pub(super) fn read<L: Borrow<Layout>>(
    reader: &mut Reader<'_>,
    ticks: u16,
    layout: &impl Fn(LayoutId) -> Option<L>,
) -> Result<(Vec<Group>, usize), DecodeError> {
    let count = reader.count("groups", limit::GROUPS_MAX)?;
    let (mut groups, mut unknown, mut series, mut values) = (Vec::new(), 0, 0, 0);
    for _ in 0..count {
        let (entity, id, ticks, body) = read_group_head(reader, ticks)?;
        let Some(layout) = layout(id) else {
            unknown += 1;
            continue;
        };
        let layout: &Layout = layout.borrow();
        let len = ticks.count();
        series = check("series", series + layout.metrics.len(), limit::SERIES_MAX)?;
        values = check("values", values + layout.metrics.len() * len, limit::VALUES_MAX)?;
        let mut body = Reader::new(body);
        let mut columns = Vec::with_capacity(layout.metrics.len());
        for metric in &layout.metrics {
            columns.push(read_column(&mut body, len, metric.decimals)?);
        }
        if !body.is_empty() {
            return Err(DecodeError::Malformed("group: columns beyond its layout"));
        }
        groups.push(Group { entity, layout: id, ticks, columns });
    }
    Ok((groups, unknown))
}

pub(super) fn read_keys(reader: &mut Reader<'_>, ticks: u16) -> Result<Vec<(EntityId, LayoutId, usize)>, DecodeError> {
    let count = reader.count("groups", limit::GROUPS_MAX)?;
    let key = |(entity, layout, ticks, _): (EntityId, LayoutId, Ticks, &[u8])| (entity, layout, ticks.count());
    (0..count).map(|_| read_group_head(reader, ticks).map(key)).collect()
}

fn read_group_head<'a>(
    reader: &mut Reader<'a>,
    ticks: u16,
) -> Result<(EntityId, LayoutId, Ticks, &'a [u8]), DecodeError> {
    let entity = EntityId(reader.u64("group")?);
    let layout = LayoutId(reader.u64("group")?);
    let ticks = Ticks::read(reader, ticks)?;
    let len = reader.count("group", limit::SECTION_RAW_BYTES_MAX)?;
    Ok((entity, layout, ticks, reader.take(len, "group")?))
}

fn read_column(reader: &mut Reader<'_>, len: usize, decimals: i8) -> Result<Column, DecodeError> {
    let tag = reader.u8("column")?;
    let missing = match tag {
        TAG_DELTAS_SPARSE | TAG_DOUBLES => reader.take(len.div_ceil(8), "missing bitmap")?,
        _ => &[],
    };
    let is_missing = |i: usize| missing.get(i / 8).is_some_and(|byte| byte & (1 << (i % 8)) != 0);
    match tag {
        TAG_MISSING => Ok(vec![f64::NAN; len]),
        TAG_CONSTANT => Ok(vec![unscale(exact(reader.signed("column")?)?, decimals); len]),
        TAG_DELTAS | TAG_DELTAS_SPARSE => {
            // Collecting what may end early would not know its length, and grow.
            let (mut previous, mut column) = (0_i64, Vec::with_capacity(len));
            for i in 0..len {
                if is_missing(i) {
                    column.push(f64::NAN);
                    continue;
                }
                let value = previous.checked_add(reader.signed("column")?).ok_or(DecodeError::Malformed("column"))?;
                previous = exact(value)?;
                column.push(unscale(previous, decimals));
            }
            Ok(column)
        }
        TAG_DOUBLES => (0..len).map(|i| if is_missing(i) { Ok(f64::NAN) } else { reader.f64("column") }).collect(),
        _ => Err(DecodeError::Malformed("column tag")),
    }
}

fn exact(value: i64) -> Result<i64, DecodeError> {
    if (value as f64).abs() <= EXACT_MAX { Ok(value) } else { Err(DecodeError::Malformed("column")) }
}

impl Block {
    /// How many values the block carries, missing ones apart.
    #[must_use]
    pub fn values(&self) -> usize {
        self.groups
            .iter()
            .flat_map(|group| &group.columns)
            .map(|column| column.iter().filter(|v| !v.is_nan()).count())
            .sum()
    }
}
