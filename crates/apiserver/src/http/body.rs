//! Bodies of requests: decoded, checked against the kind, unknown fields reported.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Context;
use super::media::{self, Format};
use crate::kind::Kind;
use crate::schema::{Schema, builtin, decode, prune};
use crate::status::ApiError;

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads the parameter; `options` is the kind that a wrong value is told of.
    pub(crate) fn of(context: &Context, options: &str) -> Result<Self, ApiError> {
        match context.query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => {
                let error = crate::validate::FieldError::not_supported(
                    "fieldValidation",
                    &json!(other),
                    &["", "Ignore", "Strict", "Warn"],
                );
                Err(ApiError::invalid_named("meta.k8s.io", options, "", &[error]))
            }
        }
    }

    /// Warns of, or refuses, what a decoder found.
    pub(crate) fn judge(
        self,
        context: &Context,
        strict: &[String],
        refuse: impl FnOnce(String) -> ApiError,
    ) -> Result<(), ApiError> {
        if strict.is_empty() || self == Self::Ignore {
            return Ok(());
        }
        if self == Self::Warn {
            for warning in strict {
                context.warn(warning.clone());
            }
            return Ok(());
        }
        Err(refuse(format!("strict decoding error: {}", strict.join(", "))))
    }
}

/// The object of a create or update: typed, without unknown fields, with its kind.
pub(crate) fn object(
    context: &Context,
    bytes: &[u8],
    kind: &Kind,
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let format = media::content(&context.content_type)?;
    let raw = raw(bytes, format, &kind.kind)?;
    let (api_version, name) = (text(&raw, "apiVersion"), text(&raw, "kind"));
    if let Some(wrong) = mismatch(context.server.kinds(), kind, &api_version, &name) {
        return Err(wrong);
    }
    let cannot = |why: String| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    let source = (format == Format::Json).then_some(bytes);
    let (mut value, mut strict) = typed(kind, &raw, source).map_err(&cannot)?;
    if let Some(duplicate) = duplicate_key(bytes).filter(|_| format == Format::Yaml) {
        let prefix = if validation == FieldValidation::Strict { "yaml: unmarshal errors:\n  " } else { "" };
        strict.insert(0, format!("{prefix}{duplicate}"));
    }
    validation.judge(context, &strict, cannot)?;
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.kind.clone().into();
    if raw["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty) {
        // An empty list clears the record; an absent one keeps it.
        value["metadata"]["managedFields"] = json!([]);
    }
    Ok(value)
}

/// Decodes an object of a kind: the value, and the unknown and duplicate fields.
pub(crate) fn typed(kind: &Kind, raw: &Value, source: Option<&[u8]>) -> Result<(Value, Vec<String>), String> {
    let schema: Option<&Schema> = kind.custom.is_none().then(|| kind.schema());
    let raw = if raw.is_null() { &json!({}) } else { raw };
    let decoded = match source.filter(|s| s.starts_with(b"{")) {
        Some(bytes) => decode::json(bytes, schema),
        None => decode::value(raw, schema),
    };
    let decoded = decoded.map_err(|e| e.to_string())?;
    let (mut value, mut strict) = (decoded.value, decoded.strict);
    if kind.custom.is_some() {
        if let Some(metadata) = value.get("metadata").filter(|m| !m.is_null()) {
            let wrapped = decode::value(&json!({"metadata": metadata}), Some(&METADATA));
            // The metadata of a custom resource is decoded by itself.
            let wrapped = wrapped.map_err(|e| e.to_string().replacen("ObjectMeta.metadata.", "ObjectMeta.", 1))?;
            value["metadata"] = wrapped.value.get("metadata").cloned().unwrap_or_else(|| json!({}));
            strict.extend(wrapped.strict);
        }
        if let Some(fault) = prune::embedded_fault(kind.schema(), &value, "") {
            return Err(fault);
        }
        strict.extend(crate::crd::shape(kind, &mut value).into_iter().map(|path| format!("unknown field {path:?}")));
    }
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    Ok((value, strict))
}

static METADATA: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| {
    let metadata = builtin::definition("meta.v1.ObjectMeta").cloned().unwrap_or_default();
    Schema {
        ty: crate::schema::Type::Object,
        properties: [("metadata".to_owned(), metadata)].into(),
        ..Schema::default()
    }
});

/// The body as a value.
fn raw(bytes: &[u8], format: Format, kind: &str) -> Result<Value, ApiError> {
    let unrecognized = |why: String| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({})",
            snippet(bytes)
        ))
    };
    let value = match format {
        Format::Json => {
            parse_json(bytes).map_err(|e| unrecognized(format!("couldn't get version/kind; json parse error: {e}")))?
        }
        Format::Yaml => yaml(bytes).map_err(|e| unrecognized(format!("yaml: {e}")))?,
    };
    let found = match &value {
        Value::Object(_) | Value::Null => return Ok(value),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    let target = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    Err(unrecognized(format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type {target}"
    )))
}

