//! The operator, the sandbox, a donor or a disk fails at a bad moment.

use std::time::Duration;

use super::cluster::{Cluster, Failure, skipped};
use super::failover::{await_other_primary, await_safe};
use super::moments::equal_in_the_end;
use super::replication::{await_pods, await_rows, replicated, scale, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("resilience::cold_start_without_the_primarys_disk", cold_start_without_the_primarys_disk),
    ("resilience::operator_killed_while_seeding", operator_killed_while_seeding),
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
