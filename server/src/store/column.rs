//! The bytes of a merged row (every tier but the pushed): columns compressed one by one, each read without its neighbours.
//!
//! `docs/block-format.md` describes them. Pure: bytes in, columns out; no database. A row is a directory under a
//! checksum (time axes, groups, for each column its tag, length and checksum), then the payloads.

use std::cell::RefCell;

use forewarn_common::block::{DecodeError, Reader, Writer, scale, unscale};
use forewarn_common::id::{EntityId, LayoutId};
use forewarn_common::limit;
use pco::standalone::{simple_compress, simple_decompress_into};
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DecompressorScratch, DeltaSpec, PagingSpec};

const MAGIC: &[u8; 4] = b"FWC1";
/// Magic, length and checksum of the directory.
const FIXED_BYTES: usize = 12;

/// Directory of one row: 65,536 columns take 1.5 MiB.
const DIRECTORY_BYTES_MAX: usize = 8 << 20;
/// Distinct time axes of one row: one a group at worst.
const AXES_MAX: usize = limit::GROUPS_MAX;
/// Points of one axis: an hour at a hundred a second, or a day at four.
pub(super) const AXIS_POINTS_MAX: usize = 360_000;

/// Differences of differences at most: what moves more smoothly than that is no measurement.
const DELTA_ORDER_MAX: usize = 2;
/// Bins that the cost of an order is estimated with, about those of the level.
const ESTIMATE_BINS: usize = 16;
/// Bits that the description of a bin and another order's first value take in a column's head.
const BIN_HEAD_BITS: f64 = 30.0;
const ORDER_HEAD_BITS: f64 = 40.0;

/// pco level: 4 is half a percent larger than 8 and takes two thirds of its time (docs/block-format.md).
const PCO_LEVEL: usize = 4;

const AXIS_REGULAR: u8 = 0;
const AXIS_PCO: u8 = 1;

const TAG_MISSING: u8 = 0;
const TAG_CONSTANT: u8 = 1;
/// Scaled whole numbers in pco's stand-alone form: what releases before the packed form wrote.
const TAG_SCALED: u8 = 2;
const TAG_SCALED_SPARSE: u8 = 3;
const TAG_DOUBLES: u8 = 4;
const TAG_SHORT: u8 = 5;
const TAG_SHORT_SPARSE: u8 = 6;
const TAG_PACKED: u8 = 7;
const TAG_PACKED_SPARSE: u8 = 8;

/// Columns shorter than this are differences as varints: pco's own header would outweigh them, and its time too.
const SHORT_POINTS: usize = 48;

/// One entity with one layout, over its own times.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MergedGroup {
    pub(super) entity: EntityId,
    pub(super) layout: LayoutId,
    /// Unix milliseconds, ascending; twice the same is possible after a clock was set back.
    pub(super) times: Vec<i64>,
    /// Decimals of each column, from the layout.
    pub(super) decimals: Vec<i8>,
    /// A column a metric, as long as `times`; NaN where missing.
    pub(super) columns: Vec<Vec<f64>>,
}

/// Puts a row together.
pub(super) fn encode(groups: &[MergedGroup]) -> Result<Vec<u8>, DecodeError> {
    let (mut directory, mut payload) = (Writer::default(), Vec::new());
    let mut axes: Vec<&[i64]> = Vec::new();
    let mut axis_of = Vec::with_capacity(groups.len());
    for group in groups {
        let index = axes.iter().position(|axis| *axis == group.times.as_slice()).unwrap_or_else(|| {
            axes.push(&group.times);
            axes.len() - 1
        });
        axis_of.push(index);
    }
    directory.varint(axes.len() as u64);
    for axis in axes {
        let (tag, bytes) = encode_axis(axis)?;
        directory.u8(tag);
        directory.varint(axis.len() as u64);
        list(&mut directory, &mut payload, &bytes);
    }
    directory.varint(groups.len() as u64);
    for (group, axis) in groups.iter().zip(axis_of) {
        directory.u64(group.entity.0);
        directory.u64(group.layout.0);
        directory.varint(axis as u64);
        directory.varint(group.columns.len() as u64);
        for (column, decimals) in group.columns.iter().zip(&group.decimals) {
            let (tag, bytes) = encode_column(column, *decimals)?;
            directory.u8(tag);
            list(&mut directory, &mut payload, &bytes);
        }
    }
    let directory = directory.into_bytes();
    let mut bytes = Vec::with_capacity(FIXED_BYTES + directory.len() + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&directory).to_le_bytes());
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

