//! Endpoints of the customer's own components: by address and by a container's label, from a page in a real container
//! to the host's page, a forecast and an incident.

use forewarn_tests::agent::Agent;
use forewarn_tests::database::Store;
use forewarn_tests::engine::Engine;
use forewarn_tests::server::Server;
use forewarn_tests::{now_ms, wait_until};
use serde_json::{Value, json};

use super::site::{AGENT, SERVER, SOON, Series, incidents, keep_rules, live_host, tell};

/// Serves a page that changes every second: a queue that fills by twenty, a counter that grows by seven.
const COMPONENT: &str = r#"mkdir -p /tmp/www; httpd -p 9100 -h /tmp/www; i=0
while :; do i=$((i+1))
printf '# TYPE jobs_total counter\njobs_total{code="200",queue="mail"} %d\nqueue_depth %d\nbroken NaN\ncpu_used_ratio 0.99\n' $((i*7)) $((i*20)) > /tmp/www/new
mv /tmp/www/new /tmp/www/metrics; sleep 1; done"#;

#[test]
fn components_are_scraped_by_address_and_by_label_shown_forecast_and_alarmed_of() {
    let engine = Engine::start().unwrap();
    let store = Store::sqlite().unwrap();
    let server = Server::start(&store, SERVER).unwrap();
    let session = server.log_in().unwrap();
    keep_rules(&session, &[]).unwrap();
    let named = engine.run_script("named", &[], COMPONENT).unwrap();
    let _labelled = engine.run_script("labelled", &["--label", "forewarn.scrape=9100/metrics"], COMPONENT).unwrap();
    let _wrong = engine.run_script("wrong", &["--label", "forewarn.scrape=http://elsewhere/"], "sleep 600").unwrap();
    let address = named.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}").unwrap();
    let url = format!("http://{address}:9100/metrics");
    let settings = format!(
        "{AGENT}\n[scrape]\ninterval_ms = 1000\nlabels = true\n[[scrape.targets]]\nname = \"mail\"\nurl = \"{url}\"\n\
         component = \"post\"\n[[scrape.targets]]\nname = \"gone\"\nurl = \"http://{address}:9/metrics\"\n"
    );
    let agent = Agent::start(&server, Some(&engine), &settings).unwrap();
    let host = live_host(&session).unwrap()["id"].as_str().unwrap().to_owned();

    // A rule over a metric that only the endpoints have: bad ones are refused with a reason.
    let rule = |metric: &str, threshold: f64| {
        json!({ "name": "邮件队列", "metric": metric, "entity_kind": "workload", "threshold": threshold,
            "horizon_ms": 120_000, "for_ms": 0, "severity": "warning" })
    };
    for (metric, threshold, word) in
        [("queue depth", 5.0, "metric must be"), ("queue_depth", -1.0, "threshold must be")]
    {
        let answer = session.answer("POST", "/api/v1/rules", &rule(metric, threshold)).unwrap();
        assert!(answer.status == 400 && answer.text().contains(word), "{}", answer.text());
    }
    let made = session.send("POST", "/api/v1/rules", &rule("queue_depth", 1200.0)).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();

    let path = format!("/api/v1/hosts/{host}");
    let find = |detail: &Value, workload: &str, metric: &str, instance: &str| {
        let is_it = |s: &&Value| s["entity_name"] == workload && s["metric"] == metric && s["instance"] == instance;
        detail["series"].as_array()?.iter().find(is_it).cloned()
    };
    for workload in ["mail", "labelled"] {
        let wait = |metric: &str, instance: &str| {
            session.wait_for(&path, metric, SOON, |detail| find(detail, workload, metric, instance)).unwrap()
        };
        assert_eq!(
            (&wait("queue_depth", "")["kind"], &wait("queue_depth", "")["unit"]),
            (&json!("gauge"), &json!("count"))
        );
        let jobs = wait("jobs_total", "code=200, queue=mail");
        assert_eq!(jobs["kind"], "increment");
        let of = |metric: &'static str, instance: &'static str| Series {
            host: &host,
            entity: jobs["entity"].as_str().unwrap(),
            metric,
            instance,
        };
        let points = wait_until("increments", SOON, || {
            let points = of("jobs_total", "code=200, queue=mail").points(&session, now_ms() - 60_000, now_ms())?;
            Ok((points.len() >= 5).then_some(points))
        })
        .unwrap();
        assert!(points.iter().all(|(_, value)| *value % 7.0 == 0.0 && *value <= 70.0), "{points:?}");
        let last = |metric: &'static str| wait_until(metric, SOON, || of(metric, "").last(&session)).unwrap();
        assert_eq!((last("scrape_failed"), last("scrape_series"), last("scrape_refused")), (0.0, 2.0, 2.0));
    }
    let detail = session.get(&path).unwrap();
    assert!(find(&detail, "mail", "broken", "").is_none() && find(&detail, "mail", "cpu_used_ratio", "").is_none());
    let gone = find(&detail, "gone", "scrape_failed", "").unwrap();
    let gone = Series { host: &host, entity: gone["entity"].as_str().unwrap(), metric: "scrape_failed", instance: "" };
    assert_eq!(gone.last(&session).unwrap(), Some(1.0));
    assert!(agent.log_text().contains("it should look like 9100 or 9100/metrics"), "{}", agent.log_text());

    // It is forecast, and when it is there somebody is told.
    let outlook = session.wait_for(&path, "a forecast of the queue", SOON, |detail| {
        let of_rule = |o: &&Value| o["rule"] == id.as_str() && o["forecast"]["state"]["is"] != "no_forecast";
        detail["outlooks"].as_array()?.iter().find(of_rule).cloned()
    });
    let outlook = outlook.unwrap();
    tell(&format!("the queue's forecast: {}", outlook["forecast"]["state"]));
    let alarmed = || {
        let mut all = incidents(&session)?.into_iter();
        Ok(all.find(|i| i["rule"] == id.as_str() && i["kind"] == "alarm" && i["evidence"]["entity_name"] == "mail"))
    };
    let alarm = wait_until("the alarm", SOON, alarmed).unwrap();
    assert_eq!(alarm["evidence"]["metric"], "queue_depth");

    // A rule that still has something to end stays; after that it goes.
    let remove = |id: &str| session.client().send("DELETE", &format!("/api/v1/rules/{id}"), &[], Vec::new());
    assert_eq!((remove(&id).unwrap().status, remove("disk").unwrap().status), (409, 400));
    session.send("PATCH", &format!("/api/v1/rules/{id}"), &json!({ "enabled": false })).unwrap();
    wait_until("the rule to go", SOON, || Ok((remove(&id)?.status == 200).then_some(()))).unwrap();
}
