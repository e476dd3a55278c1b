//! A database as a whole: snapshot into one file, copied row by row into another database of either engine, compared
//! with its copy, and verified. What backup, restore, verify and move of the command line stand on.
//!
//! Runs beside a working server on connections of its own, without the time limits of its pool.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;
use forewarn_common::block::{DecodeError, Entity, Layout, RawBlock};
use forewarn_common::id::LayoutId;

use super::column::Row;
use super::connection::{Conn, Place, insert_many};
use super::push::TIER_PUSHED;
use super::receipt::Ranges;
use super::{StoreError, last, schema, setup, unsigned};

/// Rows of one INSERT of a copy.
const BATCH_ROWS_MAX: usize = 200;
/// Bytes of one INSERT of a copy, below any sensible `max_allowed_packet`.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Damage that is told one by one; all of it is counted.
const DAMAGE_TOLD_MAX: usize = 1000;

/// What a copy was found to hold, row by row the same as its source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows of all tables.
    pub rows: u64,
    /// Rows of the block table among them.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Rows of the block table, each opened and its checksums computed.
    pub blocks: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// Receipts, layouts, entities and last values that were decoded.
    pub others: u64,
    /// How many rows are damaged.
    pub damaged: u64,
    /// A sentence for each of the first of them, with host and span.
    pub told: Vec<String>,
}

impl Verified {
    fn damage(&mut self, text: String) {
        self.damaged += 1;
        if self.told.len() < DAMAGE_TOLD_MAX {
            self.told.push(text);
        }
    }
}

/// About how many bytes a value takes in a statement, and how people are shown it.
trait Field {
    fn weight(&self) -> usize;
    fn shown(&self) -> String;
}

macro_rules! fields {
    ($($kind:ty: $weight:expr, $shown:expr);*) => { $(impl Field for $kind {
        fn weight(&self) -> usize {
            let weight: fn(&$kind) -> usize = $weight;
            weight(self)
        }

        fn shown(&self) -> String {
            let shown: fn(&$kind) -> String = $shown;
            shown(self)
        }
    })* };
}

fields!(
    i64: |_| 8, i64::to_string;
    i32: |_| 8, i32::to_string;
    i16: |_| 8, i16::to_string;
    bool: |_| 8, bool::to_string;
    Option<i64>: |_| 8, |value| format!("{value:?}");
    String: String::len, String::clone;
    Vec<u8>: Vec::len, |bytes| hex::encode(bytes)
);

/// Every table that is worth keeping, with all its columns: a row type each, and how to copy, compare and count them.
/// The list of servers is none of them: it is about processes.
macro_rules! tables {
    ($($table:ident $row:ident by ($($key:ident),*) { $($column:ident: $kind:ty),* $(,)? })*) => {
        $(
            #[derive(PartialEq, Queryable, Insertable)]
            #[diesel(table_name = schema::$table)]
            struct $row { $($column: $kind),* }

            impl $row {
                fn weight(&self) -> usize { 0 $(+ self.$column.weight())* }

                /// Its key; of a block that is host and begin of the span.
                fn name(&self) -> String {
                    [$(format!("{} {}", stringify!($key), self.$key.shown())),*].join(", ")
                }
            }
        )*

        /// Their names.
        pub(super) const TABLES: &[&str] = &[$(stringify!($table)),*];

        fn copy_rows(from: &mut Conn, to: &mut Conn) -> Result<(), StoreError> {
            $({
                let (mut batch, mut bytes) = (Vec::<$row>::new(), 0);
                let rows = schema::$table::table.order(($(schema::$table::$key,)*)).load_iter::<$row, _>(from)?;
                for row in rows {
                    let row = row?;
                    let weight = row.weight();
                    if batch.len() >= BATCH_ROWS_MAX || (bytes + weight > BATCH_BYTES_MAX && !batch.is_empty()) {
                        insert_many!(to, schema::$table::table, &batch)?;
                        (batch, bytes) = (Vec::new(), 0);
                    }
                    bytes += weight;
                    batch.push(row);
                }
                if !batch.is_empty() {
                    insert_many!(to, schema::$table::table, &batch)?;
                }
            })*
            Ok(())
        }

        fn compare_rows(from: &mut Conn, to: &mut Conn) -> Result<Copied, StoreError> {
            let mut copied = Copied::default();
            $({
                let order = || ($(schema::$table::$key,)*);
                let mut rows = schema::$table::table.order(order()).load_iter::<$row, _>(from)?;
                let mut copies = schema::$table::table.order(order()).load_iter::<$row, _>(to)?;
                let mut number = 0_u64;
                loop {
                    let (row, copy) = (rows.next().transpose()?, copies.next().transpose()?);
                    match (row, copy) {
                        (None, None) => break,
                        (Some(row), Some(copy)) if row == copy => {
                            number += 1;
                            if stringify!($table) == "block" {
                                copied.blocks += 1;
                                copied.bytes += row.weight() as u64;
                            }
                        }
                        (row, copy) => {
                            let name = row.or(copy).map(|row| row.name()).unwrap_or_default();
                            let table = stringify!($table);
                            let text = format!("row {} of table {table} ({name}) is not the same in the copy", number + 1);
                            return Err(StoreError::Corrupt(text));
                        }
                    }
                }
                copied.rows += number;
            })*
            Ok(copied)
        }

        fn count_rows(connection: &mut Conn) -> Result<i64, StoreError> {
            let mut count = 0_i64;
            $( count += schema::$table::table.count().get_result::<i64>(connection)?; )*
            Ok(count)
        }
    };
}

