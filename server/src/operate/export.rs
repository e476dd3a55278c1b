//! Series for analysts: a row a point, as CSV or Parquet, day by day, so that the span may be long.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use forewarn_common::id::EntityId;

use super::OperateError;
use super::parquet_file::ParquetFile;
use crate::model::host::Host;
use crate::store::{Store, StoreError, Wanted};

/// Read at once of fine points: an hour of a host with a hundred series at a second is 360,000.
const FINE_SLICE_MS: i64 = 3_600_000;
/// Read at once of points a minute or more apart.
const COARSE_SLICE_MS: i64 = 86_400_000;
/// Without `--from`.
const DEFAULT_SPAN_MS: i64 = 86_400_000;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text with a header line.
    Csv,
    /// Columns, for DuckDB, pandas, Spark and their like.
    Parquet,
}

/// `export`
#[derive(Args)]
pub struct ExportArgs {
    /// The file to write; it must not exist.
    #[arg(long)]
    to: PathBuf,
    /// How.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Name or id of a host; may be given several times. Without it: all.
    #[arg(long)]
    host: Vec<String>,
    /// Name of a metric; may be given several times. Without it: all.
    #[arg(long)]
    metric: Vec<String>,
    /// First moment, such as 2026-01-31T08:00:00+08:00 or unix milliseconds. Without it: a day before --until.
    #[arg(long, value_parser = moment)]
    from: Option<i64>,
    /// The moment after the last. Without it: now.
    #[arg(long, value_parser = moment)]
    until: Option<i64>,
    /// Milliseconds between points (the mean of a gauge, the sum of an increment); 0: as stored.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(i64).range(0..=86_400_000))]
    step_ms: i64,
}

fn moment(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let parsed = text.parse::<jiff::Timestamp>();
    parsed
        .map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "give a time with its zone, such as 2026-01-31T08:00:00Z, or unix milliseconds".to_owned())
}

/// Points of one slice of one host.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) at_ms: Vec<i64>,
    pub(super) host: Vec<Arc<str>>,
    pub(super) entity: Vec<Arc<str>>,
    pub(super) metric: Vec<Arc<str>>,
    pub(super) instance: Vec<Arc<str>>,
    pub(super) value: Vec<f64>,
}

enum Sink {
    Csv(BufWriter<File>),
    Parquet(Box<ParquetFile<BufWriter<File>>>),
}

/// Writes the points and returns how many.
///
/// # Errors
/// The file exists or cannot be written, a host is not known, or the database does not answer.
pub async fn export(store: &Store, args: &ExportArgs, now_ms: i64, say: &dyn Fn(&str)) -> Result<u64, OperateError> {
    let until_ms = args.until.unwrap_or(now_ms);
    let from_ms = args.from.unwrap_or(until_ms - DEFAULT_SPAN_MS);
    let hosts = chosen(store.hosts().await?, &args.host)?;
    let failed =
        |error| OperateError::File { path: args.to.clone(), error, advice: "give a new file on a disk with room" };
    let file = File::options().write(true).create_new(true).open(&args.to).map_err(failed)?;
    let mut sink = Sink::new(args.format, BufWriter::new(file)).map_err(failed)?;
    // Slices begin at whole steps, so that no bucket is cut in two.
    let slice_ms = if args.step_ms < 60_000 { FINE_SLICE_MS } else { COARSE_SLICE_MS };
    let slice_ms = if args.step_ms == 0 { slice_ms } else { slice_ms / args.step_ms * args.step_ms };
    let mut points = 0;
    for host in hosts {
        let names: HashMap<EntityId, String> = store
            .entities(Some(host.id))
            .await?
            .into_iter()
            .map(|known| (known.entity.id, known.entity.name))
            .collect();
        let mut slice_from = from_ms;
        while slice_from < until_ms {
            let slice_until = (slice_from.div_euclid(slice_ms) * slice_ms + slice_ms).min(until_ms);
            let wanted = if args.metric.is_empty() { Wanted::All } else { Wanted::Metrics(args.metric.clone()) };
            let read = store.read(host.id, wanted, slice_from, slice_until, args.step_ms).await?;
            for text in read.damaged {
                say(&format!("damaged, passed over: {text}"));
            }
            let mut rows = Rows::default();
            for series in read.series {
                let key = series.info.key;
                let entity = names.get(&key.entity).map_or(host.name.as_str(), String::as_str);
                let count = series.points.len();
                for (column, text) in [
                    (&mut rows.host, host.name.as_str()),
                    (&mut rows.entity, entity),
                    (&mut rows.metric, key.metric.as_str()),
                    (&mut rows.instance, key.instance.as_str()),
                ] {
                    column.extend(std::iter::repeat_n(Arc::<str>::from(text), count));
                }
                rows.at_ms.extend(series.points.iter().map(|point| point.0));
                rows.value.extend(series.points.iter().map(|point| point.1));
            }
            points += rows.at_ms.len() as u64;
            sink.write(&rows).map_err(failed)?;
            slice_from = slice_until;
        }
    }
    sink.finish().and_then(|file| file.sync_all()).map_err(failed)?;
    Ok(points)
}

