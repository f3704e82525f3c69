//! From the resolved intent to Kubernetes objects and `my.cnf`. Pure: no client, no clock.
//!
//! [`build`] gives everything that belongs to one `MariaDB` object but Secrets: those hold what must not be made twice
//! (passwords, keys), so the controller makes them, and here they are only named.

mod budget;
mod config;
mod hash;
mod metadata;
mod names;
mod pod;
mod probes;
mod rbac;
mod services;
mod stateful_set;
mod volumes;

use api::Resolved;
use api::resolved::{Role, SecretKey};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role as RbacRole, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

pub use hash::hash;
pub use names::{SERVES_LABEL, certificate_names};
pub use pod::POD_HASH_ANNOTATION;

/// What children are made from.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The object.
    pub object: &'a Resolved,
    /// The root of its topology (itself, perhaps).
    pub root: &'a Resolved,
    /// Owner of every child.
    pub owner: OwnerReference,
    /// Image that the agent is copied from.
    pub operator_image: &'a str,
    /// `server_id` of ordinal 0.
    pub server_id_base: u32,
    /// The topology has one member.
    pub single_member: bool,
    /// The user's `my.cnf`: what the spec says, and what its ConfigMap says.
    pub user_cnf: &'a str,
    /// Password of the replication accounts; `None` without replication.
    pub replication_password: Option<&'a SecretKey>,
    /// Pods that the StatefulSet is to have now (while members are being released: more than wanted).
    pub pods: u32,
}

impl Input<'_> {
    /// The object owns the topology.
    pub fn is_root(&self) -> bool {
        self.object.name == self.root.name
    }

    /// Its members are read by whoever wants the topology's data as it is now: neither delayed nor regional.
    fn serves(&self) -> bool {
        self.is_root()
            || self.object.replication.as_ref().is_some_and(|replication| {
                replication.replica.delay.is_zero()
                    && !matches!(replication.role, Role::ReplicaOf { through: Some(_), .. })
            })
    }
}

/// What belongs to one object, in the order in which it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Children {
    /// The agents' account; absent when the user names one.
    pub service_account: Option<ServiceAccount>,
    /// Their rights.
    pub role: RbacRole,
    /// ... given to them.
    pub role_binding: RoleBinding,
    /// The agents' configuration and the servers'.
    pub config_map: ConfigMap,
    /// How members are reached.
    pub services: Vec<Service>,
    /// How many may be down; on the root.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The members.
    pub stateful_set: StatefulSet,
}

/// Makes the children of an object.
pub fn build(input: &Input<'_>) -> Children {
    let config = config::render(input);
    let hash = config.restart_hash.clone();
    Children {
        service_account: rbac::service_account(input),
        role: rbac::role(input),
        role_binding: rbac::role_binding(input),
        config_map: config::config_map(input, config),
        services: services::services(input),
        disruption_budget: budget::disruption_budget(input),
        stateful_set: stateful_set::stateful_set(input, &hash),
    }
}
