//! The members of one object.

use std::collections::BTreeMap;

use api::names;
use api::spec::Retention;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::{Plan, pod};

pub(crate) fn stateful_set(plan: &Plan<'_>, config_hash: &str) -> StatefulSet {
    let object = plan.object;
    let keep = |retention: Option<Retention>| match retention.unwrap_or_default() {
        Retention::Retain => "Retain".to_owned(),
        Retention::Delete => "Delete".to_owned(),
    };
    StatefulSet {
        metadata: plan.meta(&object.name),
        spec: StatefulSetSpec {
            replicas: i32::try_from(object.replicas).ok(),
            service_name: Some(names::internal_service(&object.name)),
            // The order of everything is decided by the operator.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(keep(object.storage.retention.when_deleted)),
                when_scaled: Some(keep(object.storage.retention.when_scaled)),
            }),
            selector: LabelSelector { match_labels: Some(names::selector(&object.name)), ..LabelSelector::default() },
            template: pod::template(plan, config_hash),
            volume_claim_templates: (!object.storage.ephemeral).then(|| vec![claim(plan)]),
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

fn claim(plan: &Plan<'_>) -> PersistentVolumeClaim {
    let storage = &plan.object.storage;
    let mut spec = storage.template.clone().unwrap_or_default();
    let requests = BTreeMap::from([("storage".to_owned(), storage.size.quantity())]);
    spec.resources = Some(VolumeResourceRequirements { requests: Some(requests), limits: None });
    spec.access_modes = spec.access_modes.or_else(|| Some(vec!["ReadWriteOnce".into()]));
    spec.storage_class_name = storage.class.clone();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::CLAIM.to_owned()),
            labels: Some(names::labels(&plan.object.name, &plan.root.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec { ..spec }),
        ..PersistentVolumeClaim::default()
    }
}
