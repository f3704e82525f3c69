//! The virtual nodes: they announce themselves and run the pods that are bound to them.

pub mod bundle;
pub(crate) mod container;
pub mod disk;
pub mod env;
pub(crate) mod health;
pub mod logs;
pub mod mount;
pub(crate) mod pod;
pub(crate) mod probe;
pub mod register;
pub(crate) mod running;
pub mod runtime;
pub(crate) mod shared;
pub(crate) mod status;
pub(crate) mod terminal;
pub(crate) mod tls;
pub mod user;
pub mod volumes;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::events::Recorder;
use crate::images::ImageStore;
use crate::network::Network;
use crate::pace::Pace;
use crate::paths::Paths;
use runtime::Runtime;
use shared::{PodShared, Stop};

/// What all pods of a sandbox share.
pub struct NodeContext {
    /// The API, as an administrator.
    pub client: Client,
    /// Folders.
    pub paths: Paths,
    /// The network.
    pub network: Arc<Network>,
    /// The images.
    pub images: ImageStore,
    /// Containers.
    pub runtime: Arc<Runtime>,
    /// Events.
    pub events: Recorder,
    /// How quick things are.
    pub pace: Pace,
}

impl std::fmt::Debug for NodeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeContext").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// The pods that run.
#[derive(Debug, Clone)]
pub struct Pods {
    context: Arc<NodeContext>,
    nodes: Arc<HashMap<String, std::net::Ipv4Addr>>,
    workers: Arc<Mutex<HashMap<String, Worker>>>,
}

#[derive(Debug)]
struct Worker {
    shared: Arc<PodShared>,
    task: JoinHandle<()>,
}

impl Pods {
    /// No pods yet, on these nodes (name and address).
    pub fn new(context: Arc<NodeContext>, nodes: HashMap<String, std::net::Ipv4Addr>) -> Self {
        Self { context, nodes: Arc::new(nodes), workers: Arc::default() }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod by name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodShared>> {
        self.workers().values().map(|w| &w.shared).find(|s| s.namespace == namespace && s.name == name).cloned()
    }

    /// Follows the API until the future is dropped.
    pub async fn follow(&self) {
        tokio::join!(
            self.follow_pods(),
            self.follow_sources::<Secret>(|pod, name| refers(pod, name, true)),
            self.follow_sources::<ConfigMap>(|pod, name| refers(pod, name, false)),
            disk::follow(self.context.client.clone(), self.context.paths.volumes()),
        );
    }

    async fn follow_pods(&self) {
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let mut stream = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
        let mut listed = HashSet::new();
        loop {
            match stream.try_next().await {
                Ok(Some(Event::Init)) => listed.clear(),
                Ok(Some(Event::InitApply(pod))) => {
                    listed.insert(pod.uid().unwrap_or_default());
                    self.apply(pod);
                }
                Ok(Some(Event::InitDone)) => {
                    let gone: Vec<String> = self.workers().keys().filter(|u| !listed.contains(*u)).cloned().collect();
                    for uid in gone {
                        self.remove(&uid);
                    }
                    self.remove_unknown_folders(&listed);
                }
                Ok(Some(Event::Apply(pod))) => self.apply(pod),
                Ok(Some(Event::Delete(pod))) => self.remove(&pod.uid().unwrap_or_default()),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("watching pods: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn apply(&self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let Some(host) = self.nodes.get(&node).copied() else { return };
        let deadline = pod.metadata.deletion_timestamp.as_ref().map(|_| {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0);
            Stop::Graceful(Instant::now() + Duration::from_secs(grace as u64))
        });
        let mut workers = self.workers();
        let pod = Arc::new(pod);
        let worker = workers.entry(uid).or_insert_with(|| {
            let shared = PodShared::new(Arc::clone(&self.context), Arc::clone(&pod), node, host);
            let task = tokio::spawn(pod::run(Arc::clone(&shared)));
            Worker { shared, task }
        });
        worker.shared.pod.send_replace(pod);
        if let Some(stop) = deadline {
            worker.shared.request_stop(stop);
        }
    }

    /// The object is gone: so is the pod, at once.
    fn remove(&self, uid: &str) {
        let Some(worker) = self.workers().remove(uid) else { return };
        worker.shared.silent.store(true, Ordering::Relaxed);
        worker.shared.request_stop(Stop::Now);
        let dir = worker.shared.dir();
        tokio::spawn(async move {
            let _ = worker.task.await;
            let _ = tokio::task::spawn_blocking(move || pod::forget(&dir)).await;
        });
    }

    /// Folders of pods that vanished while the sandbox was away.
    fn remove_unknown_folders(&self, known: &HashSet<String>) {
        for entry in std::fs::read_dir(self.context.paths.pods()).into_iter().flatten().flatten() {
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                tokio::task::spawn_blocking(move || pod::forget(&entry.path()));
            }
        }
    }

    /// Wakes pods that use an object which has changed.
    async fn follow_sources<K>(&self, refers: fn(&Pod, &str) -> bool)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::all(self.context.client.clone());
        // Only names are needed: the objects are read when a pod uses them.
        let mut stream = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
        loop {
            match stream.try_next().await {
                Ok(Some(Event::Apply(object) | Event::Delete(object))) => {
                    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                    for worker in self.workers().values() {
                        if worker.shared.namespace == namespace && refers(&worker.shared.pod(), &name) {
                            worker.shared.refresh.notify_waiters();
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("watching {}: {error}", K::plural(&()));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Ends all pods without telling the API: their objects stay, and a later sandbox starts them again.
    pub async fn shut_down(&self, grace: Duration) {
        let workers: Vec<Worker> = self.workers().drain().map(|(_, worker)| worker).collect();
        let until = Instant::now() + grace;
        for worker in &workers {
            worker.shared.silent.store(true, Ordering::Relaxed);
            worker.shared.request_stop(Stop::Graceful(until));
        }
        for worker in workers {
            let _ = tokio::time::timeout_at(until + Duration::from_secs(5), worker.task).await;
        }
    }

    /// How many pods there are.
    pub fn count(&self) -> usize {
        self.workers().len()
    }
}

/// Whether a pod uses a Secret (or ConfigMap) of this name.
fn refers(pod: &Pod, name: &str, secret: bool) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = pod::all_volumes(pod);
    let in_volumes = volumes.iter().any(|v| {
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        if secret {
            v.secret.as_ref().and_then(|s| s.secret_name.as_deref()) == Some(name)
                || sources.filter_map(|s| s.secret.as_ref()).any(|s| s.name == name)
        } else {
            v.config_map.as_ref().map(|m| m.name.as_str()) == Some(name)
                || sources.filter_map(|s| s.config_map.as_ref()).any(|m| m.name == name)
        }
    });
    in_volumes
        || spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| {
            let from = c.env_from.iter().flatten();
            let keys = c.env.iter().flatten().filter_map(|e| e.value_from.as_ref());
            if secret {
                from.filter_map(|f| f.secret_ref.as_ref()).any(|r| r.name == name)
                    || keys.filter_map(|k| k.secret_key_ref.as_ref()).any(|r| r.name == name)
            } else {
                from.filter_map(|f| f.config_map_ref.as_ref()).any(|r| r.name == name)
                    || keys.filter_map(|k| k.config_map_key_ref.as_ref()).any(|r| r.name == name)
            }
        })
}
