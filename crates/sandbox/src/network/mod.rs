//! The cluster's network: one namespace with a bridge, a veth pair for each pod, NAT for services, and one link to the host.
//!
//! Pods have /32 addresses and reach everything through the gateway on the bridge, so every packet passes the
//! namespace's connection tracking and a service's answer always finds its way back. Dropping the namespace removes
//! all of it.

pub mod links;
mod netns;
mod policies;
pub(crate) mod policy_watch;
pub mod services;
pub mod table;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

pub use netns::NetnsThread;

use crate::command::{CommandError, run, run_with_input};
use crate::paths::Paths;
use crate::settings::Addresses;

/// What can go wrong with the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `ip` failed.
    #[error("network {step}: {source}")]
    Command {
        /// What was being done.
        step: &'static str,
        /// The tool's failure.
        source: CommandError,
    },
    /// A system call failed.
    #[error("network {step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The failure.
        source: std::io::Error,
    },
    /// `nft` refused the rules.
    #[error("packet filter: {0}")]
    Rules(String),
    /// No pod address is free.
    #[error("no free pod address")]
    Full,
}

/// The network of one sandbox.
#[derive(Debug)]
pub struct Network {
    addresses: Addresses,
    prefix: String,
    host_interface: String,
    thread: NetnsThread,
    pods: Mutex<PodAddresses>,
}

#[derive(Debug, Default)]
struct PodAddresses {
    next: u32,
    used: HashSet<Ipv4Addr>,
}

/// A pod's place in the network.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Path of its namespace.
    pub namespace: PathBuf,
    name: String,
}

