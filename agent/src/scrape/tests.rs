//! Promises of scraping: what becomes of pages that follow each other, and of those that are too large or wrong.

use super::*;

const MINUTE_MS: i64 = 60_000;

fn target(id: &str, series_max: usize) -> Target {
    Target {
        id: id.to_owned(),
        entity: EntityId(7),
        url: format!("http://{id}/metrics"),
        interval_ms: MINUTE_MS,
        series_max,
        choice: Choice::default(),
    }
}

fn scrapes(targets: impl IntoIterator<Item = Target>) -> Scrapes {
    let mut scrapes = Scrapes::default();
    scrapes.set_targets(targets);
    scrapes
}

/// The values that a page gives at the next tick, by `name instance`.
fn told(scrapes: &mut Scrapes, id: &str, page: &str, now_ms: i64) -> BTreeMap<String, f64> {
    scrapes.take(id, Ok(page.as_bytes().to_vec()), now_ms);
    values(scrapes)
}

fn values(scrapes: &mut Scrapes) -> BTreeMap<String, f64> {
    let mut rows = Vec::new();
    scrapes.sample(&mut rows);
    let named = |row: &Row| -> Vec<(String, f64)> {
        let names = row.shape.layout.metrics.iter().map(|m| format!("{} {}", m.name, m.instance).trim().to_owned());
        names.zip(row.values.iter().copied()).collect()
    };
    rows.iter().flat_map(named).collect()
}

#[test]
fn counters_become_increments_and_survive_resets_gaps_and_rounding() {
    let mut scrapes = scrapes([target("shop", 10)]);
    let mut step = |requests: &str, minute: i64| {
        let page = format!("# TYPE requests_total counter\nrequests_total {requests}\ndepth 5\n");
        let told = told(&mut scrapes, "shop", &page, minute * MINUTE_MS);
        assert_eq!(told["depth"], 5.0, "a level is told as it is");
        told["requests_total"]
    };
    assert!(step("100", 0).is_nan(), "nothing is known of before");
    assert_eq!(step("130", 1), 30.0);
    assert_eq!(step("4", 2), 4.0, "the component began anew");
    let sum: f64 = (1..=1000).map(|n| step(&format!("{}", 4.0 + f64::from(n) * 0.0004), 2 + i64::from(n))).sum();
    assert!((sum - 0.4).abs() < 1e-9, "small steps are not rounded away: {sum}");
}

#[test]
fn a_page_that_cannot_be_read_is_told_and_its_series_are_missing_not_zero() {
    let mut scrapes = scrapes([target("shop", 10)]);
    assert_eq!(told(&mut scrapes, "shop", "depth 5\n", 0)["scrape_failed"], 0.0);
    assert!(values(&mut scrapes).is_empty(), "a page is told once");
    scrapes.take("shop", Err("connection refused".to_owned()), MINUTE_MS);
    assert_eq!(scrapes.state().next().unwrap().trouble, Some("connection refused"));
    let failed = values(&mut scrapes);
    assert_eq!((failed["scrape_failed"], failed.contains_key("depth")), (1.0, false));
    assert_eq!(told(&mut scrapes, "shop", "depth 6\n", 2 * MINUTE_MS)["depth"], 6.0);
}

#[test]
fn no_number_no_negative_count_no_second_value_and_no_name_of_the_catalogue_is_taken_and_each_is_counted() {
    let mut scrapes = scrapes([target("shop", 10)]);
    let long = "x".repeat(300);
    let page = format!(
        "nan NaN\ninf +Inf\nlost_total -1\ntwice 1\ntwice 2\ncpu_used_ratio 0.99\nrunning 1\n{long} 1\nlabel{{a=\"{long}\"}} 1\nnot a line at all\ngood 3\n"
    );
    let told = told(&mut scrapes, "shop", &page, 0);
    assert_eq!(told["scrape_refused"], 9.0);
    assert_eq!((told["scrape_series"], told["twice"], told["good"]), (2.0, 1.0, 3.0));
    assert!(!told.contains_key("cpu_used_ratio") && !told.contains_key("running"));
}

#[test]
fn a_page_of_any_size_is_bounded_and_what_is_left_out_is_counted() {
    let page = |count: usize| (0..count).map(|n| format!("m{{id=\"{n}\"}} {n}\n")).collect::<String>();
    let mut scrapes = scrapes((0..5).map(|n| target(&format!("t{n}"), 2000)));
    for n in 0..5 {
        scrapes.take(&format!("t{n}"), Ok(page(3000).into_bytes()), 0);
    }
    let counts: Vec<_> = scrapes.state().map(|state| (state.series, state.left_out)).collect();
    assert_eq!(counts, [(2000, 1000), (2000, 1000), (0, 3000), (0, 3000), (0, 3000)]);
    let mut rows = Vec::new();
    scrapes.sample(&mut rows);
    assert!(rows.iter().all(|row| row.values.len() <= limit::LAYOUT_METRICS_MAX));
}

