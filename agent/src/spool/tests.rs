//! Promises of the spool: whole or absent after a crash, never over its cap, nothing dropped uncounted.

use std::collections::BTreeMap;

use forewarn_common::block::{Block, Dictionary, Urgent};
use forewarn_common::id::HostId;
use proptest::prelude::*;

use super::*;

/// A sound block of about `lines` × 100 bytes.
fn block(closed_ms: i64, seq: u64, lines: usize) -> (Key, Vec<u8>) {
    let header = Header {
        host: HostId([1; 16]),
        epoch: 7,
        seq,
        start_ms: closed_ms,
        step_ms: 1000,
        ticks: 0,
        boot_id: [0; 16],
        boot_ms: 0,
        closed_ms,
    };
    let noise = |line: usize| {
        (0..100_u64).map(|n| char::from(33 + ((n * n * 7 + line as u64 * 31 + seq) % 90) as u8)).collect()
    };
    let events = (0..lines)
        .map(|line| forewarn_common::block::EngineEvent {
            entity: forewarn_common::id::EntityId(line as u64),
            at_ms: 0,
            kind: forewarn_common::block::EventKind::Start,
            code: 0,
            detail: noise(line),
        })
        .collect();
    let urgent = Urgent { events, ..Urgent::default() };
    let block = Block { header, urgent, dictionary: Dictionary::default(), groups: Vec::new() };
    (Key::of(&header), block.encode(|_| None).unwrap())
}

fn open(dir: &Path) -> Spool {
    Spool::open(dir, 1 << 20).unwrap()
}

#[test]
fn the_newest_block_comes_first_and_the_backlog_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    for (at, seq) in [(10, 1), (30, 3), (20, 2)] {
        let (key, bytes) = block(at, seq, 1);
        assert!(spool.push(key, bytes));
    }
    let mut order = Vec::new();
    while let Some((key, _)) = spool.newest() {
        order.push(key.seq);
        spool.remove(key);
    }
    assert_eq!(order, [3, 2, 1]);
    assert_eq!((spool.len(), spool.bytes(), spool.dropped()), (0, 0, 0));
}

#[test]
fn blocks_survive_a_restart_and_what_was_half_written_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (key, bytes) = block(10, 1, 1);
    open(dir.path()).push(key, bytes.clone());
    fs::write(dir.path().join("000000000000020-0000000000000007-0000000002.block.tmp"), &bytes[..9]).unwrap();
    fs::write(dir.path().join("unrelated"), "x").unwrap();
    let mut spool = open(dir.path());
    assert_eq!(spool.newest().unwrap(), (key, bytes));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the block and what is not ours");
}

#[test]
fn beyond_the_cap_the_oldest_go_first_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    for seq in 0..300 {
        let (key, bytes) = block(seq, seq.unsigned_abs(), 1);
        spool.push(key, bytes);
        assert!(spool.bytes() <= 1 << 20);
    }
    assert_eq!((spool.len(), spool.dropped()), (256, 44));
    assert_eq!(spool.newest().unwrap().0.seq, 299);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 256);
}

#[test]
fn a_damaged_file_is_passed_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    for seq in 1..=2 {
        let (key, bytes) = block(seq, seq.unsigned_abs(), 3);
        spool.push(key, bytes);
    }
    let newest = dir.path().join(block(2, 2, 3).0.file_name());
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let mut spool = open(dir.path());
    assert_eq!(spool.newest().unwrap().0.seq, 1);
    assert_eq!(spool.dropped(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let message = Spool::open(&path, 1 << 20).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot use spool folder {}", path.display())), "{message}");
}

/// A filesystem of 64 KiB that can really be full; gone again when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "forewarn-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(done.success(), "this test mounts a small tmpfs: run it as root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_keeps_blocks_in_memory_and_they_settle_when_there_is_room() {
    let disk = SmallDisk::mount();
    let mut spool = open(disk.0.path());
    let mut on_disk = 0;
    for seq in 0..40 {
        let (key, bytes) = block(seq, seq.unsigned_abs(), 40);
        on_disk += usize::from(spool.push(key, bytes));
    }
    assert!(on_disk > 0 && on_disk < 40, "{on_disk} of 40 blocks fitted the disk");
    assert_eq!((spool.len(), spool.dropped()), (40, 0), "none is lost");
    // Acknowledged blocks make room.
    for _ in 0..38 {
        let (key, _) = spool.newest().unwrap();
        spool.remove(key);
    }
    spool.settle();
    assert_eq!(open(disk.0.path()).len(), 2, "what is left is on disk");
}

#[test]
fn a_disk_that_stays_full_costs_the_oldest_blocks_in_memory_and_counts_them() {
    let disk = SmallDisk::mount();
    fs::write(disk.0.path().join("ballast"), vec![0; 64 << 10]).ok();
    let mut spool = open(disk.0.path());
    for seq in 0..1000 {
        let (key, bytes) = block(seq, seq.unsigned_abs(), 40);
        spool.push(key, bytes);
    }
    assert!(spool.bytes() <= MEMORY_BYTES_MAX + (64 << 10));
    assert!(spool.dropped() > 0);
    assert_eq!(spool.len() as u64 + spool.dropped(), 1000);
    assert_eq!(spool.newest().unwrap().0.seq, 999);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Acknowledge,
    Refuse,
    Reopen,
    Tear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..60).prop_map(Step::Push),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Refuse),
        1 => Just(Step::Reopen),
        1 => Just(Step::Tear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_history_agrees_with_a_model(steps in proptest::collection::vec(step(), 0..60), clock in proptest::collection::vec(0_i64..50, 60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let mut model: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for (seq, (step, at_ms)) in steps.iter().zip(&clock).enumerate() {
            match step {
                Step::Push(lines) => {
                    let (key, bytes) = block(*at_ms, seq as u64, *lines);
                    prop_assert!(spool.push(key, bytes.clone()));
                    model.insert(key, bytes);
                }
                Step::Acknowledge | Step::Refuse => {
                    let newest = spool.newest();
                    prop_assert_eq!(&newest, &model.last_key_value().map(|(key, bytes)| (*key, bytes.clone())));
                    if let Some((key, _)) = newest {
                        if matches!(step, Step::Refuse) { spool.refuse(key) } else { spool.remove(key) }
                        model.remove(&key);
                    }
                }
                Step::Reopen => spool = open(dir.path()),
                // The power goes while a block is written: some prefix of it is in the temporary file.
                Step::Tear => {
                    let (key, bytes) = block(*at_ms, 1000 + seq as u64, 2);
                    let name = format!("{}.tmp", key.file_name());
                    fs::write(dir.path().join(name), &bytes[..bytes.len() * seq / 60]).unwrap();
                    spool = open(dir.path());
                }
            }
            prop_assert_eq!(spool.len(), model.len());
        }
        prop_assert_eq!(spool.blocks.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    }

    #[test]
    fn random_names_never_panic(name in "\\PC{0,60}", digits in "[0-9a-f-]{0,60}") {
        let _ = (Key::parse(&name), Key::parse(&format!("{digits}.block")));
    }
}
