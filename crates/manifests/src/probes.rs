//! Probes of the container `mariadb`: asked of the agent, unless the user brings own ones.

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Name of the container's port that answers probes.
pub(crate) const PORT: &str = "probes";

fn ask(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PORT.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Numbers of the user's over ours; a handler of the user's too, but for commands: those the agent runs.
fn adjusted(ours: Probe, given: Option<&Probe>) -> Probe {
    let Some(given) = given.cloned() else { return ours };
    let own_handler = given.http_get.is_some() || given.tcp_socket.is_some() || given.grpc.is_some();
    Probe {
        exec: None,
        http_get: if own_handler { given.http_get } else { ours.http_get },
        tcp_socket: given.tcp_socket,
        grpc: given.grpc,
        failure_threshold: given.failure_threshold.or(ours.failure_threshold),
        initial_delay_seconds: given.initial_delay_seconds.or(ours.initial_delay_seconds),
        period_seconds: given.period_seconds.or(ours.period_seconds),
        success_threshold: given.success_threshold.or(ours.success_threshold),
        termination_grace_period_seconds: given.termination_grace_period_seconds,
        // A command's limit is the agent's to keep; the question needs a moment more than the command.
        timeout_seconds: match (given.exec.is_some(), given.timeout_seconds) {
            (true, seconds) => Some(seconds.unwrap_or(1).max(1) + 1),
            (false, seconds) => seconds.or(ours.timeout_seconds),
        },
    }
}

/// Does the agent answer? (Crash recovery and cloning take as long as they take: the agent answers meanwhile.)
pub(crate) fn startup(given: Option<&Probe>) -> Probe {
    let numbers_only = given.map(|probe| Probe { http_get: None, tcp_socket: None, grpc: None, ..probe.clone() });
    adjusted(ask("/startup", 1, 2, 60), numbers_only.as_ref())
}

/// Does the server make progress?
pub(crate) fn liveness(given: Option<&Probe>) -> Probe {
    adjusted(ask("/live", 10, 5, 3), given)
}

/// Does the member do its role?
pub(crate) fn readiness(given: Option<&Probe>) -> Probe {
    adjusted(ask("/ready", 1, 3, 3), given)
}
