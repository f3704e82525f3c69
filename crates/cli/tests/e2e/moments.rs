//! Bad moments: what people type on servers behind the operator's back, records that are lost or old, members that are all away.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, Failure, broken};
use super::failover::{await_other_primary, await_safe, primary};
use super::forward::Forward;
use super::replication::{await_rows, replicated, same_rows, small, split, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("moments::somebody_writes_on_a_replica", somebody_writes_on_a_replica),
    ("moments::somebody_types_a_position", somebody_types_a_position),
    ("moments::somebody_types_reset_master", somebody_types_reset_master),
    ("moments::the_record_is_deleted", the_record_is_deleted),
    ("moments::an_old_record_is_put_back", an_old_record_is_put_back),
    ("moments::the_password_changes_while_a_member_is_down", the_password_changes_while_a_member_is_down),
    ("moments::targets_that_cannot_take_over", targets_that_cannot_take_over),
    ("moments::two_requests_at_once_and_one_in_a_failover", two_requests_at_once_and_one_in_a_failover),
    ("moments::all_ackers_are_away", all_ackers_are_away),
    ("moments::two_primaries_are_found", two_primaries_are_found),
];

const MINUTE: Duration = Duration::from_secs(60);
const PAIR: [&str; 2] = ["db-0", "db-1"];
const TRIO: [&str; 3] = ["db-0", "db-1", "db-2"];

/// A healthy topology with twenty rows; its primary is `db-0`.
fn with_rows(cluster: &Cluster, namespace: &str, manifest: &str) -> Result<(), Failure> {
    cluster.apply(namespace, manifest)?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 20)
}

pub(crate) fn await_event(cluster: &Cluster, namespace: &str, reason: &str, text: &str) -> Result<(), Failure> {
    cluster.eventually(&format!("event {reason} with {text:?}"), MINUTE, || {
        let list = cluster.kubectl(&["get", "events", "-n", namespace, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list).map_err(|e| format!("events: {e}"))?;
        let said = list["items"].as_array().into_iter().flatten().any(|event| {
            event["reason"] == reason && event["message"].as_str().is_some_and(|message| message.contains(text))
        });
        if said { Ok(()) } else { Err("there is none".to_owned()) }
    })
}

/// Has the operator keep its hands off, or not.
fn suspend(cluster: &Cluster, namespace: &str, on: bool) -> Result<(), Failure> {
    let patch = format!("{{\"spec\":{{\"suspend\":{on}}}}}");
    cluster.kubectl(&["patch", "mariadb", "db", "-n", namespace, "--type=merge", "-p", &patch])?;
    if on {
        cluster.await_condition(namespace, "db", ("Updated", "False", "suspend"), MINUTE)?;
        // The other loop has seen it, too.
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// All well, all the same, and a row more gets everywhere.
pub(crate) fn equal_in_the_end(
    cluster: &Cluster,
    namespace: &str,
    members: &[&str],
    rows: u64,
) -> Result<String, Failure> {
    let now = cluster.eventually("writes go on", MINUTE, || {
        let now = primary(cluster, namespace, "db")?;
        write_rows(cluster, namespace, &now, 1).map(|()| now)
    })?;
    cluster.await_healthy(namespace, "db", 3 * MINUTE)?;
    await_rows(cluster, namespace, members, rows + 1)?;
    same_rows(cluster, namespace, members)?;
    Ok(now)
}

/// A file of that name lies where a re-seed saves what it replaces.
fn saved(cluster: &Cluster, namespace: &str, pod: &str, text: &str) -> Result<(), Failure> {
    let script = format!("grep -l -- {text} /var/lib/mysql/agent/errant/*/statements.sql");
    cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", &script]).map(drop)
}

fn somebody_writes_on_a_replica(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 3))?;
    await_rows(cluster, namespace, &TRIO, 20)?;
    let sql = "SET GLOBAL read_only=0; INSERT INTO t.t (id, v) VALUES (4711, 'stray')";
    cluster.sql(namespace, "db-1", sql)?;
    await_event(cluster, namespace, "ErrantTransactions", "db-1")?;
    equal_in_the_end(cluster, namespace, &TRIO, 20)?;
    if cluster.sql(namespace, "db-1", "SELECT @@read_only")? != "1" {
        return Err(broken("db-1 stayed open"));
    }
    saved(cluster, namespace, "db-1", "stray")
}

fn somebody_types_a_position(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 2))?;
    await_rows(cluster, namespace, &PAIR, 20)?;
    // Back: what is there comes again.
    cluster.sql(namespace, "db-1", "STOP SLAVE; SET GLOBAL gtid_slave_pos='0-1-2'; START SLAVE")?;
    equal_in_the_end(cluster, namespace, &PAIR, 20)?;
    await_safe(cluster, namespace, "db")?;
    // Forth, while the operator keeps its hands off: five transactions are passed over.
    suspend(cluster, namespace, true)?;
    cluster.sql(namespace, "db-1", "STOP SLAVE")?;
    cluster.sql(namespace, "db-0", "SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
    write_rows(cluster, namespace, "db-0", 5)?;
    let position = cluster.sql(namespace, "db-0", "SELECT @@gtid_binlog_pos")?;
    cluster.sql(namespace, "db-1", &format!("SET GLOBAL gtid_slave_pos='{position}'; START SLAVE"))?;
    suspend(cluster, namespace, false)?;
    equal_in_the_end(cluster, namespace, &PAIR, 26).map(drop)
}

