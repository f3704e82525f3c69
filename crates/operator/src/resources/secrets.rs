//! Passwords: the user's, or made once. One that was made never changes by itself.

use std::collections::BTreeMap;

use api::resolved::SecretKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rand::Rng as _;

use super::{Trouble, call};
use crate::Context;

/// Characters of a made password: none that a shell, a URL or a `my.cnf` would take for something else.
const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
/// Their number: over 180 bits.
const LENGTH: usize = 32;

fn password() -> ByteString {
    let mut random = rand::rng();
    ByteString((0..LENGTH).map(|_| ALPHABET[random.random_range(0..ALPHABET.len())]).collect())
}

/// Sees to it that a password exists. `meta` is for one that must be made.
pub(super) async fn ensure(
    context: &Context,
    namespace: &str,
    key: &SecretKey,
    what_for: &str,
    meta: &ObjectMeta,
) -> Result<(), Trouble> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let SecretKey { name, key, generate } = key;
    let existing = call(|| format!("read Secret {name}"), api.get_opt(name)).await?;
    let has = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    match existing {
        Some(secret) if has(&secret) => Ok(()),
        None if *generate => {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.clone()), ..meta.clone() },
                data: Some(BTreeMap::from([(key.clone(), password())])),
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
                "data": {key: password()},
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
