//! Promises of the spool: whole or absent after a crash, never over its cap, nothing dropped uncounted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

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

/// Keeps a block with positions that name it.
fn keep(spool: &mut Spool, (key, bytes): (Key, Vec<u8>)) -> bool {
    spool.push(key, bytes, key.file_name().into_bytes())
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_newest_block_comes_first_and_the_backlog_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    for (at, seq) in [(10, 1), (30, 3), (20, 2)] {
        assert!(keep(&mut spool, block(at, seq, 1)));
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
fn blocks_and_positions_survive_a_restart_and_what_was_half_written_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (block(10, 1, 1), block(20, 2, 1));
    let mut spool = open(dir.path());
    assert_eq!(spool.positions(), None);
    keep(&mut spool, first.clone());
    assert_eq!(waiting(dir.path()).unwrap(), [first.0], "a running agent's blocks are listed");
    let segment = dir.path().join(FOLDER).join(&files(dir.path())[0]);
    let mut torn = fs::read(&segment).unwrap();
    torn.extend_from_slice(&record::of_block(second.0, &second.1, b"never")[..90]);
    fs::write(&segment, torn).unwrap();
    fs::write(dir.path().join(FOLDER).join("000000000000020-0000000000000007-0000000002.block.tmp"), "half").unwrap();
    fs::write(dir.path().join(FOLDER).join("unrelated"), "x").unwrap();
    let mut spool = open(dir.path());
    assert_eq!(spool.newest().unwrap(), first);
    assert_eq!(spool.positions().unwrap(), first.0.file_name().into_bytes());
    assert_eq!((spool.len(), spool.dropped()), (1, 0));
    assert_eq!(files(dir.path()).len(), 2, "the segment and what is not ours");
    // Nothing is added to a segment whose end may be torn.
    keep(&mut spool, second.clone());
    assert_eq!(files(dir.path()).len(), 3);
    let mut spool = open(dir.path());
    assert_eq!((spool.newest().unwrap(), spool.len()), (second, 2));
}

#[test]
fn what_was_acknowledged_is_not_sent_again_after_a_restart_and_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    for seq in 0..500 {
        keep(&mut spool, block(seq, seq.unsigned_abs(), 3));
        let (key, _) = spool.newest().unwrap();
        spool.remove(key);
        assert!(files(dir.path()).len() <= 2, "what is done is removed by segments");
    }
    let spool = open(dir.path());
    assert_eq!((spool.len(), spool.dropped()), (0, 0));
    assert_eq!(spool.positions().unwrap(), block(499, 499, 0).0.file_name().into_bytes(), "positions outlive blocks");
}

#[test]
fn beyond_the_cap_the_oldest_go_first_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let mut last = 0;
    for seq in 0..3000_u64 {
        keep(&mut spool, block(seq.cast_signed(), seq, 4));
        assert!(spool.disk_bytes() <= 1 << 20);
        last = seq;
    }
    assert!(spool.dropped() > 0, "the cap is reached");
    assert_eq!(spool.len() as u64 + spool.dropped(), last + 1, "none goes uncounted");
    let left: Vec<u64> = spool.index.blocks.keys().map(|key| key.seq).collect();
    assert!(left.iter().copied().eq(last + 1 - left.len() as u64..=last), "the oldest are gone");
    let on_disk: u64 =
        files(dir.path()).iter().map(|name| fs::metadata(dir.path().join(FOLDER).join(name)).unwrap().len()).sum();
    assert!(((1 << 20) - 2 * SEGMENT_BYTES..=1 << 20).contains(&on_disk), "{on_disk} bytes");
}

#[test]
fn a_block_that_needs_much_of_the_cap_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    keep(&mut spool, block(1, 1, 3));
    let (key, mut bytes) = block(2, 2, 3);
    bytes.resize(300 << 10, 7);
    assert!(!spool.push(key, bytes, Vec::new()));
    assert_eq!((spool.len(), spool.dropped()), (1, 1));
}

