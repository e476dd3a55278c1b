//! Trained models, from the history that a host sent to forecasts that follow one: trained, looked at, adopted, ended;
//! and what a history cannot support is refused with its reason.

use std::time::Duration;

use forewarn_common::block::{Layout, Metric};
use forewarn_common::metric::Id;
use forewarn_tests::browser::run_script;
use forewarn_tests::database::Store;
use forewarn_tests::http::Answer;
use forewarn_tests::server::{Server, Session};
use forewarn_tests::{Dice, now_ms};
use serde_json::{Value, json};

use super::site::{HandAgent, SOON, keep_rules, refusal};

/// The grid as it is shipped, turns every two seconds.
const SERVER: &str = "
[judge]
forecast_every_ms = 2000
tick_ms = 500
";
const STEP_MS: i64 = 300_000;
/// A block of five-minute samples: half a day is the longest that a block may be.
const TICKS: u16 = 120;
const BLOCKS: u16 = 9;
const TRAINED_FOR: Duration = Duration::from_secs(120);

/// Bursts of work at odd hours: each climbs within the hour, three in four of them over 80 %.
fn bursts(seed: u64) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let mut between = |low: f64, high: f64| low + (high - low) * dice.unit();
    let (mut next, mut height, mut from) = (20.0, 0.0, 0.0);
    let value = |i: u16| {
        let t = f64::from(i);
        if t >= next {
            from = next;
            height = if between(0.0, 1.0) < 0.75 { between(0.50, 0.65) } else { between(0.15, 0.38) };
            next = t + between(50.0, 80.0);
        }
        let age = t - from;
        let rise = if age < 14.0 { age / 14.0 } else { (1.0 - (age - 20.0) / 8.0).clamp(0.0, 1.0) };
        (0.30 + height * rise + between(-0.03, 0.03)).clamp(0.0, 1.0)
    };
    (0..TICKS * BLOCKS).map(value).collect()
}

