//! View A: hosts, their outlooks, plots and incidents, put together from what the store keeps.

use std::collections::HashMap;
use std::sync::Arc;

use forewarn_common::block::{Entity, EntityKind, LastValue};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::Id;
use http::StatusCode;
use warp::reply::Response;

use super::reply::{Refused, json};
use super::route::Call;
use super::{App, view};
use crate::model::channel::{Channel, Delivery};
use crate::model::forecast::State;
use crate::model::host::{Host, KnownEntity};
use crate::model::incident::{Incident, IncidentKind};
use crate::model::rule::{Condition, Rule};
use crate::model::series::{SeriesInfo, SeriesKey};
use crate::store::{Firing, IncidentFilter, StoredForecast, Wanted};

const DAY_MS: i64 = 86_400_000;
/// Incidents shown on the first page and on a host's page.
const INCIDENTS_SHOWN: i64 = 100;
/// Incidents of a page of the list.
const PAGE: i64 = 50;
/// Points of a plot.
const POINTS_MAX: i64 = 2000;
/// A silent host without a rule for silence is marked after this long.
const SILENT_MS: i64 = 180_000;

/// What is known of one host, before it becomes a view.
struct Parts {
    host: Host,
    entities: Vec<Entity>,
    last: Vec<LastValue>,
    forecasts: Vec<StoredForecast>,
    firing: Firing,
}

impl Parts {
    fn own(&self) -> Option<&Entity> {
        self.entities.iter().find(|entity| entity.kind == EntityKind::Host)
    }

    fn value(&self, entity: EntityId, metric: Id) -> Option<f64> {
        self.last.iter().find(|last| last.entity == entity && last.metric == metric).map(|last| last.value)
    }

    fn name_of(&self, entity: EntityId) -> String {
        self.entities
            .iter()
            .find(|known| known.id == entity)
            .map_or_else(|| self.host.name.clone(), |known| known.name.clone())
    }

    fn outlooks(&self) -> Vec<view::Outlook> {
        let outlook = |known: &StoredForecast| view::Outlook {
            rule: known.rule.clone(),
            entity: known.key.entity,
            entity_name: self.name_of(known.key.entity),
            metric: known.key.metric.clone(),
            instance: known.key.instance.clone(),
            model: known.model.clone(),
            forecast: known.forecast.clone(),
        };
        let mut outlooks: Vec<_> = self.forecasts.iter().map(outlook).collect();
        outlooks.sort_by(|a, b| by_urgency(Some(a), Some(b)));
        outlooks
    }

    fn summary(&self, silent_after_ms: i64, now_ms: i64) -> view::HostSummary {
        let id = EntityId::of_host(self.host.id);
        let running = |entity: &&Entity| self.value(entity.id, Id::Running) == Some(1.0);
        let workloads = self.entities.iter().filter(|entity| entity.kind == EntityKind::Workload);
        let disks = self.last.iter().filter(|last| last.entity == id && last.metric == Id::FsUsedRatio);
        let fullest = disks.max_by(|a, b| a.value.total_cmp(&b.value));
        let outlook = self.outlooks().into_iter().next().filter(|outlook| urgency(outlook) >= 1.0);
        view::HostSummary {
            id: self.host.id,
            name: self.host.name.clone(),
            component: self.own().map_or_else(|| self.host.component.clone(), |own| own.component.clone()),
            seen_ms: self.host.seen_ms,
            silent: now_ms - self.host.seen_ms.max(self.host.enrolled_ms) > silent_after_ms,
            skew_ms: self.host.skew_ms,
            agent_version: self.host.agent_version.clone(),
            containers: workloads.filter(running).count() as u32,
            cpu_used_ratio: self.value(id, Id::CpuUsed),
            mem_used_ratio: self.value(id, Id::MemUsedRatio),
            disk: fullest.map(|last| view::Fullest { instance: last.instance.clone(), used_ratio: last.value }),
            outlook,
            series_asked: self.forecasts.len() as u32,
            series_judged: self.forecasts.iter().filter(|known| is_judged(known)).count() as u32,
            incidents: self.firing.all,
            alarms: self.firing.alarms,
        }
    }
}

fn is_judged(known: &StoredForecast) -> bool {
    !matches!(known.forecast.state, State::NoForecast { .. })
}

/// Breached before warnings before the rest; among equals the more probable one.
fn urgency(outlook: &view::Outlook) -> f64 {
    let rank = match outlook.forecast.state {
        State::Breached => 2.0,
        State::Warning { .. } => 1.0,
        State::Stable | State::NoForecast { .. } => 0.0,
    };
    rank + outlook.forecast.probability.clamp(0.0, 0.99)
}

