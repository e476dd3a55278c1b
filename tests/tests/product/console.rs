//! A person at the console, in a real browser: sees the host, its plot and the incident, flips a
//! switch, and the next incident is not sent. Nothing leaves the origin; screenshots are kept.

use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::browser::run_script;
use forewarn_tests::chat::ChatRoom;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::server::Server;
use forewarn_tests::wait_until;
use serde_json::{Value, json};

use super::site::{AGENT, SERVER, SOON, add_robot, incidents, keep_rules, live_host};

/// The browser logs a refused request as an error: before the login there is exactly one, by design.
const BEFORE_LOGIN: &str = "401 .*/api/v1/me";

/// Says a line in a container's log and waits until it has become an incident whose deliveries ended so.
fn say_and_wait(
    session: &forewarn_tests::server::Session,
    container: &forewarn_tests::engine::Container<'_>,
    line: &str,
    outcome: &str,
) -> Value {
    container.exec(&format!("echo '{line}' > /proc/1/fd/1")).unwrap();
    let told = || {
        let all = incidents(session)?;
        let mut with_line = all.into_iter().filter(|i| i["evidence"]["lines"].to_string().contains(line));
        Ok(with_line.find(|i| i["deliveries"][0]["state"] == outcome))
    };
    wait_until(&format!("{line:?} to be {outcome}"), SOON, told).unwrap()
}

#[test]
fn switch_flipped_in_the_browser_keeps_the_next_incident_from_the_room() {
    let engine = Engine::start().unwrap();
    let room = ChatRoom::open().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["keyword"]).unwrap();
    let channel = add_robot(&session, &room).unwrap();
    let _agent = Agent::start(&server, Some(&engine), &format!("hostname = \"plant-3\"\n{AGENT}")).unwrap();
    assert_eq!(live_host(&session).unwrap()["name"], "plant-3");
    let talker = engine.run_script("shop-api", &[], "while :; do sleep 1; done").unwrap();
    let visit = |shot: &str, line: &str, outcome: &str, flip: Option<String>| {
        let arguments = json!({
            "url": server.console_url(), "user": "admin", "password": server.admin_password().unwrap(),
            "host": "plant-3", "rule": "keyword", "line": line, "outcome": outcome, "flip": flip,
            "shot": shot, "allowedErrors": [BEFORE_LOGIN],
        });
        run_script("console", &arguments).unwrap()
    };

    // First visit: everything is there, and sent. The rule's switch goes off.
    say_and_wait(&session, &talker, "java.lang.OutOfMemoryError in the first hour", "sent");
    room.wait_for("the first incident", SOON, |m| m.says("in the first hour")).unwrap();
    let saw = visit("console-1", "in the first hour", "sent", Some("rule-send-keyword".to_owned()));
    assert_eq!(saw["flipped"], json!({ "before": "true", "after": "false" }));
    assert!(saw["points"].as_u64().unwrap() > 0 && saw["drawn"].as_u64().unwrap() > 0, "{}", saw["points"]);
    assert!(
        saw["minutes_to_last_tick"].as_u64().unwrap() <= 30,
        "the plot's axis is {} off",
        saw["minutes_to_last_tick"]
    );
    let (english, chinese) = (saw["texts"]["en"].as_str().unwrap(), saw["texts"]["zh"].as_str().unwrap());
    let is_chinese = |text: &str| text.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count() > 40;
    assert!(english.contains("Hosts") && !is_chinese(english), "{english}");
    assert!(chinese.contains("主机") && is_chinese(chinese), "{chinese}");
    let requests = saw["requests"].as_array().unwrap();
    let inside =
        |url: &Value| ["data:", "blob:", &server.console_url()].iter().any(|o| url.as_str().unwrap().starts_with(o));
    assert!(requests.len() > 10 && requests.iter().all(inside), "{requests:?}");

    // Off means off: the incident is there, judged and kept, and the room hears nothing.
    say_and_wait(&session, &talker, "数据库连接超时 in the second hour", "muted");
    let saw = visit("console-2", "in the second hour", "muted", Some("rule-send-keyword".to_owned()));
    assert_eq!(saw["deliveries"], json!(["muted"]));

    // On again, then off for the channel instead of the rule.
    say_and_wait(&session, &talker, "No space left on device in the third hour", "sent");
    let saw = visit("console-3", "in the third hour", "sent", Some(format!("channel-send-{channel}")));
    assert_eq!(saw["flipped"]["after"], "false");
    say_and_wait(&session, &talker, "Too many open files in the fourth hour", "muted");

    std::thread::sleep(Duration::from_secs(3));
    let heard = |hour: &str| room.messages().iter().filter(|m| m.says(hour)).count();
    assert_eq!(["first hour", "second hour", "third hour", "fourth hour"].map(heard), [1, 0, 1, 0]);
}

#[test]
fn rules_for_json_fields_containers_and_any_metric_are_made_in_the_browser_in_both_languages() {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    for (language, name, said) in [
        ("en", "orders", ["should look like level=error", "letters, digits"]),
        ("zh", "pay", ["level=error 的形式", "只能包含字母"]),
    ] {
        let keyword = json!({ "keyword-name": name, "keyword-literals": "", "keyword-regexes": "", "keyword-fields": "level=error\nlog.code=500",
            "keyword-include": "shop-*\nlabel:com.docker.compose.service=api", "keyword-exclude": "image:*debug" });
        let rule = json!({ "rule-new-name": format!("queue of {name}"), "rule-new-metric": "queue_depth", "rule-new-threshold": "500" });
        let arguments = json!({
            "url": server.console_url(), "user": "admin", "password": server.admin_password().unwrap(), "language": language,
            "keyword": keyword, "rule": rule, "shot": "rules", "allowedErrors": [BEFORE_LOGIN],
            "wrong": { "keyword": { "keyword-fields": "level" }, "rule": { "rule-new-metric": "queue depth" } },
        });
        let saw = run_script("sending", &arguments).unwrap();
        for (alert, words) in saw["said"].as_array().unwrap().iter().zip(said) {
            assert!(alert.as_str().unwrap().contains(words), "{alert}");
        }
        assert!(saw["keyword"].as_str().unwrap().contains("shop-*"), "{}", saw["keyword"]);
        let kept = session.get("/api/v1/keywords").unwrap();
        let kept = kept["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name).unwrap();
        assert_eq!(kept["fields"], json!(["level=error", "log.code=500"]));
        assert_eq!(kept["include"], json!(["shop-*", "label:com.docker.compose.service=api"]));
        assert_eq!(kept["exclude"], json!(["image:*debug"]));
        let rules = session.get("/api/v1/rules").unwrap();
        let made = rules.as_array().unwrap().iter().find(|rule| rule["name"] == format!("queue of {name}")).unwrap();
        assert_eq!(
            made["condition"],
            json!({ "type": "threshold", "metric": "queue_depth", "entity_kind": "workload",
            "threshold": 500.0, "horizon_ms": 4 * 3_600_000, "for_ms": 120_000 })
        );
    }
}
