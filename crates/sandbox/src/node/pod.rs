//! The life of one pod: network and volumes, init containers, containers, and the end.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, KeyToPath, Pod, PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::container::{ContainerTask, Outcome, Restart};
use super::shared::{PodShared, Stop};
use super::status::is_sidecar;
use super::volumes::{self, VolumeContext};
use super::{bundle, mount, object_volumes};
use crate::network::links::Place;

/// Name of the volume that holds the service account's token where the pod's own volumes have none.
pub(crate) const ACCOUNT_VOLUME: &str = "sandbox.account";

/// Leads a pod from its arrival to its removal.
pub(crate) async fn run(shared: Arc<PodShared>) {
    let writer = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { shared.write_status().await }
    });
    let over =
        shared.pod().status.as_ref().and_then(|s| s.phase.clone()).is_some_and(|p| p == "Succeeded" || p == "Failed");
    if over {
        // Ended before the sandbox was started: only its logs are left.
        shared.update(|state| state.finished = true);
        writer.abort();
    } else {
        shared.update(|_| ());
        let refresh = tokio::spawn(keep_volumes_fresh(Arc::clone(&shared)));
        Box::pin(live(&shared)).await;
        refresh.abort();
    }
    release(&shared).await;
    let mut stop = shared.stop.subscribe();
    let _ = stop.wait_for(|stop| *stop != Stop::Run).await;
    writer.abort();
    if !shared.silent.load(Ordering::Relaxed) {
        shared.write_once(&mut serde_json::Value::Null).await;
        shared.delete_object().await;
    }
}

/// Everything up to the end of the last container.
async fn live(shared: &Arc<PodShared>) {
    let mut stop = shared.stop.subscribe();
    let deadline = shared.spec().active_deadline_seconds;
    let limit = async {
        match deadline {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.max(0) as u64)).await,
            None => std::future::pending().await,
        }
    };
    let work = work(shared);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        () = &mut work => {}
        () = limit => {
            let grace = shared.spec().termination_grace_period_seconds.unwrap_or(30);
            let text = "Pod was active on the node longer than the specified deadline".to_owned();
            shared.event(None, false, "DeadlineExceeded", text.clone());
            shared.update(|state| state.failure = Some(("DeadlineExceeded", text)));
            // The containers end; the object stays.
            shared.expire(Instant::now() + Duration::from_secs(grace.max(0) as u64));
            work.await;
        }
    }
    let stopped = *stop.borrow_and_update() != Stop::Run;
    shared.update(|state| {
        state.finished = true;
        if stopped {
            for status in state.init.iter_mut().chain(&mut state.main) {
                status.ready = false;
            }
        }
    });
}

async fn work(shared: &Arc<PodShared>) {
    let mut stop = shared.stopped();
    let prepared = tokio::select! {
        () = prepare(shared) => true,
        _ = stop.wait_for(|stop| *stop != Stop::Run) => false,
    };
    if !prepared {
        return;
    }
    let spec = shared.spec();
    let policy = match spec.restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    // Sidecars outlive the other containers.
    let sidecar_stop = watch::Sender::new(Stop::Run);
    let mut sidecars = JoinSet::new();
    let initialized = initialize(shared, &spec, policy, &sidecar_stop, &mut sidecars).await;
    if initialized {
        shared.update(|state| state.initialized = true);
        let mut containers = JoinSet::new();
        for container in &spec.containers {
            containers.spawn(task(shared, container, policy, shared.stopped()).run());
        }
        while containers.join_next().await.is_some() {}
    }
    let grace = spec.termination_grace_period_seconds.unwrap_or(30).max(0) as u64;
    let until = match *shared.stopped().borrow() {
        Stop::Run => Stop::Graceful(Instant::now() + Duration::from_secs(grace)),
        told => told,
    };
    sidecar_stop.send_replace(until);
    let mut hurry = shared.stopped();
    loop {
        tokio::select! {
            ended = sidecars.join_next() => if ended.is_none() { return },
            changed = hurry.changed(), if !sidecars.is_empty() => {
                let told = *hurry.borrow_and_update();
                if changed.is_ok() && told != Stop::Run {
                    sidecar_stop.send_replace(told);
                }
            }
        }
    }
}

