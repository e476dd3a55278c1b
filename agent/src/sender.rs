//! Speaks to the server: enrols once, then pushes blocks and asks for the configuration. The only room that knows
//! reqwest and TLS.
//!
//! It verifies the site's name whatever address it dials. It never listens, follows no redirect and takes no proxy
//! from the environment.

mod fetch;
mod resolve;

use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forewarn_common::id::{HostId, random_u64};
use forewarn_common::limit;
use forewarn_common::wire::{
    AgentConfig, BLOCK_CONTENT_TYPE, BLOCK_PATH, CONFIG_PATH, ENROLL_PATH, EnrollReply, EnrollRequest, EnrollToken,
    PushReply, Refusal, SENT_HEADER, TrustBundle,
};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use resolve::Resolver;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use fetch::Fetcher;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A block of the largest size over a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// First pause after a failure; doubled with each further one.
const RETRY_MS_MIN: i64 = 1_000;
/// Longest pause: an outage's end is noticed within this.
const RETRY_MS_MAX: i64 = 60_000;
/// A server may ask for more patience than this, it does not get it.
const RETRY_AFTER_MS_MAX: i64 = 300_000;
/// Pause between blocks of a backlog: ten blocks a second drain a day of outage in five minutes.
const BACKLOG_GAP_MS: i64 = 100;
/// How long another server than the first is gone to before the first is tried again.
const AWAY_MS: i64 = 600_000;
const IDENTITY_FILE: &str = "identity.json";

/// Why the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SenderError {
    /// No identity, and nothing to get one with.
    #[error(
        "this host is not enrolled: give a token with --token or --enroll-file (the console makes one under Hosts)"
    )]
    NotEnrolled,
    /// The token's text is not a token.
    #[error(
        "the enrolment token is malformed: it looks like fwt1.<secret>.<64 hex digits>; copy it again from the console"
    )]
    Token,
    /// No URL to go to.
    #[error("no server is named: set server.urls in agent.toml or give --server https://host:8441")]
    NoServer,
    /// The identity file is there but cannot be used.
    #[error("cannot use {}: {detail}; remove it and enrol again if it is damaged", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The trust bundle is unusable.
    #[error("the server's certificates cannot be used: {0}")]
    Trust(String),
    /// No server took the enrolment.
    #[error("enrolment failed: {0}")]
    Enroll(String),
    /// The certificates of endpoints cannot be read.
    #[error("cannot use scrape.ca_file {}: {detail}; it holds certificates in PEM form", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The HTTP client cannot be made.
    #[error("cannot make the HTTPS client: {0}")]
    Client(String),
}

/// Who this host is and whom it trusts, kept in `identity.json`, readable by the owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The host's id for life.
    pub(crate) host: HostId,
    /// The agent's own key.
    key: String,
    /// Whom to trust.
    pub(crate) trust: TrustBundle,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the identity in `data_dir`; `None` before the first enrolment.
    ///
    /// # Errors
    /// The file is there but cannot be read or understood.
    pub(crate) fn load(data_dir: &Path) -> Result<Option<Self>, SenderError> {
        let path = data_dir.join(IDENTITY_FILE);
        let fail = |detail: String| SenderError::Identity { path: path.clone(), detail };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| fail(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// Writes the identity: whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn save(&self, data_dir: &Path) -> Result<(), SenderError> {
        let path = data_dir.join(IDENTITY_FILE);
        let temporary = data_dir.join(format!("{IDENTITY_FILE}.tmp"));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(data_dir)?;
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| SenderError::Identity { path: path.clone(), detail: error.to_string() })
    }
}

