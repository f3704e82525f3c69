//! From manifests to replicated servers, in the shapes and orders that people use.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, Failure, broken, workspace};
use super::failover::slave_status;

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("replication::seed_manifests", seed_manifests),
    ("replication::one_object", one_object),
    ("replication::replicas_long_after_the_primary", replicas_long_after_the_primary),
    ("replication::replicas_before_the_primary", replicas_before_the_primary),
    ("replication::one_to_three_and_back", one_to_three_and_back),
    ("replication::to_zero_and_back", to_zero_and_back),
    ("replication::a_stopped_replica_is_started_again", a_stopped_replica_is_started_again),
    ("replication::a_broken_replica_is_cloned_anew", a_broken_replica_is_cloned_anew),
    ("replication::a_killed_server_comes_back", a_killed_server_comes_back),
];

/// A small object: `extra` is YAML below `spec`, indented by two.
pub(crate) fn small(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: k8s.mariadb.com/v1alpha1\nkind: MariaDB\nmetadata:\n  name: {name}\nspec:\n  image: mariadb:11.8\n  \
         storage:\n    size: 1Gi\n  myCnf: |\n    [mariadb]\n    innodb-buffer-pool-size=16M\n    innodb-log-file-size=16M\n{extra}"
    )
}

/// `replication.enabled` with so many members in one object.
pub(crate) fn replicated(name: &str, replicas: u32) -> String {
    small(name, &format!("  replicas: {replicas}\n  replication:\n    enabled: true\n"))
}

/// A split object behind the root `primary`.
pub(crate) fn split(name: &str, primary: &str, replicas: u32) -> String {
    small(
        name,
        &format!(
            "  replicas: {replicas}\n  replication:\n    enabled: true\n    replica:\n      primaryName: {primary}\n      \
             primaryService:\n        name: {primary}\n"
        ),
    )
}

const MINUTE: Duration = Duration::from_secs(60);

/// Rows of `t.t` on a member.
fn rows(cluster: &Cluster, namespace: &str, pod: &str) -> Result<u64, Failure> {
    let text = cluster.sql(namespace, pod, "SELECT COUNT(*) FROM t.t")?;
    text.trim().parse().map_err(|_| format!("{pod}: not a count: {text:?}"))
}

/// Makes `t.t` with rows on the primary.
pub(crate) fn write_rows(cluster: &Cluster, namespace: &str, primary: &str, count: u64) -> Result<(), Failure> {
    // Root passes `read_only`: what it writes on a former primary that is back is nobody's promise.
    let sql = format!(
        "EXECUTE IMMEDIATE IF(@@global.read_only, 'it is no primary', 'DO 0'); CREATE DATABASE IF NOT EXISTS t; CREATE TABLE IF NOT EXISTS t.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40)); \
         INSERT INTO t.t (v) SELECT UUID() FROM t.seq_1_to_{count}"
    );
    cluster.sql(namespace, primary, &sql).map(drop)
}

/// Each member has so many rows, soon.
pub(crate) fn await_rows(cluster: &Cluster, namespace: &str, pods: &[&str], count: u64) -> Result<(), Failure> {
    for pod in pods {
        let there = cluster.eventually(&format!("{pod} has {count} rows"), MINUTE / 2, || {
            match rows(cluster, namespace, pod)? {
                found if found == count => Ok(()),
                found => Err(format!("it has {found}")),
            }
        });
        there.map_err(|failure| match lost_rows(cluster, namespace, pod, count) {
            true => broken(failure),
            false => failure,
        })?;
    }
    Ok(())
}

/// It has fewer rows, and time will not bring them: it is open for writes, or has applied all that there is.
fn lost_rows(cluster: &Cluster, namespace: &str, pod: &str, count: u64) -> bool {
    let settled = || -> Result<bool, Failure> {
        let open = cluster.sql(namespace, pod, "SELECT @@read_only")? == "0";
        let status = slave_status(cluster, namespace, pod)?;
        let applied = ["Slave_IO_Running: Yes", "Slave_SQL_Running: Yes", "Seconds_Behind_Master: 0"];
        // In this order: what is settled now will not come any more.
        Ok((open || applied.iter().all(|line| status.contains(line))) && rows(cluster, namespace, pod)? < count)
    };
    settled().unwrap_or(false)
}

