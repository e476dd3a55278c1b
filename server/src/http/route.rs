//! The route table's shape: one line a route mounts the warp filter and yields its part of the OpenAPI document.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use forewarn_common::id::HostId;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use warp::reply::Response;
use warp::{Buf, Filter};

use super::App;
use super::listener::Peer;
use super::reply::Refused;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// An enrolled agent.
    Agent,
    /// Somebody who is logged in.
    User,
}

/// A request that has passed its route's access check, its body read within the bound.
pub struct Call {
    /// Path parameters, in order.
    pub params: Vec<String>,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// Who asks.
    pub peer: Peer,
    /// The server's clock at arrival.
    pub now_ms: i64,
    /// The agent's host, on agents' routes.
    pub host: Option<HostId>,
    /// The user's name, on users' routes.
    pub user: String,
}

impl Call {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is not what the route wants; the refusal says where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(&self.body).map_err(|e| Refused::bad_request(format!("body: {e}")))
    }

    /// The path parameter `index`; empty when the route has none there.
    #[must_use]
    pub fn param(&self, index: usize) -> &str {
        self.params.get(index).map_or("", String::as_str)
    }

    /// A query parameter as a number, if it is there.
    ///
    /// # Errors
    /// It is not a whole number.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Refused> {
        let parse = |text: &String| {
            text.parse().map_err(|_| Refused::bad_request(format!("query parameter {name} must be a whole number")))
        };
        self.query.get(name).map(parse).transpose()
    }

    /// A query parameter as text; empty when it is not there.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Refused>> + Send>>;
type Handler = Arc<dyn Fn(Arc<App>, Call) -> Answer + Send + Sync>;
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One route.
pub struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    summary: &'static str,
    body_bytes_max: u64,
    request: Option<SchemaOf>,
    reply: Option<(StatusCode, SchemaOf)>,
    query: &'static [&'static str],
    hidden: bool,
    handler: Handler,
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Route {
    /// A route at `path`, whose segments in braces are parameters.
    pub fn new<F, Fut>(method: Method, path: &'static str, access: Access, summary: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<App>, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response, Refused>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |app, call| Box::pin(handler(app, call)));
        let (body_bytes_max, request, reply, query, hidden) = (0, None, None, &[] as &[&str], false);
        Self { method, path, access, summary, body_bytes_max, request, reply, query, hidden, handler }
    }

    /// The JSON that it takes.
    #[must_use]
    pub fn takes<T: JsonSchema>(mut self) -> Self {
        self.request = Some(schema_of::<T>);
        self.takes_bytes(forewarn_common::limit::JSON_BYTES_MAX)
    }

    /// How many bytes of body it takes.
    #[must_use]
    pub fn takes_bytes(mut self, max: u64) -> Self {
        self.body_bytes_max = max;
        self
    }

    /// The JSON that it replies with.
    #[must_use]
    pub fn gives<T: JsonSchema>(mut self, status: StatusCode) -> Self {
        self.reply = Some((status, schema_of::<T>));
        self
    }

    /// The query parameters that it reads.
    #[must_use]
    pub fn reads(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }

    /// Leaves it out of the console's document: it belongs to the agents' protocol.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Whether the path is this route's, whatever the method.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        self.params(path).is_some()
    }

    /// The path's parameters; `None` when it is not this route's.
    fn params(&self, path: &str) -> Option<Vec<String>> {
        let asked = path.strip_prefix('/').unwrap_or(path);
        let mut asked = asked.strip_suffix('/').unwrap_or(asked).split('/');
        let mut params = Vec::new();
        for own in segments(self.path) {
            let asked = asked.next()?;
            match own.starts_with('{') {
                true if !asked.is_empty() => params.push(asked.to_owned()),
                false if own == asked => {}
                _ => return None,
            }
        }
        asked.next().is_none().then_some(params)
    }

    async fn answer<B: Buf, E>(
        &self,
        app: &Arc<App>,
        mut call: Call,
        body: impl Stream<Item = Result<B, E>>,
    ) -> Response {
        let answer = async {
            app.admit(self.access, self.method == Method::GET, &mut call).await?;
            // The permit is taken before the body is read and held until the answer: that bounds memory.
            let _permit = app.permit(self.access)?;
            call.body = read_body(body, self.body_bytes_max).await?;
            (self.handler)(Arc::clone(app), call).await
        };
        answer.await.unwrap_or_else(Response::from)
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/').filter(|segment| !segment.is_empty())
}

