//! The outbox: deliveries wait here until a server claims them, under a lease, by compare-and-set.

use std::collections::HashMap;

use diesel::prelude::*;

use super::connection::{Conn, Tx};
use super::incident::IncidentRow;
use super::schema::{channel, delivery, incident};
use super::{Store, StoreError, from_word, sound, word};
use crate::model::channel::{Delivery, DeliveryState};
use crate::model::incident::{Incident, Transition};

/// Bytes of a receiver's answer that are kept.
const ANSWER_BYTES_MAX: usize = 2048;
/// Deliveries claimed at once.
const CLAIM_MAX: i64 = 200;
/// Incidents whose deliveries one question may name.
const IDS_MAX: usize = 1000;

#[derive(Queryable, Selectable)]
#[diesel(table_name = delivery)]
struct DeliveryRow {
    id: String,
    incident: String,
    channel: String,
    transition: String,
    state: String,
    attempts: i32,
    due_ms: i64,
    created_ms: i64,
    done_ms: Option<i64>,
    answer: String,
}

impl DeliveryRow {
    fn model(self) -> Result<Delivery, StoreError> {
        let transition = Transition::from_word(&self.transition)
            .ok_or_else(|| StoreError::Corrupt(format!("transition {:?} of delivery {}", self.transition, self.id)))?;
        Ok(Delivery {
            transition,
            state: from_word(&self.state)?,
            id: self.id,
            incident: self.incident,
            channel: self.channel,
            attempts: self.attempts,
            due_ms: self.due_ms,
            created_ms: self.created_ms,
            done_ms: self.done_ms,
            answer: self.answer,
        })
    }
}

fn short(answer: &str) -> &str {
    let mut end = answer.len().min(ANSWER_BYTES_MAX);
    while !answer.is_char_boundary(end) {
        end -= 1;
    }
    &answer[..end]
}

pub(super) fn new_row(connection: &mut Conn, new: &Delivery) -> Tx<()> {
    diesel::insert_into(delivery::table)
        .values((
            delivery::id.eq(new.id.as_str()),
            delivery::incident.eq(new.incident.as_str()),
            delivery::channel.eq(new.channel.as_str()),
            delivery::transition.eq(new.transition.word()),
            delivery::state.eq(word(&new.state)?),
            delivery::attempts.eq(new.attempts),
            delivery::due_ms.eq(new.due_ms),
            delivery::created_ms.eq(new.created_ms),
            delivery::done_ms.eq(new.done_ms),
            delivery::answer.eq(short(&new.answer)),
            delivery::lease_ms.eq(0_i64),
            delivery::lease_owner.eq(""),
            delivery::fence.eq(0_i64),
        ))
        .execute(connection)?;
    Ok(())
}

impl Store {
    /// Claims up to `limit` deliveries that are due, oldest first, with their incidents. Until `now_ms + lease_ms`
    /// nobody else gets them.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn deliveries_claim(
        &self,
        now_ms: i64,
        lease_ms: i64,
        owner: &str,
        limit: i64,
    ) -> Result<Vec<(Delivery, Incident)>, StoreError> {
        let owner = owner.to_owned();
        let claim = move |connection: &mut Conn| -> Tx<Vec<(DeliveryRow, IncidentRow)>> {
            let due: Vec<(String, i64)> = delivery::table
                .filter(delivery::state.eq("queued"))
                .filter(delivery::due_ms.le(now_ms))
                .filter(delivery::lease_ms.le(now_ms))
                .order((delivery::due_ms, delivery::id))
                .limit(limit.clamp(0, CLAIM_MAX))
                .select((delivery::id, delivery::fence))
                .load(connection)?;
            let mut claimed = Vec::new();
            for (id, fence) in due {
                let same = delivery::table
                    .find(id.as_str())
                    .filter(delivery::fence.eq(fence))
                    .filter(delivery::state.eq("queued"));
                let count = diesel::update(same)
                    .set((
                        delivery::lease_ms.eq(now_ms.saturating_add(lease_ms)),
                        delivery::lease_owner.eq(owner.as_str()),
                        delivery::fence.eq(fence + 1),
                    ))
                    .execute(connection)?;
                if count != 1 {
                    continue;
                }
                let row = delivery::table.find(id.as_str()).select(DeliveryRow::as_select()).first(connection)?;
                let of = incident::table
                    .find(row.incident.as_str())
                    .select(IncidentRow::as_select())
                    .first(connection)
                    .optional()?;
                claimed.extend(of.map(|incident| (row, incident)));
            }
            Ok(claimed)
        };
        let rows = self.inner.pool.write(claim).await?;
        Ok(sound(rows.into_iter().map(|(delivery, incident)| Ok((delivery.model()?, incident.model()?)))))
    }

    /// Writes what became of a claimed delivery (its state, answer, attempts, due and done times) and ends the lease.
    /// False when the lease has passed to another owner meanwhile: nothing is written.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delivery_finish(&self, owner: &str, done: &Delivery) -> Result<bool, StoreError> {
        let (owner, done, state) = (owner.to_owned(), done.clone(), word(&done.state)?);
        self.inner
            .pool
            .write(move |connection| {
                let mine = delivery::table.find(done.id.as_str()).filter(delivery::lease_owner.eq(owner.as_str()));
                let count = diesel::update(mine)
                    .set((
                        delivery::state.eq(state.as_str()),
                        delivery::answer.eq(short(&done.answer)),
                        delivery::attempts.eq(done.attempts),
                        delivery::due_ms.eq(done.due_ms),
                        delivery::done_ms.eq(done.done_ms),
                        delivery::lease_ms.eq(0_i64),
                        delivery::lease_owner.eq(""),
                    ))
                    .execute(connection)?;
                Ok(count == 1)
            })
            .await
    }

    /// All deliveries of some incidents, oldest first.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn deliveries_of(&self, incidents: &[String]) -> Result<Vec<Delivery>, StoreError> {
        if incidents.len() > IDS_MAX {
            return Err(StoreError::Refused(format!("deliveries of more than {IDS_MAX} incidents asked for at once")));
        }
        let incidents = incidents.to_vec();
        let load = move |connection: &mut Conn| -> Tx<Vec<DeliveryRow>> {
            Ok(delivery::table
                .filter(delivery::incident.eq_any(&incidents))
                .order((delivery::created_ms, delivery::id))
                .select(DeliveryRow::as_select())
                .load(connection)?)
        };
        self.inner.pool.read(load).await?.into_iter().map(DeliveryRow::model).collect()
    }

    /// The newest delivery of each channel that has one.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn last_deliveries(&self) -> Result<HashMap<String, Delivery>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<DeliveryRow>> {
            let channels: Vec<String> = channel::table.select(channel::id).load(connection)?;
            let mut rows = Vec::new();
            for id in channels {
                let newest = delivery::table
                    .filter(delivery::channel.eq(id))
                    .order((delivery::created_ms.desc(), delivery::id.desc()))
                    .select(DeliveryRow::as_select())
                    .first(connection)
                    .optional()?;
                rows.extend(newest);
            }
            Ok(rows)
        };
        let rows = self.inner.pool.read(load).await?;
        rows.into_iter().map(|row| row.model().map(|delivery| (delivery.channel.clone(), delivery))).collect()
    }

    /// How many deliveries wait to be sent.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deliveries_queued(&self) -> Result<i64, StoreError> {
        let queued = word(&DeliveryState::Queued)?;
        self.inner
            .pool
            .read(move |connection| {
                Ok(delivery::table.filter(delivery::state.eq(queued.as_str())).count().get_result(connection)?)
            })
            .await
    }
}
