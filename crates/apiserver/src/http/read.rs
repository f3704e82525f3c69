//! Get and list.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::{Context, respond};
use crate::selector::{Fields, Labels};
use crate::status::ApiError;
use crate::store::StoreError;
use crate::validate::FieldError;

/// One object.
pub(crate) fn get(context: &Context) -> Result<Response, ApiError> {
    if let Some(version) = context.query.get("resourceVersion") {
        let wanted = version_number(version).map_err(|e| ApiError::new(500, "", e))?;
        future(context, wanted)?;
    }
    let object = context.stored()?;
    Ok(respond::object(context, 200, context.present(&object)))
}

/// Parses a resourceVersion; the error is Go's.
pub(crate) fn version_number(text: &str) -> Result<u64, String> {
    let fault = if text.bytes().all(|b| b.is_ascii_digit()) { "value out of range" } else { "invalid syntax" };
    text.parse()
        .map_err(|_| format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {fault}"))
}

/// Refuses versions that are not there yet.
fn future(context: &Context, wanted: u64) -> Result<(), ApiError> {
    let current = context.server.store().revision();
    if wanted <= current {
        return Ok(());
    }
    let message = format!("Too large resource version: {wanted}, current: {current}");
    Err(ApiError::new(504, "Timeout", format!("Timeout: {message}")).with(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1,
    })))
}

/// A parameter that is a number.
pub(crate) fn number(context: &Context, key: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = context.query.get(key) else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

/// The selectors of a request.
pub(crate) fn selectors(context: &Context) -> Result<(Labels, Fields), ApiError> {
    let labels = Labels::parse(context.query.get("labelSelector").unwrap_or_default())?;
    let fields = Fields::parse(context.query.get("fieldSelector").unwrap_or_default(), &context.kind, &context.hooks)?;
    Ok((labels, fields))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("{}/{}", self.namespace, self.name)})
                .to_string(),
        )
    }

    /// Reads a token for a list in `namespace`; revision 0 stands for the newest.
    fn decode(token: &str, namespace: Option<&str>) -> Result<Self, ApiError> {
        let fault =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let token = token.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            fault(format!("illegal base64 data at input byte {}", token.find(|c| !good(c)).unwrap_or(token.len())))
        })?;
        let value = super::body::parse_json(&bytes).map_err(fault)?;
        let version = value["v"].as_str().unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            return Err(fault(format!("server does not recognize this encoded version {version}")));
        }
        let start = value["start"].as_str().unwrap_or_default().trim_end_matches('\0');
        let (namespace, name) = start.split_once('/').unwrap_or((namespace.unwrap_or_default(), start));
        Ok(Self {
            revision: value["rv"].as_u64().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Checks `resourceVersion`, `resourceVersionMatch`, `continue` and `sendInitialEvents` together.
pub(crate) fn check_options(context: &Context, watching: bool) -> Result<(), ApiError> {
    let query = &context.query;
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let mut errors = Vec::new();
    let invalid = |field: &str, detail: &str| FieldError::forbidden(field, detail);
    if watching {
        match (query.flag("sendInitialEvents"), matching) {
            (Some(_), Some(other)) if other != "NotOlderThan" => {
                errors.push(invalid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
                errors.push(FieldError::not_supported("resourceVersionMatch", &json!(other), &["NotOlderThan"]));
            }
            (Some(_), None) => errors.push(invalid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            (Some(_), Some(_)) | (None, None) => {}
            (None, Some(_)) => errors.push(invalid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
        }
        if query.get("continue").is_some() {
            errors.push(invalid("continue", "continue is forbidden for watch"));
        }
    } else {
        if query.has("sendInitialEvents") {
            errors.push(invalid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if let Some(matching) = matching {
            if version.is_none() {
                errors.push(invalid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if query.get("continue").is_some() {
                errors.push(invalid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(
                    "resourceVersionMatch",
                    &json!(matching),
                    &["Exact", "NotOlderThan", ""],
                ));
            }
            if matching == "Exact" && version == Some("0") {
                errors.push(invalid(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_named("meta.k8s.io", "ListOptions", "", &errors)) }
}

const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// A list.
pub(crate) fn list(context: &Context) -> Result<Response, ApiError> {
    // What may come from a cache comes whole.
    let cached = context.query.get("resourceVersion") == Some("0");
    let limit = number(context, "limit")?.filter(|_| !cached).unwrap_or(0).max(0) as usize;
    number(context, "timeoutSeconds")?;
    let (labels, fields) = selectors(context)?;
    check_options(context, false)?;
    let (store, resource) = (context.server.store(), context.kind.storage());
    let namespace = context.target.namespace.as_deref();
    let version = context.query.get("resourceVersion");
    let (revision, objects, after) = if let Some(token) = context.query.get("continue") {
        let mut from = Continue::decode(token, namespace)?;
        if version.is_some_and(|v| v != "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        if from.revision == 0 {
            let (revision, objects) = store.list(&resource, namespace);
            from.revision = revision;
            (revision, objects, Some(from))
        } else {
            let objects = store.list_at(&resource, namespace, from.revision).map_err(|_| {
                let token = Continue { revision: 0, ..from.clone() }.encode();
                ApiError { continuation: Some(token), ..ApiError::expired(TOO_OLD) }
            })?;
            (from.revision, objects, Some(from))
        }
    } else {
        let wanted = version
            .map(|v| version_number(v).map_err(|e| ApiError::bad_request(format!("invalid resource version: {e}"))))
            .transpose()?
            .unwrap_or(0);
        future(context, wanted)?;
        let exact = match context.query.get("resourceVersionMatch") {
            Some(matching) => matching == "Exact",
            None => limit > 0 && wanted > 0,
        };
        if exact {
            let objects = store.list_at(&resource, namespace, wanted).map_err(|e| match e {
                StoreError::Compacted { .. } => {
                    ApiError::expired("The resourceVersion for the provided list is too old.")
                }
                other => ApiError::internal(other),
            })?;
            (wanted, objects, None)
        } else {
            let (revision, objects) = store.list(&resource, namespace);
            (revision, objects, None)
        }
    };
    let filtered = context.query.get("labelSelector").is_some() || !fields.is_empty();
    let mut items = Vec::new();
    let mut rest = 0_usize;
    let mut last = None;
    for object in objects {
        let key = (object.namespace.as_str(), object.name.as_str());
        if after.as_ref().is_some_and(|a| key <= (a.namespace.as_str(), a.name.as_str())) {
            continue;
        }
        if limit > 0 && items.len() == limit {
            // Whether what is left would be selected is not looked at.
            rest += 1;
            if filtered {
                break;
            }
            continue;
        }
        if fields.name().is_some_and(|n| n != object.name) {
            continue;
        }
        let value = context.present(&object);
        if !labels.matches(&value["metadata"]["labels"]) || !fields.matches(&value, &context.hooks) {
            continue;
        }
        last = Some(Continue { revision, namespace: object.namespace.clone(), name: object.name.clone() });
        items.push(value);
    }
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if rest > 0
        && let Some(last) = last
    {
        metadata["continue"] = last.encode().into();
        if !filtered {
            metadata["remainingItemCount"] = rest.into();
        }
    }
    Ok(respond::list(context, items, metadata))
}
