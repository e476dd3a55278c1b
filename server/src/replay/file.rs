//! Files of the command line: recorded series, manifests of tasks, tables of decisions. Forgiving
//! where a spreadsheet or an exporter would differ, strict where a guess could turn into a forecast.
//! No judgement.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::forecast::score::{Decision, Question};

/// A larger file is refused: 10 million samples are about 200 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Seconds beyond this are taken as milliseconds: the year 5138.
const SECONDS_MAX: f64 = 1e11;
/// Times beyond this are no unix time at all: the year 9999, in milliseconds.
const TIME_MS_MAX: f64 = 253_402_300_800_000.0;
/// What exporters write for "no value".
const NO_VALUE: [&str; 7] = ["", "nan", "null", "none", "na", "n/a", "-"];

/// A recorded series as it stood in its file.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Samples in time order; a missing value is `NaN`.
    pub points: Vec<(i64, f64)>,
    /// Samples without a usable number.
    pub missing: usize,
    /// Samples that stood before an earlier one.
    pub backward: usize,
    /// Samples at a time that another one has, too.
    pub repeated: usize,
}

/// Tasks to replay.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// The tasks.
    pub series: Vec<Task>,
}

/// A recorded series with a threshold.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    /// Name of the task.
    pub id: String,
    /// Name of the series; several tasks may share one.
    #[serde(default)]
    pub series: String,
    /// File, relative to the manifest.
    pub file: String,
    /// Kind of resource.
    #[serde(default)]
    pub kind: String,
    /// Recorded or made up.
    #[serde(default)]
    pub group: String,
    /// Usual distance of samples.
    #[serde(default = "five_minutes")]
    pub interval_s: i64,
    /// The level that must not be reached.
    pub threshold: f64,
    /// How far ahead to look.
    pub horizon_s: i64,
    /// Decisions before this are not written.
    pub eval_start: i64,
    /// As in [`Question`]; by the horizon if left out.
    pub min_lead_s: Option<i64>,
    /// As in [`Question`]; by the horizon if left out.
    pub recovery_s: Option<i64>,
    /// As in [`Question`]; by the horizon if left out.
    pub end_slack_s: Option<i64>,
}

fn five_minutes() -> i64 {
    300
}

impl Task {
    /// What the task is judged by.
    #[must_use]
    pub fn question(&self) -> Question {
        let usual =
            Question::new(self.threshold, self.horizon_s * 1000, self.interval_s * 1000, self.eval_start * 1000);
        let or = |given_s: Option<i64>, usual_ms| given_s.map_or(usual_ms, |s| s * 1000);
        Question {
            min_lead_ms: or(self.min_lead_s, usual.min_lead_ms),
            recovery_ms: or(self.recovery_s, usual.recovery_ms),
            end_slack_ms: or(self.end_slack_s, usual.end_slack_ms),
            ..usual
        }
    }

    fn check(&self) -> Result<()> {
        let year_s = 366 * 86_400;
        ensure!((1..=year_s).contains(&self.horizon_s), "task {}: horizon_s must be 1 to {year_s}", self.id);
        ensure!((1..=year_s).contains(&self.interval_s), "task {}: interval_s must be 1 to {year_s}", self.id);
        ensure!(self.eval_start.unsigned_abs() < SECONDS_MAX as u64, "task {}: eval_start is no unix time", self.id);
        ensure!(
            !self.id.contains([',', '\n', '\r', '"']),
            "task {:?}: an id must have no comma, quote or line end",
            self.id
        );
        Ok(())
    }
}

/// Reads a text file within the limit.
///
/// # Errors
/// It cannot be read, is too large or is not text.
pub fn read_text(what: &str, path: &Path) -> Result<String> {
    let about = || format!("cannot read {what} {}", path.display());
    let file = std::fs::File::open(path).with_context(about)?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.with_context(about)?;
    ensure!(text.len() as u64 <= FILE_BYTES_MAX, "{what} {} is larger than 1 GiB; give a part of it", path.display());
    Ok(text)
}

/// Reads a manifest and says where its files are.
///
/// # Errors
/// It cannot be read or is not understood.
pub fn read_manifest(path: &Path) -> Result<(Manifest, PathBuf)> {
    let text = read_text("manifest", path)?;
    let manifest: Manifest =
        serde_json::from_str(&text).with_context(|| format!("manifest {} is not understood", path.display()))?;
    manifest.series.iter().try_for_each(Task::check)?;
    Ok((manifest, path.parent().unwrap_or(Path::new(".")).to_path_buf()))
}

/// Reads a series: lines `time,value`, separated by comma, semicolon or tab, with or without a
/// header. Time is unix seconds or milliseconds, RFC 3339, or a date and time without a zone.
///
/// # Errors
/// The file cannot be read, or a line is not understood; the message names the line.
pub fn read_recording(path: &Path) -> Result<Recording> {
    parse_recording(&read_text("series", path)?).with_context(|| format!("series {}", path.display()))
}

