//! What `spec.replication.primary` asks for.

use std::time::Duration;

use super::cluster::{Cluster, Failure, broken};
use super::failover::{await_other_primary, await_safe, kill_server, primary};
use super::moments::{await_event, equal_in_the_end};
use super::replication::{small, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] =
    &[("primary::a_member_then_fencing_then_no_failover", a_member_then_fencing_then_no_failover)];

const MINUTE: Duration = Duration::from_secs(60);
const PAIR: [&str; 2] = ["db-0", "db-1"];

fn set(cluster: &Cluster, namespace: &str, primary: &str) -> Result<(), Failure> {
    let patch = format!("{{\"spec\":{{\"replication\":{{\"primary\":{primary}}}}}}}");
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", &patch]).map(drop)
}

fn signal_server(cluster: &Cluster, namespace: &str, pod: &str, signal: &str) -> Result<(), Failure> {
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = mariadbd ] && kill -{signal} ${{p#/proc/}}; done; true"
    );
    cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "bash", "-c", &script]).map(drop)
}

/// A member is named in place of an ordinal; the old primary's pod goes as well; a primary that hangs is waited for.
fn a_member_then_fencing_then_no_failover(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let spec = "  replicas: 2\n  replication:\n    enabled: true\n    primary:\n      fencing:\n        enabled: true\n        \
                method: STONITH\n    failover:\n      timeout: 2s\n      cooldown: 1s\n";
    cluster.apply(namespace, &small("db", spec))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 20)?;
    set(cluster, namespace, r#"{"member":"db-1"}"#)?;
    await_other_primary(cluster, namespace, "db", "db-0")?;
    equal_in_the_end(cluster, namespace, &PAIR, 20)?;
    await_safe(cluster, namespace, "db")?;

    let uid = || cluster.kubectl(&["get", "pod", "db-1", "-n", namespace, "-o", "jsonpath={.metadata.uid}"]);
    let before = uid()?;
    kill_server(cluster, namespace, "db-1")?;
    await_other_primary(cluster, namespace, "db", "db-1")?;
    cluster.eventually("db-1 has another pod", MINUTE, || match uid()? {
        now if now != before => Ok(()),
        _ => Err("it is the old one".to_owned()),
    })?;
    await_event(cluster, namespace, "FencingPod", "db-1")?;
    // What was asked for before does not pull it back.
    equal_in_the_end(cluster, namespace, &PAIR, 21)?;
    await_safe(cluster, namespace, "db")?;

    set(cluster, namespace, r#"{"automaticFailover":false}"#)?;
    cluster.await_condition(namespace, "db", ("SafeToFailover", "False", "AutomaticFailoverOff"), MINUTE)?;
    signal_server(cluster, namespace, "db-0", "STOP")?;
    let told = cluster.eventually("the refusal is told", MINUTE, || {
        let object = cluster.get(namespace, "mariadb", "db")?.ok_or("no mariadb db")?;
        let refusals = object["status"]["replication"]["refusals"].clone();
        let named = |refusal: &serde_json::Value| refusal["reason"] == "AutomaticFailoverOff";
        match refusals.as_array().is_some_and(|refusals| refusals.iter().any(named)) {
            true => Ok(()),
            false => Err(format!("{refusals}")),
        }
    });
    // It could have been replaced long since.
    std::thread::sleep(Duration::from_secs(3));
    let now = primary(cluster, namespace, "db");
    signal_server(cluster, namespace, "db-0", "CONT")?;
    told?;
    if now? != "db-0" {
        return Err(broken("db-0 was replaced although automaticFailover is off"));
    }
    match equal_in_the_end(cluster, namespace, &PAIR, 22)?.as_str() {
        "db-0" => Ok(()),
        other => Err(broken(format_args!("{other} is the primary although automaticFailover is off"))),
    }
}
