//! A split object gets from its root what a topology has one of, and is told where it says otherwise.

use std::time::Duration;

use api::resolve::follow;
use api::{MariaDB, Resolved, resolve};
use serde_json::{Value, json};

use super::{merge, object as parsed, read};

fn object(name: &str, spec: Value) -> MariaDB {
    parsed(json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
        "metadata": {"name": name, "namespace": "n"}, "spec": spec}))
}

fn behind(spec: Value) -> MariaDB {
    let mut whole = json!({"replication": {"enabled": true, "replica": {"primaryName": "db"}}});
    merge(&mut whole, spec);
    object("reader", whole)
}

fn followed(given: &MariaDB, root: &MariaDB) -> Resolved {
    let mut resolved = resolve(given).unwrap();
    follow(&mut resolved, &given.spec, &resolve(root).unwrap());
    resolved
}

fn warned(resolved: &Resolved) -> Vec<&str> {
    resolved.warnings.iter().map(|warning| warning.path.as_str()).collect()
}

#[test]
fn fields_that_only_the_roots_count_for_are_named() {
    let root =
        object("db", json!({"replication": {"enabled": true, "failover": {"timeout": "10s"}}, "database": "shop"}));
    let given = behind(json!({
        "rootPasswordSecretKeyRef": {"name": "mine"},
        "database": "other",
        "username": "me",
        "passwordSecretKeyRef": {"name": "me"},
        "podDisruptionBudget": {"maxUnavailable": 2},
        "primaryService": {"type": "NodePort"},
        "replication": {
            "primary": {"autoFailover": false, "autoFailoverDelay": "1m", "fencing": {"enabled": true}, "member": "x-0"},
            "failover": {"timeout": "20s", "retries": 9, "cooldown": "1h", "autoPromote": false},
            "durability": "Strict",
            "gtidDomainId": 7,
            "replication": {"user": "other", "passwordSecretKeyRef": {"name": "other"}},
            "replica": {"syncTimeout": "1m"},
        },
    }));
    let resolved = followed(&given, &root);
    let mut paths = warned(&resolved);
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "spec.database",
            "spec.passwordSecretKeyRef",
            "spec.podDisruptionBudget",
            "spec.primaryService",
            "spec.replication.durability",
            "spec.replication.failover.autoPromote",
            "spec.replication.failover.cooldown",
            "spec.replication.failover.retries",
            "spec.replication.failover.timeout",
            "spec.replication.gtidDomainId",
            "spec.replication.primary.autoFailover",
            "spec.replication.primary.autoFailoverDelay",
            "spec.replication.primary.fencing",
            "spec.replication.primary.member",
            "spec.replication.replica.syncTimeout",
            "spec.replication.replication.passwordSecretKeyRef",
            "spec.replication.replication.user",
            "spec.rootPasswordSecretKeyRef",
            "spec.username",
        ]
    );
    let root = resolve(&root).unwrap();
    assert_eq!(resolved.root_password, root.root_password);
    assert_eq!((resolved.database, resolved.user), (root.database, root.user));
    assert_eq!(resolved.replication.unwrap().account, root.replication.unwrap().account);
}

#[test]
fn the_seeds_replicas_say_what_their_root_says() {
    let root = parsed(read("01-primary.yaml"));
    let replicas = followed(&parsed(read("03-replicas.yaml")), &root);
    assert_eq!(warned(&replicas), ["spec.replication.replica.gtid"]);
    // The other region names accounts of its own.
    let region = followed(&parsed(read("12-region2.yaml")), &root);
    assert_eq!(
        warned(&region),
        ["spec.replication.replica.replicationUser", "spec.replication.replica.replicationPasswordSecretKeyRef"]
    );
    assert_eq!(region.replication.unwrap().account.password.name, "mariadb-replication");
}

#[test]
fn the_connections_patience_follows_the_roots_failover_timeout() {
    let root = object("db", json!({"replication": {"enabled": true, "failover": {"timeout": "30s"}}}));
    let patience = |resolved: &Resolved| resolved.replication.as_ref().unwrap().replica.net_timeout;
    assert_eq!(patience(&resolve(&root).unwrap()), Duration::from_secs(35));
    let resolved = followed(&behind(json!({})), &root);
    assert_eq!((patience(&resolved), warned(&resolved).len()), (Duration::from_secs(35), 0));
    let given = behind(json!({"replication": {"replica": {"connectionTimeout": "20s"}}}));
    let resolved = followed(&given, &root);
    assert_eq!(patience(&resolved), Duration::from_secs(20));
    assert_eq!(warned(&resolved), ["spec.replication.replica.connectionTimeout"]);
}
