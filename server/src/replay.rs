//! The command line's view of the forecast: replays files through the same step function that
//! judges live series, and writes what it would have said. Files in, files out; no judgement here.

pub mod file;
pub mod plot;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::forecast::score::TICK_MS;
use crate::forecast::{self, Model, State};
use crate::model::forecast::State as Answer;
use file::{Manifest, Task};

/// Probabilities below this are not worth a row.
const PROBABILITY_MIN: f64 = 0.02;
/// Recordings of a longer span are refused: fifty years, which is more likely a wrong timestamp.
const SPAN_MS_MAX: i64 = 50 * 366 * 86_400_000;
/// A newest sample that is farther from the one before it is pointed at: a day.
const LONELY_MS: i64 = 86_400_000;
/// Threads of a replay at most.
const THREADS_MAX: usize = 256;
/// First line of a table of decisions.
pub const DECISIONS_HEAD: &str = "series_id,timestamp,warn,crossing_at,probability,earliest_at,latest_at\n";

/// Replay a manifest of recorded series and write every decision.
#[derive(Clone, Debug, clap::Args)]
pub struct BacktestArgs {
    /// Manifest: JSON with `series[]`, each with file, threshold and horizon.
    #[arg(long)]
    pub manifest: PathBuf,
    /// Where the decisions go, as CSV.
    #[arg(long)]
    pub out: PathBuf,
    /// Settings of the forecast: a JSON file, or the id of a trained model of this site (with
    /// `--config` or `--data-dir`); the defaults if left out.
    #[arg(long)]
    pub model: Option<String>,
    /// Threads; all cores if left out.
    #[arg(long)]
    pub threads: Option<usize>,
}

/// Runs `backtest`: the table is written when all is done, or not at all.
///
/// # Errors
/// If a file cannot be read or written, the manifest is not understood, or `cancel` turned true.
pub fn backtest(args: &BacktestArgs, model: &Model, cancel: &AtomicBool) -> Result<()> {
    let (manifest, base) = file::read_manifest(&args.manifest)?;
    let rows = replay_all(&manifest, &base, model, threads(args.threads), cancel, &show_progress)?;
    file::write_whole(&args.out, std::iter::once(DECISIONS_HEAD).chain(rows.iter().map(String::as_str)))
}

/// The threads that are wanted, or one a core.
#[must_use]
pub fn threads(wanted: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or_else(cores).clamp(1, THREADS_MAX)
}

/// Replays every task and returns the rows of each, in the manifest's order whatever the threads.
///
/// # Errors
/// If a series cannot be read, or `cancel` turned true.
pub fn replay_all(
    manifest: &Manifest,
    base: &Path,
    model: &Model,
    threads: usize,
    cancel: &AtomicBool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<String>> {
    // The samples of a recording are all there: nothing more will come for a bucket.
    let model = Model { close_after_ms: 0, band_points: 0, ..model.clone() };
    let all = manifest.series.len();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<Vec<(usize, Result<String>)>> = Mutex::new(Vec::with_capacity(all));
    progress(0, all);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(all) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = manifest.series.get(index).filter(|_| !cancel.load(Ordering::Relaxed)) else {
                        return;
                    };
                    let rows = file::read_recording(&base.join(&task.file))
                        .and_then(|found| replay(&found.points, task, &model, cancel));
                    if let Ok(mut all) = results.lock() {
                        all.push((index, rows));
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                }
            });
        }
    });
    if cancel.load(Ordering::Relaxed) {
        bail!("cancelled; nothing was written");
    }
    let Ok(mut results) = results.into_inner() else { bail!("a replay thread failed") };
    results.sort_by_key(|r| r.0);
    results.into_iter().map(|(_, rows)| rows).collect()
}

/// A line on the terminal while a replay runs; nothing where nobody looks.
pub fn show_progress(done: usize, all: usize) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let filled = 40 * done / all.max(1);
        // A closed terminal is no reason to stop.
        let _ = write!(terminal, "\r[{:<40}] {done}/{all}", "#".repeat(filled));
        if done == all {
            let _ = writeln!(terminal);
        }
    }
}

