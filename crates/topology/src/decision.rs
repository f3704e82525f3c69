//! What follows from an observation: the next record, the actions of this step, and what to tell people.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::action::{Action, Command, Stamp};
use crate::gtid::GtidPosition;
use crate::member::{Dropped, MemberName, ServerError, ThreadState};
use crate::plan::{Change, Course, Forecast};
use crate::record::Record;
pub use crate::refusal::Refusal;

/// A decision. Whoever carries it out swaps `record` first (a lost race means: decide again), then sends the
/// orders, then observes again.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The record to swap in before anything else; `None`: it stays, and the orders belong to the decision that it
    /// already names.
    pub record: Option<Record>,
    /// The decision that the orders belong to.
    pub stamp: Stamp,
    /// The actions of this step only. Those of one member are carried out in order, those of different ones at once.
    pub orders: Vec<Order>,
    /// What to tell people.
    pub report: Report,
    /// Look again after so long even if nothing is heard.
    pub look_again: Option<Duration>,
    /// What is under way: to be handed in with the next observation, when the swap succeeded.
    pub course: Course,
    /// Changes of primary, and attempts at one, that are over: for the record that people read. (A failover may end in the pass in which
    /// somebody's switchover is refused.)
    pub changes: Vec<Change>,
    /// Members of [`crate::Intent::vacate`] that may be restarted or taken away now.
    pub released: BTreeSet<MemberName>,
    /// What would happen if the primary died now.
    pub forecast: Option<Forecast>,
}

/// An action for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Who.
    pub member: MemberName,
    /// What.
    pub action: Action,
}

impl Decision {
    /// The orders under the stamp of the record that was swapped in.
    pub fn commands(&self) -> impl Iterator<Item = (&MemberName, Command)> {
        let stamp = self.stamp;
        self.orders.iter().map(move |order| (&order.member, Command { stamp, action: order.action.clone() }))
    }
}

/// What to tell people.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Condition `ReplicationHealthy`.
    pub health: Health,
    /// The member that holds the lease.
    pub primary: Option<MemberName>,
    /// What is going on, in one sentence.
    pub operation: Option<String>,
    /// What was not done, and why.
    pub refusals: Vec<Refusal>,
    /// Every member of the intent, in its order.
    pub members: Vec<MemberReport>,
    /// What this step does, for the record of events.
    pub events: Vec<Event>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// All is as wanted.
    pub ok: bool,
    /// PascalCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// PascalCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Whom it is about, when it is about one.
    pub member: Option<MemberName>,
}

/// A member's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It holds the lease.
    Primary,
    /// It does not.
    Replica,
    /// There is no primary yet.
    Unknown,
}

/// How a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does its role.
    Well,
    /// It replicates and is further behind than it may be.
    Lagging,
    /// On its way: initialising, cloning, starting, connecting.
    Underway,
    /// It waits for something outside the topology: a pod, a volume, an image.
    Waiting,
    /// It does not do its role.
    Broken,
    /// Nothing is heard of it.
    Silent,
}

/// A member, for `.status`.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberReport {
    /// Changed options that its server does not take over.
    pub options_refused: Option<String>,
    /// Its name.
    pub name: MemberName,
    /// Its object.
    pub object: String,
    /// Its `server_id`.
    pub server_id: u32,
    /// Its role.
    pub role: Role,
    /// How it does.
    pub standing: Standing,
    /// Its role, or what it is doing instead, in a word.
    pub word: &'static str,
    /// That in words; changes only with the standing or what is said about it, never with positions.
    pub text: String,
    /// How far a clone is, for people.
    pub progress: Option<String>,
    /// Its agent answers.
    pub reachable: bool,
    /// The server's version.
    pub version: Option<String>,
    /// Whom it replicates from.
    pub source: Option<String>,
    /// IO thread.
    pub io: Option<ThreadState>,
    /// SQL thread.
    pub sql: Option<ThreadState>,
    /// Lag in seconds, where it can be known.
    pub lag: Option<u64>,
    /// Why it would not be made primary, as a replica: PascalCase. `None`: it could be.
    pub unfit: Option<&'static str>,
    /// Whose transaction on it is open for long and has written: connection and user.
    pub long_transaction: Option<(u64, String)>,
    /// What its last start dropped as nobody had acknowledged it.
    pub dropped: Option<Dropped>,
    /// The last error of either thread.
    pub last_error: Option<ServerError>,
    /// `gtid_binlog_pos`.
    pub binlog_pos: GtidPosition,
    /// `gtid_slave_pos`.
    pub slave_pos: GtidPosition,
}

/// Words with commas and an "and".
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match texts.pop() {
        None => String::new(),
        Some(last) if texts.is_empty() => last,
        Some(last) => format!("{} and {last}", texts.join(", ")),
    }
}
