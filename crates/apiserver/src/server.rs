//! The server: what is stored, what kinds there are, and the router over both.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::BoxFuture;

use crate::identity::Identity;
use crate::kinds::Kinds;
use crate::store::{Store, StoreError};

/// How to open a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to keep everything; `None` keeps it in memory.
    pub dir: Option<PathBuf>,
    /// The certificate authority (PEM) that `kube-root-ca.crt` shows in every namespace.
    pub ca: Option<String>,
    /// The network (a /16, by its first two bytes) that services' addresses come from; 10.96 when `None`.
    pub service_network: Option<[u8; 2]>,
}

/// What the nodes of a cluster answer: logs, exec, attach and port-forward of pods, and the proxy
/// paths of nodes. The whole request is handed over, with its upgrade.
pub trait PodStreams: Send + Sync + 'static {
    /// Answers `subresource` (`log`, `exec`, `attach`, `portforward`, `proxy`) of a pod that exists.
    fn pod(&self, pod: serde_json::Value, subresource: &str, request: Request) -> BoxFuture<'static, Response>;
    /// Answers `/api/v1/nodes/{name}/proxy/{path}`.
    fn node(&self, name: &str, path: &str, request: Request) -> BoxFuture<'static, Response>;
}

/// A Kubernetes API server. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    kinds: Kinds,
    options: Options,
    signer: crate::auth::Signer,
    streams: OnceLock<Arc<dyn PodStreams>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    /// Opens a server; what its directory holds is served at once. Its loops (garbage collection,
    /// namespaces) run on the current tokio runtime until the last clone is gone.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let store = Store::open(options.dir.as_deref())?;
        let signer = crate::auth::Signer::open(options.dir.as_deref()).map_err(|source| StoreError::Io {
            action: "read or write",
            path: options.dir.as_deref().map(|d| d.join("token.key").display().to_string()).unwrap_or_default(),
            source,
        })?;
        let inner = Inner { store, kinds: Kinds::default(), options, signer, streams: OnceLock::new() };
        let server = Self { inner: Arc::new(inner) };
        crate::crd::restore(&server);
        crate::gc::bootstrap(&server);
        crate::auth::bootstrap(&server);
        server.store().begin();
        crate::gc::start(&server);
        Ok(server)
    }

    /// What is stored.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What kinds there are.
    pub fn kinds(&self) -> &Kinds {
        &self.inner.kinds
    }

    /// Who signs tokens.
    pub(crate) fn signer(&self) -> &crate::auth::Signer {
        &self.inner.signer
    }

    /// The network that services' addresses come from.
    pub(crate) fn service_network(&self) -> [u8; 2] {
        self.inner.options.service_network.unwrap_or([10, 96])
    }

    /// How it was opened.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Hands streams of pods to `streams`. Only the first call counts.
    pub fn set_streams(&self, streams: Arc<dyn PodStreams>) {
        let _ = self.inner.streams.set(streams);
    }

    /// Who answers streams of pods.
    pub fn streams(&self) -> Option<&Arc<dyn PodStreams>> {
        self.inner.streams.get()
    }

    /// The API as a service. A request is the administrator's unless it carries an [`Identity`]
    /// as an extension.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// A handle that does not keep the server alive, for loops.
    pub(crate) fn weak(&self) -> WeakServer {
        WeakServer(Arc::downgrade(&self.inner))
    }
}

/// See [`Server::weak`].
pub(crate) struct WeakServer(std::sync::Weak<Inner>);

impl WeakServer {
    pub(crate) fn upgrade(&self) -> Option<Server> {
        self.0.upgrade().map(|inner| Server { inner })
    }
}

async fn answer(State(server): State<Server>, request: Request<Body>) -> Response {
    let given = request.extensions().get::<Identity>().cloned();
    let identity = match crate::auth::admit(&server, given, &request) {
        Ok(identity) => identity,
        Err(refusal) => return *refusal,
    };
    let answer: BoxFuture<'static, Response> = Box::pin(crate::http::answer(server, identity, request));
    answer.await
}

/// How long an answer may take before clients give up; watches are longer.
pub(crate) const WATCH_LIMIT: Duration = Duration::from_secs(3600);