/// A replay of one series, tick by tick: what has not been handed over cannot be looked at.
pub struct Replay<'a> {
    task: &'a Task,
    model: &'a Model,
    state: Option<State>,
}

impl<'a> Replay<'a> {
    /// Before the first sample.
    #[must_use]
    pub fn new(task: &'a Task, model: &'a Model) -> Self {
        Self { task, model, state: None }
    }

    /// Takes the samples since the tick before and gives the row of this one, if there is something to say.
    pub fn tick(&mut self, points: &[(i64, f64)], tick_ms: i64) -> Option<String> {
        let (task, horizon_ms) = (self.task, self.task.horizon_s * 1000);
        let state = self.state.take().unwrap_or_else(|| State::new(horizon_ms, self.model));
        let (state, said) = forecast::step(state, points, task.threshold, horizon_ms, tick_ms, self.model);
        self.state = Some(state);
        if tick_ms < task.question().judged_from_ms || !(said.warned || said.probability >= PROBABILITY_MIN) {
            return None;
        }
        let seconds = |ms: i64| (ms / 1000).to_string();
        let crossing = said.likely_ms.map(seconds).unwrap_or_default();
        let (early, late) = match said.state {
            Answer::Warning { earliest_ms, latest_ms, .. } => (seconds(earliest_ms), seconds(latest_ms)),
            Answer::Breached | Answer::Stable | Answer::NoForecast { .. } => Default::default(),
        };
        let (at, warn, probability) = (tick_ms / 1000, u8::from(said.warned), said.probability);
        Some(format!("{},{at},{warn},{crossing},{probability:.3},{early},{late}\n", task.id))
    }
}

/// The ticks of a recording, each with the samples since the one before.
pub fn ticks(points: &[(i64, f64)]) -> impl Iterator<Item = (i64, &[(i64, f64)])> {
    let first = points.first().map_or(0, |p| p.0 + (TICK_MS - p.0.rem_euclid(TICK_MS)) % TICK_MS);
    let end = points.last().map_or(i64::MIN, |p| p.0);
    let mut rest = points;
    (first..=end).step_by(TICK_MS as usize).map(move |tick| {
        let (new, later) = rest.split_at(rest.partition_point(|p| p.0 <= tick));
        rest = later;
        (tick, new)
    })
}

/// Replays one series, in time order, and returns its rows.
///
/// # Errors
/// If `cancel` turned true.
pub fn replay(points: &[(i64, f64)], task: &Task, model: &Model, cancel: &AtomicBool) -> Result<String> {
    if let (Some(first), Some(end)) = (points.first(), points.last())
        && end.0 - first.0 > SPAN_MS_MAX
    {
        bail!("task {}: the first and the last sample are more than fifty years apart; mend the timestamps", task.id);
    }
    let (mut replay, mut rows) = (Replay::new(task, model), String::new());
    for (tick, new) in ticks(points) {
        if cancel.load(Ordering::Relaxed) {
            bail!("cancelled");
        }
        rows.extend(replay.tick(new, tick));
    }
    Ok(rows)
}

/// Forecast one recorded series as of its last sample.
#[derive(Clone, Debug, clap::Args)]
pub struct ForecastArgs {
    /// CSV with lines `time,value`; time is unix seconds or milliseconds, or RFC 3339.
    pub file: PathBuf,
    /// The level that must not be reached, in the file's unit.
    #[arg(long, allow_negative_numbers = true)]
    pub threshold: f64,
    /// How far ahead to look, such as 90m, 4h or 1d.
    #[arg(long, default_value = "4h", value_parser = parse_span_ms)]
    pub horizon: i64,
    /// Write the plot as SVG to this file.
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// Print the answer as JSON instead.
    #[arg(long)]
    pub json: bool,
    /// Settings of the forecast: a JSON file, or the id of a trained model of this site (with
    /// `--config` or `--data-dir`); the defaults if left out.
    #[arg(long)]
    pub model: Option<String>,
    /// Bucket length, such as 5m or 10s; five minutes if left out.
    #[arg(long, value_parser = parse_span_ms)]
    pub step: Option<i64>,
}

