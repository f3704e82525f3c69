//! What the derived schema needs before a cluster takes it gladly.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// The schema of a type that is written as a text or as a number.
macro_rules! text_or_number {
    ($type:ident, $pattern:literal, $numbers:expr) => {
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "x-kubernetes-int-or-string": true,
                    "anyOf": [{ "type": "integer" }, { "type": "string" }],
                    "pattern": $pattern,
                    "maxLength": 64,
                    "minimum": $numbers.start(),
                    "maximum": $numbers.end()
                })
            }
        }
    };
}
pub(crate) use text_or_number;

/// Kubernetes' own types come with pages of description, which would make the CRD larger than clients like to
/// handle (`kubectl apply` keeps a copy in an annotation of at most 256 KiB): below this depth they go.
const DESCRIBED_DEPTH: usize = 4;

pub(crate) fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            walk(schema, 0, false);
        }
    }
    crd
}

/// Names of fields whose types are Kubernetes' own.
pub const BORROWED: &[&str] = &[
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "securityContext",
    "podSecurityContext",
    "env",
    "envFrom",
    "volumes",
    "volumeMounts",
    "initContainers",
    "sidecarContainers",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "resources",
    "volumeClaimTemplate",
    "imagePullSecrets",
    "applicationNamespaceSelector",
];

fn walk(schema: &mut JSONSchemaProps, depth: usize, borrowed: bool) {
    // Quantities may be numbers (`cpu: 4`), as in Kubernetes' own API.
    if schema.description.as_deref().is_some_and(|d| d.starts_with("Quantity is a fixed-point representation")) {
        schema.type_ = None;
        schema.x_kubernetes_int_or_string = Some(true);
    }
    if borrowed || depth > DESCRIBED_DEPTH + 2 {
        schema.description = None;
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        let begins = !borrowed && BORROWED.contains(&name.as_str());
        let description = property.description.clone();
        walk(property, depth + 1, borrowed || begins);
        if begins {
            property.description = description;
        }
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => walk(items, depth + 1, borrowed),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            for item in items {
                walk(item, depth + 1, borrowed);
            }
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values, depth + 1, borrowed);
    }
}
