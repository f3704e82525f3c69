//! Patches: RFC 6902, RFC 7386, strategic merge, and apply.

pub(crate) mod strategic;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::http::{Context, FieldValidation, body};
use crate::schema::{builtin, decode};
use crate::status::ApiError;

/// A patch, parsed.
pub(crate) struct Patch {
    form: Form,
    /// Duplicate and unknown fields of the patch itself, as warnings word them.
    faults: Vec<String>,
}

enum Form {
    /// RFC 6902.
    Json(Vec<Value>),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

fn unsupported() -> ApiError {
    ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").with(serde_json::json!({}))
}

impl Patch {
    /// Parses a body by its content type.
    pub(crate) fn parse(context: &Context, bytes: &Bytes) -> Result<Self, ApiError> {
        let media = context.content_type.split(';').next().unwrap_or_default().trim();
        let mut faults = Vec::new();
        let duplicates = || decode::json(bytes, None).map(|d| d.strict).unwrap_or_default();
        let object = |value: Value, prefix: &str| match value {
            Value::Object(_) => Ok(value),
            Value::Null => Ok(Value::Object(Map::new())),
            other => {
                let text = format!(
                    "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                    go_kind(&other)
                );
                Err(ApiError::bad_request(format!("{prefix}{text}")))
            }
        };
        let form = match media {
            "application/json-patch+json" => {
                let value =
                    body::parse_json(bytes).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                faults = unknown_of_operations(&value);
                match value {
                    Value::Array(operations) => {
                        if operations.len() > 10_000 {
                            let message = format!(
                                "The allowed maximum operations in a JSON patch is 10000, got {}",
                                operations.len()
                            );
                            return Err(ApiError::new(413, "RequestEntityTooLarge", message));
                        }
                        Ok(Form::Json(operations))
                    }
                    Value::Null => Ok(Form::Json(Vec::new())),
                    other => Err(ApiError::bad_request(format!(
                        "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                        go_kind(&other)
                    ))),
                }
            }
            "application/merge-patch+json" => {
                let value =
                    body::parse_json(bytes).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                faults = duplicates();
                object(value, "error decoding patch: ").map(Form::Merge)
            }
            "application/strategic-merge-patch+json" if context.kind.custom.is_none() => {
                let value = body::parse_json(bytes).map_err(ApiError::bad_request)?;
                faults = duplicates();
                object(value, "").map(Form::Strategic)
            }
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                let value =
                    body::yaml(bytes).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
                faults.extend(body::duplicate_key(bytes));
                match value {
                    Value::Object(_) => Ok(Form::Apply(value)),
                    Value::Null => Ok(Form::Apply(Value::Object(Map::new()))),
                    other => Err(ApiError::bad_request(format!(
                        "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                        go_kind(&other)
                    ))),
                }
            }
            "application/strategic-merge-patch+json" => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            _ => Err(unsupported()),
        }?;
        Ok(Self { form, faults })
    }

    /// Whether this is server-side apply.
    pub(crate) fn is_apply(&self) -> bool {
        matches!(self.form, Form::Apply(_))
    }

    /// The configuration of a server-side apply.
    pub(crate) fn applied(&self, context: &Context, validation: FieldValidation) -> Result<Option<&Value>, ApiError> {
        let Form::Apply(config) = &self.form else { return Ok(None) };
        validation.judge(context, &self.faults, |_| {
            let faults = self.faults.join("\n  ");
            ApiError::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {faults}"
            ))
        })?;
        Ok(Some(config))
    }

    /// The patched object, typed, without unknown fields.
    pub(crate) fn apply(&self, context: &Context, old: &Value, validation: FieldValidation) -> Result<Value, ApiError> {
        let rejected = || {
            ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
                .with(serde_json::json!({}))
        };
        let mut patched = match &self.form {
            Form::Json(operations) => json(old, operations).ok_or_else(rejected)?,
            Form::Merge(patch) | Form::Apply(patch) => {
                let mut value = old.clone();
                merge(&mut value, patch);
                value
            }
            Form::Strategic(patch) => strategic::apply(context.kind.schema(), old, patch).map_err(|e| match e {
                strategic::Fault::Patch(text) => ApiError::bad_request(text),
                strategic::Fault::Type(text) => ApiError::new(500, "", text),
            })?,
        };
        if !patched.is_object() {
            return Err(rejected());
        }
        for field in ["apiVersion", "kind"] {
            if patched.get(field).is_none_or(Value::is_null) {
                patched[field] = old[field].clone();
            }
        }
        let kind = &context.kind;
        let (mut value, strict) = body::typed(kind, &patched, None).map_err(|e| self.misfit(&e))?;
        let known = body::typed(kind, old, None).map(|(_, strict)| strict).unwrap_or_default();
        let mut news = self.faults.clone();
        news.extend(strict.into_iter().filter(|s| !known.contains(s)));
        validation.judge(context, &news, |text| self.misfit(&text))?;
        value["apiVersion"] = patched["apiVersion"].clone();
        value["kind"] = patched["kind"].clone();
        if value["kind"] != old["kind"] || value["apiVersion"] != old["apiVersion"] {
            let (version, name) =
                (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
            return Err(ApiError::bad_request(format!(
                "{name} in version {version:?} cannot be handled as a {}: the kind or version of an object cannot be changed by a patch",
                context.kind.kind
            )));
        }
        Ok(value)
    }

    /// Parses a patch of a Scale: its strategic merge is a plain merge.
    pub(crate) fn parse_scale(context: &Context, bytes: &Bytes) -> Result<Self, ApiError> {
        let media = context.content_type.split(';').next().unwrap_or_default().trim();
        if media == "application/strategic-merge-patch+json" && context.kind.custom.is_none() {
            let value = body::parse_json(bytes).map_err(ApiError::bad_request)?;
            return Ok(Self { form: Form::Merge(value), faults: Vec::new() });
        }
        Self::parse(context, bytes)
    }

    /// The patched Scale.
    pub(crate) fn apply_to_scale(&self, current: &Value) -> Result<Value, ApiError> {
        let mut value = current.clone();
        match &self.form {
            Form::Json(operations) => {
                let rejected =
                    ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
                value = json(current, operations).ok_or_else(|| rejected.with(serde_json::json!({})))?;
            }
            Form::Merge(patch) | Form::Strategic(patch) | Form::Apply(patch) => merge(&mut value, patch),
        }
        let decoded = decode::value(&value, builtin::definition("autoscaling.v1.Scale"));
        Ok(decoded.map_err(|e| self.misfit(&e.to_string()))?.value)
    }

    /// The error of a patch whose outcome is no object of its kind.
    fn misfit(&self, why: &str) -> ApiError {
        let message = format!("Invalid value: {:?}: {why}", self.shown());
        let error = crate::validate::FieldError { reason: "FieldValueInvalid", field: "patch".to_owned(), message };
        ApiError::invalid_named("", "", "", &[error])
    }

    fn shown(&self) -> String {
        match &self.form {
            Form::Json(operations) => Value::Array(operations.clone()).to_string(),
            Form::Strategic(value) => strategic::go_value(value),
            Form::Merge(value) | Form::Apply(value) => value.to_string(),
        }
    }
}

