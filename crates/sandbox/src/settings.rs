//! What a sandbox chooses once and keeps: the port of its API and its range of addresses.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Ports and ranges of one sandbox, kept in `DIR/sandbox.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// HTTPS port on 127.0.0.1.
    pub api_port: u16,
    /// Second number of the range 10.N.0.0/15; even.
    pub network: u8,
    /// Number of virtual nodes.
    pub nodes: usize,
}

/// Settings that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file exists, but cannot be read, understood or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No free port on loopback.
    #[error("no free port on 127.0.0.1: {0}")]
    Port(std::io::Error),
    /// Every range is taken.
    #[error("no free address range 10.N.0.0/15 on this machine: every one from 10.64 to 10.191 has a route")]
    NoRange,
    /// The range that this sandbox chose once belongs to something else now.
    #[error(
        "the addresses of this sandbox, 10.{network}.0.0/15, are routed to {interface} on this machine, perhaps by another sandbox: \
         stop that one first, or begin anew with `kubectl mariadb sandbox reset`"
    )]
    RangeTaken {
        /// Second number of the range.
        network: u8,
        /// Who has it.
        interface: String,
    },
}

/// The address plan inside 10.N.0.0/15: 10.N for pods, 10.(N+1) for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses(u8);

impl Addresses {
    /// The plan for a range.
    pub fn new(network: u8) -> Self {
        Self(network)
    }

    /// Gateway of all pods, on the bridge.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, 1)
    }

    /// The whole range, as the host routes it.
    pub fn all(self) -> String {
        format!("10.{}.0.0/15", self.0)
    }

    /// Pods' range.
    pub fn pods(self) -> String {
        format!("10.{}.0.0/16", self.0)
    }

    /// The `n`th address for pods (wraps around).
    pub fn pod(self, n: u32) -> Ipv4Addr {
        // 10.N.0.16 up to 10.N.239.255: the top is for nodes and the host's link.
        let n = 16 + n % (240 * 256 - 16);
        Ipv4Addr::new(10, self.0, (n >> 8) as u8, (n & 255) as u8)
    }

    /// Address of the `i`th virtual node.
    pub fn node(self, i: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 250, 1 + (i % 250) as u8)
    }

    /// The virtual nodes' range.
    pub fn nodes(self) -> String {
        format!("10.{}.250.0/24", self.0)
    }

    /// Services' range.
    pub fn services(self) -> String {
        format!("10.{}.0.0/16", self.0 + 1)
    }

    /// The first two numbers of services' addresses.
    pub fn service_network(self) -> [u8; 2] {
        [10, self.0 + 1]
    }

    /// ClusterIP of `kubernetes.default`.
    pub fn api(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0 + 1, 0, 1)
    }

    /// ClusterIP of `kube-dns.kube-system`.
    pub fn dns(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0 + 1, 0, 10)
    }

    /// The host's end of its link to the cluster.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 255, 253)
    }

    /// The cluster's end of that link.
    pub fn host_gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 255, 254)
    }
}

impl Settings {
    /// The plan for this sandbox.
    pub fn addresses(&self) -> Addresses {
        Addresses(self.network)
    }

    /// Reads the file, or chooses and writes it.
    pub fn load_or_choose(path: &Path, nodes: Option<usize>) -> Result<Self, SettingsError> {
        let failed = |reason: String| SettingsError::File { path: path.to_owned(), reason };
        let mut settings = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::choose()?,
            Err(e) => return Err(failed(e.to_string())),
        };
        if let Some(nodes) = nodes {
            settings.nodes = nodes;
        }
        settings.write(path)?;
        Ok(settings)
    }

    /// Whether nobody else has taken the range while the sandbox was away. `own` is the interface that its last run may have left.
    pub(crate) fn check_range(&self, own: &str) -> Result<(), SettingsError> {
        let network = self.network;
        match interface_of(&routes(), network).filter(|interface| interface != own) {
            Some(interface) => Err(SettingsError::RangeTaken { network, interface }),
            None => Ok(()),
        }
    }

    /// Writes the file in one step.
    pub fn write(&self, path: &Path) -> Result<(), SettingsError> {
        let failed = |reason: String| SettingsError::File { path: path.to_owned(), reason };
        let text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.to_string()))?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).map_err(|e| failed(e.to_string()))?;
        std::fs::rename(&temporary, path).map_err(|e| failed(e.to_string()))
    }

    fn choose() -> Result<Self, SettingsError> {
        Ok(Self { api_port: free_port()?, network: free_network()?, nodes: 4 })
    }
}

/// A port on loopback that nobody listens on now.
pub fn free_port() -> Result<u16, SettingsError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(SettingsError::Port)?;
    listener.local_addr().map(|a| a.port()).map_err(SettingsError::Port)
}

fn routes() -> String {
    std::fs::read_to_string("/proc/net/route").unwrap_or_default()
}

fn free_network() -> Result<u8, SettingsError> {
    let routes = routes();
    let start = rand::random_range(0..64u8);
    (0..64u8)
        .map(|i| 64 + 2 * ((start + i) % 64))
        .find(|network| interface_of(&routes, *network).is_none())
        .ok_or(SettingsError::NoRange)
}

/// The interface of a route of the table (other than the default route) that overlaps 10.N.0.0/15.
fn interface_of(table: &str, network: u8) -> Option<String> {
    let wanted = u32::from(Ipv4Addr::new(10, network, 0, 0));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| fields.get(i).and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::swap_bytes);
        let (destination, mask) = (number(1)?, number(7)?);
        let common = mask & 0xfffe_0000;
        (mask != 0 && destination & common == wanted & common).then(|| fields[0].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_overlap_are_seen() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
                     eth0\t0000640A\t00000000\t0001\t0\t0\t0\t0000FFFF\n";
        assert_eq!(interface_of(table, 100).as_deref(), Some("eth0"));
        assert_eq!(interface_of(table, 102), None);
        assert_eq!(interface_of("h\nx\t0000000A\t0\t1\t0\t0\t0\t000000FF\n", 77).as_deref(), Some("x"));
    }

    #[test]
    fn pod_addresses_stay_in_their_half() {
        let plan = Addresses::new(100);
        assert_eq!(plan.pod(0), Ipv4Addr::new(10, 100, 0, 16));
        assert_eq!(plan.pod(240 * 256 - 17), Ipv4Addr::new(10, 100, 239, 255));
        assert_eq!(plan.pod(240 * 256 - 16), plan.pod(0));
    }
}
