//! The garbage collector: objects whose owners are gone go too; owners that are deleted in the
//! foreground wait for them; orphans forget their owners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{DeleteOptions, internal_context};
use crate::server::Server;
use crate::store::{Object, Resource};

#[derive(Debug, Clone)]
struct Node {
    resource: Resource,
    namespace: String,
    name: String,
    /// `ownerReferences` as written.
    owners: Vec<Value>,
    /// Deleted, with one of the two finalizers.
    foreground: bool,
    orphan: bool,
}

/// Owners and dependents, by uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    revision: u64,
    nodes: BTreeMap<String, Node>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    /// When an owner that nobody knows was first missed.
    missing: BTreeMap<String, Instant>,
}

impl Graph {
    /// Takes in what changed.
    pub(super) fn follow(&mut self, server: &Server) {
        let store = server.store();
        if self.revision > 0
            && let Ok((revision, changes)) = store.changes(None, self.revision)
        {
            for change in changes {
                if change.deleted {
                    self.remove(&uid(&change.new.value()));
                } else {
                    self.insert(&change.resource, &change.new);
                }
            }
            self.revision = revision;
            return;
        }
        *self = Self { revision: store.revision(), ..Self::default() };
        for resource in store.resources() {
            for object in store.list(&resource, None).1 {
                self.insert(&resource, &object);
            }
        }
    }

