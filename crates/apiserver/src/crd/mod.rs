//! Custom resource definitions: what they must look like, the kinds they make, and their
//! conditions.

pub mod cel;
pub mod check;
mod control;
pub mod names;

pub use control::begin_delete;
pub(crate) use control::restore;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, SchemaSource};
use crate::schema::parse;
use crate::schema::{Type, defaults, prune, validate};
use crate::validate::FieldError;

/// What a kind takes from its definition.
#[derive(Debug)]
pub struct Custom {
    /// Name of the definition.
    pub definition: String,
    /// The version that is stored.
    pub storage_version: String,
    /// Columns of its table.
    pub columns: Vec<Column>,
    /// Where its replicas are, when it can be scaled.
    pub scale: Option<ScalePaths>,
    /// JSON paths that field selectors may use, without the leading dot.
    pub selectable: Vec<String>,
    /// The version's schema as it was written, for OpenAPI.
    pub document: Value,
    /// Every served version, the storage version included.
    pub versions: Vec<String>,
    /// Whether the definition is being deleted: nothing may be created.
    pub terminating: bool,
}

/// One of `additionalPrinterColumns`.
#[derive(Debug, Clone)]
pub struct Column {
    /// Header.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: String,
    /// Hint for clients, such as `int32`.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// Columns above 0 are only shown when asked for.
    pub priority: i64,
    /// Simple JSON path.
    pub path: String,
}

/// JSON paths of the scale subresource, without the leading dot.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// Desired replicas.
    pub spec: String,
    /// Present replicas.
    pub status: String,
    /// Label selector in its text form.
    pub selector: Option<String>,
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn versions(definition: &Value) -> &[Value] {
    definition.pointer("/spec/versions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Fills in what a definition may leave out: names, the conversion, and the versions that are
/// stored.
pub fn complete(definition: &mut Value) {
    let kind = text(definition, "/spec/names/kind").to_owned();
    if let Some(names) =
        definition.pointer_mut("/spec/names").and_then(Value::as_object_mut).filter(|_| !kind.is_empty())
    {
        names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    }
    if let Some(list) = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for column in list.iter_mut().filter_map(|v| v.get_mut("additionalPrinterColumns")?.as_array_mut()).flatten() {
            if column.get("priority") == Some(&json!(0)) {
                column.as_object_mut().map(|c| c.remove("priority"));
            }
        }
    }
    let storage = versions(definition).iter().filter(|v| v.get("storage") == Some(&Value::Bool(true)));
    let storage: Vec<String> = storage.map(|v| text(v, "/name").to_owned()).collect();
    let mut stored = texts(definition, "/status/storedVersions");
    if let Some(name) = storage.first().filter(|name| !stored.contains(name)) {
        stored.push(name.clone());
    }
    if let Some(object) = definition.as_object_mut() {
        let status = object.entry("status").or_insert_with(|| json!({}));
        if let Some(status) = status.as_object_mut() {
            status.insert("storedVersions".into(), if stored.is_empty() { Value::Null } else { stored.into() });
            status.entry("conditions").or_insert(Value::Null);
            status.entry("acceptedNames").or_insert_with(|| json!({"plural": "", "kind": ""}));
        }
    }
}

/// Whether a definition's condition is true.
pub fn is(definition: &Value, condition: &str) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| text(c, "/type") == condition && text(c, "/status") == "True")
}

/// The kinds that an established definition serves, one for each served version; nothing before.
pub fn kinds(definition: &Value) -> Vec<Kind> {
    if !is(definition, "Established") {
        return Vec::new();
    }
    let spec = "/spec/names";
    let accepted = |key: &str| {
        let names =
            if definition.pointer("/status/acceptedNames/kind").is_some() { "/status/acceptedNames" } else { spec };
        format!("{names}/{key}")
    };
    let storage = versions(definition).iter().find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let storage_version = storage.map(|v| text(v, "/name").to_owned()).unwrap_or_default();
    let served = || versions(definition).iter().filter(|v| v.get("served") == Some(&Value::Bool(true)));
    let names: Vec<String> = served().map(|v| text(v, "/name").to_owned()).collect();
    let is_deprecated = |version: &&Value| version.get("deprecated") == Some(&Value::Bool(true));
    let lasting = served().filter(|v| !is_deprecated(v)).map(|v| text(v, "/name"));
    let best = lasting.max_by_key(|n| crate::discovery::priority(n));
    let terminating = definition.pointer("/metadata/deletionTimestamp").is_some();
    served()
        .map(|version| {
            let document =
                version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
            let mut schema = parse::custom_resource(&document);
            if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
                schema.preserve_unknown = true;
            }
            let mut subresources = Vec::new();
            if version.pointer("/subresources/status").is_some() {
                subresources.push("status".to_owned());
            }
            let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
                spec: text(scale, "/specReplicasPath").trim_start_matches('.').to_owned(),
                status: text(scale, "/statusReplicasPath").trim_start_matches('.').to_owned(),
                selector: scale
                    .get("labelSelectorPath")
                    .and_then(Value::as_str)
                    .map(|p| p.trim_start_matches('.').to_owned()),
            });
            if scale.is_some() {
                subresources.push("scale".to_owned());
            }
            let name = text(version, "/name").to_owned();
            let group = text(definition, "/spec/group").to_owned();
            let kind = text(definition, &accepted("kind")).to_owned();
            let deprecation = is_deprecated(&version).then(|| {
                let own = version.get("deprecationWarning").and_then(Value::as_str);
                let instead = best.map(|b| format!("; use {group}/{b} {kind}")).unwrap_or_default();
                own.map_or_else(|| format!("{group}/{name} {kind} is deprecated{instead}"), str::to_owned)
            });
            Kind {
                list_kind: text(definition, &accepted("listKind")).to_owned(),
                plural: text(definition, &accepted("plural")).to_owned(),
                singular: text(definition, &accepted("singular")).to_owned(),
                short_names: texts(definition, &accepted("shortNames")),
                categories: texts(definition, &accepted("categories")),
                namespaced: text(definition, "/spec/scope") == "Namespaced",
                verbs: ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]
                    .map(str::to_owned)
                    .to_vec(),
                subresources,
                schema: SchemaSource::Custom(Arc::new(schema)),
                deprecation,
                custom: Some(Arc::new(Custom {
                    definition: text(definition, "/metadata/name").to_owned(),
                    storage_version: storage_version.clone(),
                    columns: columns(version),
                    scale,
                    selectable: version
                        .get("selectableFields")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .map(|f| text(f, "/jsonPath").trim_start_matches('.').to_owned())
                        .collect(),
                    document,
                    versions: names.clone(),
                    terminating,
                })),
                group,
                version: name,
                kind,
            }
        })
        .collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let entries = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let column = |entry: &Value| Column {
        name: text(entry, "/name").to_owned(),
        ty: text(entry, "/type").to_owned(),
        format: text(entry, "/format").to_owned(),
        description: text(entry, "/description").to_owned(),
        priority: entry.get("priority").and_then(Value::as_i64).unwrap_or(0),
        path: text(entry, "/jsonPath").to_owned(),
    };
    match entries {
        Some(entries) => entries.iter().map(column).collect(),
        None => vec![Column {
            name: "Age".into(),
            ty: "date".into(),
            format: String::new(),
            description: crate::table::AGE.into(),
            priority: 0,
            path: ".metadata.creationTimestamp".into(),
        }],
    }
}

