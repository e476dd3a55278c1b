//! One connection type for both engines, the pool of them, and how a transaction is run and tried again.
//!
//! The room's only place that knows which engine it talks to, but for the start-up checks.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, Connection, SimpleConnection, TransactionManager};
use diesel::r2d2::R2D2Connection;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sqlite::SqliteConnection;
use diesel::{ConnectionError, ConnectionResult};
use forewarn_common::id::random_u64;
use tokio::sync::Semaphore;

use super::StoreError;
use super::mysql::{MysqlConnection, Nodes};

/// Connections for reading (SQLite), or for everything (MySQL).
const CONNECTIONS_MAX: usize = 6;
/// SQLite's page cache of the writer: the newest end of each index. Four times as much costs as much processor time.
const WRITE_CACHE_KIB: u32 = 2048;
/// SQLite copies its write-ahead log into the file after so many pages (32 MiB): what is written again and again in
/// between, such as the newest end of an index, is copied once.
const CHECKPOINT_PAGES: u32 = 8192;
/// What a log that grew under readers is cut back to.
const WAL_BYTES_KEPT: u32 = 64 << 20;
/// SQLite's page cache of each reader: rows are read once, the kernel keeps the file.
const READ_CACHE_KIB: u32 = 1024;
/// A connection that idled this long is asked whether it still lives before it is used.
const IDLE_TRUST: Duration = Duration::from_secs(2);
/// How often a transaction that lost a race is run again.
const TRIES_MAX: u32 = 12;
/// Longest wait for the database, waiting for a free connection included.
const ANSWER_FOR: Duration = Duration::from_secs(30);

/// A connection to either engine.
#[derive(diesel::MultiConnection)]
pub(super) enum Conn {
    /// MySQL, MariaDB and what speaks their protocol.
    Mysql(MysqlConnection),
    /// One file.
    Sqlite(SqliteConnection),
}

/// One INSERT of many rows. diesel's multi-connection has no batch INSERT of its own, so each engine is handed the
/// same statement.
macro_rules! insert_many {
    ($connection:expr, $table:expr, $rows:expr) => {
        match $connection {
            $crate::store::connection::Conn::Mysql(connection) => {
                diesel::insert_into($table).values($rows).execute(connection)
            }
            $crate::store::connection::Conn::Sqlite(connection) => {
                diesel::insert_into($table).values($rows).execute(connection)
            }
        }
    };
}
pub(super) use insert_many;

/// Where the database is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// What the URL names.
    Mysql(Nodes),
    /// The path after `sqlite://`.
    Sqlite(PathBuf),
}

impl Place {
    /// Reads a database URL.
    pub(super) fn of(url: &str) -> Result<Self, StoreError> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            if path.is_empty() {
                return Err(StoreError::Setup("database url sqlite:// must be followed by a path".into()));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("mysql://") {
            return Ok(Self::Mysql(Nodes::of(url)));
        }
        Err(StoreError::Setup("database url must start with sqlite:// or mysql://".into()))
    }

    /// A connection outside the pool, for work on the database as a whole.
    pub(super) fn open_whole(&self) -> ConnectionResult<Conn> {
        self.open(WRITE_CACHE_KIB)
    }

    fn open(&self, cache_kib: u32) -> ConnectionResult<Conn> {
        match self {
            Self::Mysql(nodes) => nodes.open().map(Conn::Mysql),
            Self::Sqlite(path) => open_sqlite(path, cache_kib).map(Conn::Sqlite),
        }
    }
}

/// Full synchronisation: what is acknowledged survives a power cut.
fn open_sqlite(path: &Path, cache_kib: u32) -> ConnectionResult<SqliteConnection> {
    let shown = path.display();
    private_file(path).map_err(|error| {
        ConnectionError::BadConnection(format!(
            "cannot write {shown}: {error}; create its folder, writable by this user"
        ))
    })?;
    let text = path.to_str().ok_or_else(|| ConnectionError::BadConnection(format!("the path {shown} is not UTF-8")))?;
    let mut connection = SqliteConnection::establish(text)?;
    let setup = format!(
        "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON; PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA journal_size_limit = {WAL_BYTES_KEPT};"
    );
    let mut attempt = 0;
    // Of two that give a new file its write-ahead log at once, SQLite refuses one without waiting.
    while let Err(error) = connection.batch_execute(&setup) {
        attempt += 1;
        if attempt >= TRIES_MAX || !is_race(&error) {
            return Err(ConnectionError::CouldntSetupConfiguration(error));
        }
        std::thread::sleep(Duration::from_millis(u64::from(attempt) * 5));
    }
    Ok(connection)
}

