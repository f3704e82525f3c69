//! What is not made, not taken and not changed, and how that is said.

use api::MariaDB;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{behind, object, replicated};

fn numbered(name: &str, start: u32, replicas: u32) -> Value {
    object(
        name,
        json!({"replicas": replicas, "replication": {"enabled": true, "serverIdStartIndex": start,
        "replica": {"primaryName": "db"}}}),
    )
}

async fn base(cluster: &Cluster, name: &str) -> u32 {
    let config: ConfigMap = cluster.get(&format!("{name}-config")).await;
    let agent: protocol::AgentConfig = serde_json::from_str(&config.data.expect("data")["agent.json"]).expect("JSON");
    agent.server_id_base
}

#[tokio::test]
async fn server_ids_are_unique_in_a_topology() {
    let mut cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 3)).await;
    cluster.apply(&numbered("first", 50, 2)).await;
    assert_eq!(base(&cluster, "first").await, 50);
    cluster.apply(&numbered("same", 51, 1)).await;
    let said = "spec.replication.serverIdStartIndex: the members of same would have the server ids 51, and those of first have 50 to 51";
    cluster.condition("same", "ConfigValid", "False", said).await;
    cluster.apply(&numbered("roots", 3, 1)).await;
    cluster.condition("roots", "ConfigValid", "False", "those of db have 1 to 3").await;
    for name in ["same", "roots"] {
        assert!(cluster.absent::<StatefulSet>(name).await, "{name}");
    }
    // Also for an operator that has just started, and for members that are added.
    cluster.restart_operator().await;
    cluster.apply(&numbered("again", 50, 1)).await;
    cluster.condition("again", "ConfigValid", "False", "those of first have 50 to 51").await;
    cluster.apply(&numbered("near", 60, 1)).await;
    cluster.get::<StatefulSet>("near").await;
    cluster.apply(&numbered("first", 50, 11)).await;
    cluster.condition("first", "ConfigValid", "False", "those of near have 60").await;
    assert_eq!(cluster.get::<StatefulSet>("first").await.spec.replicas, Some(2));
    // Another topology has numbers of its own.
    cluster.apply(&replicated("other", 1)).await;
    assert_eq!(base(&cluster, "other").await, 1);
}

#[tokio::test]
async fn nothing_is_made_empty_where_data_is_to_come_from_elsewhere() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&object("db", json!({"bootstrapFrom": {"backupRef": {"name": "b"}}}))).await;
    cluster.condition("db", "Ready", "False", "spec.bootstrapFrom").await;
    cluster.condition("db", "UnsupportedField", "True", "spec.bootstrapFrom").await;
    assert!(cluster.absent::<StatefulSet>("db").await);
}

#[tokio::test]
async fn a_users_secret_or_config_map_is_neither_overwritten_nor_taken_for_ours() {
    let cluster = Cluster::start("default").await;
    let secret = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"password": "x", "tls.crt": "theirs", "tls.key": "theirs"}})
    };
    for (object, child) in
        [("a", "a-ca"), ("b", "b-agent-tls"), ("c", "c-server-tls"), ("d", "d-root"), ("e", "e-replication")]
    {
        cluster.apply(&secret(child)).await;
        let before: Secret = cluster.get(child).await;
        cluster.apply(&replicated(object, 1)).await;
        cluster.condition(object, "Ready", "False", &format!("Secret {child} belongs to nobody")).await;
        let after: Secret = cluster.get(child).await;
        assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "{child}");
        assert!(cluster.absent::<StatefulSet>(object).await);
    }
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "f-config"}, "data": {"a": "b"}}))
        .await;
    cluster.apply(&replicated("f", 1)).await;
    cluster.condition("f", "Ready", "False", "ConfigMap f-config belongs to nobody").await;
    // One that is named is the user's word.
    let named = json!({"rootPasswordSecretKeyRef": {"name": "d-root"}});
    cluster.apply(&object("d", named)).await;
    cluster.get::<StatefulSet>("d").await;
}

