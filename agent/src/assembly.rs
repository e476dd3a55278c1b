//! Turns rows of samples into blocks: groups with tick bitmaps, the dictionary, the urgent section.
//!
//! A layout or entity is sent with every block until one that carried it is acknowledged, and again when the
//! server asks. Nothing here samples, reads files or sends.

use std::collections::HashMap;
use std::rc::Rc;

use forewarn_common::block::{
    Block, Dictionary, EncodeError, EngineEvent, Entity, Group, Header, KeywordHit, LastValue, Layout, Ticks, Urgent,
    round,
};
use forewarn_common::id::{EntityId, HostId, LayoutId};
use forewarn_common::limit;

use crate::sampler::{Row, Shape};

/// Whose blocks these are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The host.
    pub(crate) host: HostId,
    /// Random per agent start.
    pub(crate) epoch: u64,
    /// The kernel's boot id.
    pub(crate) boot_id: [u8; 16],
    /// Milliseconds between ticks.
    pub(crate) step_ms: u32,
}

/// The moment of a tick or of a block's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Unix milliseconds.
    pub(crate) wall_ms: i64,
    /// `CLOCK_BOOTTIME`, milliseconds.
    pub(crate) boot_ms: i64,
}

/// A dictionary entry and whether the server has it.
#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// The first block that carried this content.
    since_seq: u64,
    known: bool,
    /// The last block that referred to it: what is no longer referred to is forgotten.
    used_seq: u64,
}

/// A group under construction.
#[derive(Debug)]
struct Open {
    entity: EntityId,
    shape: Rc<Shape>,
    ticks: Vec<u16>,
    columns: Vec<Vec<f64>>,
}

/// The block under construction.
#[derive(Debug)]
pub(crate) struct Assembly {
    origin: Origin,
    seq: u64,
    first: Option<Moment>,
    ticks: u16,
    open: Vec<Open>,
    index: HashMap<(EntityId, LayoutId), usize>,
    layouts: HashMap<LayoutId, Entry<Layout>>,
    entities: HashMap<EntityId, Entry<Entity>>,
    hits: Vec<KeywordHit>,
    events: Vec<EngineEvent>,
    keywords_version: u64,
    lost: u64,
}

/// Blocks after which an unused layout, or the entity of a container long gone, is forgotten.
const UNUSED_BLOCKS_MAX: u64 = 1000;

