//! Events: one object, seen through `v1` and through `events.k8s.io/v1`. They are stored in the
//! form of `v1`.

use serde_json::{Map, Value, json};

/// Fields that are named differently: `v1`, and `events.k8s.io/v1`.
const NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// From `v1` to `events.k8s.io/v1`.
pub fn from_storage(event: &mut Value) {
    if let Some(map) = event.as_object_mut() {
        rename(map, |(core, new)| (core, new));
        if let Some(controller) = map.remove("reportingComponent").filter(|c| c != "") {
            map.insert("reportingController".into(), controller);
        }
        if map.get("reportingInstance") == Some(&json!("")) {
            map.remove("reportingInstance");
        }
    }
}

/// From `events.k8s.io/v1` to `v1`.
pub fn to_storage(event: &mut Value) {
    if let Some(map) = event.as_object_mut() {
        rename(map, |(core, new)| (new, core));
        let controller = map.remove("reportingController").unwrap_or_else(|| "".into());
        map.insert("reportingComponent".into(), controller);
        map.entry("reportingInstance").or_insert_with(|| "".into());
        map.insert("apiVersion".into(), "v1".into());
    }
}

fn rename(map: &mut Map<String, Value>, order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    for pair in NAMES {
        let (from, to) = order(pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

/// The fields of events that selectors know.
pub const FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The value of such a field, of an event in the form of `v1`.
pub fn field(event: &Value, name: &str) -> Option<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !FIELDS.contains(&name) {
        return None;
    }
    Some(match name {
        "source" => match text("/source/component") {
            component if component.is_empty() => text("/reportingComponent"),
            component => component,
        },
        other => text(&format!("/{}", other.replace('.', "/"))),
    })
}
