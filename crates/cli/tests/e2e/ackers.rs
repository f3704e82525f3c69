//! Members whose acknowledgement lets a commit return are away: one of several, all of them, and the operator as well.

use std::time::Duration;

use serde_json::Value;

use super::chaos::{Ground, Kind, Load};
use super::cluster::{Cluster, Failure, broken, skipped};
use super::failover::{await_other_primary, await_safe, kill_server, primary};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("ackers::one_of_several_is_lost_then_the_primary", one_of_several_is_lost_then_the_primary),
    ("ackers::the_last_one_and_the_operator_are_away", the_last_one_and_the_operator_are_away),
    ("ackers::strict_waits_for_ever", strict_waits_for_ever),
    ("ackers::the_last_one_goes_while_the_api_is_away", the_last_one_goes_while_the_api_is_away),
    ("ackers::the_primary_dies_while_the_api_is_away", the_primary_dies_while_the_api_is_away),
];

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than any client waits for its answer, and than `failover.timeout` of these objects.
const LONG: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);

fn replication_status(cluster: &Cluster, namespace: &str) -> Result<Value, Failure> {
    let object = cluster.get(namespace, "mariadb", "db")?.ok_or("no mariadb db")?;
    Ok(object["status"]["replication"].clone())
}

fn await_solo(cluster: &Cluster, namespace: &str, wanted: bool) -> Result<(), Failure> {
    cluster.eventually(&format!("solo: {wanted}"), MINUTE, || match &replication_status(cluster, namespace)?["solo"] {
        solo if *solo == wanted => Ok(()),
        solo => Err(format!("it is {solo}")),
    })
}

fn on_pod(cluster: &Cluster, namespace: &str, verb: &str, pods: &[&str]) -> Result<(), Failure> {
    pods.iter().try_for_each(|pod| cluster.sandbox_command(verb, &["pod", verb, pod, "-n", namespace]).map(drop))
}

/// The operator is there, or not.
fn operators(cluster: &Cluster, count: u32) -> Result<(), Failure> {
    let deployment = ["deployment/mariadb-operator", "-n", "mariadb-operator"];
    cluster.kubectl(&[&["scale"][..], &deployment, &[&format!("--replicas={count}")]].concat())?;
    if count > 0 {
        return cluster.kubectl(&[&["rollout", "status", "--timeout=60s"][..], &deployment].concat()).map(drop);
    }
    cluster.eventually("no operator", MINUTE, || {
        match cluster.kubectl(&["get", "pods", "-n", "mariadb-operator", "-o", "name"])?.as_str() {
            "" => Ok(()),
            pods => Err(pods.to_owned()),
        }
    })
}

fn not_here(cluster: &Cluster, what: &str) -> bool {
    if cluster.sandbox_dir().is_none() {
        skipped(&format!("{what}: not a sandbox"));
    }
    cluster.sandbox_dir().is_none()
}

