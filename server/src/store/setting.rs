//! What people set up: site values, channels, rules, users and their sessions, and the record of who did what.

use diesel::prelude::*;
use forewarn_common::keyword::Severity;

use super::connection::{Conn, Tx};
use super::schema::{audit, channel, person, rule, session, site_value};
use super::{Store, StoreError, from_json, from_word, severity, sha256, signed, sound, to_json, word};
use crate::model::channel::{ChannelKind, Language};
use crate::model::rule::Rule;
use crate::model::user::{Session, User};

/// Bytes of an audit entry's detail that are kept.
const DETAIL_BYTES_MAX: usize = 4096;

/// A channel as it is kept: address and signature key are sealed by the caller, who alone has the site key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedChannel {
    /// Hex of 8 random bytes.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What speaks on the other side.
    pub kind: ChannelKind,
    /// The language of its messages.
    pub language: Language,
    /// Incidents below this severity are not sent.
    pub severity_min: Severity,
    /// Whether anything is sent.
    pub send: bool,
    /// Address and signature key, encrypted.
    pub sealed: Vec<u8>,
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// Who.
    pub user: String,
    /// What, a word for programs.
    pub action: String,
    /// With what; never a secret.
    pub detail: String,
}

type ChannelRow = (String, String, String, String, i16, bool, Vec<u8>);

