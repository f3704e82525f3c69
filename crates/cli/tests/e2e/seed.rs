//! The seed's manifests with its fragments for probes and for analytics.

use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::{Cluster, Failure, workspace};
use super::failover::slave_status;
use super::replication::{await_rows, write_rows};
use super::switchovers::{session, sleeper};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] =
    &[("seed::seed_probes_and_analytics", seed_probes_and_analytics)];

const MINUTE: Duration = Duration::from_secs(60);
const PRIMARY: &str = "mariadb-primary-0";
const REPLICA: &str = "mariadb-replica-0";
const ANALYTICS: &str = "mariadb-replica-analytics-0";

fn read(name: &str) -> Result<Value, Failure> {
    let path = workspace().join("examples/seed").join(name);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("{name}: {e}"))
}

/// As a person pastes a fragment into its base: objects by field, the rest replaced.
fn paste(base: &mut Value, fragment: Value) {
    match (base, fragment) {
        (Value::Object(base), Value::Object(fragment)) => {
            for (key, value) in fragment {
                paste(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, fragment) => *base = fragment,
    }
}

fn await_ready(cluster: &Cluster, namespace: &str, pod: &str, wanted: &str) -> Result<(), Failure> {
    cluster.eventually(&format!("{pod} Ready={wanted}"), MINUTE, || {
        let object = cluster.get(namespace, "pod", pod)?.ok_or_else(|| format!("no pod {pod}"))?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        match conditions.iter().find(|condition| condition["type"] == "Ready") {
            Some(condition) if condition["status"] == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn expect_sql(cluster: &Cluster, namespace: &str, pod: &str, sql: &str, expected: &str) -> Result<(), Failure> {
    match cluster.sql(namespace, pod, sql)? {
        found if found == expected => Ok(()),
        found => Err(format!("{pod}: {sql}: {found}, not {expected}")),
    }
}

fn seed_probes_and_analytics(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    // A primary that nobody follows must not keep its binary logs for ever.
    for name in ["01-primary.yaml", "02-root-secret.yaml"] {
        cluster.apply(namespace, &read(name)?.to_string())?;
    }
    cluster.await_healthy(namespace, "mariadb-primary", 2 * MINUTE)?;
    let expiry = "SELECT @@GLOBAL.binlog_expire_logs_seconds, @@GLOBAL.slave_connections_needed_for_purge";
    expect_sql(cluster, namespace, PRIMARY, expiry, "604800\t0")?;

    let one = json!({"spec": {"replicas": 1}});
    let mut replicas = read("03-replicas.yaml")?;
    paste(&mut replicas, read("10-probes-fragment.yaml")?);
    paste(&mut replicas, one.clone());
    let mut analytics = read("03-replicas.yaml")?;
    paste(&mut analytics, read("04-replica-analytics-fragment.yaml")?);
    paste(&mut analytics, one);
    // The fragment's 30 s, in less time.
    analytics["spec"]["replication"]["replica"]["maxDelay"] = json!("3s");
    cluster.apply(namespace, &replicas.to_string())?;
    cluster.apply(namespace, &analytics.to_string())?;
    for name in ["mariadb-replica", "mariadb-replica-analytics"] {
        cluster.await_healthy(namespace, name, 3 * MINUTE)?;
    }
    write_rows(cluster, namespace, PRIMARY, 10)?;
    await_rows(cluster, namespace, &[REPLICA, ANALYTICS], 10)?;
    probes(cluster, namespace)?;
    settings(cluster, namespace)?;
    lag(cluster, namespace)
}

/// The user's commands are what decides, at the user's times.
fn probes(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    await_ready(cluster, namespace, REPLICA, "True")?;
    let pod = cluster.get(namespace, "pod", REPLICA)?.ok_or("no pod")?;
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let container = containers.iter().find(|c| c["name"] == "mariadb").ok_or("no container mariadb")?;
    for (probe, delay) in [("livenessProbe", 60), ("readinessProbe", 30)] {
        let probe = &container[probe];
        if probe["initialDelaySeconds"] != delay || probe["periodSeconds"] != 10 || probe["failureThreshold"] != 3 {
            return Err(format!("{probe}"));
        }
    }
    for path in ["ready", "live"] {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/7080; printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3; timeout 9 cat <&3"
        );
        let args = ["exec", REPLICA, "-n", namespace, "-c", "mariadb", "--", "bash", "-c", &script];
        let answer = cluster.kubectl(&args)?;
        if !answer.contains("200 OK") || !answer.contains("the probe's command succeeded") {
            return Err(format!("/{path}: {answer}"));
        }
    }
    Ok(())
}

fn settings(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    for (pod, mode) in [(REPLICA, "optimistic"), (ANALYTICS, "conservative")] {
        let status = slave_status(cluster, namespace, pod)?;
        for line in ["Master_SSL_Allowed: Yes".to_owned(), format!("Parallel_Mode: {mode}")] {
            if !status.contains(&line) {
                return Err(format!("{pod}: no {line:?} in {status}"));
            }
        }
        expect_sql(cluster, namespace, pod, "SELECT @@GLOBAL.slave_parallel_threads", "4")?;
    }
    let queued = "SELECT @@GLOBAL.slave_parallel_max_queued, @@GLOBAL.tmp_table_size";
    expect_sql(cluster, namespace, ANALYTICS, queued, "134217728\t268435456")
}

/// Somebody holds a table on the replica: it falls behind, gets no readers, and gets them again.
fn lag(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let root = "-u root -p\"${MARIADB_ROOT_PASSWORD}\"";
    let mut holder = session(cluster, namespace, ANALYTICS, root, "LOCK TABLES t.t WRITE")?;
    write_rows(cluster, namespace, PRIMARY, 1)?;
    let unready = await_ready(cluster, namespace, ANALYTICS, "False");
    let told = unready.and_then(|()| {
        let what = ("ReplicationHealthy", "False", "lags by more than 3 s");
        cluster.await_condition(namespace, "mariadb-replica-analytics", what, MINUTE)
    });
    let id = sleeper(cluster, namespace, ANALYTICS)?.ok_or("the session that held the table is gone")?;
    cluster.sql(namespace, ANALYTICS, &format!("KILL {id}"))?;
    let _ = holder.wait();
    told?;
    await_ready(cluster, namespace, ANALYTICS, "True")?;
    // The other one was ready throughout, and writes went on.
    await_rows(cluster, namespace, &[REPLICA, ANALYTICS], 11)?;
    cluster.await_healthy(namespace, "mariadb-replica-analytics", MINUTE)
}