/// A replica's node stops: no write stops for it, it counts no more, and a failover goes without it. Back, it follows the new primary.
fn one_of_several_is_lost_then_the_primary(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if not_here(cluster, "one_of_several_is_lost_then_the_primary") {
        return Ok(());
    }
    let load = Load::start(cluster, namespace, 3, "")?;
    let members: Vec<String> = ["db-0", "db-1", "db-2"].map(str::to_owned).to_vec();
    let primary_entry = super::chaos::Entry::of(cluster, namespace, "db-primary")?;
    let ground = Ground { cluster, namespace, root: "db", members: &members, primary_entry };
    let operators_node = ground.node_of("mariadb-operator", &ground.operator()?)?;
    let lost = match ground.node_of(namespace, "db-2")? {
        node if node == operators_node => "db-1",
        _ => "db-2",
    };
    let undo = ground.begin(Kind::NodeStopped, lost)?;
    let outcome = (|| {
        load.goes_on(Duration::from_secs(2))?;
        cluster.eventually(&format!("{lost} is no acker any more"), MINUTE, || {
            let ackers = replication_status(cluster, namespace)?["ackers"].clone();
            match ackers.as_array().is_some_and(|ackers| ackers.len() == 1 && ackers[0] != lost) {
                true => Ok(()),
                false => Err(format!("{ackers}")),
            }
        })?;
        load.goes_on(Duration::from_secs(2))?;
        cluster.await_condition(namespace, "db", ("SafeToFailover", "True", ""), SOON)?;
        kill_server(cluster, namespace, "db-0")?;
        let now = await_other_primary(cluster, namespace, "db", "db-0")?;
        load.goes_on(SOON).map(|()| now)
    })();
    ground.end(undo)?;
    let now = outcome?;
    await_safe(cluster, namespace, "db")?;
    cluster.eventually("all follow the new primary", MINUTE, || {
        let status = replication_status(cluster, namespace)?;
        let follow = |member: &Value| member["name"] == *now || member["source"] == *now;
        match status["members"].as_array() {
            Some(members) if members.len() == 3 && members.iter().all(follow) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    load.judged()
}

/// Nobody may record that the primary goes on alone: then it does not.
fn the_last_one_and_the_operator_are_away(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if not_here(cluster, "the_last_one_and_the_operator_are_away") {
        return Ok(());
    }
    let load = Load::start(cluster, namespace, 2, "")?;
    operators(cluster, 0)?;
    let waited = load.goes_on(SOON).and_then(|()| {
        on_pod(cluster, namespace, "freeze", &["db-1"])?;
        load.waits(LONG)
    });
    operators(cluster, 1)?;
    waited?;
    await_solo(cluster, namespace, true)?;
    load.goes_on(SOON)?;
    on_pod(cluster, namespace, "thaw", &["db-1"])?;
    await_solo(cluster, namespace, false)?;
    await_safe(cluster, namespace, "db")?;
    if primary(cluster, namespace, "db")? != "db-0" {
        return Err(broken("the primary moved"));
    }
    load.judged()
}

fn without_the_api(cluster: &Cluster, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let api = |verb: &str| cluster.sandbox_command(verb, &["api", verb]).map(drop);
    api("away")?;
    let worked = work();
    api("back")?;
    worked
}

/// The same without the API: nothing can be recorded.
fn the_last_one_goes_while_the_api_is_away(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if not_here(cluster, "the_last_one_goes_while_the_api_is_away") {
        return Ok(());
    }
    let load = Load::start(cluster, namespace, 2, "")?;
    without_the_api(cluster, || {
        load.goes_on(SOON)?;
        on_pod(cluster, namespace, "freeze", &["db-1"])?;
        load.waits(LONG)
    })?;
    await_solo(cluster, namespace, true)?;
    load.goes_on(SOON)?;
    on_pod(cluster, namespace, "thaw", &["db-1"])?;
    await_solo(cluster, namespace, false)?;
    await_safe(cluster, namespace, "db")?;
    load.judged()
}

/// Nobody can take over before the record can be written; then nothing is lost, whoever goes on.
fn the_primary_dies_while_the_api_is_away(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if not_here(cluster, "the_primary_dies_while_the_api_is_away") {
        return Ok(());
    }
    let load = Load::start(cluster, namespace, 3, "")?;
    without_the_api(cluster, || {
        load.goes_on(SOON)?;
        on_pod(cluster, namespace, "freeze", &["db-0"])?;
        load.waits(LONG)
    })?;
    await_other_primary(cluster, namespace, "db", "db-0")?;
    load.goes_on(SOON)?;
    on_pod(cluster, namespace, "thaw", &["db-0"])?;
    await_safe(cluster, namespace, "db")?;
    load.judged()
}

/// `durability: Strict` never goes on alone, with an operator neither.
fn strict_waits_for_ever(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if not_here(cluster, "strict_waits_for_ever") {
        return Ok(());
    }
    let load = Load::start(cluster, namespace, 3, "    durability: Strict\n")?;
    on_pod(cluster, namespace, "freeze", &["db-1", "db-2"])?;
    load.waits(2 * LONG)?;
    let status = replication_status(cluster, namespace)?;
    if status["solo"] == true || primary(cluster, namespace, "db")? != "db-0" {
        return Err(broken(format_args!("Strict, and all ackers away: {status}")));
    }
    on_pod(cluster, namespace, "thaw", &["db-1", "db-2"])?;
    load.goes_on(MINUTE / 2)?;
    await_safe(cluster, namespace, "db")?;
    kill_server(cluster, namespace, "db-0")?;
    await_other_primary(cluster, namespace, "db", "db-0")?;
    load.goes_on(SOON)?;
    await_safe(cluster, namespace, "db")?;
    load.judged()
}
