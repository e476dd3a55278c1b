//! The command line's view of the forecast: replays files through the same step function that
//! judges live series, and writes what it would have said. Files in, files out; no judgement here.

pub mod plot;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::forecast::{self, Model, State};
use crate::model::forecast::State as Answer;

/// Distance of the moments at which decisions are written.
const TICK_MS: i64 = 300_000;
/// Probabilities below this are not worth a row.
const PROBABILITY_MIN: f64 = 0.02;

/// Replay a manifest of recorded series and write every decision.
#[derive(Clone, Debug, clap::Args)]
pub struct BacktestArgs {
    /// Manifest: JSON with `series[]`, each with file, threshold and horizon.
    #[arg(long)]
    pub manifest: PathBuf,
    /// Where the decisions go, as CSV.
    #[arg(long)]
    pub out: PathBuf,
    /// Settings of the forecast as JSON; the defaults if left out.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Threads; all cores if left out.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    series: Vec<Task>,
}

#[derive(Debug, Deserialize)]
struct Task {
    id: String,
    file: String,
    threshold: f64,
    horizon_s: i64,
    eval_start: i64,
}

/// Runs `backtest`.
///
/// # Errors
/// If a file cannot be read or written, or the manifest is not understood.
pub fn backtest(args: &BacktestArgs) -> Result<()> {
    let text = std::fs::read_to_string(&args.manifest)
        .with_context(|| format!("cannot read manifest {}", args.manifest.display()))?;
    let manifest: Manifest = serde_json::from_str(&text).context("manifest is not understood")?;
    let base = args.manifest.parent().unwrap_or(Path::new(".")).to_path_buf();
    let mut model = read_model(args.model.as_deref())?;
    // The samples of a recording are all there: nothing more will come for a bucket.
    model.close_after_ms = 0;
    model.band_points = 0;
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<String>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = manifest.series.get(index) else {
                        return;
                    };
                    let rows = replay(&base, task, &model);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    show_progress(done, manifest.series.len());
                    if let Ok(mut all) = results.lock() {
                        all.push((index, rows));
                    }
                }
            });
        }
    });
    let Ok(mut results) = results.into_inner() else { bail!("a replay thread failed") };
    results.sort_by_key(|r| r.0);
    let mut out = BufWriter::new(File::create(&args.out)?);
    writeln!(out, "series_id,timestamp,warn,crossing_at,probability,earliest_at,latest_at")?;
    for (_, rows) in results {
        out.write_all(rows?.as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// A line on the terminal while a replay runs; nothing where nobody looks.
fn show_progress(done: usize, all: usize) {
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

/// Reads `timestamp,value` lines (unix seconds) after a header.
fn read_points(path: &Path) -> Result<Vec<(i64, f64)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read series {}", path.display()))?;
    let mut points = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        if line.trim().is_empty() {
            continue;
        }
        let mut cells = line.split(',');
        let (Some(t), Some(v)) = (cells.next(), cells.next()) else {
            bail!("{} line {}: want timestamp,value", path.display(), number + 1);
        };
        let t: f64 = t.trim().parse().with_context(|| format!("line {}", number + 1))?;
        let v: f64 = v.trim().parse().unwrap_or(f64::NAN);
        points.push(((t * 1000.0).round() as i64, v));
    }
    Ok(points)
}

fn replay(base: &Path, task: &Task, model: &Model) -> Result<String> {
    let points = read_points(&base.join(&task.file))?;
    let mut rows = String::new();
    let (Some(first), Some(end)) = (points.first(), points.last()) else {
        return Ok(rows);
    };
    let horizon_ms = task.horizon_s * 1000;
    let mut state = State::new(horizon_ms, model);
    let ceil = |t: i64| t.div_euclid(TICK_MS) * TICK_MS + if t.rem_euclid(TICK_MS) > 0 { TICK_MS } else { 0 };
    let mut tick = ceil(first.0);
    let judged_from = ceil(task.eval_start * 1000);
    let mut taken = 0;
    while tick <= end.0 {
        let upto = taken + points[taken..].partition_point(|p| p.0 <= tick);
        let (next, said) = forecast::step(state, &points[taken..upto], task.threshold, horizon_ms, tick, model);
        state = next;
        taken = upto;
        let warn = said.warned;
        if tick >= judged_from && (warn || said.probability >= PROBABILITY_MIN) {
            use std::fmt::Write as _;
            let crossing = said.likely_ms.map(|t| (t / 1000).to_string()).unwrap_or_default();
            let (early, late) = match said.state {
                Answer::Warning { earliest_ms, latest_ms, .. } => {
                    ((earliest_ms / 1000).to_string(), (latest_ms / 1000).to_string())
                }
                Answer::Breached | Answer::Stable | Answer::NoForecast { .. } => Default::default(),
            };
            writeln!(
                rows,
                "{},{},{},{crossing},{:.3},{early},{late}",
                task.id,
                tick / 1000,
                u8::from(warn),
                said.probability
            )?;
        }
        tick += TICK_MS;
    }
    Ok(rows)
}

/// Forecast one recorded series as of its last sample.
#[derive(Clone, Debug, clap::Args)]
pub struct ForecastArgs {
    /// CSV with a header and lines `timestamp,value` (unix seconds).
    pub file: PathBuf,
    /// The level that must not be reached.
    #[arg(long)]
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
    /// Settings of the forecast as JSON; the defaults if left out.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Bucket length, such as 5m or 10s.
    #[arg(long, default_value = "5m", value_parser = parse_span_ms)]
    pub step: i64,
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
    match number.parse::<i64>() {
        Ok(n) if (1..=10_000).contains(&n) => Ok(n * unit_ms),
        _ => Err(format!("{text} is not a length of time; write 300s, 90m, 4h or 1d")),
    }
}

/// Runs `forecast`: the answer as of the last sample, in words, as a plot, and with its reasons.
///
/// # Errors
/// If the file cannot be read or the plot cannot be written.
pub fn forecast_file(args: &ForecastArgs, out: &mut impl Write) -> Result<()> {
    let mut points = read_points(&args.file)?;
    points.sort_by_key(|p| p.0);
    let Some(now_ms) = points.last().map(|p| p.0) else {
        bail!("{} holds no sample; give a file with lines timestamp,value", args.file.display());
    };
    let model = Model { step_ms: args.step, close_after_ms: 0, ..read_model(args.model.as_deref())? };
    let (_, said) = forecast::assess(&points, args.threshold, args.horizon, now_ms, &model);
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let picture = plot::Picture { title: &name, past: &points, said: &said, then: &[] };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&said)?)?;
    } else {
        writeln!(out, "{}", plot::sentence(&said))?;
        for because in &said.reasons {
            writeln!(out, "  {}", serde_json::to_string(because)?)?;
        }
        write!(out, "{}", plot::text(&picture))?;
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&picture)).with_context(|| format!("cannot write plot {}", path.display()))?;
    }
    Ok(())
}

/// The settings in a file, or the defaults.
fn read_model(path: Option<&Path>) -> Result<Model> {
    let Some(path) = path else {
        return Ok(Model::default());
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read model {}", path.display()))?;
    let model: Model =
        serde_json::from_str(&text).with_context(|| format!("model {} is not understood", path.display()))?;
    model.check().with_context(|| format!("model {}", path.display()))?;
    Ok(model)
}
