//! The primary changes: it dies, is deleted, is told to move. In both shapes of a topology.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::{Cluster, Failure, broken, workspace};
use super::moments::await_event;
use super::replication::{await_rows, replicated, same_rows, split, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("failover::killed_server", killed_server),
    ("failover::killed_server_of_split_objects", killed_server_of_split_objects),
    ("failover::deleted_pod_hands_over", deleted_pod_hands_over),
    ("failover::pod_deleted_by_force", pod_deleted_by_force),
    ("failover::switchover_by_pod_index_and_by_command", switchover_by_pod_index_and_by_command),
    ("failover::switchovers_that_are_refused", switchovers_that_are_refused),
    ("failover::restart_of_all_members_hands_over_once", restart_of_all_members_hands_over_once),
    ("failover::scale_down_of_the_primary", scale_down_of_the_primary),
    ("failover::back_and_forth", back_and_forth),
];

/// Of the seed's own manifests and commands: they name the namespace, so they come one after the other.
pub(crate) const SEED_SCENARIOS: &[(&str, super::Scenario)] =
    &[("failover::seed_chaos_script", seed_chaos_script), ("failover::seed_switchover_job", seed_switchover_job)];

const MINUTE: Duration = Duration::from_secs(60);

/// The topology's primary, as `.status` says.
pub(crate) fn primary(cluster: &Cluster, namespace: &str, root: &str) -> Result<String, Failure> {
    let object = cluster.get(namespace, "mariadb", root)?.ok_or_else(|| format!("no mariadb {root}"))?;
    object["status"]["currentPrimary"].as_str().map(str::to_owned).ok_or_else(|| format!("{root} has no primary"))
}

/// Waits for another primary than this one.
pub(crate) fn await_other_primary(
    cluster: &Cluster,
    namespace: &str,
    root: &str,
    old: &str,
) -> Result<String, Failure> {
    cluster.eventually(&format!("another primary than {old}"), MINUTE, || match primary(cluster, namespace, root)? {
        now if now == old => Err(format!("{now} is the primary")),
        now => Ok(now),
    })
}

fn await_primary(cluster: &Cluster, namespace: &str, root: &str, wanted: &str) -> Result<(), Failure> {
    cluster.eventually(&format!("{wanted} is the primary"), MINUTE, || match primary(cluster, namespace, root)? {
        now if now == wanted => Ok(()),
        now => Err(format!("{now} is the primary")),
    })
}

/// The topology can lose its primary without losing anything: only then is a failover promised.
pub(crate) fn await_safe(cluster: &Cluster, namespace: &str, root: &str) -> Result<(), Failure> {
    cluster.await_healthy(namespace, root, 2 * MINUTE)?;
    cluster.await_condition(namespace, root, ("SafeToFailover", "True", ""), MINUTE)
}

/// The last change of primary that was written down.
fn last_change(cluster: &Cluster, namespace: &str, root: &str) -> Result<Value, Failure> {
    let mut changes = cluster.list(namespace, "primarychanges", &format!("k8s.mariadb.com/topology={root}"))?;
    changes.sort_by_key(|change| change["ended"].as_str().unwrap_or_default().to_owned());
    changes.pop().ok_or_else(|| "no change is written down".to_owned())
}

/// Waits for a change that says this, and tells how long writes were down.
fn await_change(cluster: &Cluster, namespace: &str, root: &str, expected: &[(&str, &str)]) -> Result<Value, Failure> {
    let change = cluster.eventually(&format!("a change with {expected:?}"), MINUTE / 2, || {
        let change = last_change(cluster, namespace, root)?;
        for (pointer, value) in expected {
            if change.pointer(pointer).and_then(Value::as_str) != Some(value) {
                return Err(format!("{change}"));
            }
        }
        Ok(change)
    })?;
    let text = |pointer: &str| change.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let phases: Vec<String> = change["phases"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|phase| format!("{} {}", phase["name"].as_str().unwrap_or("?"), phase["took"].as_str().unwrap_or("?")))
        .collect();
    super::cluster::say(&format!(
        "{namespace}: {} ({}): writes down for {}: {}",
        text("/type"),
        text("/cause/reason"),
        text("/writesDown"),
        phases.join(", ")
    ));
    Ok(change)
}

