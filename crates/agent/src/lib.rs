//! Process 1 of a database pod: it looks at the volume, runs `mariadbd` as its child, says what it sees and does what it is told.
//!
//! The server always starts read-only with replication stopped; only what the record names as its holder is opened. Nothing is
//! started before a decision, except as [`record`] says.

mod actions;
mod binlog;
mod bootstrap;
mod config;
mod donate;
mod errant;
mod fence;
mod guard;
mod health;
mod http;
mod lease;
mod login;
mod opening;
mod places;
mod probes;
mod processes;
mod receive;
mod record;
mod relay;
mod replaced;
mod server;
mod sessions;
mod stamps;
mod state;
mod tail;
mod variables;
mod volume;

use std::process::ExitCode;
use std::sync::Arc;

use protocol::AgentConfig;

pub use places::Places;

/// Who this member is.
#[derive(Debug, Clone)]
pub struct Me {
    /// The pod's name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

impl Me {
    /// The pod's ordinal.
    pub fn ordinal(&self) -> u32 {
        self.pod.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The name that others reach this member by.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.pod, self.namespace)
    }
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable of the environment is missing.
    #[error("the environment variable {0} is missing")]
    Environment(&'static str),
    /// The configuration cannot be read.
    #[error("{path}: {message}")]
    Config {
        /// Which file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The volume cannot be used.
    #[error("volume: {0}")]
    Volume(#[from] std::io::Error),
    /// A port cannot be opened.
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] protocol::tls::TlsError),
}

/// What everything in the agent shares.
pub(crate) struct Shared {
    pub(crate) me: Me,
    pub(crate) places: Places,
    pub(crate) config: AgentConfig,
    pub(crate) state: state::Board,
    pub(crate) server: server::Server,
    pub(crate) stamps: stamps::Stamps,
    pub(crate) doing: actions::Doing,
    pub(crate) told: actions::Told,
    pub(crate) variables: variables::InForce,
    pub(crate) relay: relay::Relay,
    pub(crate) health: health::Health,
    pub(crate) time: lease::Time,
    pub(crate) reception: std::sync::Mutex<sql::Reception>,
    pub(crate) questions: state::Questions,
    pub(crate) spares: sessions::Spares,
    /// The marker that waits.
    pub(crate) marker: opening::Waiting,
    /// The marker of our own that waits.
    pub(crate) own_marker: opening::Waiting,
    pub(crate) demoting: opening::Demoting,
    /// Ends the copies that are being given.
    pub(crate) donations: std::sync::Mutex<tokio_util::sync::CancellationToken>,
    /// The server is asked without waiting for the next time.
    ask_now: tokio::sync::Notify,
    /// Something is under way: the server is asked more often until then.
    hurry: std::sync::Mutex<Option<std::time::Instant>>,
}

impl Shared {
    /// The server is asked now, and more often for a moment.
    pub(crate) fn hurry(&self) {
        self.ask_now.notify_one();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        *self.hurry.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(until);
    }

    pub(crate) fn in_a_hurry(&self) -> bool {
        let until = *self.hurry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        until.is_some_and(|until| std::time::Instant::now() < until)
    }
}

/// Runs as process 1.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(start()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent does not start");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), StartError> {
    let variable = |name| std::env::var(name).map_err(|_| StartError::Environment(name));
    let me = Me {
        pod: variable(protocol::env::POD_NAME)?,
        namespace: variable(protocol::env::POD_NAMESPACE)?,
        uid: variable(protocol::env::POD_UID)?,
    };
    run(me, Places::default()).await
}

/// Runs an agent until it is told to stop (SIGTERM, SIGINT).
pub async fn run(me: Me, places: Places) -> Result<(), StartError> {
    let config = config::agent(&places)?;
    volume::prepare(&places, &me)?;
    let stamps = stamps::Stamps::load(&places)?;
    let server_id = config.server_id_base + me.ordinal();
    let volume = volume::look(&places, &volume::Owner::new(&config, &me));
    tracing::info!(pod = me.pod, server_id, ?volume, "agent started");
    let saved = errant::saved(&places, &volume);
    let shared = Arc::new(Shared {
        state: state::Board::new(&me, server_id, volume, stamps.highest()),
        server: server::Server::default(),
        doing: actions::Doing::default(),
        told: actions::Told::default(),
        relay: relay::Relay::load(&places),
        health: health::Health::default(),
        time: lease::Time::default(),
        reception: std::sync::Mutex::default(),
        questions: state::Questions::default(),
        spares: sessions::Spares::default(),
        marker: opening::Waiting::default(),
        own_marker: opening::Waiting::default(),
        demoting: opening::Demoting::default(),
        donations: std::sync::Mutex::default(),
        ask_now: tokio::sync::Notify::new(),
        hurry: std::sync::Mutex::default(),
        variables: variables::InForce::default(),
        stamps,
        me,
        places,
        config,
    });
    shared.state.update(|state| state.saved = saved);
    let reaper = tokio::spawn(processes::reap_orphans());
    let listeners = http::Listeners::open(&shared).await?;
    tokio::spawn(listeners.serve());
    tokio::spawn(state::poll(Arc::clone(&shared)));
    tokio::spawn(sessions::keep(Arc::clone(&shared)));
    tokio::spawn(state::watch_disk(Arc::clone(&shared)));
    tokio::spawn(record::start_without_decision(Arc::clone(&shared)));
    tokio::spawn(actions::follow_passwords(Arc::clone(&shared)));
    tokio::spawn(variables::follow(Arc::clone(&shared)));
    if shared.config.replication {
        tokio::spawn(guard::watch_the_record(Arc::clone(&shared)));
        tokio::spawn(guard::bring_back_acknowledgements(Arc::clone(&shared)));
        tokio::spawn(lease::keep(Arc::clone(&shared)));
    }
    tokio::spawn(health::probe_writes(Arc::clone(&shared)));
    processes::told_to_stop().await;
    tracing::info!("told to stop");
    let started = std::time::Instant::now();
    guard::leave(&shared).await;
    tracing::info!("stopping the server");
    let left = std::time::Duration::from_secs(shared.config.grace_seconds).saturating_sub(started.elapsed());
    shared.server.stop(&shared, left.mul_f32(0.9)).await;
    reaper.abort();
    Ok(())
}
