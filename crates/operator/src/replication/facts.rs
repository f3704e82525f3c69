//! What the cluster says of a member's pod and volume claim.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Node, PersistentVolumeClaim, Pod,
};
use topology::observation;

/// The container that holds the server.
const CONTAINER: &str = "mariadb";

/// Taint by which a person says that a node is shut down, and that what ran on it does so no more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A life of the container: its id, and how often it was restarted.
pub(super) type Life = (String, i32);

/// The life of the server's container that the pod object shows.
pub(super) fn life(pod: &Pod) -> Option<Life> {
    let container = container(pod)?;
    container.state.as_ref()?.running.as_ref()?;
    Some((container.container_id.clone().unwrap_or_default(), container.restart_count))
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|container| container.name == CONTAINER)
}

/// What else is known when a pod is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// The pod's node; `None`: there is none of that name.
    pub(super) node: Option<&'a Node>,
    /// Its agent answers: no news of its kubelet's is newer.
    pub(super) agent_answers: bool,
    /// The life in which its agent was heard last.
    pub(super) heard_in: Option<&'a Life>,
}

/// A member's pod, for the decision.
pub(super) fn pod(pod: Option<&Pod>, around: Around<'_>) -> observation::Pod {
    let Some(pod) = pod else { return observation::Pod::Absent };
    if let Some(container) = container(pod)
        && let Some(state) = &container.state
        && (state.running.is_some() || state.terminated.is_some() || ended(container).is_some())
    {
        if around.agent_answers {
            return observation::Pod::Running;
        }
        // What a kubelet said before it was lost may not be the last: a pod that was deleted meanwhile is believed only
        // where its node still reports.
        let believed = pod.metadata.deletion_timestamp.is_none() || around.node.is_some_and(is_ready);
        let restarted = state.running.is_some() && around.heard_in.is_some() && around.heard_in != life(pod).as_ref();
        return match &state.terminated {
            Some(end) if believed => observation::Pod::Exited { why: why_ended(end) },
            None if state.running.is_none() || restarted => match ended(container) {
                Some(end) if believed => {
                    let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
                    let why = waits.map_or_else(|| why_ended(end), |waits| format!("{}; {waits}", why_ended(end)));
                    observation::Pod::Exited { why }
                }
                _ => observation::Pod::Running,
            },
            Some(_) | None => observation::Pod::Running,
        };
    }
    if pod.metadata.deletion_timestamp.is_some() && address(pod).is_none() {
        return observation::Pod::Absent;
    }
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    if let Some(container) = containers.iter().find(|container| container.name == CONTAINER)
        && let Some(state) = &container.state
    {
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

/// How the container's last life ended.
fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.last_state.as_ref()?.terminated.as_ref()
}

fn why_ended(end: &ContainerStateTerminated) -> String {
    format!("{} (exit code {})", end.reason.as_deref().unwrap_or("Terminated"), end.exit_code)
}

/// The node reports, and says it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Nothing can run there any more: the node is gone, or a person said that it is out of service.
pub(super) fn is_gone(node: Option<&Node>) -> bool {
    node.is_none_or(|node| {
        node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
    })
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
        seen(status, false, Around { node: None, agent_answers: false, heard_in: None })
    }

    fn seen(status: &serde_json::Value, deleting: bool, around: Around<'_>) -> observation::Pod {
        let meta = match deleting {
            true => json!({"name": "db-0", "deletionTimestamp": "2026-11-23T10:00:00Z"}),
            false => json!({"name": "db-0"}),
        };
        let made: Pod = serde_json::from_value(json!({"metadata": meta, "status": status})).expect("a pod");
        pod(Some(&made), around)
    }

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a node")
    }

    #[test]
    fn ends() {
        let exited = |why: &str| observation::Pod::Exited { why: why.to_owned() };
        let status = |state: serde_json::Value, last: serde_json::Value| {
            json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "mariadb", "containerID": "c2",
                "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last}]})
        };
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let alone = Around { node: None, agent_answers: false, heard_in: None };
        assert_eq!(seen(&status(killed.clone(), json!({})), false, alone), exited("OOMKilled (exit code 137)"));
        // Deleted on a node that does not report: what it said is old.
        let (lost, well) = (node("Unknown"), node("True"));
        let on = |node| Around { node: Some(node), ..alone };
        assert_eq!(seen(&status(killed.clone(), json!({})), true, on(&lost)), observation::Pod::Running);
        assert_eq!(seen(&status(killed.clone(), json!({})), true, on(&well)), exited("OOMKilled (exit code 137)"));
        // Waiting for its next start.
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let ended = exited("OOMKilled (exit code 137); CrashLoopBackOff");
        assert_eq!(seen(&status(waiting, killed.clone()), false, alone), ended);
        // Restarted: known only to whoever heard the agent of the life before.
        let running = status(json!({"running": {}}), killed);
        let (before, same) = (("c1".to_owned(), 0), ("c2".to_owned(), 1));
        let heard = |life| Around { heard_in: Some(life), ..alone };
        assert_eq!(seen(&running, false, alone), observation::Pod::Running);
        assert_eq!(seen(&running, false, heard(&same)), observation::Pod::Running);
        assert_eq!(seen(&running, false, heard(&before)), exited("OOMKilled (exit code 137)"));
        let answers = Around { agent_answers: true, ..heard(&before) };
        assert_eq!(seen(&running, false, answers), observation::Pod::Running);
    }

    #[test]
    fn nodes_that_are_gone() {
        assert!(is_gone(None) && !is_gone(Some(&node("Unknown"))));
        let mut out = node("Unknown");
        out.spec = serde_json::from_value(json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}))
            .expect("a spec");
        assert!(is_gone(Some(&out)));
    }

    #[test]
    fn pods() {
        let not_running = |why: &str| observation::Pod::NotRunning { why: why.to_owned() };
        assert_eq!(pod(None, Around { node: None, agent_answers: false, heard_in: None }), observation::Pod::Absent);
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
