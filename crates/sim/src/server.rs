//! A MariaDB server and its disk, as far as replication goes (measured behaviour: binary log, relay log and its purge when
//! both threads start, semi-synchronous acknowledgements, own events, crash recovery with and without truncation).

use std::collections::BTreeSet;

use topology::gtid::{BinlogState, Gtid, GtidPosition};
use topology::history::Errant;
use topology::member::{DataId, ServerState};
use topology::{Stamp, Time};

/// A transaction in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) server_id: u32,
    pub(crate) sequence: u64,
    /// Tells two transactions with one GTID apart: only the laws look at it, servers and agents do not.
    pub(crate) tag: u64,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0-{}-{}", self.server_id, self.sequence)
    }
}

impl Entry {
    pub(crate) fn gtid(self) -> Gtid {
        Gtid { domain: 0, server_id: self.server_id, sequence: self.sequence }
    }
}

fn position(entry: Option<&Entry>) -> GtidPosition {
    entry.map(|entry| GtidPosition([(0, entry.gtid())].into())).unwrap_or_default()
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) data_id: Option<DataId>,
    /// Everything in the data, in order.
    pub(crate) content: Vec<Entry>,
    /// From here on it is in the binary log, too (a copy's starts empty).
    pub(crate) binlog_from: usize,
    /// How much of `content` came by replication or by the copy: `gtid_slave_pos`.
    pub(crate) slave_pos: Option<Entry>,
    /// In the binary log, and not committed in the engine: waiting for an acknowledgement. Always the tail of `content`.
    pub(crate) waiting: usize,
    /// Received and not applied.
    pub(crate) relay: Vec<Entry>,
    /// Relay logs that a start of both threads would have thrown away, until they were applied.
    pub(crate) aside: Vec<Entry>,
    /// Accounts that are locked, by server id.
    pub(crate) locked: BTreeSet<u32>,
    /// Whom it replicates from.
    pub(crate) source: Option<usize>,
    /// Highest stamp that its agent accepted.
    pub(crate) accepted: Stamp,
    /// Written down for people.
    pub(crate) saved: Vec<Errant>,
}

impl Disk {
    pub(crate) fn binlog_pos(&self) -> GtidPosition {
        position(self.content[self.binlog_from.min(self.content.len())..].last())
    }

    pub(crate) fn slave_pos(&self) -> GtidPosition {
        position(self.slave_pos.as_ref())
    }

    /// `Gtid_IO_Pos`: received.
    pub(crate) fn received(&self) -> GtidPosition {
        position(self.relay.last().or(self.slave_pos.as_ref()))
    }

    pub(crate) fn binlog_state(&self) -> BinlogState {
        let mut state = BinlogState::default();
        for entry in &self.content[self.binlog_from.min(self.content.len())..] {
            state.add(entry.gtid());
        }
        state
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.content.last().map_or(0, |entry| entry.sequence)
    }

    /// In the data, or in a relay log that can be applied.
    pub(crate) fn can_have(&self, entry: Entry) -> bool {
        let next = self.last_sequence() + 1;
        let follows = |log: &[Entry]| {
            let diverged = log.iter().any(|e| e.sequence + 1 == next && Some(e) != self.content.last());
            !diverged && log.first().is_some_and(|first| first.sequence <= next)
        };
        let applies = |log: &[Entry]| entry.sequence >= next && log.contains(&entry) && follows(log);
        self.content.contains(&entry) || applies(&self.relay) || applies(&self.aside)
    }

    /// The end of this log is not in the data: neither replicated nor its own.
    pub(crate) fn lacks(&self, log: &[Entry]) -> bool {
        let replicated = self.slave_pos.map_or(0, |last| last.sequence);
        log.last().is_some_and(|last| last.sequence > replicated && !self.content.contains(last))
    }

    /// How far everything goes that was received: applied, in the relay log, or kept aside.
    pub(crate) fn held(&self) -> GtidPosition {
        let aside = position(self.aside.last());
        self.received().furthest(&aside).furthest(&self.slave_pos()).furthest(&self.binlog_pos())
    }

    /// In the data, in the relay log, or kept aside.
    pub(crate) fn holds(&self, entry: Entry) -> bool {
        let found = |all: &[Entry]| all.iter().rev().any(|own| *own == entry);
        found(&self.content) || found(&self.relay) || found(&self.aside)
    }
}

/// A replication thread's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Io {
    No,
    Connecting,
    Yes,
    /// The source does not know our position (1236).
    Refused,
}

/// A running server.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) read_only: bool,
    pub(crate) waits: bool,
    /// Without a promise: nobody acknowledged in time, so nothing is waited for until somebody does.
    pub(crate) fell_back: bool,
    pub(crate) waiting_since: Option<Time>,
    pub(crate) io: Io,
    pub(crate) sql: bool,
    /// Its source was not reached the last time.
    pub(crate) unreached: bool,
    /// Its account was locked there.
    pub(crate) kept_out: bool,
    /// Out of order: the SQL thread stopped (1950).
    pub(crate) diverged: bool,
    /// Steps until it answers.
    pub(crate) starting: u32,
    /// Stopped with SIGSTOP.
    pub(crate) hangs: Option<Hang>,
    /// Replicas whose connection is open, by server id.
    pub(crate) connected: BTreeSet<u32>,
    /// The epoch under which it was opened.
    pub(crate) epoch: u64,
}

/// A server that does not answer; its agent goes on telling what it said last.
#[derive(Debug, Clone)]
pub(crate) struct Hang {
    pub(crate) since: Time,
    /// `None`: it had not answered yet.
    pub(crate) answer: Option<ServerState>,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self {
            read_only: true,
            waits: false,
            fell_back: false,
            waiting_since: None,
            io: Io::No,
            sql: false,
            unreached: false,
            kept_out: false,
            diverged: false,
            starting: 2,
            hangs: None,
            connected: BTreeSet::new(),
            epoch: 0,
        }
    }

    /// A stopped SQL thread is started before the IO thread is stopped: that keeps the relay log.
    pub(crate) fn start_applying(&mut self) {
        self.sql |= self.io != Io::No && !self.diverged;
    }

    pub(crate) fn stop_receiving(&mut self) {
        self.start_applying();
        self.io = Io::No;
    }

    pub(crate) fn answers(&self) -> bool {
        self.starting == 0 && self.hangs.is_none()
    }
}
