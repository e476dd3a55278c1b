//! Incidents are stored with their deliveries or not at all; a delivery has one owner at a time.

use forewarn_common::block::EventKind;
use forewarn_common::keyword::Severity;

use super::*;
use crate::model::channel::{ChannelKind, Delivery, DeliveryState, Language};
use crate::model::forecast::{Because, Expert, Forecast, State};
use crate::model::incident::{
    EventEvidence, Evidence, Incident, IncidentKind, IncidentState, LineEvidence, Subject, Transition,
};
use crate::model::series::SeriesKey;

on_both_engines!(
    an_incident_comes_back_as_it_was_saved,
    a_change_from_an_old_revision_is_refused_with_its_deliveries,
    one_incident_is_open_per_subject,
    two_servers_that_open_the_same_incident_at_once_open_one,
    pages_of_incidents_neither_skip_nor_repeat,
    people_are_shown_what_fired_and_is_not_long_over,
    a_delivery_has_one_owner_until_its_lease_ends,
    claims_of_many_servers_never_overlap,
    the_last_delivery_of_each_channel_is_known,
    forecasts_of_a_host_are_replaced_as_a_whole,
    what_is_kept_between_rounds_is_there_after_a_restart,
    a_pending_incident_is_forgotten_and_a_firing_one_is_not,
);

fn forecast(probability: f64) -> Forecast {
    Forecast {
        state: State::Warning { probability, earliest_ms: T0 + 1, likely_ms: T0 + 2, latest_ms: T0 + 3 },
        warned: true,
        probability,
        at_ms: T0,
        value: 0.87,
        threshold: 0.9,
        horizon_ms: 24 * HOUR_MS,
        likely_ms: Some(T0 + 2),
        reasons: vec![Because::Expert { expert: Expert::LongTrend, weight_ratio: 0.5, expects: 0.93 }],
        band: Vec::new(),
    }
}

fn incident(number: u8, instance: &str) -> Incident {
    let agent = Agent::new(number);
    Incident {
        id: format!("{number:032x}"),
        subject: Subject { rule: "disk".into(), host: agent.host, entity: agent.entity(), instance: instance.into() },
        kind: IncidentKind::Warning,
        state: IncidentState::Firing,
        severity: Severity::Warning,
        opened_ms: T0 + i64::from(number),
        fired_ms: Some(T0 + 60_000),
        resolved_ms: None,
        updated_ms: T0 + 60_000,
        evidence: Evidence {
            host_name: "工厂-3".into(),
            value: Some(0.87),
            forecast: Some(forecast(0.8)),
            lines: vec![LineEvidence {
                at_ms: T0, line: "磁盘已满 \u{1F4A5}".into(), before: vec![], after: vec![]
            }],
            events: vec![EventEvidence { at_ms: T0, kind: EventKind::Oom, code: 137 }],
            ..Evidence::default()
        },
        revision: 1,
    }
}

fn delivery(of: &Incident, transition: Transition, channel: &str) -> Delivery {
    Delivery {
        id: format!("{}-{}-{channel}", of.id, transition.word()),
        incident: of.id.clone(),
        channel: channel.into(),
        transition,
        state: DeliveryState::Queued,
        attempts: 0,
        due_ms: T0,
        created_ms: of.opened_ms,
        done_ms: None,
        answer: String::new(),
    }
}

async fn an_incident_comes_back_as_it_was_saved(place: Place) {
    let store = place.open().await;
    let new = incident(1, "/data");
    let deliveries = vec![delivery(&new, Transition::Warned, "a"), delivery(&new, Transition::Warned, "b")];
    store.incident_save(&new, None, deliveries.clone()).await.unwrap();
    assert_eq!(store.incident(&new.id).await.unwrap(), Some(new.clone()));
    assert_eq!(store.open_incidents().await.unwrap(), vec![new.clone()]);
    assert!(store.has_open_incidents(&new.subject.rule).await.unwrap());
    assert!(!store.has_open_incidents("another").await.unwrap());
    assert_eq!(store.open_incidents_of(Agent::new(2).host).await.unwrap(), vec![]);
    assert_eq!(store.deliveries_of(std::slice::from_ref(&new.id)).await.unwrap(), deliveries);
    assert_eq!(store.incident("none").await.unwrap(), None);
    let mut over = new.clone();
    (over.state, over.resolved_ms, over.revision) = (IncidentState::Resolved, Some(T0 + 90_000), 2);
    store.incident_save(&over, Some(1), vec![delivery(&over, Transition::Resolved, "a")]).await.unwrap();
    assert_eq!(store.incident(&new.id).await.unwrap(), Some(over));
    assert_eq!(store.open_incidents().await.unwrap(), vec![]);
    assert_eq!(store.deliveries_queued().await.unwrap(), 3);
}