/// Exactly the primary has the label, and its service leads there.
fn await_routing(cluster: &Cluster, namespace: &str, root: &str, primary: &str) -> Result<(), Failure> {
    cluster.eventually("the primary's label and service", MINUTE / 2, || {
        let selector = format!("k8s.mariadb.com/topology={root},role=primary");
        let pods = cluster.list(namespace, "pods", &selector)?;
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        if names != [primary] {
            return Err(format!("labelled: {names:?}"));
        }
        let slices =
            cluster.list(namespace, "endpointslices", &format!("kubernetes.io/service-name={root}-primary"))?;
        let targets: Vec<&str> = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str())
            .collect();
        if targets == [primary] { Ok(()) } else { Err(format!("{root}-primary leads to {targets:?}")) }
    })
}

pub(crate) fn kill_server(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    let script =
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = mariadbd ] && kill -9 ${p#/proc/}; done; true";
    cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "bash", "-c", script]).map(drop)
}

/// Rows are on all members; more can be written; all are equal again.
fn await_equal(
    cluster: &Cluster,
    namespace: &str,
    root: &str,
    primary: &str,
    members: &[&str],
    rows: u64,
) -> Result<(), Failure> {
    cluster.eventually("writes on the new primary", MINUTE / 2, || write_rows(cluster, namespace, primary, 1))?;
    await_rows(cluster, namespace, members, rows + 1)?;
    cluster.await_healthy(namespace, root, 2 * MINUTE)
}

fn killed_server(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 100)?;
    kill_server(cluster, namespace, "db-0")?;
    let now = await_other_primary(cluster, namespace, "db", "db-0")?;
    let change = await_change(
        cluster,
        namespace,
        "db",
        &[
            ("/type", "Failover"),
            ("/outcome", "Done"),
            ("/from", "db-0"),
            ("/to", &now),
            ("/cause/reason", "ServerExited"),
        ],
    )?;
    if let Some(lost) = change.get("lost") {
        return Err(broken(format_args!("lost: {lost}")));
    }
    if change["members"].as_array().is_none_or(|members| members.len() != 3) {
        return Err(format!("the change says: {change}"));
    }
    await_routing(cluster, namespace, "db", &now)?;
    await_equal(cluster, namespace, "db", &now, &["db-0", "db-1", "db-2"], 100)?;
    let why = cluster.mariadb(&["why", "-n", namespace])?;
    for part in ["Failover db-0 -> ", "ServerExited", "fenced", "nothing"] {
        if !why.contains(part) {
            return Err(format!("why lacks {part:?}:\n{why}"));
        }
    }
    let status = cluster.mariadb(&["status", "db", "-n", namespace])?;
    for part in ["durability Safe", "epoch 2", "would take over", "└─ db-"] {
        if !status.contains(part) {
            return Err(format!("status lacks {part:?}:\n{status}"));
        }
    }
    Ok(())
}

