//! Promises of block assembly: ticks, gaps, late-born entities, the dictionary's life.

use forewarn_common::block::{EntityKind, EventKind};
use forewarn_common::keyword::Severity;
use forewarn_common::metric::Id;

use super::*;

const HOST: HostId = HostId([1; 16]);

fn assembly() -> Assembly {
    Assembly::new(Origin { host: HOST, epoch: 9, boot_id: [2; 16], step_ms: 1000 })
}

fn at(wall_ms: i64) -> Moment {
    Moment { wall_ms, boot_ms: wall_ms - 1_000_000 }
}

fn entity(name: &str) -> Entity {
    Entity {
        id: EntityId::of(HOST, name),
        kind: EntityKind::Workload,
        name: name.to_owned(),
        component: String::new(),
        attributes: Vec::new(),
    }
}

fn row(name: &str, id: Id, value: f64) -> Row {
    Row { entity: EntityId::of(HOST, name), shape: Shape::of([(id, "")]), values: vec![value] }
}

fn close(assembly: &mut Assembly, wall_ms: i64) -> Block {
    let (_, bytes) = assembly.close(at(wall_ms), at(wall_ms + 1000)).unwrap();
    Block::decode(&bytes, |id| assembly.layouts.get(&id).map(|entry| entry.value.clone())).unwrap().0
}

#[test]
fn gaps_and_late_born_entities_are_tick_bitmaps() {
    let mut assembly = assembly();
    assembly.add_tick(at(2_000_000), &[row("a", Id::CpuUsed, 0.5)]);
    // Tick 1 was missed.
    assembly.add_tick(at(2_002_000), &[row("a", Id::CpuUsed, 0.6), row("b", Id::CpuUsed, 0.1)]);
    let block = close(&mut assembly, 2_002_100);
    assert_eq!((block.header.start_ms, block.header.ticks, block.header.boot_ms), (2_000_000, 3, 1_000_000));
    let ticks: Vec<Vec<u16>> = block.groups.iter().map(|group| group.ticks.iter().collect()).collect();
    assert_eq!(ticks, [vec![0, 2], vec![2]]);
    assert_eq!(block.groups[0].columns, [[0.5, 0.6]]);
    assert_eq!(block.urgent.at_ms, 2_002_000);
    assert_eq!(block.urgent.last.len(), 2);
    assert_eq!(block.urgent.last[0].value, 0.6);
}

#[test]
fn the_dictionary_is_sent_until_acknowledged_and_again_when_asked_for() {
    let mut assembly = assembly();
    assembly.describe(entity("a"));
    let mut tick = 2_000_000;
    let mut next = |assembly: &mut Assembly| {
        tick += 1000;
        assembly.add_tick(at(tick), &[row("a", Id::CpuUsed, 0.5)]);
        let block = close(assembly, tick);
        (block.header.seq, block.dictionary.layouts.len(), block.dictionary.entities.len(), block.groups[0].layout)
    };
    assert_eq!(next(&mut assembly).1, 1);
    let (seq, layouts, entities, layout) = next(&mut assembly);
    assert_eq!((seq, layouts, entities), (1, 1, 1), "block 0 is not acknowledged yet");
    assembly.acknowledge(1, &[], &[]);
    assert_eq!(next(&mut assembly).1, 0);

    assembly.acknowledge(2, &[layout], &[EntityId::of(HOST, "a")]);
    let (seq, layouts, entities, _) = next(&mut assembly);
    assert_eq!((seq, layouts, entities), (3, 1, 1));
    assembly.acknowledge(2, &[], &[]);
    assert_eq!(next(&mut assembly).1, 1, "block 2 did not carry what was asked for afterwards");
    assembly.acknowledge(4, &[], &[]);
    assert_eq!(next(&mut assembly).1, 0);

    assembly.describe(entity("a"));
    assert_eq!(next(&mut assembly).2, 0, "the same again is no news");
    assembly.describe(Entity { component: "shop".to_owned(), ..entity("a") });
    assert_eq!(next(&mut assembly).2, 1, "a changed record is sent again");
}

#[test]
fn a_block_without_ticks_carries_what_is_urgent() {
    let mut assembly = assembly();
    assert!(assembly.is_empty());
    let id = EntityId::of(HOST, "a");
    let hit = |count| KeywordHit {
        entity: id,
        rule: "boom".to_owned(),
        severity: Severity::Critical,
        count,
        first_ms: 1,
        last_ms: 2,
        samples: Vec::new(),
    };
    assembly.add_hits([hit(2)], 5);
    assembly.add_hits([hit(3)], 5);
    assembly.add_event(EngineEvent { entity: id, at_ms: 3, kind: EventKind::Die, code: 1, detail: String::new() });
    assert!(assembly.is_urgent());
    let block = close(&mut assembly, 2_000_500);
    assert_eq!((block.header.ticks, block.header.start_ms), (0, 2_001_500));
    assert_eq!((block.urgent.hits.len(), block.urgent.hits[0].count, block.urgent.keywords_version), (1, 5, 5));
    assert_eq!(block.urgent.events.len(), 1);
    assert!(assembly.is_empty());
}

#[test]
fn a_clock_that_jumps_closes_the_block_first() {
    let mut assembly = assembly();
    assembly.add_tick(at(2_000_000), &[row("a", Id::CpuUsed, 0.5)]);
    assert!(!assembly.must_close_before(at(2_001_000)));
    assert!(assembly.must_close_before(at(2_000_000)), "the same tick again");
    assert!(assembly.must_close_before(at(1_000_000)), "back");
    assert!(assembly.must_close_before(at(2_000_000 + 1000 * limit::TICKS_MAX as i64)), "a day ahead");
    close(&mut assembly, 2_000_000);
    assembly.add_tick(at(1_000_000), &[row("a", Id::CpuUsed, 0.7)]);
    assert_eq!(close(&mut assembly, 1_000_000).header.start_ms, 1_000_000);
}

#[test]
fn what_no_longer_fits_a_block_is_counted() {
    let mut assembly = assembly();
    let rows: Vec<Row> = (0..limit::GROUPS_MAX + 5).map(|n| row(&n.to_string(), Id::Pids, 1.0)).collect();
    assembly.add_tick(at(2_000_000), &rows);
    assert_eq!(assembly.take_lost(), 5);
    assert_eq!(close(&mut assembly, 2_000_000).groups.len(), limit::GROUPS_MAX);
}

#[test]
fn two_instances_of_one_workload_are_one_series() {
    let mut assembly = assembly();
    assembly.add_tick(at(2_000_000), &[row("a", Id::Pids, 1.0), row("a", Id::Pids, 2.0)]);
    assert_eq!(close(&mut assembly, 2_000_000).groups[0].columns, [[1.0]]);
}
