//! EndpointSlices: which pods stand behind a service, and which of them are ready.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt as _};

use super::caches::Caches;
use super::pods::{controlled_by, is_going, is_over, is_ready, matches, suffix};
use super::{Sweep, classic_endpoints, tolerate};
use crate::events::reference;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

pub(super) struct Endpoints {
    client: Client,
    /// Made in a sweep, not yet seen: name by service.
    made: BTreeMap<String, String>,
}

impl Endpoints {
    pub(super) fn new(client: Client) -> Self {
        Self { client, made: BTreeMap::new() }
    }

    async fn service(&mut self, caches: &Caches, service: &Service) -> Result<(), kube::Error> {
        let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.clone()).filter(|s| !s.is_empty())
        else {
            return Ok(());
        };
        let namespace = service.namespace().unwrap_or_default();
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        let name = service.name_any();
        let own: Vec<_> = caches
            .slices
            .state()
            .into_iter()
            .filter(|slice| {
                slice.namespace().as_deref() == Some(&namespace)
                    && slice.labels().get(SERVICE_NAME) == Some(&name)
                    && slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
            })
            .collect();
        let selector = LabelSelector { match_labels: Some(selector), match_expressions: None };
        let pods: Vec<_> = caches
            .pods
            .state()
            .into_iter()
            .filter(|pod| {
                pod.namespace().as_deref() == Some(&namespace) && matches(&selector, pod.metadata.labels.as_ref())
            })
            .collect();
        let unready = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
        let mut endpoints: Vec<_> = pods.iter().filter_map(|pod| endpoint(pod, service, unready)).collect();
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let ports = ports(service, pods.first().map(|pod| &**pod));
        classic_endpoints::follow(&self.client, caches, service, &endpoints, &ports).await?;

        let key = format!("{namespace}/{name}/{}", service.uid().unwrap_or_default());
        let Some(existing) = own.first() else {
            if self.made.contains_key(&key) {
                return Ok(());
            }
            let slice = slice(service, &format!("{name}-{}", suffix()), endpoints, ports);
            if let Some(made) = tolerate(api.create(&PostParams::default(), &slice).await)? {
                self.made.insert(key, made.name_any());
            }
            return Ok(());
        };
        self.made.remove(&key);
        for extra in &own[1..] {
            tolerate(api.delete(&extra.name_any(), &DeleteParams::default()).await)?;
        }
        let same = existing.endpoints.as_deref().unwrap_or_default() == endpoints
            && existing.ports.as_deref().unwrap_or_default() == ports;
        if same {
            return Ok(());
        }
        let mut changed = slice(service, &existing.name_any(), endpoints, ports);
        changed.metadata.resource_version = existing.resource_version();
        changed.metadata.generate_name.clone_from(&existing.metadata.generate_name);
        tolerate(api.replace(&existing.name_any(), &PostParams::default(), &changed).await).map(drop)
    }
}

fn slice(service: &Service, name: &str, endpoints: Vec<Endpoint>, ports: Vec<EndpointPort>) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controlled_by(service)]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}

fn endpoint(pod: &Pod, service: &Service, unready: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if is_over(pod) {
        return None;
    }
    let serving = is_ready(pod);
    let terminating = is_going(pod);
    let spec = pod.spec.as_ref()?;
    let named = spec.hostname.is_some() && spec.subdomain.as_deref() == Some(service.name_any().as_str());
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(unready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: if named { spec.hostname.clone() } else { None },
        node_name: spec.node_name.clone(),
        target_ref: Some({
            let mut target = reference(pod);
            target.api_version = None;
            target.resource_version = None;
            target
        }),
        ..Endpoint::default()
    })
}

fn ports(service: &Service, pod: Option<&Pod>) -> Vec<EndpointPort> {
    let by_name = |name: &str| {
        pod.and_then(|pod| pod.spec.as_ref())
            .into_iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = match &port.target_port {
                Some(IntOrString::Int(0)) | None => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => by_name(name)?,
            };
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

impl Sweep for Endpoints {
    const NAME: &'static str = "endpointslice-controller";

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = classic_endpoints::clean_up(&self.client, caches).await;
        for service in caches.services.state() {
            if service.metadata.deletion_timestamp.is_none()
                && let Err(error) = self.service(caches, &service).await
            {
                result = Err(error);
            }
        }
        result
    }
}
