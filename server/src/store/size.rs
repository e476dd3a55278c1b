//! How large the database is, and what the samples in it cost.

use std::path::Path;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::connection::{Conn, Place, Tx};
use super::schema::block;
use super::{Store, StoreError};

/// The rows of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierSize {
    /// 0 as pushed, 1 hours, 2 and 3 sums of five minutes (parts, days), 4 and 5 sums of an hour (parts, months).
    pub tier: i16,
    /// Rows.
    pub rows: i64,
    /// Values in them.
    pub samples: i64,
    /// Bytes of the blobs.
    pub blob_bytes: i64,
}

/// The database as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// What the tiers hold.
    pub tiers: Vec<TierSize>,
    /// Bytes that the engine uses for all tables and indexes, freed pages apart.
    pub used_bytes: i64,
    /// Freed pages that the engine will use again.
    pub free_bytes: i64,
}

/// How much room the database takes, and how much it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// What is measured: the folder of the SQLite file, or the name of the MySQL database.
    pub place: String,
    /// Used bytes: of the whole file system of an SQLite file, of all tables of a MySQL database.
    pub used_bytes: i64,
    /// Used bytes and those still free; of a MySQL database what the settings say, if they do.
    pub total_bytes: Option<i64>,
}

impl Store {
    /// Measures the room that the database has. Cheap enough for every minute.
    ///
    /// # Errors
    /// The database does not answer, or its folder cannot be looked at.
    pub async fn room(&self, mysql_bytes_max: Option<i64>) -> Result<Room, StoreError> {
        match self.inner.pool.place() {
            Place::Sqlite(path) => room_of_file(path),
            Place::Mysql(_) => {
                let (place, used_bytes) = self.inner.pool.read(room_of_mysql).await?;
                Ok(Room { place, used_bytes, total_bytes: mysql_bytes_max })
            }
        }
    }

    /// Measures the database. Reads the length of every blob: not for every minute.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn sizes(&self) -> Result<Sizes, StoreError> {
        self.inner.pool.read(measure).await
    }
}

fn room_of_file(path: &Path) -> Result<Room, StoreError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let stat = rustix::fs::statvfs(&folder)
        .map_err(|error| StoreError::Unavailable(format!("cannot look at {}: {error}", folder.display())))?;
    // As df counts: what only root may use is neither used nor free.
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    let used_bytes = bytes(stat.f_blocks.saturating_sub(stat.f_bfree));
    let total_bytes = Some(used_bytes.saturating_add(bytes(stat.f_bavail)));
    Ok(Room { place: folder.display().to_string(), used_bytes, total_bytes })
}

fn room_of_mysql(connection: &mut Conn) -> Tx<(String, i64)> {
    let name = diesel::select(sql::<Text>("DATABASE()")).get_result(connection)?;
    let used = sql::<BigInt>(
        "(SELECT CAST(COALESCE(SUM(data_length + index_length + data_free), 0) AS SIGNED) \
         FROM information_schema.tables WHERE table_schema = DATABASE())",
    );
    Ok((name, diesel::select(used).get_result(connection)?))
}

fn measure(connection: &mut Conn) -> Tx<Sizes> {
    let sum = |expression: &str| sql::<BigInt>(&format!("CAST(COALESCE(SUM({expression}), 0) AS SIGNED)"));
    let mut tiers = Vec::new();
    for tier in super::push::TIER_PUSHED..=super::push::TIER_MONTH {
        let of_tier = block::table.filter(block::tier.eq(tier));
        tiers.push(TierSize {
            tier,
            rows: of_tier.count().get_result(connection)?,
            samples: of_tier.select(sum("samples")).get_result(connection)?,
            blob_bytes: of_tier.select(sum("LENGTH(bytes)")).get_result(connection)?,
        });
    }
    // What the pages come to is asked in each engine's own words.
    let (used, free) = match connection {
        Conn::Sqlite(_) => (
            "(SELECT (c.page_count - f.freelist_count) * s.page_size FROM pragma_page_count() c, \
             pragma_freelist_count() f, pragma_page_size() s)",
            "(SELECT f.freelist_count * s.page_size FROM pragma_freelist_count() f, pragma_page_size() s)",
        ),
        Conn::Mysql(_) => (
            "(SELECT CAST(SUM(data_length + index_length) AS SIGNED) FROM information_schema.tables \
             WHERE table_schema = DATABASE())",
            "(SELECT CAST(SUM(data_free) AS SIGNED) FROM information_schema.tables WHERE table_schema = DATABASE())",
        ),
    };
    let mut ask = |expression: &str| diesel::select(sql::<BigInt>(expression)).get_result(connection);
    Ok(Sizes { tiers, used_bytes: ask(used)?, free_bytes: ask(free)? })
}
