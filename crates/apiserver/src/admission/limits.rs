//! LimitRanges: defaults and bounds of container resources.

use serde_json::{Map, Value, json};

use super::{all, list, name, text};
use crate::kind::Write;
use crate::schema::quantity::Quantity;
use crate::status::ApiError;

/// Defaults of a LimitRange itself.
pub fn default(range: &mut Value) {
    for limit in range.pointer_mut("/spec/limits").and_then(Value::as_array_mut).into_iter().flatten() {
        if text(limit, "/type") != "Container" {
            continue;
        }
        let map = |limit: &Value, key: &str| limit.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut defaults, mut requests) = (map(limit, "default"), map(limit, "defaultRequest"));
        for (resource, max) in map(limit, "max") {
            defaults.entry(resource).or_insert(max);
        }
        for (resource, value) in defaults.clone() {
            requests.entry(resource).or_insert(value);
        }
        for (resource, min) in map(limit, "min") {
            requests.entry(resource).or_insert(min);
        }
        for (key, values) in [("default", defaults), ("defaultRequest", requests)] {
            if !values.is_empty() {
                limit[key] = values.into();
            }
        }
    }
}

/// Applies the LimitRanges of a pod's namespace.
pub(super) fn apply(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let ranges = all(write, "", "limitranges", Some(text(pod, "/metadata/namespace")));
    let limits: Vec<&Value> =
        ranges.iter().flat_map(|r| list(r, "/spec/limits")).filter(|l| text(l, "/type") == "Container").collect();
    if limits.is_empty() {
        return Ok(());
    }
    let mut set: Vec<String> = Vec::new();
    for (key, label) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            let container_name = text(container, "/name").to_owned();
            for limit in &limits {
                for (from, to, word) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")] {
                    let defaults = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
                    let mut added = Vec::new();
                    let mut current: Map<String, Value> = container
                        .pointer(&format!("/resources/{to}"))
                        .and_then(Value::as_object)
                        .cloned()
                        .unwrap_or_default();
                    for (resource, value) in defaults {
                        if !current.contains_key(&resource) {
                            current.insert(resource.clone(), value);
                            added.push(resource);
                        }
                    }
                    if !added.is_empty() {
                        container["resources"][to] = current.into();
                        set.push(format!("{} {word} for {label} {container_name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if !set.is_empty() {
        if pod.pointer("/metadata/annotations").is_none() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] =
            format!("LimitRanger plugin set: {}", set.join("; ")).into();
    }
    bounds(write, pod, &limits)
}

fn bounds(write: &Write<'_>, pod: &Value, limits: &[&Value]) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    for container in list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers")) {
        let amount = |kind: &str, resource: &str| {
            container.pointer(&format!("/resources/{kind}"))?.get(resource)?.as_str().map(str::to_owned)
        };
        for limit in limits {
            for (key, word, over) in [("max", "maximum", true), ("min", "minimum", false)] {
                for (resource, bound) in limit.get(key).and_then(Value::as_object).into_iter().flatten() {
                    let bound = bound.as_str().unwrap_or_default();
                    let (kind, shown) = if over { ("limits", "limit") } else { ("requests", "request") };
                    match (amount(kind, resource), Quantity::parse(bound)) {
                        (Some(got), Some(parsed)) => {
                            let breaks =
                                Quantity::parse(&got).is_some_and(|g| if over { g > parsed } else { g < parsed });
                            if breaks {
                                problems.push(format!(
                                    "{word} {resource} usage per Container is {bound}, but {shown} is {got}"
                                ));
                            }
                        }
                        (None, _) => problems.push(format!(
                            "{word} {resource} usage per Container is {bound}.  No {shown} is specified"
                        )),
                        _ => {}
                    }
                }
            }
        }
    }
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(ApiError::forbidden(write.kind, name(pod), one)),
        many => Err(ApiError::forbidden(write.kind, name(pod), &format!("[{}]", many.join(", ")))),
    }
}
