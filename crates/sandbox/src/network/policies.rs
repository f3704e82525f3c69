//! NetworkPolicies as nftables rules. Pure: policies, pods and namespaces in, text for `nft` out.
//!
//! A pod that a policy selects gets a chain for each direction that the policy is about; what no policy allows is dropped
//! there. Rules see addresses after those of services were replaced, as on a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::controllers::matches;

type Labels = BTreeMap<String, String>;

/// What policies see of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PolicyPod {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) address: Option<Ipv4Addr>,
    /// Its node's address: kubelets always reach their pods.
    pub(crate) node: Option<Ipv4Addr>,
    /// Ports by name and protocol.
    pub(crate) ports: Vec<(String, String, u16)>,
}

/// Everything that rules are made from.
#[derive(Debug, Default)]
pub(crate) struct PolicyWorld {
    pub(crate) policies: Vec<NetworkPolicy>,
    pub(crate) pods: Vec<PolicyPod>,
    /// Labels by name.
    pub(crate) namespaces: BTreeMap<String, Labels>,
}

/// One direction of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// Rules for all policies: a transaction that replaces the whole table.
pub(crate) fn rules(world: &PolicyWorld) -> String {
    let mut text = String::from("table ip policies\ndelete table ip policies\n");
    let mut chains = String::new();
    let mut jumps: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for (i, pod) in world.pods.iter().enumerate() {
        let Some(address) = pod.address else { continue };
        for (direction, jumps) in [Direction::Ingress, Direction::Egress].into_iter().zip(&mut jumps) {
            let mine: Vec<&NetworkPolicy> =
                world.policies.iter().filter(|policy| selects(policy, pod, direction)).collect();
            if mine.is_empty() {
                continue;
            }
            let name = format!("{}{i}", if direction == Direction::Ingress { "in" } else { "out" });
            let _ = writeln!(chains, "chain {name} {{");
            // A pod reaches itself, and its node reaches it.
            let own = if direction == Direction::Ingress { "saddr" } else { "daddr" };
            for friend in [Some(address), pod.node.filter(|_| direction == Direction::Ingress)].into_iter().flatten() {
                let _ = writeln!(chains, "ip {own} {friend} return");
            }
            let allowed: BTreeSet<String> =
                mine.iter().flat_map(|policy| allowed(world, policy, pod, direction)).collect();
            for rule in allowed {
                let _ = writeln!(chains, "{rule} return");
            }
            chains.push_str("drop\n}\n");
            jumps.push(format!("{address} : jump {name}"));
        }
    }
    if chains.is_empty() {
        return text;
    }
    text.push_str("table ip policies {\n");
    text.push_str(&chains);
    for (name, field, jumps) in [("ingress", "daddr", &jumps[0]), ("egress", "saddr", &jumps[1])] {
        let _ = writeln!(text, "chain {name} {{");
        if !jumps.is_empty() {
            let _ = writeln!(text, "ip {field} vmap {{ {} }}", jumps.join(", "));
        }
        text.push_str("}\n");
    }
    text.push_str(
        "chain forward {\ntype filter hook forward priority 10\nct state established,related accept\n\
         jump egress\njump ingress\n}\n\
         chain input {\ntype filter hook input priority 10\nct state established,related accept\njump egress\n}\n\
         chain output {\ntype filter hook output priority 10\nct state established,related accept\njump ingress\n}\n}\n",
    );
    text
}

fn selects(policy: &NetworkPolicy, pod: &PolicyPod, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let about = match direction {
        Direction::Ingress => types.is_empty() || types.iter().any(|t| t == "Ingress"),
        Direction::Egress => {
            types.iter().any(|t| t == "Egress")
                || types.is_empty() && spec.egress.as_ref().is_some_and(|e| !e.is_empty())
        }
    };
    about
        && policy.namespace().as_deref() == Some(&pod.namespace)
        && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, Some(&pod.labels)))
}

/// Peers and ports of a rule, in either direction.
type Rule = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

fn allowed(world: &PolicyWorld, policy: &NetworkPolicy, pod: &PolicyPod, direction: Direction) -> Vec<String> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let own = policy.namespace().unwrap_or_default();
    let ingress = |rule: &NetworkPolicyIngressRule| (rule.from.clone(), rule.ports.clone());
    let egress = |rule: &NetworkPolicyEgressRule| (rule.to.clone(), rule.ports.clone());
    let rules: Vec<Rule> = match direction {
        Direction::Ingress => spec.ingress.iter().flatten().map(ingress).collect(),
        Direction::Egress => spec.egress.iter().flatten().map(egress).collect(),
    };
    let field = if direction == Direction::Ingress { "saddr" } else { "daddr" };
    let mut text = Vec::new();
    for (peers, ports) in rules {
        let ports = ports.unwrap_or_default();
        let peers = peers.unwrap_or_default();
        if peers.is_empty() {
            text.extend(port_matches(&ports, Some(pod)).into_iter().map(|port| port.trim().to_owned()));
        }
        for peer in &peers {
            if let Some(block) = &peer.ip_block {
                let mut matching = format!("ip {field} {}", block.cidr);
                for except in block.except.iter().flatten() {
                    let _ = write!(matching, " ip {field} != {except}");
                }
                text.extend(port_matches(&ports, Some(pod)).into_iter().map(|port| format!("{matching}{port}")));
                continue;
            }
            for other in world.pods.iter().filter(|other| is_peer(world, peer, other, &own)) {
                let Some(address) = other.address else { continue };
                // A port's name is the receiver's.
                let receiver = if direction == Direction::Ingress { pod } else { other };
                let ports = port_matches(&ports, Some(receiver));
                text.extend(ports.into_iter().map(|port| format!("ip {field} {address}{port}")));
            }
        }
    }
    text
}

