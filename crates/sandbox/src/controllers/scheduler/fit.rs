//! Why a node cannot take a pod, in the words that Kubernetes uses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorTerm, PersistentVolume, Pod, PodAffinityTerm, PodSpec, ResourceRequirements, Taint, Toleration,
};
use kube::ResourceExt as _;

use super::World;
use crate::controllers::caches::Caches;
use crate::controllers::pods::{is_going, matches};
use crate::quantity;

/// `None`: it can.
pub(super) fn refusal(pod: &Pod, node: &Node, world: &World) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) && !tolerates_unschedulable(spec) {
        return Some("node(s) were unschedulable".into());
    }
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    for taint in taints.filter(|taint| taint.effect != "PreferNoSchedule") {
        if !tolerated(spec, taint) {
            let value = taint.value.as_deref().unwrap_or_default();
            return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
        }
    }
    if !selected(spec, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if let Some(resource) = lacking(spec, node, world) {
        return Some(resource);
    }
    affinity(pod, spec, node, world).or_else(|| spread(pod, spec, node, world))
}

fn tolerates_unschedulable(spec: &PodSpec) -> bool {
    tolerated(
        spec,
        &Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() },
    )
}

fn tolerated(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
}

/// Does this toleration cover the taint?
pub(in crate::controllers) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    effect
        && match (key.is_empty(), exists) {
            (true, exists) => exists,
            (false, true) => key == taint.key,
            (false, false) => {
                key == taint.key
                    && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
        }
}

fn selected(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let simple = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    simple && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Does a node selector's term match?
pub(super) fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.iter().flatten().map(|r| (r, node.labels().get(&r.key).cloned()));
    let fields = term.match_fields.iter().flatten().map(|r| (r, (r.key == "metadata.name").then(|| node.name_any())));
    let mut any = false;
    for (requirement, value) in expressions.chain(fields) {
        any = true;
        let values = || requirement.values.iter().flatten();
        let number = |text: &str| text.parse::<i64>().ok();
        let holds = match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| values().any(|v| *v == value)),
            "NotIn" => value.is_none_or(|value| values().all(|v| *v != value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => {
                value.and_then(|v| number(&v)).zip(values().next().and_then(|v| number(v))).is_some_and(|(a, b)| a > b)
            }
            "Lt" => {
                value.and_then(|v| number(&v)).zip(values().next().and_then(|v| number(v))).is_some_and(|(a, b)| a < b)
            }
            _ => false,
        };
        if !holds {
            return false;
        }
    }
    any
}

/// Millis of each resource that a pod asks for.
fn requests(spec: &PodSpec) -> BTreeMap<String, i128> {
    let of = |resources: Option<&ResourceRequirements>| -> BTreeMap<String, i128> {
        let requests = resources.and_then(|r| r.requests.as_ref());
        requests
            .into_iter()
            .flatten()
            .filter_map(|(name, quantity)| Some((name.clone(), quantity::millis(&quantity.0)?)))
            .collect()
    };
    let mut sum: BTreeMap<String, i128> = BTreeMap::new();
    for container in &spec.containers {
        for (name, amount) in of(container.resources.as_ref()) {
            *sum.entry(name).or_default() += amount;
        }
    }
    for container in spec.init_containers.iter().flatten() {
        for (name, amount) in of(container.resources.as_ref()) {
            let entry = sum.entry(name).or_default();
            *entry = (*entry).max(amount);
        }
    }
    sum.insert("pods".into(), 1000);
    sum
}

fn lacking(spec: &PodSpec, node: &Node, world: &World) -> Option<String> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let name = node.name_any();
    let mut used: BTreeMap<String, i128> = BTreeMap::new();
    for other in world.on(&name).filter_map(|pod| pod.spec.as_ref()) {
        for (resource, amount) in requests(other) {
            *used.entry(resource).or_default() += amount;
        }
    }
    for (resource, amount) in requests(spec) {
        let offered = allocatable.and_then(|all| quantity::millis(&all.get(&resource)?.0)).unwrap_or(0);
        if amount + used.get(&resource).copied().unwrap_or(0) > offered {
            return Some(if resource == "pods" { "Too many pods".into() } else { format!("Insufficient {resource}") });
        }
    }
    None
}

/// Is `other` what the term is about?
pub(super) fn meant(term: &PodAffinityTerm, own_namespace: &str, other: &Pod) -> bool {
    let namespace = other.namespace().unwrap_or_default();
    let here = match (&term.namespaces, &term.namespace_selector) {
        (Some(names), _) if !names.is_empty() => names.contains(&namespace),
        (_, Some(_)) => true,
        _ => namespace == own_namespace,
    };
    here && term.label_selector.as_ref().is_some_and(|selector| matches(selector, other.metadata.labels.as_ref()))
}

