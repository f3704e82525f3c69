//! `mariadbd` as a child.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::watch;
use topology::member::Phase;

use crate::{Shared, config, login, processes};

/// A clean stop may take long: dirty pages are written. The pod's grace period bounds it in the end.
const STOP_LIMIT: Duration = Duration::from_secs(280);
/// A server that lives shorter than this has failed to start.
const YOUNG: Duration = Duration::from_secs(20);

/// The server, running or not.
pub(crate) struct Server {
    /// pid of the running server.
    running: watch::Sender<Option<i32>>,
    /// It is being stopped by us: its end is no failure.
    stopping: AtomicBool,
}

impl Default for Server {
    fn default() -> Self {
        Self { running: watch::Sender::new(None), stopping: AtomicBool::new(false) }
    }
}

impl Server {
    pub(crate) fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// Starts the server on the data that is there, after its options were checked. It is up when the poll of the state
    /// reaches it.
    pub(crate) async fn start(&self, shared: &Arc<Shared>) -> Result<(), Phase> {
        if self.is_running() {
            return Ok(());
        }
        let failed = |message: String| Phase::Failed { reason: "CannotStart".into(), message };
        config::render(&shared.places, &shared.config, &shared.me).map_err(|e| failed(format!("my.cnf: {e}")))?;
        config::check(shared).await?;
        login::prepare(&shared.places).map_err(|e| failed(format!("the agent's login: {e}")))?;
        // A socket left by a killed server would be taken for a running one.
        let _ = std::fs::remove_file(shared.places.socket());
        let hash = config::hash(&shared.places);
        let mut command = config::program(&shared.places, "mariadbd");
        command.arg(format!("--defaults-file={}", shared.places.my_cnf().display()));
        command.arg(format!("--init-file={}", login::init_file(&shared.places).display()));
        // Its end is decided by us alone, not by an agent that ends.
        command.kill_on_drop(false);
        let mut child = processes::spawn(&mut command).map_err(|e| failed(format!("mariadbd: {e}")))?;
        let pid = child.pid();
        self.stopping.store(false, Ordering::SeqCst);
        self.running.send_replace(pid);
        shared.state.update(|state| {
            state.phase = Phase::Starting;
            state.config_hash = Some(hash);
        });
        tracing::info!(pid, "mariadbd started");
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let born = Instant::now();
            let status = child.child.wait().await;
            drop(child);
            shared.server.ended(&shared, born, status);
        });
        Ok(())
    }

    fn ended(&self, shared: &Shared, born: Instant, status: std::io::Result<ExitStatus>) {
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let ours = self.stopping.load(Ordering::SeqCst);
        tracing::info!(how, ours, "mariadbd ended");
        self.running.send_replace(None);
        shared.state.update(|state| {
            state.server = None;
            state.config_hash = None;
            state.phase = if ours {
                Phase::Waiting
            } else if born.elapsed() < YOUNG && state.phase == Phase::Starting {
                Phase::Failed {
                    reason: "ServerFailed".into(),
                    message: format!("mariadbd ended while starting: {how}"),
                }
            } else {
                Phase::Waiting
            };
        });
    }

    /// Stops the server cleanly; by force when it takes too long.
    pub(crate) async fn stop(&self, shared: &Shared) {
        let mut running = self.running.subscribe();
        let Some(pid) = *running.borrow_and_update() else { return };
        self.stopping.store(true, Ordering::SeqCst);
        shared.state.update(|state| state.phase = Phase::Stopping);
        processes::kill(pid, Signal::SIGTERM);
        let gone = running.wait_for(Option::is_none);
        if tokio::time::timeout(STOP_LIMIT, gone).await.is_err() {
            tracing::warn!("mariadbd does not stop; it is killed");
            processes::kill(pid, Signal::SIGKILL);
            let mut running = self.running.subscribe();
            let _ = tokio::time::timeout(Duration::from_secs(10), running.wait_for(Option::is_none)).await;
        }
    }
}
