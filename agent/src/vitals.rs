//! The agent's own cost and losses, as series of its host.

use std::rc::Rc;

use forewarn_common::id::EntityId;
use forewarn_common::metric::Id;

use crate::sampler::{OwnCost, Row, Shape};

const METRICS: [Id; 6] =
    [Id::AgentCpu, Id::AgentRss, Id::SpoolBytes, Id::SpoolDropped, Id::LateTicks, Id::UnwatchedLogs];

/// What the agent counts of itself.
#[derive(Debug)]
pub(crate) struct Vitals {
    entity: EntityId,
    shape: Rc<Shape>,
    cost: OwnCost,
    cpu_us: Option<u64>,
    dropped: u64,
    late_ticks: u64,
}

impl Vitals {
    /// Vitals that are series of the host `entity`.
    #[must_use]
    pub(crate) fn new(entity: EntityId) -> Self {
        let shape = Shape::of(METRICS.map(|id| (id, "")));
        Self { entity, shape, cost: OwnCost::new(), cpu_us: None, dropped: 0, late_ticks: 0 }
    }

    /// Counts ticks that were not sampled.
    pub(crate) fn skip_ticks(&mut self, count: u64) {
        self.late_ticks += count;
    }

    /// One sample; `dropped` counts blocks since the start.
    pub(crate) fn sample(&mut self, boot_ms: i64, spool_bytes: u64, dropped: u64, unwatched_logs: usize) -> Row {
        let (cpu_us, resident) = self.cost.read(boot_ms);
        let before = std::mem::replace(&mut self.cpu_us, cpu_us);
        let spent = cpu_us.zip(before).map(|(now, before)| now.saturating_sub(before) as f64 / 1000.0);
        let newly_dropped = dropped - std::mem::replace(&mut self.dropped, dropped);
        let values = vec![
            spent.unwrap_or(f64::NAN),
            resident.map_or(f64::NAN, |bytes| bytes as f64),
            spool_bytes as f64,
            newly_dropped as f64,
            std::mem::take(&mut self.late_ticks) as f64,
            unwatched_logs as f64,
        ];
        Row { entity: self.entity, shape: Rc::clone(&self.shape), values }
    }
}