/// Makes the file, readable by its owner only; SQLite gives the same mode to the files beside it. A file that is there
/// is never opened: closing it would end every lock that this process has on it, and another process that leaves the
/// database would take itself for the last and delete the write-ahead log under us.
pub(super) fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
                return Ok(());
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        }
        made => made.map(drop),
    }
}

/// Why a transaction did not commit.
pub(super) enum TxError {
    /// The database said no.
    Diesel(DieselError),
    /// Somebody else was faster; read again.
    Raced,
    /// The room's own answer.
    Store(StoreError),
}

impl From<DieselError> for TxError {
    fn from(error: DieselError) -> Self {
        Self::Diesel(error)
    }
}

impl From<StoreError> for TxError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a transaction returns.
pub(super) type Tx<T> = Result<T, TxError>;

struct Idle {
    connection: Conn,
    since: Instant,
}

struct Lane {
    cache_kib: u32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

impl Lane {
    fn new(size: usize, cache_kib: u32) -> Self {
        Self { cache_kib, permits: Arc::new(Semaphore::new(size)), idle: Mutex::new(Vec::new()) }
    }

    fn take(&self, place: &Place) -> ConnectionResult<Conn> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut idle) = kept {
            if idle.since.elapsed() < IDLE_TRUST || idle.connection.ping().is_ok() {
                return Ok(idle.connection);
            }
            // One that died says that the server went away: its companions are no better.
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        place.open(self.cache_kib)
    }

    fn keep(&self, connection: Conn) {
        let idle = Idle { connection, since: Instant::now() };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}

/// The connections to one database. SQLite: one writer, several readers. MySQL: one lane for both.
pub(super) struct Pool {
    place: Place,
    write: Arc<Lane>,
    read: Arc<Lane>,
    /// Whether the last transaction that writes failed: a database that is full still answers questions.
    write_fails: AtomicBool,
}

impl Pool {
    pub(super) fn new(place: Place) -> Self {
        let read = Arc::new(Lane::new(CONNECTIONS_MAX, READ_CACHE_KIB));
        let write = match place {
            Place::Mysql(_) => Arc::clone(&read),
            Place::Sqlite(_) => Arc::new(Lane::new(1, WRITE_CACHE_KIB)),
        };
        Self { place, write, read, write_fails: AtomicBool::new(false) }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn is_mysql(&self) -> bool {
        matches!(self.place, Place::Mysql(_))
    }

    /// Runs `work` in a transaction that writes; runs it again when it lost a race, so it must not keep anything
    /// from a run that failed.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Conn) -> Tx<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.run(&self.write, work).await;
        match &result {
            Ok(_) => self.write_fails.store(false, Ordering::Relaxed),
            Err(StoreError::Unavailable(_)) => self.write_fails.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        result
    }

    pub(super) fn write_fails(&self) -> bool {
        self.write_fails.load(Ordering::Relaxed)
    }

    /// Runs `work` in a transaction that only reads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Conn) -> Tx<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(&self.read, work).await
    }

