//! One member in one pass: what is wanted of it and what is seen of it.

use crate::gtid::Gtid;
use crate::history::{Errant, History, out_of_term};
use crate::intent::MemberIntent;
use crate::member::{DataId, MemberName, MemberState, Phase, ReplicationState, ServerState, ThreadState, Volume};
use crate::memory;
use crate::observation::{Agent, Claim, Pod, Seen};
use crate::record::Term;
use crate::time::Time;

/// Reports of two members are compared only when one of them is surely the later one: agents look at their
/// servers at least once a second.
const SAMPLING_MS: u64 = 1500;

/// What is known of a member's volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// Nothing is in it, or there is no volume.
    Nothing,
    /// Data of this topology.
    Data(&'a DataId),
    /// Something else.
    Foreign(&'a str),
    /// Nobody said.
    Unknown,
}

/// A comparison of a member's history with the primary's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The primary has everything the member has.
    Clean,
    /// It seems ahead, which a moment's difference between two reports explains.
    Undecided,
    /// It has what the primary has not.
    Errant(Vec<Errant>),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) intent: &'a MemberIntent,
    pub(super) seen: Option<&'a Seen>,
}

impl<'a> Member<'a> {
    pub(super) fn name(self) -> &'a MemberName {
        &self.intent.name
    }

    /// Its report, unless that is older than the last command it accepted.
    pub(super) fn state(self) -> Option<&'a MemberState> {
        match self.seen {
            Some(Seen { agent: Agent::Answers { state, .. }, memory, .. })
                if memory.sent.is_none_or(|sent| state.accepted >= sent) =>
            {
                Some(state)
            }
            _ => None,
        }
    }

    /// Its server was so then, as its agent tells it. (An agent is heard although its server says nothing any more.)
    pub(super) fn answered_at(self) -> Option<Time> {
        match &self.seen?.agent {
            Agent::Answers { answered, .. } => Some(*answered),
            Agent::Silent { .. } => None,
        }
    }

    pub(super) fn content(self) -> Content<'a> {
        if let Some(state) = self.state() {
            return match &state.volume {
                Volume::Empty => Content::Nothing,
                Volume::Data { data_id } => Content::Data(data_id),
                Volume::Foreign { found } => Content::Foreign(found),
            };
        }
        match self.seen {
            Some(
                Seen { claim: Claim::Absent | Claim::Unbound, .. }
                | Seen { claim: Claim::Ephemeral, pod: Pod::Absent, .. },
            ) => Content::Nothing,
            _ => Content::Unknown,
        }
    }

    pub(super) fn data_id(self) -> Option<&'a DataId> {
        match self.content() {
            Content::Data(data_id) => Some(data_id),
            _ => None,
        }
    }

    pub(super) fn phase(self) -> Option<&'a Phase> {
        self.state().map(|state| &state.phase)
    }

    /// Its server, when that runs and answers.
    pub(super) fn server(self) -> Option<&'a ServerState> {
        self.state().filter(|state| state.phase == Phase::Running)?.server.as_ref()
    }

    pub(super) fn replication(self) -> Option<&'a ReplicationState> {
        self.server()?.replication.as_ref()
    }

    /// It can take an order now.
    pub(super) fn free(self) -> bool {
        self.seen.is_some_and(|seen| !seen.memory.in_flight())
            && matches!(
                self.phase(),
                Some(Phase::Waiting | Phase::Running | Phase::Failed { .. } | Phase::ConfigRefused { .. })
            )
    }

    /// No server runs, and the agent waits to be told (or to be told again).
    pub(super) fn idle(self) -> bool {
        self.free() && self.phase() != Some(&Phase::Running)
    }

    /// Why nothing is heard of it.
    pub(super) fn why_silent(self) -> String {
        let Some(seen) = self.seen else { return "not seen yet".to_owned() };
        match (&seen.pod, seen.claim, &seen.agent) {
            (Pod::Absent, ..) => "its pod does not exist".to_owned(),
            (Pod::NotRunning { why } | Pod::Exited { why }, ..) => why.clone(),
            (Pod::Running, _, Agent::Silent { why, .. }) => format!("its agent does not answer: {why}"),
            (Pod::Running, _, Agent::Answers { .. }) => "its agent is busy".to_owned(),
        }
    }

    /// Both threads are stopped, and the relay log holds more than is applied: starting either thread would throw it away. (What a change of
    /// primary has passed over nobody needs, and it cannot be applied next to what was written in its place.)
    pub(super) fn has_relay_log(self, terms: &[Term]) -> bool {
        let relay = self.state().and_then(|state| state.relay.as_ref());
        relay.is_some_and(|relay| relay.0.values().any(|gtid| !out_of_term(*gtid, terms)))
    }

    /// Both threads run, from the member named.
    pub(super) fn replicates(self) -> bool {
        self.server().is_some_and(|server| !server.log_reset)
            && self.replication().is_some_and(|replication| memory::works(replication) && replication.passed_over == 0)
    }

    /// What was written on a member whose binary log was emptied: numbered anew, and not told apart by that from what it wrote before.
    fn written_after_reset(self, server: &ServerState) -> Vec<Errant> {
        let own = server.gtid_binlog_state.transactions().filter(|gtid| gtid.server_id == self.intent.server_id);
        own.map(|gtid| Errant { domain: gtid.domain, server_id: gtid.server_id, known: 0, last: gtid.sequence })
            .collect()
    }

    /// Compares with the primary. `None`: one of the two does not answer.
    pub(super) fn verdict(self, primary: Member<'a>, terms: &[Term]) -> Option<Verdict> {
        if let Some(server) = self.server().filter(|server| server.log_reset) {
            let errant = self.written_after_reset(server);
            if !errant.is_empty() {
                return Some(Verdict::Errant(errant));
            }
        }
        let (own, theirs) = (History::of(self.server()?), History::of(primary.server()?));
        let errant = theirs.errant_of(&own, terms);
        if errant.is_empty() {
            return Some(Verdict::Clean);
        }
        // What the primary itself writes now it may have written since it last reported (but not what it wrote in a term that was passed
        // over). Next to others that are surely not its, they count: what is named here is saved before the member is seeded afresh.
        let last = |e: &Errant| Gtid { domain: e.domain, server_id: e.server_id, sequence: e.last };
        let doubtful = errant.iter().all(|e| e.server_id == primary.intent.server_id && !out_of_term(last(e), terms));
        let later = primary.answered_at()?.0 > self.seen?.memory.still_since.0 + SAMPLING_MS;
        Some(if doubtful && !later { Verdict::Undecided } else { Verdict::Errant(errant) })
    }

    /// Lag in seconds behind `primary`, where that can be known.
    pub(super) fn lag(self, primary: Option<Member<'a>>) -> Option<u64> {
        let own = self.server()?;
        let replication = own.replication.as_ref()?;
        if replication.sql == ThreadState::No {
            return None;
        }
        if replication.io == ThreadState::Yes
            && let Some(theirs) = primary.and_then(Member::server)
            && own.gtid_slave_pos.covers(&theirs.gtid_binlog_pos)
        {
            return Some(0);
        }
        replication.seconds_behind
    }
}
