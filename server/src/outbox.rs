//! The outbox: the channels, what is due to them, and what came of it. Secrets are sealed on their way into the
//! database and opened on their way out.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::model::channel::{Channel, Delivery, DeliveryState};
use crate::model::incident::{Incident, Transition};
use crate::notify::Notifier;
use crate::seal::SiteKey;
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
    key: SiteKey,
    notifier: Notifier,
    owner: String,
    channels: RwLock<Option<(i64, Arc<Vec<Channel>>)>>,
}
