//! The main promise: the chat room hears of a filling disk before it is full, of what a container's
//! log says, then of the alarm and of its end — each once, in Chinese — and nothing of a disk that
//! rises and falls by itself.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::chat::{ChatRoom, Message};
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::filesystem::SmallFilesystem;
use forewarn_tests::server::Server;
use forewarn_tests::{Dice, now_ms, seed, wait_until};
use serde_json::json;

use super::site::{AGENT, SERVER, SOON, add_robot, change_rule, incidents, keep_rules, live_host, tell};

const THRESHOLD: f64 = 0.9;
const HORIZON_MS: i64 = 120_000;
/// Pause between two writes of a container, seconds.
const WRITE_EVERY_S: f64 = 0.25;
/// The control is cut back when it is this full.
const TOOTH_TOP: f64 = 0.6;
const OUT_OF_MEMORY: &str = "java.lang.OutOfMemoryError: Java heap space";
const DATABASE_TIMEOUT: &str = "数据库连接超时 (30000 ms)";

/// The real use of a filesystem, looked at ten times a second from the first moment on.
struct Gauge {
    seen: Arc<Mutex<Vec<(i64, f64)>>>,
    stop: Arc<AtomicBool>,
}

impl Gauge {
    fn watch(at: &Path) -> Self {
        let gauge = Self { seen: Arc::default(), stop: Arc::default() };
        let (seen, stop, at) = (Arc::clone(&gauge.seen), Arc::clone(&gauge.stop), at.to_owned());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let stat = rustix::fs::statvfs(&at).unwrap();
                let used = (stat.f_blocks - stat.f_bfree) as f64;
                seen.lock().unwrap().push((now_ms(), used / (used + stat.f_bavail as f64)));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        gauge
    }

    fn ratio_at(&self, at_ms: i64) -> f64 {
        let seen = self.seen.lock().unwrap();
        seen.iter().rev().find(|(t_ms, _)| *t_ms <= at_ms).unwrap().1
    }

    fn first_at_or_over(&self, ratio: f64) -> Option<i64> {
        self.seen.lock().unwrap().iter().find(|(_, used)| *used >= ratio).map(|(t_ms, _)| *t_ms)
    }

    fn highest(&self) -> f64 {
        self.seen.lock().unwrap().iter().map(|(_, used)| *used).fold(0.0, f64::max)
    }