fn task(
    shared: &Arc<PodShared>,
    container: &Container,
    restart: Restart,
    stop: watch::Receiver<Stop>,
) -> ContainerTask {
    ContainerTask { shared: Arc::clone(shared), container: Arc::new(container.clone()), restart, stop }
}

/// Runs the init containers in order; false when the pod goes no further.
async fn initialize(
    shared: &Arc<PodShared>,
    spec: &PodSpec,
    policy: Restart,
    sidecar_stop: &watch::Sender<Stop>,
    sidecars: &mut JoinSet<Outcome>,
) -> bool {
    for container in spec.init_containers.iter().flatten() {
        if *shared.stopped().borrow() != Stop::Run {
            return false;
        }
        if is_sidecar(spec, &container.name) {
            sidecars.spawn(task(shared, container, Restart::Always, sidecar_stop.subscribe()).run());
            let started = async {
                loop {
                    let mut state = shared.state();
                    if state.container(&container.name).is_some_and(|s| s.started == Some(true)) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut stop = shared.stopped();
            tokio::select! {
                () = started => {}
                _ = stop.wait_for(|stop| *stop != Stop::Run) => return false,
            }
            continue;
        }
        let restart = if policy == Restart::Never { Restart::Never } else { Restart::OnFailure };
        match Box::pin(task(shared, container, restart, shared.stopped()).run()).await {
            Outcome::Exited(0) => {}
            Outcome::Exited(_) | Outcome::Stopped => return false,
        }
    }
    *shared.stopped().borrow() == Stop::Run
}

/// Network, files and volumes; tries until everything is there.
async fn prepare(shared: &Arc<PodShared>) {
    let mut delay = Duration::from_millis(100);
    loop {
        let problem = match Box::pin(prepare_once(shared)).await {
            Ok(()) => return,
            Err(problem) => problem,
        };
        shared.event(None, true, problem.0, problem.1);
        let refresh = shared.refresh.notified();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = refresh => {}
        }
        delay = (delay * 2).min(Duration::from_secs(3));
    }
}

async fn prepare_once(shared: &Arc<PodShared>) -> Result<(), (&'static str, String)> {
    let sandbox = |text: String| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {text}"));
    let spec = shared.spec();
    if spec.host_network == Some(true) || spec.host_pid == Some(true) || spec.host_ipc == Some(true) {
        return Err(sandbox("hostNetwork, hostPID and hostIPC are not supported by the sandbox".to_owned()));
    }
    let network = shared.network.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if network.is_none() {
        let address = connect(shared).await.map_err(sandbox)?;
        let place = Place { node: shared.node.clone(), namespace: shared.namespace.clone(), name: shared.name.clone() };
        shared.context.links.add_pod(address, place).await.map_err(|e| sandbox(e.to_string()))?;
        write_files(shared, &spec, address).map_err(|e| sandbox(e.to_string()))?;
        shared.update(|state| state.address = Some(address));
    }
    let (pod, facts, dir) = (shared.pod(), shared.facts(), shared.dir().join("volumes"));
    let context = VolumeContext { node: &shared.context, pod: &pod, facts: &facts, dir: &dir };
    for volume in all_volumes(&pod) {
        let path = volumes::prepare(&context, &volume).await.map_err(|e| (e.reason(), e.to_string()))?;
        shared.volumes.lock().unwrap_or_else(PoisonError::into_inner).insert(volume.name, path);
    }
    Ok(())
}

/// Makes the pod's place in the network. It is made whole also when nobody waits for it any more: what is not known to be there is
/// never taken away.
async fn connect(shared: &Arc<PodShared>) -> Result<Ipv4Addr, String> {
    let connecting = Arc::clone(&shared.connecting).lock_owned().await;
    let shared = Arc::clone(shared);
    let task = tokio::spawn(async move {
        let network = shared.context.network.add_pod(&key(&shared.uid)).await.map_err(|e| e.to_string())?;
        let address = network.address;
        *shared.network.lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
        drop(connecting);
        Ok(address)
    });
    task.await.map_err(|e| e.to_string())?
}

/// A pod's short name for interfaces and namespaces.
fn key(uid: &str) -> String {
    uid.chars().filter(char::is_ascii_alphanumeric).take(12).collect()
}

/// The pod's volumes, and the service account's token where the pod has no volume for it.
pub(crate) fn all_volumes(pod: &Pod) -> Vec<Volume> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut volumes = spec.volumes.clone().unwrap_or_default();
    let has_token = |v: &Volume| {
        v.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|s| s.service_account_token.is_some())
    };
    if spec.automount_service_account_token != Some(false) && !volumes.iter().any(has_token) {
        volumes.push(account_volume());
    }
    volumes
}

