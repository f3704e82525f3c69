//! All reads: the topology's root and family, ConfigMaps, passwords, certificates, server ids.

use std::collections::BTreeMap;

use api::resolved::{Resolved, RootPassword, SecretKey};
use api::{MariaDB, names};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Resource as _, ResourceExt as _};

use super::{Trouble, call, certificates, numbers, secrets};
use crate::Context;
use crate::replication::family;

/// What was read.
pub(super) struct Dereferenced {
    /// The object, with what it takes from its root.
    pub(super) object: Resolved,
    pub(super) root: Resolved,
    /// Names of the topology's objects.
    pub(super) family: Vec<String>,
    /// The topology has one member.
    pub(super) single_member: bool,
    pub(super) user_cnf: String,
    pub(super) replication_password: Option<SecretKey>,
    pub(super) server_id_base: u32,
}

/// Reads what can be read without asking the API server for passwords.
pub(super) async fn dereference(
    context: &Context,
    given: &MariaDB,
    mut object: Resolved,
) -> Result<Dereferenced, Trouble> {
    let (root, family) = topology(context, &object)?;
    if root.name != object.name {
        // Members that were cloned from the primary have its accounts and their passwords.
        api::resolve::follow(&mut object, &given.spec, &root);
    }
    let replication_password = object.replication.as_ref().map(|replication| replication.account.password.clone());
    let user_cnf = user_cnf(context, &object).await?;
    if object.my_cnf_from.is_some() {
        let own = object.my_cnf.clone().unwrap_or_default();
        api::resolve::check_config_map(&own, &user_cnf, &mut object).map_err(Trouble::Mistakes)?;
    }
    let server_id_base = numbers::first_server_id(context, &object, &root, &family).await?;
    Ok(Dereferenced {
        object,
        root,
        single_member: family.values().sum::<u32>() <= 1,
        family: family.into_keys().collect(),
        user_cnf,
        replication_password,
        server_id_base,
    })
}

/// The root, and all objects with the number of members of each.
fn topology(context: &Context, object: &Resolved) -> Result<(Resolved, BTreeMap<String, u32>), Trouble> {
    let near: Vec<_> = context
        .caches
        .objects
        .state()
        .into_iter()
        .filter(|other| other.namespace().as_deref() == Some(&object.namespace))
        .filter(|other| other.metadata.deletion_timestamp.is_none())
        .collect();
    let mut families = crate::replication::families(&near);
    if let Some(orphan) = families.orphans.remove(&object.name) {
        return Err(Trouble::Waiting { reason: family::Orphan::reason(&orphan), message: orphan.to_string() });
    }
    let found = families.roots.into_iter().find(|(_, members)| members.contains(&object.name));
    let Some((root, members)) = found else {
        return Err(Trouble::Waiting {
            reason: "TopologyNotKnown",
            message: "the object is not in the cache yet".to_owned(),
        });
    };
    let of = |name: &str| near.iter().find(|other| other.name_any() == name);
    let resolved = match of(&root) {
        _ if root == object.name => object.clone(),
        Some(root) => api::resolve(root).map_err(|mistakes| Trouble::Waiting {
            reason: "PrimaryInvalid",
            message: format!(
                "the MariaDB {} has mistakes of its own: {}",
                root.name_any(),
                mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            ),
        })?,
        None => object.clone(),
    };
    let count = |name: &String| of(name).map_or(0, |other| other.spec.replicas.unwrap_or(1).max(0) as u32);
    Ok((resolved, members.iter().map(|name| (name.clone(), count(name))).collect()))
}

/// The user's `my.cnf`: the spec's first, so that lines are the user's lines.
async fn user_cnf(context: &Context, object: &Resolved) -> Result<String, Trouble> {
    let mut text = object.my_cnf.clone().unwrap_or_default();
    let Some(reference) = &object.my_cnf_from else { return Ok(text) };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &object.namespace);
    let found = call(|| format!("read ConfigMap {}", reference.name), api.get_opt(&reference.name)).await?;
    let Some(found) = found else {
        return Err(Trouble::Waiting {
            reason: "ConfigMapNotFound",
            message: format!(
                "the ConfigMap {} (spec.myCnfConfigMapKeyRef) does not exist; waiting for it",
                reference.name
            ),
        });
    };
    let Some(more) = found.data.and_then(|mut data| data.remove(&reference.key)) else {
        return Err(Trouble::Waiting {
            reason: "ConfigMapKeyNotFound",
            message: format!(
                "the ConfigMap {} has no key {} (spec.myCnfConfigMapKeyRef); waiting for it",
                reference.name, reference.key
            ),
        });
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&more);
    Ok(text)
}

/// Sees to it that all Secrets exist that the members mount. Everything that is missing is named at once.
pub(super) async fn ensure_secrets(
    context: &Context,
    given: &MariaDB,
    known: &Dereferenced,
    certificate_names: &[String],
) -> Result<(), Trouble> {
    let Dereferenced { object, root, replication_password, .. } = known;
    let namespace = &object.namespace;
    let is_root = root.name == object.name;
    let inherit = object.pod.inherit.clone();
    let mut labels = inherit.labels.unwrap_or_default();
    labels.extend(names::labels(&object.name, &root.name));
    let meta = ObjectMeta {
        namespace: Some(namespace.clone()),
        labels: Some(labels),
        annotations: inherit.annotations,
        owner_references: given.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    // A split object's passwords are its root's: that one makes them.
    let mut passwords = Vec::new();
    if let RootPassword::Secret(key) = &object.root_password {
        passwords.push((key, "root's password".to_owned(), "spec.rootPasswordSecretKeyRef"));
    }
    if let Some(key) = replication_password {
        let field = "spec.replication.replication.passwordSecretKeyRef";
        passwords.push((key, "the replication accounts' password".to_owned(), field));
    }
    if let Some(user) = &object.user {
        passwords.push((&user.password, format!("the password of {}", user.name), "spec.passwordSecretKeyRef"));
    }
    let mut missing = Vec::new();
    for (key, what_for, field) in &passwords {
        let key = SecretKey { generate: key.generate && is_root, ..(*key).clone() };
        let password = secrets::Password { key: &key, what_for, field, owner: (&root.name, &root.uid) };
        missing.push(secrets::ensure(context, namespace, &password, &meta).await);
    }
    let ca = certificates::ca(context, root, is_root.then_some(&meta)).await;
    match ca {
        Err(trouble) => missing.push(Err(trouble)),
        Ok(ca) => {
            let mut leaves = vec![(names::agent_tls(&object.name), protocol::AGENT_COMMON_NAME)];
            if object.tls {
                leaves.push((names::server_tls(&object.name), object.name.as_str()));
            }
            for (secret, common_name) in leaves {
                let leaf = certificates::Leaf { secret, common_name, names: certificate_names };
                missing.push(certificates::ensure(context, namespace, &ca, &leaf, &meta).await);
            }
        }
    }
    all(missing)
}

/// The first failure; of what is merely waited for, everything at once.
fn all(results: Vec<Result<(), Trouble>>) -> Result<(), Trouble> {
    let mut waiting: Option<(&'static str, Vec<String>)> = None;
    for result in results {
        match result {
            Ok(()) => {}
            Err(Trouble::Waiting { reason, message }) => {
                waiting.get_or_insert((reason, Vec::new())).1.push(message);
            }
            Err(other) => return Err(other),
        }
    }
    match waiting {
        None => Ok(()),
        Some((reason, messages)) => Err(Trouble::Waiting { reason, message: messages.join("; ") }),
    }
}
