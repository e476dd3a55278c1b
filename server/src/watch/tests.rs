//! Promises of the judgement, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use forewarn_common::block::{EngineEvent, EntityKind, EventKind, KeywordHit, LogSample};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::keyword::Severity;
use proptest::prelude::*;

use super::*;
use crate::model::forecast::{Reason, State};
use crate::model::rule::default_rules;

const T0: i64 = 1_800_000_000_000;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// What the caller keeps: at most one open incident of one subject, and everything that was told of it.
struct Bench {
    rule: Rule,
    open: Option<Incident>,
    told: Vec<(i64, Transition)>,
    writes: usize,
    held: bool,
    listening_since_ms: i64,
    opened: usize,
}

impl Bench {
    fn of(rule: &str) -> Self {
        let rule = default_rules().into_iter().find(|known| known.id == rule).unwrap();
        Self { rule, open: None, told: vec![], writes: 0, held: false, listening_since_ms: T0 - HOUR, opened: 0 }
    }

    fn subject(&self) -> Subject {
        let host = HostId([7; 16]);
        let entity = EntityId::of(host, "container:mysql");
        Subject { rule: self.rule.id.clone(), host, entity, instance: "/data".into() }
    }

    fn see(&mut self, now_ms: i64, seen: Seen<'_>) -> Option<Transition> {
        let new_id = format!("{:032x}", self.opened);
        let context = Context {
            now_ms,
            listening_since_ms: self.listening_since_ms,
            held: self.held,
            host_name: "plant-3",
            entity_name: "mysql",
            component: "erp",
            new_id: &new_id,
            digest: None,
        };
        let change = judge(&self.rule, &self.subject(), self.open.as_ref(), seen, &context)?;
        self.writes += 1;
        self.opened += usize::from(self.open.is_none());
        if let Some(told) = change.told {
            self.told.push((now_ms, told));
        }
        self.open = (change.incident.state != IncidentState::Resolved).then_some(change.incident);
        change.told
    }

    fn level(&mut self, now_ms: i64, value: f64) -> Option<Transition> {
        self.see(now_ms, Seen::Level { value, at_ms: now_ms })
    }

    fn tick(&mut self, now_ms: i64) -> Option<Transition> {
        self.see(now_ms, Seen::Tick)
    }

    fn event(&mut self, at_ms: i64, kind: EventKind, code: i32) -> Option<Transition> {
        let event = EngineEvent { entity: self.subject().entity, at_ms, kind, code, detail: String::new() };
        self.see(at_ms, Seen::Event(&event))
    }

    /// A value every 30 seconds; what was told, in seconds after `from_ms`.
    fn run(&mut self, from_ms: i64, to_ms: i64, value: f64) -> Vec<(i64, Transition)> {
        let mut told = vec![];
        let mut now_ms = from_ms;
        while now_ms <= to_ms {
            told.extend(self.level(now_ms, value).map(|it| ((now_ms - from_ms) / SECOND, it)));
            told.extend(self.tick(now_ms).map(|it| ((now_ms - from_ms) / SECOND, it)));
            now_ms += 30 * SECOND;
        }
        told
    }
}

fn forecast(at_ms: i64, value: f64, state: State) -> Forecast {
    Forecast {
        state,
        warned: matches!(state, State::Warning { .. }),
        probability: 0.9,
        at_ms,
        value,
        threshold: 0.9,
        horizon_ms: 24 * HOUR,
        likely_ms: None,
        reasons: vec![],
        band: vec![],
    }
}

fn warning(at_ms: i64) -> Forecast {
    let state = State::Warning {
        probability: 0.9,
        earliest_ms: at_ms + HOUR,
        likely_ms: at_ms + 2 * HOUR,
        latest_ms: at_ms + 3 * HOUR,
    };
    forecast(at_ms, 0.8, state)
}

const NO_FORECAST: State = State::NoForecast { reason: Reason::BadQuestion };

fn hit(last_ms: i64, count: u64, line: &str) -> KeywordHit {
    KeywordHit {
        entity: EntityId(1),
        rule: "out_of_memory".into(),
        severity: Severity::Critical,
        count,
        first_ms: last_ms,
        last_ms,
        samples: vec![LogSample { at_ms: last_ms, line: line.into(), before: vec![], after: vec![] }],
    }
}

// ---- thresholds

