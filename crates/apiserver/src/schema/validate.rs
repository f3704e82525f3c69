//! Value validation of custom resources: every OpenAPI v3 keyword that a structural schema may
//! have, with the messages of the validator Kubernetes uses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use regex::Regex;
use serde_json::{Map, Value};

use super::parts::child;
use super::{Schema, Topology, Type, parse};
use crate::validate::FieldError;

/// The validations of one node.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    min_length: Option<u64>,
    max_length: Option<u64>,
    pattern: Option<(String, Option<Regex>)>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    values: Vec<Value>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    unique_items: bool,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
    /// What the definition says about `metadata` beside the standard type.
    pub(super) metadata: Option<Box<Schema>>,
}

impl Checks {
    /// Checks that a definition adds to the metadata of its resources.
    pub(super) fn of_metadata(own: Schema) -> Self {
        Self { metadata: Some(Box::new(own)), ..Self::default() }
    }

    /// Reads the keywords of a node; `None` when it has none.
    pub(super) fn parse(node: &Map<String, Value>) -> Option<Self> {
        let count = |key: &str| node.get(key).and_then(Value::as_u64);
        let flag = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(false);
        let bound =
            |key: &str, exclusive: &str| node.get(key).and_then(Value::as_f64).map(|limit| (limit, flag(exclusive)));
        let schemas = |key: &str| -> Vec<Schema> {
            node.get(key).and_then(Value::as_array).into_iter().flatten().map(|s| parse::node(s, false)).collect()
        };
        let checks = Self {
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: node.get("pattern").and_then(Value::as_str).map(|p| (p.to_owned(), Regex::new(p).ok())),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: node.get("multipleOf").and_then(Value::as_f64),
            values: node.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: node.get("not").map(|s| Box::new(parse::node(s, false))),
            metadata: None,
        };
        let keys = [
            "minLength",
            "maxLength",
            "pattern",
            "minimum",
            "maximum",
            "multipleOf",
            "enum",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        keys.iter().any(|key| node.contains_key(*key)).then_some(checks)
    }
}

/// Validates `value`, whose unknown fields are pruned and whose defaults are set.
pub fn validate(schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, value, "", &mut errors);
    if errors.is_empty() {
        lists(schema, value, "", &mut errors);
    }
    errors
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn node(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema.nullable {
        return;
    }
    let nameless = |detail: String| FieldError {
        reason: "FieldValueInvalid",
        field: "<nil>".into(),
        message: format!("Invalid value: \"\": {detail}"),
    };
    let got = type_name(value);
    let expected = match schema.ty {
        Type::Object => "object",
        Type::Array => "array",
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::IntOrString => "integer,string",
        _ => "",
    };
    let fits =
        expected.is_empty() || expected.split(',').any(|e| e == got) || (expected == "number" && got == "integer");
    if !fits {
        let detail = format!("{path} in body must be of type {expected}: {got:?}");
        errors.push(FieldError::type_invalid(path, &Value::String(got.into()), &detail));
    }
    if let (Value::Number(n), Type::Integer) = (value, schema.ty) {
        let out_of_range = match schema.format.as_deref() {
            Some("int32") => n.as_i64().is_none_or(|i| i32::try_from(i).is_err()),
            _ => !fits,
        };
        if out_of_range {
            let kind = schema
                .format
                .as_ref()
                .map_or("integer (default format)".into(), |f| format!("integer with format {f}"));
            errors.push(nameless(format!("Checked value must be of type {kind} in {path}")));
        }
    }
    if let Some(checks) = &schema.checks {
        junctors(checks, value, path, errors);
    }
    match value {
        Value::String(text) => {
            if let Some(checks) = &schema.checks {
                let length = text.chars().count() as u64;
                if let Some(max) = checks.max_length.filter(|max| length > *max) {
                    errors.push(FieldError::too_long(path, max));
                }
                if let Some(min) = checks.min_length.filter(|min| length < *min) {
                    errors.push(FieldError::invalid(
                        path,
                        value,
                        &format!("{path} in body should be at least {min} chars long"),
                    ));
                } else if let Some((source, Some(_))) =
                    checks.pattern.as_ref().filter(|(_, r)| r.as_ref().is_some_and(|r| !r.is_match(text)))
                {
                    errors.push(FieldError::invalid(path, value, &format!("{path} in body should match '{source}'")));
                }
            }
            if let Some(format) = schema.format.as_deref().filter(|f| !format_fits(f, text)) {
                errors.push(FieldError::type_invalid(
                    path,
                    value,
                    &format!("{path} in body must be of type {format}: {text:?}"),
                ));
            }
        }
        Value::Number(number) => {
            if let Some(checks) = &schema.checks {
                numbers(checks, number.as_f64().unwrap_or(0.0), number.is_f64(), value, path, errors);
            }
        }
        Value::Array(entries) => {
            for part in schema.parts(value) {
                node(part.schema, part.value, &part.at(path), errors);
            }
            if let Some(checks) = &schema.checks {
                let count = entries.len() as u64;
                if let Some(min) = checks.min_items.filter(|min| count < *min) {
                    errors.push(FieldError::invalid(
                        path,
                        &count.into(),
                        &format!("{path} in body should have at least {min} items"),
                    ));
                }
                if let Some(max) = checks.max_items.filter(|max| count > *max) {
                    errors.push(FieldError::too_many(path, count, max));
                }
                if checks.unique_items
                    && entries.iter().map(Value::to_string).collect::<BTreeSet<_>>().len() != entries.len()
                {
                    errors.push(FieldError::invalid(
                        path,
                        value,
                        &format!("{path} in body shouldn't contain duplicates"),
                    ));
                }
            }
        }
        Value::Object(fields) => object(schema, value, fields, path, errors),
        Value::Bool(_) | Value::Null => {}
    }
    if let Some(checks) = schema.checks.as_ref().filter(|c| !c.values.is_empty() && !c.values.contains(value)) {
        let supported: Vec<String> =
            checks.values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        errors.push(FieldError::not_supported(path, value, &supported));
    }
}

fn numbers(checks: &Checks, number: f64, is_float: bool, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(factor) = checks.multiple_of {
        // Kubernetes' validator truncates the factor for whole numbers, and then complains of zero.
        if !is_float && factor.trunc() <= 0.0 {
            errors.push(FieldError::invalid(
                path,
                &0.into(),
                &format!("factor MultipleOf declared for {path} must be positive: 0"),
            ));
        } else if (number / factor).fract() != 0.0 {
            errors.push(FieldError::invalid(path, value, &format!("{path} in body should be a multiple of {factor}")));
        }
    }
    if let Some((max, exclusive)) = checks.maximum
        && (number > max || (exclusive && number >= max))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be less than{or_equal} {max}")));
    }
    if let Some((min, exclusive)) = checks.minimum
        && (number < min || (exclusive && number <= min))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        errors.push(FieldError::invalid(
            path,
            value,
            &format!("{path} in body should be greater than{or_equal} {min}"),
        ));
    }
}

