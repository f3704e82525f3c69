//! What follows from an observation: the next record, the actions of this step, and what to tell people.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::action::{Action, Command, Stamp};
use crate::gtid::GtidPosition;
use crate::history::Errant;
use crate::member::{MemberName, ServerError, ThreadState};
use crate::plan::{Change, Course, Forecast};
use crate::record::Record;

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
    /// A change of primary, or an attempt at one, that is over: for the record that people read.
    pub change: Option<Change>,
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
    /// The last error of either thread.
    pub last_error: Option<ServerError>,
    /// `gtid_binlog_pos`.
    pub binlog_pos: GtidPosition,
    /// `gtid_slave_pos`.
    pub slave_pos: GtidPosition,
}

/// What is not done, by name, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Two members would have one `server_id`.
    DuplicateServerId {
        /// The id.
        server_id: u32,
        /// They.
        members: Vec<MemberName>,
    },
    /// A volume holds something that is not this topology's.
    ForeignVolume {
        /// Where.
        member: MemberName,
        /// What.
        found: String,
    },
    /// No first data is made while a volume may hold some.
    UnknownVolumes {
        /// Members that have not said what their volumes hold, with why.
        silent: Vec<(MemberName, String)>,
        /// Claims of members that do not run.
        idle: Vec<String>,
    },
    /// No record, and the volume of the wanted primary is empty while others hold data.
    FirstVolumeEmpty {
        /// The wanted primary.
        member: MemberName,
        /// Who holds data.
        others: Vec<MemberName>,
    },
    /// No record, and no member's data contains all others'.
    HistoriesDiverge {
        /// Each member with what the wanted primary lacks of it.
        members: Vec<(MemberName, Vec<Errant>)>,
    },
    /// The holder's data is gone.
    PrimaryVolumeLost {
        /// The holder.
        member: MemberName,
        /// What is there instead.
        found: String,
        /// Who holds data.
        others: Vec<MemberName>,
    },
    /// The holder is no member any more.
    PrimaryNotAMember {
        /// The holder.
        member: MemberName,
    },
    /// First data could not be made.
    CannotInitialise {
        /// Whose.
        member: MemberName,
        /// Why.
        message: String,
    },
    /// A server does not start.
    CannotStart {
        /// Whose.
        member: MemberName,
        /// Why.
        message: String,
    },
    /// A server refuses its configuration.
    ConfigRefused {
        /// Whose.
        member: MemberName,
        /// Why.
        message: String,
    },
    /// A copy could not be made.
    CannotClone {
        /// For whom.
        member: MemberName,
        /// Why.
        message: String,
    },
    /// Nobody can be copied from now.
    NoDonor {
        /// For whom.
        member: MemberName,
    },
    /// A member has transactions that the primary never had.
    ErrantTransactions {
        /// Who.
        member: MemberName,
        /// Which.
        errant: Vec<Errant>,
    },
    /// A replica cannot be repaired, and `recovery.enabled` is false.
    RecoveryDisabled {
        /// Who.
        member: MemberName,
        /// The error.
        error: String,
    },
    /// A replica broke again soon after it was re-seeded.
    ReseedDidNotHelp {
        /// Who.
        member: MemberName,
        /// The error.
        error: String,
    },
    /// An error that only a person can end.
    NeedsAPerson {
        /// Who.
        member: MemberName,
        /// The error.
        error: String,
    },
}