fn list(directory: &mut Writer, payload: &mut Vec<u8>, bytes: &[u8]) {
    directory.varint(bytes.len() as u64);
    if !bytes.is_empty() {
        directory.raw(&crc32c::crc32c(bytes).to_le_bytes());
    }
    payload.extend_from_slice(bytes);
}

fn config() -> ChunkConfig {
    ChunkConfig::default().with_compression_level(PCO_LEVEL)
}

fn encode_axis(times: &[i64]) -> Result<(u8, Vec<u8>), DecodeError> {
    let first = times.first().copied().unwrap_or(0);
    let step = times.get(1).map_or(0, |second| second - first);
    if (0_i64..).zip(times).all(|(i, time)| *time == first + i * step) {
        let mut writer = Writer::default();
        writer.signed(first);
        writer.signed(step);
        return Ok((AXIS_REGULAR, writer.into_bytes()));
    }
    let bytes = simple_compress(times, &config()).map_err(|_| DecodeError::Malformed("times to compress"))?;
    Ok((AXIS_PCO, bytes))
}

fn encode_column(column: &[f64], decimals: i8) -> Result<(u8, Vec<u8>), DecodeError> {
    let failed = |_| DecodeError::Malformed("column to compress");
    let present = || column.iter().copied().filter(|value| !value.is_nan());
    let exact =
        |value: f64| scale(value, decimals).filter(|scaled| unscale(*scaled, decimals).to_bits() == value.to_bits());
    // Collecting what may end early would not know its length, and grow.
    let mut scaled: Vec<i64> = Vec::with_capacity(column.len());
    for value in present() {
        let Some(value) = exact(value) else {
            let mut bytes = missing_bits(column);
            bytes.extend(simple_compress(&present().collect::<Vec<f64>>(), &config()).map_err(failed)?);
            return Ok((TAG_DOUBLES, bytes));
        };
        scaled.push(value);
    }
    if scaled.is_empty() {
        return Ok((TAG_MISSING, Vec::new()));
    }
    let dense = scaled.len() == column.len();
    if dense && scaled.iter().all(|value| *value == scaled[0]) {
        let mut writer = Writer::default();
        writer.signed(scaled[0]);
        return Ok((TAG_CONSTANT, writer.into_bytes()));
    }
    let short = scaled.len() < SHORT_POINTS;
    let packed = if short { differences(&scaled) } else { pack(&scaled).map_err(failed)? };
    if dense {
        return Ok((if short { TAG_SHORT } else { TAG_PACKED }, packed));
    }
    let mut bytes = missing_bits(column);
    bytes.extend(packed);
    Ok((if short { TAG_SHORT_SPARSE } else { TAG_PACKED_SPARSE }, bytes))
}

/// pco's wrapped form: one page, and no head of its own, because the directory says type and length.
fn pack(scaled: &[i64]) -> pco::errors::PcoResult<Vec<u8>> {
    let config = config()
        .with_delta_spec(DeltaSpec::TryConsecutive(delta_order(scaled)))
        .with_paging_spec(PagingSpec::Exact(vec![scaled.len()]));
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(scaled, &config)?;
    let bytes = Vec::with_capacity(chunk.meta_size_hint() + chunk.page_size_hint(0));
    let bytes = chunk.write_meta(file.write_header(bytes)?)?;
    chunk.write_page(0, bytes)
}

/// Which differences to pack. pco would try each by packing a sample of 200, which is most of a column of an hour.
fn delta_order(scaled: &[i64]) -> usize {
    let mut differences = scaled.to_vec();
    let (mut best, mut best_bits) = (0, estimated_bits(&differences));
    for order in 1..=DELTA_ORDER_MAX {
        differences = differences.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        let bits = estimated_bits(&differences) + order as f64 * ORDER_HEAD_BITS;
        if bits >= best_bits {
            break;
        }
        (best, best_bits) = (order, bits);
    }
    best
}

