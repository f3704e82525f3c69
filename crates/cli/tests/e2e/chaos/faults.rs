//! What is done to a topology: each fault as a person or a bad day would cause it, and how it ends.

use std::process::Child;
use std::time::Duration;

use super::super::cluster::{Cluster, Failure};
use super::super::failover::forget_failovers;
use super::crowd::Crowd;
use super::entry::Entry;

/// Why the operator replaces no primary after three failovers in ten minutes.
const TOO_MANY: &str = "TooManyChanges";
/// Another operator leads within.
const AGAIN: Duration = Duration::from_secs(60);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ServerKilled,
    ServerFrozen,
    ContainerOutOfMemory,
    PodKilled,
    PodFrozen,
    PodDeleted,
    PodDeletedByForce,
    PodEvicted,
    NodeStopped,
    NodeCutOff,
    NodeCutFromOperator,
    NodeCutFromPeers,
    NodeCutFromApi,
    NodeDrained,
    DiskFull,
    DiskHung,
    TooManyConnections,
    OperatorKilled,
    OperatorKilledWithServer,
    ApiSlow,
    ApiAway,
    Switchover,
}

impl Kind {
    pub(crate) const ALL: [Kind; 22] = [
        Kind::ServerKilled,
        Kind::ServerFrozen,
        Kind::ContainerOutOfMemory,
        Kind::PodKilled,
        Kind::PodFrozen,
        Kind::PodDeleted,
        Kind::PodDeletedByForce,
        Kind::PodEvicted,
        Kind::NodeStopped,
        Kind::NodeCutOff,
        Kind::NodeCutFromOperator,
        Kind::NodeCutFromPeers,
        Kind::NodeCutFromApi,
        Kind::NodeDrained,
        Kind::DiskFull,
        Kind::DiskHung,
        Kind::TooManyConnections,
        Kind::OperatorKilled,
        Kind::OperatorKilledWithServer,
        Kind::ApiSlow,
        Kind::ApiAway,
        Kind::Switchover,
    ];

    /// Can only a sandbox do it? What `kubectl` can do runs on any cluster.
    pub(crate) fn needs_sandbox(self) -> bool {
        match self {
            Kind::ServerKilled
            | Kind::ServerFrozen
            | Kind::PodDeleted
            | Kind::PodDeletedByForce
            | Kind::PodEvicted
            | Kind::NodeDrained
            | Kind::TooManyConnections
            | Kind::OperatorKilled
            | Kind::OperatorKilledWithServer
            | Kind::Switchover => false,
            Kind::ContainerOutOfMemory
            | Kind::PodKilled
            | Kind::PodFrozen
            | Kind::NodeStopped
            | Kind::NodeCutOff
            | Kind::NodeCutFromOperator
            | Kind::NodeCutFromPeers
            | Kind::NodeCutFromApi
            | Kind::DiskFull
            | Kind::DiskHung
            | Kind::ApiSlow
            | Kind::ApiAway => true,
        }
    }

    /// Seconds that it lasts, from and to; what happens in a moment counts as lasting while its consequences do.
    pub(crate) fn lasts(self) -> (u64, u64) {
        match self {
            Kind::ServerKilled | Kind::OperatorKilled | Kind::OperatorKilledWithServer | Kind::Switchover => (1, 3),
            Kind::ContainerOutOfMemory
            | Kind::PodKilled
            | Kind::PodDeleted
            | Kind::PodDeletedByForce
            | Kind::PodEvicted => (2, 5),
            // Below, around and beyond `failover.timeout`.
            Kind::ServerFrozen
            | Kind::PodFrozen
            | Kind::NodeStopped
            | Kind::NodeCutOff
            | Kind::NodeCutFromOperator
            | Kind::NodeCutFromPeers
            | Kind::NodeCutFromApi
            | Kind::DiskFull
            | Kind::DiskHung => (2, 12),
            Kind::NodeDrained | Kind::TooManyConnections | Kind::ApiSlow | Kind::ApiAway => (2, 8),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Kind::ServerKilled => "server process killed",
            Kind::ServerFrozen => "server frozen",
            Kind::ContainerOutOfMemory => "container out of memory",
            Kind::PodKilled => "pod's processes killed",
            Kind::PodFrozen => "pod frozen",
            Kind::PodDeleted => "pod deleted",
            Kind::PodDeletedByForce => "pod deleted by force",
            Kind::PodEvicted => "pod evicted",
            Kind::NodeStopped => "node stopped",
            Kind::NodeCutOff => "node cut off",
            Kind::NodeCutFromOperator => "node cut off from the operator",
            Kind::NodeCutFromPeers => "node cut off from the peers",
            Kind::NodeCutFromApi => "node cut off from the API",
            Kind::NodeDrained => "node drained",
            Kind::DiskFull => "disk full",
            Kind::DiskHung => "disk hung",
            Kind::TooManyConnections => "too many connections",
            Kind::OperatorKilled => "operator killed",
            Kind::OperatorKilledWithServer => "operator and server killed",
            Kind::ApiSlow => "API slow",
            Kind::ApiAway => "API away",
            Kind::Switchover => "switchover asked for",
        };
        f.pad(text)
    }
}

