//! Server-side apply, and the record of who owns which field.

mod last_applied;
mod managed;
mod set;
mod walk;

use axum::response::Response;
use serde_json::{Value, json};

use crate::http::{Context, Update, body, create_object, update_object, write_outcome};
use crate::schema::Schema;
use crate::status::ApiError;
use crate::validate::FieldError;
use managed::Entry;
use set::FieldSet;

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    name: String,
    apply: bool,
}

impl Manager {
    /// The manager of a request: `fieldManager`, or the first part of the user agent.
    pub(crate) fn of(context: &Context, operation: &str, options: &str) -> Result<Self, ApiError> {
        let apply = operation == "Apply";
        let given = context.query.get("fieldManager");
        let mut errors = Vec::new();
        match given {
            None if apply => errors.push(FieldError::required("fieldManager", "is required for apply patch")),
            Some(name) if name.chars().count() > 128 => {
                errors.push(FieldError {
                    reason: "FieldValueTooLong",
                    field: "fieldManager".to_owned(),
                    message: "Too long: may not be more than 128 bytes".to_owned(),
                });
            }
            Some(name) => {
                if let Some((at, odd)) = name.chars().enumerate().find(|(_, c)| c.is_control()) {
                    let detail = format!("invalid character U+{:04X} (at position {at})", odd as u32);
                    errors.push(FieldError::invalid("fieldManager", &json!(name), &detail));
                }
            }
            None => {}
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid_named("meta.k8s.io", options, "", &errors));
        }
        let agent = context.user_agent.split('/').next().unwrap_or_default();
        let name = given.unwrap_or(if agent.is_empty() { "unknown" } else { agent }).chars().take(128).collect();
        Ok(Self { name, apply })
    }

    fn entry(&self, context: &Context, subresource: &str, set: FieldSet, time: Option<String>) -> Entry {
        let subresource = if subresource == "finalize" || subresource == "binding" { "" } else { subresource };
        Entry {
            manager: self.name.clone(),
            apply: self.apply,
            api_version: context.kind.api_version(),
            subresource: subresource.to_owned(),
            time,
            set,
        }
    }
}

/// Fields that nobody owns: those of the server.
fn strip(context: &Context, subresource: &str, set: &mut FieldSet) {
    for field in ["f:apiVersion", "f:kind"] {
        set.remove(&[field]);
    }
    for field in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        set.remove(&["f:metadata", field]);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    if subresource == "status" {
        set.children.retain(|k, _| k == "f:status" || (k == "f:metadata" && context.kind.custom.is_none()));
    } else if context.kind.has("status") {
        set.remove(&["f:status"]);
    }
}

/// An object without its record.
fn bare(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    value
}

fn empty_object(context: &Context) -> Value {
    if context.kind.custom.is_some() {
        return json!({"metadata": {}});
    }
    walk::zero(context.kind.schema(), 0)
}

fn write_entries(value: &mut Value, entries: Vec<Entry>) {
    let list = managed::write(entries);
    if let Some(metadata) = value["metadata"].as_object_mut() {
        if list.as_array().is_some_and(Vec::is_empty) {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), list);
        }
    }
}

/// Records what a create or update changed. What an apply changed is recorded already.
pub(crate) fn track(context: &Context, value: &mut Value, old: Option<&Value>, manager: &Manager, subresource: &str) {
    if manager.apply {
        return;
    }
    let given = value["metadata"].get("managedFields").cloned();
    let stored = old.and_then(|o| o["metadata"].get("managedFields")).and_then(managed::read).unwrap_or_default();
    let mut entries = match &given {
        None => stored,
        Some(list)
            if list.as_array().is_some_and(|l| {
                l.is_empty() || (l.len() == 1 && l[0].as_object().is_some_and(serde_json::Map::is_empty))
            }) =>
        {
            Vec::new()
        }
        Some(list) => managed::read(list).unwrap_or(stored),
    };
    if old.is_some() && entries.is_empty() {
        write_entries(value, entries);
        return;
    }
    let before = old.map_or_else(|| empty_object(context), bare);
    let mut difference = walk::compare(Some(context.kind.schema()), Some(&before), Some(&bare(value)));
    for set in [&mut difference.added, &mut difference.removed, &mut difference.modified] {
        strip(context, subresource, set);
    }
    let written = difference.added.union(&difference.modified);
    for entry in &mut entries {
        entry.set = entry.set.difference(&written).difference(&difference.removed);
    }
    if !written.is_empty() {
        // What changes through a Scale carries no time.
        let time = (subresource != "scale").then(crate::gc::now);
        let mut own = manager.entry(context, subresource, written, time);
        if let Some(position) = entries.iter().position(|e| e.is_of(&own)) {
            own.set = own.set.union(&entries.remove(position).set);
        }
        entries.push(own);
    }
    write_entries(value, entries);
}

