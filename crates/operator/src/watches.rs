//! Caches of what the cluster holds, as far as it concerns us, and who is woken by which change.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use api::{MariaDB, names};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// What is kept of a child: enough to know whose it is, and whether somebody changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) uid: String,
    pub(crate) version: String,
    pub(crate) generation: Option<i64>,
    /// Name and UID of the controlling owner.
    pub(crate) owner: Option<(String, String)>,
    pub(crate) deleting: bool,
}

impl Child {
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation,
            owner: owner.map(|owner| (owner.name.clone(), owner.uid.clone())),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

/// Children by kind, namespace and name.
type Children = HashMap<(&'static str, Key), Child>;

/// Caches, and who is woken.
#[derive(Clone)]
pub struct Caches {
    /// All `MariaDB` objects.
    pub objects: Store<MariaDB>,
    /// The pods of members.
    pub pods: Store<Pod>,
    /// The volume claims of members.
    pub claims: Store<PersistentVolumeClaim>,
    /// The StatefulSets.
    pub sets: Store<StatefulSet>,
    /// The records of topologies.
    pub leases: Store<Lease>,
    /// Services of the users' own that mean the primary: `app: mariadb`, `role: primary`.
    pub services: Store<Service>,
    /// The nodes, without what pods do not depend on.
    pub nodes: Store<Node>,
    hub: Arc<Hub>,
}

struct Hub {
    children: Mutex<Children>,
    sleepers: Mutex<HashMap<Key, Arc<Notify>>>,
    /// Watches whose first list is still to come.
    missing: watch::Sender<usize>,
    /// Raised with every change that the replication loop sees.
    changed: watch::Sender<u64>,
    /// The set of objects changed.
    objects: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    /// Waits until everything was listed once.
    pub(crate) async fn synced(&self) {
        let mut missing = self.hub.missing.subscribe();
        let _ = missing.wait_for(|missing| *missing == 0).await;
    }

    /// What is known of a child.
    pub(crate) fn child(&self, kind: &'static str, namespace: &str, name: &str) -> Option<Child> {
        locked(&self.hub.children).get(&(kind, (namespace.to_owned(), name.to_owned()))).cloned()
    }

    /// Names of a kind's children that an object controls.
    pub(crate) fn children_of(&self, kind: &'static str, namespace: &str, owner_uid: &str) -> Vec<String> {
        let children = locked(&self.hub.children);
        let mut names: Vec<String> = children
            .iter()
            .filter(|((of, key), child)| {
                *of == kind
                    && key.0 == namespace
                    && !child.deleting
                    && child.owner.as_ref().is_some_and(|(_, uid)| uid == owner_uid)
            })
            .map(|((_, key), _)| key.1.clone())
            .collect();
        names.sort();
        names
    }

    /// What wakes the loop of an object.
    pub(crate) fn sleeper(&self, key: &Key) -> Arc<Notify> {
        Arc::clone(locked(&self.hub.sleepers).entry(key.clone()).or_default())
    }

    /// Forgets it.
    pub(crate) fn forget(&self, key: &Key) {
        locked(&self.hub.sleepers).remove(key);
    }

    /// Wakes the loop of an object.
    pub(crate) fn wake(&self, key: &Key) {
        self.hub.wake(key);
    }

    /// Wakes the replication loop.
    pub(crate) fn raise(&self) {
        self.hub.raise();
    }

    /// Ends when objects came or went.
    pub(crate) async fn objects_changed(&self) {
        self.hub.objects.notified().await;
    }
}

impl Hub {
    fn wake(&self, key: &Key) {
        if let Some(sleeper) = locked(&self.sleepers).get(key) {
            sleeper.notify_one();
        }
    }

    fn wake_namespace(&self, namespace: &str) {
        for (key, sleeper) in locked(&self.sleepers).iter() {
            if key.0 == namespace {
                sleeper.notify_one();
            }
        }
    }

    fn raise(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Wakes the object that a labelled child belongs to; of others, whoever is near.
    fn wake_owner(&self, meta: &ObjectMeta) {
        let namespace = meta.namespace.clone().unwrap_or_default();
        match meta.labels.as_ref().and_then(|labels| labels.get(names::INSTANCE_LABEL)) {
            Some(instance) => self.wake(&(namespace, instance.clone())),
            None => self.wake_namespace(&namespace),
        }
    }

    /// A Secret of one object may be what another waits for.
    fn wake_for(&self, kind: &'static str, meta: &ObjectMeta) {
        if kind == "Secret" {
            self.wake_namespace(meta.namespace.as_deref().unwrap_or_default());
        } else {
            self.wake_owner(meta);
        }
    }

    fn keep(&self, kind: &'static str, meta: &ObjectMeta) {
        let child = Child::of(meta);
        let news = if child.owner.is_some() {
            locked(&self.children).insert((kind, key_of(meta)), child.clone()).as_ref() != Some(&child)
        } else {
            true
        };
        if news {
            self.wake_for(kind, meta);
        }
    }

    fn listed(&self) {
        self.missing.send_modify(|missing| *missing -= 1);
    }
}

fn key_of(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Starts all watches.
pub(crate) fn start(client: &kube::Client) -> (Caches, watch::Receiver<u64>) {
    let (objects, objects_writer) = store();
    let (pods, pods_writer) = store();
    let (claims, claims_writer) = store();
    let (sets, sets_writer) = store();
    let (leases, leases_writer) = store();
    let (services, services_writer) = store();
    let (nodes, nodes_writer) = store();
    let hub = Arc::new(Hub {
        children: Mutex::default(),
        sleepers: Mutex::default(),
        missing: watch::Sender::new(14),
        changed: watch::Sender::new(0),
        objects: Notify::new(),
    });
    let changed = hub.changed.subscribe();
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGED_BY));
    let all = watcher::Config::default();

    follow(client, &hub, objects_writer, all.clone(), |hub, object: &MariaDB, existence| {
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        hub.wake(&key);
        if existence {
            hub.objects.notify_one();
            hub.wake_namespace(&key.0);
        }
        hub.raise();
    });
    follow(client, &hub, pods_writer, ours.clone(), |hub, pod: &Pod, _| {
        hub.wake_owner(&pod.metadata);
        hub.raise();
    });
    follow(client, &hub, claims_writer, ours.clone(), |hub, claim: &PersistentVolumeClaim, _| {
        hub.wake_owner(&claim.metadata);
        hub.raise();
    });
    follow(client, &hub, sets_writer, ours.clone(), |hub, set: &StatefulSet, _| hub.wake_owner(&set.metadata));
    follow(client, &hub, leases_writer, ours.clone(), |hub, _: &Lease, _| hub.raise());
    let primaries = watcher::Config::default().labels(&format!(
        "{}=mariadb,{}={}",
        names::APP_LABEL,
        names::SHORT_ROLE_LABEL,
        names::PRIMARY
    ));
    follow(client, &hub, services_writer, primaries, |hub, _: &Service, _| hub.raise());
    // A node reports itself every few seconds, with all images that it holds: only its conditions and taints count.
    let lean = |node: &mut Node| {
        if let Some(status) = &mut node.status {
            (status.images, status.volumes_in_use, status.volumes_attached) = (None, None, None);
        }
    };
    follow_lean(client, &hub, nodes_writer, all.clone(), lean, |hub, _: &Node, news| {
        if news {
            hub.raise();
        }
    });
    // Secrets and ConfigMaps of users' are waited for by name: their coming must be seen, nothing of them is kept.
    glance::<Secret>(client, &hub, all.clone());
    glance::<ConfigMap>(client, &hub, all);
    glance::<Service>(client, &hub, ours.clone());
    glance::<ServiceAccount>(client, &hub, ours.clone());
    glance::<Role>(client, &hub, ours.clone());
    glance::<RoleBinding>(client, &hub, ours.clone());
    glance::<PodDisruptionBudget>(client, &hub, ours);
    (Caches { objects, pods, claims, sets, leases, services, nodes, hub }, changed)
}

/// Keeps whole objects, without what nobody reads. `tell` is told of each change, and whether an object came, went, or got a
/// new generation.
fn follow<K>(
    client: &kube::Client,
    hub: &Arc<Hub>,
    writer: kube::runtime::reflector::store::Writer<K>,
    config: watcher::Config,
    tell: impl Fn(&Hub, &K, bool) + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    follow_lean(client, hub, writer, config, |_| {}, tell);
}

/// The same, with more taken off before it is kept.
fn follow_lean<K>(
    client: &kube::Client,
    hub: &Arc<Hub>,
    mut writer: kube::runtime::reflector::store::Writer<K>,
    config: watcher::Config,
    strip: impl Fn(&mut K) + Send + Sync + 'static,
    tell: impl Fn(&Hub, &K, bool) + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        let mut generations: HashMap<String, Option<i64>> = HashMap::new();
        let mut listed = false;
        let mut events = std::pin::pin!(watcher(api, config).default_backoff().modify(|object| {
            object.meta_mut().managed_fields = None;
            strip(object);
        }));
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    complain::<K>(&error);
                    continue;
                }
            };
            writer.apply_watcher_event(&event);
            match &event {
                watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                    let meta = object.meta();
                    let uid = meta.uid.clone().unwrap_or_default();
                    let state = meta.deletion_timestamp.is_none().then_some(meta.generation).flatten();
                    let news = generations.insert(uid, state) != Some(state);
                    // While a list comes in, the store still holds the old one.
                    if matches!(event, watcher::Event::Apply(_)) {
                        tell(&hub, object, news);
                    }
                }
                watcher::Event::Delete(object) => {
                    generations.remove(object.meta().uid.as_deref().unwrap_or_default());
                    tell(&hub, object, true);
                }
                watcher::Event::Init => {}
                watcher::Event::InitDone => {
                    if !std::mem::replace(&mut listed, true) {
                        hub.listed();
                    }
                    for object in writer.as_reader().state() {
                        tell(&hub, &object, true);
                    }
                    hub.objects.notify_one();
                    hub.raise();
                }
            }
        }
    });
}