tables! {
    site_value SiteValueRow by (name) { name: String, value: Vec<u8> }
    token TokenRow by (id) {
        id: String, secret_sha256: Vec<u8>, created_ms: i64, expires_ms: i64, uses_left: i32,
    }
    host HostRow by (id) {
        id: Vec<u8>, name: String, component: String, enrolled_ms: i64, agent_version: String, key_sha256: Vec<u8>,
    }
    host_state HostStateRow by (host) {
        host: Vec<u8>, seen_ms: i64, skew_ms: i64, last_at_ms: i64, last_values: Vec<u8>,
    }
    receipt ReceiptRow by (host, epoch) { host: Vec<u8>, epoch: i64, version: i64, ranges: Vec<u8> }
    layout LayoutRow by (id) { id: i64, bytes: Vec<u8> }
    entity EntityRow by (host, id) { host: Vec<u8>, id: i64, first_ms: i64, updated_ms: i64, record: Vec<u8> }
    series_group SeriesGroupRow by (host, entity, layout) {
        host: Vec<u8>, entity: i64, layout: i64, first_ms: i64, last_ms: i64,
    }
    keyword_hit KeywordHitRow by (last_ms, host, epoch, seq, ordinal) {
        last_ms: i64, host: Vec<u8>, epoch: i64, seq: i64, ordinal: i32, entity: i64, rule: String, severity: i16,
        hits: i64, first_ms: i64, samples: String,
    }
    engine_event EngineEventRow by (at_ms, host, epoch, seq, ordinal) {
        at_ms: i64, host: Vec<u8>, epoch: i64, seq: i64, ordinal: i32, entity: i64, kind: String, code: i32,
        detail: String,
    }
    forecast ForecastRow by (host) { host: Vec<u8>, at_ms: i64, body: String }
    forecast_state ForecastStateRow by (host) { host: Vec<u8>, at_ms: i64, body: String }
    incident IncidentRow by (id) {
        id: String, open_key: String, rule: String, host: Vec<u8>, entity: i64, instance: String, kind: String,
        state: String, severity: i16, opened_ms: i64, fired_ms: Option<i64>, resolved_ms: Option<i64>, updated_ms: i64,
        evidence: String, revision: i64,
    }
    delivery DeliveryRow by (id) {
        id: String, incident: String, channel: String, transition: String, state: String, attempts: i32, due_ms: i64,
        created_ms: i64, done_ms: Option<i64>, answer: String, lease_ms: i64, lease_owner: String, fence: i64,
    }
    channel ChannelRow by (id) {
        id: String, name: String, kind: String, language: String, severity_min: i16, send: bool, sealed: Vec<u8>,
    }
    rule RuleRow by (id) { id: String, body: String }
    trained TrainedRow by (id) { id: String, name: String, rule: String, created_ms: i64, body: String }
    adoption AdoptionRow by (id) { id: String, model: String, rule: String, selection: String, adopted_ms: i64 }
    person PersonRow by (name) { name: String, password_hash: String, created_ms: i64 }
    session SessionRow by (secret_sha256) { secret_sha256: Vec<u8>, person: String, expires_ms: i64 }
    audit AuditRow by (at_ms, nonce) { at_ms: i64, nonce: i64, person: String, action: String, detail: String }
    block BlockRow by (tier, start_ms, host, part) {
        tier: i16, start_ms: i64, host: Vec<u8>, part: i64, end_ms: i64, stored_ms: i64, samples: i64, skewed: bool,
        bytes: Vec<u8>,
    }
}

