//! Bad input gets a clear error, and nothing is lost.

use std::time::Duration;

use super::cluster::{Cluster, Failure};
use super::replication::{replicated, small, split};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("bad_input::refused_by_the_api", refused_by_the_api),
    ("bad_input::a_secret_that_does_not_exist", a_secret_that_does_not_exist),
    ("bad_input::a_circle", a_circle),
    ("bad_input::two_objects_one_child_name", two_objects_one_child_name),
    ("bad_input::an_image_that_cannot_be_had", an_image_that_cannot_be_had),
    ("bad_input::an_unknown_option", an_unknown_option),
    ("bad_input::a_new_object_takes_up_the_old_data", a_new_object_takes_up_the_old_data),
    ("bad_input::storage_that_shrinks", storage_that_shrinks),
    ("bad_input::the_first_volume_is_gone", the_first_volume_is_gone),
    ("bad_input::unsupported_fields_are_named", unsupported_fields_are_named),
    ("bad_input::names_at_the_limit", names_at_the_limit),
    ("bad_input::wrong_units", wrong_units),
];

const LIMIT: Duration = Duration::from_secs(60);

fn expect_refusal(cluster: &Cluster, namespace: &str, manifest: &str, texts: &[&str]) -> Result<(), Failure> {
    let error = cluster.kubectl_refused(&["apply", "-n", namespace, "-f", "-"], manifest)?;
    for text in texts {
        if !error.contains(text) {
            return Err(format!("no {text:?} in: {error}"));
        }
    }
    Ok(())
}

fn refused_by_the_api(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let with = |extra: &str| small("db", extra);
    expect_refusal(cluster, namespace, &with("  replicaz: 3\n"), &["replicaz"])?;
    expect_refusal(cluster, namespace, &with("  replicas: three\n"), &["spec.replicas"])?;
    expect_refusal(cluster, namespace, &with("  replicas: 3\n"), &["replication"])?;
    expect_refusal(
        cluster,
        namespace,
        &with("  replicas: 2\n  replication:\n    enabled: true\n    primary:\n      podIndex: 7\n"),
        &["podIndex"],
    )?;
    expect_refusal(
        cluster,
        namespace,
        &with(
            "  replicas: 2\n  replication:\n    enabled: true\n    primary:\n      automaticFailover: true\n    failover:\n      enabled: false\n",
        ),
        &["automaticFailover", "failover.enabled"],
    )
}

fn a_secret_that_does_not_exist(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &small("db", "  rootPasswordSecretKeyRef:\n    name: later\n    key: password\n"))?;
    cluster.await_condition(namespace, "db", ("Ready", "False", "later"), LIMIT)?;
    cluster.kubectl(&["create", "secret", "generic", "later", "-n", namespace, "--from-literal=wrong=x"])?;
    cluster.await_condition(namespace, "db", ("Ready", "False", "password"), LIMIT)?;
    cluster.kubectl(&["delete", "secret", "later", "-n", namespace])?;
    cluster.kubectl(&["create", "secret", "generic", "later", "-n", namespace, "--from-literal=password=Geheim1!"])?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)
}

fn a_circle(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &split("east", "west", 1))?;
    cluster.apply(namespace, &split("west", "east", 1))?;
    cluster.await_condition(namespace, "east", ("Ready", "False", "circle"), LIMIT)?;
    cluster.await_condition(namespace, "west", ("Ready", "False", "circle"), LIMIT)
}

fn two_objects_one_child_name(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "db", 2 * LIMIT)?;
    // `db-primary` is the service of `db`, and would be the object's own service here.
    cluster.apply(namespace, &replicated("db-primary", 1))?;
    cluster.await_condition(namespace, "db-primary", ("Ready", "False", "db-primary"), LIMIT)?;
    cluster.await_healthy(namespace, "db", LIMIT)
}

fn an_image_that_cannot_be_had(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let manifest = small("db", "").replace("image: mariadb:11.8", "image: mariadb:nonesuch");
    cluster.apply(namespace, &manifest)?;
    cluster.eventually("ImagePullBackOff or ErrImagePull", LIMIT, || {
        let pods = cluster.kubectl(&["get", "pods", "-n", namespace, "--no-headers"])?;
        if pods.contains("ImagePull") { Ok(()) } else { Err(pods) }
    })?;
    cluster.await_condition(namespace, "db", ("Ready", "False", "nonesuch"), LIMIT)?;
    // Put right, it starts.
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)
}

fn an_unknown_option(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let manifest = small("db", "")
        .replace("    innodb-log-file-size=16M\n", "    innodb-log-file-size=16M\n    no-such-option=1\n");
    cluster.apply(namespace, &manifest)?;
    cluster.await_condition(namespace, "db", ("ConfigValid", "False", "no-such-option"), LIMIT)?;
    cluster.await_condition(namespace, "db", ("ConfigValid", "False", "line 4"), LIMIT)?;
    let pods = cluster.list(namespace, "pods", "app.kubernetes.io/instance=db")?;
    let restarts: i64 = pods.iter().filter_map(|p| p["status"]["containerStatuses"][0]["restartCount"].as_i64()).sum();
    if restarts != 0 {
        return Err(format!("{restarts} restarts: a crash loop instead of a message"));
    }
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)
}

