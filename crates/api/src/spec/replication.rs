//! `spec.replication`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BootstrapFrom, GeneratedSecretKeyRef, KeyRef, NamespacedName};
use crate::duration::GoDuration;

/// Replication between the members of a topology.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.gtid) || !has(self.gtid.enabled) || self.gtid.enabled").message("spec.replication.gtid.enabled: GTIDs are always on").field_path(".gtid.enabled"))]
#[x_kube(validation = Rule::new("!has(self.gtidDomainId) || !has(self.gtid) || !has(self.gtid.domainId) || self.gtidDomainId == self.gtid.domainId").message("spec.replication.gtidDomainId and spec.replication.gtid.domainId differ"))]
#[x_kube(validation = Rule::new("!has(self.replication) || !has(self.replication.user) || !has(self.replica) || !has(self.replica.replicationUser) || self.replication.user == self.replica.replicationUser").message("spec.replication.replication.user and spec.replication.replica.replicationUser differ"))]
#[x_kube(validation = Rule::new("!has(self.replication) || !has(self.replication.passwordSecretKeyRef) || !has(self.replica) || !has(self.replica.replicationPasswordSecretKeyRef) || self.replication.passwordSecretKeyRef.name == self.replica.replicationPasswordSecretKeyRef.name").message("spec.replication.replication.passwordSecretKeyRef and spec.replication.replica.replicationPasswordSecretKeyRef differ"))]
#[x_kube(validation = Rule::new("!has(self.replication) || !has(self.replication.passwordSecretKeyRef) || !has(self.replica) || !has(self.replica.replPasswordSecretKeyRef) || self.replication.passwordSecretKeyRef.name == self.replica.replPasswordSecretKeyRef.name").message("spec.replication.replication.passwordSecretKeyRef and spec.replication.replica.replPasswordSecretKeyRef differ"))]
#[x_kube(validation = Rule::new("[has(self.primary) && has(self.primary.automaticFailover) ? [self.primary.automaticFailover] : [], has(self.primary) && has(self.primary.autoFailover) ? [self.primary.autoFailover] : [], has(self.failover) && has(self.failover.enabled) ? [self.failover.enabled] : [], has(self.failover) && has(self.failover.autoPromote) ? [self.failover.autoPromote] : []].all(a, a.all(x, [has(self.primary) && has(self.primary.automaticFailover) ? [self.primary.automaticFailover] : [], has(self.primary) && has(self.primary.autoFailover) ? [self.primary.autoFailover] : [], has(self.failover) && has(self.failover.enabled) ? [self.failover.enabled] : [], has(self.failover) && has(self.failover.autoPromote) ? [self.failover.autoPromote] : []].all(b, b.all(y, x == y))))").message("spec.replication: primary.automaticFailover, primary.autoFailover, failover.enabled and failover.autoPromote must agree"))]
pub struct Replication {
    /// Replicate; false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Primary>,
    /// What follows when the primary is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// What a commit waits for: `Strict`, `Safe` (default) or `Available`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Semi-synchronous replication; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semi_sync_enabled: Option<bool>,
    /// How long a commit waits for an acknowledgement; only with `durability: Available`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semi_sync_ack_timeout: Option<GoDuration>,
    /// `AfterSync` or `AfterCommit`; only with `durability: Available`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semi_sync_wait_point: Option<WaitPoint>,
    /// `sync_binlog`, 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub sync_binlog: Option<i32>,
    /// GTIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<GtidSettings>,
    /// Same as `gtid.domainId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub gtid_domain_id: Option<i64>,
    /// `gtid_strict_mode`, true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_strict_mode: Option<bool>,
    /// First server id of the topology's root, 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_195_i64))]
    pub server_id_start_index: Option<i64>,
    /// Accounts that replicas connect with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationAccount>,
    /// How this object's members replicate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
    /// Probes as of a server that does not replicate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standalone_probes: Option<bool>,
}

/// What a commit waits for.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// A replica's acknowledgement, always.
    Strict,
    /// A replica's acknowledgement, while there is one that can give it.
    #[default]
    Safe,
    /// What semi-synchronous replication is configured to, or nothing.
    Available,
}

/// When semi-synchronous replication waits.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitPoint {
    /// After the binary log is written, before the commit is visible.
    #[default]
    AfterSync,
    /// After the commit.
    AfterCommit,
}

/// The primary.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.podIndex) && has(self.member))").message("spec.replication.primary: podIndex and member exclude each other"))]
#[x_kube(validation = Rule::new("!has(self.autoFailoverDelay) || !has(self.automaticFailoverDelay) || self.autoFailoverDelay == self.automaticFailoverDelay").message("spec.replication.primary.autoFailoverDelay and spec.replication.primary.automaticFailoverDelay differ"))]
pub struct Primary {
    /// Wanted primary: ordinal in this object. A change asks for a switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pod_index: Option<i32>,
    /// Wanted primary: any member's pod name. A change asks for a switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Change the primary without being asked when it is gone; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic_failover: Option<bool>,
    /// Same as `automaticFailover`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_failover: Option<bool>,
    /// Extra wait before a failover, also when the primary's death is confirmed; 0s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_failover_delay: Option<GoDuration>,
    /// Same as `autoFailoverDelay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic_failover_delay: Option<GoDuration>,
    /// Delete the old primary's pod as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
}

/// Fencing by deletion of the pod.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fencing {
    /// Do it; false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// `STONITH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<FencingMethod>,
}

