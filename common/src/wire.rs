//! The JSON that agents and servers exchange under `/agent/v1`; blocks themselves are bytes (see [`crate::block`]).

use serde::{Deserialize, Serialize};

use crate::id::{EntityId, HostId, LayoutId};
use crate::keyword::KeywordRule;

/// Content type of a pushed block.
pub const BLOCK_CONTENT_TYPE: &str = "application/vnd.forewarn.block";
/// Header with the agent's `CLOCK_BOOTTIME` and wall clock at sending, `boot_ms,wall_ms`.
pub const SENT_HEADER: &str = "forewarn-sent";
/// What an enrolment token begins with; then the secret and the CA's fingerprint, all separated by dots.
pub const TOKEN_PREFIX: &str = "fwt1";
/// `POST`, [`EnrollRequest`] → [`EnrollReply`].
pub const ENROLL_PATH: &str = "/agent/v1/enroll";
/// `POST`, a block → [`PushReply`].
pub const BLOCK_PATH: &str = "/agent/v1/blocks";
/// `GET` → [`AgentConfig`].
pub const CONFIG_PATH: &str = "/agent/v1/config";

/// A token that lets one host (or several) in: what the console shows once.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollToken {
    /// Known to the server as a hash.
    pub secret: String,
    /// SHA-256 of the site CA's certificate (DER), lower-case hex.
    pub ca_sha256: String,
}

impl EnrollToken {
    /// `fwt1.<secret>.<fingerprint>`.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{TOKEN_PREFIX}.{}.{}", self.secret, self.ca_sha256)
    }

    /// Reads what [`Self::encode`] wrote; `None` when it is something else.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let (prefix, secret, ca_sha256) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = ca_sha256.len() == 64 && ca_sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sound =
            prefix == TOKEN_PREFIX && !secret.is_empty() && secret.len() <= 128 && hex && parts.next().is_none();
        sound.then(|| Self { secret: secret.to_owned(), ca_sha256: ca_sha256.to_ascii_lowercase() })
    }
}

/// What an agent says to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The token's secret.
    pub secret: String,
    /// The host's own id when it had one before.
    #[serde(default)]
    pub host: Option<HostId>,
    /// What people call the host.
    pub hostname: String,
    /// The agent's version.
    pub version: String,
}

/// What an agent gets, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollReply {
    /// The host's id for life.
    pub host: HostId,
    /// The agent's own key, 256 bits as hex; the server keeps only its hash.
    pub key: String,
    /// Whom to trust from now on.
    pub trust: TrustBundle,
}

/// The certificates that an agent trusts, and the name that it verifies whatever address it dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Grows with each change.
    pub version: u64,
    /// The name on the servers' certificates.
    pub site_name: String,
    /// CA certificates, PEM; old and new overlap.
    pub ca_pem: Vec<String>,
}

/// The answer to a stored block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PushReply {
    /// The server's clock, unix milliseconds.
    pub now_ms: i64,
    /// Layouts that the server asks for.
    #[serde(default)]
    pub unknown_layouts: Vec<LayoutId>,
    /// Entities that the server asks for.
    #[serde(default)]
    pub unknown_entities: Vec<EntityId>,
    /// Version of the configuration at [`CONFIG_PATH`].
    pub config_version: u64,
}

/// What the server may say of how an agent works: it narrows, it never widens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Grows with each change.
    pub version: u64,
    /// The site's keyword rules.
    pub keywords: Vec<KeywordRule>,
    /// Containers whose logs are not read, of those that the host lets be read (see
    /// [`crate::keyword::Subject::is_selected_by`]).
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Sampled lines of one workload in one day; no more than the agent's own bound.
    #[serde(default)]
    pub samples_a_day_max: Option<u32>,
    /// Whom to trust.
    pub trust: TrustBundle,
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refusal {
    /// A word for programs, `snake_case`.
    pub error: String,
    /// A sentence for people: what happened and what to do.
    pub detail: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text_form_and_others_are_refused() {
        let token = EnrollToken { secret: "s3cret".into(), ca_sha256: "ab".repeat(32) };
        assert!(EnrollToken::decode(&format!(" {}\n", token.encode())).unwrap() == token);
        for text in ["", "fwt1.s", "fwt2.s.".to_owned().as_str(), "fwt1..abc", &format!("{}.x", token.encode())] {
            assert!(EnrollToken::decode(text).is_none(), "{text}");
        }
    }
}
