//! An agent without a server: it says it did what it was told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use protocol::{Identity, Outcome, Refusal};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use topology::gtid::{BinlogState, GtidPosition};
use topology::member::{
    DataId, MemberName, MemberState, Phase, ReplicationState, SemiSync, ServerState, ThreadState, Volume,
};
use topology::{Action, Command, Stamp};

/// All agents of a test, by host name.
pub(super) type Agents = Arc<Mutex<BTreeMap<String, watch::Sender<MemberState>>>>;

#[derive(Clone)]
pub(super) struct FakeAgent {
    state: watch::Sender<MemberState>,
    all: Agents,
}

pub(super) fn empty(name: &str, server_id: u32) -> MemberState {
    MemberState::new(MemberName(name.to_owned()), format!("uid-{name}"), server_id, Stamp::default(), Volume::Empty)
}

fn server() -> ServerState {
    ServerState {
        version: "11.8.6-MariaDB".to_owned(),
        read_only: true,
        gtid_binlog_pos: GtidPosition::default(),
        gtid_slave_pos: GtidPosition::default(),
        gtid_binlog_state: BinlogState::default(),
        replication: None,
        log_reset: false,
        semi_sync: SemiSync::default(),
    }
}

/// Serves an agent until the test's runtime ends.
pub(super) async fn serve(
    address: SocketAddr,
    host: &str,
    state: MemberState,
    identity: &Identity,
    all: &Agents,
) -> watch::Sender<MemberState> {
    let state = watch::Sender::new(state);
    all.lock().expect("a lock").insert(host.to_owned(), state.clone());
    let agent = FakeAgent { state: state.clone(), all: all.clone() };
    let router = Router::new()
        .route("/v1/state", get(now))
        .route("/v1/state/stream", get(stream))
        .route("/v1/commands", post(command))
        .with_state(agent);
    let listener = TcpListener::bind(address).await.expect("a port on loopback");
    let acceptor = TlsAcceptor::from(Arc::new(identity.server().expect("a TLS set-up")));
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = TowerToHyperService::new(router);
                let _ended =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    state
}

async fn now(State(agent): State<FakeAgent>) -> Response {
    axum::Json(agent.state.borrow().clone()).into_response()
}

async fn stream(State(agent): State<FakeAgent>) -> Response {
    let receiver = agent.state.subscribe();
    let lines = futures::stream::unfold((receiver, true), |(mut receiver, first)| async move {
        if !first {
            let _changed = tokio::time::timeout(Duration::from_secs(1), receiver.changed()).await;
        }
        let mut line = serde_json::to_vec(&*receiver.borrow_and_update()).expect("a state");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(line), (receiver, false)))
    });
    Body::from_stream(lines).into_response()
}

async fn command(State(agent): State<FakeAgent>, axum::Json(command): axum::Json<Command>) -> Response {
    let highest = agent.state.borrow().accepted;
    if command.stamp < highest {
        return (StatusCode::CONFLICT, axum::Json(Refusal::Stale { highest })).into_response();
    }
    let outcome = agent.act(command);
    axum::Json(outcome).into_response()
}

impl FakeAgent {
    fn act(&self, command: Command) -> Outcome {
        self.state.send_modify(|state| state.accepted = command.stamp);
        match command.action {
            Action::Initialise { data_id } => self.later(Phase::Initialising, data_id, server()),
            Action::Clone { donor, data_id, replaces: _ } => {
                let mut copy =
                    self.all.lock().expect("a lock")[&donor.host].borrow().server.clone().unwrap_or_else(server);
                copy.gtid_slave_pos = copy.gtid_slave_pos.furthest(&copy.gtid_binlog_pos);
                (copy.gtid_binlog_pos, copy.gtid_binlog_state) = Default::default();
                (copy.read_only, copy.replication) = (true, None);
                let phase = Phase::Cloning { donor: donor.host, received: 10 << 20, total: Some(20 << 20) };
                self.later(phase, data_id, copy)
            }
            Action::StartServer { .. } => {
                self.state.send_modify(|state| {
                    state.phase = Phase::Running;
                    state.server.get_or_insert_with(server);
                });
                Outcome::Done
            }
            action => {
                self.state.send_modify(|state| {
                    let server_id = state.server_id;
                    if let Some(server) = state.server.as_mut() {
                        at_once(server, server_id, action);
                    }
                });
                Outcome::Done
            }
        }
    }

    fn later(&self, phase: Phase, data_id: DataId, server: ServerState) -> Outcome {
        self.state.send_modify(|state| state.phase = phase);
        let state = self.state.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            state.send_modify(|state| {
                state.phase = Phase::Running;
                state.volume = Volume::Data { data_id };
                state.server = Some(server);
            });
        });
        Outcome::Started
    }
}

fn at_once(server: &mut ServerState, server_id: u32, action: Action) {
    match action {
        Action::OpenForWrites { .. } => server.read_only = false,
        Action::SetReadOnly { .. } => server.read_only = true,
        Action::EnsureReplicationAccounts { .. } => {
            server.gtid_binlog_pos = "0-1-7".parse().expect("a position");
            server.gtid_binlog_state = "0-1-7".parse().expect("a state");
        }
        Action::Follow { source, .. } => {
            server.gtid_slave_pos = "0-1-7".parse().expect("a position");
            server.replication = Some(ReplicationState {
                host: source.endpoint.host,
                port: source.endpoint.port,
                user: format!("repl_{server_id}"),
                io: ThreadState::Yes,
                sql: ThreadState::Yes,
                gtid_io_pos: "0-1-7".parse().expect("a position"),
                receives: true,
                io_error: None,
                sql_error: None,
                passed_over: 0,
                seconds_behind: Some(0),
            });
        }
        Action::StartReplication => {
            if let Some(replication) = server.replication.as_mut() {
                (replication.io, replication.sql) = (ThreadState::Yes, ThreadState::Yes);
            }
        }
        _ => {}
    }
}