    fn insert(&mut self, resource: &Resource, object: &Object) {
        let value = object.value();
        let metadata = &value["metadata"];
        let uid = uid(&value);
        self.remove(&uid);
        let owners: Vec<Value> = metadata["ownerReferences"].as_array().cloned().unwrap_or_default();
        for owner in owners.iter().filter_map(|o| o["uid"].as_str()) {
            self.dependents.entry(owner.to_owned()).or_default().insert(uid.clone());
        }
        let deleting = metadata.get("deletionTimestamp").is_some();
        let has =
            |name: &str| deleting && metadata["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == name));
        let node = Node {
            resource: resource.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            owners,
            foreground: has("foregroundDeletion"),
            orphan: has("orphan"),
        };
        self.nodes.insert(uid, node);
    }

    fn remove(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        for owner in node.owners.iter().filter_map(|o| o["uid"].as_str()) {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// Does what is due.
    pub(super) fn collect(&mut self, server: &Server) {
        for (uid, node) in self.nodes.iter().filter(|(_, n)| n.orphan || n.foreground) {
            let dependents: Vec<&Node> =
                self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d)).collect();
            if node.orphan {
                if dependents.iter().all(|d| forget_owner(server, d, uid)) {
                    finalize(server, node, "orphan");
                }
                continue;
            }
            let mut blocked = false;
            for dependent in dependents {
                let blocks =
                    dependent.owners.iter().any(|o| o["uid"] == uid.as_str() && o["blockOwnerDeletion"] == true);
                let solid = dependent.owners.iter().any(|o| self.is_solid(o, dependent));
                if solid {
                    forget_owner(server, dependent, uid);
                    continue;
                }
                blocked |= blocks;
                let has_dependents = self.dependents.contains_key(&uid_of(server, dependent));
                delete(server, dependent, has_dependents.then_some("Foreground"));
            }
            if !blocked {
                finalize(server, node, "foregroundDeletion");
            }
        }
        let orphans: Vec<String> =
            self.dependents.keys().filter(|owner| !self.nodes.contains_key(*owner)).cloned().collect();
        self.missing.retain(|uid, _| orphans.contains(uid));
        for owner in orphans {
            // A dependent can be written just before its owner is seen.
            let unknown = |d: &&Node| {
                let ours = d.owners.iter().find(|o| o["uid"] == owner.as_str());
                ours.is_some_and(|o| {
                    let (version, kind) =
                        (o["apiVersion"].as_str().unwrap_or_default(), o["kind"].as_str().unwrap_or_default());
                    let (group, version) = version.split_once('/').unwrap_or(("", version));
                    server.kinds().find_kind(group, version, kind).is_none()
                })
            };
            let since = *self.missing.entry(owner.clone()).or_insert_with(Instant::now);
            if since.elapsed() < Duration::from_millis(20) {
                continue;
            }
            let dependents = self.dependents.get(&owner).into_iter().flatten().filter_map(|d| self.nodes.get(d));
            // Whether an owner of a kind that nobody serves is there cannot be known.
            for dependent in dependents.filter(|d| !unknown(d)) {
                let alive = dependent.owners.iter().any(|o| self.is_solid(o, dependent) || self.is_going(o));
                if alive {
                    forget_owner(server, dependent, &owner);
                } else {
                    delete(server, dependent, None);
                }
            }
        }
    }

    /// Whether an owner is there, in reach, and not waiting for its dependents.
    fn is_solid(&self, reference: &Value, dependent: &Node) -> bool {
        let owner = reference["uid"].as_str().and_then(|uid| self.nodes.get(uid));
        owner.is_some_and(|o| {
            !o.foreground
                && o.name == reference["name"].as_str().unwrap_or_default()
                && (o.namespace.is_empty() || o.namespace == dependent.namespace)
        })
    }

    fn is_going(&self, reference: &Value) -> bool {
        reference["uid"].as_str().and_then(|uid| self.nodes.get(uid)).is_some_and(|o| o.foreground)
    }
}

fn uid(value: &Value) -> String {
    value["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn uid_of(server: &Server, node: &Node) -> String {
    server.store().get(&node.resource, &node.namespace, &node.name).map(|o| uid(&o.value())).unwrap_or_default()
}

fn delete(server: &Server, node: &Node, policy: Option<&str>) {
    let Some(object) = server.store().get(&node.resource, &node.namespace, &node.name) else { return };
    if policy.is_none() && object.json().contains("\"deletionTimestamp\"") {
        return;
    }
    let Some(kind) = server.kinds().all().into_iter().find(|k| k.storage() == node.resource && k.allows("get")) else {
        return;
    };
    let context = internal_context(server, kind, Some(node.namespace.clone()), None);
    let policy = policy.unwrap_or("Background");
    let value = object.value();
    let keeps = value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| f.iter().any(|f| f == "orphan" || f == "foregroundDeletion"));
    let policy = (!keeps).then(|| policy.to_owned());
    let options = DeleteOptions { policy, uid: Some(uid(&value)), ..DeleteOptions::default() };
    let _ = crate::http::delete_object(&context, &node.name, &node.namespace, &options);
}

/// Takes an owner out of an object; whether it is out.
fn forget_owner(server: &Server, node: &Node, owner: &str) -> bool {
    change(server, node, |metadata| {
        let Some(list) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) else { return };
        list.retain(|o| o["uid"] != owner);
        if list.is_empty() {
            metadata.remove("ownerReferences");
        }
    })
}

fn finalize(server: &Server, node: &Node, finalizer: &str) {
    change(server, node, |metadata| {
        let Some(list) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) else { return };
        list.retain(|f| f != finalizer);
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    });
}

fn change(server: &Server, node: &Node, change: impl Fn(&mut serde_json::Map<String, Value>)) -> bool {
    let store = server.store();
    let Some(object) = store.get(&node.resource, &node.namespace, &node.name) else { return true };
    let mut value = object.value();
    let before = value.clone();
    let Some(metadata) = value["metadata"].as_object_mut() else { return true };
    change(metadata);
    if value == before {
        return true;
    }
    let metadata = &value["metadata"];
    let gone = metadata.get("deletionTimestamp").is_some()
        && metadata.get("finalizers").is_none()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
    let kind = server.kinds().all().into_iter().find(|k| k.storage() == node.resource && k.allows("get"));
    let gone = gone && kind.as_ref().is_none_or(|k| super::may_go(k, &value));
    let written = if gone {
        store.delete(&node.resource, value, object.revision)
    } else {
        store.put(&node.resource, value, object.revision)
    };
    written.is_ok()
}
