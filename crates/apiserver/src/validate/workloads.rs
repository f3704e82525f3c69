//! StatefulSets, Deployments, Jobs and their like.

use serde_json::{Value, json};

use super::{FieldError, names, pod};
use crate::admission::{list, name, text};
use crate::kind::Operation;

fn not_negative(object: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let pointer = format!("/{}", at.replace('.', "/"));
    if let Some(value) = object.pointer(&pointer).filter(|v| v.as_i64().is_some_and(|n| n < 0)) {
        errors.push(FieldError::invalid(at, value, "must be greater than or equal to 0"));
    }
}

/// Whether a label selector matches labels.
fn matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|m| m.iter().all(|(k, v)| label(k) == v.as_str()));
    equal
        && list(selector, "/matchExpressions").iter().all(|e| {
            let value = label(text(e, "/key"));
            let among = || list(e, "/values").iter().any(|v| v.as_str() == value);
            match text(e, "/operator") {
                "In" => value.is_some() && among(),
                "NotIn" => !(value.is_some() && among()),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn is_empty(selector: &Value) -> bool {
    selector.get("matchLabels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
        && list(selector, "/matchExpressions").is_empty()
}

/// Checks that a workload's selector selects its own pods.
fn selector(object: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    let mismatch =
        || FieldError::invalid("spec.template.metadata.labels", &labels, "`selector` does not match template `labels`");
    match object.pointer("/spec/selector") {
        None => {
            errors.push(FieldError::required("spec.selector", ""));
            errors.push(mismatch());
        }
        Some(selector) if is_empty(selector) => {
            errors.push(FieldError::invalid(
                "spec.selector",
                selector,
                &format!("empty selector is invalid for {kind}"),
            ));
        }
        Some(selector) if !matches(selector, &labels) => errors.push(mismatch()),
        Some(_) => {}
    }
}

/// Judges a StatefulSet.
pub fn stateful_set(set: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        not_negative(set, "spec.replicas", &mut errors);
        let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        not_negative(set, "status.replicas", &mut errors);
        for part in parts {
            not_negative(set, &format!("status.{part}"), &mut errors);
        }
        let number = |field: &str| set["status"][field].as_i64().unwrap_or(0);
        for part in parts.into_iter().filter(|part| number(part) > number("replicas")) {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(format!("status.{part}"), &number(part).into(), detail));
        }
        let collisions = |set: &Value| set["status"]["collisionCount"].as_i64().unwrap_or(0);
        if old.is_some_and(|old| collisions(set) < collisions(old)) {
            let detail = "cannot be decremented";
            errors.push(FieldError::invalid("status.collisionCount", &collisions(set).into(), detail));
        }
        return errors;
    }
    let service = text(set, "/spec/serviceName");
    if service.contains('.') {
        errors.push(FieldError::invalid("spec.serviceName", &service.into(), "must not contain dots"));
    }
    let policy = text(set, "/spec/podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        errors.push(FieldError::invalid(
            "spec.podManagementPolicy",
            &policy.into(),
            "must be 'OrderedReady' or 'Parallel'",
        ));
    }
    let strategy = text(set, "/spec/updateStrategy/type");
    let rolling = set.pointer("/spec/updateStrategy/rollingUpdate");
    match strategy {
        "RollingUpdate" => not_negative(set, "spec.updateStrategy.rollingUpdate.partition", &mut errors),
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let shown = json!({"Partition": rolling.get("partition").cloned().unwrap_or(json!(0)), "MaxUnavailable": rolling.get("maxUnavailable")});
                let error = FieldError::invalid(
                    "spec.updateStrategy.rollingUpdate",
                    &shown,
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
                errors.push(FieldError {
                    message: error
                        .message
                        .replace("{\"MaxUnavailable\":null,\"Partition\":", "{\"Partition\":")
                        .replace("}: only", ",\"MaxUnavailable\":null}: only"),
                    ..error
                });
            }
        }
        other => {
            let message = format!(
                "Invalid value: {{\"Type\":{other:?},\"RollingUpdate\":null}}: must be 'RollingUpdate' or 'OnDelete'"
            );
            errors.push(FieldError { reason: "FieldValueInvalid", field: "spec.updateStrategy".into(), message });
        }
    }
    for key in ["whenDeleted", "whenScaled"] {
        let value = text(set, &format!("/spec/persistentVolumeClaimRetentionPolicy/{key}"));
        if !["Retain", "Delete"].contains(&value) {
            errors.push(FieldError::not_supported(
                format!("spec.persistentVolumeClaimRetentionPolicy.{key}"),
                &value.into(),
                &["Retain", "Delete"],
            ));
        }
    }
    for at in ["spec.replicas", "spec.minReadySeconds", "spec.ordinals.start"] {
        not_negative(set, at, &mut errors);
    }
    selector(set, "statefulset", &mut errors);
    let mut checked = set.clone();
    let mut volumes = list(set, "/spec/template/spec/volumes").to_vec();
    for claim in list(set, "/spec/volumeClaimTemplates") {
        if !volumes.iter().any(|v| text(v, "/name") == name(claim)) {
            volumes.push(json!({"name": name(claim), "emptyDir": {}}));
        }
    }
    if checked.pointer("/spec/template/spec").is_some_and(Value::is_object) {
        checked["spec"]["template"]["spec"]["volumes"] = volumes.into();
    }
    pod::template(&checked, "spec.template", &["Always"], &mut errors);
    if let Some(old) = old {
        let strip = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                for key in [
                    "replicas",
                    "ordinals",
                    "template",
                    "updateStrategy",
                    "revisionHistoryLimit",
                    "persistentVolumeClaimRetentionPolicy",
                    "minReadySeconds",
                ] {
                    spec.remove(key);
                }
            }
            spec
        };
        if strip(set) != strip(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.retain(|e| e.field != "spec.template.metadata.labels" && e.field != "spec.selector");
            errors.push(FieldError::forbidden("spec", detail));
        }
    }
    errors
}