#[test]
fn a_damaged_record_is_passed_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let lens: Vec<usize> = (1..=4)
        .map(|seq| {
            keep(&mut spool, block(seq, seq.unsigned_abs(), 3));
            spool.disk_bytes() as usize
        })
        .collect();
    let segment = dir.path().join(FOLDER).join(&files(dir.path())[0]);
    let mut bytes = fs::read(&segment).unwrap();
    // The head of the second and the body of the third.
    bytes[lens[0] + 9] ^= 1;
    bytes[lens[1] + HEAD_BYTES + 5] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    // Damage that comes while the agent runs is met when the block is sent.
    let (key, _) = spool.newest().unwrap();
    spool.remove(key);
    assert_eq!((spool.newest().unwrap().0.seq, spool.dropped()), (2, 1), "only the body is read");
    let mut spool = open(dir.path());
    assert_eq!(spool.newest().unwrap().0.seq, 1);
    assert!((1..=2).contains(&spool.dropped()), "two damaged neighbours may look like one");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FOLDER);
    fs::write(&path, "x").unwrap();
    let message = Spool::open(dir.path(), 1 << 20).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot use spool folder {}", path.display())), "{message}");
}

#[test]
fn blocks_and_positions_of_an_earlier_version_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (old, newer, new) = (block(10, 1, 2), block(20, 2, 2), block(30, 3, 2));
    fs::create_dir(dir.path().join(FOLDER)).unwrap();
    for (key, bytes) in [&old, &newer] {
        fs::write(dir.path().join(FOLDER).join(key.file_name()), bytes).unwrap();
    }
    let put = |name: &str, key: Key, text: &str| {
        fs::write(dir.path().join(name), format!("{}\n{text}", key.file_name())).unwrap();
    };
    put("positions", old.0, "taken over");
    put("positions.staged", new.0, "of a block that never was");
    assert_eq!(open(dir.path()).positions().unwrap(), b"taken over");
    put("positions.staged", newer.0, "of a block that was written");
    let mut spool = open(dir.path());
    assert_eq!(spool.positions().unwrap(), b"of a block that was written");
    assert_eq!((spool.len(), waiting(dir.path()).unwrap().len()), (2, 2));
    keep(&mut spool, new.clone());
    assert!(!dir.path().join("positions").exists() && !dir.path().join("positions.staged").exists());
    let mut spool = open(dir.path());
    assert_eq!(spool.positions().unwrap(), new.0.file_name().into_bytes());
    for expected in [new, newer, old] {
        assert_eq!(spool.newest().unwrap(), expected);
        spool.remove(expected.0);
    }
    assert_eq!(open(dir.path()).len(), 0);
}

#[test]
fn the_files_of_a_spool_are_shown_block_by_block() {
    let (one, two) = (block(1, 1, 1), block(2, 2, 1));
    let mut segment = record::of_block(one.0, &one.1, b"positions");
    segment.extend_from_slice(&record::of_done(one.0));
    segment.extend_from_slice(&record::of_block(two.0, &two.1, b""));
    assert_eq!(blocks_in(&segment), [&one.1[..], &two.1]);
    assert_eq!(blocks_in(&one.1), [&one.1[..]], "a block by itself");
}

/// A filesystem of 256 KiB that can really be full; gone again when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "forewarn-test"])
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
    for seq in 0..150 {
        on_disk += usize::from(keep(&mut spool, block(seq, seq.unsigned_abs(), 40)));
    }
    assert!(on_disk > 0 && on_disk < 150, "{on_disk} of 150 blocks fitted the disk");
    assert_eq!((spool.len(), spool.dropped()), (150, 0), "none is lost");
    let covered = spool.positions().unwrap();
    assert_eq!(covered, block(on_disk as i64 - 1, on_disk as u64 - 1, 0).0.file_name().into_bytes(), "nor counted");
    // Acknowledged blocks make room.
    for _ in 0..148 {
        let (key, _) = spool.newest().unwrap();
        spool.remove(key);
    }
    assert!(spool.settle() && !spool.is_in_memory());
    assert!(keep(&mut spool, block(1000, 1000, 40)), "the disk takes blocks again");
    assert_eq!(spool.len(), 3);
    // What the full disk had no room to note as done comes back, and is sent again.
    let after: BTreeSet<Key> = open(disk.0.path()).index.blocks.into_keys().collect();
    assert!(spool.index.blocks.keys().all(|key| after.contains(key)), "what is left is on disk");
}

