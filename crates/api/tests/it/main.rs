//! The examples that users start from resolve as they stand; mistakes are all named, with their paths.

mod split;
mod unreadable;

use api::{MariaDB, resolve};
use serde_json::{Value, json};

fn examples() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seed")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(examples().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Merged as `kubectl apply` of a fragment over its base would: objects by field, the rest replaced.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn object(value: Value) -> MariaDB {
    serde_json::from_value(value).unwrap()
}

#[test]
fn complete_examples_resolve() {
    for name in ["01-primary.yaml", "03-replicas.yaml", "12-region2.yaml", "13-region2-local.yaml"] {
        let value = read(name);
        let object = object(value.clone());
        // Nothing was dropped on the way in: every field is known.
        let mut back = serde_json::to_value(&object).unwrap();
        back["metadata"] = value["metadata"].clone();
        assert_same_fields(&value, &back, name);
        resolve(&object).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:?}"));
    }
}

fn assert_same_fields(given: &Value, kept: &Value, path: &str) {
    if let Value::Object(fields) = given {
        for (key, value) in fields {
            assert!(kept.get(key).is_some(), "{path}.{key} was dropped");
            assert_same_fields(value, &kept[key], &format!("{path}.{key}"));
        }
    }
}

#[test]
fn fragments_resolve_over_their_base() {
    for (fragment, base) in [
        ("04-replica-analytics-fragment.yaml", "03-replicas.yaml"),
        ("10-probes-fragment.yaml", "03-replicas.yaml"),
        ("11-failover-fragment.yaml", "01-primary.yaml"),
        ("17-replication-tls-fragment.yaml", "12-region2.yaml"),
        ("18-fencing-fragment.yaml", "01-primary.yaml"),
    ] {
        let mut value = read(base);
        let over = read(fragment);
        merge(&mut value, over.clone());
        let object = object(value);
        let mut back = serde_json::to_value(&object).unwrap();
        back["metadata"] = over["metadata"].clone();
        assert_same_fields(&over, &back, fragment);
        resolve(&object).unwrap_or_else(|mistakes| panic!("{fragment}: {mistakes:?}"));
    }
}

#[test]
fn the_primary_of_the_example() {
    let resolved = resolve(&object(read("01-primary.yaml"))).unwrap();
    assert_eq!(resolved.server_id_start, Some(1));
    assert_eq!(resolved.storage.size.to_string(), "100Gi");
    assert_eq!(resolved.replication.unwrap().account.user, "repl_user");
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
}

#[test]
fn all_mistakes_at_once() {
    let object = object(json!({
        "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "db", "namespace": "n" },
        "spec": {
            "replicas": 2,
            "rootEmptyPassword": true,
            "rootPasswordSecretKeyRef": { "name": "x" },
            "myCnf": "[mariadb]\nskip-networking\nserver-id=0\n",
            "env": [{ "name": "MARIADB_DATABASE", "value": "x" }],
            "replication": {
                "enabled": true,
                "gtid": { "enabled": false },
                "semiSyncEnabled": false,
                "durability": "Strict",
                "primary": { "podIndex": 5, "automaticFailover": true },
                "failover": { "enabled": false },
                "replica": { "maxLagSeconds": 10, "maxDelay": "20s" }
            }
        }
    }));
    let mut paths: Vec<_> = resolve(&object).unwrap_err().into_iter().map(|m| m.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "spec.env[MARIADB_DATABASE]",
            "spec.myCnf (line 2: skip-networking)",
            "spec.myCnf (line 3: server-id)",
            "spec.replication.durability",
            "spec.replication.failover.enabled",
            "spec.replication.gtid.enabled",
            "spec.replication.primary.podIndex",
            "spec.replication.replica.maxDelay",
            "spec.rootEmptyPassword",
        ]
    );
}

