//! Fault switches: what goes wrong with nodes, pods, disks and the API of a real cluster, on request.
//!
//! A switch does the thing itself where this machine can: it drops packets, kills and stops processes, fills and freezes file
//! systems. Faults do not outlive the sandbox.

pub mod control;
pub mod drain;
mod nodes;
mod pods;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::api::gate::{Gate, GateState};
use crate::network::NetworkError;
pub use crate::network::links::Peer;
use crate::node::{NodeContext, Pods};

/// One switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Something about a node.
    Node {
        /// The node.
        name: String,
        /// What.
        act: NodeAct,
    },
    /// Something about the processes of a pod.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        name: String,
        /// Only this container; all that run when `None`.
        container: Option<String>,
        /// Only processes of this name; all when `None`.
        process: Option<String>,
        /// What.
        act: PodAct,
    },
    /// Something about the disk behind a claim.
    Volume {
        /// The claim's namespace.
        namespace: String,
        /// The claim.
        claim: String,
        /// What.
        act: VolumeAct,
    },
    /// Something about the API as pods see it.
    Api {
        /// What.
        act: ApiAct,
        /// It ends by itself after so many milliseconds.
        for_milliseconds: Option<u64>,
    },
    /// Nothing: which faults last.
    List,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeAct {
    /// Its power fails.
    Stop,
    /// It boots.
    Start,
    /// It is cut off from a peer; from everything when `None`.
    Cut(Option<Peer>),
    /// All its cuts end.
    Heal,
}

/// What happens to a pod's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodAct {
    /// They stop where they are (SIGSTOP).
    Freeze,
    /// They go on (SIGCONT).
    Thaw,
    /// They are gone (SIGKILL).
    Kill,
    /// They are gone, for lack of memory.
    Oom,
}

/// What happens to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeAct {
    /// It is full but for so many bytes.
    Fill {
        /// What is left.
        leave: u64,
    },
    /// It is not full any more.
    Free,
    /// Its disk answers no write.
    Hang,
    /// Its disk answers again.
    Release,
}

/// What happens to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApiAct {
    /// Every request takes so many milliseconds longer.
    Slow {
        /// How many.
        milliseconds: u64,
    },
    /// It cannot be reached.
    Away,
    /// It is as it should be.
    Back,
}

/// A switch that cannot be thrown.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// No such node.
    #[error("no node is called {name:?}: there are {known}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// The nodes there are.
        known: String,
    },
    /// A node cannot be cut off from itself.
    #[error("node {0} cannot be cut off from itself")]
    Itself(String),
    /// No such pod, claim or volume.
    #[error("{kind} {name:?} not found in namespace {namespace:?}")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The pod is there, but nothing of it runs.
    #[error("pod {0}: no container runs")]
    NotRunning(String),
    /// No such container.
    #[error("pod {pod}: no container called {container:?} runs: there are {known}")]
    UnknownContainer {
        /// The pod.
        pod: String,
        /// What was asked for.
        container: String,
        /// What runs.
        known: String,
    },
    /// The kernel kills one container for lack of memory, not several.
    #[error("pod {pod} runs several containers: say which (--container): {known}")]
    WhichContainer {
        /// The pod.
        pod: String,
        /// What runs.
        known: String,
    },
    /// No such process.
    #[error("pod {pod}: no process is called {process:?}: there are {known}")]
    UnknownProcess {
        /// The pod.
        pod: String,
        /// What was asked for.
        process: String,
        /// What runs.
        known: String,
    },
    /// The claim has no volume yet.
    #[error("claim {0} is not bound to a volume yet")]
    Unbound(String),
    /// The volume is a plain folder.
    #[error(
        "volume {volume} of claim {claim} is a folder of this machine's disk and has no file system of its own. Use the \
         storage class {class}, or one with the parameter enforceSize: \"true\", for volumes that can be full or hang"
    )]
    Folder {
        /// The claim.
        claim: String,
        /// The volume.
        volume: String,
        /// The class that has what it takes.
        class: &'static str,
    },
    /// No pod has used the volume since the sandbox was started.
    #[error("volume {0} is not mounted: no pod uses it")]
    NotMounted(String),
    /// Killed processes that the kernel cannot let go of.
    #[error("node {0} cannot start: killed processes wait for a disk that hangs (`sandbox volume release`)")]
    Stuck(String),
    /// The packet filter.
    #[error(transparent)]
    Network(NetworkError),
    /// A tool failed.
    #[error("volume {volume}: {source}")]
    Command {
        /// The volume.
        volume: String,
        /// The tool's failure.
        source: crate::command::CommandError,
    },
    /// A file could not be written.
    #[error("volume {volume}: {source}")]
    Io {
        /// The volume.
        volume: String,
        /// The failure.
        source: std::io::Error,
    },
    /// The API.
    #[error("{0}")]
    Api(Box<kube::Error>),
}

