//! The controllers against the in-process API, with nodes that only pretend to run pods. Needs nothing of the machine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Client, ResourceExt as _};
use sandbox::network::links::LinkTable;
use sandbox::pace::Pace;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

struct Cluster {
    client: Client,
    tasks: tokio::task::JoinSet<()>,
}

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Cluster {
    /// Nodes `n0`, `n1`, ... and the class `local`.
    async fn start(nodes: usize) -> Self {
        let server = apiserver::Server::open(apiserver::Options::default()).unwrap();
        let client = Client::new(server.router(), "default");
        let class: StorageClass = from(json!({
            "metadata": { "name": "local" }, "provisioner": "sandbox.k8s.mariadb.com/local",
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true, "reclaimPolicy": "Delete",
        }));
        Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &class).await.unwrap();
        let api = Api::<Node>::all(client.clone());
        for n in 0..nodes {
            let name = format!("n{n}");
            let node: Node =
                from(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } }));
            api.create(&PostParams::default(), &node).await.unwrap();
            let status = json!({ "status": {
                "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "20" },
                "conditions": [{ "type": "Ready", "status": "True" }],
            } });
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        let links = tokio::sync::watch::channel(LinkTable::default()).1;
        // These nodes have no heartbeats: longer than any test lasts, nobody minds.
        tasks.spawn(sandbox::controllers::run(client.clone(), Pace::CLUSTER, links));
        tasks.spawn(kubelet(client.clone()));
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(client.clone());
        until("the default service account", async || accounts.get_opt("default").await.unwrap().is_some()).await;
        Self { client, tasks }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
    }

    async fn ready(&self, name: &str, count: i32) {
        until(&format!("{name} has {count} ready pods"), async || {
            let set = self.api::<StatefulSet>().get(name).await.unwrap();
            let Some(status) = set.status else { return false };
            status.observed_generation == set.metadata.generation
                && status.ready_replicas == Some(count)
                && status.replicas == count
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// Makes pods with a node ready, and lets go of those that are deleted.
async fn kubelet(client: Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    loop {
        for pod in pods.list(&ListParams::default()).await.unwrap().items {
            let name = pod.name_any();
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_none() {
                continue;
            }
            if pod.metadata.deletion_timestamp.is_some() {
                let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            } else if pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_none() {
                let once = pod.labels().contains_key("job-name");
                let phase = if once { "Succeeded" } else { "Running" };
                let address = format!("10.0.0.{}", pod.resource_version().unwrap().parse::<u64>().unwrap() % 250);
                let status = json!({ "status": {
                    "phase": phase, "podIP": address, "podIPs": [{ "ip": address }],
                    "conditions": [{ "type": "Ready", "status": if once { "False" } else { "True" } }],
                } });
                let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn set(name: &str, replicas: i32, policy: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "serviceName": name, "podManagementPolicy": policy,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "containers": [{ "name": "c", "image": "i", "ports": [{ "name": "sql", "containerPort": 3306 }] }],
                    "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                        { "labelSelector": { "matchLabels": { "app": name } }, "topologyKey": "kubernetes.io/hostname" }
                    ] } },
                },
            },
            "volumeClaimTemplates": [{ "metadata": { "name": "storage" }, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "resources": { "requests": { "storage": "1Gi" } },
            } }],
        },
    })
}

