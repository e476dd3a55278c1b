//! A server that takes every request and looks at none: the same listener, TLS and HTTP, an answer of the usual length,
//! nothing stored. What `load --preloaded` costs it, no server built on them can go below.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use forewarn_server::http::listener;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Args)]
pub(crate) struct Floor {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) async fn floor(args: Floor) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["forewarn.site".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let (_stop, stopped) = watch::channel(false);
    let listening = TcpListener::bind(args.listen).await?;
    listener::serve_nothing(listening, Arc::new(tls), usize::from(u16::MAX), stopped).await;
    Ok(())
}
