//! How long writes are down, as clients see it, and whether anything that was acknowledged is missing afterwards: `make bench`, not a
//! test.

mod clients;
mod losses;

use std::fmt;
use std::time::{Duration, Instant};

use api::duration::GoDuration;
use serde_json::Value;

use super::chaos::BROKEN;
use super::cluster::{Cluster, Failure, say};
use super::failover::{forget_failovers, kill_server, primary};
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

/// `sandbox node VERB` for the node that the pod is on.
fn to_its_node(cluster: &Cluster, namespace: &str, pod: &str, verb: &str) -> Result<(), Failure> {
    let node = cluster.kubectl(&["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.spec.nodeName}"])?;
    cluster.sandbox_command(&format!("node {verb}"), &["node", verb, &node]).map(drop)
}

fn cut(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    to_its_node(cluster, namespace, pod, "cut")
}

fn heal(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    to_its_node(cluster, namespace, pod, "heal")
}

fn freeze(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    cluster.sandbox_command("pod freeze", &["pod", "freeze", pod, "-n", namespace]).map(drop)
}

fn freeze_server(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    let words = ["pod", "freeze", pod, "-n", namespace, "--process", "mariadbd"];
    cluster.sandbox_command("pod freeze", &words).map(drop)
}

fn stop_node(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    to_its_node(cluster, namespace, pod, "stop")
}

fn start_node(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(), Failure> {
    to_its_node(cluster, namespace, pod, "start")
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
        what: "primary's node stopped (5 s of it is `failover.timeout`)",
        aim: "5 s + 1.3 s / 2.5 s",
        of: Whom::Primary,
        cause: stop_node,
        undo: Some(start_node),
    },
    Event {
        what: "primary's server frozen (5 s of it is `failover.timeout`)",
        aim: "5 s + 1.3 s / 2.5 s",
        of: Whom::Primary,
        cause: freeze_server,
        undo: Some(thaw),
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

    /// Waits until all is well, and is the topology's first failover again after each [`MOST_FAILOVERS`]. Returns the primary.
    fn next_round(&mut self) -> Result<String, Failure> {
        self.well()?;
        if self.failovers.is_multiple_of(MOST_FAILOVERS) {
            start_anew(self.cluster, self.namespace)?;
            self.well()?;
        }
        self.failovers += 1;
        std::thread::sleep(Duration::from_secs(1));
        primary(self.cluster, self.namespace, "db")
    }

    /// Healthy, and a failover would lose nothing (where it would not be one too many for the operator that runs now).
    fn well(&self) -> Result<(), Failure> {
        self.cluster.await_healthy(self.namespace, "db", 3 * MINUTE)?;
        self.cluster.eventually("a failover would lose nothing", MINUTE, || {
            let (status, reason, message) = self.cluster.condition(self.namespace, "db", "SafeToFailover")?;
            if status == "True" || reason == "TooManyChanges" { Ok(()) } else { Err(format!("{reason}: {message}")) }
        })
    }

    /// Every member has what was acknowledged up to now.
    fn equal(&self) -> Result<(), Failure> {
        let wanted = self.clients.latest();
        for pod in (0..self.members).map(|n| format!("db-{n}")) {
            self.cluster.eventually(&format!("{pod} has all"), MINUTE, || {
                let there = clients::latest(self.cluster, self.namespace, &pod)?;
                let behind = wanted.iter().find(|(client, last)| there.get(*client).is_none_or(|there| there < *last));
                behind.map_or(Ok(()), |(client, last)| Err(format!("row {last} of client {client} is missing")))
            })?;
        }
        Ok(())
    }

    /// Ends the clients, and says what of theirs is missing.
    fn finish(self, after: &str) -> Result<(), Failure> {
        self.well()?;
        let (cluster, namespace) = (self.cluster, self.namespace);
        let acknowledged = self.clients.finish();
        let mut missing = 0;
        for pod in (0..self.members).map(|n| format!("db-{n}")) {
            let lacks = || Ok(acknowledged.difference(&clients::written(cluster, namespace, &pod)?).copied().collect());
            let caught_up =
                || lacks().and_then(|lost: Vec<_>| lost.first().map_or(Ok(()), |row| Err(format!("{row:?}"))));
            // Where it does not catch up, what it lacks is lost.
            let _ = cluster.eventually(&format!("{pod} has all"), MINUTE, caught_up);
            let lost = lacks()?;
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
    let mut all_equal = Vec::new();
    let only = std::env::var(ONLY).unwrap_or_default();
    for event in events.iter().filter(|event| event.what.contains(&only)) {
        let (mut outages, mut equal, mut phases) = (Vec::new(), Vec::new(), Phases::default());
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
            bench.equal()?;
            equal.push(since.elapsed());
            let outage = bench.clients.longest_wait(from);
            outages.push(outage);
            if event.of == Whom::Primary {
                phases.take(&last_change(cluster, namespace)?, outage)?;
            }
        }
        say(&format!(
            "bench: | {} | {} | {} / {} | median / worst of {rounds}{phases} |",
            event.what,
            event.aim,
            seconds(median(&mut outages)),
            seconds(worst(&outages)),
        ));
        all_equal.extend(equal);
    }
    say(&format!(
        "bench: | members equal again after any of these | 15 s | {} / {} | median / worst of {}: all conditions well, and each member has \
         what was acknowledged |",
        seconds(median(&mut all_equal)),
        seconds(worst(&all_equal)),
        all_equal.len(),
    ));
    bench.finish("these")
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn worst(all: &[Duration]) -> Duration {
    all.iter().max().copied().unwrap_or_default()
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// How long each phase took, change by change.
#[derive(Default)]
struct Phases(Vec<(String, Vec<Duration>)>);

impl Phases {
    /// What the operator wrote down, and the rest of what clients saw: they are sent to the new primary, and connect.
    fn take(&mut self, change: &Value, outage: Duration) -> Result<(), Failure> {
        let mut rest = outage;
        for phase in change["phases"].as_array().into_iter().flatten() {
            let text = phase["took"].as_str().unwrap_or_default();
            let took = text.parse::<GoDuration>().map_err(|e| format!("a phase took {text:?}: {e}"))?.0;
            rest = rest.saturating_sub(took);
            self.add(phase["name"].as_str().unwrap_or_default(), took);
        }
        self.add("routed", rest);
        Ok(())
    }

    fn add(&mut self, name: &str, took: Duration) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, all)) => all.push(took),
            None => self.0.push((name.to_owned(), vec![took])),
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, all)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "; medians: " } else { ", " };
            write!(f, "{separator}{name} {:.0} ms", median(&mut all.clone()).as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

/// A fourth failover within ten minutes would be refused: an operator is started that hears of no other one.
fn start_anew(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    forget_failovers(cluster, namespace, "db")?;
    let operator = ["deployment/mariadb-operator", "-n", "mariadb-operator"];
    cluster.kubectl(&[&["rollout", "restart"][..], &operator].concat())?;
    cluster.kubectl(&[&["rollout", "status"][..], &operator, &["--timeout=60s"]].concat())?;
    // The one before hands over; what it still said is old.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// The newest change, as its object tells it.
fn last_change(cluster: &Cluster, namespace: &str) -> Result<Value, Failure> {
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
    Ok(list["items"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default())
}
