//! Podman's containers, through its socket and from its own files; and the logs of Kubernetes' containers.

use std::fmt::Write as _;
use std::time::Duration;

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::folder::Folder;
use forewarn_tests::podman::Podman;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{now_ms, wait_until};
use serde_json::Value;

use super::site::{AGENT, SERVER, SOON, Series, incidents, keep_rules, live_host, sum};

/// The newest value of a series of a workload since an instant.
fn newest(session: &Session, host: &str, workload: &str, metric: &str, since_ms: i64) -> Option<f64> {
    let detail = session.get(&format!("/api/v1/hosts/{host}")).unwrap();
    let all = detail["series"].as_array()?.iter();
    let entity = all.clone().find(|s| s["entity_name"] == workload && s["metric"] == metric)?["entity"].as_str()?;
    let series = Series { host, entity, metric, instance: "" };
    series.points(session, since_ms, now_ms() + 2000).unwrap().last().map(|point| point.1)
}

fn workload(session: &Session, host: &str, name: &str) -> Option<Value> {
    let detail = session.get(&format!("/api/v1/hosts/{host}")).unwrap();
    detail["workloads"].as_array()?.iter().find(|workload| workload["name"] == name).cloned()
}

/// Waits for an incident of this rule and workload.
fn incident(session: &Session, rule: &str, workload: &str) {
    let is_there = || {
        let found =
            incidents(session)?.into_iter().find(|i| i["rule"] == rule && i["evidence"]["entity_name"] == workload);
        Ok(found.map(drop))
    };
    wait_until(&format!("{rule} of {workload}"), SOON, is_there).unwrap();
}