fn somebody_types_reset_master(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 3))?;
    await_rows(cluster, namespace, &TRIO, 20)?;
    cluster.sql(namespace, "db-2", "RESET MASTER")?;
    equal_in_the_end(cluster, namespace, &TRIO, 20)?;
    await_safe(cluster, namespace, "db")?;
    await_event(cluster, namespace, "Reseeding", "RESET MASTER")?;
    cluster.sql(namespace, "db-0", "RESET MASTER")?;
    equal_in_the_end(cluster, namespace, &TRIO, 21)?;
    // In a term that began with higher numbers than those that come now: a failover goes by the new ones.
    cluster.mariadb(&["switchover", "db", "-n", namespace, "--to", "db-1"])?;
    write_rows(cluster, namespace, "db-1", 30)?;
    await_safe(cluster, namespace, "db")?;
    cluster.mariadb(&["switchover", "db", "-n", namespace, "--to", "db-0"])?;
    await_safe(cluster, namespace, "db")?;
    cluster.sql(namespace, "db-0", "RESET MASTER")?;
    await_event(cluster, namespace, "NumbersStartAnew", "db-0")?;
    write_rows(cluster, namespace, "db-0", 1)?;
    // A member that was seeded afresh a moment ago is given two minutes before that is done again.
    cluster.await_healthy(namespace, "db", 6 * MINUTE)?;
    equal_in_the_end(cluster, namespace, &TRIO, 53)?;
    await_safe(cluster, namespace, "db")?;
    super::failover::kill_server(cluster, namespace, "db-0")?;
    super::failover::await_other_primary(cluster, namespace, "db", "db-0")?;
    equal_in_the_end(cluster, namespace, &TRIO, 54).map(drop)
}

pub(crate) fn epoch(cluster: &Cluster, namespace: &str) -> Result<u64, Failure> {
    let path = r"jsonpath={.metadata.annotations.k8s\.mariadb\.com/epoch}";
    let text = cluster.kubectl(&["get", "lease", "db-topology", "-n", namespace, "-o", path])?;
    text.parse().map_err(|e| format!("epoch {text:?}: {e}"))
}

fn the_record_is_deleted(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 3))?;
    let before = epoch(cluster, namespace)?;
    cluster.kubectl(&["delete", "lease", "db-topology", "-n", namespace])?;
    cluster.eventually("the record is there again, with a higher epoch", MINUTE, || {
        match epoch(cluster, namespace)? {
            now if now > before => Ok(()),
            now => Err(format!("epoch {now}")),
        }
    })?;
    equal_in_the_end(cluster, namespace, &TRIO, 20)?;
    await_safe(cluster, namespace, "db")
}

