//! Metadata that all children share.

use std::collections::BTreeMap;

use api::names;
use api::spec::MetadataTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Input;

type Map = BTreeMap<String, String>;

/// The user's first, ours over it: what selectors need is not for users to change.
fn labels(input: &Input<'_>, templates: &[&MetadataTemplate]) -> Map {
    let mut labels = Map::new();
    for template in templates {
        labels.extend(template.labels.clone().unwrap_or_default());
    }
    labels.extend(names::labels(&input.object.name, &input.root.name));
    labels
}

fn annotations(templates: &[&MetadataTemplate]) -> Option<Map> {
    let all: Map = templates.iter().flat_map(|template| template.annotations.clone().unwrap_or_default()).collect();
    (!all.is_empty()).then_some(all)
}

/// Metadata of a child; later templates win over earlier ones.
pub(crate) fn child(input: &Input<'_>, name: &str, templates: &[&MetadataTemplate]) -> ObjectMeta {
    let inherit = &input.object.pod.inherit;
    let all: Vec<&MetadataTemplate> = std::iter::once(inherit).chain(templates.iter().copied()).collect();
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(input.object.namespace.clone()),
        labels: Some(labels(input, &all)),
        annotations: annotations(&all),
        owner_references: Some(vec![input.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Metadata of the pods.
pub(crate) fn pod(input: &Input<'_>) -> ObjectMeta {
    let all = [&input.object.pod.inherit, &input.object.pod.metadata];
    ObjectMeta { labels: Some(labels(input, &all)), annotations: annotations(&all), ..ObjectMeta::default() }
}

/// Metadata of the claims. They outlive the object: no owner.
pub(crate) fn claim(input: &Input<'_>) -> ObjectMeta {
    let all = [&input.object.pod.inherit];
    ObjectMeta {
        name: Some(names::CLAIM.to_owned()),
        labels: Some(labels(input, &all)),
        annotations: annotations(&all),
        ..ObjectMeta::default()
    }
}
