//! Which settings a series is judged by: those of the model that was adopted for it, else the
//! site's. One look-up for the live rounds and for whoever wants to show it; no judgement.

use std::collections::HashMap;

use crate::forecast::train::{TRAINED_VERSION, TrainedModel};
use crate::forecast::{Model, WINDOW_BUCKETS_MAX};
use crate::model::series::SeriesKey;
use crate::model::trained::{Adoption, StoredModel, adoption_of};
use crate::settings::Judge;
use crate::store::{Store, StoreError};

/// The adoptions of the site with the settings that they stand for.
#[derive(Debug, Default)]
pub struct Adopted {
    adoptions: Vec<Adoption>,
    settings: HashMap<String, Model>,
}

/// A stored model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("model {id} cannot be used ({why}); the default holds until it is trained again")]
pub struct Unusable {
    id: String,
    why: String,
}

/// The settings of a series for which nothing was adopted: the default on the site's grid.
#[must_use]
pub fn site_model(judge: &Judge) -> Model {
    let window_buckets = (judge.history_ms / judge.grid_ms.max(1)).clamp(48, WINDOW_BUCKETS_MAX as i64) as usize;
    Model { step_ms: judge.grid_ms, close_after_ms: judge.close_after_ms, window_buckets, ..Model::default() }
}

/// Reads a stored model; one of another version or with settings out of range is refused, not guessed at.
///
/// # Errors
/// It cannot be used, and why.
pub fn open(stored: &StoredModel) -> Result<TrainedModel, Unusable> {
    let unusable = |why: String| Unusable { id: stored.id.clone(), why };
    let trained: TrainedModel = serde_json::from_str(&stored.body).map_err(|error| unusable(error.to_string()))?;
    if trained.version != TRAINED_VERSION {
        return Err(unusable(format!("version {} is not known here", trained.version)));
    }
    trained.settings.check().map_err(|error| unusable(error.to_string()))?;
    Ok(trained)
}

impl Adopted {
    /// Reads what holds now. A model that cannot be used is said so in the log, and the default holds.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let adoptions = store.adoptions().await?;
        let mut settings = HashMap::new();
        for adoption in &adoptions {
            if settings.contains_key(&adoption.model) {
                continue;
            }
            let Some(stored) = store.model(&adoption.model).await? else { continue };
            match open(&stored) {
                Ok(trained) => {
                    settings.insert(stored.id, trained.settings);
                }
                Err(error) => tracing::warn!(%error, "an adopted model was passed over"),
            }
        }
        Ok(Self { adoptions, settings })
    }

    /// The model that was adopted for a series of a rule on a host with this component label, if it can be used.
    #[must_use]
    pub fn model_id(&self, rule: &str, key: &SeriesKey, component: &str) -> Option<&str> {
        let found = adoption_of(&self.adoptions, rule, key, component)?;
        self.settings.contains_key(&found.model).then_some(found.model.as_str())
    }

    /// The settings for a series of a rule on a host with this component label. Bucket length, closing time, memory
    /// and band are the site's: a state that is carried fits every model.
    #[must_use]
    pub fn model(&self, rule: &str, key: &SeriesKey, component: &str, site: &Model) -> Model {
        let adopted =
            adoption_of(&self.adoptions, rule, key, component).and_then(|found| self.settings.get(&found.model));
        adopted.map_or_else(
            || site.clone(),
            |model| Model {
                step_ms: site.step_ms,
                close_after_ms: site.close_after_ms,
                window_buckets: site.window_buckets,
                band_points: site.band_points,
                ..model.clone()
            },
        )
    }
}
