//! Deployments and their ReplicaSets: enough to roll a stateless program from one template to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::caches::Caches;
use super::pods::{self, controlled_by, is_controlled_by, is_going, is_over, is_ready};
use super::{Sweep, status_patch, tolerate};
use crate::events::{Recorder, reference};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) struct Deployments {
    client: Client,
    recorder: Recorder,
    /// Pods made and not yet seen, by UID of the ReplicaSet.
    expected: BTreeMap<String, BTreeSet<String>>,
}

impl Deployments {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, expected: BTreeMap::new() }
    }

    async fn deployment(&self, caches: &Caches, deployment: &Deployment) -> Result<(), kube::Error> {
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let spec = &deployment.spec;
        let namespace = deployment.namespace().unwrap_or_default();
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
        let uid = deployment.uid().unwrap_or_default();
        let own: Vec<_> =
            caches.replica_sets.state().into_iter().filter(|set| is_controlled_by(&set.metadata, &uid)).collect();
        let hash = pods::hash(&spec.template);
        let wanted = spec.replicas.unwrap_or(1);
        let current = own.iter().find(|set| set.labels().get(HASH) == Some(&hash));
        let number = |set: &Arc<ReplicaSet>| {
            set.annotations().get(REVISION).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0)
        };
        let Some(current) = current else {
            let revision = own.iter().map(number).max().unwrap_or(0) + 1;
            let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
            let first = own.is_empty() && !recreate;
            let set = replica_set(deployment, &hash, revision, if first { wanted } else { 0 });
            tolerate(sets.create(&PostParams::default(), &set).await)?;
            if revision > 1 || deployment.annotations().get(REVISION).is_none() {
                self.note_revision(deployment, revision).await?;
            }
            return Ok(());
        };
        self.roll(deployment, &sets, current, &own, wanted).await?;
        self.status(caches, deployment, current, &own, wanted).await
    }

    async fn note_revision(&self, deployment: &Deployment, revision: i64) -> Result<(), kube::Error> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
        let patch =
            json!({ "metadata": { "uid": deployment.uid(), "annotations": { REVISION: revision.to_string() } } });
        tolerate(api.patch(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await).map(drop)
    }

    /// New pods within the surge, old ones gone as new ones become ready.
    async fn roll(
        &self,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        current: &Arc<ReplicaSet>,
        own: &[Arc<ReplicaSet>],
        wanted: i32,
    ) -> Result<(), kube::Error> {
        let strategy = deployment.spec.strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let surge = share(rolling.and_then(|r| r.max_surge.as_ref()), wanted, true);
        let unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted, false);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let size = |set: &ReplicaSet| set.spec.replicas.unwrap_or(0);
        let pods = |set: &ReplicaSet| set.status.as_ref().map_or(0, |s| s.replicas);
        let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let old: Vec<_> = own.iter().filter(|set| set.uid() != current.uid() && size(set) > 0).collect();
        let old_size: i32 = old.iter().map(|set| size(set)).sum();
        let old_pods: i32 = own.iter().filter(|set| set.uid() != current.uid()).map(|set| pods(set)).sum();

        let target = if recreate {
            if old_pods > 0 { size(current) } else { wanted }
        } else {
            wanted.min((wanted + surge - old_size).max(size(current)))
        };
        if target != size(current) {
            self.scale(deployment, sets, current, target).await?;
        }
        let total_ready: i32 = own.iter().map(|set| ready(set)).sum();
        let mut may_go = if recreate { old_size } else { total_ready - (wanted - unavailable) };
        for set in old {
            // What is not ready is no loss.
            let idle = (size(set) - ready(set)).max(0);
            let go = (idle + may_go.clamp(0, ready(set))).min(size(set));
            may_go -= go - idle;
            if go > 0 {
                self.scale(deployment, sets, set, size(set) - go).await?;
            }
        }
        Ok(())
    }

    async fn scale(
        &self,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        set: &ReplicaSet,
        replicas: i32,
    ) -> Result<(), kube::Error> {
        let patch = json!({ "metadata": { "uid": set.uid() }, "spec": { "replicas": replicas } });
        if tolerate(sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?.is_some() {
            let before = set.spec.replicas.unwrap_or(0);
            let direction = if replicas > before { "up" } else { "down" };
            let text = format!("Scaled {direction} replica set {} from {before} to {replicas}", set.name_any());
            self.recorder.record(reference(deployment), "deployment-controller", "", false, "ScalingReplicaSet", text);
        }
        Ok(())
    }

    async fn status(
        &self,
        caches: &Caches,
        deployment: &Deployment,
        current: &ReplicaSet,
        own: &[Arc<ReplicaSet>],
        wanted: i32,
    ) -> Result<(), kube::Error> {
        let of = |set: &ReplicaSet| -> (i32, i32) {
            let uid = set.uid().unwrap_or_default();
            let pods: Vec<_> = caches
                .pods
                .state()
                .into_iter()
                .filter(|p| is_controlled_by(&p.metadata, &uid) && !is_over(p))
                .collect();
            let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
            (
                count(pods.iter().filter(|p| !is_going(p)).count()),
                count(pods.iter().filter(|p| is_ready(p) && !is_going(p)).count()),
            )
        };
        let all = own.iter().map(|set| of(set)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let (updated, updated_ready) = of(current);
        let before = deployment.status.clone().unwrap_or_default();
        let rolling = deployment.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let minimum = wanted - share(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted, false);
        let available = all.1 >= minimum;
        let complete = updated == wanted && updated_ready == wanted && all.0 == wanted;
        let progress = if complete {
            ("NewReplicaSetAvailable", format!("ReplicaSet \"{}\" has successfully progressed.", current.name_any()))
        } else {
            ("ReplicaSetUpdated", format!("ReplicaSet \"{}\" is progressing.", current.name_any()))
        };
        let availability = if available {
            ("MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
        } else {
            ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
        };
        let conditions = vec![
            condition(&before, "Available", available, availability),
            condition(&before, "Progressing", true, progress),
        ];
        let after = DeploymentStatus {
            observed_generation: deployment.metadata.generation,
            replicas: (all.0 > 0).then_some(all.0),
            updated_replicas: (updated > 0).then_some(updated),
            ready_replicas: (all.1 > 0).then_some(all.1),
            available_replicas: (all.1 > 0).then_some(all.1),
            unavailable_replicas: (wanted > all.1).then_some(wanted - all.1),
            conditions: Some(conditions),
            ..before.clone()
        };
        if after == before {
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
        let patch = status_patch(&deployment.metadata, &before, &after);
        tolerate(api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
            .map(drop)
    }

    async fn replica_set(&mut self, caches: &Caches, set: &ReplicaSet) -> Result<(), kube::Error> {
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let spec = &set.spec;
        let uid = set.uid().unwrap_or_default();
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let mut own: Vec<_> = caches
            .pods
            .state()
            .into_iter()
            .filter(|pod| is_controlled_by(&pod.metadata, &uid) && !is_going(pod) && !is_over(pod))
            .collect();
        let expected = self.expected.entry(uid).or_default();
        expected.retain(|name| {
            caches.pods.find(|p| p.name_any() == *name && p.namespace().as_deref() == Some(&namespace)).is_none()
        });
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let have = own.len() + expected.len();
        for _ in have..wanted {
            let name = format!("{}-{}", set.name_any(), pods::suffix());
            let meta = ObjectMeta {
                name: Some(name.clone()),
                generate_name: Some(format!("{}-", set.name_any())),
                namespace: Some(namespace.clone()),
                owner_references: Some(vec![controlled_by(set)]),
                ..ObjectMeta::default()
            };
            let Some(template) = &spec.template else { return Ok(()) };
            match api.create(&PostParams::default(), &pods::from_template(template, meta)).await {
                Ok(_) => {
                    expected.insert(name.clone());
                    let text = format!("Created pod: {name}");
                    self.recorder.record(reference(set), "replicaset-controller", "", false, "SuccessfulCreate", text);
                }
                Err(error) => {
                    let text = format!("Error creating: {error}");
                    self.recorder.record(reference(set), "replicaset-controller", "", true, "FailedCreate", text);
                    return Err(error);
                }
            }
        }
        if have > wanted && expected.is_empty() {
            // Those that do least work go first.
            own.sort_by_key(|pod| (is_ready(pod), pod.creation_timestamp().map(|t| std::cmp::Reverse(t.0))));
            for pod in own.iter().take(have - wanted) {
                tolerate(api.delete(&pod.name_any(), &DeleteParams::default()).await)?;
            }
        }
        let count =
            |test: &dyn Fn(&Pod) -> bool| i32::try_from(own.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
        let ready = count(&is_ready);
        let before = set.status.clone().unwrap_or_default();
        let after = ReplicaSetStatus {
            observed_generation: set.metadata.generation,
            replicas: count(&|_| true),
            fully_labeled_replicas: Some(count(&|_| true)),
            ready_replicas: Some(ready),
            available_replicas: Some(ready),
            ..before.clone()
        };
        if after != before {
            let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
            let patch = status_patch(&set.metadata, &before, &after);
            tolerate(sets.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        Ok(())
    }
}

/// A number, or a percentage of the whole.
fn share(value: Option<&IntOrString>, whole: i32, up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => percentage(text.trim_end_matches('%').parse().unwrap_or(25), whole, up),
        None => percentage(25, whole, up),
    }
}

fn percentage(percent: i32, whole: i32, up: bool) -> i32 {
    let product = percent * whole;
    if up { (product + 99) / 100 } else { product / 100 }
}

fn condition(
    before: &DeploymentStatus,
    type_: &str,
    holds: bool,
    (reason, message): (&str, String),
) -> DeploymentCondition {
    let status = if holds { "True" } else { "False" };
    let known = before.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(type_));
    let now = Some(Time(Timestamp::now()));
    let same = known.is_some_and(|c| {
        c.status.as_deref() == Some(status)
            && c.reason.as_deref() == Some(reason)
            && c.message.as_deref() == Some(&message)
    });
    DeploymentCondition {
        type_: Some(type_.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: known
            .filter(|c| c.status.as_deref() == Some(status))
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| now.clone()),
        last_update_time: known.filter(|_| same).and_then(|c| c.last_update_time.clone()).or(now),
    }
}

fn replica_set(deployment: &Deployment, hash: &str, revision: i64, replicas: i32) -> ReplicaSet {
    let spec = &deployment.spec;
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.to_owned());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some([(REVISION.to_owned(), revision.to_string())].into()),
            owner_references: Some(vec![controlled_by(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            selector,
            template: Some(template),
            min_ready_seconds: spec.min_ready_seconds,
        },
        status: None,
    }
}

impl Sweep for Deployments {
    const NAME: &'static str = "deployment-controller";

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = Ok(());
        for deployment in caches.deployments.state() {
            if let Err(error) = self.deployment(caches, &deployment).await {
                result = Err(error);
            }
        }
        let sets = caches.replica_sets.state();
        self.expected.retain(|uid, _| sets.iter().any(|set| set.uid().as_ref() == Some(uid)));
        for set in sets {
            if let Err(error) = self.replica_set(caches, &set).await {
                result = Err(error);
            }
        }
        result
    }
}
