//! The watches that fill [`Inputs`]: one for each kind, whatever the number of topologies.

use api::{MariaDB, names};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Inputs;

/// Starts the watches and waits until each has seen everything once.
pub async fn inputs(client: kube::Client, recorder: Recorder, stop: &CancellationToken) -> Option<Inputs> {
    let changed = watch::Sender::new(0);
    let ours = watcher::Config::default().labels(&format!("{}=mariadb,{}", names::NAME_LABEL, names::INSTANCE_LABEL));
    let objects = reflect::<MariaDB>(&client, watcher::Config::default(), slim, changed.clone(), stop);
    let pods = reflect::<Pod>(&client, ours.clone(), slim_pod, changed.clone(), stop);
    let claims = reflect::<PersistentVolumeClaim>(&client, ours, slim, changed.clone(), stop);
    let inputs = Inputs { client, objects, pods, claims, changed: changed.subscribe(), recorder };
    let ready = async {
        inputs.objects.wait_until_ready().await.ok()?;
        inputs.pods.wait_until_ready().await.ok()?;
        inputs.claims.wait_until_ready().await.ok()
    };
    tokio::select! {
        () = stop.cancelled() => None,
        ready = ready => ready.map(|()| inputs),
    }
}

fn reflect<K>(
    client: &kube::Client,
    config: watcher::Config,
    slim: fn(&mut K),
    changed: watch::Sender<u64>,
    stop: &CancellationToken,
) -> Store<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(move |object| {
            object.managed_fields_mut().clear();
            slim(object);
        })
        .reflect(writer);
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = stream.next() => match event {
                    None => return,
                    Some(Ok(_)) => changed.send_modify(|n| *n += 1),
                    Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "watch"),
                },
            }
        }
    });
    store
}

fn slim<K>(_: &mut K) {}

/// What of a pod is looked at: its metadata, node, address and states.
fn slim_pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        let node = spec.node_name.take();
        *spec = k8s_openapi::api::core::v1::PodSpec { node_name: node, ..Default::default() };
    }
}