/// Deletion keeps the volumes; an object of the same name takes its data up again, and nothing is initialised over it.
fn a_new_object_takes_up_the_old_data(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)?;
    super::replication::write_rows(cluster, namespace, "db-0", 7)?;
    cluster.kubectl(&["delete", "mariadb", "db", "-n", namespace])?;
    cluster.eventually("the pod goes", LIMIT, || match cluster.get(namespace, "pod", "db-0")? {
        None => Ok(()),
        Some(_) => Err("still there".into()),
    })?;
    if cluster.get(namespace, "pvc", "storage-db-0")?.is_none() {
        return Err("deletion took the volume".into());
    }
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)?;
    super::replication::await_rows(cluster, namespace, &["db-0"], 7)
}

fn storage_that_shrinks(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), 2 * LIMIT)?;
    let sized = |size: &str| small("db", "").replace("size: 1Gi", &format!("size: {size}"));
    expect_refusal(cluster, namespace, &sized("500Mi"), &["size"])?;
    cluster.apply(namespace, &sized("2Gi"))?;
    cluster.eventually("the claim grows", LIMIT, || {
        let claim = cluster.get(namespace, "pvc", "storage-db-0")?.ok_or("no claim")?;
        match claim["status"]["capacity"]["storage"].as_str() {
            Some("2Gi") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    cluster.await_condition(namespace, "db", ("Ready", "True", ""), LIMIT)
}

/// The record names data that is gone, others hold a copy: nothing is initialised; who holds everything takes over, and the
/// new volume gets a copy.
fn the_first_volume_is_gone(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * LIMIT)?;
    super::replication::write_rows(cluster, namespace, "db-0", 9)?;
    super::replication::await_rows(cluster, namespace, &["db-1"], 9)?;
    // While everybody is away, so that nobody can hand over.
    cluster.kubectl(&["scale", "mariadb", "db", "-n", namespace, "--replicas=0"])?;
    cluster.eventually("no pods", LIMIT, || {
        match cluster.kubectl(&["get", "pods", "-n", namespace, "-o", "name"])?.is_empty() {
            true => Ok(()),
            false => Err("there are pods".to_owned()),
        }
    })?;
    cluster.kubectl(&["delete", "pvc", "storage-db-0", "-n", namespace, "--timeout=30s"])?;
    cluster.kubectl(&["scale", "mariadb", "db", "-n", namespace, "--replicas=2"])?;
    cluster.eventually("db-1 is the primary", 2 * LIMIT, || {
        let object = cluster.get(namespace, "mariadb", "db")?.ok_or("no mariadb db")?;
        match object["status"]["currentPrimary"].as_str() {
            Some("db-1") => Ok(()),
            other => Err(format!("{other:?}: {}", object["status"]["conditions"])),
        }
    })?;
    cluster.await_healthy(namespace, "db", 2 * LIMIT)?;
    super::replication::await_rows(cluster, namespace, &["db-0", "db-1"], 9)
}

fn unsupported_fields_are_named(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &small("db", "  metrics:\n    enabled: true\n"))?;
    cluster.await_condition(namespace, "db", ("UnsupportedField", "True", "spec.metrics"), LIMIT)?;
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("UnsupportedField", "False", ""), LIMIT)
}

/// As long as names may be, with replication and its certificates; one character more is refused.
fn names_at_the_limit(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let longest = "d".repeat(48);
    cluster.apply(namespace, &replicated(&longest, 2))?;
    cluster.await_healthy(namespace, &longest, 2 * LIMIT)?;
    let replica = format!("{longest}-1");
    let status = super::failover::slave_status(cluster, namespace, &replica)?;
    if !status.contains("Master_SSL_Allowed: Yes") {
        return Err(format!("{replica} replicates without TLS: {status}"));
    }
    super::replication::write_rows(cluster, namespace, &format!("{longest}-0"), 3)?;
    super::replication::await_rows(cluster, namespace, &[&replica], 3)?;
    let manifest = small(&"d".repeat(49), "");
    expect_refusal(cluster, namespace, &manifest, &["metadata.name", "at most 48 characters"])
}

/// Refused by the API or told in a condition, with the field's path; and nobody else notices.
fn wrong_units(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let failover =
        |text: &str| small("db", &format!("  replication:\n    enabled: true\n    failover:\n      timeout: {text}\n"));
    let size = |text: &str| small("db", "").replace("size: 1Gi", &format!("size: {text}"));
    for (manifest, field) in [
        (failover("5x"), "timeout"),
        (failover("-5"), "timeout"),
        (failover("\"-5s\""), "timeout"),
        (size("5GiB"), "size"),
        (size("0"), "size"),
        (size("-1Gi"), "size"),
    ] {
        match cluster.kubectl_refused(&["apply", "-n", namespace, "-f", "-"], &manifest) {
            Ok(error) if error.contains(field) => continue,
            Ok(error) => return Err(format!("refused without the path: {error}")),
            Err(_) => cluster.await_condition(namespace, "db", ("ConfigValid", "False", field), LIMIT)?,
        }
        // Put right, it is made; then the next one.
        cluster.kubectl(&["delete", "mariadb", "db", "-n", namespace])?;
    }
    cluster.apply(namespace, &small("other", ""))?;
    cluster.await_condition(namespace, "other", ("Ready", "True", ""), 2 * LIMIT)
}
