//! Every way in which a primary can go, one after the other: who is primary then, and that no row is missing.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::chaos::{Entry, Ground, Kind, set_up};
use super::cluster::{Cluster, Failure, broken, say, skipped};
use super::failover::{await_other_primary, primary};
use super::replication::{await_rows, replicated, write_rows};

/// What is done to pods and volumes of one's own.
pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("ways::processes_are_killed", |cluster, namespace| one_after_the_other(cluster, namespace, &KILLED)),
    ("ways::pods_are_deleted", |cluster, namespace| one_after_the_other(cluster, namespace, &DELETED)),
    ("ways::servers_are_frozen", |cluster, namespace| one_after_the_other(cluster, namespace, &FROZEN)),
    ("ways::disks_are_full_and_hang", |cluster, namespace| one_after_the_other(cluster, namespace, &DISKS)),
];

/// What stops nodes, the operator or the API comes alone.
pub(crate) const ALONE: &[(&str, super::Scenario)] = &[
    ("ways::nodes_go", |cluster, namespace| one_after_the_other(cluster, namespace, &NODES)),
    ("ways::connections_are_cut", |cluster, namespace| one_after_the_other(cluster, namespace, &CUTS)),
    ("ways::the_operator_goes_with_its_node", the_operator_goes_with_its_node),
    ("ways::all_members_go_and_one_stays_away", all_members_go_and_one_stays_away),
    ("ways::time_decides_where_nothing_is_promised", time_decides_where_nothing_is_promised),
];

const MINUTE: Duration = Duration::from_secs(60);
/// A fault that shall not move the primary lasts so long: `failover.timeout` of these objects, and more.
const LASTS: Duration = Duration::from_secs(5);
const ROOT: &str = "db";
const PAST: &str = "2001-01-01T00:00:00.000000Z";
const FUTURE: &str = "2099-01-01T00:00:00.000000Z";
const MEMBERS: [&str; 3] = ["db-0", "db-1", "db-2"];
const ROWS: u64 = 20;

/// Who is the primary in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Another,
    Same,
    /// Whoever is quicker: it comes back, or is replaced.
    Either,
    /// Another one, and it was asked to hand over.
    HandedOver,
}

type Way = (Kind, After);

// Not more than three failovers for one topology: a fourth within ten minutes is refused (`TooManyChanges`).
const KILLED: [Way; 4] = [
    (Kind::TooManyConnections, After::Same),
    (Kind::ServerKilled, After::Another),
    (Kind::ContainerOutOfMemory, After::Another),
    (Kind::PodKilled, After::Another),
];
const DELETED: [Way; 3] = [
    (Kind::PodDeleted, After::HandedOver),
    (Kind::PodDeletedByForce, After::Either),
    (Kind::PodEvicted, After::HandedOver),
];
const FROZEN: [Way; 2] = [(Kind::ServerFrozen, After::Another), (Kind::PodFrozen, After::Another)];
const DISKS: [Way; 2] = [(Kind::DiskFull, After::Another), (Kind::DiskHung, After::Another)];
const NODES: [Way; 3] =
    [(Kind::NodeDrained, After::HandedOver), (Kind::NodeStopped, After::Another), (Kind::NodeCutOff, After::Another)];
const CUTS: [Way; 7] = [
    (Kind::OperatorKilledWithServer, After::Another),
    (Kind::OperatorKilled, After::Same),
    // Replicas hear it: no failover, and none is needed.
    (Kind::NodeCutFromOperator, After::Same),
    (Kind::NodeCutFromApi, After::Same),
    // It goes on alone.
    (Kind::NodeCutFromPeers, After::Same),
    (Kind::ApiSlow, After::Same),
    (Kind::ApiAway, After::Same),
];

fn sandbox_only(cluster: &Cluster, what: &str) -> bool {
    if cluster.sandbox_dir().is_none() {
        skipped(&format!("{what}: not a sandbox"));
        return true;
    }
    false
}

