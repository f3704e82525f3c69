//! Where the generic path meets what is known about single kinds.

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;

use crate::http::{Context, error_response};
use crate::identity::Identity;
use crate::kind::{Hooks, Kind};
use crate::server::Server;
use crate::status::ApiError;
use crate::validate::FieldError;

/// The behaviour of a kind.
pub(crate) fn hooks(kind: &Kind) -> Hooks {
    crate::kinds::hooks(kind)
}

/// Paths that name no resource: discovery, OpenAPI, health, version.
pub(crate) fn root(server: &Server, _identity: &Identity, request: &Request) -> Response {
    let uri = request.uri();
    let answer = crate::discovery::respond(
        server.kinds(),
        request.method(),
        uri.path(),
        uri.query().unwrap_or_default(),
        request.headers(),
    );
    answer.unwrap_or_else(|| error_response(&ApiError::no_resource()))
}

/// Answers a kind that is never stored, such as an access review.
pub(crate) fn review(context: &Context, value: Value) -> Result<Value, ApiError> {
    crate::auth::review(context, value)
}

/// Judges the metadata of any object.
pub(crate) fn validate_metadata(kind: &Kind, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    crate::validate::metadata::metadata(kind, value, old)
}

/// Whether PUT of an object that does not exist creates it.
pub(crate) fn create_on_update(kind: &Kind) -> bool {
    matches!(
        (kind.group.as_str(), kind.kind.as_str()),
        ("", "Endpoints" | "Event" | "LimitRange" | "Service")
            | ("coordination.k8s.io", "Lease")
            | ("rbac.authorization.k8s.io", _)
            | ("events.k8s.io", "Event")
    )
}

/// Whether PUT must say which version it replaces.
pub(crate) fn needs_version(kind: &Kind) -> bool {
    kind.custom.is_some()
        || matches!(
            (kind.group.as_str(), kind.kind.as_str()),
            ("coordination.k8s.io", "Lease") | ("policy", "PodDisruptionBudget") | ("apiextensions.k8s.io", _)
        )
}

/// `serviceaccounts/{name}/token`.
pub(crate) fn token(context: &Context, bytes: &[u8]) -> Result<Response, ApiError> {
    crate::auth::token(context, bytes)
}
