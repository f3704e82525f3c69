//! Server-side apply, and the record of who owns which field.

use axum::response::Response;
use serde_json::Value;

use crate::http::{Context, FieldValidation, Update, create_object, update_object, write_outcome};
use crate::status::ApiError;

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: &'static str,
}

impl Manager {
    /// The manager of a request: `fieldManager`, or the first part of the user agent.
    pub(crate) fn of(context: &Context, operation: &'static str, _options: &str) -> Result<Self, ApiError> {
        let agent = context.user_agent.split('/').next().unwrap_or_default();
        let name = context.query.get("fieldManager").unwrap_or(agent).to_owned();
        Ok(Self { name, operation })
    }
}

pub(crate) fn track(_context: &Context, _value: &mut Value, _old: Option<&Value>, _manager: &Manager, _subresource: &str) {}

/// Whether two states are the same.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    a == b
}

pub(crate) fn apply(
    context: &Context,
    applied: &Value,
    manager: &Manager,
    _force: bool,
    dry_run: bool,
    _validation: FieldValidation,
) -> Result<Response, ApiError> {
    let outcome = if context.server.store().get(&context.kind.storage(), context.namespace(), context.name()).is_none() {
        create_object(context, applied.clone(), manager, dry_run)?
    } else {
        let how = Update { subresource: context.subresource(), dry_run, manager: manager.clone(), once: false };
        update_object(context, &how, |old| {
            let mut new = old.clone();
            crate::patch::merge(&mut new, applied);
            Ok(new)
        })?
    };
    Ok(write_outcome(context, outcome))
}
