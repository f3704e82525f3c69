//! What the operator counts, in Prometheus' text format on a port of its own.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use crate::RunError;

/// Port of `/metrics`.
pub(crate) const PORT: u16 = 8080;

/// A topology.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OfTopology {
    pub(crate) namespace: String,
    pub(crate) topology: String,
}

/// A topology, and what came of a change of its primary.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OfChange {
    pub(crate) namespace: String,
    pub(crate) topology: String,
    /// `Done` or `RolledBack`.
    pub(crate) outcome: &'static str,
}

/// A topology, and the name of a refusal.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OfRefusal {
    pub(crate) namespace: String,
    pub(crate) topology: String,
    pub(crate) reason: &'static str,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    pub(crate) failovers: Family<OfChange, Counter>,
    pub(crate) switchovers: Family<OfChange, Counter>,
    pub(crate) refusals: Family<OfRefusal, Counter>,
    pub(crate) without_primary: Family<OfTopology, Counter<f64, AtomicU64>>,
    pub(crate) writable: Family<OfTopology, Gauge>,
    pub(crate) writes_down: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mariadb_operator");
        let metrics = Self {
            failovers: Family::default(),
            switchovers: Family::default(),
            refusals: Family::default(),
            without_primary: Family::default(),
            writable: Family::default(),
            writes_down: Histogram::new([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0]),
            registry: Arc::default(),
        };
        registry.register("failovers", "Unplanned changes of primary that are over, by what came of them", {
            metrics.failovers.clone()
        });
        registry.register("switchovers", "Planned changes of primary that are over, by what came of them", {
            metrics.switchovers.clone()
        });
        registry.register("refusals", "Times that something was refused anew, by the name of the refusal", {
            metrics.refusals.clone()
        });
        registry.register_with_unit(
            "without_writable_primary",
            "Time for which a topology that once had a primary had none that was open for writes",
            Unit::Seconds,
            metrics.without_primary.clone(),
        );
        registry.register("primary_writable", "Whether the topology's primary is open for writes: 1 or 0", {
            metrics.writable.clone()
        });
        registry.register_with_unit(
            "change_writes_down",
            "How long writes were not possible, for each change of primary",
            Unit::Seconds,
            metrics.writes_down.clone(),
        );
        Self { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }
}

impl Metrics {
    /// Forgets a topology that is gone.
    pub(crate) fn forget(&self, of: &OfTopology) {
        self.without_primary.remove(of);
        self.writable.remove(of);
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }

    /// Serves on all addresses, in the background.
    pub(crate) async fn serve(&self, port: u16) -> Result<(), RunError> {
        let listener = match TcpListener::bind(("::", port)).await {
            Ok(listener) => listener,
            // No IPv6 here.
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(|source| RunError::Listen { port, source })?,
        };
        let metrics = self.clone();
        let answer = async move || match metrics.text() {
            Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        };
        let router = Router::new().route("/metrics", get(answer));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the metrics ended");
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units() {
        let metrics = Metrics::default();
        let of = OfTopology { namespace: "ns".into(), topology: "db".into() };
        metrics.without_primary.get_or_create(&of).inc_by(0.5);
        let change = OfChange { namespace: "ns".into(), topology: "db".into(), outcome: "Done" };
        metrics.failovers.get_or_create(&change).inc();
        let text = metrics.text().expect("text");
        for line in [
            r#"mariadb_operator_without_writable_primary_seconds_total{namespace="ns",topology="db"} 0.5"#,
            r#"mariadb_operator_failovers_total{namespace="ns",topology="db",outcome="Done"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.forget(&of);
        assert!(!metrics.text().expect("text").contains("primary_seconds_total{"));
    }
}
