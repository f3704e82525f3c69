//! Where clients are sent: role labels on pods, which services select by, and users' own services that name a pod.
//!
//! A task of its own beside the runner, so that a slow API server holds up no decision; told of every pass, and quick: all
//! that differs is written at once.

use std::collections::BTreeMap;
use std::time::Duration;

use api::names;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use topology::Record;
use topology::action::Action;
use topology::decision::{Decision, Event, Order, Role};
use topology::member::{MemberName, Volume};
use topology::observation::{Agent, Observation};

use super::{FIELD_MANAGER, Inputs};

/// An API server that does not answer in this time is asked again.
const LIMIT: Duration = Duration::from_secs(3);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long what was written counts as what is there, until the watch has brought it back.
const ECHO: Duration = Duration::from_secs(5);

/// What shall be so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// The role label of each pod; `None`: it has none.
    roles: BTreeMap<String, Option<&'static str>>,
    /// The primary that is open, or about to be, with its object.
    primary: Option<(String, String)>,
    open: bool,
    /// Pod and object of every member.
    members: BTreeMap<String, String>,
}

impl Routes {
    /// There is a primary that is open for writes.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }
}

/// What follows from a pass. The old primary has no role from when it is fenced or closed; the new one has its role from then (switchover)
/// or from when it is told to open (failover): until clients are sent there (endpoints, DNS, proxies) it is open, or about to be. Who
/// comes early reads, and is refused its writes as by the old one. `labelled`: the pod that has the label of a primary now.
pub(super) fn routes(
    decision: &Decision,
    record: &Record,
    seen: &Observation,
    labelled: impl Fn(&MemberName) -> bool,
) -> Routes {
    let holder = record.holder.as_ref().and_then(|holder| Some((holder, seen.members.get(&holder.member)?)));
    let holder = holder.and_then(|(holder, member)| match &member.agent {
        Agent::Answers { state, .. } if matches!(&state.volume, Volume::Data { data_id } if *data_id == holder.data_id) => {
            Some((state, &member.memory))
        }
        _ => None,
    });
    let open = holder.is_some_and(|(state, _)| state.server.as_ref().is_some_and(|server| !server.read_only));
    let ordered = |order: &Order| {
        record.holder.as_ref().is_some_and(|holder| holder.member == order.member)
            && matches!(order.action, Action::OpenForWrites { .. })
    };
    let opens = open || decision.orders.iter().any(ordered) || holder.is_some_and(|(_, memory)| memory.opening());
    let plan = decision.course.plan.as_ref().filter(|plan| plan.stamp == record.stamp());
    let leaves = plan.is_some_and(|plan| plan.kind.closed_the_primary());
    let next = plan.and_then(|plan| plan.kind.next_primary());
    let mut routes = Routes { open, ..Routes::default() };
    for member in &decision.report.members {
        let role = match member.role {
            Role::Unknown => continue,
            Role::Replica if next == Some(&member.name) => Some(names::PRIMARY),
            Role::Replica => Some(names::REPLICA),
            Role::Primary if leaves => None,
            // One that restarts keeps its label: its readiness says the rest.
            Role::Primary if opens || labelled(&member.name) => Some(names::PRIMARY),
            Role::Primary => None,
        };
        if role == Some(names::PRIMARY) && (opens || next == Some(&member.name)) {
            routes.primary = Some((member.name.0.clone(), member.object.clone()));
        }
        routes.roles.insert(member.name.0.clone(), role);
        routes.members.insert(member.name.0.clone(), member.object.clone());
    }
    routes
}

