//! The controllers: *resources* keeps what belongs to each `MariaDB` object as it should be, *replication* decides about
//! topologies. Both read from the same caches; one never waits for the other.

pub mod context;
mod events;
mod health;
mod leader;
mod metrics;
mod releases;
pub mod replication;
pub mod resources;
mod watches;

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use context::{Context, Settings};
pub use events::Events;
pub use health::Health;
pub use metrics::Metrics;
pub use releases::Releases;

/// How long the loops may take to end when the operator is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A variable of the environment is missing.
    #[error("the environment variable {0} is missing: the operator runs as a pod (deploy/install.yaml)")]
    Environment(&'static str),
    /// There is no way to the API server.
    #[error("no way to the API server: {0}")]
    Client(String),
    /// The health port is taken.
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// Another pod leads.
    #[error("another pod leads now: {holder}")]
    LeadershipLost {
        /// It.
        holder: String,
    },
}

/// Runs as the operator's process.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(told_to_stop(stop.clone()));
        let settings = Settings::from_environment()?;
        let client = kube::Client::try_default().await.map_err(|error| RunError::Client(error.to_string()))?;
        let health = Health::default();
        health.serve(health::PORT).await?;
        let metrics = Metrics::default();
        metrics.serve(metrics::PORT).await?;
        run_counting(client, settings, health, metrics, stop).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop");
    stop.cancel();
}

/// Runs the controllers until `stop`, or until another pod leads.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    health: Health,
    stop: CancellationToken,
) -> Result<(), RunError> {
    run_counting(client, settings, health, Metrics::default(), stop).await
}

async fn run_counting(
    client: kube::Client,
    settings: Settings,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let events = Events::new(client.clone(), "mariadb-operator", &settings.pod_name);
    // Standing by is healthy too.
    health.set_ready();
    let lost = match &settings.election {
        None => None,
        Some(me) => match leader::lead(&client, me, &stop).await {
            Some(lost) => Some(lost),
            None => return Ok(()),
        },
    };
    let (caches, changed) = watches::start(&client);
    let context = Context::new(client, settings, caches, events);
    tokio::select! {
        () = context.caches.synced() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(objects = context.caches.objects.len(), "caches are filled");

    let replication = replication::Inputs {
        client: context.client.clone(),
        objects: context.caches.objects.clone(),
        pods: context.caches.pods.clone(),
        claims: context.caches.claims.clone(),
        leases: context.caches.leases.clone(),
        services: context.caches.services.clone(),
        nodes: context.caches.nodes.clone(),
        changed,
        events: context.events.clone(),
        metrics,
        releases: context.releases.clone(),
        wake: {
            let caches = context.caches.clone();
            std::sync::Arc::new(move |namespace: &str, object: &str| {
                caches.wake(&(namespace.to_owned(), object.to_owned()));
            })
        },
    };
    let loops = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(replication::run(replication, loops.clone()));
    tasks.spawn(resources::run(context, loops.clone()));
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        holder = leader::until_lost(lost) => Err(RunError::LeadershipLost { holder }),
        // A loop ends only when the caches do.
        _ = tasks.join_next() => Err(RunError::Client("the caches ended".to_owned())),
    };
    loops.cancel();
    let _ = tokio::time::timeout(STOP_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
    result
}