/// Sends days of a bursting processor beside a memory that nothing happens to, up to now.
fn send_history(agent: &HandAgent, seed: u64) {
    let layout = Layout { metrics: vec![Metric::of(Id::CpuUsed, ""), Metric::of(Id::MemUsedRatio, "")] };
    let values = bursts(seed);
    let now_ms = now_ms();
    let end_ms = now_ms - now_ms.rem_euclid(STEP_MS);
    for (seq, column) in (0..).zip(values.chunks(usize::from(TICKS))) {
        // The last sample ends the bucket that closed last.
        let start_ms = end_ms - (i64::from(BLOCKS) - seq) * i64::from(TICKS) * STEP_MS + STEP_MS;
        let columns = vec![column.to_vec(), vec![0.4; usize::from(TICKS)]];
        let block = agent.block_of(seq as u64, start_ms, STEP_MS, &layout, columns);
        let bytes = block.encode(|id| (id == layout.id()).then_some(&layout)).unwrap();
        let answer = agent.push(bytes).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Begins a training and waits for its end, while its progress only ever grows.
fn train(session: &Session, wish: &Value) -> Value {
    let begun = session.send("POST", "/api/v1/trainings", wish).unwrap();
    let path = format!("/api/v1/trainings/{}", begun["id"].as_str().unwrap());
    let reached = std::cell::Cell::new(0.0);
    session
        .wait_for(&path, "the end of a training", TRAINED_FOR, |job| {
            let progress = job["progress_ratio"].as_f64().unwrap();
            assert!((reached.replace(progress)..=1.0).contains(&progress), "{job}");
            (job["outcome"]["is"] != "running").then(|| job.clone())
        })
        .unwrap()
}

/// A DELETE has no body.
fn delete(session: &Session, path: &str) -> Answer {
    session.client().send("DELETE", path, &[], Vec::new()).unwrap()
}

/// Which model the processor's last forecast was judged by, once that is as wanted.
fn wait_for_model(session: &Session, host: &str, wanted: &Value) -> Value {
    let path = format!("/api/v1/hosts/{host}");
    session
        .wait_for(&path, &format!("a forecast by {wanted}"), SOON, |detail| {
            let of_rule = |outlook: &&Value| outlook["rule"] == "cpu" && outlook["model"] == *wanted;
            detail["outlooks"].as_array()?.iter().find(of_rule).cloned()
        })
        .unwrap()
}

#[test]
fn a_model_is_trained_on_what_a_host_sent_adopted_followed_and_left_again() {
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &["cpu", "memory"]).unwrap();
    // Not every history can teach: of these two one does.
    let [plain, taught] = [("plant-1", 0), ("plant-2", 3)].map(|(name, seed)| {
        let agent = HandAgent::enroll_as(&server, &session, name).unwrap();
        send_history(&agent, seed);
        agent.host.to_string()
    });

    let refused = train(&session, &json!({ "name": "memory", "rule": "memory", "days": 5 }));
    assert_eq!(refused["outcome"]["is"], "refused", "{refused}");
    assert_eq!(refused["outcome"]["refusal"]["refusal"], "too_few_crossings", "{refused}");
    assert_eq!(refused["outcome"]["refusal"]["chosen_on"], 0, "{refused}");
    assert!(refused["outcome"]["said"].as_str().unwrap().contains("keep the default"), "{refused}");
    let wish = |host: &str| json!({ "name": "bursts", "rule": "cpu", "days": 5, "threshold": 0.8, "selection": { "host": host } });
    let refused = train(&session, &wish(&plain));
    assert_eq!(refused["outcome"]["refusal"]["refusal"], "no_better", "{refused}");
    assert!(refused["outcome"]["refusal"]["default_report"]["crossings"].as_u64() >= Some(2), "{refused}");
    assert_eq!(session.get("/api/v1/models").unwrap(), json!([]), "a refused training leaves no model");
    let keyword = session.answer("POST", "/api/v1/trainings", &json!({ "name": "words", "rule": "keyword" })).unwrap();
    assert_eq!(refusal(&keyword).0, 400);

    let job = train(&session, &wish(&taught));
    assert_eq!(
        (&job["outcome"]["is"], &job["progress_ratio"], &job["series"]),
        (&json!("trained"), &json!(1.0), &json!(1)),
        "{job}"
    );
    let id = job["outcome"]["model"].as_str().unwrap();
    let model = session.get(&format!("/api/v1/models/{id}")).unwrap();
    let trained = &model["trained"];
    let at = |key: &str| trained[key].as_i64().unwrap();
    let span_ms = i64::from(TICKS * BLOCKS - 1) * STEP_MS;
    assert_eq!(at("to_ms") - at("from_ms"), span_ms, "it names the history that it is made of");
    assert!(at("from_ms") < at("split_ms") && at("split_ms") < at("to_ms"));
    assert!(trained["crossings_chosen_on"].as_u64() >= Some(3) && trained["report"]["crossings"].as_u64() >= Some(2));
    let worth = |report: &str| trained[report]["f05"].as_f64().unwrap() - trained[report]["brier"].as_f64().unwrap();
    assert!(worth("report") > worth("default_report"), "{trained}");
    let errors = trained["time_error"].as_array().unwrap();
    let ahead: Vec<_> = errors.iter().map(|error| error["ahead_ms"].as_i64().unwrap()).collect();
    assert_eq!(ahead, [900_000, 1_800_000, 4_500_000], "the error by how far ahead, up to beyond the horizon");
    assert!(errors.iter().any(|error| error["moments"].as_u64() > Some(0) && error["factor"].as_f64() >= Some(1.0)));
    let calibration = trained["calibration"].as_array().unwrap();
    let came_true = |row: &Value| row["came_true_ratio"].as_f64().is_some_and(|ratio| (0.0..=1.0).contains(&ratio));
    assert!(calibration.iter().any(|row| row["moments"].as_u64() > Some(0) && came_true(row)), "{trained}");

    wait_for_model(&session, &taught, &Value::Null);
    let adopted = session.send("POST", &format!("/api/v1/models/{id}/adopt"), &json!({ "host": taught })).unwrap();
    wait_for_model(&session, &taught, &json!(id));
    wait_for_model(&session, &plain, &Value::Null);
    let removed = delete(&session, &format!("/api/v1/models/{id}"));
    assert_eq!(refusal(&removed).1, "in_use", "what is followed is not removed");
    delete(&session, &format!("/api/v1/adoptions/{}", adopted["id"].as_str().unwrap())).ok().unwrap();
    wait_for_model(&session, &taught, &Value::Null);

    // The same by somebody at the console.
    let arguments = json!({
        "url": server.console_url(), "user": "admin", "password": server.admin_password().unwrap(),
        "rule": "CPU is saturated", "host": "host plant-2", "shot": "models",
        "train": { "train-name": "by hand", "train-days": "5", "train-threshold": "80" },
        "allowedErrors": ["401 .*/api/v1/me"],
    });
    let saw = run_script("models", &arguments).unwrap();
    let said = |what: &str| saw[what].as_str().unwrap().replace('\u{a0}', " ");
    assert!(said("training").contains("by hand") && said("training").contains("host plant-2"), "{saw}");
    let worth = &model["summary"]["report"];
    let told = format!("{} of {} crossings warned of in time", worth["warned"], worth["crossings"]);
    assert!(said("model").contains(&told), "the same history teaches the same: {told}, {saw}");
    assert!(said("model").contains("the default") && said("adoption").contains("in use for host plant-2"), "{saw}");
    assert!(said("chinese").contains("次越限中及时预警") && said("chinese").contains("主机 plant-2"), "{saw}");
    let by_hand = session.get("/api/v1/models").unwrap()[0]["id"].clone();
    wait_for_model(&session, &taught, &by_hand);

    let period = session.get("/api/v1/forecasting").unwrap()["last_period"].clone();
    assert_eq!((&period["hosts"], &period["left_over"]), (&json!(2), &json!(0)), "{period}");
    assert_eq!(period["judged"].as_u64().unwrap() + period["looked_at"].as_u64().unwrap(), 4, "{period}");
}
