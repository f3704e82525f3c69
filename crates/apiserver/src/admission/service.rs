//! Services: addresses and node ports.

use std::net::Ipv4Addr;

use rand::Rng as _;
use serde_json::{Value, json};

use super::{all, list, name, text};
use crate::kind::{Operation, Write};
use crate::status::ApiError;
use crate::validate::FieldError;

/// Defaults that depend on other fields.
pub fn default(service: &mut Value) {
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let target = port.get("targetPort");
        if target.is_none() || target == Some(&json!(0)) || target == Some(&json!("")) {
            port["targetPort"] = port["port"].clone();
        }
    }
    let ty = text(service, "/spec/type").to_owned();
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        if ty == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
                if spec.get(field).is_none_or(|v| field != "clusterIP" || v == "") {
                    spec.remove(field);
                }
            }
        }
        if spec.get("clusterIP") == Some(&json!("")) {
            spec.remove("clusterIP");
        }
    }
}

/// Keeps what an update leaves out, and drops what belongs to the type it had before.
pub fn prepare(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    let ty = text(service, "/spec/type").to_owned();
    let before = text(old, "/spec/type").to_owned();
    if !service["spec"].is_object() {
        return;
    }
    if ty != "ExternalName" && before != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if service["spec"].get(field).is_none()
                && let Some(kept) = old["spec"].get(field)
            {
                service["spec"][field] = kept.clone();
            }
        }
    }
    if ty == "ExternalName" && before != "ExternalName" {
        let kept = service["spec"].get("clusterIP") == old["spec"].get("clusterIP");
        if let Some(spec) = service["spec"].as_object_mut().filter(|_| kept) {
            spec.remove("clusterIP");
        }
    }
    let before_ports = matches!(before.as_str(), "NodePort" | "LoadBalancer");
    let has_node_ports = matches!(ty.as_str(), "NodePort" | "LoadBalancer");
    let old_ports = list(old, "/spec/ports").to_vec();
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let twin = old_ports.iter().find(|o| o["port"] == port["port"] && o["protocol"] == port["protocol"]);
        let same = twin.is_some_and(|o| o.get("nodePort") == port.get("nodePort"));
        if before_ports && !has_node_ports && same {
            port.as_object_mut().map(|p| p.remove("nodePort"));
        } else if has_node_ports
            && port.get("nodePort").is_none()
            && let Some(node_port) = twin.and_then(|o| o.get("nodePort"))
        {
            port["nodePort"] = node_port.clone();
        }
    }
    if let Some(spec) = service["spec"].as_object_mut() {
        if before_ports && !has_node_ports {
            spec.remove("externalTrafficPolicy");
        }
        if ty != "LoadBalancer" && before == "LoadBalancer" {
            spec.remove("allocateLoadBalancerNodePorts");
            spec.remove("loadBalancerClass");
        }
        if !(ty == "LoadBalancer" && spec.get("externalTrafficPolicy") == Some(&json!("Local"))) {
            spec.remove("healthCheckNodePort");
        }
    }
}

/// Allocates addresses and ports.
pub fn admit(write: &Write<'_>, service: Option<&mut Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(service) = service.filter(|_| write.subresource.is_empty() && write.operation != Operation::Delete) else {
        return Ok(());
    };
    let ty = text(service, "/spec/type").to_owned();
    if ty == "ExternalName" || !service["spec"].is_object() {
        return super::quota::admit(write, Some(service));
    }
    if text(service, "/spec/sessionAffinity") == "None" {
        service["spec"].as_object_mut().map(|s| s.remove("sessionAffinityConfig"));
    }
    let invalid = |service: &Value, error: FieldError| Err(ApiError::invalid(write.kind, name(service), &[error]));
    let others = all(write, "", "services", None);
    let own_name = (text(service, "/metadata/namespace").to_owned(), name(service).to_owned());
    let is_other = |o: &&Value| (text(o, "/metadata/namespace"), name(o)) != (own_name.0.as_str(), own_name.1.as_str());
    let taken: Vec<String> = others.iter().filter(is_other).map(|o| text(o, "/spec/clusterIP").to_owned()).collect();
    let first = list(service, "/spec/clusterIPs").first().and_then(Value::as_str).map(str::to_owned);
    let wanted = match text(service, "/spec/clusterIP") {
        "" => first.unwrap_or_default(),
        given => given.to_owned(),
    };
    let before = old.map(|o| text(o, "/spec/clusterIP").to_owned()).unwrap_or_default();
    let address = if wanted.is_empty() {
        free_address(write.service_network, &taken)
    } else {
        if wanted != "None" && wanted != before {
            match wanted.parse::<Ipv4Addr>() {
                Err(_) => {
                    let error = FieldError::invalid(
                        "spec.clusterIPs[0]",
                        &wanted.as_str().into(),
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    );
                    return invalid(service, error);
                }
                Ok(ip) if before.is_empty() && ip.octets()[..2] != write.service_network => {
                    let detail = format!(
                        "failed to allocate IP {wanted}: the provided network does not match the current range"
                    );
                    return invalid(service, FieldError::invalid("spec.clusterIPs", &json!([wanted]), &detail));
                }
                Ok(_) if before.is_empty() && taken.contains(&wanted) => {
                    let detail = format!("failed to allocate IP {wanted}: provided IP is already allocated");
                    return invalid(service, FieldError::invalid("spec.clusterIPs", &json!([wanted]), &detail));
                }
                Ok(_) => {}
            }
        }
        wanted
    };
    service["spec"]["clusterIP"] = address.as_str().into();
    service["spec"]["clusterIPs"] = json!([address]);
    let unselected = service["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if address == "None"
        && unselected
        && service["spec"].get("ipFamilyPolicy").is_none()
        && service["spec"].get("ipFamilies").is_none()
    {
        // Endpoints that someone else writes can be of either family.
        service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        service["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    }
    if service["spec"].get("ipFamilies").is_none() {
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
    }
    if service["spec"].get("ipFamilyPolicy").is_none() {
        service["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    }
    node_ports(&ty, service, &others, &is_other);
    super::quota::admit(write, Some(service))
}

fn free_address([a, b]: [u8; 2], taken: &[String]) -> String {
    let mut rng = rand::rng();
    loop {
        // The lowest addresses are for well-known services (the API's, DNS).
        let address = Ipv4Addr::new(a, b, rng.random_range(1..255), rng.random_range(1..255)).to_string();
        if !taken.contains(&address) {
            return address;
        }
    }
}

fn node_ports(ty: &str, service: &mut Value, others: &[Value], is_other: &dyn Fn(&&Value) -> bool) {
    let wants = ty == "NodePort"
        || (ty == "LoadBalancer"
            && service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)));
    let mut taken: Vec<i64> = others
        .iter()
        .filter(is_other)
        .flat_map(|o| list(o, "/spec/ports"))
        .filter_map(|p| p.get("nodePort")?.as_i64())
        .collect();
    taken.extend(list(service, "/spec/ports").iter().filter_map(|p| p.get("nodePort")?.as_i64()));
    let mut rng = rand::rng();
    let mut free = || loop {
        let port = rng.random_range(30_000..32_768);
        if !taken.contains(&port) {
            taken.push(port);
            return port;
        }
    };
    if wants {
        for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.get("nodePort").is_none() {
                port["nodePort"] = free().into();
            }
        }
    }
    if ty == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
        && service.pointer("/spec/healthCheckNodePort").is_none()
    {
        service["spec"]["healthCheckNodePort"] = free().into();
    }
}
