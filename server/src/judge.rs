//! Judgement with its memory: shows `watch` what was seen beside the rules and the open incidents, and saves what
//! becomes of them together with what is to be told. Rules and open incidents are cached; the database decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forewarn_common::block::{EntityKind, Urgent};
use forewarn_common::id::{EntityId, HostId};
use tokio::sync::Mutex as AsyncMutex;

use crate::model::host::Host;
use crate::model::incident::{Incident, Subject};
use crate::model::rule::Rule;
use crate::outbox::Outbox;
use crate::store::{HostForecast, Store, StoreError};
use crate::watch::{self, Context, Seen};

/// Another server may have changed rules or names: they are read anew after this long.
const CACHE_MS: i64 = 10_000;
/// How often a change is judged again because somebody else changed the incident first.
const TRIES: usize = 4;

/// What people call a host and its entities.
#[derive(Debug, Default)]
struct Names {
    host: String,
    entities: HashMap<EntityId, (String, String, EntityKind)>,
}

/// One host's open incidents. Whatever concerns a host is judged one after the other.
#[derive(Default)]
struct Lane {
    open: Option<HashMap<Subject, Incident>>,
    names: Option<(i64, Arc<Names>)>,
}

/// Judges what was seen.
pub struct Judge {
    store: Store,
    outbox: Arc<Outbox>,
    rules: RwLock<Option<(i64, Arc<Vec<Rule>>)>>,
    lanes: Mutex<HashMap<HostId, Arc<AsyncMutex<Lane>>>>,
}

impl Judge {
    /// A judge over the store's rules and incidents.
    #[must_use]
    pub fn new(store: Store, outbox: Arc<Outbox>) -> Self {
        Self { store, outbox, rules: RwLock::default(), lanes: Mutex::default() }
    }

    /// The rules.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rules(&self, now_ms: i64) -> Result<Arc<Vec<Rule>>, StoreError> {
        let cached = self.rules.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at_ms, rules)) = cached
            && (0..CACHE_MS).contains(&(now_ms - at_ms))
        {
            return Ok(rules);
        }
        let rules = Arc::new(self.store.rules().await?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Arc::clone(&rules)));
        Ok(rules)
    }

    /// Reads the rules anew at the next look: one was changed.
    pub fn forget_rules(&self) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lane(&self, host: HostId) -> Arc<AsyncMutex<Lane>> {
        Arc::clone(self.lanes.lock().unwrap_or_else(PoisonError::into_inner).entry(host).or_default())
    }

    /// Judges the urgent section of a block that has just been stored. Values of a skewed clock or of an old block
    /// are history: only their keyword hits and events are looked at.
    ///
    /// # Errors
    /// The database does not answer; the block should not be acknowledged.
    pub async fn urgent(&self, host: HostId, urgent: &Urgent, fresh: bool, now_ms: i64) -> Result<(), StoreError> {
        let rules = self.rules(now_ms).await?;
        let lane = self.lane(host);
        let mut lane = lane.lock().await;
        let mut seen = Vec::new();
        if fresh {
            seen.push((None, Seen::HostBack));
            for last in &urgent.last {
                let level = Seen::Level { metric: last.metric.spec().name.to_owned(), value: last.value, at_ms: urgent.at_ms };
                seen.push((Some((last.entity, last.instance.as_str())), level));
            }
        }
        for event in &urgent.events {
            seen.push((Some((event.entity, "")), Seen::Event(event.clone())));
        }
        for hit in &urgent.hits {
            seen.push((Some((hit.entity, hit.rule.as_str())), Seen::Hit(hit.clone())));
        }
        for (place, seen) in seen {
            let (entity, instance) = place.unwrap_or((EntityId::of_host(host), ""));
            self.show(&mut lane, &rules, host, entity, instance, &seen, now_ms).await?;
        }
        Ok(())
    }
}
