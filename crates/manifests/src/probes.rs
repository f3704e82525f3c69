//! Probes of the container `mariadb`.

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use protocol::PROBE_PORT;

fn agent(path: &str) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(i32::from(PROBE_PORT)),
        ..HTTPGetAction::default()
    }
}

/// Ours, unless the user gave one of another kind than exec; an exec probe is run by the agent, with the user's numbers.
fn probe(path: &str, defaults: &Probe, user: Option<&Probe>) -> Probe {
    let Some(user) = user else { return Probe { http_get: Some(agent(path)), ..defaults.clone() } };
    let own_kind = user.http_get.is_some() || user.tcp_socket.is_some() || user.grpc.is_some();
    Probe {
        exec: None,
        http_get: if own_kind { user.http_get.clone() } else { Some(agent(path)) },
        // The agent bounds the command; the probe's own limit leaves it room to say so.
        timeout_seconds: match (&user.exec, user.timeout_seconds) {
            (Some(_), given) => Some(given.unwrap_or(1) + 1),
            (None, given) => given.or(defaults.timeout_seconds),
        },
        initial_delay_seconds: user.initial_delay_seconds.or(defaults.initial_delay_seconds),
        period_seconds: user.period_seconds.or(defaults.period_seconds),
        failure_threshold: user.failure_threshold.or(defaults.failure_threshold),
        success_threshold: user.success_threshold.or(defaults.success_threshold),
        ..user.clone()
    }
}

fn numbers(period: i32, failures: i32) -> Probe {
    Probe {
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// Waits for the agent, not for the server: crash recovery may take long.
pub(crate) fn startup(user: Option<&Probe>) -> Probe {
    let adjusted = user.map(|user| Probe { http_get: None, tcp_socket: None, grpc: None, exec: None, ..user.clone() });
    probe("/startup", &numbers(1, 120), adjusted.as_ref())
}

pub(crate) fn liveness(user: Option<&Probe>) -> Probe {
    probe("/live", &numbers(10, 6), user)
}

pub(crate) fn readiness(user: Option<&Probe>) -> Probe {
    probe("/ready", &numbers(1, 2), user)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ExecAction, TCPSocketAction};

    use super::*;

    #[test]
    fn an_exec_probe_is_run_by_the_agent_with_its_own_numbers() {
        let user = Probe {
            exec: Some(ExecAction { command: Some(vec!["true".into()]) }),
            period_seconds: Some(7),
            timeout_seconds: Some(5),
            ..Probe::default()
        };
        let made = readiness(Some(&user));
        assert_eq!(made.http_get.unwrap().path.as_deref(), Some("/ready"));
        assert_eq!((made.exec, made.period_seconds, made.timeout_seconds), (None, Some(7), Some(6)));
    }

    #[test]
    fn a_probe_of_another_kind_replaces_ours() {
        let tcp = TCPSocketAction { port: IntOrString::Int(3306), ..TCPSocketAction::default() };
        let made = liveness(Some(&Probe { tcp_socket: Some(tcp.clone()), ..Probe::default() }));
        assert_eq!((made.http_get, made.tcp_socket), (None, Some(tcp)));
    }

    #[test]
    fn numbers_alone_adjust_ours() {
        let made = liveness(Some(&Probe { period_seconds: Some(3), ..Probe::default() }));
        assert_eq!((made.period_seconds, made.failure_threshold), (Some(3), Some(6)));
        assert!(made.http_get.is_some());
    }
}
