//! What is known of one member: its agent's report.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::action::Stamp;
use crate::gtid::{BinlogState, GtidPosition};

/// A member's name: its pod's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberName(pub String);

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Random id of a data directory, new when it is initialised or cloned: tells two lives of one pod name apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataId(pub String);

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A member as its agent reports it, whole, at every change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberState {
    /// The pod's name.
    pub name: MemberName,
    /// The pod's UID.
    pub pod_uid: String,
    /// This member's `server_id`.
    pub server_id: u32,
    /// Highest stamp that the agent has accepted (kept on its disk).
    pub accepted: Stamp,
    /// What the volume holds.
    pub volume: Volume,
    /// What the agent is doing.
    pub phase: Phase,
    /// The server's own facts; `None` while it is not running or does not answer.
    pub server: Option<ServerState>,
    /// Free and total bytes of the volume, where known.
    pub disk: Option<Disk>,
    /// Hash of the configuration the running server was started with (ConfigMap content).
    pub config_hash: Option<String>,
}

/// What is in a member's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Volume {
    /// Nothing of ours and nothing that looks like data (`lost+found` does not count).
    Empty,
    /// A data directory of this topology.
    Data {
        /// Its id.
        data_id: DataId,
    },
    /// Something else: another topology's data, or a data directory that we did not make. Never touched.
    Foreign {
        /// What was found, for people.
        found: String,
    },
}

/// What the agent is doing with the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Phase {
    /// Nothing runs; a decision is awaited.
    Waiting,
    /// The data directory is being made.
    Initialising,
    /// A copy is being received.
    Cloning {
        /// The donor's host name.
        donor: String,
        /// Bytes received so far.
        received: u64,
        /// Expected bytes, when the donor said.
        total: Option<u64>,
    },
    /// The server was started and does not answer yet (crash recovery counts here).
    Starting,
    /// The server answers.
    Running,
    /// The server is being stopped.
    Stopping,
    /// The last long action or start failed; it is tried again only when told.
    Failed {
        /// PascalCase reason, for events and metrics.
        reason: String,
        /// For people.
        message: String,
    },
    /// The server refuses its configuration.
    ConfigRefused {
        /// The option, when known.
        option: Option<String>,
        /// Line in the user's `myCnf`, when it comes from there (1-based).
        line: Option<u32>,
        /// The server's own words.
        message: String,
    },
}

/// Space of the volume in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Free bytes for an unprivileged user.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

/// What the server says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerState {
    /// `@@version`.
    pub version: String,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@gtid_binlog_pos`.
    pub gtid_binlog_pos: GtidPosition,
    /// `@@gtid_slave_pos`.
    pub gtid_slave_pos: GtidPosition,
    /// `@@gtid_binlog_state`.
    pub gtid_binlog_state: BinlogState,
    /// The replication connection, when one is configured.
    pub replication: Option<ReplicationState>,
}

/// `SHOW ALL SLAVES STATUS` of the default connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationState {
    /// `Master_Host`.
    pub host: String,
    /// `Master_Port`.
    pub port: u16,
    /// `Master_User`.
    pub user: String,
    /// `Slave_IO_Running`.
    pub io: ThreadState,
    /// `Slave_SQL_Running` (never `Connecting`).
    pub sql: ThreadState,
    /// `Gtid_IO_Pos`: received.
    pub gtid_io_pos: GtidPosition,
    /// `Last_IO_Errno`, `Last_IO_Error`.
    pub io_error: Option<ServerError>,
    /// `Last_SQL_Errno`, `Last_SQL_Error`.
    pub sql_error: Option<ServerError>,
    /// `Seconds_Behind_Master` as the server believes it; `None`: it does not know.
    pub seconds_behind: Option<u64>,
}

/// State of a replication thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadState {
    /// Running.
    Yes,
    /// Stopped.
    No,
    /// The IO thread tries to connect.
    Connecting,
}

/// An error number of MariaDB's with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// MariaDB's number.
    pub errno: u32,
    /// MariaDB's words.
    pub message: String,
}
