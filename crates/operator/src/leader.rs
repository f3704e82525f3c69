//! Which of the operator's pods leads: for as long as it lives.
//!
//! The Lease `mariadb-operator` names the leader's pod. It is not renewed, so that rest costs no writes; it is free when that
//! pod is gone, ended, or past the end of its grace period (a pod on a lost node stays there, deleted, for good). Two leaders
//! for a moment are harmless to data: each decision about a topology is a swap of that topology's record.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
const LEASE: &str = "mariadb-operator";
/// Who waits to lead looks so often.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for an answer of the API server.
const LIMIT: Duration = Duration::from_secs(5);

/// A pod that may lead.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the operator.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its UID.
    pub uid: String,
}

impl Candidate {
    fn identity(&self) -> String {
        format!("{}_{}", self.pod, self.uid)
    }
}

/// Who took the lead from us, once somebody did.
pub(crate) type Lost = watch::Receiver<Option<String>>;

/// Waits until this pod leads. `None`: told to stop.
pub(crate) async fn lead(client: &kube::Client, me: &Candidate, stop: &CancellationToken) -> Option<Lost> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &me.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &me.namespace);
    let mut said = String::new();
    loop {
        let say = match tokio::time::timeout(LIMIT, attempt(&leases, &pods, me)).await {
            Ok(Ok(None)) => break,
            Ok(Ok(Some(holder))) => format!("{holder} leads; standing by"),
            Ok(Err(error)) => format!("the Lease {LEASE} cannot be had: {error}"),
            Err(_) => format!("the API server does not answer about the Lease {LEASE}"),
        };
        if say != said {
            tracing::info!("{say}");
            said = say;
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tracing::info!(pod = me.pod, "this pod leads");
    let (sender, lost) = watch::channel(None);
    tokio::spawn(guard(leases, me.identity(), sender));
    Some(lost)
}

/// Ends when another pod leads.
pub(crate) async fn until_lost(lost: Option<Lost>) -> String {
    let Some(mut lost) = lost else { return std::future::pending().await };
    loop {
        if let Some(holder) = lost.borrow_and_update().clone() {
            return holder;
        }
        if lost.changed().await.is_err() {
            return "unknown".to_owned();
        }
    }
}

/// One attempt; gives the holder when that is another pod, and it lives.
async fn attempt(leases: &Api<Lease>, pods: &Api<Pod>, me: &Candidate) -> Result<Option<String>, kube::Error> {
    let current = leases.get_opt(LEASE).await?;
    let holder = current.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone()).unwrap_or_default();
    if holder == me.identity() {
        return Ok(None);
    }
    if !holder.is_empty() && lives(pods, &holder).await? {
        return Ok(Some(holder));
    }
    let mut next = current.clone().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let spec = next.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(me.identity());
    spec.acquire_time = Some(MicroTime(Timestamp::now()));
    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
    let post = PostParams::default();
    // With its resourceVersion: of two that try, one gets a conflict.
    let written = match current {
        Some(_) => leases.replace(LEASE, &post, &next).await,
        None => leases.create(&post, &next).await,
    };
    match written {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Some("another pod".to_owned())),
        Err(error) => Err(error),
    }
}

async fn lives(pods: &Api<Pod>, holder: &str) -> Result<bool, kube::Error> {
    let Some((name, uid)) = holder.rsplit_once('_') else { return Ok(false) };
    let Some(pod) = pods.get_opt(name).await? else { return Ok(false) };
    Ok(pod.metadata.uid.as_deref() == Some(uid) && !over(&pod, Timestamp::now()))
}

/// It ended, or the time that it had for ending is over.
fn over(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
        || pod.metadata.deletion_timestamp.as_ref().is_some_and(|at| at.0 < now)
}

async fn guard(leases: Api<Lease>, identity: String, lost: watch::Sender<Option<String>>) {
    let mut changes = std::pin::pin!(watcher::watch_object(leases, LEASE));
    while let Some(change) = changes.next().await {
        match change {
            Ok(lease) => {
                let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_else(|| "nobody".to_owned());
                if holder != identity {
                    lost.send_replace(Some(holder));
                    return;
                }
            }
            // The API is away: nobody else can take the lead either.
            Err(error) => {
                tracing::debug!(%error, "the Lease is not watched");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_past_its_grace_period_leads_no_more() {
        let now: Timestamp = "2026-01-01T00:00:30Z".parse().expect("a time");
        let pod = |value| serde_json::from_value::<Pod>(value).expect("a pod");
        assert!(!over(&pod(json!({"status": {"phase": "Running"}})), now));
        assert!(over(&pod(json!({"status": {"phase": "Failed"}})), now));
        assert!(over(&pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:29Z"}})), now));
        assert!(!over(&pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:31Z"}})), now));
    }
}
