//! The urgent section: what breach and keyword checks need at once, decoded at intake.

use super::{DecodeError, Reader, Writer};
use crate::id::EntityId;
use crate::keyword::Severity;
use crate::limit;
use crate::metric::Id;

/// The last value of a catalogue metric marked urgent.
#[derive(Debug, Clone, PartialEq)]
pub struct LastValue {
    /// Whose.
    pub entity: EntityId,
    /// Which.
    pub metric: Id,
    /// Mount point and the like; empty where there is only one.
    pub instance: String,
    /// The value at the last tick, rounded as in the samples.
    pub value: f64,
}

/// One line of a log that matched, masked, with the lines around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSample {
    /// When it was read, unix milliseconds.
    pub at_ms: i64,
    /// The line; untrusted text.
    pub line: String,
    /// Lines before it, oldest first.
    pub before: Vec<String>,
    /// Lines after it that were read in the same batch.
    pub after: Vec<String>,
}

/// All hits of one rule in one entity's log during the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeywordHit {
    /// Whose log.
    pub entity: EntityId,
    /// The rule's name.
    pub rule: String,
    /// The rule's severity.
    pub severity: Severity,
    /// Lines that matched.
    pub count: u64,
    /// The first hit, unix milliseconds.
    pub first_ms: i64,
    /// The last hit, unix milliseconds.
    pub last_ms: i64,
    /// A bounded sample of them.
    pub samples: Vec<LogSample>,
}

/// What an engine said of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It started.
    Start,
    /// It ended; the code is its exit code.
    Die,
    /// The kernel killed a process of it for want of memory.
    Oom,
    /// Its health check changed; the code is 0 healthy, 1 starting, 2 unhealthy.
    Health,
    /// It was removed.
    Destroy,
    /// It is being stopped on request: the end that follows is no fault.
    Stop,
}

const EVENT_KINDS: [EventKind; 6] =
    [EventKind::Start, EventKind::Die, EventKind::Oom, EventKind::Health, EventKind::Destroy, EventKind::Stop];

/// An engine event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// Which workload.
    pub entity: EntityId,
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// What.
    pub kind: EventKind,
    /// Exit code or health.
    pub code: i32,
    /// Container id or another word on it; untrusted text.
    pub detail: String,
}

/// What must be seen at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Urgent {
    /// When the last values were taken, unix milliseconds.
    pub at_ms: i64,
    /// Last values.
    pub last: Vec<LastValue>,
    /// Keyword hits.
    pub hits: Vec<KeywordHit>,
    /// Engine events.
    pub events: Vec<EngineEvent>,
    /// Version of the keyword rules that matched.
    pub keywords_version: u64,
}

impl Urgent {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.signed(self.at_ms);
        writer.varint(self.keywords_version);
        let last = &self.last[..self.last.len().min(limit::SERIES_MAX)];
        writer.varint(last.len() as u64);
        for value in last {
            writer.u64(value.entity.0);
            writer.varint(value.metric as u64);
            writer.text(&value.instance, limit::NAME_BYTES_MAX);
            writer.f64(value.value);
        }
        let hits = &self.hits[..self.hits.len().min(limit::HITS_MAX)];
        writer.varint(hits.len() as u64);
        for hit in hits {
            writer.u64(hit.entity.0);
            writer.text(&hit.rule, limit::NAME_BYTES_MAX);
            writer.u8(hit.severity.code());
            writer.varint(hit.count);
            writer.signed(hit.first_ms);
            writer.signed(hit.last_ms);
            let samples = &hit.samples[..hit.samples.len().min(limit::HIT_SAMPLES_MAX)];
            writer.varint(samples.len() as u64);
            for sample in samples {
                writer.signed(sample.at_ms);
                writer.text(&sample.line, limit::LINE_BYTES_MAX);
                write_lines(writer, &sample.before, limit::CONTEXT_BEFORE_LINES_MAX);
                write_lines(writer, &sample.after, limit::CONTEXT_AFTER_LINES_MAX);
            }
        }
        let events = &self.events[..self.events.len().min(limit::EVENTS_MAX)];
        writer.varint(events.len() as u64);
        for event in events {
            writer.u64(event.entity.0);
            writer.signed(event.at_ms);
            writer.u8(EVENT_KINDS.iter().position(|kind| *kind == event.kind).unwrap_or(0) as u8);
            writer.signed(i64::from(event.code));
            writer.text(&event.detail, limit::ATTRIBUTE_BYTES_MAX);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at_ms = reader.signed("urgent time")?;
        let keywords_version = reader.varint("keywords version")?;
        let count = reader.count("last values", limit::SERIES_MAX)?;
        let mut last = Vec::new();
        for _ in 0..count {
            let entity = EntityId(reader.u64("last value")?);
            let code = reader.varint("last value")?;
            let instance = reader.text("last value", limit::NAME_BYTES_MAX)?;
            let value = reader.f64("last value")?;
            // A metric of a newer agent is passed over; its samples are stored all the same.
            if let Some(metric) = u16::try_from(code).ok().and_then(Id::from_code) {
                last.push(LastValue { entity, metric, instance, value });
            }
        }
        let count = reader.count("keyword hits", limit::HITS_MAX)?;
        let mut hits = Vec::new();
        for _ in 0..count {
            hits.push(read_hit(reader)?);
        }
        let count = reader.count("engine events", limit::EVENTS_MAX)?;
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(EngineEvent {
                entity: EntityId(reader.u64("event")?),
                at_ms: reader.signed("event")?,
                kind: *EVENT_KINDS.get(usize::from(reader.u8("event")?)).ok_or(DecodeError::Malformed("event kind"))?,
                code: i32::try_from(reader.signed("event")?).map_err(|_| DecodeError::Malformed("event code"))?,
                detail: reader.text("event", limit::ATTRIBUTE_BYTES_MAX)?,
            });
        }
        Ok(Self { at_ms, last, hits, events, keywords_version })
    }
}

fn read_hit(reader: &mut Reader<'_>) -> Result<KeywordHit, DecodeError> {
    let entity = EntityId(reader.u64("keyword hit")?);
    let rule = reader.text("keyword hit", limit::NAME_BYTES_MAX)?;
    let severity = Severity::from_code(reader.u8("keyword hit")?).ok_or(DecodeError::Malformed("severity"))?;
    let count = reader.varint("keyword hit")?;
    let first_ms = reader.signed("keyword hit")?;
    let last_ms = reader.signed("keyword hit")?;
    let sample_count = reader.count("keyword samples", limit::HIT_SAMPLES_MAX)?;
    let mut samples = Vec::new();
    for _ in 0..sample_count {
        samples.push(LogSample {
            at_ms: reader.signed("keyword sample")?,
            line: reader.text("keyword sample", limit::LINE_BYTES_MAX)?,
            before: read_lines(reader, limit::CONTEXT_BEFORE_LINES_MAX)?,
            after: read_lines(reader, limit::CONTEXT_AFTER_LINES_MAX)?,
        });
    }
    Ok(KeywordHit { entity, rule, severity, count, first_ms, last_ms, samples })
}

fn write_lines(writer: &mut Writer, lines: &[String], max: usize) {
    let lines = &lines[..lines.len().min(max)];
    writer.varint(lines.len() as u64);
    for line in lines {
        writer.text(line, limit::LINE_BYTES_MAX);
    }
}

fn read_lines(reader: &mut Reader<'_>, max: usize) -> Result<Vec<String>, DecodeError> {
    let count = reader.count("context lines", max)?;
    (0..count).map(|_| reader.text("context line", limit::LINE_BYTES_MAX)).collect()
}
