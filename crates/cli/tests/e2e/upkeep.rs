//! Running topologies are changed, left alone, and given what they cannot use.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, Failure, broken};
use super::failover::kill_server;
use super::moments::equal_in_the_end;
use super::replication::{await_rows, replicated, small, split, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("upkeep::variables_change_without_a_restart", variables_change_without_a_restart),
    ("upkeep::other_options_roll", other_options_roll),
    ("upkeep::suspend_and_maintenance", suspend_and_maintenance),
    ("upkeep::somebody_elses_volume", somebody_elses_volume),
    ("upkeep::a_full_disk_while_cloning", a_full_disk_while_cloning),
    ("upkeep::a_donor_that_dies_while_cloning", a_donor_that_dies_while_cloning),
    ("upkeep::edits_of_services_and_budgets", edits_of_services_and_budgets),
];

const MINUTE: Duration = Duration::from_secs(60);

/// One more option in the small object's `my.cnf`.
fn with_option(manifest: &str, option: &str) -> String {
    manifest.replace("    innodb-log-file-size=16M\n", &format!("    innodb-log-file-size=16M\n    {option}\n"))
}

fn variable(cluster: &Cluster, namespace: &str, pod: &str, name: &str) -> Result<String, Failure> {
    cluster.sql(namespace, pod, &format!("SELECT @@GLOBAL.{name}"))
}

fn await_variable(
    cluster: &Cluster,
    namespace: &str,
    pods: &[&str],
    (name, value): (&str, &str),
) -> Result<(), Failure> {
    for pod in pods {
        cluster.eventually(&format!("{name}={value} on {pod}"), 2 * MINUTE, || {
            match variable(cluster, namespace, pod, name)? {
                found if found == value => Ok(()),
                found => Err(format!("it is {found}")),
            }
        })?;
    }
    Ok(())
}

fn variables_change_without_a_restart(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let pods = ["db-0", "db-1"];
    let manifest = replicated("db", 2);
    cluster.apply(namespace, &manifest)?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    let pids = || -> Result<Vec<String>, Failure> {
        pods.iter()
            .map(|pod| {
                cluster.kubectl(&[
                    "exec",
                    pod,
                    "-n",
                    namespace,
                    "-c",
                    "mariadb",
                    "--",
                    "cat",
                    "/run/mysqld/mariadbd.pid",
                ])
            })
            .collect()
    };
    let before = (pids()?, uids(cluster, namespace, &pods)?);
    cluster.apply(namespace, &with_option(&manifest, "max-connections=222"))?;
    await_variable(cluster, namespace, &pods, ("max_connections", "222"))?;
    cluster.apply(namespace, &with_option(&manifest, "tmp_table_size=32M\n    max-connections=many"))?;
    await_variable(cluster, namespace, &pods, ("tmp_table_size", "33554432"))?;
    cluster.await_condition(namespace, "db", ("ConfigValid", "False", "max_connections=many"), MINUTE)?;
    cluster.apply(namespace, &manifest)?;
    await_variable(cluster, namespace, &pods, ("tmp_table_size", "16777216"))?;
    await_variable(cluster, namespace, &pods, ("max_connections", "151"))?;
    cluster.await_condition(namespace, "db", ("ConfigValid", "True", ""), MINUTE)?;
    // What counts as dynamic is dynamic for this server.
    let all: Vec<String> = api::mycnf::DYNAMIC.iter().map(|name| format!("SET GLOBAL {name}=DEFAULT")).collect();
    cluster.sql(namespace, "db-1", &all.join("; "))?;
    let after = (pids()?, uids(cluster, namespace, &pods)?);
    if before == after { Ok(()) } else { Err(format!("restarted: {before:?}, then {after:?}")) }
}

fn uids(cluster: &Cluster, namespace: &str, pods: &[&str]) -> Result<Vec<String>, Failure> {
    pods.iter()
        .map(|pod| cluster.kubectl(&["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.metadata.uid}"]))
        .collect()
}

fn other_options_roll(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let pods = ["db-0", "db-1"];
    let manifest = replicated("db", 2);
    cluster.apply(namespace, &manifest)?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    cluster.apply(namespace, &with_option(&manifest, "performance-schema=ON"))?;
    for pod in pods {
        cluster.eventually(&format!("{pod} runs with the new option"), 3 * MINUTE, || {
            match variable(cluster, namespace, pod, "performance_schema")?.as_str() {
                "1" => Ok(()),
                _ => Err("not yet".to_owned()),
            }
        })?;
    }
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    await_rows(cluster, namespace, &pods, 10)
}

