//! The children of objects that users start from, as YAML.

use api::{MariaDB, Resolved};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use manifests::{Children, Input};

fn example(name: &str) -> Resolved {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seed").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let mut object: MariaDB = serde_saphyr::from_str(&text).unwrap();
    object.metadata.uid = Some(format!("uid-of-{name}"));
    api::resolve(&object).unwrap()
}

fn input<'a>(object: &'a Resolved, root: &'a Resolved) -> Input<'a> {
    Input {
        object,
        root,
        owner: OwnerReference {
            api_version: "k8s.mariadb.com/v1alpha1".into(),
            kind: "MariaDB".into(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        },
        operator_image: "mariadb-operator:0.1.0",
        server_id_base: object.server_id_start.unwrap_or(101),
        single_member: false,
        user_cnf: object.my_cnf.as_deref().unwrap_or_default(),
        replication_password: object.replication.as_ref().map(|replication| &replication.account.password),
        pods: object.replicas,
    }
}

/// Everything as documents of YAML.
fn yaml(children: &Children) -> String {
    let Children { service_account, role, role_binding, config_map, services, disruption_budget, stateful_set } =
        children;
    let mut values = vec![];
    values.extend(service_account.as_ref().map(|object| serde_json::to_value(object).unwrap()));
    values.extend([role].map(|object| serde_json::to_value(object).unwrap()));
    values.extend([role_binding].map(|object| serde_json::to_value(object).unwrap()));
    values.extend([config_map].map(|object| serde_json::to_value(object).unwrap()));
    values.extend(services.iter().map(|object| serde_json::to_value(object).unwrap()));
    values.extend(disruption_budget.as_ref().map(|object| serde_json::to_value(object).unwrap()));
    values.extend([stateful_set].map(|object| serde_json::to_value(object).unwrap()));
    let mut text = String::new();
    for value in &values {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(value).unwrap());
    }
    text
}

#[test]
fn the_seeds_primary() {
    let primary = example("01-primary.yaml");
    insta::assert_snapshot!(yaml(&manifests::build(&input(&primary, &primary))));
}

#[test]
fn the_seeds_replicas() {
    let (primary, replicas) = (example("01-primary.yaml"), example("03-replicas.yaml"));
    insta::assert_snapshot!(yaml(&manifests::build(&input(&replicas, &primary))));
}

#[test]
fn an_upgrade_of_the_operator_restarts_no_database() {
    let primary = example("01-primary.yaml");
    let annotation = |image: &'static str, single_member: bool| {
        let children = manifests::build(&Input { operator_image: image, single_member, ..input(&primary, &primary) });
        let template = children.stateful_set.spec.template;
        template.metadata.unwrap().annotations.unwrap()[manifests::POD_HASH_ANNOTATION].clone()
    };
    assert_eq!(annotation("mariadb-operator:1", false), annotation("mariadb-operator:2", false));
    // Nor does an object that joins the topology.
    assert_eq!(annotation("mariadb-operator:1", true), annotation("mariadb-operator:1", false));
}

#[test]
fn another_configuration_or_image_makes_pods_out_of_date() {
    let primary = example("01-primary.yaml");
    let annotation = |object: &Resolved, user_cnf: &str| {
        let children = manifests::build(&Input { user_cnf, ..input(object, object) });
        let template = children.stateful_set.spec.template;
        template.metadata.unwrap().annotations.unwrap()[manifests::POD_HASH_ANNOTATION].clone()
    };
    let newer = Resolved { image: "mariadb:11.8.3".into(), ..primary.clone() };
    let set = |option: &str| annotation(&primary, &format!("[mariadb]\n# a comment\n{option}\n"));
    assert_ne!(set("innodb-log-buffer-size=8M"), set("innodb-log-buffer-size=16M"));
    assert_ne!(annotation(&primary, ""), annotation(&newer, ""));
    // What a running server takes over is no reason to restart it; nor is a comment.
    assert_eq!(set("max-connections=100"), set("max_connections=200"));
    assert_eq!(set(""), annotation(&primary, ""));
    // Nor are limits that its agent reads as they are.
    let mut patient = primary.clone();
    let replication = patient.replication.as_mut().expect("replication");
    replication.failover_timeout = std::time::Duration::from_secs(31);
    replication.replica.max_lag = 31;
    assert_eq!(annotation(&patient, ""), annotation(&primary, ""));
}

#[test]
fn certificates_name_every_member_and_service() {
    let (primary, replicas) = (example("01-primary.yaml"), example("03-replicas.yaml"));
    let names = manifests::certificate_names(&input(&replicas, &primary));
    for name in [
        "mariadb-replica-2",
        "mariadb-replica-2.production.svc",
        "mariadb-primary.production.svc.cluster.local",
        "mariadb-primary-primary.production.svc",
        "*.mariadb-replica-internal.production.svc",
        "localhost",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
}