#[test]
fn a_disk_that_stays_full_costs_the_oldest_blocks_in_memory_and_counts_them() {
    let disk = SmallDisk::mount();
    fs::write(disk.0.path().join("ballast"), vec![0; 200 << 10]).ok();
    let mut spool = open(disk.0.path());
    for seq in 0..1500 {
        keep(&mut spool, block(seq, seq.unsigned_abs(), 40));
    }
    assert!(spool.bytes() <= MEMORY_BYTES_MAX + (256 << 10));
    assert!(spool.dropped() > 0);
    assert_eq!(spool.len() as u64 + spool.dropped(), 1500);
    assert_eq!(spool.newest().unwrap().0.seq, 1499);
}

/// A disk in memory that keeps a journal of what was asked of it, so that the power can go between any two operations.
#[derive(Debug, Default, Clone)]
struct Simulated {
    files: BTreeMap<String, Vec<u8>>,
    journal: Rc<RefCell<Vec<Operation>>>,
    is_recording: bool,
}

#[derive(Debug, Clone)]
enum Operation {
    Append(String, Vec<u8>),
    Cut(String, u64),
    Sync(String),
    SyncFolder,
    Remove(String),
}

impl Simulated {
    fn note(&self, operation: impl FnOnce() -> Operation) {
        if self.is_recording {
            self.journal.borrow_mut().push(operation());
        }
    }
}

