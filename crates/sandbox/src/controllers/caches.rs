//! One watch per kind, shared by all controllers. What no controller reads is dropped from the copies.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Copies of everything that controllers look at.
#[derive(Clone)]
pub(super) struct Caches {
    pub(super) pods: Store<Pod>,
    pub(super) nodes: Store<Node>,
    pub(super) claims: Store<PersistentVolumeClaim>,
    pub(super) volumes: Store<PersistentVolume>,
    pub(super) classes: Store<StorageClass>,
    pub(super) services: Store<Service>,
    pub(super) slices: Store<EndpointSlice>,
    pub(super) endpoints: Store<Endpoints>,
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) deployments: Store<Deployment>,
    pub(super) replica_sets: Store<ReplicaSet>,
    pub(super) jobs: Store<Job>,
    pub(super) budgets: Store<PodDisruptionBudget>,
    kick: Arc<watch::Sender<u64>>,
}

fn cache<K>(client: &Client, kick: &Arc<watch::Sender<u64>>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    <K as Resource>::DynamicType: Default + Eq + Hash + Clone,
{
    let (reader, writer) = reflector::store();
    let api: Api<K> = Api::all(client.clone());
    let kick = Arc::clone(kick);
    tokio::spawn(async move {
        let stream = watcher(api, watcher::Config::default()).default_backoff().modify(|object| {
            object.meta_mut().managed_fields = None;
            object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        });
        let mut stream = std::pin::pin!(stream.reflect(writer));
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => kick.send_modify(|count| *count += 1),
                Err(error) => tracing::debug!(%error, "watch interrupted"),
            }
        }
    });
    reader
}

impl Caches {
    pub(super) fn start(client: &Client) -> Self {
        let kick = Arc::new(watch::Sender::new(0));
        Self {
            pods: cache(client, &kick),
            nodes: cache(client, &kick),
            claims: cache(client, &kick),
            volumes: cache(client, &kick),
            classes: cache(client, &kick),
            services: cache(client, &kick),
            slices: cache(client, &kick),
            endpoints: cache(client, &kick),
            stateful_sets: cache(client, &kick),
            deployments: cache(client, &kick),
            replica_sets: cache(client, &kick),
            jobs: cache(client, &kick),
            budgets: cache(client, &kick),
            kick,
        }
    }

    /// Returns when every cache has its first list: a controller that sees no pods would make some.
    pub(super) async fn ready(&self) {
        let _ = tokio::join!(
            self.pods.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.claims.wait_until_ready(),
            self.volumes.wait_until_ready(),
            self.classes.wait_until_ready(),
            self.services.wait_until_ready(),
            self.slices.wait_until_ready(),
            self.endpoints.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.replica_sets.wait_until_ready(),
            self.jobs.wait_until_ready(),
            self.budgets.wait_until_ready(),
        );
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.kick.subscribe()
    }
}