/// About how many bits numbers take in bins of equal count, as pco's are: a symbol each, and a place within its bin.
fn estimated_bits(numbers: &[i64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let count = sorted.len();
    let symbols = |inside: usize| match inside {
        0 => 0.0,
        inside => inside as f64 * (count as f64 / inside as f64).log2() + BIN_HEAD_BITS,
    };
    // Neighbouring bins of one and the same number are one.
    let (mut bits, mut same, mut same_as) = (0.0, 0, 0);
    for bin in 0..ESTIMATE_BINS {
        let inside = &sorted[bin * count / ESTIMATE_BINS..(bin + 1) * count / ESTIMATE_BINS];
        let (Some(low), Some(high)) = (inside.first(), inside.last()) else { continue };
        if same > 0 && !(low == high && *low == same_as) {
            bits += symbols(same);
            same = 0;
        }
        if low == high {
            (same, same_as) = (same + inside.len(), *low);
        } else {
            let place_bits = u64::BITS - (high.wrapping_sub(*low) as u64).leading_zeros();
            bits += symbols(inside.len()) + inside.len() as f64 * f64::from(place_bits);
        }
    }
    bits + symbols(same)
}

fn differences(scaled: &[i64]) -> Vec<u8> {
    let (mut writer, mut previous) = (Writer::default(), 0);
    for value in scaled {
        writer.signed(value - previous);
        previous = *value;
    }
    writer.into_bytes()
}

fn sums(bytes: &[u8], count: usize) -> Result<Vec<i64>, DecodeError> {
    let (mut reader, mut previous) = (Reader::new(bytes), 0_i64);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        previous = previous.checked_add(reader.signed("column")?).ok_or(DecodeError::Malformed("column"))?;
        values.push(previous);
    }
    if reader.is_empty() { Ok(values) } else { Err(DecodeError::Malformed("column")) }
}

fn missing_bits(column: &[f64]) -> Vec<u8> {
    let bits = |chunk: &[f64]| (0..8).zip(chunk).fold(0, |bits, (i, value)| bits | (u8::from(value.is_nan()) << i));
    column.chunks(8).map(bits).collect()
}

struct Slice {
    tag: u8,
    from: usize,
    len: usize,
    crc: u32,
}

/// A group of an open row: its columns are still closed.
pub(super) struct GroupEntry {
    pub(super) entity: EntityId,
    pub(super) layout: LayoutId,
    axis: usize,
    columns: Vec<Slice>,
}

impl GroupEntry {
    /// How many columns the group has.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }
}

/// A row whose directory has been read and verified.
pub(super) struct Row<'a> {
    axes: Vec<(usize, Slice)>,
    groups: Vec<GroupEntry>,
    payload: &'a [u8],
    /// 12 KiB in which each column is opened after the other.
    scratch: RefCell<DecompressorScratch>,
}

