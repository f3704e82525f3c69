//! How long writes are down, as clients see it, and whether anything that was acknowledged is missing afterwards: `make bench`, not a
//! test.

mod clients;
mod losses;

use std::time::{Duration, Instant};

use serde_json::Value;

use super::chaos::BROKEN;
use super::cluster::{Cluster, Failure, say};
use super::failover::{kill_server, primary};
use super::replication::replicated;
use clients::Clients;

/// The variable that asks for it: how often each event is caused.
const ROUNDS: &str = "OUTAGE_ROUNDS";
/// Only events that have this in their name.
const ONLY: &str = "OUTAGE_ONLY";
/// Failovers that the operator makes before it asks for a person.
const MOST_FAILOVERS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// Nothing, unless it is asked for.
pub(crate) fn scenarios() -> &'static [(&'static str, super::Scenario)] {
    if std::env::var_os(ROUNDS).is_some() {
        &[("outage::of_two_replicas", of_two_replicas), ("outage::of_the_only_replica", of_the_only_replica)]
    } else {
        losses::scenarios()
    }
}

/// A number from the environment.
fn number(variable: &str) -> Result<usize, Failure> {
    let text = std::env::var(variable).map_err(|_| format!("{variable} is not set"))?;
    text.parse().map_err(|e| format!("{variable}={text}: {e}"))
}

/// Something done to a pod: cluster, namespace, pod.
type Deed = fn(&Cluster, &str, &str) -> Result<(), Failure>;

/// What is done to whom, and what its row in the table says.
struct Event {
    what: &'static str,
    aim: &'static str,
    of: Whom,
    cause: Deed,
    /// Undoes it, after a while; `None`: it needs no undoing.
    undo: Option<Deed>,
}

#[derive(Clone, Copy, PartialEq)]
enum Whom {
    Primary,
    Replica,
}

fn delete(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    cluster.kubectl(&["delete", "pod", pod, "-n", namespace, "--wait=false"]).map(drop)
}

fn delete_by_force(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    cluster.kubectl(&["delete", "pod", pod, "-n", namespace, "--force", "--grace-period=0"]).map(drop)
}

fn switchover(cluster: &Cluster, namespace: &str, _pod: &str) -> Result<(), Failure> {
    cluster.mariadb(&["switchover", "-n", namespace]).map(drop)
}

fn node_of(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String, Failure> {
    cluster.kubectl(&["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.spec.nodeName}"])
}

fn cut(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    let node = node_of(cluster, namespace, pod)?;
    cluster.sandbox_command("node cut", &["node", "cut", &node]).map(drop)
}

fn heal(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    let node = node_of(cluster, namespace, pod)?;
    cluster.sandbox_command("node heal", &["node", "heal", &node]).map(drop)
}

fn freeze(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    cluster.sandbox_command("pod freeze", &["pod", "freeze", pod, "-n", namespace]).map(drop)
}

fn thaw(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    cluster.sandbox_command("pod thaw", &["pod", "thaw", pod, "-n", namespace]).map(drop)
}

const LASTS: Duration = Duration::from_secs(10);

const OF_TWO: &[Event] = &[
    Event {
        what: "server process of the primary killed (`kill -9`)",
        aim: "0.4 s / 1 s",
        of: Whom::Primary,
        cause: kill_server,
        undo: None,
    },
    Event {
        what: "`kubectl delete pod` of the primary",
        aim: "0.2 s / 0.6 s",
        of: Whom::Primary,
        cause: delete,
        undo: None,
    },
    Event {
        what: "primary's pod deleted by force",
        aim: "0.6 s / 1.5 s",
        of: Whom::Primary,
        cause: delete_by_force,
        undo: None,
    },
    Event { what: "switchover", aim: "0.1 s / 0.3 s", of: Whom::Primary, cause: switchover, undo: None },
    Event {
        what: "primary's node cut off (5 s of it is `failover.timeout`)",
        aim: "5 s + 1.3 s / 2.5 s",
        of: Whom::Primary,
        cause: cut,
        undo: Some(heal),
    },
    Event {
        what: "primary's pod frozen (5 s of it is `failover.timeout`)",
        aim: "5 s + 1.3 s / 2.5 s",
        of: Whom::Primary,
        cause: freeze,
        undo: Some(thaw),
    },
    Event { what: "one replica of two killed", aim: "0 s / 0.2 s", of: Whom::Replica, cause: kill_server, undo: None },
    Event { what: "one replica of two cut off", aim: "0 s / 0.5 s", of: Whom::Replica, cause: cut, undo: Some(heal) },
];

const OF_ONE: &[Event] = &[
    Event {
        what: "the only replica killed (`Safe`)",
        aim: "0.5 s / 1 s",
        of: Whom::Replica,
        cause: kill_server,
        undo: None,
    },
    Event {
        what: "the only replica cut off (5 s of it is `failover.timeout`)",
        aim: "5 s + 0.5 s / 1 s",
        of: Whom::Replica,
        cause: cut,
        undo: Some(heal),
    },
];

fn of_two_replicas(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    measure(cluster, namespace, 3, OF_TWO)
}

fn of_the_only_replica(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    measure(cluster, namespace, 2, OF_ONE)
}

/// A topology and its clients.
struct Bench<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    members: u32,
    clients: Clients,
    /// Primaries that were made to fail, so far.
    failovers: usize,
}

