//! Who asks, and what they may do: tokens of service accounts, impersonation, role-based access
//! control, and the reviews that tell of them.

mod legacy;
mod rbac;
mod review;
mod roles;
mod tokens;

use axum::extract::Request;
use axum::response::Response;
use http::header::AUTHORIZATION;

use crate::http::{Query, Target, error_response, parse_target};
use crate::identity::Identity;
use crate::server::Server;
use crate::status::{ApiError, details_of};

pub(crate) use legacy::fill as fill_token_secrets;
use rbac::Attributes;
pub(crate) use review::{review, token};
pub(crate) use roles::bootstrap;
pub(crate) use tokens::Signer;

/// The user behind a bearer token; `None`: the token is not valid.
pub fn authenticate(server: &Server, token: &str) -> Option<Identity> {
    let audiences = [tokens::AUDIENCE.to_owned()];
    tokens::verify(server, token, &audiences).ok().map(|(identity, _)| identity)
}

/// Who a request is from. `given` is what the connection tells (a client certificate, or nobody
/// known); a bearer token counts where the connection tells of nobody.
fn identify(server: &Server, given: Option<Identity>, request: &Request) -> Result<Identity, ApiError> {
    let unauthorized = || ApiError::new(401, "Unauthorized", "Unauthorized");
    if let Some(known) = given.as_ref().filter(|i| **i != Identity::anonymous()) {
        return Ok(known.clone());
    }
    match request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        Some(header) => {
            let token = header.strip_prefix("Bearer ").unwrap_or_default().trim();
            authenticate(server, token).ok_or_else(unauthorized)
        }
        None => Ok(given.unwrap_or_else(Identity::administrator)),
    }
}

/// The user that a request acts as, and whether that user may do what it asks for.
pub(crate) fn admit(server: &Server, given: Option<Identity>, request: &Request) -> Result<Identity, Box<Response>> {
    let refuse = |error: ApiError| Box::new(error_response(&error));
    let mut identity = identify(server, given, request).map_err(refuse)?;
    let path = request.uri().path();
    let attributes = match parse_target(path) {
        Some(target) => resource(&target, request),
        None => Attributes::path(request.method().as_str(), path),
    };
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if let Some(user) = header("impersonate-user") {
        let wanted = Attributes::resource("impersonate", "", "users", &user);
        if rbac::decide(server, &identity, &wanted).is_none() {
            let verb = format!("impersonate-on:user-info:{}", attributes.verb);
            return Err(refuse(forbidden(&identity, &Attributes { verb, ..attributes })));
        }
        let given = request.headers().get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok());
        let mut groups: Vec<String> = given.map(str::to_owned).collect();
        if let Some(rest) = user.strip_prefix("system:serviceaccount:").filter(|_| groups.is_empty()) {
            groups.push("system:serviceaccounts".into());
            groups.extend(rest.split_once(':').map(|(namespace, _)| format!("system:serviceaccounts:{namespace}")));
        }
        let known = user != Identity::anonymous().name;
        groups.push(if known { "system:authenticated" } else { "system:unauthenticated" }.into());
        identity =
            Identity { name: user, uid: header("impersonate-uid").unwrap_or_default(), groups, extra: Vec::new() };
    }
    match rbac::decide(server, &identity, &attributes) {
        Some(_) => Ok(identity),
        None => Err(refuse(forbidden(&identity, &attributes))),
    }
}

/// What a request for a resource asks for.
fn resource(target: &Target, request: &Request) -> Attributes {
    let query = Query::parse(request.uri().query());
    let named = target.name.is_some();
    let watching = target.watch || query.flag("watch") == Some(true);
    let verb = match request.method().as_str() {
        "GET" | "HEAD" if watching && target.subresource.is_none() => "watch",
        "GET" | "HEAD" if named => "get",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if named => "delete",
        "DELETE" => "deletecollection",
        other => other,
    };
    let own_namespace = target.group.is_empty() && target.plural == "namespaces";
    Attributes {
        verb: verb.to_lowercase(),
        group: target.group.clone(),
        resource: target.plural.clone(),
        subresource: target.subresource.clone().unwrap_or_default(),
        namespace: if own_namespace {
            target.name.clone().unwrap_or_default()
        } else {
            target.namespace.clone().unwrap_or_default()
        },
        name: target.name.clone().unwrap_or_default(),
        path: None,
    }
}

/// The refusal.
fn forbidden(identity: &Identity, attributes: &Attributes) -> ApiError {
    let user = &identity.name;
    if let Some(path) = &attributes.path {
        let message = format!("forbidden: User {user:?} cannot {} path {path:?}", attributes.verb);
        return ApiError::new(403, "Forbidden", message).with(serde_json::json!({}));
    }
    let Attributes { verb, group, resource, subresource, namespace, name, path: _ } = attributes;
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let subject = if name.is_empty() { qualified } else { format!("{qualified} {name:?}") };
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let message =
        format!("{subject} is forbidden: User {user:?} cannot {verb} resource {full:?} in API group {group:?} {scope}");
    ApiError::new(403, "Forbidden", message).with(details_of(name, group, resource))
}
