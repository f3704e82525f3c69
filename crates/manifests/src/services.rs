//! How members are reached. Which services there are: design, "The topology, and how objects form it".

use std::collections::BTreeMap;

use api::names;
use api::spec::{MetadataTemplate, ServiceTemplate, SessionAffinity};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{Input, SERVES_LABEL, metadata};

/// Label that the StatefulSet controller puts on each pod.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";

type Selector = BTreeMap<String, String>;

fn selector<const N: usize>(labels: [(&str, &str); N]) -> Selector {
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

pub(crate) fn services(input: &Input<'_>) -> Vec<Service> {
    let name = &input.object.name;
    let templates = &input.object.services;
    let secondary = templates.secondary.clone().unwrap_or_default();
    let of_topology = |role: Option<&str>| {
        let mut labels = selector([(names::TOPOLOGY_LABEL, input.root.name.as_str())]);
        // The primary is the primary wherever it is; others must hold what the topology holds now.
        if role != Some(names::PRIMARY) {
            labels.insert(SERVES_LABEL.to_owned(), "topology".to_owned());
        }
        labels.extend(role.map(|role| (names::ROLE_LABEL.to_owned(), role.to_owned())));
        labels
    };
    let own = |role: Option<&str>| {
        let mut labels = names::selector(name);
        labels.extend(role.map(|role| (names::ROLE_LABEL.to_owned(), role.to_owned())));
        labels
    };
    let mut all = Vec::new();
    if input.is_root() {
        all.push(balanced(input, name, &templates.own, of_topology(None)));
        all.push(balanced(input, &names::primary_service(name), &templates.primary, of_topology(Some(names::PRIMARY))));
        all.push(balanced(input, &names::replica_service(name), &secondary, of_topology(Some(names::REPLICA))));
        if templates.secondary.is_some() {
            all.push(balanced(input, &names::secondary_service(name), &secondary, of_topology(Some(names::REPLICA))));
        }
    } else {
        all.push(balanced(input, name, &templates.own, own(None)));
        all.push(balanced(input, &names::replica_service(name), &secondary, own(Some(names::REPLICA))));
        if templates.secondary.is_some() {
            all.push(balanced(input, &names::secondary_service(name), &secondary, own(Some(names::REPLICA))));
        }
    }
    all.push(internal(input));
    all.extend((0..input.object.replicas.max(input.pods)).map(|ordinal| member(input, ordinal)));
    all
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

/// A service over several members, after a user's template.
fn balanced(input: &Input<'_>, name: &str, template: &ServiceTemplate, selector: Selector) -> Service {
    let ServiceTemplate {
        type_,
        metadata: given,
        annotations,
        session_affinity,
        load_balancer_ip,
        load_balancer_class,
        load_balancer_source_ranges,
        external_traffic_policy,
        allocate_load_balancer_node_ports,
    } = template.clone();
    let annotated = MetadataTemplate { labels: None, annotations };
    Service {
        metadata: metadata::child(input, name, &[&given.unwrap_or_default(), &annotated]),
        spec: Some(ServiceSpec {
            type_: Some(type_.unwrap_or_default().as_str().to_owned()),
            selector: Some(selector),
            ports: Some(vec![port("mysql", input.object.port)]),
            session_affinity: Some(
                match session_affinity.unwrap_or_default() {
                    SessionAffinity::None => "None",
                    SessionAffinity::ClientIP => "ClientIP",
                }
                .to_owned(),
            ),
            load_balancer_ip,
            load_balancer_class,
            load_balancer_source_ranges,
            external_traffic_policy: external_traffic_policy.map(|policy| format!("{policy:?}")),
            allocate_load_balancer_node_ports,
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Headless, also for members that are not ready: the StatefulSet's own.
fn internal(input: &Input<'_>) -> Service {
    Service {
        metadata: metadata::child(input, &names::internal_service(&input.object.name), &[]),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(&input.object.name)),
            ports: Some(vec![port("mysql", input.object.port), port("agent", protocol::AGENT_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// A member's own address, which outlives its pod's.
fn member(input: &Input<'_>, ordinal: u32) -> Service {
    let pod = names::pod(&input.object.name, ordinal);
    Service {
        metadata: metadata::child(input, &pod, &[]),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector([(POD_NAME_LABEL, pod.as_str())])),
            ports: Some(vec![port("mysql", input.object.port), port("agent", protocol::AGENT_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
