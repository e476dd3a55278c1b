//! Each real filesystem of the host once: by device, at the mount point that shows its root.
//!
//! Bind mounts, overlays, memory, pseudo and network filesystems are left out: they are no disk of this host,
//! and a network filesystem may hang.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use forewarn_common::metric::Id;
use rustix::fs::{major, minor};

use super::proc_text::{Held, lines, number};
use super::seldom::Seldom;
use super::{INSTANCES_MAX, Shape, ratio};

/// How often the mount table is read again though the kernel tells of no change: it is long on a host of many
/// containers.
const MOUNTS_EVERY_MS: i64 = 300_000;

/// Types that are disks although their source is not a device file.
const POOLED: [&[u8]; 3] = [b"zfs", b"btrfs", b"bcachefs"];
/// Types on a device that cannot fill: images that are full from the day they are made.
const SEALED: [&[u8]; 5] = [b"squashfs", b"iso9660", b"erofs", b"udf", b"cramfs"];

const METRICS: [Id; 4] = [Id::FsUsedRatio, Id::FsUsed, Id::FsTotal, Id::FsInodeUsedRatio];

/// The host's filesystems.
#[derive(Debug)]
pub(super) struct Filesystems {
    root: PathBuf,
    mounts: Held,
    mounts_due: Seldom,
    points: Vec<Point>,
    shape: Rc<Shape>,
    buffer: Vec<u8>,
}

/// A filesystem to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    /// The mount point as the host names it.
    pub(super) name: String,
    /// `major:minor`; the major number is 0 where the filesystem has no device of its own.
    device: (u32, u32),
}

impl Filesystems {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            mounts: Held::with_long_lines(root.join("proc/1/mountinfo")),
            mounts_due: Seldom::every(MOUNTS_EVERY_MS),
            points: Vec::new(),
            shape: Shape::of([]),
            buffer: Vec::new(),
        }
    }

    pub(super) fn sample(&mut self, boot_ms: i64) -> (Rc<Shape>, Vec<f64>) {
        // Asked first: what changes while the table is read is told at the next sample.
        if self.mounts_due.is_due_or(self.mounts.has_changed(), boot_ms) {
            self.read_mounts();
        }
        let mut values = Vec::with_capacity(self.points.len() * METRICS.len());
        for point in &self.points {
            values.extend(measure(&self.root.join(point.name.trim_start_matches('/')), point.device));
        }
        (Rc::clone(&self.shape), values)
    }

    fn read_mounts(&mut self) {
        let Some(text) = self.mounts.read(&mut self.buffer) else { return };
        let points = real_mount_points(text);
        if points != self.points {
            self.shape = Shape::of(points.iter().flat_map(|point| METRICS.map(|id| (id, point.name.as_str()))));
            self.points = points;
        }
    }
}

fn measure(path: &Path, device: (u32, u32)) -> [f64; 4] {
    // Unmounted since, or mounted where this process cannot see it: the values would be those of what lies below.
    let seen = std::fs::metadata(path).map(|meta| (major(meta.dev()), minor(meta.dev())));
    if !seen.is_ok_and(|seen| device.0 == 0 || seen == device) {
        return [f64::NAN; 4];
    }
    let Ok(fs) = rustix::fs::statvfs(path) else { return [f64::NAN; 4] };
    let bytes = |blocks: u64| blocks as f64 * fs.f_frsize as f64;
    let used = bytes(fs.f_blocks.saturating_sub(fs.f_bfree));
    let inodes_used = fs.f_files.saturating_sub(fs.f_ffree) as f64;
    [ratio(used, used + bytes(fs.f_bavail)), used, bytes(fs.f_blocks), ratio(inodes_used, fs.f_files as f64)]
}

/// The mount points of a `mountinfo` text that stand for a filesystem each, in order.
pub(super) fn real_mount_points(text: &[u8]) -> Vec<Point> {
    // What is mounted later on the same point hides what was there.
    let mut visible: HashMap<&[u8], Mount<'_>> = HashMap::new();
    for mount in lines(text).filter_map(Mount::parse) {
        visible.insert(mount.point, mount);
    }
    let mut chosen: BTreeMap<&[u8], Mount<'_>> = BTreeMap::new();
    for mount in visible.into_values().filter(Mount::is_real) {
        chosen.entry(mount.device).and_modify(|best| *best = (*best).better_of(mount)).or_insert(mount);
    }
    let point = |mount: Mount<'_>| Point { name: unescape(mount.point), device: mount.numbers() };
    let mut points: Vec<Point> = chosen.into_values().map(point).collect();
    points.sort_by(|a, b| a.name.cmp(&b.name));
    points.truncate(INSTANCES_MAX);
    points
}

#[derive(Debug, Clone, Copy)]
struct Mount<'a> {
    device: &'a [u8],
    root: &'a [u8],
    point: &'a [u8],
    kind: &'a [u8],
    source: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let device = words.nth(2)?;
        let root = words.next()?;
        let point = words.next()?;
        words.find(|word| *word == b"-")?;
        Some(Self { device, root, point, kind: words.next()?, source: words.next()? })
    }

    fn numbers(&self) -> (u32, u32) {
        let mut parts =
            self.device.split(|byte| *byte == b':').map(|part| number(part).and_then(|n| u32::try_from(n).ok()));
        (parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0))
    }

    fn is_real(&self) -> bool {
        let on_device = self.source.starts_with(b"/dev/") || POOLED.contains(&self.kind);
        on_device && !SEALED.contains(&self.kind) && !self.kind.starts_with(b"fuse.")
    }

    /// The one that shows the filesystem's own root, else the shorter, else the first by name.
    fn better_of(self, other: Self) -> Self {
        let rank = |mount: &Self| (mount.root != b"/", mount.point.len());
        if (rank(&other), other.point) < (rank(&self), self.point) { other } else { self }
    }
}

/// Mount tables write blank, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = (*byte == b'\\')
            .then(|| tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()))
            .flatten();
        out.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}
