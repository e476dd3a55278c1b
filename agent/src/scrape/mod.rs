//! Series of the customer's own components: pages in the Prometheus text format, and what becomes of them.
//!
//! Targets come from the host's own settings, or from a container's label where those settings allow it; nothing here
//! has heard of a server. It fetches nothing itself: the loop does, and hands the page over. A page is bounded in
//! bytes and time where it is fetched, and in series here.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use forewarn_common::block::Metric;
use forewarn_common::id::EntityId;
use forewarn_common::keyword;
use forewarn_common::limit;
use forewarn_common::metric::{Id, Kind, Unit, unit_of_name};

use crate::sampler::{Row, Shape};
use text::{Line, Sample};

/// A container asks for it with `forewarn.scrape=9100` or `9100/path`.
pub(crate) const LABEL: &str = "forewarn.scrape";
/// Where a label that names only a port means.
const PATH_DEFAULT: &str = "/metrics";
/// Series of all endpoints of a host; a block of them and its layouts stay far below their limits.
const SERIES_ALL_MAX: usize = 4000;
/// Endpoints of a host.
pub(crate) const TARGETS_MAX: usize = 64;
/// New series of an endpoint that is known are taken in this often at most: each time its columns are described anew.
const GROW_MS: i64 = 300_000;
/// A series that has not been seen for this long makes room.
const FORGOTTEN_MS: i64 = 3_600_000;
/// Decimal places of a scraped counter, of a share, and of any other level.
const DECIMALS_COUNTER: i8 = 3;
const DECIMALS_RATIO: i8 = 4;
const DECIMALS_GAUGE: i8 = 6;

const OWN_METRICS: [Id; 4] = [Id::ScrapeFailed, Id::ScrapeSeries, Id::ScrapeLeftOut, Id::ScrapeRefused];

/// Which metrics of a page are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Choice {
    /// Names, `*` at either end matches anything; empty takes all.
    pub(crate) include: Vec<String>,
    /// Names that are left out; wins.
    pub(crate) exclude: Vec<String>,
}

impl Choice {
    fn wants(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| keyword::matches(name, pattern));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What tells it apart from the others.
    pub(crate) id: String,
    /// Whose series these are.
    pub(crate) entity: EntityId,
    /// Where the page is.
    pub(crate) url: String,
    /// Milliseconds between two readings.
    pub(crate) interval_ms: i64,
    /// Series of it that are kept.
    pub(crate) series_max: usize,
    /// Which metrics.
    pub(crate) choice: Choice,
}

/// The address that a container's label means on its network.
///
/// # Errors
/// The label cannot be understood; the text says what it should look like.
pub(crate) fn url_of_label(label: &str, address: IpAddr) -> Result<String, String> {
    let refuse = || format!("the label {LABEL} is {label:?}, it should look like 9100 or 9100/metrics");
    let asked = label.trim().trim_start_matches(':');
    let (port, path) = asked.split_at(asked.find('/').unwrap_or(asked.len()));
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(refuse)?;
    let path = if path.is_empty() { PATH_DEFAULT } else { path };
    if path.len() > limit::NAME_BYTES_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(refuse());
    }
    Ok(format!("http://{}{path}", std::net::SocketAddr::new(address, port)))
}

#[derive(Debug)]
struct Series {
    metric: Metric,
    /// A counter's last value.
    counted: Option<f64>,
    /// What is told at the next tick; NaN when the last page had none.
    value: f64,
    seen_ms: i64,
}

impl Series {
    /// Takes in a value. Increments are those of the rounded counter, so that no share of them is lost in rounding.
    fn note(&mut self, value: f64, now_ms: i64) {
        self.seen_ms = now_ms;
        self.value = match self.metric.kind {
            Kind::Gauge => value,
            Kind::Increment => {
                let now = forewarn_common::block::round(value, self.metric.decimals);
                match self.counted.replace(now) {
                    Some(before) if now >= before => now - before,
                    // It began anew.
                    Some(_) => now,
                    None => f64::NAN,
                }
            }
        };
    }
}

#[derive(Debug)]
struct Endpoint {
    target: Target,
    /// When the last reading began.
    begun_ms: Option<i64>,
    is_reading: bool,
    series: Vec<Series>,
    /// Place in `series` by name and instance.
    index: HashMap<String, usize>,
    shape: Rc<Shape>,
    /// When `series` last grew.
    grown_ms: Option<i64>,
    /// Something to tell at the next tick.
    is_fresh: bool,
    trouble: Option<String>,
    left_out: usize,
    refused: u64,
}