/// The members' rows are the same, and not only as many.
pub(crate) fn same_rows(cluster: &Cluster, namespace: &str, members: &[&str]) -> Result<(), Failure> {
    let checksum = |pod: &str| cluster.sql(namespace, pod, "CHECKSUM TABLE t.t");
    let first = checksum(members[0])?;
    for member in &members[1..] {
        let other = checksum(member)?;
        if other != first {
            return Err(broken(format_args!("{} has {first}, {member} {other}", members[0])));
        }
    }
    Ok(())
}

fn seed_manifests(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let seed = workspace().join("examples/seed");
    let file = |name: &str| seed.join(name).to_string_lossy().into_owned();
    let started = Instant::now();
    cluster.kubectl(&[
        "apply",
        "-f",
        &file("01-primary.yaml"),
        "-f",
        &file("02-root-secret.yaml"),
        "-f",
        &file("03-replicas.yaml"),
    ])?;
    cluster.await_healthy(namespace, "mariadb-primary", 2 * MINUTE)?;
    cluster.await_healthy(namespace, "mariadb-replica", 2 * MINUTE)?;
    eprintln!("seed's 01 + 02 + 03 to four healthy members: {:.1} s", started.elapsed().as_secs_f64());

    let replicas = ["mariadb-replica-0", "mariadb-replica-1", "mariadb-replica-2"];
    write_rows(cluster, namespace, "mariadb-primary-0", 100)?;
    await_rows(cluster, namespace, &replicas, 100)?;

    // The seed's own commands.
    let password = "VotreSuperMotDePasseSecurise123!";
    let root = |pod: &str, sql: &str| {
        cluster.kubectl(&[
            "exec",
            pod,
            "-n",
            namespace,
            "--",
            "mariadb",
            "-u",
            "root",
            &format!("-p{password}"),
            "-e",
            sql,
        ])
    };
    let status = root("mariadb-primary-0", "SHOW MASTER STATUS\\G")?;
    if !status.contains("mariadb-bin.0") {
        return Err(format!("SHOW MASTER STATUS: {status}"));
    }
    for (ordinal, pod) in replicas.iter().enumerate() {
        let status = root(pod, "SHOW SLAVE STATUS\\G")?;
        for line in
            ["Slave_IO_Running: Yes", "Slave_SQL_Running: Yes", "Seconds_Behind_Master: 0", "Using_Gtid: Slave_Pos"]
        {
            if !status.contains(line) {
                return Err(format!("{pod}: no {line:?} in {status}"));
            }
        }
        let id = cluster.sql(namespace, pod, "SELECT @@server_id")?;
        if id != (101 + ordinal).to_string() {
            return Err(format!("{pod}: server_id {id}"));
        }
        let read_only = cluster.sql(namespace, pod, "SELECT @@read_only")?;
        if read_only != "1" {
            return Err(format!("{pod}: read_only {read_only}"));
        }
    }
    // By host name, from another pod; and the user's own services.
    cluster.kubectl(&["apply", "-f", &file("05-service-primary.yaml"), "-f", &file("06-service-replicas.yaml")])?;
    for (host, expected) in
        [("mariadb-replica-0", "101"), ("mariadb-primary-svc", "1"), ("mariadb-primary-primary", "1")]
    {
        cluster.eventually(&format!("-h {host}"), MINUTE / 2, || {
            let id = cluster.kubectl(&[
                "exec",
                "mariadb-primary-0",
                "-n",
                namespace,
                "--",
                "mariadb",
                "-h",
                host,
                "-u",
                "root",
                &format!("-p{password}"),
                "-N",
                "-B",
                "-e",
                "SELECT @@server_id",
            ])?;
            if id.trim() == expected { Ok(()) } else { Err(format!("server_id {id}")) }
        })?;
    }
    Ok(())
}

fn one_object(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 50)?;
    await_rows(cluster, namespace, &["db-1", "db-2"], 50)?;
    let refused = cluster.sql(namespace, "db-0", "SELECT 1 FROM mysql.user WHERE User='' LIMIT 1")?;
    if !refused.is_empty() {
        return Err("an anonymous account exists".into());
    }
    let line = cluster.kubectl(&["get", "mariadb", "db", "-n", namespace, "--no-headers"])?;
    if !line.contains("db-0") || !line.contains("3/3") {
        return Err(format!("printer columns: {line}"));
    }
    Ok(())
}

fn replicas_long_after_the_primary(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 1000)?;
    // What the primary's binary log no longer holds must come with the copy.
    cluster.sql(namespace, "db-0", "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 HOUR")?;
    cluster.apply(namespace, &split("reader", "db", 2))?;
    cluster.await_healthy(namespace, "reader", 2 * MINUTE)?;
    await_rows(cluster, namespace, &["reader-0", "reader-1"], 1000)
}

