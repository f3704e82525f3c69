//! Which of the nodes that can take a pod is best: preferences first, then the one with the fewest pods.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

use super::World;
use super::fit::{domains, in_domain, term_matches};

pub(super) fn best(pod: &Pod, fitting: &[String], world: &World) -> Option<String> {
    fitting
        .iter()
        .filter_map(|name| {
            let node = world.node(name)?;
            let pods = i64::try_from(world.on(name).count()).unwrap_or(i64::MAX);
            Some((preference(pod, node, world), -pods, name))
        })
        // Of equals the first by name: the same pods land on the same nodes each time.
        .max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| b.2.cmp(a.2)))
        .map(|(_, _, name)| name.clone())
}

fn preference(pod: &Pod, node: &Node, world: &World) -> i64 {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(spec) = &pod.spec else { return 0 };
    let mut score = 0;
    if let Some(affinity) = &spec.affinity {
        let nodes = affinity
            .node_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        for term in nodes.into_iter().flatten() {
            if term_matches(&term.preference, node) {
                score += i64::from(term.weight);
            }
        }
        let near = affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let away = affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        for (sign, term) in
            near.into_iter().flatten().map(|t| (1, t)).chain(away.into_iter().flatten().map(|t| (-1, t)))
        {
            let count = i64::try_from(in_domain(&term.pod_affinity_term, &namespace, node, world).count()).unwrap_or(0);
            score += sign * i64::from(term.weight) * count;
        }
    }
    for constraint in spec.topology_spread_constraints.iter().flatten() {
        let counts = domains(pod, &constraint.topology_key, constraint.label_selector.as_ref(), world);
        if let Some(domain) = node.labels().get(&constraint.topology_key) {
            score -= 10 * counts.get(domain).copied().unwrap_or(0);
        }
    }
    score
}
