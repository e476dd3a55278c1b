//! Promises of the block format, checked over random blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{EntityId, HostId, LayoutId};
use crate::keyword::Severity;
use crate::limit;
use crate::metric::{Id, Kind, Unit};

fn header(ticks: u16) -> Header {
    Header {
        host: HostId([7; 16]),
        epoch: 0x0102_0304_0506_0708,
        seq: 42,
        start_ms: 1_700_000_000_000,
        step_ms: 10_000,
        ticks,
        boot_id: [9; 16],
        boot_ms: 5_000_000,
        closed_ms: 1_700_000_030_123,
    }
}

fn metric() -> impl Strategy<Value = Metric> {
    ("[a-z_]{1,12}", "[a-z/]{0,6}", any::<bool>(), 0_u8..4, -6_i8..=6).prop_map(
        |(name, instance, gauge, unit, decimals)| {
            let kind = if gauge { Kind::Gauge } else { Kind::Increment };
            Metric { name, instance, kind, unit: Unit::from_code(unit).unwrap(), decimals }
        },
    )
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e6..1e6_f64,
        2 => Just(f64::NAN),
        1 => any::<f64>(),
        1 => Just(f64::INFINITY),
        1 => Just(0.0),
        1 => (0_u64..1 << 60).prop_map(|v| v as f64),
    ]
}

/// Random layouts, and groups with any subset of the ticks: late-born entities and gaps are nothing special.
fn block() -> impl Strategy<Value = (Block, Vec<Layout>)> {
    (1_u16..40, vec(vec(metric(), 0..6), 1..4)).prop_flat_map(|(ticks, layouts)| {
        let layouts: Vec<Layout> = layouts.into_iter().map(|metrics| Layout { metrics }).collect();
        let groups =
            vec((any::<u64>(), 0..layouts.len(), vec(any::<bool>(), usize::from(ticks)), vec(value(), 6 * 40)), 0..5);
        (Just(ticks), Just(layouts), groups).prop_map(|(ticks, layouts, raw)| {
            let groups = raw
                .into_iter()
                .map(|(entity, index, present, values)| {
                    let mut own = Ticks::none(ticks);
                    (0..ticks).filter(|tick| present[usize::from(*tick)]).for_each(|tick| own.set(tick));
                    let len = own.count();
                    let columns =
                        (0..layouts[index].metrics.len()).map(|c| values[c * len..(c + 1) * len].to_vec()).collect();
                    Group { entity: EntityId(entity), layout: layouts[index].id(), ticks: own, columns }
                })
                .collect();
            let dictionary = Dictionary { layouts: layouts.clone(), entities: Vec::new() };
            (Block { header: header(ticks), urgent: Urgent::default(), dictionary, groups }, layouts)
        })
    })
}

fn encode(block: &Block, layouts: &[Layout]) -> Vec<u8> {
    block.encode(|id| layouts.iter().find(|layout| layout.id() == id)).unwrap()
}

fn rounded(block: &Block, layouts: &[Layout]) -> Vec<Vec<Vec<u64>>> {
    let round_group = |group: &Group| {
        let layout = layouts.iter().find(|layout| layout.id() == group.layout).unwrap();
        let columns = group.columns.iter().zip(&layout.metrics);
        columns.map(|(column, metric)| column.iter().map(|v| canonical(round(*v, metric.decimals))).collect()).collect()
    };
    block.groups.iter().map(round_group).collect()
}

/// Bits, with one NaN and one zero.
fn canonical(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}

