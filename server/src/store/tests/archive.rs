//! The database as a whole: snapshots, copies in both directions, damage.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::*;
use crate::store::archive::{self, TABLES};
use crate::store::connection::Conn;
use crate::store::schema::block;

on_both_engines!(
    every_table_is_kept,
    a_backup_of_one_moment_is_one_file_that_holds_everything,
    a_copy_into_the_other_engine_is_the_same_row_by_row,
    a_backup_is_restored_into_mysql_row_by_row,
    a_copy_that_a_block_was_damaged_in_is_told_by_host_and_span_and_never_used,
    a_target_that_holds_something_is_refused_and_left_alone,
    a_copy_that_was_not_finished_is_refused_by_everybody,
    flipped_bits_are_told_with_host_and_span_and_the_rest_goes_on,
);

/// A database with blocks of both kinds.
async fn filled(place: &Place) -> Store {
    let store = place.open().await;
    for number in 1..=3 {
        let agent = Agent::new(number);
        store.push((0..40).map(|seq| agent.arriving(seq, 30)).collect()).await.unwrap();
    }
    // The first two of three hours and some are merged.
    store.compact(T0 + 2 * HOUR_MS + HOUR_MS / 2, Duration::from_secs(60)).await.unwrap();
    store.site_put_if_absent("site_key", b"abc".to_vec()).await.unwrap();
    store
}

async fn assert_holds_all(store: &Store) {
    for number in 1..=3 {
        let agent = Agent::new(number);
        let arrivals: Vec<_> = (0..40).map(|seq| agent.arriving(seq, 30)).collect();
        assert_same(&everything(store, agent.host).await, &expected(&times_of(&arrivals)));
        let again = store.push(arrivals).await.unwrap();
        assert!(again.iter().all(|outcome| !outcome.stored), "what was acknowledged is known");
    }
}

async fn every_table_is_kept(place: Place) {
    let store = place.open().await;
    let load = |connection: &mut Conn| {
        let names = match connection {
            Conn::Sqlite(_) => "SELECT name FROM sqlite_master WHERE type = 'table'",
            Conn::Mysql(_) => "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
        };
        Ok(sql::<Text>(names).load::<String>(connection)?)
    };
    let mut there = store.inner.pool.bare(load).await.unwrap();
    there.retain(|name| !name.starts_with("__diesel") && !name.starts_with("sqlite_") && name != "server");
    there.sort();
    let mut kept: Vec<&str> = TABLES.to_vec();
    kept.sort_unstable();
    assert_eq!(there, kept, "a new table belongs into the list of store/archive.rs");
}

async fn a_backup_of_one_moment_is_one_file_that_holds_everything(place: Place) {
    let store = filled(&place).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a backup%.db");
    archive::snapshot(&place.url, &file).await.unwrap();
    // The server went on while it was made: that is not in it.
    store.push(vec![Agent::new(9).arriving(0, 30)]).await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let verified = archive::verify_file(&file).await.unwrap();
    assert_eq!((verified.damaged, verified.told.clone()), (0, vec![]));
    assert!(verified.blocks > 10 && verified.others >= 8, "{verified:?}");
    assert_eq!(archive::site_value_of_file(&file, "site_key").await.unwrap().unwrap(), b"abc");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it, and reading leaves nothing");
    assert!(archive::snapshot(&place.url, &file).await.is_err(), "never written over");
    let copy = folder.path().join("used.db");
    std::fs::copy(&file, &copy).unwrap();
    let restored = Store::open(&format!("sqlite://{}", copy.display())).await.unwrap().0;
    assert_holds_all(&restored).await;
    assert!(restored.latest(Agent::new(9).host).await.unwrap().is_none());
}

async fn a_copy_into_the_other_engine_is_the_same_row_by_row(place: Place) {
    drop(filled(&place).await);
    let folder = tempfile::tempdir().unwrap();
    let other = if place.is_mysql() {
        format!("sqlite://{}", folder.path().join("other.db").display())
    } else {
        crate::store::tests::mariadb::shared().new_database()
    };
    let copied = archive::copy(&place.url, &other).await.unwrap();
    assert!(copied.blocks > 10 && copied.rows > copied.blocks && copied.bytes > 1000, "{copied:?}");
    assert_holds_all(&Store::open(&other).await.unwrap().0).await;
    assert!(archive::copy(&place.url, &place.url).await.is_err(), "not to itself");
}

