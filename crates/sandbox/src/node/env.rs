//! A container's environment: values, references to other objects, and `$(NAME)` in values and commands.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, ResourceFieldSelector, Secret};
use kube::{Api, Client, ResourceExt};

use crate::quantity;

/// An environment that cannot be made. A container waits with the reason `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A Secret or ConfigMap does not exist.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `secret` or `configmap`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Where.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field that cannot be referred to.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// The API did not answer.
    #[error("{0}")]
    Api(#[source] Box<kube::Error>),
}

/// Facts that only the node knows.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// The pod's address.
    pub pod_ip: String,
    /// The node's address.
    pub host_ip: String,
}

/// Text of a field of the pod, as `fieldRef` names it; `None` for a path that there is not.
pub fn field(pod: &Pod, facts: &NodeFacts, path: &str) -> Option<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let lines =
        |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n");
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        _ => return None,
    })
}

/// Text of a container's request or limit, divided and rounded up.
pub fn resource_field(container: &Container, selector: &ResourceFieldSelector) -> Option<String> {
    let (list, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let value = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return None,
    }
    .and_then(|map| map.get(resource));
    let millis = match value {
        Some(quantity) => quantity::millis(&quantity.0)?,
        // Without a limit a container may use what the machine has.
        None if list == "limits" && resource == "cpu" => {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i128 * 1000
        }
        None if list == "limits" && resource == "memory" => i128::from(quantity::machine_memory()) * 1000,
        None => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(|d| quantity::millis(&d.0)).filter(|d| *d > 0).unwrap_or(1000);
    Some(((millis + divisor - 1) / divisor).to_string())
}

/// Replaces `$(NAME)`; `$$(NAME)` stays as `$(NAME)`; unknown names stay as they are.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(end) = rest.strip_prefix('(').and_then(|r| r.find(')')) {
            let name = &rest[1..=end];
            match known.get(name) {
                Some(value) => result.push_str(value),
                None => result.extend(["$(", name, ")"]),
            }
            rest = &rest[end + 2..];
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

/// The environment that a container's own entries give, in order.
pub async fn resolve(
    client: &Client,
    pod: &Pod,
    container: &Container,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut source = Source { client, namespace: &namespace, secrets: BTreeMap::new(), config_maps: BTreeMap::new() };
    let mut known = BTreeMap::new();
    let mut result: Vec<(String, String)> = Vec::new();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        known.insert(name.clone(), value.clone());
        result.retain(|(n, _)| *n != name);
        result.push((name, value));
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        let data = if let Some(secret) = &from.secret_ref {
            source.secret(&secret.name, secret.optional).await?
        } else if let Some(map) = &from.config_map_ref {
            source.config_map(&map.name, map.optional).await?
        } else {
            continue;
        };
        for (key, value) in data {
            set(&mut known, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &known)),
            Some(from) => {
                if let Some(reference) = &from.field_ref {
                    let path = &reference.field_path;
                    Some(field(pod, facts, path).ok_or_else(|| EnvError::Field(path.clone()))?)
                } else if let Some(selector) = &from.resource_field_ref {
                    let unknown = || EnvError::Field(selector.resource.clone());
                    Some(resource_field(container, selector).ok_or_else(unknown)?)
                } else if let Some(key) = &from.secret_key_ref {
                    let data = source.secret(&key.name, key.optional).await?;
                    source.key("Secret", data, &key.name, &key.key, key.optional)?
                } else if let Some(key) = &from.config_map_key_ref {
                    let data = source.config_map(&key.name, key.optional).await?;
                    source.key("ConfigMap", data, &key.name, &key.key, key.optional)?
                } else {
                    None
                }
            }
        };
        if let Some(value) = value {
            set(&mut known, variable.name.clone(), value);
        }
    }
    Ok(result)
}

/// Objects that were read for one container.
struct Source<'a> {
    client: &'a Client,
    namespace: &'a str,
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    config_maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Source<'_> {
    async fn secret(&mut self, name: &str, optional: Option<bool>) -> Result<BTreeMap<String, String>, EnvError> {
        if let Some(known) = self.secrets.get(name) {
            return Ok(known.clone());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
        let object = api.get_opt(name).await.map_err(|e| EnvError::Api(Box::new(e)))?;
        let data = match object {
            Some(secret) => secret.data.unwrap_or_default(),
            None if optional == Some(true) => BTreeMap::new(),
            None => return Err(EnvError::Missing { kind: "secret", name: name.to_owned() }),
        };
        let text: BTreeMap<String, String> =
            data.into_iter().map(|(k, v)| (k, String::from_utf8_lossy(&v.0).into_owned())).collect();
        self.secrets.insert(name.to_owned(), text.clone());
        Ok(text)
    }

    async fn config_map(&mut self, name: &str, optional: Option<bool>) -> Result<BTreeMap<String, String>, EnvError> {
        if let Some(known) = self.config_maps.get(name) {
            return Ok(known.clone());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        let object = api.get_opt(name).await.map_err(|e| EnvError::Api(Box::new(e)))?;
        let data = match object {
            Some(map) => map.data.unwrap_or_default(),
            None if optional == Some(true) => BTreeMap::new(),
            None => return Err(EnvError::Missing { kind: "configmap", name: name.to_owned() }),
        };
        self.config_maps.insert(name.to_owned(), data.clone());
        Ok(data)
    }

    fn key(
        &self,
        kind: &'static str,
        mut data: BTreeMap<String, String>,
        name: &str,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<String>, EnvError> {
        match data.remove(key) {
            Some(value) => Ok(Some(value)),
            None if optional == Some(true) => Ok(None),
            None => Err(EnvError::Key {
                kind,
                namespace: self.namespace.to_owned(),
                name: name.to_owned(),
                key: key.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x$(A)y $$(A) $(B) $A $", &known), "x1y $(A) $(B) $A $");
    }
}
