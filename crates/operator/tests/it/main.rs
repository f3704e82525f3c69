//! The *resources* loop against the in-process API server: objects, not pods.

mod cluster;
mod odd_values;
mod refusals;

use std::time::Duration;

use api::MariaDB;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use cluster::Cluster;

fn object(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": {"name": name}, "spec": spec})
}

fn replicated(name: &str, replicas: u32) -> serde_json::Value {
    object(name, json!({"replicas": replicas, "replication": {"enabled": true}, "storage": {"size": "1Gi"}}))
}

fn behind(name: &str, primary: &str) -> serde_json::Value {
    object(
        name,
        json!({"replication": {"enabled": true, "replica": {"primaryName": primary, "primaryService": {"name": primary}}}}),
    )
}

#[tokio::test]
async fn the_seeds_objects_get_all_their_children() {
    let cluster = Cluster::start("production").await;
    cluster.apply_example("01-primary.yaml").await;
    cluster.apply_example("03-replicas.yaml").await;
    cluster.condition("mariadb-primary", "Ready", "False", "mariadb-root").await;
    // What does not wait for the user is there already.
    cluster.get::<Secret>("mariadb-replication").await;
    cluster.apply_example("02-root-secret.yaml").await;
    let set: StatefulSet = cluster.get("mariadb-primary").await;
    assert_eq!(set.spec.replicas, Some(1));
    let set: StatefulSet = cluster.get("mariadb-replica").await;
    assert_eq!(set.spec.replicas, Some(3));
    for service in [
        "mariadb-primary",
        "mariadb-primary-primary",
        "mariadb-primary-replica",
        "mariadb-primary-internal",
        "mariadb-primary-0",
        "mariadb-replica",
        "mariadb-replica-replica",
        "mariadb-replica-internal",
        "mariadb-replica-0",
        "mariadb-replica-1",
        "mariadb-replica-2",
    ] {
        cluster.get::<Service>(service).await;
    }
    let config: ConfigMap = cluster.get("mariadb-replica-config").await;
    let agent: protocol::AgentConfig = serde_json::from_str(&config.data.expect("data")["agent.json"]).expect("JSON");
    assert_eq!((agent.server_id_base, agent.topology.as_str(), agent.single_member), (101, "mariadb-primary", false));
    // The split object names no password of root's: its members have the primary's.
    let container = &set.spec.template.spec.expect("a pod").containers[0];
    let root = container.env.iter().flatten().find(|variable| variable.name == "MARIADB_ROOT_PASSWORD");
    let root = root.and_then(|variable| variable.value_from.as_ref()?.secret_key_ref.clone()).expect("a reference");
    assert_eq!((root.name.as_str(), root.key.as_str()), ("mariadb-root", "password"));
    cluster.condition("mariadb-primary", "UnsupportedField", "True", "spec.metrics").await;
    cluster.condition("mariadb-replica", "ConfigValid", "True", "current_pos is unsafe").await;
}

#[tokio::test]
async fn the_seeds_other_objects_are_accepted_and_say_what_is_not_built() {
    let cluster = Cluster::start("production").await;
    for name in
        ["01-primary.yaml", "02-root-secret.yaml", "12-region2.yaml", "13-region2-local.yaml", "19-adopt-primary.yaml"]
    {
        cluster.apply_example(name).await;
    }
    // Their accounts and Secrets are those of the root: nobody waits for Secrets of their own.
    for name in ["mariadb-primary", "mariadb-replica-region2", "mariadb-replica-local-region2"] {
        cluster.get::<StatefulSet>(name).await;
    }
    let warning = "spec.replication.replica.replicationPasswordSecretKeyRef: has no effect here";
    cluster.condition("mariadb-replica-region2", "ConfigValid", "True", warning).await;
    cluster.condition("mariadb-replica-local-region2", "UnsupportedField", "True", "a cascade").await;
    cluster.condition("mariadb-primary-imported", "Ready", "False", "spec.adopt.enabled").await;
    assert!(cluster.absent::<StatefulSet>("mariadb-primary-imported").await);
}

#[tokio::test]
async fn a_steady_state_writes_nothing() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 3)).await;
    cluster.apply(&behind("reader", "db")).await;
    cluster.get::<StatefulSet>("reader").await;
    cluster.settled().await;
    let before = cluster.writes();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(cluster.writes_since(before), Vec::<String>::new());
}

