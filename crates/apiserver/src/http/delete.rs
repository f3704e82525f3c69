//! Deletion: grace, finalizers, propagation, preconditions.

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::body;
use super::write::stored_form;
use super::{Context, dry_run, read, respond};
use crate::kind::{Operation, Write};
use crate::status::ApiError;
use crate::store::{Object, StoreError};
use crate::validate::FieldError;

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) policy: Option<String>,
    pub(crate) orphan: Option<bool>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads body and parameters; a body counts before parameters.
    pub(crate) fn read(context: &Context, bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.is_empty() {
            let query = &context.query;
            let options = json!({
                "gracePeriodSeconds": read::number(context, "gracePeriodSeconds")?,
                "propagationPolicy": query.get("propagationPolicy"),
                "orphanDependents": query.get("orphanDependents").map(|v| v == "true" || v == "1"),
                "dryRun": query.all("dryRun").collect::<Vec<_>>(),
            });
            return Self::of(&options);
        }
        let format = super::media::content(&context.content_type)?;
        let value = match format {
            super::Format::Json => body::parse_json(bytes),
            super::Format::Yaml => body::yaml(bytes),
        }
        .map_err(|e| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?;
        if let Some(kind) = value["kind"].as_str().filter(|k| *k != "DeleteOptions") {
            let version = value["apiVersion"].as_str().unwrap_or_default();
            return Err(ApiError::bad_request(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
            )));
        }
        let mut options = Self::of(&value)?;
        let values: Vec<&str> = context.query.all("dryRun").collect();
        options.dry_run |= dry_run(&values, "DeleteOptions")?;
        Ok(options)
    }

    /// Reads a `DeleteOptions` object.
    pub(crate) fn of(value: &Value) -> Result<Self, ApiError> {
        let text = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let values: Vec<&str> = value["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let options = Self {
            grace: value["gracePeriodSeconds"].as_i64(),
            policy: text(&value["propagationPolicy"]),
            orphan: value["orphanDependents"].as_bool(),
            uid: text(&value["preconditions"]["uid"]),
            version: text(&value["preconditions"]["resourceVersion"]),
            dry_run: dry_run(&values, "DeleteOptions")?,
        };
        let mut errors = Vec::new();
        if let Some(policy) = &options.policy {
            if options.orphan.is_some() {
                errors.push(FieldError::invalid(
                    "propagationPolicy",
                    &json!(policy),
                    "orphanDependents and deletionPropagation cannot be both set",
                ));
            }
            if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                errors.push(FieldError::not_supported(
                    "propagationPolicy",
                    &json!(policy),
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
            }
        }
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(ApiError::invalid_named("meta.k8s.io", "DeleteOptions", "", &errors))
        }
    }
}

/// DELETE of one object.
pub(crate) fn one(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let options = DeleteOptions::read(context, bytes)?;
    if orphans(&context.kind) && options.policy.is_none() && options.orphan.is_none() {
        context.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned(),
        );
    }
    let value = delete_object(context, context.name(), context.namespace(), &options)?;
    Ok(respond::object(context, 200, value))
}

/// Deletes, or begins to; what is answered comes back.
pub(crate) fn delete_object(
    context: &Context,
    name: &str,
    namespace: &str,
    options: &DeleteOptions,
) -> Result<Value, ApiError> {
    let (kind, store) = (&context.kind, context.server.store());
    loop {
        let stored = store.get(&kind.storage(), namespace, name).ok_or_else(|| ApiError::not_found(kind, name))?;
        let value = context.present(&stored);
        preconditions(context, name, &value, options)?;
        let write = Write {
            kinds: context.server.kinds(),
            kind,
            operation: Operation::Delete,
            subresource: "",
            user: &context.identity,
            store,
            dry_run: options.dry_run,
            service_network: context.server.service_network(),
        };
        (context.hooks.admit)(&write, None, Some(&value))?;
        match step(context, &stored, value, options) {
            Ok(value) => return Ok(value),
            Err(Some(error)) => return Err(error),
            Err(None) => {}
        }
    }
}

fn preconditions(context: &Context, name: &str, value: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let current = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    for (wanted, field, label) in
        [(&options.uid, "uid", "UID"), (&options.version, "resourceVersion", "ResourceVersion")]
    {
        if let Some(wanted) = wanted.as_ref().filter(|w| **w != current(field)) {
            let end = if field == "uid" { "deleted and then recreated" } else { "modified" };
            let message = format!(
                "Operation cannot be fulfilled on {} {name:?}: the {label} in the precondition ({wanted}) does not match the {label} in record ({}). The object might have been {end}",
                context.kind.qualified_kind(),
                current(field)
            );
            let mut details = crate::status::details(&context.kind, name);
            details["kind"] = context.kind.kind.clone().into();
            return Err(ApiError::new(409, "Conflict", message).with(details));
        }
    }
    Ok(())
}