impl Assembly {
    /// An empty assembly.
    #[must_use]
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            seq: 0,
            first: None,
            ticks: 0,
            open: Vec::new(),
            index: HashMap::new(),
            layouts: HashMap::new(),
            entities: HashMap::new(),
            hits: Vec::new(),
            events: Vec::new(),
            keywords_version: 0,
            lost: 0,
        }
    }

    /// Describes an entity; a changed record is sent again.
    pub(crate) fn describe(&mut self, entity: Entity) {
        let seq = self.seq;
        match self.entities.get_mut(&entity.id) {
            Some(entry) if entry.value == entity => entry.used_seq = seq,
            _ => {
                let entry = Entry { value: entity, since_seq: seq, known: false, used_seq: seq };
                self.entities.insert(entry.value.id, entry);
            }
        }
    }

    /// Whether a tick at `at` would not fit the open block: the clock jumped, or the block is full.
    #[must_use]
    pub(crate) fn must_close_before(&self, at: Moment) -> bool {
        self.first.is_some() && self.tick_of(at.wall_ms).is_none()
    }

    /// Adds the rows of one tick. Rows that break a limit of the block are left out and counted.
    pub(crate) fn add_tick(&mut self, at: Moment, rows: &[Row]) {
        let first = *self.first.get_or_insert(at);
        let tick = if first.wall_ms == at.wall_ms { Some(0) } else { self.tick_of(at.wall_ms) };
        let Some(tick) = tick else {
            self.lost += rows.len() as u64;
            return;
        };
        self.ticks = tick + 1;
        for row in rows {
            let key = (row.entity, row.shape.id);
            let slot = match self.index.get(&key) {
                Some(slot) => *slot,
                None if self.open.len() >= limit::GROUPS_MAX => {
                    self.lost += 1;
                    continue;
                }
                None => {
                    let columns = vec![Vec::new(); row.shape.layout.metrics.len()];
                    self.open.push(Open {
                        entity: row.entity,
                        shape: Rc::clone(&row.shape),
                        ticks: Vec::new(),
                        columns,
                    });
                    self.index.insert(key, self.open.len() - 1);
                    self.open.len() - 1
                }
            };
            let Some(open) = self.open.get_mut(slot) else { continue };
            if open.ticks.last() == Some(&tick) || open.columns.len() != row.values.len() {
                continue;
            }
            open.ticks.push(tick);
            for (column, value) in open.columns.iter_mut().zip(&row.values) {
                column.push(*value);
            }
        }
    }

    fn tick_of(&self, wall_ms: i64) -> Option<u16> {
        let past_ms = wall_ms.checked_sub(self.first?.wall_ms)?;
        let tick = u16::try_from(past_ms / i64::from(self.origin.step_ms)).ok()?;
        (past_ms >= 0 && tick >= self.ticks && usize::from(tick) < limit::TICKS_MAX).then_some(tick)
    }

    /// Adds an engine event; beyond the block's limit it is counted only.
    pub(crate) fn add_event(&mut self, event: EngineEvent) {
        if self.events.len() < limit::EVENTS_MAX {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// Adds keyword hits; those of the same rule and entity become one.
    pub(crate) fn add_hits(&mut self, hits: impl IntoIterator<Item = KeywordHit>, keywords_version: u64) {
        self.keywords_version = keywords_version;
        for hit in hits {
            let same = self.hits.iter().position(|known| known.entity == hit.entity && known.rule == hit.rule);
            let Some(known) = same.and_then(|at| self.hits.get_mut(at)) else {
                if self.hits.len() < limit::HITS_MAX {
                    self.hits.push(hit);
                } else {
                    self.lost += 1;
                }
                continue;
            };
            known.count += hit.count;
            known.last_ms = hit.last_ms;
            let room = limit::HIT_SAMPLES_MAX.saturating_sub(known.samples.len());
            known.samples.extend(hit.samples.into_iter().take(room));
        }
    }

    /// Whether something waits that should not wait for the block's end.
    #[must_use]
    pub(crate) fn is_urgent(&self) -> bool {
        !self.hits.is_empty() || !self.events.is_empty()
    }

    /// Whether there is anything to send.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.ticks == 0 && !self.is_urgent()
    }

    /// Rows, events and hits left out because a limit was reached, since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Ends the block and begins the next. Without a tick since the last block it spans nothing and starts at
    /// `next_tick`.
    ///
    /// # Errors
    /// The block breaks a limit; its samples are gone and the next block is empty.
    pub(crate) fn close(&mut self, closed: Moment, next_tick: Moment) -> Result<(Header, Vec<u8>), EncodeError> {
        let start = self.first.take().unwrap_or(next_tick);
        let ticks = std::mem::take(&mut self.ticks);
        let header = Header {
            host: self.origin.host,
            epoch: self.origin.epoch,
            seq: self.seq,
            start_ms: start.wall_ms,
            step_ms: self.origin.step_ms,
            ticks,
            boot_id: self.origin.boot_id,
            boot_ms: start.boot_ms,
            closed_ms: closed.wall_ms,
        };
        let open = std::mem::take(&mut self.open);
        self.index.clear();
        let (mut groups, mut last, mut at_tick) = (Vec::with_capacity(open.len()), Vec::new(), 0);
        for group in open {
            self.note_use(&group);
            at_tick = at_tick.max(group.ticks.last().copied().unwrap_or(0));
            last.extend(last_values(&group));
            let mut bitmap = Ticks::none(ticks);
            group.ticks.iter().for_each(|tick| bitmap.set(*tick));
            groups.push(Group { entity: group.entity, layout: group.shape.id, ticks: bitmap, columns: group.columns });
        }
        for entity in self.hits.iter().map(|hit| hit.entity).chain(self.events.iter().map(|event| event.entity)) {
            if let Some(entry) = self.entities.get_mut(&entity) {
                entry.used_seq = self.seq;
            }
        }
        let urgent = Urgent {
            at_ms: start.wall_ms + i64::from(at_tick) * i64::from(self.origin.step_ms),
            last,
            hits: std::mem::take(&mut self.hits),
            events: std::mem::take(&mut self.events),
            keywords_version: self.keywords_version,
        };
        let block = Block { header, urgent, dictionary: self.unsent_dictionary(), groups };
        let bytes = block.encode(|id| self.layouts.get(&id).map(|entry| &entry.value));
        let seq = self.seq;
        self.seq += 1;
        self.layouts.retain(|_, entry| seq - entry.used_seq < UNUSED_BLOCKS_MAX);
        self.entities.retain(|_, entry| seq - entry.used_seq < UNUSED_BLOCKS_MAX);
        bytes.map(|bytes| (header, bytes))
    }

    fn note_use(&mut self, group: &Open) {
        let seq = self.seq;
        let fresh = || Entry { value: group.shape.layout.clone(), since_seq: seq, known: false, used_seq: seq };
        self.layouts.entry(group.shape.id).or_insert_with(fresh).used_seq = seq;
        if let Some(entry) = self.entities.get_mut(&group.entity) {
            entry.used_seq = seq;
        }
    }

    fn unsent_dictionary(&self) -> Dictionary {
        Dictionary {
            layouts: self.layouts.values().filter(|entry| !entry.known).map(|entry| entry.value.clone()).collect(),
            entities: self.entities.values().filter(|entry| !entry.known).map(|entry| entry.value.clone()).collect(),
        }
    }

    /// The server has stored block `seq` of this epoch, and asks for what it does not know.
    pub(crate) fn acknowledge(&mut self, seq: u64, unknown_layouts: &[LayoutId], unknown_entities: &[EntityId]) {
        let next = self.seq;
        for entry in self.layouts.values_mut() {
            entry.known |= seq >= entry.since_seq;
        }
        for entry in self.entities.values_mut() {
            entry.known |= seq >= entry.since_seq;
        }
        for id in unknown_layouts {
            if let Some(entry) = self.layouts.get_mut(id) {
                (entry.known, entry.since_seq) = (false, next);
            }
        }
        for id in unknown_entities {
            if let Some(entry) = self.entities.get_mut(id) {
                (entry.known, entry.since_seq) = (false, next);
            }
        }
    }
}

/// The last values of the urgent columns of a group, rounded as in the samples.
fn last_values(group: &Open) -> impl Iterator<Item = LastValue> {
    group.shape.urgent.iter().filter_map(|(column, metric)| {
        let value = *group.columns.get(*column)?.last()?;
        let described = group.shape.layout.metrics.get(*column)?;
        (!value.is_nan()).then(|| LastValue {
            entity: group.entity,
            metric: *metric,
            instance: described.instance.clone(),
            value: round(value, described.decimals),
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
