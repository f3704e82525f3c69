//! Who reaches whom: nodes that are stopped or cut off, and the packet filter that makes it so for their pods.
//!
//! Packets between pods, and between pods and the API or DNS, all pass the cluster's namespace, so a cut is a few rules
//! there. What a cut drops is dropped in silence, also on connections that exist: nobody is told by a reset. A node's own
//! address (its kubelet asks probes from there) belongs to the node, so a node that is cut off still probes its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::{Network, NetworkError};
use crate::settings::Addresses;

/// What a node is cut off from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// The API server: the kubelet falls silent, and the node's pods do not reach it.
    Api,
    /// Another node and its pods.
    Node(String),
    /// One pod, wherever it runs.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Peer {
    /// What people write: `api`, `pod/NAME` (in `namespace`), or a node's name.
    pub fn parse(text: &str, namespace: &str) -> Self {
        match text.strip_prefix("pod/") {
            Some(name) => Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() },
            None if text == "api" => Self::Api,
            None => Self::Node(text.to_owned()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Node(name) => f.write_str(name),
            Self::Pod { namespace, name } => write!(f, "pod/{name} (namespace {namespace})"),
        }
    }
}

/// What is wrong with one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLink {
    /// The node's own address.
    pub address: Option<Ipv4Addr>,
    /// Nothing runs on it.
    pub stopped: bool,
    /// Cut off from everything outside of it.
    pub cut: bool,
    /// Cut off from these only.
    pub from: BTreeSet<Peer>,
}

impl NodeLink {
    fn is_whole(&self) -> bool {
        !self.stopped && !self.cut && self.from.is_empty()
    }
}

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its node.
    pub node: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All nodes, and the pods that have addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkTable {
    /// By name.
    pub nodes: BTreeMap<String, NodeLink>,
    /// By address.
    pub pods: BTreeMap<Ipv4Addr, Place>,
    /// Whether the API server is away for everybody but the administrator.
    pub api_away: bool,
}

impl LinkTable {
    /// Whether a node's kubelet talks with the API.
    pub fn reaches_api(&self, node: &str) -> bool {
        let link = self.nodes.get(node);
        !self.api_away && link.is_none_or(|l| !l.stopped && !l.cut && !l.from.contains(&Peer::Api))
    }

    /// Every fault that lasts, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, link) in &self.nodes {
            if link.stopped {
                lines.push(format!("node {name} is stopped"));
            }
            if link.cut {
                lines.push(format!("node {name} is cut off from everything"));
            }
            lines.extend(link.from.iter().map(|peer| format!("node {name} is cut off from {peer}")));
        }
        lines
    }

    fn members(&self, node: &str) -> impl Iterator<Item = Ipv4Addr> {
        let own = self.nodes.get(node).and_then(|l| l.address);
        self.pods.iter().filter(move |(_, place)| place.node == node).map(|(ip, _)| *ip).chain(own)
    }

    /// The packet filter's rules: a transaction that replaces all of them.
    fn rules(&self, addresses: Addresses) -> String {
        let mut text = String::from("table ip faults\ndelete table ip faults\n");
        let ill: Vec<(&String, &NodeLink)> = self.nodes.iter().filter(|(_, l)| !l.is_whole()).collect();
        if ill.is_empty() {
            return text;
        }
        text.push_str("table ip faults {\nchain cut {\n");
        let list = |addresses: &mut dyn Iterator<Item = Ipv4Addr>| {
            let addresses: BTreeSet<Ipv4Addr> = addresses.collect();
            addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ")
        };
        for (name, link) in ill {
            let own = list(&mut self.members(name));
            if own.is_empty() {
                continue;
            }
            if link.stopped || link.cut {
                if !link.stopped {
                    let _ = writeln!(text, "ip saddr {{ {own} }} ip daddr {{ {own} }} accept");
                }
                let _ = writeln!(text, "ip saddr {{ {own} }} drop\nip daddr {{ {own} }} drop");
                continue;
            }
            for peer in &link.from {
                let others = match peer {
                    Peer::Api => addresses.api().to_string(),
                    Peer::Node(other) => list(&mut self.members(other)),
                    Peer::Pod { namespace, name } => {
                        let named = |place: &Place| place.namespace == *namespace && place.name == *name;
                        list(&mut self.pods.iter().filter(|(_, place)| named(place)).map(|(ip, _)| *ip))
                    }
                };
                if !others.is_empty() {
                    let _ = writeln!(
                        text,
                        "ip saddr {{ {own} }} ip daddr {{ {others} }} drop\nip saddr {{ {others} }} ip daddr {{ {own} }} drop"
                    );
                }
            }
        }
        text.push_str("}\n");
        for hook in ["forward", "input", "output"] {
            let _ = writeln!(text, "chain {hook} {{\ntype filter hook {hook} priority 0\njump cut\n}}");
        }
        text.push_str("}\n");
        text
    }
}

