//! Everything that is not an object: discovery in both forms, versions, health, OpenAPI.

pub mod openapi;

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kinds::{Kind, Kinds};
use crate::status::ApiError;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request for one of these documents; `None` when the path is not one of them.
pub fn respond(kinds: &Kinds, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Option<Response> {
    let trimmed = path.trim_end_matches('/');
    let parts: Vec<&str> = trimmed.split('/').skip(1).collect();
    let known = matches!(
        parts.first(),
        Some(
            &("api"
                | "apis"
                | "version"
                | "openapi"
                | "healthz"
                | "livez"
                | "readyz"
                | "metrics"
                | ".well-known"
                | "openid")
        )
    ) || trimmed.is_empty();
    if !known {
        return Some(not_found());
    }
    let list: Vec<std::sync::Arc<Kind>> = kinds.all();
    let answer = match parts.as_slice() {
        [] => json!({"paths": roots(&list)}),
        ["api"] if aggregated(headers) => return Some(discovery_list(&list, true, headers)),
        ["apis"] if aggregated(headers) => return Some(discovery_list(&list, false, headers)),
        ["api"] => {
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:6443"}]})
        }
        ["apis"] => {
            let groups: Vec<Value> = groups(&list).iter().map(|g| group(&list, g)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => match resources(&list, "", version) {
            Some(resources) => json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}),
            None => return Some(crate::http::error_response(&ApiError::no_resource())),
        },
        ["apis", name] => {
            if !groups(&list).iter().any(|g| g == name) {
                return Some(not_found());
            }
            let mut group = group(&list, name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["apis", group, version] => match resources(&list, group, version) {
            Some(resources) => {
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": resources})
            }
            None if groups(&list).iter().any(|g| g == group) => {
                return Some(crate::http::error_response(&ApiError::no_resource()));
            }
            None => return Some(not_found()),
        },
        ["version"] => version(),
        ["healthz" | "livez" | "readyz", ..] => return Some(health(&parts, query)),
        ["metrics"] => {
            return Some(reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
                String::new(),
            ));
        }
        ["openapi", rest @ ..] => return Some(openapi::respond(&list, rest, query, headers)),
        ["api" | "apis", ..] => return None,
        _ => return Some(not_found()),
    };
    if *method == Method::HEAD {
        return Some(reply(StatusCode::METHOD_NOT_ALLOWED, "application/json", String::new()));
    }
    if *method != Method::GET {
        return Some(crate::http::error_response(&ApiError::method_not_allowed()));
    }
    Some(negotiated(&answer, headers))
}

/// A document as JSON or YAML, as the client accepts.
fn negotiated(document: &Value, headers: &HeaderMap) -> Response {
    for part in accept(headers).split(',') {
        match part.split(';').next().unwrap_or_default().trim() {
            "application/json" if part.contains("as=") => {}
            "application/json" | "*/*" | "application/*" | "" => {
                return reply(StatusCode::OK, "application/json", document.to_string());
            }
            "application/yaml" => {
                let text = serde_saphyr::to_string(document).unwrap_or_default();
                return reply(StatusCode::OK, "application/yaml", text);
            }
            _ => {}
        }
    }
    let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    crate::http::error_response(&ApiError::new(406, "NotAcceptable", message))
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*")
}

/// Whether the client takes the aggregated form.
fn aggregated(headers: &HeaderMap) -> bool {
    accept(headers).split(',').any(|part| part.trim().starts_with(AGGREGATED))
}

fn reply(status: StatusCode, content_type: &str, body: String) -> Response {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
    response.body(Body::from(body)).expect("the header values are constants")
}

/// What a path gets that no API group answers.
pub fn not_found() -> Response {
    reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into())
}

fn roots(kinds: &[std::sync::Arc<Kind>]) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in groups(kinds) {
        paths.push(format!("/apis/{name}"));
        paths.extend(versions(kinds, &name).iter().map(|v| format!("/apis/{name}/{v}")));
    }
    paths.sort();
    paths
}

/// The groups that are served, in the order of discovery; the core group is not among them.
fn groups(kinds: &[std::sync::Arc<Kind>]) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for kind in kinds.iter().filter(|k| !k.group.is_empty()) {
        if !groups.contains(&kind.group) {
            groups.push(kind.group.clone());
        }
    }
    groups
}

/// The versions of a group, the preferred one first: stable before beta before alpha, newer
/// before older.
fn versions(kinds: &[std::sync::Arc<Kind>], group: &str) -> Vec<String> {
    let mut versions: Vec<String> = Vec::new();
    for kind in kinds.iter().filter(|k| k.group == group) {
        if !versions.contains(&kind.version) {
            versions.push(kind.version.clone());
        }
    }
    versions.sort_by(|a, b| priority(b).cmp(&priority(a)).then_with(|| a.cmp(b)));
    versions
}

