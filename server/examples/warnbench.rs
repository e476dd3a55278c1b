//! Replays a warnbench manifest with the shipped code and holds it to its bars: the scorer's table,
//! a paired bootstrap against other decisions, calibration, causality, determinism. Exits with 1
//! when a bar is missed: `make warnbench WARNBENCH=<folder>`.

#![allow(clippy::print_stdout, reason = "a report for the terminal")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;
use forewarn_server::forecast::Model;
use forewarn_server::forecast::score::{Decision, Kept, Score, TICK_MS, Total, score, total};
use forewarn_server::replay::{self, DECISIONS_HEAD, file};

/// Draws of the bootstrap.
const DRAWS: usize = 2000;
/// Cuts of each series in the check of causality.
const CUTS: usize = 4;

#[derive(Parser)]
struct Args {
    /// Folder with `manifest-dev.json`, or a manifest.
    manifest: PathBuf,
    /// Where the decisions and the report's figures go.
    #[arg(long, default_value = "target/warnbench")]
    out: PathBuf,
    /// Decisions to compare with, such as those of `kcm_lite`.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Settings of the forecast as JSON; the shipped defaults if left out.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Only the table: no bars, no second replay, no cuts.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let path = if args.manifest.is_dir() { args.manifest.join("manifest-dev.json") } else { args.manifest.clone() };
    let (manifest, base) = file::read_manifest(&path)?;
    let model = args.model.as_deref().map_or_else(|| Ok(Model::default()), replay::read_model)?;
    let cancel = AtomicBool::new(false);
    let threads = replay::threads(None);
    let started = forewarn_common::clock::wall_ms();
    let rows = replay::replay_all(&manifest, &base, &model, threads, &cancel, &replay::show_progress)?;
    let took_ms = forewarn_common::clock::wall_ms() - started;
    std::fs::create_dir_all(&args.out)?;
    let decisions = args.out.join("forewarn.csv");
    file::write_whole(&decisions, std::iter::once(DECISIONS_HEAD).chain(rows.iter().map(String::as_str)))?;