/// Where faults are thrown.
pub(crate) struct Ground<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'a str,
    pub(crate) root: &'a str,
    pub(crate) members: &'a [String],
    pub(crate) primary_entry: Entry,
}

/// What ends a fault.
pub(crate) enum Undo {
    Nothing,
    Sandbox(Vec<String>),
    Kubectl(Vec<String>),
    Drain { node: String, drain: Child },
    Crowd(Crowd),
}

const OPERATOR_NAMESPACE: &str = "mariadb-operator";
const OPERATOR_LABEL: &str = "app.kubernetes.io/name=mariadb-operator";

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The pod of the operator.
fn operator(cluster: &Cluster) -> Result<String, Failure> {
    let pods = cluster.list(OPERATOR_NAMESPACE, "pods", OPERATOR_LABEL)?;
    pods.iter()
        .find(|pod| pod["metadata"]["deletionTimestamp"].is_null() && !pod["spec"]["nodeName"].is_null())
        .and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .ok_or_else(|| "no pod of the operator".to_owned())
}

/// Without a farewell; Kubernetes starts another one.
pub(crate) fn kill_operator(cluster: &Cluster) -> Result<(), Failure> {
    let pod = operator(cluster)?;
    let how = ["--force", "--grace-period=0", "--wait=false"];
    cluster.kubectl(&[&["delete", "pod", &pod, "-n", OPERATOR_NAMESPACE][..], &how].concat()).map(drop)
}

