//! Writes a benchmark of kinds of series that warnbench's development half does not have, half of them crossing their
//! threshold: `cargo run -p forewarn-server --example families -- target/families 7 6` (folder, seed, series a kind).
//! It shows what of the forecast generalises; its figures choose no setting.

#[path = "../tests/suite/stories.rs"]
mod stories;

use std::fmt::Write as _;
use std::path::PathBuf;

use stories::{DAY, Dice, START_MS, STEP_MS};

/// Buckets, as floats.
const PER_DAY: f64 = DAY as f64;
const PER_HOUR: f64 = PER_DAY / 24.0;

struct Family {
    name: &'static str,
    kind: &'static str,
    days: usize,
    threshold: f64,
    horizon_h: i64,
    values: fn(&mut Dice, bool, usize) -> Vec<f64>,
}

const FAMILIES: [Family; 18] = [
    disk("disk-imports", 18, 72.0, imports),
    disk("disk-backup", 18, 90.0, backup),
    disk("disk-rate-change", 18, 80.0, rate_change),
    disk("disk-compaction", 18, 88.0, compaction),
    disk("disk-watermark", 18, 90.0, watermark),
    disk("disk-weekend-archive", 24, 84.0, weekend_archive),
    disk("disk-wander", 14, 80.0, wander),
    memory("mem-leak-traffic", 8, 80.0, leak_by_traffic),
    memory("mem-deploy-leak", 6, 85.0, leak_after_deploy),
    memory("mem-cache-warm", 6, 80.0, cache_warming),
    memory("mem-sessions", 14, 72.0, sessions),
    memory("mem-batch", 8, 80.0, batch),
    processor("cpu-queue", 10, 80.0, queue),
    processor("cpu-monday", 24, 80.0, monday),
    processor("cpu-jobs", 10, 75.0, jobs),
    processor("cpu-crowds", 12, 80.0, crowds),
    disk("disk-new-fill", 12, 90.0, new_fill),
    memory("mem-new-leak", 5, 90.0, new_leak),
];

type Values = fn(&mut Dice, bool, usize) -> Vec<f64>;

const fn disk(name: &'static str, days: usize, threshold: f64, values: Values) -> Family {
    Family { name, kind: "disk", days, threshold, horizon_h: 24, values }
}

const fn memory(name: &'static str, days: usize, threshold: f64, values: Values) -> Family {
    Family { name, kind: "mem", days, threshold, horizon_h: 4, values }
}

const fn processor(name: &'static str, days: usize, threshold: f64, values: Values) -> Family {
    Family { name, kind: "cpu", days, threshold, horizon_h: 1, values }
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "target/families".into()));
    let mut number = |usual: u64| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(usual);
    let (seed, each) = (number(7), number(6));
    std::fs::create_dir_all(&folder)?;
    let mut tasks = Vec::new();
    for (index, family) in FAMILIES.iter().enumerate() {
        for i in 0..each {
            let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1000 * index as u64 + i));
            let values = (family.values)(&mut dice, i % 2 == 0, family.days);
            let id = format!("{}-{i}", family.name);
            let mut text = String::from("timestamp,value\n");
            for (at, value) in stories::points(&values) {
                let _ = writeln!(text, "{},{:.3}", at / 1000, value.clamp(0.0, 100.0));
            }
            std::fs::write(folder.join(format!("{id}.csv")), text)?;
            let history_s = (family.days as i64 * 86_400 * 15 / 100).clamp(7200, 86_400);
            tasks.push(serde_json::json!({
                "id": id, "series": id, "file": format!("{id}.csv"), "kind": family.kind, "group": family.name,
                "interval_s": STEP_MS / 1000, "threshold": family.threshold, "horizon_s": family.horizon_h * 3600,
                "eval_start": START_MS / 1000 + history_s,
            }));
        }
    }
    std::fs::write(folder.join("manifest-dev.json"), serde_json::json!({ "series": tasks }).to_string())
}

fn hour(i: usize) -> f64 {
    (i % DAY) as f64 / PER_HOUR
}