fn killed_server_of_split_objects(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 1))?;
    cluster.apply(namespace, &split("reader", "db", 2))?;
    // As in the seed: a service that names the primary's pod.
    let service = |name: &str, annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  labels: {{app: mariadb, role: primary}}\n{annotations}spec:\n  \
             selector:\n    app.kubernetes.io/name: mariadb\n    app.kubernetes.io/instance: db\n    \
             statefulset.kubernetes.io/pod-name: db-0\n  ports: [{{name: mysql, port: 3306}}]\n"
        )
    };
    cluster.apply(namespace, &service("db-own", ""))?;
    cluster.apply(namespace, &service("db-fixed", "  annotations: {k8s.mariadb.com/follow-primary: \"false\"}\n"))?;
    await_safe(cluster, namespace, "db")?;
    cluster.await_healthy(namespace, "reader", 2 * MINUTE)?;
    write_rows(cluster, namespace, "db-0", 100)?;
    kill_server(cluster, namespace, "db-0")?;
    let now = await_other_primary(cluster, namespace, "db", "db-0")?;
    if !now.starts_with("reader-") {
        return Err(broken(format_args!("{now} is the primary")));
    }
    await_change(cluster, namespace, "db", &[("/type", "Failover"), ("/from", "db-0"), ("/to", &now)])?;
    await_routing(cluster, namespace, "db", &now)?;
    let leads_to = |service: &str| -> Result<(String, String), Failure> {
        let service = cluster.get(namespace, "service", service)?.ok_or("no service")?;
        let selector = &service["spec"]["selector"];
        let text = |key: &str| selector[key].as_str().unwrap_or_default().to_owned();
        Ok((text("statefulset.kubernetes.io/pod-name"), text("app.kubernetes.io/instance")))
    };
    cluster.eventually("the user's own service follows", MINUTE / 2, || match leads_to("db-own")? {
        (pod, object) if pod == now && object == "reader" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    if leads_to("db-fixed")?.0 != "db-0" {
        return Err("a service that asked to be left alone was re-pointed".to_owned());
    }
    await_equal(cluster, namespace, "db", &now, &["db-0", "reader-0", "reader-1"], 100)
}

fn deleted_pod_hands_over(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 100)?;
    cluster.kubectl(&["delete", "pod", "db-0", "-n", namespace, "--wait=false"])?;
    let now = await_other_primary(cluster, namespace, "db", "db-0")?;
    await_change(cluster, namespace, "db", &[("/type", "Switchover"), ("/outcome", "Done"), ("/from", "db-0")])?;
    await_routing(cluster, namespace, "db", &now)?;
    await_equal(cluster, namespace, "db", &now, &["db-0", "db-1", "db-2"], 100)
}

fn pod_deleted_by_force(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 100)?;
    cluster.kubectl(&["delete", "pod", "db-0", "-n", namespace, "--force", "--grace-period=0", "--wait=false"])?;
    // The pod may be back, with its server, before anybody else takes over: then it stays what it was.
    let change = cluster.eventually("writes again", MINUTE, || {
        let now = primary(cluster, namespace, "db")?;
        write_rows(cluster, namespace, &now, 1).map(|()| now)
    })?;
    await_equal(cluster, namespace, "db", &change, &["db-0", "db-1", "db-2"], 101)
}

fn switchover_by_pod_index_and_by_command(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 50)?;
    let wanted = |index: u32| {
        let patch = format!("{{\"spec\":{{\"replication\":{{\"primary\":{{\"podIndex\":{index}}}}}}}}}");
        cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", &patch]).map(drop)
    };
    wanted(1)?;
    await_primary(cluster, namespace, "db", "db-1")?;
    await_change(cluster, namespace, "db", &[("/type", "Switchover"), ("/outcome", "Done"), ("/to", "db-1")])?;
    await_routing(cluster, namespace, "db", "db-1")?;
    await_equal(cluster, namespace, "db", "db-1", &["db-0", "db-1", "db-2"], 50)?;
    await_safe(cluster, namespace, "db")?;

    let (code, out, _) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", "db-2", "--dry-run"])?;
    if code != 0 || !out.contains("db-2 would be the primary in place of db-1") {
        return Err(format!("dry run: {code}: {out}"));
    }
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-2"])?;
    if code != 0 || !out.contains("Switchover db-1 -> db-2") {
        return Err(format!("switchover: {code}: {out}{err}"));
    }
    await_primary(cluster, namespace, "db", "db-2")?;
    // The stale podIndex does not pull it back.
    await_equal(cluster, namespace, "db", "db-2", &["db-0", "db-1", "db-2"], 51)?;
    match primary(cluster, namespace, "db")?.as_str() {
        "db-2" => Ok(()),
        other => Err(broken(format_args!("{other} is the primary again"))),
    }
}

