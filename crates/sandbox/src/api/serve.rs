//! HTTPS for the API.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{Identity, Server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::ApiError;
use super::pki::Pki;

/// TLS with optional certificates of clients.
pub(super) fn acceptor(pki: &Pki) -> Result<TlsAcceptor, ApiError> {
    let failed = |e: &dyn std::fmt::Display| ApiError(format!("TLS: {e}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in pki.authority.chain()? {
        roots.add(certificate).map_err(|e| failed(&e))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(pki.server.chain()?, pki.server.private_key()?)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections. Never returns.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, server: Server) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(connection(stream, acceptor.clone(), server.clone()));
            }
            Err(error) => {
                tracing::warn!("accepting: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, server: Server) {
    let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await else { return };
    // The authority signs one client certificate only, and only such certificates get through the handshake.
    let certified = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
    // Where the certificate tells nobody, a token may: the server looks at that.
    let identity = if certified { Identity::administrator() } else { Identity::anonymous() };
    let router = server.router();
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(identity.clone());
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(250);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!("connection: {error}");
    }
}