async fn a_change_from_an_old_revision_is_refused_with_its_deliveries(place: Place) {
    let store = place.open().await;
    let new = incident(1, "/data");
    store.incident_save(&new, None, vec![]).await.unwrap();
    let mut changed = new.clone();
    (changed.kind, changed.revision) = (IncidentKind::Alarm, 2);
    store.incident_save(&changed, Some(1), vec![]).await.unwrap();
    changed.revision = 3;
    let late = store.incident_save(&changed, Some(1), vec![delivery(&new, Transition::Alarmed, "a")]).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    assert_eq!(store.deliveries_of(std::slice::from_ref(&new.id)).await.unwrap(), vec![]);
    assert_eq!(store.incident(&new.id).await.unwrap().unwrap().revision, 2);
    let again = store.incident_save(&new, None, vec![]).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
}

async fn one_incident_is_open_per_subject(place: Place) {
    let store = place.open().await;
    let first = incident(1, "/data");
    store.incident_save(&first, None, vec![]).await.unwrap();
    let second = Incident { id: "f".repeat(32), ..first.clone() };
    assert!(matches!(store.incident_save(&second, None, vec![]).await, Err(StoreError::Conflict)));
    // Another mount point is another subject.
    store.incident_save(&Incident { id: "e".repeat(32), ..incident(1, "/") }, None, vec![]).await.unwrap();
    let over = Incident { state: IncidentState::Resolved, resolved_ms: Some(T0 + 5), revision: 2, ..first };
    store.incident_save(&over, Some(1), vec![]).await.unwrap();
    store.incident_save(&second, None, vec![]).await.unwrap();
    assert_eq!(store.open_incidents().await.unwrap().len(), 2);
}

async fn two_servers_that_open_the_same_incident_at_once_open_one(place: Place) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..6 {
        let store = place.open().await;
        let new = Incident { id: format!("{number:032x}"), ..incident(1, "/data") };
        let told = delivery(&new, Transition::Warned, "a");
        tasks.spawn(async move { store.incident_save(&new, None, vec![told]).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let store = place.open().await;
    assert_eq!(store.open_incidents().await.unwrap().len(), 1);
    assert_eq!(store.deliveries_queued().await.unwrap(), 1);
}

async fn pages_of_incidents_neither_skip_nor_repeat(place: Place) {
    let store = place.open().await;
    for number in 0..25_u8 {
        // Five at a time open at the same moment.
        let new = Incident { opened_ms: T0 + i64::from(number / 5), ..incident(number, "/") };
        store.incident_save(&new, None, vec![]).await.unwrap();
    }
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let (page, next) = store.incidents(IncidentFilter::default(), cursor.as_deref(), 4).await.unwrap();
        assert!(page.len() <= 4);
        seen.extend(page.into_iter().map(|incident| (incident.opened_ms, incident.id)));
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|a, b| a > b));
    let of = IncidentFilter { host: Some(Agent::new(3).host), open_only: true, ..IncidentFilter::default() };
    assert_eq!(store.incidents(of, None, 10).await.unwrap().0.len(), 1);
    assert!(matches!(store.incidents(of, Some("x"), 10).await, Err(StoreError::Refused(_))));
}