/// Copies one database into another, of either engine, and compares every row of the copy with its source. An SQLite
/// source takes no changes meanwhile; of a MySQL source one moment is copied.
///
/// # Errors
/// A database does not answer, the target holds something, or a row of the copy differs. A target that a copy was not
/// finished in is refused by a server's start and by the next copy.
pub async fn copy(from_url: &str, to_url: &str) -> Result<Copied, StoreError> {
    let (from, to) = (Place::of(from_url)?, Place::of(to_url)?);
    if from == to {
        return Err(StoreError::Refused("the database cannot be copied to itself".into()));
    }
    on_thread(move || {
        let mut from = from.open_whole()?;
        setup::prepare(&mut from)?;
        hold(&mut from, true)?;
        copy_into(&mut from, &to)
    })
    .await
}

/// Copies one backup file into a database.
///
/// # Errors
/// As [`copy`].
pub async fn copy_file(file: &Path, to_url: &str) -> Result<Copied, StoreError> {
    let (mut from, to) = (Conn::Sqlite(open_file(file)?), Place::of(to_url)?);
    on_thread(move || {
        setup::is_current(&mut from)?;
        hold(&mut from, false)?;
        copy_into(&mut from, &to)
    })
    .await
}

fn copy_into(from: &mut Conn, to: &Place) -> Result<Copied, StoreError> {
    let mut to = to.open_whole()?;
    setup::prepare(&mut to)?;
    if count_rows(&mut to)? > 0 {
        return Err(StoreError::Refused("the target is not empty; give an empty database".into()));
    }
    setup::begin_copy(&mut to)?;
    copy_rows(from, &mut to)?;
    let copied = compare_rows(from, &mut to)?;
    setup::end_copy(&mut to)?;
    Ok(copied)
}

/// Writes one moment of the database into one SQLite file that must not exist, while servers work on it.
///
/// # Errors
/// The database does not answer, the file exists or cannot be written.
pub async fn snapshot(url: &str, file: &Path) -> Result<(), StoreError> {
    let (place, file) = (Place::of(url)?, file.to_owned());
    on_thread(move || {
        let refused = |error: std::io::Error| {
            StoreError::Refused(format!(
                "cannot write {}: {error}; give a new file in a writable folder",
                file.display()
            ))
        };
        make_private(&file).map_err(refused)?;
        let made = snapshot_into(&place, &file)
            .and_then(|()| std::fs::File::open(&file).and_then(|file| file.sync_all()).map_err(refused));
        if made.is_err() {
            // Half a backup is none.
            let _ = std::fs::remove_file(&file);
        }
        made
    })
    .await
}