impl<'a> Row<'a> {
    /// Reads and verifies the directory; opens no column.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if &reader.array::<4>("magic")? != MAGIC {
            return Err(DecodeError::Malformed("merged row: the first bytes are not FWC1"));
        }
        let len = reader.u32("directory")? as usize;
        if len > DIRECTORY_BYTES_MAX {
            return Err(DecodeError::Limit { what: "directory", got: len as u64, max: DIRECTORY_BYTES_MAX as u64 });
        }
        let crc = reader.u32("directory")?;
        let directory = reader.take(len, "directory")?;
        if crc32c::crc32c(directory) != crc {
            return Err(DecodeError::Checksum("directory"));
        }
        let payload = &bytes[FIXED_BYTES + len..];
        let (mut reader, mut from) = (Reader::new(directory), 0);
        let mut axes = Vec::new();
        for _ in 0..reader.count("axes", AXES_MAX)? {
            let tag = reader.u8("axis")?;
            let points = reader.count("points of an axis", AXIS_POINTS_MAX)?;
            axes.push((points, slice(&mut reader, tag, &mut from, payload)?));
        }
        let (mut groups, mut series) = (Vec::new(), 0);
        for _ in 0..reader.count("groups", limit::GROUPS_MAX)? {
            let (entity, layout) = (EntityId(reader.u64("group")?), LayoutId(reader.u64("group")?));
            let axis = reader.count("axis of a group", axes.len().saturating_sub(1))?;
            let width = reader.count("columns of a group", limit::SERIES_MAX)?;
            series += width;
            if series > limit::SERIES_MAX {
                return Err(DecodeError::Limit { what: "columns", got: series as u64, max: limit::SERIES_MAX as u64 });
            }
            let mut columns = Vec::new();
            for _ in 0..width {
                let tag = reader.u8("column")?;
                columns.push(slice(&mut reader, tag, &mut from, payload)?);
            }
            groups.push(GroupEntry { entity, layout, axis, columns });
        }
        if !reader.is_empty() || from != payload.len() {
            return Err(DecodeError::Malformed("merged row: bytes are left over"));
        }
        Ok(Self { axes, groups, payload, scratch: RefCell::default() })
    }

    /// The groups.
    pub(super) fn groups(&self) -> &[GroupEntry] {
        &self.groups
    }

    /// Computes every checksum, decodes nothing.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let columns = self.groups.iter().flat_map(|group| &group.columns);
        self.axes.iter().map(|(_, axis)| axis).chain(columns).try_for_each(|slice| self.open(slice).map(drop))
    }

    /// The times of a group.
    pub(super) fn times(&self, group: &GroupEntry) -> Result<Vec<i64>, DecodeError> {
        let (points, slice) = self.axes.get(group.axis).ok_or(DecodeError::Malformed("axis of a group"))?;
        let bytes = self.open(slice)?;
        match slice.tag {
            AXIS_REGULAR => {
                let mut reader = Reader::new(bytes);
                let (first, step) = (reader.signed("axis")?, reader.signed("axis")?);
                let at = |i: usize| (i as i64).checked_mul(step).and_then(|offset| first.checked_add(offset));
                (0..*points).map(|i| at(i).ok_or(DecodeError::Malformed("axis"))).collect()
            }
            AXIS_PCO => unpack(bytes, *points, "axis"),
            _ => Err(DecodeError::Malformed("axis tag")),
        }
    }

    /// One column of a group, as long as its times; NaN where missing.
    pub(super) fn column(&self, group: &GroupEntry, index: usize, decimals: i8) -> Result<Vec<f64>, DecodeError> {
        let slice = group.columns.get(index).ok_or(DecodeError::Malformed("column number"))?;
        let (points, _) = self.axes.get(group.axis).ok_or(DecodeError::Malformed("axis of a group"))?;
        let (points, bytes) = (*points, self.open(slice)?);
        let mut reader = Reader::new(bytes);
        let bitmap = |reader: &mut Reader<'a>| reader.take(points.div_ceil(8), "missing bitmap");
        let rest = |from: usize| bytes.get(from..).ok_or(DecodeError::Truncated("column"));
        match slice.tag {
            TAG_MISSING => Ok(vec![f64::NAN; points]),
            TAG_CONSTANT => Ok(vec![unscale(reader.signed("column")?, decimals); points]),
            TAG_SCALED => {
                let scaled: Vec<i64> = unpack(bytes, points, "column")?;
                Ok(scaled.into_iter().map(|value| unscale(value, decimals)).collect())
            }
            TAG_SCALED_SPARSE => {
                let missing = bitmap(&mut reader)?;
                let scaled: Vec<i64> = unpack(rest(missing.len())?, present(missing, points), "column")?;
                Ok(spread(missing, points, scaled.into_iter().map(|value| unscale(value, decimals))))
            }
            TAG_PACKED => {
                let scaled = self.open_page(bytes, points)?;
                Ok(scaled.into_iter().map(|value| unscale(value, decimals)).collect())
            }
            TAG_PACKED_SPARSE => {
                let missing = bitmap(&mut reader)?;
                let scaled = self.open_page(rest(missing.len())?, present(missing, points))?;
                Ok(spread(missing, points, scaled.into_iter().map(|value| unscale(value, decimals))))
            }
            TAG_SHORT => {
                let scaled = sums(bytes, points)?;
                Ok(scaled.into_iter().map(|value| unscale(value, decimals)).collect())
            }
            TAG_SHORT_SPARSE => {
                let missing = bitmap(&mut reader)?;
                let scaled = sums(rest(missing.len())?, present(missing, points))?;
                Ok(spread(missing, points, scaled.into_iter().map(|value| unscale(value, decimals))))
            }
            TAG_DOUBLES => {
                let missing = bitmap(&mut reader)?;
                let values: Vec<f64> = unpack(rest(missing.len())?, present(missing, points), "column")?;
                Ok(spread(missing, points, values.into_iter()))
            }
            _ => Err(DecodeError::Malformed("column tag")),
        }
    }

    /// Whether every axis and column still has the checksum that the directory says.
    pub(super) fn verify(&self) -> Result<(), DecodeError> {
        let columns = self.groups.iter().flat_map(|group| &group.columns);
        self.axes.iter().map(|(_, slice)| slice).chain(columns).try_for_each(|slice| self.open(slice).map(drop))
    }

    fn open_page(&self, bytes: &[u8], count: usize) -> Result<Vec<i64>, DecodeError> {
        open_page(bytes, count, &mut self.scratch.borrow_mut())
    }

    fn open(&self, slice: &Slice) -> Result<&'a [u8], DecodeError> {
        let bytes = self.payload.get(slice.from..slice.from + slice.len).ok_or(DecodeError::Truncated("column"))?;
        let sound = bytes.is_empty() || crc32c::crc32c(bytes) == slice.crc;
        if sound { Ok(bytes) } else { Err(DecodeError::Checksum("column")) }
    }
}

