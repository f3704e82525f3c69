//! One pass over one object.

use std::time::Duration;

use api::resolved::Role;
use api::spec::UpdateStrategyType;
use api::{MariaDB, Mistake, Resolved, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use manifests::{Children, Input};

use super::apply::{child, claim, prune, release};
use super::{Trouble, Worker, dereference, roll, secrets, volumes};
use crate::Context;
use crate::watches::{Child, kind_of};

/// Users' own ConfigMaps are not watched (the operator would have to know all of a cluster's), but read so often.
const LOOK_AT_CONFIG: Duration = Duration::from_secs(10);

/// What a pass found, for the status.
pub(super) struct Outcome {
    /// Mistakes, or what was resolved.
    pub(super) resolved: Result<Resolved, Vec<Mistake>>,
    /// The user's `my.cnf`, where it is known.
    pub(super) user_cnf: Option<String>,
    /// When to look again, or what is in the way.
    pub(super) result: Result<Option<Duration>, Trouble>,
    /// Why not all pods run what the spec says; `None`: they do.
    pub(super) updating: Option<(&'static str, String)>,
    /// The root that members follow, where `primaryName` names another object.
    pub(super) behind: Option<String>,
}

/// Makes an object's children as they should be.
pub(super) async fn reconcile(worker: &mut Worker, object: &MariaDB) -> Outcome {
    let resolved = match api::resolve(object) {
        Ok(resolved) => resolved,
        Err(mistakes) => {
            return Outcome { resolved: Err(mistakes), user_cnf: None, result: Ok(None), updating: None, behind: None };
        }
    };
    let mut outcome =
        Outcome { resolved: Ok(resolved.clone()), user_cnf: None, result: Ok(None), updating: None, behind: None };
    if !resolved.suspend {
        let result = Box::pin(carry_out(worker, object, resolved, &mut outcome)).await;
        outcome.result = match result {
            Err(Trouble::Mistakes(mistakes)) => {
                outcome.resolved = Err(mistakes);
                Ok(Some(LOOK_AT_CONFIG))
            }
            other => other,
        };
    }
    outcome
}

async fn carry_out(
    worker: &mut Worker,
    given: &MariaDB,
    resolved: Resolved,
    outcome: &mut Outcome,
) -> Result<Option<Duration>, Trouble> {
    let context = worker.context.clone();
    let mut known = Box::pin(dereference::dereference(&context, given, resolved)).await?;
    outcome.user_cnf = Some(known.user_cnf.clone());
    outcome.resolved = Ok(known.object.clone());
    let (namespace, name) = (known.object.namespace.clone(), known.object.name.clone());
    let current = context.caches.sets.get(&ObjectRef::new(&name).within(&namespace));
    let kind_kept = volumes::keep_kind(&mut known.object, current.as_deref());
    let object = &known.object;
    if let Some(Role::ReplicaOf { primary, .. }) = object.replication.as_ref().map(|replication| &replication.role) {
        outcome.behind = (*primary != known.root.name).then(|| known.root.name.clone());
    }
    let (pods, kept_for) = pods_wanted(&context, given, object, current.as_deref());
    let owner = given.controller_owner_ref(&()).ok_or_else(|| Trouble::Waiting {
        reason: "TopologyNotKnown",
        message: "the object has no UID yet".to_owned(),
    })?;
    let input = Input {
        object,
        root: &known.root,
        owner: owner.clone(),
        operator_image: &context.settings.operator_image,
        server_id_base: known.server_id_base,
        single_member: known.single_member,
        user_cnf: &known.user_cnf,
        replication_password: known.replication_password.as_ref(),
        pods,
    };
    let children = manifests::build(&input);
    let claimed = claim_all(worker, &children).await;
    if claimed.is_err() {
        release(&context.claims, &worker.uid, Some(&worker.applied));
    }
    claimed?;
    dereference::ensure_secrets(&context, given, &known, &manifests::certificate_names(&input)).await?;

    let Children { service_account, role, role_binding, config_map, services, disruption_budget, mut stateful_set } =
        children;
    let children_meta = ObjectMeta {
        namespace: Some(object.namespace.clone()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    apply_all(worker, &children_meta, service_account.as_slice()).await?;
    apply_all(worker, &children_meta, std::slice::from_ref(&role)).await?;
    apply_all(worker, &children_meta, std::slice::from_ref(&role_binding)).await?;
    apply_all(worker, &children_meta, std::slice::from_ref(&config_map)).await?;
    apply_all(worker, &children_meta, &services).await?;
    apply_all(worker, &children_meta, disruption_budget.as_slice()).await?;

    let pod_hash = roll::pod_hash(&stateful_set);
    let mut notice = kind_kept.or(kept_for.map(|message| ("ScalingDown", message)));
    if let Some(current) = &current {
        if object.update_strategy == UpdateStrategyType::Never {
            stateful_set.spec.template = current.spec.template.clone();
        }
        match volumes::fit(&context, object, current, &mut stateful_set).await? {
            volumes::Fit::Right => {}
            volumes::Fit::Notice(reason, message) => notice = Some((reason, message)),
            // The set is being made anew around its pods.
            volumes::Fit::Again => {
                outcome.updating =
                    Some(("ResizingVolumes", "the StatefulSet is made anew with larger volumes".to_owned()));
                return Ok(Some(Duration::from_millis(200)));
            }
        }
    }
    let known_set = current.as_deref().map(|set| Child::of(&set.metadata));
    child(&context, &mut worker.applied, &stateful_set, known_set).await?;

    let rolled = roll::roll(worker, given, object, &known.family, pod_hash.as_deref()).await?;
    outcome.updating = notice.or(rolled.updating).or_else(|| volumes::growing(&context, object));
    // No pod mounts it any more.
    if !object.tls && outcome.updating.is_none() {
        secrets::remove(&context, &names::server_tls(&object.name), &children_meta).await?;
    }
    let look = object.my_cnf_from.is_some().then_some(LOOK_AT_CONFIG);
    Ok(rolled.again.into_iter().chain(look).min())
}

/// How many pods the StatefulSet is to have: the highest ordinals go first, and each only after the replication loop has let
/// go of it (a primary has handed over by then, and no commit waits for it).
fn pods_wanted(
    context: &Context,
    given: &MariaDB,
    object: &Resolved,
    current: Option<&StatefulSet>,
) -> (u32, Option<String>) {
    let wanted = object.replicas;
    let now = current.and_then(|set| set.spec.replicas).unwrap_or(0).max(0) as u32;
    let primary = given.status.as_ref().and_then(|status| status.current_primary.as_deref());
    let stays = (wanted..now).rev().find(|&ordinal| {
        let name = names::pod(&object.name, ordinal);
        let Some(pod) = context.caches.pods.get(&ObjectRef::new(&name).within(&object.namespace)) else { return false };
        // In maintenance nobody lets go of anything, and nobody hands over.
        if object.maintenance {
            return primary == Some(name.as_str());
        }
        !context.releases.is_released(&object.namespace, &(name, pod.uid().unwrap_or_default()))
    });
    let Some(stays) = stays else { return (wanted, None) };
    let name = names::pod(&object.name, stays);
    let why = match (primary == Some(name.as_str()), object.maintenance) {
        (true, true) => "is the primary, and spec.maintenance is true: make a member below it the primary first",
        (true, false) => "is the primary and hands over first",
        (false, _) => "is needed for a moment",
    };
    (stays + 1, Some(format!("spec.replicas is {wanted}; {name} {why}")))
}

async fn claim_all(worker: &Worker, children: &Children) -> Result<(), Trouble> {
    async fn one<K: super::apply::Kind>(worker: &Worker, object: &K) -> Result<(), Trouble> {
        let known = worker.context.caches.child(kind_of::<K>(), &worker.key.0, &object.name_any());
        claim(&worker.context, &worker.applied, object, known).await
    }
    let Children { service_account, role, role_binding, config_map, services, disruption_budget, stateful_set } =
        children;
    one(worker, stateful_set).await?;
    for service in services {
        one(worker, service).await?;
    }
    one(worker, config_map).await?;
    if let Some(account) = service_account {
        one(worker, account).await?;
    }
    one(worker, role).await?;
    one(worker, role_binding).await?;
    if let Some(budget) = disruption_budget {
        one(worker, budget).await?;
    }
    Ok(())
}

/// Applies all children of a kind, and removes those that are no longer wanted.
async fn apply_all<K: super::apply::Kind>(
    worker: &mut Worker,
    meta: &ObjectMeta,
    objects: &[K],
) -> Result<(), Trouble> {
    let context = worker.context.clone();
    for object in objects {
        let known = context.caches.child(kind_of::<K>(), &worker.key.0, &object.name_any());
        child(&context, &mut worker.applied, object, known).await?;
    }
    let wanted: Vec<String> = objects.iter().map(kube::ResourceExt::name_any).collect();
    prune::<K>(&context, &mut worker.applied, meta, &wanted).await
}