fn switchovers_that_are_refused(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    await_safe(cluster, namespace, "db")?;
    for (to, reason) in [("db-0", "primary already"), ("db-7", "is no member")] {
        let (code, out, _) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", to])?;
        if code != 3 || !out.contains(reason) {
            return Err(format!("switchover to {to}: {code}: {out}"));
        }
        let (code, out, _) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", to, "--dry-run"])?;
        if code != 3 || !out.contains(reason) {
            return Err(format!("dry run to {to}: {code}: {out}"));
        }
    }
    let (code, _, err) = cluster.mariadb_exit(&["status", "nothing", "-n", namespace])?;
    if code != 1 || !err.contains("there is no MariaDB nothing") {
        return Err(format!("status of nothing: {code}: {err}"));
    }
    write_rows(cluster, namespace, "db-0", 3)?;
    await_rows(cluster, namespace, &["db-1"], 3)
}

fn restart_of_all_members_hands_over_once(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 50)?;
    let uids = || -> Result<Vec<String>, Failure> {
        let pods = cluster.list(namespace, "pods", "app.kubernetes.io/instance=db")?;
        Ok(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect())
    };
    let before = uids()?;
    let patch = r#"{"spec":{"podMetadata":{"annotations":{"example.com/restarted":"now"}}}}"#;
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", patch])?;
    cluster.eventually("all pods are new", 3 * MINUTE, || {
        let now = uids()?;
        let old = now.iter().filter(|uid| before.contains(uid)).count();
        if old == 0 && now.len() == 3 { Ok(()) } else { Err(format!("{old} old ones of {}", now.len())) }
    })?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    let now = primary(cluster, namespace, "db")?;
    await_equal(cluster, namespace, "db", &now, &["db-0", "db-1", "db-2"], 50)?;
    let changes = cluster.list(namespace, "primarychanges", "k8s.mariadb.com/topology=db")?;
    let kinds: Vec<&str> = changes.iter().filter_map(|change| change["type"].as_str()).collect();
    if kinds == ["Switchover"] { Ok(()) } else { Err(format!("changes: {kinds:?}")) }
}

fn scale_down_of_the_primary(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 3))?;
    await_safe(cluster, namespace, "db")?;
    cluster.mariadb(&["switchover", "db", "-n", namespace, "--to", "db-2"])?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-2", 50)?;
    cluster.kubectl(&[
        "patch",
        "mariadb",
        "db",
        "-n",
        namespace,
        "--type=merge",
        "-p",
        r#"{"spec":{"replicas":2}}"#,
    ])?;
    let now = await_other_primary(cluster, namespace, "db", "db-2")?;
    cluster.eventually("two pods", MINUTE, || {
        let pods = cluster.list(namespace, "pods", "app.kubernetes.io/instance=db")?.len();
        if pods == 2 { Ok(()) } else { Err(format!("{pods} pods")) }
    })?;
    await_equal(cluster, namespace, "db", &now, &["db-0", "db-1"], 50)
}

fn back_and_forth(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &replicated("db", 2))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 10)?;
    let started = Instant::now();
    let mut rows = 10;
    for round in 0..10 {
        let (from, to) = if round % 2 == 0 { ("db-0", "db-1") } else { ("db-1", "db-0") };
        cluster.await_condition(namespace, "db", ("SafeToFailover", "True", ""), MINUTE)?;
        let (code, out, err) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", to])?;
        if code != 0 {
            return Err(format!("round {round}, {from} -> {to}: {code}: {out}{err}"));
        }
        write_rows(cluster, namespace, to, 1)?;
        rows += 1;
    }
    super::cluster::say(&format!("{namespace}: ten switchovers in {:.1} s", started.elapsed().as_secs_f64()));
    await_rows(cluster, namespace, &["db-0", "db-1"], rows)?;
    same_rows(cluster, namespace, &["db-0", "db-1"])?;
    cluster.await_healthy(namespace, "db", MINUTE)
}