/// Enrols at the first URL that answers. The token's fingerprint is the only thing trusted on the way.
///
/// # Errors
/// The token is malformed, or no server took it; the text has every server's answer.
pub(crate) async fn enroll(
    urls: &[String],
    proxy: &str,
    token: &str,
    before: Option<&Identity>,
    hostname: &str,
) -> Result<Identity, SenderError> {
    let token = EnrollToken::decode(token).ok_or(SenderError::Token)?;
    if urls.is_empty() {
        return Err(SenderError::NoServer);
    }
    let client = client(pinned_config(&token.ca_sha256)?, proxy)?;
    let request = EnrollRequest {
        secret: token.secret.clone(),
        host: before.map(|identity| identity.host),
        hostname: hostname.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let body = serde_json::to_vec(&request).map_err(|error| SenderError::Enroll(error.to_string()))?;
    let mut answers = Vec::new();
    for url in urls {
        let mut sent = client.post(join(url, ENROLL_PATH)).header(CONTENT_TYPE, "application/json").body(body.clone());
        if let Some(identity) = before {
            // A known host shows its old key: a token alone must not take over somebody else's history.
            sent = sent.bearer_auth(format!("{}:{}", identity.host, identity.key));
        }
        match answer(sent).await {
            Ok((StatusCode::OK | StatusCode::CREATED, body, _)) => {
                let reply: EnrollReply = serde_json::from_slice(&body).map_err(|error| {
                    SenderError::Enroll(format!("{url} gave an answer that is no enrolment: {error}"))
                })?;
                // A bundle that cannot be used later must not replace nothing now.
                site_config(&reply.trust)?;
                return Ok(Identity { host: reply.host, key: reply.key, trust: reply.trust });
            }
            Ok((status, body, _)) => answers.push(format!("{url} answered {status}: {}", refusal(&body))),
            Err(detail) => answers.push(format!("{url} cannot be reached: {detail}")),
        }
    }
    Err(SenderError::Enroll(answers.join("; ")))
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Stored, or known already.
    Stored(PushReply),
    /// The server will never take this block.
    Refused(String),
    /// The server asks for patience.
    Busy {
        /// How long, when it said so.
        retry_after_ms: Option<i64>,
    },
    /// The key is not accepted: the block stays, a person must act.
    Unauthorized(String),
    /// No answer, or one that says nothing about the block.
    Failed(String),
}

/// The way to the servers, with identity and trust.
#[derive(Debug)]
pub(crate) struct Link {
    client: reqwest::Client,
    identity: Identity,
    urls: Vec<String>,
    current: usize,
    /// Since when another server than the first is gone to.
    away_since_ms: Option<i64>,
    proxy: String,
}

impl Link {
    /// A link for an enrolled host.
    ///
    /// # Errors
    /// No URL is named, or the trust bundle or the proxy cannot be used.
    pub(crate) fn new(identity: Identity, urls: &[String], proxy: &str) -> Result<Self, SenderError> {
        if urls.is_empty() {
            return Err(SenderError::NoServer);
        }
        let client = client(site_config(&identity.trust)?, proxy)?;
        Ok(Self { client, identity, urls: urls.to_vec(), current: 0, away_since_ms: None, proxy: proxy.to_owned() })
    }

    /// Who this host is.
    #[must_use]
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Trusts a newer bundle from now on; an older or unusable one is ignored and said.
    ///
    /// # Errors
    /// The bundle cannot be used.
    pub(crate) fn renew_trust(&mut self, trust: &TrustBundle) -> Result<bool, SenderError> {
        if trust.version <= self.identity.trust.version {
            return Ok(false);
        }
        self.client = client(site_config(trust)?, &self.proxy)?;
        self.identity.trust = trust.clone();
        Ok(true)
    }

    /// Goes to the next server after a failure.
    pub(crate) fn fail_over(&mut self, now_ms: i64) {
        self.current = (self.current + 1) % self.urls.len();
        self.away_since_ms = (self.current > 0).then_some(self.away_since_ms.unwrap_or(now_ms));
    }

    /// Goes back to the first server after a while: it is named first for a reason, and an outage is over some time.
    pub(crate) fn come_home(&mut self, now_ms: i64) {
        if self.away_since_ms.is_some_and(|since_ms| now_ms - since_ms >= AWAY_MS) {
            (self.current, self.away_since_ms) = (0, None);
        }
    }

    /// Sends a block; `sent` is `CLOCK_BOOTTIME` and wall clock now.
    pub(crate) fn push(&self, bytes: Vec<u8>, sent: (i64, i64)) -> impl Future<Output = Outcome> + 'static {
        let request = self
            .request(reqwest::Method::POST, BLOCK_PATH)
            .header(CONTENT_TYPE, BLOCK_CONTENT_TYPE)
            .header(SENT_HEADER, format!("{},{}", sent.0, sent.1))
            .body(bytes);
        async move {
            match answer(request).await {
                Ok((status, body, retry_after_ms)) => outcome(status, &body, retry_after_ms),
                Err(detail) => Outcome::Failed(detail),
            }
        }
    }

    /// Asks for the agent's configuration.
    pub(crate) fn config(&self) -> impl Future<Output = Result<AgentConfig, String>> + 'static {
        let request = self.request(reqwest::Method::GET, CONFIG_PATH);
        async move {
            let (status, body, _) = answer(request).await?;
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(format!("the server does not accept this host's key; enrol it again: {}", refusal(&body)));
            }
            if status != StatusCode::OK {
                return Err(format!("the server answered {status}: {}", refusal(&body)));
            }
            serde_json::from_slice(&body).map_err(|error| format!("the answer is no configuration: {error}"))
        }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = self.urls.get(self.current).map(String::as_str).unwrap_or_default();
        let bearer = format!("Bearer {}:{}", self.identity.host, self.identity.key);
        self.client.request(method, join(url, path)).header(AUTHORIZATION, bearer)
    }
}

fn outcome(status: StatusCode, body: &[u8], retry_after_ms: Option<i64>) -> Outcome {
    let said = || format!("{status}: {}", refusal(body));
    match status.as_u16() {
        // A server that stored the block but words its answer in an unknown way has stored it all the same.
        200..=299 => Outcome::Stored(serde_json::from_slice(body).unwrap_or_default()),
        429 | 503 => Outcome::Busy { retry_after_ms },
        401 | 403 => Outcome::Unauthorized(said()),
        // The block itself is the trouble: the same bytes will never be taken.
        400 | 413 | 415 | 422 => Outcome::Refused(said()),
        _ => Outcome::Failed(said()),
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(StatusCode, Vec<u8>, Option<i64>), String> {
    let mut response = request.send().await.map_err(|error| chain(&error))?;
    let retry_after_ms = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<i64>().ok())
        .map(|seconds| seconds.clamp(0, RETRY_AFTER_MS_MAX / 1000) * 1000);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit::JSON_BYTES_MAX {
            return Err(format!("the answer is longer than {} bytes", limit::JSON_BYTES_MAX));
        }
    }
    Ok((response.status(), body, retry_after_ms))
}

