//! Defaults: of the built-in types from `data/defaults.json`, of custom resources from their
//! schemas.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{Additional, Schema};

/// One default of a built-in type.
#[derive(Debug)]
struct Rule {
    field: String,
    /// Only when another field has, or has not, this value.
    when: Option<(String, bool, String)>,
    value: Value,
}

static BUILTIN: LazyLock<BTreeMap<String, Vec<Rule>>> = LazyLock::new(|| {
    let table: BTreeMap<String, Map<String, Value>> = serde_json::from_str(include_str!("../../data/defaults.json"))
        .expect("data/defaults.json is checked by a test");
    table.into_iter().map(|(name, fields)| (name, rules(fields))).collect()
});

/// Reads `field?other=value` and `field?other!=value`; those without a condition come first.
fn rules(fields: Map<String, Value>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = fields
        .into_iter()
        .map(|(key, value)| match key.split_once('?') {
            None => Rule { field: key, when: None, value },
            Some((field, condition)) => {
                let (other, wanted) = condition.split_once('=').unwrap_or((condition, ""));
                let when = (other.trim_end_matches('!').to_owned(), !other.ends_with('!'), wanted.to_owned());
                Rule { field: field.to_owned(), when: Some(when), value }
            }
        })
        .collect();
    rules.sort_by_key(|rule| rule.when.is_some());
    rules
}

/// Fills in what the API server fills in for a built-in type, by its structure alone.
pub fn builtin(schema: &Schema, value: &mut Value) {
    let target = schema.resolve();
    match value {
        Value::Object(map) => {
            for rule in BUILTIN.get(&*target.name).into_iter().flatten() {
                let applies = rule.when.as_ref().is_none_or(|(other, equal, wanted)| {
                    (map.get(other).and_then(Value::as_str).unwrap_or_default() == wanted) == *equal
                });
                if applies && !map.contains_key(&rule.field) {
                    map.insert(rule.field.clone(), rule.value.clone());
                }
            }
            for (name, inner) in map.iter_mut().filter(|(_, v)| v.is_object() || v.is_array()) {
                if let Some(field) = target.field(name) {
                    builtin(field, inner);
                }
            }
        }
        Value::Array(list) => {
            if let Some(item) = schema.item() {
                for entry in list {
                    builtin(item, entry);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of a custom resource, and takes out nulls where null is no value.
pub fn custom(schema: &Schema, value: &mut Value) {
    if schema.reference.is_some() {
        return;
    }
    match value {
        Value::Object(map) => {
            let field = |name: &str| {
                schema.properties.get(name).or(match &schema.additional {
                    Additional::Schema(entry) => Some(&**entry),
                    _ => None,
                })
            };
            map.retain(|name, inner| !inner.is_null() || schema.properties.get(name).is_none_or(|f| f.nullable));
            for (name, property) in &schema.properties {
                if let Some(default) = property.default.as_ref().filter(|_| !map.contains_key(name)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if inner.is_null()
                    && let Some(default) = field(name).filter(|f| !f.nullable).and_then(|f| f.default.clone())
                {
                    *inner = default;
                }
                if let Some(below) = field(name) {
                    custom(below, inner);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for entry in list {
                    if let Some(default) = items.default.as_ref().filter(|_| entry.is_null() && !items.nullable) {
                        *entry = default.clone();
                    }
                    custom(items, entry);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin::definition;

    #[test]
    fn every_default_names_a_field() {
        for (name, rules) in BUILTIN.iter() {
            let schema = definition(name).unwrap_or_else(|| panic!("{name}"));
            for rule in rules {
                assert!(schema.field(&rule.field).is_some(), "{name}.{}", rule.field);
            }
        }
    }

    #[test]
    fn strategies_depend_on_their_type() {
        let mut value = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        builtin(definition("apps.v1.StatefulSet").unwrap(), &mut value);
        assert_eq!(value["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
        assert_eq!(value["spec"]["replicas"], 1);
    }
}
