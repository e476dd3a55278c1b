//! Input and output of whole disks; partitions, loop, memory and mapped devices would count the same bytes again.

use std::path::Path;
use std::rc::Rc;

use forewarn_common::metric::Id;

use super::proc_text::{Held, lines, number, words};
use super::{Counter, INSTANCES_MAX, Shape, ratio};

/// The kernel counts in these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
const METRICS: [Id; 5] = [Id::DiskRead, Id::DiskWrite, Id::DiskReads, Id::DiskWrites, Id::DiskBusy];
/// Devices that only stand for others.
const DERIVED: [&[u8]; 7] = [b"loop", b"ram", b"zram", b"dm-", b"md", b"sr", b"fd"];

/// The host's disks.
#[derive(Debug)]
pub(super) struct Disks {
    diskstats: Held,
    disks: Vec<(String, [Counter; 5])>,
    sampled_at_ms: Option<i64>,
    shape: Rc<Shape>,
    buffer: Vec<u8>,
}

impl Disks {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            diskstats: Held::new(root.join("proc/diskstats")),
            disks: Vec::new(),
            sampled_at_ms: None,
            shape: Shape::of([]),
            buffer: Vec::new(),
        }
    }

    pub(super) fn sample(&mut self, boot_ms: i64) -> (Rc<Shape>, Vec<f64>) {
        let found = self.diskstats.read(&mut self.buffer).map(parse).unwrap_or_default();
        if found.iter().map(|(name, _)| *name).ne(self.disks.iter().map(|(name, _)| name.as_bytes())) {
            let names: Vec<String> = found.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
            self.shape = Shape::of(names.iter().flat_map(|name| METRICS.map(|id| (id, name.as_str()))));
            let known = std::mem::take(&mut self.disks);
            let counters = |name: &String| {
                known.iter().find(|(known, _)| known == name).map_or([Counter::default(); 5], |(_, counters)| *counters)
            };
            self.disks = names.into_iter().map(|name| (name.clone(), counters(&name))).collect();
        }
        let elapsed_ms = self.sampled_at_ms.replace(boot_ms).map_or(f64::NAN, |at_ms| (boot_ms - at_ms) as f64);
        let mut values = Vec::with_capacity(self.disks.len() * METRICS.len());
        for ((_, counters), (_, now)) in self.disks.iter_mut().zip(&found) {
            let [read, write, reads, writes, busy_ms] = std::array::from_fn(|i| counters[i].step(Some(now[i])));
            values.extend([read, write, reads, writes, ratio(busy_ms, elapsed_ms).clamp(0.0, 1.0)]);
        }
        (Rc::clone(&self.shape), values)
    }
}

/// Name, and bytes read, bytes written, reads, writes and busy milliseconds of every whole disk.
pub(super) fn parse(text: &[u8]) -> Vec<(&[u8], [u64; 5])> {
    let mut disks: Vec<(&[u8], [u64; 5])> = Vec::new();
    for line in lines(text) {
        let mut words = words(line).skip(2);
        let Some(name) = words.next() else { continue };
        let numbers: Vec<u64> = words.map_while(number).collect();
        let [reads, _, read_sectors, _, writes, _, written_sectors, _, _, busy_ms, ..] = numbers[..] else { continue };
        // A partition follows its disk: `sda1` after `sda`, `nvme0n1p1` after `nvme0n1`.
        let is_part = disks.iter().any(|(disk, _)| {
            name.strip_prefix(*disk).is_some_and(|rest| {
                let rest = rest.strip_prefix(b"p").unwrap_or(rest);
                !rest.is_empty() && rest.iter().all(u8::is_ascii_digit)
            })
        });
        if is_part || DERIVED.iter().any(|prefix| name.starts_with(prefix)) || disks.len() >= INSTANCES_MAX {
            continue;
        }
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
        disks.push((name, [bytes(read_sectors), bytes(written_sectors), reads, writes, busy_ms]));
    }
    disks
}
