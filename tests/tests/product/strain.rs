//! A database in trouble that is not gone: its disk is full, its connections are used up, it does not answer, it is too
//! old, or it is not who it says. Agents are told to come back, nothing acknowledged is lost, and it mends by itself.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forewarn_common::block::Ticks;
use forewarn_tests::chat::ChatRoom;
use forewarn_tests::database::{MariaDb, Store, query_sqlite};
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::folder::Folder;
use forewarn_tests::http::Answer;
use forewarn_tests::process::run;
use forewarn_tests::program::program;
use forewarn_tests::proxy::Proxy;
use forewarn_tests::server::Server;
use forewarn_tests::{Dice, now_ms, wait_until};

use super::outage::{BACK, GONE, told, with_fallback};
use super::site::{HandAgent, SERVER, SOON, tell};

/// Room that is left on the disk of the database before the load begins.
const LEFT_BYTES: u64 = 2 << 20;
/// Ticks of a block that does not compress: 45 KB.
const TICKS: u16 = 3600;
/// The longest that a push may wait for its answer, whatever the database does.
const ANSWERED: Duration = Duration::from_secs(28);

/// A block whose values no codec makes smaller.
fn large_block(agent: &HandAgent, seq: u64, dice: &mut Dice) -> Vec<u8> {
    let mut block = agent.block(seq, now_ms() - 86_400_000 + seq as i64 * 3_600_000 / 100, 0.5);
    block.header.ticks = TICKS;
    block.groups[0].ticks = Ticks::all(TICKS);
    let column = (0..TICKS).map(|_| dice.between(0, 1 << 50) as f64);
    block.groups[0].columns[0] = column.collect();
    block.groups[0].columns[1] = vec![0.5; usize::from(TICKS)];
    HandAgent::encode(&block)
}

fn is_told_to_come_back(answer: &Answer) -> bool {
    let after = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    [429, 503].contains(&answer.status) && after.is_some_and(|seconds| (1..=60).contains(&seconds))
}

fn a_full_disk_loses_nothing_and_mends_by_itself(
    url: &str,
    disk: &SmallFilesystem,
    supervise: impl FnOnce(),
    query: impl Fn(&str) -> Result<Vec<String>>,
) {
    let room = ChatRoom::open().unwrap();
    let server = Server::at(url, &with_fallback(&room)).and_then(|mut s| s.restart().map(|()| s)).unwrap();
    let session = server.log_in().unwrap();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let mut dice = Dice::new(7);
    let (mut seq, mut bytes) = (0, large_block(&agent, 0, &mut dice));
    let mut push = || -> Result<Answer> {
        let answer = agent.push(bytes.clone())?;
        if answer.status == 200 {
            seq += 1;
            bytes = large_block(&agent, seq, &mut dice);
        }
        Ok(answer)
    };
    assert_eq!(push().unwrap().status, 200);
    let filler = disk.path().join("filler");
    wait_until("the filler to fit beside what the database is writing", SOON, || {
        let (used, total) = disk.used_and_total_bytes()?;
        let length = (total - used).saturating_sub(LEFT_BYTES);
        run(Command::new("fallocate").arg("-l").arg(length.to_string()).arg(&filler)).map(Some)
    })
    .unwrap();

    let refused = wait_until("the disk to be full", SOON, || Ok(Some(push()?).filter(|a| a.status != 200))).unwrap();
    assert!(is_told_to_come_back(&refused), "{} {}", refused.status, refused.text());
    let mut last = refused.status;
    wait_until("the news that the database takes nothing", SOON, || {
        last = push()?.status;
        Ok((told(&room, GONE) > 0).then_some(()))
    })
    .unwrap();
    assert_eq!(last, 503);
    if url.starts_with("sqlite") {
        let health = server.agent_client().unwrap().get("/api/v1/health").unwrap();
        assert_eq!(health.status, 200, "reading goes on");
    }

    std::fs::remove_file(&filler).unwrap();
    supervise();
    let freed = Instant::now();
    wait_until("a block after the disk has room again", SOON, || Ok((push()?.status == 200).then_some(()))).unwrap();
    let again = freed.elapsed();
    room.wait_for("the news that the database is back", SOON, |message| message.says(BACK)).unwrap();
    assert_eq!((told(&room, GONE), told(&room, BACK)), (1, 1));
    let stored = query("SELECT COUNT(*) FROM block WHERE tier = 0").unwrap();
    let values = query("SELECT SUM(samples) FROM block WHERE tier = 0").unwrap();
    assert_eq!((stored, values), (vec![seq.to_string()], vec![(seq * u64::from(TICKS) * 2).to_string()]));
    tell(&format!("full disk: {seq} blocks acknowledged and stored once; taken again {again:?} after there was room"));
}

