//! Volumes for claims: a claim of one of the sandbox's classes gets a volume, which is a folder named like it.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::caches::Caches;
use super::pods::is_over;
use super::scheduler::node_of;
use super::{Sweep, static_volumes as statics, tolerate};
use crate::events::{Recorder, reference};
use crate::node::disk::{enforces_size, resize_pending};
use crate::node::register::PROVISIONER;
use crate::quantity;

const COMPONENT: &str = "persistentvolume-controller";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
const PV_PROTECTION: &str = "kubernetes.io/pv-protection";

pub(super) struct Volumes {
    client: Client,
    recorder: Recorder,
    said: BTreeMap<String, String>,
}

fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

fn default_class(caches: &Caches) -> Option<Arc<StorageClass>> {
    caches.classes.find(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|v| v == "true"))
}

fn class_of(claim: &PersistentVolumeClaim, caches: &Caches) -> Option<Arc<StorageClass>> {
    match class_name(claim) {
        Some(name) => caches.classes.find(|class| class.name_any() == name),
        None => default_class(caches),
    }
}

/// A claim of this class is bound once a pod that uses it has a node.
pub(super) fn waits_for_consumer(claim: &PersistentVolumeClaim, caches: &Caches) -> bool {
    class_of(claim, caches).is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

pub(super) fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
}

pub(super) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    pod.namespace() == claim.namespace()
        && pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|volume| {
            volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim.name_any())
        })
}