#[test]
fn a_level_alarms_after_two_minutes_over_and_not_before() {
    let mut bench = Bench::of("disk");
    assert_eq!(bench.run(T0, T0 + 10 * MINUTE, 0.95), [(120, Transition::Alarmed)]);
    let open = bench.open.unwrap();
    assert_eq!((open.kind, open.state), (IncidentKind::Alarm, IncidentState::Firing));
    assert_eq!(open.evidence.over_since_ms, Some(T0));
    assert_eq!(open.evidence.host_name, "plant-3");
}

#[test]
fn exactly_at_the_threshold_is_over() {
    assert_eq!(Bench::of("disk").run(T0, T0 + 3 * MINUTE, 0.9), [(120, Transition::Alarmed)]);
    assert_eq!(Bench::of("disk").run(T0, T0 + 3 * MINUTE, 9000.0 * 1e-4), [(120, Transition::Alarmed)]);
    assert_eq!(Bench::of("disk").run(T0, T0 + 3 * MINUTE, 0.8999), []);
}

#[test]
fn a_spike_alarms_nobody_and_leaves_nothing_open() {
    let mut bench = Bench::of("cpu");
    bench.run(T0, T0 + 90 * SECOND, 0.99);
    assert!(bench.open.as_ref().is_some_and(|open| open.state == IncidentState::Pending));
    bench.level(T0 + 2 * MINUTE, 0.3);
    assert!(bench.open.is_none() && bench.told.is_empty());
}

#[test]
fn a_touch_below_the_threshold_starts_the_two_minutes_again() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 90 * SECOND, 0.95);
    bench.level(T0 + 2 * MINUTE, 0.895);
    assert_eq!(bench.run(T0 + 150 * SECOND, T0 + 5 * MINUTE, 0.95), [(120, Transition::Alarmed)]);
}

#[test]
fn an_alarm_is_over_only_clearly_below_and_for_two_minutes() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    assert_eq!(bench.run(T0 + 6 * MINUTE, T0 + 60 * MINUTE, 0.885), [], "just below is not well");
    assert_eq!(bench.run(T0 + 61 * MINUTE, T0 + 62 * MINUTE, 0.88), [], "one minute is too short");
    bench.level(T0 + 62 * MINUTE + SECOND, 0.89);
    assert_eq!(bench.run(T0 + 63 * MINUTE, T0 + 66 * MINUTE, 0.88), [(120, Transition::Resolved)]);
    assert!(bench.open.is_none());
}

#[test]
fn a_forecast_warns_once_and_the_level_reached_makes_the_same_incident_an_alarm() {
    let mut bench = Bench::of("disk");
    assert_eq!(bench.see(T0 + MINUTE, Seen::Forecast(&warning(T0))), Some(Transition::Warned));
    let id = bench.open.as_ref().unwrap().id.clone();
    for minute in 1..6 {
        let now_ms = T0 + minute * 5 * MINUTE;
        assert_eq!(bench.see(now_ms, Seen::Forecast(&warning(now_ms - MINUTE))), None, "told once");
        assert_eq!(bench.level(now_ms + SECOND, 0.85), None);
    }
    assert_eq!(bench.run(T0 + HOUR, T0 + HOUR + 3 * MINUTE, 0.91), [(120, Transition::Alarmed)]);
    let open = bench.open.as_ref().unwrap();
    assert_eq!((&open.id, open.kind), (&id, IncidentKind::Alarm));
    assert!(open.evidence.forecast.is_some(), "what it was warned on stays");
    assert_eq!(bench.run(T0 + 2 * HOUR, T0 + 2 * HOUR + 3 * MINUTE, 0.5).len(), 1);
    let told: Vec<_> = bench.told.iter().map(|(_, told)| *told).collect();
    assert_eq!(told, [Transition::Warned, Transition::Alarmed, Transition::Resolved]);
}

#[test]
fn a_stable_forecast_ends_a_warning_but_no_alarm() {
    let mut bench = Bench::of("disk");
    bench.see(T0 + MINUTE, Seen::Forecast(&warning(T0)));
    let stable = forecast(T0 + 5 * MINUTE, 0.7, State::Stable);
    assert_eq!(bench.see(T0 + 6 * MINUTE, Seen::Forecast(&stable)), Some(Transition::Resolved));

    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    let stable = forecast(T0 + 2 * MINUTE, 0.7, State::Stable);
    assert_eq!(bench.see(T0 + 6 * MINUTE, Seen::Forecast(&stable)), None, "the newer level has the last word");
    assert!(bench.open.is_some());
}