fn is_peer(world: &PolicyWorld, peer: &NetworkPolicyPeer, pod: &PolicyPod, own: &str) -> bool {
    let namespace = match &peer.namespace_selector {
        None => pod.namespace == own,
        Some(selector) => matches(selector, world.namespaces.get(&pod.namespace)),
    };
    namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, Some(&pod.labels)))
}

/// Matches for ports, each beginning with a space; one empty match for every port.
fn port_matches(ports: &[NetworkPolicyPort], receiver: Option<&PolicyPod>) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    let mut found = Vec::new();
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        match (&port.port, port.end_port) {
            (None, _) => found.push(format!(" meta l4proto {lower}")),
            (Some(IntOrString::Int(first)), Some(last)) => found.push(format!(" {lower} dport {first}-{last}")),
            (Some(IntOrString::Int(number)), None) => found.push(format!(" {lower} dport {number}")),
            (Some(IntOrString::String(name)), _) => {
                let ports = receiver.map(|pod| pod.ports.as_slice()).unwrap_or_default();
                let named = ports.iter().filter(|(known, proto, _)| known == name && proto == protocol);
                found.extend(named.map(|(_, _, number)| format!(" {lower} dport {number}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(namespace: &str, app: &str, d: u8) -> PolicyPod {
        PolicyPod {
            namespace: namespace.into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            address: Some(Ipv4Addr::new(10, 70, 0, d)),
            node: Some(Ipv4Addr::new(10, 70, 250, 1)),
            ports: vec![("sql".into(), "TCP".into(), 3306)],
        }
    }

    fn check(spec: Value, chain: &str, expected: &[&str]) {
        let policy = serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": spec }));
        let world = PolicyWorld {
            policies: vec![policy.expect("a policy")],
            pods: vec![pod("a", "db", 1), pod("a", "web", 2), pod("b", "web", 3)],
            namespaces: [
                ("a".to_owned(), Labels::new()),
                ("b".to_owned(), [("team".to_owned(), "x".to_owned())].into()),
            ]
            .into(),
        };
        let text = rules(&world);
        let body = text.split(&format!("chain {chain} {{\n")).nth(1).and_then(|t| t.split("}\n").next());
        let lines: Vec<&str> = body.unwrap_or_default().lines().collect();
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn policies_become_chains() {
        let db = json!({ "matchLabels": { "app": "db" } });
        let web = json!({ "matchLabels": { "app": "web" } });
        let own = ["ip saddr 10.70.0.1 return", "ip saddr 10.70.250.1 return"];
        check(json!({ "podSelector": db, "policyTypes": ["Ingress"] }), "in0", &[own[0], own[1], "drop"]);
        check(json!({ "podSelector": db, "policyTypes": ["Ingress"] }), "in1", &[]);
        check(json!({ "podSelector": db, "policyTypes": ["Ingress"] }), "out0", &[]);
        check(
            json!({ "podSelector": db, "ingress": [{ "from": [{ "podSelector": web }], "ports": [{ "port": "sql" }] }] }),
            "in0",
            &[own[0], own[1], "ip saddr 10.70.0.2 tcp dport 3306 return", "drop"],
        );
        check(
            json!({ "podSelector": db, "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "team": "x" } } }] }] }),
            "in0",
            &[own[0], own[1], "ip saddr 10.70.0.3 return", "drop"],
        );
        check(
            json!({ "podSelector": db, "policyTypes": ["Egress"], "egress": [
                { "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.70.0.0/16"] } }], "ports": [{ "port": 80, "endPort": 90 }] },
                { "ports": [{ "port": 53, "protocol": "UDP" }] },
            ] }),
            "out0",
            &[
                "ip daddr 10.70.0.1 return",
                "ip daddr 10.0.0.0/8 ip daddr != 10.70.0.0/16 tcp dport 80-90 return",
                "udp dport 53 return",
                "drop",
            ],
        );
    }

    #[test]
    fn without_policies_there_is_no_table() {
        assert_eq!(rules(&PolicyWorld::default()), "table ip policies\ndelete table ip policies\n");
    }
}
