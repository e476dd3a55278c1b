//! Traffic of network interfaces, from a `net/dev` table: the host's, or the sum of a container's.

use std::path::Path;
use std::rc::Rc;

use forewarn_common::metric::Id;

use super::proc_text::{Held, lines, number, words};
use super::{Counter, INSTANCES_MAX, Shape};

pub(super) const METRICS: [Id; 4] = [Id::NetRx, Id::NetTx, Id::NetRxErrors, Id::NetTxErrors];
/// Interfaces that carry the same bytes again, or none: bridges, pairs and tunnels of container networks.
const DERIVED: [&[u8]; 13] = [
    b"veth", b"docker", b"br-", b"virbr", b"cni", b"flannel", b"cali", b"tunl", b"kube-", b"dummy", b"ifb", b"podman",
    b"lxc",
];

/// The host's interfaces.
#[derive(Debug)]
pub(super) struct Interfaces {
    table: Held,
    interfaces: Vec<(String, [Counter; 4])>,
    shape: Rc<Shape>,
    buffer: Vec<u8>,
}

impl Interfaces {
    pub(super) fn new(table: &Path) -> Self {
        Self { table: Held::new(table), interfaces: Vec::new(), shape: Shape::of([]), buffer: Vec::new() }
    }

    pub(super) fn sample(&mut self) -> (Rc<Shape>, Vec<f64>) {
        let mut found = self.table.read(&mut self.buffer).map(parse).unwrap_or_default();
        found.retain(|(name, _)| !DERIVED.iter().any(|prefix| name.starts_with(prefix)));
        found.truncate(INSTANCES_MAX);
        if found.iter().map(|(name, _)| *name).ne(self.interfaces.iter().map(|(name, _)| name.as_bytes())) {
            let names: Vec<String> = found.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
            self.shape = Shape::of(names.iter().flat_map(|name| METRICS.map(|id| (id, name.as_str()))));
            let known = std::mem::take(&mut self.interfaces);
            let counters = |name: &String| {
                known.iter().find(|(known, _)| known == name).map_or([Counter::default(); 4], |(_, counters)| *counters)
            };
            self.interfaces = names.into_iter().map(|name| (name.clone(), counters(&name))).collect();
        }
        let mut values = Vec::with_capacity(self.interfaces.len() * METRICS.len());
        for ((_, counters), (_, now)) in self.interfaces.iter_mut().zip(&found) {
            values.extend((0..4).map(|i| counters[i].step(Some(now[i]))));
        }
        (Rc::clone(&self.shape), values)
    }
}

/// Name, and received and sent bytes, receive and send errors with drops, of every interface but loopback.
pub(super) fn parse(text: &[u8]) -> Vec<(&[u8], [u64; 4])> {
    let mut interfaces = Vec::new();
    for line in lines(text) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = line[..colon].trim_ascii();
        let numbers: Vec<u64> = words(&line[colon + 1..]).map_while(number).collect();
        let [rx, _, rx_errors, rx_drops, _, _, _, _, tx, _, tx_errors, tx_drops, ..] = numbers[..] else { continue };
        if name != b"lo" {
            interfaces.push((name, [rx, tx, rx_errors.saturating_add(rx_drops), tx_errors.saturating_add(tx_drops)]));
        }
    }
    interfaces
}

/// The sums over all interfaces of a table.
pub(super) fn total(text: &[u8]) -> [u64; 4] {
    parse(text).into_iter().fold([0; 4], |sum, (_, now)| std::array::from_fn(|i| sum[i].saturating_add(now[i])))
}