#[test]
fn a_stable_forecast_does_not_end_a_warning_whose_level_is_over_right_now() {
    let mut bench = Bench::of("disk");
    bench.see(T0 + MINUTE, Seen::Forecast(&warning(T0)));
    bench.level(T0 + 6 * MINUTE, 0.93);
    let stable = forecast(T0 + 5 * MINUTE, 0.7, State::Stable);
    assert_eq!(bench.see(T0 + 6 * MINUTE + SECOND, Seen::Forecast(&stable)), None);
    assert_eq!(bench.level(T0 + 8 * MINUTE, 0.93), Some(Transition::Alarmed));
}

#[test]
fn no_forecast_keeps_a_warning_for_two_hours() {
    let mut bench = Bench::of("disk");
    bench.see(T0 + MINUTE, Seen::Forecast(&warning(T0)));
    let mut ended = None;
    for round in 1..40 {
        let now_ms = T0 + MINUTE + round * 5 * MINUTE;
        bench.level(now_ms, 0.8);
        bench.tick(now_ms);
        if bench.see(now_ms, Seen::Forecast(&forecast(now_ms - MINUTE, 0.8, NO_FORECAST))).is_some() {
            ended.get_or_insert(now_ms - T0 - MINUTE);
        }
    }
    assert_eq!(ended, Some(2 * HOUR));
}

#[test]
fn a_breached_forecast_never_clears_and_alarms_where_no_levels_come() {
    let mut bench = Bench::of("disk");
    bench.see(T0 + MINUTE, Seen::Forecast(&warning(T0)));
    let breached = |at_ms| forecast(at_ms, 0.92, State::Breached);
    assert_eq!(bench.see(T0 + 6 * MINUTE, Seen::Forecast(&breached(T0 + 5 * MINUTE))), None);
    assert_eq!(bench.see(T0 + 11 * MINUTE, Seen::Forecast(&breached(T0 + 10 * MINUTE))), Some(Transition::Alarmed));
    // … and where no levels come the means of the buckets end it, too.
    let stable = |at_ms| forecast(at_ms, 0.6, State::Stable);
    assert_eq!(bench.see(T0 + 16 * MINUTE, Seen::Forecast(&stable(T0 + 15 * MINUTE))), None);
    assert_eq!(bench.see(T0 + 21 * MINUTE, Seen::Forecast(&stable(T0 + 20 * MINUTE))), Some(Transition::Resolved));
}

#[test]
fn an_old_bucket_does_not_reopen_an_alarm_that_just_ended() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 10 * MINUTE, 0.95);
    bench.run(T0 + 11 * MINUTE, T0 + 13 * MINUTE, 0.5);
    assert!(bench.open.is_none());
    let told = bench.told.len();
    bench.see(T0 + 13 * MINUTE, Seen::Forecast(&forecast(T0 + 10 * MINUTE, 0.94, State::Breached)));
    bench.run(T0 + 13 * MINUTE + SECOND, T0 + 20 * MINUTE, 0.5);
    assert!(bench.open.is_none() && bench.told.len() == told, "{:?}", bench.told);
}

#[test]
fn answers_to_another_question_or_of_long_ago_are_passed_over() {
    let mut bench = Bench::of("disk");
    let other = Forecast { threshold: 0.8, ..warning(T0) };
    assert_eq!(bench.see(T0 + MINUTE, Seen::Forecast(&other)), None);
    assert_eq!(bench.see(T0 + 16 * MINUTE, Seen::Forecast(&warning(T0))), None);
    let broken = Forecast { probability: f64::NAN, ..warning(T0) };
    assert_eq!(bench.see(T0 + MINUTE, Seen::Forecast(&broken)), None);
    assert!(bench.open.is_none());
}

#[test]
fn levels_of_a_backlog_and_nonsense_alarm_nobody() {
    let mut bench = Bench::of("disk");
    for minute in 0..30 {
        let at_ms = T0 + minute * MINUTE;
        assert_eq!(bench.see(T0 + 40 * MINUTE, Seen::Level { value: 0.99, at_ms }), None);
        assert_eq!(bench.level(at_ms, f64::NAN), None);
        assert_eq!(bench.level(at_ms, f64::INFINITY), None);
    }
    assert!(bench.open.is_none());
}