/// One try. `Err(None)` asks for another.
fn step(
    context: &Context,
    stored: &Object,
    mut value: Value,
    options: &DeleteOptions,
) -> Result<Value, Option<ApiError>> {
    let (kind, store) = (&context.kind, context.server.store());
    let clash = |error: StoreError| match error {
        StoreError::Clash => None,
        other => Some(ApiError::internal(other)),
    };
    let before = value["metadata"].clone();
    let deleting = before.get("deletionTimestamp").is_some();
    if !deleting {
        (context.hooks.begin_delete)(&mut value);
    }
    finalizers(kind, &mut value, options);
    (context.hooks.begin_delete)(&mut value);
    let grace = crate::gc::grace(kind, &value, options.grace);
    let held =
        value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) || !crate::gc::may_go(kind, &value);
    if !held && grace == 0 {
        if is_pod(kind) {
            mark(&mut value, 0, deleting);
        }
        let answer = if returns_object(kind) { Value::Null } else { success(context, &value) };
        if options.dry_run {
            return Ok(if answer.is_null() { value } else { answer });
        }
        let mut revision = stored.revision;
        if is_pod(kind) {
            // A pod is seen to be ending before it goes.
            revision = store.put(&kind.storage(), stored_form(context, &value), revision).map_err(clash)?.revision;
        }
        let object = store.delete(&kind.storage(), stored_form(context, &value), revision).map_err(clash)?;
        return Ok(if answer.is_null() { context.present(&object) } else { answer });
    }
    let current = before["deletionGracePeriodSeconds"].as_i64();
    let shorter = current.is_none_or(|c| grace < c);
    if marks_itself(kind) {
        if !deleting {
            super::write::meta(&mut value).insert("deletionTimestamp".to_owned(), crate::gc::now().into());
            if kind.group.is_empty() {
                value["status"]["phase"] = "Terminating".into();
            }
        }
    } else if !deleting || shorter {
        mark(&mut value, grace, deleting);
    }
    if value["metadata"] == before || options.dry_run {
        return Ok(value);
    }
    let object = store.put(&kind.storage(), stored_form(context, &value), stored.revision).map_err(clash)?;
    Ok(context.present(&object))
}

fn is_pod(kind: &crate::kind::Kind) -> bool {
    kind.kind == "Pod" && kind.group.is_empty()
}

/// Kinds whose deletion is a matter of their own: namespaces and definitions.
fn marks_itself(kind: &crate::kind::Kind) -> bool {
    (kind.kind == "Namespace" && kind.group.is_empty()) || kind.kind == "CustomResourceDefinition"
}

/// Marks an object as being deleted, within `grace` seconds.
fn mark(value: &mut Value, grace: i64, deleting: bool) {
    let metadata = super::write::meta(value);
    let start = jiff::Timestamp::now();
    let end = start.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(start);
    metadata.insert("deletionTimestamp".to_owned(), end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if !deleting && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

/// Sets the finalizers of the propagation policy.
fn finalizers(kind: &crate::kind::Kind, value: &mut Value, options: &DeleteOptions) {
    let mut list: Vec<String> = value["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let before = list.clone();
    let policy = match (&options.policy, options.orphan) {
        (Some(policy), _) => Some(policy.as_str()),
        (None, Some(true)) => Some("Orphan"),
        (None, Some(false)) => Some("Background"),
        (None, None) if list.iter().any(|f| f == "orphan" || f == "foregroundDeletion") => None,
        (None, None) if orphans(kind) => Some("Orphan"),
        (None, None) => None,
    };
    let wanted = match policy {
        Some("Orphan") => Some("orphan"),
        Some("Foreground") => Some("foregroundDeletion"),
        _ => None,
    };
    if policy.is_some() {
        list.retain(|f| (f != "orphan" && f != "foregroundDeletion") || Some(f.as_str()) == wanted);
    }
    if let Some(wanted) = wanted.filter(|w| !list.iter().any(|f| f == w)) {
        list.push(wanted.to_owned());
    }
    if list != before {
        let metadata = super::write::meta(value);
        if list.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), list.into());
        }
    }
}

/// Kinds that leave their dependents behind unless told otherwise.
fn orphans(kind: &crate::kind::Kind) -> bool {
    kind.kind == "Job" && kind.group == "batch"
}

/// Kinds whose deletion answers with the object.
fn returns_object(kind: &crate::kind::Kind) -> bool {
    kind.group.is_empty()
        && matches!(
            kind.kind.as_str(),
            "Pod"
                | "Service"
                | "ServiceAccount"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "PodTemplate"
                | "ResourceQuota"
                | "ReplicationController"
        )
        && kind.kind != "ReplicationController"
}

fn success(context: &Context, value: &Value) -> Value {
    let mut details = crate::status::details(&context.kind, value["metadata"]["name"].as_str().unwrap_or_default());
    details["uid"] = value["metadata"]["uid"].clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// DELETE of a collection.
pub(crate) fn collection(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let options = DeleteOptions::read(context, bytes)?;
    let (labels, fields) = read::selectors(context)?;
    let store = context.server.store();
    let (revision, objects) = store.list(&context.kind.storage(), context.target.namespace.as_deref());
    let mut items = Vec::new();
    for object in objects {
        let value = context.present(&object);
        if !labels.matches(&value["metadata"]["labels"]) || !fields.matches(&value, &context.hooks) {
            continue;
        }
        match delete_object(context, &object.name, &object.namespace, &options) {
            Ok(_) => items.push(value),
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(respond::list(context, items, json!({"resourceVersion": revision.to_string()})))
}
