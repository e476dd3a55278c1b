//! Everything the command line prints: the page of `check`, the table of `once`, the error that ends the program.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the room of the command line's output")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use forewarn_common::block::{RawBlock, round};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{self, Unit};

use crate::agent::{engine_place, fetcher, host_name};
use crate::endpoint;
use crate::engine::{self, Instance, LogWay, Notice, Reach};
use crate::hostlog::HostLogs;
use crate::sampler::{Containers, Host, HostFacts, HostSize, Row};
use crate::scrape::Scrapes;
use crate::sender::{Identity, Link, SenderError};
use crate::settings::Settings;
use crate::spool;
use crate::tailer::{self, FirstLine, Tailer};
use crate::workload::{self, Workloads};

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
    let seen = Seen::now(settings).await;
    if as_json {
        let series: Vec<_> = seen.rows.iter().flat_map(|row| describe(row, seen.name(row.entity))).collect();
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "at_ms": at_ms, "series": series }))?);
        return Ok(());
    }
    println!("{:<28} {:<24} {:<24} {:>14}", "of", "metric", "instance", "value");
    for row in &seen.rows {
        for (metric, value) in row.shape.layout.metrics.iter().zip(&row.values) {
            let value = readable(round(*value, metric.decimals), metric.unit);
            println!("{:<28} {:<24} {:<24} {value:>14}", seen.name(row.entity), metric.name, metric.instance);
        }
    }
    println!("What is counted was counted for {} ms; - is not known.", ONCE_SPAN.as_millis());
    Ok(())
}

/// A value as people read it.
fn readable(value: f64, unit: Unit) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    match unit {
        Unit::Count => value.to_string(),
        Unit::Ratio => format!("{:.1} %", value * 100.0),
        Unit::Milliseconds if value >= 10_000.0 => format!("{:.0} s", value / 1000.0),
        Unit::Milliseconds => format!("{value} ms"),
        Unit::Bytes => {
            let scales = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
            let scale = scales.into_iter().find(|(bits, _)| value >= f64::from(1_u32 << bits));
            scale.map_or_else(
                || format!("{value} B"),
                |(bits, name)| format!("{:.1} {name}", value / f64::from(1_u32 << bits)),
            )
        }
    }
}

/// One sample of everything, with the names of what was sampled.
struct Seen {
    rows: Vec<Row>,
    names: HashMap<EntityId, String>,
    reach: Reach,
    instances: Vec<Instance>,
    cgroup_version: u8,
    sampled_containers: usize,
    scrapes: Scrapes,
    /// What was asked for and cannot be scraped.
    refused_endpoints: Vec<String>,
}

impl Seen {
    async fn now(settings: &Settings) -> Self {
        // No series leaves here: the names need to be right, the ids only to differ.
        let host_id = HostId([0; 16]);
        let entity = EntityId::of_host(host_id);
        let (reach, instances) = engine::look(&engine_place(settings)).await;
        let mut workloads = Workloads::new(host_id);
        let _ = workloads.apply(Notice::Synced(instances.clone()));
        let mut names: HashMap<_, _> = workloads.entities().map(|entity| (entity.id, entity.name)).collect();
        names.insert(entity, host_name(settings));
        names.extend(endpoint::entities(&settings.scrape, host_id).map(|entity| (entity.id, entity.name)));
        let (targets, mut refused_endpoints) = endpoint::targets(&settings.scrape, host_id, &workloads);
        let mut scrapes = Scrapes::default();
        scrapes.set_targets(targets);
        let fetcher = fetcher(settings).unwrap_or_else(|error| {
            refused_endpoints.push(error.to_string());
            None
        });
        let mut host = Host::new(entity, &settings.host_root);
        let mut containers = Containers::new(&settings.host_root);
        containers.set_targets(workloads.targets());
        let mut rows = Vec::new();
        for round in 0..2 {
            if round > 0 {
                tokio::time::sleep(ONCE_SPAN).await;
            }
            rows.clear();
            let boot_ms = clock::boot_ms();
            host.sample(boot_ms, &mut rows);
            let size = HostSize { mem_total_bytes: host.mem_total_bytes(), cpu_count: host.cpu_count() };
            containers.sample(boot_ms, size, &mut rows);
            for (id, url) in scrapes.due(boot_ms, i64::MAX) {
                if let Some(fetcher) = &fetcher {
                    scrapes.take(&id, fetcher.page(&url).await, boot_ms);
                }
            }
            scrapes.sample(&mut rows);
        }
        workloads.state_rows(&mut rows);
        let (cgroup_version, sampled_containers) = (containers.cgroup_version(), containers.len());
        Self { rows, names, reach, instances, cgroup_version, sampled_containers, scrapes, refused_endpoints }
    }

