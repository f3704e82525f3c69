//! Services as nftables rules. Pure: services and their ready endpoints in, text for `nft` out.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::settings::Addresses;

/// Transport of a service's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// As `nft` and DNS write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of one service and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's address.
    pub address: Ipv4Addr,
    /// TCP or UDP.
    pub transport: Transport,
    /// The service's port.
    pub port: u16,
    /// Whether a client's connections always go to the same endpoint (`sessionAffinity: ClientIP`).
    pub sticky: bool,
    /// Ready endpoints.
    pub endpoints: Vec<(Ipv4Addr, u16)>,
}

/// Rules for all services: a transaction that replaces the whole table. Ports without endpoints get no rule, and the
/// kernel refuses connections to them at once.
pub fn rules(addresses: Addresses, ports: &[ServicePort]) -> String {
    let mut text = String::from("table ip sandbox\ndelete table ip sandbox\ntable ip sandbox {\n");
    let served = || ports.iter().filter(|port| !port.endpoints.is_empty()).enumerate();
    let own: BTreeSet<Ipv4Addr> = served().flat_map(|(_, p)| p.endpoints.iter().map(|e| e.0)).collect();
    text.push_str("set hairpin {\ntype ipv4_addr . ipv4_addr\n");
    elements(&mut text, own.iter().map(|ip| format!("{ip} . {ip}")));
    text.push_str("}\n");
    for (i, port) in served() {
        let transport = port.transport.name();
        let _ = write!(text, "chain s{i} {{\nmeta l4proto {transport} dnat ip to ");
        if let [(ip, port)] = port.endpoints.as_slice() {
            let _ = writeln!(text, "{ip}:{port}");
        } else {
            let count = port.endpoints.len();
            let choice = if port.sticky { "jhash ip saddr" } else { "numgen random" };
            let _ = write!(text, "{choice} mod {count} map {{ ");
            for (n, (ip, port)) in port.endpoints.iter().enumerate() {
                let _ = write!(text, "{}{n} : {ip} . {port}", if n == 0 { "" } else { ", " });
            }
            text.push_str(" }\n");
        }
        text.push_str("}\n");
    }
    text.push_str("map services {\ntype ipv4_addr . inet_proto . inet_service : verdict\n");
    elements(
        &mut text,
        served().map(|(i, p)| format!("{} . {} . {} : goto s{i}", p.address, p.transport.name(), p.port)),
    );
    let services = addresses.services();
    let _ = write!(
        text,
        "}}\n\
         chain balance {{\nip daddr . meta l4proto . th dport vmap @services\n}}\n\
         chain prerouting {{\ntype nat hook prerouting priority -100\nip daddr {services} jump balance\n}}\n\
         chain output {{\ntype nat hook output priority -100\nip daddr {services} jump balance\n}}\n\
         chain postrouting {{\ntype nat hook postrouting priority 100\nip saddr . ip daddr @hairpin masquerade\n}}\n\
         }}\n"
    );
    text
}

fn elements(text: &mut String, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if !items.is_empty() {
        let _ = writeln!(text, "elements = {{ {} }}", items.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_become_chains() {
        let ip = |d| Ipv4Addr::new(10, 70, 0, d);
        let service = |d, sticky, endpoints| ServicePort {
            address: Ipv4Addr::new(10, 71, 0, d),
            transport: Transport::Tcp,
            port: 3306,
            sticky,
            endpoints,
        };
        let text = rules(
            Addresses::new(70),
            &[
                service(5, false, vec![]),
                service(6, false, vec![(ip(2), 3306)]),
                service(7, true, vec![(ip(2), 3306), (ip(3), 3307)]),
            ],
        );
        assert!(text.contains("chain s0 {\nmeta l4proto tcp dnat ip to 10.70.0.2:3306\n}"), "{text}");
        assert!(text.contains("jhash ip saddr mod 2 map { 0 : 10.70.0.2 . 3306, 1 : 10.70.0.3 . 3307 }"), "{text}");
        assert!(text.contains("10.71.0.7 . tcp . 3306 : goto s1"), "{text}");
        assert!(!text.contains("10.71.0.5 "), "{text}");
        assert!(text.contains("elements = { 10.70.0.2 . 10.70.0.2, 10.70.0.3 . 10.70.0.3 }"), "{text}");
    }
}
