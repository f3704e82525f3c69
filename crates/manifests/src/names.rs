//! Names beyond those that [`api::names`] gives.

use std::collections::BTreeSet;

use api::names;

use crate::Input;

/// Pod label: its member holds what the topology holds now, so that the root's services may lead to it.
pub const SERVES_LABEL: &str = "k8s.mariadb.com/serves";

/// Certificates are made for this many members at once, so that scaling up rarely needs new ones.
const MEMBERS_AT_ONCE: u32 = 8;

/// Names that the certificates of an object's servers and agents are valid for: every member's own, and every service
/// that may lead to it.
pub fn certificate_names(input: &Input<'_>) -> Vec<String> {
    let (object, root) = (&input.object.name, &input.root.name);
    let members = (input.object.replicas.max(input.pods) / MEMBERS_AT_ONCE + 1) * MEMBERS_AT_ONCE;
    let mut short: BTreeSet<String> = (0..members).map(|ordinal| names::pod(object, ordinal)).collect();
    short.extend([object.clone(), names::replica_service(object), names::internal_service(object)]);
    short.extend([root.clone(), names::primary_service(root), names::replica_service(root)]);
    short.extend([names::secondary_service(object), names::secondary_service(root)]);
    let namespace = &input.object.namespace;
    let forms = |host: String| {
        [
            format!("{host}.{namespace}"),
            format!("{host}.{namespace}.svc"),
            format!("{host}.{namespace}.svc.cluster.local"),
            host,
        ]
    };
    let internal = names::internal_service(object);
    let mut all: BTreeSet<String> = short.into_iter().flat_map(forms).collect();
    all.extend(forms(format!("*.{internal}")));
    all.insert("localhost".to_owned());
    all.into_iter().collect()
}
