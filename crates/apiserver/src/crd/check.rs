//! Whether a definition may be accepted: names, versions, structural schemas, columns.

use regex::Regex;
use serde_json::{Map, Value, json};

use super::{cel, text, texts, versions};
use crate::schema::{defaults, parse, prune, validate};
use crate::validate::FieldError;
use crate::validate::names::{dns_label, subdomain};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Judges a definition; `old` is what is stored.
pub fn check(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (group, plural) = (text(definition, "/spec/group"), text(definition, "/spec/names/plural"));
    let name = text(definition, "/metadata/name");
    if let Some(detail) = subdomain(name) {
        errors.push(FieldError::invalid("metadata.name", &name.into(), &detail));
    } else if name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid("metadata.name", &name.into(), "must be spec.names.plural+\".\"+spec.group"));
    }
    if ["k8s.io", "kubernetes.io"].iter().any(|g| group == *g || group.ends_with(&format!(".{g}")))
        && !group.ends_with("x-k8s.io")
        && definition.pointer("/metadata/annotations/api-approved.kubernetes.io").is_none()
    {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.push(FieldError::required("metadata.annotations[api-approved.kubernetes.io]", detail));
    }
    if let Some(old) = old.filter(|old| super::is(old, "Established")) {
        for (field, pointer) in [
            ("spec.group", "/spec/group"),
            ("spec.scope", "/spec/scope"),
            ("spec.names.kind", "/spec/names/kind"),
            ("spec.names.plural", "/spec/names/plural"),
        ] {
            if definition.pointer(pointer) != old.pointer(pointer) {
                errors.retain(|e| e.field != "metadata.name");
                errors.push(FieldError::invalid(
                    field,
                    definition.pointer(pointer).unwrap_or(&Value::Null),
                    "field is immutable",
                ));
            }
        }
        if !errors.is_empty() {
            return errors;
        }
    }
    group_and_scope(definition, group, &mut errors);
    version_list(definition, &mut errors);
    names(definition, &mut errors);
    let list = versions(definition);
    for (index, version) in list.iter().enumerate() {
        one_version(version, index, list.len(), &mut errors);
    }
    conversion(definition, &mut errors);
    let stored = texts(definition, "/status/storedVersions");
    let storage: Vec<&str> =
        list.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).map(|v| text(v, "/name")).collect();
    if stored.is_empty() {
        errors.push(FieldError::invalid(
            "status.storedVersions",
            &Value::Null,
            "must have at least one stored version",
        ));
    }
    for name in storage.iter().filter(|name| !stored.iter().any(|s| s == *name)) {
        errors.push(FieldError::invalid(
            "status.storedVersions",
            &json!(stored),
            &format!("must have the storage version {name}"),
        ));
    }
    if old.is_some() {
        for (index, name) in
            stored.iter().enumerate().filter(|(_, name)| !list.iter().any(|v| text(v, "/name") == *name))
        {
            errors.push(FieldError::invalid(format!("status.storedVersions[{index}]"), &name.as_str().into(), "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", name).as_str()));
        }
    }
    errors
}

fn group_and_scope(definition: &Value, group: &str, errors: &mut Vec<FieldError>) {
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(detail) = subdomain(group) {
        errors.push(FieldError::invalid("spec.group", &group.into(), &detail));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    let scope = text(definition, "/spec/scope");
    if !["Cluster", "Namespaced"].contains(&scope) {
        errors.push(FieldError::not_supported("spec.scope", &scope.into(), &["Cluster", "Namespaced"]));
    }
    if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), detail));
    }
}

fn version_list(definition: &Value, errors: &mut Vec<FieldError>) {
    let list = versions(definition);
    let mut names: Vec<&str> = list.iter().map(|v| text(v, "/name")).collect();
    for (index, name) in names.iter().enumerate() {
        if let Some(detail) = dns_label(name) {
            errors.push(FieldError::invalid(format!("spec.versions[{index}].name"), &(*name).into(), &detail));
        }
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    let shown = format!("[{}]", list.iter().map(internal_version).collect::<Vec<_>>().join(","));
    let fault = |detail: &str| FieldError {
        reason: "FieldValueInvalid",
        field: "spec.versions".into(),
        message: format!("Invalid value: {shown}: {detail}"),
    };
    if names.len() != count {
        errors.push(fault("must contain unique version names"));
    }
    if list.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).count() != 1 {
        errors.push(fault("must have exactly one version marked as storage version"));
    }
    if let Some(name) = list.first().map(|v| text(v, "/name"))
        && let Some(detail) = dns_label(name)
    {
        errors.push(FieldError::invalid("spec.version", &name.into(), &detail));
    }
}

/// A version as Go's internal type prints.
fn internal_version(version: &Value) -> String {
    format!(
        "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}}",
        version["name"], version["served"], version["storage"]
    )
}

