//! Everything the command line prints: the page of `check`, the table of `once`, the error that ends the program.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the room of the command line's output")]

use std::time::Duration;

use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};

use crate::sampler::{Host, HostFacts, Row, hostname};
use crate::settings::Settings;

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

/// Says in one page what the agent can see and what is missing.
pub(crate) async fn check(settings: &Settings) {
    let facts = HostFacts::read(&settings.host_root);
    println!("{facts:?}");
}
