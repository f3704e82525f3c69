//! Follows what NetworkPolicies are made from, and keeps the packet filter as they say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::watch;

use super::Network;
use super::links::Links;
use super::policies::{PolicyPod, PolicyWorld, rules};

/// Keeps the rules as the policies say. Never returns.
pub(crate) async fn follow(client: Client, network: Arc<Network>, links: Arc<Links>) {
    let kick = Arc::new(watch::Sender::new(()));
    let policies = store::<NetworkPolicy>(&client, &kick, |_| ());
    let namespaces = store::<Namespace>(&client, &kick, |namespace| namespace.spec = None);
    let pods = store::<Pod>(&client, &kick, |pod| {
        if let Some(spec) = &mut pod.spec {
            spec.volumes = None;
            spec.init_containers = None;
        }
    });
    let ready = tokio::join!(policies.wait_until_ready(), namespaces.wait_until_ready(), pods.wait_until_ready());
    drop(ready);
    let mut changes = kick.subscribe();
    let mut applied = rules(&PolicyWorld::default());
    loop {
        changes.mark_unchanged();
        let mut world = PolicyWorld {
            policies: policies.state().iter().map(|policy| (**policy).clone()).collect(),
            ..PolicyWorld::default()
        };
        // Without policies, nothing is looked at for each change of a pod.
        if !world.policies.is_empty() {
            world.namespaces =
                namespaces.state().iter().map(|ns| (ns.name_any(), ns.labels().clone())).collect::<BTreeMap<_, _>>();
            world.pods = pods.state().iter().map(|pod| seen(pod, &links)).collect();
            // The cluster's DNS is the sandbox itself; policies know it as a cluster's DNS pods.
            world.pods.push(PolicyPod {
                namespace: "kube-system".to_owned(),
                labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
                address: Some(network.addresses().dns()),
                ports: vec![("dns".into(), "UDP".into(), 53), ("dns-tcp".into(), "TCP".into(), 53)],
                ..PolicyPod::default()
            });
        }
        world.pods.sort_by_key(|pod| pod.address);
        let text = rules(&world);
        if text != applied {
            match network.apply_rules(text.clone()).await {
                Ok(()) => applied = text,
                Err(error) => tracing::error!("network policies: {error}"),
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn seen(pod: &Pod, links: &Links) -> PolicyPod {
    let over = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
    let address = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let ports = pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten());
    PolicyPod {
        namespace: pod.namespace().unwrap_or_default(),
        labels: pod.labels().clone(),
        address: address.filter(|_| !over),
        node: links.read(|table| table.nodes.get(node).and_then(|link| link.address)),
        ports: ports
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
            })
            .collect(),
    }
}

fn store<K>(client: &Client, kick: &Arc<watch::Sender<()>>, strip: fn(&mut K)) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let (api, kick) = (Api::<K>::all(client.clone()), Arc::clone(kick));
    tokio::spawn(async move {
        let stream = watcher(api, watcher::Config::default()).default_backoff().modify(move |object| {
            object.meta_mut().managed_fields = None;
            strip(object);
        });
        let mut stream = std::pin::pin!(stream.reflect(writer));
        while let Some(event) = stream.next().await {
            if event.is_ok() {
                kick.send_replace(());
            }
        }
    });
    reader
}