/// Who is the primary, by everything that says so: the record, status, labels; and who takes writes.
fn primaries(cluster: &Cluster, namespace: &str, old: &str, other: &str) -> Result<String, Failure> {
    let path = r"jsonpath={.spec.holderIdentity} {.metadata.annotations.k8s\.mariadb\.com/epoch}";
    let record = cluster.kubectl(&["get", "lease", "db-topology", "-n", namespace, "-o", path])?;
    let now = super::failover::primary(cluster, namespace, "db")?;
    let labelled =
        cluster.kubectl(&["get", "pods", "-n", namespace, "-l", "k8s.mariadb.com/role=primary", "-o", "name"])?;
    let replica = cluster.sql(namespace, other, "SELECT @@read_only")?;
    // Whether it keeps its label while it is down is a matter of taste; that nobody else has it is not.
    let labelled = labelled.lines().filter(|name| name.strip_prefix("pod/") != Some(old)).collect::<Vec<_>>();
    Ok(format!("record {record}, status {now}, labelled besides {labelled:?}, {other} read-only {replica}"))
}

fn suspend_and_maintenance(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 10)?;
    let patch = |spec: &str| {
        let patch = format!("{{\"spec\":{spec}}}");
        cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", &patch])
    };
    let stopped = |replica: &str| {
        let status = cluster.sql(namespace, replica, "SHOW SLAVE STATUS")?;
        Ok::<bool, Failure>(status.split('\t').nth(10) == Some("No"))
    };
    for (rows, field) in (10..).zip(["suspend", "maintenance"]) {
        let old = super::failover::primary(cluster, namespace, "db")?;
        let other = if old == "db-0" { "db-1" } else { "db-0" };
        patch(&format!("{{\"{field}\":true}}"))?;
        std::thread::sleep(Duration::from_secs(2));
        cluster.sql(namespace, other, "STOP SLAVE")?;
        let before = primaries(cluster, namespace, &old, other)?;
        // A primary that dies is not replaced, either: within more than `failover.timeout`.
        kill_server(cluster, namespace, &old)?;
        let until = Instant::now() + Duration::from_secs(7);
        while Instant::now() < until {
            let now = primaries(cluster, namespace, &old, other)?;
            if now != before {
                return Err(broken(format_args!("{field}: {before}; then {now}")));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        if !stopped(other)? {
            return Err(format!("{field}: replication was started"));
        }
        // Whoever it is that goes on then has everything.
        patch(&format!("{{\"{field}\":null}}"))?;
        equal_in_the_end(cluster, namespace, &["db-0", "db-1"], rows)?;
    }
    // Suspended, nothing is made or changed; and it says so.
    patch("{\"suspend\":true}")?;
    cluster.await_condition(namespace, "db", ("Updated", "False", "suspend"), MINUTE)?;
    patch("{\"replicas\":3}")?;
    std::thread::sleep(Duration::from_secs(4));
    if cluster.get(namespace, "pod", "db-2")?.is_some() {
        return Err("suspended, and a pod was made".to_owned());
    }
    patch("{\"suspend\":null}")?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    cluster.get(namespace, "pod", "db-2")?.map(drop).ok_or_else(|| "db-2 was not made".to_owned())
}

/// A claim of the right name that holds something else: refused, named, never wiped.
fn somebody_elses_volume(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: storage-db-0\nspec:\n  accessModes: [ReadWriteOnce]\n  \
                 resources:\n    requests:\n      storage: 1Gi\n";
    let pod = |name: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
             image: mariadb:11.8\n    command: [sh, -c, \"{command}\"]\n    volumeMounts:\n    - name: v\n      mountPath: /v\n  \
             volumes:\n  - name: v\n    persistentVolumeClaim:\n      claimName: storage-db-0\n"
        )
    };
    let ends = |name: &str| {
        cluster.eventually(&format!("{name} ends"), MINUTE, || {
            let pod = cluster.get(namespace, "pod", name)?.ok_or("no pod")?;
            match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(()),
                phase => Err(format!("{phase:?}")),
            }
        })
    };
    cluster.apply(namespace, claim)?;
    cluster
        .apply(namespace, &pod("writer", "mkdir /v/data && echo precious > /v/data/ibdata1 && chmod -R a+rwX /v"))?;
    ends("writer")?;
    cluster.kubectl(&["delete", "pod", "writer", "-n", namespace])?;
    cluster.apply(namespace, &small("db", ""))?;
    cluster.await_condition(namespace, "db", ("Ready", "False", "db-0"), 2 * MINUTE)?;
    cluster.await_condition(namespace, "db", ("ReplicationHealthy", "False", "holds"), MINUTE)?;
    cluster.kubectl(&["delete", "mariadb", "db", "-n", namespace])?;
    cluster.eventually("the pod goes", MINUTE, || match cluster.get(namespace, "pod", "db-0")? {
        None => Ok(()),
        Some(_) => Err("still there".to_owned()),
    })?;
    cluster.apply(namespace, &pod("reader", "grep precious /v/data/ibdata1"))?;
    ends("reader")
}

