//! A walk with `kubectl`: what a person types at a topology, and what they read.

use super::cluster::{Cluster, Failure};
use super::failover::await_safe;
use super::forward::Forward;
use super::replication::{await_rows, replicated, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] =
    &[("walk::with_kubectl_over_a_small_topology", with_kubectl_over_a_small_topology)];

fn with_kubectl_over_a_small_topology(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 3)?;
    await_rows(cluster, namespace, &["db-1"], 3)?;
    tables(cluster, namespace)?;
    texts(cluster, namespace)?;
    files_and_commands(cluster, namespace)?;
    ports(cluster, namespace)
}

/// A table as `kubectl get` prints it: by column, what its first line's row says.
fn row(text: &str, name: &str) -> Result<Vec<(String, String)>, Failure> {
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let mut lines = text.lines();
    let columns = cells(lines.next().unwrap_or_default());
    let row = lines.map(cells).find(|row| row.first().is_some_and(|first| first == name));
    let row = row.ok_or_else(|| format!("no {name} in:\n{text}"))?;
    if row.len() != columns.len() {
        return Err(format!("{} columns and {} cells:\n{text}", columns.len(), row.len()));
    }
    Ok(columns.into_iter().zip(row).collect())
}

fn expect_row(text: &str, name: &str, expected: &[(&str, &str)]) -> Result<(), Failure> {
    let row = row(text, name)?;
    for (column, value) in expected {
        match row.iter().find(|(name, _)| name == column) {
            Some((_, found)) if found.starts_with(value) => {}
            found => return Err(format!("{column}: {found:?}, not {value}:\n{text}")),
        }
    }
    Ok(())
}

fn tables(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let get = |what: &str| cluster.kubectl(&["get", what, "-n", namespace, "-o", "wide"]);
    let well = [("READY", "True"), ("PRIMARY", "db-0"), ("REPLICAS", "2/2"), ("LAG", "0"), ("EPOCH", "1")];
    let more = [("DURABILITY", "Safe"), ("VERSION", "11.8")];
    expect_row(&get("mariadb")?, "db", &[&well[..], &more].concat())?;
    // The short name, and a column of one's own.
    let own =
        cluster.kubectl(&["get", "mdb", "db", "-n", namespace, "-o", "custom-columns=P:.status.currentPrimary"])?;
    if own != "P\ndb-0\n" {
        return Err(format!("custom columns: {own:?}"));
    }
    for pod in ["db-0", "db-1"] {
        expect_row(
            &get("pods")?,
            pod,
            &[("READY", "1/1"), ("STATUS", "Running"), ("RESTARTS", "0"), ("NODE", "node-")],
        )?;
    }
    let labelled = |role: &str| {
        let selector = format!("k8s.mariadb.com/topology=db,k8s.mariadb.com/role={role}");
        cluster.kubectl(&["get", "pods", "-n", namespace, "-l", &selector, "-o", "name"])
    };
    let roles = (labelled("primary")?, labelled("replica")?);
    if (roles.0.as_str(), roles.1.as_str()) != ("pod/db-0\n", "pod/db-1\n") {
        return Err(format!("pods by role: {roles:?}"));
    }
    expect_row(&get("statefulsets")?, "db", &[("READY", "2/2"), ("IMAGES", "mariadb:11.8")])?;
    expect_row(&get("pvc")?, "storage-db-0", &[("STATUS", "Bound"), ("CAPACITY", "1Gi")])?;
    expect_row(&get("services")?, "db-primary", &[("TYPE", "ClusterIP"), ("PORT(S)", "3306/TCP")])
}

fn texts(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let expect = |args: &[&str], parts: &[&str]| {
        let text = cluster.kubectl(&[args, &["-n", namespace]].concat())?;
        match parts.iter().find(|part| !text.contains(**part)) {
            None => Ok(()),
            Some(part) => Err(format!("kubectl {} lacks {part:?}:\n{text}", args.join(" "))),
        }
    };
    let conditions = ["Ready", "ReplicationHealthy", "SafeToFailover", "Updated", "ConfigValid"];
    expect(&["describe", "mariadb", "db"], &[&conditions[..], &["db-1 would take over", "Events:"]].concat())?;
    expect(&["describe", "pod", "db-0"], &["mariadb:11.8", "Ready:", "storage-db-0", "Events:"])?;
    expect(&["logs", "db-0"], &["ready for connections"])?;
    expect(&["logs", "db-1", "-c", "mariadb", "--tail=500"], &["ready for connections", "replica"])?;
    expect(&["explain", "mariadb.spec.replication.durability"], &["Strict", "Safe", "Available"])?;
    expect(&["get", "events", "--field-selector=involvedObject.kind=MariaDB"], &["mariadb/db"])
}

fn files_and_commands(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let exec = |command: &[&str]| cluster.kubectl(&[&["exec", "db-0", "-n", namespace, "--"][..], command].concat());
    let name = exec(&["hostname"])?;
    if name != "db-0\n" {
        return Err(format!("hostname: {name:?}"));
    }
    // What a command says of itself gets through.
    let refused = cluster.kubectl_refused(&["exec", "db-0", "-n", namespace, "--", "sh", "-c", "exit 7"], "")?;
    if !refused.contains("exit code 7") {
        return Err(format!("exit 7: {refused}"));
    }
    let dump = "exec mariadb-dump -u root -p\"$MARIADB_ROOT_PASSWORD\" t";
    let dumped = exec(&["sh", "-c", dump])?;
    if !dumped.contains("CREATE TABLE `t`") {
        return Err(format!("mariadb-dump: {dumped}"));
    }
    let input =
        cluster.kubectl_with(&["exec", "-i", "db-0", "-n", namespace, "--", "wc", "-c"], &"x".repeat(300_000))?;
    if input.trim() != "300000" {
        return Err(format!("standard input: {input}"));
    }
    // There and back again.
    let dir = std::env::temp_dir().join(format!("mariadb-e2e-walk-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let copied = || -> Result<bool, Failure> {
        std::fs::write(file("there"), &dumped).map_err(|e| format!("{}: {e}", file("there")))?;
        cluster.kubectl(&["cp", "-n", namespace, "-c", "mariadb", &file("there"), "db-1:/tmp/dump.sql"])?;
        cluster.kubectl(&["cp", "-n", namespace, "-c", "mariadb", "db-1:/tmp/dump.sql", &file("back")])?;
        let back = std::fs::read_to_string(file("back")).map_err(|e| format!("{}: {e}", file("back")))?;
        Ok(back == dumped)
    };
    let copied = copied();
    let _ = std::fs::remove_dir_all(&dir);
    if copied? { Ok(()) } else { Err("what came back is not what was copied there".to_owned()) }
}

/// Through a service to the server behind it: it greets.
fn ports(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    match Forward::start(cluster, namespace, "service/db-primary", 3306)?.greeting()? {
        text if text.contains("11.8") => Ok(()),
        text => Err(format!("not a greeting of MariaDB 11.8: {text:?}")),
    }
}
