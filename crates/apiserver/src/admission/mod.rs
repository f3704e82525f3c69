//! Admission and defaults that need more than a table: what depends on other fields, or on other
//! objects.

pub mod events;
pub mod limits;
pub mod objects;
pub mod pod;
pub mod podsecurity;
pub mod quota;
pub mod service;

use serde_json::Value;

use crate::kind::Write;

/// The text at a JSON pointer; empty when absent.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty when absent.
pub(crate) fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether the value at a pointer is `true`.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

/// A stored object of a built-in kind.
pub(crate) fn stored(write: &Write<'_>, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let object = write.store.get(&(group.to_owned(), plural.to_owned()), namespace, name)?;
    Some(object.value())
}

/// The stored objects of a built-in kind.
pub(crate) fn all(write: &Write<'_>, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
    let (_, objects) = write.store.list(&(group.to_owned(), plural.to_owned()), namespace);
    objects.iter().map(|o| o.value()).collect()
}

/// `metadata.name`, or what is known of it.
pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}
