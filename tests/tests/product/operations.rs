//! The commands of the person on duty, on a site that is at work: backup, rehearsal of a restore, verify, move to the
//! other engine, export. On SQLite and on MariaDB.

use std::path::Path;
use std::process::{Command, Output};

use forewarn_tests::agent::Agent;
use forewarn_tests::database::{Store, query_sqlite};
use forewarn_tests::folder::Folder;
use forewarn_tests::program::program;
use forewarn_tests::server::Server;
use forewarn_tests::wait_until;

use super::site::{AGENT, SERVER, SOON, live_host};

fn command(server: &Server, name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("forewarn-server").unwrap());
    command.arg(name).arg("--config").arg(server.settings_file().unwrap()).args(arguments);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The command, successful, and what it said.
fn done(server: &Server, name: &str, arguments: &[&str]) -> String {
    let output = command(server, name, arguments);
    assert!(output.status.success(), "{name}: {}", text(&output));
    text(&output)
}

fn refused(server: &Server, name: &str, arguments: &[&str]) -> String {
    let output = command(server, name, arguments);
    assert!(!output.status.success(), "{name} should be refused: {}", text(&output));
    text(&output)
}

fn number(file: &Path, sql: &str) -> i64 {
    query_sqlite(&file.to_path_buf(), sql).unwrap()[0].parse().unwrap()
}

#[test]
fn a_site_is_backed_up_restored_verified_moved_and_exported_from_sqlite() {
    a_site_is_operated(&Store::sqlite().unwrap(), &Store::mariadb().unwrap());
}

#[test]
fn a_site_is_backed_up_restored_verified_moved_and_exported_from_mariadb() {
    a_site_is_operated(&Store::mariadb().unwrap(), &Store::sqlite().unwrap());
}

fn a_site_is_operated(store: &Store, other: &Store) {
    let folder = Folder::new("operations").unwrap();
    let settings = format!("{SERVER}\n[store]\ncompact_every_ms = 86400000");
    let mut server = Server::start(store, &settings).unwrap();
    let mut agent = Agent::start(&server, None, AGENT).unwrap();
    live_host(&server.log_in().unwrap()).unwrap();
    let blocks = || store.number("SELECT COUNT(*) FROM block");
    wait_until("some blocks", SOON, || Ok((blocks()? >= 3).then_some(()))).unwrap();

    // While agent and server are at work.
    let file = folder.join("forewarn-backup.db");
    let path = file.display().to_string();
    let said = done(&server, "backup", &["--to", &path]);
    let key = store.query("SELECT hex(value) FROM site_value WHERE name = 'site_key'").unwrap();
    let key = String::from_utf8(hex::decode(&key[0]).unwrap()).unwrap();
    assert!(said.contains(", 0 damaged") && said.contains(&format!("site key {key} only")), "{said}");
    assert!(refused(&server, "backup", &["--to", &path]).contains("give a new file"));
    assert!(number(&file, "SELECT COUNT(*) FROM block") >= 3);
    assert!(done(&server, "verify", &[]).contains(", 0 damaged"));
    assert!(done(&server, "verify", &["--file", &path]).contains(", 0 damaged"));

    for (format, first) in [("csv", "time,time_ms,host,entity,metric,instance,value"), ("parquet", "PAR1")] {
        let to = folder.join(&format!("points.{format}"));
        let shown = to.display().to_string();
        let said =
            done(&server, "export", &["--to", &shown, "--format", format, "--metric", "cpu_count", "--step-ms", "0"]);
        let bytes = std::fs::read(&to).unwrap();
        assert!(bytes.starts_with(first.as_bytes()) && bytes.len() > 100, "{format}: {said}");
        if format == "csv" {
            let lines = String::from_utf8(bytes).unwrap().lines().count() - 1;
            assert!(lines >= 5 && said.contains(&format!("{lines} points")), "{said}");
        }
        assert!(refused(&server, "export", &["--to", &shown]).contains("give a new file"));
    }
    assert!(refused(&server, "export", &["--to", "/tmp/none.csv", "--host", "no-such"]).contains("no-such"));

    // The rehearsal: another data directory, the same key, an empty database.
    let rehearsal = Server::new(&Store::sqlite().unwrap(), SERVER).unwrap();
    let target = rehearsal.data_folder().join("forewarn.db");
    std::fs::create_dir_all(rehearsal.data_folder()).unwrap();
    let mut rehearsal = rehearsal;
    rehearsal.change("database.url", format!("sqlite://{}", target.display()));
    let said = done(&rehearsal, "restore", &["--from", &path]);
    assert!(said.contains(&format!("put site key {key} at")), "{said}");
    assert!(refused(&rehearsal, "restore", &["--from", &path]).contains("never written over"));
    // A server with another key does not start on it; with the right one it does.
    std::fs::write(rehearsal.data_folder().join("site.key"), format!("{}\n", "ab".repeat(32))).unwrap();
    std::fs::set_permissions(
        rehearsal.data_folder().join("site.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    assert!(refused(&rehearsal, "token", &[]).contains("sealed with site key"));
    std::fs::copy(server.data_folder().join("site.key"), rehearsal.data_folder().join("site.key")).unwrap();
    rehearsal.restart().unwrap();
    rehearsal.stop().unwrap();

    // The move: stopped, copied, compared, and the agent goes on with what it kept.
    server.stop().unwrap();
    let moved = Server::new(other, SERVER).unwrap();
    let target = moved.settings_file().unwrap().display().to_string();
    let said = done(&server, "move", &["--to-config", &target]);
    assert!(said.contains("copied and compared") && !said.contains("quiet-harbour"), "{said}");
    assert_eq!(blocks().unwrap(), other.number("SELECT COUNT(*) FROM block").unwrap());
    assert!(refused(&server, "move", &["--to-config", &target]).contains("the target is not empty"));
    server.change("database.url", other.url());
    server.restart().unwrap();
    let before = other.number("SELECT COUNT(*) FROM block").unwrap();
    let goes_on = || Ok((other.number("SELECT COUNT(*) FROM block")? > before + 1).then_some(()));
    wait_until("the agent to go on with the moved site", SOON, goes_on).unwrap();
    assert!(agent.stop().unwrap().success());

    // A flipped bit is told, with its host, and the rest is verified.
    let sql = "UPDATE block SET bytes = X'00' WHERE start_ms = (SELECT start_ms FROM (SELECT MIN(start_ms) AS start_ms FROM block) AS b)";
    if let Store::Sqlite(files) = other {
        let mut client = Command::new("sqlite3");
        client.args(["-cmd", ".timeout 5000"]).arg(files.join("forewarn.db")).arg(sql);
        assert!(client.status().unwrap().success());
    } else {
        other.query(sql).unwrap();
    }
    let said = refused(&server, "verify", &[]);
    assert!(said.contains("damaged: host ") && said.contains("1 rows are damaged"), "{said}");
}
