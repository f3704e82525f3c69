//! Names, labels and annotations that the operator and its users rely on.

use std::collections::BTreeMap;

/// Field manager of the *resources* loop.
pub const RESOURCES_MANAGER: &str = "mariadb-operator-resources";
/// Field manager of the *replication* loop.
pub const REPLICATION_MANAGER: &str = "mariadb-operator-replication";

/// Label: the topology's root object.
pub const TOPOLOGY_LABEL: &str = "k8s.mariadb.com/topology";
/// Label: `primary` or `replica`.
pub const ROLE_LABEL: &str = "k8s.mariadb.com/role";
/// Label, the seed's: `primary` or `replica`.
pub const SHORT_ROLE_LABEL: &str = "role";
/// Label: the object.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label: always `mariadb`.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Label, the seed's: always `mariadb`.
pub const APP_LABEL: &str = "app";
/// Label: who made the object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "mariadb-operator";
/// Value of the role labels.
pub const PRIMARY: &str = "primary";
/// Value of the role labels.
pub const REPLICA: &str = "replica";
/// Pod annotation: hash of the configuration that the pod was made for.
pub const CONFIG_HASH_ANNOTATION: &str = "k8s.mariadb.com/config-hash";
/// Annotation: hash of what was applied last, so that a steady state writes nothing.
pub const APPLIED_HASH_ANNOTATION: &str = "k8s.mariadb.com/applied-hash";
/// Annotation of a root: asks for a switchover (`ID [POD]`, or JSON with `id` and `to`). One id is answered once.
pub const SWITCHOVER_ANNOTATION: &str = "k8s.mariadb.com/switchover";
/// Annotation of a user's own Service: `"false"` keeps the operator from re-pointing it at a new primary.
pub const FOLLOW_PRIMARY_ANNOTATION: &str = "k8s.mariadb.com/follow-primary";
/// Label that the StatefulSet controller puts on each pod.
pub const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// Name of the claim template: claims are `storage-<pod>`.
pub const CLAIM: &str = "storage";
/// Longest object name: with `-` and ordinals, service suffixes and the StatefulSet's revision label all children fit.
pub const MAX_NAME: usize = 48;
/// Server ids between two objects of a topology.
pub const SERVER_ID_BLOCK: u32 = 100;

/// `<object>-<ordinal>`.
pub fn pod(object: &str, ordinal: u32) -> String {
    format!("{object}-{ordinal}")
}

/// The ordinal of a pod of this object.
pub fn ordinal(object: &str, pod: &str) -> Option<u32> {
    pod.strip_prefix(object)?.strip_prefix('-')?.parse().ok()
}

/// The claim of a pod.
pub fn claim(pod: &str) -> String {
    format!("{CLAIM}-{pod}")
}

/// The Lease that holds a topology's record.
pub fn lease(root: &str) -> String {
    format!("{root}-topology")
}

/// The Secret with a topology's CA.
pub fn ca(root: &str) -> String {
    format!("{root}-ca")
}

/// ConfigMap of an object's members.
pub fn config(object: &str) -> String {
    format!("{object}-config")
}

/// Secret with the servers' certificate.
pub fn server_tls(object: &str) -> String {
    format!("{object}-server-tls")
}

/// Secret with the agents' certificate.
pub fn agent_tls(object: &str) -> String {
    format!("{object}-agent-tls")
}

/// Service of the topology's primary.
pub fn primary_service(root: &str) -> String {
    format!("{root}-primary")
}

/// Service of replicas.
pub fn replica_service(object: &str) -> String {
    format!("{object}-replica")
}

/// Second name of the service of replicas.
pub fn secondary_service(object: &str) -> String {
    format!("{object}-secondary")
}

/// Headless service.
pub fn internal_service(object: &str) -> String {
    format!("{object}-internal")
}

/// Name of a member's own Service, as others reach it.
pub fn member_host(pod: &str, namespace: &str) -> String {
    format!("{pod}.{namespace}.svc")
}

/// Secret with root's password, when the user names none.
pub fn root_secret(object: &str) -> String {
    format!("{object}-root")
}

/// Secret with the replication password, when the user names none.
pub fn replication_secret(root: &str) -> String {
    format!("{root}-replication")
}

/// Labels that select an object's pods.
pub fn selector(object: &str) -> BTreeMap<String, String> {
    [(NAME_LABEL, "mariadb"), (INSTANCE_LABEL, object)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Labels that every child of an object carries.
pub fn labels(object: &str, root: &str) -> BTreeMap<String, String> {
    [
        (APP_LABEL, "mariadb"),
        (NAME_LABEL, "mariadb"),
        (INSTANCE_LABEL, object),
        (MANAGED_BY_LABEL, MANAGED_BY),
        (TOPOLOGY_LABEL, root),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}
