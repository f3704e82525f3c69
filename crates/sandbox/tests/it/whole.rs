use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};
use sandbox::pace::Pace;
use sandbox::paths::Paths;
use sandbox::{Options, Sandbox};
use serde_json::json;

use crate::pods::able;

async fn start(paths: &Paths) -> Sandbox {
    let options = Options { paths: paths.clone(), nodes: Some(2), pace: Pace::QUICK, janitor: None };
    Sandbox::start(options).await.expect("start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_keeps_its_state() {
    if !able("a_sandbox_keeps_its_state") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("sandbox-it-whole-{}", std::process::id()));
    let paths = Paths::new(&dir).expect("paths");
    let began = Instant::now();
    let first = start(&paths).await;
    let nodes = Api::<Node>::all(first.client()).list(&ListParams::default()).await.expect("nodes");
    println!("up after {:?}", began.elapsed());
    assert_eq!(nodes.items.len(), 2);
    assert!(paths.kubeconfig().is_file());
    let second = Sandbox::start(Options { paths: paths.clone(), nodes: None, pace: Pace::QUICK, janitor: None });
    let error = Box::pin(second).await.expect_err("one sandbox for each directory");
    assert!(error.to_string().contains("runs in this directory already"), "{error}");

    let pod = json!({
        "metadata": { "name": "p" },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": "debian:13", "command": ["sleep", "1000"] }] },
    });
    let pods: Api<Pod> = Api::namespaced(first.client(), "default");
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("pod")).await.expect("create");
    ready(&pods, 0).await;
    first.shut_down(Duration::from_millis(100)).await;

    let again = start(&paths).await;
    let pods: Api<Pod> = Api::namespaced(again.client(), "default");
    ready(&pods, 1).await;
    again.shut_down(Duration::from_millis(100)).await;
    assert!(!paths.run().exists());
    std::fs::remove_dir_all(&dir).expect("nothing is mounted there any more");
}

/// Waits until the pod runs, with that many restarts.
async fn ready(pods: &Api<Pod>, restarts: i32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pod = pods.get("p").await.expect("pod");
        let status = pod.status.clone().unwrap_or_default();
        let container = status.container_statuses.iter().flatten().next();
        if container.is_some_and(|c| c.ready && c.restart_count == restarts) {
            return;
        }
        assert!(Instant::now() < deadline, "{status:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
