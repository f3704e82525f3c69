//! Persistent volumes: sizes that are enforced and grow, and volumes made by hand.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::pods::able;
use crate::world::{LIMIT, World, from};

fn pod_with(claim: &str) -> Value {
    json!({
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }],
        "mounts": [{ "name": "v", "mountPath": "/v" }],
    })
}

async fn until(claims: &Api<PersistentVolumeClaim>, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let claim = serde_json::to_value(claims.get(name).await.expect("claim")).expect("json");
        if holds(&claim) {
            return claim;
        }
        assert!(Instant::now() < deadline, "{name}: {what}: {claim:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_grows_with_its_claim() {
    if !able("a_file_system_grows_with_its_claim") {
        return;
    }
    let world = World::new("grow").await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client());
    let claim = json!({ "metadata": { "name": "c" }, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "limited", "resources": { "requests": { "storage": "32Mi" } },
    } });
    claims.create(&PostParams::default(), &from(claim)).await.expect("claim");
    world.pod("p", "node-1", pod_with("c")).await;
    world.ready("p").await;
    let volume = claims.get("c").await.expect("claim").spec.and_then(|s| s.volume_name).expect("a volume");
    let folder = world.paths.volumes().join(volume);
    let size = || rustix::fs::statvfs(&folder).map(|s| s.f_blocks * s.f_frsize).expect("statvfs") >> 20;
    assert!((20..32).contains(&size()), "{} MiB", size());
    std::fs::write(folder.join("data"), "kept").expect("write");

    let patch = json!({ "spec": { "resources": { "requests": { "storage": "64Mi" } } } });
    claims.patch("c", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patch");
    let told = |claim: &Value| claim["status"]["capacity"]["storage"] == "64Mi";
    let waits = |claim: &Value| {
        claim["status"]["conditions"][0]["message"].as_str().is_some_and(|m| m.contains("(re-)start a pod"))
    };
    // Whether it grows in use depends on what this machine's root may do; the claim says what is so.
    let claim = until(&claims, "c", "grown, or waiting", |c| told(c) || waits(c)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    if !told(&claim) && size() < 32 {
        println!("grows when it is mounted anew");
        world.pods().delete("p", &DeleteParams::default()).await.expect("delete");
        world.until("p", "gone", Value::is_null).await;
        world.pod("p", "node-1", pod_with("c")).await;
        world.ready("p").await;
    }
    let claim = until(&claims, "c", "grown", |c| told(c)).await;
    assert!(claim["status"]["conditions"].is_null(), "{claim:#}");
    assert!((45..64).contains(&size()), "{} MiB", size());
    assert_eq!(std::fs::read_to_string(folder.join("data")).expect("read"), "kept");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_made_by_hand_are_bound() {
    if !able("volumes_made_by_hand_are_bound") {
        return;
    }
    let world = World::new("by-hand").await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client());
    let volumes: Api<PersistentVolume> = Api::all(world.client());
    let volume = |name: &str, size: &str, source: Value| {
        let mut volume = json!({ "metadata": { "name": name }, "spec": {
            "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"], "storageClassName": "own",
        } });
        volume["spec"].as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        volume
    };
    let on_node_2 = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"] } ] }] } });
    for object in [
        volume("large", "9Gi", json!({ "hostPath": { "path": "/data/large" } })),
        volume("right", "2Gi", json!({ "local": { "path": "/data/right" }, "nodeAffinity": on_node_2 })),
        volume(
            "remote",
            "1Gi",
            json!({ "nfs": { "server": "s", "path": "/p" }, "claimRef": { "namespace": "default", "name": "b" } }),
        ),
    ] {
        volumes.create(&PostParams::default(), &from(object)).await.expect("volume");
    }
    for name in ["a", "b"] {
        let claim = json!({ "metadata": { "name": name }, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "own", "resources": { "requests": { "storage": "1Gi" } },
        } });
        claims.create(&PostParams::default(), &from(claim)).await.expect("claim");
    }
    let bound =
        |claim: &Value, volume: &str| claim["status"]["phase"] == "Bound" && claim["spec"]["volumeName"] == volume;
    let claim = until(&claims, "a", "bound", |c| bound(c, "right")).await;
    assert_eq!(claim["status"]["capacity"]["storage"], "2Gi");
    until(&claims, "b", "bound", |c| bound(c, "remote")).await;
    // Without a node given, the scheduler goes where the volume is.
    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "main", "image": "debian:13", "command": ["sh", "-c", "echo 1 > /v/x && sleep 1000"],
                         "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "a" } }],
    } });
    world.pods().create(&PostParams::default(), &from(pod)).await.expect("pod");
    let pod = world.ready("p").await;
    assert_eq!(pod["spec"]["nodeName"], "node-2");
    let file = world.paths.volumes().join("right/x");
    let deadline = Instant::now() + LIMIT;
    while std::fs::read_to_string(&file).unwrap_or_default() != "1\n" {
        assert!(Instant::now() < deadline, "nothing is written into the volume");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What the sandbox cannot mount it says.
    world.pod("q", "node-1", pod_with("b")).await;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(world.client());
    while !events.list(&kube::api::ListParams::default()).await.expect("events").iter().any(|e| {
        e.message.as_ref().is_some_and(|m| m.contains("neither hostPath nor local is not supported by the sandbox"))
    }) {
        assert!(Instant::now() < deadline + LIMIT, "no event");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.pods().delete("p", &DeleteParams::default()).await.expect("delete");
    claims.delete("a", &DeleteParams::default()).await.expect("delete");
    let deadline = Instant::now() + LIMIT;
    while volumes.get("right").await.expect("kept").status.and_then(|s| s.phase).as_deref() != Some("Released") {
        assert!(Instant::now() < deadline, "not released");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.end().await;
}