#[test]
fn a_full_disk_under_sqlite_loses_nothing_and_mends_by_itself() {
    let disk = SmallFilesystem::new(48).unwrap();
    let file = disk.path().join("forewarn.db");
    let url = format!("sqlite://{}", file.display());
    a_full_disk_loses_nothing_and_mends_by_itself(&url, &disk, || (), |sql| query_sqlite(&file, sql));
}

#[test]
fn a_full_disk_under_mariadb_loses_nothing_and_mends_by_itself() {
    let disk = SmallFilesystem::new(256).unwrap();
    let database = RefCell::new(MariaDb::start_with(Some(disk.path().join("data")), &[]).unwrap());
    let url = database.borrow().url();
    // MariaDB itself may end when its disk is full.
    let supervise = || database.borrow_mut().supervise().unwrap();
    a_full_disk_loses_nothing_and_mends_by_itself(&url, &disk, supervise, |sql| database.borrow().query(sql));
}

/// Connections that do nothing but be there.
struct Hogs(Vec<Child>);

impl Hogs {
    fn add(&mut self, database: &MariaDb, count: usize) {
        for _ in 0..count {
            let mut client = database.client("SELECT SLEEP(600)");
            self.0.push(client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            _ = hog.kill();
            _ = hog.wait();
        }
    }
}

#[test]
fn a_database_without_free_connections_is_waited_for() {
    let database = MariaDb::start_with(None, &["--max-connections=10".to_owned()]).unwrap();
    let server = Server::at(&database.url(), SERVER).and_then(|mut s| s.restart().map(|()| s)).unwrap();
    let session = server.log_in().unwrap();
    let agent = HandAgent::enroll(&server, &session).unwrap();
    let mut seq = 0;
    let mut push = || -> Result<Answer> {
        let answer = agent.push(HandAgent::encode(&agent.block(seq, now_ms() - 10_000, 0.5)))?;
        seq += u64::from(answer.status == 200);
        Ok(answer)
    };
    assert_eq!(push().unwrap().status, 200);
    let mut hogs = Hogs(Vec::new());
    // Whatever the server lets go is taken by another: root has a connection in reserve.
    let others = "SELECT id FROM information_schema.processlist WHERE user = 'forewarn' AND COALESCE(info, '') NOT LIKE '%SLEEP%'";
    let refused = wait_until("no connection to be free", SOON, || {
        for id in database.as_root(others)?.lines().skip(1) {
            _ = database.as_root(&format!("KILL {id}"));
        }
        hogs.add(&database, 12);
        std::thread::sleep(Duration::from_millis(200));
        let answer = push()?;
        Ok((answer.status != 200).then_some(answer))
    })
    .unwrap();
    assert!(is_told_to_come_back(&refused), "{} {}", refused.status, refused.text());
    drop(hogs);
    wait_until("a block after connections are free again", SOON, || Ok((push()?.status == 200).then_some(()))).unwrap();
    // The database notices only later that the others have hung up.
    let stored =
        wait_until("a connection for the test", SOON, || database.query("SELECT COUNT(*) FROM block").map(Some));
    assert_eq!(stored.unwrap(), [seq.to_string()]);
}

fn resident_kib(server: &mut Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process()?.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

#[test]
fn a_database_that_hangs_costs_agents_a_bounded_wait_and_the_server_bounded_memory() {
    let database = MariaDb::start().unwrap();
    let proxy = Proxy::to(database.port()).unwrap();
    let settings = format!("{SERVER}\n[limits]\nblocks_in_flight_max = 8");
    let mut server =
        Server::at(&database.url_at(proxy.port()), &settings).and_then(|mut s| s.restart().map(|()| s)).unwrap();
    let session = server.log_in().unwrap();
    let first = HandAgent::enroll(&server, &session).unwrap();
    let agents: Vec<HandAgent> = (0..24)
        .map(|number| HandAgent {
            client: server.agent_client().unwrap(),
            host: first.host,
            key: first.key.clone(),
            epoch: first.epoch + number,
        })
        .collect();
    let block = |agent: &HandAgent, seq| large_block(agent, seq, &mut Dice::new(seq));
    // Slow, and every block gets through.
    proxy.delay(Duration::from_millis(30));
    for agent in &agents {
        assert_eq!(agent.push(block(agent, 0)).unwrap().status, 200);
    }
    let before_kib = resident_kib(&mut server).unwrap();
    proxy.delay(Duration::ZERO);
    proxy.freeze(true);
    let send = |agent: HandAgent| {
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut answers = vec![agent.push(large_block(&agent, 1, &mut Dice::new(1)))];
            // Those that are sent away at once come again meanwhile, as agents do.
            while begun.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(500));
                answers.push(agent.push(large_block(&agent, 1, &mut Dice::new(1))));
            }
            (agent, begun.elapsed(), answers)
        })
    };
    let sending: Vec<_> = agents.into_iter().map(send).collect();
    let mut agents = Vec::new();
    let (mut busy, mut gone, mut longest) = (0, 0, Duration::ZERO);
    for thread in sending {
        let (agent, waited, answers) = thread.join().unwrap();
        for answer in answers {
            let answer = answer.unwrap();
            assert!(is_told_to_come_back(&answer), "{} {}", answer.status, answer.text());
            (busy, gone) = (busy + u32::from(answer.status == 429), gone + u32::from(answer.status == 503));
        }
        longest = longest.max(waited);
        agents.push(agent);
    }
    let grown_kib = resident_kib(&mut server).unwrap().saturating_sub(before_kib);
    tell(&format!("hanging database: {busy} x 429, {gone} x 503, longest {longest:?}, {grown_kib} KiB more resident"));
    assert!(busy > 0 && gone > 0 && longest < Duration::from_secs(10) + ANSWERED + Duration::from_secs(2));
    assert!(grown_kib < 24 << 10, "{grown_kib} KiB more");
    proxy.freeze(false);
    for agent in &agents {
        let again = || Ok((agent.push(block(agent, 1))?.status == 200).then_some(()));
        wait_until("a block after the database answers again", SOON, again).unwrap();
    }
    assert_eq!(database.query("SELECT COUNT(*) FROM block").unwrap(), [(2 * agents.len()).to_string()]);
}