async fn read_body<B: Buf, E>(body: impl Stream<Item = Result<B, E>>, max: u64) -> Result<Vec<u8>, Refused> {
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| Refused::bad_request("the body ended early"))?;
        if (bytes.len() + chunk.remaining()) as u64 > max {
            let detail = format!("the body is larger than {max} bytes, the limit of this route");
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail));
        }
        while chunk.has_remaining() {
            let part = chunk.chunk();
            bytes.extend_from_slice(part);
            let len = part.len();
            chunk.advance(len);
        }
    }
    Ok(bytes)
}

/// All routes as one filter that never rejects; `otherwise` answers what no route matches. One filter that looks the
/// route up, because warp's way, a filter a route each inside the other, costs every block more than reading it.
pub fn mount_all(
    routes: &Arc<Vec<Route>>,
    app: &Arc<App>,
    otherwise: fn(&[Route], &Method, &str) -> Response,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> {
    let (routes, app) = (Arc::clone(routes), Arc::clone(app));
    warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::body::stream())
        .then(move |method: Method, path: warp::path::FullPath, query: String, headers, peer, body| {
            let (routes, app) = (Arc::clone(&routes), Arc::clone(&app));
            async move {
                let of = |route: &'_ Route| if route.method == method { route.params(path.as_str()) } else { None };
                let Some((route, params)) = routes.iter().find_map(|route| Some((route, of(route)?))) else {
                    return otherwise(&routes, &method, path.as_str());
                };
                let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().take(32).collect();
                let now_ms = forewarn_common::clock::wall_ms();
                let (host, user) = (None, String::new());
                let call = Call { params, query, headers, body: Vec::new(), peer, now_ms, host, user };
                route.answer(&app, call, body).await
            }
        })
        .recover(|_| async { Ok::<_, Infallible>(Response::from(Refused::not_found("path"))) })
        .unify()
}

/// The OpenAPI document of the routes that are not hidden.
#[must_use]
pub fn openapi(routes: &[Route]) -> Value {
    let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
    let refusal = generator.subschema_for::<forewarn_common::wire::Refusal>();
    let mut paths: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for route in routes.iter().filter(|route| !route.hidden) {
        let mut parameters = Vec::new();
        for name in segments(route.path).filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')) {
            parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
        }
        for name in route.query {
            parameters.push(json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
        }
        let content = |schema: &Schema| json!({ "application/json": { "schema": schema } });
        let mut responses = BTreeMap::new();
        responses.insert("default".to_owned(), json!({ "description": "refused", "content": content(&refusal) }));
        if let Some((status, reply)) = route.reply {
            let schema = reply(&mut generator);
            responses.insert(status.as_str().to_owned(), json!({ "description": "done", "content": content(&schema) }));
        }
        let mut operation = json!({ "summary": route.summary, "parameters": parameters, "responses": responses });
        if let Some(request) = route.request {
            let schema = request(&mut generator);
            operation["requestBody"] = json!({ "required": true, "content": content(&schema) });
        }
        if route.access == Access::User {
            operation["security"] = json!([{ "session": [] }]);
        }
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Forewarn",
            "version": "1",
            "description": "Times are unix milliseconds, shares of one are ratios. Requests other than GET carry the header `forewarn-console: 1`.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "session": { "type": "apiKey", "in": "cookie", "name": super::auth::COOKIE } },
        },
    })
}
