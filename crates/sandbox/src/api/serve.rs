//! HTTPS for the API.

use std::net::SocketAddr;
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
use super::gate::Gate;
use super::pki::Pki;
use crate::network::Network;

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
        if let Some(stream) = accept(&listener).await {
            tokio::spawn(connection(stream, acceptor.clone(), server.clone(), Gate::default()));
        }
    }
}

/// Accepts pods' connections on an address of the cluster, for as long as the API is not away. Never returns.
pub(super) async fn serve_pods(
    mut listener: TcpListener,
    network: Arc<Network>,
    acceptor: TlsAcceptor,
    server: Server,
    gate: Gate,
) {
    let Ok(address) = listener.local_addr() else { return };
    let SocketAddr::V4(address) = address else { return };
    loop {
        gate.set_listening(true);
        loop {
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                () = gate.until_away(true) => break,
            };
            if let Some(stream) = stream {
                let connection = connection(stream, acceptor.clone(), server.clone(), gate.clone());
                let gate = gate.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = gate.until_away(true) => {}
                    }
                });
            }
        }
        // Without a listener the kernel refuses connections, as it does for a server that is not there.
        drop(listener);
        gate.set_listening(false);
        gate.until_away(false).await;
        listener = loop {
            match network.listen(*address.ip(), address.port()).await.map(TcpListener::from_std) {
                Ok(Ok(listener)) => break listener,
                Ok(Err(error)) => tracing::warn!("listening again: {error}"),
                Err(error) => tracing::warn!("listening again: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
    }
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            tracing::warn!("accepting: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, server: Server, gate: Gate) {
    let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await else { return };
    // The authority signs one client certificate only, and only such certificates get through the handshake.
    let certified = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
    // Where the certificate tells nobody, a token may: the server looks at that.
    let identity = if certified { Identity::administrator() } else { Identity::anonymous() };
    let router = server.router();
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(identity.clone());
        let (router, gate) = (router.clone(), gate.clone());
        async move {
            let delay = gate.state().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            router.oneshot(request.map(axum::body::Body::new)).await
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(250);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!("connection: {error}");
    }
}
