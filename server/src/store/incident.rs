//! Incidents, written together with the deliveries that they cause.
//!
//! At most one incident is open per subject: its `open_key` is the subject's hash while it is open and its own id
//! afterwards, under a unique index.

use std::collections::HashMap;

use diesel::prelude::*;
use forewarn_common::id::{EntityId, HostId};
use sha2::{Digest, Sha256};

use super::connection::{Conn, Tx, TxError};
use super::delivery::new_row;
use super::schema::{delivery, incident};
use super::{Store, StoreError, from_json, from_word, host_id, severity, signed, sound, to_json, unsigned, word};
use crate::model::channel::Delivery;
use crate::model::incident::{Incident, IncidentKind, IncidentState, Subject};

/// Incidents of one page.
const PAGE_MAX: i64 = 500;
/// Open incidents that one question returns: far more than anybody can act on.
const OPEN_MAX: i64 = 100_000;

/// Incidents of a host that fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Firing {
    /// Warnings and alarms.
    pub all: u32,
    /// Alarms alone.
    pub alarms: u32,
}

/// Which incidents to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IncidentFilter {
    /// Of this host only.
    pub host: Option<HostId>,
    /// Pending and firing ones only.
    pub open_only: bool,
    /// Without the pending ones, and those that ended before they fired: people are shown what was told.
    pub fired_only: bool,
    /// Without those that were resolved before this moment.
    pub resolved_from_ms: Option<i64>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = incident)]
pub(super) struct IncidentRow {
    id: String,
    rule: String,
    host: Vec<u8>,
    entity: i64,
    instance: String,
    kind: String,
    state: String,
    severity: i16,
    opened_ms: i64,
    fired_ms: Option<i64>,
    resolved_ms: Option<i64>,
    updated_ms: i64,
    evidence: String,
    revision: i64,
}

impl IncidentRow {
    pub(super) fn model(self) -> Result<Incident, StoreError> {
        Ok(Incident {
            evidence: from_json(&format!("evidence of incident {}", self.id), &self.evidence)?,
            id: self.id,
            subject: Subject {
                rule: self.rule,
                host: host_id(&self.host)?,
                entity: EntityId(unsigned(self.entity)),
                instance: self.instance,
            },
            kind: from_word(&self.kind)?,
            state: from_word(&self.state)?,
            severity: severity(self.severity)?,
            opened_ms: self.opened_ms,
            fired_ms: self.fired_ms,
            resolved_ms: self.resolved_ms,
            updated_ms: self.updated_ms,
            revision: self.revision,
        })
    }
}

fn open_key(of: &Incident) -> String {
    if of.state == IncidentState::Resolved {
        return format!("resolved-{}", of.id);
    }
    let mut hasher = Sha256::new();
    for part in [of.subject.rule.as_bytes(), &of.subject.host.0, &of.subject.entity.0.to_be_bytes()] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.update(of.subject.instance.as_bytes());
    hex::encode(hasher.finalize())
}