/// The switches of one sandbox.
#[derive(Debug, Clone)]
pub struct Faults {
    pods: Pods,
    gate: Gate,
    /// One switch at a time. Counts the changes of the API's gate.
    turn: Arc<Mutex<u64>>,
}

impl Faults {
    pub(crate) fn new(pods: Pods, gate: Gate) -> Self {
        Self { pods, gate, turn: Arc::default() }
    }

    fn context(&self) -> &Arc<NodeContext> {
        self.pods.context()
    }

    /// Throws a switch. When this returns it has happened; the text says what.
    pub async fn apply(&self, fault: Fault) -> Result<String, FaultError> {
        let mut turn = self.turn.lock().await;
        match fault {
            Fault::Node { name, act } => self.node(&name, act).await,
            Fault::Pod { namespace, name, container, process, act } => {
                self.pod(&namespace, &name, container.as_deref(), process.as_deref(), act).await
            }
            Fault::Volume { namespace, claim, act } => self.volume(&namespace, &claim, act).await,
            Fault::Api { act, for_milliseconds } => {
                *turn += 1;
                let text = self.api(act).await?;
                let Some(time) = for_milliseconds.map(Duration::from_millis).filter(|_| act != ApiAct::Back) else {
                    return Ok(text);
                };
                let (this, number) = (self.clone(), *turn);
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    // Unless it was switched again meanwhile.
                    if *this.turn.lock().await == number
                        && let Err(error) = this.api(ApiAct::Back).await
                    {
                        tracing::error!("{error}");
                    }
                });
                Ok(format!("{text} for {time:?}"))
            }
            Fault::List => Ok(self.lasting().join("\n")),
        }
    }

    async fn api(&self, act: ApiAct) -> Result<String, FaultError> {
        let state = match act {
            ApiAct::Slow { milliseconds } => GateState { away: false, delay: Duration::from_millis(milliseconds) },
            ApiAct::Away => GateState { away: true, delay: Duration::ZERO },
            ApiAct::Back => GateState::default(),
        };
        self.gate.set(state).await;
        self.context().links.change(|table| table.api_away = state.away).await.map_err(FaultError::Network)?;
        Ok(match act {
            ApiAct::Slow { .. } => format!("the API answers pods {:?} later", state.delay),
            ApiAct::Away => "the API is away".to_owned(),
            ApiAct::Back => "the API is back".to_owned(),
        })
    }

    /// Every fault that lasts.
    fn lasting(&self) -> Vec<String> {
        let mut lines = self.context().links.read(crate::network::links::LinkTable::faults);
        let state = self.gate.state();
        if state.away {
            lines.push("the API is away".to_owned());
        }
        if !state.delay.is_zero() {
            lines.push(format!("the API answers pods {:?} later", state.delay));
        }
        lines.extend(self.context().attachments.hanging().into_iter().map(|v| format!("volume {v} hangs")));
        lines
    }
}

/// A time as people write it: `300ms`, `10s`, `1m 30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e} (write 300ms, 10s, 2m)"))?;
    Duration::try_from(parsed).map_err(|_| "a time cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }
}
