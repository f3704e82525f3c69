//! Namespaces: what each has, and how a deleted one empties itself.

use serde_json::{Value, json};

use super::now;
use crate::http::{DeleteOptions, internal_context};
use crate::server::Server;

const CONTENT: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// Gives each live namespace its service account and the cluster's CA.
pub(super) fn furnish(server: &Server) {
    let store = server.store();
    let (_, namespaces) = store.list(&(String::new(), "namespaces".to_owned()), None);
    for namespace in namespaces {
        if namespace.json().contains("\"deletionTimestamp\"") {
            continue;
        }
        let metadata = |name: &str| json!({"name": name, "namespace": namespace.name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now()});
        let accounts = (String::new(), "serviceaccounts".to_owned());
        if store.get(&accounts, &namespace.name, "default").is_none() {
            let _ = store.put(&accounts, json!({"metadata": metadata("default")}), 0);
        }
        let maps = (String::new(), "configmaps".to_owned());
        if let Some(ca) =
            server.options().ca.as_ref().filter(|_| store.get(&maps, &namespace.name, "kube-root-ca.crt").is_none())
        {
            let mut metadata = metadata("kube-root-ca.crt");
            metadata["annotations"] = json!({
                "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
            });
            let _ = store.put(&maps, json!({"metadata": metadata, "data": {"ca.crt": ca}}), 0);
        }
    }
}

/// Empties namespaces that are going, and lets them go when nothing is left.
pub(super) fn empty(server: &Server) {
    let store = server.store();
    let resource = (String::new(), "namespaces".to_owned());
    for namespace in store.list(&resource, None).1 {
        if !namespace.json().contains("\"deletionTimestamp\"") {
            continue;
        }
        let mut value = namespace.value();
        let name = namespace.name.as_str();
        let Some(list) = value["spec"]["finalizers"].as_array() else { continue };
        if value["metadata"].get("deletionTimestamp").is_none() || !list.iter().any(|f| f == "kubernetes") {
            continue;
        }
        let mut left: Vec<(String, usize)> = Vec::new();
        let mut held: Vec<(String, usize)> = Vec::new();
        for kind in store.resources() {
            if kind == resource {
                continue;
            }
            let Some(of_kind) =
                server.kinds().all().into_iter().find(|k| k.storage() == kind && k.namespaced && k.allows("get"))
            else {
                continue;
            };
            let context = internal_context(server, of_kind.clone(), Some(name.to_owned()), None);
            for object in store.list(&kind, Some(name)).1 {
                let _ = crate::http::delete_object(&context, &object.name, name, &DeleteOptions::default());
            }
            let rest = store.list(&kind, Some(name)).1;
            if rest.is_empty() {
                continue;
            }
            left.push((format!("{}.{}", of_kind.plural, of_kind.group), rest.len()));
            for object in rest {
                for finalizer in
                    object.value()["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
                {
                    match held.iter_mut().find(|(f, _)| f == finalizer) {
                        Some((_, count)) => *count += 1,
                        None => held.push((finalizer.to_owned(), 1)),
                    }
                }
            }
        }
        let revision = namespace.revision;
        if left.is_empty() {
            let finalizers: Vec<Value> = list.iter().filter(|f| *f != "kubernetes").cloned().collect();
            let gone = finalizers.is_empty() && value["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
            if finalizers.is_empty() {
                if let Some(spec) = value["spec"].as_object_mut() {
                    spec.remove("finalizers");
                }
            } else {
                value["spec"]["finalizers"] = finalizers.into();
            }
            conditions(&mut value, &left, &held);
            let _ = if gone { store.delete(&resource, value, revision) } else { store.put(&resource, value, revision) };
        } else if conditions(&mut value, &left, &held) {
            let _ = store.put(&resource, value, revision);
        }
    }
}

/// Says in the status what is left; whether that is news.
fn conditions(value: &mut Value, left: &[(String, usize)], held: &[(String, usize)]) -> bool {
    let before = value["status"]["conditions"].clone();
    let mut all = Vec::new();
    for (ty, reason, message) in CONTENT {
        let (mut status, mut reason, mut message) = ("False", reason, message.to_owned());
        let mut sorted: Vec<String> = Vec::new();
        if ty == "NamespaceContentRemaining" && !left.is_empty() {
            (status, reason) = ("True", "SomeResourcesRemain");
            sorted = left.iter().map(|(kind, count)| format!("{kind} has {count} resource instances")).collect();
            "Some resources are remaining: ".clone_into(&mut message);
        } else if ty == "NamespaceFinalizersRemaining" && !held.is_empty() {
            (status, reason) = ("True", "SomeFinalizersRemain");
            sorted = held.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
            "Some content in the namespace has finalizers remaining: ".clone_into(&mut message);
        }
        sorted.sort();
        message.push_str(&sorted.join(", "));
        let same = |c: &&Value| c["type"] == ty && c["status"] == status;
        let time = before
            .as_array()
            .and_then(|b| b.iter().find(same))
            .map_or_else(|| now().into(), |c| c["lastTransitionTime"].clone());
        all.push(
            json!({"type": ty, "status": status, "lastTransitionTime": time, "reason": reason, "message": message}),
        );
    }
    value["status"]["conditions"] = all.into();
    value["status"]["conditions"] != before
}
