//! One kept-alive HTTPS connection to the server, as an agent has it: enrolment, then blocks; or a plain one to a peer,
//! for remote writes. HTTP/1.1 by hand, so that a thousand of them cost the load generator little.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use forewarn_common::clock;
use forewarn_common::id::HostId;
use forewarn_common::wire::{
    BLOCK_CONTENT_TYPE, BLOCK_PATH, ENROLL_PATH, EnrollReply, EnrollRequest, EnrollToken, SENT_HEADER, TrustBundle,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a body of remote write is called: a header more follows from it.
const REMOTE_WRITE_CONTENT_TYPE: &str =
    "application/x-protobuf\r\ncontent-encoding: snappy\r\nx-prometheus-remote-write-version: 0.1.0";
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A simulated host takes the server's certificate as it comes while it enrols; from then on it verifies it.
#[derive(Debug)]
struct FirstSight(Arc<CryptoProvider>);

impl ServerCertVerifier for FirstSight {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where the server is and how it is verified.
#[derive(Clone)]
pub(crate) struct Way {
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Way {
    /// A way for enrolment: the certificate is not known yet. `url` is `https://ADDRESS:PORT`.
    pub(crate) fn unknown(url: &str) -> Result<Self> {
        let address = url.trim_end_matches('/').strip_prefix("https://").context("give the server as https://…")?;
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(FirstSight(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from("forewarn.site")?;
        Ok(Self { address: address.to_owned(), name, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// The same server, verified from now on.
    pub(crate) fn trusting(&self, trust: &TrustBundle) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for pem in &trust.ca_pem {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).context("the site's CA")?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(trust.site_name.clone())?;
        Ok(Self { address: self.address.clone(), name, connector: TlsConnector::from(Arc::new(config)) })
    }
}

/// Where a peer of Forewarn takes remote writes, which is what every push is then.
#[derive(Clone)]
pub(crate) struct PeerWay {
    address: String,
    path: String,
}

impl PeerWay {
    /// `url` is `http://ADDRESS:PORT/PATH`; `None` for every other.
    pub(crate) fn of(url: &str) -> Option<Self> {
        let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
        Some(Self { address: address.to_owned(), path: format!("/{path}") })
    }
}

enum To {
    Server(Way),
    Peer(PeerWay),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection; it is made when it is needed, and made again after a failure.
pub(crate) struct Link {
    to: To,
    stream: Option<Box<dyn Stream>>,
    authorization: String,
    buffer: Vec<u8>,
}

impl Link {
    fn new(to: To) -> Self {
        Self { to, stream: None, authorization: String::new(), buffer: Vec::new() }
    }

    /// A peer, who asks nobody's name.
    pub(crate) fn peer(way: PeerWay) -> Self {
        Self::new(To::Peer(way))
    }

    /// A host that is enrolled already; whoever answers is trusted.
    pub(crate) fn known(way: &Way, host: HostId, key: &str) -> Self {
        let mut link = Self::new(To::Server(way.clone()));
        link.authorization = format!("authorization: Bearer {host}:{key}\r\n");
        link
    }

    /// Enrols a new host with the first token that is taken, and shows its key from then on.
    pub(crate) async fn enroll(way: &Way, tokens: &[String], hostname: &str) -> Result<(Self, HostId)> {
        let mut said = "no token was given".to_owned();
        let mut link = Self::new(To::Server(way.clone()));
        for token in tokens {
            let token = EnrollToken::decode(token).context("a token is malformed")?;
            let request = EnrollRequest {
                secret: token.secret,
                host: None,
                hostname: hostname.to_owned(),
                version: "fleet".to_owned(),
            };
            let body = serde_json::to_vec(&request)?;
            let (status, answer) = link.post(ENROLL_PATH, "application/json", &body).await?;
            if (200..300).contains(&status) {
                let reply: EnrollReply = serde_json::from_slice(&answer)?;
                let mut own = Self::new(To::Server(way.trusting(&reply.trust)?));
                own.authorization = format!("authorization: Bearer {}:{}\r\n", reply.host, reply.key);
                return Ok((own, reply.host));
            }
            said = format!("{status} {}", String::from_utf8_lossy(&answer));
        }
        bail!("{hostname} was not enrolled: {said}")
    }

    /// Opens the connection now.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        if self.stream.is_none() {
            let (To::Server(Way { address, .. }) | To::Peer(PeerWay { address, .. })) = &self.to;
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(match &self.to {
                To::Server(way) => Box::new(way.connector.connect(way.name.clone(), stream).await?),
                To::Peer(_) => Box::new(stream),
            });
        }
        Ok(())
    }

    /// Sends a block, or what a peer takes for one; the status and the body of the answer.
    pub(crate) async fn push(&mut self, block: &[u8]) -> Result<(u16, Vec<u8>)> {
        match &self.to {
            To::Server(_) => self.post(BLOCK_PATH, BLOCK_CONTENT_TYPE, block).await,
            To::Peer(way) => {
                let path = way.path.clone();
                self.post(&path, REMOTE_WRITE_CONTENT_TYPE, block).await
            }
        }
    }

    async fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let result = self.exchange(path, content_type, body).await;
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    async fn exchange(&mut self, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.connect().await?;
        let Some(stream) = self.stream.as_mut() else { bail!("not connected") };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: fleet\r\ncontent-type: {content_type}\r\n{}{SENT_HEADER}: {},{}\r\ncontent-length: {}\r\n\r\n",
            self.authorization,
            clock::boot_ms(),
            clock::wall_ms(),
            body.len()
        );
        self.buffer.clear();
        self.buffer.extend_from_slice(head.as_bytes());
        self.buffer.extend_from_slice(body);
        stream.write_all(&self.buffer).await?;
        stream.flush().await?;
        self.buffer.clear();
        let (mut head_len, mut length, mut status) = (0, 0, 0);
        loop {
            if head_len == 0
                && let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n")
            {
                head_len = at + 4;
                let head = String::from_utf8_lossy(&self.buffer[..at]).to_ascii_lowercase();
                status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
                length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                    .unwrap_or(0);
            }
            if head_len > 0 && self.buffer.len() >= head_len + length {
                return Ok((status, self.buffer[head_len..head_len + length].to_vec()));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the answer ended early");
            }
        }
    }
}
