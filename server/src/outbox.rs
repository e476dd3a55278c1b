//! The outbox: the channels, what is due to them, and what came of it. Secrets are sealed on their way into the
//! database and opened on their way out.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::model::channel::{Channel, Delivery, DeliveryState};
use crate::model::incident::{Incident, Transition};
use crate::model::rule::Rule;
use crate::notify::Notifier;
use crate::seal::Seal;
use crate::store::{SealedChannel, Store, StoreError};

/// Another server may have changed the channels: they are read anew after this long.
const CACHE_MS: i64 = 5_000;
/// A delivery that was claimed and not finished is claimed again after this long.
const LEASE_MS: i64 = 120_000;
/// Deliveries claimed at once.
const CLAIM_MAX: usize = 200;
/// What the secrets of channels are sealed for.
const PURPOSE: &str = "channel";

/// What is sealed of a channel.
#[derive(Serialize, Deserialize)]
struct Secrets {
    url: String,
    secret: String,
}

/// Channels and what is due to them.
pub struct Outbox {
    store: Store,
    key: Seal,
    notifier: Notifier,
    owner: String,
    channels: RwLock<Option<(i64, Arc<Vec<Channel>>)>>,
}

impl Outbox {
    /// The outbox of this server process.
    #[must_use]
    pub fn new(store: Store, key: Seal, notifier: Notifier, owner: String) -> Self {
        Self { store, key, notifier, owner, channels: RwLock::default() }
    }

    /// The channels, their secrets opened.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn channels(&self, now_ms: i64) -> Result<Arc<Vec<Channel>>, StoreError> {
        let cached = self.channels.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at_ms, channels)) = cached
            && (0..CACHE_MS).contains(&(now_ms - at_ms))
        {
            return Ok(channels);
        }
        let opened = self.store.channels().await?.into_iter().filter_map(|sealed| self.open(sealed)).collect();
        let channels = Arc::new(opened);
        *self.channels.write().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Arc::clone(&channels)));
        Ok(channels)
    }

    /// A channel whose secrets were sealed with another key is said and left out: the others go on.
    fn open(&self, sealed: SealedChannel) -> Option<Channel> {
        let opened = self.key.open(PURPOSE, &sealed.sealed).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(Secrets { url, secret }) = opened else {
            tracing::error!(channel = %sealed.name, "a channel cannot be opened with this site.key; remove it and add it again");
            return None;
        };
        let SealedChannel { id, name, kind, language, severity_min, send, .. } = sealed;
        Some(Channel { id, name, kind, url, secret, language, severity_min, send })
    }

    /// Adds or changes a channel.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn save(&self, channel: &Channel) -> Result<(), StoreError> {
        let secrets = Secrets { url: channel.url.clone(), secret: channel.secret.clone() };
        let plain = serde_json::to_vec(&secrets).map_err(|error| StoreError::Refused(error.to_string()))?;
        let sealed = self.key.seal(PURPOSE, &plain).map_err(|error| StoreError::Refused(error.to_string()))?;
        let Channel { id, name, kind, language, severity_min, send, .. } = channel.clone();
        self.store.channel_save(&SealedChannel { id, name, kind, language, severity_min, send, sealed }).await?;
        self.forget();
        Ok(())
    }

    /// Removes a channel; what is still due to it is given up.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn remove(&self, id: &str) -> Result<(), StoreError> {
        self.store.channel_delete(id).await?;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        *self.channels.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a transition of an incident makes due: one delivery a channel that wants its severity. What is switched
    /// off is kept as muted, so that the console can say why nobody was told.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deliveries(
        &self,
        rule: &Rule,
        incident: &Incident,
        transition: Transition,
        now_ms: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let channels = self.channels(now_ms).await?;
        let wants = |channel: &&Channel| incident.severity >= channel.severity_min;
        let delivery = |channel: &Channel| {
            let muted = !rule.send || !channel.send;
            Delivery {
                id: format!("{}-{}-{}", incident.id, transition.word(), channel.id),
                incident: incident.id.clone(),
                channel: channel.id.clone(),
                transition,
                state: if muted { DeliveryState::Muted } else { DeliveryState::Queued },
                attempts: 0,
                due_ms: now_ms,
                created_ms: now_ms,
                done_ms: muted.then_some(now_ms),
                answer: String::new(),
            }
        };
        Ok(channels.iter().filter(wants).map(delivery).collect())
    }

    pub async fn test(&self, _c: &Channel, _n: i64) -> (bool, String) { (false, String::new()) }
    pub async fn send_due(&self, _n: i64) -> Result<(), StoreError> { Ok(()) }
}