#[tokio::test]
async fn a_restarted_operator_changes_nothing() {
    let mut cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 2)).await;
    cluster.get::<StatefulSet>("db").await;
    cluster.settled().await;
    let versions = cluster.versions().await;
    cluster.restart_operator().await;
    cluster.settled().await;
    assert_eq!(cluster.versions().await, versions);
}

#[tokio::test]
async fn a_secret_or_key_that_is_missing_is_named_and_waited_for() {
    let cluster = Cluster::start("default").await;
    let spec = json!({"rootPasswordSecretKeyRef": {"name": "later", "key": "password"}});
    cluster.apply(&object("db", spec)).await;
    cluster.condition("db", "Ready", "False", "the Secret later with the key password").await;
    let secret = |key: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {key: "x"}});
    cluster.apply(&secret("wrong")).await;
    cluster.condition("db", "Ready", "False", "has no key password").await;
    cluster.apply(&secret("password")).await;
    cluster.get::<StatefulSet>("db").await;
}

#[tokio::test]
async fn a_primary_that_does_not_exist_is_waited_for_and_a_circle_refused() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&behind("reader", "db")).await;
    cluster.condition("reader", "Ready", "False", "there is no MariaDB db").await;
    cluster.apply(&replicated("db", 1)).await;
    cluster.get::<StatefulSet>("reader").await;
    cluster.apply(&behind("east", "west")).await;
    cluster.apply(&behind("west", "east")).await;
    cluster.condition("east", "Ready", "False", "circle").await;
    cluster.condition("west", "Ready", "False", "circle").await;
}

#[tokio::test]
async fn two_objects_cannot_have_one_child_name() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 1)).await;
    cluster.get::<StatefulSet>("db").await;
    cluster.apply(&replicated("db-primary", 1)).await;
    cluster.condition("db-primary", "Ready", "False", "Service db-primary belongs to the MariaDB db").await;
    assert!(cluster.absent::<StatefulSet>("db-primary").await);
    // A Service of the user's is nobody's to take.
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "shop"}}}))
        .await;
    cluster.apply(&replicated("shop", 1)).await;
    cluster.condition("shop", "Ready", "False", "Service shop belongs to nobody").await;
    let kept: Service = cluster.get("shop").await;
    assert_eq!(kept.spec.expect("a spec").ports.expect("ports")[0].port, 80);
}

#[tokio::test]
async fn of_two_objects_made_at_once_one_gets_the_name() {
    let cluster = Cluster::start("default").await;
    for n in 0..4 {
        let (name, other) = (format!("db{n}"), format!("db{n}-primary"));
        let (one, two) = (replicated(&name, 1), replicated(&other, 1));
        tokio::join!(cluster.apply(&one), cluster.apply(&two));
        cluster
            .until("one of them is refused", async || {
                let mut refused = 0;
                for name in [&name, &other] {
                    let object: MariaDB = cluster.get(name).await;
                    let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
                    refused += usize::from(conditions.iter().any(|c| c.type_ == "Ready" && c.reason == "NameTaken"));
                }
                refused == 1
            })
            .await;
    }
}

#[tokio::test]
async fn scaling_makes_and_removes_member_services() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 1)).await;
    cluster.get::<StatefulSet>("db").await;
    let objects = cluster.api::<MariaDB>();
    let scale = |n: u32| Patch::Merge(json!({"spec": {"replicas": n}}));
    objects.patch_scale("db", &PatchParams::default(), &scale(3)).await.expect("scaled");
    cluster.get::<Service>("db-2").await;
    cluster.until("3 replicas", async || cluster.get::<StatefulSet>("db").await.spec.replicas == Some(3)).await;
    objects.patch_scale("db", &PatchParams::default(), &scale(2)).await.expect("scaled");
    cluster.until("db-2 goes", async || cluster.absent::<Service>("db-2").await).await;
    objects.patch_scale("db", &PatchParams::default(), &scale(0)).await.expect("scaled");
    cluster.until("0 replicas", async || cluster.get::<StatefulSet>("db").await.spec.replicas == Some(0)).await;
    cluster.condition("db", "Ready", "False", "scaled to 0").await;
}

