//! What controller and agent say to each other.
//!
//! The agent serves HTTP/1.1 over mutual TLS on [`AGENT_PORT`]:
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/state` | [`topology::MemberState`] |
//! | `GET /v1/state/stream` | one `MemberState` a line, at every change and at least twice a second |
//! | `POST /v1/commands` with [`topology::Command`] | [`Outcome`]; 409 with [`Refusal`] |
//! | `POST /v1/confirm` with [`Confirm`] | 204; 409 with [`Refusal`] |
//! | `GET /v1/clone` | a physical backup as mbstream, in [`clone`] frames, the last of which says how it ended |
//!
//! and probes in plain HTTP on [`PROBE_PORT`]: `/startup`, `/live`, `/ready` (200, or 503 with the reason as text).

pub mod client;
pub mod config;
pub mod tls;

use serde::{Deserialize, Serialize};
use topology::Stamp;

pub use client::{AgentClient, ClientError, Session};
pub use config::AgentConfig;
pub use tls::Identity;

/// Port of the agent's API.
pub const AGENT_PORT: u16 = 7443;
/// Port of the agent's probes.
pub const PROBE_PORT: u16 = 7080;

/// Common name of the controller's client certificate: it alone may send commands.
pub const CONTROLLER_COMMON_NAME: &str = "mariadb-operator";
/// Common name of the agents' certificates: they may read state and clone.
pub const AGENT_COMMON_NAME: &str = "mariadb-agent";

/// Where things lie in a member's container `mariadb`. The controller builds the pod so, the agent finds it so.
pub mod paths {
    /// Folder that the init container copies the binary into.
    pub const BINARY_DIR: &str = "/mariadb-operator";
    /// The binary (process 1: `BINARY agent`).
    pub const BINARY: &str = "/mariadb-operator/mariadb-operator";
    /// The member's volume. The server's data directory is [`DATA_DIR`] in it.
    pub const VOLUME: &str = "/var/lib/mysql";
    /// The server's `datadir`.
    pub const DATA_DIR: &str = "/var/lib/mysql/data";
    /// The agent's own state: highest stamp, lock with the pod's UID, relay logs kept aside, what was saved of errant transactions.
    pub const STATE_DIR: &str = "/var/lib/mysql/agent";
    /// An `emptyDir` for sockets and the rendered `my.cnf`; the socket is where MariaDB's images look for it.
    pub const RUN_DIR: &str = "/run/mysqld";
    /// The server's unix socket.
    pub const SOCKET: &str = "/run/mysqld/mysqld.sock";
    /// ConfigMap of the object: [`AGENT_JSON`] and the parts of `my.cnf`.
    pub const CONFIG_DIR: &str = "/etc/mariadb-operator/config";
    /// [`crate::AgentConfig`] as JSON, in [`CONFIG_DIR`].
    pub const AGENT_JSON: &str = "agent.json";
    /// The parts of `my.cnf` in [`CONFIG_DIR`], in this order: later ones win.
    pub const CNF_PARTS: [&str; 4] = ["10-defaults.cnf", "20-user.cnf", "30-spec.cnf", "40-enforced.cnf"];
    /// File beside them: the dynamic variables that they set, name to value, which are changed in a running server.
    pub const VARIABLES_JSON: &str = "variables.json";
    /// Secret with `root-password` (absent for an empty password).
    pub const ROOT_SECRET_DIR: &str = "/etc/mariadb-operator/root";
    /// File in [`ROOT_SECRET_DIR`].
    pub const ROOT_PASSWORD: &str = "root-password";
    /// Secret with `replication-password`.
    pub const REPLICATION_SECRET_DIR: &str = "/etc/mariadb-operator/replication";
    /// File in [`REPLICATION_SECRET_DIR`].
    pub const REPLICATION_PASSWORD: &str = "replication-password";
    /// Secret with `user-password` for the spec's `username` (absent without one).
    pub const USER_SECRET_DIR: &str = "/etc/mariadb-operator/user";
    /// File in [`USER_SECRET_DIR`].
    pub const USER_PASSWORD: &str = "user-password";
    /// Server certificate of MariaDB: `ca.crt`, `tls.crt`, `tls.key`.
    pub const SERVER_TLS_DIR: &str = "/etc/mariadb-operator/server-tls";
    /// Certificate of the agent's API (server and client use): `ca.crt`, `tls.crt`, `tls.key`.
    pub const AGENT_TLS_DIR: &str = "/etc/mariadb-operator/agent-tls";
}

/// Environment of the container `mariadb` that the agent reads.
pub mod env {
    /// The pod's name (field reference).
    pub const POD_NAME: &str = "POD_NAME";
    /// The pod's namespace (field reference).
    pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
    /// The pod's UID (field reference).
    pub const POD_UID: &str = "POD_UID";
}

/// Answer to a command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// It is so.
    Done,
    /// It takes longer; the state's phase tells how it goes.
    Started,
}

/// A primary whose API server does not answer asks every candidate's agent (`Available`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confirm {
    /// Its epoch.
    pub epoch: u64,
    /// For so long, milliseconds, whoever confirms takes no part in a failover.
    pub limit_ms: u64,
}

/// Answer to a command that was not carried out (HTTP 409).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "refusal")]
pub enum Refusal {
    /// The stamp is older than one that was accepted.
    #[error("stale: {highest:?} was accepted already")]
    Stale {
        /// What was accepted.
        highest: Stamp,
    },
    /// Another action runs.
    #[error("busy: {doing}")]
    Busy {
        /// What it is.
        doing: String,
    },
    /// The action does not fit what is there (data where none may be, no server to open, ...).
    #[error("not possible: {why}")]
    NotPossible {
        /// Why.
        why: String,
    },
    /// It was tried and failed.
    #[error("failed: {message}")]
    Failed {
        /// PascalCase, for events and metrics.
        reason: String,
        /// For people.
        message: String,
    },
}

/// Frames of a clone stream: a byte of kind, four bytes of length (big endian), the payload.
pub mod clone {
    use serde::{Deserialize, Serialize};

    /// Kind of a frame that carries mbstream bytes.
    pub const DATA: u8 = 0;
    /// Kind of the first frame: [`Start`] as JSON.
    pub const START: u8 = 1;
    /// Kind of the last frame: [`End`] as JSON. A stream without it failed.
    pub const END: u8 = 2;

    /// What the donor says first.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Start {
        /// Rough size of what is to come, bytes (the donor's data files).
        pub estimated_bytes: u64,
        /// The donor's version, as `@@version`.
        pub version: String,
        /// The donor is the primary: positions come from its binary log; else from its own position table.
        pub from_primary: bool,
    }

    /// How it ended.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", tag = "result")]
    pub enum End {
        /// mariadb-backup said `completed OK!` and exited with 0.
        Complete,
        /// It did not.
        Failed {
            /// Its last words.
            message: String,
        },
    }
}
