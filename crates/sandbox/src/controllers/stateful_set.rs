//! StatefulSets: numbered pods with claims of their own, one revision for each template.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::caches::Caches;
use super::pods::{self, controlled_by, is_going, is_over, is_ready};
use super::scheduler::node_of;
use super::{Sweep, status_patch, tolerate};
use crate::events::{Recorder, reference};

const COMPONENT: &str = "statefulset-controller";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const REVISION: &str = "controller-revision-hash";

pub(super) struct StatefulSets {
    client: Client,
    recorder: Recorder,
    /// Revisions that are known to exist, by UID of the set.
    revisions: BTreeMap<String, (String, i64)>,
}

impl StatefulSets {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, revisions: BTreeMap::new() }
    }

    fn say(&self, set: &StatefulSet, warning: bool, reason: &'static str, message: String) {
        self.recorder.record(reference(set), COMPONENT, "", warning, reason, message);
    }

    /// The revision of the set's template, made when it is new.
    async fn revision(&mut self, set: &StatefulSet) -> Result<String, kube::Error> {
        let uid = set.uid().unwrap_or_default();
        let name = format!("{}-{}", set.name_any(), pods::hash(&set.spec.template));
        if self.revisions.get(&uid).is_some_and(|(known, _)| *known == name) {
            return Ok(name);
        }
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        let number = self.revisions.get(&uid).map_or(1, |(_, number)| number + 1);
        let mut labels = set.spec.selector.match_labels.clone().unwrap_or_default();
        labels.insert(REVISION.to_owned(), name.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: set.namespace(),
                labels: Some(labels),
                owner_references: Some(vec![controlled_by(set)]),
                ..ObjectMeta::default()
            },
            data: k8s_openapi::apimachinery::pkg::runtime::RawExtension(
                json!({ "spec": { "template": set.spec.template } }),
            ),
            revision: Some(number),
        };
        tolerate(api.create(&PostParams::default(), &revision).await)?;
        self.revisions.insert(uid, (name.clone(), number));
        Ok(name)
    }

    async fn one(&mut self, caches: &Caches, set: &StatefulSet) -> Result<(), kube::Error> {
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let update = self.revision(set).await?;
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let own = self.own_pods(caches, set, &api).await?;
        let wanted = set.spec.replicas.unwrap_or(1);
        let start = set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
        let parallel = set.spec.pod_management_policy.as_deref() == Some("Parallel");

        let mut blocked = false;
        for ordinal in start..start + wanted {
            match own.get(&ordinal) {
                Some(pod) if is_over(pod) && !is_going(pod) => {
                    tolerate(api.delete(&pod.name_any(), &DeleteParams::default()).await)?;
                    blocked = true;
                }
                Some(pod) => {
                    // A claim that was deleted before its pod got a node: the pod waits for a new one.
                    if node_of(pod).is_none() && !is_going(pod) {
                        self.claims(set, caches, &pod.name_any()).await?;
                    }
                    blocked |= !is_ready(pod) || is_going(pod);
                }
                None => {
                    self.create(set, &api, caches, ordinal, &update).await?;
                    blocked = true;
                }
            }
            if blocked && !parallel {
                break;
            }
        }
        let condemned: Vec<_> = own
            .iter()
            .rev()
            .filter(|(ordinal, _)| !(start..start + wanted).contains(ordinal))
            .map(|(_, pod)| pod)
            .collect();
        if parallel || !blocked {
            for pod in condemned {
                if !is_going(pod) {
                    self.delete(set, &api, pod).await?;
                }
                if !parallel {
                    blocked = true;
                    break;
                }
            }
        }
        if !blocked || parallel {
            self.roll(set, &api, &own, &update, start + wanted).await?;
        }
        self.claims_of_scaled(caches, set, start + wanted).await?;
        self.status(set, &own, &update, wanted).await
    }

    /// Pods of the set by ordinal; what fits and nobody controls is adopted.
    async fn own_pods(
        &self,
        caches: &Caches,
        set: &StatefulSet,
        api: &Api<Pod>,
    ) -> Result<BTreeMap<i32, Arc<Pod>>, kube::Error> {
        let uid = set.uid().unwrap_or_default();
        let mut own = BTreeMap::new();
        for pod in caches.pods.state() {
            if pod.namespace() != set.namespace() {
                continue;
            }
            let name = pod.name_any();
            let Some(ordinal) = name.strip_prefix(&format!("{}-", set.name_any())).and_then(|n| n.parse::<i32>().ok())
            else {
                continue;
            };
            if pods::is_controlled_by(&pod.metadata, &uid) {
                own.insert(ordinal, pod);
            } else if pods::controller_of(&pod.metadata).is_none()
                && pods::matches(&set.spec.selector, pod.metadata.labels.as_ref())
                && !is_going(&pod)
            {
                let patch = json!({ "metadata": { "uid": pod.uid(), "ownerReferences": [controlled_by(set)] } });
                tolerate(api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
                own.insert(ordinal, pod);
            }
        }
        Ok(own)
    }

    async fn create(
        &self,
        set: &StatefulSet,
        api: &Api<Pod>,
        caches: &Caches,
        ordinal: i32,
        revision: &str,
    ) -> Result<(), kube::Error> {
        let name = format!("{}-{ordinal}", set.name_any());
        if !self.claims(set, caches, &name).await? {
            return Ok(());
        }
        let labels = BTreeMap::from([
            (POD_NAME.to_owned(), name.clone()),
            (POD_INDEX.to_owned(), ordinal.to_string()),
            (REVISION.to_owned(), revision.to_owned()),
        ]);
        let meta = ObjectMeta {
            name: Some(name.clone()),
            namespace: set.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controlled_by(set)]),
            ..ObjectMeta::default()
        };
        let mut pod = pods::from_template(&set.spec.template, meta);
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name.clone());
            spec.subdomain.clone_from(&set.spec.service_name);
            let volumes = spec.volumes.get_or_insert_default();
            for claim in set.spec.volume_claim_templates.iter().flatten() {
                let volume = claim.name_any();
                volumes.retain(|v| v.name != volume);
                volumes.push(Volume {
                    persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                        claim_name: format!("{volume}-{name}"),
                        ..PersistentVolumeClaimVolumeSource::default()
                    }),
                    name: volume,
                    ..Volume::default()
                });
            }
        }
        match tolerate(api.create(&PostParams::default(), &pod).await) {
            Ok(Some(_)) => {
                self.say(
                    set,
                    false,
                    "SuccessfulCreate",
                    format!("create Pod {name} in StatefulSet {} successful", set.name_any()),
                );
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                let text = format!("create Pod {name} in StatefulSet {} failed error: {error}", set.name_any());
                self.say(set, true, "FailedCreate", text);
                Err(error)
            }
        }
    }

    /// Makes the pod's claims that are missing. `false`: one is being deleted, and must be gone before the pod can have its own.
    async fn claims(&self, set: &StatefulSet, caches: &Caches, pod: &str) -> Result<bool, kube::Error> {
        let mut complete = true;
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        for template in set.spec.volume_claim_templates.iter().flatten() {
            let name = format!("{}-{pod}", template.name_any());
            let known = caches.claims.find(|c| c.name_any() == name && c.namespace().as_deref() == Some(&namespace));
            if let Some(known) = known {
                complete &= known.metadata.deletion_timestamp.is_none();
                continue;
            }
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            let owner = self.retention(set, "whenDeleted").then(|| OwnerReference {
                controller: None,
                block_owner_deletion: None,
                ..controlled_by(set)
            });
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: owner.map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            if tolerate(api.create(&PostParams::default(), &claim).await)?.is_some() {
                let text = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name_any());
                self.say(set, false, "SuccessfulCreate", text);
            }
        }
        Ok(complete)
    }

    /// Does the retention policy say `Delete`?
    #[allow(clippy::unused_self, reason = "reads better beside its callers")]
    fn retention(&self, set: &StatefulSet, when: &str) -> bool {
        let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
        let value = policy.and_then(|policy| {
            if when == "whenDeleted" { policy.when_deleted.as_deref() } else { policy.when_scaled.as_deref() }
        });
        value == Some("Delete")
    }

    /// Claims of pods that were scaled away go, when the policy says so.
    async fn claims_of_scaled(&self, caches: &Caches, set: &StatefulSet, end: i32) -> Result<(), kube::Error> {
        if !self.retention(set, "whenScaled") {
            return Ok(());
        }
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        for template in set.spec.volume_claim_templates.iter().flatten() {
            let prefix = format!("{}-{}-", template.name_any(), set.name_any());
            for claim in caches.claims.state() {
                let ordinal = claim.name_any().strip_prefix(&prefix).and_then(|n| n.parse::<i32>().ok());
                let scaled = ordinal.is_some_and(|ordinal| ordinal >= end);
                if scaled
                    && claim.namespace().as_deref() == Some(&namespace)
                    && claim.metadata.deletion_timestamp.is_none()
                {
                    tolerate(api.delete(&claim.name_any(), &DeleteParams::default()).await)?;
                }
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &StatefulSet, api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.name_any();
        if tolerate(api.delete(&name, &DeleteParams::default()).await)?.is_some() {
            self.say(
                set,
                false,
                "SuccessfulDelete",
                format!("delete Pod {name} in StatefulSet {} successful", set.name_any()),
            );
        }
        Ok(())
    }

    /// RollingUpdate: the highest outdated pod goes, once all above it are ready.
    async fn roll(
        &self,
        set: &StatefulSet,
        api: &Api<Pod>,
        own: &BTreeMap<i32, Arc<Pod>>,
        update: &str,
        end: i32,
    ) -> Result<(), kube::Error> {
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()).is_some_and(|type_| type_ != "RollingUpdate") {
            return Ok(());
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition).unwrap_or(0);
        for (ordinal, pod) in own.iter().rev().filter(|(ordinal, _)| **ordinal < end) {
            if *ordinal < partition {
                break;
            }
            if revision_of(pod) != Some(update) && !is_going(pod) {
                return self.delete(set, api, pod).await;
            }
            if !is_ready(pod) || is_going(pod) {
                break;
            }
        }
        Ok(())
    }

    async fn status(
        &self,
        set: &StatefulSet,
        own: &BTreeMap<i32, Arc<Pod>>,
        update: &str,
        wanted: i32,
    ) -> Result<(), kube::Error> {
        let before = set.status.clone().unwrap_or_default();
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(own.values().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let ready = count(&is_ready);
        let updated = count(&|pod| revision_of(pod) == Some(update) && !is_going(pod));
        let replicas = count(&|_| true);
        let known = before.current_revision.clone().unwrap_or_else(|| update.to_owned());
        let rolling =
            set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).is_none_or(|t| t == "RollingUpdate");
        let complete = rolling && updated == replicas && ready == replicas && replicas == wanted;
        let current_revision = if complete { update.to_owned() } else { known };
        let after = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas,
            ready_replicas: Some(ready),
            available_replicas: Some(ready),
            current_replicas: Some(count(&|pod| revision_of(pod) == Some(&current_revision))),
            updated_replicas: Some(updated),
            current_revision: Some(current_revision),
            update_revision: Some(update.to_owned()),
            collision_count: Some(0),
            ..before.clone()
        };
        if after == before {
            return Ok(());
        }
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        let patch = status_patch(&set.metadata, &before, &after);
        tolerate(api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await).map(drop)
    }
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION).map(String::as_str)
}

impl Sweep for StatefulSets {
    const NAME: &'static str = COMPONENT;

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = Ok(());
        let sets = caches.stateful_sets.state();
        self.revisions.retain(|uid, _| sets.iter().any(|set| set.uid().as_ref() == Some(uid)));
        for set in sets {
            if let Err(error) = self.one(caches, &set).await {
                result = Err(error);
            }
        }
        result
    }
}