/// The curve of an office day; weekends are quiet.
fn office(i: usize) -> f64 {
    let weekday = if i / DAY % 7 < 5 { 1.0 } else { 0.25 };
    weekday * (-0.5 * ((hour(i) - 14.0) / 3.5).powi(2)).exp()
}

/// 0 before `from`, 1 after `from + over`, a line between.
fn ramp(i: usize, from: f64, over: f64) -> f64 {
    ((i as f64 - from) / over).clamp(0.0, 1.0)
}

fn each(days: usize, value: impl FnMut(usize) -> f64) -> Vec<f64> {
    (0..days * DAY).map(value).collect()
}

fn choose(crosses: bool, dice: &mut Dice, yes: (f64, f64), no: (f64, f64)) -> f64 {
    let (low, high) = if crosses { yes } else { no };
    dice.between(low, high)
}

/// Bulk imports on some days, most of them deleted again.
fn imports(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, growth) = (dice.between(40.0, 50.0), choose(crosses, dice, (0.8, 1.6), (0.25, 0.5)));
    let loads: Vec<_> = (0..dice.between(4.0, 8.0) as usize)
        .map(|_| {
            let (from, over) = (dice.between(1.0, 17.0) * PER_DAY, dice.between(2.0, 6.0) * PER_HOUR);
            let gone = if crosses && dice.unit() < 0.5 { f64::INFINITY } else { dice.between(3.0, 12.0) * PER_HOUR };
            (from, over, dice.between(2.0, 6.0), from + over + gone)
        })
        .collect();
    each(days, |i| {
        let loaded = loads
            .iter()
            .map(|(from, over, size, gone)| size * (ramp(i, *from, *over) - if i as f64 > *gone { 0.8 } else { 0.0 }));
        base + growth * i as f64 / PER_DAY + loaded.sum::<f64>() + 0.03 * dice.normal()
    })
}

/// A copy that grows every night and is removed in the morning.
fn backup(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, copy) = (dice.between(45.0, 55.0), dice.between(10.0, 15.0));
    let growth = choose(crosses, dice, (1.2, 2.0), (0.0, 0.3));
    each(days, |i| {
        let written = if hour(i) < 6.0 { ((hour(i) - 1.0) / 3.0).clamp(0.0, 1.0) } else { 0.0 };
        base + growth * i as f64 / PER_DAY + copy * written + 0.05 * dice.normal()
    })
}

/// Level for days; then something fills it evenly, to the end or until it is stopped.
fn new_fill(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (pace, noise) = (dice.between(0.4, 4.0), dice.between(0.02, 0.3));
    sudden(dice, crosses, days, pace, noise, 0.0)
}

/// The same of a process, beside its daily course.
fn new_leak(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (pace, noise) = (dice.between(2.0, 12.0), dice.between(0.05, 0.8));
    sudden(dice, crosses, days, pace, noise, 2.0)
}

/// `pace` in percent an hour.
fn sudden(dice: &mut Dice, crosses: bool, days: usize, pace: f64, noise: f64, swing: f64) -> Vec<f64> {
    let (base, from) = (dice.between(25.0, 50.0), dice.between(0.4, 0.7) * days as f64 * PER_DAY);
    let most = if crosses { 97.0 - base } else { dice.between(8.0, 25.0) };
    each(days, |i| {
        let filled = (pace * (i as f64 - from).max(0.0) / PER_HOUR).min(most);
        base + filled + swing * (hour(i) / 24.0 * std::f64::consts::TAU).sin() + noise * dice.normal()
    })
}

/// The rate of growth changes with a release.
fn rate_change(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, release, rate) = (dice.between(40.0, 50.0), dice.between(7.0, 11.0), dice.between(0.4, 0.9));
    let after = rate * choose(crosses, dice, (4.0, 6.0), (0.2, 0.8));
    let mut drift = 0.0;
    each(days, |i| {
        let day = i as f64 / PER_DAY;
        drift += 0.012 * dice.normal();
        base + rate * day.min(release) + after * (day - release).max(0.0) + drift
    })
}

