//! The rules that hold for the metadata of every object.

use serde_json::{Map, Value};

use super::{FieldError, names};
use crate::kinds::Kind;

/// Judges the metadata of an object; `old` is what is stored.
pub fn metadata(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let empty = Value::Null;
    let metadata = object.get("metadata").unwrap_or(&empty);
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let check = name_rule(kind);
    if old.is_none() {
        let prefix = text("generateName");
        if !prefix.is_empty() {
            let masked = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |p| format!("{p}a"));
            if let Some(detail) = check(&masked) {
                errors.push(FieldError::invalid("metadata.generateName", &prefix.into(), &detail));
            }
        }
        if kind.kind != "CustomResourceDefinition"
            && let Some(detail) = check(text("name"))
        {
            errors.push(FieldError::invalid("metadata.name", &text("name").into(), &detail));
        }
    }
    owners(metadata, &mut errors);
    finalizers(metadata, old, &mut errors);
    names::labels(metadata.get("labels"), "metadata.labels", &mut errors);
    let annotations = metadata.get("annotations").and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for detail in names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &key.as_str().into(), &detail));
        }
    }
    if size > 256 << 10 {
        errors.push(FieldError::too_long("metadata.annotations", 256 << 10));
    }
    errors
}

type Rule = fn(&str) -> Option<String>;

/// What a kind's names may look like.
fn name_rule(kind: &Kind) -> Rule {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => names::label,
        ("rbac.authorization.k8s.io", _) | ("apps", "ControllerRevision") => names::path_segment,
        _ => names::subdomain,
    }
}

fn owners(metadata: &Value, errors: &mut Vec<FieldError>) {
    let list = metadata.get("ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default();
    let at = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in &list {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion").is_empty() {
            errors.push(FieldError::invalid(format!("{at}.apiVersion"), &"".into(), "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.push(FieldError::invalid(format!("{at}.{key}"), &"".into(), "must not be empty"));
            }
        }
        if text("kind") == "Event" && matches!(text("apiVersion"), "v1" | "events.k8s.io/v1") {
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            let detail = format!("{group}/{version}, Kind=Event is disallowed from being an owner");
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: at.into(),
                message: format!("Invalid value: {}: {detail}", ordered(owner)),
            });
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(other) = &controller {
                let all: Vec<String> = list.iter().map(ordered).collect();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {this}"
                );
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: at.into(),
                    message: format!("Invalid value: [{}]: {detail}", all.join(",")),
                });
            }
            controller = Some(this);
        }
    }
}

/// An owner reference in the order of Go's struct.
fn ordered(owner: &Value) -> String {
    let empty = Map::new();
    let map = owner.as_object().unwrap_or(&empty);
    let keys = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let parts: Vec<String> = keys.iter().filter_map(|k| Some(format!("{k:?}:{}", map.get(*k)?))).collect();
    format!("{{{}}}", parts.join(","))
}

fn finalizers(metadata: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let list = |value: &Value| -> Vec<String> {
        let list = value.get("finalizers").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let new = list(metadata);
    for (index, name) in new.iter().enumerate() {
        for detail in names::qualified(name) {
            errors.push(FieldError::invalid("metadata.finalizers", &name.as_str().into(), &detail));
        }
        let standard = ["orphan", "foregroundDeletion", "kubernetes"].contains(&name.as_str());
        if !name.contains('/') && !name.contains('.') && !standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{index}]"), &name.as_str().into(), detail));
        }
    }
    if new.iter().any(|f| f == "orphan") && new.iter().any(|f| f == "foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &Value::from(new.clone()), detail));
    }
    let deleting = old.is_some_and(|old| old.pointer("/metadata/deletionTimestamp").is_some());
    let before = old.map(|old| list(&old["metadata"])).unwrap_or_default();
    let added: Vec<String> = new.iter().filter(|f| deleting && !before.contains(f)).map(|f| format!("{f:?}")).collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.push(FieldError::forbidden("metadata.finalizers", &detail));
    }
}