/// What a command says that needs the database, and whether it did its work.
fn token(url: &str) -> (bool, String) {
    let server = Server::at(url, "").unwrap();
    let mut command = Command::new(program("forewarn-server").unwrap());
    command.arg("token").arg("--config").arg(server.settings_file().unwrap());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

/// A CA and a certificate of it for 127.0.0.1: `NAME-ca.pem`, `NAME.pem`, `NAME.key`.
fn certificate(folder: &Path, name: &str) -> Result<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(folder).args(arguments.split(' '));
        run(&mut command).context("install openssl (make machine)")
    };
    openssl(&format!(
        "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={name}-ca -keyout {name}-ca.key -out {name}-ca.pem"
    ))?;
    openssl(&format!(
        "req -newkey rsa:2048 -nodes -subj /CN=database -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.csr"
    ))?;
    openssl(&format!(
        "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 30 -copy_extensions copy -out {name}.pem"
    ))?;
    ensure!(folder.join(format!("{name}.pem")).exists(), "openssl made no certificate");
    Ok(())
}

#[test]
fn the_way_to_the_database_is_encrypted_and_another_ca_is_refused() {
    let folder = Folder::new("tls").unwrap();
    certificate(folder.path(), "right").unwrap();
    certificate(folder.path(), "wrong").unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let options = [("ssl-ca", "right-ca.pem"), ("ssl-cert", "right.pem"), ("ssl-key", "right.key")]
        .map(|(o, f)| format!("--{o}={}", path(f)));
    let database = MariaDb::start_with(None, &options).unwrap();
    database.as_root("ALTER USER 'forewarn'@'%' REQUIRE SSL").unwrap();
    let url = |more: &str| format!("{}{more}", database.url());
    let (done, said) = token(&url(""));
    assert!(!done && said.contains("Access denied"), "the database must insist on TLS: {said}");
    let (done, said) = token(&url(&format!("?require_ssl=true&ca_file={}", path("right-ca.pem"))));
    assert!(done, "{said}");
    let (done, said) = token(&url(&format!("?require_ssl=true&ca_file={}", path("wrong-ca.pem"))));
    assert!(!done && said.contains("UnknownIssuer") && said.contains("ca_file"), "{said}");
    let (done, said) = token(&url("?require_ssl=true"));
    assert!(!done && said.contains("ca_file"), "a CA of one's own is not trusted by itself: {said}");
    let (done, said) = token(&url(&format!("?require_ssl=true&ca_file={}", path("none.pem"))));
    assert!(!done && said.contains("none.pem"), "{said}");
    assert!(!said.contains("quiet-harbour"), "{said}");
}