fn parse_recording(text: &str) -> Result<Recording> {
    let mut found = Recording::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut cells = line.split([',', ';', '\t']).map(|cell| cell.trim().trim_matches('"').trim());
        let (time, value) = (cells.next().unwrap_or_default(), cells.next());
        let (t_ms, value) = match (parse_time(time), value) {
            (Some(t_ms), Some(value)) => (t_ms, value),
            // The first line may be a header.
            _ if index == 0 && time.parse::<f64>().is_err() => continue,
            _ => bail!(
                "line {}: {:?} is not a sample; want a line like 1700000000,42.5 (unix seconds, value) or \
                 2026-01-31 14:05:00,42.5",
                index + 1,
                shortened(line)
            ),
        };
        let value = if NO_VALUE.contains(&value.to_ascii_lowercase().as_str()) {
            f64::NAN
        } else {
            let number = value.strip_suffix('%').map_or(value, str::trim_end);
            number
                .parse()
                .map_err(|_| anyhow::anyhow!("line {}: value {:?} is not a number", index + 1, shortened(value)))?
        };
        found.missing += usize::from(!value.is_finite());
        if let Some(before) = found.points.last() {
            found.backward += usize::from(t_ms < before.0);
        }
        found.points.push((t_ms, value));
    }
    found.points.sort_by_key(|point| point.0);
    found.repeated = found.points.windows(2).filter(|pair| pair[0].0 == pair[1].0).count();
    Ok(found)
}

fn parse_time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        let ms = if number.abs() < SECONDS_MAX { number * 1000.0 } else { number };
        return (ms.abs() <= TIME_MS_MAX).then(|| ms.round() as i64);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    // Without a zone, as spreadsheets write it: only distances and the time of day count.
    let time: jiff::civil::DateTime = text.parse().ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Reads a table of decisions, as `backtest` writes it, by task.
///
/// # Errors
/// It cannot be read, or a line is not understood.
pub fn read_decisions(path: &Path) -> Result<HashMap<String, Vec<Decision>>> {
    let text = read_text("decisions", path)?;
    let mut all: HashMap<String, Vec<Decision>> = HashMap::new();
    for (index, line) in text.lines().enumerate().skip(1) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |i: usize| cells.get(i).and_then(|cell| cell.parse::<f64>().ok());
        let (Some(at_s), Some(warn)) = (number(1), number(2)) else {
            bail!("decisions {} line {}: want series_id,timestamp,warn", path.display(), index + 1);
        };
        let ms = |s: f64| (s * 1000.0) as i64;
        let likely_ms = number(3).filter(|s| *s > 0.0).map(ms);
        let decision = Decision { at_ms: ms(at_s), warned: warn != 0.0, likely_ms, probability: number(4) };
        all.entry(cells[0].to_owned()).or_default().push(decision);
    }
    for decisions in all.values_mut() {
        decisions.sort_by_key(|decision| decision.at_ms);
    }
    Ok(all)
}

/// Writes a file as a whole or not at all: what was written of it before an error is removed.
///
/// # Errors
/// It cannot be written; nothing is left behind.
pub fn write_whole<'a>(path: &Path, parts: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut name = path.file_name().context("the output must be a file")?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(&part)?);
        for text in parts {
            out.write_all(text.as_bytes())?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, path)
    };
    let written = write();
    if written.is_err() {
        // It may not even have been created.
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn spreadsheets_and_exporters_are_understood() {
        let said = |text: &str| parse_recording(text).unwrap().points;
        assert_eq!(said("timestamp,value\n10,1.5\n20,2\n"), [(10_000, 1.5), (20_000, 2.0)]);
        assert_eq!(said("10,1.5\r\n20,2"), [(10_000, 1.5), (20_000, 2.0)]);
        assert_eq!(said("\u{feff}t;v\n\"1700000000000\";\"87 %\"\n"), [(1_700_000_000_000, 87.0)]);
        assert_eq!(said("2023-11-14T22:13:20Z\t5,more\n"), [(1_700_000_000_000, 5.0)]);
        assert_eq!(said("time,v\n2023-11-14 22:13:20,5\n"), [(1_700_000_000_000, 5.0)]);
        assert!(said("").is_empty() && said("timestamp,value\n").is_empty());
    }

    #[test]
    fn missing_backward_and_repeated_samples_are_counted() {
        let found = parse_recording("t,v\n30,1\n10,\n10,NaN\n20,inf\n").unwrap();
        assert_eq!((found.points.len(), found.missing, found.backward, found.repeated), (4, 3, 1, 1));
        assert!(found.points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn nonsense_is_named_by_its_line() {
        let said = |text: &str| format!("{:#}", parse_recording(text).unwrap_err());
        assert!(said("t,v\n10,1\n20,many\n").contains("line 3"), "{}", said("t,v\n10,1\n20,many\n"));
        assert!(said("t,v\nyesterday,1\n").contains("line 2"));
        assert!(said("t,v\n10\n").contains("line 2"));
        assert!(said("t,v\n1e300,1\n").contains("line 2"));
    }
}