/// The more urgent first; of equals the one that may cross earlier.
fn by_urgency(a: Option<&view::Outlook>, b: Option<&view::Outlook>) -> std::cmp::Ordering {
    let rank = |outlook: Option<&view::Outlook>| outlook.map_or(-1.0, urgency);
    let earliest_ms = |outlook: Option<&view::Outlook>| {
        outlook.and_then(|outlook| match outlook.forecast.state {
            State::Warning { earliest_ms, .. } => Some(earliest_ms),
            _ => outlook.forecast.likely_ms,
        })
    };
    let (first, second) = (earliest_ms(a).unwrap_or(i64::MAX), earliest_ms(b).unwrap_or(i64::MAX));
    rank(b).total_cmp(&rank(a)).then(first.cmp(&second))
}

fn silent_after_ms(rules: &[Rule]) -> i64 {
    let after = rules.iter().find_map(|rule| match rule.condition {
        Condition::HostSilent { after_ms } => Some(after_ms),
        _ => None,
    });
    after.unwrap_or(SILENT_MS)
}

pub(super) async fn overview(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let rules = app.store.rules().await?;
    let channels = app.outbox.channels(clock::wall_ms()).await?;
    let filter = IncidentFilter { open_only: true, fired_only: true, ..IncidentFilter::default() };
    let (mut open, _) = app.store.incidents(filter, None, INCIDENTS_SHOWN).await?;
    open.sort_by_key(|incident| incident.kind != IncidentKind::Alarm);
    let firing = app.store.firing_counts().await?;
    let mut entities: HashMap<HostId, Vec<Entity>> = HashMap::new();
    for known in app.store.entities(None).await? {
        entities.entry(known.host).or_default().push(known.entity);
    }
    let mut last: HashMap<HostId, Vec<LastValue>> =
        app.store.latest_all().await?.into_iter().map(|latest| (latest.host, latest.values)).collect();
    let mut forecasts: HashMap<HostId, Vec<StoredForecast>> = HashMap::new();
    for known in app.store.forecasts_all().await? {
        forecasts.entry(known.key.host).or_default().push(known);
    }
    let silent_after = silent_after_ms(&rules);
    let summarise = |host: Host| {
        let parts = Parts {
            entities: entities.remove(&host.id).unwrap_or_default(),
            last: last.remove(&host.id).unwrap_or_default(),
            forecasts: forecasts.remove(&host.id).unwrap_or_default(),
            firing: firing.get(&host.id).copied().unwrap_or_default(),
            host,
        };
        parts.summary(silent_after, call.now_ms)
    };
    let mut hosts: Vec<_> = app.store.hosts().await?.into_iter().map(summarise).collect();
    hosts.sort_by_cached_key(|host| counted(&host.name));
    hosts.sort_by(|a, b| {
        let worse = trouble(b).cmp(&trouble(a));
        worse.then_with(|| by_urgency(a.outlook.as_ref(), b.outlook.as_ref()))
    });
    let sending = rules.iter().any(|rule| rule.enabled && rule.send) && channels.iter().any(|channel| channel.send);
    let incidents = incident_views(&app, open).await?;
    Ok(json(StatusCode::OK, &view::Overview { now_ms: call.now_ms, hosts, incidents, sending }))
}

/// How bad a host is: what has happened comes before what is expected.
fn trouble(host: &view::HostSummary) -> u8 {
    let is_breached = host.outlook.as_ref().is_some_and(|outlook| outlook.forecast.state == State::Breached);
    match host.silent || host.alarms > 0 || is_breached {
        true => 2,
        false => u8::from(host.outlook.is_some() || host.incidents > 0),
    }
}

/// A name as people order it: `node-2` comes before `node-10`.
fn counted(name: &str) -> String {
    const DIGITS: usize = 20;
    let mut key = String::with_capacity(name.len() + DIGITS);
    for run in name.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = run.trim_end_matches(|c: char| !c.is_ascii_digit());
        if !digits.is_empty() {
            key.extend(std::iter::repeat_n('0', DIGITS.saturating_sub(digits.len())));
        }
        key.push_str(run);
    }
    key
}

fn firing_of(incidents: &[Incident]) -> Firing {
    let open = || incidents.iter().filter(|incident| incident.resolved_ms.is_none());
    let alarms = open().filter(|incident| incident.kind == IncidentKind::Alarm);
    Firing { all: open().count() as u32, alarms: alarms.count() as u32 }
}

fn host_of(call: &Call) -> Result<HostId, Refused> {
    call.param(0).parse().map_err(|_| Refused::not_found("host"))
}

