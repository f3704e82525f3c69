//! The typed intent: what everything behind `resolve` works with.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvFromSource, EnvVar, LocalObjectReference, PersistentVolumeClaimSpec, PodSecurityContext,
    Probe, ResourceRequirements, SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::quantity::Size;
use crate::resolve::Mistake;
use crate::spec::{
    Durability, ImagePullPolicy, KeyRef, MetadataTemplate, ParallelMode, PvcRetentionPolicy, ServiceTemplate,
    UpdateStrategyType, WaitPoint,
};

/// One `MariaDB` object as it is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Name of the object.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The generation this was resolved from.
    pub generation: i64,
    /// Image of the server.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets to pull it with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Members of this object.
    pub replicas: u32,
    /// Root's password.
    pub root_password: RootPassword,
    /// Database to make at first start.
    pub database: Option<String>,
    /// Account to make at first start.
    pub user: Option<InitialUser>,
    /// Volumes.
    pub storage: StorageIntent,
    /// Users' `my.cnf`.
    pub my_cnf: Option<String>,
    /// A ConfigMap's key with users' `my.cnf` (read behind `my_cnf`).
    pub my_cnf_from: Option<KeyRef>,
    /// Default time zone.
    pub time_zone: Option<String>,
    /// Port of the server.
    pub port: u16,
    /// Service templates.
    pub services: Services,
    /// Pod template.
    pub pod: PodIntent,
    /// Probes.
    pub probes: Probes,
    /// Order of roll-outs.
    pub update_strategy: UpdateStrategyType,
    /// Budget of the topology.
    pub disruption_budget: DisruptionBudget,
    /// The servers offer TLS.
    pub tls: bool,
    /// ... and refuse connections without it.
    pub tls_required: bool,
    /// How it replicates; `None`: a server on its own.
    pub replication: Option<ReplicationIntent>,
    /// First server id of this object, where the user said.
    pub server_id_start: Option<u32>,
    /// Nothing is changed, no decision is taken.
    pub suspend: bool,
    /// No decision is taken.
    pub maintenance: bool,
    /// What is accepted but does not take effect as written, for `ConfigValid` and an event.
    pub warnings: Vec<Mistake>,
}

/// A Secret's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key in it.
    pub key: String,
    /// Made when it does not exist.
    pub generate: bool,
    /// The user named none: it is made under a name of ours, and another one of that name is not taken for it.
    pub ours: bool,
}

/// Root's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootPassword {
    /// From this Secret.
    Secret(SecretKey),
    /// None at all.
    Empty,
}

/// An account that is made at first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: SecretKey,
}

/// Volumes.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageIntent {
    /// Size of each.
    pub size: Size,
    /// Class; the cluster's default when absent.
    pub class: Option<String>,
    /// Expand volumes in use.
    pub resize_in_use: bool,
    /// `Updated` waits for the new size.
    pub wait_for_resize: bool,
    /// `emptyDir`.
    pub ephemeral: bool,
    /// What becomes of them.
    pub retention: PvcRetentionPolicy,
    /// The user's whole claim.
    pub template: Option<PersistentVolumeClaimSpec>,
}

/// Service templates.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Services {
    /// Named like the object.
    pub own: ServiceTemplate,
    /// `<name>-primary`.
    pub primary: ServiceTemplate,
    /// `<name>-replica`, and `<name>-secondary` when given.
    pub secondary: Option<ServiceTemplate>,
}

