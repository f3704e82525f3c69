//! The loop against fake agents and a fake API server, both over their real protocols.

mod fake_agent;
mod fake_api;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use api::status::condition;
use base64::Engine as _;
use protocol::Identity;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use topology::MemberState;
use topology::member::{Phase, ThreadState, Volume};

use fake_agent::Agents;
use fake_api::FakeApi;

struct Ca {
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { pem, key_pem, issuer: Issuer::new(params, key) }
    }

    fn secret(&self) -> Value {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db-ca", "resourceVersion": "1"}, "data":
            {"ca.crt": encode(&self.pem), "tls.crt": encode(&self.pem), "tls.key": encode(&self.key_pem)}})
    }

    fn agent(&self, host: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, protocol::AGENT_COMMON_NAME);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            ca: self.pem.clone().into_bytes(),
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }
}

/// A cluster with fake members, and the loop running in it.
struct Cluster {
    api: FakeApi,
    ca: Ca,
    agents: Agents,
    states: BTreeMap<String, watch::Sender<MemberState>>,
    net: u8,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    /// `net`: the test's own 127.x.0.0/16, so that tests do not meet on the agents' fixed port.
    fn new(net: u8) -> Self {
        let ca = Ca::new();
        let api = FakeApi::new(ca.secret());
        Self { api, ca, agents: Agents::default(), states: BTreeMap::new(), net, stop: CancellationToken::new() }
    }

    fn run(&self) {
        tokio::spawn(super::run(self.api.inputs(), self.stop.clone()));
    }

    fn object(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["storage"] = json!({"size": "1Gi"});
        self.api.put_object(json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec}));
    }

    async fn member(&mut self, object: &str, ordinal: u32, server_id: u32) {
        let name = format!("{object}-{ordinal}");
        let host = format!("{name}.ns.svc");
        let process = u8::try_from(std::process::id() % 250).expect("below 250");
        let ip = Ipv4Addr::new(127, self.net, process, u8::try_from(self.states.len() + 2).expect("few members"));
        let address = SocketAddr::new(IpAddr::V4(ip), protocol::AGENT_PORT);
        let state = fake_agent::empty(&name, server_id);
        let state = fake_agent::serve(address, &host, state, &self.ca.agent(&host), &self.agents).await;
        self.states.insert(name.clone(), state);
        self.api.put_claim(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("storage-{name}"), "namespace": "ns"}, "spec": {"volumeName": "pv"}}));
        self.api.put_pod(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": {}},
            "status": {"phase": "Running", "podIP": ip.to_string(),
                "containerStatuses": [{"name": "mariadb", "state": {"running": {}}, "image": "", "imageID": "",
                    "ready": false, "restartCount": 0}]}}));
    }

    /// Status and reason of `ReplicationHealthy`.
    fn health(&self, object: &str) -> (String, String) {
        let status = self.api.object(object).status.unwrap_or_default();
        status
            .conditions
            .into_iter()
            .find(|known| known.type_ == condition::REPLICATION_HEALTHY)
            .map(|known| (known.status, known.reason))
            .unwrap_or_default()
    }

    async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let started = tokio::time::Instant::now();
        while !is(self) {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{what} never came: {:?}\n{:?}\n{:?}\n{}",
                self.states.values().map(|state| state.borrow().clone()).collect::<Vec<_>>(),
                self.api.events(),
                self.api.object("db").status,
                self.api.lease("db-topology"),
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Without acknowledgements, which fake servers do not give; and the primary stays where it is.
fn replicated(replicas: u32) -> Value {
    json!({"replicas": replicas, "replication": {"enabled": true, "semiSyncEnabled": false,
        "primary": {"automaticFailover": false}}})
}

#[tokio::test]
async fn one_object_comes_up_and_then_nothing_is_written() {
    let mut cluster = Cluster::new(11);
    cluster.run();
    cluster.object("db", replicated(3));
    for ordinal in 0..3 {
        cluster.member("db", ordinal, ordinal + 1).await;
    }
    let started = std::time::Instant::now();
    cluster.until("health", |c| c.health("db").0 == "True").await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}: something waits without need", started.elapsed());

    let lease = cluster.api.lease("db-topology");
    assert_eq!(lease["metadata"]["annotations"]["k8s.mariadb.com/epoch"], "1");
    assert_eq!(lease["metadata"]["annotations"]["k8s.mariadb.com/holder"], "db-0");
    assert_eq!(lease["metadata"]["ownerReferences"][0]["name"], "db");
    let Volume::Data { data_id } = cluster.states["db-0"].borrow().volume.clone() else { panic!("no data") };
    assert_eq!(lease["spec"]["holderIdentity"], data_id.0);

    let status = cluster.api.object("db").status.expect("a status");
    assert_eq!((status.current_primary.as_deref(), status.current_primary_pod_index), (Some("db-0"), Some(0)));
    let members = status.replication.expect("replication").members;
    assert_eq!(members.iter().filter_map(|m| m.role.as_deref()).collect::<Vec<_>>(), ["primary", "replica", "replica"]);
    cluster.until("labels", |c| c.api.pod("db-2").metadata.labels.is_some_and(|l| l.contains_key("role"))).await;
    let labels = |pod: &str| cluster.api.pod(pod).metadata.labels.expect("labels");
    assert_eq!(
        (labels("db-0")["role"].as_str(), labels("db-1")["k8s.mariadb.com/role"].as_str()),
        ("primary", "replica")
    );
    let reasons: Vec<String> = cluster.api.events().into_iter().map(|(reason, _)| reason).collect();
    for reason in ["Initialising", "PrimaryChosen", "OpeningPrimary", "Cloning", "Following"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason} is missing in {reasons:?}");
    }

    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = cluster.api.writes();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(cluster.api.writes()[before.len()..], [] as [String; 0], "a steady state writes nothing");

    // Nor does a new controller.
    cluster.stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.stop = CancellationToken::new();
    cluster.run();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(cluster.api.writes()[before.len()..], [] as [String; 0], "a new controller writes nothing");
}