/// How a version ranks: `(stability, major, minor)`; names that are no versions come last.
pub fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let rest = &rest[end..];
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        for (name, stability) in [("beta", 2), ("alpha", 1)] {
            if let Some(minor) = rest.strip_prefix(name) {
                return Some((stability, major, minor.parse().ok()?));
            }
        }
        None
    };
    parse().unwrap_or_default()
}

fn group(kinds: &[std::sync::Arc<Kind>], name: &str) -> Value {
    let list: Vec<Value> =
        versions(kinds, name).iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

/// What a subresource takes: group and version where they differ from the resource's, kind, verbs.
fn subresource(kind: &Kind, name: &str) -> (Option<(&'static str, &'static str)>, String, &'static [&'static str]) {
    const CHANGE: [&str; 3] = ["get", "patch", "update"];
    const PROXY: [&str; 5] = ["create", "delete", "get", "patch", "update"];
    const STREAM: [&str; 2] = ["create", "get"];
    match name {
        "scale" => (Some(("autoscaling", "v1")), "Scale".into(), &CHANGE),
        "eviction" => (Some(("policy", "v1")), "Eviction".into(), &["create"]),
        "token" => (Some(("authentication.k8s.io", "v1")), "TokenRequest".into(), &["create"]),
        "binding" => (None, "Binding".into(), &["create"]),
        "attach" => (None, "PodAttachOptions".into(), &STREAM),
        "exec" => (None, "PodExecOptions".into(), &STREAM),
        "portforward" => (None, "PodPortForwardOptions".into(), &STREAM),
        "proxy" => (None, format!("{}ProxyOptions", kind.kind), &PROXY),
        "log" => (None, "Pod".into(), &["get"]),
        "finalize" => (None, kind.kind.clone(), &["update"]),
        _ => (None, kind.kind.clone(), &CHANGE),
    }
}

fn resources(kinds: &[std::sync::Arc<Kind>], group: &str, version: &str) -> Option<Vec<Value>> {
    let mut found: Vec<&std::sync::Arc<Kind>> =
        kinds.iter().filter(|k| k.group == group && k.version == version).collect();
    if found.is_empty() {
        return None;
    }
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    let mut list = Vec::new();
    for kind in found {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = kind.short_names.clone().into();
        }
        if !kind.categories.is_empty() {
            entry["categories"] = kind.categories.clone().into();
        }
        list.push(entry);
        for name in &kind.subresources {
            let (other, sub_kind, verbs) = subresource(kind, name);
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": sub_kind, "verbs": verbs,
            });
            if let Some((group, version)) = other {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            list.push(entry);
        }
    }
    Some(list)
}

fn discovery_list(kinds: &[std::sync::Arc<Kind>], core: bool, headers: &HeaderMap) -> Response {
    let names = if core { vec![String::new()] } else { groups(kinds) };
    let items: Vec<Value> = names.iter().map(|name| discovery_group(kinds, name)).collect();
    let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}).to_string();
    let tag = format!("\"{}\"", hash(&body));
    let unchanged = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(&tag);
    let response = Response::builder()
        .header(header::ETAG, &tag)
        .header(header::VARY, "Accept")
        .header(header::CACHE_CONTROL, "public");
    let response = if unchanged {
        response.status(StatusCode::NOT_MODIFIED).body(Body::empty())
    } else {
        response.header(header::CONTENT_TYPE, AGGREGATED).body(Body::from(body))
    };
    response.expect("a hash is a valid header value")
}

fn discovery_group(kinds: &[std::sync::Arc<Kind>], name: &str) -> Value {
    let list: Vec<Value> = versions(kinds, name)
        .iter()
        .map(|version| {
            let mut found: Vec<_> = kinds.iter().filter(|k| k.group == name && k.version == *version).collect();
            found.sort_by(|a, b| a.plural.cmp(&b.plural));
            let resources: Vec<Value> = found.into_iter().map(|k| discovery_resource(k)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": list})
}

fn discovery_resource(kind: &Kind) -> Value {
    let (group, version) = if kind.custom.is_some() { (kind.group.as_str(), kind.version.as_str()) } else { ("", "") };
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": group, "version": version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = kind.short_names.clone().into();
    }
    if !kind.categories.is_empty() {
        entry["categories"] = kind.categories.clone().into();
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|name| {
            let (other, sub_kind, verbs) = subresource(kind, name);
            let (group, version) = other.unwrap_or((group, version));
            json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": sub_kind}, "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn hash(body: &str) -> String {
    Sha256::digest(body).iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+mariadb-sandbox.", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn health(parts: &[&str], query: &str) -> Response {
    let text = |body: String| reply(StatusCode::OK, "text/plain; charset=utf-8", body);
    match parts {
        [_] if query.split('&').any(|q| q.split('=').next() == Some("verbose")) => {
            text(format!("[+]ping ok\n[+]log ok\n[+]etcd ok\n{} check passed\n", parts[0]))
        }
        [_] | [_, "ping" | "log" | "etcd"] => text("ok".into()),
        _ => not_found(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = vec!["v1beta2", "v2", "v1", "v1alpha1", "v10", "foo"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1alpha1", "foo"]);
    }
}