fn replicas_before_the_primary(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &split("reader", "db", 1))?;
    cluster.await_condition(namespace, "reader", ("Ready", "False", "db"), MINUTE / 2)?;
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "reader", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    await_rows(cluster, namespace, &["reader-0"], 10)
}

pub(crate) fn scale(cluster: &Cluster, namespace: &str, name: &str, replicas: u32) -> Result<(), Failure> {
    cluster.kubectl(&["scale", "mariadb", name, "-n", namespace, &format!("--replicas={replicas}")]).map(drop)
}

pub(crate) fn await_pods(cluster: &Cluster, namespace: &str, name: &str, count: usize) -> Result<(), Failure> {
    cluster.eventually(&format!("{name}: {count} pods"), MINUTE, || {
        let pods = cluster.list(namespace, "pods", &format!("app.kubernetes.io/instance={name}"))?;
        if pods.len() == count { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
}

fn one_to_three_and_back(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 20)?;
    scale(cluster, namespace, "db", 3)?;
    await_rows(cluster, namespace, &["db-1", "db-2"], 20)?;
    cluster.await_healthy(namespace, "db", MINUTE)?;
    scale(cluster, namespace, "db", 1)?;
    await_pods(cluster, namespace, "db", 1)?;
    cluster.await_healthy(namespace, "db", MINUTE)?;
    // Volumes stay; a member that returns has its data and catches up.
    write_rows(cluster, namespace, "db-0", 20)?;
    scale(cluster, namespace, "db", 2)?;
    await_rows(cluster, namespace, &["db-1"], 40)
}

fn to_zero_and_back(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 30)?;
    scale(cluster, namespace, "db", 0)?;
    await_pods(cluster, namespace, "db", 0)?;
    scale(cluster, namespace, "db", 2)?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    await_rows(cluster, namespace, &["db-0", "db-1"], 30)?;
    // The holder has everything, and resumes.
    write_rows(cluster, namespace, "db-0", 1)?;
    await_rows(cluster, namespace, &["db-1"], 31)
}

fn a_stopped_replica_is_started_again(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    cluster.sql(namespace, "db-1", "STOP SLAVE")?;
    write_rows(cluster, namespace, "db-0", 5)?;
    await_rows(cluster, namespace, &["db-1"], 5)
}

fn a_broken_replica_is_cloned_anew(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let manifest = replicated("db", 2)
        + "    replica:\n      recovery:\n        enabled: true\n        errorDurationThreshold: 2s\n";
    cluster.apply(namespace, &manifest)?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    await_rows(cluster, namespace, &["db-1"], 10)?;
    // The replica loses a row behind the binary log's back; the primary's delete of it then fails there (1032).
    cluster.sql(
        namespace,
        "db-1",
        "SET SESSION sql_log_bin=0; SET GLOBAL read_only=0; DELETE FROM t.t WHERE id=5; SET GLOBAL read_only=1",
    )?;
    cluster.sql(namespace, "db-0", "DELETE FROM t.t WHERE id=5")?;
    write_rows(cluster, namespace, "db-0", 1)?;
    await_rows(cluster, namespace, &["db-1"], 10)?;
    same_rows(cluster, namespace, &["db-0", "db-1"])?;
    cluster.await_healthy(namespace, "db", MINUTE)
}

fn a_killed_server_comes_back(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    for pod in ["db-1", "db-0"] {
        let uptime = |cluster: &Cluster| {
            cluster.sql(
                namespace,
                pod,
                "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='UPTIME'",
            )
        };
        std::thread::sleep(Duration::from_secs(1));
        let before: u64 = uptime(cluster)?.parse().map_err(|e| format!("uptime: {e}"))?;
        cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "bash", "-c", "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = mariadbd ] && kill -9 ${p#/proc/}; done; true"])?;
        cluster.eventually(&format!("{pod} is back"), MINUTE, || {
            let now: u64 = uptime(cluster)?.parse().map_err(|e| format!("uptime: {e}"))?;
            if now < before { Ok(()) } else { Err(format!("up for {now} s")) }
        })?;
        cluster.await_healthy(namespace, "db", MINUTE)?;
    }
    // Root may write anywhere, on a replica too; such rows would be put aside.
    let primary = super::failover::await_other_primary(cluster, namespace, "db", "db-0")?;
    cluster.await_healthy(namespace, "db", MINUTE)?;
    write_rows(cluster, namespace, &primary, 1)?;
    await_rows(cluster, namespace, &["db-0", "db-1"], 11)
}
