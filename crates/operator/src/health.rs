//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::RunError;

/// Port of the health endpoints.
pub(crate) const PORT: u16 = 8081;

/// How the operator is.
#[derive(Debug, Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Serves on all addresses, in the background.
    pub(crate) async fn serve(&self, port: u16) -> Result<(), RunError> {
        let listener = match TcpListener::bind(("::", port)).await {
            Ok(listener) => listener,
            // No IPv6 here.
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(|source| RunError::Listen { port, source })?,
        };
        let ready = Arc::clone(&self.ready);
        let readiness = async move || {
            if ready.load(Ordering::Relaxed) {
                (StatusCode::OK, "ready")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "starting")
            }
        };
        let router = Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(readiness));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the health endpoints ended");
            }
        });
        Ok(())
    }
}
