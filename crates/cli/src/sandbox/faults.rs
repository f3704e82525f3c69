//! `sandbox node|pod|volume|api`: fault switches. What they print on standard output is one plain line for each thing done.

use std::time::Duration;

use clap::{Args, Subcommand};
use sandbox::faults::{ApiAct, Fault, NodeAct, Peer, PodAct, VolumeAct, control, drain, duration};
use sandbox::paths::Paths;

#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Its power fails: all processes of its pods are gone at once, without a farewell on the network, and its kubelet is silent.
    Stop {
        /// The node.
        name: String,
    },
    /// It boots again, and its kubelet restarts the pods that are still bound to it.
    Start {
        /// The node.
        name: String,
    },
    /// Its pods and its kubelet are cut off from everything outside of it, in both directions; its processes run on.
    Cut {
        /// The node.
        name: String,
        /// Cut off from this only: another node, `api`, or `pod/NAME`. A further cut adds to it.
        #[arg(long, value_name = "PEER")]
        from: Option<String>,
        /// Namespace of `pod/NAME`.
        #[arg(long, short, default_value = "default")]
        namespace: String,
    },
    /// All its cuts end.
    Heal {
        /// The node.
        name: String,
    },
    /// Cordon it and evict its pods, as their disruption budgets allow; returns when they are gone.
    Drain {
        /// The node.
        name: String,
        /// How long to try.
        #[arg(long, default_value = "5m", value_parser = duration)]
        timeout: Duration,
    },
    /// It takes new pods again, after a drain.
    Uncordon {
        /// The node.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct PodArguments {
    #[command(subcommand)]
    command: PodCommand,
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// SIGSTOP for its processes.
    Freeze(PodTarget),
    /// SIGCONT for its processes.
    Thaw(PodTarget),
    /// SIGKILL for its processes.
    Kill(PodTarget),
    /// A container is killed as a whole, and its status says `OOMKilled`, as if the kernel had done it for lack of memory.
    Oom {
        /// The pod.
        name: String,
        /// Its namespace.
        #[arg(long, short, default_value = "default")]
        namespace: String,
        /// The container, where several run.
        #[arg(long, short)]
        container: Option<String>,
    },
}

#[derive(Debug, Args)]
struct PodTarget {
    /// The pod.
    name: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// Only this container [default: all that run].
    #[arg(long, short)]
    container: Option<String>,
    /// Only processes of this name, such as mariadbd [default: all].
    #[arg(long)]
    process: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct VolumeArguments {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// It is full: writes that need space fail with ENOSPC.
    Fill {
        #[command(flatten)]
        target: ClaimTarget,
        /// Bytes that stay free.
        #[arg(long, default_value_t = 0)]
        leave: u64,
    },
    /// It has its space back.
    Free(ClaimTarget),
    /// Its disk hangs: every write and sync waits, and whoever waits cannot even be killed. Reads go on.
    Hang(ClaimTarget),
    /// Its disk answers again.
    Release(ClaimTarget),
}

#[derive(Debug, Args)]
struct ClaimTarget {
    /// The PersistentVolumeClaim; its volume must have a file system of its own (storage class `limited`).
    claim: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    namespace: String,
}

#[derive(Debug, Args)]
pub(super) struct ApiArguments {
    #[command(subcommand)]
    command: ApiCommand,
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// Requests of pods (the operator's, too) are answered later; the administrator's kubeconfig is not affected.
    Slow {
        /// How much later.
        #[arg(long, default_value = "1s", value_parser = duration)]
        by: Duration,
        /// End after this time.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<Duration>,
    },
    /// Pods' connections to the API break, and new ones are refused; kubelets hear and say nothing. The administrator's
    /// kubeconfig is not affected.
    Away {
        /// End after this time.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<Duration>,
    },
    /// It is as it should be.
    Back,
}

pub(super) fn node(paths: &Paths, arguments: NodeArguments) -> anyhow::Result<()> {
    let (name, act) = match arguments.command {
        NodeCommand::Drain { name, timeout } => {
            return super::up::runtime()?.block_on(async {
                let client = super::client(paths).await?;
                drain::drain(&client, &name, timeout, |line| println!("{line}")).await?;
                Ok(())
            });
        }
        NodeCommand::Uncordon { name } => {
            super::up::runtime()?.block_on(async {
                let client = super::client(paths).await?;
                drain::cordon(&client, &name, false).await?;
                anyhow::Ok(())
            })?;
            println!("node {name} uncordoned");
            return Ok(());
        }
        NodeCommand::Stop { name } => (name, NodeAct::Stop),
        NodeCommand::Start { name } => (name, NodeAct::Start),
        NodeCommand::Cut { name, from, namespace } => {
            (name, NodeAct::Cut(from.map(|peer| Peer::parse(&peer, &namespace))))
        }
        NodeCommand::Heal { name } => (name, NodeAct::Heal),
    };
    throw(paths, &Fault::Node { name, act })
}

pub(super) fn pod(paths: &Paths, arguments: PodArguments) -> anyhow::Result<()> {
    let (target, act) = match arguments.command {
        PodCommand::Freeze(target) => (target, PodAct::Freeze),
        PodCommand::Thaw(target) => (target, PodAct::Thaw),
        PodCommand::Kill(target) => (target, PodAct::Kill),
        PodCommand::Oom { name, namespace, container } => {
            (PodTarget { name, namespace, container, process: None }, PodAct::Oom)
        }
    };
    let PodTarget { name, namespace, container, process } = target;
    throw(paths, &Fault::Pod { namespace, name, container, process, act })
}

pub(super) fn volume(paths: &Paths, arguments: VolumeArguments) -> anyhow::Result<()> {
    let (target, act) = match arguments.command {
        VolumeCommand::Fill { target, leave } => (target, VolumeAct::Fill { leave }),
        VolumeCommand::Free(target) => (target, VolumeAct::Free),
        VolumeCommand::Hang(target) => (target, VolumeAct::Hang),
        VolumeCommand::Release(target) => (target, VolumeAct::Release),
    };
    let ClaimTarget { claim, namespace } = target;
    throw(paths, &Fault::Volume { namespace, claim, act })
}

pub(super) fn api(paths: &Paths, arguments: &ApiArguments) -> anyhow::Result<()> {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (act, time) = match arguments.command {
        ApiCommand::Slow { by, time } => (ApiAct::Slow { milliseconds: milliseconds(by) }, time),
        ApiCommand::Away { time } => (ApiAct::Away, time),
        ApiCommand::Back => (ApiAct::Back, None),
    };
    throw(paths, &Fault::Api { act, for_milliseconds: time.map(milliseconds) })
}

fn throw(paths: &Paths, fault: &Fault) -> anyhow::Result<()> {
    println!("{}", control::request(paths, fault)?);
    Ok(())
}