/// Brings a custom resource into shape: unknown fields go, defaults come in. The paths of what
/// was dropped come back.
pub fn shape(kind: &Kind, object: &mut Value) -> Vec<String> {
    let dropped = prune::prune(kind.schema(), object);
    defaults::custom(kind.schema(), object);
    dropped
}

/// Validates a custom resource. What was already wrong and has not changed may stay; rules
/// that are broken so come back as warnings, beside the errors.
pub fn validate(kind: &Kind, object: &Value, old: Option<&Value>) -> (Vec<FieldError>, Vec<String>) {
    let schema = kind.schema();
    let mut warnings = Vec::new();
    let mut errors = validate::validate(schema, object);
    if let Some(old) = old {
        errors.retain(|error| !unchanged(schema, object, old, &error.field));
    }
    let scale = kind.custom.as_ref().and_then(|c| c.scale.as_ref());
    for path in scale.into_iter().flat_map(|s| [&s.spec, &s.status]) {
        if let Some(count) = at(object, path).filter(|v| v.as_i64().is_some_and(|n| n < 0)) {
            errors.push(FieldError::invalid(format!(".{path}"), count, "should be a non-negative integer"));
        }
    }
    let blocking = [
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
        "FieldValueNotSupported",
    ];
    if errors.iter().any(|e| blocking.contains(&e.reason)) {
        if cel::has_rules(schema) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid("<nil>", &Value::Null, detail));
        }
        return (errors, warnings);
    }
    errors.extend(cel::validate(schema, object, old, &mut warnings));
    (errors, warnings)
}

/// Whether the field at `path`, or something around it, is as it was before.
fn unchanged(schema: &crate::schema::Schema, new: &Value, old: &Value, path: &str) -> bool {
    use crate::schema::Topology;
    if new == old {
        return true;
    }
    if path.is_empty() || path == "<nil>" {
        return false;
    }
    let rest = path.trim_start_matches('.');
    if let Some(rest) = rest.strip_prefix('[') {
        let Some((index, rest)) = rest.split_once(']') else { return false };
        let (Ok(index), Some(Topology::Map(keys)), Some(items)) =
            (index.parse::<usize>(), &schema.topology, &schema.items)
        else {
            return false;
        };
        let Some(entry) = new.get(index) else { return false };
        let before = old.as_array().into_iter().flatten().find(|o| keys.iter().all(|k| o.get(k) == entry.get(k)));
        return before.is_some_and(|before| unchanged(items, entry, before, rest));
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    match (schema.field(name), new.get(name), old.get(name)) {
        (Some(below), Some(new), Some(old)) => unchanged(below, new, old, rest),
        _ => false,
    }
}

/// The object in another version: without conversion only `apiVersion` changes.
pub fn convert(object: &mut Value, kind: &Kind) {
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), kind.api_version().into());
    }
}

/// The value at a simple JSON path such as `spec.replicas`.
pub fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, name| value.get(name))
}

/// Sets the value at a simple JSON path, making the objects on the way.
pub fn set(object: &mut Value, path: &str, value: Value) {
    let mut target = object;
    for name in path.trim_start_matches('.').split('.') {
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Some(map) = target.as_object_mut() else { return };
        target = map.entry(name).or_insert(Value::Null);
    }
    *target = value;
}

/// Whether a schema accepts objects only, as the root of a custom resource must.
pub fn is_object(schema: &crate::schema::Schema) -> bool {
    schema.ty == Type::Object
}
