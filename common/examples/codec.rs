//! Compares codecs on a recorded series: `cargo run --release -p forewarn-common --example codec -- FILE.csv [EVERY]`.
//!
//! The file has a header line, a time in its first column and a series in each other one. Every EVERYth line is taken
//! (10 by default: a recording at one second becomes one at ten). A column that never falls is a counter and becomes
//! increments, as the agent makes them; fractions keep two decimals, gauges over a million are rounded to ten
//! thousands, as the catalogue rounds memory. Prints bytes a sample of the samples section (values, tick bitmap and
//! group head), and of the whole block with its header and an empty urgent section.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::error::Error;
use std::time::Instant;

use forewarn_common::block::{Block, Dictionary, Group, Header, Layout, Metric, Ticks, Urgent, scale};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{Kind, Unit};
use pco::ChunkConfig;
use pco::standalone::simple_compress;

/// Bytes before the section table, and of one of its lines (see docs/block-format.md).
const FIXED_BYTES: usize = 86;
const SECTION_BYTES: usize = 14;

struct Series {
    metric: Metric,
    values: Vec<f64>,
}

fn load(path: &str, every: usize) -> Result<Vec<Series>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().ok_or("the file is empty")?.split(',').skip(1).collect();
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for line in lines.step_by(every) {
        let cells = line.split(',').skip(1);
        columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell.parse().unwrap_or(f64::NAN)));
    }
    let series = names.iter().zip(columns).map(|(name, column)| {
        let counter = column.is_sorted() && column.first() != column.last();
        let whole = column.iter().all(|value| value.is_nan() || value.fract() == 0.0);
        let large = column.iter().any(|value| *value > 1e6);
        let (kind, decimals, values) = match (counter, whole, large) {
            (true, ..) => (Kind::Increment, 0, column.windows(2).map(|pair| pair[1] - pair[0]).collect()),
            (false, true, true) => (Kind::Gauge, -4, column[1..].to_vec()),
            (false, true, false) => (Kind::Gauge, 0, column[1..].to_vec()),
            (false, false, _) => (Kind::Gauge, 2, column[1..].to_vec()),
        };
        let metric = Metric { name: (*name).to_owned(), instance: String::new(), kind, unit: Unit::Count, decimals };
        Series { metric, values }
    });
    Ok(series.collect())
}

/// The samples section of a block, decompressed, and the bytes of the whole block.
fn section(layout: &Layout, series: &[Series], from: usize, ticks: usize) -> Result<(Vec<u8>, usize), Box<dyn Error>> {
    let count = u16::try_from(ticks)?;
    let header = Header {
        host: HostId([1; 16]),
        epoch: 1,
        seq: 1,
        start_ms: 0,
        step_ms: 10_000,
        ticks: count,
        boot_id: [0; 16],
        boot_ms: 0,
        closed_ms: 0,
    };
    let columns = series.iter().map(|series| series.values[from..from + ticks].to_vec()).collect();
    let group = Group { entity: EntityId(1), layout: layout.id(), ticks: Ticks::all(count), columns };
    let block = Block { header, urgent: Urgent::default(), dictionary: Dictionary::default(), groups: vec![group] };
    let bytes = block.encode(|_| Some(layout))?;
    let sections = usize::from(bytes[5]);
    let mut at = FIXED_BYTES + sections * SECTION_BYTES + 4;
    for line in bytes[FIXED_BYTES..].chunks_exact(SECTION_BYTES).take(sections) {
        let number = |at: usize| u32::from_le_bytes([line[at], line[at + 1], line[at + 2], line[at + 3]]) as usize;
        let (raw, len) = (number(2), number(6));
        if line[0] == 3 {
            let body = &bytes[at..at + len];
            let raw = if line[1] == 0 { body.to_vec() } else { zstd::bulk::decompress(body, raw)? };
            return Ok((raw, bytes.len()));
        }
        at += len;
    }
    Err("the block has no samples section".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("say which CSV file to read")?;
    let every: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let series = load(&path, every)?;
    let points = series.first().map_or(0, |series| series.values.len());
    println!("{} series, {points} points each; bytes a sample:", series.len());
    println!("| ticks | delta+varint | +zstd 1 | +zstd 3 | +zstd 6 | pco a column | whole block v1 |");
    println!("|---|---|---|---|---|---|---|");
    let layout = Layout { metrics: series.iter().map(|series| series.metric.clone()).collect() };
    for ticks in [3, 6, 60, 360] {
        let (mut plain, mut block_bytes, mut packed, mut pco_bytes, mut samples) = (0, 0, [0; 3], 0, 0);
        for from in (0..points.saturating_sub(ticks) + 1).step_by(ticks) {
            let (raw, bytes) = section(&layout, &series, from, ticks)?;
            plain += raw.len();
            block_bytes += bytes;
            for (sum, level) in packed.iter_mut().zip([1, 3, 6]) {
                *sum += zstd::bulk::compress(&raw, level)?.len();
            }
            for one in &series {
                let column = &one.values[from..from + ticks];
                let scaled: Option<Vec<i64>> = column.iter().map(|value| scale(*value, one.metric.decimals)).collect();
                pco_bytes += match scaled {
                    Some(scaled) => simple_compress(&scaled, &ChunkConfig::default())?.len(),
                    None => simple_compress(column, &ChunkConfig::default())?.len(),
                };
            }
            samples += series.len() * ticks;
        }
        let each = |bytes: usize| bytes as f64 / samples as f64;
        println!(
            "| {ticks} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            each(plain),
            each(packed[0]),
            each(packed[1]),
            each(packed[2]),
            each(pco_bytes),
            each(block_bytes)
        );
    }
    println!("pco by level, columns of 360 points:");
    for level in [0, 2, 4, 6, 8, 12] {
        let config = ChunkConfig::default().with_compression_level(level);
        let (from, mut bytes, mut samples) = (Instant::now(), 0, 0);
        for one in &series {
            for column in one.values.chunks_exact(360) {
                let scaled =
                    column.iter().map(|value| scale(*value, one.metric.decimals)).collect::<Option<Vec<i64>>>();
                bytes += scaled
                    .map_or_else(|| simple_compress(column, &config), |scaled| simple_compress(&scaled, &config))?
                    .len();
                samples += column.len();
            }
        }
        let (each, million) = (bytes as f64 / samples as f64, samples as f64 / 1e6);
        println!("level {level}: {each:.3} bytes a sample, {:.2} M samples/s", million / from.elapsed().as_secs_f64());
    }
    Ok(())
}
