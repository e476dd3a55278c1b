//! The site's own CA and the certificates that the servers show: made at the first start, kept sealed in the
//! database, shared by all servers. No socket is opened here.

use std::path::Path;
use std::sync::Arc;

use forewarn_common::wire::TrustBundle;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::seal::{Seal, SealError};
use crate::settings::Settings;
use crate::store::{Store, StoreError};

/// Key of the sealed CA among the site's values; also its sealing purpose.
const CA_KEY: &str = "ca";
const DAY_S: i64 = 86_400;
/// The CA outlives the product's first sites; overlap of old and new is what the trust bundle is for.
const CA_DAYS: i64 = 20 * 365;
/// Browsers refuse server certificates that live longer.
const LEAF_DAYS: i64 = 397;

/// Why the site has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The database does not answer or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA in the database cannot be opened.
    #[error("the site's CA cannot be opened: {0}; start with the site.key that this database was made with")]
    Seal(#[from] SealError),
    /// The CA in the database is not what this build wrote.
    #[error("the site's CA in the database is damaged; restore the database from a backup")]
    Damaged,
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// An own certificate cannot be read.
    #[error("https.{key} {path}: {reason}; give a PEM file")]
    Own {
        /// `cert_file` or `key_file`.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// TLS refuses certificate or key.
    #[error("certificate and key do not work together: {0}")]
    Tls(#[from] rustls::Error),
}

#[derive(Serialize, Deserialize)]
struct Ca {
    cert_pem: String,
    key_pem: String,
}

/// What servers show and agents verify.
pub struct Site {
    /// For the listener.
    pub tls: Arc<ServerConfig>,
    /// For agents.
    pub trust: TrustBundle,
    /// SHA-256 of the certificate that enrolment tokens pin, hex.
    pub ca_sha256: String,
}

impl Site {
    /// Loads or makes the CA and issues this server's certificate; or takes the configured one.
    ///
    /// # Errors
    /// The database does not answer, the CA cannot be opened, or the configured certificate does not work.
    pub async fn open(store: &Store, key: &Seal, settings: &Settings, now_ms: i64) -> Result<Self, SiteError> {
        let (chain, leaf_key) = if settings.https.cert_file.as_os_str().is_empty() {
            let ca = load_or_make_ca(store, key, now_ms).await?;
            issue(&ca, &settings.site.name, &settings.https.names, now_ms)?
        } else {
            own(&settings.https.cert_file, &settings.https.key_file)?
        };
        let Some(anchor) = chain.last() else {
            return Err(SiteError::Damaged);
        };
        let ca_sha256 = hex::encode(Sha256::digest(anchor));
        let ca_pem = vec![pem(anchor)];
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, leaf_key)?;
        let trust = TrustBundle { version: 1, site_name: settings.site.name.clone(), ca_pem };
        Ok(Self { tls: Arc::new(tls), trust, ca_sha256 })
    }
}

async fn load_or_make_ca(store: &Store, key: &Seal, now_ms: i64) -> Result<Ca, SiteError> {
    let sealed = match store.site_get(CA_KEY).await? {
        Some(sealed) => sealed,
        None => {
            let made = serde_json::to_vec(&make_ca(now_ms)?).map_err(|_| SiteError::Damaged)?;
            // Of two servers that start at once the first one's CA stays.
            store.site_put_if_absent(CA_KEY, key.seal(CA_KEY, &made)?).await?
        }
    };
    serde_json::from_slice(&key.open(CA_KEY, &sealed)?).map_err(|_| SiteError::Damaged)
}

fn make_ca(now_ms: i64) -> Result<Ca, SiteError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "Forewarn site CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, now_ms, CA_DAYS);
    Ok(Ca { cert_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn issue(ca: &Ca, site_name: &str, names: &[String], now_ms: i64) -> Result<Chain, SiteError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.cert_pem, KeyPair::from_pem(&ca.key_pem)?)?;
    let key = KeyPair::generate()?;
    let mut all = vec![site_name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    all.extend(names.iter().cloned());
    let mut params = CertificateParams::new(all)?;
    params.distinguished_name.push(DnType::CommonName, site_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, now_ms, LEAF_DAYS);
    let leaf = params.signed_by(&key, &issuer)?;
    let anchor = CertificateDer::from_pem_slice(ca.cert_pem.as_bytes()).map_err(|_| SiteError::Damaged)?;
    let leaf_key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|_| SiteError::Damaged)?;
    Ok((vec![leaf.der().clone(), anchor], leaf_key))
}

/// Valid from a day ago, so that a host whose clock is behind can still enrol.
fn valid_for(params: &mut CertificateParams, now_ms: i64, days: i64) {
    let date = |second: i64| {
        let date = jiff::Timestamp::from_second(second).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
    };
    params.not_before = date(now_ms / 1000 - DAY_S);
    params.not_after = date(now_ms / 1000 + days * DAY_S);
}

fn own(cert_file: &Path, key_file: &Path) -> Result<Chain, SiteError> {
    let refuse = |key, path: &Path, reason: String| SiteError::Own { key, path: path.display().to_string(), reason };
    let chain = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| refuse("cert_file", cert_file, e.to_string()))?;
    if chain.is_empty() {
        return Err(refuse("cert_file", cert_file, "no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| refuse("key_file", key_file, e.to_string()))?;
    Ok((chain, key))
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