fn names(definition: &Value, errors: &mut Vec<FieldError>) {
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let mut label = |field: String, name: &str, mixed: bool| {
        let checked = if mixed { name.to_lowercase() } else { name.to_owned() };
        if let Some(detail) = dns_label(&checked) {
            let detail =
                if mixed { format!("may have mixed case, but should otherwise match: {detail}") } else { detail };
            errors.push(FieldError::invalid(field, &name.into(), &detail));
        }
    };
    for key in ["plural", "singular"] {
        label(format!("spec.names.{key}"), text(&names, &format!("/{key}")), false);
    }
    for key in ["kind", "listKind"] {
        label(format!("spec.names.{key}"), text(&names, &format!("/{key}")), true);
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in texts(&names, &format!("/{key}")).iter().enumerate() {
            label(format!("spec.names.{key}[{index}]"), name, false);
        }
    }
    let (kind, list_kind) = (text(&names, "/kind"), text(&names, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(FieldError::invalid(
            "spec.names.listKind",
            &list_kind.into(),
            "kind and listKind may not be the same",
        ));
    }
}

fn conversion(definition: &Value, errors: &mut Vec<FieldError>) {
    match text(definition, "/spec/conversion/strategy") {
        "None" => {}
        "Webhook" => {
            if definition.pointer("/spec/conversion/webhook/clientConfig").is_none() {
                errors.push(FieldError::required(
                    "spec.conversion.webhookClientConfig",
                    "required when strategy is set to Webhook",
                ));
            }
            if texts(definition, "/spec/conversion/webhook/conversionReviewVersions").is_empty() {
                errors.push(FieldError::required("spec.conversion.conversionReviewVersions", ""));
            }
        }
        other => {
            errors.push(FieldError::not_supported("spec.conversion.strategy", &other.into(), &["None", "Webhook"]));
        }
    }
}

fn one_version(version: &Value, index: usize, count: usize, errors: &mut Vec<FieldError>) {
    // With one version Kubernetes speaks of its fields as if they stood in the specification.
    let at = |field: &str| if count == 1 { format!("spec.{field}") } else { format!("spec.versions[{index}].{field}") };
    let schema_at = if count == 1 {
        "spec.validation.openAPIV3Schema".to_owned()
    } else {
        format!("spec.versions[{index}].schema.openAPIV3Schema")
    };
    match version.pointer("/schema/openAPIV3Schema") {
        None => errors.push(FieldError::required(format!("spec.versions[{index}].schema.openAPIV3Schema"), "")),
        Some(schema) => {
            match schema.get("type").and_then(Value::as_str) {
                None => errors.push(FieldError::required(format!("{schema_at}.type"), "must not be empty at the root")),
                Some("object") => {}
                Some(other) => errors.push(FieldError::invalid(
                    format!("{schema_at}.type"),
                    &other.into(),
                    "must be object at the root",
                )),
            }
            if let Some(metadata) = schema.pointer("/properties/metadata") {
                let allowed = |k: &String| ["type", "properties", "description"].contains(&k.as_str());
                let names = metadata.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
                if !metadata.as_object().is_some_and(|m| m.keys().all(allowed))
                    || names.keys().any(|k| k != "name" && k != "generateName")
                {
                    let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                    errors.push(FieldError::forbidden(format!("{schema_at}.properties[metadata]"), detail));
                }
            }
            node(schema, &schema_at, true, errors);
        }
    }
    if let Some(warning) =
        version.get("deprecationWarning").filter(|_| version.get("deprecated") != Some(&Value::Bool(true)))
    {
        errors.push(FieldError::invalid(
            format!("spec.versions[{index}].deprecationWarning"),
            warning,
            "can only be set for deprecated versions",
        ));
    }
    if let Some(scale) = version.pointer("/subresources/scale") {
        for (key, root) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
            let path = text(scale, &format!("/{key}"));
            let field = at(&format!("subresources.scale.{key}"));
            if path.is_empty() {
                errors.push(FieldError::required(field, ""));
            } else if !path.starts_with(&format!("{root}.")) {
                errors.push(FieldError::invalid(field, &path.into(), &format!("should be a json path under {root}")));
            }
        }
    }
    for (number, field) in version.get("selectableFields").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = text(field, "/jsonPath");
        let ty = version
            .pointer("/schema/openAPIV3Schema")
            .and_then(|schema| at_path(schema, path))
            .map(|s| text(s, "/type"));
        let detail = match ty {
            Some("string" | "boolean" | "integer") => continue,
            Some(_) => {
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            }
            None => "is an invalid path: does not refer to a valid field",
        };
        errors.push(FieldError::invalid(at(&format!("selectableFields[{number}].jsonPath")), &path.into(), detail));
    }
    for (number, column) in
        version.get("additionalPrinterColumns").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let at = |field: &str| at(&format!("additionalPrinterColumns[{number}].{field}"));
        if text(column, "/name").is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        let ty = text(column, "/type");
        if ty.is_empty() {
            errors.push(FieldError::required(at("type"), "must be one of boolean,date,integer,number,string"));
        } else if !["boolean", "date", "integer", "number", "string"].contains(&ty) {
            errors.push(FieldError::invalid(
                at("type"),
                &ty.into(),
                "must be one of boolean,date,integer,number,string",
            ));
        }
        let path = text(column, "/jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(at("JSONPath"), ""));
        } else if !path.starts_with('.') {
            errors.push(FieldError::invalid(
                at("JSONPath"),
                &path.into(),
                "must be a simple json path starting with .",
            ));
        }
    }
}