pub(super) async fn host(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let id = host_of(&call)?;
    let host = app.store.host(id).await?.ok_or_else(|| Refused::not_found("host"))?;
    let known = app.store.entities(Some(id)).await?;
    let filter = IncidentFilter {
        host: Some(id),
        open_only: false,
        fired_only: true,
        resolved_from_ms: Some(call.now_ms - DAY_MS),
    };
    let (incidents, _) = app.store.incidents(filter, None, INCIDENTS_SHOWN).await?;
    let enrolled_ms = host.enrolled_ms;
    let parts = Parts {
        entities: known.iter().map(|known| known.entity.clone()).collect(),
        last: app.store.latest(id).await?.map(|latest| latest.values).unwrap_or_default(),
        forecasts: app.store.forecasts(id).await?,
        firing: firing_of(&incidents),
        host,
    };
    let mut workloads: Vec<_> = known
        .iter()
        .filter(|known| known.entity.kind == EntityKind::Workload)
        .map(|known| workload(known, &parts))
        .collect();
    workloads.sort_by_cached_key(|workload| (workload.running != Some(true), counted(&workload.name)));
    let mut series: Vec<_> = app
        .store
        .series(id, call.now_ms - DAY_MS)
        .await?
        .into_iter()
        .map(|info| series_view(info, &parts.entities, &parts.host))
        .collect();
    series.sort_by_cached_key(|series| {
        (
            series.entity_kind == EntityKind::Workload,
            series.entity_name.clone(),
            series.metric.clone(),
            series.instance.clone(),
        )
    });
    let detail = view::HostDetail {
        summary: parts.summary(silent_after_ms(&app.store.rules().await?), call.now_ms),
        enrolled_ms,
        attributes: parts.own().map(attributes).unwrap_or_default(),
        workloads,
        outlooks: parts.outlooks(),
        series,
        incidents: incident_views(&app, incidents).await?,
    };
    Ok(json(StatusCode::OK, &detail))
}

fn attributes(entity: &Entity) -> Vec<view::Attribute> {
    entity.attributes.iter().map(|(key, value)| view::Attribute { key: key.clone(), value: value.clone() }).collect()
}

fn workload(known: &KnownEntity, parts: &Parts) -> view::Workload {
    let entity = &known.entity;
    view::Workload {
        entity: entity.id,
        name: entity.name.clone(),
        component: entity.component.clone(),
        attributes: attributes(entity),
        running: parts.value(entity.id, Id::Running).map(|running| running > 0.0),
        cpu_used_ratio: parts.value(entity.id, Id::CpuUsed),
        mem_used_ratio: parts.value(entity.id, Id::MemUsedRatio),
        updated_ms: known.updated_ms,
    }
}

fn series_view(info: SeriesInfo, entities: &[Entity], host: &Host) -> view::SeriesView {
    let entity = entities.iter().find(|entity| entity.id == info.key.entity);
    view::SeriesView {
        entity: info.key.entity,
        entity_kind: entity.map_or(EntityKind::Host, |entity| entity.kind),
        entity_name: entity.map_or_else(|| host.name.clone(), |entity| entity.name.clone()),
        metric: info.key.metric,
        instance: info.key.instance,
        kind: info.kind,
        unit: info.unit,
    }
}

/// The step of a plot: whole seconds, so that neighbouring requests cut the same buckets; whole steps of a coarser
/// tier where that is fine enough, or where the span reaches back beyond full resolution.
fn plot_step_ms(least_ms: i64, beyond_full: bool) -> i64 {
    let up = |step_ms: i64| (least_ms.max(1) + step_ms - 1) / step_ms * step_ms;
    match least_ms {
        3_600_000.. => up(3_600_000),
        300_000.. => up(300_000),
        _ if beyond_full => 300_000,
        _ => up(1000),
    }
}

