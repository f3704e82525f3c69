//! What the cluster says of a member's pod and volume claim.

use k8s_openapi::api::core::v1::{ContainerState, PersistentVolumeClaim, Pod};
use topology::observation;

/// The container that holds the server.
const CONTAINER: &str = "mariadb";

/// A member's pod, for the decision.
pub(super) fn pod(pod: Option<&Pod>) -> observation::Pod {
    let Some(pod) = pod else { return observation::Pod::Absent };
    if pod.metadata.deletion_timestamp.is_some() && address(pod).is_none() {
        return observation::Pod::Absent;
    }
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    if let Some(container) = containers.iter().find(|container| container.name == CONTAINER)
        && let Some(state) = &container.state
    {
        if state.running.is_some() {
            return observation::Pod::Running;
        }
        return observation::Pod::NotRunning { why: why(state) };
    }
    let waiting = status.init_container_statuses.unwrap_or_default();
    if let Some(state) = waiting.iter().filter_map(|c| c.state.as_ref()).find(|state| state.waiting.is_some()) {
        return observation::Pod::NotRunning { why: why(state) };
    }
    let unscheduled = status
        .conditions
        .unwrap_or_default()
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let why = match unscheduled {
        Some(condition) => join(condition.reason.as_deref().unwrap_or("Unschedulable"), condition.message.as_deref()),
        None => "its pod is being started".to_owned(),
    };
    observation::Pod::NotRunning { why }
}

fn join(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    }
}

fn why(state: &ContainerState) -> String {
    if let Some(waiting) = &state.waiting {
        return join(waiting.reason.as_deref().unwrap_or("Waiting"), waiting.message.as_deref());
    }
    if let Some(terminated) = &state.terminated {
        let code = format!("exit code {}", terminated.exit_code);
        return join(terminated.reason.as_deref().unwrap_or("Terminated"), Some(&code));
    }
    "its container is being started".to_owned()
}

/// The address of a pod that can answer.
pub(super) fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    status.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

/// A member's volume claim, for the decision.
pub(super) fn claim(claim: Option<&PersistentVolumeClaim>, ephemeral: bool) -> observation::Claim {
    match claim {
        _ if ephemeral => observation::Claim::Ephemeral,
        None => observation::Claim::Absent,
        Some(claim) if bound(claim) => observation::Claim::Bound,
        Some(_) => observation::Claim::Unbound,
    }
}

fn bound(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_ref().is_some_and(|name| !name.is_empty()))
        || claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(status: &serde_json::Value) -> observation::Pod {
        let made: Pod = serde_json::from_value(json!({"metadata": {"name": "db-0"}, "status": status})).expect("a pod");
        pod(Some(&made))
    }

    #[test]
    fn pods() {
        let not_running = |why: &str| observation::Pod::NotRunning { why: why.to_owned() };
        assert_eq!(pod(None), observation::Pod::Absent);
        assert_eq!(
            of(&json!({"containerStatuses": [{"name": "mariadb", "state": {"running": {}}}]})),
            observation::Pod::Running
        );
        assert_eq!(
            of(&json!({"containerStatuses": [{"name": "mariadb", "state":
                {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]})),
            not_running("ImagePullBackOff: no such image")
        );
        assert_eq!(
            of(
                &json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4"}]})
            ),
            not_running("Unschedulable: 0/4")
        );
        assert_eq!(of(&json!({})), not_running("its pod is being started"));
    }

    #[test]
    fn claims() {
        let made = |spec: serde_json::Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"spec": spec})).expect("a claim")
        };
        assert_eq!(claim(None, false), observation::Claim::Absent);
        assert_eq!(claim(Some(&made(json!({}))), false), observation::Claim::Unbound);
        assert_eq!(claim(Some(&made(json!({"volumeName": "pv-1"}))), false), observation::Claim::Bound);
        assert_eq!(claim(None, true), observation::Claim::Ephemeral);
    }
}
