//! The smaller kinds.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{FieldError, names};
use crate::admission::{flag, list, text};
use crate::kind::Operation;
use crate::schema::quantity::Quantity;

fn keys(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for key in object.get(field).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if let Some(detail) = names::config_key(key) {
            errors.push(FieldError::invalid(format!("{field}[{key}]"), &key.as_str().into(), &detail));
        }
    }
}

fn immutable(object: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Vec<FieldError>) {
    let Some(old) = old.filter(|old| flag(old, "/immutable")) else { return };
    if !flag(object, "/immutable") {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields.iter().filter(|f| object.get(**f) != old.get(**f)) {
        errors.push(FieldError::forbidden(*field, "field is immutable when `immutable` is set"));
    }
}

fn unchanged(object: &Value, old: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    if old.is_some_and(|old| old.get(field) != object.get(field)) {
        errors.push(FieldError::invalid(field, &object[field], "field is immutable"));
    }
}

/// Judges a ConfigMap.
pub fn config_map(map: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let binary = map.get("binaryData").and_then(Value::as_object);
    for key in map.get("data").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if let Some(detail) = names::config_key(key) {
            errors.push(FieldError::invalid(format!("data[{key}]"), &key.as_str().into(), &detail));
        }
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    keys(map, "binaryData", &mut errors);
    if errors.is_empty() {
        immutable(map, old, &["data", "binaryData"], &mut errors);
    }
    errors
}

/// Judges a Secret.
pub fn secret(secret: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    keys(secret, "data", &mut errors);
    unchanged(secret, old, "type", &mut errors);
    let has = |key: &str| secret.get("data").is_some_and(|d| d.get(key).is_some());
    let mut need = |key: &str| errors.push(FieldError::required(format!("data[{key}]"), ""));
    match text(secret, "/type") {
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().filter(|k| !has(k)).for_each(need),
        "kubernetes.io/ssh-auth" if !has("ssh-privatekey") => need("ssh-privatekey"),
        "kubernetes.io/dockerconfigjson" if !has(".dockerconfigjson") => need(".dockerconfigjson"),
        "kubernetes.io/dockerconfigjson" => {
            use base64::Engine as _;
            let data = secret.pointer("/data/.dockerconfigjson").and_then(Value::as_str).unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap_or_default();
            if let Err(error) = crate::http::parse_json(&bytes) {
                errors.push(FieldError::invalid(
                    "data[.dockerconfigjson]",
                    &"<secret contents redacted>".into(),
                    &error,
                ));
            }
        }
        _ => {}
    }
    if errors.is_empty() {
        immutable(secret, old, &["data"], &mut errors);
    }
    errors
}

/// Judges a PersistentVolumeClaim.
pub fn claim(claim: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        return errors;
    }
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let modes = list(claim, "/spec/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|m| !known.contains(&m.as_str().unwrap_or_default())) {
        errors.push(FieldError::not_supported("spec.accessModes", mode, &known));
    }
    let size = |c: &Value| Quantity::parse(text(c, "/spec/resources/requests/storage"));
    match size(claim) {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(amount) if amount <= Quantity::ZERO => {
            errors.push(FieldError::invalid(
                "spec.resources[storage]",
                &text(claim, "/spec/resources/requests/storage").into(),
                "must be greater than zero",
            ));
        }
        Some(_) => {}
    }
    if let Some(old) = old {
        let bound = text(old, "/status/phase") == "Bound";
        let strip = |claim: &Value| {
            let mut spec = claim["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                if text(old, "/spec/volumeName").is_empty() {
                    spec.remove("volumeName");
                }
                if bound {
                    spec.remove("volumeAttributesClassName");
                    spec.remove("resources");
                }
            }
            spec
        };
        if strip(claim) != strip(old) {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
            errors.push(FieldError::forbidden("spec", detail));
        }
        if bound && size(claim) < size(old) {
            errors.push(FieldError::forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            ));
        }
    }
    errors
}

/// Judges a PersistentVolume.
pub fn volume(volume: &Value, _old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        return errors;
    }
    if list(volume, "/spec/accessModes").is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    if volume.pointer("/spec/capacity/storage").is_none() {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    let plain = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeMode",
        "volumeAttributesClassName",
    ];
    if !volume["spec"].as_object().is_some_and(|s| s.keys().any(|k| !plain.contains(&k.as_str()))) {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    errors
}

