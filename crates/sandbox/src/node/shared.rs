//! What the tasks of one pod share.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, ObjectReference, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::NodeContext;
use super::env::NodeFacts;
use super::running::Running;
use super::status::{self, PodState};
use crate::network::PodNetwork;

/// What a pod has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Go on.
    Run,
    /// End until then, by force afterwards.
    Graceful(Instant),
    /// End by force.
    Now,
}

/// One pod of the node.
#[derive(Debug)]
pub(crate) struct PodShared {
    pub(crate) context: Arc<NodeContext>,
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Name of the virtual node.
    pub(crate) node: String,
    /// The latest object.
    pub(crate) pod: watch::Sender<Arc<Pod>>,
    /// What it has been told.
    pub(crate) stop: watch::Sender<Stop>,
    /// What its containers have been told: also ends a pod whose object stays.
    halt: watch::Sender<Stop>,
    /// Woken when an object that volumes come from has changed.
    pub(crate) refresh: Notify,
    /// Folders of the volumes, once they are ready.
    pub(crate) volumes: Mutex<BTreeMap<String, PathBuf>>,
    pub(crate) network: Mutex<Option<PodNetwork>>,
    /// Held while that is being made.
    pub(super) connecting: Arc<tokio::sync::Mutex<()>>,
    running: Mutex<HashMap<String, Arc<Running>>>,
    state: Mutex<PodState>,
    changed: Notify,
    /// Whether the object is gone, or the sandbox ends: nothing is written to the API any more.
    pub(crate) silent: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PodShared {
    pub(crate) fn new(context: Arc<NodeContext>, pod: Arc<Pod>, node: String, host: Ipv4Addr) -> Arc<Self> {
        let state = PodState::new(&pod, host, &now());
        Arc::new(Self {
            context,
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            node,
            pod: watch::Sender::new(pod),
            stop: watch::Sender::new(Stop::Run),
            halt: watch::Sender::new(Stop::Run),
            refresh: Notify::new(),
            volumes: Mutex::default(),
            network: Mutex::default(),
            connecting: Arc::default(),
            running: Mutex::default(),
            state: Mutex::new(state),
            changed: Notify::new(),
            silent: AtomicBool::new(false),
        })
    }

    /// The latest object.
    pub(crate) fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.borrow())
    }

    /// Its specification.
    pub(crate) fn spec(&self) -> PodSpec {
        self.pod().spec.clone().unwrap_or_default()
    }

    /// The pod's name for itself.
    pub(crate) fn hostname(&self) -> String {
        let own = self.pod().spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
        let mut name = own.unwrap_or_else(|| self.name.clone());
        name.truncate(63);
        name
    }

    /// Folder of the pod.
    pub(crate) fn dir(&self) -> PathBuf {
        self.context.paths.pods().join(&self.uid)
    }

    /// Control group of all its containers.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}/{}", self.context.paths.cgroup(), self.uid)
    }

    /// Log of one run of a container.
    pub(crate) fn log_path(&self, container: &str, run: i32) -> PathBuf {
        self.dir().join("logs").join(container).join(format!("{run}.log"))
    }

    /// Facts for environments and volumes.
    pub(crate) fn facts(&self) -> NodeFacts {
        let state = lock(&self.state);
        NodeFacts { pod_ip: state.address.map(|a| a.to_string()).unwrap_or_default(), host_ip: state.host.to_string() }
    }

    /// The node's address.
    pub(crate) fn host(&self) -> Ipv4Addr {
        lock(&self.state).host
    }

    /// The pod's address.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        lock(&self.state).address
    }

    /// A copy of what is known.
    pub(crate) fn state(&self) -> PodState {
        lock(&self.state).clone()
    }

    /// Changes what is known; the API is told at once.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut PodState) -> T) -> T {
        let result = change(&mut lock(&self.state));
        self.changed.notify_one();
        result
    }

    /// Changes a container's status.
    pub(crate) fn update_container(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.update(|state| {
            if let Some(status) = state.container(name) {
                change(status);
            }
        });
    }

    /// A container that runs now.
    pub(crate) fn running(&self, name: &str) -> Option<Arc<Running>> {
        lock(&self.running).get(name).cloned()
    }

    /// Names of the containers that run now.
    pub(crate) fn all_running(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.running).keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn set_running(&self, name: &str, running: Option<Arc<Running>>) {
        let mut map = lock(&self.running);
        match running {
            Some(running) => drop(map.insert(name.to_owned(), running)),
            None => drop(map.remove(name)),
        }
    }

    /// Records an event on the pod, or on one of its containers.
    pub(crate) fn event(&self, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        // What a kubelet without a connection has to say is lost.
        if self.silent.load(Ordering::Relaxed) || !self.reaches_api() {
            return;
        }
        let pod = self.pod();
        let is_init =
            |name: &str| pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == name);
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: pod.resource_version(),
            field_path: container
                .map(|name| format!("spec.{}{{{name}}}", if is_init(name) { "initContainers" } else { "containers" })),
        };
        self.context.events.record(about, "kubelet", &self.node, warning, reason, message);
    }

    /// Tells the pod to end until then; it never gets more time than it had.
    pub(crate) fn request_stop(&self, stop: Stop) {
        tell(&self.stop, stop);
        tell(&self.halt, stop);
    }

    /// Ends the containers of a pod whose object stays.
    pub(crate) fn expire(&self, until: Instant) {
        tell(&self.halt, Stop::Graceful(until));
    }

    /// What the containers have been told.
    pub(crate) fn stopped(&self) -> watch::Receiver<Stop> {
        self.halt.subscribe()
    }

    /// Whether its kubelet talks with the API.
    pub(crate) fn reaches_api(&self) -> bool {
        self.context.links.reaches_api(&self.node)
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    /// Writes the status whenever it changed. Never returns.
    pub(crate) async fn write_status(&self) {
        let mut last = serde_json::Value::Null;
        let mut object = self.pod.subscribe();
        let mut links = self.context.links.subscribe();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                // Readiness gates are written by others; and that a pod is not ready, of a node that was thought lost.
                changed = object.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if status::readiness(&self.pod()) != status::readiness_in(&last) {
                        last = serde_json::Value::Null;
                    }
                }
                cut = links.wait_for(|table| !table.reaches_api(&self.node)) => if cut.is_err() { return },
            }
            if !self.reaches_api() {
                self.context.links.until_reaching(&self.node).await;
                // Others have written meanwhile that the pod is not ready.
                last = serde_json::Value::Null;
            }
            while !self.write_once(&mut last).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// One write, if there is anything to write; false when it should be tried again.
    pub(crate) async fn write_once(&self, last: &mut serde_json::Value) -> bool {
        if self.silent.load(Ordering::Relaxed) {
            return true;
        }
        if !self.reaches_api() {
            return false;
        }
        let patch = status::patch(&self.pod(), &self.state(), &now());
        if without_times(&patch) == without_times(last) {
            return true;
        }
        let result = self.api().patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        match result {
            Ok(_) => *last = patch,
            // Gone, or another pod of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                tracing::debug!("status of {}/{}: {status}", self.namespace, self.name);
                *last = patch;
            }
            Err(error) => {
                tracing::warn!("status of {}/{}: {error}", self.namespace, self.name);
                return false;
            }
        }
        true
    }

    /// Removes the object, now that nothing of the pod runs any more.
    pub(crate) async fn delete_object(&self) {
        for _ in 0..50 {
            self.context.links.until_reaching(&self.node).await;
            if self.silent.load(Ordering::Relaxed) {
                return;
            }
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
                ..DeleteParams::default()
            };
            match self.api().delete(&self.name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => tracing::warn!("deleting {}/{}: {error}", self.namespace, self.name),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn tell(channel: &watch::Sender<Stop>, stop: Stop) {
    channel.send_if_modified(|current| {
        let sooner = match (*current, stop) {
            (_, Stop::Run) | (Stop::Now, _) => false,
            (Stop::Graceful(old), Stop::Graceful(new)) => new < old,
            _ => true,
        };
        if sooner {
            *current = stop;
        }
        sooner
    });
}

/// A status without the times that change by themselves.
fn without_times(patch: &serde_json::Value) -> serde_json::Value {
    let mut patch = patch.clone();
    for condition in patch["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
    }
    patch
}

/// The time, as objects carry it: whole seconds.
pub(crate) fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}