/// Whether two states are the same, but for the times in their records.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    let timeless = |value: &Value| {
        let mut value = value.clone();
        for entry in value["metadata"].get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry.as_object_mut().map(|e| e.remove("time"));
        }
        value
    };
    a == b || timeless(a) == timeless(b)
}

/// PATCH with an apply configuration.
pub(crate) fn apply(
    context: &Context,
    applied: &Value,
    manager: &Manager,
    force: bool,
    dry_run: bool,
) -> Result<Response, ApiError> {
    let kind = &context.kind;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (api_version, name) = (text(&applied["apiVersion"]), text(&applied["kind"]));
    if api_version != kind.api_version() || name != kind.kind {
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        return Err(ApiError::bad_request(format!("invalid object type: {group}/{version}, Kind={name}")));
    }
    let metadata = &applied["metadata"];
    if metadata.get("managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let given = text(&metadata["name"]);
    if given.is_empty() && metadata.get("generateName").is_some() {
        return Err(crate::http::nameless(context));
    }
    if !given.is_empty() && given != context.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            context.name()
        )));
    }
    let namespace = text(&metadata["namespace"]);
    if kind.namespaced && !namespace.is_empty() && namespace != context.namespace() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut config = applied.clone();
    if let Some(metadata) = config["metadata"].as_object_mut() {
        for field in ["creationTimestamp", "generation", "selfLink", "uid", "resourceVersion"] {
            metadata.remove(field);
        }
        metadata.insert("name".to_owned(), context.name().into());
    } else {
        config["metadata"] = json!({"name": context.name()});
    }
    let schema: &Schema = kind.schema();
    if let Some(fault) = walk::fault(Some(schema), &config, "") {
        let message = format!(
            "failed to create typed patch object ({namespace}/{given}; {}/{}, Kind={}): {fault}",
            kind.group, kind.version, kind.kind
        );
        let message = if kind.group.is_empty() {
            message
        } else {
            message.replace(&format!("{}/{},", kind.group, kind.version), &format!("{api_version},"))
        };
        return Err(ApiError::new(500, "", message));
    }
    let mut own = walk::fields(Some(schema), &config);
    strip(context, context.subresource(), &mut own);
    let exists = context.server.store().get(&kind.storage(), context.namespace(), context.name()).is_some();
    let uid = text(&metadata["uid"]);
    if !exists {
        if !context.subresource().is_empty() {
            return Err(ApiError::not_found(kind, context.name()));
        }
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(kind, context.name(), &why));
        }
        let mut value = typed(context, &config)?;
        write_entries(&mut value, vec![manager.entry(context, "", own, Some(crate::gc::now()))]);
        let outcome = create_object(context, value, manager, dry_run)?;
        return Ok(write_outcome(context, outcome));
    }
    let version = text(&metadata["resourceVersion"]);
    let how =
        Update { subresource: context.subresource(), dry_run, manager: manager.clone(), once: !version.is_empty() };
    let outcome = update_object(context, &how, |old| {
        if !version.is_empty() && old["metadata"]["resourceVersion"] != version.as_str() {
            return Err(ApiError::stale(kind, context.name()));
        }
        if !uid.is_empty() && old["metadata"]["uid"] != uid.as_str() {
            let error = FieldError::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(ApiError::invalid(kind, context.name(), &[error.clone(), error]));
        }
        apply_to(context, old, &config, &own, manager, force)
    })?;
    Ok(write_outcome(context, outcome))
}

fn typed(context: &Context, value: &Value) -> Result<Value, ApiError> {
    let (mut typed, _) = body::typed(&context.kind, value, None).map_err(|e| ApiError::new(500, "", e))?;
    typed["apiVersion"] = context.kind.api_version().into();
    typed["kind"] = context.kind.kind.clone().into();
    Ok(typed)
}