#[test]
fn series_that_come_and_go_change_the_columns_seldom_and_make_room_in_time() {
    let mut scrapes = scrapes([target("shop", 3)]);
    let page = |ids: &[u32]| ids.iter().map(|id| format!("m{{id=\"{id}\"}} {id}\n")).collect::<String>();
    assert_eq!(told(&mut scrapes, "shop", &page(&[1, 2]), 0).len(), 4 + 2);
    let soon = told(&mut scrapes, "shop", &page(&[2, 3]), MINUTE_MS);
    assert_eq!(soon["scrape_left_out"], 1.0, "a new one waits");
    assert!(soon["m id=1"].is_nan() && soon["m id=2"] == 2.0);
    let later = told(&mut scrapes, "shop", &page(&[2, 3, 4]), GROW_MS);
    assert_eq!((later["m id=3"], later["scrape_left_out"]), (3.0, 1.0), "three have room");
    let last = told(&mut scrapes, "shop", &page(&[2, 3, 4]), FORGOTTEN_MS + GROW_MS);
    assert!(!last.contains_key("m id=1"));
    assert_eq!((last["m id=2"], last["m id=3"], last["m id=4"], last["scrape_left_out"]), (2.0, 3.0, 4.0, 0.0));
}

#[test]
fn only_the_metrics_that_are_wanted_are_taken() {
    let choice = Choice { include: vec!["app_*".to_owned(), "up".to_owned()], exclude: vec!["*_internal".to_owned()] };
    let mut scrapes = scrapes([Target { choice, ..target("shop", 10) }]);
    let told = told(&mut scrapes, "shop", "app_depth 1\napp_x_internal 2\nup 1\ngo_goroutines 7\n", 0);
    let names: Vec<_> = told.keys().filter(|name| !name.starts_with("scrape_")).collect();
    assert_eq!(names, ["app_depth", "up"]);
    assert_eq!((told["scrape_left_out"], told["scrape_refused"]), (0.0, 0.0), "what is not wanted is no loss");
}

#[test]
fn each_endpoint_is_read_in_its_rhythm_and_never_twice_at_once() {
    let mut scrapes = scrapes([target("a", 1), Target { interval_ms: 3 * MINUTE_MS, ..target("b", 1) }]);
    let due = |scrapes: &mut Scrapes, minute: i64| {
        scrapes.due(minute * MINUTE_MS - 3, 10).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(due(&mut scrapes, 0), ["a", "b"]);
    assert_eq!(due(&mut scrapes, 1), Vec::<String>::new(), "both are still being read");
    scrapes.take("a", Ok(Vec::new()), 0);
    scrapes.take("b", Ok(Vec::new()), 0);
    assert_eq!(due(&mut scrapes, 1), ["a"]);
    scrapes.take("a", Ok(Vec::new()), 0);
    assert_eq!(due(&mut scrapes, 3), ["a", "b"]);
    scrapes.set_targets([target("b", 1)]);
    scrapes.take("a", Ok(b"x 1".to_vec()), 0);
    assert!(scrapes.state().all(|state| state.id == "b"), "what is no target any more is not taken");
}

#[test]
fn units_follow_from_names_as_exporters_give_them() {
    let mut scrapes = scrapes([target("shop", 10)]);
    let page = "heap_used_bytes 123456789\nsent_bytes_total 5\ncache_hit_ratio 0.98765\nlatency_seconds 0.0123456\njobs_total 7\n";
    scrapes.take("shop", Ok(page.as_bytes().to_vec()), 0);
    let mut rows = Vec::new();
    scrapes.sample(&mut rows);
    let shape = &rows[1].shape.layout.metrics;
    let kinds: Vec<_> = shape.iter().map(|m| (m.name.as_str(), m.kind, m.unit, m.decimals)).collect();
    assert_eq!(
        kinds,
        [
            ("heap_used_bytes", Kind::Gauge, Unit::Bytes, 0),
            ("sent_bytes_total", Kind::Increment, Unit::Bytes, 0),
            ("cache_hit_ratio", Kind::Gauge, Unit::Ratio, 4),
            ("latency_seconds", Kind::Gauge, Unit::Count, 6),
            ("jobs_total", Kind::Increment, Unit::Count, 3),
        ]
    );
}

#[test]
fn a_label_names_a_port_and_a_path_of_its_own_container_and_nothing_else() {
    let four: IpAddr = "10.1.2.3".parse().unwrap();
    let url = |label: &str| url_of_label(label, four);
    assert_eq!(url("9100").unwrap(), "http://10.1.2.3:9100/metrics");
    assert_eq!(url(":9100/actuator/prometheus?x=1").unwrap(), "http://10.1.2.3:9100/actuator/prometheus?x=1");
    assert_eq!(url_of_label("80", "fd00::1".parse().unwrap()).unwrap(), "http://[fd00::1]:80/metrics");
    for bad in
        ["", "0", "65536", "metrics", "http://evil/x", "9100@evil/", "9100 /x", "9100/a b", "9100/x#y", "9100/\u{7f}"]
    {
        assert!(url(bad).unwrap_err().contains("should look like 9100"), "{bad}");
    }
}
