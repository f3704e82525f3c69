//! Draining a node as `kubectl drain` does: no new pods, and every pod evicted, which its `PodDisruptionBudget` may delay.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

/// A node that was not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// No such node.
    #[error("no node is called {0:?}")]
    UnknownNode(String),
    /// Pods are still there.
    #[error("not drained within {limit:?}: {left}")]
    Late {
        /// The time given.
        limit: Duration,
        /// What is left and why.
        left: String,
    },
    /// The API.
    #[error("{0}")]
    Api(Box<kube::Error>),
}

fn api(error: kube::Error) -> DrainError {
    DrainError::Api(Box::new(error))
}

/// Makes a node take no new pods, or take them again.
pub async fn cordon(client: &Client, node: &str, unschedulable: bool) -> Result<(), DrainError> {
    let patch = json!({ "spec": { "unschedulable": unschedulable } });
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(DrainError::UnknownNode(node.to_owned())),
        Err(error) => Err(api(error)),
    }
}

/// Whether a drain leaves a pod alone: daemons come back at once, and what has ended holds nothing up.
fn stays(pod: &Pod) -> bool {
    let daemon = pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet");
    let over = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
    daemon || over
}

/// Cordons a node and evicts its pods; returns when they are gone. An eviction that a budget refuses is tried again until
/// `limit` is over. `tell` hears of each step.
pub async fn drain(client: &Client, node: &str, limit: Duration, mut tell: impl FnMut(&str)) -> Result<(), DrainError> {
    cordon(client, node, true).await?;
    tell(&format!("node {node} cordoned"));
    let deadline = Instant::now() + limit;
    let mine = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    let mut evicted: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let pods = Api::<Pod>::all(client.clone()).list(&mine).await.map_err(api)?;
        let left: Vec<Pod> = pods.items.into_iter().filter(|pod| !stays(pod)).collect();
        for pod in &left {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            if pod.metadata.deletion_timestamp.is_some() || evicted.contains_key(&pod.uid().unwrap_or_default()) {
                continue;
            }
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            // The client itself would try again many times where it is refused.
            let parameters = EvictParams::default();
            match tokio::time::timeout(Duration::from_secs(2), pods.evict(&name, &parameters)).await {
                Ok(Ok(_)) => {
                    tell(&format!("pod {namespace}/{name} evicted"));
                    refused.remove(&name);
                    evicted.insert(pod.uid().unwrap_or_default(), name);
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
                    let why = status.message.clone();
                    if refused.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                        tell(&format!("pod {namespace}/{name} stays for now: {why}"));
                    }
                }
                Ok(Err(error)) => return Err(api(error)),
                Err(_) => {
                    let why = "its PodDisruptionBudget does not allow it".to_owned();
                    if refused.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                        tell(&format!("pod {namespace}/{name} stays for now: {why}"));
                    }
                }
            }
        }
        if left.is_empty() {
            tell(&format!("node {node} drained"));
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = |pod: &Pod| {
                let name = pod.name_any();
                let why = refused.get(&name).map_or("still ending", String::as_str);
                format!("{}/{name}: {why}", pod.namespace().unwrap_or_default())
            };
            return Err(DrainError::Late { limit, left: left.iter().map(why).collect::<Vec<_>>().join("; ") });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
