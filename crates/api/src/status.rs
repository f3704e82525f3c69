//! `.status` of a `MariaDB`: what is, and why.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Condition types.
pub mod condition {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// All members of the topology replicate (on the root); this object's members do (elsewhere).
    pub const REPLICATION_HEALTHY: &str = "ReplicationHealthy";
    /// Were the primary lost now, another member would take over without losing anything.
    pub const SAFE_TO_FAILOVER: &str = "SafeToFailover";
    /// All pods run what the spec says.
    pub const UPDATED: &str = "Updated";
    /// The spec can be carried out; mistakes are named with their paths.
    pub const CONFIG_VALID: &str = "ConfigValid";
    /// Fields whose behaviour is not built yet are in use.
    pub const UNSUPPORTED_FIELD: &str = "UnsupportedField";
}

/// What is, and why.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MariaDBStatus {
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
    /// The generation that the *resources* loop has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Pods of this object that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Ready and wanted, for people: `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_text: Option<String>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The topology's primary: a pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_primary: Option<String>,
    /// Its ordinal, when it is one of this object's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_primary_pod_index: Option<i32>,
    /// Worst lag of this object's replicas, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_text: Option<String>,
    /// Version of the running servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Replication as of the last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
}

/// Replication as of the last look.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    /// Number of the primary's term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// `Strict`, `Safe` or `Available`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<String>,
    /// Members that can acknowledge a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ackers: Option<Vec<String>>,
    /// It is not proven that the ackers hold everything the primary ever returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solo: Option<bool>,
    /// All members of the topology (on the root), this object's members (elsewhere).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub members: Vec<MemberStatus>,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What would happen if the primary failed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_primary_fails: Option<String>,
    /// Members that could take over now, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// The last request for a switchover, and what becomes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestStatus>,
    /// What was not done lately, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalStatus>,
}

/// A request for a switchover (annotation `k8s.mariadb.com/switchover`), and what becomes of it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RequestStatus {
    /// The request's id.
    pub id: String,
    /// `Pending`, `UnderWay`, `Done`, `RolledBack` or `Refused`.
    pub phase: String,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Something that was not done, and why.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RefusalStatus {
    /// In a word.
    pub reason: String,
    /// In words, with the way out.
    pub message: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A member.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its pod's name.
    pub name: String,
    /// `primary`, `replica` or what it is doing (`cloning`, `waiting`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What it replicates from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `gtid_binlog_pos` of the primary, `gtid_slave_pos` of a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// `Slave_IO_Running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<String>,
    /// `Slave_SQL_Running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// Lag in seconds; absent when it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Last error of replication or of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Why it would not be made primary now (`NoCandidate`, `ErrantTransactions`, `ReplicationBroken`, ...); absent when it could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// Of the primary: the client (`connection N of USER`) whose transaction has written and is open for 10 s or more. A switchover
    /// waits for its end, or is refused (`LongTransaction`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_transaction: Option<String>,
    /// `server_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<i64>,
    /// Its agent answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// Since when `role` is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
