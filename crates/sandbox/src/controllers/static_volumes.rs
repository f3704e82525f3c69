//! Volumes that somebody made by hand, and the claims that they fit.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

use super::caches::Caches;
use super::pods::matches;
use super::scheduler::{node_of, volume_reaches};
use super::volumes::{requested, uses};
use crate::quantity;

/// The smallest volume that fits the claim. One that is reserved for it comes first.
pub(super) fn best(
    caches: &Caches,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Option<Arc<PersistentVolume>> {
    // A claim that waits for its first pod gets a volume that the pod's node can use.
    let wait = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let pods = caches.pods.state();
    let node = pods.iter().find(|pod| uses(pod, claim) && node_of(pod).is_some()).and_then(|pod| node_of(pod));
    if wait && node.is_none() {
        return None;
    }
    let node = node.and_then(|name| caches.nodes.find(|node| node.name_any() == name));
    let mut fitting: Vec<_> = caches
        .volumes
        .state()
        .into_iter()
        .filter(|volume| unfit(volume, claim, class).is_none())
        .filter(|volume| node.as_ref().is_none_or(|node| volume_reaches(volume, node)))
        .collect();
    fitting.sort_by_key(|volume| (!reserved(volume), size(volume), volume.name_any()));
    fitting.into_iter().next()
}

fn reserved(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some())
}

fn size(volume: &PersistentVolume) -> i128 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| quantity::units(&quantity.0)).unwrap_or(0)
}

/// Why a claim cannot have a volume.
pub(super) fn unfit(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Option<&'static str> {
    let (Some(spec), Some(wanted)) = (&volume.spec, &claim.spec) else { return Some("it has no spec") };
    if volume.metadata.deletion_timestamp.is_some() {
        return Some("it is being deleted");
    }
    if let Some(owner) = &spec.claim_ref {
        let same = owner.name.as_deref() == Some(claim.name_any().as_str())
            && owner.namespace == claim.namespace()
            && owner.uid.as_ref().is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref());
        if !same {
            return Some("it belongs to another claim");
        }
    }
    let wanted_class = wanted.storage_class_name.clone().or_else(|| class.map(kube::ResourceExt::name_any));
    if spec.storage_class_name.as_deref().unwrap_or_default() != wanted_class.as_deref().unwrap_or_default() {
        return Some("its storage class is another");
    }
    if spec.volume_mode.as_deref().unwrap_or("Filesystem") != wanted.volume_mode.as_deref().unwrap_or("Filesystem") {
        return Some("its volume mode is another");
    }
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if !wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        return Some("its access modes do not include the claim's");
    }
    if wanted.selector.as_ref().is_some_and(|selector| !matches(selector, volume.metadata.labels.as_ref())) {
        return Some("its labels do not match the claim's selector");
    }
    let needs = requested(claim).and_then(|quantity| quantity::units(&quantity.0)).unwrap_or(0);
    (size(volume) < needs).then_some("it is too small")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(volume: Value, expected: Option<&str>) {
        let mut spec =
            json!({ "capacity": { "storage": "2Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "own" });
        spec.as_object_mut().expect("an object").extend(volume.as_object().expect("an object").clone());
        let volume = serde_json::from_value(json!({ "metadata": { "name": "v" }, "spec": spec })).expect("a volume");
        let claim = serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u" },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "own", "resources": { "requests": { "storage": "1Gi" } } },
        }))
        .expect("a claim");
        assert_eq!(unfit(&volume, &claim, None), expected);
    }

    #[test]
    fn volumes_fit_claims() {
        check(json!({}), None);
        check(json!({ "claimRef": { "namespace": "n", "name": "c" } }), None);
        check(
            json!({ "claimRef": { "namespace": "n", "name": "c", "uid": "x" } }),
            Some("it belongs to another claim"),
        );
        check(json!({ "storageClassName": "x" }), Some("its storage class is another"));
        check(json!({ "accessModes": ["ReadOnlyMany"] }), Some("its access modes do not include the claim's"));
        check(json!({ "capacity": { "storage": "1Mi" } }), Some("it is too small"));
    }
}