    fn name(&self, entity: EntityId) -> &str {
        self.names.get(&entity).map(String::as_str).unwrap_or_default()
    }

    /// The instances of a metric, each with its value.
    fn values(&self, id: metric::Id) -> Vec<(&str, f64)> {
        let name = id.spec().name;
        let columns = self.rows.iter().flat_map(|row| row.shape.layout.metrics.iter().zip(&row.values));
        columns
            .filter(|(metric, _)| metric.name == name)
            .map(|(metric, value)| (metric.instance.as_str(), *value))
            .collect()
    }
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
/// The spool cannot be read.
pub(crate) fn waiting(data_dir: &Path) -> anyhow::Result<()> {
    let keys = spool::waiting(data_dir)?;
    for key in &keys {
        println!("block {:016x}/{} closed at {} ms", key.epoch, key.seq, key.closed_ms);
    }
    println!("{} blocks wait", keys.len());
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
        for bytes in spool::blocks_in(&bytes) {
            let raw = RawBlock::parse(bytes).with_context(|| path.display().to_string())?;
            for layout in raw.dictionary()?.layouts {
                layouts.insert(layout.id(), layout);
            }
            names.extend(raw.dictionary()?.entities.into_iter().map(|entity| (entity.id, entity.name)));
            let name = |id: &EntityId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
            let (groups, unknown) = raw.groups(|id| layouts.get(&id).cloned())?;
            let header = raw.header;
            println!(
                "block {:016x}/{} from {} ms, {} ticks of {} ms, {} bytes, {unknown} groups of unknown layout",
                header.epoch,
                header.seq,
                header.start_ms,
                header.ticks,
                header.step_ms,
                bytes.len()
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
                println!(
                    "  event {} {:?} {} at {} ms {}",
                    name(&event.entity),
                    event.kind,
                    event.code,
                    event.at_ms,
                    event.detail
                );
            }
            for hit in &urgent.hits {
                println!("  hit {} {} {:?} {} times", name(&hit.entity), hit.rule, hit.severity, hit.count);
                for sample in &hit.samples {
                    println!(
                        "    before {:?}\n    line {:?}\n    after {:?}",
                        sample.before, sample.line, sample.after
                    );
                }
            }
        }
    }
    Ok(())
}

