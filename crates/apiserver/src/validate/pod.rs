//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{FieldError, names};
use crate::admission::pod::quality;
use crate::admission::{flag, list, text};
use crate::kind::Operation;
use crate::schema::quantity::Quantity;

/// Judges a pod.
pub fn pod(pod: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        let class = old.map(quality).filter(|class| quality(pod) != *class);
        if let Some(class) = class {
            let detail = "Pod QOS Class may not change as a result of resizing";
            errors.push(FieldError::invalid("spec", &class.into(), detail));
        }
        return errors;
    }
    let empty = Value::Null;
    spec(pod.get("spec").unwrap_or(&empty), "spec", &["Always", "OnFailure", "Never"], &mut errors);
    if let Some(old) = old {
        update(pod, old, &mut errors);
    }
    errors
}

/// What an update of a pod may change.
fn update(pod: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for key in ["containers", "initContainers"] {
        if list(pod, &format!("/spec/{key}")).len() != list(old, &format!("/spec/{key}")).len() {
            errors.push(FieldError::forbidden(
                format!("spec.{key}"),
                &format!(
                    "pod updates may not add or remove {}",
                    if key == "containers" { "containers" } else { "initContainers" }
                ),
            ));
            return;
        }
    }
    let mut comparable = pod["spec"].clone();
    for key in ["containers", "initContainers"] {
        let images = list(old, &format!("/spec/{key}")).to_vec();
        for (container, before) in
            comparable.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(images)
        {
            container["image"] = before["image"].clone();
        }
    }
    for key in ["activeDeadlineSeconds", "terminationGracePeriodSeconds"] {
        let allowed = key == "activeDeadlineSeconds"
            || old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0);
        if allowed {
            put(&mut comparable, key, old["spec"].get(key));
        }
    }
    let (new_tolerations, old_tolerations) = (list(pod, "/spec/tolerations"), list(old, "/spec/tolerations"));
    if old_tolerations.iter().all(|t| new_tolerations.contains(t)) {
        put(&mut comparable, "tolerations", old["spec"].get("tolerations"));
    }
    let (new_gates, old_gates) = (list(pod, "/spec/schedulingGates"), list(old, "/spec/schedulingGates"));
    if new_gates.iter().all(|g| old_gates.contains(g)) {
        put(&mut comparable, "schedulingGates", old["spec"].get("schedulingGates"));
        if !old_gates.is_empty() {
            for key in ["nodeSelector", "affinity"] {
                put(&mut comparable, key, old["spec"].get(key));
            }
        }
    }
    if comparable != old["spec"] {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn put(spec: &mut Value, key: &str, value: Option<&Value>) {
    if let Some(map) = spec.as_object_mut() {
        match value {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// Judges a pod template at `at`, such as `spec.template`.
pub fn template(object: &Value, at: &str, policies: &[&str], errors: &mut Vec<FieldError>) {
    let pointer = format!("/{}", at.replace('.', "/"));
    let empty = Value::Null;
    let template = object.pointer(&pointer).unwrap_or(&empty);
    names::labels(template.pointer("/metadata/labels"), &format!("{at}.labels"), errors);
    spec(template.get("spec").unwrap_or(&empty), &format!("{at}.spec"), policies, errors);
}

/// Judges a pod specification.
pub fn spec(spec: &Value, at: &str, policies: &[&str], errors: &mut Vec<FieldError>) {
    let volumes = volumes(spec, at, errors);
    let containers = list(spec, "/containers");
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{at}.containers"), ""));
    }
    let claims: BTreeSet<&str> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, one) in list(spec, &format!("/{key}")).iter().enumerate() {
            let at = format!("{at}.{key}[{index}]");
            let name = text(one, "/name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
            }
            container(one, &at, &volumes, errors);
        }
    }
    let _ = claims;
    let policy = text(spec, "/restartPolicy");
    if !containers.is_empty() || !policy.is_empty() {
        if policy.is_empty() {
            errors.push(FieldError::required(format!("{at}.restartPolicy"), ""));
        } else if !policies.contains(&policy) {
            errors.push(FieldError::not_supported(format!("{at}.restartPolicy"), &policy.into(), policies));
        }
    }
    let dns = text(spec, "/dnsPolicy");
    let known = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    if !dns.is_empty() && !known.contains(&dns) {
        errors.push(FieldError::not_supported(format!("{at}.dnsPolicy"), &dns.into(), &known));
    }
    if let Some(seconds) = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).filter(|s| *s < 0) {
        errors.push(FieldError::invalid(
            format!("{at}.terminationGracePeriodSeconds"),
            &seconds.into(),
            "must be greater than or equal to 0",
        ));
    }
    tolerations(spec, at, errors);
    names::labels(spec.get("nodeSelector"), &format!("{at}.nodeSelector"), errors);
    let account = text(spec, "/serviceAccountName");
    if let Some(detail) = names::subdomain(account).filter(|_| !account.is_empty()) {
        errors.push(FieldError::invalid(format!("{at}.serviceAccountName"), &account.into(), &detail));
    }
    for key in ["hostname", "subdomain"] {
        let name = text(spec, &format!("/{key}"));
        if let Some(detail) = names::label(name).filter(|_| !name.is_empty()) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &name.into(), &detail));
        }
    }
}