fn an_old_record_is_put_back(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 3))?;
    let record = cluster.get(namespace, "lease", "db-topology")?.ok_or("no record")?;
    let object = cluster.get(namespace, "mariadb", "db")?.ok_or("no object")?;
    cluster.mariadb(&["switchover", "db", "-n", namespace, "--to", "db-1"])?;
    write_rows(cluster, namespace, "db-1", 5)?;
    await_safe(cluster, namespace, "db")?;
    let epoch_then = epoch(cluster, namespace)?;
    // As a tool for backups of clusters puts it back: all of it, but what the server gives out itself.
    let put_back = |mut object: Value| {
        let metadata = object["metadata"].as_object_mut().ok_or("no metadata")?;
        for field in ["resourceVersion", "uid", "managedFields", "creationTimestamp"] {
            metadata.remove(field);
        }
        // The operator writes the same objects: as a tool would, once more.
        cluster.eventually("it is put back", MINUTE / 4, || {
            cluster.kubectl_with(&["replace", "-n", namespace, "-f", "-"], &object.to_string())
        })
    };
    put_back(record)?;
    put_back(object)?;
    cluster.eventually("the record is lifted above what the members know", MINUTE, || {
        match epoch(cluster, namespace)? {
            now if now > epoch_then => Ok(()),
            now => Err(format!("epoch {now}")),
        }
    })?;
    equal_in_the_end(cluster, namespace, &TRIO, 25)?;
    await_safe(cluster, namespace, "db")
}

fn the_password_changes_while_a_member_is_down(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "repl",
        "-n",
        namespace,
        "--from-literal=password=first-one-1",
    ])?;
    let user = "    replica:\n      replPasswordSecretKeyRef:\n        name: repl\n        key: password\n";
    with_rows(cluster, namespace, &format!("{}{user}", replicated("db", 3)))?;
    // Wrong for a while: what is there goes on, and what comes later gets the right one.
    cluster.kubectl(&["delete", "pod", "db-2", "-n", namespace, "--wait=false"])?;
    let patch = r#"{"stringData":{"password":"second-one-2"}}"#;
    cluster.kubectl(&["patch", "secret", "repl", "-n", namespace, "--type=merge", "-p", patch])?;
    equal_in_the_end(cluster, namespace, &TRIO, 20)?;
    // Somebody changes it on the server alone.
    cluster.sql(namespace, "db-0", "SET sql_log_bin=0; ALTER USER repl_3@'%' IDENTIFIED BY 'nobody-knows-3'")?;
    cluster.sql(namespace, "db-2", "STOP SLAVE; START SLAVE")?;
    equal_in_the_end(cluster, namespace, &TRIO, 21)?;
    await_safe(cluster, namespace, "db")
}

/// Foretold by status alone.
fn foretold(cluster: &Cluster, namespace: &str, to: &str, reason: &str) -> Result<(), Failure> {
    cluster.eventually(&format!("a switchover to {to} is refused: {reason}"), MINUTE, || {
        let (code, out, err) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", to, "--dry-run"])?;
        if code == 3 && out.contains(reason) { Ok(()) } else { Err(format!("{code}: {out}{err}")) }
    })
}

/// By the operator, when it is asked; and counted under this reason.
fn refused(cluster: &Cluster, namespace: &str, to: &str, (reason, words): (&str, &str)) -> Result<(), Failure> {
    let counter = ("refusals", "reason", reason);
    let before = count(cluster, namespace, counter)?;
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", to])?;
    if code != 3 || !out.contains("Not done") || !out.contains(words) {
        return Err(format!("a switchover to {to}: {code}: {out}{err}"));
    }
    await_count(cluster, namespace, counter, before + 1)
}