/// Reads `90m`, `4h`, `1d`, `300s` as milliseconds.
fn parse_span_ms(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text} has no unit; write 300s, 90m, 4h or 1d")),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n <= 10_000.0 => Ok((n * unit_ms as f64).round().max(1.0) as i64),
        _ => Err(format!("{text} is not a length of time; write 300s, 90m, 4h or 1d")),
    }
}

/// Runs `forecast`: the answer as of the last sample, in words, with its reasons and as a plot.
///
/// # Errors
/// If the file cannot be read or the plot cannot be written.
pub fn forecast_file(args: &ForecastArgs, model: &Model, out: &mut impl Write) -> Result<()> {
    let found = file::read_recording(&args.file)?;
    let Some(now_ms) = found.points.iter().rev().find(|point| point.1.is_finite()).map(|point| point.0) else {
        bail!("{} holds no value; give a file with lines like 1700000000,42.5", args.file.display());
    };
    let model = Model { step_ms: args.step.unwrap_or(model.step_ms), close_after_ms: 0, ..model.clone() };
    let (state, said) = forecast::assess(&found.points, args.threshold, args.horizon, now_ms, &model);
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    // As much of the past as leaves the horizon visible.
    let seen_from = now_ms.saturating_sub(args.horizon.saturating_mul(plot::PAST_HORIZONS).max(24 * model.step_ms));
    let past = &found.points[found.points.partition_point(|point| point.0 < seen_from)..];
    let past = &past[..past.partition_point(|point| point.0 <= now_ms)];
    let picture = plot::Picture { title: &name, past, said: &said, then: &[] };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&said)?)?;
    } else {
        writeln!(out, "{}", plot::sentence(&said))?;
        for (index, because) in plot::because(&said).iter().enumerate() {
            writeln!(out, "{} {because}", if index == 0 { "because" } else { "    and" })?;
        }
        for note in notes(&found, args.threshold, &said.state, state.left_out()) {
            writeln!(out, "note: {note}")?;
        }
        writeln!(out)?;
        write!(out, "{}", plot::text(&picture))?;
    }
    if let Some(path) = &args.plot {
        file::write_whole(path, [plot::svg(&picture).as_str()]).context("the plot")?;
    }
    Ok(())
}

/// What a person should know of the file before believing the answer.
fn notes(found: &file::Recording, threshold: f64, answer: &Answer, left_out: u64) -> Vec<String> {
    let mut notes = Vec::new();
    let count = |n: usize| if n == 1 { "1 sample".to_owned() } else { format!("{n} samples") };
    if found.missing > 0 {
        notes.push(format!("{} without a number: treated as missing, not as zero", count(found.missing)));
    }
    if found.backward > 0 {
        notes.push(format!("{} stood before an earlier one: put in order of time", count(found.backward)));
    }
    if found.repeated > 0 {
        notes.push(format!("{} at a time that another one has: averaged", count(found.repeated)));
    }
    let unusable = left_out.saturating_sub(found.missing as u64);
    if unusable > 0 {
        notes.push(format!("{} left out as no measurement or too far from the others", count(unusable as usize)));
    }
    if let (Answer::NoForecast { .. }, [.., before, last]) = (answer, found.points.as_slice())
        && last.0 - before.0 > LONELY_MS
    {
        let apart = plot::span(last.0 - before.0);
        notes.push(format!("the newest sample is {apart} after the one before it; is its time right?"));
    }
    let values = found.points.iter().map(|point| point.1).filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let far_below = threshold > 0.0 && threshold <= 1.0 && low > 1.0;
    let far_above = threshold > 1.0 && high > 0.0 && threshold > 20.0 * high;
    if !matches!(answer, Answer::NoForecast { .. }) && (far_below || far_above) {
        notes.push(format!(
            "the values run from {} to {}; is the threshold {threshold} in their unit?",
            plot::number(low),
            plot::number(high)
        ));
    }
    notes
}

/// The settings in a file.
///
/// # Errors
/// It cannot be read, is not understood, or has a setting out of range.
pub fn read_model(path: &Path) -> Result<Model> {
    let text = file::read_text("model", path)?;
    let model: Model =
        serde_json::from_str(&text).with_context(|| format!("model {} is not understood", path.display()))?;
    model.check().with_context(|| format!("model {}", path.display()))?;
    Ok(model)
}