/// About so many MiB that do not compress.
fn write_bulk(cluster: &Cluster, namespace: &str, pod: &str, mebibytes: u32) -> Result<(), Failure> {
    let rows = mebibytes * 16;
    let sql = format!(
        "CREATE DATABASE IF NOT EXISTS t; CREATE TABLE t.bulk (id INT PRIMARY KEY, v LONGBLOB); \
         INSERT INTO t.bulk SELECT seq, RANDOM_BYTES(65000) FROM t.seq_1_to_{rows}"
    );
    // RANDOM_BYTES gives at most 1024; repeated it is as incompressible as the test needs.
    cluster.sql(namespace, pod, &sql.replace("RANDOM_BYTES(65000)", "REPEAT(RANDOM_BYTES(1000), 65)")).map(drop)
}

fn a_full_disk_while_cloning(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_bulk(cluster, namespace, "db-0", 200)?;
    write_rows(cluster, namespace, "db-0", 5)?;
    let reader =
        split("reader", "db", 1).replace("    size: 1Gi\n", "    size: 160Mi\n    storageClassName: limited\n");
    if cluster.sandbox_dir().is_none() {
        super::cluster::skipped("a_full_disk_while_cloning: needs the sandbox's class `limited`");
        return Ok(());
    }
    cluster.apply(namespace, &reader)?;
    cluster.await_condition(namespace, "reader", ("ReplicationHealthy", "False", "No space left"), 2 * MINUTE)?;
    // The donor is none the worse for it.
    write_rows(cluster, namespace, "db-0", 5)?;
    await_rows(cluster, namespace, &["db-0"], 10)?;
    // With room enough it gets on, by itself.
    cluster.kubectl(&["delete", "mariadb", "reader", "-n", namespace])?;
    cluster.kubectl(&["delete", "pvc", "storage-reader-0", "-n", namespace, "--timeout=60s"])?;
    cluster.apply(namespace, &reader.replace("160Mi", "900Mi"))?;
    cluster.await_healthy(namespace, "reader", 2 * MINUTE)?;
    await_rows(cluster, namespace, &["reader-0"], 10)
}

fn a_donor_that_dies_while_cloning(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    write_bulk(cluster, namespace, "db-0", 400)?;
    write_rows(cluster, namespace, "db-0", 5)?;
    cluster.kubectl(&["scale", "mariadb", "db", "-n", namespace, "--replicas=2"])?;
    cluster.eventually("db-1 is being copied", MINUTE, || {
        let object = cluster.get(namespace, "mariadb", "db")?.ok_or("no mariadb db")?;
        let members = object["status"]["replication"]["members"].as_array().cloned().unwrap_or_default();
        match members.iter().any(|member| member["name"] == "db-1" && member["role"] == "cloning") {
            true => Ok(()),
            false => Err(format!("{members:?}")),
        }
    })?;
    cluster.kubectl(&["delete", "pod", "db-0", "-n", namespace, "--force", "--grace-period=0"])?;
    cluster.await_condition(namespace, "db", ("ReplicationHealthy", "False", ""), MINUTE)?;
    cluster.await_healthy(namespace, "db", 3 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 5)?;
    await_rows(cluster, namespace, &["db-0", "db-1"], 10)
}

/// What users ask for in the spec reaches the objects; what somebody changes on the objects themselves is put back.
fn edits_of_services_and_budgets(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    let edit =
        r#"{"spec":{"primaryService":{"type":"LoadBalancer","metadata":{"annotations":{"example.com/zone":"a"}}}}}"#;
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", edit])?;
    cluster.eventually("the service's type and annotation", MINUTE, || {
        let service = cluster.get(namespace, "service", "db-primary")?.ok_or("no service")?;
        let zone = &service["metadata"]["annotations"]["example.com/zone"];
        match (service["spec"]["type"].as_str(), zone.as_str()) {
            (Some("LoadBalancer"), Some("a")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let stray = r#"{"spec":{"selector":{"k8s.mariadb.com/role":"replica"}}}"#;
    cluster.kubectl(&["patch", "service", "db-primary", "-n", namespace, "--type=merge", "-p", stray])?;
    cluster.eventually("the service's selector is put back", MINUTE, || {
        let service = cluster.get(namespace, "service", "db-primary")?.ok_or("no service")?;
        match service["spec"]["selector"]["k8s.mariadb.com/role"].as_str() {
            Some("primary") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    cluster.kubectl(&[
        "delete",
        "service,poddisruptionbudget",
        "-l",
        "k8s.mariadb.com/topology=db",
        "-n",
        namespace,
    ])?;
    cluster.eventually("services and budget are back", MINUTE, || {
        for (kind, name) in [("service", "db-primary"), ("service", "db-1"), ("poddisruptionbudget", "db")] {
            cluster.get(namespace, kind, name)?.ok_or_else(|| format!("no {kind} {name}"))?;
        }
        Ok(())
    })?;
    let budget = r#"{"spec":{"podDisruptionBudget":{"minAvailable":1}}}"#;
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", budget])?;
    cluster.eventually("the budget", MINUTE, || {
        let found = cluster.get(namespace, "poddisruptionbudget", "db")?.ok_or("no budget")?;
        match found["spec"]["minAvailable"].as_i64() {
            Some(1) => Ok(()),
            _ => Err(format!("{}", found["spec"])),
        }
    })
}
