//! Role-based access control: roles and bindings are read from the store on each decision.

use serde_json::Value;

use crate::admission::{list, name, text};
use crate::identity::Identity;
use crate::server::Server;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// A path that is no resource.
    pub(super) path: Option<String>,
}

impl Attributes {
    /// A path that is no resource.
    pub(super) fn path(method: &str, path: &str) -> Self {
        Self { verb: method.to_lowercase(), path: Some(path.to_owned()), ..Self::default() }
    }

    /// A resource of the cluster.
    pub(super) fn resource(verb: &str, group: &str, resource: &str, name: &str) -> Self {
        Self { verb: verb.into(), group: group.into(), resource: resource.into(), name: name.into(), ..Self::default() }
    }
}

fn objects(server: &Server, plural: &str, namespace: Option<&str>) -> Vec<Value> {
    let (_, found) = server.store().list(&(GROUP.to_owned(), plural.to_owned()), namespace);
    found.iter().map(|o| o.value()).collect()
}

/// Whether a user is among a binding's subjects; the subject, as reasons name it.
fn subject(identity: &Identity, binding: &Value) -> Option<String> {
    list(binding, "/subjects").iter().find_map(|subject| {
        let own = text(subject, "/name");
        match text(subject, "/kind") {
            "User" if own == identity.name => Some(format!("User {own:?}")),
            "Group" if identity.groups.iter().any(|g| g == own) => Some(format!("Group {own:?}")),
            "ServiceAccount" => {
                let namespace = match text(subject, "/namespace") {
                    "" => text(binding, "/metadata/namespace"),
                    other => other,
                };
                let full = format!("system:serviceaccount:{namespace}:{own}");
                (full == identity.name).then(|| format!("ServiceAccount \"{own}/{namespace}\""))
            }
            _ => None,
        }
    })
}

/// The rules of the role that a binding refers to.
fn rules(server: &Server, binding: &Value) -> Vec<Value> {
    let (plural, namespace) = match text(binding, "/roleRef/kind") {
        "Role" => ("roles", text(binding, "/metadata/namespace")),
        _ => ("clusterroles", ""),
    };
    let role = server.store().get(&(GROUP.to_owned(), plural.to_owned()), namespace, text(binding, "/roleRef/name"));
    role.map_or_else(Vec::new, |role| role_rules(server, &role.value()))
}

/// The rules of a role, and of the roles it gathers.
fn role_rules(server: &Server, role: &Value) -> Vec<Value> {
    let mut rules = list(role, "/rules").to_vec();
    let selectors = list(role, "/aggregationRule/clusterRoleSelectors");
    if !selectors.is_empty() {
        for other in objects(server, "clusterroles", None) {
            let matches = selectors.iter().any(|selector| {
                let labels = selector.get("matchLabels").and_then(Value::as_object);
                labels.is_some_and(|l| {
                    l.iter().all(|(k, v)| other.pointer("/metadata/labels").and_then(|o| o.get(k)) == Some(v))
                })
            });
            if matches && name(&other) != name(role) {
                rules.extend(role_rules(server, &other));
            }
        }
    }
    rules
}

fn has(rule: &Value, key: &str, wanted: &str) -> bool {
    list(rule, &format!("/{key}")).iter().any(|v| v == wanted || v == "*")
}

fn allows(rule: &Value, attributes: &Attributes) -> bool {
    if !has(rule, "verbs", &attributes.verb) {
        return false;
    }
    if let Some(path) = &attributes.path {
        return list(rule, "/nonResourceURLs").iter().filter_map(Value::as_str).any(|url| {
            match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            }
        });
    }
    let subresource = &attributes.subresource;
    let full = if subresource.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}/{subresource}", attributes.resource)
    };
    let any_parent =
        !subresource.is_empty() && list(rule, "/resources").iter().any(|r| *r == format!("*/{subresource}"));
    let names = list(rule, "/resourceNames");
    has(rule, "apiGroups", &attributes.group)
        && (has(rule, "resources", &full) || any_parent)
        && (names.is_empty() || names.iter().any(|n| *n == attributes.name))
}

/// The bindings that concern a user in a namespace, each with its subject.
fn bindings(server: &Server, identity: &Identity, namespace: &str) -> Vec<(Value, String)> {
    let mut found: Vec<Value> = objects(server, "clusterrolebindings", None);
    if !namespace.is_empty() {
        found.extend(objects(server, "rolebindings", Some(namespace)));
    }
    found.into_iter().filter_map(|b| subject(identity, &b).map(|s| (b, s))).collect()
}

/// Why a request is allowed (nothing is said of administrators); `None` when it is not.
pub(super) fn decide(server: &Server, identity: &Identity, attributes: &Attributes) -> Option<String> {
    if identity.is_administrator() {
        return Some(String::new());
    }
    bindings(server, identity, &attributes.namespace).into_iter().find_map(|(binding, subject)| {
        let allowed = rules(server, &binding).iter().any(|rule| allows(rule, attributes));
        allowed.then(|| {
            let namespace = text(&binding, "/metadata/namespace");
            let (kind, own) = if namespace.is_empty() {
                ("ClusterRoleBinding", name(&binding).to_owned())
            } else {
                ("RoleBinding", format!("{}/{namespace}", name(&binding)))
            };
            format!(
                "RBAC: allowed by {kind} {own:?} of {} {:?} to {subject}",
                text(&binding, "/roleRef/kind"),
                text(&binding, "/roleRef/name")
            )
        })
    })
}

/// Every rule that holds for a user in a namespace.
pub(super) fn all_rules(server: &Server, identity: &Identity, namespace: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for (binding, _) in bindings(server, identity, namespace) {
        for rule in rules(server, &binding) {
            if !all.contains(&rule) {
                all.push(rule);
            }
        }
    }
    all
}
