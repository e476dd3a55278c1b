//! Questions to the whole fleet: who is highest, and how all are spread; asked by somebody who is logged in, within
//! bounds.

use forewarn_tests::database::Store;
use forewarn_tests::http::Client;
use forewarn_tests::now_ms;
use forewarn_tests::server::Server;
use serde_json::Value;

use super::site::{HandAgent, SERVER, refusal};

/// A mean of tenths is a tenth but for its last bit.
fn rounded(value: &Value) -> f64 {
    (value.as_f64().unwrap() * 1e6).round() / 1e6
}

#[test]
fn the_fullest_disks_of_the_fleet_are_named_and_the_question_is_bounded() {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    let mut hosts = Vec::new();
    for tenth in 1..=10 {
        let agent = HandAgent::enroll(&server, &session).unwrap();
        // In a bucket of five minutes that has ended, and now.
        for (seq, ago_ms) in [(0, 1_200_000), (1, 10_000)] {
            let block = agent.block(seq, now_ms() - ago_ms, f64::from(tenth) / 10.0);
            assert_eq!(agent.push(HandAgent::encode(&block)).unwrap().status, 200);
        }
        hosts.push(agent.host.to_string());
    }
    for by in ["now", "max", "mean", "last", "p95"] {
        let answer = session.get(&format!("/api/v1/rank?metric=fs_used_ratio&by={by}&limit=3")).unwrap();
        assert_eq!((answer["series"].as_u64(), answer["damaged_rows"].as_u64()), (Some(10), Some(0)));
        let top = answer["top"].as_array().unwrap();
        let told: Vec<(&str, f64)> =
            top.iter().map(|one| (one["host"].as_str().unwrap(), rounded(&one["value"]))).collect();
        assert_eq!(told, [(hosts[9].as_str(), 1.0), (hosts[8].as_str(), 0.9), (hosts[7].as_str(), 0.8)], "{by}");
        assert_eq!((&top[0]["instance"], &top[0]["host_name"]), (&Value::from("/data"), &Value::from("plant-3")));
        let shares: Vec<f64> =
            answer["quantiles"].as_array().unwrap().iter().map(|one| rounded(&one["value"])).collect();
        assert_eq!(shares, [0.5, 0.9, 1.0, 1.0], "{by}");
    }
    let none = session.get("/api/v1/rank?metric=no_such_metric&quantiles=0.5").unwrap();
    assert_eq!((none["series"].as_u64(), none["top"].as_array().unwrap().len()), (Some(0), 0));
    for (query, word) in [
        ("", "metric must be"),
        ("metric=cpu_used_ratio&by=colour", "by must be"),
        ("metric=cpu_count&by=now", "take by=last"),
        ("metric=cpu_used_ratio&limit=0", "limit must be"),
        ("metric=cpu_used_ratio&limit=101", "limit must be"),
        ("metric=cpu_used_ratio&limit=x", "limit must be"),
        ("metric=cpu_used_ratio&quantiles=1.5", "quantiles must be"),
        ("metric=cpu_used_ratio&from_ms=5&to_ms=5", "from_ms must be before"),
        ("metric=cpu_used_ratio&from_ms=0", "at most 31 days"),
        ("metric=cpu_used_ratio&from_ms=-9223372036854775808&to_ms=9223372036854775807", "at most 31 days"),
    ] {
        let (status, error, detail) = refusal(&session.client().get(&format!("/api/v1/rank?{query}")).unwrap());
        assert_eq!((status, error.as_str()), (400, "bad_request"), "{query}: {detail}");
        assert!(detail.contains(word), "{query}: {detail}");
    }
    let stranger = Client::new(&server.console_url()).unwrap();
    assert_eq!(refusal(&stranger.get("/api/v1/rank?metric=cpu_used_ratio").unwrap()).0, 401);
}
