//! What several controllers ask of pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};

/// The controller among an object's owners.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Is this object controlled by that one?
pub(super) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The owner reference of a controlled object.
pub(super) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Do the labels match?
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let empty = BTreeMap::new();
    let labels = labels.unwrap_or(&empty);
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = |value: &String| requirement.values.iter().flatten().any(|v| v == value);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready")
}

pub(super) fn condition(pod: &Pod, type_: &str) -> bool {
    pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == type_ && c.status == "True")
}

pub(super) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Ended for good.
pub(super) fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// A pod from a template.
pub(super) fn from_template(template: &PodTemplateSpec, meta: ObjectMeta) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let mut labels = given.labels.unwrap_or_default();
    labels.extend(meta.labels.clone().unwrap_or_default());
    Pod {
        metadata: ObjectMeta {
            labels: (!labels.is_empty()).then_some(labels),
            annotations: given.annotations,
            finalizers: given.finalizers,
            ..meta
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A short hash of content, in letters that labels and names may have.
pub(super) fn hash(value: &impl serde::Serialize) -> String {
    use sha2::Digest as _;
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(value).unwrap_or_default();
    sha2::Sha256::digest(&json)
        .iter()
        .take(10)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

/// Five random letters, as generated names have.
pub(super) fn suffix() -> String {
    use rand::Rng as _;
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::rng().random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let with = |operator: &str, values: &[&str]| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            match_labels: None,
        };
        assert!(matches(&LabelSelector::default(), None));
        assert!(matches(&with("In", &["1", "2"]), Some(&labels)));
        assert!(!matches(&with("NotIn", &["1"]), Some(&labels)));
        assert!(matches(&with("NotIn", &["1"]), None));
        assert!(matches(&with("Exists", &[]), Some(&labels)));
        assert!(!matches(&with("DoesNotExist", &[]), Some(&labels)));
    }
}
