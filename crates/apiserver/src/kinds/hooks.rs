//! Which behaviour goes with which kind.

use serde_json::Value;

use super::Kind;
use crate::admission::{events, limits, objects, pod, service};
use crate::kind::Hooks;
use crate::validate::{objects as check, pod as check_pod, service as check_service, workloads as check_workloads};

/// The behaviour of a kind that is not data.
pub fn hooks(kind: &Kind) -> Hooks {
    let any = Hooks { admit: objects::admit_any, ..Hooks::default() };
    if kind.custom.is_some() {
        return any;
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apiextensions.k8s.io", _) => Hooks {
            default: crate::crd::complete,
            validate: |object, old, _| crate::crd::check::check(object, old),
            warn: |object, _| crate::crd::check::warnings(object),
            begin_delete: crate::crd::begin_delete,
            ..any
        },
        ("", "Pod") => Hooks {
            default: pod::default,
            prepare: pod::prepare,
            admit: pod::admit,
            validate: check_pod::pod,
            field: pod_field,
            fields: &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ],
            ..any
        },
        ("", "Service") => Hooks {
            default: service::default,
            prepare: service::prepare,
            admit: service::admit,
            validate: check_service::service,
            warn: check_service::warnings,
            field: |object, name| text_field(object, name, &["spec.clusterIP", "spec.type"]),
            fields: &["spec.clusterIP", "spec.type"],
            ..any
        },
        ("", "Secret") => Hooks {
            default: objects::secret,
            validate: check::secret,
            warn: check::secret_warnings,
            field: |object, name| text_field(object, name, &["type"]),
            fields: &["type"],
            ..any
        },
        ("", "ConfigMap") => Hooks { validate: check::config_map, ..any },
        ("", "Namespace") => Hooks {
            default: objects::namespace,
            prepare: objects::prepare_namespace,
            admit: objects::admit_namespace,
            validate: check::namespace,
            field: |object, name| text_field(object, name, &["status.phase"]),
            fields: &["status.phase"],
            ..any
        },
        ("", "Node") => Hooks {
            default: objects::node,
            field: |object, name| {
                (name == "spec.unschedulable")
                    .then(|| object.pointer("/spec/unschedulable").is_some_and(|v| v == true).to_string())
            },
            fields: &["spec.unschedulable"],
            ..any
        },
        ("", "PersistentVolumeClaim") => {
            Hooks { prepare: objects::prepare_claim, admit: objects::admit_claim, validate: check::claim, ..any }
        }
        ("", "PersistentVolume") => Hooks { prepare: objects::prepare_volume, validate: check::volume, ..any },
        ("", "LimitRange") => Hooks { default: limits::default, ..any },
        ("", "Event") => Hooks { validate: check::core_event, field: events::field, fields: events::FIELDS, ..any },
        ("events.k8s.io", "Event") => Hooks {
            from_storage: Some(events::from_storage),
            to_storage: Some(events::to_storage),
            validate: check::new_event,
            field: |object, name| {
                let mut core = object.clone();
                events::to_storage(&mut core);
                let old = name.strip_prefix("regarding").map(|rest| format!("involvedObject{rest}"));
                let old = old.or_else(|| (name == "reportingController").then(|| "reportingComponent".to_owned()));
                match old {
                    Some(old) => events::field(&core, &old),
                    None if name.starts_with("involvedObject") || matches!(name, "source" | "reportingComponent") => {
                        None
                    }
                    None => events::field(&core, name),
                }
            },
            fields: &[
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "regarding.apiVersion",
                "regarding.resourceVersion",
                "regarding.fieldPath",
                "reason",
                "reportingController",
                "type",
            ],
            ..any
        },
        ("", "PodTemplate") => Hooks { default: |object| pod::template(object, "/template/spec"), ..any },
        ("", "ReplicationController") => Hooks { default: objects::workload, ..any },
        ("apps", "StatefulSet") => Hooks { default: objects::workload, validate: check_workloads::stateful_set, ..any },
        ("apps", "Deployment") => Hooks { default: objects::workload, validate: check_workloads::deployment, ..any },
        ("apps", "ReplicaSet" | "DaemonSet") => Hooks {
            default: objects::workload,
            prepare: if kind.kind == "DaemonSet" { objects::prepare_daemon_set } else { |_, _| {} },
            validate: check_workloads::deployment,
            field: |object, name| {
                (name == "status.replicas")
                    .then(|| object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0).to_string())
            },
            fields: if kind.kind == "ReplicaSet" { &["status.replicas"] } else { &[] },
            ..any
        },
        ("apps", "ControllerRevision") => Hooks { validate: check_workloads::controller_revision, ..any },
        ("batch", "Job") => Hooks {
            default: objects::job,
            validate: check_workloads::job,
            field: |object, name| {
                (name == "status.successful")
                    .then(|| object.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0).to_string())
            },
            fields: &["status.successful"],
            ..any
        },
        ("autoscaling", "HorizontalPodAutoscaler") => Hooks { validate: check_workloads::autoscaler, ..any },
        ("batch", "CronJob") => Hooks { default: objects::cron_job, validate: check_workloads::cron_job, ..any },
        ("policy", "PodDisruptionBudget") => Hooks { validate: check_workloads::budget, ..any },
        ("networking.k8s.io", "NetworkPolicy") => {
            Hooks { default: objects::network_policy, validate: check::network_policy, ..any }
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            Hooks { default: objects::role, validate: check::role, ..any }
        }
        ("rbac.authorization.k8s.io", _) => Hooks { default: objects::binding, validate: check::role_binding, ..any },
        ("coordination.k8s.io", "Lease") => Hooks { validate: check::lease, ..any },
        ("discovery.k8s.io", "EndpointSlice") => Hooks { validate: check::endpoint_slice, ..any },
        ("scheduling.k8s.io", "PriorityClass") => Hooks { validate: check::priority_class, ..any },
        ("storage.k8s.io", "StorageClass") => Hooks { validate: check::storage_class, ..any },
        _ => any,
    }
}

/// The value of a field that holds text.
fn text_field(object: &Value, name: &str, known: &[&str]) -> Option<String> {
    let pointer = format!("/{}", name.replace('.', "/"));
    known.contains(&name).then(|| object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn pod_field(pod: &Value, name: &str) -> Option<String> {
    match name {
        "spec.hostNetwork" => Some(pod.pointer("/spec/hostNetwork").is_some_and(|v| v == true).to_string()),
        // Known, and never set.
        "status.podIPs" => Some(String::new()),
        other => text_field(
            pod,
            other,
            &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
        ),
    }
}
