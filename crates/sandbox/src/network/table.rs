//! What the network and DNS know of services: a small copy of Services and EndpointSlices, kept by watching.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::services::{ServicePort, Transport};

/// Namespace and name.
pub type Key = (String, String);

/// What matters of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceEntry {
    /// Its address; `None` for headless services and external names.
    pub address: Option<Ipv4Addr>,
    /// Target of an `ExternalName` service.
    pub external_name: Option<String>,
    /// Ports by name (empty for the only, unnamed one).
    pub ports: Vec<(String, Transport, u16)>,
    sticky: bool,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name under a headless service.
    pub hostname: Option<String>,
    /// Whether connections should go there.
    pub ready: bool,
}

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceEntry {
    service: String,
    /// The endpoints.
    pub endpoints: Vec<EndpointEntry>,
    /// Target ports by the name of the service's port.
    pub ports: Vec<(String, Transport, u16)>,
}

/// Services and their endpoints.
#[derive(Debug, Default)]
pub struct Contents {
    services: BTreeMap<Key, ServiceEntry>,
    slices: BTreeMap<Key, SliceEntry>,
}

impl Contents {
    /// A service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether the namespace has any service.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.services.keys().any(|(ns, _)| ns == namespace)
    }

    /// The service that has this address.
    pub fn service_at(&self, address: Ipv4Addr) -> Option<&Key> {
        self.services.iter().find(|(_, s)| s.address == Some(address)).map(|(key, _)| key)
    }

    /// Slices of a service.
    pub fn slices<'a>(&'a self, namespace: &'a str, service: &'a str) -> impl Iterator<Item = &'a SliceEntry> {
        self.slices.iter().filter(move |((ns, _), slice)| ns == namespace && slice.service == service).map(|(_, s)| s)
    }

    /// Every port of every service that has an address.
    pub fn service_ports(&self) -> Vec<ServicePort> {
        // One pass over the slices, not one per service.
        let mut slices: HashMap<(&str, &str), Vec<&SliceEntry>> = HashMap::new();
        for ((namespace, _), slice) in &self.slices {
            slices.entry((namespace, &slice.service)).or_default().push(slice);
        }
        let mut result = Vec::new();
        for ((namespace, name), service) in &self.services {
            let Some(address) = service.address else { continue };
            let slices = slices.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
            for (port_name, transport, port) in &service.ports {
                let mut endpoints: Vec<(Ipv4Addr, u16)> = slices
                    .iter()
                    .flat_map(|slice| {
                        let target = slice.ports.iter().find(|(n, t, _)| n == port_name && t == transport);
                        target.into_iter().flat_map(|(_, _, target)| {
                            slice.endpoints.iter().filter(|e| e.ready).map(|e| (e.address, *target))
                        })
                    })
                    .collect();
                endpoints.sort_unstable();
                endpoints.dedup();
                let (transport, port, sticky) = (*transport, *port, service.sticky);
                result.push(ServicePort { address, transport, port, sticky, endpoints });
            }
        }
        result
    }
}

/// The shared table.
#[derive(Debug, Clone)]
pub struct ServiceTable {
    contents: Arc<RwLock<Contents>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Default for ServiceTable {
    fn default() -> Self {
        Self { contents: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }
}

impl ServiceTable {
    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        look(&self.contents.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn write(&self, change: impl FnOnce(&mut Contents) -> bool) {
        let changed = change(&mut self.contents.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    /// Follows the API until the future is dropped.
    pub async fn follow(&self, client: Client) {
        tokio::join!(self.follow_services(client.clone()), self.follow_slices(client));
    }

    async fn follow_services(&self, client: Client) {
        let mut stream = std::pin::pin!(watcher::watcher(Api::<Service>::all(client), watcher::Config::default()));
        let mut listed = BTreeMap::new();
        loop {
            match stream.try_next().await {
                Ok(Some(Event::Init)) => listed.clear(),
                Ok(Some(Event::InitApply(service))) => drop(listed.insert(key(&service), service_entry(&service))),
                Ok(Some(Event::InitDone)) => {
                    let new = std::mem::take(&mut listed);
                    self.write(|c| std::mem::replace(&mut c.services, new) != c.services);
                }
                Ok(Some(Event::Apply(service))) => {
                    let entry = service_entry(&service);
                    self.write(|c| c.services.insert(key(&service), entry.clone()) != Some(entry));
                }
                Ok(Some(Event::Delete(service))) => self.write(|c| c.services.remove(&key(&service)).is_some()),
                Ok(None) => return,
                Err(error) => pause("services", &error).await,
            }
        }
    }

    async fn follow_slices(&self, client: Client) {
        let mut stream =
            std::pin::pin!(watcher::watcher(Api::<EndpointSlice>::all(client), watcher::Config::default()));
        let mut listed = BTreeMap::new();
        loop {
            match stream.try_next().await {
                Ok(Some(Event::Init)) => listed.clear(),
                Ok(Some(Event::InitApply(slice))) => drop(listed.insert(key(&slice), slice_entry(&slice))),
                Ok(Some(Event::InitDone)) => {
                    let new = std::mem::take(&mut listed);
                    self.write(|c| std::mem::replace(&mut c.slices, new) != c.slices);
                }
                Ok(Some(Event::Apply(slice))) => {
                    let entry = slice_entry(&slice);
                    self.write(|c| c.slices.insert(key(&slice), entry.clone()) != Some(entry));
                }
                Ok(Some(Event::Delete(slice))) => self.write(|c| c.slices.remove(&key(&slice)).is_some()),
                Ok(None) => return,
                Err(error) => pause("endpoint slices", &error).await,
            }
        }
    }
}

async fn pause(what: &str, error: &watcher::Error) {
    tracing::warn!("watching {what}: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
}

fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

fn service_entry(service: &Service) -> ServiceEntry {
    let Some(spec) = &service.spec else { return ServiceEntry::default() };
    let external = spec.type_.as_deref() == Some("ExternalName");
    ServiceEntry {
        address: spec.cluster_ip.as_deref().filter(|_| !external).and_then(|ip| ip.parse().ok()),
        external_name: spec.external_name.clone().filter(|_| external),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                Some((p.name.clone().unwrap_or_default(), transport(p.protocol.as_deref())?, p.port as u16))
            })
            .collect(),
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
    }
}

fn slice_entry(slice: &EndpointSlice) -> SliceEntry {
    let endpoint = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
        Some(EndpointEntry {
            address: e.addresses.first()?.parse().ok()?,
            hostname: e.hostname.clone(),
            ready: e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true),
        })
    };
    SliceEntry {
        service: slice.labels().get("kubernetes.io/service-name").cloned().unwrap_or_default(),
        endpoints: slice.endpoints.iter().flatten().filter_map(endpoint).collect(),
        ports: slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                Some((p.name.clone().unwrap_or_default(), transport(p.protocol.as_deref())?, p.port? as u16))
            })
            .collect(),
    }
}