#[test]
fn a_silent_host_resolves_and_warns_of_nothing() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    bench.held = true;
    for minute in 6..600 {
        let now_ms = T0 + minute * MINUTE;
        assert_eq!(bench.tick(now_ms), None);
        assert_eq!(bench.see(now_ms, Seen::Forecast(&warning(now_ms))), None);
    }
    bench.held = false;
    assert_eq!(bench.tick(T0 + 600 * MINUTE), None, "the silence does not count");
    assert_eq!(bench.run(T0 + 601 * MINUTE, T0 + 610 * MINUTE, 0.95), [], "and the alarm is still the same");
}

#[test]
fn an_incident_whose_filesystem_was_unmounted_ends_after_half_an_hour() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    let ended: Vec<_> = (5..60).filter(|minute| bench.tick(T0 + minute * MINUTE).is_some()).collect();
    assert_eq!(ended, [35]);
}

#[test]
fn a_server_that_was_down_does_not_end_what_it_could_not_see() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    bench.listening_since_ms = T0 + 3 * HOUR;
    assert_eq!(bench.tick(T0 + 3 * HOUR + SECOND), None);
    assert_eq!(bench.run(T0 + 3 * HOUR + MINUTE, T0 + 3 * HOUR + 5 * MINUTE, 0.95), []);
}

#[test]
fn a_steady_alarm_is_rewritten_once_a_minute_at_most() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + HOUR, 0.95);
    assert!(bench.writes <= 63, "{}", bench.writes);
}

#[test]
fn a_rule_switched_off_ends_its_incidents_in_silence() {
    let mut bench = Bench::of("disk");
    bench.run(T0, T0 + 5 * MINUTE, 0.95);
    bench.rule.enabled = false;
    assert_eq!(bench.tick(T0 + 6 * MINUTE), None);
    assert!(bench.open.is_none());
    assert_eq!(bench.run(T0 + 7 * MINUTE, T0 + 15 * MINUTE, 0.99), []);
}

// ---- keywords

#[test]
fn a_keyword_is_told_at_once_and_once_and_over_after_ten_quiet_minutes() {
    let mut bench = Bench::of("keyword");
    assert_eq!(bench.see(T0, Seen::Hit(&hit(T0, 1, "java.lang.OutOfMemoryError"))), Some(Transition::Alarmed));
    for minute in 1..9 {
        let now_ms = T0 + minute * MINUTE;
        assert_eq!(bench.see(now_ms, Seen::Hit(&hit(now_ms, 5, "again"))), None);
        assert_eq!(bench.tick(now_ms), None);
    }
    let open = bench.open.clone().unwrap();
    assert_eq!((open.evidence.hits, open.evidence.lines.len()), (41, 5));
    assert_eq!(open.severity, Severity::Critical);
    assert_eq!(open.evidence.keyword.as_deref(), Some("out_of_memory"));
    let ended: Vec<_> = (9..30).filter(|minute| bench.tick(T0 + minute * MINUTE).is_some()).collect();
    assert_eq!(ended, [18]);
}

#[test]
fn hits_below_the_severity_are_only_counted() {
    let mut bench = Bench::of("keyword");
    let info = KeywordHit { severity: Severity::Info, ..hit(T0, 9, "timed out") };
    assert_eq!(bench.see(T0, Seen::Hit(&info)), None);
    assert!(bench.open.is_none());
}

#[test]
fn a_hit_out_of_the_backlog_is_told_and_not_over_in_the_same_breath() {
    let mut bench = Bench::of("keyword");
    let old = hit(T0 - 3 * HOUR, 1, "boom");
    assert_eq!(bench.see(T0, Seen::Hit(&old)), Some(Transition::Alarmed));
    assert_eq!(bench.tick(T0 + MINUTE), None);
    assert_eq!(bench.tick(T0 + 10 * MINUTE), Some(Transition::Resolved));
    assert_eq!(bench.see(T0, Seen::Hit(&hit(T0 - 25 * HOUR, 1, "stone age"))), None);
}

