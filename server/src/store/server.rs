//! The servers that work on this database: each counts its own beat up and reads those of the others.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connection::{Conn, Tx};
use super::schema::{delivery, server};
use super::{Store, StoreError};
use crate::model::server::Peer;

/// Servers of one site: far more than share one database.
const SERVERS_MAX: i64 = 1000;

impl Store {
    /// Whether several servers may work on this database: not on a file.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inner.pool.is_mysql()
    }

    /// Counts the beat of `own` up and returns all servers, the longest running first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn server_beat(&self, own: &Peer) -> Result<Vec<Peer>, StoreError> {
        let own = own.clone();
        self.inner
            .pool
            .write(move |connection| {
                let row = server::table.find(own.id.as_str());
                let count = diesel::update(row).set(server::beat.eq(server::beat + 1)).execute(connection)?;
                if count == 0 {
                    let values = (
                        server::id.eq(own.id.as_str()),
                        server::started_ms.eq(own.started_ms),
                        server::beat.eq(own.beat),
                        server::address.eq(own.address.as_str()),
                    );
                    diesel::insert_into(server::table).values(values).execute(connection)?;
                }
                let rows: Vec<(String, i64, i64, String)> =
                    server::table.order((server::started_ms, server::id)).limit(SERVERS_MAX).load(connection)?;
                let peer = |(id, started_ms, beat, address)| Peer { id, started_ms, beat, address };
                Ok(rows.into_iter().map(peer).collect())
            })
            .await
    }

    /// Strikes servers off that are gone or leave; what they had claimed of the outbox may be claimed again.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn servers_forget(&self, ids: Vec<String>) -> Result<(), StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                diesel::delete(server::table.filter(server::id.eq_any(&ids))).execute(connection)?;
                let claimed = delivery::table.filter(delivery::lease_owner.eq_any(&ids));
                diesel::update(claimed)
                    .set((
                        delivery::lease_ms.eq(0_i64),
                        delivery::lease_owner.eq(""),
                        delivery::fence.eq(delivery::fence + 1),
                    ))
                    .execute(connection)?;
                Ok(())
            })
            .await
    }

    /// The address that the database sees this server come from, if it tells one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn own_address(&self) -> Result<Option<std::net::IpAddr>, StoreError> {
        let ask = |connection: &mut Conn| -> Tx<Option<String>> {
            match connection {
                Conn::Sqlite(_) => Ok(None),
                Conn::Mysql(_) => Ok(diesel::select(sql::<Text>("USER()")).get_result(connection).optional()?),
            }
        };
        let user = self.inner.pool.read(ask).await?;
        let host = user.as_deref().and_then(|user| user.rsplit_once('@')).map(|(_, host)| host);
        Ok(host.and_then(|host| if host == "localhost" { "127.0.0.1" } else { host }.parse().ok()))
    }
}