fn ground<'a>(cluster: &'a Cluster, namespace: &'a str, members: &'a [String]) -> Result<Ground<'a>, Failure> {
    set_up(cluster, namespace)?;
    let primary_entry = Entry::of(cluster, namespace, &format!("{ROOT}-primary"))?;
    Ok(Ground { cluster, namespace, root: ROOT, members, primary_entry })
}

fn names() -> Vec<String> {
    MEMBERS.map(str::to_owned).to_vec()
}

/// Writes, as often as it takes, where the primary is now.
fn write_somewhere(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    cluster.eventually("writes go on", MINUTE, || {
        let now = primary(cluster, namespace, ROOT)?;
        write_rows(cluster, namespace, &now, 1).map(|()| now)
    })
}

/// Writes on the primary, which stays that: from beside another member, where that reaches it.
fn write_through_the_network(cluster: &Cluster, namespace: &str, kind: Kind, primary: &str) -> Result<(), Failure> {
    let from = match kind {
        Kind::NodeCutFromPeers => primary,
        _ => MEMBERS.into_iter().find(|member| *member != primary).unwrap_or(primary),
    };
    let script = format!(
        "exec mariadb -h {primary} -u root -p\"${{MARIADB_ROOT_PASSWORD}}\" -e 'INSERT INTO t.t (v) VALUES (UUID())'"
    );
    let goes_on =
        || cluster.kubectl(&["exec", from, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", &script]).map(drop);
    cluster.eventually(&format!("{primary} takes writes"), 2 * LASTS, goes_on)
}

/// What the newest change says of its cause, and how long writes were down.
fn newest(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    let mut changes = cluster.list(namespace, "primarychanges", &format!("k8s.mariadb.com/topology={ROOT}"))?;
    changes.sort_by_key(|change| change["ended"].as_str().unwrap_or_default().to_owned());
    let change = changes.pop().unwrap_or(Value::Null);
    let text = |pointer: &str| change.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    Ok(format!("{} ({}), writes down for {}", text("/type"), text("/cause/reason"), text("/writesDown")))
}

fn one_after_the_other(cluster: &Cluster, namespace: &str, ways: &[Way]) -> Result<(), Failure> {
    if sandbox_only(cluster, namespace) {
        return Ok(());
    }
    let members = names();
    let ground = ground(cluster, namespace, &members)?;
    let mut rows = 0;
    for &(kind, after) in ways {
        ground.await_well(2 * MINUTE).map_err(|e| format!("before {kind}: {e}"))?;
        let old = primary(cluster, namespace, ROOT)?;
        write_rows(cluster, namespace, &old, ROWS)?;
        rows += ROWS;
        let began = Instant::now();
        let undo = ground.begin(kind, &old).map_err(|e| format!("{kind}: {e}"))?;
        let outcome = match after {
            After::Another | After::HandedOver => await_other_primary(cluster, namespace, ROOT, &old).and_then(|_| {
                rows += 1;
                write_somewhere(cluster, namespace)
            }),
            After::Either => {
                rows += 1;
                write_somewhere(cluster, namespace)
            }
            After::Same => {
                // Root has a connection of its own; others have none while there are too many.
                let goes_on = match kind {
                    Kind::TooManyConnections => Ok(()),
                    _ => write_through_the_network(cluster, namespace, kind, &old).map(|()| rows += 1),
                };
                std::thread::sleep(LASTS.saturating_sub(began.elapsed()));
                goes_on.map(|()| old.clone())
            }
        };
        let took = began.elapsed();
        // Whatever came of it, the next one finds all in order.
        ground.end(undo)?;
        let now = outcome.map_err(|e| format!("{kind}: {e}"))?;
        let well = ground.await_well(2 * MINUTE).map_err(|e| format!("after {kind}: {e}"))?;
        if after == After::Same && primary(cluster, namespace, ROOT)? != old {
            let newest = newest(cluster, namespace)?;
            return Err(broken(format_args!("{kind}: {old} is the primary no more: {newest}")));
        }
        await_rows(cluster, namespace, &MEMBERS, rows).map_err(|e| format!("after {kind} (written on {now}): {e}"))?;
        let change = if now == old { "no change".to_owned() } else { newest(cluster, namespace)? };
        if after == After::HandedOver && !change.starts_with("Switchover") {
            return Err(broken(format_args!("{kind}: {old} did not hand over: {change}")));
        }
        say(&format!(
            "{kind}: {old} -> {now}: {change}; seen after {:.1} s, well again {:.1} s later",
            took.as_secs_f64(),
            well.as_secs_f64()
        ));
    }
    Ok(())
}

/// Has the operator run on this node.
fn bring_operator(ground: &Ground<'_>, node: &str) -> Result<(), Failure> {
    let cluster = ground.cluster;
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let others: Vec<&str> = nodes.split_whitespace().filter(|name| *name != node).collect();
    let all = |verb: &str| others.iter().try_for_each(|name| cluster.kubectl(&[verb, name]).map(drop));
    all("cordon")?;
    let brought = cluster.eventually("the operator runs beside the primary", MINUTE, || {
        let pod = ground.operator()?;
        if ground.node_of("mariadb-operator", &pod)? == node {
            return Ok(());
        }
        cluster.kubectl(&["delete", "pod", &pod, "-n", "mariadb-operator", "--wait=true", "--timeout=30s"])?;
        Err("it is elsewhere".to_owned())
    });
    all("uncordon")?;
    brought
}

fn the_operator_goes_with_its_node(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if sandbox_only(cluster, "the_operator_goes_with_its_node") {
        return Ok(());
    }
    let members = names();
    let ground = ground(cluster, namespace, &members)?;
    let old = primary(cluster, namespace, ROOT)?;
    let node = ground.node_of(namespace, &old)?;
    bring_operator(&ground, &node)?;
    ground.await_well(MINUTE)?;
    write_rows(cluster, namespace, &old, ROWS)?;
    let began = Instant::now();
    let undo = ground.begin(Kind::NodeStopped, &old)?;
    // Nobody decides until Kubernetes has brought the operator up elsewhere.
    let now = cluster.eventually("another primary", 3 * MINUTE, || match primary(cluster, namespace, ROOT)? {
        now if now == old => Err("not yet".to_owned()),
        now => Ok(now),
    });
    say(&format!(
        "operator and primary on one node that stopped: {now:?} after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    ground.end(undo)?;
    now?;
    ground.await_well(2 * MINUTE)?;
    await_rows(cluster, namespace, &MEMBERS, ROWS)
}

/// Cold start: every member is killed at one moment, the primary's node does not come back.
fn all_members_go_and_one_stays_away(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if sandbox_only(cluster, "all_members_go_and_one_stays_away") {
        return Ok(());
    }
    let members = names();
    let ground = ground(cluster, namespace, &members)?;
    let mut rows = 0;
    // All return: whoever it is that goes on has everything.
    ground.await_well(MINUTE)?;
    write_rows(cluster, namespace, &primary(cluster, namespace, ROOT)?, ROWS)?;
    rows += ROWS;
    for member in MEMBERS {
        ground.begin(Kind::PodKilled, member)?;
    }
    let now = write_somewhere(cluster, namespace)?;
    rows += 1;
    ground.await_well(2 * MINUTE)?;
    await_rows(cluster, namespace, &MEMBERS, rows)?;
    say(&format!("all members killed: {now} goes on"));
    // The primary stays away.
    let old = primary(cluster, namespace, ROOT)?;
    write_rows(cluster, namespace, &old, ROWS)?;
    rows += ROWS;
    let undo = ground.begin(Kind::NodeStopped, &old)?;
    for member in MEMBERS.iter().filter(|member| **member != old) {
        ground.begin(Kind::PodKilled, member)?;
    }
    let now = await_other_primary(cluster, namespace, ROOT, &old);
    let written = now.and_then(|_| write_somewhere(cluster, namespace));
    ground.end(undo)?;
    say(&format!("all members killed, the primary {old} stayed away: {written:?} took over"));
    written?;
    rows += 1;
    ground.await_well(2 * MINUTE)?;
    await_rows(cluster, namespace, &MEMBERS, rows)
}

/// Writes a time of renewal into the record, as an agent whose clock has jumped would.
fn renewed_at(cluster: &Cluster, namespace: &str, time: &str) -> Result<(), Failure> {
    let patch = format!(r#"{{"spec":{{"renewTime":"{time}"}}}}"#);
    let lease = format!("{ROOT}-topology");
    cluster.kubectl(&["patch", "lease", &lease, "-n", namespace, "--type=merge", "-p", &patch]).map(drop)
}

/// `durability: Available`: no acknowledgement bounds a primary that nobody hears; the Lease does.
fn time_decides_where_nothing_is_promised(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if sandbox_only(cluster, "time_decides_where_nothing_is_promised") {
        return Ok(());
    }
    let enabled = "replication:\n    enabled: true\n";
    let manifest = replicated(ROOT, 3);
    cluster.apply(namespace, &manifest.replace(enabled, &format!("{enabled}    durability: Available\n")))?;
    cluster.await_healthy(namespace, ROOT, 2 * MINUTE)?;
    let members = names();
    let primary_entry = Entry::of(cluster, namespace, &format!("{ROOT}-primary"))?;
    let ground = Ground { cluster, namespace, root: ROOT, members: &members, primary_entry };
    let old = primary(cluster, namespace, ROOT)?;
    cluster.eventually("the record is renewed", MINUTE, || {
        let lease = cluster.get(namespace, "lease", &format!("{ROOT}-topology"))?.ok_or("no record")?;
        let with = lease["metadata"]["annotations"]["k8s.mariadb.com/renewed-with"].as_str().unwrap_or_default();
        if with.split(',').count() == 2 { Ok(()) } else { Err(format!("with {with:?}")) }
    })?;
    write_rows(cluster, namespace, &old, ROWS)?;
    await_rows(cluster, namespace, &MEMBERS, ROWS)?;
    let closed = |pod: &str| cluster.sql(namespace, pod, "SELECT @@read_only").map(|text| text == "1");
    // The API is away for longer than that time: the others confirm.
    let undo = ground.begin(Kind::ApiAway, &old)?;
    let until = Instant::now() + 2 * LASTS;
    while Instant::now() < until {
        if closed(&old)? {
            return Err(broken(format_args!("{old} was closed although everybody confirms it")));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    ground.end(undo)?;
    // The clock of whoever renewed it last has jumped, forth and back.
    for time in [FUTURE, PAST] {
        let until = Instant::now() + LASTS + Duration::from_secs(2);
        while Instant::now() < until {
            renewed_at(cluster, namespace, time)?;
            if closed(&old)? {
                return Err(broken(format_args!("{old} was closed for a time stamp of {time}")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    cluster.await_healthy(namespace, ROOT, MINUTE)?;
    if primary(cluster, namespace, ROOT)? != old {
        return Err(broken(format_args!("{old} is the primary no more: {}", newest(cluster, namespace)?)));
    }
    // Cut off from all; its clock was far ahead.
    let began = Instant::now();
    let undo = ground.begin(Kind::NodeCutOff, &old)?;
    renewed_at(cluster, namespace, FUTURE)?;
    let now = await_other_primary(cluster, namespace, ROOT, &old);
    let took = began.elapsed();
    let written = now.and_then(|_| write_somewhere(cluster, namespace));
    // It heard nothing of this, and had closed itself before.
    ground.end(undo)?;
    let closed_itself = closed(&old)?;
    let now = written?;
    if !closed_itself {
        return Err(broken(format_args!("{old} still took writes when it came back, {now} did as well")));
    }
    cluster.await_healthy(namespace, ROOT, 2 * MINUTE)?;
    await_rows(cluster, namespace, &MEMBERS, ROWS + 1)?;
    let change = newest(cluster, namespace)?;
    say(&format!("without a promise, cut off: {old} -> {now}: {change}; seen after {:.1} s", took.as_secs_f64()));
    Ok(())
}