fn snapshot_into(place: &Place, file: &Path) -> Result<(), StoreError> {
    let mut from = place.open_whole()?;
    if let Conn::Sqlite(sqlite) = &mut from {
        let text = file.to_str().ok_or_else(|| StoreError::Refused("the path is not UTF-8".into()))?;
        return Ok(sqlite.batch_execute(&format!("VACUUM INTO '{}'", text.replace('\'', "''")))?);
    }
    setup::prepare(&mut from)?;
    hold(&mut from, false)?;
    copy_into(&mut from, &Place::Sqlite(file.to_owned()))?;
    // Out of write-ahead mode: one file, nothing beside it.
    let mut made = Place::Sqlite(file.to_owned()).open_whole()?;
    Ok(made.batch_execute("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?)
}

fn make_private(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map(drop)
}

/// Opens and checks every row of a database.
///
/// # Errors
/// The database does not answer at all. Damage is no error.
pub async fn verify(url: &str) -> Result<Verified, StoreError> {
    let place = Place::of(url)?;
    on_thread(move || Ok(verify_rows(&mut place.open_whole()?))).await
}

/// Opens and checks every row of a backup file.
///
/// # Errors
/// The file cannot be opened, or its schema is newer than this release. Damage is no error.
pub async fn verify_file(file: &Path) -> Result<Verified, StoreError> {
    let mut connection = Conn::Sqlite(open_file(file)?);
    on_thread(move || {
        setup::is_known(&mut connection)?;
        Ok(verify_rows(&mut connection))
    })
    .await
}

/// One of the site's values in a backup file.
///
/// # Errors
/// The file cannot be read.
pub async fn site_value_of_file(file: &Path, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut connection, name) = (Conn::Sqlite(open_file(file)?), name.to_owned());
    on_thread(move || {
        let value = schema::site_value::table.find(name).select(schema::site_value::value);
        Ok(value.first(&mut connection).optional()?)
    })
    .await
}

/// Read-only: a backup stays as it was made.
fn open_file(file: &Path) -> Result<SqliteConnection, StoreError> {
    if !file.is_file() {
        return Err(StoreError::Refused(format!("{} is not a file", file.display())));
    }
    let mut uri = String::from("file:");
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    SqliteConnection::establish(&format!("{uri}?mode=ro")).map_err(StoreError::from)
}

/// Keeps what is read at one moment; `alone` keeps others from writing into an SQLite file meanwhile.
fn hold(connection: &mut Conn, alone: bool) -> Result<(), StoreError> {
    match connection {
        Conn::Sqlite(sqlite) => sqlite.batch_execute(if alone { "BEGIN IMMEDIATE" } else { "BEGIN" })?,
        Conn::Mysql(mysql) => {
            mysql.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
            mysql.batch_execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")?;
        }
    }
    Ok(())
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

fn verify_rows(connection: &mut Conn) -> Verified {
    let mut verified = Verified::default();
    if let Conn::Sqlite(_) = connection {
        let said = sql::<Text>("SELECT integrity_check FROM pragma_integrity_check").load::<String>(connection);
        match said {
            Ok(lines) if lines == ["ok"] => {}
            Ok(lines) => lines.into_iter().for_each(|line| verified.damage(format!("SQLite says: {line}"))),
            Err(error) => verified.damage(format!("SQLite cannot check the file: {error}")),
        }
    }
    let order = (schema::block::tier, schema::block::start_ms, schema::block::host, schema::block::part);
    each(connection, &mut verified, "block", schema::block::table.order(order), |row: BlockRow, verified| {
        verified.blocks += 1;
        verified.bytes += row.bytes.len() as u64;
        let (tier, start_ms, end_ms) = (row.tier, row.start_ms, row.end_ms);
        check_block(&row).map_err(|error| {
            format!("host {}, {start_ms} to {end_ms}, tier {tier}, part {}: {error}", hex::encode(&row.host), row.part)
        })
    });
    each(connection, &mut verified, "receipt", schema::receipt::table, |row: ReceiptRow, verified| {
        verified.others += 1;
        let said = |error| format!("receipt of host {}, epoch {:016x}: {error}", hex::encode(&row.host), row.epoch);
        Ranges::decode(&row.ranges).map(drop).map_err(said)
    });
    each(connection, &mut verified, "layout", schema::layout::table, |row: LayoutRow, verified| {
        verified.others += 1;
        let id = LayoutId(unsigned(row.id));
        match Layout::decode(&row.bytes) {
            Ok(layout) if layout.id() == id => Ok(()),
            Ok(_) => Err(format!("layout {id}: its bytes are those of another")),
            Err(error) => Err(format!("layout {id}: {error}")),
        }
    });
    each(connection, &mut verified, "entity", schema::entity::table, |row: EntityRow, verified| {
        verified.others += 1;
        let said = |error| format!("entity {:016x} of host {}: {error}", row.id, hex::encode(&row.host));
        Entity::decode(&row.record).map(drop).map_err(said)
    });
    each(connection, &mut verified, "host_state", schema::host_state::table, |row: HostStateRow, verified| {
        verified.others += 1;
        let said = |error| format!("last values of host {}: {error}", hex::encode(&row.host));
        last::decode(&row.last_values).map(drop).map_err(said)
    });
    verified
}

/// Hands every row of a table to `check`. A table that cannot be read to its end is damage too, and the others go on.
fn each<'q, Q, R>(
    connection: &mut Conn,
    verified: &mut Verified,
    name: &str,
    query: Q,
    mut check: impl FnMut(R, &mut Verified) -> Result<(), String>,
) where
    Q: diesel::query_dsl::LoadQuery<'q, Conn, R> + 'q,
{
    let rows = match query.load_iter::<R, _>(connection) {
        Ok(rows) => rows,
        Err(error) => return verified.damage(format!("table {name} cannot be read: {error}")),
    };
    for row in rows {
        match row {
            Ok(row) => {
                if let Err(text) = check(row, verified) {
                    verified.damage(text);
                }
            }
            Err(error) => return verified.damage(format!("table {name} cannot be read to its end: {error}")),
        }
    }
}

fn check_block(row: &BlockRow) -> Result<(), DecodeError> {
    if row.tier != TIER_PUSHED {
        return Row::parse(&row.bytes)?.check();
    }
    let block = RawBlock::parse(&row.bytes)?;
    if block.header.host.0.as_slice() != row.host {
        return Err(DecodeError::Malformed("block: it is of another host than its row"));
    }
    block.urgent()?;
    block.dictionary()?;
    block.group_keys()?;
    Ok(())
}