    /// How often it fell by more than a quarter.
    fn falls(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let (mut top, mut falls) = (0.0, 0);
        for (_, used) in seen.iter() {
            if top - used > 0.25 {
                falls += 1;
                top = *used;
            }
            top = top.max(*used);
        }
        falls
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn room_is_warned_before_a_disk_is_full_on_sqlite() {
    room_is_warned_before_a_disk_is_full(&Store::sqlite().unwrap(), 1);
}

#[test]
fn room_is_warned_before_a_disk_is_full_on_mariadb() {
    room_is_warned_before_a_disk_is_full(&Store::mariadb().unwrap(), 2);
}

fn room_is_warned_before_a_disk_is_full(store: &Store, run: u64) {
    let mut dice = Dice::new(seed().wrapping_add(run));
    let engine = Engine::start().unwrap();
    let room = ChatRoom::open().unwrap();
    let server = Server::start(store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["disk", "keyword"]).unwrap();
    change_rule(&session, "disk", &json!({ "threshold": THRESHOLD, "horizon_ms": HORIZON_MS, "for_ms": 2000 }))
        .unwrap();
    change_rule(&session, "keyword", &json!({ "quiet_ms": 20_000 })).unwrap();
    add_robot(&session, &room).unwrap();

    // A disk that will fill up and one that never will.
    let (filling, control) = (SmallFilesystem::new(128).unwrap(), SmallFilesystem::new(64).unwrap());
    let (filling_at, control_at) = (filling.path().display().to_string(), control.path().display().to_string());
    let (filling_gauge, control_gauge) = (Gauge::watch(filling.path()), Gauge::watch(control.path()));
    let base = dice.between(5, 30) as f64 / 100.0;
    let rest_s = dice.between(25, 40);
    let fill_s = dice.between(60, 100);
    let tooth_s = dice.between(6, 10);
    tell(&format!(
        "fill: {:.0} % at rest for {rest_s} s, then {:.0} % in {fill_s} s; control: a tooth each {tooth_s} s",
        base * 100.0,
        THRESHOLD * 100.0
    ));

    let _agent = Agent::start(&server, Some(&engine), AGENT).unwrap();
    let control_total = control.used_and_total_bytes().unwrap().1 as f64;
    let steps = (tooth_s as f64 / WRITE_EVERY_S) as u64;
    let step_bytes = (control_total * TOOTH_TOP) as u64 / steps;
    let volume = format!("{control_at}:/logs");
    let sawtooth = format!(
        "while :; do i=0; while [ $i -lt {steps} ]; do head -c {step_bytes} /dev/zero >> /logs/app.log; sleep {WRITE_EVERY_S}; \
         i=$((i+1)); done; : > /logs/app.log; done"
    );
    let _rotating = engine.run_script("rotating", &["-v", &volume], &sawtooth).unwrap();
    live_host(&session).unwrap();

    let (used, total) = filling.used_and_total_bytes().unwrap();
    let first_bytes = (total as f64 * base) as u64 - used;
    let steps = (fill_s as f64 / WRITE_EVERY_S) as u64;
    let step_bytes = (total as f64 * (THRESHOLD - base)) as u64 / steps;
    // Goes on a little over the threshold and then keeps what it has.
    let steps = steps + (total as f64 * 0.05) as u64 / step_bytes;
    let volume = format!("{filling_at}:/data");
    let fill = format!(
        "head -c {first_bytes} /dev/zero > /data/base; sleep {rest_s}; i=0; while [ $i -lt {steps} ]; do \
         head -c {step_bytes} /dev/zero >> /data/growing; sleep {WRITE_EVERY_S}; i=$((i+1)); done; sleep 3600"
    );
    let _filler = engine.run_script("filler", &["-v", &volume], &fill).unwrap();

    let talk = format!(
        "sleep 2; echo '2026 WARN slow'; echo 'ERROR {OUT_OF_MEMORY}'; echo 'ERROR {DATABASE_TIMEOUT}'; sleep 3600"
    );
    let said_at_ms = now_ms() + 2000;
    let talker = engine.run_script("shop-api", &[], &talk).unwrap();

    // What the log says is told at once, with the line and the container's name.
    for line in [OUT_OF_MEMORY, DATABASE_TIMEOUT] {
        let message = room.wait_for(&format!("the line {line:?}"), SOON, |m| m.says(line)).unwrap();
        assert!(message.says("【告警】") && message.says(talker.name()), "{}", message.text);
        tell(&format!("keyword: in the room {} ms after the line was due", message.received_at_ms - said_at_ms));
    }

    // The warning comes first, with a range of times, while the disk is still under its threshold.
    let about = |m: &Message, mark: &str, place: &str| m.says(mark) && m.says(place);
    let patience = Duration::from_secs(rest_s + fill_s) + SOON;
    let warned = room.wait_for("the warning", patience, |m| about(m, "【预警】", &filling_at)).unwrap();
    let ratio = filling_gauge.ratio_at(warned.received_at_ms);
    assert!(ratio < THRESHOLD, "the warning came when {ratio} was full:\n{}", warned.text);
    assert!(warned.says("预计") && warned.says("达到 90%"), "{}", warned.text);
    assert!(warned.says("–") || warned.says(" 前"), "no range of times:\n{}", warned.text);
    let forecast = incidents(&session).unwrap().into_iter().find(|i| i["instance"] == filling_at.as_str()).unwrap();
    let state = forecast["evidence"]["forecast"]["state"].clone();
    let (earliest_ms, latest_ms) = (state["earliest_ms"].as_i64().unwrap(), state["latest_ms"].as_i64().unwrap());
    assert!(earliest_ms < latest_ms, "{state}");

    // Then the alarm, after the crossing.
    let alarmed = room.wait_for("the alarm", patience, |m| about(m, "【告警】", &filling_at)).unwrap();
    let crossed_ms = filling_gauge.first_at_or_over(THRESHOLD).expect("an alarm without a crossing");
    assert!(warned.received_at_ms < crossed_ms && crossed_ms < alarmed.received_at_ms);
    tell(&format!(
        "lead: {} ms before the crossing, at {:.1} % full; crossing to alarm in the room: {} ms; expected {} to {} ms after the warning",
        crossed_ms - warned.received_at_ms,
        ratio * 100.0,
        alarmed.received_at_ms - crossed_ms,
        earliest_ms - warned.received_at_ms,
        latest_ms - warned.received_at_ms,
    ));

    // When the space is free again, the end is told.
    wait_until("the end of the filling", patience, || Ok((filling_gauge.ratio_at(now_ms()) > 0.94).then_some(())))
        .unwrap();
    std::fs::remove_file(filling.path().join("growing")).unwrap();
    let freed_ms = now_ms();
    let resolved = room.wait_for("the end", SOON, |m| about(m, "【恢复】", &filling_at)).unwrap();
    assert!(resolved.received_at_ms > freed_ms);
    for line in ["java.lang.OutOfMemoryError", "数据库连接超时"] {
        let quiet = |i: &serde_json::Value| {
            i["evidence"]["lines"][0]["line"].as_str().is_some_and(|l| l.contains(line)) && i["state"] == "resolved"
        };
        wait_until("the end of a keyword incident", SOON, || Ok(incidents(&session)?.iter().any(quiet).then_some(())))
            .unwrap();
    }

    // Each once, each accepted, and not a word of the control, though it rose and fell throughout.
    wait_until("every delivery", SOON, || {
        let all = incidents(&session)?;
        let open = all.iter().flat_map(|i| i["deliveries"].as_array().unwrap()).any(|d| d["state"] != "sent");
        Ok((!open).then_some(()))
    })
    .unwrap();
    let count = |mark: &str, place: &str| room.messages().iter().filter(|m| about(m, mark, place)).count();
    for (mark, place) in [("【预警】", &filling_at), ("【告警】", &filling_at), ("【恢复】", &filling_at)] {
        assert_eq!(count(mark, place), 1, "{mark} of {place}");
    }
    for line in [OUT_OF_MEMORY, DATABASE_TIMEOUT] {
        assert_eq!(count("【告警】", line), 1, "{line}");
    }
    assert_eq!(count("【恢复】", talker.name()), 2);
    assert!(room.requests().iter().all(Message::is_delivered), "{:?}", room.requests());
    assert!(control_gauge.falls() >= 4 && control_gauge.highest() < THRESHOLD, "the control was no sawtooth");
    assert!(!room.messages().iter().any(|m| m.says(&control_at)));
    assert!(!incidents(&session).unwrap().iter().any(|i| i["instance"] == control_at.as_str()));
    for incident in incidents(&session).unwrap().iter().filter(|i| i["instance"] == filling_at.as_str()) {
        let told: Vec<_> = incident["deliveries"].as_array().unwrap().iter().map(|d| d["transition"].clone()).collect();
        assert_eq!(told, ["warned", "alarmed", "resolved"], "{incident}");
    }
}