/// The table, shared, and the packet filter that follows it.
#[derive(Debug)]
pub struct Links {
    network: Arc<Network>,
    table: watch::Sender<LinkTable>,
    /// The rules that are in force; held while they change.
    applied: Mutex<String>,
}

impl Links {
    /// Whole links for these nodes.
    pub fn new(network: Arc<Network>, nodes: &BTreeMap<String, Ipv4Addr>) -> Self {
        let nodes = nodes
            .iter()
            .map(|(name, address)| (name.clone(), NodeLink { address: Some(*address), ..NodeLink::default() }))
            .collect();
        let table = LinkTable { nodes, ..LinkTable::default() };
        let applied = Mutex::new(LinkTable::default().rules(network.addresses()));
        Self { network, table: watch::Sender::new(table), applied }
    }

    /// Follows the table.
    pub fn subscribe(&self) -> watch::Receiver<LinkTable> {
        self.table.subscribe()
    }

    /// Looks at the table.
    pub fn read<T>(&self, look: impl FnOnce(&LinkTable) -> T) -> T {
        look(&self.table.borrow())
    }

    /// Whether a node's kubelet talks with the API.
    pub fn reaches_api(&self, node: &str) -> bool {
        self.read(|table| table.reaches_api(node))
    }

    /// Resolves when it does.
    pub async fn until_reaching(&self, node: &str) {
        let _ = self.table.subscribe().wait_for(|table| table.reaches_api(node)).await;
    }

    /// Changes the table; when this returns, packets flow (or do not) as it says.
    pub async fn change<T>(&self, edit: impl FnOnce(&mut LinkTable) -> T) -> Result<T, NetworkError> {
        let mut applied = self.applied.lock().await;
        let mut next = self.table.borrow().clone();
        let result = edit(&mut next);
        let text = next.rules(self.network.addresses());
        if text != *applied {
            self.network.apply_rules(text.clone()).await?;
            *applied = text;
        }
        self.table.send_if_modified(|table| {
            let differs = *table != next;
            *table = next;
            differs
        });
        Ok(result)
    }

    /// A pod has got its address.
    pub async fn add_pod(&self, address: Ipv4Addr, place: Place) -> Result<(), NetworkError> {
        self.change(|table| drop(table.pods.insert(address, place))).await
    }

    /// A pod's network is gone. The address of a pod of a stopped node stays dead until the node starts: whoever still
    /// talks to it must hear nothing, and no other pod may get it.
    pub async fn remove_pod(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let kept = self
            .change(|table| {
                let stopped = |place: &Place| table.nodes.get(&place.node).is_some_and(|l| l.stopped);
                let keep = table.pods.get(&address).is_some_and(stopped);
                if !keep {
                    table.pods.remove(&address);
                }
                keep
            })
            .await?;
        if !kept {
            self.network.free(address);
        }
        Ok(())
    }

