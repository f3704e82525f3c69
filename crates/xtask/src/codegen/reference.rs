//! The field reference of a CRD, from its schema: path, type, meaning.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

pub(super) fn page(crd: &CustomResourceDefinition) -> String {
    let mut page = format!(
        "<!-- Made by `cargo xtask codegen`; changes here are lost. -->\n# {}\n\nAPI group `{}`. Types borrowed from Kubernetes are named, not spelled out: \
         `kubectl explain {}.FIELD` shows them.\n",
        crd.spec.names.kind,
        crd.spec.group,
        crd.spec.names.singular.as_deref().unwrap_or(&crd.spec.names.plural)
    );
    for version in &crd.spec.versions {
        let Some(schema) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) else { continue };
        let parts = ["spec", "status"];
        // A kind that is a record has its fields beside its metadata.
        if !schema.properties.iter().flatten().any(|(name, _)| parts.contains(&name.as_str())) {
            let _ = write!(page, "\n## {}\n\n| field | type | meaning |\n|---|---|---|\n", version.name);
            rows(&mut page, "", schema, 0);
        }
        for part in parts {
            let Some(properties) = schema.properties.as_ref().and_then(|p| p.get(part)) else { continue };
            let _ = write!(page, "\n## {} `{part}`\n\n| field | type | meaning |\n|---|---|---|\n", version.name);
            rows(&mut page, "", properties, 0);
        }
    }
    page
}

/// Deeper than this are Kubernetes' own types.
const DEPTH: usize = 3;

fn rows(page: &mut String, prefix: &str, schema: &JSONSchemaProps, depth: usize) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{prefix}{name}");
        let meaning = field.description.as_deref().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(page, "| `{path}` | {} | {meaning} |", type_of(field));
        if depth < DEPTH && !borrowed(&path) {
            rows(page, &format!("{path}."), field, depth + 1);
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
                rows(page, &format!("{path}[]."), items, depth + 1);
            }
        }
    }
}

/// Kubernetes' own types, known by their field's name.
fn borrowed(path: &str) -> bool {
    path.rsplit('.').next().is_some_and(|name| name == "conditions" || api::BORROWED.contains(&name))
}

fn type_of(field: &JSONSchemaProps) -> String {
    if field.x_kubernetes_int_or_string == Some(true) {
        return "number or string".into();
    }
    match (field.type_.as_deref(), &field.enum_) {
        (Some("string"), Some(values)) => {
            let values: Vec<String> =
                values.iter().map(|v| format!("`{}`", v.0.as_str().unwrap_or_default())).collect();
            values.join(", ")
        }
        (Some(name), _) => name.into(),
        (None, _) => "any".into(),
    }
}
