//! A whole sandbox for tests.

use std::net::{IpAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::PostParams;
use sandbox::faults::{Fault, NodeAct, PodAct, VolumeAct};
use sandbox::pace::Pace;
use sandbox::paths::Paths;
use sandbox::{Options, Sandbox};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// A whole sandbox of three nodes, in this process.
pub(crate) struct World {
    sandbox: Option<Sandbox>,
    pub(crate) paths: Paths,
}

pub(crate) fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

impl World {
    pub(crate) async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sandbox-it-{name}-{}", std::process::id()));
        let paths = Paths::new(&dir).expect("paths");
        // A node is missed sooner than by default, so that the tests are short.
        let pace = Pace { heartbeat: Duration::from_millis(500), node_grace: Duration::from_secs(3), ..Pace::QUICK };
        let options = Options { paths: paths.clone(), nodes: Some(3), pace, janitor: None };
        let sandbox = Sandbox::start(options).await.expect("start");
        Self { sandbox: Some(sandbox), paths }
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client())
    }

    /// A pod on a node, that listens on port 80 and is ready once it does.
    pub(crate) async fn pod(&self, name: &str, node: &str, mut more: Value) {
        let serve = "$s=IO::Socket::INET->new(LocalPort=>80,Listen=>9,ReuseAddr=>1); while($c=$s->accept){close $c}";
        let mut pod = json!({
            "metadata": { "name": name, "labels": { "app": "web" } },
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 1,
                "tolerations": [{ "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": more["tolerated"].as_i64().unwrap_or(2) }],
                "containers": [{
                    "name": "main", "image": "debian:13", "command": ["perl", "-MIO::Socket::INET", "-e", serve],
                    "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 },
                    "livenessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1, "failureThreshold": 2 },
                    "volumeMounts": more["mounts"].take(),
                }],
                "volumes": more["volumes"].take(),
            },
        });
        if pod["spec"]["volumes"].is_null() {
            pod["spec"]["volumes"] = json!([]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
        }
        self.pods().create(&PostParams::default(), &from(pod)).await.expect("create");
    }

    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let pod = serde_json::to_value(self.pods().get_opt(name).await.expect("get")).expect("json");
            if holds(&pod) {
                return pod;
            }
            assert!(Instant::now() < deadline, "{name}: {what}: {pod:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn ready(&self, name: &str) -> Value {
        self.until(name, "ready", |p| is(p, "Ready", "True")).await
    }

    pub(crate) async fn node_is(&self, name: &str, status: &str) -> Node {
        let nodes: Api<Node> = Api::all(self.client());
        let deadline = Instant::now() + LIMIT;
        loop {
            let node = nodes.get(name).await.expect("node");
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let tainted = node.spec.as_ref().is_some_and(|s| s.taints.as_ref().is_some_and(|t| !t.is_empty()));
            if conditions.clone().any(|c| c.type_ == "Ready" && c.status == status) && tainted == (status != "True") {
                return node;
            }
            assert!(Instant::now() < deadline, "{name} is not {status}: {node:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn throw(&self, fault: Fault) -> String {
        self.faults().apply(fault).await.expect("a switch")
    }

    pub(crate) async fn node(&self, name: &str, act: NodeAct) -> String {
        self.throw(Fault::Node { name: name.to_owned(), act }).await
    }

    pub(crate) async fn process(&self, name: &str, process: Option<&str>, act: PodAct) -> String {
        let process = process.map(str::to_owned);
        self.throw(Fault::Pod { namespace: "default".into(), name: name.into(), container: None, process, act }).await
    }

    pub(crate) async fn volume(&self, claim: &str, act: VolumeAct) -> String {
        self.throw(Fault::Volume { namespace: "default".into(), claim: claim.into(), act }).await
    }

    pub(crate) async fn refused(&self, fault: Fault) -> String {
        self.faults().apply(fault).await.expect_err("refused").to_string()
    }

    pub(crate) async fn end(mut self) {
        let sandbox = self.sandbox.take().expect("it runs until now");
        sandbox.shut_down(Duration::from_millis(100)).await;
        std::fs::remove_dir_all(self.paths.dir()).expect("nothing is mounted there any more");
    }
}

impl Deref for World {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("it runs until the end")
    }
}

impl Drop for World {
    /// A test that failed leaves nothing behind either.
    fn drop(&mut self) {
        if self.sandbox.take().is_some() {
            let paths = self.paths.clone();
            let _ = std::thread::spawn(move || sandbox::instance::clean_up(&paths)).join();
            let _ = std::fs::remove_dir_all(self.paths.dir());
        }
    }
}

pub(crate) fn is(pod: &Value, condition: &str, status: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == condition && c["status"] == status))
}

pub(crate) fn address(pod: &Value) -> IpAddr {
    pod["status"]["podIP"].as_str().expect("an address").parse().expect("an address")
}

pub(crate) fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(-1)
}

/// Whether somebody outside of the node reaches the pod.
pub(crate) async fn reaches(address: IpAddr) -> bool {
    let attempt = move || TcpStream::connect_timeout(&(address, 80).into(), Duration::from_millis(700)).is_ok();
    tokio::task::spawn_blocking(attempt).await.expect("thread")
}
