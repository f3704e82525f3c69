//! OpenAPI documents: enough for `kubectl explain`, for clients that ask which parameters a verb
//! takes, and for generators that read schemas.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{hash, not_found, reply};
use crate::kinds::Kind;
use crate::schema::builtin;

/// Answers `/openapi/...`.
pub(super) fn respond(kinds: &[Arc<Kind>], path: &[&str], query: &str, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    if accept.contains("protobuf") && !accept.contains("json") && !accept.contains("*/*") {
        return reply(StatusCode::NOT_ACCEPTABLE, "text/plain; charset=utf-8", "only JSON is served\n".into());
    }
    match path {
        ["v2"] => reply(StatusCode::OK, "application/json", swagger(kinds).to_string()),
        ["v3"] => {
            let mut paths = Map::new();
            for name in documents(kinds) {
                let tag = hash(&document(kinds, &name).unwrap_or_default().to_string());
                paths.insert(name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={tag}")}));
            }
            reply(StatusCode::OK, "text/plain; charset=utf-8", json!({"paths": paths}).to_string())
        }
        ["v3", rest @ ..] => {
            let name = rest.join("/");
            let Some(document) = document(kinds, &name) else {
                return reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", String::new());
            };
            let body = document.to_string();
            let tag = hash(&body);
            let asked = query.split('&').find_map(|q| q.strip_prefix("hash="));
            if asked.is_some_and(|asked| asked != tag) {
                let moved = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
                let moved = moved
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(header::LOCATION, format!("/openapi/v3/{name}?hash={tag}"));
                return moved.body(Body::empty()).expect("paths of documents are valid header values");
            }
            reply(StatusCode::OK, "application/json", body)
        }
        _ => not_found(),
    }
}

fn group_path(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

fn documents(kinds: &[Arc<Kind>]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["api", "apis", "version"].map(str::to_owned).into();
    for kind in kinds {
        let path = group_path(kind);
        if let Some((group, _)) = path.rsplit_once('/').filter(|_| !kind.group.is_empty()) {
            names.insert(group.to_owned());
        }
        names.insert(path);
    }
    names
}

fn document(kinds: &[Arc<Kind>], name: &str) -> Option<Value> {
    if !documents(kinds).contains(name) {
        return None;
    }
    let own: Vec<&Arc<Kind>> = kinds.iter().filter(|k| group_path(k) == name).collect();
    let mut paths = Map::new();
    paths.insert(format!("/{name}/"), json!({}));
    let mut schemas = Map::new();
    for kind in own {
        paths.extend(operations(kind));
        schemas.extend(components(kind, "#/components/schemas/"));
    }
    Some(
        json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1.36"}, "paths": paths, "components": {"schemas": schemas}}),
    )
}

fn swagger(kinds: &[Arc<Kind>]) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for kind in kinds {
        paths.extend(operations(kind));
        definitions.extend(components(kind, "#/definitions/"));
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "1.36"}, "paths": paths, "definitions": definitions})
}

/// The paths of a kind, with the verbs they take and the query parameters that clients look for.
fn operations(kind: &Kind) -> Map<String, Value> {
    let root = format!("/{}", group_path(kind));
    let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let operation = |action: &str, extra: &[&str]| {
        let parameters: Vec<Value> =
            extra.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})).collect();
        json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk, "parameters": parameters, "responses": {"200": {"description": "OK"}}})
    };
    let write = ["dryRun", "fieldManager", "fieldValidation"];
    let (mut all, mut one) = (Map::new(), Map::new());
    for verb in &kind.verbs {
        match verb.as_str() {
            "list" => all.insert("get".into(), operation("list", &[])),
            "create" => all.insert("post".into(), operation("post", &write)),
            "deletecollection" => all.insert("delete".into(), operation("deletecollection", &["dryRun"])),
            "get" => one.insert("get".into(), operation("get", &[])),
            "update" => one.insert("put".into(), operation("put", &write)),
            "patch" => {
                one.insert("patch".into(), operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]))
            }
            "delete" => one.insert("delete".into(), operation("delete", &["dryRun"])),
            _ => None,
        };
    }
    let collection = if kind.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let mut paths = Map::new();
    if kind.namespaced {
        paths.insert(format!("{root}/{}", kind.plural), json!({"get": operation("list", &[])}));
        paths.insert(
            format!("{root}/watch/namespaces/{{namespace}}/{}", kind.plural),
            json!({"get": operation("watchlist", &[])}),
        );
    }
    if kind.allows("watch") {
        paths.insert(format!("{root}/watch/{}", kind.plural), json!({"get": operation("watchlist", &[])}));
    }
    paths.insert(format!("{collection}/{{name}}"), one.into());
    paths.insert(collection, all.into());
    paths
}