impl Store {
    /// A value of the site.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn site_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        let load = move |connection: &mut Conn| -> Tx<Option<Vec<u8>>> {
            Ok(site_value::table.find(name.as_str()).select(site_value::value).first(connection).optional()?)
        };
        self.inner.pool.read(load).await
    }

    /// Writes a value of the site unless there is one; returns the one that is there afterwards, the first for ever.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn site_put_if_absent(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let name = name.to_owned();
        self.inner
            .pool
            .write(move |connection| {
                let found: Option<Vec<u8>> =
                    site_value::table.find(name.as_str()).select(site_value::value).first(connection).optional()?;
                if let Some(found) = found {
                    return Ok(found);
                }
                // Somebody faster makes this a duplicate key: the transaction runs again and finds theirs.
                diesel::insert_into(site_value::table)
                    .values((site_value::name.eq(name.as_str()), site_value::value.eq(value.as_slice())))
                    .execute(connection)?;
                Ok(value.clone())
            })
            .await
    }

    /// Writes a value of the site.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn site_put(&self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.inner
            .pool
            .write(move |connection| {
                let set = site_value::value.eq(value.as_slice());
                if diesel::update(site_value::table.find(name.as_str())).set(set).execute(connection)? == 0 {
                    diesel::insert_into(site_value::table)
                        .values((site_value::name.eq(name.as_str()), set))
                        .execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// All channels, by name.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn channels(&self) -> Result<Vec<SealedChannel>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<ChannelRow>> {
            Ok(channel::table.order((channel::name, channel::id)).load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?;
        let channel = |(id, name, kind, language, severity_min, send, sealed): ChannelRow| {
            let (kind, language) = (from_word(&kind)?, from_word(&language)?);
            Ok(SealedChannel { id, name, kind, language, severity_min: severity(severity_min)?, send, sealed })
        };
        Ok(sound(rows.into_iter().map(channel)))
    }

    /// Adds a channel or replaces the one with its id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn channel_save(&self, new: &SealedChannel) -> Result<(), StoreError> {
        let (new, kind, language) = (new.clone(), word(&new.kind)?, word(&new.language)?);
        self.inner
            .pool
            .write(move |connection| {
                let values = (
                    channel::name.eq(new.name.as_str()),
                    channel::kind.eq(kind.as_str()),
                    channel::language.eq(language.as_str()),
                    channel::severity_min.eq(i16::from(new.severity_min.code())),
                    channel::send.eq(new.send),
                    channel::sealed.eq(new.sealed.as_slice()),
                );
                let id = new.id.as_str();
                if diesel::update(channel::table.find(id)).set(values).execute(connection)? == 0 {
                    diesel::insert_into(channel::table).values((channel::id.eq(id), values)).execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// Removes a channel; false when there is none. Its deliveries stay on record.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn channel_delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.inner
            .pool
            .write(move |connection| Ok(diesel::delete(channel::table.find(id.as_str())).execute(connection)? == 1))
            .await
    }

    /// All rules, by id.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn rules(&self) -> Result<Vec<Rule>, StoreError> {
        let load =
            |connection: &mut Conn| -> Tx<Vec<(String, String)>> { Ok(rule::table.order(rule::id).load(connection)?) };
        let rows = self.inner.pool.read(load).await?;
        Ok(sound(rows.into_iter().map(|(id, body)| from_json(&format!("rule {id}"), &body))))
    }

    /// Adds a rule or replaces the one with its id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rule_save(&self, new: &Rule) -> Result<(), StoreError> {
        let (id, body) = (new.id.clone(), to_json(new)?);
        self.inner
            .pool
            .write(move |connection| {
                let set = rule::body.eq(body.as_str());
                if diesel::update(rule::table.find(id.as_str())).set(set).execute(connection)? == 0 {
                    diesel::insert_into(rule::table).values((rule::id.eq(id.as_str()), set)).execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// Removes a rule; `false` when there was none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rule_delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        let write =
            move |connection: &mut Conn| Ok(diesel::delete(rule::table.find(id.as_str())).execute(connection)? == 1);
        self.inner.pool.write(write).await
    }

    /// All users, by name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<(String, String, i64)>> {
            Ok(person::table.order(person::name).load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?;
        Ok(rows.into_iter().map(|(name, password_hash, created_ms)| User { name, password_hash, created_ms }).collect())
    }

    /// One user.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        let name = name.to_owned();
        let load = move |connection: &mut Conn| -> Tx<Option<(String, String, i64)>> {
            Ok(person::table.find(name.as_str()).first(connection).optional()?)
        };
        let row = self.inner.pool.read(load).await?;
        Ok(row.map(|(name, password_hash, created_ms)| User { name, password_hash, created_ms }))
    }

    /// Adds a user or replaces the password of the one with this name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn user_save(&self, new: &User) -> Result<(), StoreError> {
        let new = new.clone();
        self.inner
            .pool
            .write(move |connection| {
                let set = person::password_hash.eq(new.password_hash.as_str());
                let name = new.name.as_str();
                if diesel::update(person::table.find(name)).set(set).execute(connection)? == 0 {
                    diesel::insert_into(person::table)
                        .values((person::name.eq(name), set, person::created_ms.eq(new.created_ms)))
                        .execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// Removes a user and their sessions; false when there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn user_delete(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.inner
            .pool
            .write(move |connection| {
                diesel::delete(session::table.filter(session::person.eq(name.as_str()))).execute(connection)?;
                Ok(diesel::delete(person::table.find(name.as_str())).execute(connection)? == 1)
            })
            .await
    }

    /// Keeps a session.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn session_put(&self, new: &Session) -> Result<(), StoreError> {
        let new = new.clone();
        self.inner
            .pool
            .write(move |connection| {
                let values = (session::person.eq(new.user.as_str()), session::expires_ms.eq(new.expires_ms));
                let id = new.secret_sha256.as_slice();
                if diesel::update(session::table.find(id)).set(values).execute(connection)? == 0 {
                    diesel::insert_into(session::table)
                        .values((session::secret_sha256.eq(id), values))
                        .execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// The session of a cookie, unless it has ended.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn session_get(&self, secret_sha256: [u8; 32], now_ms: i64) -> Result<Option<Session>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Option<(Vec<u8>, String, i64)>> {
            let row = session::table.find(secret_sha256.as_slice()).filter(session::expires_ms.gt(now_ms));
            Ok(row.first(connection).optional()?)
        };
        let row = self.inner.pool.read(load).await?;
        row.map(|(secret, user, expires_ms)| Ok(Session { secret_sha256: sha256(&secret)?, user, expires_ms }))
            .transpose()
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn session_delete(&self, secret_sha256: [u8; 32]) -> Result<(), StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                diesel::delete(session::table.find(secret_sha256.as_slice())).execute(connection)?;
                Ok(())
            })
            .await
    }

    /// Forgets the sessions that have ended; says how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn sessions_expire(&self, now_ms: i64) -> Result<usize, StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                Ok(diesel::delete(session::table.filter(session::expires_ms.le(now_ms))).execute(connection)?)
            })
            .await
    }

    /// Records who did what.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn audit(&self, now_ms: i64, user: &str, action: &str, detail: &str) -> Result<(), StoreError> {
        let nonce = forewarn_common::id::random_u64().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let (user, action) = (user.to_owned(), action.to_owned());
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        let detail = detail[..end].to_owned();
        self.inner
            .pool
            .write(move |connection| {
                diesel::insert_into(audit::table)
                    .values((
                        audit::at_ms.eq(now_ms),
                        audit::nonce.eq(signed(nonce)),
                        audit::person.eq(user.as_str()),
                        audit::action.eq(action.as_str()),
                        audit::detail.eq(detail.as_str()),
                    ))
                    .execute(connection)?;
                Ok(())
            })
            .await
    }

    /// The last entries of the record, newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn audit_last(&self, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<(i64, String, String, String)>> {
            Ok(audit::table
                .order((audit::at_ms.desc(), audit::nonce.desc()))
                .limit(limit.clamp(0, 1000))
                .select((audit::at_ms, audit::person, audit::action, audit::detail))
                .load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?;
        Ok(rows.into_iter().map(|(at_ms, user, action, detail)| AuditEntry { at_ms, user, action, detail }).collect())
    }
}
