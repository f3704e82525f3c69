//! The members' StatefulSet: all pods at once, replaced by nobody but us.

use api::names;
use api::spec::Retention;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{Input, metadata, pod, volumes};

pub(crate) fn stateful_set(input: &Input<'_>, restart_hash: &str) -> StatefulSet {
    let object = input.object;
    let keep = |retention: Option<Retention>| match retention.unwrap_or_default() {
        Retention::Retain => Some("Retain".to_owned()),
        Retention::Delete => Some("Delete".to_owned()),
    };
    let retention = (!object.storage.ephemeral).then(|| StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: keep(object.storage.retention.when_deleted),
        when_scaled: keep(object.storage.retention.when_scaled),
    });
    StatefulSet {
        metadata: metadata::child(input, &object.name, &[]),
        spec: StatefulSetSpec {
            replicas: i32::try_from(input.pods).ok(),
            service_name: Some(names::internal_service(&object.name)),
            selector: LabelSelector { match_labels: Some(names::selector(&object.name)), ..LabelSelector::default() },
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(2),
            persistent_volume_claim_retention_policy: retention,
            volume_claim_templates: volumes::claims(input),
            template: pod::template(input, restart_hash),
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}
