//! Databases that are missing, newer, broken or killed.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use diesel::RunQueryDsl;
use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::sql_types::BigInt;

use super::super::connection::Conn;
use super::mariadb::{Mariadb, shared};
use super::*;

on_both_engines!(
    a_newer_schema_is_refused_with_a_clear_sentence,
    servers_that_start_together_make_one_schema,
    what_was_found_is_told,
    a_failed_transaction_leaves_nothing,
    one_insert_of_many_rows_counts_them_all,
    the_schema_can_be_taken_back_and_made_again,
    a_database_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it,
    a_server_killed_at_work_keeps_what_it_acknowledged_once,
);

async fn raw(store: &Store, statement: &'static str) -> Result<(), StoreError> {
    store.inner.pool.bare(move |connection| Ok(connection.batch_execute(statement)?)).await
}

async fn a_newer_schema_is_refused_with_a_clear_sentence(place: Place) {
    let store = place.open().await;
    raw(&store, "INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')").await.unwrap();
    let refused = Store::open(&place.url).await.err().unwrap();
    let said = refused.to_string();
    assert!(said.starts_with("the database has schema 9999, this release knows schemas up to 0"), "{said}");
    assert!(said.ends_with(": run the newer release, or restore a backup made by this one"), "{said}");
}

async fn servers_that_start_together_make_one_schema(place: Place) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..5_u8 {
        let url = place.url.clone();
        tasks.spawn(async move {
            let (store, _) = Store::open(&url).await.unwrap();
            store.push(vec![Agent::new(number).arriving(0, 3)]).await.unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(place.open().await.latest_all().await.unwrap().len(), 5);
}

async fn what_was_found_is_told(place: Place) {
    let (store, found) = Store::open(&place.url).await.unwrap();
    store.ping().await.unwrap();
    let all = found.join("\n");
    if place.is_mysql() {
        for part in ["MariaDB", "latin1", "NOT strict", "max_allowed_packet", "innodb_flush_log_at_trx_commit = 1"] {
            assert!(all.contains(part), "{part} in {all}");
        }
    } else {
        assert!(all.contains("SQLite 3.") && all.contains("synchronous = FULL"), "{all}");
    }
}

async fn a_failed_transaction_leaves_nothing(place: Place) {
    let (store, agent) = (place.open().await, Agent::new(1));
    // The receipt and the block are written before the row that fails.
    raw(&store, "DROP TABLE series_group").await.unwrap();
    assert!(store.push(vec![agent.arriving(0, 3)]).await.is_err());
    raw(&store, "CREATE TABLE series_group (host VARBINARY(16) NOT NULL, entity BIGINT NOT NULL, layout BIGINT NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, PRIMARY KEY (host, entity, layout))").await.unwrap();
    assert_eq!(store.latest_all().await.unwrap(), vec![]);
    assert!(everything(&store, agent.host).await.is_empty());
    assert!(store.push(vec![agent.arriving(0, 3)]).await.unwrap()[0].stored, "no receipt was left behind");
}

async fn one_insert_of_many_rows_counts_them_all(place: Place) {
    use super::super::connection::insert_many;
    use super::super::push::NewBlock;
    use super::super::schema::block;
    use diesel::prelude::*;
    let store = place.open().await;
    let row = |part: i64| NewBlock {
        tier: 7,
        start_ms: i64::MAX,
        host: &[9; 16],
        part,
        end_ms: i64::MIN,
        stored_ms: 0,
        samples: -1,
        skewed: part % 2 == 0,
        bytes: &[0, 255, 39, 92],
    };
    let (inserted, duplicate, deleted, unchanged) = store
        .inner
        .pool
        .bare(move |connection| {
            let rows: Vec<_> = (0..500).map(row).collect();
            let inserted = insert_many!(connection, block::table, &rows)?;
            let duplicate = insert_many!(connection, block::table, &vec![row(600), row(3)]).is_err();
            let even = block::table.filter(block::tier.eq(7_i16)).filter(block::skewed.eq(true));
            // Rows that already have the value count as affected on both engines: compare-and-set relies on it.
            let unchanged = diesel::update(even).set(block::samples.eq(-1_i64)).execute(connection)?;
            let deleted = diesel::delete(even).execute(connection)?;
            Ok((inserted, duplicate, deleted, unchanged))
        })
        .await
        .unwrap();
    assert_eq!((inserted, duplicate, deleted, unchanged), (500, true, 250, 250));
}

async fn the_schema_can_be_taken_back_and_made_again(place: Place) {
    let store = place.open().await;
    store.push(vec![Agent::new(1).arriving(0, 3)]).await.unwrap();
    store.inner.pool.bare(setup::take_back).await.unwrap();
    let again = place.open().await;
    assert_eq!(again.latest_all().await.unwrap(), vec![]);
    assert!(again.push(vec![Agent::new(1).arriving(0, 3)]).await.unwrap()[0].stored);
}

async fn a_database_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it(place: Place) {
    let agent = Agent::new(1);
    let arrivals: Vec<_> = (0..20).map(|seq| agent.arriving(seq, 30)).collect();
    let store = place.open().await;
    store.push(arrivals.clone()).await.unwrap();
    store.compact(T0 + HOUR_MS + HOUR_MS / 2, Duration::from_secs(60)).await.unwrap();
    store.site_put_if_absent("site_key", b"abc".to_vec()).await.unwrap();
    let later = ["server", "forecast_state", "trained", "adoption"];
    assert_eq!(missing(&store, &later).await, 0);
    // What every later step made is taken back; the rows of the first schema stay.
    store.inner.pool.bare(setup::take_back_to_first).await.unwrap();
    assert_eq!(missing(&store, &later).await, later.len());
    drop(store);

    let (again, _) = Store::open(&place.url).await.unwrap();
    assert_eq!(missing(&again, &later).await, 0);
    assert_same(&everything(&again, agent.host).await, &expected(&times_of(&arrivals)));
    assert_eq!(again.site_get("site_key").await.unwrap().unwrap(), b"abc");
    let outcomes = again.push(arrivals).await.unwrap();
    assert!(outcomes.iter().all(|outcome| !outcome.stored), "what was acknowledged by the older release is known");
    assert!(again.push(vec![agent.arriving(20, 30)]).await.unwrap()[0].stored);
}

/// How many of these tables are not there.
async fn missing(store: &Store, tables: &[&'static str]) -> usize {
    let mut missing = 0;
    for table in tables {
        let ask = format!("SELECT * FROM {table} LIMIT 1");
        let asked = store.inner.pool.bare(move |connection| Ok(connection.batch_execute(&ask)?)).await;
        missing += usize::from(asked.is_err());
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_found_by_its_name_and_a_wrong_password_is_told() {
    let url = shared().new_database();
    let named = url.replace("127.0.0.1", "localhost");
    Store::open(&named).await.unwrap().0.ping().await.unwrap();
    let refused = Store::open(&url.replace("only-for-tests", "wrong-secret")).await.err().unwrap().to_string();
    assert!(refused.contains("Access denied") && !refused.contains("wrong-secret"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_converted_is_refused_by_name() {
    let url = shared().new_database();
    let (store, _) = Store::open(&url).await.unwrap();
    raw(&store, "ALTER TABLE `rule` CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci").await.unwrap();
    let refused = Store::open(&url).await.err().unwrap().to_string();
    assert!(refused.contains("(rule is utf8mb4_general_ci, 1 in all)"), "{refused}");
    raw(&store, "ALTER TABLE `rule` CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin").await.unwrap();
    Store::open(&url).await.unwrap();
}

#[tokio::test]
async fn other_urls_are_refused() {
    for url in ["", "forewarn.db", "sqlite:", "sqlite://", "postgres://host/db", "mysqlx://host"] {
        let refused = Store::open(url).await.err().unwrap().to_string();
        assert!(refused.starts_with("database url "), "{url}: {refused}");
    }
}

#[tokio::test]
async fn an_unwritable_folder_is_told_by_name() {
    let refused = Store::open("sqlite:///proc/forewarn/forewarn.db").await.err().unwrap().to_string();
    assert!(refused.contains("/proc/forewarn/forewarn.db") && refused.contains("create its folder"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "these are not the tables you are looking for ".repeat(100)).unwrap();
    let refused = Store::open(&format!("sqlite://{}", path.display())).await.err().unwrap().to_string();
    assert!(refused.contains("not a database"), "{refused}");
}

#[tokio::test]
async fn the_database_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forewarn.db");
    let (store, _) = Store::open(&format!("sqlite://{}", path.display())).await.unwrap();
    store.site_put("ca", vec![1]).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_is_an_answer_and_comes_back_by_itself() {
    let mut server = Mariadb::start();
    let (store, _) = Store::open(&server.new_database()).await.unwrap();
    let agent = Agent::new(1);
    store.push(vec![agent.arriving(0, 3)]).await.unwrap();
    server.kill();
    let asked = std::time::Instant::now();
    let refused = store.push(vec![agent.arriving(1, 3)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.ping().await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    server.run();
    let outcomes = store.push(vec![agent.arriving(0, 3), agent.arriving(1, 3)]).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.stored).collect::<Vec<_>>(), [false, true]);
}

/// The server is killed again and again under load: what was acknowledged is there once, nothing is there in half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_killed_mid_transaction_keeps_what_was_acknowledged_once() {
    let mut server = Mariadb::start();
    let (store, _) = Store::open(&server.new_database()).await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut senders = tokio::task::JoinSet::new();
    for number in 1..4 {
        let (store, stop, done) = (store.clone(), Arc::clone(&stop), Arc::clone(&done));
        senders.spawn(async move {
            let (agent, mut seq) = (Agent::new(number), 0);
            let mut owed = false;
            while owed || !stop.load(Ordering::Relaxed) {
                // Four blocks a request; one that was not acknowledged is sent again, as an agent does.
                let request: Vec<Arriving> = (seq..seq + 4).map(|seq| agent.arriving(seq, 3)).collect();
                owed = true;
                match store.push(request).await {
                    Ok(_) => {
                        owed = false;
                        seq += 4;
                        done.fetch_add(4, Ordering::Relaxed);
                    }
                    Err(StoreError::Unavailable(_) | StoreError::Busy) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (agent, seq)
        });
    }
    for round in 0..4_u64 {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 40 + round * 23 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        server.run();
    }
    stop.store(true, Ordering::Relaxed);
    for (agent, acknowledged) in senders.join_all().await {
        let all: Vec<Arriving> = (0..acknowledged).map(|seq| agent.arriving(seq, 3)).collect();
        assert_same(&everything(&store, agent.host).await, &expected(&times_of(&all)));
        // A request is in whole or not at all, and its receipt with it: the next ones are new.
        let next =
            store.push((acknowledged..acknowledged + 4).map(|seq| agent.arriving(seq, 3)).collect()).await.unwrap();
        assert!(next.iter().all(|outcome| outcome.stored));
    }
}

/// Tells a test process that it is the server to be killed, and its database.
const VICTIM: &str = "FOREWARN_STORE_TEST_VICTIM";
/// Tells it where to write what it acknowledged.
const ACKNOWLEDGED: &str = "FOREWARN_STORE_TEST_ACKNOWLEDGED";
const VICTIM_AGENTS: std::ops::Range<u8> = 1..4;

/// A server process that pushes and merges is killed again and again. Afterwards every acknowledged block is there
/// once, a request that was under way is there in whole or not at all.
async fn a_server_killed_at_work_keeps_what_it_acknowledged_once(place: Place) {
    #[expect(clippy::disallowed_methods, reason = "how this test tells its own second process what to be")]
    let role = (std::env::var(VICTIM), std::env::var(ACKNOWLEDGED));
    if let (Ok(url), Ok(acknowledged)) = role {
        return work_until_killed(&url, acknowledged.as_ref()).await;
    }
    place.open().await;
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = folder.path().join("acknowledged");
    std::fs::write(&acknowledged, "").unwrap();
    for round in 0..5_usize {
        let before = std::fs::metadata(&acknowledged).unwrap().len();
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::fault::sqlite::a_server_killed_at_work_keeps_what_it_acknowledged_once"])
            .env(VICTIM, &place.url)
            .env(ACKNOWLEDGED, &acknowledged)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Two bytes a request; killed after some dozens of them, somewhere in the middle of the next.
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while std::fs::metadata(&acknowledged).unwrap().len() < before + 2 * (20 + 7 * round as u64) {
            assert!(std::time::Instant::now() < until, "the server does not work");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(3 * round as u64)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    let store = place.open().await;
    let lines = std::fs::read_to_string(&acknowledged).unwrap();
    for number in VICTIM_AGENTS {
        let agent = Agent::new(number);
        let requests = lines.lines().filter(|line| *line == number.to_string()).count() as u64;
        let stored = |requests: u64| {
            let all: Vec<Arriving> = (0..requests * 4).map(|seq| agent.arriving(seq, 3)).collect();
            expected(&times_of(&all))
        };
        let got = everything(&store, agent.host).await;
        if got != stored(requests + 1) {
            assert_same(&got, &stored(requests));
        }
    }
    let report = store.compact(T0 + 1000 * HOUR_MS, Duration::from_secs(60)).await.unwrap();
    assert!(report.finished && report.damaged.is_empty());
}

async fn work_until_killed(url: &str, acknowledged: &std::path::Path) {
    use std::io::Write;
    let (store, _) = Store::open(url).await.unwrap();
    let lines = std::fs::read_to_string(acknowledged).unwrap();
    for number in VICTIM_AGENTS {
        let (store, acknowledged) = (store.clone(), acknowledged.to_owned());
        let mut request = lines.lines().filter(|line| *line == number.to_string()).count() as u64;
        tokio::spawn(async move {
            let agent = Agent::new(number);
            let mut file = std::fs::OpenOptions::new().append(true).open(acknowledged).unwrap();
            loop {
                let blocks = (request * 4..request * 4 + 4).map(|seq| agent.arriving(seq, 3)).collect();
                store.push(blocks).await.unwrap();
                file.write_all(format!("{number}\n").as_bytes()).unwrap();
                request += 1;
            }
        });
    }
    loop {
        store.compact(T0 + 1000 * HOUR_MS, Duration::from_secs(60)).await.unwrap();
    }
}

/// The file's locks are the process's, and closing the file anywhere ends them all; without one, another process that
/// leaves the database deletes the write-ahead log, with what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_ends_no_lock_of_the_others() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("forewarn.db");
    let (store, _) = Store::open(&format!("sqlite://{}", file.display())).await.unwrap();
    store.push(vec![Agent::new(1).arriving(0, 3)]).await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = store.clone();
        readers.spawn(async move { store.latest_all().await.unwrap().len() });
    }
    assert_eq!(readers.join_all().await, [1; 6]);
    // A folder or a server that opens the file once more, as every new connection did.
    super::super::connection::private_file(&file).unwrap();
    let (inode, pid) = (std::fs::metadata(&file).unwrap().ino(), std::process::id().to_string());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let held = locks.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(4) == Some(&pid.as_str()) && words.get(5).is_some_and(|id| id.ends_with(&format!(":{inode}")))
    });
    assert!(held.count() > 0, "no lock on the database:\n{locks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_that_deadlock_both_are_done_in_the_end() {
    let store = Place { url: shared().new_database() }.open().await;
    let make = "CREATE TABLE pair (id INT PRIMARY KEY, value INT) ENGINE = InnoDB";
    raw(&store, make).await.unwrap();
    raw(&store, "INSERT INTO pair VALUES (1, 0), (2, 0)").await.unwrap();
    // Both hold a row before either asks for the other's; whoever comes again is alone and does not wait.
    let (held, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let writer = |mine: i32, other: i32| {
        let (store, held, runs) = (store.clone(), Arc::clone(&held), Arc::clone(&runs));
        tokio::spawn(async move {
            let mut has_met = false;
            let work = move |connection: &mut Conn| {
                runs.fetch_add(1, Ordering::Relaxed);
                let mut add = |id: i32| {
                    diesel::sql_query(format!("UPDATE pair SET value = value + 1 WHERE id = {id}")).execute(connection)
                };
                add(mine)?;
                if !std::mem::replace(&mut has_met, true) {
                    held.wait();
                }
                Ok(add(other)?)
            };
            store.inner.pool.write(work).await
        })
    };
    let (first, second) = tokio::join!(writer(1, 2), writer(2, 1));
    assert_eq!((first.unwrap().unwrap(), second.unwrap().unwrap()), (1, 1));
    assert_eq!(runs.load(Ordering::Relaxed), 3, "the database ended one of them, which was run again");
    let sum = |connection: &mut Conn| {
        Ok(diesel::select(sql::<BigInt>("(SELECT CAST(SUM(value) AS SIGNED) FROM pair)"))
            .get_result::<i64>(connection)?)
    };
    assert_eq!(store.inner.pool.read(sum).await.unwrap(), 4, "each has added to both rows once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_of_a_mysql_database_is_what_its_tables_take_of_what_the_settings_allow() {
    let store = Place { url: shared().new_database() }.open().await;
    let empty = store.room(None).await.unwrap();
    assert!(empty.place.starts_with("forewarn_") && empty.total_bytes.is_none(), "{empty:?}");
    assert!(empty.used_bytes > 0, "{empty:?}");
    raw(&store, "CREATE TABLE ballast (id INT PRIMARY KEY, bytes LONGBLOB) ENGINE = InnoDB").await.unwrap();
    for id in 0..16 {
        let row = move |connection: &mut Conn| {
            let row = format!("INSERT INTO ballast VALUES ({id}, REPEAT('x', 1048576))");
            Ok(diesel::sql_query(row).execute(connection)?)
        };
        store.inner.pool.write(row).await.unwrap();
    }
    // InnoDB counts anew, in the background and within a quarter of a minute, what a tenth has changed of.
    let (mut full, begun) = (store.room(Some(64 << 20)).await.unwrap(), Instant::now());
    while full.used_bytes - empty.used_bytes < 16 << 20 && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        full = store.room(Some(64 << 20)).await.unwrap();
    }
    let grown = full.used_bytes - empty.used_bytes;
    // It keeps free extents beside what is filled.
    assert!((16 << 20..=32 << 20).contains(&grown), "16 MiB more, told {grown} after {:?}", begun.elapsed());
    assert_eq!((full.place, full.total_bytes), (empty.place, Some(64 << 20)));
}