#[test]
fn quiet_does_not_count_while_the_host_is_silent() {
    let mut bench = Bench::of("keyword");
    bench.see(T0, Seen::Hit(&hit(T0, 1, "boom")));
    bench.held = true;
    for minute in 3..60 {
        assert_eq!(bench.tick(T0 + minute * MINUTE), None);
    }
    bench.held = false;
    let ended: Vec<_> = (60..80).filter(|minute| bench.tick(T0 + minute * MINUTE).is_some()).collect();
    assert_eq!(ended, [69]);
}

// ---- containers

#[test]
fn a_container_that_dies_unasked_is_told_at_once_and_well_after_two_minutes_of_running() {
    let mut bench = Bench::of("container_died");
    assert_eq!(bench.event(T0, EventKind::Die, 1), Some(Transition::Alarmed));
    assert_eq!(bench.event(T0 + SECOND, EventKind::Start, 0), None);
    assert_eq!(bench.event(T0 + MINUTE, EventKind::Die, 1), None, "still the same trouble");
    assert_eq!(bench.event(T0 + MINUTE + SECOND, EventKind::Start, 0), None);
    assert_eq!(bench.tick(T0 + 2 * MINUTE + SECOND), None, "the second end started the time again");
    assert_eq!(bench.tick(T0 + 3 * MINUTE + SECOND), Some(Transition::Resolved));
}

#[test]
fn an_end_that_was_asked_for_is_no_fault() {
    for (stop_s, die_s, code, told) in [
        (0, 5, 143, None),
        (0, 11, 137, None),
        (0, 29, 1, None),
        (0, 120, 137, None),
        (0, 60, 1, Some(Transition::Alarmed)),
        (0, 400, 137, Some(Transition::Alarmed)),
    ] {
        let mut bench = Bench::of("container_died");
        assert_eq!(bench.event(T0 + stop_s * SECOND, EventKind::Stop, 0), None);
        assert_eq!(bench.event(T0 + die_s * SECOND, EventKind::Die, code), told, "{die_s} s {code}");
    }
}

#[test]
fn an_orderly_end_is_no_fault_and_a_restart_by_hand_leaves_nothing_open() {
    let mut bench = Bench::of("container_died");
    assert_eq!(bench.event(T0, EventKind::Die, 0), None);
    assert_eq!(bench.event(T0, EventKind::Die, 143), None, "a SIGTERM is a request, even if nobody saw who made it");
    for round in 0..3 {
        let at_ms = T0 + round * MINUTE;
        bench.event(at_ms, EventKind::Stop, 0);
        bench.event(at_ms + SECOND, EventKind::Die, 143);
        bench.event(at_ms + 2 * SECOND, EventKind::Start, 0);
    }
    assert!(bench.open.is_none() && bench.told.is_empty());
}

#[test]
fn a_stop_that_is_reported_just_after_its_end_is_put_first() {
    let event = |at_ms, kind, code| EngineEvent { entity: EntityId(1), at_ms, kind, code, detail: String::new() };
    let mut events =
        [event(T0 + 40, EventKind::Start, 0), event(T0, EventKind::Die, 137), event(T0 + 3, EventKind::Stop, 0)];
    order_events(&mut events);
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Stop, EventKind::Die, EventKind::Start]);
    let mut bench = Bench::of("container_died");
    for event in &events {
        assert_eq!(bench.see(T0 + SECOND, Seen::Event(event)), None);
    }
    assert!(bench.open.is_none());
}

#[test]
fn a_dead_container_that_is_seen_running_again_is_well_even_if_its_start_was_missed() {
    let mut bench = Bench::of("container_died");
    bench.event(T0, EventKind::Die, 1);
    assert_eq!(bench.run(T0 + 30 * SECOND, T0 + 20 * MINUTE, 0.0), [], "it is still dead");
    assert_eq!(bench.run(T0 + 21 * MINUTE, T0 + 25 * MINUTE, 1.0), [(120, Transition::Resolved)]);
}

#[test]
fn a_removed_container_is_over() {
    let mut bench = Bench::of("container_died");
    bench.event(T0, EventKind::Die, 1);
    assert_eq!(bench.event(T0 + SECOND, EventKind::Destroy, 0), Some(Transition::Resolved));
}

#[test]
fn a_memory_kill_is_told_at_once_and_over_after_ten_minutes_without_another() {
    let mut bench = Bench::of("container_oom");
    assert_eq!(bench.event(T0, EventKind::Oom, 0), Some(Transition::Alarmed));
    assert_eq!(bench.event(T0 + 5 * MINUTE, EventKind::Oom, 0), None);
    assert_eq!(bench.tick(T0 + 14 * MINUTE), None);
    assert_eq!(bench.tick(T0 + 15 * MINUTE), Some(Transition::Resolved));
}

