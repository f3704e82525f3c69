//! What a member can be told to do. An [`Action`] is idempotent; a [`Command`] is an action with the
//! (epoch, revision) of the decision it belongs to, and an agent refuses anything below the highest it has seen.

use serde::{Deserialize, Serialize};

use crate::gtid::{BinlogState, GtidPosition};
use crate::history::Errant;
use crate::member::DataId;

/// The decision that an action belongs to: ordered by epoch, then revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// Number of the current primary's term; grows with each change of primary. 0: there was none yet.
    pub epoch: u64,
    /// Number of the decision; grows with every change of the record.
    pub revision: u64,
}

/// An action under a stamp, as it travels to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// The decision this belongs to.
    pub stamp: Stamp,
    /// What to do.
    pub action: Action,
}

/// Where a server or an agent listens: the member's own service name, never one that can point elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// DNS name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a replica follows its source (`CHANGE MASTER TO`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The source's server.
    pub endpoint: Endpoint,
    /// Account to log in with (`<user>_<server id>`); its password is in the agent's mounted secret.
    pub user: String,
    /// TLS to the source, with the certificate verified against the topology's CA.
    pub tls: bool,
    /// `MASTER_CONNECT_RETRY`, seconds.
    pub connect_retry: u32,
    /// Heartbeat period in milliseconds (`MASTER_HEARTBEAT_PERIOD`).
    pub heartbeat_ms: u32,
    /// `MASTER_DELAY`, seconds; 0 is none.
    pub delay: u32,
}

/// What is set before a primary opens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// What commits wait for.
    pub wait: Waits,
    /// Replication accounts that are locked, with their connections killed.
    pub lock: Vec<String>,
    /// Replication accounts that may log in.
    pub unlock: Vec<String>,
    /// Its numbers have begun again (`RESET MASTER`): what it replicated before is no position of its data any more. A copy would begin
    /// there, beyond what it holds, and pass over what is written until then.
    #[serde(default)]
    pub anew: bool,
}

/// Data that a copy may replace, as it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Which.
    pub data_id: DataId,
    /// `gtid_binlog_state` then. Where the server's own has [changed](crate::history::changed_since) when the copy is to take its
    /// place, the data stays: what was written since has been saved nowhere.
    pub binlog_state: BinlogState,
}

/// What a commit waits for before it returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// Nothing.
    #[default]
    Off,
    /// An acknowledgement, for as long as the server is configured to wait.
    AsConfigured,
    /// An acknowledgement, however long that takes and whether or not anybody is connected, before anybody else sees it
    /// (`AFTER_SYNC`): whatever the server was started with, since a durability that is promised later reaches its configuration only
    /// with a restart.
    WithoutEnd,
}

/// What one member is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Action {
    /// Make a new data directory, with the system accounts. Only in epoch 0, with every volume of the topology empty.
    Initialise {
        /// The new directory's id, drawn by whoever decided.
        data_id: DataId,
    },
    /// Replace what is in the volume (nothing, or data that may go) by a copy streamed from the donor's agent.
    Clone {
        /// The donor's agent.
        donor: Endpoint,
        /// The copy's id, drawn by whoever decided.
        data_id: DataId,
        /// The data that this clone may replace; `None`: the volume must be empty.
        replaces: Option<Replaced>,
    },
    /// Start the server on the data that is there: read-only, replication stopped.
    StartServer {
        /// `--init-rpl-role=SLAVE`: crash recovery drops what nobody acknowledged. Only for a member that died as primary
        /// and of which another holds the lease now; the tail of its binary log is copied aside first.
        as_replica: bool,
    },
    /// Stop the server cleanly and start it again (a new configuration or image option).
    RestartServer,
    /// Open for writes: locks first, then waits, then `read_only=OFF`, events on; a replication connection that is
    /// still configured is stopped first and forgotten when it is open (`RESET SLAVE ALL`, never `RESET MASTER`; where that STOP hangs
    /// in `connect()`, a drained and stopped SQL thread is enough, and the rest is done later). Only for the record's holder.
    OpenForWrites {
        /// What is set on the way.
        opening: Opening,
    },
    /// `read_only=ON`; clients are cut.
    SetReadOnly {
        /// Clients that are in a transaction may finish it for so long, milliseconds.
        grace_ms: u32,
        /// Where it does not succeed at once, or sessions wait for an acknowledgement, the server is killed (a demotion).
        /// Else it fails and changes nothing.
        kill: bool,
    },
    /// On the primary: make sure that the accounts exist with the mounted password. Locks stay as they are.
    EnsureReplicationAccounts {
        /// One account a member that replicates: `<user>_<server id>`.
        users: Vec<String>,
        /// The plain `<user>`, which can log in and nothing else.
        login_only: String,
    },
    /// On the primary: these accounts are locked (`sql_log_bin=0`), their connections killed until none is left, looked
    /// at once more. [`crate::member::Locks`] tells when it is so.
    Lock {
        /// Replication accounts.
        accounts: Vec<String>,
    },
    /// On the primary: these accounts may log in again.
    Unlock {
        /// Replication accounts.
        accounts: Vec<String>,
    },
    /// On the primary: commit a marker, a small row of the operator's own. Done when it is on its way; whether it came
    /// back tells [`crate::member::Marker`].
    CommitMarker,
    /// On the primary: commits wait for an acknowledgement, without end; or they do not wait.
    SetWaiting {
        /// Wait.
        on: bool,
    },
    /// Receive nothing any more, and acknowledge nothing: a backup that runs is ended, a stopped SQL thread started while
    /// the IO thread still runs, the IO thread stopped. A STOP that hangs in `connect()` counts as done; after any other that
    /// takes longer than 2 s the server is killed, and it is read from its files. What was received tells
    /// [`crate::member::Fence`]; the SQL thread goes on applying.
    Fence,
    /// Wait until the server has applied all of this position (`MASTER_GTID_WAIT`); a failure when it does not in time.
    AwaitPosition {
        /// The position.
        position: GtidPosition,
        /// Milliseconds.
        limit_ms: u32,
    },
    /// Both threads are stopped and the relay log holds more than is applied: apply it from the files.
    ReplayRelayLog,
    /// Write these transactions to the volume as readable SQL and as raw events, for people. [`crate::MemberState::saved`]
    /// tells when they are.
    SaveErrant {
        /// Which.
        errant: Vec<Errant>,
    },
    /// Replicate from this source from now on; does nothing when that is already so.
    Follow {
        /// The source.
        source: Source,
        /// It was primary: its own writes count as applied (`MASTER_DEMOTE_TO_SLAVE`).
        demote: bool,
    },
    /// `START SLAVE` (both threads), the configured source unchanged.
    StartReplication,
    /// `CHANGE MASTER` to this source, both threads left stopped: in a switchover, so that less is left to do when that one is open.
    PointAt {
        /// The source.
        source: Source,
    },
    /// `STOP SLAVE IO_THREAD`: nothing is promised by it, what was received is applied. In a switchover, before the old
    /// primary locks it out: stopped after that, it would first try to log in there once more.
    StopReceiving,
}
