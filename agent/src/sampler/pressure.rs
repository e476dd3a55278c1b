//! Pressure stall information: the share of time in which tasks waited, of the host or of one cgroup.

use std::path::Path;
use std::rc::Rc;

use forewarn_common::metric::Id;

use super::proc_text::{Held, lines, number, words};
use super::{Counter, Shape, ratio};

pub(super) const METRICS: [Id; 5] =
    [Id::PressureCpu, Id::PressureMemSome, Id::PressureMemFull, Id::PressureIoSome, Id::PressureIoFull];

/// The three pressure files of one folder.
#[derive(Debug)]
pub(super) struct Pressure {
    files: [Held; 3],
    counters: [Counter; 5],
    sampled_at_ms: Option<i64>,
    shape: Rc<Shape>,
    buffer: Vec<u8>,
}

impl Pressure {
    /// The files `names` (CPU, memory, input and output) in `folder`.
    pub(super) fn new(folder: &Path, names: [&str; 3]) -> Self {
        Self {
            files: names.map(|name| Held::new(folder.join(name))),
            counters: [Counter::default(); 5],
            sampled_at_ms: None,
            shape: Shape::of(METRICS.map(|id| (id, ""))),
            buffer: Vec::new(),
        }
    }

    pub(super) fn sample(&mut self, boot_ms: i64) -> (Rc<Shape>, Vec<f64>) {
        let elapsed_us =
            self.sampled_at_ms.replace(boot_ms).map_or(f64::NAN, |at_ms| (boot_ms - at_ms) as f64 * 1000.0);
        let [cpu, memory, io] = &mut self.files;
        let mut totals = |file: &mut Held| file.read(&mut self.buffer).map_or([None; 2], parse);
        let ([cpu, _], [mem_some, mem_full], [io_some, io_full]) = (totals(cpu), totals(memory), totals(io));
        let now = [cpu, mem_some, mem_full, io_some, io_full];
        let values = self.counters.iter_mut().zip(now);
        let values = values.map(|(counter, now)| ratio(counter.step(now), elapsed_us).clamp(0.0, 1.0)).collect();
        (Rc::clone(&self.shape), values)
    }
}

/// Microseconds in which some, and all, tasks waited.
pub(super) fn parse(text: &[u8]) -> [Option<u64>; 2] {
    let total = |key: &[u8]| {
        lines(text).find_map(|line| {
            let mut words = words(line);
            if words.next()? != key {
                return None;
            }
            words.find_map(|word| word.strip_prefix(b"total=")).and_then(number)
        })
    };
    [total(b"some"), total(b"full")]
}
