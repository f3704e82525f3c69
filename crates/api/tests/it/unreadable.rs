//! What no type of ours takes is named by its path, and hides nothing else.

use api::{MariaDB, resolve};
use serde_json::{Value, json};

fn object(spec: Value) -> MariaDB {
    let object = json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
        "metadata": {"name": "db", "namespace": "n"}, "spec": spec});
    serde_json::from_value(object).expect("every object can be read")
}

#[test]
fn fields_that_cannot_be_read_are_named_all_at_once_beside_other_mistakes() {
    let object = object(json!({
        "port": 0,
        "rootPasswordSecretKeyRef": { "name": "root", "key": 5 },
        "passwordSecretKeyRef": { "key": "x" },
        "storage": { "size": "-5Gi", "storageClassName": "fast" },
        "env": [{ "name": 5 }],
        "readinessProbe": { "httpGet": { "port": 5_000_000_000_i64 } },
        "replication": {
            "enabled": true,
            "gtid": { "domainId": "0", "enabled": false },
            "failover": { "timeout": -5, "cooldown": "18446744073709551615", "retries": 2 },
            "durability": "Sometimes",
        },
    }));
    // What stands beside them is kept.
    assert_eq!(object.spec.storage.as_ref().and_then(|storage| storage.storage_class_name.as_deref()), Some("fast"));
    let mut paths: Vec<String> = resolve(&object).unwrap_err().into_iter().map(|mistake| mistake.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "spec.env",
            "spec.passwordSecretKeyRef",
            "spec.readinessProbe.httpGet.port",
            "spec.replication.durability",
            "spec.replication.failover.cooldown",
            "spec.replication.failover.timeout",
            "spec.replication.gtid.domainId",
            "spec.replication.gtid.enabled",
            "spec.rootPasswordSecretKeyRef.key",
            "spec.storage.size",
        ]
    );
}

#[test]
fn the_mistake_quotes_what_was_written() {
    let mistakes = resolve(&object(json!({ "storage": { "size": 0 } }))).unwrap_err();
    assert_eq!(
        mistakes[0].to_string(),
        "spec.storage.size: not a quantity (such as 10Gi, 500M), or not more than nothing: \"0\""
    );
}

#[test]
fn a_spec_that_is_none_is_named_as_a_whole() {
    assert_eq!(resolve(&object(json!("x"))).unwrap_err()[0].path, "spec");
}

#[test]
fn the_longest_durations_can_be_added_up() {
    let longest = object(json!({ "replication": { "enabled": true, "failover": { "timeout": 1_000_000_000 } } }));
    resolve(&longest).unwrap();
}
