//! The roles that every cluster has.

use serde_json::{Value, json};

use crate::server::Server;

/// Makes the default roles and bindings that are missing.
pub(crate) fn bootstrap(server: &Server) {
    let defaults: Value =
        serde_json::from_str(include_str!("../../data/roles.json")).expect("data/roles.json is checked by a test");
    for plural in ["clusterroles", "clusterrolebindings"] {
        let resource = ("rbac.authorization.k8s.io".to_owned(), plural.to_owned());
        for entry in defaults[plural].as_array().into_iter().flatten() {
            let name = entry.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            if server.store().get(&resource, "", name).is_some() {
                continue;
            }
            let mut object = entry.clone();
            let metadata = &mut object["metadata"];
            metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
            metadata["creationTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            if metadata["labels"].is_null() {
                metadata["labels"] = json!({});
            }
            metadata["labels"]["kubernetes.io/bootstrapping"] = "rbac-defaults".into();
            if let Err(error) = server.store().put(&resource, object, 0) {
                tracing::error!(%error, "a default role cannot be stored");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_has_its_role() {
        let defaults: Value = serde_json::from_str(include_str!("../../data/roles.json")).unwrap();
        let names: Vec<&Value> =
            defaults["clusterroles"].as_array().unwrap().iter().map(|r| &r["metadata"]["name"]).collect();
        for binding in defaults["clusterrolebindings"].as_array().unwrap() {
            assert!(names.contains(&&binding["roleRef"]["name"]), "{binding}");
        }
    }
}