fn apply_seed(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let seed = workspace().join("examples/seed");
    for name in ["01-primary.yaml", "02-root-secret.yaml", "03-replicas.yaml", "05-service-primary.yaml"] {
        cluster.kubectl(&["apply", "-f", &seed.join(name).to_string_lossy()])?;
    }
    await_safe(cluster, namespace, "mariadb-primary")?;
    cluster.await_healthy(namespace, "mariadb-replica", 2 * MINUTE)
}

/// The seed's "Test de failover", command by command.
fn seed_chaos_script(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    apply_seed(cluster, namespace)?;
    let sql = "CREATE DATABASE IF NOT EXISTS myapp; CREATE TABLE myapp.users (id INT PRIMARY KEY); INSERT INTO myapp.users SELECT seq FROM seq_1_to_500";
    cluster.sql(namespace, "mariadb-primary-0", &format!("USE mysql; {sql}"))?;
    cluster.sql(namespace, "mariadb-primary-0", "SHOW MASTER STATUS\\G")?;
    let started = Instant::now();
    cluster.kubectl(&["delete", "pod", "mariadb-primary-0", "-n", namespace])?;
    // The script sleeps for 30 s; what it looks at then must be so by then.
    std::thread::sleep(Duration::from_secs(30).saturating_sub(started.elapsed()));
    let now = primary(cluster, namespace, "mariadb-primary")?;
    if !now.starts_with("mariadb-replica-") {
        // A slow machine has not got so far: that may be tried again.
        return Err(format!("{now} is the primary"));
    }
    cluster.kubectl(&["get", "pods", "-n", namespace, "-l", "app=mariadb", "-o", "wide"])?;
    for i in 0..3 {
        let pod = format!("mariadb-replica-{i}");
        let status = slave_status(cluster, namespace, &pod)?;
        let follows = status.contains("Slave_IO_Running: Yes")
            && status.contains("Slave_SQL_Running: Yes")
            && status.contains(&format!("Master_Host: {now}"));
        if pod != now && !follows {
            return Err(format!("{pod}: {status}"));
        }
    }
    let count = cluster.sql(namespace, "mariadb-replica-0", "SELECT COUNT(*) FROM myapp.users")?;
    if count != "500" {
        return Err(broken(format_args!("{count} users of 500")));
    }
    let service = cluster.get(namespace, "service", "mariadb-primary-svc")?.ok_or("no service")?;
    let pod = service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"].as_str().unwrap_or_default();
    if pod != now {
        return Err(format!("mariadb-primary-svc leads to {pod}"));
    }
    cluster.await_healthy(namespace, "mariadb-primary", 2 * MINUTE)
}

/// Leaves nothing that tells the next operator of earlier changes.
pub(crate) fn forget_failovers(cluster: &Cluster, namespace: &str, root: &str) -> Result<(), Failure> {
    let (topology, lease) = (format!("k8s.mariadb.com/topology={root}"), format!("{root}-topology"));
    cluster.kubectl(&["delete", "primarychanges", "-n", namespace, "-l", &topology])?;
    cluster.kubectl(&["annotate", "lease", &lease, "-n", namespace, "k8s.mariadb.com/begun-"]).map(drop)
}