async fn people_are_shown_what_fired_and_is_not_long_over(place: Place) {
    let store = place.open().await;
    let fired = |number: u8, resolved_ms: Option<i64>| Incident {
        state: if resolved_ms.is_some() { IncidentState::Resolved } else { IncidentState::Firing },
        fired_ms: Some(T0),
        resolved_ms,
        ..incident(number, "/")
    };
    let pending = Incident { state: IncidentState::Pending, fired_ms: None, ..incident(1, "/data") };
    for new in [pending, fired(2, None), fired(3, Some(T0 + 5)), fired(4, Some(T0 + 50))] {
        store.incident_save(&new, None, vec![]).await.unwrap();
    }
    let filter = IncidentFilter { fired_only: true, resolved_from_ms: Some(T0 + 50), ..IncidentFilter::default() };
    // A page of one: what is filtered out takes no place of it.
    let (first, next) = store.incidents(filter, None, 1).await.unwrap();
    let (second, end) = store.incidents(filter, next.as_deref(), 1).await.unwrap();
    let mut hosts = [first[0].subject.host, second[0].subject.host];
    hosts.sort();
    let mut expected = [Agent::new(2).host, Agent::new(4).host];
    expected.sort();
    assert_eq!((hosts, end), (expected, None));
    let subject = Subject { instance: "/srv".into(), ..incident(2, "/").subject };
    let alarm = Incident { id: "alarm".into(), subject, kind: IncidentKind::Alarm, ..fired(2, None) };
    for new in [alarm, fired(5, None)] {
        store.incident_save(&new, None, vec![]).await.unwrap();
    }
    let both = Firing { all: 2, alarms: 1 };
    let expected = HashMap::from([(Agent::new(2).host, both), (Agent::new(5).host, Firing { all: 1, alarms: 0 })]);
    assert_eq!(store.firing_counts().await.unwrap(), expected);
}

async fn a_delivery_has_one_owner_until_its_lease_ends(place: Place) {
    let store = place.open().await;
    let new = incident(1, "/data");
    store.incident_save(&new, None, vec![delivery(&new, Transition::Warned, "a")]).await.unwrap();
    assert_eq!(store.deliveries_claim(T0 - 1, 30_000, "one", 10).await.unwrap().len(), 0);
    let (mut told, of) = store.deliveries_claim(T0, 30_000, "one", 10).await.unwrap().pop().unwrap();
    assert_eq!(of, new);
    assert_eq!(store.deliveries_claim(T0 + 29_999, 30_000, "two", 10).await.unwrap().len(), 0);
    assert_eq!(store.deliveries_claim(T0 + 30_000, 30_000, "two", 10).await.unwrap().len(), 1);
    told.attempts = 1;
    (told.state, told.done_ms, told.answer) = (DeliveryState::Sent, Some(T0 + 31_000), "{\"errcode\":0}".into());
    assert!(!store.delivery_finish("one", &told).await.unwrap(), "the lease was lost");
    assert!(store.delivery_finish("two", &told).await.unwrap());
    assert_eq!(store.deliveries_of(std::slice::from_ref(&new.id)).await.unwrap(), vec![told]);
    assert_eq!(store.deliveries_claim(T0 + HOUR_MS, 30_000, "two", 10).await.unwrap().len(), 0);
    // One to be tried again is due again at its own time.
    let mut again = delivery(&new, Transition::Alarmed, "a");
    let next = Incident { revision: 2, ..new };
    store.incident_save(&next, Some(1), vec![again.clone()]).await.unwrap();
    store.deliveries_claim(T0, 30_000, "one", 10).await.unwrap();
    (again.attempts, again.due_ms, again.answer) = (1, T0 + 5_000, "忙".repeat(2000));
    assert!(store.delivery_finish("one", &again).await.unwrap());
    assert_eq!(store.deliveries_claim(T0 + 4_999, 30_000, "one", 10).await.unwrap().len(), 0);
    let (claimed, _) = store.deliveries_claim(T0 + 5_000, 30_000, "one", 10).await.unwrap().pop().unwrap();
    assert!(claimed.attempts == 1 && claimed.answer.len() <= 2048 && claimed.answer.starts_with("忙忙"));
}

