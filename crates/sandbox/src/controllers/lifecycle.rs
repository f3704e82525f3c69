//! Nodes that are not ready: tainted, their pods not ready, and evicted once nothing tolerates it any longer.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::caches::Caches;
use super::pods::{is_going, is_over, is_ready};
use super::scheduler::{node_of, tolerates};
use super::{Sweep, tolerate};
use crate::events::{Recorder, reference};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// What the admission of a pod would add: an unready node is tolerated so long.
const DEFAULT_TOLERATION: i64 = 300;

pub(super) struct Nodes {
    client: Client,
    recorder: Recorder,
    /// Since when a node is not ready.
    since: BTreeMap<String, Instant>,
}

/// The taint that the Ready condition calls for.
fn called_for(node: &Node) -> Option<&'static str> {
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    match ready.map(|condition| condition.status.as_str()) {
        Some("True") => None,
        Some("False") | None => Some(NOT_READY),
        Some(_) => Some(UNREACHABLE),
    }
}

impl Nodes {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, since: BTreeMap::new() }
    }

    async fn taint(&mut self, node: &Node) -> Result<Option<&'static str>, kube::Error> {
        let wanted = called_for(node);
        let name = node.name_any();
        match wanted {
            Some(_) => {
                self.since.entry(name.clone()).or_insert_with(Instant::now);
            }
            None => {
                self.since.remove(&name);
            }
        }
        let given = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let ours = |taint: &Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
        let mut taints: Vec<_> =
            given.iter().filter(|taint| !ours(taint) || Some(taint.key.as_str()) == wanted).cloned().collect();
        if let Some(key) = wanted {
            for effect in ["NoSchedule", "NoExecute"] {
                if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
                    taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added: None });
                }
            }
        }
        if taints != given {
            let api: Api<Node> = Api::all(self.client.clone());
            let patch = json!({ "metadata": { "resourceVersion": node.resource_version() },
                                "spec": { "taints": taints } });
            tolerate(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        Ok(wanted)
    }

    async fn pods_of(&self, caches: &Caches, node: &Node, taint: &str) -> Result<(), kube::Error> {
        let name = node.name_any();
        let lasting =
            self.since.get(&name).map_or(0, |since| i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX));
        for pod in caches.pods.state() {
            if node_of(&pod) != Some(&name) || is_over(&pod) {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            if is_ready(&pod) {
                let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [
                    { "type": "Ready", "status": "False", "reason": "NodeNotReady",
                      "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()) } ] } });
                tolerate(api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
                self.recorder.record(
                    reference(&*pod),
                    "node-controller",
                    "",
                    true,
                    "NodeNotReady",
                    "Node is not ready".into(),
                );
            }
            let wanted = Taint { key: taint.into(), effect: "NoExecute".into(), ..Taint::default() };
            let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
            let limits: Vec<_> = tolerations.filter(|t| tolerates(t, &wanted)).map(|t| t.toleration_seconds).collect();
            let limit = match limits.as_slice() {
                [] => Some(DEFAULT_TOLERATION),
                all if all.contains(&None) && all.len() == 1 => None,
                all => all.iter().flatten().min().copied(),
            };
            if limit.is_some_and(|limit| lasting >= limit) && !is_going(&pod) {
                self.recorder.record(
                    reference(&*pod),
                    "taint-eviction-controller",
                    "",
                    false,
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                );
                tolerate(api.delete(&pod.name_any(), &DeleteParams::default()).await)?;
            }
        }
        Ok(())
    }
}

impl Sweep for Nodes {
    const NAME: &'static str = "node-lifecycle-controller";

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        for node in caches.nodes.state() {
            if let Some(taint) = self.taint(&node).await? {
                self.pods_of(caches, &node, taint).await?;
            }
        }
        Ok(())
    }
}
