//! The operator, the sandbox, a donor or a disk fails at a bad moment.

use std::time::Duration;

use super::chaos::kill_operator;
use super::cluster::{Cluster, Failure, broken, skipped};
use super::failover::{await_other_primary, await_safe, kill_server, primary};
use super::moments::equal_in_the_end;
use super::replication::{await_pods, await_rows, replicated, scale, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("resilience::cold_start_without_the_primarys_disk", cold_start_without_the_primarys_disk),
    ("resilience::operator_killed_while_seeding", operator_killed_while_seeding),
    ("resilience::another_operator_knows_of_the_failovers_before", another_operator_knows_of_the_failovers_before),
    ("resilience::sandbox_killed_and_started_again", sandbox_killed_and_started_again),
    ("resilience::steady_state_writes_nothing", steady_state_writes_nothing),
];

const MINUTE: Duration = Duration::from_secs(60);

fn operator_killed_while_seeding(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1300));
        cluster.kubectl(&[
            "delete",
            "pod",
            "-n",
            "mariadb-operator",
            "-l",
            "app.kubernetes.io/name=mariadb-operator",
            "--force",
            "--grace-period=0",
        ])?;
    }
    cluster.await_healthy(namespace, "db", 3 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    await_rows(cluster, namespace, &["db-1", "db-2"], 10)
}

/// Three failovers in ten minutes are enough, whoever decided them. What an operator has not told, the next one tells.
fn another_operator_knows_of_the_failovers_before(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    for _ in 0..3 {
        await_safe(cluster, namespace, "db")?;
        let old = primary(cluster, namespace, "db")?;
        kill_server(cluster, namespace, &old)?;
        await_other_primary(cluster, namespace, "db", &old)?;
    }
    let told = || cluster.list(namespace, "primarychanges", "k8s.mariadb.com/topology=db");
    cluster.eventually("three changes are told", MINUTE, || match told()?.len() {
        3 => Ok(()),
        other => Err(format!("{other}")),
    })?;
    // As if the operator had ended before it told of the last one.
    let mut changes = told()?;
    changes.sort_by_key(|change| change["epoch"].as_i64());
    let last = changes.pop().unwrap_or_default();
    let name = last["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.kubectl(&["delete", "primarychange", &name, "-n", namespace])?;
    kill_operator(cluster)?;
    cluster.eventually("another operator tells of it", 2 * MINUTE, || {
        let again = cluster.get(namespace, "primarychange", &name)?.ok_or("not yet")?;
        for field in ["epoch", "type", "from", "to", "cause"] {
            if again[field] != last[field] {
                return Err(broken(format_args!("{field}: {}, then {}", last[field], again[field])));
            }
        }
        Ok(())
    })?;
    cluster.await_condition(namespace, "db", ("SafeToFailover", "False", "TooManyChanges"), MINUTE)?;
    let old = primary(cluster, namespace, "db")?;
    kill_server(cluster, namespace, &old)?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    match primary(cluster, namespace, "db")? {
        same if same == old => Ok(()),
        other => Err(broken(format_args!("{other} took over from {old} in a fourth failover"))),
    }
}

/// Everybody stopped in good order; the primary cannot come back. Another one takes over with everything, and the old one follows
/// it when its disk answers.
fn cold_start_without_the_primarys_disk(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if cluster.sandbox_dir().is_none() {
        skipped("cold_start_without_the_primarys_disk: not a sandbox");
        return Ok(());
    }
    let limited = replicated("db", 3).replace("    size: 1Gi\n", "    size: 1Gi\n    storageClassName: limited\n");
    cluster.apply(namespace, &limited)?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 20)?;
    scale(cluster, namespace, "db", 0)?;
    await_pods(cluster, namespace, "db", 0)?;
    let disk = |verb: &str| cluster.sandbox_command(verb, &["volume", verb, "storage-db-0", "-n", namespace]).map(drop);
    disk("hang")?;
    scale(cluster, namespace, "db", 3)?;
    let now = await_other_primary(cluster, namespace, "db", "db-0");
    let written = now.and_then(|now| {
        let written =
            cluster.eventually("writes on the new primary", MINUTE, || write_rows(cluster, namespace, &now, 1));
        written.and_then(|()| await_rows(cluster, namespace, &["db-1", "db-2"], 21))
    });
    disk("release")?;
    written?;
    equal_in_the_end(cluster, namespace, &["db-0", "db-1", "db-2"], 21)?;
    await_safe(cluster, namespace, "db")
}

fn sandbox_killed_and_started_again(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let Some(dir) = cluster.sandbox_dir() else {
        skipped("sandbox_killed_and_started_again: not a sandbox");
        return Ok(());
    };
    let kill_and_start = || -> Result<(), Failure> {
        let pid = std::fs::read_to_string(dir.join("lock")).map_err(|e| format!("{}/lock: {e}", dir.display()))?;
        let pid: i32 = pid.trim().parse().map_err(|e| format!("pid: {e}"))?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("pid 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(|e| format!("kill: {e}"))?;
        std::thread::sleep(Duration::from_secs(2));
        cluster.sandbox_up()
    };
    cluster.apply(namespace, &replicated("db", 2))?;
    // In the middle of the bring-up: there is a server, and not yet a replica of it.
    cluster.eventually("the first member is initialised", MINUTE, || {
        match cluster.get(namespace, "mariadb", "db")?.ok_or("no mariadb db")?["status"]["currentPrimary"].as_str() {
            Some(_) => Ok(()),
            None => Err("nobody is the primary".to_owned()),
        }
    })?;
    if cluster.condition(namespace, "db", "Ready").is_ok_and(|(status, _, _)| status == "True") {
        return Err("it was ready before the sandbox could be killed".to_owned());
    }
    kill_and_start()?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    cluster.eventually("writes on the primary", MINUTE, || write_rows(cluster, namespace, "db-0", 10))?;
    await_rows(cluster, namespace, &["db-1"], 10)?;
    // And when all is at rest.
    kill_and_start()?;
    cluster.eventually("rows are back", 2 * MINUTE, || await_rows(cluster, namespace, &["db-0", "db-1"], 10))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    cluster.eventually("writes again", MINUTE, || write_rows(cluster, namespace, "db-0", 1))?;
    await_rows(cluster, namespace, &["db-1"], 11)
}

fn steady_state_writes_nothing(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    std::thread::sleep(Duration::from_secs(10));
    // Every write gives some object a new resourceVersion; of ours, none may change.
    let versions = || -> Result<String, Failure> {
        cluster.kubectl(&[
            "get",
            "mariadb,statefulsets,services,configmaps,secrets,leases,poddisruptionbudgets,roles,rolebindings,serviceaccounts,events",
            "-n",
            namespace,
            "-o",
            "jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.resourceVersion}{\"\\n\"}{end}",
        ])
    };
    let before = versions()?;
    std::thread::sleep(Duration::from_secs(30));
    let after = versions()?;
    if before == after {
        return Ok(());
    }
    let changed: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    Err(format!("changed within 30 s of rest: {changed:?}"))
}
