//! The store: everything of value, in SQLite or MySQL, behind methods that take and return model types.
//!
//! The only room that knows diesel. Rows, SQL and connections stay inside; "now" is always handed in; nothing here
//! judges, forecasts or sends.

pub mod archive;
mod cache;
mod column;
mod compact;
mod connection;
mod delivery;
mod fold;
mod forecast;
mod host;
mod incident;
mod last;
mod log;
mod many;
mod model;
mod mysql;
mod push;
mod rank;
mod read;
mod receipt;
mod schema;
mod server;
mod setting;
mod setup;
mod size;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forewarn_common::block::Layout;
use forewarn_common::id::{HostId, LayoutId, random_u64};

pub use compact::{CompactReport, RetainReport, Retention};
pub use forecast::StoredForecast;
pub use incident::{Firing, IncidentFilter};
pub use log::{StoredEvent, StoredHit};
pub use model::{ADOPTIONS_MAX, MODELS_MAX};
pub use push::{Arriving, BLOCK_SPAN_MS_MAX, PushOutcome};
pub use rank::{RankBy, Ranking};
pub use read::{Latest, Reading, Wanted};
pub use setting::{AuditEntry, SealedChannel};
pub use size::{Room, Sizes, TierSize};

use connection::{Place, Pool};

/// The value of the site that is written to find out whether the database takes anything.
const PROBE: &str = "write_probe";
const PROBE_BYTES: usize = 256 << 10;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or did not answer; what was to be written is not.
    #[error("database is not available: {0}")]
    Unavailable(String),
    /// Too many others wanted the same rows; try again.
    #[error("database is busy, try again")]
    Busy,
    /// Somebody changed it in between, or it exists already; read again.
    #[error("changed by somebody else in between, read it again")]
    Conflict,
    /// A row is damaged.
    #[error("damaged row: {0}")]
    Corrupt(String),
    /// The database was written by a newer release.
    #[error(
        "the database has schema {found}, this release knows schemas up to {known}: run the newer release, or restore \
         a backup made by this one"
    )]
    NewerSchema {
        /// The newest applied migration.
        found: String,
        /// The newest that this release knows.
        known: String,
    },
    /// The database cannot be used as it is set up.
    #[error("{0}")]
    Setup(String),
    /// What was asked for or was to be stored breaks a limit.
    #[error("{0}")]
    Refused(String),
}

/// The store. Clones share connections and caches.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    /// Layouts never change and are never deleted, so what was read once stays true.
    layouts: RwLock<HashMap<LayoutId, Arc<Layout>>>,
    /// What this process knows to be in the database of each host; only ever less than the truth.
    known: Mutex<HashMap<HostId, Arc<push::Known>>>,
    /// What this process wrote last of each host.
    marks: Mutex<HashMap<HostId, push::Mark>>,
    /// Merged rows that were read lately.
    rows: Mutex<cache::Rows>,
}

impl Store {
    /// Opens the database, brings its schema up to date, and says what was found: one sentence a finding.
    ///
    /// # Errors
    /// The URL is not understood, the database cannot be reached or used, or its schema is newer than this release.
    pub async fn open(url: &str) -> Result<(Self, Vec<String>), StoreError> {
        let pool = Pool::new(Place::of(url)?);
        let found = pool.bare(setup::prepare).await?;
        let inner = Inner {
            pool,
            layouts: RwLock::default(),
            known: Mutex::default(),
            marks: Mutex::default(),
            rows: Mutex::new(cache::Rows::new(0)),
        };
        Ok((Self { inner: Arc::new(inner) }, found))
    }

    /// Keeps up to so many bytes of merged rows that were read lately; none before this is said.
    pub fn set_cache_bytes(&self, bytes_max: usize) {
        *self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner) = cache::Rows::new(bytes_max);
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner
            .pool
            .read(|connection| {
                use diesel::prelude::*;
                let _: i64 = schema::rule::table.count().get_result(connection)?;
                Ok(())
            })
            .await
    }

    /// Whether the database takes what is written. Writes itself only when the last transaction that wrote failed.
    ///
    /// # Errors
    /// It does not: it is full, read-only or gone.
    pub async fn ping_write(&self) -> Result<(), StoreError> {
        if self.inner.pool.write_fails() {
            // Large enough that it does not fit where a group of blocks does not; another one each time, because MySQL
            // does not write what is there already.
            let filling = random_u64().unwrap_or(0).to_le_bytes()[0];
            self.site_put(PROBE, vec![filling; PROBE_BYTES]).await?;
            self.site_put(PROBE, Vec::new()).await?;
        }
        Ok(())
    }

    /// How many columns a layout has; `None` while this process has not read it.
    #[must_use]
    pub fn columns(&self, id: LayoutId) -> Option<usize> {
        self.layout(id).map(|layout| layout.metrics.len())
    }

    fn layout(&self, id: LayoutId) -> Option<Arc<Layout>> {
        self.inner.layouts.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn learn_layouts(&self, layouts: impl IntoIterator<Item = (LayoutId, Arc<Layout>)>) {
        self.inner.layouts.write().unwrap_or_else(PoisonError::into_inner).extend(layouts);
    }
}

/// 64 bits as the databases keep them.
fn signed(bits: u64) -> i64 {
    bits as i64
}

/// 64 bits as they were.
fn unsigned(kept: i64) -> u64 {
    kept as u64
}

fn host_id(bytes: &[u8]) -> Result<HostId, StoreError> {
    let id = bytes.try_into().map_err(|_| StoreError::Corrupt(format!("host id of {} bytes", bytes.len())))?;
    Ok(HostId(id))
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt(format!("sha256 of {} bytes", bytes.len())))
}

/// The word that serde gives a unit variant, for columns that people read.
fn word<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(StoreError::Refused("a value without a word of its own".into())),
    }
}

fn from_word<T: serde::de::DeserializeOwned>(word: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|error| StoreError::Corrupt(format!("word {word:?}: {error}")))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Refused(error.to_string()))
}

fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("{what}: {error}")))
}

/// The rows that are understood: a damaged one is told, and does not stop what works with the others.
fn sound<T>(rows: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    let told = |row: Result<T, StoreError>| {
        row.inspect_err(
            |error| tracing::error!(%error, "Passed over a damaged row; `forewarn-server verify` tells what else is"),
        )
        .ok()
    };
    rows.filter_map(told).collect()
}

fn severity(code: i16) -> Result<forewarn_common::keyword::Severity, StoreError> {
    u8::try_from(code)
        .ok()
        .and_then(forewarn_common::keyword::Severity::from_code)
        .ok_or_else(|| StoreError::Corrupt(format!("severity {code}")))
}