async fn claims_of_many_servers_never_overlap(place: Place) {
    let store = place.open().await;
    for number in 0..30 {
        let new = incident(number, "/");
        store.incident_save(&new, None, vec![delivery(&new, Transition::Warned, "a")]).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for server in 0..4 {
        let store = place.open().await;
        tasks.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..6 {
                let claimed = store.deliveries_claim(T0, 60_000, &format!("server-{server}"), 5).await.unwrap();
                mine.extend(claimed.into_iter().map(|(delivery, _)| delivery.id));
            }
            mine
        });
    }
    let mut all: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((count, all.len()), (30, 30));
}

async fn the_last_delivery_of_each_channel_is_known(place: Place) {
    let store = place.open().await;
    for id in ["a", "b"] {
        let channel = SealedChannel {
            id: id.into(),
            name: id.into(),
            kind: ChannelKind::WeCom,
            language: Language::Chinese,
            severity_min: Severity::Info,
            send: true,
            sealed: vec![],
        };
        store.channel_save(&channel).await.unwrap();
    }
    for number in 1..4 {
        let new = incident(number, "/");
        store.incident_save(&new, None, vec![delivery(&new, Transition::Warned, "a")]).await.unwrap();
    }
    let last = store.last_deliveries().await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(last["a"].incident, incident(3, "/").id);
}

async fn forecasts_of_a_host_are_replaced_as_a_whole(place: Place) {
    let store = place.open().await;
    let stored = |number: u8, metric: &str, probability| {
        let agent = Agent::new(number);
        let key =
            SeriesKey { host: agent.host, entity: agent.entity(), metric: metric.into(), instance: "/数据".into() };
        StoredForecast { key, rule: "disk".into(), model: Some("m1".into()), forecast: forecast(probability) }
    };
    let (one, two) = (Agent::new(1).host, Agent::new(2).host);
    store.forecasts_put(one, T0, vec![stored(1, "fs_used_ratio", 0.1), stored(1, "x", 0.2)]).await.unwrap();
    store.forecasts_put(two, T0, vec![stored(2, "fs_used_ratio", 0.3)]).await.unwrap();
    store.forecasts_put(one, T0 + 1, vec![stored(1, "fs_used_ratio", 0.4)]).await.unwrap();
    assert_eq!(store.forecasts(one).await.unwrap(), vec![stored(1, "fs_used_ratio", 0.4)]);
    assert_eq!(store.forecasts_all().await.unwrap().len(), 2);
    assert_eq!(store.forecasts(Agent::new(3).host).await.unwrap(), vec![]);
}

async fn what_is_kept_between_rounds_is_there_after_a_restart(place: Place) {
    let (one, two) = (Agent::new(1).host, Agent::new(2).host);
    let store = place.open().await;
    assert_eq!(store.forecast_state(one).await.unwrap(), None);
    store.forecast_state_put(one, T0, "a".into()).await.unwrap();
    store.forecast_state_put(two, T0, "b".into()).await.unwrap();
    // The same bytes again count as no change on one engine and as one on the other.
    store.forecast_state_put(two, T0, "b".into()).await.unwrap();
    store.forecast_state_put(one, T0 + 1, "c".repeat(200_000)).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.forecast_state(one).await.unwrap(), Some((T0 + 1, "c".repeat(200_000))));
    assert_eq!(store.forecast_state(two).await.unwrap(), Some((T0, "b".into())));
}

async fn a_pending_incident_is_forgotten_and_a_firing_one_is_not(place: Place) {
    let store = place.open().await;
    let pending = Incident { state: IncidentState::Pending, fired_ms: None, ..incident(1, "/") };
    let firing = incident(2, "/");
    store.incident_save(&pending, None, vec![]).await.unwrap();
    store.incident_save(&firing, None, vec![]).await.unwrap();
    assert!(matches!(store.incident_forget(&pending.id, 9).await, Err(StoreError::Conflict)), "another revision");
    store.incident_forget(&pending.id, 1).await.unwrap();
    assert!(matches!(store.incident_forget(&firing.id, 1).await, Err(StoreError::Conflict)));
    assert_eq!(store.open_incidents().await.unwrap(), vec![firing]);
    // Its subject is free again.
    store.incident_save(&Incident { id: "d".repeat(32), ..pending }, None, vec![]).await.unwrap();
}