/// How a pod is fenced.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FencingMethod {
    /// The pod is deleted.
    #[default]
    #[serde(rename = "STONITH")]
    Stonith,
}

/// What follows when the primary is gone.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// Same as `primary.automaticFailover`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Same as `primary.automaticFailover`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_promote: Option<bool>,
    /// How long a primary may be silent before it counts as down; 5s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Consecutive failed attempts to reach it that are needed as well; 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub retries: Option<i32>,
    /// After a change no failover on mere suspicion within; 60s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<GoDuration>,
}

/// GTIDs.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GtidSettings {
    /// Always true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// `gtid_domain_id`, 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub domain_id: Option<i64>,
}

/// The accounts that replicas connect with.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationAccount {
    /// Their name's beginning: `<user>_<server id>`; `<user>` alone can only log in. `repl` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Their password; made when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_key_ref: Option<GeneratedSecretKeyRef>,
}

/// How this object's members replicate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.replicationPasswordSecretKeyRef) || !has(self.replPasswordSecretKeyRef) || self.replicationPasswordSecretKeyRef.name == self.replPasswordSecretKeyRef.name").message("spec.replication.replica.replicationPasswordSecretKeyRef and spec.replication.replica.replPasswordSecretKeyRef differ"))]
#[x_kube(validation = Rule::new("!has(self.candidate) || !self.candidate || !has(self.semiSync) || self.semiSync").message("spec.replication.replica.candidate: true contradicts spec.replication.replica.semiSync: false").field_path(".candidate"))]
#[x_kube(validation = Rule::new("!has(self.maxLagSeconds) || !has(self.maxDelay) || (type(self.maxDelay) == int ? self.maxDelay == self.maxLagSeconds : !string(self.maxDelay).matches('^[0-9]+s?$') || string(self.maxDelay) == string(self.maxLagSeconds) || string(self.maxDelay) == string(self.maxLagSeconds) + 's')").message("spec.replication.replica.maxLagSeconds and spec.replication.replica.maxDelay differ").field_path(".maxDelay"))]
pub struct Replica {
    /// The object whose members this one's replicate from. Absent: this object is a topology's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_name: Option<String>,
    /// The service by which they reach it; the root's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_service: Option<NamespacedName>,
    /// Members acknowledge commits; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semi_sync: Option<bool>,
    /// Members may be promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<bool>,
    /// Position to start from: `slave_pos` (default). `current_pos` is taken as `slave_pos`, with a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<GtidMode>,
    /// `slave_net_timeout`: silence after which the connection counts as lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_timeout: Option<GoDuration>,
    /// Failed attempts to connect, `connectionRetrySeconds` apart, after which the replica is reported as broken; it keeps trying.
    /// 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connection_retries: Option<i32>,
    /// `MASTER_CONNECT_RETRY` in seconds, 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connection_retry_seconds: Option<i32>,
    /// Beyond this lag a replica is not ready; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_lag_seconds: Option<i32>,
    /// Same as `maxLagSeconds`, as a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<GoDuration>,
    /// `MASTER_DELAY`: stay behind on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<GoDuration>,
    /// `slave_parallel_threads`, 4 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16383))]
    pub parallel_threads: Option<i32>,
    /// `slave_parallel_mode`, `optimistic` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_mode: Option<ParallelMode>,
    /// TLS to the source with certificates of the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssl: Option<ReplicaSsl>,
    /// Longest wait for a target to catch up; 10s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_timeout: Option<GoDuration>,
    /// What happens to a broken replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoverySettings>,
    /// Seed new members from a backup instead of from a donor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_from: Option<BootstrapFrom>,
    /// Same as `replication.user` of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_user: Option<String>,
    /// Same as `replication.passwordSecretKeyRef` of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_password_secret_key_ref: Option<GeneratedSecretKeyRef>,
    /// Same as `replicationPasswordSecretKeyRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repl_password_secret_key_ref: Option<GeneratedSecretKeyRef>,
}

/// Where a replica starts from.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum GtidMode {
    /// The position of what was applied.
    #[default]
    SlavePos,
    /// Unsafe across failovers: taken as `slave_pos`.
    CurrentPos,
    /// Same as `slave_pos`.
    #[serde(rename = "SlavePos")]
    SlavePosGo,
    /// Same as `current_pos`.
    #[serde(rename = "CurrentPos")]
    CurrentPosGo,
}

/// `slave_parallel_mode`.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ParallelMode {
    /// Transactions in parallel, conflicts rolled back.
    #[default]
    Optimistic,
    /// As `optimistic`, fewer waits.
    Aggressive,
    /// What was committed together.
    Conservative,
    /// Only the commit of transactions in parallel.
    Minimal,
    /// Serial.
    None,
}

impl ParallelMode {
    /// As MariaDB spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optimistic => "optimistic",
            Self::Aggressive => "aggressive",
            Self::Conservative => "conservative",
            Self::Minimal => "minimal",
            Self::None => "none",
        }
    }
}

/// TLS to the source.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSsl {
    /// Use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// CA of the source's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_key_ref: Option<KeyRef>,
    /// Client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_key_ref: Option<KeyRef>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_secret_key_ref: Option<KeyRef>,
}

/// What happens to a broken replica.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecoverySettings {
    /// Replace its data by a copy; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// After it has been broken for so long; 5m by default, at once for errors that cannot heal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_duration_threshold: Option<GoDuration>,
}