impl Volumes {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, said: BTreeMap::new() }
    }

    fn claims(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default())
    }

    fn say(&mut self, claim: &PersistentVolumeClaim, warning: bool, reason: &'static str, message: String) {
        if self.said.insert(claim.uid().unwrap_or_default(), message.clone()).as_ref() != Some(&message) {
            self.recorder.record(reference(claim), COMPONENT, "", warning, reason, message);
        }
    }

    async fn claim(&mut self, caches: &Caches, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
        if claim.metadata.deletion_timestamp.is_some() {
            return self.release(caches, claim).await;
        }
        let Some(spec) = &claim.spec else { return Ok(()) };
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        match spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
            Some(volume) if bound => self.bound(caches, claim, volume).await,
            // Somebody chose the volume.
            Some(volume) => {
                let Some(chosen) = caches.volumes.find(|v| v.name_any() == volume) else {
                    self.say(claim, false, "FailedBinding", format!("volume \"{volume}\" not found"));
                    return Ok(());
                };
                if let Some(why) = statics::unfit(&chosen, claim, class_of(claim, caches).as_deref()) {
                    let text = format!("volume \"{volume}\" cannot be bound: {why}");
                    self.say(claim, true, "VolumeMismatch", text);
                    return Ok(());
                }
                self.bind(claim, &chosen).await
            }
            None => {
                let class = class_of(claim, caches);
                if let Some(volume) = statics::best(caches, claim, class.as_deref()) {
                    return self.bind(claim, &volume).await;
                }
                self.provision(caches, claim).await
            }
        }
    }

    /// Binds a claim to a volume that is there already.
    async fn bind(&mut self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let name = volume.name_any();
        let spec = volume.spec.clone().unwrap_or_default();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        if spec.claim_ref.as_ref().is_none_or(|wanted| wanted.uid.is_none()) {
            let owner = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                ..reference(claim)
            };
            let patch = json!({
                "metadata": { "resourceVersion": volume.resource_version(), "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" } },
                "spec": { "claimRef": owner },
            });
            tolerate(volumes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
            // What came of it is seen in the next sweep.
            return Ok(());
        }
        let patch = json!({
            "metadata": { "uid": claim.uid(), "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "volumeName": name },
        });
        tolerate(self.claims(claim).patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
        let size = spec.capacity.as_ref().and_then(|all| all.get("storage").cloned());
        self.set_status(claim, &size.unwrap_or_default()).await
    }

    async fn provision(&mut self, caches: &Caches, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
        let Some(class) = class_of(claim, caches) else {
            if let Some(name) = class_name(claim).filter(|name| !name.is_empty()) {
                let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
                self.say(claim, true, "ProvisioningFailed", message);
            } else {
                let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
                self.say(claim, false, "FailedBinding", message);
            }
            return Ok(());
        };
        if class.provisioner != PROVISIONER {
            let message =
                format!("nothing in the sandbox provisions for {} (class {})", class.provisioner, class.name_any());
            self.say(claim, true, "ProvisioningFailed", message);
            return Ok(());
        }
        let wait = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let used = caches.pods.state().iter().any(|pod| uses(pod, claim) && node_of(pod).is_some());
        if wait && !used {
            let message = "waiting for first consumer to be created before binding".to_owned();
            self.say(claim, false, "WaitForFirstConsumer", message);
            return Ok(());
        }
        let Some(size) = requested(claim) else { return Ok(()) };
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        let volume = PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                annotations: Some([("pv.kubernetes.io/provisioned-by".to_owned(), PROVISIONER.to_owned())].into()),
                finalizers: Some(vec![PV_PROTECTION.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeSpec {
                capacity: Some([("storage".to_owned(), size.clone())].into()),
                access_modes: claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
                claim_ref: Some(ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("PersistentVolumeClaim".into()),
                    ..reference(claim)
                }),
                storage_class_name: Some(class.name_any()),
                persistent_volume_reclaim_policy: class.reclaim_policy.clone().or_else(|| Some("Delete".into())),
                volume_mode: Some("Filesystem".into()),
                host_path: Some(HostPathVolumeSource { path: format!("volumes/{name}"), type_: None }),
                ..PersistentVolumeSpec::default()
            }),
            status: None,
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        if caches.volumes.find(|v| v.name_any() == name).is_none() {
            tolerate(volumes.create(&PostParams::default(), &volume).await)?;
        }
        let patch = json!({
            "metadata": { "uid": claim.uid(), "annotations": {
                "pv.kubernetes.io/bind-completed": "yes",
                "pv.kubernetes.io/bound-by-controller": "yes",
                "volume.kubernetes.io/storage-provisioner": PROVISIONER,
            } },
            "spec": { "volumeName": name, "storageClassName": class.name_any() },
        });
        tolerate(self.claims(claim).patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
        self.set_status(claim, &size).await?;
        self.say(claim, false, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
        Ok(())
    }

    async fn set_status(&self, claim: &PersistentVolumeClaim, size: &Quantity) -> Result<(), kube::Error> {
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.clone());
        let patch = json!({
            "metadata": { "uid": claim.uid() },
            "status": { "phase": "Bound", "accessModes": modes, "capacity": { "storage": size } },
        });
        let api = self.claims(claim);
        tolerate(api.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await).map(drop)
    }

    /// A bound claim that asks for more gets it.
    async fn bound(&mut self, caches: &Caches, claim: &PersistentVolumeClaim, volume: &str) -> Result<(), kube::Error> {
        let Some(volume) = caches.volumes.find(|v| v.name_any() == volume) else {
            let lost = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost");
            if !lost && claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound")) {
                self.say(claim, true, "ClaimLost", format!("Bound claim has lost its PersistentVolume {volume}"));
            }
            return Ok(());
        };
        let (Some(wanted), Some(has)) =
            (requested(claim), volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage").cloned()))
        else {
            return Ok(());
        };
        let size = |quantity: &Quantity| quantity::units(&quantity.0).unwrap_or(0);
        let given = claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
        // The node says when a file system of its own has grown.
        let held = class_of(claim, caches).is_some_and(|class| enforces_size(&class));
        if size(&wanted) > size(&has) {
            let expandable = class_of(claim, caches).is_some_and(|class| class.allow_volume_expansion == Some(true));
            if !expandable {
                self.say(claim, true, "VolumeResizeFailed", "the storage class does not allow expansion".into());
                return Ok(());
            }
            let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
            let patch = json!({ "spec": { "capacity": { "storage": wanted } } });
            tolerate(volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
            if held {
                let patch = json!({ "status": { "conditions": [resize_pending()] } });
                let api = self.claims(claim);
                tolerate(api.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
                return Ok(());
            }
            self.set_status(claim, &wanted).await?;
            self.say(claim, false, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded".into());
        } else if !held && given.as_ref().is_none_or(|given| size(given) != size(&has)) {
            self.set_status(claim, &has).await?;
        }
        Ok(())
    }

    /// A claim that is being deleted goes when no pod uses it any more. A pod without a node does not use it yet, and gets
    /// none before the claim is there anew.
    async fn release(&self, caches: &Caches, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
        let protected = claim.finalizers().iter().any(|f| f == PVC_PROTECTION);
        let in_use = caches.pods.state().iter().any(|pod| uses(pod, claim) && node_of(pod).is_some() && !is_over(pod));
        if !protected || in_use {
            return Ok(());
        }
        let rest: Vec<_> = claim.finalizers().iter().filter(|f| *f != PVC_PROTECTION).collect();
        let patch = json!({ "metadata": { "uid": claim.uid(), "resourceVersion": claim.resource_version(), "finalizers": rest } });
        tolerate(self.claims(claim).patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
            .map(drop)
    }

    async fn volume(&self, caches: &Caches, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.name_any();
        let Some(spec) = &volume.spec else { return Ok(()) };
        // A reference without a UID only reserves the volume.
        let owner = spec.claim_ref.as_ref().filter(|wanted| wanted.uid.is_some());
        let claim = owner.and_then(|wanted| {
            caches.claims.find(|claim| claim.uid() == wanted.uid && claim.namespace() == wanted.namespace)
        });
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if volume.metadata.deletion_timestamp.is_some() {
            if claim.is_none() && volume.finalizers().iter().any(|f| f == PV_PROTECTION) {
                let rest: Vec<_> = volume.finalizers().iter().filter(|f| *f != PV_PROTECTION).collect();
                let patch = json!({ "metadata": { "uid": volume.uid(), "finalizers": rest } });
                tolerate(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
            }
            return Ok(());
        }
        let wanted = match (owner, &claim) {
            (None, _) => "Available",
            (Some(_), Some(_)) => "Bound",
            // A cache that does not have the new claim yet must not cost a volume.
            (Some(_), None) if phase == "Bound" => "Released",
            (Some(_), None) => return Ok(()),
        };
        if wanted == "Released" && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete") {
            return tolerate(api.delete(&name, &DeleteParams::default()).await).map(drop);
        }
        if phase != wanted {
            let patch = json!({ "status": { "phase": wanted } });
            tolerate(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        Ok(())
    }
}

impl Sweep for Volumes {
    const NAME: &'static str = COMPONENT;

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = Ok(());
        let claims = caches.claims.state();
        self.said.retain(|uid, _| claims.iter().any(|claim| claim.uid().as_ref() == Some(uid)));
        for claim in claims {
            if let Err(error) = self.claim(caches, &claim).await {
                result = Err(error);
            }
        }
        for volume in caches.volumes.state() {
            if let Err(error) = self.volume(caches, &volume).await {
                result = Err(error);
            }
        }
        result
    }
}