/// A node of a structural schema.
fn node(schema: &Value, at: &str, root: bool, errors: &mut Vec<FieldError>) {
    let Some(object) = schema.as_object() else { return };
    let flag = |key: &str| object.get(key) == Some(&Value::Bool(true));
    let ty = text(schema, "/type");
    if object.contains_key("$ref") {
        errors.push(FieldError::forbidden(format!("{at}.$ref"), "$ref is not supported"));
        return;
    }
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(format!("{at}.type"), &ty.into(), &TYPES));
    } else if ty.is_empty()
        && !root
        && !flag("x-kubernetes-int-or-string")
        && !flag("x-kubernetes-preserve-unknown-fields")
    {
        let what = if at.ends_with("items") { "array items" } else { "object fields" };
        errors.push(FieldError::required(format!("{at}.type"), &format!("must not be empty for specified {what}")));
    }
    if flag("uniqueItems") {
        errors.push(FieldError::forbidden(
            format!("{at}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    if object.contains_key("properties") && object.get("additionalProperties").is_some_and(|a| a != &Value::Bool(false))
    {
        errors.push(FieldError::forbidden(
            format!("{at}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    if ty == "array" && !object.contains_key("items") {
        errors.push(FieldError::required(format!("{at}.items"), "must be specified"));
    }
    if object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(
            format!("{at}.x-kubernetes-preserve-unknown-fields"),
            &false.into(),
            "must be true or undefined",
        ));
    }
    if let Some(pattern) = object.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_err()
    {
        let detail = format!(
            "must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `{pattern}`"
        );
        errors.push(FieldError::invalid(format!("{at}.pattern"), &pattern.into(), &detail));
    }
    list_type(schema, object, at, errors);
    junctors(object, at, errors);
    rules(schema, object, at, errors);
    if let Some(default) = object.get("default").filter(|d| !d.is_null()) {
        default_value(schema, default, at, errors);
    }
    for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if !(root && name == "metadata") {
            node(property, &format!("{at}.properties[{name}]"), false, errors);
        }
    }
    if let Some(items) = object.get("items") {
        node(items, &format!("{at}.items"), false, errors);
    }
    if let Some(entry) = object.get("additionalProperties").filter(|a| a.is_object()) {
        node(entry, &format!("{at}.additionalProperties"), false, errors);
    }
}

fn list_type(schema: &Value, object: &Map<String, Value>, at: &str, errors: &mut Vec<FieldError>) {
    let items = object.get("items").cloned().unwrap_or_default();
    match text(schema, "/x-kubernetes-list-type") {
        "map" => {
            let keys = texts(schema, "/x-kubernetes-list-map-keys");
            if keys.is_empty() {
                errors.push(FieldError::required(
                    format!("{at}.x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            let required = texts(&items, "/required");
            for key in &keys {
                let property = items.get("properties").and_then(|p| p.get(key));
                if property.is_none() {
                    errors.push(FieldError::invalid(
                        format!("{at}.x-kubernetes-list-map-keys"),
                        &json!(keys),
                        "entries must all be names of item properties",
                    ));
                } else if !required.contains(key) && property.is_some_and(|p| p.get("default").is_none()) {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(format!("{at}.items.properties[{key}].default"), detail));
                }
            }
        }
        "set" => {
            let atomic = |key: &str| text(&items, key) == "atomic";
            if text(&items, "/type") == "object" && !atomic("/x-kubernetes-map-type") {
                let value = items.get("x-kubernetes-map-type").cloned().unwrap_or_default();
                let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
                errors.push(FieldError::invalid(format!("{at}.items.x-kubernetes-map-type"), &value, detail));
            }
        }
        "" | "atomic" => {}
        other => errors.push(FieldError::not_supported(
            format!("{at}.x-kubernetes-list-type"),
            &other.into(),
            &["atomic", "set", "map"],
        )),
    }
}

/// Keywords that only a structural schema's core may have.
fn junctors(object: &Map<String, Value>, at: &str, errors: &mut Vec<FieldError>) {
    let mut inner = |schema: &Value, at: String| {
        let both = object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        for key in ["type", "description", "default", "additionalProperties", "nullable"] {
            if schema.get(key).is_some() && !(both && key == "type") {
                errors.push(FieldError::forbidden(format!("{at}.{key}"), "must be empty to be structural"));
            }
        }
    };
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, schema) in object.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            inner(schema, format!("{at}.{key}[{index}]"));
        }
    }
    if let Some(schema) = object.get("not") {
        inner(schema, format!("{at}.not"));
    }
}

fn default_value(schema: &Value, default: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut parsed = parse::value(schema);
    parsed.default = None;
    let mut value = default.clone();
    if !prune::prune(&parsed, &mut value).is_empty() {
        errors.push(FieldError::invalid(format!("{at}.default"), default, "must not have unknown fields"));
        return;
    }
    defaults::custom(&parsed, &mut value);
    for error in validate::validate(&parsed, &value) {
        let field =
            if error.field.is_empty() { format!("{at}.default") } else { format!("{at}.default.{}", error.field) };
        errors.push(FieldError { field, ..error });
    }
}

fn rules(schema: &Value, object: &Map<String, Value>, at: &str, errors: &mut Vec<FieldError>) {
    for (index, rule) in
        object.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let at = format!("{at}.x-kubernetes-validations[{index}]");
        let source = text(rule, "/rule");
        let escaped = |key: &str| {
            Value::from(text(rule, key))
                .to_string()
                .replace('>', "\\u003e")
                .replace('<', "\\u003c")
                .replace('&', "\\u0026")
        };
        let shown = format!(
            "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
            escaped("/rule"),
            escaped("/message"),
            escaped("/messageExpression"),
            rule["reason"],
            escaped("/fieldPath"),
            rule["optionalOldSelf"]
        );
        if source.trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.rule"), "rule is not specified"));
        } else if let Some(error) = cel::compile_error(source) {
            let message = format!("Invalid value: {shown}: compilation failed: {error}");
            errors.push(FieldError { reason: "FieldValueInvalid", field: format!("{at}.rule"), message });
        }
        if text(rule, "/message").contains('\n') {
            errors.push(FieldError::invalid(
                format!("{at}.message"),
                &text(rule, "/message").into(),
                "must not contain line breaks",
            ));
        }
        let reasons = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if let Some(reason) = rule.get("reason").and_then(Value::as_str).filter(|r| !reasons.contains(r)) {
            errors.push(FieldError::not_supported(format!("{at}.reason"), &reason.into(), &reasons));
        }
        let path = text(rule, "/fieldPath");
        if !path.is_empty() && !path_exists(schema, path) {
            errors.push(FieldError::invalid(format!("{at}.fieldPath"), &path.into(), "must be a valid path"));
        }
        if rule.get("optionalOldSelf") == Some(&Value::Bool(true)) && !source.contains("oldSelf") {
            errors.push(FieldError::invalid(
                format!("{at}.optionalOldSelf"),
                &true.into(),
                "may not be set if oldSelf is not used in rule",
            ));
        }
    }
}

/// The schema of the field at a simple JSON path.
fn at_path<'v>(schema: &'v Value, path: &str) -> Option<&'v Value> {
    path.trim_start_matches('.').split('.').try_fold(schema, |node, name| {
        let name = name.split('[').next().unwrap_or_default();
        let property = node.get("properties").and_then(|p| p.get(name));
        property.or_else(|| node.get("additionalProperties").filter(|a| a.is_object()))
    })
}

fn path_exists(schema: &Value, path: &str) -> bool {
    let root = path.trim_start_matches('.').split(['.', '[']).next().unwrap_or_default();
    at_path(schema, path).is_some() || ["metadata", "kind", "apiVersion"].contains(&root)
}

/// Warns of formats that mean nothing here.
pub fn warnings(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for schema in versions(definition).iter().filter_map(|v| v.pointer("/schema/openAPIV3Schema")) {
        formats(schema, &mut found);
    }
    found
}

fn formats(schema: &Value, found: &mut Vec<String>) {
    const KNOWN: [&str; 38] = [
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "date-time",
        "int32",
        "int64",
        "float",
        "double",
        "k8s-short-name",
        "k8s-long-name",
        "int-or-string",
        "quantity",
        "int8",
        "int16",
        "uint8",
        "uint32",
        "uint64",
    ];
    if let Some(format) = schema.get("format").and_then(Value::as_str).filter(|f| !KNOWN.contains(f)) {
        let warning = format!("unrecognized format {format:?}");
        if !found.contains(&warning) {
            found.push(warning);
        }
    }
    for property in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values) {
        formats(property, found);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key) {
            formats(inner, found);
        }
    }
}