/// Judges a Deployment, ReplicaSet or DaemonSet.
pub fn deployment(object: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    not_negative(object, "spec.replicas", &mut errors);
    if operation == Operation::Subresource {
        return errors;
    }
    let kind = text(object, "/kind").to_lowercase();
    selector(object, &kind, &mut errors);
    not_negative(object, "spec.minReadySeconds", &mut errors);
    pod::template(object, "spec.template", &["Always"], &mut errors);
    if text(object, "/spec/strategy/type") == "Recreate" && object.pointer("/spec/strategy/rollingUpdate").is_some() {
        errors.push(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    }
    if let Some(old) = old.filter(|old| old.pointer("/spec/selector") != object.pointer("/spec/selector")) {
        let _ = old;
        errors.push(FieldError::invalid("spec.selector", &object["spec"]["selector"], "field is immutable"));
    }
    errors
}

/// Judges a HorizontalPodAutoscaler.
pub fn autoscaler(scaler: &Value, _old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation != Operation::Subresource && text(scaler, "/spec/scaleTargetRef/apiVersion").is_empty() {
        let detail = "apiVersion must specify API group";
        errors.push(FieldError::invalid("spec.scaleTargetRef.apiVersion", &"".into(), detail));
    }
    errors
}

/// Judges a ControllerRevision.
pub fn controller_revision(object: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_some_and(|old| old.get("data") != object.get("data")) {
        errors.push(FieldError::invalid("data", &object["data"], "field is immutable"));
    }
    errors
}

/// Judges a Job.
pub fn job(job: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        for counter in ["active", "succeeded", "failed"] {
            not_negative(job, &format!("status.{counter}"), &mut errors);
        }
        for counter in ["succeeded", "failed"] {
            let count = |job: &Value| job["status"][counter].as_i64().unwrap_or(0);
            if old.is_some_and(|old| count(job) < count(old)) {
                let detail = format!("cannot decrease the {counter} counter");
                errors.push(FieldError::invalid(format!("status.{counter}"), &count(job).into(), &detail));
            }
        }
        return errors;
    }
    for at in [
        "spec.parallelism",
        "spec.completions",
        "spec.backoffLimit",
        "spec.activeDeadlineSeconds",
        "spec.ttlSecondsAfterFinished",
    ] {
        not_negative(job, at, &mut errors);
    }
    let labels = job.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    let selector = job.pointer("/spec/selector").cloned().unwrap_or_default();
    let generated = selector.get("matchLabels").and_then(Value::as_object).is_some_and(|m| m.len() == 1);
    if !generated && job.pointer("/spec/manualSelector") != Some(&Value::Bool(true)) {
        errors.push(FieldError::invalid("spec.selector", &selector, "`selector` not auto-generated"));
    }
    if !matches(&selector, &labels) {
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            &labels,
            "`selector` does not match template `labels`",
        ));
    }
    job_template(job, "spec.template", &mut errors);
    if let Some(old) = old {
        let changed = |pointer: &str| job.pointer(pointer) != old.pointer(pointer);
        let elastic = text(job, "/spec/completionMode") == "Indexed"
            && job.pointer("/spec/completions") == job.pointer("/spec/parallelism");
        if changed("/spec/completions") && !elastic {
            errors.push(FieldError::invalid("spec.completions", &job["spec"]["completions"], "field is immutable"));
        }
        if changed("/spec/selector") {
            errors.push(FieldError::invalid("spec.selector", &selector, "field is immutable"));
        }
        let suspended =
            old.pointer("/spec/suspend") == Some(&Value::Bool(true)) && old.pointer("/status/startTime").is_none();
        let mut template = job["spec"]["template"].clone();
        if suspended && template["spec"].is_object() {
            for key in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                match old["spec"]["template"]["spec"].get(key) {
                    Some(value) => template["spec"][key] = value.clone(),
                    None => drop(template["spec"].as_object_mut().map(|t| t.remove(key))),
                }
            }
        }
        if template["spec"] != old["spec"]["template"]["spec"] {
            errors.push(FieldError::invalid(
                "spec.template.spec",
                &job["spec"]["template"]["spec"],
                "field is immutable",
            ));
        }
        if changed("/spec/completionMode") {
            errors.push(FieldError::invalid(
                "spec.completionMode",
                &job["spec"]["completionMode"],
                "field is immutable",
            ));
        }
    }
    errors
}

