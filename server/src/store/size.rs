//! How large the database is, and what the samples in it cost.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::connection::{Conn, Tx};
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

impl Store {
    /// Measures the database. Reads the length of every blob: not for every minute.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn sizes(&self) -> Result<Sizes, StoreError> {
        self.inner.pool.read(measure).await
    }
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
