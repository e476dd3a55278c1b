//! Hosts, their entities, their keys, and the tokens that let them in.

use diesel::prelude::*;
use forewarn_common::block::Entity;
use forewarn_common::id::HostId;

use super::connection::{Conn, Tx, TxError};
use super::schema::{entity, host, host_state, token};
use super::{Store, StoreError, host_id, sha256, sound};
use crate::model::host::{Host, KnownEntity, Token};

type HostRow = (Vec<u8>, String, String, i64, String);
type StateRow = (Vec<u8>, i64, i64);
type EntityRow = (Vec<u8>, i64, i64, i64, Vec<u8>);

impl Store {
    /// Adds a token.
    ///
    /// # Errors
    /// The database does not answer, or the token exists.
    pub async fn token_create(&self, new: &Token) -> Result<(), StoreError> {
        let new = new.clone();
        self.inner
            .pool
            .write(move |connection| {
                diesel::insert_into(token::table)
                    .values((
                        token::id.eq(new.id.as_str()),
                        token::secret_sha256.eq(new.secret_sha256.as_slice()),
                        token::created_ms.eq(new.created_ms),
                        token::expires_ms.eq(new.expires_ms),
                        token::uses_left.eq(new.uses_left),
                    ))
                    .execute(connection)?;
                Ok(())
            })
            .await
    }

    /// Uses a token up by one; `None` when there is none, it has ended or is used up.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn token_redeem(&self, secret_sha256: [u8; 32], now_ms: i64) -> Result<Option<()>, StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                let sound = token::table
                    .filter(token::secret_sha256.eq(secret_sha256.as_slice()))
                    .filter(token::expires_ms.gt(now_ms))
                    .filter(token::uses_left.gt(0));
                let found: Option<(String, i32)> =
                    sound.select((token::id, token::uses_left)).first(connection).optional()?;
                let Some((id, uses_left)) = found else { return Ok(None) };
                let same = token::table.find(id).filter(token::uses_left.eq(uses_left));
                let count = diesel::update(same).set(token::uses_left.eq(uses_left - 1)).execute(connection)?;
                if count == 1 { Ok(Some(())) } else { Err(TxError::Raced) }
            })
            .await
    }

    /// Lets a host in, or gives one that was in before a new name and key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn host_enroll(&self, new: &Host, key_sha256: [u8; 32]) -> Result<(), StoreError> {
        let new = new.clone();
        self.inner
            .pool
            .write(move |connection| {
                let id = new.id.0.as_slice();
                let values = (
                    host::name.eq(new.name.as_str()),
                    host::component.eq(new.component.as_str()),
                    host::agent_version.eq(new.agent_version.as_str()),
                    host::key_sha256.eq(key_sha256.as_slice()),
                );
                if diesel::update(host::table.find(id)).set(values).execute(connection)? == 0 {
                    diesel::insert_into(host::table)
                        .values((host::id.eq(id), host::enrolled_ms.eq(new.enrolled_ms), values))
                        .execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// The hash of every agent's key.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn agent_keys(&self) -> Result<Vec<(HostId, [u8; 32])>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<(Vec<u8>, Vec<u8>)>> {
            Ok(host::table.select((host::id, host::key_sha256)).load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?;
        rows.into_iter().map(|(id, key)| Ok((host_id(&id)?, sha256(&key)?))).collect()
    }

    /// The hash of one agent's key.
    ///
    /// # Errors
    /// The database does not answer, or the row is damaged.
    pub async fn agent_key(&self, id: HostId) -> Result<Option<[u8; 32]>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Option<Vec<u8>>> {
            Ok(host::table.find(id.0.as_slice()).select(host::key_sha256).first(connection).optional()?)
        };
        self.inner.pool.read(load).await?.map(|key| sha256(&key)).transpose()
    }

    /// All hosts, by name.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn hosts(&self) -> Result<Vec<Host>, StoreError> {
        self.hosts_where(None).await
    }

    /// One host.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn host(&self, id: HostId) -> Result<Option<Host>, StoreError> {
        Ok(self.hosts_where(Some(id)).await?.pop())
    }

    async fn hosts_where(&self, id: Option<HostId>) -> Result<Vec<Host>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<(Vec<HostRow>, Vec<StateRow>)> {
            let mut hosts = host::table
                .select((host::id, host::name, host::component, host::enrolled_ms, host::agent_version))
                .order((host::name, host::id))
                .into_boxed();
            let mut states =
                host_state::table.select((host_state::host, host_state::seen_ms, host_state::skew_ms)).into_boxed();
            if let Some(id) = id {
                hosts = hosts.filter(host::id.eq(id.0.to_vec()));
                states = states.filter(host_state::host.eq(id.0.to_vec()));
            }
            Ok((hosts.load(connection)?, states.load(connection)?))
        };
        let (hosts, states) = self.inner.pool.read(load).await?;
        let states: std::collections::HashMap<Vec<u8>, (i64, i64)> =
            states.into_iter().map(|(host, seen_ms, skew_ms)| (host, (seen_ms, skew_ms))).collect();
        hosts
            .into_iter()
            .map(|(id, name, component, enrolled_ms, agent_version)| {
                let (seen_ms, skew_ms) = states.get(&id).copied().unwrap_or((0, 0));
                Ok(Host { id: host_id(&id)?, name, component, enrolled_ms, seen_ms, skew_ms, agent_version })
            })
            .collect()
    }

    /// The entities of one host, or of all, without what is damaged.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn entities(&self, of: Option<HostId>) -> Result<Vec<KnownEntity>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<EntityRow>> {
            let mut query = entity::table.into_boxed();
            if let Some(host) = of {
                query = query.filter(entity::host.eq(host.0.to_vec()));
            }
            Ok(query.load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?;
        let known = |(host, id, first_ms, updated_ms, record): EntityRow| {
            let host = host_id(&host)?;
            let entity = Entity::decode(&record)
                .map_err(|error| StoreError::Corrupt(format!("entity {id:016x} of host {host}: {error}")))?;
            Ok(KnownEntity { host, entity, first_ms, updated_ms })
        };
        Ok(sound(rows.into_iter().map(known)))
    }
}
