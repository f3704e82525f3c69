//! The kind `MariaDB` as users write it.

mod parts;
mod reading;
mod replication;
mod services;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvFromSource, EnvVar, LocalObjectReference, PodSecurityContext, Probe, ResourceRequirements,
    SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use parts::*;
pub use replication::*;
pub use services::*;

use crate::quantity::lenient;

/// A MariaDB server, or several that replicate.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "k8s.mariadb.com",
    version = "v1alpha1",
    kind = "MariaDB",
    plural = "mariadbs",
    singular = "mariadb",
    shortname = "mdb",
    namespaced,
    status = "crate::status::MariaDBStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A MariaDB server, or several that replicate.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.currentPrimary"),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicasText"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lagText"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.replication.epoch", priority = 1),
    printcolumn(name = "Durability", type_ = "string", json_path = ".status.replication.durability", priority = 1),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 48").message("metadata.name: at most 48 characters, so that the names of what is made from it fit").field_path(".metadata.name"),
)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[x_kube(validation = Rule::new("!has(self.replicas) || self.replicas <= 1 || (has(self.replication) && has(self.replication.enabled) && self.replication.enabled)").message("spec.replicas: more than one member needs spec.replication.enabled: true").field_path(".replicas"))]
#[x_kube(validation = Rule::new("!has(self.replication) || !has(self.replication.primary) || !has(self.replication.primary.podIndex) || self.replication.primary.podIndex < (has(self.replicas) && self.replicas > 0 ? self.replicas : 1)").message("spec.replication.primary.podIndex: must be below spec.replicas").field_path(".replication.primary.podIndex"))]
#[x_kube(validation = Rule::new("(has(self.storage) && has(self.storage.storageClassName) ? [self.storage.storageClassName] : []) == (has(oldSelf.storage) && has(oldSelf.storage.storageClassName) ? [oldSelf.storage.storageClassName] : [])").message("spec.storage.storageClassName: cannot be changed, nor said afterwards").field_path(".storage.storageClassName"))]
#[x_kube(validation = Rule::new("(has(self.storage) && has(self.storage.ephemeral) && self.storage.ephemeral) == (has(oldSelf.storage) && has(oldSelf.storage.ephemeral) && oldSelf.storage.ephemeral)").message("spec.storage.ephemeral: cannot be changed").field_path(".storage.ephemeral"))]
#[x_kube(validation = Rule::new("!has(self.rootEmptyPassword) || !self.rootEmptyPassword || !has(self.rootPasswordSecretKeyRef)").message("spec.rootEmptyPassword and spec.rootPasswordSecretKeyRef exclude each other").field_path(".rootEmptyPassword"))]
#[x_kube(validation = Rule::new("!has(self.username) || has(self.passwordSecretKeyRef)").message("spec.passwordSecretKeyRef: needed with spec.username").field_path(".username"))]
pub struct MariaDBSpec {
    /// Server image; `mariadb:11.8` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// Members of this object, 1 by default. 0 stops them and keeps the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: Option<i32>,
    /// Root's password. Made when absent or with `generate: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_password_secret_key_ref: Option<GeneratedSecretKeyRef>,
    /// Root has no password. Never in production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_empty_password: Option<bool>,
    /// Database that is made at first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Account that is made at first start, with all rights on `database`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password of `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_key_ref: Option<GeneratedSecretKeyRef>,
    /// One volume a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Server configuration, as a `my.cnf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub my_cnf: Option<String>,
    /// Server configuration from a ConfigMap's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub my_cnf_config_map_key_ref: Option<KeyRef>,
    /// Default time zone of the server, such as `Europe/Paris` or `+00:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Port of the server, 3306 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Template of the Service named like the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTemplate>,
    /// Template of the Service `<name>-primary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_service: Option<ServiceTemplate>,
    /// Template of the Services `<name>-replica` and `<name>-secondary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary_service: Option<ServiceTemplate>,
    /// Resources of the container `mariadb`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub resources: Option<ResourceRequirements>,
    /// Where members run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that members tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Labels of nodes that members run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// How members spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<MetadataTemplate>,
    /// Labels and annotations of everything that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit_metadata: Option<MetadataTemplate>,
    /// Security context of the container `mariadb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Security context of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security_context: Option<PodSecurityContext>,
    /// Account of the pods; made when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Grace period of the pods in seconds, 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Environment of the container `mariadb`. Variables of the image that make accounts and databases are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Environment of the container `mariadb`, from ConfigMaps and Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// Further volumes of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub volumes: Option<Vec<Volume>>,
    /// Further mounts of the container `mariadb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Further init containers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub init_containers: Option<Vec<Container>>,
    /// Further containers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub sidecar_containers: Option<Vec<Container>>,
    /// Replaces the operator's liveness probe; numbers alone adjust it. An exec probe is run by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Replaces the operator's readiness probe; numbers alone adjust it. An exec probe is run by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Numbers of the startup probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// How changes of the pods are rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// On the root, for the whole topology; at most one member down by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudgetTemplate>,
    /// Metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// TLS of the server; on by default with certificates of an own CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Network policy of the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicyTemplate>,
    /// Manage an existing StatefulSet, make no pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
    /// First data from a backup, a volume or another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_from: Option<BootstrapFrom>,
    /// Replication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Nothing is changed, no decision is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Objects are kept as they should be, but no decision about replication is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
    /// Fields that could not be read, and were left out.
    #[serde(skip)]
    pub unreadable: Vec<crate::Mistake>,
}