#[tokio::test]
async fn what_others_change_or_delete_is_put_right() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 1)).await;
    cluster.get::<StatefulSet>("db").await;
    cluster.settled().await;
    let services = cluster.api::<Service>();
    services.delete("db-primary", &DeleteParams::default()).await.expect("deleted");
    cluster.get::<Service>("db-primary").await;
    let edit = json!({"spec": {"publishNotReadyAddresses": false}});
    services.patch("db-0", &PatchParams::default(), &Patch::Merge(edit)).await.expect("edited");
    cluster
        .until("db-0 publishes again", async || {
            let service: Service = cluster.get("db-0").await;
            service.spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
        })
        .await;
    // An edit of a template reaches the Service.
    let template = json!({"spec": {"primaryService": {"type": "NodePort", "metadata": {"annotations": {"a": "b"}}}}});
    let objects = cluster.api::<MariaDB>();
    objects.patch("db", &PatchParams::default(), &Patch::Merge(template)).await.expect("edited");
    cluster
        .until("the Service is of type NodePort", async || {
            let service: Service = cluster.get("db-primary").await;
            service.spec.and_then(|spec| spec.type_).as_deref() == Some("NodePort")
                && service.metadata.annotations.unwrap_or_default().get("a").is_some_and(|value| value == "b")
        })
        .await;
}

#[tokio::test]
async fn volumes_grow_and_do_not_shrink() {
    let cluster = Cluster::start("default").await;
    let class = |name: &str, grows: bool| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "test", "allowVolumeExpansion": grows})
    };
    cluster.apply_global(&class("fast", true)).await;
    let spec = json!({"replicas": 1, "storage": {"size": "1Gi", "storageClassName": "fast"}});
    cluster.apply(&object("db", spec)).await;
    let before: StatefulSet = cluster.get("db").await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "storage-db-0",
        "labels": api::names::labels("db", "db")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.apply(&claim).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    claims.patch_status("storage-db-0", &PatchParams::default(), &Patch::Merge(bound)).await.expect("bound");
    let objects = cluster.api::<MariaDB>();
    let size = |size: &str| Patch::Merge(json!({"spec": {"storage": {"size": size}}}));
    let refused = objects.patch("db", &PatchParams::default(), &size("500Mi")).await.expect_err("shrinking");
    assert!(refused.to_string().contains("shrink"), "{refused}");
    objects.patch("db", &PatchParams::default(), &size("2Gi")).await.expect("grown");
    cluster
        .until("the set is made anew", async || {
            let Some(set) = cluster.find::<StatefulSet>("db").await else { return false };
            let claim = set.spec.volume_claim_templates.and_then(|all| all.into_iter().next()?.spec);
            let size = claim.and_then(|spec| spec.resources?.requests?.remove("storage"));
            set.metadata.uid != before.metadata.uid && size.is_some_and(|size| size.0 == "2Gi")
        })
        .await;
    let claim: PersistentVolumeClaim = cluster.get("storage-db-0").await;
    let size = claim.spec.and_then(|spec| spec.resources?.requests?.remove("storage"));
    assert_eq!(size.expect("a size").0, "2Gi");
    cluster.condition("db", "Updated", "False", "waiting for larger volumes: storage-db-0").await;
}

#[tokio::test]
async fn mistakes_are_named_with_their_paths_all_at_once() {
    let cluster = Cluster::start("default").await;
    let spec = json!({"env": [{"name": "MARIADB_USER", "value": "x"}], "myCnf": "[mariadb]\nskip-networking\n"});
    cluster.apply(&object("db", spec)).await;
    cluster.condition("db", "ConfigValid", "False", "spec.env[MARIADB_USER]").await;
    cluster.condition("db", "ConfigValid", "False", "line 2: skip-networking").await;
    assert!(cluster.absent::<StatefulSet>("db").await);
}

#[tokio::test]
async fn a_config_maps_options_are_refused_like_the_specs() {
    let cluster = Cluster::start("default").await;
    let config = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"my.cnf": text}});
    cluster.apply(&config("# mine\nskip-grant-tables\n")).await;
    let spec = json!({"myCnf": "[mariadb]\n", "myCnfConfigMapKeyRef": {"name": "more", "key": "my.cnf"}});
    cluster.apply(&object("db", spec)).await;
    cluster.condition("db", "ConfigValid", "False", "spec.myCnfConfigMapKeyRef (line 2: skip-grant-tables)").await;
    assert!(cluster.absent::<StatefulSet>("db").await);
    // Put right, it is taken without a change of the object.
    cluster.apply(&config("max-connections=50\n")).await;
    cluster.get::<StatefulSet>("db").await;
}
