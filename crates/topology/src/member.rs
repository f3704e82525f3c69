//! What is known of one member: its agent's report.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::Stamp;
use crate::gtid::{BinlogState, Gtid, GtidPosition};
use crate::history::Errant;

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
    /// Grows with every change of the state, over restarts of the agent, too: of two reports of one pod the one with the
    /// higher number is the later one.
    #[serde(default)]
    pub sequence: u64,
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
    /// It receives and acknowledges nothing, since it was told so; gone when it is told to follow, start or open.
    #[serde(default)]
    pub fence: Option<Fence>,
    /// Both replication threads are stopped and the relay log holds more than is applied: up to here.
    #[serde(default)]
    pub relay: Option<GtidPosition>,
    /// The last marker that this member was told to commit.
    #[serde(default)]
    pub marker: Option<Marker>,
    /// Replication accounts that are locked here.
    #[serde(default)]
    pub locks: Locks,
    /// Errant transactions of this data that were written to the volume for people.
    #[serde(default)]
    pub saved: Vec<Errant>,
    /// The pod was told to stop.
    #[serde(default)]
    pub leaving: bool,
    /// What the last start's crash recovery dropped, if anything.
    #[serde(default)]
    pub dropped: Option<Dropped>,
    /// Connections of nobody's members that would have acknowledged, and were sent away since the agent's start.
    #[serde(default)]
    pub strangers: u32,
    /// What is wrong with a server that runs.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Changed options that the running server did not take over, and why.
    #[serde(default)]
    pub options_refused: Option<String>,
    /// An open primary's oldest one, if it is older than [`LONG`].
    #[serde(default)]
    pub long_transaction: Option<LongTransaction>,
    /// How long ago, in milliseconds, the server gave the answer that `server` tells of, when this was sent. An agent goes on
    /// reporting when its server hangs; what it reports of that one is old then. (Received, it is part of
    /// [`Agent::Answers`](crate::observation::Agent::Answers), and 0 here.)
    #[serde(default)]
    pub answer_age_ms: u64,
}

impl MemberState {
    /// Of an agent that has just started and looked at its volume.
    pub fn new(name: MemberName, pod_uid: String, server_id: u32, accepted: Stamp, volume: Volume) -> Self {
        Self {
            name,
            pod_uid,
            server_id,
            sequence: 0,
            accepted,
            volume,
            phase: Phase::Waiting,
            server: None,
            disk: None,
            config_hash: None,
            fence: None,
            relay: None,
            marker: None,
            locks: Locks::default(),
            saved: Vec::new(),
            leaving: false,
            dropped: None,
            strangers: 0,
            trouble: None,
            options_refused: None,
            long_transaction: None,
            answer_age_ms: 0,
        }
    }
}

/// A member that was fenced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// The decision that it belongs to.
    pub stamp: Stamp,
    /// How.
    pub how: Fenced,
    /// All that it holds, read after the fence: received or in its relay log files, applied or not.
    pub received: GtidPosition,
}

/// How a member was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fenced {
    /// The IO thread is stopped.
    Stopped,
    /// The IO thread is caught in `connect()`, and told to stop: it will not receive again.
    Connecting,
    /// The server was killed.
    Killed,
}

/// Transactions at the end of a former primary's binary log that nobody had acknowledged, and that its crash recovery dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// How many.
    pub transactions: u64,
    /// Where they are written down, in the member's container.
    pub folder: String,
}

/// A marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// The decision that it belongs to.
    pub stamp: Stamp,
    /// Its transaction; `None` while its commit has not returned.
    pub gtid: Option<Gtid>,
}

/// Replication accounts that are locked on a member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Locks {
    /// The decision under which none of their connections was left; nobody's after a restart of the agent.
    pub stamp: Stamp,
    /// The accounts.
    pub accounts: BTreeSet<String>,
}

/// A transaction of a client that has written and is open for so long is told of.
pub const LONG: Duration = Duration::from_secs(10);

/// A transaction of a client that has written, and is open: cut, it would be rolled back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LongTransaction {
    /// The client's connection (`KILL` ends it).
    pub connection: u64,
    /// Whose.
    pub user: String,
    /// For how long it is open, seconds: tens, and from a minute on minutes.
    pub seconds: u64,
}

/// How long a server has not answered when its agent tells of it.
pub const UNRESPONSIVE: Duration = Duration::from_secs(1);

/// What is wrong with a server that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// It has not answered for [`UNRESPONSIVE`].
    Unresponsive,
    /// It was killed, and its process is still there (a hung disk).
    NotGone,
    /// The agent's own small writes do not succeed, for another reason than a missing acknowledgement.
    CannotWrite,
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
    /// Its binary log was emptied since this data came (`RESET MASTER`): as primary it would give numbers out again, and others would
    /// miss rows in silence.
    #[serde(default)]
    pub log_reset: bool,
    /// Semi-synchronous replication.
    #[serde(default)]
    pub semi_sync: SemiSync,
}

/// Semi-synchronous replication, as a server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SemiSync {
    /// Commits wait for an acknowledgement (`rpl_semi_sync_master_enabled`).
    pub waits: bool,
    /// `Rpl_semi_sync_master_clients`: also dead and strange ones.
    pub clients: u32,
    /// Sessions that wait (`Rpl_semi_sync_master_wait_sessions`).
    pub waiting: u32,
    /// It acknowledges when it replicates (`rpl_semi_sync_slave_enabled`).
    pub acknowledges: bool,
    /// Waits have no end (`rpl_semi_sync_master_timeout`, `_wait_no_slave`) and come before others see the commit (`AFTER_SYNC`).
    #[serde(default)]
    pub without_end: bool,
}

impl SemiSync {
    /// No commit returns before somebody acknowledged it. (Waits that end by themselves promise nothing.)
    pub fn promises(self) -> bool {
        self.waits && self.without_end
    }
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
    /// Something (a heartbeat, data) came from the source within the last three heartbeats.
    #[serde(default)]
    pub receives: bool,
    /// `Last_IO_Errno`, `Last_IO_Error`.
    pub io_error: Option<ServerError>,
    /// `Last_SQL_Errno`, `Last_SQL_Error`.
    pub sql_error: Option<ServerError>,
    /// Transactions that this data lacks although its position says otherwise: somebody has set `gtid_slave_pos`.
    #[serde(default)]
    pub passed_over: u64,
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
