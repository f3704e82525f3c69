//! Subresources: status, scale, eviction, binding, finalize, tokens, and the streams of pods.

mod eviction;
mod scale;

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::http::{
    Context, DeleteOptions, FieldValidation, Update, body, json_response, object_response, patch_object, put_object,
    read_object, update_object,
};
use crate::ssa;
use crate::status::ApiError;

/// Hands a stream of a pod or node to whoever runs it.
pub(crate) async fn stream(context: Context, request: Request) -> Result<Response, ApiError> {
    let name = context.subresource().to_owned();
    if context.kind.kind == "Service" {
        return Err(ApiError::not_implemented("the proxy of services is not served here"));
    }
    let object = context.stored()?;
    let Some(streams) = context.server.streams().cloned() else {
        return Err(ApiError::not_implemented(format!("{name} is not served: no node runs here")));
    };
    if context.kind.kind == "Pod" {
        let pod = context.present(&object);
        return Ok(streams.pod(pod, &name, request).await);
    }
    Ok(streams.node(context.name(), &context.target.rest, request).await)
}

/// Answers a request for a subresource.
pub(crate) fn answer(
    context: &Context,
    subresource: &str,
    method: &Method,
    bytes: &Bytes,
) -> Result<Response, ApiError> {
    if context.target.name.is_none() {
        return Err(ApiError::no_resource());
    }
    let refuse = || Err(ApiError::method_not_allowed());
    match (subresource, method.as_str()) {
        ("scale", "GET" | "PUT" | "PATCH") => scale::answer(context, method, bytes),
        ("status" | "ephemeralcontainers" | "resize", "GET") => read_object(context),
        ("status" | "ephemeralcontainers" | "resize", "PUT") => put_object(context, bytes),
        ("status" | "ephemeralcontainers" | "resize", "PATCH") => patch_object(context, bytes),
        ("finalize", "PUT") => finalize(context, bytes),
        ("eviction", "POST") => eviction::evict(context, bytes),
        ("binding", "POST") => bind(context, bytes),
        ("token", "POST") => crate::seam::token(context, bytes),
        _ => refuse(),
    }
}

/// `namespaces/{name}/finalize`: only the specification's finalizers are taken.
fn finalize(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let dry_run = context.dry_run("UpdateOptions")?;
    let value = body::object(context, bytes, &context.kind, FieldValidation::Ignore)?;
    if value["metadata"]["name"].as_str().unwrap_or_default() != context.name() {
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            context.name()
        )));
    }
    let manager = ssa::Manager::of(context, "Update", "UpdateOptions")?;
    let how = Update { subresource: "finalize", dry_run, manager, once: false };
    let outcome = update_object(context, &how, |old| {
        let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && old["metadata"]["resourceVersion"] != version {
            return Err(ApiError::stale(&context.kind, context.name()));
        }
        let mut new = old.clone();
        new["metadata"] = value["metadata"].clone();
        new["spec"]["finalizers"] = value["spec"].get("finalizers").cloned().unwrap_or_else(|| json!([]));
        Ok(new)
    })?;
    Ok(object_response(context, 200, outcome.value))
}

/// `pods/{name}/binding`: a scheduler's decision.
fn bind(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let dry_run = context.dry_run("CreateOptions")?;
    let binding = body::parse_json(bytes).map_err(ApiError::bad_request)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let manager = ssa::Manager::of(context, "Update", "CreateOptions")?;
    let how = Update { subresource: "binding", dry_run, manager, once: false };
    update_object(context, &how, |old| {
        if old["metadata"].get("deletionTimestamp").is_some() {
            return Err(ApiError::conflict(
                &context.kind,
                context.name(),
                &format!("pod {} is being deleted, cannot be assigned to a host", context.name()),
            ));
        }
        if let Some(current) = old["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            let why = format!("pod {} is already assigned to node {current:?}", context.name());
            let mut error = ApiError::conflict(&context.kind, context.name(), &why);
            error.message = error.message.replacen("pods", "pods/binding", 1);
            error.details["kind"] = "pods/binding".into();
            return Err(error);
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.clone().into();
        let conditions = new["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut kept: Vec<Value> = conditions.into_iter().filter(|c| c["type"] != "PodScheduled").collect();
        kept.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": crate::gc::now()}));
        new["status"]["conditions"] = kept.into();
        Ok(new)
    })?;
    Ok(json_response(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Deletes the pod that an eviction names.
fn delete_evicted(context: &Context, options: &DeleteOptions) -> Result<(), ApiError> {
    crate::http::delete_object(context, context.name(), context.namespace(), options).map(|_| ())
}
