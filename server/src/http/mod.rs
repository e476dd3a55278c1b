//! The web side: routes, access, replies and limits. The only room that knows warp; nothing imports it but `main`.

mod agent;
mod api;
pub mod auth;
mod fleet;
pub mod listener;
mod model;
mod overview;
pub mod reply;
pub mod route;
pub mod view;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use forewarn_common::id::HostId;
use forewarn_common::keyword::KeywordRule;
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use warp::Filter;
use warp::reply::Response;

use crate::intake::Intake;
use crate::judge::Judge;
use crate::model::forecast::Period;
use crate::outbox::Outbox;
use crate::settings::Settings;
use crate::site::Site;
use crate::store::{Store, StoreError};
use crate::training::Trainings;
use reply::Refused;
use route::{Access, Call, Route};

/// Key of the keyword rules among the site's values.
const KEYWORDS_KEY: &str = "keywords";
/// Header that a form on a foreign page cannot send.
const CONSOLE_HEADER: &str = "forewarn-console";

/// Another server may have changed the keyword rules: they are read anew after this long.
const KEYWORDS_AGE_MS: i64 = 30_000;

/// The site's keyword rules; the version grows with each change.
#[derive(Debug, Serialize, Deserialize)]
struct KeywordSet {
    version: u64,
    rules: Vec<KeywordRule>,
    /// Containers whose logs no agent reads.
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    samples_a_day_max: Option<u32>,
}

/// What the routes work with.
pub struct App {
    /// The database.
    pub store: Store,
    /// The site's certificates.
    pub site: Site,
    /// The settings.
    pub settings: Settings,
    /// Where blocks go.
    pub intake: Intake,
    /// Who looks at them.
    pub judge: Arc<Judge>,
    /// Channels and what is due to them.
    pub outbox: Arc<Outbox>,
    /// What the forecasts of the last whole period came to.
    pub period: watch::Receiver<Option<Period>>,
    /// Models in the making.
    pub trainings: Trainings,
    blocks: Arc<Semaphore>,
    /// One question to the whole fleet at a time.
    ranking: Semaphore,
    agents: RwLock<HashMap<HostId, [u8; 32]>>,
    logins: auth::LoginGuard,
    keywords: RwLock<Option<(i64, Arc<KeywordSet>)>>,
}

impl App {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The system's random generator fails.
    pub fn new(
        store: Store,
        site: Site,
        settings: Settings,
        intake: Intake,
        judge: Arc<Judge>,
        outbox: Arc<Outbox>,
        period: watch::Receiver<Option<Period>>,
    ) -> anyhow::Result<Self> {
        let blocks = Arc::new(Semaphore::new(settings.limits.blocks_in_flight_max));
        let trainings = Trainings::new(store.clone(), crate::adopted::site_model(&settings.judge));
        let (agents, keywords, logins) = (RwLock::default(), RwLock::default(), auth::LoginGuard::default());
        Ok(Self {
            store,
            site,
            settings,
            intake,
            judge,
            outbox,
            period,
            trainings,
            blocks,
            ranking: Semaphore::new(1),
            agents,
            logins,
            keywords,
        })
    }

    /// Checks who asks and writes it into the call.
    async fn admit(&self, access: Access, is_read: bool, call: &mut Call) -> Result<(), Refused> {
        match access {
            Access::Open => Ok(()),
            Access::Agent => {
                let credentials = auth::agent_credentials(&call.headers);
                let (host, key) =
                    credentials.ok_or_else(|| Refused::unauthorized("send the agent's key as a bearer token"))?;
                if !self.is_agent(host, key).await? {
                    return Err(Refused::unauthorized("this agent's key is not known here; enrol the host again"));
                }
                call.host = Some(host);
                Ok(())
            }
            Access::User => {
                if !is_read && !call.headers.contains_key(CONSOLE_HEADER) {
                    let detail =
                        format!("send the header {CONSOLE_HEADER}: 1 with every request that changes something");
                    return Err(Refused::new(StatusCode::FORBIDDEN, "header_missing", detail));
                }
                let secret =
                    auth::session_cookie(&call.headers).ok_or_else(|| Refused::unauthorized("log in first"))?;
                let session = self.store.session_get(secret, call.now_ms).await?;
                call.user = session.ok_or_else(|| Refused::unauthorized("the session has ended; log in again"))?.user;
                Ok(())
            }
        }
    }