/// A log-structured store: small merges every few hours, a great one every few days.
fn compaction(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (mut base, rate) = (dice.between(45.0, 55.0), dice.between(6.0, 9.0) / PER_DAY);
    let growth = choose(crosses, dice, (1.2, 1.8), (0.0, 0.15)) / PER_DAY;
    let (mut small, mut great, mut due) = (0.0, 0.0, dice.between(2.5, 4.0) * PER_DAY);
    each(days, |i| {
        base += growth;
        small += rate * dice.between(0.5, 1.5);
        great += 0.5 * rate * dice.between(0.5, 1.5);
        if small > dice.between(2.5, 3.5) {
            small *= 0.3;
        }
        if i as f64 > due {
            great = 0.0;
            due += dice.between(2.5, 4.0) * PER_DAY;
        }
        base + small + great
    })
}

/// A job cleans up at a high-water mark below the threshold, until it breaks.
fn watermark(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (mut level, breaks) = (dice.between(50.0, 65.0), dice.between(9.0, 13.0) * PER_DAY);
    each(days, |i| {
        level += dice.between(5.0, 8.0) / PER_DAY * (1.0 + 0.5 * office(i));
        if level > 80.0 && !(crosses && i as f64 > breaks) {
            level = dice.between(58.0, 62.0);
        }
        level.min(99.0) + 0.05 * dice.normal()
    })
}

/// Office hours fill it, Sunday's archive empties it.
fn weekend_archive(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (mut level, rate) = (dice.between(55.0, 60.0), if crosses { 4.2 } else { 3.2 } / PER_DAY);
    each(days, |i| {
        level += rate * (0.4 + 1.5 * office(i));
        if i / DAY % 7 == 6 && i % DAY == 0 {
            level -= 11.0;
        }
        level + 0.04 * dice.normal()
    })
}

/// A walk that comes back.
fn wander(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (middle, pull) = (dice.between(60.0, 66.0), 1.0 / (dice.between(1.0, 3.0) * PER_DAY));
    let mut away = 0.0;
    each(days, |_| {
        away = away * (1.0 - pull) + 0.36 * dice.normal();
        middle + away + if crosses { 8.0 } else { 0.0 }
    })
}

/// A leak that grows with the traffic.
fn leak_by_traffic(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (mut level, rate) = (dice.between(30.0, 40.0), choose(crosses, dice, (0.6, 1.0), (0.1, 0.2)) / PER_HOUR);
    each(days, |i| {
        level += rate * (office(i) + 0.05);
        level + 0.2 * dice.normal()
    })
}

/// A leak that begins with a release, and a restart when it is full.
fn leak_after_deploy(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, release) = (dice.between(35.0, 45.0), dice.between(1.5, 2.5) * PER_DAY);
    let (rate, mut leaked) = (choose(crosses, dice, (1.0, 3.0), (0.05, 0.15)) / PER_HOUR, 0.0);
    each(days, |i| {
        if i as f64 > release {
            leaked += rate * dice.between(0.4, 1.6);
        }
        if base + leaked > 92.0 {
            leaked = 0.0;
        }
        base + leaked + 0.25 * dice.normal()
    })
}

/// A cache that fills towards its limit after every restart.
fn cache_warming(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (top, share) = (choose(crosses, dice, (83.0, 88.0), (66.0, 74.0)), 1.0 / (dice.between(4.0, 9.0) * PER_HOUR));
    let (mut level, mut restart) = (dice.between(20.0, 30.0), dice.between(1.0, 2.0) * PER_DAY);
    each(days, |i| {
        level += (top - level) * share;
        if i as f64 > restart {
            level = dice.between(20.0, 30.0);
            restart += dice.between(1.0, 2.0) * PER_DAY;
        }
        level + 0.15 * dice.normal()
    })
}

