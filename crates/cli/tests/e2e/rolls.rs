//! Changes that replace pods: the replicas first, the primary last and by a switchover; and strategies that replace none.

use std::time::Duration;

use serde_json::Value;

use super::chaos::kill_operator;
use super::cluster::{Cluster, Failure};
use super::failover::{await_other_primary, await_safe, primary};
use super::moments::{await_event, equal_in_the_end};
use super::replication::{replicated, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] =
    &[("rolls::another_image_then_other_resources", another_image_then_other_resources)];

const MINUTE: Duration = Duration::from_secs(60);
const PAIR: [&str; 2] = ["db-0", "db-1"];
/// A roll that begins is seen by then.
const BEGINS: Duration = Duration::from_secs(4);

fn patch(cluster: &Cluster, namespace: &str, spec: &str) -> Result<(), Failure> {
    let patch = format!("{{\"spec\":{spec}}}");
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", &patch]).map(drop)
}

fn pod(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value, Failure> {
    cluster.get(namespace, "pod", name)?.ok_or_else(|| format!("no pod {name}"))
}

fn uids(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, Failure> {
    PAIR.iter().map(|name| Ok(pod(cluster, namespace, name)?["metadata"]["uid"].to_string())).collect()
}

/// What its pod's server runs with.
fn await_running(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    (pointer, value): (&str, &str),
) -> Result<(), Failure> {
    cluster.eventually(&format!("{name} runs with {value}"), 2 * MINUTE, || {
        let pod = pod(cluster, namespace, name)?;
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let found = containers.filter(|c| c["name"] == "mariadb").find_map(|c| c.pointer(pointer).cloned());
        match found {
            Some(found) if found == value => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Nothing is replaced, and the object says why.
fn stays(cluster: &Cluster, namespace: &str, reason: &str, uids_before: &[String]) -> Result<(), Failure> {
    cluster.await_condition(namespace, "db", ("Updated", "False", reason), MINUTE)?;
    std::thread::sleep(BEGINS);
    match uids(cluster, namespace)? {
        now if now == uids_before => Ok(()),
        now => Err(format!("{reason}: {uids_before:?}, then {now:?}")),
    }
}

fn changes(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, Failure> {
    let changes = cluster.list(namespace, "primarychanges", "k8s.mariadb.com/topology=db")?;
    Ok(changes.iter().filter_map(|change| change["type"].as_str().map(str::to_owned)).collect())
}

fn another_image_then_other_resources(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 10)?;
    let before = uids(cluster, namespace)?;
    patch(cluster, namespace, r#"{"image":"mariadb:11.8.3-noble"}"#)?;
    // The replica comes first: while the primary is what it was.
    await_running(cluster, namespace, "db-1", ("/image", "mariadb:11.8.3-noble"))?;
    if uids(cluster, namespace)?[0] != before[0] || primary(cluster, namespace, "db")? != "db-0" {
        return Err("the primary did not come last".to_owned());
    }
    await_other_primary(cluster, namespace, "db", "db-0")?;
    await_running(cluster, namespace, "db-0", ("/image", "mariadb:11.8.3-noble"))?;
    if cluster.sandbox_dir().is_some() {
        await_event(cluster, namespace, "ImageVersionDiffers", "mariadb:11.8.3-noble")?;
    }
    equal_in_the_end(cluster, namespace, &PAIR, 10)?;
    cluster.await_condition(namespace, "db", ("Updated", "True", ""), MINUTE)?;
    if changes(cluster, namespace)? != ["Switchover"] {
        return Err(format!("changes: {:?}, not one switchover", changes(cluster, namespace)?));
    }
    strategies(cluster, namespace)
}

/// `db-1` is the primary now.
fn strategies(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    const REQUEST: (&str, &str) = ("/resources/requests/memory", "300Mi");
    let before = uids(cluster, namespace)?;
    patch(cluster, namespace, r#"{"updateStrategy":{"type":"OnDelete"},"resources":{"requests":{"memory":"300Mi"}}}"#)?;
    stays(cluster, namespace, "OnDelete", &before)?;
    cluster.kubectl(&["delete", "pod", "db-0", "-n", namespace])?;
    await_running(cluster, namespace, "db-0", REQUEST)?;
    await_safe(cluster, namespace, "db")?;
    let half = uids(cluster, namespace)?;
    if half[1] != before[1] {
        return Err("db-1 was replaced, too".to_owned());
    }
    patch(cluster, namespace, r#"{"updateStrategy":{"type":"Never"}}"#)?;
    stays(cluster, namespace, "Never", &half)?;
    // The operator dies in the middle of what is left; another one goes on.
    patch(cluster, namespace, r#"{"updateStrategy":{"type":"ReplicasFirstPrimaryLast"}}"#)?;
    cluster.await_condition(namespace, "db", ("Updated", "False", "RollingOut"), MINUTE)?;
    kill_operator(cluster)?;
    await_running(cluster, namespace, "db-1", REQUEST)?;
    equal_in_the_end(cluster, namespace, &PAIR, 11)?;
    cluster.await_condition(namespace, "db", ("Updated", "True", ""), MINUTE)?;
    await_safe(cluster, namespace, "db")?;
    match uids(cluster, namespace)? {
        now if now[0] == half[0] => Ok(()),
        now => Err(format!("db-0 was up to date, and replaced: {half:?}, then {now:?}")),
    }
}