impl Disk for Simulated {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.files.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect())
    }

    fn read(&self, name: &str, from: u64, len: usize) -> io::Result<Vec<u8>> {
        let content = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = (from as usize).min(content.len());
        Ok(content[from..(from + len).min(content.len())].to_vec())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.note(|| Operation::Append(name.to_owned(), bytes.to_vec()));
        self.files.entry(name.to_owned()).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn cut(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.note(|| Operation::Cut(name.to_owned(), len));
        self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.note(|| Operation::Sync(name.to_owned()));
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.note(|| Operation::SyncFolder);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.note(|| Operation::Remove(name.to_owned()));
        self.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A file on the way to the platter.
#[derive(Debug, Clone, Default)]
struct Platter {
    synced: Vec<u8>,
    now: Vec<u8>,
}

/// What is on disk after the power went: names up to some change that was not synced, and of unsynced bytes some
/// length, of which the last ones may never have been written. `luck` makes the choices.
fn after_power_cut(journal: &[Operation], mut luck: impl FnMut(usize) -> usize) -> Simulated {
    let mut platters: Vec<Platter> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    // Names as they were at the last sync of the folder, and after each change since.
    let mut histories = vec![names.clone()];
    for operation in journal {
        match operation {
            Operation::Append(name, bytes) => {
                let file = *names.entry(name.clone()).or_insert_with(|| {
                    platters.push(Platter::default());
                    platters.len() - 1
                });
                platters[file].now.extend_from_slice(bytes);
            }
            Operation::Cut(name, len) => platters[names[name]].now.truncate(*len as usize),
            Operation::Sync(name) => platters[names[name]].synced = platters[names[name]].now.clone(),
            Operation::SyncFolder => histories.clear(),
            Operation::Remove(name) => drop(names.remove(name)),
        }
        if histories.last() != Some(&names) {
            histories.push(names.clone());
        }
    }
    let names = histories.swap_remove(luck(histories.len() - 1));
    let files = names.into_iter().map(|(name, file)| {
        let Platter { synced, now } = &platters[file];
        let common = synced.iter().zip(now).take_while(|(a, b)| a == b).count();
        let mut content = now[..common + luck(now.len() - common)].to_vec();
        let lost = luck(content.len() - common);
        let len = content.len();
        content[len - lost..].fill(0);
        (name, content)
    });
    Simulated { files: files.collect(), ..Simulated::default() }
}

/// What was promised, and from which operation of the journal on.
#[derive(Debug, Default)]
struct Promises {
    /// Each block with when its push began and, once it was on disk, ended; in the order in which they were pushed.
    pushed: Vec<(Key, Vec<u8>, usize, usize)>,
    /// From when on a block may be gone.
    gone: BTreeMap<Key, usize>,
}

impl Promises {
    fn hold_on(&self, disk: Simulated, at: usize) -> Result<(), TestCaseError> {
        let mut spool = Spool::on(Box::new(disk), 1 << 20).unwrap();
        let positions = spool.positions();
        prop_assert_eq!(spool.dropped(), 0, "what a power cut leaves is no damage");
        let mut found = BTreeMap::new();
        while let Some((key, bytes)) = spool.newest() {
            spool.remove(key);
            found.insert(key, bytes);
        }
        prop_assert_eq!(spool.dropped(), 0);
        let may_be_gone = |key: &Key| self.gone.get(key).is_some_and(|from| *from <= at);
        for (key, bytes, begun, ended) in &self.pushed {
            let is_promised = *ended <= at && !may_be_gone(key);
            prop_assert!(!is_promised || found.contains_key(key), "{key:?} is lost");
            if let Some(kept) = found.get(key) {
                prop_assert!(*begun < at && kept == bytes, "{key:?} was not pushed so");
            }
        }
        prop_assert!(found.keys().all(|key| self.pushed.iter().any(|(known, ..)| known == key)));
        // Positions count with their block, and never go back behind a block that was kept.
        let covered = positions.and_then(|text| Key::parse(std::str::from_utf8(&text).ok()?));
        let slot = covered.and_then(|key| self.pushed.iter().position(|(known, ..)| *known == key));
        let least = self.pushed.iter().rposition(|(_, _, _, ended)| *ended <= at);
        prop_assert!(slot >= least, "positions of {slot:?}, those of {least:?} were kept");
        if let Some(slot) = slot {
            let (key, _, begun, _) = &self.pushed[slot];
            prop_assert!(*begun < at && (found.contains_key(key) || may_be_gone(key)), "lines without their block");
        }
        // The spool goes on.
        prop_assert!(keep(&mut spool, block(9_999, 9_999, 1)));
        prop_assert_eq!(spool.newest().unwrap().0.seq, 9_999);
        Ok(())
    }
}

/// A history of pushes and acknowledgements, and what it promises.
fn record_history(steps: &[(u8, usize)]) -> (Vec<Operation>, Promises) {
    let disk = Simulated { is_recording: true, ..Simulated::default() };
    let journal = Rc::clone(&disk.journal);
    let now = || journal.borrow().len();
    let mut spool = Spool::on(Box::new(disk.clone()), 1 << 20).unwrap();
    spool.segment_bytes = 2_000;
    spool.bytes_max = 12_000;
    let mut promises = Promises::default();
    for (seq, (kind, lines)) in steps.iter().enumerate() {
        let begun = now();
        match (kind, spool.newest()) {
            (0..=3, Some((key, _))) => {
                promises.gone.insert(key, begun);
                spool.remove(key);
            }
            _ => {
                let before: BTreeSet<Key> = spool.index.blocks.keys().copied().collect();
                let (key, bytes) = block(seq as i64, seq as u64, *lines);
                assert!(keep(&mut spool, (key, bytes.clone())));
                promises.pushed.push((key, bytes, begun, now()));
                for dropped in before.into_iter().filter(|key| !spool.index.blocks.contains_key(key)) {
                    promises.gone.insert(dropped, begun);
                }
            }
        }
    }
    let journal = journal.borrow().clone();
    (journal, promises)
}

/// A week without a server, by a clock that nobody waits for: blocks every thirty seconds, the cap reached on the
/// third day; then the server is back and takes what is left, each block once, the newest first.
#[test]
fn a_week_of_outage_drops_the_oldest_counted_and_delivers_the_rest_once() {
    const BLOCK_MS: i64 = 30_000;
    let disk = Simulated::default();
    let mut spool = Spool::on(Box::new(disk), 4 << 20).unwrap();
    let (mut now_ms, mut pushed) = (1_700_000_000_000_i64, 0_u64);
    for _ in 0..7 * 24 * 120 {
        let (key, bytes) = block(now_ms, pushed, 4);
        assert!(spool.push(key, bytes, pushed.to_le_bytes().to_vec()), "the disk takes every block");
        assert!(spool.disk_bytes() <= 4 << 20);
        pushed += 1;
        now_ms += BLOCK_MS;
    }
    assert_eq!(spool.len() as u64 + spool.dropped(), pushed, "none goes uncounted");
    assert!(spool.dropped() > pushed / 2, "the cap was reached");
    assert_eq!(spool.positions().unwrap(), (pushed - 1).to_le_bytes(), "the logs are not read again");
    let oldest = spool.dropped();
    // Back: ten blocks a second drain while the agent goes on.
    let (mut delivered, mut fresh) = (Vec::new(), BTreeSet::new());
    let mut next_block_ms = now_ms;
    while spool.len() > 0 {
        if now_ms >= next_block_ms {
            assert!(keep(&mut spool, block(now_ms, pushed, 4)));
            fresh.insert(pushed);
            pushed += 1;
            next_block_ms += BLOCK_MS;
        }
        let (key, bytes) = spool.newest().unwrap();
        assert_eq!(bytes, block(key.closed_ms, key.seq, 4).1);
        delivered.push(key.seq);
        spool.remove(key);
        now_ms += 100;
    }
    let backlog: Vec<u64> = delivered.iter().copied().filter(|seq| !fresh.contains(seq)).collect();
    assert!(backlog.iter().copied().eq((oldest..pushed - fresh.len() as u64).rev()), "newest first, none twice");
    delivered.sort_unstable();
    assert!(delivered.into_iter().eq(oldest..pushed), "everything that was left, once");
    assert!(spool.index.segments.len() <= 2, "and nothing stays");
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Acknowledge,
    Refuse,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..60).prop_map(Step::Push),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Refuse),
        1 => Just(Step::Reopen),
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
                    prop_assert!(keep(&mut spool, (key, bytes.clone())));
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
            }
            prop_assert_eq!(spool.len(), model.len());
        }
        prop_assert_eq!(spool.index.blocks.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    }

    /// The power goes after any operation, with any luck: what was promised by then is there, nothing else is.
    #[test]
    fn every_moment_of_a_power_cut_leaves_a_sound_spool(
        steps in proptest::collection::vec((0_u8..10, 0_usize..12), 1..40),
        luck in any::<u64>(),
    ) {
        let (journal, promises) = record_history(&steps);
        for at in 0..=journal.len() {
            promises.hold_on(after_power_cut(&journal[..at], |_| 0), at)?;
            promises.hold_on(after_power_cut(&journal[..at], |most| most), at)?;
            let mut state = luck ^ at as u64;
            for _ in 0..3 {
                let torn = after_power_cut(&journal[..at], |most| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as usize % (most + 1)
                });
                promises.hold_on(torn, at)?;
            }
        }
    }

    #[test]
    fn random_bytes_are_no_records(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        let (key, body) = block(1, 1, 1);
        let mut segment = bytes.clone();
        segment.extend_from_slice(&record::of_block(key, &body, b"p"));
        segment.extend_from_slice(&bytes);
        let (records, _) = record::scan(&segment);
        prop_assert!(records.iter().any(|(from, head)| *from == bytes.len() as u64 && head.key == key));
        let middle = bytes.len() + at % (HEAD_BYTES + body.len());
        segment[middle] ^= 1;
        prop_assert_eq!(record::scan(&segment).0.len(), 0);
    }

    #[test]
    fn random_names_never_panic(name in "\\PC{0,60}", digits in "[0-9a-f-]{0,60}") {
        let _ = (Key::parse(&name), Key::parse(&format!("{digits}.block")), segment_number(&format!("{digits}.segment")));
    }
}
