//! What the server does with definitions by itself: accepts their names, serves their kinds, and
//! empties those that are deleted.

use serde_json::{Value, json};

use super::names;
use crate::kinds::Kind;
use crate::server::Server;
use crate::store::Resource;

/// Holds a definition until its instances are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn resource() -> Resource {
    ("apiextensions.k8s.io".to_owned(), "customresourcedefinitions".to_owned())
}

/// Serves what is stored, and starts the loop that follows definitions.
pub(crate) fn restore(server: &Server) {
    pass(server);
    let mut head = server.store().subscribe();
    let weak = server.weak();
    let mut seen = server.store().revision();
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    tokio::spawn(async move {
        while head.changed().await.is_ok() {
            let Some(server) = weak.upgrade() else { return };
            let pending = if let Ok((revision, changes)) = server.store().changes(None, seen) {
                seen = revision;
                changes.iter().any(|c| {
                    *c.resource == resource()
                        || (c.deleted
                            && server.kinds().all().iter().any(|k| k.custom.is_some() && k.storage() == *c.resource))
                })
            } else {
                seen = server.store().revision();
                true
            };
            if pending {
                pass(&server);
            }
        }
    });
}

/// Brings conditions and served kinds up to date with the stored definitions.
fn pass(server: &Server) {
    let (_, stored) = server.store().list(&resource(), None);
    let values: Vec<Value> = stored.iter().map(|o| o.value()).collect();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| stored[*i].revision);
    for index in order {
        let mut value = values[index].clone();
        let name = stored[index].name.clone();
        if value.pointer("/metadata/deletionTimestamp").is_some() {
            terminate(server, &value, stored[index].revision);
        } else {
            let others: Vec<&Value> = values.iter().collect();
            if let Some(status) = names::status(&value, &others, &now) {
                value["status"] = status;
                if server.store().put(&resource(), value.clone(), stored[index].revision).is_err() {
                    continue; // changed meanwhile: the loop comes back
                }
            }
        }
        server.kinds().install(&name, super::kinds(&value));
    }
    for name in server.kinds().definitions() {
        if !stored.iter().any(|o| o.name == name) {
            server.kinds().remove(&name);
        }
    }
}

/// Marks a definition that is to be deleted: instances first.
pub fn begin_delete(definition: &mut Value) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let Some(metadata) = definition.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut().filter(|l| !l.iter().any(|f| f == FINALIZER)) {
        list.push(FINALIZER.into());
    }
    condition(
        definition,
        (
            "True",
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        ),
        &now,
    );
}

fn condition(definition: &mut Value, state: (&str, &str, &str), now: &str) {
    let mut conditions =
        definition.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    names::set(&mut conditions, "Terminating", state, now);
    definition["status"]["conditions"] = conditions.into();
}

/// Deletes the instances of a definition; when none is left, lets the definition go.
fn terminate(server: &Server, definition: &Value, revision: u64) {
    let mut kinds = super::kinds(definition);
    let storage: Resource =
        (super::text(definition, "/spec/group").to_owned(), super::text(definition, "/spec/names/plural").to_owned());
    let (_, instances) = server.store().list(&storage, None);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let held = definition
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|l| l.iter().any(|f| f == FINALIZER));
    if !held {
        return;
    }
    if let Some(kind) = kinds.pop() {
        for object in &instances {
            delete_instance(server, &kind, object, &now);
        }
    }
    let (_, left) = server.store().list(&storage, None);
    let mut value = definition.clone();
    if left.is_empty() {
        if let Some(list) = value.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
            list.retain(|f| f != FINALIZER);
        }
        let empty = value.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(Vec::is_empty);
        if empty {
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("finalizers");
            }
            if server.store().delete(&resource(), value, revision).is_ok() {
                server.kinds().remove(super::text(definition, "/metadata/name"));
            }
        } else {
            let _ = server.store().put(&resource(), value, revision);
        }
    } else {
        condition(&mut value, ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"), &now);
        if value != *definition {
            let _ = server.store().put(&resource(), value, revision);
        }
    }
}

fn delete_instance(server: &Server, kind: &Kind, object: &crate::store::Object, now: &str) {
    let mut value = object.value();
    let waits = value.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if !waits {
        let _ = server.store().delete(&kind.storage(), value, object.revision);
    } else if value.pointer("/metadata/deletionTimestamp").is_none() {
        value["metadata"]["deletionTimestamp"] = now.into();
        value["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        value["metadata"]["generation"] = (value["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        let _ = server.store().put(&kind.storage(), value, object.revision);
    }
}
