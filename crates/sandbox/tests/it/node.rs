use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use sandbox::events::Recorder;
use sandbox::images::ImageStore;
use sandbox::network::links::Links;
use sandbox::node::attachments::Attachments;
use sandbox::node::runtime::Runtime;
use sandbox::node::{NodeContext, Pods};
use sandbox::pace::Pace;
use serde_json::{Value, json};

use crate::pods::{Machine, able};

pub(crate) struct Node {
    client: kube::Client,
    pods: Pods,
    follow: tokio::task::JoinHandle<()>,
    pub(crate) api: Api<Pod>,
    machine: Machine,
}

impl Node {
    pub(crate) async fn new(name: &str) -> Self {
        let machine = Machine::new(name).await;
        let options = apiserver::Options { ca: Some("a certificate".to_owned()), ..apiserver::Options::default() };
        let server = apiserver::Server::open(options).expect("API server");
        let client = kube::Client::new(server.router(), "default");
        let addresses = BTreeMap::from([("node-1".to_owned(), machine.network.addresses().node(0))]);
        let context = Arc::new(NodeContext {
            client: client.clone(),
            paths: machine.paths.clone(),
            network: Arc::clone(&machine.network),
            images: ImageStore::new(machine.paths.images()),
            runtime: Arc::new(Runtime::new(&machine.paths.run()).expect("runtime")),
            events: Recorder::start(client.clone()),
            links: Arc::new(Links::new(Arc::clone(&machine.network), &addresses)),
            attachments: Attachments::default(),
            pace: Pace::QUICK,
        });
        let pods = Pods::new(context, addresses);
        let follow = tokio::spawn({
            let pods = pods.clone();
            async move { Box::pin(pods.follow()).await }
        });
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        while accounts.get_opt("default").await.expect("accounts").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { pods, follow, api: Api::default_namespaced(client.clone()), client, machine }
    }

    pub(crate) async fn create(&self, name: &str, spec: Value) -> Instant {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        spec["containers"][0]["image"] = json!("debian:13");
        let pod = json!({ "metadata": { "name": name }, "spec": spec });
        self.api.create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("create");
        Instant::now()
    }

    /// Waits until the pod's status is as wanted.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let pod = self.api.get_opt(name).await.expect("get");
            let pod = serde_json::to_value(pod).expect("json");
            if wanted(&pod) {
                return pod;
            }
            assert!(Instant::now() < deadline, "{name}: {what}\n{pod:#}\nevents: {:#?}", self.messages().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The pod's folder.
    pub(crate) fn pod_dir(&self, pod: &Value) -> PathBuf {
        self.machine.paths.pods().join(pod["metadata"]["uid"].as_str().expect("uid"))
    }

    pub(crate) async fn messages(&self) -> Vec<String> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let text =
            |e: &Event| format!("{} {}", e.reason.clone().unwrap_or_default(), e.message.clone().unwrap_or_default());
        events.list(&ListParams::default()).await.expect("events").iter().map(text).collect()
    }

    pub(crate) async fn finish(self) {
        self.pods.shut_down(Duration::from_secs(1)).await;
        self.follow.abort();
        drop(self.machine);
    }
}

