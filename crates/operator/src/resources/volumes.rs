//! Volumes grow in place. A StatefulSet's claim templates cannot be changed: it is deleted without its pods and made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::resolved::Resolved;
use api::{Size, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::{Trouble, call};
use crate::Context;

/// Whether a set can be applied.
pub(super) enum Fit {
    /// It can.
    Right,
    /// It can, but not all that was asked for is done: reason and text.
    Notice(&'static str, String),
    /// Not yet.
    Again,
}

fn bytes(quantity: Option<&Quantity>) -> u64 {
    quantity.and_then(|quantity| Size::new(quantity.0.clone()).ok()).map_or(0, |size| size.bytes())
}

fn requested(claim: &PersistentVolumeClaim) -> u64 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    bytes(requests.and_then(|requests| requests.get("storage")))
}

fn capacity(claim: &PersistentVolumeClaim) -> u64 {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    bytes(capacity.and_then(|capacity| capacity.get("storage")))
}

/// The claims of an object's members, those scaled away too.
fn claims(context: &Context, object: &Resolved) -> Vec<Arc<PersistentVolumeClaim>> {
    let prefix = names::claim("");
    context
        .caches
        .claims
        .state()
        .into_iter()
        .filter(|claim| claim.namespace().as_deref() == Some(&object.namespace))
        .filter(|claim| {
            let name = claim.name_any();
            name.strip_prefix(&prefix).and_then(|pod| names::ordinal(&object.name, pod)).is_some()
        })
        .collect()
}

/// Fits `wanted` to the set that is there.
pub(super) async fn fit(
    context: &Context,
    object: &Resolved,
    current: &StatefulSet,
    wanted: &mut StatefulSet,
) -> Result<Fit, Trouble> {
    if current.metadata.deletion_timestamp.is_some() {
        return Ok(Fit::Again);
    }
    let template = |set: &StatefulSet| set.spec.volume_claim_templates.as_ref().and_then(|all| all.first()).cloned();
    let (Some(has), Some(mut wants)) = (template(current), template(wanted)) else { return Ok(Fit::Right) };
    // Nothing but the size of claims can change: the rest stays, and is told.
    let changed = changed(&has, &wants);
    if !changed.is_empty() {
        wants.spec = with_size(has.spec.clone(), size_of(&wants));
        wanted.spec.volume_claim_templates = Some(vec![wants.clone()]);
    }
    let (before, after) = (requested(&has), requested(&wants));
    if after > before {
        if object.storage.resize_in_use
            && let Some(refused) = grow(context, object, after).await?
        {
            wanted.spec.volume_claim_templates.clone_from(&current.spec.volume_claim_templates);
            return Ok(Fit::Notice("VolumeNotExpanded", refused));
        }
        remove_around_pods(context, current).await?;
        return Ok(Fit::Again);
    }
    wanted.spec.volume_claim_templates.clone_from(&current.spec.volume_claim_templates);
    if after < before {
        let message = format!(
            "spec.storage.size: a volume cannot shrink ({after} bytes wanted, {before} there); it stays as it is"
        );
        return Ok(Fit::Notice("StorageCannotShrink", message));
    }
    if object.storage.resize_in_use {
        // Also after a crash between the two steps, and for a claim that was scaled away then.
        if let Some(refused) = grow(context, object, after).await? {
            return Ok(Fit::Notice("VolumeNotExpanded", refused));
        }
    }
    if !changed.is_empty() {
        let message = format!(
            "spec.storage: {} of volumes that are there cannot be changed; they stay as they are. Put it back, or move the data to \
             another object",
            changed.join(", ")
        );
        return Ok(Fit::Notice("StorageCannotChange", message));
    }
    Ok(Fit::Right)
}

/// A set's members have volumes or none for good. Gives what is said to a user who wants it otherwise; `object` becomes as it is.
pub(super) fn keep_kind(object: &mut Resolved, current: Option<&StatefulSet>) -> Option<(&'static str, String)> {
    let ephemeral = current?.spec.volume_claim_templates.as_ref().is_none_or(Vec::is_empty);
    if object.storage.ephemeral == ephemeral {
        return None;
    }
    object.storage.ephemeral = ephemeral;
    let has = if ephemeral { "no volumes" } else { "volumes" };
    let message = format!("spec.storage.ephemeral: cannot be changed; the members have {has}, and keep to it");
    Some(("StorageCannotChange", message))
}

fn size_of(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
}

fn with_size(spec: Option<PersistentVolumeClaimSpec>, size: Option<Quantity>) -> Option<PersistentVolumeClaimSpec> {
    let mut spec = spec?;
    if let Some(size) = size {
        let resources = spec.resources.get_or_insert_default();
        resources.requests.get_or_insert_default().insert("storage".to_owned(), size);
    }
    Some(spec)
}

/// Fields of a claim, but its size, in which one template differs from another.
fn changed(has: &PersistentVolumeClaim, wants: &PersistentVolumeClaim) -> Vec<String> {
    let fields = |claim: &PersistentVolumeClaim| -> BTreeMap<String, Value> {
        let mut spec = claim.spec.clone().unwrap_or_default();
        // What the API server fills in.
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        if let Some(requests) = spec.resources.as_mut().and_then(|resources| resources.requests.as_mut()) {
            requests.remove("storage");
        }
        serde_json::from_value(json!(spec)).unwrap_or_default()
    };
    let (has, wants) = (fields(has), fields(wants));
    let mut names: Vec<String> =
        has.keys().chain(wants.keys()).filter(|name| has.get(*name) != wants.get(*name)).cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// Gives what the API server says when it refuses (a class whose volumes cannot grow): the members go on meanwhile.
async fn grow(context: &Context, object: &Resolved, to: u64) -> Result<Option<String>, Trouble> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &object.namespace);
    for claim in claims(context, object) {
        // One that is not bound yet cannot grow; it does once it is.
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if !bound || requested(&claim) >= to {
            continue;
        }
        let name = claim.name_any();
        let patch = json!({"spec": {"resources": {"requests": {"storage": object.storage.size.quantity()}}}});
        let params = PatchParams { field_manager: Some(names::RESOURCES_MANAGER.to_owned()), ..PatchParams::default() };
        let what = || format!("grow PersistentVolumeClaim {name} to {}", object.storage.size);
        match call(what, api.patch(&name, &params, &Patch::Merge(&patch))).await {
            Ok(_) => {}
            Err(trouble @ Trouble::Api { .. }) if trouble.is_refusal() => return Ok(Some(trouble.to_string())),
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(None)
}

async fn remove_around_pods(context: &Context, current: &StatefulSet) -> Result<(), Trouble> {
    let name = current.name_any();
    let api: Api<StatefulSet> =
        Api::namespaced(context.client.clone(), current.metadata.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        preconditions: Some(Preconditions { uid: current.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match call(|| format!("delete StatefulSet {name} without its pods"), api.delete(&name, &params)).await {
        Ok(_) => Ok(()),
        Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if matches!(status.code, 404 | 409)) => {
            Ok(())
        }
        Err(trouble) => Err(trouble),
    }
}

/// Volumes that do not have their new size yet.
pub(super) fn growing(context: &Context, object: &Resolved) -> Option<(&'static str, String)> {
    if !object.storage.wait_for_resize || !object.storage.resize_in_use || object.storage.ephemeral {
        return None;
    }
    let waiting: Vec<String> = claims(context, object)
        .iter()
        .filter(|claim| capacity(claim) > 0 && capacity(claim) < requested(claim))
        .map(|claim| claim.name_any())
        .collect();
    (!waiting.is_empty()).then(|| ("ResizingVolumes", format!("waiting for larger volumes: {}", waiting.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"spec": spec})).expect("a claim")
    }

    #[test]
    fn a_claim_may_grow_and_nothing_else() {
        let small = claim(json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}}));
        let large = claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}));
        assert!(changed(&small, &large).is_empty());
        let other = claim(json!({"accessModes": ["ReadWriteMany"], "storageClassName": "fast",
            "resources": {"requests": {"storage": "2Gi"}}}));
        assert_eq!(changed(&small, &other), ["accessModes", "storageClassName"]);
        let kept = with_size(small.spec.clone(), size_of(&other));
        assert_eq!(kept, with_size(small.spec, Some(Quantity("2Gi".into()))));
    }
}
