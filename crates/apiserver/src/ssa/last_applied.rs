//! `kubectl apply` and `kubectl apply --server-side` of one object: the annotation of the former goes along with
//! the latter, and what it names does not conflict.

use serde_json::Value;

use super::set::FieldSet;
use super::{Manager, walk};
use crate::http::Context;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The greatest annotation; a configuration that is longer leaves none.
const LIMIT: usize = 256 << 10;

/// Whether this is an apply by `kubectl` to an object that `kubectl` applied from its own side before.
fn concerns(context: &Context, manager: &Manager, live: &Value) -> bool {
    manager.apply
        && manager.name == "kubectl"
        && context.subresource().is_empty()
        && live["metadata"]["annotations"].get(ANNOTATION).is_some()
}

/// The fields that `kubectl` may take although another manager has them: those that still are as it applied them.
pub(super) fn allowed(context: &Context, manager: &Manager, live: &Value) -> FieldSet {
    let annotation = live["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default();
    match serde_json::from_str::<Value>(annotation) {
        Ok(last) if concerns(context, manager, live) => {
            let schema = Some(context.kind.schema());
            if walk::fault(schema, &last, "").is_some() {
                // With an unknown field in it nothing can be told.
                return FieldSet::default();
            }
            let difference = walk::compare(schema, Some(&last), Some(live));
            let same = walk::fields(schema, &last).difference(&difference.modified);
            same.difference(&difference.added).difference(&difference.removed)
        }
        _ => FieldSet::default(),
    }
}

/// Writes the configuration into the annotation, whoever owns that.
pub(super) fn renew(context: &Context, manager: &Manager, live: &Value, config: &Value, value: &mut Value) {
    if !concerns(context, manager, live) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let Some(annotations) = value["metadata"]["annotations"].as_object_mut() else { return };
    if text.len() > LIMIT {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}