    /// Keys are cached once they were right: a wrong one asks the database each time, a changed one is learnt then.
    async fn is_agent(&self, host: HostId, key: [u8; 32]) -> Result<bool, StoreError> {
        if self.agents.read().unwrap_or_else(PoisonError::into_inner).get(&host) == Some(&key) {
            return Ok(true);
        }
        let known = self.store.agent_key(host).await? == Some(key);
        if known {
            self.agents.write().unwrap_or_else(PoisonError::into_inner).insert(host, key);
        }
        Ok(known)
    }

    /// The right to have one more block in memory.
    fn permit(&self, access: Access) -> Result<Option<OwnedSemaphorePermit>, Refused> {
        if access != Access::Agent {
            return Ok(None);
        }
        let permit = Arc::clone(&self.blocks).try_acquire_owned();
        permit.map(Some).map_err(|_| Refused::busy(2, "too many blocks at once; keep it and come back"))
    }

    /// The site's keyword rules. Every push asks for their version, so they are read anew only now and then.
    async fn keywords(&self, now_ms: i64) -> Result<Arc<KeywordSet>, StoreError> {
        let cached = self.keywords.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at_ms, set)) = cached
            && now_ms - at_ms < KEYWORDS_AGE_MS
        {
            return Ok(set);
        }
        let stored = self.store.site_get(KEYWORDS_KEY).await?;
        let stored = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let default = || KeywordSet {
            version: 0,
            rules: forewarn_common::keyword::default_rules(),
            exclude: Vec::new(),
            samples_a_day_max: None,
        };
        let set = Arc::new(stored.unwrap_or_else(default));
        *self.keywords.write().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Arc::clone(&set)));
        Ok(set)
    }

    /// Replaces the site's keyword rules; the agents learn of it with their next push.
    async fn set_keywords(&self, keywords: view::Keywords, now_ms: i64) -> Result<(), StoreError> {
        let version = self.keywords(0).await?.version + 1;
        let view::Keywords { rules, exclude, samples_a_day_max } = keywords;
        let set = KeywordSet { version, rules, exclude, samples_a_day_max };
        let bytes = serde_json::to_vec(&set).map_err(|e| StoreError::Setup(e.to_string()))?;
        self.store.site_put(KEYWORDS_KEY, bytes).await?;
        *self.keywords.write().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Arc::new(set)));
        Ok(())
    }
}

fn routes() -> Vec<Route> {
    let mut routes = agent::routes();
    routes.extend(api::routes());
    routes.extend(model::routes());
    routes
}

/// The OpenAPI document of `/api/v1`.
#[must_use]
pub fn openapi() -> serde_json::Value {
    route::openapi(&routes())
}

/// All routes, and the console for everything else.
pub fn filter(app: &Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> {
    route::mount_all(&Arc::new(routes()), app, otherwise)
}

/// What no route matches: a wrong method, an unknown path of the API, or the console.
fn otherwise(routes: &[Route], method: &Method, path: &str) -> Response {
    if routes.iter().any(|route| route.is_at(path)) {
        let detail = format!("{method} is not served at this path");
        return Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into();
    }
    if path.starts_with("/api/") || path.starts_with("/agent/") || *method != Method::GET {
        return Refused::not_found("path").into();
    }
    console(path)
}

/// The console's file at `path`; its first page for the paths that the console routes by itself.
fn console(path: &str) -> Response {
    let name = path.trim_start_matches('/');
    let asset = forewarn_console::asset(name).or_else(|| {
        let is_page = !name.rsplit('/').next().unwrap_or_default().contains('.');
        is_page.then(|| forewarn_console::asset("index.html")).flatten()
    });
    let Some(asset) = asset else {
        return Refused::not_found("file").into();
    };
    let mut response = Response::new(asset.bytes.into_owned().into());
    // Names under assets/ carry a hash of the content.
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openapi_snapshot_that_the_console_is_typed_by_is_current() {
        let kept: Option<serde_json::Value> = serde_json::from_str(include_str!("../../console/web/openapi.json")).ok();
        assert!(
            kept == Some(openapi()),
            "the API has changed: run `make openapi`, look at the difference and commit it"
        );
    }

    #[test]
    fn every_route_of_the_document_has_a_summary_and_a_reply() {
        let document = openapi();
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations: Vec<_> = paths.flat_map(|(_, methods)| methods.as_object().into_iter().flatten()).collect();
        assert!(operations.len() >= 20, "{}", operations.len());
        for (method, operation) in operations {
            assert!(operation["summary"].is_string() && operation["responses"]["default"].is_object(), "{method}");
        }
    }
}
