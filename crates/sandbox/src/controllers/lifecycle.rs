//! Nodes that fall silent are not ready; nodes that are not ready are tainted, their pods not ready, and evicted once nothing tolerates it any longer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

use super::caches::Caches;
use super::pods::{is_going, is_over, is_ready};
use super::scheduler::{node_of, tolerates};
use super::{Sweep, tolerate};
use crate::events::{Recorder, reference};
use crate::network::links::LinkTable;
use crate::node::heartbeat::LEASES;
use crate::pace::Pace;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// What the admission of a pod would add: an unready node is tolerated so long.
const DEFAULT_TOLERATION: i64 = 300;

/// What a node's status says of itself, and what is unknown once it is silent.
const KNOWN_BY_THE_NODE: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

pub(super) struct Nodes {
    client: Client,
    recorder: Recorder,
    pace: Pace,
    links: watch::Receiver<LinkTable>,
    /// The latest renewal of each node's lease, and when it was noticed here: clocks may jump.
    renewals: BTreeMap<String, (Option<jiff::Timestamp>, Instant)>,
    /// When the leases were read.
    looked: Option<Instant>,
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
    pub(super) fn new(client: Client, recorder: Recorder, pace: Pace, links: watch::Receiver<LinkTable>) -> Self {
        let (renewals, since) = (BTreeMap::new(), BTreeMap::new());
        Self { client, recorder, pace, links, renewals, looked: None, since }
    }

    /// Notes which nodes have renewed their leases.
    async fn look(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let now = Instant::now();
        if self.looked.is_some_and(|last| now.duration_since(last) < self.idle()) {
            return Ok(());
        }
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let leases = leases.list(&ListParams::default()).await?;
        self.looked = Some(now);
        // Nobody can renew a lease while the API is away: that is no news of the node.
        let away = self.links.borrow().api_away;
        self.renewals.retain(|name, _| caches.nodes.find(|node| node.name_any() == *name).is_some());
        for node in caches.nodes.state() {
            let name = node.name_any();
            let lease = leases.iter().find(|lease| lease.name_any() == name);
            let renewal = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
            let entry = self.renewals.entry(name).or_insert((renewal, now));
            if away || entry.0 != renewal {
                *entry = (renewal, now);
            }
        }
        Ok(())
    }

    fn is_silent(&self, node: &str) -> bool {
        self.renewals.get(node).is_some_and(|(_, seen)| seen.elapsed() > self.pace.node_grace)
    }

    /// Writes that nothing is known of a node which was silent for too long.
    async fn mark(&mut self, caches: &Caches, node: &Node) -> Result<bool, kube::Error> {
        let name = node.name_any();
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let unknown = conditions.clone().any(|c| c.type_ == "Ready" && c.status == "Unknown");
        if unknown || !self.is_silent(&name) {
            return Ok(false);
        }
        // It may have come back since the last look, and its status with it.
        self.looked = None;
        self.look(caches).await?;
        if !self.is_silent(&name) {
            return Ok(false);
        }
        let now = Time(jiff::Timestamp::now());
        let conditions: Vec<_> = KNOWN_BY_THE_NODE
            .iter()
            .map(|kind| {
                json!({ "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": now,
                        "message": "Kubelet stopped posting node status." })
            })
            .collect();
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = json!({ "metadata": { "resourceVersion": node.resource_version() },
                            "status": { "conditions": conditions } });
        let text = format!("Node {name} status is now: NodeNotReady");
        self.recorder.record(reference(node), "node-controller", "", false, "NodeNotReady", text);
        tolerate(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        Ok(true)
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
                    let time_added = (effect == "NoExecute").then(|| Time(jiff::Timestamp::now()));
                    taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
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
                      "lastTransitionTime": Time(jiff::Timestamp::now()) } ] } });
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

    fn idle(&self) -> Duration {
        self.pace.heartbeat / 4
    }

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        self.look(caches).await?;
        for node in caches.nodes.state() {
            // What was written now is seen in the next sweep.
            if self.mark(caches, &node).await? {
                continue;
            }
            if let Some(taint) = self.taint(&node).await? {
                self.pods_of(caches, &node, taint).await?;
            }
        }
        Ok(())
    }
}