pub(crate) fn state<'a>(pod: &'a Value, field: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0]["state"][field]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_and_end() {
    if !able("pods_run_and_end") {
        return;
    }
    let node = Node::new("pods").await;
    let began = node
        .create("web", json!({
            "terminationGracePeriodSeconds": 5,
            "initContainers": [{ "name": "init", "image": "debian:13", "command": ["sh", "-c", "echo hello > /data/file"], "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            "containers": [{
                "name": "main", "command": ["sh", "-c", "trap 'exit 7' TERM; cat /data/file /etc/hostname; while :; do sleep 0.05; done"],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                "readinessProbe": { "exec": { "command": ["cat", "/data/file"] }, "periodSeconds": 1 },
                "resources": { "limits": { "memory": "64Mi" } },
            }],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        }))
        .await;
    let pod = node
        .until("web", "ready", |p| {
            p["status"]["conditions"]
                .as_array()
                .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        })
        .await;
    println!("ready after {:?}", began.elapsed());
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let log = node.machine.paths.pods().join(pod["metadata"]["uid"].as_str().expect("uid")).join("logs/main/0.log");
    let text = std::fs::read_to_string(log).expect("log");
    assert!(text.contains(" stdout F hello\n") && text.contains(" stdout F web\n"), "{text}");

    let began = Instant::now();
    node.api.delete("web", &DeleteParams::default()).await.expect("delete");
    node.until("web", "gone", Value::is_null).await;
    println!("gone after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told() {
    if !able("failures_are_told") {
        return;
    }
    let node = Node::new("fail").await;
    node.create("crash", json!({ "containers": [{ "name": "main", "command": ["sh", "-c", "echo oh; exit 4"], "terminationMessagePolicy": "FallbackToLogsOnError" }] })).await;
    node.create(
        "once",
        json!({ "restartPolicy": "Never", "containers": [{ "name": "main", "command": ["sh", "-c", "exit 5"] }] }),
    )
    .await;
    node.create("secret", json!({ "containers": [{ "name": "main", "command": ["sleep", "60"], "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }] }] })).await;
    node.create("oom", json!({ "restartPolicy": "Never", "containers": [{ "name": "main", "command": ["sh", "-c", "tail /dev/zero"], "resources": { "limits": { "memory": "16Mi" } } }] })).await;
    node.create("root", json!({ "containers": [{ "name": "main", "command": ["sleep", "60"], "securityContext": { "runAsNonRoot": true } }] })).await;
    node.create("nobinary", json!({ "containers": [{ "name": "main", "command": ["/does/not/exist"] }] })).await;

    let pod = node.until("crash", "back-off", |p| state(p, "waiting")["reason"] == "CrashLoopBackOff").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 4);
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"], "oh\n");
    assert_eq!(pod["status"]["phase"], "Running");
    let pod = node.until("once", "failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(state(&pod, "terminated")["exitCode"], 5);
    let pod = node.until("oom", "killed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(state(&pod, "terminated")["reason"], "OOMKilled");
    let pod = node.until("root", "refused", |p| state(p, "waiting")["reason"] == "CreateContainerConfigError").await;
    assert_eq!(state(&pod, "waiting")["message"], "container has runAsNonRoot and image will run as root");
    node.until("nobinary", "start error", |p| p.to_string().contains("StartError")).await;

    let pod = node.until("secret", "waits", |p| state(p, "waiting")["reason"] == "CreateContainerConfigError").await;
    assert_eq!(state(&pod, "waiting")["message"], "secret \"s\" not found");
    let secrets: Api<Secret> = Api::namespaced(node.client.clone(), "default");
    let secret =
        serde_json::from_value(json!({ "metadata": { "name": "s" }, "data": { "k": "eA==" } })).expect("secret");
    secrets.create(&PostParams::default(), &secret).await.expect("create");
    node.until("secret", "runs", |p| !state(p, "running").is_null()).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_resolve_and_services_follow_endpoints() {
    if !able("names_resolve_and_services_follow_endpoints") {
        return;
    }
    let node = Node::new("dns").await;
    let table = sandbox::network::table::ServiceTable::default();
    let (network, client) = (Arc::clone(&node.machine.network), node.client.clone());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn({
        let (table, client) = (table.clone(), client.clone());
        async move { table.follow(client).await }
    });
    tasks.spawn({
        let table = table.clone();
        async move { sandbox::dns::serve(&network, table).await.expect("DNS") }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> = Api::namespaced(client.clone(), "default");
    let mut address = String::new();
    for (name, kind) in [("db-internal", json!("None")), ("db", Value::Null)] {
        let service = json!({ "metadata": { "name": name }, "spec": { "clusterIP": kind, "ports": [{ "name": "sql", "port": 3306 }] } });
        let service = serde_json::from_value(service).expect("service");
        let made = services.create(&PostParams::default(), &service).await.expect("create");
        address = made.spec.and_then(|s| s.cluster_ip).unwrap_or_default();
        let slice = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } }, "addressType": "IPv4",
            "endpoints": [{ "addresses": ["10.1.0.7"], "hostname": "db-0", "conditions": { "ready": true } }, { "addresses": ["10.1.0.8"], "hostname": "db-1", "conditions": { "ready": false } }],
            "ports": [{ "name": "sql", "port": 3306, "protocol": "TCP" }],
        });
        slices.create(&PostParams::default(), &serde_json::from_value(slice).expect("slice")).await.expect("create");
    }
    let script = "for n in db db.default db-internal.default.svc db-0.db-internal.default.svc.cluster.local db-1.db-internal nothing; do \
                  echo $n $(getent ahostsv4 $n | awk '{print $1}' | sort -u); done; hostname; getent hosts $(hostname) | awk '{print $2}'";
    node.create("asks", json!({ "restartPolicy": "Never", "hostname": "asker", "subdomain": "db-internal", "containers": [{ "name": "main", "command": ["bash", "-c", script] }] })).await;
    let pod = node.until("asks", "ended", |p| p["status"]["phase"] == "Succeeded").await;
    let log = node.machine.paths.pods().join(pod["metadata"]["uid"].as_str().expect("uid")).join("logs/main/0.log");
    let text = std::fs::read_to_string(log).expect("log");
    let lines: Vec<&str> = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    assert_eq!(
        lines,
        [
            format!("db {address}").as_str(),
            &format!("db.default {address}"),
            "db-internal.default.svc 10.1.0.7",
            "db-0.db-internal.default.svc.cluster.local 10.1.0.7",
            "db-1.db-internal",
            "nothing",
            "asker",
            "asker.db-internal.default.svc.cluster.local",
        ]
    );
    assert_eq!(
        table
            .read(sandbox::network::table::Contents::service_ports)
            .iter()
            .map(|p| p.endpoints.len())
            .collect::<Vec<_>>(),
        [1]
    );
    tasks.shutdown().await;
    node.finish().await;
}