/// Sessions of a day, of more users every day.
fn sessions(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, users) = (dice.between(25.0, 30.0), dice.between(26.0, 30.0));
    let growth = choose(crosses, dice, (0.03, 0.05), (-0.005, 0.005));
    each(days, |i| {
        let day = i as f64 / PER_DAY;
        let tide = 5.0 * ((hour(i) - 10.0) / 24.0 * std::f64::consts::TAU).sin();
        base + users * office(i) * (1.0 + growth * day) + tide + 0.5 * dice.normal()
    })
}

/// A batch every six hours whose input grows.
fn batch(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, size) = (dice.between(34.0, 40.0), dice.between(24.0, 28.0));
    let growth = choose(crosses, dice, (0.02, 0.035), (0.0, 0.002));
    each(days, |i| {
        let (run, at_h) = (i / (DAY / 4), (i % (DAY / 4)) as f64 / PER_HOUR);
        let filled = if at_h < 3.2 { (at_h / 2.5).min(1.0) } else { 0.0 };
        base + size * (1.0 + growth * run as f64) * filled + 0.3 * dice.normal()
    })
}

/// A queue that builds up over an hour or three, sometimes to saturation.
fn queue(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let base = dice.between(25.0, 35.0);
    let jams: Vec<_> = (0..dice.between(10.0, 16.0) as usize)
        .map(|_| {
            let (from, over) = (dice.between(0.2, 9.8) * PER_DAY, dice.between(1.0, 3.0) * PER_HOUR);
            let saturates = crosses && dice.unit() < 0.5;
            (from, over, choose(saturates, dice, (45.0, 65.0), (10.0, 30.0)), dice.between(0.3, 1.0) * PER_HOUR)
        })
        .collect();
    each(days, |i| {
        let jam = jams.iter().filter(|(from, over, _, drains)| (i as f64) < from + over + drains);
        base + jam.map(|(from, over, size, _)| size * ramp(i, *from, *over)).sum::<f64>() + 1.4 * dice.normal()
    })
}

/// Office days with higher Mondays, and a slow wander.
fn monday(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, peak) = (dice.between(22.0, 28.0), dice.between(if crosses { 38.0 } else { 30.0 }, 44.0));
    let mut wander = 0.0;
    each(days, |i| {
        let monday = if crosses && (i / DAY).is_multiple_of(7) { 1.35 } else { 1.0 };
        wander = 0.93 * wander + 1.8 * dice.normal();
        base + peak * office(i) * monday * (1.0 + 0.004 * i as f64 / PER_DAY) + wander + 1.2 * dice.normal()
    })
}

/// A job every two hours that grows longer and heavier.
fn jobs(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, load) = (dice.between(25.0, 30.0), dice.between(25.0, 30.0));
    let growth = choose(crosses, dice, (2.5, 3.5), (0.0, 0.1));
    each(days, |i| {
        let (day, at_min) = (i as f64 / PER_DAY, (i % (DAY / 12)) as f64 * 5.0);
        let runs = if at_min < 25.0 + 2.0 * day { (at_min / 15.0).min(1.0) } else { 0.0 };
        base + (load + growth * day) * runs + 1.5 * dice.normal()
    })
}

/// A day's curve, and crowds that come within an hour and stay for another.
fn crowds(dice: &mut Dice, crosses: bool, days: usize) -> Vec<f64> {
    let (base, peak) = (dice.between(25.0, 30.0), dice.between(22.0, 28.0));
    let crowds: Vec<_> = (0..if crosses { 6 } else { 2 })
        .map(|_| {
            let from = (dice.between(1.0, 12.0).floor() + dice.between(0.35, 0.7)) * PER_DAY;
            (from, dice.between(40.0, 90.0) / 5.0, choose(crosses, dice, (30.0, 45.0), (8.0, 15.0)))
        })
        .collect();
    each(days, |i| {
        let crowd = crowds.iter().map(|(from, over, size)| {
            let leaves = (-((i as f64 - from - over).max(0.0)) / PER_HOUR).exp();
            size * ramp(i, *from, *over) * leaves
        });
        base + peak * office(i) + crowd.sum::<f64>() + 1.4 * dice.normal()
    })
}
