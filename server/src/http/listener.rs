//! The edge: accepts connections, holds them to their limits, speaks TLS, hands requests to the routes and ends
//! gracefully. warp has no limits and no TLS of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forewarn_common::limit;
use forewarn_common::wire::PushReply;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use warp::Filter;

use super::reply::json;

/// A peer that has not finished its handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A request's head must be there by then; also how long a kept-alive connection may idle.
const HEADER_READ: Duration = Duration::from_secs(90);
/// How long open requests may take to end once the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of one connection's read buffer: a head must fit.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Who asks, and over what.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Where from.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Serves `routes` on `listener` until `stop` turns true, then lets open requests end.
pub async fn serve<F>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    routes: F,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) where
    F: Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let permits = Arc::new(Semaphore::new(connections_max));
    let acceptor = tls.map(TlsAcceptor::from);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer has gone: wait a moment rather than spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(%address, connections_max, "a connection was refused: limits.connections_max is reached");
            continue;
        };
        let peer = Peer { address, tls: acceptor.is_some() };
        let (acceptor, routes, watcher) = (acceptor.clone(), routes.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            match acceptor {
                None => converse(TokioIo::new(stream), peer, routes, watcher).await,
                Some(acceptor) => {
                    if let Some(stream) = handshake(acceptor, stream, address).await {
                        converse(TokioIo::new(stream), peer, routes, watcher).await;
                    }
                }
            }
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}

/// Takes every request and looks at none: what the same listener costs without a server behind it, for the benches.
#[expect(clippy::disallowed_methods, reason = "the length is limited before it")]
pub async fn serve_nothing(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    connections_max: usize,
    stop: watch::Receiver<bool>,
) {
    let answer = |body: hyper::body::Bytes| {
        json(StatusCode::OK, &PushReply { now_ms: body.len() as i64, ..PushReply::default() })
    };
    let routes = warp::body::content_length_limit(limit::BLOCK_BYTES_MAX as u64)
        .and(warp::body::bytes())
        .map(answer)
        .recover(|_| async { Ok::<_, Infallible>(warp::reply::Response::default()) })
        .unify();
    serve(listener, Some(tls), routes, connections_max, stop).await;
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a TLS handshake took too long");
            None
        }
    }
}

async fn converse<I, F>(io: I, peer: Peer, routes: F, watcher: hyper_util::server::graceful::Watcher)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    F: Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let service = TowerToHyperService::new(warp::service(routes));
    let with_peer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let answer = hyper::service::Service::call(&service, request);
        // hyper keeps room for this future as long as the connection lasts, and most of the time nobody asks.
        Box::pin(async move { answer.await.map(sealed) })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, with_peer);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(address = %peer.address, %error, "a connection ended early");
    }
}

/// Headers that every answer carries.
fn sealed<B>(mut response: Response<B>) -> Response<B> {
    const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
    let headers = [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    response
}
