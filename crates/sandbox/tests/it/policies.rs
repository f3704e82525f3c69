//! NetworkPolicies are enforced.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::pods::able;
use crate::world::{World, address, from, reaches, restarts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_say_who_reaches_a_pod() {
    if !able("policies_say_who_reaches_a_pod") {
        return;
    }
    let world = World::new("policies").await;
    world.pod("web", "node-1", json!({})).await;
    let web = address(&world.ready("web").await);
    assert!(reaches(web).await);
    let policies: Api<NetworkPolicy> = Api::default_namespaced(world.client());
    let policy = json!({
        "metadata": { "name": "web" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
                  "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "friend": "yes" } } }], "ports": [{ "port": 80 }] }] },
    });
    policies.create(&PostParams::default(), &from(policy)).await.expect("policy");
    while reaches(web).await {}
    // A node's probes are not asked.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(restarts(&world.ready("web").await), 0);

    let client = async |name: &str, friend: &str| {
        let script = format!("exit !IO::Socket::INET->new(PeerAddr=>'{web}',PeerPort=>80,Timeout=>2)");
        let pod = json!({
            "metadata": { "name": name, "labels": { "friend": friend } },
            "spec": { "restartPolicy": "Never", "nodeName": "node-2", "containers": [
                { "name": "main", "image": "debian:13", "command": ["perl", "-MIO::Socket::INET", "-e", script] } ] },
        });
        world.pods().create(&PostParams::default(), &from(pod)).await.expect("pod");
        let over = |p: &serde_json::Value| p["status"]["phase"] == "Succeeded" || p["status"]["phase"] == "Failed";
        world.until(name, "over", over).await["status"]["phase"].clone()
    };
    assert_eq!(client("stranger", "no").await, "Failed");
    assert_eq!(client("friend", "yes").await, "Succeeded");

    let host = world.settings().addresses().host();
    let patch = json!({ "spec": { "ingress": [{ "from": [{ "ipBlock": { "cidr": format!("{host}/32") } }] }] } });
    policies.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patch");
    while !reaches(web).await {}
    policies.delete("web", &kube::api::DeleteParams::default()).await.expect("delete");
    assert_eq!(client("anybody", "no").await, "Succeeded");
    world.end().await;
}
