//! Pruning: fields that a custom resource's schema does not know are dropped, and named.

use serde_json::Value;

use super::parts::child;
use super::{Additional, Schema};

/// Drops unknown fields; their paths come back sorted within each object.
pub fn prune(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    node(schema, value, "", false, &mut dropped);
    dropped
}

/// What is wrong with the metadata of an embedded resource, if anything.
pub fn embedded_fault(schema: &Schema, value: &Value, path: &str) -> Option<String> {
    if let Some(metadata) = value.get("metadata").filter(|_| schema.embedded)
        && let Err(error) = super::decode::value(metadata, super::builtin::definition("meta.v1.ObjectMeta"))
    {
        return Some(format!("{}: Invalid value: {metadata}: {error}", child(path, "metadata")));
    }
    schema.parts(value).into_iter().find_map(|part| embedded_fault(part.schema, part.value, &part.at(path)))
}

fn node(schema: &Schema, value: &mut Value, path: &str, inherited: bool, dropped: &mut Vec<String>) {
    if schema.reference.is_some() {
        return; // metadata: decoded by its own type
    }
    if schema.embedded
        && let Some(metadata) = value.get_mut("metadata")
    {
        // Metadata of embedded resources is decoded as metadata.
        if let Ok(decoded) = super::decode::value(metadata, super::builtin::definition("meta.v1.ObjectMeta")) {
            *metadata = decoded.value;
        }
    }
    let keeps = schema.preserve_unknown || matches!(schema.additional, Additional::Any) || inherited;
    match value {
        Value::Object(map) => {
            let known = |name: &str| {
                schema.properties.get(name).or(match &schema.additional {
                    Additional::Schema(entry) => Some(&**entry),
                    _ => None,
                })
            };
            map.retain(|name, inner| match known(name) {
                Some(below) => {
                    node(below, inner, &child(path, name), false, dropped);
                    true
                }
                None if keeps => true,
                None => {
                    dropped.push(child(path, name));
                    false
                }
            });
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (index, entry) in list.iter_mut().enumerate() {
                    node(items, entry, &format!("{path}[{index}]"), false, dropped);
                }
            }
        }
        _ => {}
    }
}