#[test]
fn podmans_containers_are_seen_through_its_socket_and_then_from_its_files_alone() {
    let begun_ms = now_ms();
    let mut podman = Podman::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["container_died", "unhealthy"]).unwrap();
    let mut agent = Agent::new(&server.agent_url("127.0.0.1"), &server.token_file(), None, AGENT).unwrap();
    agent.change("engine.socket", podman.socket().display().to_string());
    agent.change("engine.data_root", podman.data_folder().display().to_string());
    agent.restart().unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let lines = |workload: &str| {
        let count = |metric, instance| sum(&session, &host, begun_ms, workload, metric, instance).unwrap();
        (count("log_lines", ""), count("log_hits", "disk_full"))
    };
    let printed = |workload: &str, lines_and_hits: (u64, u64)| {
        let got = wait_until(workload, SOON, || Ok((lines(workload) == lines_and_hits).then_some(())));
        got.unwrap_or_else(|error| panic!("{error}: {:?}", lines(workload)));
    };

    // What was printed before the agent first looked is no news: everything else begins after that.
    podman.run_script("first", &[], "sleep 600").unwrap();
    wait_until("the first look", SOON, || Ok(workload(&session, &host, "first"))).unwrap();

    let labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"];
    let script =
        "for i in $(seq 300); do echo \"line $i\"; [ $((i % 10)) = 0 ] && echo 'ENOSPC <here>'; done; sleep 600";
    podman.run_script("web", &[&labels[..], &["-m", "64m"]].concat(), script).unwrap();
    podman.run_script("failing", &["--restart", "on-failure:2"], "sleep 2; exit 3").unwrap();
    podman.run_script("asked", &[], "sleep 600").unwrap();
    podman.run_script("greedy", &["-m", "8m"], "tail /dev/zero").unwrap();
    let health = ["--health-cmd", "exit 1", "--health-interval", "1h", "--health-retries", "1"];
    podman.run_script("sick", &health, "sleep 600").unwrap();
    printed("shop/web", (330, 30));
    let sees_asked = || Ok((newest(&session, &host, "asked", "running", begun_ms) == Some(1.0)).then_some(()));
    wait_until("the container that will be stopped", SOON, sees_asked).unwrap();
    // Not by `stop`: Podman 4.3 tells of that only when its cleanup is slower.
    podman.podman(&["kill", "asked"]).unwrap();
    // A check that fails is no success of the command either.
    _ = podman.podman(&["healthcheck", "run", "sick"]);
    // Of a kernel's kill Podman 4.3 knows the end only.
    for (rule, workload) in [("container_died", "failing"), ("container_died", "greedy"), ("unhealthy", "sick")] {
        incident(&session, rule, workload);
    }
    let expect_since = |since_ms: i64, workload: &str, metric: &str, wanted: f64| {
        let last = || Ok(newest(&session, &host, workload, metric, since_ms).filter(|value| *value == wanted));
        wait_until(&format!("{metric} of {workload}"), SOON, last).unwrap();
    };
    let expect = |workload: &str, metric: &str, wanted: f64| expect_since(begun_ms, workload, metric, wanted);
    expect("shop/web", "mem_limit_bytes", f64::from(64 << 20));
    expect("failing", "exit_code", 3.0);
    expect("greedy", "exit_code", 137.0);
    expect("sick", "health", 2.0);
    expect("asked", "running", 0.0);
    wait_until("two restarts", SOON, || {
        Ok((sum(&session, &host, begun_ms, "failing", "restarts", "")? == 2).then_some(()))
    })
    .unwrap();
    let stopped = incidents(&session).unwrap();
    assert!(!stopped.iter().any(|i| i["evidence"]["entity_name"] == "asked"), "to stop on request is no fault");
    let web = workload(&session, &host, "shop/web").unwrap();
    let image = web["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == "image").unwrap();
    assert!(image["value"].as_str().unwrap().contains("busybox:test"), "{web}");
    assert!(agent.log_text().contains("Podman 4"), "{}", agent.log_text());

    // The socket goes away with its service, the containers stay; then the agent is not even told of a socket.
    podman.stop_service().unwrap();
    agent.stop().unwrap();
    agent.change("engine.socket", "");
    agent.restart().unwrap();
    // Values of before may stand in a tick that ends a second later.
    let switched_ms = now_ms() + 1000;
    let expect = |workload: &str, metric: &str, wanted: f64| expect_since(switched_ms, workload, metric, wanted);
    let late =
        ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=late", "-m", "32m"];
    podman.run_script("late", &late, "sleep 7; echo ENOSPC; sleep 7; exit 4").unwrap();
    podman.run_script("late-failing", &["--restart", "on-failure:1"], "sleep 7; exit 5").unwrap();
    podman.run_script("late-greedy", &["-m", "8m"], "sleep 7; tail /dev/zero").unwrap();
    podman.run_script("late-asked", &[], "sleep 600").unwrap();
    podman.run_script("late-sick", &health, "sleep 600").unwrap();
    expect("late-asked", "running", 1.0);
    podman.podman(&["kill", "late-asked"]).unwrap();
    _ = podman.podman(&["healthcheck", "run", "late-sick"]);
    printed("shop/late", (1, 1));
    expect("shop/late", "mem_limit_bytes", f64::from(32 << 20));
    // That an end was asked for is nowhere in the files.
    for name in ["shop/late", "late-failing", "late-greedy", "late-asked"] {
        incident(&session, "container_died", name);
    }
    incident(&session, "unhealthy", "late-sick");
    expect("late-sick", "health", 2.0);
    for (name, code) in [("shop/late", 4.0), ("late-failing", 5.0), ("late-greedy", 137.0)] {
        expect(name, "exit_code", code);
    }
    wait_until("a restart", SOON, || {
        Ok((sum(&session, &host, begun_ms, "late-failing", "restarts", "")? == 1).then_some(()))
    })
    .unwrap();
    let image = |workload: &Value| {
        workload["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == "image").cloned()
    };
    assert_eq!(image(&workload(&session, &host, "shop/late").unwrap()), image(&web));
    // What was there before goes on in the same history.
    expect("shop/web", "mem_limit_bytes", f64::from(64 << 20));
    expect("sick", "health", 2.0);
    assert_eq!(lines("shop/web"), (330, 30), "no line is counted again");
    let again = workload(&session, &host, "shop/web").unwrap();
    assert_eq!(again["entity"], web["entity"], "the same history, however it was found");
}

/// From the specification of the container runtime interface: no Kubernetes runs here.
#[test]
fn pods_logged_as_containerd_writes_them_are_followed_through_rotation_and_restarts() {
    let begun_ms = now_ms();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    let folder = Folder::new("pods").unwrap();
    let pod = folder.join("shop_web-7d9f_0a1b2c3d-0000-1111-2222-333344445555").join("nginx");
    std::fs::create_dir_all(&pod).unwrap();
    std::fs::write(pod.join("0.log"), "2026-11-23T00:00:00.000000001Z stdout F of before\n").unwrap();
    let mut agent = Agent::new(&server.agent_url("127.0.0.1"), &server.token_file(), None, AGENT).unwrap();
    let glob = folder.join("*/*/*.log").display().to_string();
    let pods = toml::Table::from_iter(
        [("name", "pods"), ("glob", &glob), ("format", "cri")].map(|(k, v)| (k.into(), v.into())),
    );
    agent.change("log.files", vec![toml::Value::Table(pods)]);
    agent.change("engine.socket", "");
    agent.restart().unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(pod.join(name)).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    let at = "2026-11-23T00:00:01.123456789+08:00";
    let mut text = String::new();
    for n in 0..50 {
        writeln!(text, "{at} stdout F line {n}").unwrap();
    }
    // A long line comes in parts, another stream between them; the keyword is across the seam.
    write!(text, "{at} stdout P No space le\n{at} stderr F another\n{at} stdout F ft on device\n").unwrap();
    append("0.log", &text);
    let counted = |lines: u64, hits: u64| {
        let count = |metric, instance| sum(&session, &host, begun_ms, "shop/web-7d9f/nginx", metric, instance);
        let seen = || -> anyhow::Result<(u64, u64)> { Ok((count("log_lines", "")?, count("log_hits", "disk_full")?)) };
        let got = wait_until("the lines", SOON, || Ok(Some(seen()?).filter(|got| *got == (lines, hits))));
        got.unwrap_or_else(|error| panic!("{error}, last {:?}", seen().unwrap()));
    };
    counted(52, 1);
    // The kubelet renames and lets containerd open anew; the renamed one is packed a while later.
    std::fs::rename(pod.join("0.log"), pod.join("0.log.20261123-000002")).unwrap();
    append("0.log", &format!("{at} stdout F after the rotation ENOSPC\n"));
    counted(53, 2);
    std::fs::write(pod.join("0.log.20261123-000002.gz"), "packed").unwrap();
    std::fs::remove_file(pod.join("0.log.20261123-000002")).unwrap();
    // The container is started again: its log has another number. New files of a pattern are looked for every 30 s.
    append("1.log", &format!("{at} stdout F started again ENOSPC\n"));
    counted(54, 3);
    std::thread::sleep(Duration::from_secs(2));
    counted(54, 3);
}