#[test]
fn a_database_that_is_too_old_is_refused_with_what_is_needed() {
    let database = MariaDb::start_with(None, &["--version=10.3.39-MariaDB".to_owned()]).unwrap();
    let (done, said) = token(&database.url());
    assert!(!done && said.contains("10.3.39-MariaDB is too old: MySQL 8.0 or MariaDB 10.6 at least"), "{said}");
}

#[test]
fn the_servers_own_disk_is_a_host_that_is_judged_like_all_others() {
    let store = Store::sqlite().unwrap();
    let mut server = Server::start(&store, &format!("{SERVER}\n[store]\nmeasure_every_ms = 1000")).unwrap();
    let session = server.log_in().unwrap();
    let own = session
        .wait_for("/api/v1/overview", "the server among the hosts", SOON, |overview| {
            let host = &overview["hosts"][0];
            host["disk"]["used_ratio"].as_f64().map(|_| host.clone())
        })
        .unwrap();
    assert_eq!(own["name"], "forewarn-server");
    let Store::Sqlite(folder) = &store else { unreachable!("made above") };
    let stat = rustix::fs::statvfs(folder.path()).unwrap();
    let used = (stat.f_blocks - stat.f_bfree) as f64;
    let ratio = used / (used + stat.f_bavail as f64);
    assert!((own["disk"]["used_ratio"].as_f64().unwrap() - ratio).abs() < 0.05, "{own}");
    assert_eq!(own["disk"]["instance"], folder.path().canonicalize().unwrap().display().to_string());
    // The rule for disks fires on it as on any other.
    let change = serde_json::json!({ "threshold": ratio / 2.0, "for_ms": 0 });
    super::site::change_rule(&session, "disk", &change).unwrap();
    wait_until("an alarm about the server's disk", SOON, || {
        let all = super::site::incidents(&session)?;
        Ok(all.iter().any(|incident| incident["host"] == own["id"] && incident["rule"] == "disk").then_some(()))
    })
    .unwrap();
    // One host however often the server starts.
    let before = store.number("SELECT COUNT(*) FROM block").unwrap();
    server.kill().unwrap();
    server.restart().unwrap();
    wait_until("a block after the restart", SOON, || {
        Ok((store.number("SELECT COUNT(*) FROM block")? > before).then_some(()))
    })
    .unwrap();
    assert_eq!(store.number("SELECT COUNT(*) FROM host").unwrap(), 1);
}
