//! Server-side apply of children: only what differs from what was applied last, never over somebody else's object, and what is
//! no longer wanted is removed.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use api::names;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Trouble, call};
use crate::Context;
use crate::watches::{Child, kind_of};

/// What was applied: hash of what was sent, and what the object was after it.
#[derive(Debug, Default)]
pub(super) struct Applied(HashMap<(&'static str, String), (String, Child)>);

/// Who is about to make what: two new objects must not both find a name free. Kind, namespace and name of the child; UID and
/// name of the object.
pub(crate) type SharedClaims = Arc<Mutex<HashMap<(&'static str, String, String), (String, String)>>>;

/// Gives up what an object claimed and did not make (`applied`: what it made; without it, all).
pub(super) fn release(claims: &SharedClaims, uid: &str, applied: Option<&Applied>) {
    let mut claims = claims.lock().unwrap_or_else(PoisonError::into_inner);
    claims.retain(|(kind, _, name), (owner, _)| {
        owner != uid || applied.is_some_and(|applied| applied.0.contains_key(&(*kind, name.clone())))
    });
}

/// A kind of children.
pub(super) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}

/// Applies one object.
pub(super) async fn apply<K: Kind>(api: &Api<K>, object: &K) -> Result<K, Trouble> {
    let name = object.name_any();
    let params = PatchParams::apply(names::RESOURCES_MANAGER).force();
    call(|| format!("apply {} {name}", K::kind(&())), api.patch(&name, &params, &Patch::Apply(object))).await
}

/// Whether an object is as it was when it was applied. A cache that is behind shows an older one: that is no change.
fn untouched(known: &Child, applied: &Child) -> bool {
    if known.uid != applied.uid || known.deleting {
        return false;
    }
    match (known.generation, applied.generation) {
        (Some(known), Some(applied)) if applied > 0 => known <= applied,
        _ => match (known.version.parse::<u64>(), applied.version.parse::<u64>()) {
            (Ok(known), Ok(applied)) => known <= applied,
            _ => known.version == applied.version,
        },
    }
}

/// Applies a child if need be.
pub(super) async fn child<K: Kind>(
    context: &Context,
    applied: &mut Applied,
    object: &K,
    known: Option<Child>,
) -> Result<(), Trouble> {
    let kind = kind_of::<K>();
    let name = object.name_any();
    let hash = manifests::hash(object);
    let slot = (kind, name.clone());
    if let (Some(known), Some((last, then))) = (&known, applied.0.get(&slot))
        && *last == hash
        && untouched(known, then)
    {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), object.meta().namespace.as_deref().unwrap_or_default());
    let result = apply(&api, object).await?;
    applied.0.insert(slot, (hash, Child::of(result.meta())));
    Ok(())
}

/// Why something that is there is not the object's (its name and UID) to use or change; `None`: it is.
pub(super) fn refusal(kind: &'static str, name: &str, found: &Child, (ours, uid): (&str, &str)) -> Option<Trouble> {
    let owner = match &found.owner {
        Some((_, theirs)) if theirs == uid => return None,
        // Its owner was deleted, and made again: the garbage collector removes what the old one left.
        Some((theirs, _)) if theirs == ours => {
            return Some(Trouble::Waiting {
                reason: "ChildBeingDeleted",
                message: format!("{kind} {name} of the former MariaDB {ours} is still being deleted"),
            });
        }
        Some((theirs, _)) => format!("the MariaDB {theirs}"),
        None => "nobody that the operator knows (it has no owner)".to_owned(),
    };
    Some(Trouble::NameTaken { kind, name: name.to_owned(), owner })
}

/// Refuses to touch what belongs to another object, or to nobody of ours. Asked of all children before any is applied.
pub(super) async fn claim<K: Kind>(
    context: &Context,
    applied: &Applied,
    object: &K,
    known: Option<Child>,
) -> Result<(), Trouble> {
    let name = object.name_any();
    let kind = kind_of::<K>();
    if applied.0.contains_key(&(kind, name.clone())) {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), object.meta().namespace.as_deref().unwrap_or_default());
    let own = Child::of(object.meta()).owner;
    let known = match known {
        Some(known) => Some(known),
        None => call(|| format!("read {kind} {name}"), api.get_metadata_opt(&name))
            .await?
            .map(|found| Child::of(&found.metadata)),
    };
    let Some((ours, uid)) = own else { return Ok(()) };
    if let Some(refusal) = known.and_then(|known| refusal(kind, &name, &known, (&ours, &uid))) {
        return Err(refusal);
    }
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let mut claims = context.claims.lock().unwrap_or_else(PoisonError::into_inner);
    let (holder, theirs) = claims.entry((kind, namespace, name.clone())).or_insert((uid.clone(), ours));
    if *holder == uid {
        return Ok(());
    }
    Err(Trouble::NameTaken { kind, name, owner: format!("the MariaDB {theirs}") })
}

/// Removes children of a kind that are no longer wanted.
pub(super) async fn prune<K: Kind>(
    context: &Context,
    applied: &mut Applied,
    meta: &ObjectMeta,
    wanted: &[String],
) -> Result<(), Trouble> {
    let kind = kind_of::<K>();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let owner = Child::of(meta).owner.map(|(_, uid)| uid).unwrap_or_default();
    for name in context.caches.children_of(kind, &namespace, &owner) {
        if wanted.contains(&name) {
            continue;
        }
        let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
        match call(|| format!("delete {kind} {name}"), api.delete(&name, &DeleteParams::default())).await {
            Ok(_) => {}
            Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 404) => {}
            Err(trouble) => return Err(trouble),
        }
        applied.0.remove(&(kind, name));
    }
    Ok(())
}