fn chosen(hosts: Vec<Host>, wanted: &[String]) -> Result<Vec<Host>, OperateError> {
    if let Some(unknown) =
        wanted.iter().find(|wanted| !hosts.iter().any(|host| host.name == **wanted || host.id.to_string() == **wanted))
    {
        return Err(StoreError::Refused(format!("no host has the name or id {unknown:?}")).into());
    }
    let is_wanted =
        |host: &Host| wanted.is_empty() || wanted.contains(&host.name) || wanted.contains(&host.id.to_string());
    Ok(hosts.into_iter().filter(is_wanted).collect())
}

impl Sink {
    fn new(format: Format, mut file: BufWriter<File>) -> std::io::Result<Self> {
        match format {
            Format::Csv => {
                file.write_all(b"time,time_ms,host,entity,metric,instance,value\n")?;
                Ok(Self::Csv(file))
            }
            Format::Parquet => ParquetFile::new(file).map(Box::new).map(Self::Parquet),
        }
    }

    fn write(&mut self, rows: &Rows) -> std::io::Result<()> {
        match self {
            Self::Csv(file) => {
                for (i, at_ms) in rows.at_ms.iter().enumerate() {
                    let time = jiff::Timestamp::from_millisecond(*at_ms).unwrap_or_default();
                    let (host, entity) = (quoted(&rows.host[i]), quoted(&rows.entity[i]));
                    let (metric, instance) = (quoted(&rows.metric[i]), quoted(&rows.instance[i]));
                    writeln!(file, "{time:.3},{at_ms},{host},{entity},{metric},{instance},{}", rows.value[i])?;
                }
                Ok(())
            }
            Self::Parquet(file) => file.write(rows),
        }
    }

    fn finish(self) -> std::io::Result<File> {
        let buffer = match self {
            Self::Csv(file) => file,
            Self::Parquet(file) => file.finish()?,
        };
        buffer.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

/// As RFC 4180 wants it. A spreadsheet takes a field that begins with one of `=+-@` for a formula: names come from hosts
/// and are not to be trusted, so an apostrophe goes before.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !text.contains(['"', ',', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_never_formulas() {
        assert_eq!(quoted("/data"), "/data");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("=HYPERLINK(1)"), "\"'=HYPERLINK(1)\"");
    }

    #[test]
    fn moments_are_told_with_a_zone_or_as_milliseconds() {
        assert_eq!(moment("1767225600000"), Ok(1_767_225_600_000));
        assert_eq!(moment("2026-01-01T08:00:00+08:00"), Ok(1_767_225_600_000));
        assert!(moment("yesterday").is_err());
    }
}