#[test]
fn options_that_cannot_be_had_are_refused_however_they_are_spelt() {
    for (option, refused) in [
        ("skip-grant-tables", true),
        ("skip-grant", true),
        ("loose_skip_networking", true),
        ("bind-address=127.0.0.1", true),
        ("bind-address=0.0.0.0", false),
        ("wsrep_on=ON", true),
        ("wsrep_on=0", false),
        ("skip-name-resolve", false),
        ("max-connections=7", false),
    ] {
        let object = object(json!({
            "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "db", "namespace": "n" },
            "spec": { "myCnf": format!("[mariadb]\n{option}\n") }
        }));
        assert_eq!(resolve(&object).is_err(), refused, "{option}");
    }
}

#[test]
fn a_config_maps_options_are_checked_with_their_own_lines() {
    let own = "[mariadb]\nmax-connections=7\n";
    let object = object(json!({
        "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "db", "namespace": "n" },
        "spec": { "myCnf": own }
    }));
    let mut resolved = resolve(&object).unwrap();
    let mistakes =
        api::resolve::check_config_map(own, &format!("{own}# more\nskip-grant-tables\n"), &mut resolved).unwrap_err();
    assert_eq!(mistakes[0].path, "spec.myCnfConfigMapKeyRef (line 2: skip-grant-tables)");
    api::resolve::check_config_map(own, &format!("{own}relay-log-recovery=ON\n"), &mut resolved).unwrap();
    assert_eq!(resolved.warnings[0].path, "spec.myCnfConfigMapKeyRef (line 1: relay-log-recovery)");
}

#[test]
fn replicas_without_replication() {
    let object = object(json!({
        "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "db" }, "spec": { "replicas": 3 }
    }));
    let mistakes = resolve(&object).unwrap_err();
    assert_eq!(mistakes[0].path, "spec.replicas");
}

fn mistakes(spec: Value) -> Vec<String> {
    let object = object(json!({
        "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "db" }, "spec": spec
    }));
    resolve(&object).err().unwrap_or_default().into_iter().map(|mistake| mistake.path).collect()
}

#[test]
fn replication_fields_need_replication() {
    let replication =
        json!({ "replica": { "primaryName": "other" }, "failover": { "retries": 1 }, "serverIdStartIndex": 9 });
    assert_eq!(
        mistakes(json!({ "replication": replication })),
        ["spec.replication.failover", "spec.replication.replica.primaryName"]
    );
    assert_eq!(mistakes(json!({ "replication": { "enabled": false, "serverIdStartIndex": 9 } })), [""; 0]);
}

#[test]
fn a_candidate_neither_lags_on_purpose_nor_keeps_silent() {
    let replica = |replica: Value| mistakes(json!({ "replication": { "enabled": true, "replica": replica } }));
    let candidate = ["spec.replication.replica.candidate"];
    assert_eq!(replica(json!({ "candidate": true, "delay": "1h" })), candidate);
    assert_eq!(replica(json!({ "candidate": true, "semiSync": false })), candidate);
    assert_eq!(replica(json!({ "candidate": true, "semiSync": true, "delay": "0s" })), [""; 0]);
    assert_eq!(replica(json!({ "candidate": false, "delay": "1h" })), [""; 0]);
}

#[test]
fn no_empty_server_stands_in_for_data_from_elsewhere() {
    assert_eq!(mistakes(json!({ "bootstrapFrom": { "backupRef": { "name": "b" } } })), ["spec.bootstrapFrom"]);
}

#[test]
fn a_name_has_48_characters_at_most() {
    let named = |length: usize| {
        resolve(&object(json!({
            "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": { "name": "n".repeat(length) }, "spec": {}
        })))
    };
    assert!(named(48).is_ok());
    assert!(named(49).unwrap_err()[0].to_string().starts_with("metadata.name: 49 characters; at most 48 fit"));
}

#[test]
fn unsupported_fields_are_named_by_path() {
    let object = object(read("01-primary.yaml"));
    let paths = api::unsupported::unsupported(&object.spec);
    assert_eq!(paths, ["spec.metrics"]);
}

#[test]
fn the_crd_is_structural_and_small() {
    let crd = api::crds().remove(0);
    let text = serde_json::to_string(&crd).unwrap();
    // `kubectl apply` keeps a copy in an annotation; 256 KiB is the limit of all annotations together.
    assert!(text.len() < 250_000, "{} bytes", text.len());
    assert!(!text.contains("\"$ref\""));
}
