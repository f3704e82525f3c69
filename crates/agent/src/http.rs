//! The agent's API over mutual TLS, and its probes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use protocol::{AGENT_COMMON_NAME, CONTROLLER_COMMON_NAME, Confirm, Refusal};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use topology::{Command, MemberState};

use crate::{Shared, StartError, actions, donate, lease, probes, receive};

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A state is sent at least so often.
const BEAT: Duration = Duration::from_millis(500);

/// The common name in a client's certificate.
#[derive(Debug, Clone)]
struct Peer(String);

pub(crate) struct Listeners {
    api: TcpListener,
    probes: TcpListener,
    shared: Arc<Shared>,
    tls: Certificates,
}

impl Listeners {
    pub(crate) async fn open(shared: &Arc<Shared>) -> Result<Self, StartError> {
        let listen = async |port: u16| {
            // Both families; where the kernel has no IPv6, the other one.
            match TcpListener::bind(("::", port)).await {
                Ok(listener) => Ok(listener),
                Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
            }
            .map_err(|source| StartError::Listen { port, source })
        };
        Ok(Self {
            api: listen(shared.places.agent_port).await?,
            probes: listen(shared.places.probe_port).await?,
            tls: Certificates::load(shared)?,
            shared: Arc::clone(shared),
        })
    }

    pub(crate) async fn serve(self) {
        let probes = axum::serve(self.probes, probes::router(Arc::clone(&self.shared)));
        tokio::spawn(async move { probes.await });
        let router = router(Arc::clone(&self.shared));
        let mut tls = self.tls;
        loop {
            let Ok((stream, _)) = self.api.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let config = tls.current(&self.shared);
            tokio::spawn(connection(stream, config, router.clone()));
        }
    }
}

/// The certificates in force; a renewed Secret is read again without a restart.
struct Certificates {
    config: Arc<ServerConfig>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Certificates {
    fn load(shared: &Shared) -> Result<Self, StartError> {
        let identity = receive::identity(&shared.places).map_err(|e| StartError::Config {
            path: shared.places.agent_tls.display().to_string(),
            message: e.to_string(),
        })?;
        let config = Arc::new(identity.server()?);
        Ok(Self { config, changed: Self::stamp(shared), looked: Instant::now() })
    }

    fn stamp(shared: &Shared) -> Option<SystemTime> {
        std::fs::metadata(shared.places.agent_tls.join("tls.crt")).and_then(|meta| meta.modified()).ok()
    }

    fn current(&mut self, shared: &Shared) -> Arc<ServerConfig> {
        const LOOK_EVERY: Duration = Duration::from_secs(10);
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            if Self::stamp(shared) != self.changed {
                match Self::load(shared) {
                    Ok(new) => *self = new,
                    Err(error) => tracing::warn!(%error, "new certificates are not usable; the old ones stay"),
                }
            }
        }
        Arc::clone(&self.config)
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, router: Router) {
    let _ = stream.set_nodelay(true);
    let accepted = tokio::time::timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await;
    let Ok(Ok(stream)) = accepted else { return };
    let name = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
    let Some(name) = name else { return };
    let service = TowerToHyperService::new(router.layer(Extension(Peer(name))));
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .http1_only()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn common_name(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/state", get(state))
        .route("/v1/state/stream", get(state_stream))
        .route("/v1/commands", post(command))
        .route("/v1/confirm", post(confirm))
        .route("/v1/clone", get(clone))
        .with_state(shared)
}

async fn state(State(shared): State<Arc<Shared>>) -> Json<MemberState> {
    Json(dated(&shared, shared.state.now()))
}

/// What is told of the server is as old as its last answer.
fn dated(shared: &Shared, mut state: MemberState) -> MemberState {
    state.answer_age_ms = u64::try_from(shared.questions.age().as_millis()).unwrap_or(u64::MAX);
    state
}

async fn state_stream(State(shared): State<Arc<Shared>>) -> Response {
    let mut watch = shared.state.subscribe();
    watch.mark_changed();
    let lines = futures::stream::unfold((watch, shared), |(mut watch, shared)| async move {
        // Either a change or a beat; the whole state either way.
        let _ = tokio::time::timeout(BEAT, watch.changed()).await;
        let state = watch.borrow_and_update().clone();
        let mut line = serde_json::to_vec(&dated(&shared, state)).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(line), (watch, shared)))
    });
    Body::from_stream(lines).into_response()
}

async fn command(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    Json(command): Json<Command>,
) -> Response {
    if peer != CONTROLLER_COMMON_NAME {
        return (StatusCode::FORBIDDEN, format!("{peer} may not command")).into_response();
    }
    // Not cut short when the controller goes away: an action is carried out whole.
    let done = tokio::spawn(async move { actions::command(&shared, command).await }).await;
    match done {
        Ok(Ok(outcome)) => Json(outcome).into_response(),
        Ok(Err(refusal)) => (StatusCode::CONFLICT, Json(refusal)).into_response(),
        Err(error) => {
            let refusal = Refusal::Failed { reason: "AgentFailed".into(), message: error.to_string() };
            (StatusCode::CONFLICT, Json(refusal)).into_response()
        }
    }
}

async fn confirm(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    Json(ask): Json<Confirm>,
) -> Response {
    if peer != AGENT_COMMON_NAME {
        return (StatusCode::FORBIDDEN, format!("{peer} may not ask for that")).into_response();
    }
    match lease::confirm(&shared, &ask) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => (StatusCode::CONFLICT, Json(refusal)).into_response(),
    }
}

async fn clone(State(shared): State<Arc<Shared>>, Extension(Peer(peer)): Extension<Peer>) -> Response {
    if peer != CONTROLLER_COMMON_NAME && peer != AGENT_COMMON_NAME {
        return (StatusCode::FORBIDDEN, format!("{peer} may not clone")).into_response();
    }
    match donate::donate(&shared) {
        Ok(frames) => Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(frames)).into_response(),
        Err(why) => (StatusCode::CONFLICT, Json(Refusal::NotPossible { why })).into_response(),
    }
}
