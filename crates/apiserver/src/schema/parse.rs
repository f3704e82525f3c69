//! Reads a schema from OpenAPI.

use serde_json::Value;

use super::validate::Checks;
use super::{Additional, Schema, Topology, Type, builtin};

/// A definition of the built-in types.
pub(super) fn definition(document: &Value) -> Schema {
    node(document, true)
}

/// The `openAPIV3Schema` of a custom resource's version, with the standard metadata put in.
pub fn custom_resource(document: &Value) -> Schema {
    let mut schema = node(document, false);
    type_meta(&mut schema);
    schema
}

/// Gives an object its `apiVersion`, `kind` and `metadata`.
/// A part of a custom resource.s schema.
pub fn value(document: &Value) -> Schema {
    node(document, false)
}

fn type_meta(schema: &mut Schema) {
    schema.ty = Type::Object;
    let text = || Schema { ty: Type::String, ..Schema::default() };
    schema.properties.insert("apiVersion".into(), text());
    schema.properties.insert("kind".into(), text());
    let own = schema.properties.remove("metadata");
    let metadata = Schema {
        reference: Some("meta.v1.ObjectMeta".into()),
        ty: Type::Object,
        checks: own.map(|own| Box::new(Checks::of_metadata(own))),
        ..Schema::default()
    };
    schema.properties.insert("metadata".into(), metadata);
}

pub(super) fn node(document: &Value, builtin: bool) -> Schema {
    let mut schema = Schema::default();
    let Some(object) = document.as_object() else {
        return schema;
    };
    let flag = |key: &str| object.get(key).and_then(Value::as_bool).unwrap_or(false);
    let reference = object.get("$ref").or_else(|| object.get("allOf").filter(|_| builtin)?.get(0)?.get("$ref"));
    if let Some(name) = reference.and_then(Value::as_str).and_then(|r| r.rsplit('/').next()).filter(|_| builtin) {
        schema.reference = Some(builtin::short_name(name).as_str().into());
    }
    schema.format = object.get("format").and_then(Value::as_str).map(str::to_owned);
    schema.ty = match object.get("type").and_then(Value::as_str) {
        _ if flag("x-kubernetes-int-or-string") => Type::IntOrString,
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") if builtin && schema.format.as_deref() == Some("byte") => Type::Bytes,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        _ => Type::Any,
    };
    schema.nullable = flag("nullable");
    schema.preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
    schema.embedded = flag("x-kubernetes-embedded-resource");
    schema.default = object.get("default").filter(|d| !builtin && !d.is_null()).cloned();
    for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        schema.properties.insert(name.clone(), node(property, builtin));
    }
    schema.additional = match object.get("additionalProperties") {
        Some(Value::Bool(true)) => Additional::Any,
        Some(inner @ Value::Object(_)) => Additional::Schema(Box::new(node(inner, builtin))),
        _ => Additional::None,
    };
    schema.items = object.get("items").filter(|i| i.is_object()).map(|items| Box::new(node(items, builtin)));
    schema.required = strings(object.get("required"));
    let list_type = object.get("x-kubernetes-list-type").and_then(Value::as_str);
    let map_type = object.get("x-kubernetes-map-type").and_then(Value::as_str);
    schema.topology = match list_type.or(map_type) {
        Some("atomic") => Some(Topology::Atomic),
        Some("granular") => Some(Topology::Granular),
        Some("set") => Some(Topology::Set),
        Some("map") => Some(Topology::Map(strings(object.get("x-kubernetes-list-map-keys")))),
        _ => None,
    };
    if !builtin {
        schema.checks = Checks::parse(object).map(Box::new);
        schema.rules = crate::crd::cel::rules(document);
        if schema.embedded {
            type_meta(&mut schema);
        }
    }
    schema
}

pub(super) fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