fn account_volume() -> Volume {
    let certificate = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None, user: None }]),
        optional: Some(true),
    };
    let namespace =
        serde_json::json!({ "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] });
    let token = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(3607),
        path: "token".to_owned(),
        user: None,
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(certificate), ..VolumeProjection::default() },
        VolumeProjection { downward_api: serde_json::from_value(namespace).ok(), ..VolumeProjection::default() },
    ];
    Volume {
        name: ACCOUNT_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o644),
            sources: Some(sources),
            default_user: None,
        }),
        ..Volume::default()
    }
}

fn write_files(shared: &PodShared, spec: &PodSpec, address: Ipv4Addr) -> std::io::Result<()> {
    let etc = shared.dir().join("etc");
    std::fs::create_dir_all(&etc)?;
    let hostname = shared.hostname();
    std::fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
    std::fs::write(etc.join("hosts"), bundle::hosts(spec, &hostname, &shared.namespace, address))?;
    let dns = shared.context.network.addresses().dns();
    std::fs::write(etc.join("resolv.conf"), bundle::resolv_conf(spec, &shared.namespace, dns))?;
    let memory = shared.dir().join("shm");
    std::fs::create_dir_all(&memory)?;
    mount::unmount_below(&memory);
    mount::tmpfs(&memory, Some(64 << 20), 0o1777)
}

/// Rewrites volumes when objects that they come from have changed, and tokens before they expire.
async fn keep_volumes_fresh(shared: Arc<PodShared>) {
    let mut object = shared.pod.subscribe();
    let mut labels = (shared.pod().metadata.labels.clone(), shared.pod().metadata.annotations.clone());
    // Tokens live for an hour.
    let mut renewal = tokio::time::interval(Duration::from_secs(40 * 60));
    renewal.tick().await;
    loop {
        tokio::select! {
            () = shared.refresh.notified() => {}
            _ = renewal.tick() => {}
            changed = object.changed() => {
                let pod = shared.pod();
                let new = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                if changed.is_err() || new == labels {
                    continue;
                }
                labels = new;
            }
        }
        // A kubelet that is cut off hears of no change; everything is written anew when it is back.
        shared.context.links.until_reaching(&shared.node).await;
        let ready = shared.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (pod, facts, dir) = (shared.pod(), shared.facts(), shared.dir().join("volumes"));
        let context = VolumeContext { node: &shared.context, pod: &pod, facts: &facts, dir: &dir };
        for volume in all_volumes(&pod) {
            if !volumes::is_from_objects(&volume) || !ready.contains_key(&volume.name) {
                continue;
            }
            if let Err(error) = object_volumes::write_objects(&context, &volume).await {
                shared.event(None, true, "FailedMount", error.to_string());
            }
        }
    }
}

/// Gives back what the pod holds besides its files and logs.
async fn release(shared: &PodShared) {
    let _connected = shared.connecting.lock().await;
    let network = shared.network.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(network) = network {
        let removed = shared.context.network.remove_pod(&network).await;
        let left = shared.context.links.remove_pod(network.address).await;
        for error in removed.err().into_iter().chain(left.err()) {
            tracing::warn!("{}/{}: {error}", shared.namespace, shared.name);
        }
    }
    let group = shared.cgroup();
    let dir = shared.dir();
    let _ = tokio::task::spawn_blocking(move || {
        crate::cgroup::destroy(&group);
        mount::unmount_below(&dir);
        let _ = std::fs::remove_dir_all(dir.join("containers"));
    })
    .await;
    shared.context.attachments.detach(&shared.uid);
}

/// Removes what is left of a pod whose object is gone.
pub(crate) fn forget(dir: &std::path::Path) {
    mount::unmount_below(dir);
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {error}", dir.display());
    }
}