/// Says in one page what the agent can see and what is missing.
pub(crate) async fn check(settings: &Settings) {
    let seen = Seen::now(settings).await;
    let good = |text: String| println!("  ok       {text}");
    let bad = |text: String| println!("  MISSING  {text}");
    println!("host {} below {}", host_name(settings), settings.host_root.display());
    for (key, value) in HostFacts::read(&settings.host_root).attributes {
        println!("  {key:<8} {value}");
    }
    let one = |id| seen.values(id).first().map_or(f64::NAN, |(_, value)| *value);
    match (one(metric::Id::CpuCount), one(metric::Id::MemTotal)) {
        (cores, bytes) if cores > 0.0 && bytes > 0.0 => good(format!("{cores} cores, {bytes} bytes of memory")),
        _ => bad(format!("{} cannot be read", settings.on_host(Path::new("/proc")).display())),
    }
    let filesystems = seen.values(metric::Id::FsUsedRatio);
    if filesystems.is_empty() {
        bad("no filesystem on a disk; in a container start with -v /:/host:ro,rslave and host_root = \"/host\""
            .to_owned());
    }
    for (point, used) in filesystems {
        good(format!("filesystem {point} {:.1} % used", used * 100.0));
    }
    for (what, id) in [("disk", metric::Id::DiskRead), ("interface", metric::Id::NetRx)] {
        let names: Vec<_> = seen.values(id).into_iter().map(|(name, _)| name).filter(|name| !name.is_empty()).collect();
        if names.is_empty() { bad(format!("no {what}")) } else { good(format!("{what} {}", names.join(", "))) }
    }
    match seen.values(metric::Id::PressureCpu).is_empty() {
        true => bad("pressure: boot the kernel with psi=1".to_owned()),
        false => good("pressure".to_owned()),
    }
    println!("containers, cgroup v{}", seen.cgroup_version);
    match &seen.reach {
        Reach::Socket(version) => good(format!("engine {version} through its socket")),
        Reach::StateFiles(why) => good(format!("state files of the engine; events are seen late; no socket: {why}")),
        Reach::None(why) => bad(format!("no engine: {why}")),
    }
    let running = seen.instances.iter().filter(|instance| instance.is_running).count();
    match running.saturating_sub(seen.sampled_containers) {
        0 => good(format!("{} containers, {running} run and are sampled", seen.instances.len())),
        missed => bad(format!("{missed} of {running} running containers have no cgroup folder that can be read")),
    }
    let log = &settings.log;
    for instance in &seen.instances {
        let wanted = log.enabled && workload::subject(instance).is_wanted(&log.include, &log.exclude);
        match &instance.log {
            _ if !wanted => good(format!("log of {} is left out by the settings", instance.name)),
            LogWay::File(path, _) => good(format!("log of {} from {}", instance.name, path.display())),
            LogWay::Stream => good(format!("log of {} through the engine ({})", instance.name, instance.log_driver)),
            LogWay::None => bad(format!("log of {} (driver {})", instance.name, instance.log_driver)),
        }
    }
    let files = seen.instances.iter().filter_map(|instance| match &instance.log {
        LogWay::File(path, _) => Some(path.as_path()),
        _ => None,
    });
    let mut of_host = HostLogs::new(HostId([0; 16]), &settings.host_root, if log.enabled { &log.files } else { &[] });
    match &mut of_host {
        Ok(of_host) => {
            of_host.look(clock::boot_ms());
            for (entry, found) in of_host.found() {
                let text = format!("log files {} by {}: {}", entry.name, entry.glob.display(), found.len());
                if found.is_empty() { bad(text) } else { good(text) }
            }
        }
        Err(error) => bad(error.clone()),
    }
    let of_host = of_host.iter().flat_map(HostLogs::found).flat_map(|(_, found)| found);
    let watching = tailer::try_watching(files.chain(of_host));
    match watching.refusal {
        None => good(format!("{} log files, the kernel tells when they are written to", watching.watched)),
        Some(why) => bad(format!(
            "notices for {} of {} log files, these are looked at every {} ms: {why}",
            watching.unwatched,
            watching.unwatched + watching.watched,
            log.poll_interval_ms
        )),
    }
    if let Err(error) = FirstLine::compile(&log.first_line) {
        bad(format!("log.first_line cannot be used: {error}"));
    }
    check_endpoints(&seen);
    println!("keywords");
    match Tailer::new(&settings.keywords, &settings.masks, None) {
        Ok(_) => good(format!("{} rules of the settings, until the server sends its own", settings.keywords.len())),
        Err(error) => bad(error.to_string()),
    }
    println!("server {}", settings.server.urls.join(", "));
    match spool::probe(&settings.data_dir).and_then(|()| spool::waiting(&settings.data_dir)) {
        Ok(waiting) => good(format!("{} can be written, {} blocks wait", settings.data_dir.display(), waiting.len())),
        Err(error) => bad(error.to_string()),
    }
    match reach_server(settings).await {
        Ok(text) => good(text),
        Err(error) => bad(format!("{error:#}")),
    }
}

fn check_endpoints(seen: &Seen) {
    let mut endpoints = seen.scrapes.state().peekable();
    if endpoints.peek().is_none() && seen.refused_endpoints.is_empty() {
        return;
    }
    println!("endpoints");
    for endpoint in endpoints {
        let left_out = if endpoint.left_out > 0 {
            format!(", {} left out: raise series_max or name what to include", endpoint.left_out)
        } else {
            String::new()
        };
        match endpoint.trouble {
            None => println!("  ok       {} at {}: {} series{left_out}", endpoint.id, endpoint.url, endpoint.series),
            Some(why) => println!("  MISSING  {} at {}: {why}", endpoint.id, endpoint.url),
        }
    }
    for why in &seen.refused_endpoints {
        println!("  MISSING  {why}");
    }
}

async fn reach_server(settings: &Settings) -> anyhow::Result<String> {
    let identity = Identity::load(&settings.data_dir)?.ok_or(SenderError::NotEnrolled)?;
    let host = identity.host;
    let link = Link::new(identity, &settings.server.urls, &settings.server.proxy)?;
    let config = link.config().await.map_err(|detail| anyhow::anyhow!("the server cannot be used: {detail}"))?;
    Ok(format!("enrolled as {host}; the server answers, configuration {}", config.version))
}