    // Read back from the file, so that what is scored is what anybody else would score.
    let scores = score_all(&manifest, &base, &file::read_decisions(&decisions)?)?;
    table(&manifest, &scores);
    println!("\nreplayed {} tasks in {:.1} s on {threads} threads", rows.len(), took_ms as f64 / 1000.0);
    let mut missed = !args.quick && bars(&manifest, &scores);
    missed |= calibration(&total(&scores)) && !args.quick;
    if let Some(against) = &args.against {
        let other = score_all(&manifest, &base, &file::read_decisions(against)?)?;
        bootstrap(&manifest, &scores, &other, &against.file_stem().unwrap_or_default().to_string_lossy());
    } else {
        println!("\nno decisions to compare with: the paired bootstrap is left out (AGAINST=<decisions.csv>)");
    }
    if !args.quick {
        let again = replay::replay_all(&manifest, &base, &model, 1, &cancel, &replay::show_progress)?;
        let same = again == rows;
        println!("\ndeterminism: 1 thread and {threads} give {} bytes", if same { "the same" } else { "DIFFERENT" });
        let causal = causality(&manifest, &base, &model, &rows)?;
        missed |= !same || !causal;
    }
    if !args.quick {
        println!("\n{}", if missed { "a bar is MISSED" } else { "every bar is held" });
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn score_all(manifest: &file::Manifest, base: &Path, decisions: &HashMap<String, Vec<Decision>>) -> Result<Vec<Score>> {
    let tasks = manifest.series.iter().map(|task| {
        let found = file::read_recording(&base.join(&task.file))?;
        let said = decisions.get(&task.id).map(Vec::as_slice).unwrap_or_default();
        Ok(score(&found.points, &task.question(), said))
    });
    tasks.collect()
}

/// The slices of the scorer's table, in its order.
fn slices(manifest: &file::Manifest, scores: &[Score]) -> Vec<(String, Total)> {
    let mut slices = vec![("overall".to_owned(), total(scores))];
    let mut add = |name: &str, key: fn(&file::Task) -> String| {
        let keys: BTreeSet<String> = manifest.series.iter().map(key).collect();
        for value in keys {
            let of = manifest.series.iter().zip(scores).filter(|(task, _)| key(task) == value).map(|(_, s)| s);
            slices.push((format!("{name}={value}"), total(of)));
        }
    };
    add("group", |task| task.group.clone());
    add("kind", |task| task.kind.clone());
    add("cell", |task| format!("{}/{}", task.group, task.kind));
    slices
}

fn table(manifest: &file::Manifest, scores: &[Score]) {
    println!(
        "slice                              n  events  recall   prec     F1   F0.5  false/wk  lead/H  ttt|ln|  flap  brier"
    );
    let slices = slices(manifest, scores);
    let group_alone = |name: &str, t: &Total| {
        let group = name.strip_prefix("cell=").and_then(|cell| cell.split_once('/'));
        group.is_some_and(|(group, _)| {
            slices.iter().any(|(n, o)| *n == format!("group={group}") && o.series == t.series)
        })
    };
    // A group of one kind is its own cell.
    for (name, t) in slices.iter().filter(|(name, t)| !group_alone(name, t)) {
        println!(
            "{name:<30} {:>5} {:>7} {:>7.3} {:>6.3} {:>6.3} {:>6.3} {:>9.2} {:>7.3} {:>8.3} {:>5.2} {:>6.3}",
            t.series,
            t.events,
            t.recall,
            t.precision,
            t.f1,
            t.f05,
            t.false_per_week,
            t.lead_ratio,
            t.time_error,
            t.flapping,
            t.brier
        );
    }
    let cells: Vec<&Total> =
        slices.iter().filter(|(name, t)| name.starts_with("cell=") && t.events >= 5).map(|(_, t)| t).collect();
    let mean = |of: fn(&Total) -> f64| cells.iter().map(|t| of(t)).sum::<f64>() / cells.len().max(1) as f64;
    println!(
        "macro over {} cells (group x kind with >= 5 events): recall {:.3} precision {:.3} F1 {:.3} F0.5 {:.3}",
        cells.len(),
        mean(|t| t.recall),
        mean(|t| t.precision),
        mean(|t| t.f1),
        mean(|t| t.f05)
    );
}

/// Prints the bars; true if one is missed. Figures are compared as they are printed.
fn bars(manifest: &file::Manifest, scores: &[Score]) -> bool {
    let slices: BTreeMap<String, Total> = slices(manifest, scores).into_iter().collect();
    let (none, all) = (Total::default(), &slices["overall"]);
    let of = |name: &str| slices.get(name).unwrap_or(&none);
    let (real, disk, memory, cpu) = (of("group=real"), of("kind=disk"), of("kind=mem"), of("kind=cpu"));
    let rows = [
        ("overall F1", all.f1, true, 0.68, 0.72),
        ("overall F0.5", all.f05, true, 0.74, 0.77),
        ("false warnings per series-week", all.false_per_week, false, 0.55, 0.45),
        ("real series F1", real.f1, true, 0.55, 0.58),
        ("disk F0.5", disk.f05, true, 0.95, 0.96),
        ("disk error of the predicted time", disk.time_error, false, 0.10, 0.08),
        ("memory F0.5", memory.f05, true, 0.85, 0.88),
        ("CPU F0.5", cpu.f05, true, 0.65, 0.70),
        ("lead time, share of the horizon", all.lead_ratio, true, 0.65, 0.65),
        ("Brier score", all.brier, false, 0.033, 0.033),
        ("flapping", all.flapping, false, 1.03, 1.03),
    ];
    println!("\nbar                                  value   to reach     goal");
    let mut missed = false;
    for (name, value, at_least, bar, goal) in rows {
        let value = (1000.0 * value).round() / 1000.0;
        let holds = |limit: f64| if at_least { value >= limit } else { value <= limit };
        let sign = if at_least { ">=" } else { "<=" };
        let verdict = match (holds(bar), holds(goal)) {
            (false, _) => "MISSED",
            (true, false) => "held",
            (true, true) => "held, goal too",
        };
        missed |= !holds(bar);
        println!("{name:<34} {value:>7.3}   {sign} {bar:<6} {sign} {goal:<6}  {verdict}");
    }
    missed
}

/// Prints how often what was said came true; true if it is out of its bounds. The starts are few:
/// they miss only where chance does not explain it (90 % interval).
fn calibration(all: &Total) -> bool {
    println!("\nwarnings said with  at every moment           at their start (90 % interval)        bounds");
    let classes = [
        ("below 60 %", 0, None),
        ("60-80 %", 1, Some((0.5, 0.9))),
        ("80-95 %", 2, Some((0.7, 1.0))),
        ("over 95 %", 3, None),
    ];
    let mut missed = false;
    for (name, class, bounds) in classes {
        let (moments, starts) = (all.moments[class], all.starts[class]);
        let (low, high) = interval(starts);
        let of_moments = moments
            .ratio()
            .map_or("none".to_owned(), |ratio| format!("{:>3.0} % of {:<5} came true", 100.0 * ratio, moments.said));
        let of_starts = starts.ratio().map_or("none".to_owned(), |ratio| {
            format!("{:>3.0} % of {:<4} ({:.0}-{:.0} %)", 100.0 * ratio, starts.said, 100.0 * low, 100.0 * high)
        });
        let verdict = bounds.map_or(String::new(), |(from, to)| {
            let fine = moments.ratio().is_none_or(|ratio| (from..=to).contains(&ratio)) && high >= from && low <= to;
            missed |= !fine;
            format!("{:.0}-{:.0} %  {}", 100.0 * from, 100.0 * to, if fine { "held" } else { "MISSED" })
        });
        println!("{name:<18}  {of_moments:<24}  {of_starts:<36}  {verdict}");
    }
    missed
}

/// Wilson's interval of a share, 90 %.
fn interval(kept: Kept) -> (f64, f64) {
    let (Some(ratio), n) = (kept.ratio(), kept.said as f64) else { return (0.0, 1.0) };
    let z2 = 1.645_f64.powi(2);
    let middle = (ratio + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (ratio * (1.0 - ratio) * z2 / n + (z2 / (2.0 * n)).powi(2)).sqrt() / (1.0 + z2 / n);
    (middle - half, middle + half)
}

type Figure = (&'static str, fn(&Total) -> f64);

/// Resamples whole series (all tasks of one stay together) and prints by how much ours differs.
fn bootstrap(manifest: &file::Manifest, ours: &[Score], theirs: &[Score], name: &str) {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, task) in manifest.series.iter().enumerate() {
        groups.entry(if task.series.is_empty() { &task.id } else { &task.series }).or_default().push(index);
    }
    let groups: Vec<Vec<usize>> = groups.into_values().collect();
    let mut seed = 0x5EED_u64;
    let mut draw = |below: usize| {
        // SplitMix64: the same draws on every machine.
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    let figures: [Figure; 3] =
        [("F1", |t| t.f1), ("F0.5", |t| t.f05), ("false warnings per series-week", |t| t.false_per_week)];
    let mut draws = vec![Vec::with_capacity(DRAWS); figures.len()];
    for _ in 0..DRAWS {
        let drawn: Vec<usize> = (0..groups.len()).flat_map(|_| groups[draw(groups.len())].iter().copied()).collect();
        let (a, b) = (total(drawn.iter().map(|i| &ours[*i])), total(drawn.iter().map(|i| &theirs[*i])));
        for (draws, (_, of)) in draws.iter_mut().zip(&figures) {
            draws.push(of(&a) - of(&b));
        }
    }
    let (a, b) = (total(ours), total(theirs));
    println!(
        "\npaired bootstrap against {name}, {DRAWS} draws over {} series: ours, theirs, difference (90 % interval)",
        groups.len()
    );
    for (draws, (figure, of)) in draws.iter_mut().zip(&figures) {
        draws.sort_by(f64::total_cmp);
        println!(
            "{figure:<31} {:>6.3} {:>6.3}  {:+.3} ({:+.3} to {:+.3})",
            of(&a),
            of(&b),
            of(&a) - of(&b),
            draws[DRAWS / 20],
            draws[DRAWS - 1 - DRAWS / 20]
        );
    }
}

/// Whether a decision knows nothing of what comes later: at every tick of every task, the row of a replay that was
/// handed only the samples up to there equals the one of the whole; and so do the rows of a recording that ends there,
/// for some ticks.
fn causality(manifest: &file::Manifest, base: &Path, model: &Model, rows: &[String]) -> Result<bool> {
    let model = Model { close_after_ms: 0, band_points: 0, ..model.clone() };
    let next = AtomicUsize::new(0);
    let (cuts, ticks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let check = || -> Result<Vec<String>> {
        let mut faults = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = manifest.series.get(index) else { return Ok(faults) };
            let points = file::read_recording(&base.join(&task.file))?.points;
            let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
            let mut known = replay::Replay::new(task, &model);
            let mut whole = rows[index].as_str();
            for (tick, new) in replay::ticks(&points) {
                let row = known.tick(new, tick).unwrap_or_default();
                ticks.fetch_add(1, Ordering::Relaxed);
                let Some(rest) = whole.strip_prefix(&row) else {
                    break;
                };
                whole = rest;
            }
            if !whole.is_empty() {
                faults.push(format!("{}: {}", task.id, whole.lines().next().unwrap_or_default()));
            }
            let from = first.0.max(task.eval_start * 1000);
            for cut in 0..CUTS {
                // Spread over the judged part, at places that differ from series to series.
                let share = ((cut as f64 + 0.5 + 0.618 * index as f64) / CUTS as f64).fract();
                let tick = from + (share * (last.0 - from) as f64) as i64;
                let tick = tick - tick.rem_euclid(TICK_MS);
                let known = &points[..points.partition_point(|p| p.0 <= tick)];
                let Some(end) = known.last() else { continue };
                let cut_rows = replay::replay(known, task, &model, &AtomicBool::new(false))?;
                let at = |row: &str| row.split(',').nth(1).and_then(|t| t.parse::<i64>().ok()).unwrap_or(i64::MAX);
                let whole: String = rows[index].split_inclusive('\n').filter(|row| at(row) * 1000 <= end.0).collect();
                if whole != cut_rows {
                    faults.push(format!("{} cut at {}", task.id, tick / 1000));
                }
                cuts.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let found: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..replay::threads(None)).map(|_| scope.spawn(check)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a thread of the check ended abnormally")))
            .collect()
    });
    let mut faults = Vec::new();
    for found in found {
        faults.extend(found.context("the check of causality could not read a series")?);
    }
    let (cuts, ticks) = (cuts.into_inner(), ticks.into_inner());
    println!(
        "causality: {ticks} ticks of {} tasks without what comes later, {cuts} recordings cut short: {} differ",
        rows.len(),
        faults.len()
    );
    for fault in &faults {
        println!("  {fault}");
    }
    Ok(faults.is_empty() && cuts > 0 && ticks > 0)
}
