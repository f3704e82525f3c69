//! Pods that do not run what the spec says are replaced one at a time: replicas first, the primary last.

use std::sync::Arc;
use std::time::Duration;

use api::resolved::Resolved;
use api::spec::UpdateStrategyType;
use api::{MariaDB, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};

use super::{Trouble, Worker, call};
use crate::Context;
use crate::releases::PodId;

/// How far a roll-out is.
pub(super) struct Rolled {
    /// Why pods are out of date, still.
    pub(super) updating: Option<(&'static str, String)>,
    /// When to look again, without a change.
    pub(super) again: Option<Duration>,
}

/// The hash that up-to-date pods carry.
pub(super) fn pod_hash(set: &StatefulSet) -> Option<String> {
    set.spec.template.metadata.as_ref()?.annotations.as_ref()?.get(manifests::POD_HASH_ANNOTATION).cloned()
}

/// Whether a pod is ready, and stays.
pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The pods of an object's members, by ordinal.
pub(super) fn pods_of(context: &Context, namespace: &str, object: &str) -> Vec<(u32, Arc<Pod>)> {
    let mut pods: Vec<(u32, Arc<Pod>)> = context
        .caches
        .pods
        .state()
        .into_iter()
        .filter(|pod| pod.namespace().as_deref() == Some(namespace))
        .filter(|pod| pod.labels().get(names::INSTANCE_LABEL).is_some_and(|instance| instance == object))
        .filter_map(|pod| Some((names::ordinal(object, &pod.name_any())?, pod)))
        .collect();
    pods.sort_by_key(|(ordinal, _)| *ordinal);
    pods
}

/// Replaces the next pod, if that may be done now.
pub(super) async fn roll(
    worker: &mut Worker,
    given: &MariaDB,
    object: &Resolved,
    family: &[String],
    hash: Option<&str>,
) -> Result<Rolled, Trouble> {
    let own = pods_of(&worker.context, &object.namespace, &object.name);
    let outdated: Vec<&(u32, Arc<Pod>)> = own
        .iter()
        .filter(|(_, pod)| pod.annotations().get(manifests::POD_HASH_ANNOTATION).map(String::as_str) != hash)
        .collect();
    if outdated.is_empty() {
        worker.replaced = None;
        ask(worker, None);
        return Ok(Rolled { updating: None, again: None });
    }
    let names: Vec<String> = outdated.iter().map(|(_, pod)| pod.name_any()).collect();
    let say = |reason: &'static str, message: String| Rolled { updating: Some((reason, message)), again: None };
    let list = names.join(", ");
    match object.update_strategy {
        UpdateStrategyType::OnDelete => {
            ask(worker, None);
            return Ok(say("OnDelete", format!("delete these pods to have them updated: {list}")));
        }
        UpdateStrategyType::Never => {
            ask(worker, None);
            return Ok(say("Never", format!("spec.updateStrategy.type is Never; out of date: {list}")));
        }
        UpdateStrategyType::ReplicasFirstPrimaryLast | UpdateStrategyType::RollingUpdate => {}
    }
    if object.maintenance {
        ask(worker, None);
        return Ok(say("Maintenance", format!("spec.maintenance is true; out of date: {list}")));
    }
    let primary = given.status.as_ref().and_then(|status| status.current_primary.as_deref());
    let Some(next) = next(&own, &outdated, primary, object.update_strategy) else {
        return Ok(say("RollingOut", format!("waiting for members to be ready; out of date: {list}")));
    };
    let pod_name = next.name_any();
    // A pod that works is replaced only while those work that would stand in for it: for a replica the others of its
    // object, for the primary everybody. (A broken replica elsewhere is no reason to keep this object out of date.)
    let stand_ins = if primary == Some(pod_name.as_str()) { family } else { std::slice::from_ref(&object.name) };
    let unready: Vec<String> = stand_ins
        .iter()
        .flat_map(|name| pods_of(&worker.context, &object.namespace, name))
        .filter(|(_, pod)| !is_ready(pod) && pod.name_any() != pod_name)
        .map(|(_, pod)| pod.name_any())
        .collect();
    if is_ready(next) && (!unready.is_empty() || own.len() < object.replicas as usize) {
        let waits = if unready.is_empty() { "a pod that is being made".to_owned() } else { unready.join(", ") };
        return Ok(say("RollingOut", format!("waiting for {waits}; out of date: {list}")));
    }
    let uid = next.uid();
    // What works is let go of first: a primary hands over, an acker is not waited for any more.
    if is_ready(next) {
        let id = (pod_name.clone(), uid.clone().unwrap_or_default());
        ask(worker, Some(id.clone()));
        if !worker.context.releases.is_released(&object.namespace, &id) {
            let does = if primary == Some(pod_name.as_str()) { "hands over" } else { "is let go" };
            return Ok(say("RollingOut", format!("{pod_name} {does} before it is replaced; out of date: {list}")));
        }
    }
    if worker.replaced.is_none() || worker.replaced != uid {
        delete(&worker.context, &object.namespace, next).await?;
        tracing::info!(namespace = object.namespace, pod = pod_name, "replaced: it does not run what the spec says");
        worker.replaced = uid;
    }
    Ok(say("RollingOut", format!("{pod_name} is being replaced; out of date: {list}")))
}

/// Asks the replication loop to let go of this pod, and of no other.
fn ask(worker: &Worker, pod: Option<PodId>) {
    worker.context.releases.ask(&worker.context.caches, &worker.key, &pod.into_iter().collect());
}

/// The pod to replace next.
fn next<'a>(
    own: &[(u32, Arc<Pod>)],
    outdated: &[&'a (u32, Arc<Pod>)],
    primary: Option<&str>,
    strategy: UpdateStrategyType,
) -> Option<&'a Pod> {
    // One that is going counts until it is gone.
    if own.iter().any(|(_, pod)| pod.metadata.deletion_timestamp.is_some()) {
        return None;
    }
    let is_primary = |pod: &Pod| {
        strategy == UpdateStrategyType::ReplicasFirstPrimaryLast && primary == Some(pod.name_any().as_str())
    };
    outdated
        .iter()
        // What does not work costs nothing to replace; then replicas, highest ordinal first; then the primary.
        .min_by_key(|(ordinal, pod)| (is_primary(pod), is_ready(pod), std::cmp::Reverse(*ordinal)))
        .map(|(_, pod)| &**pod)
}