/// Judges a NetworkPolicy.
pub fn network_policy(policy: &Value, _old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(policy, &format!("/spec/{rules}")).iter().enumerate() {
            for (number, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
                let at = format!("spec.{rules}[{index}].{peers}[{number}]");
                if peer.as_object().is_none_or(Map::is_empty) {
                    errors.push(FieldError::required(&at, "must specify a peer"));
                }
                let cidr = text(peer, "/ipBlock/cidr");
                if peer.get("ipBlock").is_some() && !is_cidr(cidr) {
                    errors.push(FieldError::invalid(
                        format!("{at}.ipBlock.cidr"),
                        &cidr.into(),
                        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    ));
                }
            }
        }
    }
    for (index, ty) in list(policy, "/spec/policyTypes").iter().enumerate() {
        if !["Ingress", "Egress"].contains(&ty.as_str().unwrap_or_default()) {
            errors.push(FieldError::not_supported(format!("spec.policyTypes[{index}]"), ty, &["Ingress", "Egress"]));
        }
    }
    errors
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, bits)| match (ip.parse(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    })
}

/// Judges a Namespace.
pub fn namespace(namespace: &Value, _old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let (phase, deleting) =
        (text(namespace, "/status/phase"), namespace.pointer("/metadata/deletionTimestamp").is_some());
    let detail = match (deleting, phase) {
        (false, "Active" | "") | (true, "Terminating") => return Vec::new(),
        (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
        (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
    };
    vec![FieldError::invalid("status.Phase", &phase.into(), detail)]
}

/// Judges a Role or ClusterRole.
pub fn role(role: &Value, _old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespaced = text(role, "/kind") == "Role";
    for (index, rule) in list(role, "/rules").iter().enumerate() {
        let at = format!("rules[{index}]");
        let empty = |key: &str| list(rule, &format!("/{key}")).is_empty();
        if empty("verbs") {
            errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
        }
        if !empty("nonResourceURLs") {
            if namespaced {
                let urls = Value::Array(list(rule, "/nonResourceURLs").to_vec());
                errors.push(FieldError::invalid(
                    format!("{at}.nonResourceURLs"),
                    &urls,
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            errors.push(FieldError::required(
                format!("{at}.apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if empty("resources") {
            errors.push(FieldError::required(
                format!("{at}.resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    errors
}

/// Judges a RoleBinding or ClusterRoleBinding.
pub fn role_binding(binding: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kinds: &[&str] =
        if text(binding, "/kind") == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = text(binding, "/roleRef/kind");
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported("roleRef.kind", &kind.into(), kinds));
    }
    if text(binding, "/roleRef/name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in list(binding, "/subjects").iter().enumerate() {
        let at = format!("subjects[{index}]");
        let kind = text(subject, "/kind");
        if text(subject, "/name").is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if !["ServiceAccount", "User", "Group"].contains(&kind) {
            errors.push(FieldError::not_supported(
                format!("{at}.kind"),
                &kind.into(),
                &["ServiceAccount", "User", "Group"],
            ));
        }
        if kind == "ServiceAccount"
            && text(subject, "/namespace").is_empty()
            && text(binding, "/kind") == "ClusterRoleBinding"
        {
            errors.push(FieldError::required(format!("{at}.namespace"), ""));
        }
    }
    if old.is_some_and(|old| old.get("roleRef") != binding.get("roleRef")) {
        let (group, kind, name) = (text(binding, "/roleRef/apiGroup"), kind, text(binding, "/roleRef/name"));
        let message = format!(
            "Invalid value: {{\"APIGroup\":{group:?},\"Kind\":{kind:?},\"Name\":{name:?}}}: cannot change roleRef"
        );
        errors.push(FieldError { reason: "FieldValueInvalid", field: "roleRef".into(), message });
    }
    errors
}

/// Judges a Lease.
pub fn lease(lease: &Value, _old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(seconds) = lease.pointer("/spec/leaseDurationSeconds").filter(|s| s.as_i64().is_some_and(|s| s <= 0)) {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    if let Some(count) = lease.pointer("/spec/leaseTransitions").filter(|s| s.as_i64().is_some_and(|s| s < 0)) {
        errors.push(FieldError::invalid("spec.leaseTransitions", count, "must be greater than or equal to 0"));
    }
    errors
}

/// Judges an EndpointSlice.
pub fn endpoint_slice(slice: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let ty = text(slice, "/addressType");
    let known = ["FQDN", "IPv4", "IPv6"];
    if ty.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !known.contains(&ty) {
        errors.push(FieldError::not_supported("addressType", &ty.into(), &known));
    }
    for (index, endpoint) in list(slice, "/endpoints").iter().enumerate() {
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            errors
                .push(FieldError::required(format!("endpoints[{index}].addresses"), "must contain at least 1 address"));
        }
        for (number, address) in addresses.iter().enumerate() {
            let parsed = address.as_str().unwrap_or_default().parse::<IpAddr>();
            let fits = match ty {
                "IPv4" => matches!(parsed, Ok(IpAddr::V4(_))),
                "IPv6" => matches!(parsed, Ok(IpAddr::V6(_))),
                _ => true,
            };
            if !fits {
                let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(FieldError::invalid(format!("endpoints[{index}].addresses[{number}]"), address, detail));
            }
        }
    }
    if let Some(old) = old.filter(|old| text(old, "/addressType") != ty && !ty.is_empty()) {
        let _ = old;
        errors.push(FieldError::invalid("addressType", &ty.into(), "field is immutable"));
    }
    errors
}

/// Judges a PriorityClass.
pub fn priority_class(class: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_some_and(|old| old.get("value") != class.get("value")) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    errors
}

/// Judges a StorageClass.
pub fn storage_class(class: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(class, "/provisioner").is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    }
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        unchanged(class, old, field, &mut errors);
    }
    errors
}

/// Judges an event of `v1`.
pub fn core_event(event: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let _ = old;
    let namespace = text(event, "/metadata/namespace");
    let about = text(event, "/involvedObject/namespace");
    if about != namespace && !(about.is_empty() && namespace == "default") {
        errors.push(FieldError::invalid("involvedObject.namespace", &about.into(), "does not match event.namespace"));
    }
    if event.get("eventTime").is_some_and(|t| !t.is_null()) {
        let mut converted = event.clone();
        crate::admission::events::from_storage(&mut converted);
        controller(&converted, "reportingComponent", &mut errors);
    }
    errors
}

fn controller(event: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let component = text(event, "/reportingController");
    if component.is_empty() {
        errors.push(FieldError::required(field, ""));
    }
    for detail in names::qualified(component) {
        errors.push(FieldError::invalid(field, &component.into(), &detail));
    }
    for key in ["reportingInstance", "action"] {
        if text(event, &format!("/{key}")).is_empty() {
            errors.push(FieldError::required(key, ""));
        }
    }
}

/// Judges an event of `events.k8s.io`.
pub fn new_event(event: &Value, old: Option<&Value>, _: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(old) = old {
        if event.get("reason") != old.get("reason") {
            // It is told of twice.
            errors.push(FieldError::invalid("reason", &event["reason"], "field is immutable"));
        }
        for (field, shown) in [
            ("reason", "reason"),
            ("action", "action"),
            ("regarding", "involvedObject"),
            ("note", "message"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("reportingController", "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("related", "related"),
        ] {
            if event.get(field) != old.get(field) {
                errors.push(FieldError::invalid(shown, &event[field], "field is immutable"));
            }
        }
        return errors;
    }
    if event.get("eventTime").is_none_or(Value::is_null) {
        return vec![FieldError::required("eventTime", "")];
    }
    controller(event, "reportingController", &mut errors);
    if text(event, "/reason").is_empty() {
        errors.push(FieldError::required("reason", ""));
    }
    if text(event, "/note").len() > 1024 {
        errors.push(FieldError::invalid("message", &json!(""), "can have at most 1024 characters"));
    }
    if !["Normal", "Warning"].contains(&text(event, "/type")) {
        errors.push(FieldError::invalid("type", &"".into(), &format!("has invalid value: {}", text(event, "/type"))));
    }
    for (field, shown) in [
        ("deprecatedCount", "count"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
    ] {
        if event.get(field).is_some_and(|v| !v.is_null()) {
            errors.push(FieldError::invalid(shown, &"".into(), "needs to be unset"));
        }
    }
    errors
}

/// Warns of a TLS secret that holds no certificate.
pub fn secret_warnings(secret: &Value, _old: Option<&Value>) -> Vec<String> {
    use base64::Engine as _;
    let certificate = secret.pointer("/data/tls.crt").and_then(Value::as_str).unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap_or_default();
    let is_pem = String::from_utf8_lossy(&bytes).contains("-----BEGIN ");
    if text(secret, "/type") == "kubernetes.io/tls" && !is_pem {
        return vec!["tls: failed to find any PEM data in certificate input".to_owned()];
    }
    Vec::new()
}
