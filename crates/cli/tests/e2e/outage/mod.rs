//! How long writes are down, as clients see it: `make bench`, not a test.
//!
//! Clients connect through the primary's service, insert row by row, and connect anew every 10 ms after a failure, with limits of 200 ms
//! for a connection and for an answer. What is measured is the longest time between two acknowledged writes of one client.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use serde_json::Value;

use super::chaos::Entry;
use super::cluster::{Cluster, Failure, say};
use super::failover::{kill_server, primary};
use super::replication::replicated;

/// The variable that asks for it: how often each event is caused.
const ROUNDS: &str = "OUTAGE_ROUNDS";
/// Only events that have this in their name.
const ONLY: &str = "OUTAGE_ONLY";
const LIMIT: Duration = Duration::from_millis(200);
const RECONNECT: Duration = Duration::from_millis(10);
const WRITERS: usize = 4;
/// Light load.
const PAUSE: Duration = Duration::from_millis(20);
/// Failovers that the operator makes before it asks for a person.
const MOST_FAILOVERS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// Nothing, unless it is asked for.
pub(crate) fn scenarios() -> &'static [(&'static str, super::Scenario)] {
    if std::env::var_os(ROUNDS).is_some() {
        &[("outage::two_replicas", two_replicas), ("outage::the_only_replica", the_only_replica)]
    } else {
        &[]
    }
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

fn two_replicas(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    measure(cluster, namespace, 3, OF_TWO)
}

fn the_only_replica(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    measure(cluster, namespace, 2, OF_ONE)
}

fn measure(cluster: &Cluster, namespace: &str, members: u32, events: &[Event]) -> Result<(), Failure> {
    let rounds: usize =
        std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).ok_or("OUTAGE_ROUNDS is no number")?;
    // Rounds follow each other faster than bad days do: mere suspicion must count again at once.
    let manifest = replicated("db", members);
    let enabled = "replication:\n    enabled: true\n";
    if !manifest.contains(enabled) {
        return Err(format!("where is its replication?\n{manifest}"));
    }
    cluster.apply(namespace, &manifest.replace(enabled, &format!("{enabled}    failover:\n      cooldown: 1s\n")))?;
    cluster.await_healthy(namespace, "db", 2 * MINUTE)?;
    cluster.sql(
        namespace,
        &primary(cluster, namespace, "db")?,
        "CREATE DATABASE outage; CREATE TABLE outage.written (client INT, sequence INT, PRIMARY KEY (client, sequence)); \
         CREATE USER outage@'%' IDENTIFIED BY 'outage-of-the-bench'; GRANT ALL ON outage.* TO outage@'%'",
    )?;
    let Entry::Address(service) = Entry::of(cluster, namespace, "db-primary")? else {
        return Err("outages are measured in the sandbox only: elsewhere a client's way in takes longer than they do"
            .to_owned());
    };
    let clients = Clients::start(service)?;
    let mut rows = Vec::new();
    let only = std::env::var(ONLY).unwrap_or_default();
    for event in events.iter().filter(|event| event.what.contains(&only)) {
        let (mut outages, mut equal, mut phases) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            well(cluster, namespace)?;
            if round % MOST_FAILOVERS == 0 {
                restart_operator(cluster)?;
                well(cluster, namespace)?;
            }
            std::thread::sleep(Duration::from_secs(1));
            let holder = primary(cluster, namespace, "db")?;
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
            well(cluster, namespace)?;
            equal.push(since.elapsed());
            outages.push(clients.longest_gap(from));
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
    let acknowledged = clients.finish();
    let found = cluster.sql(namespace, &primary(cluster, namespace, "db")?, "SELECT COUNT(*) FROM outage.written")?;
    let found: u64 = found.parse().map_err(|e| format!("{found}: {e}"))?;
    say(&format!(
        "bench: | acknowledged rows that are missing after these | 0 | {} | {acknowledged} acknowledged, {found} there |",
        acknowledged.saturating_sub(found)
    ));
    if found < acknowledged { Err(format!("{acknowledged} acknowledged, {found} there")) } else { Ok(()) }
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

/// Healthy, and a failover would lose nothing.
fn well(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    cluster.await_healthy(namespace, "db", 3 * MINUTE)?;
    cluster.await_condition(namespace, "db", ("SafeToFailover", "True", ""), MINUTE)
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

/// When each client's writes were acknowledged.
type Times = Arc<Mutex<Vec<Instant>>>;

struct Clients {
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    times: Vec<Times>,
}

impl Clients {
    fn start(service: SocketAddr) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| format!("clients: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let times: Vec<Times> = (0..WRITERS).map(|_| Times::default()).collect();
        for (client, times) in times.iter().enumerate() {
            runtime.spawn(write(client, service, Arc::clone(&stop), Arc::clone(times)));
        }
        Ok(Self { runtime, stop, times })
    }

    /// The longest time without an acknowledged write that any client has had since `from`.
    fn longest_gap(&self, from: Instant) -> Duration {
        let gaps = self.times.iter().map(|times| {
            let times = times.lock().unwrap_or_else(PoisonError::into_inner);
            let first = times.partition_point(|at| *at < from).saturating_sub(1);
            times[first..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
        });
        gaps.max().unwrap_or_default()
    }

    /// Ends them; how many writes were acknowledged.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.times.iter().map(|times| times.lock().unwrap_or_else(PoisonError::into_inner).len() as u64).sum()
    }
}

async fn write(client: usize, service: SocketAddr, stop: Arc<AtomicBool>, times: Times) {
    let mut sequence = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let opts: Opts = OptsBuilder::default()
            .ip_or_hostname(service.ip().to_string())
            .tcp_port(service.port())
            .prefer_socket(false)
            .user(Some("outage"))
            .pass(Some("outage-of-the-bench"))
            .stmt_cache_size(0)
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28800))
            .into();
        if let Ok(Ok(mut connection)) = tokio::time::timeout(LIMIT, Conn::new(opts)).await {
            loop {
                sequence += 1;
                let row = format!("INSERT INTO outage.written VALUES ({client}, {sequence})");
                let Ok(Ok(())) = tokio::time::timeout(LIMIT, connection.query_drop(row)).await else { break };
                times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
            tokio::spawn(async move { tokio::time::timeout(LIMIT, connection.disconnect()).await });
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
