//! As much of an API server as the replication loop talks to, with the stores that watches would fill.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::MariaDB;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Resource as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{reflector, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::Inputs;

#[derive(Default)]
struct Kept {
    leases: BTreeMap<String, Value>,
    version: u64,
    secret: Value,
    events: Vec<(String, String)>,
    writes: Vec<String>,
}

/// The server.
#[derive(Clone)]
pub(super) struct FakeApi {
    kept: Arc<Mutex<Kept>>,
    objects: Arc<Mutex<(reflector::Store<MariaDB>, Writer<MariaDB>)>>,
    pods: Arc<Mutex<(reflector::Store<Pod>, Writer<Pod>)>>,
    claims: Arc<Mutex<(reflector::Store<PersistentVolumeClaim>, Writer<PersistentVolumeClaim>)>>,
    changed: watch::Sender<u64>,
}

impl FakeApi {
    pub(super) fn new(secret: Value) -> Self {
        Self {
            kept: Arc::new(Mutex::new(Kept { secret, ..Kept::default() })),
            objects: Arc::new(Mutex::new(reflector::store())),
            pods: Arc::new(Mutex::new(reflector::store())),
            claims: Arc::new(Mutex::new(reflector::store())),
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn inputs(&self) -> Inputs {
        let namespace = "/namespaces/{namespace}";
        let router = Router::new()
            .route(&format!("/apis/coordination.k8s.io/v1{namespace}/leases"), post(create_lease))
            .route(&format!("/apis/coordination.k8s.io/v1{namespace}/leases/{{name}}"), get(read_lease).put(swap_lease))
            .route(&format!("/api/v1{namespace}/secrets/{{name}}"), get(read_secret))
            .route(&format!("/api/v1{namespace}/pods/{{name}}"), patch(label_pod))
            .route(
                &format!("/apis/k8s.mariadb.com/v1alpha1{namespace}/{}/{{name}}/status", MariaDB::plural(&())),
                patch(write_status),
            )
            .route(&format!("/apis/events.k8s.io/v1{namespace}/events"), post(publish))
            .with_state(self.clone());
        let client = kube::Client::new(router, "ns");
        Inputs {
            events: crate::events::Events::new(client.clone(), "test", "test-0"),
            client,
            objects: self.objects.lock().expect("a lock").0.clone(),
            pods: self.pods.lock().expect("a lock").0.clone(),
            claims: self.claims.lock().expect("a lock").0.clone(),
            changed: self.changed.subscribe(),
            // Nothing comes of them here: a store without its watch is empty.
            leases: reflector::store().0,
            services: reflector::store().0,
            nodes: reflector::store().0,
            metrics: crate::Metrics::default(),
            releases: crate::Releases::default(),
            wake: Arc::new(|_, _| {}),
        }
    }

    fn bump(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn put_object(&self, object: Value) {
        let object: MariaDB = serde_json::from_value(object).expect("a MariaDB");
        self.objects.lock().expect("a lock").1.apply_watcher_event(&watcher::Event::Apply(object));
        self.bump();
    }

    pub(super) fn put_pod(&self, pod: Value) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pods.lock().expect("a lock").1.apply_watcher_event(&watcher::Event::Apply(pod));
        self.bump();
    }

    pub(super) fn put_claim(&self, claim: Value) {
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        self.claims.lock().expect("a lock").1.apply_watcher_event(&watcher::Event::Apply(claim));
        self.bump();
    }

    pub(super) fn object(&self, name: &str) -> MariaDB {
        let key = reflector::ObjectRef::new(name).within("ns");
        (*self.objects.lock().expect("a lock").0.get(&key).expect("the object")).clone()
    }

    pub(super) fn pod(&self, name: &str) -> Pod {
        let key = reflector::ObjectRef::new(name).within("ns");
        (*self.pods.lock().expect("a lock").0.get(&key).expect("the pod")).clone()
    }

    pub(super) fn lease(&self, name: &str) -> Value {
        self.kept.lock().expect("a lock").leases.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn events(&self) -> Vec<(String, String)> {
        self.kept.lock().expect("a lock").events.clone()
    }

    pub(super) fn writes(&self) -> Vec<String> {
        self.kept.lock().expect("a lock").writes.clone()
    }

    fn wrote(&self, what: impl Into<String>) {
        self.kept.lock().expect("a lock").writes.push(what.into());
    }

    fn store(&self, name: &str, mut lease: Value) -> Value {
        let mut kept = self.kept.lock().expect("a lock");
        kept.version += 1;
        lease["metadata"]["resourceVersion"] = json!(kept.version.to_string());
        kept.leases.insert(name.to_owned(), lease.clone());
        kept.writes.push(format!("lease {name}"));
        lease
    }
}

fn status(code: StatusCode) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "message": code.to_string(), "reason": code.canonical_reason().map(|reason| reason.replace(' ', ""))});
    (code, axum::Json(body)).into_response()
}

async fn read_lease(State(api): State<FakeApi>, Path((_, name)): Path<(String, String)>) -> Response {
    match api.lease(&name) {
        Value::Null => status(StatusCode::NOT_FOUND),
        lease => axum::Json(lease).into_response(),
    }
}

async fn create_lease(State(api): State<FakeApi>, axum::Json(lease): axum::Json<Value>) -> Response {
    let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !api.lease(&name).is_null() {
        return status(StatusCode::CONFLICT);
    }
    axum::Json(api.store(&name, lease)).into_response()
}

async fn swap_lease(
    State(api): State<FakeApi>,
    Path((_, name)): Path<(String, String)>,
    axum::Json(lease): axum::Json<Value>,
) -> Response {
    match api.lease(&name) {
        Value::Null => status(StatusCode::NOT_FOUND),
        known if known["metadata"]["resourceVersion"] == lease["metadata"]["resourceVersion"] => {
            axum::Json(api.store(&name, lease)).into_response()
        }
        _ => status(StatusCode::CONFLICT),
    }
}

async fn read_secret(State(api): State<FakeApi>) -> Response {
    match api.kept.lock().expect("a lock").secret.clone() {
        Value::Null => status(StatusCode::NOT_FOUND),
        secret => axum::Json(secret).into_response(),
    }
}

async fn label_pod(State(api): State<FakeApi>, Path((_, name)): Path<(String, String)>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).expect("an apply patch as JSON");
    let mut pod = serde_json::to_value(api.pod(&name)).expect("a pod");
    for (key, value) in body["metadata"]["labels"].as_object().expect("labels") {
        pod["metadata"]["labels"][key] = value.clone();
    }
    api.put_pod(pod.clone());
    api.wrote(format!("labels {name}"));
    axum::Json(pod).into_response()
}

async fn write_status(State(api): State<FakeApi>, Path((_, name)): Path<(String, String)>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).expect("an apply patch as JSON");
    let mut object = serde_json::to_value(api.object(&name)).expect("an object");
    object["status"] = body["status"].clone();
    api.put_object(object.clone());
    api.wrote(format!("status {name}"));
    axum::Json(object).into_response()
}

async fn publish(State(api): State<FakeApi>, axum::Json(event): axum::Json<Value>) -> Response {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    api.kept.lock().expect("a lock").events.push((text("reason"), text("note")));
    axum::Json(event).into_response()
}
