//! What a peer is sent for a block: the same samples of the same series as a request of Prometheus' remote write, which
//! VictoriaMetrics takes too. Protocol buffers by hand; the message has four kinds of fields.

use anyhow::Result;
use forewarn_common::block::Metric;

use crate::host::{Host, Span};

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;

/// `WriteRequest { repeated TimeSeries = 1 }`, `TimeSeries { repeated Label = 1, repeated Sample = 2 }`.
pub(crate) fn remote_write(host: &Host, name: &str, span: &Span) -> Result<Vec<u8>> {
    let (mut request, mut series, mut inner) = (Vec::new(), Vec::new(), Vec::new());
    for (container, metric, values) in host.over(span) {
        series.clear();
        for (label, value) in labels(name, container, metric) {
            inner.clear();
            put_bytes(&mut inner, 1, label.as_bytes());
            put_bytes(&mut inner, 2, value.as_bytes());
            put_bytes(&mut series, 1, &inner);
        }
        for (time_ms, value) in span.times().zip(values) {
            inner.clear();
            put_tag(&mut inner, 1, EIGHT_BYTES);
            inner.extend_from_slice(&value.to_le_bytes());
            put_tag(&mut inner, 2, VARINT);
            put_varint(&mut inner, time_ms as u64);
            put_bytes(&mut series, 2, &inner);
        }
        put_bytes(&mut request, 1, &series);
    }
    Ok(snap::raw::Encoder::new().compress_vec(&request)?)
}

/// In the order of their names, as Prometheus wants them; an empty one is none.
fn labels<'a>(host: &'a str, container: &'a str, metric: &'a Metric) -> impl Iterator<Item = (&'static str, &'a str)> {
    [
        ("__name__", metric.name.as_str()),
        ("container", container),
        ("device", metric.instance.as_str()),
        ("instance", host),
        ("job", "forewarn"),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
}

fn put_tag(out: &mut Vec<u8>, field: u8, wire_type: u8) {
    out.push(field << 3 | wire_type);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_tag(out, field, LENGTH);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
