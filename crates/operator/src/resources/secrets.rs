//! Passwords: the user's, or made once. One that was made never changes by itself.

use std::collections::BTreeMap;

use api::resolved::SecretKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use rand::Rng as _;

use super::apply::refusal;
use super::{Trouble, call};
use crate::Context;
use crate::watches::Child;

/// Characters of a made password: none that a shell, a URL or a `my.cnf` would take for something else.
const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
/// Their number: over 180 bits.
const LENGTH: usize = 32;

fn made() -> ByteString {
    let mut random = rand::rng();
    ByteString((0..LENGTH).map(|_| ALPHABET[random.random_range(0..ALPHABET.len())]).collect())
}

/// A password that members mount.
pub(super) struct Password<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) what_for: &'a str,
    /// The field that names the Secret.
    pub(super) field: &'a str,
    /// Name and UID of the object that makes it, where it is made.
    pub(super) owner: (&'a str, &'a str),
}

/// Sees to it that a password exists. `meta` is for one that must be made.
pub(super) async fn ensure(
    context: &Context,
    namespace: &str,
    password: &Password<'_>,
    meta: &ObjectMeta,
) -> Result<(), Trouble> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let Password { key: SecretKey { name, key, generate, ours }, what_for, field, owner } = password;
    let existing = call(|| format!("read Secret {name}"), api.get_opt(name)).await?;
    let has = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    if let Some(secret) = &existing {
        let refused = if *ours { refusal("Secret", name, &Child::of(&secret.metadata), *owner) } else { None };
        match refused {
            Some(Trouble::NameTaken { kind, name, owner }) => {
                return Err(Trouble::NameTaken { kind, name, owner: format!("{owner}, and {field} does not name it") });
            }
            Some(other) => return Err(other),
            None => {}
        }
        describe(&api, secret, meta).await?;
    }
    match existing {
        Some(secret) if has(&secret) => Ok(()),
        None if *generate => {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.clone()), ..meta.clone() },
                data: Some(BTreeMap::from([(key.clone(), made())])),
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            };
            let post =
                PostParams { field_manager: Some(api::names::RESOURCES_MANAGER.to_owned()), ..PostParams::default() };
            match call(|| format!("create Secret {name}"), api.create(&post, &secret)).await {
                Ok(_) => Ok(()),
                // Made meanwhile by somebody else: theirs counts.
                Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 409) => {
                    Err(Trouble::Waiting {
                        reason: "SecretNotReady",
                        message: format!("the Secret {name} is being made"),
                    })
                }
                Err(trouble) => Err(trouble),
            }
        }
        // The user's Secret, to which a key is to be added; one that came meanwhile makes this a conflict.
        Some(secret) if *generate => {
            let patch = serde_json::json!({
                "metadata": {"resourceVersion": secret.metadata.resource_version},
                "data": {key: made()},
            });
            let params =
                PatchParams { field_manager: Some(api::names::RESOURCES_MANAGER.to_owned()), ..PatchParams::default() };
            call(|| format!("add {key} to Secret {name}"), api.patch(name, &params, &Patch::Merge(&patch)))
                .await
                .map(drop)
        }
        Some(secret) => {
            let keys: Vec<&str> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
            let has = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
            Err(Trouble::Waiting {
                reason: "SecretKeyNotFound",
                message: format!("the Secret {name} has no key {key} ({what_for}); it holds {has}; waiting for it"),
            })
        }
        None => Err(Trouble::Waiting {
            reason: "SecretNotFound",
            message: format!("the Secret {name} with the key {key} ({what_for}) does not exist; waiting for it"),
        }),
    }
}

/// Gives a Secret that is the object's the labels and annotations of `meta` that it lacks: users edit what is inherited.
pub(super) async fn describe(api: &Api<Secret>, secret: &Secret, meta: &ObjectMeta) -> Result<(), Trouble> {
    let owned = Child::of(meta).owner == Child::of(&secret.metadata).owner;
    let lacks = |has: &Option<BTreeMap<String, String>>, wanted: &Option<BTreeMap<String, String>>| {
        wanted.iter().flatten().any(|(key, value)| has.as_ref().and_then(|has| has.get(key)) != Some(value))
    };
    let has = &secret.metadata;
    if !owned || !(lacks(&has.labels, &meta.labels) || lacks(&has.annotations, &meta.annotations)) {
        return Ok(());
    }
    let name = has.name.clone().unwrap_or_default();
    let patch = serde_json::json!({"metadata": {"labels": meta.labels, "annotations": meta.annotations.clone().unwrap_or_default()}});
    let params =
        PatchParams { field_manager: Some(api::names::RESOURCES_MANAGER.to_owned()), ..PatchParams::default() };
    call(|| format!("label Secret {name}"), api.patch(&name, &params, &Patch::Merge(&patch))).await.map(drop)
}

/// Removes a Secret that is the object's.
pub(super) async fn remove(context: &Context, name: &str, meta: &ObjectMeta) -> Result<(), Trouble> {
    let namespace = meta.namespace.clone().unwrap_or_default();
    let owner = Child::of(meta).owner.map(|(_, uid)| uid).unwrap_or_default();
    let Some(known) = context.caches.child("Secret", &namespace, name) else { return Ok(()) };
    if known.deleting || known.owner.is_none_or(|(_, uid)| uid != owner) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(known.uid), resource_version: None }),
        ..DeleteParams::default()
    };
    match call(|| format!("delete Secret {name}"), api.delete(name, &params)).await {
        Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if matches!(status.code, 404 | 409)) => {
            Ok(())
        }
        other => other.map(drop),
    }
}
