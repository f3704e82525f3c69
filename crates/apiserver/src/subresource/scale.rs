//! The scale subresource: an `autoscaling/v1` Scale that stands for a part of the object.

use axum::response::Response;
use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value, json};

use crate::crd;
use crate::http::{Context, Update, body, object_response, update_object};
use crate::kind::Kind;
use crate::patch::Patch;
use crate::ssa;
use crate::status::ApiError;
use crate::validate::FieldError;

/// Where a kind keeps its replicas: specification, status, selector.
fn paths(kind: &Kind) -> (String, String, Option<String>) {
    match kind.custom.as_ref().and_then(|c| c.scale.clone()) {
        Some(scale) => (scale.spec, scale.status, scale.selector),
        None => ("spec.replicas".to_owned(), "status.replicas".to_owned(), None),
    }
}

fn scale_of(context: &Context, object: &Value) -> Result<Value, ApiError> {
    let (spec, status, selector) = paths(&context.kind);
    let metadata: Map<String, Value> = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .iter()
        .filter_map(|f| object["metadata"].get(*f).map(|v| ((*f).to_owned(), v.clone())))
        .collect();
    let custom = context.kind.custom.is_some();
    let replicas = crd::at(object, &spec).and_then(Value::as_i64);
    let present = crd::at(object, &status).and_then(Value::as_i64).unwrap_or(0);
    let mut shown = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {}, "status": {"replicas": present}});
    match replicas {
        Some(0) | None if !custom => {}
        Some(0) => {}
        Some(count) => shown["spec"]["replicas"] = count.into(),
        None => {
            return Err(ApiError::internal(format!("the spec replicas field \".{spec}\" does not exist")));
        }
    }
    let selector = match selector {
        Some(path) => crd::at(object, &path).and_then(Value::as_str).map(str::to_owned),
        None if custom => None,
        None => selector_text(&object["spec"]["selector"]),
    };
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        shown["status"]["selector"] = selector.into();
    }
    Ok(shown)
}

/// The same for a write, which may set what is missing.
fn lenient(context: &Context, object: &Value) -> Result<Value, ApiError> {
    let (spec, _, _) = paths(&context.kind);
    if crd::at(object, &spec).is_some() {
        return scale_of(context, object);
    }
    let mut filled = object.clone();
    crd::set(&mut filled, &spec, 0.into());
    scale_of(context, &filled)
}

/// A label selector in its text form.
fn selector_text(selector: &Value) -> Option<String> {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str()?;
        let mut values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        parts.push(match expression["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    Some(parts.join(","))
}

/// GET, PUT and PATCH of a scale.
pub(super) fn answer(context: &Context, method: &Method, bytes: &Bytes) -> Result<Response, ApiError> {
    if method == Method::GET {
        let object = context.stored()?;
        return Ok(object_response(context, 200, scale_of(context, &context.present(&object))?));
    }
    let options = if method == Method::PUT { "UpdateOptions" } else { "PatchOptions" };
    let dry_run = context.dry_run(options)?;
    let patch = if method == Method::PATCH { Some(Patch::parse_scale(context, bytes)?) } else { None };
    let given = match patch {
        None => Some(read(context, bytes)?),
        Some(_) => None,
    };
    let operation = if patch.as_ref().is_some_and(Patch::is_apply) { "Apply" } else { "Update" };
    let manager = ssa::Manager::of(context, operation, options)?;
    if operation == "Apply" && context.kind.custom.is_some() {
        // Kubernetes cannot do this, so nobody should get used to it here.
        context.stored()?;
        let why = "failed to create manager for existing fields: failed to convert live object (/; autoscaling/v1, Kind=Scale) to proper version: request to convert CR to an invalid group/version: autoscaling/v1";
        return Err(ApiError::new(500, "", why));
    }
    let force = context.query.get("force").is_some_and(|f| f == "true" || f == "1");
    let how = Update { subresource: "scale", dry_run, manager: manager.clone(), once: false };
    let outcome = update_object(context, &how, |old| {
        let mut current = lenient(context, old)?;
        if current["spec"].get("replicas").is_none() {
            current["spec"]["replicas"] = 0.into();
        }
        let wanted = match (&patch, &given) {
            (Some(patch), _) => patch.apply_to_scale(&current)?,
            (None, Some(given)) => given.clone(),
            (None, None) => current.clone(),
        };
        let new = change(context, old, &current, &wanted)?;
        if operation == "Apply" {
            let (spec, _, _) = paths(&context.kind);
            return ssa::apply_scale(context, old, new, &spec, &manager, force);
        }
        Ok(new)
    })?;
    Ok(object_response(context, 200, scale_of(context, &outcome.value)?))
}

fn read(context: &Context, bytes: &[u8]) -> Result<Value, ApiError> {
    let value = body::parse_json(bytes).map_err(|e| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type Scale): couldn't get version/kind; json parse error: {e}"))
    })?;
    if let (Some(kind), Some(version)) = (value["kind"].as_str(), value["apiVersion"].as_str())
        && (kind != "Scale" || version != "autoscaling/v1")
    {
        return Err(body::foreign(context.server.kinds(), version, kind, "autoscaling", "Scale"));
    }
    if let Some(replicas) = value["spec"].get("replicas").filter(|r| !r.is_i64() && !r.is_u64() && !r.is_null()) {
        let found = if replicas.is_string() { "string".to_owned() } else { format!("number {replicas}") };
        return Err(ApiError::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {found} into Go struct field ScaleSpec.spec.replicas of type int32"
        )));
    }
    Ok(value)
}

fn change(context: &Context, old: &Value, current: &Value, wanted: &Value) -> Result<Value, ApiError> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    if name != context.name() && !name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            context.name()
        )));
    }
    let version = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && current["metadata"]["resourceVersion"] != version {
        return Err(ApiError::stale(&context.kind, context.name()));
    }
    let uid = wanted["metadata"]["uid"].as_str().unwrap_or_default();
    let own = current["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != own {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(ApiError::conflict(&context.kind, context.name(), &why));
    }
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        if context.kind.custom.is_some() {
            let error = FieldError::invalid(".spec.replicas", &json!(replicas), "should be a non-negative integer");
            return Err(ApiError::invalid(&context.kind, context.name(), &[error]));
        }
        let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(ApiError::invalid_named("autoscaling", "Scale", context.name(), &[error]));
    }
    let (spec, _, _) = paths(&context.kind);
    let mut new = old.clone();
    crd::set(&mut new, &spec, replicas.into());
    Ok(new)
}