fn slice(reader: &mut Reader<'_>, tag: u8, from: &mut usize, payload: &[u8]) -> Result<Slice, DecodeError> {
    let len = reader.count("column", payload.len() - *from)?;
    let crc = if len == 0 { 0 } else { reader.u32("column checksum")? };
    let start = *from;
    *from += len;
    Ok(Slice { tag, from: start, len, crc })
}

/// Decompresses exactly `count` numbers, never more.
fn unpack<T: pco::data_types::Number + Default>(
    bytes: &[u8],
    count: usize,
    what: &'static str,
) -> Result<Vec<T>, DecodeError> {
    let mut values = vec![T::default(); count];
    let progress = simple_decompress_into(bytes, &mut values).map_err(|_| DecodeError::Malformed(what))?;
    if progress.n_processed == count && progress.finished { Ok(values) } else { Err(DecodeError::Malformed(what)) }
}

/// Opens what [`pack`] made of exactly `count` numbers.
fn open_page(bytes: &[u8], count: usize, scratch: &mut DecompressorScratch) -> Result<Vec<i64>, DecodeError> {
    let failed = |_| DecodeError::Malformed("column");
    let (file, rest) = FileDecompressor::new(bytes).map_err(failed)?;
    let (chunk, rest) = file.chunk_decompressor::<i64, _>(rest).map_err(failed)?;
    let mut page = chunk.page_decompressor_with_scratch(rest, count, scratch).map_err(failed)?;
    let mut values = vec![0; count];
    let progress = page.read(&mut values).map_err(failed)?;
    let whole = progress.n_processed == count && page.into_src().is_empty();
    if whole { Ok(values) } else { Err(DecodeError::Malformed("column")) }
}

fn is_missing(missing: &[u8], i: usize) -> bool {
    missing.get(i / 8).is_some_and(|byte| byte & (1 << (i % 8)) != 0)
}

fn present(missing: &[u8], points: usize) -> usize {
    (0..points).filter(|i| !is_missing(missing, *i)).count()
}