/// Fields that operations of a JSON patch do not have.
fn unknown_of_operations(operations: &Value) -> Vec<String> {
    let known = ["op", "path", "from", "value"];
    let entries = operations.as_array().into_iter().flatten().enumerate();
    entries
        .flat_map(|(index, operation)| operation.as_object().into_iter().flatten().map(move |(key, _)| (index, key)))
        .filter(|(_, key)| !known.contains(&key.as_str()))
        .map(|(index, key)| format!("json patch unknown field \"[{index}].{key}\""))
        .collect()
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in fields {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902, as lenient as Kubernetes is: `replace` of a missing field of an object adds it.
fn json(old: &Value, operations: &[Value]) -> Option<Value> {
    let mut value = old.clone();
    for operation in operations {
        let path = operation.get("path")?.as_str()?;
        let from = operation.get("from").and_then(Value::as_str);
        match operation.get("op")?.as_str()? {
            "add" => add(&mut value, path, operation.get("value")?.clone())?,
            "remove" => drop(remove(&mut value, path)?),
            "replace" => {
                let new = operation.get("value")?.clone();
                if path.is_empty() {
                    value = new;
                } else if let Some(target) = value.pointer_mut(path) {
                    *target = new;
                } else {
                    let (parent, _) = path.rsplit_once('/')?;
                    value.pointer(parent)?.as_object()?;
                    add(&mut value, path, new)?;
                }
            }
            "move" => {
                let moved = remove(&mut value, from?)?;
                add(&mut value, path, moved)?;
            }
            "copy" => {
                let copied = value.pointer(from?)?.clone();
                add(&mut value, path, copied)?;
            }
            "test" => {
                let wanted = operation.get("value").unwrap_or(&Value::Null);
                let found = value.pointer(path).unwrap_or(&Value::Null);
                if found != wanted {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(value)
}

fn add(value: &mut Value, path: &str, new: Value) -> Option<()> {
    if path.is_empty() {
        *value = new;
        return Some(());
    }
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, new);
        }
        Value::Array(entries) => {
            let index = if last == "-" { entries.len() } else { index(&last, entries.len() + 1)? };
            if index > entries.len() {
                return None;
            }
            entries.insert(index, new);
        }
        _ => return None,
    }
    Some(())
}

/// A list index; negative ones count from the end.
fn index(text: &str, length: usize) -> Option<usize> {
    let number: i64 = text.parse().ok()?;
    let number = if number < 0 { number + length as i64 } else { number };
    usize::try_from(number).ok().filter(|i| *i < length.max(1))
}

fn remove(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last),
        Value::Array(entries) => {
            let index = index(&last, entries.len())?;
            (index < entries.len()).then(|| entries.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patches_follow_the_rfc() {
        let mut value = json!({"a": {"b": 1, "c": [1]}, "d": 1});
        merge(&mut value, &json!({"a": {"b": null, "c": [2]}, "e": {"f": null}}));
        assert_eq!(value, json!({"a": {"c": [2]}, "d": 1, "e": {}}));
    }

    #[test]
    fn json_patches_follow_the_rfc() {
        let old = json!({"a": [1, 2], "b": {"c/d": 1}});
        let patch = json!([{"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/b/c~1d"}, {"op": "test", "path": "/a/0", "value": 1}]);
        assert_eq!(json(&old, patch.as_array().unwrap()), Some(json!({"a": [1, 2, 3], "b": {}})));
        assert_eq!(json(&old, &[json!({"op": "remove", "path": "/none"})]), None);
    }
}