/// Parses JSON, with Go's words for its errors.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| go_error(bytes, &error))
}

fn go_error(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.chars().nth(error.column().saturating_sub(1)).unwrap_or('?');
    let message = error.to_string();
    if message.starts_with("trailing characters") {
        return format!("invalid character '{found}' after top-level value");
    }
    let start = text.trim_start();
    for literal in ["null", "true", "false"] {
        if start.starts_with(&literal[..1]) && !start.starts_with(literal) {
            let pair = start.chars().zip(literal.chars()).find(|(a, b)| a != b);
            if let Some((a, b)) = pair {
                return format!("invalid character '{a}' in literal {literal} (expecting '{b}')");
            }
        }
    }
    if message.starts_with("key must be a string") || message.starts_with("trailing comma") {
        return format!("invalid character '{found}' looking for beginning of object key string");
    }
    if message.contains("expected `,` or `}`") {
        return format!("invalid character '{found}' after object key:value pair");
    }
    format!("invalid character '{found}' looking for beginning of value")
}

/// Parses YAML (or JSON).
pub(crate) fn yaml(bytes: &[u8]) -> Result<Value, String> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let message = e.to_string();
        if message.contains("mapping values") {
            "mapping values are not allowed in this context".to_owned()
        } else {
            message
        }
    })
}

/// The first key that YAML text sets twice, as a warning words it.
pub(crate) fn duplicate_key(bytes: &[u8]) -> Option<String> {
    let error = serde_saphyr::from_str::<Value>(std::str::from_utf8(bytes).ok()?).err()?.to_string();
    let (place, rest) = error.split_once(": duplicate mapping key: ")?;
    let line = place.rsplit_once("line ")?.1.split_whitespace().next()?;
    let key = rest.split([',', '\n']).next()?;
    Some(format!("line {line}: key {key:?} already set in map"))
}

fn snippet(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "<empty>".to_owned();
    }
    if bytes.starts_with(b"{") {
        let text = String::from_utf8_lossy(bytes);
        let short: String = text.chars().take(30).collect();
        return if short.len() < text.len() { format!("{short} ...") } else { short };
    }
    let mut out = String::new();
    for byte in bytes.iter().take(30) {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What is wrong with a body's `apiVersion` and `kind`, if anything. Both may be absent.
fn mismatch(kinds: &crate::kinds::Kinds, kind: &Kind, api_version: &str, name: &str) -> Option<ApiError> {
    let wanted = kind.api_version();
    let same_kind = name.is_empty() && kind.custom.is_none() || name == kind.kind;
    let same_version = api_version.is_empty() && kind.custom.is_none() || api_version == wanted;
    if same_kind && same_version {
        return None;
    }
    if kind.custom.is_some() {
        if api_version.is_empty() || name.is_empty() {
            let what = if name.is_empty() { "Kind" } else { "apiVersion" };
            return Some(ApiError::bad_request(format!("Object '{what}' is missing in '{}'", json!({}))));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        return Some(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )))
        .filter(|_| api_version != wanted)
        .or_else(|| {
            Some(ApiError::bad_request(format!(
                "the kind in the data ({group}/{version}, Kind={name}) does not match the expected kind ({}/{}, Kind={})",
                kind.group, kind.version, kind.kind
            )))
        });
    }
    if api_version.is_empty() || name.is_empty() {
        // One of the two alone.
        if same_kind || same_version {
            return None;
        }
    }
    let name = if name.is_empty() { kind.kind.as_str() } else { name };
    Some(foreign(kinds, api_version, name, &kind.group, &kind.kind))
}

/// The error of an object of another kind than the one that is wanted.
pub(crate) fn foreign(
    kinds: &crate::kinds::Kinds,
    api_version: &str,
    name: &str,
    wanted_group: &str,
    wanted: &str,
) -> ApiError {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if kinds.find_kind(group, version, name).is_some_and(|k| k.custom.is_none()) {
        let package = |group: &str| {
            if group.is_empty() { "core".to_owned() } else { group.split('.').next().unwrap_or_default().to_owned() }
        };
        return ApiError::bad_request(format!(
            "{name} in version {version:?} cannot be handled as a {wanted}: converting ({version}.{name}) to ({}.{wanted}): unknown conversion",
            package(wanted_group)
        ));
    }
    ApiError::bad_request(format!(
        "{name} in version {version:?} cannot be handled as a {wanted}: no kind {name:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    ))
}