fn volumes(spec: &Value, at: &str, errors: &mut Vec<FieldError>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let at = format!("{at}.volumes[{index}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if let Some(detail) = names::label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &detail));
        } else if !names.insert(name.to_owned()) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
        }
        let sources: Vec<&String> =
            volume.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
        // The order in which Kubernetes looks at the sources decides which is the second.
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::forbidden(format!("{at}.{extra}"), "may not specify more than 1 volume type"));
        }
        let required = [
            ("/persistentVolumeClaim", "claimName"),
            ("/hostPath", "path"),
            ("/configMap", "name"),
            ("/secret", "secretName"),
        ];
        for (pointer, key) in required {
            if volume.pointer(pointer).is_some_and(|source| text(source, &format!("/{key}")).is_empty()) {
                errors.push(FieldError::required(format!("{at}{}.{key}", pointer.replace('/', ".")), ""));
            }
        }
    }
    names
}

fn tolerations(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (index, toleration) in list(spec, "/tolerations").iter().enumerate() {
        let at = format!("{at}.tolerations[{index}]");
        let (key, operator, value) =
            (text(toleration, "/key"), text(toleration, "/operator"), text(toleration, "/value"));
        for detail in names::qualified(key).into_iter().filter(|_| !key.is_empty()) {
            errors.push(FieldError::invalid(format!("{at}.key"), &key.into(), &detail));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{at}.operator"), &operator.into(), detail));
        }
        match operator {
            "Exists" if !value.is_empty() => {
                errors.push(FieldError::invalid(
                    format!("{at}.operator"),
                    &value.into(),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "" | "Equal" | "Lt" | "Gt" | "Exists" => {}
            other => {
                errors.push(FieldError::not_supported(format!("{at}.operator"), &other.into(), &["Equal", "Exists"]));
            }
        }
        let effect = text(toleration, "/effect");
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.push(FieldError::not_supported(format!("{at}.effect"), &effect.into(), &effects));
        }
    }
}

fn container(container: &Value, at: &str, volumes: &BTreeSet<String>, errors: &mut Vec<FieldError>) {
    let name = text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if let Some(detail) = names::label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &detail));
    }
    let image = text(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{at}.image"),
            &image.into(),
            "must not have leading or trailing whitespace",
        ));
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(key) {
            handler(probe, &format!("{at}.{key}"), errors);
        }
    }
    ports(container, at, errors);
    environment(container, at, errors);
    for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{at}.name"), &name.into()));
        }
        let path = text(mount, "/mountPath");
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        }
        let twice = list(container, "/volumeMounts")[..index].iter().any(|m| text(m, "/mountPath") == path);
        if twice && !path.is_empty() {
            let error = FieldError::invalid(format!("{at}.mountPath"), &path.into(), "must be unique");
            errors.push(error);
        }
    }
    let policy = text(container, "/imagePullPolicy");
    let policies = ["Always", "IfNotPresent", "Never"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.imagePullPolicy"), &policy.into(), &policies));
    }
    resources(container, at, errors);
    if flag(container, "/securityContext/privileged")
        && container.pointer("/securityContext/allowPrivilegeEscalation") == Some(&Value::Bool(false))
    {
        errors.push(FieldError::invalid(
            format!("{at}.securityContext"),
            &container["securityContext"],
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ));
    }
}

