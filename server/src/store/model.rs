//! Trained models and where they are used.

use diesel::prelude::*;

use super::connection::{Conn, Tx};
use super::schema::{adoption, trained};
use super::{Store, StoreError, from_json, to_json};
use crate::model::trained::{Adoption, StoredModel};

/// Models of a site.
pub const MODELS_MAX: i64 = 1000;
/// Adoptions of a site.
pub const ADOPTIONS_MAX: i64 = 1000;

type TrainedRow = (String, String, String, i64, String);
type AdoptionRow = (String, String, String, String, i64);

fn model((id, name, rule, created_ms, body): TrainedRow) -> StoredModel {
    StoredModel { id, name, rule, created_ms, body }
}

impl Store {
    /// Keeps a trained model.
    ///
    /// # Errors
    /// The database does not answer, there are [`MODELS_MAX`] already, or one has this id.
    pub async fn model_add(&self, new: &StoredModel) -> Result<(), StoreError> {
        let new = new.clone();
        self.inner
            .pool
            .write(move |connection| {
                if trained::table.count().get_result::<i64>(connection)? >= MODELS_MAX {
                    return Err(
                        StoreError::Refused(format!("there are {MODELS_MAX} models already; remove one")).into()
                    );
                }
                diesel::insert_into(trained::table)
                    .values((
                        trained::id.eq(new.id.as_str()),
                        trained::name.eq(new.name.as_str()),
                        trained::rule.eq(new.rule.as_str()),
                        trained::created_ms.eq(new.created_ms),
                        trained::body.eq(new.body.as_str()),
                    ))
                    .execute(connection)?;
                Ok(())
            })
            .await
    }

    /// All models, the newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn models(&self) -> Result<Vec<StoredModel>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<TrainedRow>> {
            Ok(trained::table.order((trained::created_ms.desc(), trained::id)).load(connection)?)
        };
        Ok(self.inner.pool.read(load).await?.into_iter().map(model).collect())
    }

    /// One model.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn model(&self, id: &str) -> Result<Option<StoredModel>, StoreError> {
        let id = id.to_owned();
        let load = move |connection: &mut Conn| -> Tx<Option<TrainedRow>> {
            Ok(trained::table.find(id.as_str()).first(connection).optional()?)
        };
        Ok(self.inner.pool.read(load).await?.map(model))
    }

    /// Removes a model that nothing uses; false when there is none, or it is used.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn model_delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.inner
            .pool
            .write(move |connection| {
                let used = adoption::table.filter(adoption::model.eq(id.as_str())).count();
                if used.get_result::<i64>(connection)? > 0 {
                    return Ok(false);
                }
                Ok(diesel::delete(trained::table.find(id.as_str())).execute(connection)? == 1)
            })
            .await
    }

    /// Lets series be judged by a model from now on; one that stood for the same series of the rule ends.
    /// False when there is no such model.
    ///
    /// # Errors
    /// The database does not answer, or there are [`ADOPTIONS_MAX`] already.
    pub async fn adopt(&self, new: &Adoption) -> Result<bool, StoreError> {
        let (new, selection) = (new.clone(), to_json(&new.selection)?);
        self.inner
            .pool
            .write(move |connection| {
                let known = trained::table.find(new.model.as_str()).count();
                if known.get_result::<i64>(connection)? == 0 {
                    return Ok(false);
                }
                let same = adoption::table
                    .filter(adoption::rule.eq(new.rule.as_str()).and(adoption::selection.eq(&selection)));
                diesel::delete(same).execute(connection)?;
                if adoption::table.count().get_result::<i64>(connection)? >= ADOPTIONS_MAX {
                    let said = format!("there are {ADOPTIONS_MAX} adoptions already; end one");
                    return Err(StoreError::Refused(said).into());
                }
                diesel::insert_into(adoption::table)
                    .values((
                        adoption::id.eq(new.id.as_str()),
                        adoption::model.eq(new.model.as_str()),
                        adoption::rule.eq(new.rule.as_str()),
                        adoption::selection.eq(selection.as_str()),
                        adoption::adopted_ms.eq(new.adopted_ms),
                    ))
                    .execute(connection)?;
                Ok(true)
            })
            .await
    }

    /// All adoptions, the newest first.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn adoptions(&self) -> Result<Vec<Adoption>, StoreError> {
        let load = |connection: &mut Conn| -> Tx<Vec<AdoptionRow>> {
            Ok(adoption::table.order((adoption::adopted_ms.desc(), adoption::id)).load(connection)?)
        };
        let rows = self.inner.pool.read(load).await?.into_iter();
        rows.map(|(id, model, rule, selection, adopted_ms)| {
            let selection = from_json("selection of an adoption", &selection)?;
            Ok(Adoption { id, model, rule, selection, adopted_ms })
        })
        .collect()
    }

    /// Ends an adoption: its series go back to what holds without it. False when there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn adoption_end(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.inner
            .pool
            .write(move |connection| Ok(diesel::delete(adoption::table.find(id.as_str())).execute(connection)? == 1))
            .await
    }
}