/// What was written last of a pod: its UID, the role, when.
type Written = BTreeMap<String, (String, Option<&'static str>, Instant)>;

pub(super) struct Router {
    inputs: Inputs,
    namespace: String,
    routes: watch::Receiver<Routes>,
    events: mpsc::UnboundedSender<Event>,
    written: Written,
    pointed: BTreeMap<String, (String, Instant)>,
}

impl Router {
    pub(super) fn new(
        inputs: Inputs,
        namespace: String,
        routes: watch::Receiver<Routes>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self { inputs, namespace, routes, events, written: BTreeMap::new(), pointed: BTreeMap::new() }
    }

    /// Works until the runner is gone.
    pub(super) async fn run(mut self) {
        loop {
            self.inputs.changed.mark_unchanged();
            let routes = self.routes.borrow_and_update().clone();
            let (labels, services) = tokio::join!(
                label_all(&self.inputs, &self.namespace, &routes, &self.written),
                point_all(&self.inputs, &self.namespace, &routes, &self.pointed)
            );
            let mut failed = false;
            for (pod, result) in labels {
                match result {
                    Ok(written) => {
                        self.written.insert(pod, written);
                    }
                    Err(error) => {
                        failed = true;
                        tracing::warn!(namespace = self.namespace, pod, error, "the role label was not written");
                    }
                }
            }
            for (service, result) in services {
                match result {
                    Ok((before, now)) => {
                        tracing::info!(namespace = self.namespace, service, from = before, to = now, "re-pointed");
                        let event = Event {
                            warning: false,
                            reason: "ServiceRepointed",
                            message: format!("the service {service} leads to {now} now; it led to {before}"),
                            member: Some(MemberName(now.clone())),
                        };
                        // The clerk is gone only when this topology is.
                        let _ = self.events.send(event);
                        self.pointed.insert(service, (now, Instant::now()));
                    }
                    Err(error) => {
                        failed = true;
                        tracing::warn!(namespace = self.namespace, service, error, "a service was not re-pointed");
                    }
                }
            }
            let pause = if failed { PAUSE } else { Duration::from_secs(3600) };
            tokio::select! {
                changed = self.routes.changed() => if changed.is_err() { return },
                changed = self.inputs.changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Has the pod this role, as far as the caches know?
pub(super) fn has_role(pod: &Pod, role: Option<&str>) -> bool {
    [names::ROLE_LABEL, names::SHORT_ROLE_LABEL]
        .iter()
        .all(|label| pod.labels().get(*label).map(String::as_str) == role)
}

async fn label_all(
    inputs: &Inputs,
    namespace: &str,
    routes: &Routes,
    written: &Written,
) -> Vec<(String, Result<(String, Option<&'static str>, Instant), String>)> {
    let calls = routes.roles.iter().filter_map(|(name, role)| {
        let pod = inputs.pods.get(&ObjectRef::<Pod>::new(name).within(namespace))?;
        let uid = pod.uid().unwrap_or_default();
        let right = match written.get(name) {
            Some((of, known, at)) if *of == uid && at.elapsed() < ECHO => known == role,
            _ => has_role(&pod, *role),
        };
        // A pod that is going needs no role, but for losing the primary's.
        if right || (pod.metadata.deletion_timestamp.is_some() && *role == Some(names::REPLICA)) && !is_primary(&pod) {
            return None;
        }
        let labels: BTreeMap<&str, &str> =
            role.iter().flat_map(|role| [(names::ROLE_LABEL, *role), (names::SHORT_ROLE_LABEL, *role)]).collect();
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": uid, "labels": labels}});
        let api: Api<Pod> = Api::namespaced(inputs.client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        Some(async move {
            tracing::info!(namespace, pod = name, role = role.unwrap_or("none"), "role label");
            let result = in_time(api.patch(name, &params, &Patch::Apply(&body))).await;
            (name.clone(), result.map(|_| (uid, *role, Instant::now())))
        })
    });
    join_all(calls).await
}

fn is_primary(pod: &Pod) -> bool {
    pod.labels().get(names::ROLE_LABEL).is_some_and(|role| role == names::PRIMARY)
}

async fn point_all(
    inputs: &Inputs,
    namespace: &str,
    routes: &Routes,
    pointed: &BTreeMap<String, (String, Instant)>,
) -> Vec<(String, Result<(String, String), String>)> {
    let Some((primary, object)) = &routes.primary else { return Vec::new() };
    let services = inputs.services.state();
    let calls =
        services.iter().filter(|service| service.namespace().as_deref() == Some(namespace)).filter_map(|service| {
            let name = service.name_any();
            if pointed.get(&name).is_some_and(|(to, at)| to == primary && at.elapsed() < ECHO) {
                return None;
            }
            let (before, selector) = repoint(service, &routes.members, primary, object)?;
            let api: Api<Service> = Api::namespaced(inputs.client.clone(), namespace);
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let body = json!({"metadata": {"uid": service.uid()}, "spec": {"selector": selector}});
            Some(async move {
                let result = in_time(api.patch(&name, &params, &Patch::Merge(&body))).await;
                (name, result.map(|_| (before, primary.clone())))
            })
        });
    join_all(calls).await
}

/// The member that a user's own service leads to, and what to change of its selector so that it leads to the primary.
fn repoint(
    service: &Service,
    members: &BTreeMap<String, String>,
    primary: &str,
    object: &str,
) -> Option<(String, BTreeMap<&'static str, String>)> {
    let label = |key: &str| service.labels().get(key).map(String::as_str);
    let ours = label(names::MANAGED_BY_LABEL) == Some(names::MANAGED_BY);
    let means_primary =
        label(names::APP_LABEL) == Some("mariadb") && label(names::SHORT_ROLE_LABEL) == Some(names::PRIMARY);
    let left_alone = service.annotations().get(names::FOLLOW_PRIMARY_ANNOTATION).is_some_and(|value| value == "false");
    if ours || !means_primary || left_alone {
        return None;
    }
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    let before = selector.get(names::POD_NAME_LABEL)?;
    let before_object = members.get(before)?;
    if before == primary {
        return None;
    }
    let mut next = BTreeMap::from([(names::POD_NAME_LABEL, primary.to_owned())]);
    // In a topology of several objects the next primary may be another one's pod.
    if selector.get(names::INSTANCE_LABEL) == Some(before_object) {
        next.insert(names::INSTANCE_LABEL, object.to_owned());
    }
    // The pod's name says it all; a role that was asked for as well is the new primary's anyway.
    Some((before.clone(), next))
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(labels: serde_json::Value, annotations: serde_json::Value, pod: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "mariadb-primary-svc", "labels": labels, "annotations": annotations},
            "spec": {"selector": {"app.kubernetes.io/name": "mariadb", "app.kubernetes.io/instance": "mariadb-primary",
                names::POD_NAME_LABEL: pod}},
        }))
        .expect("a service")
    }

    #[test]
    fn users_services_follow_the_primary() {
        let members = BTreeMap::from(
            [("mariadb-primary-0", "mariadb-primary"), ("mariadb-replica-1", "mariadb-replica")]
                .map(|(pod, object)| (pod.to_owned(), object.to_owned())),
        );
        let labels = json!({"app": "mariadb", "role": "primary"});
        let point = |service: &Service| repoint(service, &members, "mariadb-replica-1", "mariadb-replica");
        let next = BTreeMap::from([
            (names::POD_NAME_LABEL, "mariadb-replica-1".to_owned()),
            (names::INSTANCE_LABEL, "mariadb-replica".to_owned()),
        ]);
        let of_seed = service(labels.clone(), json!({}), "mariadb-primary-0");
        assert_eq!(point(&of_seed), Some(("mariadb-primary-0".to_owned(), next)));
        for left_alone in [
            service(labels.clone(), json!({names::FOLLOW_PRIMARY_ANNOTATION: "false"}), "mariadb-primary-0"),
            service(labels.clone(), json!({}), "mariadb-replica-1"),
            service(labels, json!({}), "other-0"),
            service(json!({"app": "mariadb", "role": "replica"}), json!({}), "mariadb-primary-0"),
            service(json!({"app": "shop", "role": "primary"}), json!({}), "mariadb-primary-0"),
        ] {
            assert_eq!(point(&left_alone), None, "{left_alone:?}");
        }
    }
}
