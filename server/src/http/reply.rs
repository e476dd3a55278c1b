//! The one reply type and the one table from error to status.

use forewarn_common::wire::Refusal;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use warp::reply::Response;

use crate::store::StoreError;

/// Why a request is not served. The text goes to the client: it says what happened and what to do, never a secret.
#[derive(Debug)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// A word for programs.
    pub error: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// Seconds after which to come back.
    pub retry_after_s: Option<u64>,
}

impl Refused {
    /// A refusal without advice on when to come back.
    pub fn new(status: StatusCode, error: &'static str, detail: impl Into<String>) -> Self {
        Self { status, error, detail: detail.into(), retry_after_s: None }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 401.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 404.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 429 with the time to wait.
    pub fn busy(retry_after_s: u64, detail: impl Into<String>) -> Self {
        let retry_after_s = Some(retry_after_s);
        Self { retry_after_s, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail) }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Busy => {
                tracing::warn!(%error, "a request was refused because the database does not answer");
                let detail = "the database does not answer; nothing was stored, try again";
                let retry_after_s = Some(5);
                Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail) }
            }
            StoreError::Conflict => Self::new(
                StatusCode::CONFLICT,
                "conflict",
                "somebody else changed it meanwhile; read it again and retry",
            ),
            other => {
                tracing::error!(error = %other, "a request failed in the store");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why")
            }
        }
    }
}

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        let body = Refusal { error: refused.error.to_owned(), detail: refused.detail };
        let mut response = json(refused.status, &body);
        if let Some(seconds) = refused.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON body.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, bytes) = match serde_json::to_vec(body) {
        Ok(bytes) => (status, bytes),
        Err(error) => {
            tracing::error!(%error, "a reply could not be written as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