/// Pods that a term is about, in the node's domain of the term's key.
pub(super) fn in_domain<'a>(
    term: &'a PodAffinityTerm,
    namespace: &'a str,
    node: &'a Node,
    world: &'a World,
) -> impl Iterator<Item = &'a Pod> {
    let domain = node.labels().get(&term.topology_key);
    world
        .placed
        .iter()
        .filter(move |(pod, on)| {
            domain.is_some()
                && meant(term, namespace, pod)
                && world.node(on).is_some_and(|other| other.labels().get(&term.topology_key) == domain)
        })
        .map(|(pod, _)| &**pod)
}

fn affinity(pod: &Pod, spec: &PodSpec, node: &Node, world: &World) -> Option<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let affinity = spec.affinity.as_ref();
    let away = affinity
        .and_then(|a| a.pod_anti_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    for term in away.into_iter().flatten() {
        if in_domain(term, &namespace, node, world).next().is_some() {
            return Some("node(s) didn't match pod anti-affinity rules".into());
        }
    }
    for (other, on) in &world.placed {
        let terms = other.spec.as_ref().and_then(|s| {
            s.affinity
                .as_ref()?
                .pod_anti_affinity
                .as_ref()?
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        for term in terms.into_iter().flatten() {
            let same = world.node(on).is_some_and(|theirs| {
                let domain = theirs.labels().get(&term.topology_key);
                domain.is_some() && node.labels().get(&term.topology_key) == domain
            });
            if same && meant(term, &other.namespace().unwrap_or_default(), pod) {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules".into());
            }
        }
    }
    let near =
        affinity.and_then(|a| a.pod_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    for term in near.into_iter().flatten() {
        let anywhere = world.placed.iter().any(|(other, _)| meant(term, &namespace, other));
        let first = !anywhere && meant(term, &namespace, pod);
        if !first && in_domain(term, &namespace, node, world).next().is_none() {
            return Some("node(s) didn't match pod affinity rules".into());
        }
    }
    None
}

fn spread(pod: &Pod, spec: &PodSpec, node: &Node, world: &World) -> Option<String> {
    for constraint in
        spec.topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == "DoNotSchedule")
    {
        let counts = domains(pod, &constraint.topology_key, constraint.label_selector.as_ref(), world);
        let Some(domain) = node.labels().get(&constraint.topology_key) else {
            return Some("node(s) didn't match pod topology spread constraints (missing required label)".into());
        };
        let least = counts.values().min().copied().unwrap_or(0);
        if counts.get(domain).copied().unwrap_or(0) + 1 - least > i64::from(constraint.max_skew) {
            return Some("node(s) didn't match pod topology spread constraints".into());
        }
    }
    None
}

/// Matching pods by domain.
pub(super) fn domains(
    pod: &Pod,
    key: &str,
    selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    world: &World,
) -> BTreeMap<String, i64> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for node in &world.nodes {
        if let Some(domain) = node.labels().get(key) {
            let name = node.name_any();
            let here = world.on(&name).filter(|other| {
                !is_going(other)
                    && other.namespace() == pod.namespace()
                    && selector.is_some_and(|selector| matches(selector, other.metadata.labels.as_ref()))
            });
            *counts.entry(domain.clone()).or_default() += i64::try_from(here.count()).unwrap_or(0);
        }
    }
    counts
}

/// Whether a volume of the pod is on other nodes only.
pub(super) fn volume_elsewhere(pod: &Pod, node: &Node, caches: &Caches) -> Option<String> {
    let namespace = pod.namespace();
    let names = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = names.filter_map(|volume| volume.persistent_volume_claim.as_ref().map(|source| &source.claim_name));
    for name in names {
        let claim = caches.claims.find(|c| c.name_any() == *name && c.namespace() == namespace);
        let volume = claim.and_then(|c| c.spec.as_ref()?.volume_name.clone());
        let volume = volume.and_then(|name| caches.volumes.find(|v| v.name_any() == name));
        if volume.is_some_and(|volume| !volume_reaches(&volume, node)) {
            return Some("node(s) had volume node affinity conflict".into());
        }
    }
    None
}

/// Whether a node can use a volume.
pub(in crate::controllers) fn volume_reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// What a pod's claims wait for.
pub(super) fn claims(pod: &Pod, caches: &Caches) -> Option<String> {
    let namespace = pod.namespace();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.persistent_volume_claim else { continue };
        let claim = caches.claims.find(|c| c.name_any() == source.claim_name && c.namespace() == namespace);
        let Some(claim) = claim else {
            return Some(format!("persistentvolumeclaim \"{}\" not found", source.claim_name));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!("persistentvolumeclaim \"{}\" is being deleted", source.claim_name));
        }
        let bound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
        if !bound && !super::super::volumes::waits_for_consumer(&claim, caches) {
            return Some("pod has unbound immediate PersistentVolumeClaims".into());
        }
    }
    None
}