fn object(schema: &Schema, value: &Value, fields: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    if schema.embedded {
        for name in ["apiVersion", "kind"].iter().filter(|name| !fields.contains_key(**name)) {
            errors.push(FieldError::required(child(path, name), ""));
        }
    }
    for name in schema.required.iter().filter(|name| !fields.contains_key(*name)) {
        errors.push(FieldError::required(child(path, name), ""));
    }
    // Metadata is checked by the rules that hold for every object, and by what the definition adds.
    if let (Some(property), Some(metadata)) = (schema.properties.get("metadata"), fields.get("metadata"))
        && let Some(own) = property.checks.as_ref().and_then(|c| c.metadata.as_ref())
    {
        node(own, metadata, &child(path, "metadata"), errors);
    }
    for part in schema.parts(value) {
        node(part.schema, part.value, &part.at(path), errors);
    }
    if let Some(checks) = &schema.checks {
        let count = fields.len() as u64;
        if let Some(min) = checks.min_properties.filter(|min| count < *min) {
            errors.push(FieldError::invalid(
                path,
                &count.into(),
                &format!("{path} in body should have at least {min} properties"),
            ));
        }
        if let Some(max) = checks.max_properties.filter(|max| count > *max) {
            errors.push(FieldError::too_many(path, count, max));
        }
    }
}

