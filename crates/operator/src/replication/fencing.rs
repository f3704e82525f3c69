//! `primary.fencing`: after a failover the old primary's pod is deleted as well.
//!
//! This fences nothing by itself (the ackers were fenced before anybody was promoted); it brings the member back sooner, on
//! another node where its own is lost.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};

use super::{Inputs, facts};

/// It is looked at again so often.
const LOOK: Duration = Duration::from_secs(2);
/// An API server that does not answer in this time is asked again.
const LIMIT: Duration = Duration::from_secs(10);

/// Deletes the pod, by force as soon as its node is gone or out of service, and ends when it is gone.
pub(super) async fn fence(inputs: Inputs, namespace: String, pod: String, uid: String) {
    let api: Api<Pod> = Api::namespaced(inputs.client.clone(), &namespace);
    let mut deleted = false;
    loop {
        let known = inputs.pods.get(&ObjectRef::new(&pod).within(&namespace));
        let Some(known) = known.filter(|known| known.uid().as_deref() == Some(&uid)) else { return };
        let node = known.spec.as_ref().and_then(|spec| spec.node_name.clone());
        // A pod that was never placed has nothing that could still run.
        let by_force =
            node.is_none_or(|node| facts::is_gone(inputs.nodes.get(&ObjectRef::<Node>::new(&node)).as_deref()));
        if !deleted || by_force {
            let params = DeleteParams {
                grace_period_seconds: by_force.then_some(0),
                preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                ..DeleteParams::default()
            };
            match tokio::time::timeout(LIMIT, api.delete(&pod, &params)).await {
                Ok(Ok(_)) => {
                    deleted = true;
                    tracing::info!(namespace, pod, by_force, "fenced: the old primary's pod is deleted");
                }
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => return,
                Ok(Err(error)) => tracing::warn!(namespace, pod, %error, "the old primary's pod was not deleted"),
                Err(_) => tracing::warn!(namespace, pod, "the old primary's pod was not deleted: no answer"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
