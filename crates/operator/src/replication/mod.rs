//! The *replication* loop: for each topology observe -> decide -> record -> act, until it is as wanted.
//!
//! One task per topology, so that a slow one never holds up another; in it one stream per agent, so that what an agent
//! says is acted on within milliseconds. What is decided lies in [`topology::decide`]; here is only what brings
//! observations in and orders out.

mod authority;
mod changes;
mod clerk;
mod clock;
mod facts;
pub(crate) mod family;
mod fencing;
mod intent;
mod lease;
mod links;
mod observing;
mod outlook;
mod requests;
mod routing;
mod runner;
mod status;
mod telling;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::MariaDB;
use api::spec::MariaDBSpec;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service};
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::{Metrics, Releases};
use family::{Families, Orphan};

/// Field manager of everything this loop writes.
const FIELD_MANAGER: &str = api::names::REPLICATION_MANAGER;

/// Topologies are looked for at least so often (a task that died is started again).
const SWEEP: Duration = Duration::from_secs(30);

/// Wakes an object's loop: namespace, name.
pub type Wake = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What this loop works with.
#[derive(Clone)]
pub struct Inputs {
    /// The API server.
    pub client: kube::Client,
    /// All `MariaDB` objects.
    pub objects: Store<MariaDB>,
    /// The pods of all members.
    pub pods: Store<Pod>,
    /// The volume claims of all members.
    pub claims: Store<PersistentVolumeClaim>,
    /// The records of all topologies: to notice that somebody else changed one.
    pub leases: Store<Lease>,
    /// Services of the users' own that mean the primary.
    pub services: Store<Service>,
    /// The nodes.
    pub nodes: Store<Node>,
    /// Raised with every change in these stores.
    pub changed: watch::Receiver<u64>,
    /// Publishes events.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// Which pods may be restarted or taken away.
    pub releases: Releases,
    /// Wakes the *resources* loop of an object: namespace, name.
    pub wake: Wake,
}

/// Runs until `stop`.
pub async fn run(mut inputs: Inputs, stop: CancellationToken) {
    let mut running: BTreeMap<(String, String), Running> = BTreeMap::new();
    let mut written = BTreeMap::new();
    loop {
        inputs.changed.mark_unchanged();
        sweep(&inputs, &mut running, &mut written).await;
        tokio::select! {
            () = stop.cancelled() => break,
            changed = inputs.changed.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(SWEEP) => {}
        }
    }
    for (_, task) in running {
        task.task.abort();
    }
}

struct Running {
    uid: String,
    task: JoinHandle<()>,
}

type Written = BTreeMap<(String, String), BTreeMap<String, (status::Said, tokio::time::Instant)>>;

/// Starts and stops tasks so that there is one for each root, and says what objects without one wait for.
async fn sweep(inputs: &Inputs, running: &mut BTreeMap<(String, String), Running>, written: &mut Written) {
    let mut roots = BTreeMap::new();
    let mut orphans = Vec::new();
    for (namespace, objects) in by_namespace(&inputs.objects) {
        let Families { roots: found, orphans: lost } = families(&objects);
        for root in found.into_keys() {
            if let Some(object) = objects.iter().find(|object| object.name_any() == root) {
                roots.insert((namespace.clone(), root), object.uid().unwrap_or_default());
            }
        }
        for (name, orphan) in lost {
            orphans
                .extend(objects.iter().find(|object| object.name_any() == name).map(|object| (object.clone(), orphan)));
        }
    }
    running.retain(|key, task| {
        let keep = roots.get(key) == Some(&task.uid) && !task.task.is_finished();
        if !keep {
            task.task.abort();
        }
        keep
    });
    for (key, uid) in roots {
        running.entry(key.clone()).or_insert_with(|| {
            let runner = runner::Runner::new(inputs.clone(), key.0, key.1, uid.clone());
            Running { uid, task: tokio::spawn(runner.run()) }
        });
    }
    written.retain(|(namespace, name), _| {
        orphans.iter().any(|(object, _)| object.namespace().as_ref() == Some(namespace) && object.name_any() == *name)
    });
    for (object, orphan) in orphans {
        say_orphan(inputs, written, &object, &orphan).await;
    }
}

async fn say_orphan(inputs: &Inputs, written: &mut Written, object: &Arc<MariaDB>, orphan: &Orphan) {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let (reason, message) = (orphan.reason(), orphan.to_string());
    clerk::write_status(inputs, written.entry(key).or_default(), object, |object, now| {
        status::of_orphan(object, reason, message, now)
    })
    .await;
}

/// All objects that are not being deleted.
fn by_namespace(store: &Store<MariaDB>) -> BTreeMap<String, Vec<Arc<MariaDB>>> {
    let mut namespaces: BTreeMap<String, Vec<Arc<MariaDB>>> = BTreeMap::new();
    for object in store.state() {
        if object.metadata.deletion_timestamp.is_none() {
            namespaces.entry(object.namespace().unwrap_or_default()).or_default().push(object);
        }
    }
    namespaces
}

pub(crate) fn families(objects: &[Arc<MariaDB>]) -> Families {
    let links: Vec<family::Link> = objects
        .iter()
        .map(|object| family::Link {
            name: object.name_any(),
            primary: primary_name(&object.spec),
            replicates: object.spec.replication.as_ref().is_some_and(|r| r.enabled.unwrap_or(false)),
        })
        .collect();
    family::form(&links)
}

fn primary_name(spec: &MariaDBSpec) -> Option<String> {
    spec.replication.as_ref()?.replica.as_ref()?.primary_name.clone()
}
