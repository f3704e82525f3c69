//! `mariadbd` as a child.

use std::io::Write as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use topology::member::{Phase, Trouble};

use crate::{Shared, config, guard, login, processes};

/// A clean stop may take long: dirty pages are written. The pod's grace period bounds it in the end.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(280);
/// So much of what the server said last is kept, to tell why it ended.
const WORDS: usize = 16 * 1024;

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

/// How the server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartAs {
    /// Crash recovery keeps what its binary log holds.
    ItIs,
    /// Crash recovery drops what nobody acknowledged.
    Replica,
}

impl Server {
    pub(crate) fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// Starts the server on the data that is there, after its options were checked. It is up when the poll of the state
    /// reaches it.
    pub(crate) async fn start(&self, shared: &Arc<Shared>) -> Result<(), Phase> {
        self.start_as(shared, StartAs::ItIs).await
    }

    pub(crate) async fn start_as(&self, shared: &Arc<Shared>, how: StartAs) -> Result<(), Phase> {
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
        shared.variables.started(&shared.places);
        let mut command = config::program(&shared.places, "mariadbd");
        command.arg(format!("--defaults-file={}", shared.places.my_cnf().display()));
        command.arg(format!("--init-file={}", login::init_file(&shared.places).display()));
        if how == StartAs::Replica {
            command.arg("--init-rpl-role=SLAVE");
        }
        // Its end is decided by us alone, not by an agent that ends.
        command.kill_on_drop(false).stderr(Stdio::piped());
        let mut child = processes::spawn(&mut command).map_err(|e| failed(format!("mariadbd: {e}")))?;
        let pid = child.pid();
        self.stopping.store(false, Ordering::SeqCst);
        self.running.send_replace(pid);
        shared.state.update(|state| {
            state.phase = Phase::Starting;
            state.config_hash = Some(hash);
            state.marker = None;
            state.locks.stamp = topology::Stamp::default();
        });
        tracing::info!(pid, "mariadbd started");
        let shared = Arc::clone(shared);
        let listener = Arc::clone(&shared);
        let heard = move |line: &str| guard::hear(&listener, line);
        let words = child.child.stderr.take().map(|stderr| tokio::spawn(pass_on(stderr, heard)));
        tokio::spawn(async move {
            let status = child.child.wait().await;
            drop(child);
            // Why it did not start is in its last words. (A process that it left behind may hold the pipe open.) One that ran is told of
            // at once: others may have to take over.
            let starting = shared.state.now().phase == Phase::Starting;
            let words = match words.filter(|_| starting) {
                Some(words) => tokio::time::timeout(Duration::from_secs(1), words).await.ok().and_then(Result::ok),
                None => None,
            };
            shared.server.ended(&shared, status, &words.unwrap_or_default());
        });
        Ok(())
    }

    fn ended(&self, shared: &Shared, status: std::io::Result<ExitStatus>, words: &str) {
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
            state.trouble = None;
            state.options_refused = None;
            state.phase = if ours {
                Phase::Waiting
            } else if state.phase == Phase::Starting {
                config::refused_at_start(&shared.places, words).unwrap_or_else(|| Phase::Failed {
                    reason: "ServerFailed".into(),
                    message: format!("mariadbd ended while starting ({how}): {}", errors(words)),
                })
            } else {
                Phase::Waiting
            };
        });
    }

    /// Kills the server. `false`: its process does not go (a hung disk).
    pub(crate) async fn kill(&self, shared: &Shared) -> bool {
        const LIMIT: Duration = Duration::from_secs(2);
        let mut running = self.running.subscribe();
        let Some(pid) = *running.borrow_and_update() else { return true };
        processes::kill(pid, Signal::SIGKILL);
        let gone = tokio::time::timeout(LIMIT, running.wait_for(Option::is_none)).await.is_ok();
        shared.state.update(|state| state.trouble = (!gone).then_some(Trouble::NotGone));
        gone
    }

    /// Ends a server whose data goes. `false`: its process does not go.
    pub(crate) async fn end(&self, shared: &Shared) -> bool {
        self.stopping.store(true, Ordering::SeqCst);
        self.kill(shared).await
    }

    /// Stops the server cleanly; by force when it takes too long.
    pub(crate) async fn stop(&self, shared: &Shared, limit: Duration) {
        let mut running = self.running.subscribe();
        let Some(pid) = *running.borrow_and_update() else { return };
        self.stopping.store(true, Ordering::SeqCst);
        shared.state.update(|state| state.phase = Phase::Stopping);
        processes::kill(pid, Signal::SIGTERM);
        let gone = running.wait_for(Option::is_none);
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("mariadbd does not stop; it is killed");
            processes::kill(pid, Signal::SIGKILL);
            let mut running = self.running.subscribe();
            let _ = tokio::time::timeout(Duration::from_secs(10), running.wait_for(Option::is_none)).await;
        }
    }
}

/// Passes the server's error log on to the container's output, and each whole line to `heard`; returns its last words.
async fn pass_on(mut stderr: tokio::process::ChildStderr, heard: impl Fn(&str)) -> String {
    let mut last = Vec::new();
    let mut line = Vec::new();
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(length) = stderr.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        // The container's output may be slow: not on the agent's one thread.
        let chunk = buffer[..length].to_vec();
        let _ = tokio::task::spawn_blocking(move || std::io::stderr().write_all(&chunk)).await;
        last.extend_from_slice(&buffer[..length]);
        if last.len() > 2 * WORDS {
            last.drain(..last.len() - WORDS);
        }
        for piece in buffer[..length].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() > WORDS {
                heard(&String::from_utf8_lossy(&line));
                line.clear();
            }
        }
    }
    String::from_utf8_lossy(&last).into_owned()
}

/// The server's last complaints, without their time stamps; its last words where it has none.
fn errors(words: &str) -> String {
    let mut found: Vec<&str> = words
        .lines()
        .filter_map(|line| line.split_once("[ERROR]").map(|(_, text)| text.trim()))
        .filter(|text| *text != "Aborting")
        .collect();
    found.dedup();
    let from = found.len().saturating_sub(3);
    if found.is_empty() { crate::bootstrap::last_lines(words) } else { found[from..].join("; ") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_errors_are_told() {
        let words = "2026-11-23 11:00:00 0 [Note] InnoDB: x\n2026-11-23 11:00:00 0 [ERROR] Found 2 prepared transactions! It means\n\
                     2026-11-23 11:00:00 0 [ERROR] Aborting\n";
        assert_eq!(super::errors(words), "Found 2 prepared transactions! It means");
        assert_eq!(super::errors("a\nb\n"), "a; b");
    }
}