/// What a counter of the operator says of the topology: its name, and a label with its value.
fn count(cluster: &Cluster, namespace: &str, (counter, label, value): (&str, &str, &str)) -> Result<u64, Failure> {
    let text = Forward::start(cluster, "mariadb-operator", "deployment/mariadb-operator", 8080)?.http("/metrics")?;
    let of = format!("{{namespace=\"{namespace}\",topology=\"db\",{label}=\"{value}\"}} ");
    let line = format!("mariadb_operator_{counter}_total{of}");
    match text.lines().find_map(|found| found.strip_prefix(line.as_str())) {
        Some(number) => number.parse().map_err(|e| format!("{line}{number}: {e}")),
        None => Ok(0),
    }
}

fn await_count(cluster: &Cluster, namespace: &str, counter: (&str, &str, &str), wanted: u64) -> Result<(), Failure> {
    cluster.eventually(&format!("{counter:?} is {wanted}"), MINUTE / 4, || match count(cluster, namespace, counter)? {
        found if found == wanted => Ok(()),
        found => Err(format!("it is {found}")),
    })
}

/// One replica is broken, one has what the primary has not, one stays behind on purpose; none of them keeps another from taking
/// over.
fn targets_that_cannot_take_over(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let spec =
        "  replicas: 4\n  replication:\n    enabled: true\n    replica:\n      recovery:\n        enabled: false\n";
    cluster.apply(namespace, &(split("late", "db", 1) + "      delay: 1h\n"))?;
    with_rows(cluster, namespace, &small("db", spec))?;
    await_rows(cluster, namespace, &["db-1", "db-2", "db-3"], 20)?;
    cluster.await_condition(namespace, "late", ("Ready", "True", ""), MINUTE)?;
    cluster.sql(namespace, "db-1", "SET GLOBAL read_only=0; INSERT INTO t.t (id, v) VALUES (4711, 'errant')")?;
    cluster.sql(
        namespace,
        "db-2",
        "SET sql_log_bin=0; SET GLOBAL read_only=0; INSERT INTO t.t (id, v) VALUES (5000, 'in the way')",
    )?;
    cluster.sql(namespace, "db-0", "INSERT INTO t.t (id, v) VALUES (5000, 'here')")?;
    await_event(cluster, namespace, "ErrantTransactions", "db-1")?;
    foretold(cluster, namespace, "db-2", "TargetBroken")?;
    refused(cluster, namespace, "db-1", ("TargetErrant", "has transactions that no primary wrote"))?;
    refused(cluster, namespace, "db-2", ("TargetBroken", "does not replicate"))?;
    refused(cluster, namespace, "late-0", ("TargetNotCandidate", "is no candidate"))?;
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-3"])?;
    if code != 0 {
        return Err(format!("to the one that is well: {code}: {out}{err}"));
    }
    write_rows(cluster, namespace, "db-3", 1)?;
    await_rows(cluster, namespace, &["db-0", "db-3"], 22)
}

fn two_requests_at_once_and_one_in_a_failover(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    const FAILOVERS: (&str, &str, &str) = ("failovers", "outcome", "Done");
    const SWITCHOVERS: (&str, &str, &str) = ("switchovers", "outcome", "Done");
    with_rows(cluster, namespace, &replicated("db", 3))?;
    let before = (count(cluster, namespace, FAILOVERS)?, count(cluster, namespace, SWITCHOVERS)?);
    let (one, other) = std::thread::scope(|scope| {
        let ask =
            |to: &'static str| scope.spawn(move || cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", to]));
        let (one, other) = (ask("db-1"), ask("db-2"));
        (one.join(), other.join())
    });
    let codes: Vec<i32> = [one, other]
        .into_iter()
        .map(|result| result.map_err(|_| "it panicked".to_owned())?.map(|(code, _, _)| code))
        .collect::<Result<_, Failure>>()?;
    // One is first; the other is told so.
    if codes != [0, 3] && codes != [3, 0] {
        return Err(format!("exit codes {codes:?}"));
    }
    equal_in_the_end(cluster, namespace, &TRIO, 20)?;
    await_safe(cluster, namespace, "db")?;
    let old = primary(cluster, namespace, "db")?;
    super::failover::kill_server(cluster, namespace, &old)?;
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "-n", namespace, "--to", &old])?;
    let now = equal_in_the_end(cluster, namespace, &TRIO, 21)?;
    // Whichever was first: what the request was told is so.
    let refused = out.contains("Not done") || out.contains("refused: ");
    match code {
        0 if now == old => {}
        3 if now != old && refused => {}
        _ => return Err(format!("in a failover, {now} is the primary then: {code}: {out}{err}")),
    }
    // One failover, and no request that lingers.
    await_count(cluster, namespace, FAILOVERS, before.0 + 1)?;
    await_safe(cluster, namespace, "db")?;
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "-n", namespace])?;
    if code != 0 || primary(cluster, namespace, "db")? == now {
        return Err(format!("after the failover: {code}: {out}{err}"));
    }
    await_count(cluster, namespace, SWITCHOVERS, before.1 + if now == old { 3 } else { 2 })
}

