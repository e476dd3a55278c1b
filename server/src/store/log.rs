//! Keyword hits and engine events: ordinary rows, written with the block that brought them.

use diesel::prelude::*;
use forewarn_common::block::{EngineEvent, KeywordHit, LogSample};
use forewarn_common::id::{EntityId, HostId};
use serde::{Deserialize, Serialize};

use super::connection::{Conn, Tx, insert_many};
use super::push::{Arriving, INSERT_ROWS_MAX};
use super::schema::{engine_event, keyword_hit};
use super::{Store, StoreError, from_json, from_word, host_id, severity, signed, to_json, unsigned, word};

/// Text of the sampled lines of all hits of one block; hits beyond keep their counts without lines.
const SAMPLES_BYTES_MAX: usize = 1 << 20;
/// Rows that one question returns.
const ROWS_MAX: i64 = 10_000;

/// A keyword hit, with its times by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHit {
    /// Whose host.
    pub host: HostId,
    /// What was found.
    pub hit: KeywordHit,
}

/// An engine event, with its time by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Whose host.
    pub host: HostId,
    /// What happened.
    pub event: EngineEvent,
}

#[derive(Serialize, Deserialize)]
struct SampleRow {
    at_ms: i64,
    line: String,
    before: Vec<String>,
    after: Vec<String>,
}

#[derive(Insertable)]
#[diesel(table_name = keyword_hit, treat_none_as_default_value = false)]
struct NewHit<'a> {
    last_ms: i64,
    host: &'a [u8],
    epoch: i64,
    seq: i64,
    ordinal: i32,
    entity: i64,
    rule: &'a str,
    severity: i16,
    hits: i64,
    first_ms: i64,
    samples: String,
}

#[derive(Insertable)]
#[diesel(table_name = engine_event, treat_none_as_default_value = false)]
struct NewEvent<'a> {
    at_ms: i64,
    host: &'a [u8],
    epoch: i64,
    seq: i64,
    ordinal: i32,
    entity: i64,
    kind: String,
    code: i32,
    detail: &'a str,
}

pub(super) fn insert_hits(connection: &mut Conn, fresh: &[&Arriving]) -> Tx<()> {
    for arriving in fresh {
        let header = &arriving.header;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (ordinal, hit) in (0_i32..).zip(&arriving.urgent.hits) {
            let samples: Vec<SampleRow> = hit
                .samples
                .iter()
                .map(|sample| SampleRow {
                    at_ms: arriving.corrected_ms(sample.at_ms),
                    line: sample.line.clone(),
                    before: sample.before.clone(),
                    after: sample.after.clone(),
                })
                .collect();
            let mut samples = to_json(&samples)?;
            if bytes + samples.len() > SAMPLES_BYTES_MAX {
                samples = "[]".into();
            }
            bytes += samples.len();
            rows.push(NewHit {
                last_ms: arriving.corrected_ms(hit.last_ms),
                host: header.host.0.as_slice(),
                epoch: signed(header.epoch),
                seq: signed(header.seq),
                ordinal,
                entity: signed(hit.entity.0),
                rule: hit.rule.as_str(),
                severity: i16::from(hit.severity.code()),
                hits: i64::try_from(hit.count).unwrap_or(i64::MAX),
                first_ms: arriving.corrected_ms(hit.first_ms),
                samples,
            });
        }
        for rows in rows.chunks(INSERT_ROWS_MAX) {
            insert_many!(connection, keyword_hit::table, rows)?;
        }
    }
    Ok(())
}

pub(super) fn insert_events(connection: &mut Conn, fresh: &[&Arriving]) -> Tx<()> {
    for arriving in fresh {
        let header = &arriving.header;
        let mut rows = Vec::new();
        for (ordinal, event) in (0_i32..).zip(&arriving.urgent.events) {
            rows.push(NewEvent {
                at_ms: arriving.corrected_ms(event.at_ms),
                host: header.host.0.as_slice(),
                epoch: signed(header.epoch),
                seq: signed(header.seq),
                ordinal,
                entity: signed(event.entity.0),
                kind: word(&event.kind)?,
                code: event.code,
                detail: event.detail.as_str(),
            });
        }
        for rows in rows.chunks(INSERT_ROWS_MAX) {
            insert_many!(connection, engine_event::table, rows)?;
        }
    }
    Ok(())
}

type HitRow = (Vec<u8>, i64, String, i16, i64, i64, i64, String);
type EventRow = (Vec<u8>, i64, i64, String, i32, String);

impl Store {
    /// Keyword hits of one host or of all, whose last line was read in `[from_ms, to_ms)`; newest first.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn hits(
        &self,
        host: Option<HostId>,
        from_ms: i64,
        to_ms: i64,
        limit: i64,
    ) -> Result<Vec<StoredHit>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<HitRow>> {
            let mut query = keyword_hit::table
                .filter(keyword_hit::last_ms.ge(from_ms))
                .filter(keyword_hit::last_ms.lt(to_ms))
                .select((
                    keyword_hit::host,
                    keyword_hit::entity,
                    keyword_hit::rule,
                    keyword_hit::severity,
                    keyword_hit::hits,
                    keyword_hit::first_ms,
                    keyword_hit::last_ms,
                    keyword_hit::samples,
                ))
                .order(keyword_hit::last_ms.desc())
                .limit(limit.clamp(0, ROWS_MAX))
                .into_boxed();
            if let Some(host) = host {
                query = query.filter(keyword_hit::host.eq(host.0.to_vec()));
            }
            Ok(query.load(connection)?)
        };
        self.inner.pool.read(load).await?.into_iter().map(stored_hit).collect()
    }

    /// Engine events of one host or of all in `[from_ms, to_ms)`; newest first.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn events(
        &self,
        host: Option<HostId>,
        from_ms: i64,
        to_ms: i64,
        limit: i64,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<EventRow>> {
            let mut query = engine_event::table
                .filter(engine_event::at_ms.ge(from_ms))
                .filter(engine_event::at_ms.lt(to_ms))
                .select((
                    engine_event::host,
                    engine_event::entity,
                    engine_event::at_ms,
                    engine_event::kind,
                    engine_event::code,
                    engine_event::detail,
                ))
                .order(engine_event::at_ms.desc())
                .limit(limit.clamp(0, ROWS_MAX))
                .into_boxed();
            if let Some(host) = host {
                query = query.filter(engine_event::host.eq(host.0.to_vec()));
            }
            Ok(query.load(connection)?)
        };
        self.inner.pool.read(load).await?.into_iter().map(stored_event).collect()
    }
}

fn stored_hit(row: HitRow) -> Result<StoredHit, StoreError> {
    let (host, entity, rule, code, hits, first_ms, last_ms, samples) = row;
    let samples: Vec<SampleRow> = from_json("lines of a keyword hit", &samples)?;
    let hit = KeywordHit {
        entity: EntityId(unsigned(entity)),
        rule,
        severity: severity(code)?,
        count: u64::try_from(hits).unwrap_or(0),
        first_ms,
        last_ms,
        samples: samples
            .into_iter()
            .map(|row| LogSample { at_ms: row.at_ms, line: row.line, before: row.before, after: row.after })
            .collect(),
    };
    Ok(StoredHit { host: host_id(&host)?, hit })
}

fn stored_event(row: EventRow) -> Result<StoredEvent, StoreError> {
    let (host, entity, at_ms, kind, code, detail) = row;
    let event = EngineEvent { entity: EntityId(unsigned(entity)), at_ms, kind: from_word(&kind)?, code, detail };
    Ok(StoredEvent { host: host_id(&host)?, event })
}
