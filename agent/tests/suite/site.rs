//! A site's certificates, made for one test, and a place that speaks TLS with them.

use std::net::TcpListener;
use std::sync::Arc;

use forewarn_common::wire::TrustBundle;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

const NAME: &str = "site.forewarn.internal";

pub(crate) struct Site {
    pub(crate) trust: TrustBundle,
    pub(crate) ca_sha256: String,
    config: Arc<rustls::ServerConfig>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let site = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &site).unwrap();
        let chain = vec![leaf.der().clone(), site.der().clone()];
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Self {
            trust: TrustBundle { version: 1, site_name: NAME.to_owned(), ca_pem: vec![site.pem()] },
            ca_sha256: Sha256::digest(site.der()).iter().map(|byte| format!("{byte:02x}")).collect(),
            config: Arc::new(config),
        }
    }

    /// Has every connection talked to on a thread of its own until the test ends; gives the URL.
    pub(crate) fn listen<T>(&self, talk: T) -> String
    where
        T: Fn(Stream) -> std::io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (config, talk) = (Arc::clone(&self.config), Arc::new(talk));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let talk = Arc::clone(&talk);
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = rustls::StreamOwned::new(connection, socket.unwrap());
                // A client that goes away in the middle ends its own connection only.
                std::thread::spawn(move || drop(talk(stream)));
            }
        });
        url
    }
}

pub(crate) type Stream = rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>;
