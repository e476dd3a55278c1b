//! Fetches a page of an endpoint that the host's own settings name: bounded in bytes and time, no redirect, no proxy.
//!
//! It has nothing of the way to the server: neither its key nor whom it trusts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::ACCEPT;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::resolve::Resolver;
use super::{SenderError, chain, provider};

/// An endpoint in the same network answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The whole reading: a component that is short of breath is not kept busy.
const PAGE_TIMEOUT: Duration = Duration::from_secs(8);
/// A page; the components of a site show some tens of kilobytes.
const PAGE_BYTES_MAX: usize = 2 << 20;
const FORMATS: &str = "text/plain;version=0.0.4;q=1,*/*;q=0.1";

/// Reads pages.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
}

impl Fetcher {
    /// One that trusts the certificates in `ca_file` for https; without one it trusts none.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, SenderError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca_file {
            let fail = |error: &dyn std::fmt::Display| SenderError::Authority {
                path: path.to_owned(),
                detail: error.to_string(),
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(&error))? {
                roots.add(certificate.map_err(|error| fail(&error))?).map_err(|error| fail(&error))?;
            }
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| SenderError::Client(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PAGE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .dns_resolver(Arc::new(Resolver::of_system()))
            .user_agent(concat!("forewarn-agent/", env!("CARGO_PKG_VERSION")));
        let client = builder.build().map_err(|error| SenderError::Client(chain(&error)))?;
        Ok(Self { client })
    }

    /// The page at `url`, or in words why there is none.
    pub(crate) fn page(&self, url: &str) -> impl Future<Output = Result<Vec<u8>, String>> + use<> {
        let request = self.client.get(url).header(ACCEPT, FORMATS);
        async move {
            let mut response = request.send().await.map_err(|error| chain(&error))?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(format!("it answered {}", response.status()));
            }
            let mut page = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
                page.extend_from_slice(&chunk);
                if page.len() > PAGE_BYTES_MAX {
                    return Err(format!("its page is longer than {PAGE_BYTES_MAX} bytes"));
                }
            }
            Ok(page)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// An endpoint that answers every request with these bytes, then `more` times a megabyte.
    async fn endpoint(head: &str, more: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let head = head.to_owned();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(head.as_bytes()).await;
                for _ in 0..more {
                    if socket.write_all(&vec![b'x'; 1 << 20]).await.is_err() {
                        break;
                    }
                }
            }
        });
        url
    }

    #[test]
    fn a_page_is_read_within_its_bounds_and_no_redirect_is_followed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fetcher = Fetcher::new(None).unwrap();
            let good = endpoint("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nup 1\n", 0).await;
            assert_eq!(fetcher.page(&good).await.unwrap(), b"up 1\n");
            let away =
                endpoint(&format!("HTTP/1.1 302 Found\r\nlocation: {good}\r\ncontent-length: 0\r\n\r\n"), 0).await;
            assert!(fetcher.page(&away).await.unwrap_err().contains("302"));
            let endless = endpoint("HTTP/1.1 200 OK\r\n\r\n", 200).await;
            assert!(fetcher.page(&endless).await.unwrap_err().contains("longer than 2097152 bytes"));
            assert!(fetcher.page("http://127.0.0.1:1/").await.unwrap_err().contains("refused"));
        });
    }

    #[test]
    fn a_file_of_certificates_that_cannot_be_used_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n").unwrap();
        for path in [file.path(), Path::new("/nowhere/ca.pem")] {
            let text = Fetcher::new(Some(path)).unwrap_err().to_string();
            assert!(text.contains(path.to_str().unwrap()) && text.contains("scrape.ca_file"), "{text}");
        }
    }
}