fn job_template(object: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let pointer = format!("/{}/spec/restartPolicy", at.replace('.', "/"));
    pod::template(object, at, &["Always", "OnFailure", "Never"], errors);
    if text(object, &pointer) == "Always" {
        errors.push(FieldError::required(format!("{at}.spec.restartPolicy"), "valid values: \"OnFailure\", \"Never\""));
    }
}

/// Judges a CronJob.
pub fn cron_job(job: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        return errors;
    }
    if old.is_none() && name(job).len() > 52 {
        errors.push(FieldError::invalid("metadata.name", &name(job).into(), "must be no more than 52 characters"));
    }
    job_template(job, "spec.jobTemplate.spec.template", &mut errors);
    let schedule = text(job, "/spec/schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    } else if schedule.contains("TZ") {
        errors.push(FieldError::invalid(
            "spec.schedule",
            &schedule.into(),
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    } else if !schedule.starts_with('@') {
        let fields: Vec<&str> = schedule.split_whitespace().collect();
        if fields.len() != 5 {
            let detail = format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "));
            errors.push(FieldError::invalid("spec.schedule", &schedule.into(), &detail));
        }
    }
    let zone = text(job, "/spec/timeZone");
    if !zone.is_empty() && zone != "UTC" && jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(FieldError::invalid("spec.timeZone", &zone.into(), &format!("unknown time zone {zone}")));
    }
    let policy = text(job, "/spec/concurrencyPolicy");
    let known = ["Allow", "Forbid", "Replace"];
    if !known.contains(&policy) {
        errors.push(FieldError::not_supported("spec.concurrencyPolicy", &policy.into(), &known));
    }
    errors
}

/// Judges a PodDisruptionBudget.
pub fn budget(budget: &Value, _old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        return errors;
    }
    let spec = &budget["spec"];
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        let shown = |key: &str| spec.get(key).map_or("null".into(), Value::to_string);
        let message = format!(
            "Invalid value: {{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}: minAvailable and maxUnavailable cannot be both set",
            shown("minAvailable"),
            shown("selector"),
            shown("maxUnavailable"),
            shown("unhealthyPodEvictionPolicy")
        );
        errors.push(FieldError { reason: "FieldValueInvalid", field: "spec".into(), message });
    }
    for key in ["minAvailable", "maxUnavailable"] {
        let at = format!("spec.{key}");
        match spec.get(key) {
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => {
                errors.push(FieldError::invalid(at, &spec[key], "must be greater than or equal to 0"));
            }
            Some(Value::String(percent)) => match percent.strip_suffix('%').and_then(|p| p.parse::<u64>().ok()) {
                None => {
                    let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                    errors.push(FieldError::invalid(at, &spec[key], detail));
                }
                Some(percent) if percent > 100 => {
                    errors.push(FieldError::invalid(at, &spec[key], "must not be greater than 100%"));
                }
                Some(_) => {}
            },
            _ => {}
        }
    }
    names::labels(spec.pointer("/selector/matchLabels"), "spec.selector.matchLabels", &mut errors);
    let policy = text(spec, "/unhealthyPodEvictionPolicy");
    let known = ["AlwaysAllow", "IfHealthyBudget"];
    if !policy.is_empty() && !known.contains(&policy) {
        errors.push(FieldError::not_supported("spec.unhealthyPodEvictionPolicy", &policy.into(), &known));
    }
    errors
}