#[tokio::test]
async fn a_stateful_set_gets_pods_on_nodes_of_their_own_with_bound_claims() {
    let cluster = Cluster::start(4).await;
    cluster.api::<StatefulSet>().create(&PostParams::default(), &from(set("db", 4, "Parallel"))).await.unwrap();
    cluster.ready("db", 4).await;
    let pods = cluster.pods().await;
    let nodes: BTreeSet<_> = pods.iter().map(|pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap()).collect();
    assert_eq!(nodes.len(), 4);
    assert_eq!(pods[2].labels()["statefulset.kubernetes.io/pod-name"], "db-2");
    assert_eq!(pods[2].labels()["apps.kubernetes.io/pod-index"], "2");
    assert_eq!(pods[2].spec.as_ref().unwrap().hostname.as_deref(), Some("db-2"));
    let claims = cluster.api::<PersistentVolumeClaim>();
    until("all claims are bound", async || {
        let all = claims.list(&ListParams::default()).await.unwrap().items;
        all.len() == 4 && all.iter().all(|c| c.status.as_ref().unwrap().phase.as_deref() == Some("Bound"))
    })
    .await;

    // A fifth has no node to go to, and says why.
    let patch = json!({ "spec": { "replicas": 5 } });
    let sets = cluster.api::<StatefulSet>();
    sets.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    until("the fifth pod is unschedulable", async || {
        let Some(pod) = cluster.api::<Pod>().get_opt("db-4").await.unwrap() else { return false };
        let conditions = pod.status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|c| {
            c.reason.as_deref() == Some("Unschedulable")
                && c.message.as_deref()
                    == Some("0/4 nodes are available: 4 node(s) didn't match pod anti-affinity rules.")
        })
    })
    .await;
}

#[tokio::test]
async fn a_volume_grows_with_its_claim() {
    let cluster = Cluster::start(1).await;
    cluster.api::<StatefulSet>().create(&PostParams::default(), &from(set("db", 1, "Parallel"))).await.unwrap();
    cluster.ready("db", 1).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let capacity = async |wanted: &str| {
        until(&format!("the claim has {wanted}"), async || {
            let claim = claims.get("storage-db-0").await.unwrap();
            claim.status.and_then(|s| s.capacity).is_some_and(|all| all["storage"].0 == wanted)
        })
        .await;
    };
    capacity("1Gi").await;
    let patch = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    claims.patch("storage-db-0", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    capacity("2Gi").await;
}

#[tokio::test]
async fn a_pod_whose_claim_was_deleted_comes_back_with_a_new_one() {
    let cluster = Cluster::start(1).await;
    cluster.api::<StatefulSet>().create(&PostParams::default(), &from(set("db", 1, "Parallel"))).await.unwrap();
    cluster.ready("db", 1).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let before = claims.get("storage-db-0").await.unwrap();
    claims.delete("storage-db-0", &DeleteParams::default()).await.unwrap();
    cluster.api::<Pod>().delete("db-0", &DeleteParams::default()).await.unwrap();
    until("there is a new claim, bound", async || {
        let Some(claim) = claims.get_opt("storage-db-0").await.unwrap() else { return false };
        claim.uid() != before.uid() && claim.spec.unwrap().volume_name.is_some()
    })
    .await;
    cluster.ready("db", 1).await;
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    until("the old volume is gone", async || {
        volumes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|volume| volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid != before.uid())
    })
    .await;
}

#[tokio::test]
async fn a_new_template_rolls_from_the_highest_pod_down() {
    let cluster = Cluster::start(3).await;
    let mut object = set("db", 3, "OrderedReady");
    object["spec"]["ordinals"] = json!({ "start": 1 });
    let sets = cluster.api::<StatefulSet>();
    sets.create(&PostParams::default(), &from(object)).await.unwrap();
    cluster.ready("db", 3).await;
    let names: Vec<_> = cluster.pods().await.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names, ["db-1", "db-2", "db-3"]);
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": { "a": "b" } } } } });
    sets.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    until("the roll is complete", async || {
        let set = sets.get("db").await.unwrap();
        let status = set.status.unwrap();
        status.observed_generation == set.metadata.generation
            && status.updated_replicas == Some(3)
            && status.ready_replicas == Some(3)
            && status.current_revision == status.update_revision
    })
    .await;
    let mut pods = cluster.pods().await;
    assert!(pods.iter().all(|pod| pod.annotations().contains_key("a")));
    pods.sort_by_key(|pod| pod.resource_version().unwrap().parse::<u64>().unwrap());
    assert_eq!(pods.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["db-3", "db-2", "db-1"]);
}

