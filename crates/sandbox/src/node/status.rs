//! A pod's status from what the node knows. Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// What the node knows of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodState {
    /// Init containers, in order.
    pub(crate) init: Vec<ContainerStatus>,
    /// The others.
    pub(crate) main: Vec<ContainerStatus>,
    /// The pod's address while it has one.
    pub(crate) address: Option<Ipv4Addr>,
    /// The node's address.
    pub(crate) host: Ipv4Addr,
    /// When the node took the pod.
    pub(crate) started: Time,
    /// Whether all init containers are done.
    pub(crate) initialized: bool,
    /// Whether nothing of the pod will run any more.
    pub(crate) finished: bool,
    /// Reason and message of a pod that the node gave up.
    pub(crate) failure: Option<(&'static str, String)>,
}

impl PodState {
    /// State of a pod that the node sees for the first time, or again after a restart of the sandbox.
    pub(crate) fn new(pod: &Pod, host: Ipv4Addr, now: &Time) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.as_ref();
        let restore = |name: &str, image: &str, old: Option<&Vec<ContainerStatus>>| {
            let old = old.into_iter().flatten().find(|s| s.name == name);
            old.map_or_else(|| waiting(name, image), |old| restored(old, now))
        };
        Self {
            init: spec
                .init_containers
                .iter()
                .flatten()
                .map(|c| {
                    restore(
                        &c.name,
                        c.image.as_deref().unwrap_or_default(),
                        status.and_then(|s| s.init_container_statuses.as_ref()),
                    )
                })
                .collect(),
            main: spec
                .containers
                .iter()
                .map(|c| {
                    restore(
                        &c.name,
                        c.image.as_deref().unwrap_or_default(),
                        status.and_then(|s| s.container_statuses.as_ref()),
                    )
                })
                .collect(),
            address: None,
            host,
            started: status.and_then(|s| s.start_time.clone()).unwrap_or_else(|| now.clone()),
            initialized: spec.init_containers.iter().flatten().next().is_none(),
            finished: false,
            failure: None,
        }
    }

    /// A container's status by name.
    pub(crate) fn container(&mut self, name: &str) -> Option<&mut ContainerStatus> {
        self.init.iter_mut().chain(&mut self.main).find(|s| s.name == name)
    }
}

fn waiting(name: &str, image: &str) -> ContainerStatus {
    let mut status = ContainerStatus { name: name.to_owned(), image: image.to_owned(), ..ContainerStatus::default() };
    status.state = Some(wait_state("ContainerCreating", None));
    status.started = Some(false);
    status
}

/// State `waiting`.
pub(crate) fn wait_state(reason: &str, message: Option<String>) -> ContainerState {
    use k8s_openapi::api::core::v1::ContainerStateWaiting;
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

/// A container that ran when the sandbox died has died with it.
fn restored(old: &ContainerStatus, now: &Time) -> ContainerStatus {
    use k8s_openapi::api::core::v1::ContainerStateTerminated;
    let mut status = old.clone();
    status.ready = false;
    status.started = Some(false);
    let running = status.state.as_mut().and_then(|s| s.running.take());
    if let Some(running) = running {
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("SandboxStopped".to_owned()),
                message: Some("The sandbox stopped, and its containers with it".to_owned()),
                started_at: running.started_at,
                finished_at: Some(now.clone()),
                container_id: status.container_id.clone(),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
    }
    status
}

/// What a pod's object says of its readiness.
pub(crate) fn readiness(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

/// The same of a patch of [`patch`].
pub(crate) fn readiness_in(patch: &Value) -> Option<&str> {
    let conditions = patch["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Ready").and_then(|condition| condition["status"].as_str())
}

/// Whether an init container goes on beside the others.
pub(crate) fn is_sidecar(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
}

/// The pod's phase. It is over when everything of it is: sidecars end after the others.
pub(crate) fn phase(spec: &PodSpec, state: &PodState) -> &'static str {
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
    match phase_without_sidecars(spec, state) {
        "Succeeded" | "Failed" if !state.finished && state.init.iter().any(runs) => "Running",
        phase => phase,
    }
}

fn phase_without_sidecars(spec: &PodSpec, state: &PodState) -> &'static str {
    if state.failure.is_some() {
        return "Failed";
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let exit = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let failed_init = state.init.iter().filter(|s| !is_sidecar(spec, &s.name)).any(|s| exit(s).is_some_and(|c| c != 0));
    if failed_init && policy == "Never" {
        return "Failed";
    }
    if !state.initialized && !state.finished {
        return "Pending";
    }
    let (mut running, mut waiting, mut succeeded, mut failed) = (0, 0, 0, 0);
    for status in &state.main {
        let current = status.state.as_ref();
        if current.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(code) = exit(status) {
            if code == 0 { succeeded += 1 } else { failed += 1 }
        } else if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            // Between two runs.
            failed += 1;
        } else {
            waiting += 1;
        }
    }
    if waiting > 0 {
        return if state.finished { "Failed" } else { "Pending" };
    }
    if running > 0 {
        return "Running";
    }
    match policy {
        "Always" if !state.finished => "Running",
        _ if failed == 0 && succeeded > 0 => "Succeeded",
        "OnFailure" if !state.finished => "Running",
        _ => "Failed",
    }
}