async fn delete(context: &Context, namespace: &str, pod: &Pod) -> Result<(), Trouble> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let name = pod.name_any();
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match call(|| format!("delete pod {name}"), api.delete(&name, &params)).await {
        Ok(_) => Ok(()),
        Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if matches!(status.code, 404 | 409)) => {
            Ok(())
        }
        Err(trouble) => Err(trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ordinal: u32, ready: bool) -> (u32, Arc<Pod>) {
        let status = if ready { "True" } else { "False" };
        let pod = serde_json::from_value(json!({
            "metadata": {"name": format!("db-{ordinal}")},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }));
        (ordinal, Arc::new(pod.expect("a pod")))
    }

    #[test]
    fn replicas_first_primary_last() {
        let order = |pods: &[(u32, Arc<Pod>)], primary: &str, strategy| {
            let outdated: Vec<&(u32, Arc<Pod>)> = pods.iter().collect();
            next(pods, &outdated, Some(primary), strategy).map(kube::ResourceExt::name_any)
        };
        let replicas_first = UpdateStrategyType::ReplicasFirstPrimaryLast;
        let all = [pod(0, true), pod(1, true), pod(2, true)];
        assert_eq!(order(&all, "db-2", replicas_first).as_deref(), Some("db-1"));
        assert_eq!(order(&all, "db-2", UpdateStrategyType::RollingUpdate).as_deref(), Some("db-2"));
        assert_eq!(order(&all[2..], "db-2", replicas_first).as_deref(), Some("db-2"));
        let broken = [pod(0, false), pod(1, true)];
        assert_eq!(order(&broken, "db-5", replicas_first).as_deref(), Some("db-0"));
    }
}