impl Ground<'_> {
    /// The primary, as `.status` says; the first member while nobody is.
    pub(crate) fn primary(&self) -> String {
        self.cluster
            .get(self.namespace, "mariadb", self.root)
            .ok()
            .flatten()
            .and_then(|object| object["status"]["currentPrimary"].as_str().map(str::to_owned))
            .unwrap_or_else(|| self.members[0].clone())
    }

    /// The node that a pod is on.
    pub(crate) fn node_of(&self, namespace: &str, pod: &str) -> Result<String, Failure> {
        let object = self.cluster.get(namespace, "pod", pod)?.ok_or_else(|| format!("no pod {pod}"))?;
        object["spec"]["nodeName"].as_str().map(str::to_owned).ok_or_else(|| format!("{pod} is on no node"))
    }

    /// The pod of the operator.
    pub(crate) fn operator(&self) -> Result<String, Failure> {
        operator(self.cluster)
    }

    fn sandbox(&self, words: &[&str]) -> Result<(), Failure> {
        self.cluster.sandbox_command(&format!("sandbox {}", words.join(" ")), words).map(drop)
    }

    fn kubectl(&self, words: &[&str]) -> Result<(), Failure> {
        self.cluster.kubectl(words).map(drop)
    }

    fn signal_server(&self, pod: &str, signal: &str, switch: &str) -> Result<(), Failure> {
        if self.cluster.sandbox_dir().is_some() {
            return self.sandbox(&["pod", switch, pod, "-n", self.namespace, "--process", "mariadbd"]);
        }
        let script = format!(
            "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = mariadbd ] && kill -{signal} ${{p#/proc/}}; done; true"
        );
        self.kubectl(&["exec", pod, "-n", self.namespace, "-c", "mariadb", "--", "bash", "-c", &script])
    }

    /// Throws it at a member; fails when that member cannot have it now (its pod is not there, say).
    pub(crate) fn begin(&self, kind: Kind, member: &str) -> Result<Undo, Failure> {
        let namespace = self.namespace;
        let pod = |verb: &'static str| [&["pod", verb, member, "-n", namespace][..]].concat();
        let undo_pod = |verb: &'static str| Undo::Sandbox(strings(&["pod", verb, member, "-n", namespace]));
        let claim = format!("storage-{member}");
        let volume = |verb: &'static str| strings(&["volume", verb, &claim, "-n", namespace]);
        let heal = |node: &str| Undo::Sandbox(strings(&["node", "heal", node]));
        match kind {
            Kind::ServerKilled => self.signal_server(member, "KILL", "kill").map(|()| Undo::Nothing),
            Kind::ServerFrozen => {
                self.signal_server(member, "STOP", "freeze")?;
                Ok(match self.cluster.sandbox_dir() {
                    Some(_) => undo_pod("thaw"),
                    None => Undo::Kubectl(strings(&[
                        "exec",
                        member,
                        "-n",
                        namespace,
                        "-c",
                        "mariadb",
                        "--",
                        "bash",
                        "-c",
                        "kill -CONT -1; true",
                    ])),
                })
            }
            Kind::ContainerOutOfMemory => self.sandbox(&pod("oom")).map(|()| Undo::Nothing),
            Kind::PodKilled => self.sandbox(&pod("kill")).map(|()| Undo::Nothing),
            Kind::PodFrozen => self.sandbox(&pod("freeze")).map(|()| undo_pod("thaw")),
            Kind::PodDeleted => {
                self.kubectl(&["delete", "pod", member, "-n", namespace, "--wait=false"]).map(|()| Undo::Nothing)
            }
            Kind::PodDeletedByForce => self
                .kubectl(&["delete", "pod", member, "-n", namespace, "--force", "--grace-period=0", "--wait=false"])
                .map(|()| Undo::Nothing),
            Kind::PodEvicted => {
                let eviction = format!(
                    "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{member}\",\"namespace\":\"{namespace}\"}}}}"
                );
                let path = format!("/api/v1/namespaces/{namespace}/pods/{member}/eviction");
                self.cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction).map(|_| Undo::Nothing)
            }
            Kind::NodeStopped => {
                let node = self.node_of(namespace, member)?;
                self.sandbox(&["node", "stop", &node])?;
                Ok(Undo::Sandbox(strings(&["node", "start", &node])))
            }
            Kind::NodeCutOff => {
                let node = self.node_of(namespace, member)?;
                self.sandbox(&["node", "cut", &node]).map(|()| heal(&node))
            }
            Kind::NodeCutFromOperator => {
                let node = self.node_of(namespace, member)?;
                let operator = format!("pod/{}", self.operator()?);
                self.sandbox(&["node", "cut", &node, "--from", &operator, "-n", OPERATOR_NAMESPACE])
                    .map(|()| heal(&node))
            }
            Kind::NodeCutFromPeers => {
                let node = self.node_of(namespace, member)?;
                for peer in self.members.iter().filter(|peer| *peer != member) {
                    self.sandbox(&["node", "cut", &node, "--from", &format!("pod/{peer}"), "-n", namespace])?;
                }
                Ok(heal(&node))
            }
            Kind::NodeCutFromApi => {
                let node = self.node_of(namespace, member)?;
                self.sandbox(&["node", "cut", &node, "--from", "api"]).map(|()| heal(&node))
            }
            Kind::NodeDrained => {
                let node = self.node_of(namespace, member)?;
                let drain = self.cluster.kubectl_spawn(&[
                    "drain",
                    &node,
                    "--ignore-daemonsets",
                    "--delete-emptydir-data",
                    "--force",
                    "--timeout=60s",
                ])?;
                Ok(Undo::Drain { node, drain })
            }
            Kind::DiskFull => self.sandbox_owned(&volume("fill")).map(|()| Undo::Sandbox(volume("free"))),
            Kind::DiskHung => self.sandbox_owned(&volume("hang")).map(|()| Undo::Sandbox(volume("release"))),
            Kind::TooManyConnections => Crowd::gather(&self.primary_entry).map(Undo::Crowd),
            Kind::OperatorKilled => kill_operator(self.cluster).map(|()| Undo::Nothing),
            Kind::OperatorKilledWithServer => {
                self.signal_server(member, "KILL", "kill")?;
                kill_operator(self.cluster).map(|()| Undo::Nothing)
            }
            Kind::ApiSlow => {
                self.sandbox(&["api", "slow", "--by", "1s"]).map(|()| Undo::Sandbox(strings(&["api", "back"])))
            }
            Kind::ApiAway => self.sandbox(&["api", "away"]).map(|()| Undo::Sandbox(strings(&["api", "back"]))),
            Kind::Switchover => {
                // 4 and 5: rolled back, not over yet. Both may be, in a storm; one that was refused (3) was no fault.
                let (code, out, err) =
                    self.cluster.mariadb_exit(&["switchover", self.root, "-n", namespace, "--timeout", "1s"])?;
                if matches!(code, 0 | 4 | 5) {
                    Ok(Undo::Nothing)
                } else {
                    Err(format!("switchover: {code}: {out}{err}"))
                }
            }
        }
    }

    fn sandbox_owned(&self, words: &[String]) -> Result<(), Failure> {
        self.sandbox(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Ends it.
    pub(crate) fn end(&self, undo: Undo) -> Result<(), Failure> {
        match undo {
            Undo::Nothing => Ok(()),
            Undo::Sandbox(words) => self.sandbox_owned(&words),
            Undo::Kubectl(words) => self.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>()),
            Undo::Drain { node, mut drain } => {
                let _ = drain.kill();
                let _ = drain.wait();
                self.kubectl(&["uncordon", &node])
            }
            Undo::Crowd(crowd) => {
                crowd.disperse();
                Ok(())
            }
        }
    }

    /// Whatever was thrown before, and may have been left: nodes start and are whole, processes go on, disks and the API answer.
    pub(crate) fn heal_all(&self) {
        if self.cluster.sandbox_dir().is_none() {
            return;
        }
        let _ = self.sandbox(&["api", "back"]);
        let nodes = self.cluster.kubectl(&["get", "nodes", "-o", "name"]).unwrap_or_default();
        for node in nodes.lines().filter_map(|line| line.strip_prefix("node/")) {
            for verb in ["start", "heal"] {
                let _ = self.sandbox(&["node", verb, node]);
            }
            let _ = self.kubectl(&["uncordon", node]);
        }
        for member in self.members {
            let _ = self.sandbox(&["pod", "thaw", member, "-n", self.namespace]);
            for verb in ["free", "release"] {
                let _ = self.sandbox(&["volume", verb, &format!("storage-{member}"), "-n", self.namespace]);
            }
        }
    }

    /// Why it is not as it was before all faults; `None`: it is, but that the operator may want no more failovers for now.
    pub(crate) fn unwell(&self) -> Option<String> {
        for condition in ["Ready", "ReplicationHealthy", "SafeToFailover"] {
            match self.cluster.condition(self.namespace, self.root, condition) {
                Ok((status, reason, _)) if status == "True" || reason == TOO_MANY => {}
                Ok((status, reason, message)) => return Some(format!("{condition}={status} {reason}: {message}")),
                Err(failure) => return Some(failure),
            }
        }
        None
    }

    /// Three failovers in ten minutes are enough for a bad day, not for a storm: an operator is started that hears of none of
    /// them. Says whether that had to be.
    pub(crate) fn ask_for_more_failovers(&self) -> Result<bool, Failure> {
        let (_, reason, _) = self.cluster.condition(self.namespace, self.root, "SafeToFailover")?;
        if reason != TOO_MANY {
            return Ok(false);
        }
        forget_failovers(self.cluster, self.namespace, self.root)?;
        kill_operator(self.cluster)?;
        self.cluster.await_condition(self.namespace, self.root, ("SafeToFailover", "True", ""), AGAIN)?;
        Ok(true)
    }

    /// Waits until it is well; how long that took.
    pub(crate) fn await_well(&self, limit: Duration) -> Result<Duration, Failure> {
        let began = std::time::Instant::now();
        self.cluster.eventually("the topology is well again", limit, || self.unwell().map_or(Ok(()), Err))?;
        Ok(began.elapsed())
    }
}