impl Store {
    /// Saves an incident and queues its deliveries, both or neither. `expected` is the revision that the change was
    /// made from, `None` for a new incident; the incident carries the revision that it shall have.
    ///
    /// # Errors
    /// `Conflict` when somebody changed it in between, or when another incident of the same subject is open.
    pub async fn incident_save(
        &self,
        new: &Incident,
        expected: Option<i64>,
        deliveries: Vec<Delivery>,
    ) -> Result<(), StoreError> {
        if expected == Some(new.revision) {
            return Err(StoreError::Refused("a changed incident must have a revision of its own".into()));
        }
        let (kind, state) = (word(&new.kind)?, word(&new.state)?);
        let (key, evidence, new) = (open_key(new), to_json(&new.evidence)?, new.clone());
        self.inner
            .pool
            .write(move |connection| {
                let open: Option<String> = incident::table
                    .filter(incident::open_key.eq(key.as_str()))
                    .filter(incident::id.ne(new.id.as_str()))
                    .select(incident::id)
                    .first(connection)
                    .optional()?;
                if open.is_some() {
                    return Err(StoreError::Conflict.into());
                }
                let values = (
                    incident::open_key.eq(key.as_str()),
                    incident::kind.eq(kind.as_str()),
                    incident::state.eq(state.as_str()),
                    incident::severity.eq(i16::from(new.severity.code())),
                    incident::fired_ms.eq(new.fired_ms),
                    incident::resolved_ms.eq(new.resolved_ms),
                    incident::updated_ms.eq(new.updated_ms),
                    incident::evidence.eq(evidence.as_str()),
                    incident::revision.eq(new.revision),
                );
                if let Some(expected) = expected {
                    let same = incident::table.find(new.id.as_str()).filter(incident::revision.eq(expected));
                    if diesel::update(same).set(values).execute(connection)? != 1 {
                        return Err(StoreError::Conflict.into());
                    }
                } else {
                    let there: Option<i64> = incident::table
                        .find(new.id.as_str())
                        .select(incident::revision)
                        .first(connection)
                        .optional()?;
                    if there.is_some() {
                        return Err(StoreError::Conflict.into());
                    }
                    diesel::insert_into(incident::table)
                        .values((
                            incident::id.eq(new.id.as_str()),
                            incident::rule.eq(new.subject.rule.as_str()),
                            incident::host.eq(new.subject.host.0.as_slice()),
                            incident::entity.eq(signed(new.subject.entity.0)),
                            incident::instance.eq(new.subject.instance.as_str()),
                            incident::opened_ms.eq(new.opened_ms),
                            values,
                        ))
                        .execute(connection)?;
                }
                queue(connection, &deliveries)
            })
            .await
    }

    /// Deletes a pending incident that came to nothing. `expected` is the revision that was seen.
    ///
    /// # Errors
    /// `Conflict` when somebody changed it in between.
    pub async fn incident_forget(&self, id: &str, expected: i64) -> Result<(), StoreError> {
        let (id, pending) = (id.to_owned(), word(&IncidentState::Pending)?);
        self.inner
            .pool
            .write(move |connection| {
                let same = incident::table
                    .find(id.as_str())
                    .filter(incident::revision.eq(expected))
                    .filter(incident::state.eq(pending.as_str()));
                if diesel::delete(same).execute(connection)? == 1 { Ok(()) } else { Err(StoreError::Conflict.into()) }
            })
            .await
    }

