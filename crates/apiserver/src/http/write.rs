//! Create, update and patch: one path for every kind.
//!
//! A new state is made from the stored one, brought into shape (defaults, what only the server
//! sets, admission), judged, and stored if the stored one is still the same; else it is made again.

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::body::{self, FieldValidation};
use super::{Context, respond};
use crate::kind::{Operation, Write};
use crate::ssa;
use crate::status::ApiError;
use crate::store::StoreError;
use crate::validate::FieldError;

/// What a write led to.
pub(crate) struct Outcome {
    /// 200 or 201.
    pub(crate) code: u16,
    /// The object.
    pub(crate) value: Value,
}

/// How an object is changed.
pub(crate) struct Update<'a> {
    /// The subresource written, or empty.
    pub(crate) subresource: &'a str,
    /// Nothing is stored.
    pub(crate) dry_run: bool,
    /// Who owns the fields that change.
    pub(crate) manager: ssa::Manager,
    /// The old state's version comes from the writer: no second try.
    pub(crate) once: bool,
}

/// The answer to a write.
pub(crate) fn write_outcome(context: &Context, outcome: Outcome) -> Response {
    respond::object(context, outcome.code, outcome.value)
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// POST.
pub(crate) fn create(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let validation = FieldValidation::of(context, "CreateOptions")?;
    let dry_run = context.dry_run("CreateOptions")?;
    let manager = ssa::Manager::of(context, "Update", "CreateOptions")?;
    let value = body::object(context, bytes, &context.kind, validation)?;
    if !context.kind.allows("get") {
        let value = crate::seam::review(context, value)?;
        return Ok(respond::object(context, 201, value));
    }
    let outcome = create_object(context, value, &manager, dry_run)?;
    Ok(write_outcome(context, outcome))
}

/// Stores a new object.
pub(crate) fn create_object(
    context: &Context,
    mut value: Value,
    manager: &ssa::Manager,
    dry_run: bool,
) -> Result<Outcome, ApiError> {
    let kind = &context.kind;
    if let Some(version) = value["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty() && *v != "0") {
        let _ = version;
        return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    namespace_of(context, &mut value)?;
    distinct_owners(context, &mut value);
    let metadata = meta(&mut value);
    let named = metadata.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    let generate = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !named && generate.is_empty() {
        let error = FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(kind, "", &[error]));
    }
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), now().into());
    if kind.has_generation() {
        metadata.insert("generation".to_owned(), 1.into());
    }
    let mut tries = 0;
    loop {
        let mut value = value.clone();
        if !named {
            let short: String = generate.chars().take(58).collect();
            meta(&mut value).insert("name".to_owned(), format!("{short}{}", suffix()).into());
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if kind.has("status") && kind.kind != "Node" {
            value.as_object_mut().map(|o| o.remove("status"));
        }
        defaults(context, &mut value);
        ssa::track(context, &mut value, None, manager, "");
        (context.hooks.prepare)(&mut value, None);
        if kind.namespaced {
            check_namespace(context, &name)?;
        }
        let write = Write {
            kinds: context.server.kinds(),
            kind,
            operation: Operation::Create,
            subresource: "",
            user: &context.identity,
            store: context.server.store(),
            dry_run,
            service_network: context.server.service_network(),
        };
        (context.hooks.admit)(&write, Some(&mut value), None)?;
        if kind.custom.as_ref().is_some_and(|c| c.terminating) {
            return Err(ApiError::forbidden(
                kind,
                &name,
                "create not allowed while custom resource definition is terminating",
            ));
        }
        judge(context, &name, &value, None, Operation::Create, Vec::new())?;
        for warning in (context.hooks.warn)(&value, None) {
            context.warn(warning);
        }
        if dry_run {
            if context.server.store().get(&kind.storage(), context.namespace(), &name).is_some() {
                return Err(taken(context, &name));
            }
            return Ok(Outcome { code: 201, value });
        }
        match context.server.store().put(&kind.storage(), stored_form(context, &value), 0) {
            Ok(object) => {
                return Ok(Outcome { code: 201, value: context.present(&object) });
            }
            Err(StoreError::Clash) if !named && tries < 8 => tries += 1,
            Err(StoreError::Clash) => return Err(taken(context, &name)),
            Err(other) => return Err(ApiError::internal(other)),
        }
    }
}

