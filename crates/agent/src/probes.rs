//! Probes: does the server make progress, and does the member do its role?

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use protocol::config::ExecProbe;
use topology::MemberState;
use topology::member::{Phase, ThreadState};

use crate::{Shared, config, processes};

type Answer = (StatusCode, String);

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/startup", get(async || "the agent answers"))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .with_state(shared)
}

fn answer(result: Result<String, String>) -> Answer {
    match result {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

async fn live(State(shared): State<Arc<Shared>>) -> Answer {
    let state = shared.state.now();
    if state.phase != Phase::Running {
        // Crash recovery, cloning, waiting for a decision, a refused configuration: killing the pod would not help.
        return answer(Ok("the agent holds the server".into()));
    }
    if let Some(probe) = &shared.config.probes.liveness {
        return answer(run(&shared, probe).await);
    }
    answer(match state.server {
        Some(_) => Ok("mariadbd answers".into()),
        None => Err("mariadbd does not answer".into()),
    })
}

async fn ready(State(shared): State<Arc<Shared>>) -> Answer {
    let state = shared.state.now();
    let own = role(&state, config::current(&shared).max_lag_seconds);
    // A probe written for replicas must not take the primary, or all that is left, out of service. A single server is neither.
    let asked = match &own {
        Ok(Role::Replica { connected }) => *connected,
        Ok(Role::Primary) => !shared.config.replication,
        Err(_) => false,
    };
    if let (true, Some(probe)) = (asked, &shared.config.probes.readiness) {
        return answer(run(&shared, probe).await);
    }
    answer(own.map(|role| format!("{role:?}")))
}

/// What a ready member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica { connected: bool },
}

/// Lag that cannot be known because the source is gone does not make a replica unready.
fn role(state: &MemberState, max_lag: u32) -> Result<Role, String> {
    if state.phase != Phase::Running {
        return Err(format!("not running: {:?}", state.phase));
    }
    let Some(server) = &state.server else { return Err("mariadbd does not answer".into()) };
    let Some(replication) = &server.replication else {
        return if server.read_only {
            Err("waits to be opened, or to be told what to follow".into())
        } else {
            Ok(Role::Primary)
        };
    };
    // Its former source is forgotten a moment after it was opened, or when a STOP SLAVE that hangs in connect() ends.
    if !server.read_only && replication.sql == ThreadState::No {
        return Ok(Role::Primary);
    }
    if replication.sql != ThreadState::Yes {
        let why = replication.sql_error.as_ref().map(|e| format!(": {} {}", e.errno, e.message)).unwrap_or_default();
        return Err(format!("does not apply{why}"));
    }
    match replication.io {
        ThreadState::Yes => match replication.seconds_behind {
            Some(lag) if lag > u64::from(max_lag) => Err(format!("{lag} s behind, more than {max_lag}")),
            _ => Ok(Role::Replica { connected: true }),
        },
        // Stopped with an error: it will not come back by itself.
        ThreadState::No if replication.io_error.is_some() => Err(format!(
            "does not receive: {}",
            replication.io_error.as_ref().map(|e| e.message.as_str()).unwrap_or_default()
        )),
        // Read for a failover: its source is lost, and it goes on in a moment.
        ThreadState::No if state.fence.is_some() => Ok(Role::Replica { connected: false }),
        ThreadState::No => Err("does not receive: stopped".into()),
        ThreadState::Connecting => Ok(Role::Replica { connected: false }),
    }
}

/// A user's own probe, with the password in force.
async fn run(shared: &Shared, probe: &ExecProbe) -> Result<String, String> {
    let Some((program, rest)) = probe.command.split_first() else { return Err("an empty command".into()) };
    let mut command = tokio::process::Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    if let Some(password) = shared.places.root_password() {
        command.env("MARIADB_ROOT_PASSWORD", password);
    }
    let mut child = processes::spawn(&mut command).map_err(|e| format!("{program}: {e}"))?;
    let limit = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
    match tokio::time::timeout(limit, child.child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok("the probe's command succeeded".into()),
        Ok(Ok(status)) => Err(format!("the probe's command: {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the probe's command: longer than {limit:?}")),
    }
}
