//! The nodes' signs of life: a Lease for each, renewed while the node reaches the API, and a status that says so again
//! after somebody has written otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::register::{apply, node_status};
use crate::network::links::Links;
use crate::pace::Pace;

/// Namespace of the nodes' leases.
pub(crate) const LEASES: &str = "kube-node-lease";

/// Keeps the leases fresh. Never returns.
pub(crate) async fn run(client: Client, links: Arc<Links>, nodes: BTreeMap<String, Ipv4Addr>, pace: Pace) {
    let mut changes = links.subscribe();
    loop {
        let reaching: BTreeSet<&String> = nodes.keys().filter(|name| links.reaches_api(name)).collect();
        for (name, address) in nodes.iter().filter(|(name, _)| reaching.contains(name)) {
            if let Err(error) = beat(&client, name, *address, pace).await {
                tracing::debug!("heartbeat of {name}: {error}");
            }
        }
        // A node that is back says so at once.
        tokio::select! {
            () = tokio::time::sleep(pace.heartbeat) => {}
            _ = changes.wait_for(|t| nodes.keys().any(|name| t.reaches_api(name) && !reaching.contains(name))) => {}
        }
    }
}

async fn beat(client: &Client, name: &str, address: Ipv4Addr, pace: Pace) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let renewal = json!({ "spec": { "renewTime": now } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&renewal)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
                "spec": { "holderIdentity": name, "leaseDurationSeconds": pace.node_grace.as_secs(), "renewTime": now },
            });
            api.patch(name, &apply(), &Patch::Apply(lease)).await?;
        }
        other => drop(other?),
    }
    let api: Api<Node> = Api::all(client.clone());
    let Some(node) = api.get_opt(name).await? else { return Ok(()) };
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    if ready.is_none_or(|c| c.status != "True") {
        let status = json!({ "status": node_status(name, address) });
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    }
    Ok(())
}
