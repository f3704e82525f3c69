//! Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pod::{port_name, port_number};
use super::{FieldError, names};
use crate::admission::{list, text};
use crate::kind::Operation;

/// Judges a service.
pub fn service(service: &Value, old: Option<&Value>, operation: Operation) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if operation == Operation::Subresource {
        return errors;
    }
    if let Some(old) = old {
        let (new_ip, old_ip) = (text(service, "/spec/clusterIP"), text(old, "/spec/clusterIP"));
        if !old_ip.is_empty()
            && text(service, "/spec/type") != "ExternalName"
            && text(old, "/spec/type") != "ExternalName"
            && new_ip != old_ip
        {
            errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!([new_ip]), "may not change once set"));
        }
    }
    let ty = text(service, "/spec/type");
    let headless = text(service, "/spec/clusterIP") == "None";
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let ports = list(service, "/spec/ports");
    if ports.is_empty() && !headless && ty != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if ty == "ExternalName" {
        let external = text(service, "/spec/externalName");
        if external.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else if let Some(detail) = names::subdomain(external.trim_end_matches('.')) {
            errors.push(FieldError::invalid("spec.externalName", &external.into(), &detail));
        }
    }
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        one_port(port, &at, ports.len() > 1, ty, &mut seen_names, &mut errors);
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        let protocol = text(port, "/protocol");
        if !seen_ports.insert((protocol.to_owned(), number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.push(FieldError {
                reason: "FieldValueDuplicate",
                field: at,
                message: format!("Duplicate value: {shown}"),
            });
        }
    }
    names::labels(service.pointer("/spec/selector"), "spec.selector", &mut errors);
    let affinity = text(service, "/spec/sessionAffinity");
    if !["ClientIP", "None"].contains(&affinity) {
        errors.push(FieldError::not_supported("spec.sessionAffinity", &affinity.into(), &["ClientIP", "None"]));
    }
    if !types.contains(&ty) {
        errors.push(FieldError::not_supported("spec.type", &ty.into(), &types));
    }
    errors
}

fn one_port<'p>(
    port: &'p Value,
    at: &str,
    named: bool,
    ty: &str,
    seen: &mut BTreeSet<&'p str>,
    errors: &mut Vec<FieldError>,
) {
    let name = text(port, "/name");
    if name.is_empty() {
        if named {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
    } else if let Some(detail) = names::label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &detail));
    } else if !seen.insert(name) {
        errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
    }
    port_number(port.get("port").and_then(Value::as_i64).unwrap_or(0), &format!("{at}.port"), errors);
    let protocol = text(port, "/protocol");
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        errors.push(FieldError::not_supported(format!("{at}.protocol"), &protocol.into(), &["SCTP", "TCP", "UDP"]));
    }
    match port.get("targetPort") {
        Some(Value::Number(number)) => port_number(number.as_i64().unwrap_or(0), &format!("{at}.targetPort"), errors),
        Some(Value::String(target)) => {
            if let Some(detail) = port_name(target) {
                errors.push(FieldError::invalid(format!("{at}.targetPort"), &target.as_str().into(), &detail));
            }
        }
        _ => {}
    }
    if let Some(number) = port.get("nodePort").and_then(Value::as_i64).filter(|n| *n != 0) {
        if matches!(ty, "NodePort" | "LoadBalancer") {
            if !(30_000..=32_767).contains(&number) {
                let detail = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                errors.push(FieldError::invalid(format!("{at}.nodePort"), &number.into(), detail));
            }
        } else {
            errors.push(FieldError::forbidden(format!("{at}.nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
}

/// Warns of fields that are going away.
pub fn warnings(service: &Value, _old: Option<&Value>) -> Vec<String> {
    if list(service, "/spec/externalIPs").is_empty() {
        return Vec::new();
    }
    vec!["spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned()]
}
