//! ResourceQuotas: what a namespace may hold. Usage is counted from what is stored, when it is
//! asked for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{all, list, name, pod, text};
use crate::kind::{Kind, Operation, Write};
use crate::schema::quantity::Quantity;
use crate::status::ApiError;

/// What an object takes of each resource that quotas know.
fn usage(kind: &Kind, object: &Value) -> BTreeMap<String, Quantity> {
    let mut usage = BTreeMap::new();
    let one = Quantity::whole(1);
    let counted = if kind.group.is_empty() { kind.plural.clone() } else { format!("{}.{}", kind.plural, kind.group) };
    usage.insert(format!("count/{counted}"), one);
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") => {
            return [("count/pods".to_owned(), one)].into();
        }
        ("", "pods") => {
            usage.insert("pods".into(), one);
            for resource in ["cpu", "memory", "ephemeral-storage"] {
                for (kind, prefix) in [("requests", "requests."), ("limits", "limits.")] {
                    if let Some(amount) = pod::requested(object, kind, resource) {
                        usage.insert(format!("{prefix}{resource}"), amount);
                        if kind == "requests" {
                            usage.insert(resource.to_owned(), amount);
                        }
                    }
                }
            }
        }
        ("", "persistentvolumeclaims") => {
            usage.insert("persistentvolumeclaims".into(), one);
            let amount = Quantity::parse(text(object, "/spec/resources/requests/storage")).unwrap_or(Quantity::ZERO);
            usage.insert("requests.storage".into(), amount);
        }
        ("", "services") => {
            usage.insert("services".into(), one);
            match text(object, "/spec/type") {
                "NodePort" => drop(
                    usage
                        .insert("services.nodeports".into(), Quantity::whole(list(object, "/spec/ports").len() as i64)),
                ),
                "LoadBalancer" => {
                    usage.insert("services.loadbalancers".into(), one);
                }
                _ => {}
            }
        }
        ("", "secrets" | "configmaps" | "replicationcontrollers" | "resourcequotas") => {
            usage.insert(kind.plural.clone(), one);
        }
        _ => {}
    }
    usage
}

/// Which kind a quota's resource counts.
fn counted_kind(write: &Write<'_>, resource: &str) -> Option<std::sync::Arc<Kind>> {
    let (plural, group) = match resource.strip_prefix("count/") {
        Some(rest) => rest.split_once('.').unwrap_or((rest, "")),
        None => match resource {
            "requests.storage" => ("persistentvolumeclaims", ""),
            "services.nodeports" | "services.loadbalancers" => ("services", ""),
            "persistentvolumeclaims"
            | "services"
            | "secrets"
            | "configmaps"
            | "replicationcontrollers"
            | "resourcequotas" => (resource, ""),
            _ => ("pods", ""),
        },
    };
    write.kinds.all().into_iter().find(|k| k.plural == plural && k.group == group)
}

/// What is used of a resource in a namespace.
fn used(write: &Write<'_>, namespace: &str, resource: &str) -> Quantity {
    let Some(kind) = counted_kind(write, resource) else { return Quantity::ZERO };
    let objects = all(write, &kind.group, &kind.plural, Some(namespace));
    objects.iter().filter_map(|o| usage(&kind, o).get(resource).copied()).fold(Quantity::ZERO, |a, b| a + b)
}

/// Refuses what a quota does not allow.
pub fn admit(write: &Write<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| write.operation == Operation::Create && write.kind.namespaced) else {
        return Ok(());
    };
    let namespace = text(object, "/metadata/namespace");
    let takes = usage(write.kind, object);
    for quota in all(write, "", "resourcequotas", Some(namespace)) {
        let hard = quota.pointer("/spec/hard").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut missing = Vec::new();
        let (mut requested, mut have, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        for (resource, limit) in &hard {
            let limit = limit.as_str().unwrap_or_default();
            let is_pod = write.kind.plural == "pods" && write.kind.group.is_empty();
            let compute = ["cpu", "memory"].iter().any(|r| resource == r || resource.ends_with(&format!(".{r}")));
            let Some(amount) = takes.get(resource) else {
                if is_pod && compute {
                    missing.push(resource.clone());
                }
                continue;
            };
            let used = used(write, namespace, resource);
            if Quantity::parse(limit).is_some_and(|limit| used + *amount > limit) {
                requested.push(format!("{resource}={amount}"));
                have.push(format!("{resource}={used}"));
                limited.push(format!("{resource}={limit}"));
            }
        }
        if !missing.is_empty() {
            let containers: Vec<&str> = list(object, "/spec/containers").iter().map(|c| text(c, "/name")).collect();
            let parts: Vec<String> = missing.iter().map(|m| format!("{m} for: {}", containers.join(","))).collect();
            return Err(ApiError::forbidden(
                write.kind,
                name(object),
                &format!("failed quota: {}: must specify {}", name(&quota), parts.join("; ")),
            ));
        }
        if !requested.is_empty() {
            let why = format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                name(&quota),
                requested.join(","),
                have.join(","),
                limited.join(",")
            );
            return Err(ApiError::forbidden(write.kind, name(object), &why));
        }
    }
    Ok(())
}

/// The status a quota should have.
pub fn status(write: &Write<'_>, quota: &Value) -> Value {
    let hard = quota.pointer("/spec/hard").and_then(Value::as_object).cloned().unwrap_or_default();
    let namespace = text(quota, "/metadata/namespace");
    let used: serde_json::Map<String, Value> =
        hard.keys().map(|r| (r.clone(), used(write, namespace, r).to_string().into())).collect();
    json!({"hard": hard, "used": used})
}
