//! What happens when a database is opened: migrations, and a look at how it is set up.

use diesel::dsl::sql;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connection::{Conn, MultiBackend};
use super::schema::server;
use super::{StoreError, archive};

const MYSQL: EmbeddedMigrations = embed_migrations!("migrations/mysql");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Among the servers while a copy into this database is not finished.
const COPY_MARK: &str = "unfinished-copy";
/// What our migrations state for each table.
const COLLATION: &str = "utf8mb4_bin";
/// A block, its statement and room to spare.
const PACKET_BYTES_MIN: i64 = 12 << 20;
/// Servers that start together race for the same migration; the losers look again.
const MIGRATION_TRIES: u32 = 20;

/// Brings the schema up to date and says what was found.
pub(super) fn prepare(connection: &mut Conn) -> Result<Vec<String>, StoreError> {
    let found = match connection {
        Conn::Mysql(_) => look_at_mysql(connection)?,
        Conn::Sqlite(_) => look_at_sqlite(connection)?,
    };
    for attempt in 1.. {
        match migrate(connection) {
            Ok(()) => break,
            Err(StoreError::Setup(_)) if attempt < MIGRATION_TRIES => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Err(error) => return Err(error),
        }
    }
    if matches!(connection, Conn::Mysql(_)) {
        look_at_tables(connection)?;
    }
    let unfinished: i64 =
        server::table.filter(server::id.eq(COPY_MARK)).count().get_result(connection).map_err(StoreError::from)?;
    if unfinished > 0 {
        return Err(StoreError::Setup(
            "this database holds a copy that was not finished: empty it (drop and create the database, or delete the \
             file) and copy again"
                .into(),
        ));
    }
    Ok(found)
}

/// Marks a database as not to be used before its copy is whole.
pub(super) fn begin_copy(connection: &mut Conn) -> Result<(), StoreError> {
    let mark = (server::id.eq(COPY_MARK), server::started_ms.eq(0_i64), server::beat.eq(0_i64), server::address.eq(""));
    diesel::insert_into(server::table).values(mark).execute(connection)?;
    Ok(())
}

/// Takes the mark away.
pub(super) fn end_copy(connection: &mut Conn) -> Result<(), StoreError> {
    diesel::delete(server::table.filter(server::id.eq(COPY_MARK))).execute(connection)?;
    Ok(())
}

/// Refuses a database that a newer release wrote; changes nothing.
pub(super) fn is_known(connection: &mut Conn) -> Result<Vec<String>, StoreError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        StoreError::Setup(format!("this is not a database of Forewarn: {error}"))
    };
    let migrations: Vec<Box<dyn Migration<MultiBackend>>> = SQLITE.migrations().map_err(failed)?;
    let known: Vec<String> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    let applied: Vec<String> = sql::<Text>("SELECT version FROM __diesel_schema_migrations")
        .load(connection)
        .map_err(|error| StoreError::Setup(format!("this is not a database of Forewarn: {error}")))?;
    if let Some(found) = applied.iter().filter(|version| !known.contains(version)).max() {
        return Err(StoreError::NewerSchema {
            found: found.clone(),
            known: known.into_iter().max().unwrap_or_default(),
        });
    }
    Ok(known.into_iter().filter(|version| !applied.contains(version)).collect())
}

/// Refuses a backup file of another schema than this release's; changes nothing.
pub(super) fn is_current(connection: &mut Conn) -> Result<(), StoreError> {
    if is_known(connection)?.is_empty() {
        return Ok(());
    }
    Err(StoreError::Setup(
        "the backup was made by an older release: restore it into an SQLite file with this release first, then move \
         that"
            .into(),
    ))
}

fn migrate(connection: &mut Conn) -> Result<(), StoreError> {
    let source = match connection {
        Conn::Mysql(_) => MYSQL,
        Conn::Sqlite(_) => SQLITE,
    };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        StoreError::Setup(format!("the database schema cannot be brought up to date: {error}"))
    };
    let migrations: Vec<Box<dyn Migration<MultiBackend>>> = source.migrations().map_err(failed)?;
    let known: Vec<String> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    let applied = connection.applied_migrations().map_err(failed)?;
    let foreign = applied.iter().map(ToString::to_string).filter(|version| !known.contains(version)).max();
    if let Some(found) = foreign {
        return Err(StoreError::NewerSchema { found, known: known.into_iter().max().unwrap_or_default() });
    }
    connection.run_pending_migrations(source).map_err(failed)?;
    Ok(())
}

/// Takes every migration back, newest first.
#[cfg(test)]
pub(super) fn take_back(connection: &mut Conn) -> Result<(), StoreError> {
    let source = match connection {
        Conn::Mysql(_) => MYSQL,
        Conn::Sqlite(_) => SQLITE,
    };
    connection.revert_all_migrations(source).map_err(|error| StoreError::Setup(error.to_string()))?;
    Ok(())
}

