//! What clients saw, and what lies on the servers in the end. The checker compares the two.

use std::time::Duration;

/// Names one row: who sent it, and its number among what this client sent. No number is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowId {
    pub(crate) client: u32,
    pub(crate) sequence: u64,
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.client, self.sequence)
    }
}

/// How the write of a row ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server said that it is committed.
    Acknowledged,
    /// The server said that it is not, in words that leave no doubt.
    Refused,
    /// The connection broke, or no answer came in time: it may be there or not.
    Unknown,
}

/// One row that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) row: RowId,
    /// `server_id` of the server that the connection led to.
    pub(crate) server_id: u32,
    /// When it was sent, from the beginning of the run.
    pub(crate) sent: Duration,
    /// When the outcome was known.
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

/// All that the clients saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    /// Rows that a reader saw.
    pub(crate) seen: Vec<RowId>,
    pub(crate) reads: u64,
    pub(crate) failed_reads: u64,
    /// Connections that did not come about, by writers.
    pub(crate) failed_connections: u64,
}

/// A primary's term, as the record tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) epoch: u64,
    pub(crate) server_id: u32,
    /// The last sequence number before its first transaction.
    pub(crate) start: u64,
}

/// A transaction in a binary log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) domain: u32,
    pub(crate) server_id: u32,
    pub(crate) sequence: u64,
    /// Rows of ours that it inserted.
    pub(crate) rows: Vec<RowId>,
}

/// What a member has in the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its tables' checksum and its positions.
    pub(crate) fingerprint: String,
    pub(crate) rows: Vec<RowId>,
    /// Its binary log, oldest first; it begins where the member was last copied.
    pub(crate) binlog: Vec<Transaction>,
}

/// All that is left in the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remains {
    pub(crate) members: Vec<Member>,
    /// Oldest first.
    pub(crate) terms: Vec<Term>,
}
