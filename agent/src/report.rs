//! Everything the command line prints: the page of `check`, the table of `once`, the error that ends the program.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the room of the command line's output")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use forewarn_common::block::RawBlock;
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};

use crate::sampler::{Host, HostFacts, Row, hostname};
use crate::settings::Settings;
use crate::spool::Key;

/// Time between the two readings of `once`: rates need a span.
const ONCE_SPAN: Duration = Duration::from_millis(1000);

/// Shows the error that ends the program.
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("forewarn-agent: {error:#}");
}

/// Shows a line.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Takes one sample and shows it as a table or as JSON.
///
/// # Errors
/// The sample cannot be written as JSON.
pub(crate) async fn once(settings: &Settings, as_json: bool, at_ms: i64) -> anyhow::Result<()> {
    let mut host = Host::new(EntityId::of_host(HostId([0; 16])), &settings.host_root);
    let mut rows = Vec::new();
    host.sample(clock::boot_ms(), &mut rows);
    tokio::time::sleep(ONCE_SPAN).await;
    rows.clear();
    host.sample(clock::boot_ms(), &mut rows);
    let name = hostname(&settings.host_root);
    if as_json {
        let series: Vec<_> = rows.iter().flat_map(|row| describe(row, &name)).collect();
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "at_ms": at_ms, "series": series }))?);
    } else {
        for row in &rows {
            for (metric, value) in row.shape.layout.metrics.iter().zip(&row.values) {
                println!("{name:<24} {:<26} {:<20} {:>18}", metric.name, metric.instance, value);
            }
        }
    }
    Ok(())
}

fn describe<'a>(row: &'a Row, name: &'a str) -> impl Iterator<Item = serde_json::Value> + 'a {
    row.shape.layout.metrics.iter().zip(&row.values).map(move |(metric, value)| {
        serde_json::json!({
            "entity": name, "metric": metric.name, "instance": metric.instance,
            "value": if value.is_nan() { None } else { Some(value) },
        })
    })
}

/// Lists the blocks that wait for a server.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn spool(folder: &Path) -> anyhow::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read spool folder {}", folder.display()))?
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(Key::parse).is_some())
        .map(|entry| entry.path())
        .collect();
    names.sort();
    for path in &names {
        println!("{}", path.display());
    }
    println!("{} blocks wait", names.len());
    Ok(())
}

/// Shows what is in blocks; a layout or an entity that one brings is known in the next.
///
/// # Errors
/// A file cannot be read or is no block.
pub(crate) fn blocks(files: &[PathBuf]) -> anyhow::Result<()> {
    let (mut layouts, mut names) = (HashMap::new(), HashMap::new());
    for path in files {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let raw = RawBlock::parse(&bytes).with_context(|| path.display().to_string())?;
        for layout in raw.dictionary()?.layouts {
            layouts.insert(layout.id(), layout);
        }
        names.extend(raw.dictionary()?.entities.into_iter().map(|entity| (entity.id, entity.name)));
        let name = |id: &EntityId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
        let (groups, unknown) = raw.groups(|id| layouts.get(&id).cloned())?;
        let header = raw.header;
        println!(
            "block {:016x}/{} from {} ms, {} ticks of {} ms, {} bytes, {unknown} groups of unknown layout",
            header.epoch, header.seq, header.start_ms, header.ticks, header.step_ms, bytes.len()
        );
        for group in &groups {
            let Some(layout) = layouts.get(&group.layout) else { continue };
            let ticks: Vec<u16> = group.ticks.iter().collect();
            for (metric, column) in layout.metrics.iter().zip(&group.columns) {
                let entity = name(&group.entity);
                println!("  {entity:<20} {:<26} {:<18} {ticks:?} {column:?}", metric.name, metric.instance);
            }
        }
        let urgent = raw.urgent()?;
        for event in &urgent.events {
            println!("  event {} {:?} {} at {} ms {}", name(&event.entity), event.kind, event.code, event.at_ms, event.detail);
        }
        for hit in &urgent.hits {
            println!("  hit {} {} {:?} {} times", name(&hit.entity), hit.rule, hit.severity, hit.count);
            for sample in &hit.samples {
                println!("    before {:?}\n    line {:?}\n    after {:?}", sample.before, sample.line, sample.after);
            }
        }
    }
    Ok(())
}

/// Says in one page what the agent can see and what is missing.
pub(crate) async fn check(settings: &Settings) {
    let facts = HostFacts::read(&settings.host_root);
    println!("{facts:?}");
}