fn junctors(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let nameless = |detail: String| FieldError {
        reason: "FieldValueInvalid",
        field: "<nil>".into(),
        message: format!("Invalid value: \"\": {detail}"),
    };
    let run = |schema: &Schema| {
        let mut found = Vec::new();
        node(schema, value, path, &mut found);
        found
    };
    if !checks.any_of.is_empty() {
        let mut results: Vec<Vec<FieldError>> = checks.any_of.iter().map(run).collect();
        if results.iter().all(|r| !r.is_empty()) {
            errors.push(nameless(format!("{path:?} must validate at least one schema (anyOf)")));
            errors.append(&mut results[0]);
        }
    }
    if !checks.one_of.is_empty() {
        let mut results: Vec<Vec<FieldError>> = checks.one_of.iter().map(run).collect();
        let valid = results.iter().filter(|r| r.is_empty()).count();
        if valid != 1 {
            let found =
                if valid == 0 { "Found none valid".into() } else { format!("Found {valid} valid alternatives") };
            errors.push(nameless(format!("{path:?} must validate one and only one schema (oneOf). {found}")));
            if valid == 0 {
                errors.append(&mut results[0]);
            }
        }
    }
    if !checks.all_of.is_empty() {
        let mut found: Vec<FieldError> = checks.all_of.iter().flat_map(run).collect();
        if !found.is_empty() {
            errors.append(&mut found);
            errors.push(nameless(format!("{path:?} must validate all the schemas (allOf)")));
        }
    }
    if checks.not.as_ref().is_some_and(|not| run(not).is_empty()) {
        errors.push(nameless(format!("{path:?} must not validate the schema (not)")));
    }
}

/// Duplicates in keyed lists and sets.
fn lists(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let key_of = |entry: &Value| match &schema.topology {
        Some(Topology::Set) => Some(entry.clone()),
        Some(Topology::Map(keys)) => {
            Some(keys.iter().filter_map(|k| Some((k.clone(), entry.get(k)?.clone()))).collect::<Map<_, _>>().into())
        }
        _ => None,
    };
    let mut seen = BTreeSet::new();
    for part in schema.parts(value) {
        let at = part.at(path);
        if let Some(key) = key_of(part.value).filter(|_| value.is_array())
            && !seen.insert(key.to_string())
        {
            errors.push(FieldError::duplicate(&at, &key));
        }
        lists(part.schema, part.value, &at, errors);
    }
}

fn format_fits(format: &str, text: &str) -> bool {
    use base64::Engine as _;
    match format {
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "date-time" | "datetime" => text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "email" => {
            text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !text.contains(' '))
        }
        "uri" => {
            text.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
                || text.starts_with('/')
        }
        "ipv4" => matches!(text.parse(), Ok(IpAddr::V4(_))),
        "ipv6" => matches!(text.parse(), Ok(IpAddr::V6(_))),
        "cidr" => text.split_once('/').is_some_and(|(ip, bits)| {
            let max = match ip.parse() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|b| b <= max)
        }),
        "hostname" => {
            !text.is_empty()
                && text.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                })
        }
        "duration" => duration_fits(text),
        _ => true,
    }
}

/// Durations as Go writes them (`1h5m`), or in words (`5 minutes`).
fn duration_fits(text: &str) -> bool {
    let mut rest = text.trim().trim_start_matches('-');
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        if digits == 0 {
            return false;
        }
        rest = rest[digits..].trim_start();
        let unit = rest.len() - rest.trim_start_matches(char::is_alphabetic).len();
        let known = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"].contains(&&rest[..unit])
            || ["second", "minute", "hour", "day", "week"].contains(&rest[..unit].trim_end_matches('s'));
        if !known {
            return false;
        }
        rest = rest[unit..].trim_start();
    }
    true
}