async fn a_backup_is_restored_into_mysql_row_by_row(place: Place) {
    drop(filled(&place).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db");
    archive::snapshot(&place.url, &file).await.unwrap();
    let target = crate::store::tests::mariadb::shared().new_database();
    let copied = archive::copy_file(&file, &target).await.unwrap();
    let (source, verified) = (archive::verify_file(&file).await.unwrap(), archive::verify(&target).await.unwrap());
    assert_eq!(verified, source);
    assert_eq!((verified.damaged, verified.blocks), (0, copied.blocks));
    assert_holds_all(&Store::open(&target).await.unwrap().0).await;
}

async fn a_copy_that_a_block_was_damaged_in_is_told_by_host_and_span_and_never_used(place: Place) {
    let folder = tempfile::tempdir().unwrap();
    let source = Place { url: format!("sqlite://{}", folder.path().join("source.db").display()) };
    drop(filled(&source).await);
    // The target writes other bytes than it was given of one block: pushed, of the second host, the newest.
    let (host, start_ms) = ("02".repeat(16), T0 + 39 * 30 * STEP_MS);
    let which = format!("NEW.tier = 0 AND NEW.start_ms = {start_ms} AND NEW.host = X'{host}'");
    let damage = if place.is_mysql() {
        format!(
            "CREATE TRIGGER damage BEFORE INSERT ON block FOR EACH ROW \
             SET NEW.bytes = IF({which}, REPEAT('x', LENGTH(NEW.bytes)), NEW.bytes)"
        )
    } else {
        format!(
            "CREATE TRIGGER damage AFTER INSERT ON block WHEN {which} BEGIN UPDATE block SET bytes = \
             zeroblob(length(bytes)) WHERE tier = 0 AND start_ms = {start_ms} AND host = NEW.host; END"
        )
    };
    let target = place.open().await;
    target.inner.pool.bare(move |connection| Ok(connection.batch_execute(&damage)?)).await.unwrap();
    drop(target);
    let refused = archive::copy(&source.url, &place.url).await.unwrap_err().to_string();
    let named = format!("of table block (tier 0, start_ms {start_ms}, host {host}, part ");
    assert!(refused.contains(&named) && refused.ends_with(") is not the same in the copy"), "{refused}");
    let refused = Store::open(&place.url).await.err().unwrap().to_string();
    assert!(refused.starts_with("this database holds a copy that was not finished"), "{refused}");
}

async fn a_target_that_holds_something_is_refused_and_left_alone(place: Place) {
    let folder = tempfile::tempdir().unwrap();
    let source = Place { url: format!("sqlite://{}", folder.path().join("source.db").display()) };
    drop(filled(&source).await);
    place.open().await.site_put_if_absent("own", b"kept".to_vec()).await.unwrap();
    let refused = archive::copy(&source.url, &place.url).await.unwrap_err().to_string();
    assert_eq!(refused, "the target is not empty; give an empty database");
    let store = place.open().await;
    assert_eq!(store.site_get("own").await.unwrap().unwrap(), b"kept");
    assert_eq!(everything(&store, Agent::new(1).host).await.len(), 0);
}

async fn a_copy_that_was_not_finished_is_refused_by_everybody(place: Place) {
    let store = place.open().await;
    store.inner.pool.bare(crate::store::setup::begin_copy).await.unwrap();
    let refused = Store::open(&place.url).await.err().unwrap().to_string();
    assert!(refused.starts_with("this database holds a copy that was not finished: empty it"), "{refused}");
}

/// Tier, start, host, part, bytes.
type BlockRow = (i16, i64, Vec<u8>, i64, Vec<u8>);

async fn flipped_bits_are_told_with_host_and_span_and_the_rest_goes_on(place: Place) {
    let store = filled(&place).await;
    let sound = archive::verify(&place.url).await.unwrap();
    assert_eq!(sound.damaged, 0, "{:?}", sound.told);
    // One bit in the middle of every fifth block, of both tiers.
    let flip = |connection: &mut Conn| {
        let rows: Vec<BlockRow> = block::table
            .select((block::tier, block::start_ms, block::host, block::part, block::bytes))
            .order((block::tier, block::start_ms, block::host, block::part))
            .load(connection)?;
        let mut flipped = Vec::new();
        for (tier, start_ms, host, part, mut bytes) in rows.into_iter().step_by(5) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 16;
            let row = block::table.find((tier, start_ms, host.clone(), part));
            diesel::update(row).set(block::bytes.eq(bytes)).execute(connection)?;
            flipped.push((hex::encode(host), start_ms, tier));
        }
        Ok(flipped)
    };
    let flipped = store.inner.pool.bare(flip).await.unwrap();
    assert!(flipped.iter().any(|row| row.2 == 0) && flipped.iter().any(|row| row.2 > 0), "both tiers are hit");
    store.inner.pool.bare(|c| Ok(c.batch_execute("UPDATE layout SET id = id + 1")?)).await.unwrap();
    let verified = archive::verify(&place.url).await.unwrap();
    assert_eq!(verified.blocks, sound.blocks, "every block is looked at");
    assert_eq!(verified.damaged, flipped.len() as u64 + 1, "{:?}", verified.told);
    for (host, start_ms, tier) in flipped {
        let named = |text: &&String| {
            text.starts_with(&format!("host {host}, {start_ms} to ")) && text.contains(&format!("tier {tier}, part"))
        };
        assert_eq!(verified.told.iter().filter(named).count(), 1, "{host} {start_ms}");
    }
    assert!(verified.told.iter().any(|text| text.contains("its bytes are those of another")));
}
