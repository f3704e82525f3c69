//! The cells of pods: what `kubectl get pods` makes of a pod's many states.

use serde_json::Value;

use super::age;
use super::cells::{at, list, text};

pub(super) fn cell(pod: &Value, what: &str, now: jiff::Timestamp) -> Value {
    match what {
        "ip" => {
            let first = list(pod, "status.podIPs").first().and_then(|ip| text(ip, "ip"));
            first.or_else(|| text(pod, "status.podIP")).filter(|ip| !ip.is_empty()).unwrap_or("<none>").into()
        }
        "gates" => {
            let gates = list(pod, "spec.readinessGates");
            let is_true = |gate: &&Value| {
                let conditions = list(pod, "status.conditions");
                conditions
                    .iter()
                    .any(|c| text(c, "type") == text(gate, "conditionType") && text(c, "status") == Some("True"))
            };
            let ready = gates.iter().filter(is_true).count();
            if gates.is_empty() { "<none>".into() } else { format!("{ready}/{}", gates.len()).into() }
        }
        _ => {
            let state = State::of(pod, now);
            match what {
                "ready" => format!("{}/{}", state.ready, state.total).into(),
                "restarts" => state.restarts.into(),
                _ => state.reason.into(),
            }
        }
    }
}

struct State {
    ready: usize,
    total: usize,
    reason: String,
    restarts: String,
}

/// Restarts, and the time of the last one.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<String>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += at(status, "restartCount").and_then(Value::as_i64).unwrap_or(0);
        let finished = text(status, "lastState.terminated.finishedAt").map(str::to_owned);
        if finished > self.last {
            self.last = finished;
        }
    }
}

impl State {
    fn of(pod: &Value, now: jiff::Timestamp) -> Self {
        let reason =
            |status: &Value, state: &str| text(status, &format!("state.{state}.reason")).unwrap_or_default().to_owned();
        let mut shown = text(pod, "status.reason")
            .filter(|r| !r.is_empty())
            .or_else(|| text(pod, "status.phase"))
            .unwrap_or_default()
            .to_owned();
        let gated = list(pod, "status.conditions").iter().any(|c| {
            text(c, "type") == Some("PodScheduled")
                && text(c, "status") == Some("False")
                && text(c, "reason") == Some("SchedulingGated")
        });
        if gated {
            shown = "SchedulingGated".into();
        }
        let inits = list(pod, "spec.initContainers");
        let sidecar = |name: Option<&str>| {
            inits.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == Some("Always"))
        };
        let mut total = list(pod, "spec.containers").len();
        total += inits.iter().filter(|c| text(c, "restartPolicy") == Some("Always")).count();

        let (mut ready, mut restarts, mut sidecars) = (0, Restarts::default(), Restarts::default());
        let mut initializing = false;
        for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
            restarts.add(status);
            let is_sidecar = sidecar(text(status, "name"));
            if is_sidecar {
                sidecars.add(status);
            }
            let terminated = at(status, "state.terminated");
            if terminated.is_some_and(|t| at(t, "exitCode").and_then(Value::as_i64) == Some(0)) {
                continue;
            }
            if is_sidecar && at(status, "started") == Some(&Value::Bool(true)) {
                if at(status, "ready") == Some(&Value::Bool(true)) {
                    ready += 1;
                }
                continue;
            }
            let waiting = reason(status, "waiting");
            shown = if let Some(terminated) = terminated {
                match reason(status, "terminated") {
                    why if !why.is_empty() => format!("Init:{why}"),
                    _ => exit(terminated, "Init:"),
                }
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", inits.len())
            };
            initializing = true;
            break;
        }
        let initialized = list(pod, "status.conditions")
            .iter()
            .any(|c| text(c, "type") == Some("Initialized") && text(c, "status") == Some("True"));
        if !initializing || initialized {
            restarts = sidecars;
            let mut has_running = false;
            for status in list(pod, "status.containerStatuses").iter().rev() {
                restarts.add(status);
                let (waiting, terminated) = (reason(status, "waiting"), reason(status, "terminated"));
                if !waiting.is_empty() {
                    shown = waiting;
                } else if !terminated.is_empty() {
                    shown = terminated;
                } else if let Some(ended) = at(status, "state.terminated") {
                    shown = exit(ended, "");
                } else if at(status, "ready") == Some(&Value::Bool(true)) && at(status, "state.running").is_some() {
                    has_running = true;
                    ready += 1;
                }
            }
            if shown == "Completed" && has_running {
                let is_ready = list(pod, "status.conditions")
                    .iter()
                    .any(|c| text(c, "type") == Some("Ready") && text(c, "status") == Some("True"));
                shown = if is_ready { "Running" } else { "NotReady" }.into();
            }
        }
        if at(pod, "metadata.deletionTimestamp").is_some() {
            let phase = text(pod, "status.phase").unwrap_or_default();
            if text(pod, "status.reason") == Some("NodeLost") {
                shown = "Unknown".into();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                shown = "Terminating".into();
            }
        }
        let ago =
            restarts.last.as_deref().filter(|_| restarts.count > 0).map(|t| format!(" ({} ago)", age(Some(t), now)));
        Self { ready, total, reason: shown, restarts: format!("{}{}", restarts.count, ago.unwrap_or_default()) }
    }
}

fn exit(terminated: &Value, prefix: &str) -> String {
    let number = |name: &str| at(terminated, name).and_then(Value::as_i64).unwrap_or(0);
    match number("signal") {
        0 => format!("{prefix}ExitCode:{}", number("exitCode")),
        signal => format!("{prefix}Signal:{signal}"),
    }
}
