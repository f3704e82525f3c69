//! Reviews: answers about users and rights that are never stored, and requests for tokens.

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::rbac::{self, Attributes};
use super::tokens::{self, AUDIENCE, Bound};
use crate::admission::{list, text};
use crate::http::{Context, FieldValidation, decode_object, object_response};
use crate::identity::Identity;
use crate::kinds::{Kind, SchemaSource};
use crate::schema::builtin;
use crate::status::{ApiError, details_of};
use crate::validate::FieldError;

/// Answers a review.
pub(crate) fn review(context: &Context, mut value: Value) -> Result<Value, ApiError> {
    match context.kind.kind.as_str() {
        "TokenReview" => token_review(context, &mut value)?,
        "SelfSubjectReview" => {
            let user = user_info(&context.identity);
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            value["metadata"] = json!({"creationTimestamp": now});
            value["status"] = json!({"userInfo": user});
        }
        "SelfSubjectRulesReview" => {
            let namespace = text(&value, "/spec/namespace").to_owned();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            value["spec"] = json!({});
            value["status"] = rules(context, &namespace);
        }
        _ => access(context, &mut value)?,
    }
    if value["metadata"].as_object().is_some_and(Map::is_empty) {
        value["metadata"] = json!({});
    }
    Ok(value)
}

fn user_info(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.name, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = identity.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>().into();
    }
    user
}

fn token_review(context: &Context, value: &mut Value) -> Result<(), ApiError> {
    let token = text(value, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        list(value, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(AUDIENCE.to_owned());
    }
    value["status"] = match tokens::verify(&context.server, &token, &audiences) {
        Ok((identity, shared)) => json!({"authenticated": true, "user": user_info(&identity), "audiences": shared}),
        Err(error) => json!({"user": {}, "error": error}),
    };
    Ok(())
}

fn rules(context: &Context, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    let all = if context.identity.is_administrator() {
        vec![
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ]
    } else {
        rbac::all_rules(&context.server, &context.identity, namespace)
    };
    for rule in all {
        if rule.get("nonResourceURLs").is_some() { paths.push(rule) } else { resources.push(rule) }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn access(context: &Context, value: &mut Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    let own = context.kind.kind == "SelfSubjectAccessReview";
    match (resource, path) {
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid("spec.resourceAttributes", &Value::Null, detail));
        }
        (Some(_), Some(path)) => {
            let message = format!(
                "Invalid value: {{\"Path\":{:?},\"Verb\":{:?}}}: cannot be specified in combination with resourceAttributes",
                text(path, "/path"),
                text(path, "/verb")
            );
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: "spec.nonResourceAttributes".into(),
                message,
            });
        }
        _ => {}
    }
    let groups: Vec<String> = list(&spec, "/groups").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if !own && text(&spec, "/user").is_empty() && groups.is_empty() {
        errors.push(FieldError::invalid("spec.user", &"".into(), "at least one of user or group must be specified"));
    }
    if context.kind.kind == "LocalSubjectAccessReview" {
        let namespace = text(&spec, "/resourceAttributes/namespace");
        if resource.is_some() && namespace != context.namespace() {
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                &namespace.into(),
                "must match metadata.namespace",
            ));
        }
        value["metadata"]["namespace"] = context.namespace().into();
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid_named("authorization.k8s.io", "", "", &errors));
    }
    let identity = if own {
        context.identity.clone()
    } else {
        let mut groups = groups;
        let user = text(&spec, "/user");
        if let Some((namespace, _)) = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        Identity { name: user.to_owned(), uid: text(&spec, "/uid").to_owned(), groups, extra: Vec::new() }
    };
    let attributes = match (resource, path) {
        (Some(r), _) => Attributes {
            verb: text(r, "/verb").into(),
            group: text(r, "/group").into(),
            resource: text(r, "/resource").into(),
            subresource: text(r, "/subresource").into(),
            namespace: text(r, "/namespace").into(),
            name: text(r, "/name").into(),
            path: None,
        },
        (None, path) => Attributes::path(path.map_or("", |p| text(p, "/verb")), path.map_or("", |p| text(p, "/path"))),
    };
    value["status"] = match rbac::decide(&context.server, &identity, &attributes) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    };
    Ok(())
}

/// `serviceaccounts/{name}/token`.
pub(crate) fn token(context: &Context, bytes: &[u8]) -> Result<Response, ApiError> {
    let schema = builtin::definition("authentication.v1.TokenRequest").ok_or_else(ApiError::no_resource)?;
    let kind = Kind {
        group: "authentication.k8s.io".into(),
        version: "v1".into(),
        kind: "TokenRequest".into(),
        list_kind: String::new(),
        plural: "tokenrequests".into(),
        singular: "tokenrequest".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: vec!["create".into()],
        subresources: Vec::new(),
        schema: SchemaSource::Builtin(schema),
        deprecation: None,
        custom: None,
    };
    let mut request = decode_object(context, bytes, &kind, FieldValidation::Warn)?;
    crate::schema::defaults::builtin(schema, &mut request);
    let stored = context.stored()?.value();
    let own = context.name();
    let given = text(&request, "/metadata/name");
    let mut errors = Vec::new();
    if !given.is_empty() && given != own {
        let error =
            FieldError::invalid("metadata.name", &given.into(), "must match the service account name if specified");
        return Err(ApiError::invalid(&kind, own, &[error]));
    }
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    let shown = Value::from(seconds);
    if seconds < 600 {
        errors.push(FieldError::invalid(
            "spec.expirationSeconds",
            &shown,
            "may not specify a duration less than 10 minutes",
        ));
    } else if seconds > 1 << 32 {
        errors.push(FieldError::invalid(
            "spec.expirationSeconds",
            &shown,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&kind, "", &errors));
    }
    let mut audiences: Vec<String> =
        list(&request, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(AUDIENCE.to_owned());
    }
    let bound = bound(context, &request, own)?;
    let (token, expires) = tokens::issue(&context.server, &stored, &audiences, seconds, bound.as_ref());
    request["metadata"] = json!({
        "name": own, "namespace": context.namespace(), "uid": stored["metadata"]["uid"],
        "creationTimestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    request["spec"]["audiences"] = json!(audiences);
    request["status"] =
        json!({"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    Ok(object_response(context, 201, request))
}

/// What the token is to be bound to.
fn bound(context: &Context, request: &Value, account: &str) -> Result<Option<Bound>, ApiError> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else { return Ok(None) };
    let (kind, name, uid) = (text(reference, "/kind"), text(reference, "/name"), text(reference, "/uid"));
    let plural = match (kind, text(reference, "/apiVersion")) {
        ("Pod", "v1" | "") => "pods",
        ("Secret", "v1" | "") => "secrets",
        ("Node", "v1" | "") => "nodes",
        (kind, version) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let namespace = if plural == "nodes" { "" } else { context.namespace() };
    let found = context.server.store().get(&(String::new(), plural.to_owned()), namespace, name);
    let Some(found) = found.map(|o| o.value()) else {
        return Err(
            ApiError::new(404, "NotFound", format!("{plural} {name:?} not found")).with(details_of(name, "", plural))
        );
    };
    if plural == "pods" && text(&found, "/spec/serviceAccountName") != account {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let real = text(&found, "/metadata/uid");
    if !uid.is_empty() && uid != real {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        let message = format!("Operation cannot be fulfilled on {kind} {name:?}: {why}");
        return Err(ApiError::new(409, "Conflict", message).with(details_of(name, "", kind)));
    }
    Ok(Some(Bound { kind: kind.to_owned(), name: name.to_owned(), uid: real.to_owned() }))
}