pub(super) async fn plot(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let id = host_of(&call)?;
    let entity: EntityId = call.text("entity").parse().map_err(|_| Refused::not_found("entity"))?;
    let key = SeriesKey {
        host: id,
        entity,
        metric: call.text("metric").to_owned(),
        instance: call.text("instance").to_owned(),
    };
    let to_ms = call.number("to_ms")?.unwrap_or(call.now_ms);
    let from_ms = call.number("from_ms")?.unwrap_or(to_ms - 6 * 3_600_000);
    if from_ms >= to_ms || to_ms - from_ms > 3660 * DAY_MS {
        return Err(Refused::bad_request("from_ms must be before to_ms, and the span at most ten years"));
    }
    let wanted = call.number("points")?.unwrap_or(300).clamp(10, POINTS_MAX);
    let step_ms = plot_step_ms(
        (to_ms - from_ms) / wanted,
        from_ms < call.now_ms - i64::from(app.settings.store.full_days) * DAY_MS,
    );
    let info = app.store.series(id, from_ms).await?.into_iter().find(|info| info.key == key);
    let info = info.ok_or_else(|| Refused::not_found("series"))?;
    let entities: Vec<Entity> = app.store.entities(Some(id)).await?.into_iter().map(|known| known.entity).collect();
    let host = app.store.host(id).await?.ok_or_else(|| Refused::not_found("host"))?;
    let wanted = Wanted::Series(vec![key.clone()]);
    // A bucket has the name of its end: the one that ends at `from_ms` begins a step before.
    let first_ms = (from_ms.div_euclid(step_ms) - 1) * step_ms;
    let read = app.store.read(id, wanted, first_ms, to_ms, step_ms).await?;
    let points =
        read.series.into_iter().find(|points| points.info.key == key).map(|points| points.points).unwrap_or_default();
    let series = series_view(info, &entities, &host);
    let kind = series.entity_kind;
    let rule = app.store.rules().await?.into_iter().find_map(|rule| match rule.condition {
        Condition::Threshold { ref metric, entity_kind, threshold, .. }
            if *metric == key.metric && entity_kind == kind =>
        {
            Some((rule.id, threshold))
        }
        _ => None,
    });
    let forecast =
        app.store.forecasts(id).await?.into_iter().find(|known| known.key == key).map(|known| known.forecast);
    let band = forecast.as_ref().map(|forecast| forecast.band.clone()).unwrap_or_default();
    let (rule, threshold) = rule.unzip();
    Ok(json(StatusCode::OK, &view::Plot { series, step_ms, points, threshold, rule, forecast, band }))
}

pub(super) fn delivery_view(delivery: Delivery, channel_name: &str) -> view::Delivery {
    let Delivery { id, channel, transition, state, attempts, created_ms, done_ms, answer, .. } = delivery;
    let channel_name = channel_name.to_owned();
    view::Delivery { id, channel, channel_name, transition, state, attempts, created_ms, done_ms, answer }
}

async fn incident_views(app: &App, incidents: Vec<Incident>) -> Result<Vec<view::Incident>, Refused> {
    let ids: Vec<String> = incidents.iter().map(|incident| incident.id.clone()).collect();
    let channels = app.outbox.channels(clock::wall_ms()).await?;
    let mut deliveries: HashMap<String, Vec<view::Delivery>> = HashMap::new();
    for delivery in app.store.deliveries_of(&ids).await? {
        let incident = delivery.incident.clone();
        let named = delivery_view_named(delivery, &channels);
        deliveries.entry(incident).or_default().push(named);
    }
    let view = |incident: Incident| view::Incident {
        deliveries: deliveries.remove(&incident.id).unwrap_or_default(),
        id: incident.id,
        rule: incident.subject.rule,
        host: incident.subject.host,
        entity: incident.subject.entity,
        instance: incident.subject.instance,
        kind: incident.kind,
        state: incident.state,
        severity: incident.severity,
        opened_ms: incident.opened_ms,
        fired_ms: incident.fired_ms,
        resolved_ms: incident.resolved_ms,
        updated_ms: incident.updated_ms,
        evidence: incident.evidence,
    };
    Ok(incidents.into_iter().map(view).collect())
}

fn delivery_view_named(delivery: Delivery, channels: &[Channel]) -> view::Delivery {
    let name = channels.iter().find(|channel| channel.id == delivery.channel).map(|channel| channel.name.clone());
    delivery_view(delivery, &name.unwrap_or_default())
}

pub(super) async fn incidents(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let open_only = match call.text("state") {
        "" | "all" => false,
        "open" => true,
        _ => return Err(Refused::bad_request("state must be open or all")),
    };
    let host = match call.text("host") {
        "" => None,
        text => Some(text.parse().map_err(|_| Refused::bad_request("host must be a host's id"))?),
    };
    let cursor = Some(call.text("cursor")).filter(|cursor| !cursor.is_empty());
    let filter = IncidentFilter { host, open_only, fired_only: true, resolved_from_ms: None };
    let (page, next) = app.store.incidents(filter, cursor, PAGE).await?;
    Ok(json(StatusCode::OK, &view::IncidentPage { incidents: incident_views(&app, page).await?, next }))
}

pub(super) async fn incident(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let incident = app.store.incident(call.param(0)).await?.ok_or_else(|| Refused::not_found("incident"))?;
    let view = incident_views(&app, vec![incident]).await?.into_iter().next();
    Ok(json(StatusCode::OK, &view.ok_or_else(|| Refused::not_found("incident"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names = ["node-10", "node-2", "node-2b", "node-1", "9", "10", "", "机房3", "机房12"];
        names.sort_by_cached_key(|name| counted(name));
        assert_eq!(names, ["", "9", "10", "node-1", "node-2", "node-2b", "node-10", "机房3", "机房12"]);
    }
}
