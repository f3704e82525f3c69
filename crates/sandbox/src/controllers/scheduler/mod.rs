//! Nodes for pods: what a node refuses is counted, what it offers is scored, the best takes the pod.

mod fit;
mod score;

pub(super) use fit::{tolerates, volume_reaches};

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::caches::Caches;
use super::pods::{is_going, is_over};
use super::{Sweep, is_conflict, tolerate};
use crate::events::{Recorder, reference};

const COMPONENT: &str = "default-scheduler";

pub(super) struct Scheduler {
    client: Client,
    recorder: Recorder,
    /// What was said last of a pod that does not fit, by UID.
    said: BTreeMap<String, String>,
    /// Bound in a sweep, not yet seen so: their resources are taken.
    bound: BTreeMap<String, (Arc<Pod>, String)>,
}

/// What scheduling looks at: nodes, and the pods on them.
pub(super) struct World {
    pub(super) nodes: Vec<Arc<Node>>,
    /// Pods with their node's name.
    pub(super) placed: Vec<(Arc<Pod>, String)>,
}

impl World {
    pub(super) fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.placed.iter().filter(move |(_, on)| on == node).map(|(pod, _)| pod)
    }

    pub(super) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.name_any() == name)
    }
}

impl Scheduler {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, said: BTreeMap::new(), bound: BTreeMap::new() }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<bool, kube::Error> {
        let name = pod.name_any();
        let namespace = pod.namespace().unwrap_or_default();
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        match self.client.request_text(request).await {
            Ok(_) => {
                let text = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.record(reference(pod), COMPONENT, "", false, "Scheduled", text);
                Ok(true)
            }
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says why a pod stays where it is, once.
    async fn refuse(&mut self, pod: &Pod, message: String) -> Result<(), kube::Error> {
        let uid = pod.uid().unwrap_or_default();
        if self.said.get(&uid) == Some(&message) {
            return Ok(());
        }
        self.recorder.record(reference(pod), COMPONENT, "", true, "FailedScheduling", message.clone());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now());
        let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                                "lastTransitionTime": now });
        let patch =
            json!({ "metadata": { "uid": pod.uid() }, "status": { "phase": "Pending", "conditions": [condition] } });
        tolerate(api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        self.said.insert(uid, message);
        Ok(())
    }
}

impl Sweep for Scheduler {
    const NAME: &'static str = COMPONENT;

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let pods = caches.pods.state();
        self.bound.retain(|uid, _| pods.iter().any(|pod| pod.uid().as_ref() == Some(uid) && node_of(pod).is_none()));
        self.said.retain(|uid, _| pods.iter().any(|pod| pod.uid().as_ref() == Some(uid) && node_of(pod).is_none()));
        let mut world = World {
            nodes: caches.nodes.state(),
            placed: pods
                .iter()
                .filter(|pod| !is_over(pod))
                .filter_map(|pod| Some((Arc::clone(pod), node_of(pod)?.to_owned())))
                .chain(self.bound.values().cloned())
                .collect(),
        };
        let mut waiting: Vec<_> =
            pods.iter().filter(|pod| waits(pod) && !self.bound.contains_key(&pod.uid().unwrap_or_default())).collect();
        waiting.sort_by_key(|pod| (pod.creation_timestamp().map(|t| t.0), pod.name_any()));
        let mut result = Ok(());
        for pod in waiting {
            let nodes = world.nodes.len();
            if let Some(message) = fit::claims(pod, caches) {
                let message = format!("0/{nodes} nodes are available: {message}.");
                result = self.refuse(pod, message).await.and(result);
                continue;
            }
            let mut refused: BTreeMap<String, usize> = BTreeMap::new();
            let mut fitting = Vec::new();
            for node in &world.nodes {
                match fit::refusal(pod, node, &world).or_else(|| fit::volume_elsewhere(pod, node, caches)) {
                    None => fitting.push(node.name_any()),
                    Some(why) => *refused.entry(why).or_default() += 1,
                }
            }
            let Some(best) = score::best(pod, &fitting, &world) else {
                let why: Vec<_> = refused.iter().map(|(why, count)| format!("{count} {why}")).collect();
                let message = match nodes {
                    0 => "no nodes available to schedule pods".to_owned(),
                    _ => format!("0/{nodes} nodes are available: {}.", why.join(", ")),
                };
                result = self.refuse(pod, message).await.and(result);
                continue;
            };
            match self.bind(pod, &best).await {
                Ok(true) => {
                    world.placed.push((Arc::clone(pod), best.clone()));
                    self.bound.insert(pod.uid().unwrap_or_default(), (Arc::clone(pod), best));
                }
                Ok(false) => {}
                // The others are not to wait for this one.
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn waits(pod: &Pod) -> bool {
    let gated =
        pod.spec.as_ref().is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()));
    node_of(pod).is_none() && !is_going(pod) && !is_over(pod) && !gated
}
