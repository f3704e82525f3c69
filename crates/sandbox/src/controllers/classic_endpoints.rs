//! `Endpoints`, the older form of EndpointSlices, for those who still read it (`kubectl get endpoints`).

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as ClassicPort, EndpointSubset, Endpoints, ObjectReference,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};

use super::caches::Caches;
use super::tolerate;

const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Makes the object of a service say what its slices say.
pub(super) async fn follow(
    client: &Client,
    caches: &Caches,
    service: &Service,
    endpoints: &[Endpoint],
    ports: &[EndpointPort],
) -> Result<(), kube::Error> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let wanted = subsets(endpoints, ports);
    let known = caches.endpoints.find(|e| e.name_any() == name && e.namespace().as_deref() == Some(&namespace));
    let api: Api<Endpoints> = Api::namespaced(client.clone(), &namespace);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    let mut object = Endpoints {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace),
            labels: (!labels.is_empty()).then_some(labels),
            annotations: Some([(LAST_CHANGE.to_owned(), jiff::Timestamp::now().to_string())].into()),
            ..ObjectMeta::default()
        },
        subsets: (!wanted.is_empty()).then_some(wanted),
    };
    match known {
        Some(known)
            if known.subsets.as_deref().unwrap_or_default() == object.subsets.as_deref().unwrap_or_default() =>
        {
            Ok(())
        }
        Some(known) => {
            object.metadata.resource_version = known.resource_version();
            tolerate(api.replace(&name, &PostParams::default(), &object).await).map(drop)
        }
        None => tolerate(api.create(&PostParams::default(), &object).await).map(drop),
    }
}

/// Removes the objects of services that are gone: nothing owns them.
pub(super) async fn clean_up(client: &Client, caches: &Caches) -> Result<(), kube::Error> {
    for object in caches.endpoints.state() {
        let made_here = object.annotations().contains_key(LAST_CHANGE);
        let service = caches
            .services
            .find(|service| service.name_any() == object.name_any() && service.namespace() == object.namespace());
        if made_here && service.is_none() {
            let api: Api<Endpoints> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
            tolerate(api.delete(&object.name_any(), &DeleteParams::default()).await)?;
        }
    }
    Ok(())
}

fn subsets(endpoints: &[Endpoint], ports: &[EndpointPort]) -> Vec<EndpointSubset> {
    let address = |endpoint: &Endpoint| {
        Some(EndpointAddress {
            ip: endpoint.addresses.first()?.clone(),
            hostname: endpoint.hostname.clone(),
            node_name: endpoint.node_name.clone(),
            target_ref: endpoint.target_ref.clone().map(|target| ObjectReference { api_version: None, ..target }),
        })
    };
    let of = |ready: bool| -> Option<Vec<EndpointAddress>> {
        let is_ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true) == ready;
        let addresses: Vec<_> = endpoints.iter().filter(is_ready).filter_map(address).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let (addresses, not_ready_addresses) = (of(true), of(false));
    if addresses.is_none() && not_ready_addresses.is_none() {
        return Vec::new();
    }
    let ports: Vec<ClassicPort> = ports
        .iter()
        .map(|port| ClassicPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    vec![EndpointSubset { addresses, not_ready_addresses, ports: (!ports.is_empty()).then_some(ports) }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readiness_sorts_addresses() {
        let endpoint = |ip: &str, ready: bool| -> Endpoint {
            serde_json::from_value(json!({ "addresses": [ip], "conditions": { "ready": ready } })).expect("an endpoint")
        };
        let port: EndpointPort =
            serde_json::from_value(json!({ "name": "", "port": 3306, "protocol": "TCP" })).expect("a port");
        let found = subsets(&[endpoint("10.0.0.1", true), endpoint("10.0.0.2", false)], &[port]);
        assert_eq!(
            serde_json::to_value(found).expect("json"),
            json!([{
                "addresses": [{ "ip": "10.0.0.1" }], "notReadyAddresses": [{ "ip": "10.0.0.2" }],
                "ports": [{ "port": 3306, "protocol": "TCP" }],
            }])
        );
        assert!(subsets(&[], &[]).is_empty());
    }
}