impl<'a> Bench<'a> {
    fn start(cluster: &'a Cluster, namespace: &'a str, members: u32, replication: &str) -> Result<Self, Failure> {
        let manifest = replicated("db", members);
        let enabled = "replication:\n    enabled: true\n";
        if !manifest.contains(enabled) {
            return Err(format!("where is its replication?\n{manifest}"));
        }
        // Rounds follow each other faster than bad days do: mere suspicion must count again at once.
        let more = format!("{enabled}    failover:\n      cooldown: 1s\n{replication}");
        cluster.apply(namespace, &manifest.replace(enabled, &more))?;
        cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
        cluster.sql(namespace, &primary(cluster, namespace, "db")?, clients::PREPARE)?;
        let clients = Clients::start(cluster, namespace)?;
        Ok(Self { cluster, namespace, members, clients, failovers: 0 })
    }

    /// Waits until all is well, and is the operator's first failover again after each [`MOST_FAILOVERS`]. Returns the primary.
    fn next_round(&mut self) -> Result<String, Failure> {
        self.well()?;
        if self.failovers.is_multiple_of(MOST_FAILOVERS) {
            restart_operator(self.cluster)?;
            self.well()?;
        }
        self.failovers += 1;
        std::thread::sleep(Duration::from_secs(1));
        primary(self.cluster, self.namespace, "db")
    }

    /// Healthy, and a failover would lose nothing.
    fn well(&self) -> Result<(), Failure> {
        self.cluster.await_healthy(self.namespace, "db", 3 * MINUTE)?;
        self.cluster.await_condition(self.namespace, "db", ("SafeToFailover", "True", ""), MINUTE)
    }

    /// Ends the clients, and says what of theirs is missing.
    fn finish(self, after: &str) -> Result<(), Failure> {
        self.well()?;
        let (cluster, namespace) = (self.cluster, self.namespace);
        let acknowledged = self.clients.finish();
        let mut missing = 0;
        for pod in (0..self.members).map(|n| format!("db-{n}")) {
            let there = clients::written(cluster, namespace, &pod)?;
            let lost: Vec<_> = acknowledged.difference(&there).collect();
            if let Some(first) = lost.first() {
                say(&format!("{pod} lacks {} acknowledged rows, {first:?} among them", lost.len()));
            }
            missing = missing.max(lost.len());
        }
        say(&format!(
            "bench: | acknowledged transactions lost in {after} | 0 | {missing} | of {}, looked for on each member |",
            acknowledged.len()
        ));
        if missing > 0 { Err(format!("{BROKEN}: {missing} acknowledged rows are missing")) } else { Ok(()) }
    }
}

fn measure(cluster: &Cluster, namespace: &str, members: u32, events: &[Event]) -> Result<(), Failure> {
    let rounds = number(ROUNDS)?;
    let mut bench = Bench::start(cluster, namespace, members, "")?;
    let mut rows = Vec::new();
    let only = std::env::var(ONLY).unwrap_or_default();
    for event in events.iter().filter(|event| event.what.contains(&only)) {
        let (mut outages, mut equal, mut phases) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let holder = bench.next_round()?;
            let pod = match event.of {
                Whom::Primary => holder.clone(),
                Whom::Replica => {
                    (0..members).map(|n| format!("db-{n}")).find(|name| *name != holder).ok_or("no replica")?
                }
            };
            let from = Instant::now();
            (event.cause)(cluster, namespace, &pod)?;
            let caused = Instant::now();
            if let Some(undo) = event.undo {
                std::thread::sleep(LASTS);
                undo(cluster, namespace, &pod)?;
            } else {
                std::thread::sleep(Duration::from_secs(2));
            }
            let since = if event.undo.is_some() { Instant::now() } else { caused };
            bench.well()?;
            equal.push(since.elapsed());
            outages.push(bench.clients.longest_gap(from));
            if event.of == Whom::Primary {
                phases.push(last_change(cluster, namespace)?);
            }
        }
        outages.sort();
        equal.sort();
        let seconds = |all: &[Duration], at: usize| format!("{:.2} s", all[at.min(all.len() - 1)].as_secs_f64());
        rows.push(format!(
            "bench: | {} | {} | {} / {} | median / worst of {rounds}; well again after {}{} |",
            event.what,
            event.aim,
            seconds(&outages, outages.len() / 2),
            seconds(&outages, outages.len() - 1),
            seconds(&equal, equal.len() / 2),
            phases.last().map(|text| format!("; the last one: {text}")).unwrap_or_default(),
        ));
        say(rows.last().map_or("", String::as_str));
    }
    bench.finish("these")
}

/// A fourth failover within ten minutes would be refused: a controller that has just started does not remember the others.
fn restart_operator(cluster: &Cluster) -> Result<(), Failure> {
    let operator = ["deployment/mariadb-operator", "-n", "mariadb-operator"];
    cluster.kubectl(&[&["rollout", "restart"][..], &operator].concat())?;
    cluster.kubectl(&[&["rollout", "status"][..], &operator, &["--timeout=60s"]].concat())?;
    // The one before hands over; what it still said is old.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// The phases of the newest change, as its object tells them.
fn last_change(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    let text = cluster.kubectl(&[
        "get",
        "primarychanges",
        "-n",
        namespace,
        "-o",
        "json",
        "--sort-by=.metadata.creationTimestamp",
    ])?;
    let list: Value = serde_json::from_str(&text).map_err(|e| format!("primarychanges: {e}"))?;
    let newest = list["items"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let phases: Vec<String> = newest["phases"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|phase| {
            format!("{} {}", phase["name"].as_str().unwrap_or_default(), phase["took"].as_str().unwrap_or_default())
        })
        .collect();
    Ok(phases.join(", "))
}
