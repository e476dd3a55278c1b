//! A small client for the server's API and for bad requests: it follows nothing, trusts any
//! certificate (the agents' own checks are tested through the agent), and never raises on a status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;

/// The longest that an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A client with a base address and headers that every request carries.
#[derive(Debug)]
pub struct Client {
    base: String,
    headers: Vec<(String, String)>,
    runtime: tokio::runtime::Runtime,
    inner: reqwest::Client,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {} is not JSON", self.status, self.text()))
    }

    /// The JSON of a 2xx answer.
    ///
    /// # Errors
    /// When the status is another.
    pub fn ok(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "the server answered {}: {}", self.status, self.text());
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// A client for addresses below `base`, such as `http://127.0.0.1:8440`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(base: &str) -> Result<Self> {
        // An error means that another client of this process has installed it already.
        _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let builder = reqwest::Client::builder().timeout(ANSWER_PATIENCE).tls_danger_accept_invalid_certs(true);
        let inner = builder.redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), headers: Vec::new(), runtime, inner })
    }

    /// Adds a header to every request to come.
    pub fn always(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Sends a request with a raw body.
    ///
    /// # Errors
    /// When no answer came.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut request = self.inner.request(Method::from_bytes(method.as_bytes())?, &url).body(body);
        for (name, value) in self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain(headers.iter().copied()) {
            request = request.header(name, value);
        }
        self.runtime.block_on(async {
            let reply = request.send().await.with_context(|| format!("{method} {url}"))?;
            let status = reply.status().as_u16();
            let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = reply.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            let body = reply.bytes().await.with_context(|| format!("{method} {url}: the answer broke off"))?.to_vec();
            Ok(Answer { status, headers, body })
        })
    }

    /// GET.
    ///
    /// # Errors
    /// When no answer came.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[], Vec::new())
    }

    /// POST, PUT, PATCH… with a JSON body.
    ///
    /// # Errors
    /// When no answer came.
    pub fn send_json(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.send(method, path, &[("content-type", "application/json")], body.to_string().into_bytes())
    }
}
