//! The Prometheus text format, version 0.0.4: a page is read line by line, without copying what is not kept.
//!
//! It knows what a line says, not which series are wanted.

use std::borrow::Cow;

use forewarn_common::metric::Kind;

/// Labels of one sample; an exporter's own are a handful.
const LABELS_MAX: usize = 64;

/// What one line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// A value of a series.
    Sample(Sample<'a>),
    /// A bucket of a histogram: its sum and count are samples of their own.
    Bucket,
    /// Neither a sample nor a comment.
    Malformed,
}

/// A value of a series.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// The metric.
    pub(super) name: &'a str,
    /// The labels in one order and writing, whatever the page's: what tells the series of a metric apart.
    pub(super) instance: Cow<'a, str>,
    /// A counter's samples are to become increments.
    pub(super) kind: Kind,
    /// The value as written; it may be none that is a number.
    pub(super) value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

/// The lines of a page, comments and empty ones left out.
pub(super) fn lines(page: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut family = ("", Family::Untyped);
    page.split(|byte| *byte == b'\n').filter_map(move |line| {
        let Ok(line) = std::str::from_utf8(line) else { return Some(Line::Malformed) };
        let line = line.trim_matches([' ', '\t', '\r']);
        if let Some(comment) = line.strip_prefix('#') {
            if let Some(typed) = read_type(comment) {
                family = typed;
            }
            return None;
        }
        (!line.is_empty()).then(|| read_sample(line, family).unwrap_or(Line::Malformed))
    })
}

fn read_type(comment: &str) -> Option<(&str, Family)> {
    let mut words = comment.split_ascii_whitespace();
    if words.next() != Some("TYPE") {
        return None;
    }
    let name = words.next()?;
    let family = match words.next()? {
        "counter" => Family::Counter,
        "gauge" => Family::Gauge,
        "histogram" => Family::Histogram,
        "summary" => Family::Summary,
        _ => Family::Untyped,
    };
    Some((name, family))
}

fn read_sample<'a>(line: &'a str, (named, family): (&str, Family)) -> Option<Line<'a>> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    let end = line.bytes().position(|byte| !is_name(byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside)?,
        None => (Vec::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    // A time of its own is passed over: the value stands at the time at which it was read.
    if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
        return None;
    }
    let suffix = name.strip_prefix(named).filter(|_| !named.is_empty());
    let kind = match (family, suffix) {
        (Family::Histogram, Some("_bucket")) => return Some(Line::Bucket),
        (Family::Counter, Some("" | "_total")) | (Family::Histogram | Family::Summary, Some("_sum" | "_count")) => {
            Kind::Increment
        }
        (Family::Gauge | Family::Summary, Some("")) => Kind::Gauge,
        _ if name.ends_with("_bucket") && labels.iter().any(|(key, _)| *key == "le") => return Some(Line::Bucket),
        _ if name.ends_with("_total") => Kind::Increment,
        _ => Kind::Gauge,
    };
    Some(Line::Sample(Sample { name, instance: instance(labels), kind, value }))
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The labels after the opening brace, values still escaped, and what follows the closing one.
fn read_labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end_matches([' ', '\t']);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if key.is_empty() || key.starts_with(|first: char| first.is_ascii_digit()) || !key.bytes().all(is_name) {
            return None;
        }
        let quoted = after.trim_start_matches([' ', '\t']).strip_prefix('"')?;
        let end = end_of_value(quoted)?;
        let (value, after) = quoted.split_at_checked(end)?;
        if labels.len() >= LABELS_MAX {
            return None;
        }
        labels.push((key, value));
        let after = after.strip_prefix('"')?.trim_start_matches([' ', '\t']);
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None if after.starts_with('}') => after,
            None => return None,
        };
    }
}