    /// Runs `work` on a connection, without a transaction around it.
    pub(super) async fn bare<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.on_thread(&self.write, |connection| {
            let result = work(connection);
            let sound = result.is_ok();
            (result, sound)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        lane: &Arc<Lane>,
        mut work: impl FnMut(&mut Conn) -> Tx<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writes = Arc::ptr_eq(lane, &self.write);
        self.on_thread(lane, move |connection| {
            let mut attempt = 0;
            loop {
                attempt += 1;
                match transact(connection, writes, &mut work) {
                    (Ok(value), sound) => return (Ok(value), sound),
                    (Err(TxError::Store(error)), sound) => return (Err(error), sound),
                    (Err(TxError::Raced), sound) if !sound || attempt >= TRIES_MAX => {
                        return (Err(StoreError::Busy), sound);
                    }
                    (Err(TxError::Diesel(error)), sound) if !sound || !is_race(&error) || attempt >= TRIES_MAX => {
                        return (Err(StoreError::from(error)), sound);
                    }
                    (Err(_), _) => {}
                }
                // Racers part: a few milliseconds, more each time, different for each.
                let spread = random_u64().unwrap_or(0) % 7;
                std::thread::sleep(Duration::from_millis(u64::from(attempt) + spread));
            }
        })
        .await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        lane: &Arc<Lane>,
        work: impl FnOnce(&mut Conn) -> (Result<T, StoreError>, bool) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (lane, place) = (Arc::clone(lane), self.place.clone());
        // The thread holds the permit, so that a caller who goes away does not make room for one too many. Only a
        // thread that the database hangs is given up, with its permit.
        let held = Arc::new(Mutex::new(None));
        let given_up = Arc::clone(&held);
        let idle = Arc::clone(&lane);
        let all = async move {
            let permit = Arc::clone(&lane.permits).acquire_owned().await.map_err(|_| StoreError::Busy)?;
            *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
            let thread = tokio::task::spawn_blocking(move || {
                let result = lane.take(&place).map_err(StoreError::from).and_then(|mut connection| {
                    let (result, sound) = work(&mut connection);
                    if sound {
                        lane.keep(connection);
                    }
                    result
                });
                drop(held.lock().unwrap_or_else(PoisonError::into_inner).take());
                result
            });
            thread.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
        };
        let Ok(result) = tokio::time::timeout(ANSWER_FOR, all).await else {
            // The other connections lead to the same place.
            idle.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            drop(given_up.lock().unwrap_or_else(PoisonError::into_inner).take());
            return Err(StoreError::Unavailable(format!("no answer within {} s", ANSWER_FOR.as_secs())));
        };
        result
    }
}

/// Runs `work` in one transaction; also says whether the connection is fit for another.
fn transact<T>(connection: &mut Conn, writes: bool, work: &mut impl FnMut(&mut Conn) -> Tx<T>) -> (Tx<T>, bool) {
    let begun = match &mut *connection {
        // SQLite: a reader that turns writer cannot wait for another writer, so a writer says so at once.
        Conn::Sqlite(sqlite) if writes => AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE"),
        other => <Conn as Connection>::TransactionManager::begin_transaction(other),
    };
    if let Err(error) = begun {
        let sound = is_race(&error);
        return (Err(error.into()), sound);
    }
    match work(connection) {
        Ok(value) => match <Conn as Connection>::TransactionManager::commit_transaction(connection) {
            Ok(()) => (Ok(value), true),
            // A lost race was rolled back by the server (Galera tells at the commit) and may be run again. Otherwise
            // it is not known whether the commit happened: the connection is given up, receipts tell the next one.
            Err(error) => {
                let sound = is_race(&error) && !connection.is_broken();
                (Err(error.into()), sound)
            }
        },
        Err(error) => {
            let rolled_back = <Conn as Connection>::TransactionManager::rollback_transaction(connection).is_ok();
            let sound = match &error {
                TxError::Diesel(error) => is_statement_error(error) || is_race(error),
                TxError::Raced | TxError::Store(_) => true,
            };
            (Err(error), sound && rolled_back)
        }
    }
}

/// Whether the statement was at fault rather than the connection.
fn is_statement_error(error: &DieselError) -> bool {
    match error {
        DieselError::NotFound => true,
        DieselError::DatabaseError(kind, _) => {
            !matches!(kind, DatabaseErrorKind::Unknown | DatabaseErrorKind::ClosedConnection)
        }
        _ => false,
    }
}

/// Whether running the whole transaction again may end better.
fn is_race(error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::SerializationFailure, _) => {
            true
        }
        DieselError::DatabaseError(_, info) => {
            let text = info.message();
            // In turn of MySQL and MariaDB, of TiDB (its mark of what may be run again), of SQLite.
            ["try restarting transaction", "[try again later]", "database is locked"]
                .iter()
                .any(|mark| text.contains(mark))
        }
        _ => false,
    }
}

impl From<ConnectionError> for StoreError {
    fn from(error: ConnectionError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => Self::Conflict,
            error => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_of_a_lost_race_is_tried_again_and_nothing_else_is() {
        let said = |text: &str| DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
        for race in [
            "Deadlock found when trying to get lock; try restarting transaction",
            "Lock wait timeout exceeded; try restarting transaction",
            "Write conflict, txnStartTS=4, conflictStartTS=5, key={tableID=1}, reason=Optimistic [try again later]",
            "Information schema is changed during the execution of the statement [try again later]",
            "database is locked",
        ] {
            assert!(is_race(&said(race)), "{race}");
        }
        for other in ["The table 'block' is full", "Server has gone away", "database disk image is malformed"] {
            assert!(!is_race(&said(other)), "{other}");
        }
    }
}