fn all_ackers_are_away(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if cluster.sandbox_dir().is_none() {
        super::cluster::skipped("all_ackers_are_away: not a sandbox");
        return Ok(());
    }
    let spec = "  replicas: 3\n  replication:\n    enabled: true\n    failover:\n      timeout: 2s\n";
    with_rows(cluster, namespace, &small("db", spec))?;
    let pod =
        |verb: &str, member: &str| cluster.sandbox_command(verb, &["pod", verb, member, "-n", namespace]).map(drop);
    // The majority: one replica and the primary. Nobody knows what the primary acknowledged since.
    for member in ["db-1", "db-2"] {
        pod("freeze", member)?;
    }
    cluster.await_condition(namespace, "db", ("SafeToFailover", "False", ""), MINUTE)?;
    cluster.eventually("the primary goes on alone", MINUTE, || write_rows(cluster, namespace, "db-0", 1))?;
    super::failover::kill_server(cluster, namespace, "db-0")?;
    // Nobody takes over what only db-0 has; it comes back by itself.
    cluster.eventually("the primary goes on", MINUTE, || write_rows(cluster, namespace, "db-0", 1))?;
    if primary(cluster, namespace, "db")? != "db-0" {
        return Err(broken("somebody took over what only db-0 had"));
    }
    for member in ["db-1", "db-2"] {
        pod("thaw", member)?;
    }
    equal_in_the_end(cluster, namespace, &TRIO, 22)?;
    await_safe(cluster, namespace, "db")
}

/// While the operator keeps its hands off, two members are written to; then the record is lost, too.
fn two_primaries_are_found(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    with_rows(cluster, namespace, &replicated("db", 2))?;
    await_rows(cluster, namespace, &PAIR, 20)?;
    suspend(cluster, namespace, true)?;
    cluster.sql(namespace, "db-0", "SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
    cluster.sql(
        namespace,
        "db-1",
        "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0; INSERT INTO t.t (v) VALUES ('here')",
    )?;
    cluster.sql(namespace, "db-0", "INSERT INTO t.t (v) VALUES ('there')")?;
    cluster.kubectl(&["delete", "lease", "db-topology", "-n", namespace])?;
    suspend(cluster, namespace, false)?;
    cluster.await_condition(namespace, "db", ("ReplicationHealthy", "False", "k8s.mariadb.com/use-data-of"), MINUTE)?;
    let annotation = "k8s.mariadb.com/use-data-of=db-0";
    cluster.kubectl(&["annotate", "mariadb", "db", "-n", namespace, annotation])?;
    let now = equal_in_the_end(cluster, namespace, &PAIR, 21)?;
    if now != "db-0" {
        return Err(broken(format_args!("{now} is the primary, db-0 was named")));
    }
    saved(cluster, namespace, "db-1", "here")?;
    let old = now;
    await_safe(cluster, namespace, "db")?;
    super::failover::kill_server(cluster, namespace, &old)?;
    await_other_primary(cluster, namespace, "db", &old)?;
    equal_in_the_end(cluster, namespace, &PAIR, 22).map(drop)
}
