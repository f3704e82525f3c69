//! What pods may ask for beyond one plain container: each works, or is refused with a clear event.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::node::{Node, state};
use crate::pods::able;

fn is(pod: &Value, condition: &str, status: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == condition && c["status"] == status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_start_before_and_end_after_the_others() {
    if !able("sidecars_start_before_and_end_after_the_others") {
        return;
    }
    let node = Node::new("sidecar").await;
    let stamp = |who: &str| format!("echo {who} $(date +%s.%N) >> /s/log");
    let mount = json!([{ "name": "s", "mountPath": "/s" }]);
    node.create("p", json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
        "volumes": [{ "name": "s", "emptyDir": {} }],
        "initContainers": [
            { "name": "side", "image": "debian:13", "restartPolicy": "Always", "volumeMounts": mount,
              "command": ["bash", "-c", format!("trap '{}; exit 0' TERM; {}; touch /s/up; while :; do sleep 0.05; done", stamp("side-end"), stamp("side-begin"))],
              "startupProbe": { "exec": { "command": ["cat", "/s/up"] }, "periodSeconds": 1 } },
            { "name": "init", "image": "debian:13", "volumeMounts": mount, "command": ["bash", "-c", format!("cat /s/up && {}", stamp("init"))] },
        ],
        "containers": [{ "name": "main", "volumeMounts": mount, "command": ["bash", "-c", format!("sleep 0.3; {}", stamp("main"))] }],
    }))
    .await;
    let pod = node.until("p", "succeeded", |p| p["status"]["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let log = node.pod_dir(&pod).join("volumes/s/log");
    let text = std::fs::read_to_string(log).expect("log");
    let order: Vec<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(order, ["side-begin", "init", "main", "side-end"]);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_after_the_start_and_before_the_end() {
    if !able("hooks_run_after_the_start_and_before_the_end") {
        return;
    }
    let node = Node::new("hooks").await;
    let hook = |command: &str| json!({ "exec": { "command": ["sh", "-c", command] } });
    node.create("p", json!({
        "terminationGracePeriodSeconds": 20,
        "volumes": [{ "name": "s", "emptyDir": {} }],
        "containers": [{
            "name": "main", "volumeMounts": [{ "name": "s", "mountPath": "/s" }],
            "command": ["bash", "-c", "trap 'cp /s/pre /s/at-term; exit 0' TERM; while :; do sleep 0.05; done"],
            "lifecycle": { "postStart": hook("sleep 0.3; echo yes > /s/post"), "preStop": hook("sleep 0.3; echo yes > /s/pre") },
        }],
    }))
    .await;
    let pod = node.until("p", "ready", |p| is(p, "Ready", "True")).await;
    let file = |name: &str| std::fs::read_to_string(node.pod_dir(&pod).join("volumes/s").join(name));
    assert_eq!(file("post").expect("before it is ready"), "yes\n");
    assert!(file("pre").is_err());
    node.api.delete("p", &DeleteParams::default()).await.expect("delete");
    let until = Instant::now() + Duration::from_secs(10);
    // The folder goes with the pod.
    let mut seen = false;
    while node.api.get_opt("p").await.expect("get").is_some() {
        seen |= file("at-term").is_ok_and(|text| text == "yes\n");
        assert!(Instant::now() < until, "the pod does not go");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen, "the hook was over before the signal came");

    node.create("bad", json!({ "terminationGracePeriodSeconds": 0, "containers": [{ "name": "main", "command": ["sleep", "100"], "lifecycle": { "postStart": hook("exit 3") } }] })).await;
    node.until("bad", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"].as_i64() > Some(0)).await;
    let messages = node.messages().await;
    assert!(messages.iter().any(|m| m.starts_with("FailedPostStartHook PostStartHook failed")), "{messages:#?}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_volumes_are_mounted() {
    if !able("parts_of_volumes_are_mounted") {
        return;
    }
    let node = Node::new("subpath").await;
    node.create("p", json!({
        "restartPolicy": "Never",
        "volumes": [{ "name": "s", "emptyDir": {} }],
        "containers": [{
            "name": "main", "env": [{ "name": "ME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            "volumeMounts": [
                { "name": "s", "mountPath": "/all" },
                { "name": "s", "mountPath": "/part", "subPath": "a/b" },
                { "name": "s", "mountPath": "/own", "subPathExpr": "of-$(ME)" },
                { "name": "s", "mountPath": "/ro", "subPath": "a", "readOnly": true },
            ],
            "command": ["sh", "-c", "set -e; echo 1 > /part/x; echo 2 > /own/y; cat /all/a/b/x /all/of-p/y /ro/b/x; ! touch /ro/z"],
        }],
    }))
    .await;
    let pod = node.until("p", "ended", |p| !state(p, "terminated").is_null()).await;
    assert_eq!(state(&pod, "terminated")["exitCode"], 0, "{pod:#}");

    node.create("out", json!({
        "volumes": [{ "name": "s", "emptyDir": {} }],
        "initContainers": [{ "name": "link", "image": "debian:13", "command": ["ln", "-s", "/etc", "/s/out"], "volumeMounts": [{ "name": "s", "mountPath": "/s" }] }],
        "containers": [{ "name": "main", "command": ["sleep", "60"], "volumeMounts": [{ "name": "s", "mountPath": "/e", "subPath": "out" }] }],
    }))
    .await;
    let pod = node.until("out", "refused", |p| state(p, "waiting")["reason"] == "CreateContainerConfigError").await;
    assert_eq!(state(&pod, "waiting")["message"], "subPath \"out\" leads out of the volume");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_gates_wait_for_their_condition() {
    if !able("readiness_gates_wait_for_their_condition") {
        return;
    }
    let node = Node::new("gates").await;
    node.create(
        "p",
        json!({
            "readinessGates": [{ "conditionType": "example.com/in" }],
            "containers": [{ "name": "main", "command": ["sleep", "60"] }],
        }),
    )
    .await;
    node.until("p", "containers ready", |p| is(p, "ContainersReady", "True") && is(p, "Ready", "False")).await;
    let gate = |status: &str| json!({ "status": { "conditions": [{ "type": "example.com/in", "status": status }] } });
    for (status, ready) in [("True", "True"), ("False", "False")] {
        let patch = Patch::Strategic(gate(status));
        node.api.patch_status("p", &PatchParams::default(), &patch).await.expect("patch");
        node.until("p", "gate", |p| is(p, "Ready", ready) && is(p, "ContainersReady", "True")).await;
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_refused() {
    if !able("what_is_left_out_is_refused") {
        return;
    }
    let node = Node::new("refused").await;
    for (name, volume, text) in [
        ("host", json!({ "hostPath": { "path": "/etc" } }), "hostPath is not supported by the sandbox"),
        ("nfs", json!({ "nfs": { "server": "a", "path": "/b" } }), "nfs is not supported by the sandbox"),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        node.create(name, json!({ "volumes": [volume], "containers": [{ "name": "main", "command": ["true"] }] }))
            .await;
        let until = Instant::now() + Duration::from_secs(10);
        while !node.messages().await.iter().any(|m| m.contains(text)) {
            assert!(Instant::now() < until, "{:#?}", node.messages().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    node.finish().await;
}