/// The error of a name that is taken.
fn taken(context: &Context, name: &str) -> ApiError {
    let mut error = ApiError::already_exists(&context.kind, name);
    let stored = context.server.store().get(&context.kind.storage(), context.namespace(), name);
    if stored.is_some_and(|o| o.value()["metadata"].get("deletionTimestamp").is_some()) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

/// Checks the body's namespace, and fills it in.
fn namespace_of(context: &Context, value: &mut Value) -> Result<(), ApiError> {
    let given = value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let wanted = context.namespace();
    if given != wanted && !given.is_empty() && context.kind.namespaced {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if context.kind.namespaced {
        meta(value).insert("namespace".to_owned(), wanted.into());
    } else {
        if !given.is_empty() && context.kind.custom.is_none() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta(value).remove("namespace");
    }
    Ok(())
}

/// Refuses creation in a namespace that is missing or going.
fn check_namespace(context: &Context, name: &str) -> Result<(), ApiError> {
    let resource = (String::new(), "namespaces".to_owned());
    let Some(namespace) = context.server.store().get(&resource, "", context.namespace()) else {
        let message = format!("namespaces {:?} not found", context.namespace());
        return Err(
            ApiError::new(404, "NotFound", message).with(json!({"name": context.namespace(), "kind": "namespaces"}))
        );
    };
    if namespace.value()["metadata"].get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let why =
        format!("unable to create new content in namespace {} because it is being terminated", context.namespace());
    let mut error = ApiError::forbidden(&context.kind, name, &why);
    error.details["causes"] = json!([{
        "reason": "NamespaceTerminating", "message": format!("namespace {} is being terminated", context.namespace()), "field": "metadata.namespace",
    }]);
    Err(error)
}

fn suffix() -> String {
    use rand::Rng as _;
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

pub(super) fn meta(value: &mut Value) -> &mut Map<String, Value> {
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    match &mut value["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn defaults(context: &Context, value: &mut Value) {
    if context.kind.custom.is_some() {
        crate::schema::defaults::custom(context.kind.schema(), value);
    } else {
        crate::schema::defaults::builtin(context.kind.schema(), value);
    }
    (context.hooks.default)(value);
}

fn judge(
    context: &Context,
    name: &str,
    value: &Value,
    old: Option<&Value>,
    operation: Operation,
    mut errors: Vec<FieldError>,
) -> Result<(), ApiError> {
    errors.extend(crate::seam::validate_metadata(&context.kind, value, old));
    if old.is_some() && context.kind.custom.is_none() {
        // The generic check and the kind's own both tell of these, of what is wrong in itself twice over.
        let lasting = errors
            .iter()
            .filter(|e| e.reason != "FieldValueForbidden" && !e.message.ends_with("field is immutable"))
            .cloned();
        let lasting: Vec<FieldError> = lasting.collect();
        errors.extend(errors.clone());
        errors.extend(lasting.clone());
        errors.extend(lasting);
    }
    if context.kind.custom.is_some() {
        let (found, warnings) = crate::crd::validate(&context.kind, value, old);
        errors.extend(found);
        for warning in warnings {
            context.warn(warning);
        }
    } else {
        errors.extend((context.hooks.validate)(value, old, operation));
    }
    if context.subresource() == "status" && context.kind.custom.is_some() {
        // There the status is judged by itself.
        for error in &mut errors {
            let own = error.field.trim_start_matches("status.");
            error.message = error.message.replacen(&format!("{} in body", error.field), &format!("{own} in body"), 1);
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let (group, _) = context.kind.storage();
    Err(ApiError::invalid_named(&group, &context.kind.kind, name, &errors))
}

/// The object as it is stored: in the storage version, if there are several.
pub(super) fn stored_form(context: &Context, value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(convert) = context.hooks.to_storage {
        convert(&mut value);
    }
    match &context.kind.custom {
        Some(custom) => value["apiVersion"] = format!("{}/{}", context.kind.group, custom.storage_version).into(),
        None => drop(value.as_object_mut().map(|v| v.remove("apiVersion"))),
    }
    value
}

/// PUT.
pub(crate) fn update(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let validation = FieldValidation::of(context, "UpdateOptions")?;
    let dry_run = context.dry_run("UpdateOptions")?;
    let manager = ssa::Manager::of(context, "Update", "UpdateOptions")?;
    let value = body::object(context, bytes, &context.kind, validation)?;
    put(context, value, manager, dry_run)
}

fn put(context: &Context, mut value: Value, manager: ssa::Manager, dry_run: bool) -> Result<Response, ApiError> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name != context.name() {
        if name.is_empty() {
            return Err(nameless(context));
        }
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            context.name()
        )));
    }
    namespace_of(context, &mut value)?;
    let version = version_of(&value)?;
    let exists = context.server.store().get(&context.kind.storage(), context.namespace(), context.name()).is_some();
    if !exists && context.subresource().is_empty() && version == 0 && crate::seam::create_on_update(&context.kind) {
        let outcome = create_object(context, value, &manager, dry_run)?;
        return Ok(write_outcome(context, outcome));
    }
    if version == 0 && exists && crate::seam::needs_version(&context.kind) {
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(ApiError::invalid_named(&context.kind.group, &context.kind.plural, context.name(), &[error]));
    }
    let how = Update { subresource: context.subresource(), dry_run, manager, once: version != 0 };
    let outcome = update_object(context, &how, |old| {
        preconditions(context, &value, old)?;
        Ok(value.clone())
    })?;
    Ok(write_outcome(context, outcome))
}

/// The version that a writer expects; 0 when any will do.
fn version_of(value: &Value) -> Result<u64, ApiError> {
    match value["metadata"]["resourceVersion"].as_str().unwrap_or_default() {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_| ApiError::new(500, "", format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
    }
}

/// Checks the version and uid that a new state carries against the stored one.
fn preconditions(context: &Context, value: &Value, old: &Value) -> Result<(), ApiError> {
    let version = version_of(value)?;
    if version != 0 && value["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        return Err(ApiError::stale(&context.kind, context.name()));
    }
    let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
    let current = old["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != current {
        let key = [context.kind.group.as_str(), context.kind.plural.as_str(), context.namespace(), context.name()];
        let key = key.into_iter().filter(|k| !k.is_empty()).collect::<Vec<_>>().join("/");
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {current}"
        );
        return Err(ApiError::conflict(&context.kind, context.name(), &why));
    }
    Ok(())
}

/// Changes the object that the path names. `change` makes the new state from the old one, and is
/// called again when another writer was faster.
pub(crate) fn update_object(
    context: &Context,
    how: &Update<'_>,
    mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
) -> Result<Outcome, ApiError> {
    let kind = &context.kind;
    loop {
        let stored = context.stored()?;
        let old = context.present(&stored);
        let mut value = change(&old)?;
        let faults = immutable(how.subresource, &value, &old);
        isolate(context, how.subresource, &mut value, &old);
        distinct_owners(context, &mut value);
        defaults(context, &mut value);
        ssa::track(context, &mut value, Some(&old), &how.manager, how.subresource);
        (context.hooks.prepare)(&mut value, Some(&old));
        bump_generation(context, how.subresource, &mut value, &old);
        let operation = if how.subresource.is_empty() { Operation::Update } else { Operation::Subresource };
        let write = Write {
            kinds: context.server.kinds(),
            kind,
            operation,
            subresource: how.subresource,
            user: &context.identity,
            store: context.server.store(),
            dry_run: how.dry_run,
            service_network: context.server.service_network(),
        };
        (context.hooks.admit)(&write, Some(&mut value), Some(&old))?;
        judge(context, context.name(), &value, Some(&old), operation, faults)?;
        for warning in (context.hooks.warn)(&value, Some(&old)) {
            context.warn(warning);
        }
        if ssa::same(&value, &old) {
            return Ok(Outcome { code: 200, value: old });
        }
        if how.dry_run {
            return Ok(Outcome { code: 200, value });
        }
        let gone = value["metadata"].get("deletionTimestamp").is_some()
            && value["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            && value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && crate::gc::may_go(kind, &value);
        let form = stored_form(context, &value);
        let store = context.server.store();
        let written = if gone {
            store.delete(&kind.storage(), form, stored.revision)
        } else {
            store.put(&kind.storage(), form, stored.revision)
        };
        match written {
            Ok(object) => {
                let mut value = context.present(&object);
                if gone {
                    value["metadata"]["resourceVersion"] = stored.revision.to_string().into();
                }
                return Ok(Outcome { code: 200, value });
            }
            Err(StoreError::Clash) if how.once => return Err(ApiError::stale(kind, context.name())),
            Err(StoreError::Clash) => {}
            Err(other) => return Err(ApiError::internal(other)),
        }
    }
}

/// What a writer may not even try to change.
fn immutable(subresource: &str, value: &Value, old: &Value) -> Vec<FieldError> {
    let fields = ["deletionTimestamp", "deletionGracePeriodSeconds"].iter().filter(|_| subresource.is_empty());
    fields
        .filter_map(|field| {
            let new = value["metadata"].get(field).filter(|v| !v.is_null() && old["metadata"].get(field) != Some(v))?;
            Some(FieldError::invalid(format!("metadata.{field}"), new, "field is immutable"))
        })
        .collect()
}

/// Takes out owner references that are there twice.
fn distinct_owners(context: &Context, value: &mut Value) {
    let Some(list) = value["metadata"].get_mut("ownerReferences").and_then(Value::as_array_mut) else { return };
    let mut seen: Vec<Value> = Vec::new();
    let mut twice: Vec<String> = Vec::new();
    list.retain(|owner| {
        if seen.contains(owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
            return false;
        }
        seen.push(owner.clone());
        true
    });
    twice.sort();
    twice.dedup();
    if !twice.is_empty() {
        context.warn(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// Keeps what this endpoint may not change: system metadata always; `status` for writes of the
/// object, everything else for writes of its status.
fn isolate(context: &Context, subresource: &str, value: &mut Value, old: &Value) {
    super::dress(&context.kind, value);
    if subresource == "status" {
        let status = value.get("status").cloned();
        let new_meta = value["metadata"].clone();
        let managed = new_meta.get("managedFields").cloned();
        *value = old.clone();
        put_or_remove(value, "status", status);
        if context.kind.custom.is_none() {
            for field in ["labels", "annotations", "finalizers"] {
                put_or_remove(&mut value["metadata"], field, new_meta.get(field).cloned());
            }
        }
        put_or_remove(&mut value["metadata"], "managedFields", managed);
        return;
    }
    let metadata = meta(value);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
        "name",
        "resourceVersion",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(kept) => metadata.insert(field.to_owned(), kept.clone()),
            None if field == "generateName" => None,
            None => metadata.remove(field),
        };
    }
    metadata.remove("selfLink");
    if subresource.is_empty() && context.kind.has("status") {
        put_or_remove(value, "status", old.get("status").cloned());
    }
}

fn put_or_remove(value: &mut Value, field: &str, new: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        match new {
            Some(new) => map.insert(field.to_owned(), new),
            None => map.remove(field),
        };
    }
}

/// Moves `metadata.generation` with the specification.
fn bump_generation(context: &Context, subresource: &str, value: &mut Value, old: &Value) {
    if !context.kind.has_generation() || matches!(subresource, "status" | "binding") {
        return;
    }
    let changed = if context.kind.custom.is_some() {
        let with_status = context.kind.has("status");
        let rest = |v: &Value| -> Map<String, Value> {
            let fields = v.as_object().into_iter().flatten();
            let skipped = |k: &str| matches!(k, "metadata" | "apiVersion" | "kind") || (with_status && k == "status");
            fields.filter(|(k, _)| !skipped(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        rest(value) != rest(old)
    } else if old.get("spec").is_some() || value.get("spec").is_some() {
        value.get("spec") != old.get("spec")
    } else {
        let rest = |v: &Value| -> Map<String, Value> {
            v.as_object()
                .into_iter()
                .flatten()
                .filter(|(k, _)| *k != "metadata")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        rest(value) != rest(old)
    };
    if changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta(value).insert("generation".to_owned(), generation.into());
    }
}

/// The error of a patch's outcome without a name.
pub(crate) fn nameless(context: &Context) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({} based on URL) was undeterminable: name must be provided",
        context.name()
    ))
}

/// PATCH.
pub(crate) fn patch(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let patch = crate::patch::Patch::parse(context, bytes)?;
    let validation = FieldValidation::of(context, "PatchOptions")?;
    let dry_run = context.dry_run("PatchOptions")?;
    let force = context.query.get("force").map(|f| f == "true" || f == "1");
    if force.is_some() && !patch.is_apply() {
        let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
        return Err(ApiError::invalid_named("meta.k8s.io", "PatchOptions", "", &[error]));
    }
    let operation = if patch.is_apply() { "Apply" } else { "Update" };
    let manager = ssa::Manager::of(context, operation, "PatchOptions")?;
    if let Some(applied) = patch.applied(context, validation)? {
        return ssa::apply(context, applied, &manager, force.unwrap_or(false), dry_run);
    }
    let how = Update { subresource: context.subresource(), dry_run, manager, once: false };
    let outcome = update_object(context, &how, |old| {
        context.take_warnings();
        let patched = patch.apply(context, old, validation)?;
        let name = patched["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(nameless(context));
        }
        if name != context.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                context.name()
            )));
        }
        if let Some(namespace) = patched["metadata"]["namespace"].as_str().filter(|n| *n != context.namespace()) {
            let _ = namespace;
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if patched["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            preconditions(context, &patched, old)?;
        }
        let uid = patched["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && old["metadata"]["uid"] != uid {
            let error = FieldError::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(ApiError::invalid(&context.kind, context.name(), &[error.clone(), error]));
        }
        Ok(patched)
    })?;
    Ok(write_outcome(context, outcome))
}