proptest! {
    #[test]
    fn any_block_comes_back_with_the_same_rounded_samples((block, layouts) in block()) {
        let bytes = encode(&block, &layouts);
        let (back, unknown) = Block::decode(&bytes, |_| None).unwrap();
        prop_assert_eq!(unknown, 0);
        prop_assert_eq!(back.header, block.header);
        prop_assert_eq!(rounded(&back, &layouts), rounded(&block, &layouts));
        let bits: Vec<Vec<Vec<u64>>> = back.groups.iter().map(|g| g.columns.iter().map(|c| c.iter().map(|v| canonical(*v)).collect()).collect()).collect();
        prop_assert_eq!(bits, rounded(&block, &layouts), "rounding twice is rounding once");
        prop_assert_eq!(encode(&back, &layouts), bytes, "a decoded block encodes to the same bytes");
    }

    #[test]
    fn groups_may_arrive_in_any_order((block, layouts) in block()) {
        let mut reversed = block.clone();
        reversed.groups.reverse();
        let (mut back, _) = Block::decode(&encode(&reversed, &layouts), |_| None).unwrap();
        back.groups.reverse();
        prop_assert_eq!(rounded(&back, &layouts), rounded(&block, &layouts));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused((block, layouts) in block(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let bytes = encode(&block, &layouts);
        let cut = at.index(bytes.len());
        prop_assert!(RawBlock::parse(&bytes[..cut]).is_err());
        let mut flipped = bytes;
        flipped[cut] ^= 1 << bit;
        prop_assert!(RawBlock::parse(&flipped).is_err());
    }

    #[test]
    fn random_bytes_never_panic_the_section_readers(bytes in vec(any::<u8>(), 0..400), ticks in 0_u16..100) {
        let layout = Layout { metrics: vec![Metric::of(Id::CpuUsed, ""); 3] };
        let _ = Urgent::read(&mut Reader::new(&bytes));
        let _ = Dictionary::read(&mut Reader::new(&bytes));
        let _ = samples::read(&mut Reader::new(&bytes), ticks, &|_| Some(layout.clone()));
        let _ = RawBlock::parse(&bytes);
    }
}

fn sample_block() -> (Block, Vec<Layout>) {
    let layout = Layout {
        metrics: vec![Metric::of(Id::CpuUsed, ""), Metric::of(Id::FsUsedRatio, "/data"), Metric::of(Id::NetRx, "eth0")],
    };
    let entity = EntityId::of_host(HostId([7; 16]));
    let mut ticks = Ticks::none(3);
    ticks.set(0);
    ticks.set(2);
    let group = Group {
        entity,
        layout: layout.id(),
        ticks,
        columns: vec![vec![0.123_456, 0.5], vec![0.9, f64::NAN], vec![1234.0, f64::INFINITY]],
    };
    let urgent = Urgent {
        at_ms: 1_700_000_020_000,
        last: vec![LastValue { entity, metric: Id::FsUsedRatio, instance: "/data".into(), value: 0.9 }],
        hits: vec![KeywordHit {
            entity,
            rule: "database_timeout".into(),
            severity: Severity::Critical,
            count: 3,
            first_ms: 1_700_000_011_000,
            last_ms: 1_700_000_012_000,
            samples: vec![LogSample {
                at_ms: 1_700_000_011_000,
                line: "数据库连接超时".into(),
                before: vec!["a".into()],
                after: vec![],
            }],
        }],
        events: vec![EngineEvent {
            entity,
            at_ms: 1_700_000_013_000,
            kind: EventKind::Die,
            code: 137,
            detail: "abc".into(),
        }],
        keywords_version: 5,
    };
    let entity = Entity {
        id: entity,
        kind: EntityKind::Host,
        name: "plant-3".into(),
        component: "mes".into(),
        attributes: vec![("kernel".into(), "6.1".into())],
    };
    let dictionary = Dictionary { layouts: vec![layout.clone()], entities: vec![entity] };
    (Block { header: header(3), urgent, dictionary, groups: vec![group] }, vec![layout])
}

#[test]
fn the_golden_block_of_version_1_is_still_read() {
    let golden = include_bytes!("../../golden/block-v1.bin");
    let (block, unknown) = Block::decode(golden, |_| None).unwrap();
    let (expected, layouts) = sample_block();
    assert_eq!(
        (block.header, &block.urgent, &block.dictionary, unknown),
        (expected.header, &expected.urgent, &expected.dictionary, 0)
    );
    assert_eq!(rounded(&block, &layouts), rounded(&expected, &layouts));
}

#[test]
fn a_bomb_is_refused_by_its_table_before_it_is_opened() {
    let bomb = zstd::bulk::compress(&vec![0; limit::SECTION_RAW_BYTES_MAX + 1], 1).unwrap();
    let (block, layouts) = sample_block();
    let mut bytes = encode(&block, &layouts);
    // The samples section is the last one: replace it and its line of the table, then seal the header again.
    let table = 86 + 2 * 14;
    let old = u32::from_le_bytes(bytes[table + 6..table + 10].try_into().unwrap()) as usize;
    bytes.truncate(bytes.len() - old);
    bytes[table + 1] = 1;
    bytes[table + 2..table + 6].copy_from_slice(&(limit::SECTION_RAW_BYTES_MAX as u32 + 1).to_le_bytes());
    bytes[table + 6..table + 10].copy_from_slice(&(bomb.len() as u32).to_le_bytes());
    bytes[table + 10..table + 14].copy_from_slice(&crc32c::crc32c(&bomb).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..table + 14]).to_le_bytes();
    bytes[table + 14..table + 18].copy_from_slice(&crc);
    bytes.extend_from_slice(&bomb);
    assert!(matches!(RawBlock::parse(&bytes), Err(DecodeError::Limit { what: "section", .. })));
}

#[test]
fn an_unknown_layout_is_counted_and_can_be_supplied() {
    let (mut block, layouts) = sample_block();
    block.dictionary = Dictionary::default();
    let bytes = encode(&block, &layouts);
    let (back, unknown) = Block::decode(&bytes, |_| None).unwrap();
    assert_eq!((back.groups.len(), unknown), (0, 1));
    assert_eq!(
        RawBlock::parse(&bytes).unwrap().group_keys().unwrap(),
        vec![(block.groups[0].entity, layouts[0].id(), 2)]
    );
    let known = |id: LayoutId| layouts.iter().find(|layout| layout.id() == id).cloned();
    assert_eq!(Block::decode(&bytes, known).unwrap().0.groups.len(), 1);
}

#[test]
fn a_newer_version_is_refused_with_advice() {
    let (block, layouts) = sample_block();
    let mut bytes = encode(&block, &layouts);
    bytes[4] = 2;
    assert_eq!(
        RawBlock::parse(&bytes).unwrap_err().to_string(),
        "block version 2 is not supported, this build reads version 1; upgrade the receiver first"
    );
}

#[test]
fn looked_up_powers_of_ten_are_those_that_were_computed_before() {
    for decimals in i8::MIN..=i8::MAX {
        let power = 10_f64.powi(i32::from(decimals.unsigned_abs()));
        let computed = if decimals >= 0 { 3.0 / power } else { 3.0 * power };
        assert_eq!(unscale(3, decimals).to_bits(), computed.to_bits(), "{decimals}");
    }
}