impl Endpoint {
    fn new(target: Target) -> Self {
        Self {
            target,
            begun_ms: None,
            is_reading: false,
            series: Vec::new(),
            index: HashMap::new(),
            shape: Shape::of([]),
            grown_ms: None,
            is_fresh: false,
            trouble: None,
            left_out: 0,
            refused: 0,
        }
    }

    /// Takes a page in, up to `room` series.
    fn read(&mut self, page: &[u8], room: usize, now_ms: i64) {
        let may_grow = self.grown_ms.is_none_or(|at_ms| now_ms - at_ms >= GROW_MS);
        let before = self.series.len();
        if may_grow {
            self.series.retain(|series| now_ms - series.seen_ms < FORGOTTEN_MS);
        }
        let mut has_changed = self.series.len() != before;
        if has_changed {
            let places = self.series.iter().enumerate().map(|(at, series)| (key(&series.metric), at));
            self.index = places.collect();
        }
        self.left_out = 0;
        self.series.iter_mut().for_each(|series| series.value = f64::NAN);
        let mut seen = vec![false; self.series.len()];
        let mut wanted = String::new();
        for line in text::lines(page) {
            let sample = match line {
                Line::Sample(sample) if !self.target.choice.wants(sample.name) => continue,
                Line::Sample(sample) if is_sound(&sample) => sample,
                Line::Bucket => continue,
                Line::Sample(_) | Line::Malformed => {
                    self.refused += 1;
                    continue;
                }
            };
            wanted.clear();
            wanted.extend([sample.name, "\n", &sample.instance]);
            let place = match self.index.get(&wanted) {
                Some(place) => *place,
                None if may_grow && self.series.len() < room => {
                    has_changed = true;
                    self.series.push(Series {
                        metric: metric_of(&sample),
                        counted: None,
                        value: f64::NAN,
                        seen_ms: now_ms,
                    });
                    seen.push(false);
                    self.index.insert(wanted.clone(), self.series.len() - 1);
                    self.series.len() - 1
                }
                None => {
                    self.left_out += 1;
                    continue;
                }
            };
            match (seen.get_mut(place), self.series.get_mut(place)) {
                (Some(is_seen), Some(series)) if !*is_seen => {
                    *is_seen = true;
                    series.note(sample.value, now_ms);
                }
                // A series stands on a page once.
                _ => self.refused += 1,
            }
        }
        if may_grow && (has_changed || self.grown_ms.is_none()) {
            self.grown_ms = Some(now_ms);
            self.shape = Shape::of_metrics(self.series.iter().map(|series| series.metric.clone()).collect());
        }
    }
}

fn key(metric: &Metric) -> String {
    format!("{}\n{}", metric.name, metric.instance)
}

fn is_sound(sample: &Sample<'_>) -> bool {
    let is_kept = |text: &str| text.len() <= limit::NAME_BYTES_MAX && !text.contains(char::is_control);
    // A name of the catalogue would be taken for what the agent itself measures.
    sample.value.is_finite()
        && (sample.kind == Kind::Gauge || sample.value >= 0.0)
        && is_kept(sample.name)
        && is_kept(&sample.instance)
        && Id::from_name(sample.name).is_none()
}

fn metric_of(sample: &Sample<'_>) -> Metric {
    let unit = unit_of_name(sample.name.strip_suffix("_total").unwrap_or(sample.name));
    let decimals = match (unit, sample.kind) {
        (Unit::Bytes, _) => 0,
        (Unit::Ratio, Kind::Gauge) => DECIMALS_RATIO,
        (_, Kind::Gauge) => DECIMALS_GAUGE,
        (_, Kind::Increment) => DECIMALS_COUNTER,
    };
    let instance = sample.instance.clone().into_owned();
    Metric { name: sample.name.to_owned(), instance, kind: sample.kind, unit, decimals }
}

/// All endpoints of the host.
#[derive(Debug)]
pub(crate) struct Scrapes {
    endpoints: BTreeMap<String, Endpoint>,
    own_shape: Rc<Shape>,
}

impl Default for Scrapes {
    fn default() -> Self {
        Self { endpoints: BTreeMap::new(), own_shape: Shape::of(OWN_METRICS.map(|id| (id, ""))) }
    }
}