/// Keeps of each object whose it is and its version; of those that are nobody's, nothing.
fn glance<K>(client: &kube::Client, hub: &Arc<Hub>, config: watcher::Config)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let kind = kind_of::<K>();
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        let mut listed = false;
        let mut seen: HashSet<Key> = HashSet::new();
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::InitApply(object)) => {
                    seen.insert(key_of(&object.metadata));
                    hub.keep(kind, &object.metadata);
                }
                Ok(watcher::Event::Apply(object)) => hub.keep(kind, &object.metadata),
                Ok(watcher::Event::Delete(object)) => {
                    locked(&hub.children).remove(&(kind, key_of(&object.metadata)));
                    hub.wake_for(kind, &object.metadata);
                }
                Ok(watcher::Event::Init) => seen.clear(),
                Ok(watcher::Event::InitDone) => {
                    locked(&hub.children).retain(|(of, key), _| *of != kind || seen.contains(key));
                    seen = HashSet::new();
                    if !std::mem::replace(&mut listed, true) {
                        hub.listed();
                    }
                }
                Err(error) => complain::<K>(&error),
            }
        }
    });
}

/// The kind's name, as the caches know it.
pub(crate) fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(kind) => kind.leak(),
    }
}

fn complain<K: Resource<DynamicType = ()>>(error: &watcher::Error) {
    tracing::warn!(kind = %K::kind(&()), %error, "a watch broke off; it is begun again");
}
