//! The agents' routes under `/agent/v1`: enrol, push a block, fetch the configuration.

use std::sync::Arc;
use std::time::Duration;

use forewarn_common::block::DecodeError;
use forewarn_common::id::HostId;
use forewarn_common::limit;
use forewarn_common::wire::{
    AgentConfig, BLOCK_PATH, CONFIG_PATH, ENROLL_PATH, EnrollReply, EnrollRequest, SENT_HEADER,
};
use http::{HeaderMap, Method, StatusCode};
use warp::reply::Response;

use super::reply::{Refused, json};
use super::route::{Access, Call, Route};
use super::{App, auth};
use crate::intake::IntakeError;
use crate::model::host::Host;
use crate::store::StoreError;

/// How long an agent waits at most: less than its own patience, whatever the database does.
const PUSH_ANSWER_FOR: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, BLOCK_PATH, Access::Agent, "Take a block", push)
            .takes_bytes(limit::BLOCK_BYTES_MAX as u64)
            .hidden(),
        Route::new(Method::POST, ENROLL_PATH, Access::Open, "Let a host in", enroll)
            .takes_bytes(limit::JSON_BYTES_MAX)
            .hidden(),
        Route::new(Method::GET, CONFIG_PATH, Access::Agent, "Configuration of the agents", config).hidden(),
    ]
}

async fn enroll(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let request: EnrollRequest = call.json()?;
    let random =
        |_| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the system's random generator failed");
    if let Some(host) = request.host
        && let Some(known) = app.store.agent_key(host).await?
        && auth::agent_credentials(&call.headers) != Some((host, known))
    {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "host_known",
            "a host with this id is enrolled and its key was not shown; remove the agent's identity.json to enrol as a new host",
        ));
    }
    if app.store.token_redeem(auth::hash_secret(&request.secret), call.now_ms).await?.is_none() {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "token_refused",
            "this enrolment token is unknown, used up or has ended; make a new one in the console",
        ));
    }
    let host = match request.host {
        Some(host) => host,
        None => HostId::random().map_err(random)?,
    };
    let key = auth::new_secret().map_err(random)?;
    let record = Host {
        id: host,
        name: request.hostname.chars().filter(|c| !c.is_control()).take(limit::NAME_BYTES_MAX / 4).collect(),
        component: String::new(),
        enrolled_ms: call.now_ms,
        seen_ms: 0,
        skew_ms: 0,
        agent_version: request.version.chars().take(40).collect(),
    };
    app.store.host_enroll(&record, auth::hash_secret(&key)).await?;
    app.store.audit(call.now_ms, "agent", "enroll", &format!("host {host} from {}", call.peer.address)).await?;
    tracing::info!(%host, name = %record.name, "a host was enrolled");
    Ok(json(StatusCode::CREATED, &EnrollReply { host, key, trust: app.site.trust.clone() }))
}

/// The agent's wall clock at sending, from `boot_ms,wall_ms`.
fn sent_wall_ms(headers: &HeaderMap) -> Option<i64> {
    headers.get(SENT_HEADER)?.to_str().ok()?.split_once(',')?.1.trim().parse().ok()
}

async fn push(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    // What is given up may still be stored: the agent sends it again, and the receipt covers it.
    tokio::time::timeout(PUSH_ANSWER_FOR, take(app, call)).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("a block was not stored within {} s", PUSH_ANSWER_FOR.as_secs())).into())
    })
}

async fn take(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let Some(host) = call.host else {
        return Err(Refused::unauthorized("send the agent's key"));
    };
    let taken = app.intake.take(host, call.body, sent_wall_ms(&call.headers), call.now_ms).await;
    let taken = taken.map_err(|error| match error {
        IntakeError::Block(DecodeError::Limit { .. }) => {
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "block_limit", error.to_string())
        }
        IntakeError::Block(_) => Refused::new(StatusCode::UNPROCESSABLE_ENTITY, "block_refused", error.to_string()),
        IntakeError::Host { .. } => Refused::new(StatusCode::FORBIDDEN, "foreign_block", error.to_string()),
        IntakeError::Refused(_) => Refused::new(StatusCode::UNPROCESSABLE_ENTITY, "block_refused", error.to_string()),
        IntakeError::Store(error) => error.into(),
        IntakeError::Stopping => {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is stopping; send it again")
        }
    })?;
    // Judged before it is acknowledged: if the server dies here, the agent sends it again and it is judged then.
    app.judge.urgent(host, &taken.urgent, taken.freshness, call.now_ms).await?;
    let mut reply = taken.reply;
    reply.config_version = app.keywords(call.now_ms).await?.version;
    Ok(json(StatusCode::OK, &reply))
}

async fn config(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let set = app.keywords(call.now_ms).await?;
    let config = AgentConfig {
        version: set.version,
        keywords: set.rules.clone(),
        exclude: set.exclude.clone(),
        samples_a_day_max: set.samples_a_day_max,
        trust: app.site.trust.clone(),
    };
    Ok(json(StatusCode::OK, &config))
}
