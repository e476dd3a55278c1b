//! The harness's own promises: what a journey leans on, shown without the product's programs.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use forewarn_tests::chat::{ChatRoom, Fault, Limits, Robot, SECRET, sign};
use forewarn_tests::database::{MariaDb, Store};
use forewarn_tests::engine::Engine;
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::folder::Folder;
use forewarn_tests::http::{Answer, Client};
use forewarn_tests::network::{Cable, Place};
use forewarn_tests::process::{Process, run};
use forewarn_tests::{Dice, browser, now_ms, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn engine_runs_containers_and_writes_json_file_logs() {
    let engine = Engine::start().unwrap();
    let container = engine.run_script("talker", &["--label", "team=blue"], "echo 数据库连接超时; sleep 600").unwrap();
    let line = wait_until("a line in the log file", SOON, || {
        Ok(std::fs::read_to_string(container.log_file()).ok().filter(|log| log.contains('\n')))
    });
    let line: serde_json::Value = serde_json::from_str(line.unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(line["log"], "数据库连接超时\n");
    assert_eq!(container.inspect("{{.State.Running}} {{index .Config.Labels \"team\"}}").unwrap(), "true blue");
    assert_eq!(container.exec("cat /proc/1/comm >/dev/null && echo here").unwrap(), "here");
    container.remove().unwrap();
    assert_eq!(engine.docker(&["ps", "-aq"]).unwrap(), "");
}

#[test]
fn engine_leaves_nothing_behind_even_after_a_crash() {
    let mut engine = Engine::start().unwrap();
    let data = engine.data_folder();
    engine.run_script("sleeper", &[], "sleep 600").unwrap();
    engine.kill().unwrap();
    drop(engine);
    let named = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines: Vec<String> = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
        lines.into_iter().filter(|line| line.contains(data.parent().unwrap().to_str().unwrap())).count()
    };
    wait_until("the end of every process of the engine", SOON, || Ok((named() == 0).then_some(()))).unwrap();
    assert!(!data.exists());
}

#[test]
fn database_survives_a_kill() {
    let mut database = MariaDb::start().unwrap();
    database.query("CREATE TABLE kept (id BIGINT PRIMARY KEY, word VARCHAR(40)) ENGINE=InnoDB").unwrap();
    database.query("INSERT INTO kept VALUES (1, '内存溢出')").unwrap();
    database.kill().unwrap();
    database.query("SELECT 1").unwrap_err();
    database.restart().unwrap();
    assert_eq!(database.query("SELECT id, word FROM kept").unwrap(), ["1\t内存溢出"]);
}

#[test]
fn database_wants_its_password() {
    let database = MariaDb::start().unwrap();
    let port = database.url().rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=forewarn", "--password=wrong"]);
    let refused = run(client.args([&format!("--port={port}"), "-e", "SELECT 1"])).unwrap_err();
    assert!(format!("{refused}").contains("Access denied"), "{refused}");
}

#[test]
fn both_stores_answer_a_number() {
    let sqlite = Store::sqlite().unwrap();
    run(Command::new("sqlite3")
        .arg(sqlite.url().trim_start_matches("sqlite://"))
        .arg("CREATE TABLE t AS SELECT 7 AS n"))
    .unwrap();
    assert_eq!(sqlite.number("SELECT n FROM t").unwrap(), 7);
    sqlite.query("DELETE FROM t").unwrap_err();
    assert_eq!(Store::mariadb().unwrap().number("SELECT 3 + 4").unwrap(), 7);
}

#[test]
fn small_filesystem_fills_up() {
    let small = SmallFilesystem::new(16).unwrap();
    let (used, total) = small.used_and_total_bytes().unwrap();
    assert!(used < total / 10 && total > 10 * 1024 * 1024, "{used} of {total}");
    let mut file = std::fs::File::create(small.path().join("big")).unwrap();
    let block = vec![7_u8; 1024 * 1024];
    let fault = (0..32).find_map(|_| file.write_all(&block).err()).expect("the filesystem is small");
    assert_eq!(fault.kind(), std::io::ErrorKind::StorageFull);
    let (used, total) = small.used_and_total_bytes().unwrap();
    assert!(used * 100 > total * 95, "{used} of {total}");
}

#[test]
fn cut_cable_loses_packets_in_silence_and_heals() {
    let cable = Cable::from(Place::Here).unwrap();
    let folder = Folder::new("cable").unwrap();
    folder.write("page", "over the wire").unwrap();
    let mut httpd = cable.host().command("/bin/busybox");
    httpd.args(["httpd", "-f", "-p", "8080", "-h"]).arg(folder.path());
    let _httpd = Process::start("httpd", &httpd, &folder.join("log")).unwrap();
    let ask = |patience: Duration| {
        let address = format!("{}:8080", cable.far_address()).parse().unwrap();
        let mut stream = std::net::TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    wait_until("a page", SOON, || Ok(Some(ask(SOON)?))).unwrap();
    cable.cut().unwrap();
    assert_eq!(ask(Duration::from_millis(700)).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    cable.heal().unwrap();
    assert!(ask(SOON).unwrap().ends_with("over the wire"));
    // No way out: the far host knows its cable and nothing else.
    assert_eq!(run(cable.host().command("ip").args(["route", "show", "default"])).unwrap(), "");
}

#[test]
fn process_is_frozen_thawed_and_stopped() {
    let folder = Folder::new("process").unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap 'echo bye; exit 7' TERM; while :; do echo tick; sleep 0.05; done"]);
    let mut process = Process::start("ticker", &command, &folder.join("log")).unwrap();
    process.wait_for_output("tick", SOON).unwrap();
    process.freeze().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let frozen = process.log_text().len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(process.log_text().len(), frozen);
    process.thaw().unwrap();
    assert_eq!(process.stop().unwrap().code(), Some(7));
    assert!(process.log_text().ends_with("bye\n"));
    let said = process.wait_for_output("never", SOON).unwrap_err();
    assert!(format!("{said:#}").contains("ended"), "{said:#}");
}

#[test]
fn dice_repeat_with_their_seed_and_stay_in_range() {
    let throw = |seed| {
        let mut dice = Dice::new(seed);
        (0..1000).map(|_| dice.between(3, 9)).collect::<Vec<u64>>()
    };
    assert_eq!(throw(5), throw(5));
    assert_ne!(throw(5), throw(6));
    assert!((3..=9).all(|face| throw(5).contains(&face)) && throw(5).iter().all(|face| (3..=9).contains(face)));
}

// ---------------------------------------------------------------- the chat room

/// Posts a markdown message to DingTalk, signed with a secret at an instant.
fn say(room: &ChatRoom, secret: &str, at_ms: i64, text: &str) -> Answer {
    let client = Client::new("").unwrap();
    let mut url = url::Url::parse(&room.url(Robot::DingTalk)).unwrap();
    url.query_pairs_mut()
        .append_pair("timestamp", &at_ms.to_string())
        .append_pair("sign", &sign::dingtalk(secret, at_ms));
    let body = json!({ "msgtype": "markdown", "markdown": { "title": "告警", "text": text } });
    client.send_json("POST", url.as_str(), &body).unwrap()
}

fn errcode(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 200, "a robot answers 200 whatever it thinks");
    answer.json().unwrap()["errcode"].as_i64().unwrap()
}

#[test]
fn dingtalk_takes_a_signed_message_and_remembers_it() {
    let room = ChatRoom::open().unwrap();
    let before = now_ms();
    assert_eq!(errcode(&say(&room, SECRET, now_ms(), "磁盘将在今晚写满")), 0);
    let seen = room.wait_for("the message", SOON, |m| m.says("今晚写满")).unwrap();
    assert!(seen.robot == Robot::DingTalk && (before..=now_ms()).contains(&seen.received_at_ms));
}

#[test]
fn dingtalk_refuses_wrong_signatures_stale_clocks_and_unknown_tokens() {
    let room = ChatRoom::open().unwrap();
    assert_eq!(errcode(&say(&room, "another secret", now_ms(), "x")), 310_000);
    assert_eq!(errcode(&say(&room, SECRET, now_ms() - 3_700_000, "x")), 310_000);
    let client = Client::new("").unwrap();
    let body = json!({ "msgtype": "text", "text": { "content": "x" } });
    let unsigned = client.send_json("POST", &room.url(Robot::DingTalk), &body).unwrap();
    assert_eq!(errcode(&unsigned), 310_000);
    let unknown = client.send_json("POST", &room.url(Robot::DingTalk).replace("room-token", "other"), &body).unwrap();
    assert_eq!(errcode(&unknown), 300_001);
    assert!(room.messages().is_empty() && room.requests().len() == 4);
}

#[test]
fn dingtalk_refuses_what_is_too_long_or_has_no_title() {
    let room = ChatRoom::open().unwrap();
    assert_eq!(errcode(&say(&room, SECRET, now_ms(), &"满".repeat(7000))), 460_101);
    assert_eq!(errcode(&say(&room, SECRET, now_ms(), "")), 40_035);
}

#[test]
fn dingtalk_locks_out_a_robot_that_talks_too_fast() {
    let room = ChatRoom::open_with(Limits { messages_max: 20, span_ms: 1500, lockout_ms: 1500 }).unwrap();
    for turn in 0..20 {
        assert_eq!(errcode(&say(&room, SECRET, now_ms(), &format!("message {turn}"))), 0);
    }
    assert_eq!(errcode(&say(&room, SECRET, now_ms(), "one too many")), 130_101);
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(errcode(&say(&room, SECRET, now_ms(), "after the lockout")), 0);
    assert_eq!(room.messages().len(), 21);
}

#[test]
fn wecom_counts_bytes_not_characters() {
    let room = ChatRoom::open().unwrap();
    let client = Client::new("").unwrap();
    let send = |content: &str| {
        let body = json!({ "msgtype": "markdown", "markdown": { "content": content } });
        errcode(&client.send_json("POST", &room.url(Robot::WeCom), &body).unwrap())
    };
    assert_eq!(send(&"满".repeat(1365)), 0);
    assert_eq!(send(&"满".repeat(1366)), 40_058);
    assert_eq!(send(""), 44_004);
}

#[test]
fn feishu_wants_its_signature_in_the_body() {
    let room = ChatRoom::open().unwrap();
    let client = Client::new("").unwrap();
    let send = |secret: &str| {
        let seconds = now_ms() / 1000;
        let body = json!({
            "timestamp": seconds.to_string(), "sign": sign::feishu(secret, seconds),
            "msg_type": "text", "content": { "text": "内存不足" },
        });
        client.send_json("POST", &room.url(Robot::Feishu), &body).unwrap().json().unwrap()["code"].as_i64().unwrap()
    };
    assert_eq!(send(SECRET), 0);
    assert_eq!(send("wrong"), 19_021);
    let five: Vec<i64> = (0..5).map(|_| send(SECRET)).collect();
    assert_eq!(five, [0, 0, 0, 0, 11_232]);
}

#[test]
fn ordered_faults_come_in_turn() {
    let room = ChatRoom::open().unwrap();
    for fault in [Fault::Errcode(-1), Fault::Status(502), Fault::Hangup, Fault::DeliverThenHangup] {
        room.fail_next(fault);
    }
    let client = Client::new("").unwrap();
    let post = || client.send_json("POST", &room.url(Robot::Webhook), &json!({ "event_id": "1" }));
    assert_eq!(post().unwrap().status, 200);
    assert_eq!(post().unwrap().status, 502);
    post().unwrap_err();
    post().unwrap_err();
    assert_eq!(post().unwrap().status, 200);
    let codes: Vec<i64> = room.requests().iter().map(|m| m.errcode).collect();
    assert_eq!(codes, [-1, -1, -1, 0, 0]);
    room.go_down();
    post().unwrap_err();
    room.come_back();
    assert_eq!(post().unwrap().status, 200);
}

// ---------------------------------------------------------------- the browser

/// Serves one page on loopback with busybox.
fn page(html: &str) -> (Folder, Process, String) {
    let folder = Folder::new("page").unwrap();
    folder.write("www/index.html", html).unwrap();
    let port = forewarn_tests::free_port().unwrap();
    let mut httpd = Command::new("/bin/busybox");
    httpd.args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"]).arg(folder.join("www"));
    let process = Process::start("httpd", &httpd, &folder.join("log")).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let client = Client::new(&url).unwrap();
    wait_until("the page", SOON, || Ok(client.get("/").ok())).unwrap();
    (folder, process, url)
}

#[test]
fn browser_reads_a_page() {
    let (_folder, _process, url) = page(
        "<html lang=zh><link rel=icon href='data:,'><meta charset=utf-8><title>先见</title><body>内存 80 %</body></html>",
    );
    let answer = browser::run_script("title", &json!({ "url": url, "shot": "parts-title" })).unwrap();
    assert_eq!(answer, json!({ "title": "先见", "text": "内存 80 %" }));
}

#[test]
fn browser_tells_of_requests_that_leave_the_origin() {
    let (_folder, _process, url) = page(
        "<html><link rel=icon href='data:,'><title>x</title><body>x<img src='http://127.0.0.2:9/a.png'></body></html>",
    );
    let fault = browser::run_script("title", &json!({ "url": url, "shot": "parts-leaving" })).unwrap_err();
    assert!(format!("{fault:#}").contains("left the origin: http://127.0.0.2:9/a.png"), "{fault:#}");
}