/// Pod template parts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodIntent {
    /// Resources of `mariadb`.
    pub resources: Option<ResourceRequirements>,
    /// Affinity.
    pub affinity: Option<Affinity>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Node selector.
    pub node_selector: BTreeMap<String, String>,
    /// Spread.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class.
    pub priority_class_name: Option<String>,
    /// Labels and annotations of pods.
    pub metadata: MetadataTemplate,
    /// Labels and annotations of everything.
    pub inherit: MetadataTemplate,
    /// Of `mariadb`.
    pub security_context: Option<SecurityContext>,
    /// Of the pod.
    pub pod_security_context: Option<PodSecurityContext>,
    /// The user's account.
    pub service_account: Option<String>,
    /// Grace period in seconds.
    pub termination_grace_seconds: i64,
    /// Environment of `mariadb`.
    pub env: Vec<EnvVar>,
    /// Environment of `mariadb`.
    pub env_from: Vec<EnvFromSource>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Mounts of `mariadb`.
    pub volume_mounts: Vec<VolumeMount>,
    /// Init containers.
    pub init_containers: Vec<Container>,
    /// Sidecars.
    pub sidecars: Vec<Container>,
}

/// Users' probes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probes {
    /// Liveness.
    pub liveness: Option<Probe>,
    /// Readiness.
    pub readiness: Option<Probe>,
    /// Startup (numbers only).
    pub startup: Option<Probe>,
}

/// Budget of the topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisruptionBudget {
    /// At most so many down.
    MaxUnavailable(IntOrString),
    /// At least so many up.
    MinAvailable(IntOrString),
}

/// How an object replicates.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicationIntent {
    /// Root of a topology, or replicas of another object.
    pub role: Role,
    /// Wanted primary.
    pub wanted_primary: WantedPrimary,
    /// Change the primary without being asked.
    pub automatic_failover: bool,
    /// Extra wait before it.
    pub failover_delay: Duration,
    /// Silence after which the primary counts as down.
    pub failover_timeout: Duration,
    /// Failed attempts that are needed as well.
    pub failover_retries: u32,
    /// Pause after a change.
    pub failover_cooldown: Duration,
    /// Delete the old primary's pod.
    pub fencing: bool,
    /// What commits wait for.
    pub durability: Durability,
    /// Semi-synchronous replication.
    pub semi_sync: bool,
    /// How long commits wait for an acknowledgement; only `Available` ever gives up.
    pub ack_timeout: Duration,
    /// What they wait before; only `Available` has the choice.
    pub wait_point: WaitPoint,
    /// `sync_binlog`.
    pub sync_binlog: u32,
    /// `gtid_domain_id`.
    pub gtid_domain: u32,
    /// `gtid_strict_mode`.
    pub gtid_strict: bool,
    /// Accounts of replicas.
    pub account: Account,
    /// How members replicate.
    pub replica: ReplicaIntent,
}

/// Root or replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The topology's decisions are this object's.
    Root,
    /// Members replicate from another object's.
    ReplicaOf {
        /// That object.
        primary: String,
        /// The service to reach it by; `None`: the members' own names.
        through: Option<ServiceRef>,
    },
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// Wanted primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedPrimary {
    /// An ordinal of this object.
    PodIndex(u32),
    /// A pod.
    Member(String),
}

/// The accounts that replicas connect with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `<user>_<server id>`.
    pub user: String,
    /// Their password.
    pub password: SecretKey,
}

/// How members replicate.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaIntent {
    /// Members acknowledge.
    pub semi_sync: bool,
    /// Members may be promoted, where the user said.
    pub candidate: Option<bool>,
    /// `slave_net_timeout`.
    pub net_timeout: Duration,
    /// Failed attempts after which it is reported.
    pub connection_retries: u32,
    /// `MASTER_CONNECT_RETRY`, seconds.
    pub connect_retry: u32,
    /// Beyond this lag a replica is not ready, seconds.
    pub max_lag: u32,
    /// `MASTER_DELAY`.
    pub delay: Duration,
    /// `slave_parallel_threads`.
    pub parallel_threads: u32,
    /// `slave_parallel_mode`.
    pub parallel_mode: ParallelMode,
    /// Longest wait for a target.
    pub sync_timeout: Duration,
    /// Re-seed broken replicas.
    pub recovery_enabled: bool,
    /// After so long.
    pub recovery_threshold: Duration,
}