impl Scrapes {
    /// Takes over the targets there are now. One that only moved keeps its series.
    pub(crate) fn set_targets(&mut self, targets: impl IntoIterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.endpoints);
        for target in targets {
            if self.endpoints.len() >= TARGETS_MAX {
                tracing::warn!(target = target.id, limit = TARGETS_MAX, "an endpoint is left out: there are too many");
                continue;
            }
            let mut endpoint = before.remove(&target.id).unwrap_or_else(|| Endpoint::new(target.clone()));
            endpoint.target = target;
            self.endpoints.insert(endpoint.target.id.clone(), endpoint);
        }
    }

    /// Ids and addresses of those whose turn it is; each is to be given to [`Self::take`] in the end.
    pub(crate) fn due(&mut self, boot_ms: i64, slack_ms: i64) -> Vec<(String, String)> {
        let mut due = Vec::new();
        for (id, endpoint) in &mut self.endpoints {
            let is_time =
                endpoint.begun_ms.is_none_or(|at_ms| boot_ms - at_ms + slack_ms >= endpoint.target.interval_ms);
            if is_time && !endpoint.is_reading {
                (endpoint.is_reading, endpoint.begun_ms) = (true, Some(boot_ms));
                due.push((id.clone(), endpoint.target.url.clone()));
            }
        }
        due
    }

    /// Takes in what a reading gave: a page, or why there is none.
    pub(crate) fn take(&mut self, id: &str, page: Result<Vec<u8>, String>, boot_ms: i64) {
        let all: usize = self.endpoints.values().map(|endpoint| endpoint.series.len()).sum();
        let Some(endpoint) = self.endpoints.get_mut(id) else { return };
        (endpoint.is_reading, endpoint.is_fresh) = (false, true);
        match page {
            Ok(page) => {
                let others = all - endpoint.series.len();
                let room = endpoint.target.series_max.min(SERIES_ALL_MAX.saturating_sub(others));
                endpoint.read(&page, room, boot_ms);
                let (series, left_out) = (endpoint.series.len(), endpoint.left_out);
                if endpoint.trouble.take().is_some() {
                    tracing::info!(endpoint = id, series, left_out, "an endpoint can be read again");
                }
            }
            Err(trouble) => {
                endpoint.series.iter_mut().for_each(|series| series.value = f64::NAN);
                if endpoint.trouble.is_none() {
                    tracing::warn!(endpoint = id, trouble, "an endpoint cannot be read");
                }
                endpoint.trouble = Some(trouble);
            }
        }
    }

    /// What was read since the last tick.
    pub(crate) fn sample(&mut self, rows: &mut Vec<Row>) {
        for endpoint in self.endpoints.values_mut().filter(|endpoint| endpoint.is_fresh) {
            endpoint.is_fresh = false;
            let has_failed = endpoint.trouble.is_some();
            let own = [
                f64::from(u8::from(has_failed)),
                endpoint.series.len() as f64,
                endpoint.left_out as f64,
                std::mem::take(&mut endpoint.refused) as f64,
            ];
            let entity = endpoint.target.entity;
            rows.push(Row { entity, shape: Rc::clone(&self.own_shape), values: own.to_vec() });
            if !has_failed
                && endpoint.series.len() == endpoint.shape.layout.metrics.len()
                && !endpoint.series.is_empty()
            {
                let values = endpoint.series.iter().map(|series| series.value).collect();
                rows.push(Row { entity, shape: Rc::clone(&endpoint.shape), values });
            }
        }
    }

    /// Each endpoint's id, address, series, series left out and trouble, for `check`.
    pub(crate) fn state(&self) -> impl Iterator<Item = State<'_>> {
        self.endpoints.values().map(|endpoint| State {
            id: &endpoint.target.id,
            url: &endpoint.target.url,
            series: endpoint.series.len(),
            left_out: endpoint.left_out,
            trouble: endpoint.trouble.as_deref(),
        })
    }
}

/// How an endpoint is doing.
#[derive(Debug)]
pub(crate) struct State<'a> {
    /// The target's id.
    pub(crate) id: &'a str,
    /// Its address.
    pub(crate) url: &'a str,
    /// Series that are kept.
    pub(crate) series: usize,
    /// Series of the last page for which there was no room.
    pub(crate) left_out: usize,
    /// Why it cannot be read.
    pub(crate) trouble: Option<&'a str>,
}

/// Reads a page as if an endpoint had given it: for fuzz targets.
pub(crate) fn read_every_way(page: &[u8]) -> impl std::fmt::Debug {
    let target = Target {
        id: "x".to_owned(),
        entity: EntityId(1),
        url: String::new(),
        interval_ms: 1,
        series_max: 50,
        choice: Choice::default(),
    };
    let mut scrapes = Scrapes::default();
    scrapes.set_targets([target]);
    let mut rows = Vec::new();
    for now_ms in [0, GROW_MS, FORGOTTEN_MS] {
        scrapes.take("x", Ok(page.to_vec()), now_ms);
        scrapes.sample(&mut rows);
    }
    rows.iter().map(|row| (row.values.len(), row.shape.layout.encode().len())).collect::<Vec<_>>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
