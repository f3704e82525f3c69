//! What an object's agents are configured with (`agent.json` in its ConfigMap).

use serde::{Deserialize, Serialize};

/// The configuration of all agents of one `MariaDB` object. What differs between its pods (server id, host
/// names) the agent derives from its pod's ordinal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the root object.
    pub topology: String,
    /// UID of the root object: data of another topology is never touched.
    pub topology_uid: String,
    /// Name of the Lease that holds the record.
    pub lease: String,
    /// `server_id` of ordinal 0 of this object; ordinal n has base + n.
    pub server_id_base: u32,
    /// Port of the server.
    pub port: u16,
    /// Topology replicates; false: a single server.
    pub replication: bool,
    /// This topology has one member only (it may restart itself as primary at once).
    pub single_member: bool,
    /// Database to make when the first member is initialised.
    pub database: Option<String>,
    /// Account to make with it (its password is mounted).
    pub username: Option<String>,
    /// Root has no password.
    pub root_empty_password: bool,
    /// Time zone tables are loaded when the first member is initialised.
    pub time_zone_tables: bool,
    /// TLS for the server: certificate in `paths::SERVER_TLS_DIR`.
    pub tls: bool,
    /// Beyond this lag, in seconds, a replica is not ready.
    pub max_lag_seconds: u32,
    /// What commits wait for.
    #[serde(default)]
    pub commits: Commits,
    /// How long a primary that cannot write is left alone, milliseconds.
    #[serde(default)]
    pub failover_timeout_ms: u64,
    /// `Available`: how long a primary that nobody hears may take writes, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_limit_ms: Option<u64>,
    /// `terminationGracePeriodSeconds` of the pod.
    #[serde(default = "default_grace")]
    pub grace_seconds: u64,
    /// Users' own exec probes, run by the agent.
    pub probes: UserProbes,
}

/// Kubernetes' own default.
fn default_grace() -> u64 {
    30
}

/// What commits wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Commits {
    /// `Strict` or `Safe`: acknowledgements decide over failovers.
    pub promised: bool,
    /// `Strict`: an acknowledgement, always.
    pub strict: bool,
}

/// Exec probes that users gave; each replaces the agent's own answer, within the limits of the member's role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserProbes {
    /// Command and its time limit in seconds.
    pub liveness: Option<ExecProbe>,
    /// Command and its time limit in seconds.
    pub readiness: Option<ExecProbe>,
}

/// A command as a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// The command, not in a shell.
    pub command: Vec<String>,
    /// Limit in seconds.
    pub timeout_seconds: u32,
}