/// The schemas that a kind needs, its list included.
fn components(kind: &Kind, prefix: &str) -> Map<String, Value> {
    let mut schemas = Map::new();
    let gvk = |name: &str| json!([{"group": kind.group, "version": kind.version, "kind": name}]);
    let name = match &kind.custom {
        Some(_) => {
            format!("{}.{}.{}", kind.group.split('.').rev().collect::<Vec<_>>().join("."), kind.version, kind.kind)
        }
        None => full_name(&builtin::definition_name(&kind.group, &kind.version, &kind.kind)),
    };
    let meta = format!("{prefix}io.k8s.apimachinery.pkg.apis.meta.v1.");
    let mut own = if let Some(custom) = &kind.custom {
        let mut own = custom.document.clone();
        if let Some(object) = own.as_object_mut() {
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            properties["apiVersion"] = json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."});
            properties["kind"] = json!({"type": "string", "description": "Kind is a string value representing the REST resource this object represents."});
            properties["metadata"] =
                json!({"description": "Standard object's metadata.", "allOf": [{"$ref": format!("{meta}ObjectMeta")}]});
        }
        collect(&json!({"$ref": format!("{meta}ObjectMeta")}), prefix, &mut schemas);
        own
    } else {
        let own = builtin::documents().get(&name).cloned().unwrap_or_default();
        collect(&own, prefix, &mut schemas);
        rewritten(&own, prefix)
    };
    own["x-kubernetes-group-version-kind"] = gvk(&kind.kind);
    schemas.insert(name.clone(), own);
    if kind.allows("list") {
        collect(&json!({"$ref": format!("{meta}ListMeta")}), prefix, &mut schemas);
        let list = json!({
            "type": "object",
            "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"$ref": format!("{meta}ListMeta")},
                "items": {"type": "array", "items": {"$ref": format!("{prefix}{name}")}},
            },
            "x-kubernetes-group-version-kind": gvk(&kind.list_kind),
        });
        schemas.insert(format!("{name}List"), list);
    }
    schemas
}

fn full_name(short: &str) -> String {
    let documents = builtin::documents();
    documents.keys().find(|full| builtin::short_name(full) == short).cloned().unwrap_or_default()
}

/// Adds every definition that `node` refers to.
fn collect(node: &Value, prefix: &str, into: &mut Map<String, Value>) {
    match node {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next())
                && !into.contains_key(name)
                && let Some(document) = builtin::documents().get(name)
            {
                into.insert(name.to_owned(), rewritten(document, prefix));
                collect(document, prefix, into);
            }
            map.values().for_each(|inner| collect(inner, prefix, into));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, prefix, into)),
        _ => {}
    }
}

/// A definition with its references pointing below `prefix`. A reference beside other keywords is
/// wrapped, as OpenAPI 3.0 wants it.
fn rewritten(node: &Value, prefix: &str) -> Value {
    match node {
        Value::Object(map) => {
            let mut out: Map<String, Value> = map
                .iter()
                .filter(|(k, v)| *k != "$ref" || !v.is_string())
                .map(|(k, v)| (k.clone(), rewritten(v, prefix)))
                .collect();
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                let reference = json!({"$ref": format!("{prefix}{name}")});
                if out.is_empty() || prefix == "#/definitions/" {
                    out.insert("$ref".into(), reference["$ref"].clone());
                } else {
                    out.insert("allOf".into(), json!([reference]));
                }
            }
            Value::Object(out)
        }
        Value::Array(list) => list.iter().map(|inner| rewritten(inner, prefix)).collect(),
        other => other.clone(),
    }
}