/// The object with the configuration applied, and the record of it.
fn apply_to(
    context: &Context,
    old: &Value,
    config: &Value,
    own: &FieldSet,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApiError> {
    let schema: Option<&Schema> = Some(context.kind.schema());
    let subresource = context.subresource();
    let live = bare(old);
    let mut entries = old["metadata"].get("managedFields").and_then(managed::read).unwrap_or_default();
    if entries.is_empty() {
        let mut set = walk::compare(schema, Some(&empty_object(context)), Some(&live));
        let mut set = set.added.union(&std::mem::take(&mut set.modified));
        strip(context, "", &mut set);
        entries.push(Entry {
            manager: "before-first-apply".to_owned(),
            apply: false,
            api_version: context.kind.api_version(),
            subresource: String::new(),
            time: Some(crate::gc::now()),
            set,
        });
    }
    let mut mine = manager.entry(context, subresource, own.clone(), None);
    let last = entries.iter().position(|e| e.is_of(&mine)).map(|i| entries.remove(i));
    let mut config = config.clone();
    if subresource == "status" {
        // What the endpoint does not take has no say in conflicts either.
        let status = config.get("status").cloned();
        if context.kind.custom.is_some() {
            config["metadata"] = json!({"name": context.name()});
        }
        config = json!({"metadata": config["metadata"]});
        if let Some(status) = status {
            config["status"] = status;
        }
    } else if context.kind.has("status") {
        config.as_object_mut().map(|c| c.remove("status"));
    }
    let mut merged = walk::merge(schema, Some(&live), &config);
    if let Some(last) = &last {
        let owned = entries.iter().fold(own.clone(), |all, e| all.union(&e.set));
        walk::prune(schema, &mut merged, &last.set, &owned, true);
    }
    // Compared before it is decoded: `1` and `1000m` are one quantity, and conflict all the same.
    let difference = walk::compare(schema, Some(&live), Some(&merged));
    let mut value = typed(context, &merged)?;
    last_applied::renew(context, manager, &live, &config, &mut value);
    let written = difference.added.union(&difference.modified);
    if !force {
        refuse(&entries, &written.difference(&last_applied::allowed(context, manager, &live)))?;
    }
    for entry in &mut entries {
        entry.set = entry.set.difference(&written).difference(&difference.removed);
    }
    mine.time = if difference.is_empty() { last.and_then(|l| l.time) } else { Some(crate::gc::now()) };
    entries.push(mine);
    write_entries(&mut value, entries);
    Ok(value)
}

/// Applies the replicas of a Scale: `new` is the object with them, `path` where it has them.
pub(crate) fn apply_scale(
    context: &Context,
    old: &Value,
    mut new: Value,
    path: &str,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApiError> {
    let own = path.split('.').rev().fold(FieldSet::leaf(), |below, field| {
        let mut set = FieldSet::default();
        set.add(format!("f:{field}"), below);
        set
    });
    let mut mine = manager.entry(context, "scale", own, None);
    let mut entries = old["metadata"].get("managedFields").and_then(managed::read).unwrap_or_default();
    entries.retain(|e| !e.is_of(&mine));
    if crate::crd::at(old, path) != crate::crd::at(&new, path) {
        if !force {
            let shown = |e: &Entry| Entry { api_version: "autoscaling/v1".to_owned(), ..e.clone() };
            refuse(&entries.iter().map(shown).collect::<Vec<_>>(), &mine.set)?;
        }
        for entry in &mut entries {
            entry.set = entry.set.difference(&mine.set);
        }
    }
    mine.time = None;
    entries.push(mine);
    write_entries(&mut new, entries);
    Ok(new)
}

/// Refuses to write fields that others have.
fn refuse(entries: &[Entry], written: &FieldSet) -> Result<(), ApiError> {
    let conflicts: Vec<(String, Vec<String>)> = entries
        .iter()
        .map(|e| (e.shown(), e.set.intersection(written).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if conflicts.is_empty() { Ok(()) } else { Err(conflict(conflicts)) }
}

fn conflict(mut conflicts: Vec<(String, Vec<String>)>) -> ApiError {
    conflicts.sort();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(who, paths)| {
            paths.iter().map(move |path| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": path}))
        })
        .collect();
    let message = match conflicts.as_slice() {
        [(who, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {who}: {}", paths[0])
        }
        many => {
            let parts: Vec<String> =
                many.iter().map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- "))).collect();
            format!("Apply failed with {count} conflicts: {}", parts.join("\n"))
        }
    };
    ApiError::new(409, "Conflict", message).with(json!({"causes": causes}))
}
