//! How many members of a topology may be down at once by people's doing.

use api::names;
use api::resolved::DisruptionBudget;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{Input, metadata};

/// One for the whole topology, on its root.
pub(crate) fn disruption_budget(input: &Input<'_>) -> Option<PodDisruptionBudget> {
    if !input.is_root() {
        return None;
    }
    let (min_available, max_unavailable) = match &input.object.disruption_budget {
        DisruptionBudget::MinAvailable(min) => (Some(min.clone()), None),
        DisruptionBudget::MaxUnavailable(max) => (None, Some(max.clone())),
    };
    let topology = [(names::TOPOLOGY_LABEL.to_owned(), input.root.name.clone())].into();
    Some(PodDisruptionBudget {
        metadata: metadata::child(input, &input.object.name, &[]),
        spec: Some(PodDisruptionBudgetSpec {
            min_available,
            max_unavailable,
            selector: Some(LabelSelector { match_labels: Some(topology), ..LabelSelector::default() }),
            // A member that is down already (re-seeding, say) may be moved; the others then count.
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
        }),
        status: None,
    })
}
