//! Docker without its socket, from its own files alone; and one sample of such a host as a person reads it.

use std::process::Command;

use forewarn_common::block::EventKind;
use serde_json::Value;

use super::live::{AGENT, Agent, Engine, Server, run, until};

#[test]
fn docker_without_its_socket_is_known_by_its_files() {
    let (engine, server, data) = (Engine::start(), Server::start(), tempfile::tempdir().unwrap());
    engine.import_image();
    engine.start_container("old", &[], "echo 'OutOfMemoryError of yesterday'; sleep 600");
    let path = engine.settings();
    let text = std::fs::read_to_string(&path).unwrap();
    let socket = format!("socket = \"{}/sock\"", engine.dir.path().display());
    assert!(text.contains(&socket));
    std::fs::write(&path, text.replace(&socket, "socket = \"\"")).unwrap();
    let _agent = Agent::start_with(&path, &server, data.path());
    let last = |name: &str, metric: &str| {
        server.see(|kept| kept.series(name, metric, "").into_values().rev().find(|value| !value.is_nan()))
    };
    until("a container that was there", || (last("old", "running") == Some(1.0)).then_some(()));
    assert!(last("old", "mem_used_bytes").unwrap() > 0.0, "its statistics are those of its cgroup");

    let labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=db"];
    let limits = ["-m", "64m", "--restart=on-failure:1"];
    let script = "sleep 7; echo first; echo '数据库连接超时'; exit 3";
    engine.start_container("db", &[&labels[..], &limits[..]].concat(), script);
    let health = ["--health-cmd", "exit 1", "--health-interval", "1s", "--health-retries", "1"];
    engine.start_container("sick", &health, "sleep 600");
    until("a failing health check", || (last("sick", "health") == Some(2.0)).then_some(()));
    until("two runs of two lines", || server.see(|kept| (kept.sum("shop/db", "log_lines", "") >= 4.0).then_some(())));
    until("the last end", || (last("shop/db", "exit_code") == Some(3.0)).then_some(()));
    run(engine.docker().args(["rm", "-f", "old"]));
    until("the removal", || server.see(|kept| kept.events("old").contains(&(EventKind::Destroy, 0)).then_some(())));
    assert_eq!(last("shop/db", "running"), Some(0.0));
    assert_eq!(last("shop/db", "mem_limit_bytes"), Some(f64::from(64 << 20)));
    server.see(|kept| {
        assert_eq!(kept.sum("shop/db", "log_lines", ""), 4.0);
        assert_eq!(kept.sum("shop/db", "log_hits", "database_timeout"), 2.0);
        assert_eq!(kept.sum("shop/db", "restarts", ""), 1.0);
        assert_eq!(kept.sum("old", "log_lines", ""), 0.0, "the past of a log is no news");
        assert!(kept.events("shop/db").contains(&(EventKind::Die, 3)), "{:?}", kept.events("shop/db"));
        let mut entities = kept.blocks.values().flat_map(|block| &block.dictionary.entities);
        let db = entities.rfind(|entity| entity.name == "shop/db").unwrap();
        assert_eq!(db.component, "shop");
        for (key, value) in [("image", "base:1"), ("container", "db"), ("project", "shop"), ("service", "db")] {
            assert!(db.attributes.contains(&(key.to_owned(), value.to_owned())), "{key}: {:?}", db.attributes);
        }
    });

    // One sample of the same host, for a person and for a program.
    let once = |how: &str| run(Command::new(AGENT).args(["once", how, "--config"]).arg(&path));
    let (table, json) = (once("--print"), once("--json"));
    let sample: Value = serde_json::from_str(&json).unwrap();
    let series = sample["series"].as_array().unwrap();
    let in_table = |entity: &str, metric: &str| {
        let mut lines =
            table.lines().filter(|line| line.starts_with(entity) && line.split_whitespace().nth(1) == Some(metric));
        lines
            .next()
            .unwrap_or_else(|| panic!("{entity} {metric}:\n{table}"))
            .split_whitespace()
            .skip(2)
            .collect::<Vec<_>>()
    };
    let in_json = |entity: &str, metric: &str| {
        let found = series.iter().find(|one| one["entity"] == entity && one["metric"] == metric);
        found.and_then(|one| one["value"].as_f64()).unwrap_or_else(|| panic!("{entity} {metric}:\n{json}"))
    };
    let host = table.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    assert_eq!(in_table(host, "mem_total_bytes")[1], "GiB");
    let gib: f64 = in_table(host, "mem_total_bytes")[0].parse().unwrap();
    assert!((gib - in_json(host, "mem_total_bytes") / f64::from(1 << 30)).abs() < 0.06, "{gib}");
    assert_eq!(in_table(host, "cpu_used_ratio")[1], "%");
    assert_eq!(in_table(host, "fs_used_ratio").last(), Some(&"%"));
    assert_eq!(in_table("sick", "running"), ["1"]);
    assert_eq!(in_json("sick", "running"), 1.0);
    assert_eq!(in_table("sick", "mem_used_bytes").last().map(|unit| unit.ends_with('B')), Some(true));
}