/// Takes every migration back but the first.
#[cfg(test)]
pub(super) fn take_back_to_first(connection: &mut Conn) -> Result<(), StoreError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Setup(error.to_string());
    for _ in 1..connection.applied_migrations().map_err(failed)?.len() {
        let source = match connection {
            Conn::Mysql(_) => MYSQL,
            Conn::Sqlite(_) => SQLITE,
        };
        connection.revert_last_migration(source).map_err(failed)?;
    }
    Ok(())
}

fn text(connection: &mut Conn, expression: &str) -> Option<String> {
    diesel::select(sql::<Text>(expression)).get_result(connection).ok()
}

fn number(connection: &mut Conn, variable: &str) -> Option<i64> {
    let expression = format!("CAST({variable} AS SIGNED)");
    diesel::select(sql::<BigInt>(&expression)).get_result(connection).ok()
}

fn look_at_sqlite(connection: &mut Conn) -> Result<Vec<String>, StoreError> {
    let version = text(connection, "sqlite_version()")
        .ok_or_else(|| StoreError::Setup("the database file does not answer; is it an SQLite file?".into()))?;
    Ok(vec![format!("SQLite {version}, embedded, write-ahead log, synchronous = FULL")])
}

fn look_at_mysql(connection: &mut Conn) -> Result<Vec<String>, StoreError> {
    let version = text(connection, "VERSION()")
        .ok_or_else(|| StoreError::Unavailable("the database does not tell its version".into()))?;
    let mut found = vec![format!("MySQL protocol, version {version}")];
    if !is_new_enough(&version) {
        return Err(StoreError::Setup(format!(
            "database version {version} is too old: MySQL 8.0 or MariaDB 10.6 at least"
        )));
    }
    let charset = text(connection, "CONCAT(@@character_set_database, ' / ', @@collation_database)").unwrap_or_default();
    found.push(format!("default charset {charset}; our tables state utf8mb4 / utf8mb4_bin themselves"));
    let mode = text(connection, "@@GLOBAL.sql_mode").unwrap_or_default();
    let strict = mode.contains("STRICT_TRANS_TABLES") || mode.contains("STRICT_ALL_TABLES");
    let strict = if strict { "strict" } else { "NOT strict; our sessions are strict all the same" };
    found.push(format!("sql_mode is {strict}"));
    let packet = number(connection, "@@max_allowed_packet").unwrap_or(PACKET_BYTES_MIN);
    if packet < PACKET_BYTES_MIN {
        return Err(StoreError::Setup(format!(
            "max_allowed_packet is {packet} bytes, blocks need {PACKET_BYTES_MIN}: set max_allowed_packet=64M"
        )));
    }
    found.push(format!("max_allowed_packet {packet} bytes"));
    let flush = number(connection, "@@GLOBAL.innodb_flush_log_at_trx_commit");
    found.push(match flush {
        Some(1) => "innodb_flush_log_at_trx_commit = 1: acknowledged data survive a power cut".into(),
        Some(other) => {
            format!(
                "innodb_flush_log_at_trx_commit = {other}: up to a second of acknowledged data is lost in a power cut"
            )
        }
        None => "durability settings are not told by this database".into(),
    });
    Ok(found)
}

/// Refuses tables that were converted: with another collation two keys may be one, and text may be cut.
fn look_at_tables(connection: &mut Conn) -> Result<(), StoreError> {
    let names = archive::TABLES.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    // The names of the columns of information_schema are in upper case on MySQL 8.
    let converted: Vec<String> = sql::<Text>(&format!(
        "SELECT CONCAT(TABLE_NAME, ' is ', TABLE_COLLATION) FROM information_schema.tables \
         WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({names}) AND TABLE_COLLATION <> '{COLLATION}' \
         ORDER BY TABLE_NAME"
    ))
    .load(connection)?;
    let Some(first) = converted.first() else { return Ok(()) };
    let table = first.split(' ').next().unwrap_or_default();
    Err(StoreError::Setup(format!(
        "tables of this database have another collation than {COLLATION} ({first}, {} in all): back it up, then run \
         ALTER TABLE `{table}` CONVERT TO CHARACTER SET utf8mb4 COLLATE {COLLATION} for each",
        converted.len()
    )))
}

fn is_new_enough(version: &str) -> bool {
    let text = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let have = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let need = if text.to_ascii_lowercase().contains("mariadb") { (10, 6) } else { (8, 0) };
    // TiDB tells the version of MySQL that it resembles.
    have >= need || text.contains("TiDB")
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn old_databases_are_known_by_their_version() {
        for good in ["8.0.36", "8.4.0-commercial", "10.11.19-MariaDB-deb12", "5.5.5-10.6.1-MariaDB", "5.7.25-TiDB-v6.5"]
        {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["5.7.44", "10.5.23-MariaDB", "5.5.5-10.3.1-MariaDB", ""] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }
}