impl Network {
    /// Removes what a predecessor of the same name left, then makes the namespace, bridge and the host's link.
    /// Each node has an address of its own, on the host.
    pub async fn create(
        paths: &Paths,
        addresses: Addresses,
        nodes: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<Self, NetworkError> {
        let prefix = paths.netns_prefix();
        let host_interface = paths.host_interface();
        remove_leftovers(&prefix, &host_interface).await;
        let command = |step| move |source| NetworkError::Command { step, source };
        let cluster = format!("{prefix}-cluster");
        run("ip", ["netns", "add", &cluster]).await.map_err(command("namespace"))?;
        let (gateway, host, host_gateway) = (addresses.gateway(), addresses.host(), addresses.host_gateway());
        // In the namespace. The bridge has an address of its own: one taken from its ports would change as pods come and
        // go, and every pod would go on talking to the old one until its neighbour entry expires (seconds). Service addresses are local: without a rule that sends them on, the kernel itself refuses.
        let inside = format!(
            "link set lo up\n\
             link add br0 address 02:73:61:6e:64:01 type bridge forward_delay 0\n\
             addr add {gateway}/32 dev br0\n\
             link set br0 up\n\
             route add {pods} dev br0\n\
             route add local {services} dev lo\n\
             link add name host type veth peer name {host_interface} netns {pid}\n\
             addr add {host_gateway}/30 dev host\n\
             link set host up\n\
             route add {node_range} via {host} dev host\n",
            node_range = addresses.nodes(),
            pods = addresses.pods(),
            services = addresses.services(),
            pid = std::process::id(),
        );
        run_with_input("ip", ["-n", &cluster, "-batch", "-"], Some(&inside)).await.map_err(command("bridge"))?;
        let mut outside = format!(
            "addr add {host}/30 dev {host_interface}\n\
             link set {host_interface} up\n\
             route add {all} via {host_gateway} dev {host_interface} src {host}\n",
            all = addresses.all(),
        );
        for node in nodes {
            let _ = writeln!(outside, "addr add {node}/32 dev {host_interface}");
        }
        run_with_input("ip", ["-batch", "-"], Some(&outside)).await.map_err(command("route from the host"))?;
        let io = |step| move |source| NetworkError::Io { step, source };
        let thread = NetnsThread::enter(&Path::new("/run/netns").join(&cluster)).map_err(io("namespace"))?;
        thread
            .run(|| {
                let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
                set("ip_forward", "1")?;
                for interface in ["all", "default", "br0", "host"] {
                    set(&format!("conf/{interface}/send_redirects"), "0")?;
                    set(&format!("conf/{interface}/rp_filter"), "0")?;
                }
                // Otherwise bridged packets meet the rules before they are routed, and a pod cannot reach itself
                // through a service.
                let bridge = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
                if bridge.exists() {
                    std::fs::write(bridge, "0")?;
                }
                set("neigh/br0/base_reachable_time_ms", "10000")
            })
            .await
            .map_err(io("forwarding"))?
            .map_err(io("forwarding"))?;
        Ok(Self { addresses, prefix, host_interface, thread, pods: Mutex::default() })
    }

    /// The address plan.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The thread inside the cluster's namespace, for sockets of the sandbox's own.
    pub fn thread(&self) -> &NetnsThread {
        &self.thread
    }

    /// A listening TCP socket inside the cluster.
    pub async fn listen(&self, address: Ipv4Addr, port: u16) -> Result<std::net::TcpListener, NetworkError> {
        let io = |source| NetworkError::Io { step: "listening in the cluster", source };
        let listener =
            self.thread.run(move || std::net::TcpListener::bind((address, port))).await.map_err(io)?.map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Ok(listener)
    }

    /// Makes a namespace with an address for a pod. `key` is short and unique among pods that exist.
    pub async fn add_pod(&self, key: &str) -> Result<PodNetwork, NetworkError> {
        let address = self.take_address()?;
        let result = self.connect_pod(key, address).await;
        if result.is_err() {
            self.pods().used.remove(&address);
        }
        result
    }

    async fn connect_pod(&self, key: &str, address: Ipv4Addr) -> Result<PodNetwork, NetworkError> {
        let command = |step| move |source| NetworkError::Command { step, source };
        let name = format!("{}-{key}", self.prefix);
        let cluster = format!("{}-cluster", self.prefix);
        run("ip", ["netns", "add", &name]).await.map_err(command("pod's namespace"))?;
        let [_, _, c, d] = address.octets();
        // The address of the card follows from the IP address: caches stay right when an address is used again.
        let outside = format!(
            "link add name p{key} type veth peer name eth0 address 0a:58:0a:00:{c:02x}:{d:02x} netns {name}\n\
             link set p{key} master br0 up\n"
        );
        let gateway = self.addresses.gateway();
        let inside = format!(
            "link set lo up\n\
             addr add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add {gateway} dev eth0 scope link\n\
             route add default via {gateway} src {address}\n"
        );
        let connected = async {
            run_with_input("ip", ["-n", &cluster, "-batch", "-"], Some(&outside)).await?;
            run_with_input("ip", ["-n", &name, "-batch", "-"], Some(&inside)).await
        };
        if let Err(source) = connected.await {
            self.remove_link(&name).await;
            let _ = run("ip", ["netns", "del", &name]).await;
            return Err(NetworkError::Command { step: "pod's link", source });
        }
        Ok(PodNetwork { address, namespace: Path::new("/run/netns").join(&name), name })
    }

    /// Removes a pod's namespace and with it its link. Its address stays taken until [`Network::free`].
    pub async fn remove_pod(&self, pod: &PodNetwork) -> Result<(), NetworkError> {
        self.remove_link(&pod.name).await;
        run("ip", ["netns", "del", &pod.name])
            .await
            .map(drop)
            .map_err(|source| NetworkError::Command { step: "removing a pod's namespace", source })
    }

    /// Takes a pod off the bridge: a process that hangs on its disk keeps its namespace alive, and the link with it.
    async fn remove_link(&self, name: &str) {
        let Some(key) = name.strip_prefix(&format!("{}-", self.prefix)) else { return };
        let cluster = format!("{}-cluster", self.prefix);
        // Usually it is there; where it is not, nothing is to be done.
        let _ = run("ip", ["-n", &cluster, "link", "del", &format!("p{key}")]).await;
    }

    /// Lets an address be used again.
    pub fn free(&self, address: Ipv4Addr) {
        self.pods().used.remove(&address);
    }

    /// Runs rules of the packet filter in the cluster's namespace, in one transaction.
    pub async fn apply_rules(&self, rules: String) -> Result<(), NetworkError> {
        let io = |source| NetworkError::Io { step: "packet filter", source };
        let output = self
            .thread
            .run(move || {
                let mut child = Command::new("nft")
                    .args(["-f", "-"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(rules.as_bytes())?;
                }
                child.wait_with_output()
            })
            .await
            .map_err(io)?
            .map_err(io)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(NetworkError::Rules(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// Removes everything, pods' namespaces included.
    pub async fn destroy(&self) {
        remove_leftovers(&self.prefix, &self.host_interface).await;
    }

    fn take_address(&self) -> Result<Ipv4Addr, NetworkError> {
        let mut pods = self.pods();
        for _ in 0..30_000 {
            let address = self.addresses.pod(pods.next);
            pods.next = pods.next.wrapping_add(1);
            if pods.used.insert(address) {
                return Ok(address);
            }
        }
        Err(NetworkError::Full)
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, PodAddresses> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Removes namespaces with this prefix and the host's interface. Names that are not mounted here any more (their mount
/// namespace is gone) are plain files.
pub async fn remove_leftovers(prefix: &str, host_interface: &str) {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'));
        if ours && run("ip", ["netns", "del", &name]).await.is_err() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    if Path::new("/sys/class/net").join(host_interface).exists() {
        let _ = run("ip", ["link", "del", host_interface]).await;
    }
}
