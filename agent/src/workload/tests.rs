//! Promises of workloads: identity outlives containers, restarts are increments, a running instance speaks.

use std::collections::BTreeMap;

use super::*;

const HOST: HostId = HostId([3; 16]);

fn instance(id: &str, name: &str, started_at: &str) -> Instance {
    Instance {
        id: id.to_owned(),
        name: name.to_owned(),
        image: "shop/db:7".to_owned(),
        labels: BTreeMap::new(),
        pid: 5,
        is_running: true,
        exit_code: None,
        is_oom_killed: false,
        health: None,
        started_at: started_at.to_owned(),
        restart_count: 0,
        has_own_network: true,
        address: None,
        log_driver: "json-file".to_owned(),
        log: LogWay::Stream,
    }
}

fn compose(id: &str, number: &str) -> Instance {
    let labels = [
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "db"),
        ("com.docker.compose.container-number", number),
    ];
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Instance { labels, ..instance(id, &format!("shop-db-{number}"), "t1") }
}

fn state(workloads: &mut Workloads) -> Vec<(EntityId, Vec<f64>)> {
    let mut rows = Vec::new();
    workloads.state_rows(&mut rows);
    rows.into_iter().map(|row| (row.entity, row.values)).collect()
}

#[test]
fn a_recreated_compose_container_keeps_its_entity_and_a_replica_has_its_own() {
    assert_eq!(compose("a", "1").identity(), "compose:shop/db/1");
    assert_eq!(compose("a", "1").entity(HOST), compose("b", "1").entity(HOST));
    assert_ne!(compose("a", "1").entity(HOST), compose("a", "2").entity(HOST));
    assert_eq!(
        (compose("a", "1").display_name(), compose("a", "2").display_name()),
        ("shop/db".into(), "shop/db/2".into())
    );
    assert_eq!(compose("a", "1").component(), "shop");
    assert_eq!(instance("a", "lonely", "").identity(), "container:lonely");
    let mut one_off = compose("a", "1");
    one_off.labels.insert("com.docker.compose.oneoff".into(), "True".into());
    assert_eq!(one_off.identity(), "container:shop-db-1");
    let mut labelled = compose("a", "1");
    labelled.labels.insert("forewarn.component".into(), "mes".into());
    assert_eq!(labelled.component(), "mes");
}

#[test]
fn restarts_are_counted_once_and_a_first_start_is_none() {
    let mut workloads = Workloads::new(HOST);
    workloads.apply(Notice::Synced(vec![instance("a", "x", "")]));
    workloads.apply(Notice::Changed(Box::new(instance("a", "x", "t1"))));
    assert_eq!(state(&mut workloads)[0].1[1], 0.0);
    workloads.apply(Notice::Changed(Box::new(instance("a", "x", "t2"))));
    workloads.apply(Notice::Changed(Box::new(instance("a", "x", "t2"))));
    assert_eq!(state(&mut workloads)[0].1[1], 1.0);
    let many = Instance { restart_count: 4, ..instance("a", "x", "t9") };
    workloads.apply(Notice::Changed(Box::new(many)));
    assert_eq!(state(&mut workloads)[0].1[1], 4.0);
    assert_eq!(state(&mut workloads)[0].1[1], 0.0, "an increment is told once");
}

#[test]
fn a_container_that_ended_is_still_reported_until_it_is_removed() {
    let mut workloads = Workloads::new(HOST);
    let ended = Instance { is_running: false, pid: 0, exit_code: Some(137), ..instance("a", "x", "t1") };
    workloads.apply(Notice::Synced(vec![ended]));
    let told = state(&mut workloads);
    assert_eq!((told[0].1[0], told[0].1[3]), (0.0, 137.0));
    assert_eq!(workloads.targets().count(), 0);
    workloads.apply(Notice::Removed { id: "a".into() });
    assert!(state(&mut workloads).is_empty());
}

#[test]
fn of_two_instances_of_a_workload_the_running_one_speaks() {
    let mut workloads = Workloads::new(HOST);
    let old = Instance { is_running: false, pid: 0, started_at: "t9".into(), ..compose("old", "1") };
    workloads.apply(Notice::Synced(vec![old, compose("new", "1")]));
    assert_eq!(state(&mut workloads).len(), 1);
    assert_eq!(state(&mut workloads)[0].1[0], 1.0);
    assert_eq!(workloads.targets().next().unwrap().id, "new");
    assert_eq!(workloads.entities().count(), 1);
}

#[test]
fn logs_that_were_there_at_the_first_look_are_old_and_later_ones_new() {
    let mut workloads = Workloads::new(HOST);
    workloads.apply(Notice::Synced(vec![instance("a", "x", "t1")]));
    workloads.apply(Notice::Changed(Box::new(instance("b", "y", "t1"))));
    workloads.apply(Notice::Changed(Box::new(instance("a", "x", "t2"))));
    let (log, first_line) = (settings::Settings::default().log, Rc::default());
    let mut old: Vec<(String, bool)> =
        workloads.sources(&log, &[], &first_line).map(|source| (source.id, source.is_old)).collect();
    old.sort();
    assert_eq!(old, [("a".to_owned(), true), ("b".to_owned(), false)]);
    let none = settings::Log { exclude: vec!["x".into()], ..log };
    assert_eq!(workloads.sources(&none, &[], &first_line).count(), 1);
    let central = ["*".to_owned()];
    assert_eq!(workloads.sources(&none, &central, &first_line).count(), 0, "the server narrows what the host lets in");
}

#[test]
fn what_was_counted_in_logs_that_are_gone_leaves_nothing_behind() {
    let mut workloads = Workloads::new(HOST);
    let counts = Counts { lines: 1, hits: [("boom".to_owned(), 1)].into(), ..Counts::default() };
    for number in 0..1000 {
        state(&mut workloads);
        let mut rows = Vec::new();
        workloads.log_rows(EntityId(number), &counts, &mut rows);
        workloads.log_rows(EntityId(u64::MAX), &counts, &mut rows);
        assert_eq!(rows.iter().filter(|row| row.shape.layout.metrics[0].name == "log_hits").count(), 2);
    }
    assert_eq!(workloads.hit_shapes.len(), 3, "this tick's and those of the one before");
}