#[test]
fn the_third_restart_within_ten_minutes_is_a_loop() {
    let mut bench = Bench::of("restart_loop");
    let mut told = vec![];
    for round in 0..6 {
        let at_ms = T0 + round * MINUTE;
        told.extend(bench.event(at_ms, EventKind::Die, 1).map(|it| (round, it)));
        told.extend(bench.event(at_ms + SECOND, EventKind::Start, 0).map(|it| (round, it)));
    }
    assert_eq!(told, [(2, Transition::Alarmed)]);
    assert_eq!(bench.open.as_ref().unwrap().evidence.hits, 6);
    assert_eq!(bench.tick(T0 + 14 * MINUTE), None);
    assert_eq!(bench.tick(T0 + 15 * MINUTE + SECOND), Some(Transition::Resolved));
}

#[test]
fn slow_restarts_and_restarts_by_hand_are_no_loop() {
    let mut bench = Bench::of("restart_loop");
    for round in 0..20 {
        let at_ms = T0 + round * 6 * MINUTE;
        assert_eq!(bench.event(at_ms, EventKind::Die, 1), None);
        assert_eq!(bench.event(at_ms + SECOND, EventKind::Start, 0), None);
    }
    let mut bench = Bench::of("restart_loop");
    for round in 0..5 {
        let at_ms = T0 + round * MINUTE;
        bench.event(at_ms, EventKind::Stop, 0);
        bench.event(at_ms + SECOND, EventKind::Die, 143);
        assert_eq!(bench.event(at_ms + 2 * SECOND, EventKind::Start, 0), None);
    }
    bench.tick(T0 + 30 * MINUTE);
    assert!(bench.open.is_none());
}

#[test]
fn a_failed_health_check_is_told_and_over_when_it_passes() {
    let mut bench = Bench::of("unhealthy");
    assert_eq!(bench.event(T0, EventKind::Health, 1), None);
    assert_eq!(bench.event(T0 + MINUTE, EventKind::Health, 2), Some(Transition::Alarmed));
    assert_eq!(bench.level(T0 + 2 * MINUTE, 2.0), None);
    assert_eq!(bench.event(T0 + 3 * MINUTE, EventKind::Health, 0), Some(Transition::Resolved));
    assert_eq!(bench.level(T0 + 4 * MINUTE, 2.0), Some(Transition::Alarmed), "by its level, if the event was missed");
    assert_eq!(bench.level(T0 + 5 * MINUTE, 0.0), Some(Transition::Resolved));
}

// ---- hosts

#[test]
fn a_host_is_silent_after_three_minutes_and_not_before() {
    let mut bench = Bench::of("host_silent");
    let silent = |bench: &mut Bench, second| bench.see(T0 + second * SECOND, Seen::HostSilent { seen_ms: T0 });
    assert_eq!(silent(&mut bench, 30), None);
    assert_eq!(silent(&mut bench, 179), None);
    bench.held = true;
    assert_eq!(silent(&mut bench, 180), Some(Transition::Alarmed));
    assert_eq!(silent(&mut bench, 600), None);
    assert_eq!(bench.tick(T0 + 700 * SECOND), None);
    assert_eq!(bench.see(T0 + 720 * SECOND, Seen::HostBack), Some(Transition::Resolved));
}

#[test]
fn a_server_that_just_started_gives_every_host_its_time() {
    let mut bench = Bench::of("host_silent");
    bench.listening_since_ms = T0;
    let seen_ms = T0 - 5 * HOUR;
    assert_eq!(bench.see(T0 + MINUTE, Seen::HostSilent { seen_ms }), None);
    assert_eq!(bench.see(T0 + 3 * MINUTE, Seen::HostSilent { seen_ms }), Some(Transition::Alarmed));
    assert_eq!(Bench::of("host_silent").see(T0, Seen::HostSilent { seen_ms: 0 }), None, "it was never there");
}

// ---- which rule looks at what