    /// All pending and firing incidents.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn open_incidents(&self) -> Result<Vec<Incident>, StoreError> {
        self.open_where(None).await
    }

    /// The pending and firing incidents of one host.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn open_incidents_of(&self, host: HostId) -> Result<Vec<Incident>, StoreError> {
        self.open_where(Some(host)).await
    }

    async fn open_where(&self, host: Option<HostId>) -> Result<Vec<Incident>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<IncidentRow>> {
            let mut query = incident::table
                .filter(incident::state.eq_any(["pending", "firing"]))
                .select(IncidentRow::as_select())
                .order((incident::opened_ms, incident::id))
                .limit(OPEN_MAX)
                .into_boxed();
            if let Some(host) = host {
                query = query.filter(incident::host.eq(host.0.to_vec()));
            }
            Ok(query.load(connection)?)
        };
        Ok(sound(self.inner.pool.read(load).await?.into_iter().map(IncidentRow::model)))
    }

    /// One incident.
    ///
    /// # Errors
    /// The database does not answer, or the row is damaged.
    pub async fn incident(&self, id: &str) -> Result<Option<Incident>, StoreError> {
        let id = id.to_owned();
        let load = move |connection: &mut Conn| -> Tx<Option<IncidentRow>> {
            let row = incident::table.find(id.as_str()).select(IncidentRow::as_select());
            Ok(row.first(connection).optional()?)
        };
        self.inner.pool.read(load).await?.map(IncidentRow::model).transpose()
    }

    /// A page of incidents, newest first, and the cursor of the next page if there is one.
    ///
    /// # Errors
    /// The database does not answer, a row is damaged, or the cursor is none of ours.
    pub async fn incidents(
        &self,
        filter: IncidentFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<Incident>, Option<String>), StoreError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = cursor.map(parse_cursor).transpose()?;
        let load = move |connection: &mut Conn| -> Tx<Vec<IncidentRow>> {
            let mut query = incident::table
                .select(IncidentRow::as_select())
                .order((incident::opened_ms.desc(), incident::id.desc()))
                .limit(limit + 1)
                .into_boxed();
            if let Some(host) = filter.host {
                query = query.filter(incident::host.eq(host.0.to_vec()));
            }
            if filter.open_only {
                query = query.filter(incident::state.eq_any(["pending", "firing"]));
            }
            if filter.fired_only {
                query = query.filter(incident::fired_ms.is_not_null());
            }
            if let Some(from_ms) = filter.resolved_from_ms {
                query = query.filter(incident::resolved_ms.is_null().or(incident::resolved_ms.ge(from_ms)));
            }
            if let Some((opened_ms, id)) = after.clone() {
                let same = incident::opened_ms.eq(opened_ms).and(incident::id.lt(id));
                query = query.filter(incident::opened_ms.lt(opened_ms).or(same));
            }
            Ok(query.load(connection)?)
        };
        let mut rows = self.inner.pool.read(load).await?;
        let more = rows.len() as i64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(0));
        let next = rows.last().filter(|_| more).map(|row| format!("{}-{}", row.opened_ms, row.id));
        let page = sound(rows.into_iter().map(IncidentRow::model));
        Ok((page, next))
    }

    /// Whether an incident of this rule is open.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn has_open_incidents(&self, rule: &str) -> Result<bool, StoreError> {
        let rule = rule.to_owned();
        let load = move |connection: &mut Conn| -> Tx<i64> {
            let open = incident::table.filter(incident::state.eq_any(["pending", "firing"]));
            Ok(open.filter(incident::rule.eq(rule.as_str())).count().get_result(connection)?)
        };
        Ok(self.inner.pool.read(load).await? > 0)
    }

    /// How many incidents are firing on each host that has one.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn firing_counts(&self) -> Result<HashMap<HostId, Firing>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<(Vec<u8>, String, i64)>> {
            let firing = incident::table.filter(incident::state.eq("firing"));
            let counts = firing.group_by((incident::host, incident::kind));
            Ok(counts.select((incident::host, incident::kind, diesel::dsl::count_star())).load(connection)?)
        };
        let mut firing: HashMap<HostId, Firing> = HashMap::new();
        for (host, kind, count) in self.inner.pool.read(load).await? {
            let (of_host, count) =
                (firing.entry(host_id(&host)?).or_default(), u32::try_from(count).unwrap_or(u32::MAX));
            of_host.all = of_host.all.saturating_add(count);
            if from_word::<IncidentKind>(&kind)? == IncidentKind::Alarm {
                of_host.alarms = count;
            }
        }
        Ok(firing)
    }
}

fn parse_cursor(cursor: &str) -> Result<(i64, String), StoreError> {
    let refused = || StoreError::Refused("the cursor must be one that a page of incidents gave".into());
    let (opened_ms, id) = cursor.split_once('-').ok_or_else(refused)?;
    Ok((opened_ms.parse().map_err(|_| refused())?, id.to_owned()))
}

/// Queues deliveries; one that is queued already, by its id, stays as it is.
fn queue(connection: &mut Conn, deliveries: &[Delivery]) -> Tx<()> {
    let ids: Vec<&str> = deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
    let there: Vec<String> = delivery::table.filter(delivery::id.eq_any(&ids)).select(delivery::id).load(connection)?;
    for new in deliveries.iter().filter(|delivery| !there.contains(&delivery.id)) {
        new_row(connection, new)?;
    }
    Ok::<(), TxError>(())
}