#[tokio::test]
async fn what_volumes_are_cannot_be_changed_and_that_is_said() {
    let cluster = Cluster::start("default").await;
    let template = |mode: &str| json!({"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}});
    let spec = json!({"storage": {"volumeClaimTemplate": template("ReadWriteOnce")}});
    cluster.apply(&object("db", spec)).await;
    cluster.apply(&object("bare", json!({}))).await;
    cluster.get::<StatefulSet>("db").await;
    cluster.get::<StatefulSet>("bare").await;
    let edit = async |name: &str, storage: Value| {
        let patch = Patch::Merge(json!({"spec": {"storage": storage}}));
        cluster.api::<MariaDB>().patch(name, &PatchParams::default(), &patch).await
    };
    for (name, storage, path) in [
        ("db", json!({"storageClassName": "fast"}), "spec.storage.storageClassName"),
        ("db", json!({"ephemeral": true}), "spec.storage.ephemeral"),
        ("bare", json!({"storageClassName": "fast"}), "spec.storage.storageClassName"),
        ("bare", json!({"ephemeral": true}), "spec.storage.ephemeral"),
    ] {
        let refused = edit(name, storage).await.expect_err("refused");
        assert!(refused.to_string().contains(path), "{refused}");
    }
    edit("db", json!({"volumeClaimTemplate": template("ReadWriteMany")})).await.expect("accepted");
    cluster.condition("db", "Updated", "False", "spec.storage: accessModes of volumes that are there").await;
    edit("db", json!({"volumeClaimTemplate": template("ReadWriteOnce")})).await.expect("accepted");
    cluster
        .until("no complaint", async || {
            let object: MariaDB = cluster.get("db").await;
            let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
            !conditions.iter().any(|c| c.message.contains("accessModes"))
        })
        .await;
}

#[tokio::test]
async fn the_longest_name_works_and_a_longer_one_is_refused() {
    let cluster = Cluster::start("default").await;
    let (longest, longer) = ("n".repeat(48), "n".repeat(49));
    cluster.apply(&replicated(&longest, 1)).await;
    cluster.get::<StatefulSet>(&longest).await;
    let refused = cluster.try_apply(&replicated(&longer, 1)).await.expect_err("too long");
    assert!(refused.to_string().contains("metadata.name: at most 48 characters"), "{refused}");
}

#[tokio::test]
async fn aliases_that_contradict_are_refused_at_once() {
    let cluster = Cluster::start("default").await;
    for (replication, said) in [
        (json!({"replica": {"maxLagSeconds": 10, "maxDelay": "20s"}}), "maxDelay differ"),
        (json!({"replica": {"maxLagSeconds": 10, "maxDelay": 20}}), "maxDelay differ"),
        (json!({"replication": {"user": "a"}, "replica": {"replicationUser": "b"}}), "replicationUser differ"),
        (
            json!({"replica": {"replicationPasswordSecretKeyRef": {"name": "a"}, "replPasswordSecretKeyRef": {"name": "b"}}}),
            "replPasswordSecretKeyRef differ",
        ),
        (json!({"replica": {"candidate": true, "semiSync": false}}), "contradicts"),
    ] {
        let mut spec = json!({"replication": replication});
        spec["replication"]["enabled"] = json!(true);
        let refused = cluster.try_apply(&object("db", spec)).await.expect_err("contradictory");
        assert!(refused.to_string().contains(said), "{refused}");
    }
    for delay in [json!("10s"), json!("10"), json!(10), json!("0m10s")] {
        let spec = json!({"replication": {"enabled": true, "replica": {"maxLagSeconds": 10, "maxDelay": delay}}});
        cluster.try_apply(&object("db", spec)).await.expect("they agree");
    }
}

#[tokio::test]
async fn a_split_objects_own_passwords_are_named_and_its_roots_are_mounted() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 1)).await;
    let mut reader = behind("reader", "db");
    reader["spec"]["rootPasswordSecretKeyRef"] = json!({"name": "nowhere"});
    reader["spec"]["replication"]["replica"]["replicationPasswordSecretKeyRef"] =
        json!({"name": "neither", "generate": true});
    cluster.apply(&reader).await;
    let set: StatefulSet = cluster.get("reader").await;
    let volumes = set.spec.template.spec.expect("a pod").volumes.unwrap_or_default();
    let mounted: Vec<String> = volumes.into_iter().filter_map(|volume| volume.secret?.secret_name).collect();
    assert!(mounted.contains(&"db-root".into()) && mounted.contains(&"db-replication".into()), "{mounted:?}");
    cluster.condition("reader", "ConfigValid", "True", "spec.rootPasswordSecretKeyRef: has no effect here").await;
    cluster.condition("reader", "ConfigValid", "True", "the MariaDB db").await;
    assert!(cluster.absent::<Secret>("neither").await);
}

#[tokio::test]
async fn secrets_inherit_metadata_and_go_with_tls() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("db", 1)).await;
    cluster.get::<StatefulSet>("db").await;
    let objects = cluster.api::<MariaDB>();
    let edit = json!({"spec": {"inheritMetadata": {"labels": {"team": "shop"}, "annotations": {"a": "b"}}}});
    objects.patch("db", &PatchParams::default(), &Patch::Merge(edit)).await.expect("edited");
    for name in ["db-root", "db-replication", "db-ca", "db-agent-tls", "db-server-tls"] {
        cluster
            .until(&format!("{name} has the label"), async || {
                let secret: Secret = cluster.get(name).await;
                secret.metadata.labels.is_some_and(|labels| labels.get("team").is_some_and(|team| team == "shop"))
                    && secret.metadata.annotations.is_some_and(|all| all.contains_key("a"))
            })
            .await;
    }
    let before: Secret = cluster.get("db-ca").await;
    let off = json!({"spec": {"tls": {"enabled": false}}});
    objects.patch("db", &PatchParams::default(), &Patch::Merge(off)).await.expect("edited");
    cluster.until("db-server-tls goes", async || cluster.absent::<Secret>("db-server-tls").await).await;
    let after: Secret = cluster.get("db-ca").await;
    assert_eq!(before.data, after.data);
    cluster.settled().await;
}