    /// A stopped node starts: the addresses of its former pods are free.
    pub async fn start_node(&self, node: &str) -> Result<(), NetworkError> {
        let freed = self
            .change(|table| {
                if let Some(link) = table.nodes.get_mut(node) {
                    link.stopped = false;
                }
                let freed: Vec<Ipv4Addr> =
                    table.pods.iter().filter(|(_, place)| place.node == node).map(|(ip, _)| *ip).collect();
                table.pods.retain(|_, place| place.node != node);
                freed
            })
            .await?;
        for address in freed {
            self.network.free(address);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> LinkTable {
        let node = |d| NodeLink { address: Some(Ipv4Addr::new(10, 70, 250, d)), ..NodeLink::default() };
        let place = |node: &str, name: &str| Place { node: node.into(), namespace: "ns".into(), name: name.into() };
        LinkTable {
            nodes: [("a".to_owned(), node(1)), ("b".to_owned(), node(2))].into(),
            pods: [
                (Ipv4Addr::new(10, 70, 0, 16), place("a", "p")),
                (Ipv4Addr::new(10, 70, 0, 17), place("b", "q")),
                (Ipv4Addr::new(10, 70, 0, 18), place("b", "r")),
            ]
            .into(),
            api_away: false,
        }
    }

    fn check(edit: impl FnOnce(&mut NodeLink), expected: &[&str]) {
        let mut table = table();
        edit(table.nodes.get_mut("a").expect("node a"));
        let text = table.rules(Addresses::new(70));
        let rules: Vec<&str> = text.lines().filter(|l| l.starts_with("ip ")).collect();
        assert_eq!(rules, expected);
    }

    #[test]
    fn cuts_become_rules() {
        check(|_| (), &[]);
        check(
            |l| l.cut = true,
            &[
                "ip saddr { 10.70.0.16, 10.70.250.1 } ip daddr { 10.70.0.16, 10.70.250.1 } accept",
                "ip saddr { 10.70.0.16, 10.70.250.1 } drop",
                "ip daddr { 10.70.0.16, 10.70.250.1 } drop",
            ],
        );
        check(
            |l| l.stopped = true,
            &["ip saddr { 10.70.0.16, 10.70.250.1 } drop", "ip daddr { 10.70.0.16, 10.70.250.1 } drop"],
        );
        check(
            |l| {
                l.from.insert(Peer::Api);
            },
            &[
                "ip saddr { 10.70.0.16, 10.70.250.1 } ip daddr { 10.71.0.1 } drop",
                "ip saddr { 10.71.0.1 } ip daddr { 10.70.0.16, 10.70.250.1 } drop",
            ],
        );
        check(
            |l| {
                l.from.insert(Peer::Node("b".into()));
            },
            &[
                "ip saddr { 10.70.0.16, 10.70.250.1 } ip daddr { 10.70.0.17, 10.70.0.18, 10.70.250.2 } drop",
                "ip saddr { 10.70.0.17, 10.70.0.18, 10.70.250.2 } ip daddr { 10.70.0.16, 10.70.250.1 } drop",
            ],
        );
        check(
            |l| {
                l.from.insert(Peer::Pod { namespace: "ns".into(), name: "r".into() });
            },
            &[
                "ip saddr { 10.70.0.16, 10.70.250.1 } ip daddr { 10.70.0.18 } drop",
                "ip saddr { 10.70.0.18 } ip daddr { 10.70.0.16, 10.70.250.1 } drop",
            ],
        );
    }

    #[test]
    fn kubelets_fall_silent() {
        let mut table = table();
        assert!(table.reaches_api("a"));
        table.nodes.get_mut("a").expect("node a").from.insert(Peer::Node("b".into()));
        assert!(table.reaches_api("a"));
        table.nodes.get_mut("a").expect("node a").from.insert(Peer::Api);
        assert!(!table.reaches_api("a") && table.reaches_api("b"));
        table.api_away = true;
        assert!(!table.reaches_api("b"));
    }
}
