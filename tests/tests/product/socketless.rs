//! Docker without the engine's socket, on a site that had it: what was known goes on, addresses and ends come from the
//! engine's files, and what those do not have is said.

use std::process::Command;

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::process::run;
use forewarn_tests::program::program;
use forewarn_tests::server::Server;
use forewarn_tests::{now_ms, wait_until};
use serde_json::Value;

use super::site::{AGENT, SERVER, SOON, incidents, keep_rules, live_host, sum};

/// Serves one page with one number.
const COMPONENT: &str =
    "mkdir -p /tmp/www; echo 'queue_depth 7' > /tmp/www/metrics; httpd -p 9100 -h /tmp/www; sleep 600";

#[test]
fn docker_whose_socket_is_taken_away_goes_on_with_addresses_and_ends_from_its_files() {
    let begun_ms = now_ms();
    let engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["container_died"]).unwrap();
    let settings = format!("{AGENT}\n[scrape]\ninterval_ms = 1000\nlabels = true\n");
    let mut agent = Agent::start(&server, Some(&engine), &settings).unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let page = format!("/api/v1/hosts/{host}");
    let lines = |workload: &str, wanted: u64| {
        let count = || sum(&session, &host, begun_ms, workload, "log_lines", "");
        let got = wait_until(workload, SOON, || Ok((count()? == wanted).then_some(())));
        got.unwrap_or_else(|error| panic!("{error}: {:?} of {wanted}", count()));
    };
    let workload = |name: &str| {
        let find =
            |detail: &Value| detail["workloads"].as_array()?.iter().find(|workload| workload["name"] == name).cloned();
        session.wait_for(&page, name, SOON, find).unwrap()
    };
    let shop = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"];
    let say = "n=0; say() { while [ $n -lt $1 ]; do n=$((n+1)); echo line $n; done; }; \
               say 100; while [ ! -e /more ]; do sleep 0.2; done; say 150; sleep 600";
    let web = engine.run_script("web", &[&shop[..], &["--network", "none"]].concat(), say).unwrap();
    lines("shop/web", 100);
    let entity = workload("shop/web")["entity"].clone();

    agent.stop().unwrap();
    agent.change("engine.socket", "");
    agent.restart().unwrap();
    web.exec("touch /more").unwrap();
    lines("shop/web", 150);
    assert_eq!(workload("shop/web")["entity"], entity, "its history goes on");

    let _labelled = engine.run_script("labelled", &["--label", "forewarn.scrape=9100/metrics"], COMPONENT).unwrap();
    let asked = engine.run_script("asked", &["--network", "none"], "sleep 600").unwrap();
    let greedy = ["--network", "none", "-m", "8m"];
    let _greedy =
        engine.run_script("greedy", &greedy, "while [ ! -e /go ]; do sleep 0.2; done; tail /dev/zero").unwrap();
    let streamed = ["--network", "none", "--log-driver", "local"];
    let _streamed = engine.run_script("streamed", &streamed, "while :; do echo a line; sleep 1; done").unwrap();
    for name in ["asked", "greedy", "streamed"] {
        workload(name);
    }
    let scraped = |detail: &Value| {
        let mut all = detail["series"].as_array()?.iter();
        all.find(|series| series["entity_name"] == "labelled" && series["metric"] == "queue_depth").map(drop)
    };
    session.wait_for(&page, "the page at the container's own address", SOON, scraped).unwrap();

    // An end is seen with its cause where the files have it; that it was asked for, they have not.
    engine.docker(&["exec", "greedy", "touch", "/go"]).unwrap();
    asked.kill().unwrap();
    for name in ["asked", "greedy"] {
        let died = || {
            let mut all = incidents(&session)?.into_iter();
            Ok(all.find(|i| i["rule"] == "container_died" && i["evidence"]["entity_name"] == name).map(drop))
        };
        wait_until(&format!("the end of {name}"), SOON, died).unwrap();
    }
    let events =
        |kind: &str| store.number(&format!("SELECT COUNT(*) FROM engine_event WHERE kind = '{kind}'")).unwrap();
    assert_eq!((events("oom"), events("stop")), (1, 0));

    // A log that has no file is not read, and who asks is told so.
    let folder = agent.data_folder();
    let file = folder.parent().unwrap().join("agent.toml");
    let said = run(Command::new(program("forewarn-agent").unwrap()).arg("check").arg("--config").arg(file)).unwrap();
    assert!(said.contains("MISSING  log of streamed (driver local)"), "{said}");
    assert!(said.contains("state files of the engine; events are seen late; no socket"), "{said}");
    assert_eq!(sum(&session, &host, begun_ms, "streamed", "log_lines", "").unwrap(), 0);
}
