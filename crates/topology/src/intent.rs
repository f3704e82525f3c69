//! What people want of a topology: their objects, resolved and gathered under one root.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Endpoint, Source};
use crate::member::MemberName;

/// A whole topology as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Name of the root object.
    pub topology: String,
    /// `false`: a server on its own; no accounts, nobody follows.
    pub replication: bool,
    /// Somebody asked for hands off.
    pub hands_off: Option<HandsOff>,
    /// Who should be the first primary.
    pub wanted_primary: MemberName,
    /// A person's word on whose data counts, where the operator cannot know (the primary's data is gone, or the
    /// record and the members disagree).
    pub use_data_of: Option<MemberName>,
    /// What a commit waits for.
    pub durability: Durability,
    /// When and how the primary changes.
    pub failover: Failover,
    /// Somebody asked for a change of primary (`kubectl mariadb switchover`).
    pub request: Option<Request>,
    /// Members that shall be restarted, replaced or taken away: they are released first.
    pub vacate: BTreeSet<MemberName>,
    /// The plain replication account; each member's own is `<user>_<server id>`.
    pub replication_user: String,
    /// All members that should run, in order of preference.
    pub members: Vec<MemberIntent>,
}

/// What a commit waits for, and what follows for a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// An acknowledgement, always.
    Strict,
    /// An acknowledgement while there is somebody to give one.
    Safe,
    /// Nothing that bounds a failover.
    Available {
        /// Commits wait as the user's own settings say.
        semi_sync: bool,
    },
}

impl Durability {
    /// The record's ackers and `solo` decide over failovers.
    pub fn promises(self) -> bool {
        !matches!(self, Self::Available { .. })
    }
}

/// When and how the primary changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Without being asked.
    pub automatic: bool,
    /// Extra wait, also after a confirmed death.
    pub delay: Duration,
    /// How long a primary may be silent before it counts as down.
    pub timeout: Duration,
    /// Failed attempts to reach it that are needed as well.
    pub retries: u32,
    /// After a change, no failover on mere suspicion within.
    pub cooldown: Duration,
    /// Longest wait for a target to catch up; in a failover, longest time without progress.
    pub sync_timeout: Duration,
    /// How long clients may finish their transactions in a switchover.
    pub grace: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            automatic: true,
            delay: Duration::ZERO,
            timeout: Duration::from_secs(5),
            retries: 3,
            cooldown: Duration::from_secs(60),
            sync_timeout: Duration::from_secs(10),
            grace: Duration::ZERO,
        }
    }
}

/// A request for a switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Tells one request from another.
    pub id: String,
    /// To whom; `None`: the best.
    pub target: Option<MemberName>,
    /// For people.
    pub why: String,
}

/// Why nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandsOff {
    /// `spec.suspend`.
    Suspend,
    /// `spec.maintenance`.
    Maintenance,
}

/// One member as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberIntent {
    /// Its pod's name.
    pub name: MemberName,
    /// The object it belongs to.
    pub object: String,
    /// Its `server_id`.
    pub server_id: u32,
    /// Hands off this one (its object is suspended).
    pub hands_off: bool,
    /// Its server, by its own service name.
    pub server: Endpoint,
    /// Its agent, by its own service name: where other agents clone from.
    pub agent: Endpoint,
    /// Others may be cloned from it (delayed and regional members: no).
    pub donor: bool,
    /// May it be primary?
    pub candidate: bool,
    /// Its object wants fewer members: it is taken away for good.
    pub surplus: bool,
    /// How it replicates when it is not primary.
    pub replica: ReplicaIntent,
}

/// How a member replicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaIntent {
    /// A service to reach the primary by, where that is not the primary's own name (another region).
    pub through: Option<Endpoint>,
    /// TLS to the source.
    pub tls: bool,
    /// `MASTER_CONNECT_RETRY`, seconds.
    pub connect_retry: u32,
    /// So many attempts to connect may fail before it counts as broken.
    pub connect_retries: u32,
    /// `MASTER_HEARTBEAT_PERIOD`, milliseconds.
    pub heartbeat_ms: u32,
    /// `MASTER_DELAY`, seconds.
    pub delay: u32,
    /// Beyond this lag it is not healthy, seconds.
    pub max_lag: u32,
    /// What happens when it is broken.
    pub recovery: Recovery,
}

/// What happens to a replica that cannot be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Re-seed it.
    pub enabled: bool,
    /// After it has been broken for so long; at once for errors that cannot heal.
    pub threshold: Duration,
}

impl Intent {
    /// A member by name.
    pub fn member(&self, name: &MemberName) -> Option<&MemberIntent> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// Members that may be primary.
    pub fn candidates(&self) -> impl Iterator<Item = &MemberIntent> {
        self.members.iter().filter(|member| member.candidate)
    }

    /// The account that a member replicates with.
    pub fn account(&self, member: &MemberIntent) -> String {
        self.account_of(member.server_id)
    }

    /// The account of the member with this `server_id`.
    pub fn account_of(&self, server_id: u32) -> String {
        format!("{}_{server_id}", self.replication_user)
    }

    /// How `member` follows `primary`.
    pub fn source(&self, member: &MemberIntent, primary: &MemberIntent) -> Source {
        let ReplicaIntent {
            through,
            tls,
            connect_retry,
            connect_retries: _,
            heartbeat_ms,
            delay,
            max_lag: _,
            recovery: _,
        } = &member.replica;
        Source {
            endpoint: through.clone().unwrap_or_else(|| primary.server.clone()),
            user: self.account(member),
            tls: *tls,
            connect_retry: *connect_retry,
            heartbeat_ms: *heartbeat_ms,
            delay: *delay,
        }
    }
}
