//! What a cluster's controllers do: pods for workloads, nodes for pods, volumes for claims, endpoints for services.
//!
//! Each controller is a sweep over caches: it looks at everything of its kind and mends what differs. A sweep follows every
//! change; one that finds nothing to do writes nothing. So there is no queue, and a crash anywhere is another sweep.

mod caches;
mod classic_endpoints;
mod deployment;
mod disruption;
mod endpoints;
mod job;
mod lifecycle;
mod pods;
mod scheduler;
mod stateful_set;
mod static_volumes;
mod volumes;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::events::Recorder;
use crate::network::links::LinkTable;
use crate::pace::Pace;
use caches::Caches;
pub(crate) use pods::matches;

/// Changes come in bursts: so long is waited for the rest of one.
const BURST: Duration = Duration::from_millis(2);
/// Without changes a sweep is made so often, for what depends on time.
const IDLE: Duration = Duration::from_secs(5);
/// After a failed write.
const RETRY: Duration = Duration::from_millis(100);

/// Runs all controllers for ever. `links` tells when the API is away: nodes' silence means nothing then.
pub async fn run(client: Client, pace: Pace, links: watch::Receiver<LinkTable>) {
    let caches = Caches::start(&client);
    caches.ready().await;
    let recorder = Recorder::start(client.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || scheduler::Scheduler::new(client.clone(), recorder.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || stateful_set::StatefulSets::new(client.clone(), recorder.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || volumes::Volumes::new(client.clone(), recorder.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || deployment::Deployments::new(client.clone(), recorder.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || job::Jobs::new(client.clone(), recorder.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let (client, recorder) = (client.clone(), recorder.clone());
        move || lifecycle::Nodes::new(client.clone(), recorder.clone(), pace, links.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let client = client.clone();
        move || endpoints::Endpoints::new(client.clone())
    }));
    tasks.spawn(keep_up(caches.clone(), {
        let client = client.clone();
        move || disruption::Budgets::new(client.clone())
    }));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
}

/// A controller.
trait Sweep: Send + 'static {
    /// For logs.
    const NAME: &'static str;

    /// Without changes a sweep is made so often.
    fn idle(&self) -> Duration {
        IDLE
    }

    /// Looks at everything; `Err`: look again soon.
    fn sweep(&mut self, caches: &Caches) -> impl Future<Output = Result<(), kube::Error>> + Send;
}

/// Runs a controller, and another one of its kind if it panics.
async fn keep_up<S: Sweep>(caches: Caches, make: impl Fn() -> S) {
    while AssertUnwindSafe(sweep_forever(caches.clone(), make())).catch_unwind().await.is_err() {
        tracing::error!(controller = S::NAME, "a controller failed and is started anew");
        tokio::time::sleep(RETRY).await;
    }
}

async fn sweep_forever<S: Sweep>(caches: Caches, mut controller: S) {
    let mut changed = caches.changed();
    loop {
        changed.mark_unchanged();
        let wait = match controller.sweep(&caches).await {
            Ok(()) => {
                let _ = tokio::time::timeout(controller.idle(), changed.changed()).await;
                BURST
            }
            Err(error) if is_conflict(&error) => RETRY / 10,
            Err(error) => {
                tracing::warn!(controller = S::NAME, %error, "a sweep failed");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Somebody else wrote first, or it is there already, or gone already: the caches will tell.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(status_code(error), Some(404 | 409))
}

/// A merge patch from one status to the next. What is gone is named as `null`: a merge patch leaves alone what it does not name.
fn status_patch<S: serde::Serialize>(of: &ObjectMeta, before: &S, after: &S) -> serde_json::Value {
    let value = |status: &S| serde_json::to_value(status).unwrap_or_default();
    let mut patch = value(after);
    forget(&value(before), &mut patch);
    serde_json::json!({ "metadata": { "uid": of.uid }, "status": patch })
}

fn forget(before: &serde_json::Value, after: &mut serde_json::Value) {
    if let (Some(before), Some(after)) = (before.as_object(), after.as_object_mut()) {
        for (key, old) in before {
            forget(old, after.entry(key.clone()).or_insert(serde_json::Value::Null));
        }
    }
}

/// Done, or done by somebody else meanwhile.
fn tolerate<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_patch_takes_away_what_is_gone() {
        let before = json!({ "active": 1, "ready": 1, "disruptedPods": { "a": "x", "b": "y" } });
        let after = json!({ "ready": 0, "disruptedPods": { "b": "y" } });
        assert_eq!(
            status_patch(&ObjectMeta { uid: Some("u".into()), ..ObjectMeta::default() }, &before, &after),
            json!({ "metadata": { "uid": "u" },
                    "status": { "active": null, "ready": 0, "disruptedPods": { "a": null, "b": "y" } } })
        );
    }
}
