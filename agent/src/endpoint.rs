//! Which endpoints are scraped: those that the host's own settings name, as workloads of their own, and containers that
//! ask for it by a label, where the settings allow it. Nothing of it comes from a server.

use forewarn_common::block::{Entity, EntityKind};
use forewarn_common::id::{EntityId, HostId};

use crate::scrape::{self, Choice, Target};
use crate::settings::{self, ScrapeTarget};
use crate::workload::Workloads;

/// All endpoints there are now, and in words what was asked for and cannot be.
pub(crate) fn targets(settings: &settings::Scrape, host: HostId, workloads: &Workloads) -> (Vec<Target>, Vec<String>) {
    let named = settings.targets.iter().map(|target| Target {
        id: target.name.clone(),
        entity: entity_id(host, target),
        url: target.url.clone(),
        interval_ms: interval_ms(target.interval_ms.unwrap_or(settings.interval_ms)),
        series_max: target.series_max.unwrap_or(settings.series_max),
        choice: Choice { include: target.include.clone(), exclude: target.exclude.clone() },
    });
    let (mut targets, mut refused) = (named.collect::<Vec<_>>(), Vec::new());
    if !settings.labels {
        return (targets, refused);
    }
    for (entity, instance) in workloads.running() {
        let Some(label) = instance.label(scrape::LABEL) else { continue };
        let url = match instance.address {
            Some(address) => scrape::url_of_label(label, address),
            None => Err("it has no address on a network".to_owned()),
        };
        match url {
            Ok(url) => targets.push(Target {
                id: format!("container {}", instance.name),
                entity,
                url,
                interval_ms: interval_ms(settings.interval_ms),
                series_max: settings.series_max,
                choice: Choice::default(),
            }),
            Err(why) => refused.push(format!("container {} asks to be scraped: {why}", instance.name)),
        }
    }
    (targets, refused)
}

/// What the dictionary says of the endpoints that the settings name.
pub(crate) fn entities(settings: &settings::Scrape, host: HostId) -> impl Iterator<Item = Entity> {
    settings.targets.iter().map(move |target| Entity {
        id: entity_id(host, target),
        kind: EntityKind::Workload,
        name: target.name.clone(),
        component: target.component.clone(),
        attributes: vec![("endpoint".to_owned(), target.url.clone())],
    })
}

fn entity_id(host: HostId, target: &ScrapeTarget) -> EntityId {
    EntityId::of(host, &format!("scrape:{}", target.name))
}

fn interval_ms(asked_ms: u64) -> i64 {
    i64::try_from(asked_ms).unwrap_or(i64::MAX)
}