fn spread(missing: &[u8], points: usize, mut values: impl Iterator<Item = f64>) -> Vec<f64> {
    (0..points).map(|i| if is_missing(missing, i) { f64::NAN } else { values.next().unwrap_or(f64::NAN) }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use forewarn_common::block::round;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => -1e6..1e6_f64,
            2 => Just(f64::NAN),
            1 => any::<f64>(),
            1 => Just(f64::INFINITY),
            1 => Just(-0.0),
            2 => Just(0.25),
        ]
    }

    fn group() -> impl Strategy<Value = MergedGroup> {
        (1_usize..60, 0_usize..5, any::<bool>(), any::<u64>()).prop_flat_map(|(points, width, regular, entity)| {
            let times = if regular {
                Just((0..points as i64).map(|i| 1_700_000_000_000 + i * 10_000).collect::<Vec<_>>()).boxed()
            } else {
                proptest::collection::vec(0..4_000_000_i64, points)
                    .prop_map(|mut offsets| {
                        offsets.sort_unstable();
                        offsets.into_iter().map(|offset| 1_700_000_000_000 + offset).collect()
                    })
                    .boxed()
            };
            let column = (-6_i8..=6, proptest::collection::vec(value(), points)).prop_map(|(decimals, values)| {
                let rounded: Vec<f64> = values.into_iter().map(|value| round(value, decimals)).collect();
                (decimals, rounded)
            });
            (times, proptest::collection::vec(column, width)).prop_map(move |(times, columns)| {
                let (decimals, columns) = columns.into_iter().unzip();
                MergedGroup { entity: EntityId(entity), layout: LayoutId(!entity), times, decimals, columns }
            })
        })
    }

    proptest! {
        #[test]
        fn every_column_comes_back_bit_by_bit(groups in proptest::collection::vec(group(), 0..5)) {
            let bytes = encode(&groups).unwrap();
            let row = Row::parse(&bytes).unwrap();
            prop_assert_eq!(row.groups().len(), groups.len());
            for (entry, group) in row.groups().iter().zip(&groups) {
                prop_assert_eq!((entry.entity, entry.layout, entry.width()), (group.entity, group.layout, group.columns.len()));
                prop_assert_eq!(&row.times(entry).unwrap(), &group.times);
                for (index, column) in group.columns.iter().enumerate() {
                    let back = row.column(entry, index, group.decimals[index]).unwrap();
                    let bits = |values: &[f64]| values.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&back), bits(column));
                }
            }
        }

        #[test]
        fn packed_numbers_come_back_however_they_move(
            start in any::<i64>(),
            steps in proptest::collection::vec(prop_oneof![Just(0), -3_i64..3, any::<i64>()], 48..400),
            smooth in 0..3,
        ) {
            let mut numbers = steps;
            for _ in 0..smooth {
                numbers = numbers.iter().scan(start, |sum, step| { *sum = sum.wrapping_add(*step); Some(*sum) }).collect();
            }
            prop_assert_eq!(open_page(&pack(&numbers).unwrap(), numbers.len(), &mut DecompressorScratch::default()).unwrap(), numbers);
        }

        #[test]
        fn columns_of_older_releases_are_read(numbers in proptest::collection::vec(-1000_i64..1000, 1..400)) {
            let bytes = simple_compress(&numbers, &config()).unwrap();
            let slice = Slice { tag: TAG_SCALED, from: 0, len: bytes.len(), crc: crc32c::crc32c(&bytes) };
            let group = GroupEntry { entity: EntityId(1), layout: LayoutId(1), axis: 0, columns: vec![slice] };
            let axis = Slice { tag: AXIS_REGULAR, from: 0, len: 0, crc: 0 };
            let row = Row { axes: vec![(numbers.len(), axis)], groups: Vec::new(), payload: &bytes, scratch: RefCell::default() };
            let wanted: Vec<f64> = numbers.iter().map(|number| *number as f64).collect();
            prop_assert_eq!(row.column(&group, 0, 0).unwrap(), wanted);
        }

        #[test]
        fn a_flipped_bit_is_never_a_wrong_value(groups in proptest::collection::vec(group(), 1..4), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let sound = encode(&groups).unwrap();
            let mut bytes = sound.clone();
            bytes[at.index(sound.len())] ^= 1 << bit;
            let Ok(row) = Row::parse(&bytes) else { return Ok(()) };
            for (entry, group) in row.groups().iter().zip(&groups) {
                if let Ok(times) = row.times(entry) {
                    prop_assert_eq!(&times, &group.times);
                }
                for (index, column) in group.columns.iter().enumerate() {
                    if let Ok(back) = row.column(entry, index, group.decimals[index]) {
                        let same = back.iter().zip(column).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
                        prop_assert!(same && back.len() == column.len());
                    }
                }
            }
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Row::parse(&bytes).is_err());
            let framed = [MAGIC.as_slice(), &(bytes.len() as u32).to_le_bytes(), &crc32c::crc32c(&bytes).to_le_bytes(), &bytes].concat();
            if let Ok(row) = Row::parse(&framed) {
                for entry in row.groups() {
                    let _ = row.times(entry);
                    (0..entry.width()).for_each(|index| drop(row.column(entry, index, 2)));
                }
            }
        }
    }
}
