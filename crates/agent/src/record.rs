//! What a member may do without being told: databases come back although the operator is away.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use topology::member::{Phase, Volume};
use topology::record::Record;

use crate::Shared;

/// With no decision for so long, the holder's agent starts it as primary. The only member of a topology does so at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the record.
const EVERY: Duration = Duration::from_secs(10);

/// Starts the server of the record's holder when nobody decides.
pub(crate) async fn start_without_decision(shared: Arc<Shared>) {
    if !matches!(shared.state.now().volume, Volume::Data { .. }) {
        return;
    }
    tokio::time::sleep(if shared.config.single_member { Duration::ZERO } else { PATIENCE }).await;
    loop {
        let state = shared.state.now();
        let Volume::Data { data_id } = state.volume else { return };
        if state.phase != Phase::Waiting {
            return;
        }
        match record(&shared).await {
            Ok(record) if record.holder.as_ref().is_some_and(|holder| holder.data_id == data_id) => {
                tracing::info!("no decision: the record names this data as the holder; starting as primary");
                match open(&shared).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(error, "not started"),
                }
            }
            Ok(_) => tracing::info!("no decision, and the record names another holder: waiting"),
            Err(error) => tracing::warn!(error, "no decision, and the record cannot be read: waiting"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn record(shared: &Shared) -> Result<Record, String> {
    let client = tokio::time::timeout(Duration::from_secs(5), Client::try_default())
        .await
        .map_err(|_| "no client in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let leases: Api<Lease> = Api::namespaced(client, &shared.me.namespace);
    let lease = tokio::time::timeout(Duration::from_secs(5), leases.get(&shared.config.lease))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    Record::parse(holder.as_deref(), |key| annotations.get(key).map(String::as_str)).map_err(|e| e.to_string())
}

/// Starts the server and opens it, unless a decision comes in between.
async fn open(shared: &Arc<Shared>) -> Result<(), String> {
    let stamp = shared.stamps.highest();
    shared.server.start(shared).await.map_err(|phase| {
        let text = format!("{phase:?}");
        shared.state.update(|state| state.phase = phase);
        text
    })?;
    let mut state = shared.state.subscribe();
    let running = state.wait_for(|state| matches!(state.phase, Phase::Running | Phase::Failed { .. }));
    tokio::time::timeout(Duration::from_secs(600), running)
        .await
        .map_err(|_| "still starting".to_owned())?
        .map_err(|e| e.to_string())?;
    if shared.stamps.highest() != stamp {
        return Ok(());
    }
    let mut session = sql::Session::open(&crate::state::target(shared)).await.map_err(|e| e.to_string())?;
    session.open_for_writes().await.map_err(|e| e.to_string())
}
