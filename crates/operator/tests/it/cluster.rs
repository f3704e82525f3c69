//! An API server in this process, and the operator running against it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::MariaDB;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource};
use operator::{Health, Settings};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// It, with a namespace to work in.
pub(crate) struct Cluster {
    /// Of the test; the operator has its own, whose writes are counted.
    client: Client,
    operators: Client,
    namespace: String,
    written: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.running.abort();
    }
}

fn client(server: &apiserver::Server, namespace: &str, written: Option<Arc<Mutex<Vec<String>>>>) -> Client {
    let router = server.router().layer(from_fn(move |mut request: Request, next: Next| {
        let written = written.clone();
        async move {
            request.extensions_mut().insert(apiserver::Identity::administrator());
            if let Some(written) = written
                && request.method() != http::Method::GET
            {
                written.lock().expect("not poisoned").push(format!("{} {}", request.method(), request.uri()));
            }
            next.run(request).await
        }
    }));
    Client::new(router, namespace)
}

fn run(client: &Client) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let settings =
        Settings { operator_image: "mariadb-operator:test".into(), pod_name: "operator".into(), election: None };
    let running = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move { operator::run(client, settings, Health::default(), stop).await.expect("the operator runs") }
    });
    (stop, running)
}

impl Cluster {
    pub(crate) async fn start(namespace: &str) -> Self {
        let server = apiserver::Server::open(apiserver::Options::default()).expect("a server");
        let written = Arc::new(Mutex::new(Vec::new()));
        let own = client(&server, namespace, None);
        let operators = client(&server, namespace, Some(Arc::clone(&written)));
        for crd in api::crds() {
            let value = serde_json::to_value(&crd).expect("JSON");
            apply(&own, None, &value).await;
        }
        if namespace != "default" {
            let value = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            apply(&own, None, &value).await;
        }
        let objects: Api<MariaDB> = Api::namespaced(own.clone(), namespace);
        let started = Instant::now();
        while objects.list(&kube::api::ListParams::default()).await.is_err() {
            assert!(started.elapsed() < LIMIT, "the kind is not served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (stop, running) = run(&operators);
        Self { client: own, operators, namespace: namespace.into(), written, stop, running }
    }

    pub(crate) async fn restart_operator(&mut self) {
        self.stop.cancel();
        let _ = (&mut self.running).await;
        (self.stop, self.running) = run(&self.operators);
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn apply(&self, value: &Value) {
        apply(&self.client, Some(&self.namespace), value).await;
    }

    pub(crate) async fn try_apply(&self, value: &Value) -> Result<(), kube::Error> {
        try_apply(&self.client, Some(&self.namespace), value).await
    }

    pub(crate) async fn apply_global(&self, value: &Value) {
        apply(&self.client, None, value).await;
    }

    pub(crate) async fn apply_example(&self, name: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seed").join(name);
        let text = std::fs::read_to_string(path).expect("an example");
        self.apply(&serde_saphyr::from_str(&text).expect("YAML")).await;
    }

    /// Waits for it.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !holds().await {
            if started.elapsed() > LIMIT {
                let objects = self.api::<MariaDB>().list(&kube::api::ListParams::default()).await.expect("a list");
                let said: Vec<_> = objects.items.iter().map(|object| (&object.metadata.name, &object.status)).collect();
                panic!("{what}: not within {LIMIT:?}; {said:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn find<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.api::<K>().get_opt(name).await.expect("an answer")
    }

    pub(crate) async fn absent<K>(&self, name: &str) -> bool
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.find::<K>(name).await.is_none()
    }

    /// Waits until it is there.
    pub(crate) async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.until(&format!("{} {name}", K::kind(&())), async || !self.absent::<K>(name).await).await;
        self.find(name).await.expect("it was there")
    }

    /// Waits for a condition with this status, and this text in its message.
    pub(crate) async fn condition(&self, name: &str, kind: &str, status: &str, text: &str) {
        let what = format!("{name}: {kind}={status} with {text:?}");
        self.until(&what, async || {
            let object: Option<MariaDB> = self.find(name).await;
            let conditions =
                object.and_then(|object| object.status).map(|status| status.conditions).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == kind && c.status == status && c.message.contains(text))
        })
        .await;
    }

    /// So many writes the operator has made.
    pub(crate) fn writes(&self) -> usize {
        self.written.lock().expect("not poisoned").len()
    }

    pub(crate) fn writes_since(&self, before: usize) -> Vec<String> {
        self.written.lock().expect("not poisoned")[before..].to_vec()
    }

    /// Waits until the operator has been quiet for a second.
    pub(crate) async fn settled(&self) {
        let started = Instant::now();
        let mut before = self.writes();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.writes();
            if now == before {
                return;
            }
            assert!(started.elapsed() < LIMIT, "never quiet: {:#?}", self.writes_since(before));
            before = now;
        }
    }

    /// Names and versions of all children.
    pub(crate) async fn versions(&self) -> Vec<String> {
        use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, policy::v1 as policy, rbac::v1 as rbac};
        let mut all = Vec::new();
        all.extend(self.versions_of::<apps::StatefulSet>().await);
        all.extend(self.versions_of::<core::Service>().await);
        all.extend(self.versions_of::<core::ConfigMap>().await);
        all.extend(self.versions_of::<core::Secret>().await);
        all.extend(self.versions_of::<core::ServiceAccount>().await);
        all.extend(self.versions_of::<rbac::Role>().await);
        all.extend(self.versions_of::<rbac::RoleBinding>().await);
        all.extend(self.versions_of::<policy::PodDisruptionBudget>().await);
        all
    }

    async fn versions_of<K>(&self) -> Vec<String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let list = self.api::<K>().list(&kube::api::ListParams::default()).await.expect("a list");
        list.items
            .iter()
            .map(|object| {
                let meta = object.meta();
                format!("{} {:?} {:?}", K::kind(&()), meta.name, meta.resource_version)
            })
            .collect()
    }
}

async fn apply(client: &Client, namespace: Option<&str>, value: &Value) {
    try_apply(client, namespace, value).await.expect("applied");
}

async fn try_apply(client: &Client, namespace: Option<&str>, value: &Value) -> Result<(), kube::Error> {
    let object: DynamicObject = serde_json::from_value(value.clone()).expect("an object");
    let types = object.types.clone().expect("apiVersion and kind");
    let kind = GroupVersionKind::try_from(&types).expect("a kind");
    let resource = kube::core::ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match (namespace, object.metadata.namespace.as_deref()) {
        (Some(namespace), None) | (_, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
        (None, None) => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().expect("a name");
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.map(drop)
}
