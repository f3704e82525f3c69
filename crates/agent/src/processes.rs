//! Process 1's duties: orphans are reaped, own children keep their exit status, a signal stops all.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Children that somebody waits for. Held while spawning, so that the reaper never takes the status of a child that
/// ended before it was noted.
static OWN: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

/// Spawns a child whose status is its caller's.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Owned> {
    let mut own = OWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let child = command.spawn()?;
    let pid = child.id().map(|id| id as i32);
    if let Some(pid) = pid {
        own.get_or_insert_default().insert(pid);
    }
    Ok(Owned { child, pid })
}

/// A child of ours, until it is dropped.
pub(crate) struct Owned {
    pub(crate) child: Child,
    pid: Option<i32>,
}

impl Owned {
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let mut own = OWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            own.get_or_insert_default().remove(&pid);
        }
    }
}

/// Reaps what is not ours: in a container, orphans of `kubectl exec`, of probes and of scripts become children of process 1.
pub(crate) async fn reap_orphans() {
    let Ok(mut died) = signal(SignalKind::child()) else { return };
    loop {
        // A child of ours that is not reaped yet hides orphans behind it: look again soon, too.
        let _ = tokio::time::timeout(Duration::from_secs(5), died.recv()).await;
        reap();
    }
}

fn reap() {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
    while let Ok(status) = waitid(Id::All, flags) {
        let Some(pid) = status.pid().filter(|_| !matches!(status, WaitStatus::StillAlive)) else { return };
        let own = OWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if own.as_ref().is_some_and(|own| own.contains(&pid.as_raw())) {
            return;
        }
        drop(own);
        if waitpid(Pid::from_raw(pid.as_raw()), Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Returns when the agent is told to stop.
pub(crate) async fn told_to_stop() {
    let (Ok(mut term), Ok(mut interrupt), Ok(mut quit)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
}

/// Sends a signal to a child of ours.
pub(crate) fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    if let Err(error) = nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        tracing::debug!(%error, pid, %signal, "signal not delivered");
    }
}