/// As the seed has it typed: names and values.
pub(crate) fn slave_status(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String, Failure> {
    let script = "mariadb -u root -p\"$MARIADB_ROOT_PASSWORD\" -e 'SHOW SLAVE STATUS\\G'";
    cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", script])
}

/// The seed's Job changes the primary with plain SQL, behind the operator's back, RESET MASTER included.
fn seed_switchover_job(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    apply_seed(cluster, namespace)?;
    write_rows(cluster, namespace, "mariadb-primary-0", 20)?;
    await_rows(cluster, namespace, &["mariadb-replica-0"], 20)?;
    cluster.apply(namespace, JOB)?;
    // Whatever the Job gets done, the topology stands as before: one primary, the same, with all rows, and followed.
    cluster.eventually("the Job has run", MINUTE, || {
        let job = cluster.get(namespace, "job", "mariadb-switchover")?.ok_or("no job")?;
        let count = |key: &str| job["status"][key].as_i64().unwrap_or(0);
        if count("succeeded") + count("failed") > 0 { Ok(()) } else { Err(format!("{}", job["status"])) }
    })?;
    cluster.kubectl(&["delete", "job", "mariadb-switchover", "-n", namespace])?;
    cluster.eventually("writes on the primary", MINUTE, || {
        let now = primary(cluster, namespace, "mariadb-primary")?;
        write_rows(cluster, namespace, &now, 1)
    })?;
    cluster.await_healthy(namespace, "mariadb-primary", 3 * MINUTE)?;
    let members = ["mariadb-primary-0", "mariadb-replica-0", "mariadb-replica-1", "mariadb-replica-2"];
    await_rows(cluster, namespace, &members, 21)?;
    let service = cluster.get(namespace, "service", "mariadb-primary-svc")?.ok_or("no service")?;
    let pod = service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"].as_str().unwrap_or_default();
    let now = primary(cluster, namespace, "mariadb-primary")?;
    if (pod, now.as_str()) != ("mariadb-primary-0", "mariadb-primary-0") {
        return Err(broken(format_args!("{now} is the primary, and mariadb-primary-svc leads to {pod}")));
    }
    // What the Job typed is named, with the way to ask; and nothing of it is left.
    await_event(cluster, namespace, "UnexpectedlyWritable", "kubectl mariadb switchover --to mariadb-replica-0")?;
    cluster.eventually("the primary follows nobody", MINUTE, || {
        match slave_status(cluster, namespace, "mariadb-primary-0")?.as_str() {
            "" => Ok(()),
            status => Err(status.to_owned()),
        }
    })
}

/// The seed's, but that the secret with the replication password is the one that the operator made.
const JOB: &str = r#"apiVersion: batch/v1
kind: Job
metadata:
  name: mariadb-switchover
spec:
  template:
    spec:
      containers:
      - name: switchover
        image: mariadb:11.8
        command:
        - /bin/bash
        - -c
        - |
          # Étape 1 : Bloquer les écritures sur l'ancien primary
          mariadb -h mariadb-primary-svc -u root -p"${ROOT_PASSWORD}" \
            -e "SET GLOBAL read_only=ON; FLUSH TABLES WITH READ LOCK;"
          # Étape 2 : Attendre que le replica soit à jour
          while true; do
            LAG=$(mariadb -h mariadb-replica-0 -u root -p"${ROOT_PASSWORD}" \
              -e "SHOW SLAVE STATUS\G" | grep "Seconds_Behind_Master:" | awk '{print $2}')
            if [ "$LAG" = "0" ]; then break; fi
            sleep 1
          done
          # Étape 3 : Promouvoir le replica
          mariadb -h mariadb-replica-0 -u root -p"${ROOT_PASSWORD}" \
            -e "STOP SLAVE; RESET MASTER; SET GLOBAL read_only=OFF;"
          # Étape 4 : Dégrader l'ancien primary en replica
          GTID=$(mariadb -h mariadb-replica-0 -u root -p"${ROOT_PASSWORD}" \
            -e "SELECT @@gtid_binlog_pos" -s -N)
          mariadb -h mariadb-primary-svc -u root -p"${ROOT_PASSWORD}" \
            -e "UNLOCK TABLES; SET GLOBAL gtid_slave_pos='$GTID'; \
                CHANGE MASTER TO MASTER_HOST='mariadb-replica-0', \
                MASTER_USER='repl_user', MASTER_PASSWORD='${REPL_PASSWORD}', \
                MASTER_USE_GTID=slave_pos; START SLAVE;"
          echo "Switchover completed successfully"
        env:
        - name: ROOT_PASSWORD
          valueFrom:
            secretKeyRef:
              name: mariadb-root
              key: password
        - name: REPL_PASSWORD
          valueFrom:
            secretKeyRef:
              name: mariadb-replication
              key: password
      restartPolicy: OnFailure
  backoffLimit: 3
"#;
