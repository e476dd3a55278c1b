//! The outbox: the channels, what is due to them, and what came of it. Secrets are sealed on their way into the
//! database and opened on their way out.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::model::channel::{Channel, Delivery, DeliveryState};
use crate::model::incident::{Incident, Transition};
use crate::notify::{Letter, Notice, Notifier, Site};
use crate::seal::Seal;
use crate::store::{SealedChannel, Store, StoreError};

/// Another server may have changed the channels: they are read anew after this long.
const CACHE_MS: i64 = 5_000;
/// A delivery that was claimed and not finished is claimed again after this long.
const LEASE_MS: i64 = 120_000;
/// Deliveries claimed at once.
const CLAIM_MAX: i64 = 200;
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
    site: Site,
    owner: String,
    channels: RwLock<Option<(i64, Arc<Vec<Channel>>)>>,
}

impl Outbox {
    /// The outbox of this server process; `owner` names the process among the servers of the site.
    #[must_use]
    pub fn new(store: Store, key: Seal, notifier: Notifier, site: Site, owner: String) -> Self {
        Self { store, key, notifier, site, owner, channels: RwLock::default() }
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

    /// What a transition of an incident makes due: one delivery a channel. Whether it is switched off is looked at
    /// when it is sent.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deliveries(
        &self,
        incident: &Incident,
        transition: Transition,
        now_ms: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let delivery = |channel: &Channel| Delivery {
            id: format!("{}-{}-{}", incident.id, transition.word(), channel.id),
            incident: incident.id.clone(),
            channel: channel.id.clone(),
            transition,
            state: DeliveryState::Queued,
            attempts: 0,
            due_ms: now_ms,
            created_ms: now_ms,
            done_ms: None,
            answer: String::new(),
        };
        Ok(self.channels(now_ms).await?.iter().map(delivery).collect())
    }

    /// Sends a test message now; true and the receiver's answer when it said that it has it.
    pub async fn test(&self, channel: &Channel, now_ms: i64) -> (bool, String) {
        self.notifier.send_notice(channel, Notice::Test, &self.site, now_ms).await
    }

    /// Claims what is due, sends it channel by channel at once, and writes what came of it.
    ///
    /// # Errors
    /// The database does not answer; what was sent and not written is claimed again when its lease has run out.
    pub async fn send_due(&self, now_ms: i64) -> Result<(), StoreError> {
        let claimed = self.store.deliveries_claim(now_ms, LEASE_MS, &self.owner, CLAIM_MAX).await?;
        if claimed.is_empty() {
            return Ok(());
        }
        let rules = self.store.rules().await?;
        let channels = self.channels(now_ms).await?;
        let mut incidents: Vec<String> = claimed.iter().map(|(_, incident)| incident.id.clone()).collect();
        incidents.sort_unstable();
        incidents.dedup();
        let all = self.store.deliveries_of(&incidents).await?;
        let mut letters: HashMap<String, Vec<Letter>> = HashMap::new();
        let mut outcomes = Vec::new();
        for (delivery, incident) in claimed {
            let rule = rules.iter().find(|rule| rule.id == incident.subject.rule);
            let known = channels.iter().any(|channel| channel.id == delivery.channel);
            let (Some(rule), true) = (rule, known) else {
                let answer = "the channel or the rule is no longer there".to_owned();
                outcomes.push(Delivery { state: DeliveryState::Failed, done_ms: Some(now_ms), answer, ..delivery });
                continue;
            };
            let sibling = |other: &&Delivery| other.incident == incident.id && other.id != delivery.id;
            let siblings = all.iter().filter(sibling).cloned().collect();
            let own = letters.entry(delivery.channel.clone()).or_default();
            own.push(Letter { delivery, incident, rule: rule.clone(), siblings });
        }
        let send = |channel: &Channel| {
            let letters = letters.remove(&channel.id).unwrap_or_default();
            let channel = channel.clone();
            async move { self.notifier.deliver(&channel, letters, &self.site, now_ms).await }
        };
        // One slow robot does not hold up the others.
        let sent = futures_util::future::join_all(channels.iter().map(send)).await;
        for outcome in outcomes.into_iter().chain(sent.into_iter().flatten()) {
            if outcome.state == DeliveryState::Failed {
                tracing::warn!(delivery = %outcome.id, answer = %outcome.answer, "a message was given up");
            }
            if !self.store.delivery_finish(&self.owner, &outcome).await? {
                tracing::warn!(delivery = %outcome.id, "a delivery's lease ran out before its outcome was written");
            }
        }
        Ok(())
    }
}
