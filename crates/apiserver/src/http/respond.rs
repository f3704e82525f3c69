//! Answers: objects, lists and errors in the shape that was asked for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::{Accept, Context, Format, Shape};
use crate::status::ApiError;

/// A JSON body.
pub(crate) fn json_response(code: u16, value: &Value) -> Response {
    raw(code, "application/json", value.to_string().into())
}

fn raw(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A value in the format that was accepted.
pub(crate) fn formatted(accept: &Accept, code: u16, value: &Value) -> Response {
    if accept.format == Format::Yaml {
        let text = serde_saphyr::to_string(value).unwrap_or_default();
        return raw(code, "application/yaml", text.into());
    }
    if accept.pretty {
        let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push('\n');
        return raw(code, "application/json", text.into());
    }
    json_response(code, value)
}

/// An error as a `Status`.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let mut response = json_response(error.code, &error.body());
    if let Some(seconds) = error.details.get("retryAfterSeconds").and_then(Value::as_u64)
        && let Ok(value) = seconds.to_string().parse()
    {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// What answers where no API group does.
pub(crate) fn page_not_found() -> Response {
    raw(404, "text/plain; charset=utf-8", "404 page not found\n".into())
}

/// One object in the shape that was asked for, with the warnings of its request.
pub(crate) fn object(context: &Context, code: u16, value: Value) -> Response {
    if let Err(error) = check_shape(context, false) {
        return error_response(&error);
    }
    let mut accept = context.accept.clone();
    accept.pretty |= context.query.flag("pretty") == Some(true);
    let shaped = shape(context, &accept.shape, value);
    with_warnings(context, formatted(&accept, code, &shaped))
}

/// An object as `Table`, `PartialObjectMetadata`, or itself.
pub(crate) fn shape(context: &Context, shape: &Shape, value: Value) -> Value {
    if value["kind"] == "Status" || context.target.subresource.is_some() && value["kind"] != context.kind.kind.as_str()
    {
        return value;
    }
    match shape {
        Shape::Metadata(version) => metadata(version, &value),
        Shape::Table(version) if value["kind"] != "Scale" => {
            let list = json!({"metadata": {"resourceVersion": value["metadata"]["resourceVersion"]}});
            table(context, version, std::slice::from_ref(&value), &list["metadata"])
        }
        Shape::Whole | Shape::MetadataList(_) | Shape::Table(_) => value,
    }
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata(version: &str, value: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": value["metadata"]})
}

/// A `Table` of objects.
pub(crate) fn table(context: &Context, version: &str, objects: &[Value], list_metadata: &Value) -> Value {
    let include = context.query.get("includeObject").unwrap_or("Metadata");
    crate::table::render(&context.kind, objects, list_metadata, include, version, true, jiff::Timestamp::now())
}

/// A list in the shape that was asked for.
pub(crate) fn list(context: &Context, objects: Vec<Value>, mut metadata_of_list: Value) -> Response {
    if let Err(error) = check_shape(context, true) {
        return error_response(&error);
    }
    if context.kind.custom.is_some()
        && matches!(context.accept.shape, Shape::Whole)
        && metadata_of_list.get("continue").is_none()
    {
        metadata_of_list["continue"] = "".into();
    }
    let mut accept = context.accept.clone();
    accept.pretty |= context.query.flag("pretty") == Some(true);
    let value = match &accept.shape {
        Shape::Table(version) => table(context, version, &objects, &metadata_of_list),
        Shape::MetadataList(version) | Shape::Metadata(version) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata_of_list,
            "items": objects.iter().map(|o| metadata(version, o)).collect::<Vec<_>>(),
        }),
        Shape::Whole => {
            let mut items = objects;
            if context.kind.custom.is_none() {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.remove("apiVersion");
                    item.remove("kind");
                }
            }
            json!({"kind": context.kind.list_kind, "apiVersion": context.kind.api_version(), "metadata": metadata_of_list, "items": items})
        }
    };
    with_warnings(context, formatted(&accept, 200, &value))
}

/// Refuses shapes that do not fit: a list as an object, an object as a list, an odd table.
fn check_shape(context: &Context, is_list: bool) -> Result<(), ApiError> {
    let kind = &context.kind.kind;
    let refuse = |asked: &str, what: String| {
        Err(ApiError::new(406, "NotAcceptable", format!("you requested {asked}, but the requested object {what}")))
    };
    match &context.accept.shape {
        Shape::Metadata(_) if is_list => refuse("PartialObjectMetadata", format!("is a list (*core.{kind}List)")),
        Shape::MetadataList(_) if !is_list => {
            refuse("PartialObjectMetadataList", format!("is not a list (*core.{kind})"))
        }
        Shape::Table(_) => match context.query.get("includeObject") {
            None | Some("Metadata" | "Object" | "None") => Ok(()),
            Some(other) => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        },
        _ => Ok(()),
    }
}

/// Adds the warnings of a request as headers.
pub(crate) fn with_warnings(context: &Context, mut response: Response) -> Response {
    for warning in context.take_warnings() {
        let text: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
