//! The schemas of the built-in kinds.
//!
//! Structure and documentation come from `k8s-openapi`, which is generated from the published
//! OpenAPI document. What that leaves out (list types, patch strategies, defaults, Go's zero
//! values) is in `data/lists.json` and `data/defaults.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization, autoscaling,
    batch::v1 as batch, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    events::v1 as events, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{PatchStrategy, Schema, Topology, parse};

/// A definition of the built-in schemas by its short name (`core.v1.Pod`, `meta.v1.ObjectMeta`).
pub fn definition(name: &str) -> Option<&'static Schema> {
    DEFINITIONS.get(name)
}

/// The definitions as OpenAPI, with their descriptions, by full name (`io.k8s.api.core.v1.Pod`).
pub fn documents() -> &'static Map<String, Value> {
    &DOCUMENTS
}

/// The short name of a definition.
pub fn short_name(full: &str) -> String {
    let mut name = full;
    for prefix in [
        "io.k8s.api.",
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.apimachinery.pkg.",
    ] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    name.to_owned()
}

/// The definition of a built-in kind: the group's first label, but for the groups whose Go
/// package is named otherwise.
pub fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let package = match group {
        "" => "core",
        other => other.split('.').next().unwrap_or(other),
    };
    format!("{package}.{version}.{kind}")
}

macro_rules! generate {
    ($generator:ident: $($ty:ty),* $(,)?) => {
        $( let _ = $generator.subschema_for::<$ty>(); )*
    };
}

static DOCUMENTS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let mut generator = SchemaSettings::openapi3().into_generator();
    generate!(generator:
        core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::Namespace, core::Node,
        core::PersistentVolumeClaim, core::PersistentVolume, core::Pod, core::PodTemplate, core::ReplicationController,
        core::ResourceQuota, core::Secret, core::ServiceAccount, core::Service, core::Binding, core::ComponentStatus,
        apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet, apps::StatefulSet,
        events::Event,
        authentication::TokenReview, authentication::SelfSubjectReview, authentication::TokenRequest,
        authorization::LocalSubjectAccessReview, authorization::SelfSubjectAccessReview,
        authorization::SelfSubjectRulesReview, authorization::SubjectAccessReview,
        autoscaling::v2::HorizontalPodAutoscaler, autoscaling::v1::HorizontalPodAutoscaler, autoscaling::v1::Scale,
        batch::CronJob, batch::Job,
        networking::IngressClass, networking::Ingress, networking::NetworkPolicy,
        policy::PodDisruptionBudget, policy::Eviction,
        rbac::ClusterRoleBinding, rbac::ClusterRole, rbac::RoleBinding, rbac::Role,
        storage::CSIDriver, storage::CSINode, storage::StorageClass, storage::VolumeAttachment,
        apiextensions::CustomResourceDefinition,
        scheduling::PriorityClass, coordination::Lease, discovery::EndpointSlice,
        meta::DeleteOptions, meta::Status, meta::APIResourceList, meta::ListMeta,
    );
    generator.take_definitions(true)
});

static DEFINITIONS: LazyLock<BTreeMap<String, Schema>> = LazyLock::new(|| {
    let lists: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(include_str!("../../data/lists.json")).expect("data/lists.json is checked by a test");
    let mut definitions = BTreeMap::new();
    for (full, document) in DOCUMENTS.iter() {
        let name = short_name(full);
        let mut schema = special(&name).unwrap_or_else(|| parse::definition(document));
        schema.name = name.as_str().into();
        for (field, facts) in lists.get(&name).into_iter().flatten() {
            let target = if field.is_empty() { Some(&mut schema) } else { schema.properties.get_mut(field) };
            if let Some(target) = target {
                let (topology, patch) = list_facts(facts);
                target.topology = topology;
                target.patch = patch;
            }
        }
        definitions.insert(name, schema);
    }
    definitions
});

/// Types whose Go decoder is not the one of their OpenAPI type.
fn special(name: &str) -> Option<Schema> {
    use super::{Additional, Type};
    let ty = match name {
        "api.resource.Quantity" => Type::Quantity,
        "meta.v1.Time" => Type::Time,
        "meta.v1.MicroTime" => Type::MicroTime,
        "util.intstr.IntOrString" => Type::IntOrString,
        "apiextensions.v1.JSON"
        | "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray" => Type::Any,
        "runtime.RawExtension" | "meta.v1.FieldsV1" => Type::Object,
        _ => return None,
    };
    Some(Schema {
        ty,
        additional: if ty == Type::Object { Additional::Any } else { Additional::None },
        ..Schema::default()
    })
}

/// Reads `type:key+key|strategy:mergeKey`.
fn list_facts(facts: &str) -> (Option<Topology>, PatchStrategy) {
    let (list, patch) = facts.split_once('|').unwrap_or((facts, ""));
    let topology = match list.split_once(':') {
        Some((_, keys)) => Some(Topology::Map(keys.split('+').map(str::to_owned).collect())),
        None => match list {
            "set" => Some(Topology::Set),
            "atomic" => Some(Topology::Atomic),
            _ => None,
        },
    };
    let (strategy, key) = patch.split_once(':').unwrap_or((patch, ""));
    let strategy = PatchStrategy {
        merge: strategy.contains("merge"),
        retain_keys: strategy.contains("retainKeys"),
        key: (!key.is_empty()).then(|| key.to_owned()),
    };
    (topology, strategy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_names_a_field() {
        let lists: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_str(include_str!("../../data/lists.json")).unwrap();
        for (name, fields) in lists {
            let Some(schema) = definition(&name) else { continue };
            for field in fields.keys().filter(|f| !f.is_empty()) {
                assert!(schema.properties.contains_key(field), "{name}.{field}");
            }
        }
    }

    #[test]
    fn containers_merge_by_name() {
        let spec = definition("core.v1.PodSpec").unwrap();
        assert_eq!(spec.field("containers").unwrap().sharing(), Topology::Map(vec!["name".into()]));
        let ports = definition("core.v1.Container").unwrap().field("ports").unwrap();
        assert_eq!(ports.sharing(), Topology::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.patch.key.as_deref(), Some("containerPort"));
    }
}
