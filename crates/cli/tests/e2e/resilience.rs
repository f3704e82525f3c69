//! The operator, the sandbox, a donor or a disk fails at a bad moment.

use std::time::Duration;

use super::cluster::{Cluster, Failure, skipped};
use super::replication::{await_rows, replicated, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
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

fn sandbox_killed_and_started_again(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let Some(dir) = cluster.sandbox_dir() else {
        skipped("sandbox_killed_and_started_again: not a sandbox");
        return Ok(());
    };
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    let pid = std::fs::read_to_string(dir.join("lock")).map_err(|e| format!("{}/lock: {e}", dir.display()))?;
    let pid: i32 = pid.trim().parse().map_err(|e| format!("pid: {e}"))?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or("pid 0")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(|e| format!("kill: {e}"))?;
    std::thread::sleep(Duration::from_secs(2));
    cluster.sandbox_up()?;
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