/// Where the closing quote is.
fn end_of_value(quoted: &str) -> Option<usize> {
    let mut is_escaped = false;
    quoted.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

/// `code=200, method=get`; a value with a character that would make this ambiguous keeps its quotes.
fn instance(mut labels: Labels<'_>) -> Cow<'_, str> {
    if labels.is_empty() {
        return Cow::Borrowed("");
    }
    labels.sort_unstable();
    let mut text = String::new();
    for (at, (key, value)) in labels.into_iter().enumerate() {
        let is_plain = !value.is_empty() && !value.contains([',', '=', '\\', '"', ' ']);
        let quote = if is_plain { "" } else { "\"" };
        for part in [if at > 0 { ", " } else { "" }, key, "=", quote, value, quote] {
            text.push_str(part);
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(page: &str) -> Vec<(String, String, Kind, f64)> {
        let samples = lines(page.as_bytes()).filter_map(|line| match line {
            Line::Sample(sample) => {
                Some((sample.name.to_owned(), sample.instance.into_owned(), sample.kind, sample.value))
            }
            Line::Bucket | Line::Malformed => None,
        });
        samples.collect()
    }

    #[test]
    fn a_page_of_every_kind_is_read_as_exporters_write_it() {
        let page = "\
# HELP http_requests_total All requests.\r
# TYPE http_requests_total counter\r
http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\r
http_requests_total{code=\"200\",method=\"get\",} 3.0e2\r

# TYPE queue_depth gauge
queue_depth 17
queue_depth_limit{} 1E+3
# TYPE wait_seconds histogram
wait_seconds_bucket{le=\"0.05\"} 24054
wait_seconds_bucket{le=\"+Inf\"} 144320
wait_seconds_sum 53423.5
wait_seconds_count 144320
# TYPE rpc_seconds summary
rpc_seconds{quantile=\"0.99\"} 0.25
rpc_seconds_sum 1.7
# a comment
something_weird{problem=\"division by \\\"zero\\\"\",path = \"C:\\\\x\"} -Inf
jobs_total 5
other_bucket{le=\"1\"} 5
no_value NaN
";
        let all = samples(page);
        let told: Vec<(&str, &str, Kind)> = all.iter().map(|(n, i, k, _)| (n.as_str(), i.as_str(), *k)).collect();
        use Kind::{Gauge, Increment};
        assert_eq!(
            told,
            [
                ("http_requests_total", "code=200, method=post", Increment),
                ("http_requests_total", "code=200, method=get", Increment),
                ("queue_depth", "", Gauge),
                ("queue_depth_limit", "", Gauge),
                ("wait_seconds_sum", "", Increment),
                ("wait_seconds_count", "", Increment),
                ("rpc_seconds", "quantile=0.99", Gauge),
                ("rpc_seconds_sum", "", Increment),
                ("something_weird", "path=\"C:\\\\x\", problem=\"division by \\\"zero\\\"\"", Gauge),
                ("jobs_total", "", Increment),
                ("no_value", "", Gauge),
            ]
        );
        let values: Vec<f64> = all.iter().map(|(.., value)| *value).collect();
        assert_eq!(values[..8], [1027.0, 300.0, 17.0, 1000.0, 53423.5, 144_320.0, 0.25, 1.7]);
        assert!(values[8] == f64::NEG_INFINITY && values[10].is_nan());
        assert_eq!(lines(page.as_bytes()).filter(|line| *line == Line::Bucket).count(), 3);
        assert!(!lines(page.as_bytes()).any(|line| line == Line::Malformed));
    }

    #[test]
    fn what_is_no_sample_is_said_and_the_next_line_is_read() {
        for bad in [
            "1up 1",
            "up",
            "up x",
            "up{ 1",
            "up{a=\"1\" 1",
            "up{a=1} 1",
            "up{=\"1\"} 1",
            "up{a=\"1\"b=\"2\"} 1",
            "up 1 2 3",
            "up 1 soon",
            "<html>",
            "{\"up\": 1}",
            "up{a=\"1\\\"} 1",
            "up{1a=\"x\"} 1",
            "指标 1",
        ] {
            let page = format!("{bad}\ngood 1");
            let all: Vec<_> = lines(page.as_bytes()).collect();
            assert_eq!(all.len(), 2, "{bad}");
            assert_eq!(all[0], Line::Malformed, "{bad}");
            assert!(matches!(&all[1], Line::Sample(sample) if sample.name == "good"), "{bad}");
        }
        assert_eq!(lines(b"\xff\xfe 1").collect::<Vec<_>>(), [Line::Malformed]);
    }

    proptest! {
        #[test]
        fn whatever_an_exporter_writes_comes_back_and_no_two_series_are_taken_for_one(
            series in proptest::collection::btree_map(
                (
                    "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
                    proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,8}", "[a-z,=\"\\\\ \u{4e00}\n]{0,6}", 0..4),
                ),
                any::<f64>(),
                0..20,
            )
        ) {
            let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let mut page = String::new();
            for ((name, labels), value) in &series {
                let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
                page += &format!("{name}{{{}}} {value:e}\n", labels.join(","));
            }
            let read: Vec<_> = lines(page.as_bytes()).collect();
            prop_assert_eq!(read.len(), series.len());
            let mut seen = std::collections::HashSet::new();
            for (line, ((name, labels), value)) in read.iter().zip(&series) {
                match line {
                    Line::Sample(sample) => {
                        prop_assert_eq!(sample.name, name);
                        prop_assert!(sample.value == *value || (sample.value.is_nan() && value.is_nan()));
                        prop_assert!(seen.insert((name.clone(), sample.instance.to_string())));
                    }
                    Line::Bucket => prop_assert!(name.ends_with("_bucket") && labels.contains_key("le")),
                    Line::Malformed => prop_assert!(false, "{}", page),
                }
            }
        }

        #[test]
        fn random_pages_never_panic(page in "[a-z{}=\",# \\\\\n0-9.TYPEN]{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for page in [page.as_bytes(), &bytes] {
                let count = page.iter().filter(|byte| **byte == b'\n').count() + 1;
                prop_assert!(lines(page).count() <= count);
            }
        }
    }
}