fn handler(probe: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc"];
    let found: Vec<&str> = kinds.iter().copied().filter(|k| probe.get(*k).is_some()).collect();
    if found.is_empty() {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
    for extra in found.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("{at}.{extra}"), "may not specify more than 1 handler type"));
    }
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(value) = probe.get(key).filter(|v| v.as_i64().is_some_and(|n| n < 0)) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), value, "must be greater than or equal to 0"));
        }
    }
}

fn ports(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            if let Some(detail) = port_name(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &detail));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
            }
        }
        match port.get("containerPort").and_then(Value::as_i64).unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            number => port_number(number, &format!("{at}.containerPort"), errors),
        }
        if let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) {
            port_number(number, &format!("{at}.hostPort"), errors);
        }
        let protocol = text(port, "/protocol");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            errors.push(FieldError::not_supported(format!("{at}.protocol"), &protocol.into(), &["SCTP", "TCP", "UDP"]));
        }
    }
}

/// Checks a port's number.
pub(super) fn port_number(number: i64, at: &str, errors: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&number) {
        errors.push(FieldError::invalid(at, &number.into(), "must be between 1 and 65535, inclusive"));
    }
}

/// What is wrong with a port's name.
pub(super) fn port_name(name: &str) -> Option<String> {
    if name.len() > 15 {
        return Some("must be no more than 15 characters".into());
    }
    if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.contains(|c: char| c.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens".into());
    }
    (name.starts_with('-') || name.ends_with('-')).then(|| "must not begin or end with a hyphen".into())
}

fn environment(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let at = format!("{at}.env[{index}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if name.contains('=') || !name.chars().all(|c| (' '..='~').contains(&c)) {
            let detail =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), detail));
        }
        let Some(from) = variable.get("valueFrom") else { continue };
        if !text(variable, "/value").is_empty() {
            errors.push(FieldError::invalid(
                format!("{at}.valueFrom"),
                &"".into(),
                "may not be specified when `value` is not empty",
            ));
        }
        if let Some(path) = from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
            let known = [
                "metadata.name",
                "metadata.namespace",
                "metadata.uid",
                "spec.nodeName",
                "spec.serviceAccountName",
                "status.hostIP",
                "status.hostIPs",
                "status.podIP",
                "status.podIPs",
                "metadata.labels",
                "metadata.annotations",
            ];
            if !known.contains(&path)
                && !path.starts_with("metadata.labels[")
                && !path.starts_with("metadata.annotations[")
            {
                let detail = format!("error converting fieldPath: field label not supported: {path}");
                errors.push(FieldError::invalid(format!("{at}.valueFrom.fieldRef.fieldPath"), &path.into(), &detail));
            }
        }
        let sources = from.as_object().map_or(0, serde_json::Map::len);
        if sources == 0 {
            errors.push(FieldError::invalid(format!("{at}.valueFrom"), &"".into(), "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"));
        } else if sources > 1 {
            errors.push(FieldError::invalid(
                format!("{at}.valueFrom"),
                &"".into(),
                "may not have more than one field specified at a time",
            ));
        }
    }
}

fn resources(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let amounts = |key: &str| {
        container.pointer(&format!("/resources/{key}")).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let limits = amounts("limits");
    for (key, map) in [("limits", &limits), ("requests", &amounts("requests"))] {
        for (resource, amount) in map {
            let at = format!("{at}.resources.{key}");
            let Some(quantity) = amount.as_str().and_then(Quantity::parse) else { continue };
            if quantity.is_negative() {
                errors.push(FieldError::invalid(
                    format!("{at}[{resource}]"),
                    amount,
                    "must be greater than or equal to 0",
                ));
            }
            let limit = limits.get(resource).and_then(Value::as_str);
            if key == "requests"
                && let Some(limit) = limit.filter(|l| Quantity::parse(l).is_some_and(|l| quantity > l))
            {
                errors.push(FieldError::invalid(
                    at,
                    amount,
                    &format!("must be less than or equal to {resource} limit of {limit}"),
                ));
            }
        }
    }
}