#[tokio::test]
async fn split_objects_in_any_order_and_repair() {
    let mut cluster = Cluster::new(12);
    cluster.run();
    let replica = json!({"replicas": 2, "replication": {"enabled": true, "replica": {"primaryName": "db"}}});
    cluster.object("db-read", replica);
    cluster.until("the orphan's condition", |c| c.health("db-read").1 == "PrimaryNotFound").await;
    cluster.object("db", replicated(1));
    cluster.member("db-read", 0, 101).await;
    cluster.member("db-read", 1, 102).await;
    cluster.member("db", 0, 1).await;
    cluster.until("health", |c| c.health("db").0 == "True" && c.health("db-read").0 == "True").await;
    let status = cluster.api.object("db-read").status.expect("a status");
    assert_eq!((status.current_primary.as_deref(), status.current_primary_pod_index), (Some("db-0"), None));
    assert_eq!(status.replication.expect("replication").members.len(), 2);

    // A stopped thread is started; a stray writer is closed.
    cluster.states["db-read-0"].send_modify(|state| {
        let server = state.server.as_mut().expect("a server");
        server.replication.as_mut().expect("a replica").sql = ThreadState::No;
    });
    cluster.states["db-read-1"].send_modify(|state| state.server.as_mut().expect("a server").read_only = false);
    cluster
        .until("repair", |c| {
            let server = |name: &str| c.states[name].borrow().server.clone().expect("a server");
            server("db-read-0").replication.expect("a replica").sql == ThreadState::Yes && server("db-read-1").read_only
        })
        .await;
    cluster.until("event", |c| c.api.events().iter().any(|(reason, _)| reason == "UnexpectedlyWritable")).await;

    // A restarted primary is started and opened again.
    cluster.states["db-0"].send_modify(|state| {
        state.phase = Phase::Waiting;
        state.server = None;
    });
    cluster
        .until("the primary again", |c| {
            c.states["db-0"].borrow().server.as_ref().is_some_and(|server| !server.read_only)
        })
        .await;
    cluster.until("health again", |c| c.health("db").0 == "True").await;
}

#[tokio::test]
async fn a_lost_race_for_the_record_is_decided_again() {
    let mut cluster = Cluster::new(13);
    cluster.object("db", json!({}));
    cluster.member("db", 0, 1).await;
    // Two controllers at once: whatever they do to each other, one primary comes of it.
    cluster.run();
    cluster.run();
    cluster.until("health", |c| c.health("db").0 == "True").await;
    let lease = cluster.api.lease("db-topology");
    assert_eq!(lease["metadata"]["annotations"]["k8s.mariadb.com/epoch"], "1");
    let Volume::Data { data_id } = cluster.states["db-0"].borrow().volume.clone() else { panic!("no data") };
    assert_eq!(lease["spec"]["holderIdentity"], data_id.0);
}