#[tokio::test]
async fn pods_of_an_orphaning_set_are_adopted_by_the_next() {
    let cluster = Cluster::start(2).await;
    let sets = cluster.api::<StatefulSet>();
    let object = set("db", 2, "Parallel");
    sets.create(&PostParams::default(), &from(object.clone())).await.unwrap();
    cluster.ready("db", 2).await;
    let uids = async || cluster.pods().await.iter().map(kube::ResourceExt::uid).collect::<Vec<_>>();
    let before = uids().await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    sets.delete("db", &orphan).await.unwrap();
    until("the set is gone", async || sets.get_opt("db").await.unwrap().is_none()).await;
    let made = sets.create(&PostParams::default(), &from(object)).await.unwrap();
    cluster.ready("db", 2).await;
    assert_eq!(uids().await, before);
    assert!(cluster.pods().await.iter().all(|pod| pod.owner_references()[0].uid == made.uid().unwrap()));
}

#[tokio::test]
async fn endpoints_follow_readiness() {
    let cluster = Cluster::start(2).await;
    let service: Service = from(json!({
        "metadata": { "name": "db" },
        "spec": { "selector": { "app": "db" }, "ports": [{ "name": "sql", "port": 3306, "targetPort": "sql" }] },
    }));
    cluster.api::<Service>().create(&PostParams::default(), &service).await.unwrap();
    cluster.api::<StatefulSet>().create(&PostParams::default(), &from(set("db", 2, "Parallel"))).await.unwrap();
    cluster.ready("db", 2).await;
    let ready = async |wanted: usize| {
        until(&format!("{wanted} endpoints are ready"), async || {
            let query = ListParams::default().labels("kubernetes.io/service-name=db");
            let slices = cluster.api::<EndpointSlice>().list(&query).await.unwrap().items;
            let [slice] = slices.as_slice() else { return false };
            let endpoints = slice.endpoints.as_deref().unwrap_or_default();
            let ports = slice.ports.as_deref().unwrap_or_default();
            endpoints.len() == 2
                && ports.len() == 1
                && ports[0].port == Some(3306)
                && endpoints.iter().filter(|e| e.conditions.as_ref().unwrap().ready == Some(true)).count() == wanted
        })
        .await;
    };
    ready(2).await;
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    let pods = cluster.api::<Pod>();
    pods.patch_status("db-1", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    ready(1).await;
    // The older form says the same, and goes with its service.
    let classic = cluster.api::<Endpoints>();
    until("Endpoints have one address of each kind", async || {
        let Some(object) = classic.get_opt("db").await.unwrap() else { return false };
        let [subset] = object.subsets.as_deref().unwrap_or_default() else { return false };
        let count = |list: &Option<Vec<_>>| list.as_ref().map_or(0, Vec::len);
        count(&subset.addresses) == 1 && count(&subset.not_ready_addresses) == 1
    })
    .await;
    cluster.api::<Service>().delete("db", &DeleteParams::default()).await.unwrap();
    until("Endpoints are gone", async || classic.get_opt("db").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_job_completes_and_counts_no_active_pods_then() {
    let cluster = Cluster::start(1).await;
    let job: Job = from(json!({
        "metadata": { "name": "j" },
        "spec": { "completions": 2, "parallelism": 1, "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }],
        } } },
    }));
    let jobs = cluster.api::<Job>();
    jobs.create(&PostParams::default(), &job).await.unwrap();
    until("the job is complete", async || {
        let status = jobs.get("j").await.unwrap().status.unwrap_or_default();
        status.conditions.iter().flatten().any(|c| c.type_ == "Complete" && c.status == "True")
            && status.succeeded == Some(2)
            && status.active.is_none()
    })
    .await;
}