impl Refusal {
    /// PascalCase, for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DuplicateServerId { .. } => "DuplicateServerId",
            Self::ForeignVolume { .. } => "ForeignVolume",
            Self::UnknownVolumes { .. } => "UnknownVolumes",
            Self::FirstVolumeEmpty { .. } => "FirstVolumeEmpty",
            Self::HistoriesDiverge { .. } => "HistoriesDiverge",
            Self::PrimaryVolumeLost { .. } => "PrimaryVolumeLost",
            Self::PrimaryNotAMember { .. } => "PrimaryNotAMember",
            Self::CannotInitialise { .. } => "CannotInitialise",
            Self::CannotStart { .. } => "CannotStart",
            Self::ConfigRefused { .. } => "ConfigRefused",
            Self::CannotClone { .. } => "CannotClone",
            Self::NoDonor { .. } => "NoDonor",
            Self::ErrantTransactions { .. } => "ErrantTransactions",
            Self::RecoveryDisabled { .. } => "RecoveryDisabled",
            Self::ReseedDidNotHelp { .. } => "ReseedDidNotHelp",
            Self::NeedsAPerson { .. } => "ReplicaBroken",
        }
    }

    /// The member it is about, when it is one.
    pub fn member(&self) -> Option<&MemberName> {
        match self {
            Self::ForeignVolume { member, .. }
            | Self::FirstVolumeEmpty { member, .. }
            | Self::PrimaryVolumeLost { member, .. }
            | Self::PrimaryNotAMember { member }
            | Self::CannotInitialise { member, .. }
            | Self::CannotStart { member, .. }
            | Self::ConfigRefused { member, .. }
            | Self::CannotClone { member, .. }
            | Self::NoDonor { member }
            | Self::ErrantTransactions { member, .. }
            | Self::RecoveryDisabled { member, .. }
            | Self::ReseedDidNotHelp { member, .. }
            | Self::NeedsAPerson { member, .. } => Some(member),
            Self::DuplicateServerId { .. } | Self::UnknownVolumes { .. } | Self::HistoriesDiverge { .. } => None,
        }
    }

    /// Waiting rather than trouble: it usually passes by itself and deserves no warning.
    pub fn passes(&self) -> bool {
        matches!(self, Self::UnknownVolumes { idle, .. } if idle.is_empty()) || matches!(self, Self::NoDonor { .. })
    }
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateServerId { server_id, members } => write!(
                f,
                "{} would all have server_id {server_id}; set serverIdStartIndex (or server-id in myCnf) of their objects apart",
                list(members)
            ),
            Self::ForeignVolume { member, found } => write!(
                f,
                "the volume of {member} holds something that is not of this topology ({found}); it is left alone. Give the member an empty volume, or delete the claim storage-{member} if nothing in it matters"
            ),
            Self::UnknownVolumes { silent, idle } => {
                write!(f, "no first data is made before every volume is known to be empty")?;
                if !silent.is_empty() {
                    write!(f, "; waiting for {}", list(silent.iter().map(|(m, why)| format!("{m} ({why})"))))?;
                }
                if !idle.is_empty() {
                    write!(
                        f,
                        "; nobody can say what the claims {} hold: scale up again to have them read, or delete them if nothing in them matters",
                        list(idle)
                    )?;
                }
                Ok(())
            }
            Self::FirstVolumeEmpty { member, others } => write!(
                f,
                "the record of this topology is missing and the volume of {member}, the wanted primary, is empty, while {} hold data; nothing is initialised. Bring back the volume of {member}, or name the member whose data counts in the annotation k8s.mariadb.com/use-data-of",
                list(others)
            ),
            Self::HistoriesDiverge { members } => {
                write!(f, "the record of this topology is missing and no member has all transactions of the others: ")?;
                let lacks = members.iter().map(|(m, errant)| format!("{m} alone has {}", list(errant)));
                write!(
                    f,
                    "{}; name the member whose data counts in the annotation k8s.mariadb.com/use-data-of",
                    list(lacks)
                )
            }
            Self::PrimaryVolumeLost { member, found, others } => {
                write!(f, "the data of {member}, the primary, is gone ({found}); nothing is initialised over it. ")?;
                if others.is_empty() {
                    write!(f, "Bring back its volume; no other member holds data")
                } else {
                    write!(
                        f,
                        "Bring back its volume, or name one of {}, which still hold data, in the annotation k8s.mariadb.com/use-data-of: what it lacks is lost then",
                        list(others)
                    )
                }
            }
            Self::PrimaryNotAMember { member } => write!(
                f,
                "{member} holds the lease and is no member of this topology any more; scale its object up again"
            ),
            Self::CannotInitialise { member, message } => {
                write!(f, "the first data could not be made on {member}: {message}")
            }
            Self::CannotStart { member, message } => write!(f, "the server of {member} does not start: {message}"),
            Self::ConfigRefused { member, message } => {
                write!(f, "the server of {member} refuses its configuration: {message}")
            }
            Self::CannotClone { member, message } => write!(f, "{member} could not be seeded: {message}"),
            Self::NoDonor { member } => {
                write!(f, "{member} waits for a member that it can be copied from (a primary that is open)")
            }
            Self::ErrantTransactions { member, errant } => write!(
                f,
                "{member} has transactions that the primary never had ({}); its data is kept as it is. Look at them with mariadb-binlog on {member}; when nothing in them matters, delete the claim storage-{member} and the pod to have it seeded afresh",
                list(errant)
            ),
            Self::RecoveryDisabled { member, error } => write!(
                f,
                "replication of {member} cannot be repaired ({error}) and recovery.enabled is false; set it, or delete the claim storage-{member} and the pod to have it seeded afresh"
            ),
            Self::ReseedDidNotHelp { member, error } => {
                write!(f, "a fresh copy did not bring {member} back ({error}); it is tried again later")
            }
            Self::NeedsAPerson { member, error } => write!(f, "replication of {member} is broken: {error}"),
        }
    }
}
