//! PodDisruptionBudgets: how many pods may be evicted just now. The API's eviction reads it from the status.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};

use super::caches::Caches;
use super::pods::{controller_of, is_going, is_over, is_ready, matches};
use super::{Sweep, status_patch, tolerate};

pub(super) struct Budgets {
    client: Client,
}

impl Budgets {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn one(&self, caches: &Caches, budget: &PodDisruptionBudget) -> Result<(), kube::Error> {
        let Some(spec) = &budget.spec else { return Ok(()) };
        let Some(selector) = &spec.selector else { return Ok(()) };
        let pods: Vec<_> = caches
            .pods
            .state()
            .into_iter()
            .filter(|pod| {
                pod.namespace() == budget.namespace()
                    && !is_over(pod)
                    && matches(selector, pod.metadata.labels.as_ref())
            })
            .collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let healthy = count(pods.iter().filter(|pod| is_ready(pod) && !is_going(pod)).count());
        let expected = expected(caches, &pods).unwrap_or_else(|| count(pods.len()));
        let desired = match (&spec.min_available, &spec.max_unavailable) {
            (Some(min), _) => amount(min, expected, true),
            (None, Some(max)) => (expected - amount(max, expected, true)).max(0),
            (None, None) => expected,
        };
        let allowed = (healthy - desired).max(0);
        let before = budget.status.clone().unwrap_or_default();
        let mut after = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected),
            observed_generation: budget.metadata.generation,
            ..before.clone()
        };
        let status = if allowed > 0 { "True" } else { "False" };
        let known = before.conditions.iter().flatten().find(|c| c.type_ == "DisruptionAllowed");
        if known.is_none_or(|c| c.status != status) {
            after.conditions = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
                type_: "DisruptionAllowed".into(),
                status: status.into(),
                reason: if allowed > 0 { "SufficientPods" } else { "InsufficientPods" }.into(),
                message: String::new(),
                observed_generation: budget.metadata.generation,
                last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    k8s_openapi::jiff::Timestamp::now(),
                ),
            }]);
        }
        // An evicted pod is counted until it is seen going.
        if let Some(disrupted) = &mut after.disrupted_pods {
            disrupted.retain(|name, _| pods.iter().any(|pod| pod.name_any() == *name && !is_going(pod)));
        }
        if after == before {
            return Ok(());
        }
        let api: Api<PodDisruptionBudget> =
            Api::namespaced(self.client.clone(), &budget.namespace().unwrap_or_default());
        let patch = status_patch(&budget.metadata, &before, &after);
        tolerate(api.patch_status(&budget.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await).map(drop)
    }
}

/// What the pods' controllers want, together.
fn expected(caches: &Caches, pods: &[std::sync::Arc<k8s_openapi::api::core::v1::Pod>]) -> Option<i32> {
    let mut uids: Vec<_> =
        pods.iter().filter_map(|pod| controller_of(&pod.metadata).map(|owner| owner.uid.clone())).collect();
    uids.sort();
    uids.dedup();
    if uids.is_empty() {
        return None;
    }
    let mut sum = 0;
    for uid in uids {
        let set =
            caches.stateful_sets.find(|set| set.uid().as_ref() == Some(&uid)).map(|set| set.spec.replicas.unwrap_or(1));
        let replica_set = || {
            let set = caches.replica_sets.find(|set| set.uid().as_ref() == Some(&uid))?;
            Some(set.spec.replicas.unwrap_or(1))
        };
        sum += set.or_else(replica_set)?;
    }
    Some(sum)
}

fn amount(value: &IntOrString, whole: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let product = text.trim_end_matches('%').parse().unwrap_or(0) * whole;
            if up { (product + 99) / 100 } else { product / 100 }
        }
    }
}

impl Sweep for Budgets {
    const NAME: &'static str = "disruption-controller";

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = Ok(());
        for budget in caches.budgets.state() {
            if let Err(error) = self.one(caches, &budget).await {
                result = Err(error);
            }
        }
        result
    }
}