#[test]
fn a_rule_applies_to_its_metric_and_kind_only() {
    let rules = default_rules();
    let host = HostId([7; 16]);
    let applying = |target: Target<'_>| -> Vec<String> {
        rules.iter().filter(|rule| subject(rule, host, &target).is_some()).map(|rule| rule.id.clone()).collect()
    };
    let series = |kind, metric| Target::Series { entity: EntityId(1), kind, metric, instance: "/data" };
    assert_eq!(applying(series(EntityKind::Host, "fs_used_ratio")), ["disk"]);
    assert_eq!(applying(series(EntityKind::Host, "mem_used_ratio")), ["memory"]);
    assert_eq!(applying(series(EntityKind::Workload, "mem_used_ratio")), ["container_memory"]);
    assert_eq!(applying(series(EntityKind::Workload, "running")), ["container_died"]);
    assert_eq!(applying(series(EntityKind::Workload, "health")), ["unhealthy"]);
    assert_eq!(applying(series(EntityKind::Host, "load_1m")), [""; 0]);
    assert_eq!(applying(Target::Hit(&hit(T0, 1, "x"))), ["keyword"]);
    assert_eq!(applying(Target::Host), ["host_silent"]);
    let event = |kind| EngineEvent { entity: EntityId(1), at_ms: T0, kind, code: 0, detail: String::new() };
    assert_eq!(applying(Target::Event(&event(EventKind::Die))), ["container_died", "restart_loop", "unhealthy"]);
    assert_eq!(applying(Target::Event(&event(EventKind::Oom))), ["container_oom"]);
    let disk = subject(&rules[0], host, &series(EntityKind::Host, "fs_used_ratio")).unwrap();
    assert_eq!((disk.rule.as_str(), disk.instance.as_str()), ("disk", "/data"));
    let keyword = rules.iter().find(|rule| rule.id == "keyword").unwrap();
    assert_eq!(subject(keyword, host, &Target::Hit(&hit(T0, 1, "x"))).unwrap().instance, "out_of_memory");
}

// ---- the state machine as a whole

#[derive(Debug, Clone)]
enum Step {
    Level(f64, i64),
    Forecast(Forecast),
    Hit(KeywordHit),
    Event(EventKind, i32, i64),
    Silent(i64),
    Back,
    Tick,
    Held(bool),
    Enabled(bool),
    Restarted,
}

fn a_step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        4 => 0.8..1.0f64, 1 => Just(0.9), 1 => Just(f64::NAN), 2 => Just(2.0), 2 => Just(0.0), 1 => any::<f64>()
    ];
    let lag = prop_oneof![6 => Just(0i64), 2 => -10 * MINUTE..10 * MINUTE, 1 => -48 * HOUR..HOUR, 1 => any::<i64>()];
    let state = prop_oneof![
        Just(NO_FORECAST),
        Just(State::Stable),
        Just(State::Breached),
        (any::<i64>(), 0.0..1.0f64).prop_map(|(ms, probability)| State::Warning {
            probability,
            earliest_ms: ms,
            likely_ms: ms,
            latest_ms: ms
        }),
    ];
    let kind = prop::sample::select(vec![
        EventKind::Start,
        EventKind::Die,
        EventKind::Oom,
        EventKind::Health,
        EventKind::Destroy,
        EventKind::Stop,
    ]);
    prop_oneof![
        6 => (value.clone(), lag.clone()).prop_map(|(value, lag)| Step::Level(value, lag)),
        4 => (value, lag.clone(), state).prop_map(|(value, lag, state)| Step::Forecast(forecast(lag, value, state))),
        3 => (lag.clone(), any::<u64>()).prop_map(|(lag, count)| Step::Hit(hit(lag, count, "行 \"x\""))),
        6 => (kind, prop::sample::select(vec![0, 1, 2, 137, 143]), lag.clone())
            .prop_map(|(kind, code, lag)| Step::Event(kind, code, lag)),
        1 => lag.prop_map(Step::Silent),
        1 => Just(Step::Back),
        6 => Just(Step::Tick),
        1 => any::<bool>().prop_map(Step::Held),
        1 => prop::bool::weighted(0.7).prop_map(Step::Enabled),
        1 => Just(Step::Restarted),
    ]
}

