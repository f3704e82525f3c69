//! The virtual nodes: they announce themselves and run the pods that are bound to them.

pub mod attachments;
pub mod bundle;
pub(crate) mod configure;
pub(crate) mod container;
pub mod disk;
pub mod env;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub mod logs;
pub mod mount;
pub(crate) mod object_volumes;
pub mod orphans;
pub(crate) mod pod;
pub(crate) mod probe;
pub(crate) mod pull;
pub mod register;
pub(crate) mod running;
pub mod runtime;
pub(crate) mod shared;
pub(crate) mod status;
pub(crate) mod terminal;
pub(crate) mod tls;
pub mod user;
pub mod volumes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use crate::network::links::Links;
use crate::pace::Pace;
use crate::paths::Paths;
use attachments::Attachments;
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
    /// Who reaches whom.
    pub links: Arc<Links>,
    /// Which volumes are in use.
    pub attachments: Attachments,
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
    nodes: Arc<BTreeMap<String, std::net::Ipv4Addr>>,
    workers: Arc<Mutex<HashMap<String, Worker>>>,
    /// Locked before `workers`.
    missed: Arc<Mutex<HashMap<String, Missed>>>,
    /// By node: what outlived the node's power.
    dying: Arc<Mutex<HashMap<String, Vec<JoinHandle<()>>>>>,
}

#[derive(Debug)]
struct Worker {
    shared: Arc<PodShared>,
    task: JoinHandle<()>,
}

/// What the API has said of a pod while its node did not hear it.
#[derive(Debug)]
struct Missed {
    node: String,
    /// The latest object; `None`: it is gone.
    pod: Option<Pod>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pods {
    /// No pods yet, on these nodes (name and address).
    pub fn new(context: Arc<NodeContext>, nodes: BTreeMap<String, std::net::Ipv4Addr>) -> Self {
        let nodes = Arc::new(nodes);
        Self { context, nodes, workers: Arc::default(), missed: Arc::default(), dying: Arc::default() }
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<String, Worker>> {
        lock(&self.workers)
    }

    /// A pod by its UID.
    pub(crate) fn find(&self, uid: &str) -> Option<Arc<PodShared>> {
        self.workers().get(uid).map(|w| Arc::clone(&w.shared))
    }

    pub(crate) fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// Follows the API until the future is dropped.
    pub async fn follow(&self) {
        tokio::join!(
            self.follow_pods(),
            self.follow_links(),
            self.follow_sources::<Secret>(|pod, name| refers(pod, name, true)),
            self.follow_sources::<ConfigMap>(|pod, name| refers(pod, name, false)),
            disk::follow(&self.context),
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
                    self.hear(pod);
                }
                Ok(Some(Event::InitDone)) => {
                    let mut known: HashSet<String> = self.workers().keys().cloned().collect();
                    known.extend(lock(&self.missed).keys().cloned());
                    for uid in known.difference(&listed) {
                        self.hear_of_end(uid);
                    }
                    self.remove_unknown_folders(&known.union(&listed).cloned().collect());
                }
                Ok(Some(Event::Apply(pod))) => self.hear(pod),
                Ok(Some(Event::Delete(pod))) => self.hear_of_end(&pod.uid().unwrap_or_default()),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("watching pods: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// The API has an object: its node does what it says, or later, when it hears of it.
    fn hear(&self, pod: Pod) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let mut missed = lock(&self.missed);
        let Some(uid) = pod.uid() else { return };
        if self.context.links.reaches_api(&node) {
            missed.remove(&uid);
            self.apply(pod);
        } else {
            missed.insert(uid, Missed { node, pod: Some(pod) });
        }
    }

    /// An object is gone: so is the pod, once its node hears of it.
    fn hear_of_end(&self, uid: &str) {
        let mut missed = lock(&self.missed);
        let node = match (self.find(uid), missed.get(uid)) {
            (Some(shared), _) => shared.node.clone(),
            (None, Some(entry)) => entry.node.clone(),
            (None, None) => return,
        };
        if self.context.links.reaches_api(&node) {
            missed.remove(uid);
            self.remove(uid);
        } else {
            missed.insert(uid.to_owned(), Missed { node, pod: None });
        }
    }

    /// Lets nodes that reach the API (again) know what they have missed.
    async fn follow_links(&self) {
        let mut links = self.context.links.subscribe();
        while links.changed().await.is_ok() {
            let mut missed = lock(&self.missed);
            for (uid, Missed { node: _, pod }) in
                missed.extract_if(|_, entry| self.context.links.reaches_api(&entry.node))
            {
                match pod {
                    Some(pod) => self.apply(pod),
                    None => self.remove(&uid),
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
        let dir = self.context.paths.pods().join(uid);
        let worker = self.workers().remove(uid);
        if let Some(worker) = &worker {
            worker.shared.silent.store(true, Ordering::Relaxed);
            worker.shared.request_stop(Stop::Now);
        }
        tokio::spawn(async move {
            if let Some(worker) = worker {
                let _ = worker.task.await;
            }
            let _ = tokio::task::spawn_blocking(move || pod::forget(&dir)).await;
        });
    }

    /// The pods of a node that has lost its power: every process of theirs is gone at once, and nobody is told. Waits until
    /// they are, for at most `patience`; names the pods whose processes do not end.
    pub(crate) async fn lose(&self, node: &str, patience: Duration) -> Vec<String> {
        let lost: Vec<(String, Worker)> = {
            let mut missed = lock(&self.missed);
            let lost: Vec<(String, Worker)> = self.workers().extract_if(|_, w| w.shared.node == node).collect();
            for (uid, worker) in &lost {
                let pod = || Missed { node: node.to_owned(), pod: Some((*worker.shared.pod()).clone()) };
                missed.entry(uid.clone()).or_insert_with(pod);
                worker.shared.silent.store(true, Ordering::Relaxed);
                worker.shared.request_stop(Stop::Now);
            }
            lost
        };
        let groups: Vec<String> = lost.iter().map(|(_, w)| w.shared.cgroup()).collect();
        let kill =
            move || groups.iter().for_each(|group| crate::cgroup::signal_all(group, rustix::process::Signal::KILL));
        let _ = tokio::task::spawn_blocking(kill).await;
        let until = Instant::now() + patience;
        let mut stuck = Vec::new();
        for (_, mut worker) in lost {
            if tokio::time::timeout_at(until, &mut worker.task).await.is_err() {
                stuck.push(worker.shared.name.clone());
                lock(&self.dying).entry(node.to_owned()).or_default().push(worker.task);
            }
        }
        stuck
    }

    /// Waits for processes that outlived [`Pods::lose`]; false when some are still there after `patience`.
    pub(crate) async fn until_lost(&self, node: &str, patience: Duration) -> bool {
        let tasks = lock(&self.dying).remove(node).unwrap_or_default();
        let until = Instant::now() + patience;
        let mut left = Vec::new();
        for mut task in tasks {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                left.push(task);
            }
        }
        let done = left.is_empty();
        if !done {
            lock(&self.dying).insert(node.to_owned(), left);
        }
        done
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