/// An error with its causes; reqwest's own text names only the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn refusal(body: &[u8]) -> String {
    const CHARS_MAX: usize = 300;
    let text = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => format!("{} ({})", refusal.detail, refusal.error),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().filter(|char| !char.is_control()).take(CHARS_MAX).collect()
}

fn join(url: &str, path: &str) -> String {
    format!("{}{path}", url.trim_end_matches('/'))
}

/// When the next push may begin. All times are `CLOCK_BOOTTIME`.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    failures: u32,
    not_before_ms: i64,
}

impl Pacing {
    /// When the next push may begin.
    #[must_use]
    pub(crate) fn not_before_ms(&self) -> i64 {
        self.not_before_ms
    }

    /// Whether the last push failed.
    #[must_use]
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Spreads the agents of a site, which all end their blocks at the same second.
    pub(crate) fn spread(&mut self, now_ms: i64, within_ms: i64, random: u64) {
        if !self.is_failing() {
            self.not_before_ms = self.not_before_ms.max(now_ms + jitter(within_ms, random));
        }
    }

    /// Takes note of what became of a push.
    pub(crate) fn note(&mut self, outcome: &Outcome, now_ms: i64, random: u64) {
        let pause_ms = match outcome {
            Outcome::Stored(_) | Outcome::Refused(_) => {
                self.failures = 0;
                BACKLOG_GAP_MS
            }
            Outcome::Busy { retry_after_ms: Some(ms) } => {
                self.failures = self.failures.saturating_add(1);
                *ms + jitter(ms / 4 + RETRY_MS_MIN, random)
            }
            Outcome::Unauthorized(_) => {
                self.failures = self.failures.saturating_add(1);
                RETRY_MS_MAX / 2 + jitter(RETRY_MS_MAX / 2, random)
            }
            Outcome::Busy { .. } | Outcome::Failed(_) => {
                let full = RETRY_MS_MIN.saturating_mul(1_i64 << self.failures.min(10)).min(RETRY_MS_MAX);
                self.failures = self.failures.saturating_add(1);
                full / 2 + jitter(full / 2, random)
            }
        };
        self.not_before_ms = now_ms + pause_ms;
    }
}

fn jitter(within_ms: i64, random: u64) -> i64 {
    let within = u64::try_from(within_ms).unwrap_or(0);
    i64::try_from(random % (within + 1)).unwrap_or(0)
}

/// A random number for jitter; zero where the system has none, which only loses the spread.
#[must_use]
pub(crate) fn random() -> u64 {
    random_u64().unwrap_or(0)
}

fn client(config: ClientConfig, proxy: &str) -> Result<reqwest::Client, SenderError> {
    let fail = |error: reqwest::Error| SenderError::Client(chain(&error));
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(1)
        .dns_resolver(Arc::new(Resolver::of_system()))
        .user_agent(concat!("forewarn-agent/", env!("CARGO_PKG_VERSION")));
    let builder = if proxy.is_empty() {
        builder.no_proxy()
    } else {
        builder.no_proxy().proxy(reqwest::Proxy::all(proxy).map_err(fail)?)
    };
    builder.build().map_err(fail)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn config_with(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, SenderError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| SenderError::Trust(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn site_config(trust: &TrustBundle) -> Result<ClientConfig, SenderError> {
    let fail = |error: &dyn fmt::Display| SenderError::Trust(error.to_string());
    let mut roots = RootCertStore::empty();
    for pem in &trust.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|error| fail(&error))?).map_err(|error| fail(&error))?;
        }
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| fail(&error))?;
    let name = ServerName::try_from(trust.site_name.clone()).map_err(|error| fail(&error))?;
    config_with(Arc::new(SiteVerifier { inner, name }))
}

fn pinned_config(ca_sha256: &str) -> Result<ClientConfig, SenderError> {
    config_with(Arc::new(PinVerifier { ca_sha256: ca_sha256.to_owned(), provider: provider() }))
}

/// Verifies the chain as usual, and the site's name instead of the dialled one.
#[derive(Debug)]
struct SiteVerifier {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for SiteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// During enrolment: the presented chain must hold the certificate with the token's fingerprint, and the leaf must
/// be signed under it, with it as the only root. The site's name is not known yet and not asked for.
#[derive(Debug)]
struct PinVerifier {
    ca_sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |certificate: &&CertificateDer<'_>| fingerprint(certificate) == self.ca_sha256;
        let Some(authority) = intermediates.iter().find(is_pinned) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate.as_ref()).iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