proptest! {
    #[test]
    fn where_nothing_may_begin_nothing_is_said_without_an_open_incident(
        index in 0..default_rules().len(),
        held in any::<bool>(),
        enabled in any::<bool>(),
        age_ms in -HOUR..HOUR,
        value in prop_oneof![Just(f64::NAN), -1.0..3.0, 0.0..200.0, Just(0.9), Just(f64::INFINITY)],
        which in 0..3,
    ) {
        let mut bench = Bench::of(&default_rules()[index].id);
        (bench.held, bench.rule.enabled) = (held, enabled);
        let seen = match which {
            0 => Seen::Level { value, at_ms: T0 - age_ms },
            1 => Seen::HostBack,
            _ => Seen::Tick,
        };
        bench.see(T0, seen);
        prop_assert!(bench.writes == 0 || may_begin(&bench.rule, seen));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_in_whatever_order_the_story_told_makes_sense(
        rule in 0usize..11,
        steps in proptest::collection::vec((0i64..20 * MINUTE, a_step()), 1..120),
    ) {
        let rule = default_rules().swap_remove(rule);
        let mut bench = Bench::of(&rule.id);
        let mut now_ms = T0;
        let mut last: Option<Transition> = None;
        for (pause_ms, step) in steps {
            now_ms += pause_ms;
            let open_before = bench.open.clone();
            let told = match step {
                Step::Level(value, lag) => bench.see(now_ms, Seen::Level { value, at_ms: now_ms.saturating_add(lag) }),
                Step::Forecast(forecast) => {
                    let forecast = Forecast { at_ms: now_ms.saturating_add(forecast.at_ms), ..forecast };
                    bench.see(now_ms, Seen::Forecast(&forecast))
                }
                Step::Hit(hit) => {
                    let hit = KeywordHit { last_ms: now_ms.saturating_add(hit.last_ms), ..hit };
                    bench.see(now_ms, Seen::Hit(&hit))
                }
                Step::Event(kind, code, lag) => {
                    let at_ms = now_ms.saturating_add(lag);
                    let event = EngineEvent { entity: EntityId(1), at_ms, kind, code, detail: String::new() };
                    bench.see(now_ms, Seen::Event(&event))
                }
                Step::Silent(lag) => bench.see(now_ms, Seen::HostSilent { seen_ms: now_ms.saturating_add(lag) }),
                Step::Back => bench.see(now_ms, Seen::HostBack),
                Step::Tick => bench.tick(now_ms),
                Step::Held(held) => { bench.held = held; None }
                Step::Enabled(enabled) => { bench.rule.enabled = enabled; None }
                Step::Restarted => { bench.listening_since_ms = now_ms; None }
            };
            if open_before.is_none() && bench.open.is_some() {
                last = None;
            }
            match told {
                None => {}
                Some(Transition::Warned) => prop_assert_eq!(last, None, "a warning comes first"),
                Some(Transition::Alarmed) => prop_assert!(matches!(last, None | Some(Transition::Warned))),
                Some(Transition::Resolved) => {
                    prop_assert!(last.is_some(), "only what was told is told to be over");
                    prop_assert!(bench.open.is_none());
                }
            }
            last = told.or(last);
            if let Some(open) = &bench.open {
                prop_assert_eq!(&open.subject, &bench.subject());
                prop_assert_eq!(open.fired_ms.is_some(), open.state == IncidentState::Firing);
                prop_assert_eq!(open.state == IncidentState::Firing, last.is_some());
                prop_assert!(open.evidence.lines.len() <= 5 && open.evidence.events.len() <= 64);
                if let Some(before) = open_before {
                    prop_assert_eq!(before.id, open.id.clone(), "one open incident, the same one");
                }
            } else {
                last = None;
            }
        }
        if let Some(open) = &bench.open {
            let text = serde_json::to_string(&open.evidence).unwrap();
            let back: Evidence = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&back.events, &open.evidence.events, "what is stored can be read again");
            prop_assert_eq!(back.forecast.is_some(), open.evidence.forecast.is_some());
        }
    }
}

#[test]
fn an_alarm_does_not_depend_on_how_often_the_forecast_speaks() {
    for rounds in 1..6 {
        let mut bench = Bench::of("disk");
        for second in (0..600).step_by(30) {
            let now_ms = T0 + second * SECOND;
            for _ in 0..rounds {
                bench.see(now_ms, Seen::Forecast(&forecast(now_ms - 2 * MINUTE, 0.95, State::Breached)));
            }
            bench.level(now_ms, 0.95);
        }
        let alarms = bench.told.iter().filter(|(_, told)| *told == Transition::Alarmed).count();
        assert_eq!(alarms, 1);
    }
}