/// The quality-of-service class.
pub(crate) fn qos(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        any |= limits.is_some_and(|l| !l.is_empty()) || requests.is_some_and(|r| !r.is_empty());
        guaranteed &= ["cpu", "memory"].into_iter().all(|name| {
            let limit = limits.and_then(|l| l.get(name));
            limit.is_some() && requests.and_then(|r| r.get(name)).is_none_or(|r| Some(r) == limit)
        });
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The patch (strategic merge) that makes the pod's status right.
pub(crate) fn patch(pod: &Pod, state: &PodState, now: &Time) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = phase(&spec, state);
    let existing = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let over = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = state.main.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let sidecars_ready = state.init.iter().filter(|s| is_sidecar(&spec, &s.name)).all(|s| s.ready);
    let containers_ready = !over && unready.is_empty() && sidecars_ready && state.initialized;
    let closed: Vec<&str> = spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|g| g.condition_type.as_str())
        .filter(|wanted| !existing.iter().any(|c| c.type_ == *wanted && c.status == "True"))
        .collect();
    let ready = containers_ready && closed.is_empty();
    let not_ready = || {
        if phase == "Succeeded" {
            (Some("PodCompleted"), None)
        } else if phase == "Failed" {
            (Some("PodFailed"), None)
        } else {
            (Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
        }
    };
    let initialized = if state.initialized {
        (true, (phase == "Succeeded").then_some("PodCompleted"), None)
    } else {
        let open: Vec<&str> = state.init.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
        (
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: [{}]", open.join(" "))),
        )
    };
    let ready_condition = if ready {
        (true, None, None)
    } else if containers_ready {
        (
            false,
            Some("ReadinessGatesNotReady"),
            Some(format!("the status of pod readiness gate \"{}\" is not \"True\"", closed.join(" "))),
        )
    } else {
        let (reason, message) = not_ready();
        (false, reason, message)
    };
    let containers_condition = if containers_ready {
        (true, None, None)
    } else {
        let (reason, message) = not_ready();
        (false, reason, message)
    };
    let facts = [
        ("PodScheduled", (true, None, None)),
        ("PodReadyToStartContainers", (state.address.is_some(), None, None)),
        ("Initialized", initialized),
        ("ContainersReady", containers_condition),
        ("Ready", ready_condition),
    ];
    let conditions: Vec<Value> = facts
        .into_iter()
        .map(|(name, (status, reason, message))| condition(existing, name, status, reason, message.as_deref(), now))
        .collect();
    let (reason, message) = match &state.failure {
        Some((reason, message)) => (Some(*reason), Some(message.as_str())),
        None => (None, None),
    };
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "containerStatuses": state.main,
        "hostIP": state.host,
        "hostIPs": [{ "ip": state.host }],
        "startTime": state.started,
        "qosClass": qos(&spec),
        "reason": reason,
        "message": message,
        "observedGeneration": pod.metadata.generation,
    });
    if !state.init.is_empty() {
        status["initContainerStatuses"] = json!(state.init);
    }
    if let Some(address) = state.address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "$patch": "replace" }, { "ip": address }]);
    }
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": status })
}

fn condition(
    existing: &[PodCondition],
    name: &str,
    status: bool,
    reason: Option<&str>,
    message: Option<&str>,
    now: &Time,
) -> Value {
    let status = if status { "True" } else { "False" };
    let since = existing
        .iter()
        .find(|c| c.type_ == name && c.status == status)
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or_else(|| now.clone());
    json!({
        "type": name, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
        "reason": reason, "message": message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, main: Value) -> (PodSpec, PodState) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "spec": { "restartPolicy": policy, "containers": [{ "name": "a" }] },
        }))
        .expect("a pod");
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let mut state = PodState::new(&pod, Ipv4Addr::LOCALHOST, &now);
        state.main[0] = serde_json::from_value(main).expect("a status");
        (pod.spec.expect("spec"), state)
    }

    fn check(policy: &str, main: Value, expected: &str) {
        let mut main = main;
        for (key, value) in [
            ("name", json!("a")),
            ("image", json!("")),
            ("imageID", json!("")),
            ("ready", json!(false)),
            ("restartCount", json!(0)),
        ] {
            main[key] = value;
        }
        let (spec, state) = pod(policy, main.clone());
        assert_eq!(phase(&spec, &state), expected, "{policy} {main}");
    }

    #[test]
    fn phases() {
        let ended = |code| json!({ "state": { "terminated": { "exitCode": code } } });
        check("Always", json!({ "state": { "waiting": {} } }), "Pending");
        check("Always", json!({ "state": { "running": {} } }), "Running");
        check("Always", ended(1), "Running");
        check("OnFailure", ended(1), "Running");
        check("OnFailure", ended(0), "Succeeded");
        check("Never", ended(1), "Failed");
        check("Never", ended(0), "Succeeded");
        check(
            "Always",
            json!({ "state": { "waiting": {} }, "lastState": { "terminated": { "exitCode": 1 } } }),
            "Running",
        );
    }
}
