//! Volumes grow in place. A StatefulSet's claim templates cannot be changed: it is deleted without its pods and made again.

use std::sync::Arc;

use api::resolved::Resolved;
use api::{Size, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt as _};
use serde_json::json;

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
    let (Some(has), Some(wants)) = (template(current), template(wanted)) else {
        wanted.spec.volume_claim_templates.clone_from(&current.spec.volume_claim_templates);
        return Ok(Fit::Right);
    };
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
    Ok(Fit::Right)
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
