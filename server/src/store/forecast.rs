//! The last forecasts of each host, and what their makers keep between rounds: one row a host, replaced as a whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use diesel::prelude::*;
use forewarn_common::id::{EntityId, HostId};
use serde::{Deserialize, Serialize};

use super::connection::{Conn, Tx};
use super::schema::{forecast, forecast_state};
use super::{Store, StoreError, from_json, host_id, to_json};
use crate::model::forecast::{BandPoint, Forecast};
use crate::model::series::SeriesKey;

/// A forecast, and what it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredForecast {
    /// The series.
    pub key: SeriesKey,
    /// The id of the rule whose threshold was asked about.
    pub rule: String,
    /// The id of the trained model that it was judged by; none by the site's settings.
    pub model: Option<String>,
    /// The answer.
    pub forecast: Forecast,
}

#[derive(Serialize, Deserialize)]
struct ForecastRow {
    entity: EntityId,
    metric: String,
    instance: String,
    rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The band, packed; rows of older releases have it within the forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    course: Option<String>,
    forecast: Forecast,
}

/// Bytes of a packed point: milliseconds after the moment of judgement, then three levels.
const POINT_BYTES: usize = 16;

/// A band as text is most of an answer, and read and written at each turn. It is only drawn: seven digits will do.
fn pack(forecast: &mut Forecast) -> Option<String> {
    let mut bytes = Vec::with_capacity(forecast.band.len() * POINT_BYTES);
    for point in &forecast.band {
        bytes.extend_from_slice(&u32::try_from(point.t_ms - forecast.at_ms).ok()?.to_le_bytes());
        for level in [point.low, point.mid, point.high] {
            bytes.extend_from_slice(&(level as f32).to_le_bytes());
        }
    }
    forecast.band.clear();
    (!bytes.is_empty()).then(|| STANDARD_NO_PAD.encode(bytes))
}

fn unpack(course: &str, at_ms: i64) -> Result<Vec<BandPoint>, StoreError> {
    let bytes = STANDARD_NO_PAD.decode(course).map_err(|error| StoreError::Corrupt(format!("band: {error}")))?;
    let points = bytes.chunks_exact(POINT_BYTES).map(|point| {
        let word = |i: usize| [point[4 * i], point[4 * i + 1], point[4 * i + 2], point[4 * i + 3]];
        let level = |i: usize| f64::from(f32::from_le_bytes(word(i)));
        let t_ms = at_ms + i64::from(u32::from_le_bytes(word(0)));
        BandPoint { t_ms, low: level(1), mid: level(2), high: level(3) }
    });
    Ok(points.collect())
}

impl Store {
    /// Replaces the forecasts of a host.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forecasts_put(
        &self,
        host: HostId,
        at_ms: i64,
        forecasts: Vec<StoredForecast>,
    ) -> Result<(), StoreError> {
        let rows: Vec<ForecastRow> = forecasts
            .into_iter()
            .map(|mut stored| ForecastRow {
                course: pack(&mut stored.forecast),
                entity: stored.key.entity,
                metric: stored.key.metric,
                instance: stored.key.instance,
                rule: stored.rule,
                model: stored.model,
                forecast: stored.forecast,
            })
            .collect();
        let body = to_json(&rows)?;
        self.inner
            .pool
            .write(move |connection| {
                let values = (forecast::at_ms.eq(at_ms), forecast::body.eq(body.as_str()));
                let row = forecast::table.find(host.0.as_slice());
                if diesel::update(row).set(values).execute(connection)? == 0 {
                    diesel::insert_into(forecast::table)
                        .values((forecast::host.eq(host.0.as_slice()), values))
                        .execute(connection)?;
                }
                Ok(())
            })
            .await
    }

    /// Replaces what is kept of a host's forecasts between rounds; only who wrote it knows what it says.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forecast_state_put(&self, host: HostId, at_ms: i64, body: String) -> Result<(), StoreError> {
        self.inner
            .pool
            .write(move |connection| {
                let values = (forecast_state::at_ms.eq(at_ms), forecast_state::body.eq(body.as_str()));
                let row = forecast_state::table.find(host.0.as_slice());
                if diesel::update(row).set(values).execute(connection)? == 0 {
                    // Written again with the same bytes a row counts as unchanged on MySQL.
                    let known: i64 = row.count().get_result(connection)?;
                    if known == 0 {
                        diesel::insert_into(forecast_state::table)
                            .values((forecast_state::host.eq(host.0.as_slice()), values))
                            .execute(connection)?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// What is kept of a host's forecasts between rounds, and when it was written.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forecast_state(&self, host: HostId) -> Result<Option<(i64, String)>, StoreError> {
        self.inner
            .pool
            .read(move |connection| {
                let row = forecast_state::table.find(host.0.as_slice());
                Ok(row.select((forecast_state::at_ms, forecast_state::body)).first(connection).optional()?)
            })
            .await
    }

    /// The forecasts of every host.
    ///
    /// # Errors
    /// The database does not answer, or a row is damaged.
    pub async fn forecasts_all(&self) -> Result<Vec<StoredForecast>, StoreError> {
        self.forecasts_where(None).await
    }

    /// The forecasts of one host.
    ///
    /// # Errors
    /// The database does not answer, or the row is damaged.
    pub async fn forecasts(&self, host: HostId) -> Result<Vec<StoredForecast>, StoreError> {
        self.forecasts_where(Some(host)).await
    }

    async fn forecasts_where(&self, host: Option<HostId>) -> Result<Vec<StoredForecast>, StoreError> {
        let load = move |connection: &mut Conn| -> Tx<Vec<(Vec<u8>, String)>> {
            let mut query = forecast::table.select((forecast::host, forecast::body)).into_boxed();
            if let Some(host) = host {
                query = query.filter(forecast::host.eq(host.0.to_vec()));
            }
            Ok(query.load(connection)?)
        };
        let mut all = Vec::new();
        for (host, body) in self.inner.pool.read(load).await? {
            let host = host_id(&host)?;
            let rows: Vec<ForecastRow> = from_json("forecasts of a host", &body)?;
            for mut row in rows {
                if let Some(course) = &row.course {
                    row.forecast.band = unpack(course, row.forecast.at_ms)?;
                }
                let key = SeriesKey { host, entity: row.entity, metric: row.metric, instance: row.instance };
                all.push(StoredForecast { key, rule: row.rule, model: row.model, forecast: row.forecast });
            }
        }
        Ok(all)
    }
}
