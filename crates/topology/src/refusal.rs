//! What is not done, by name, and what a person can do about it.

use std::fmt;
use std::time::Duration;

use crate::decision::list;
use crate::history::Errant;
use crate::member::{LongTransaction, MemberName};

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
    /// The member that a person has named lacks transactions that it wrote itself, and another one has: their numbers would
    /// be given out twice, and nobody could tell one from the other.
    NumbersUsedTwice {
        /// Who was named.
        member: MemberName,
        /// Each other member with what it has.
        others: Vec<(MemberName, Vec<Errant>)>,
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
        /// They are being saved, and the member is re-seeded afterwards.
        saves: bool,
    },
    /// The primary is down, and nobody may take over without being asked.
    AutomaticFailoverOff {
        /// The primary.
        primary: MemberName,
    },
    /// The primary is down, and it is not proven that others hold everything it acknowledged.
    SoloPrimary {
        /// The primary.
        primary: MemberName,
    },
    /// The primary is down, and a member that may hold the only copy of something does not answer.
    AckersMissing {
        /// The primary.
        primary: MemberName,
        /// Who is missing, and why.
        missing: Vec<(MemberName, String)>,
    },
    /// The primary is down, and nobody may take over.
    NoCandidate {
        /// The primary.
        primary: MemberName,
        /// What is thought of each member.
        members: Vec<(MemberName, String)>,
    },
    /// The primary is silent, but a replica still receives from it.
    StillReceiving {
        /// The primary.
        primary: MemberName,
        /// Who.
        by: MemberName,
    },
    /// The primary changed too often lately.
    TooManyChanges {
        /// So often.
        changes: usize,
        /// Within.
        within: Duration,
    },
    /// The primary changed a moment ago: mere suspicion does not count yet.
    CoolingDown {
        /// The primary.
        primary: MemberName,
    },
    /// `Available`: the primary is only suspected to be down, and might still take writes.
    NotFenced {
        /// The primary.
        primary: MemberName,
    },
    /// Whoever shall take over does not apply what it has received.
    DrainStalled {
        /// Who.
        member: MemberName,
        /// For so long.
        for_: Duration,
    },
    /// A switchover that cannot work.
    TargetRefused {
        /// To whom.
        member: MemberName,
        /// PascalCase.
        reason: &'static str,
        /// For people, as what follows the name.
        why: String,
    },
    /// A switchover for which nobody is fit.
    NoTarget {
        /// What is thought of each member.
        members: Vec<(MemberName, String)>,
    },
    /// A switchover while the primary is not well.
    PrimaryNotWell {
        /// What was asked for.
        message: String,
    },
    /// A switchover would roll back what somebody has been writing for long.
    LongTransaction {
        /// The primary.
        primary: MemberName,
        /// Which.
        transaction: LongTransaction,
    },
    /// `Strict`: those that shall be taken away are all that acknowledge.
    LastAcker {
        /// They.
        members: Vec<MemberName>,
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
            Self::NumbersUsedTwice { .. } => "NumbersUsedTwice",
            Self::PrimaryVolumeLost { .. } => "PrimaryVolumeLost",
            Self::PrimaryNotAMember { .. } => "PrimaryNotAMember",
            Self::CannotInitialise { .. } => "CannotInitialise",
            Self::CannotStart { .. } => "CannotStart",
            Self::ConfigRefused { .. } => "ConfigRefused",
            Self::CannotClone { .. } => "CannotClone",
            Self::NoDonor { .. } => "NoDonor",
            Self::ErrantTransactions { .. } => "ErrantTransactions",
            Self::RecoveryDisabled { .. } => "RecoveryDisabled",
            Self::AutomaticFailoverOff { .. } => "AutomaticFailoverOff",
            Self::SoloPrimary { .. } => "SoloPrimary",
            Self::AckersMissing { .. } => "AckersMissing",
            Self::NoCandidate { .. } => "NoCandidate",
            Self::StillReceiving { .. } => "StillReceiving",
            Self::TooManyChanges { .. } => "TooManyChanges",
            Self::CoolingDown { .. } => "CoolingDown",
            Self::NotFenced { .. } => "NotFenced",
            Self::DrainStalled { .. } => "DrainStalled",
            Self::TargetRefused { reason, .. } => reason,
            Self::NoTarget { .. } => "NoTarget",
            Self::PrimaryNotWell { .. } => "PrimaryNotReady",
            Self::LongTransaction { .. } => "LongTransaction",
            Self::LastAcker { .. } => "LastAcker",
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
            | Self::DrainStalled { member, .. }
            | Self::RecoveryDisabled { member, .. }
            | Self::ReseedDidNotHelp { member, .. }
            | Self::NeedsAPerson { member, .. } => Some(member),
            Self::DuplicateServerId { .. }
            | Self::UnknownVolumes { .. }
            | Self::HistoriesDiverge { .. }
            | Self::NumbersUsedTwice { .. }
            | Self::AutomaticFailoverOff { .. }
            | Self::SoloPrimary { .. }
            | Self::AckersMissing { .. }
            | Self::NoCandidate { .. }
            | Self::StillReceiving { .. }
            | Self::TooManyChanges { .. }
            | Self::CoolingDown { .. }
            | Self::NotFenced { .. }
            | Self::TargetRefused { .. }
            | Self::NoTarget { .. }
            | Self::PrimaryNotWell { .. }
            | Self::LongTransaction { .. }
            | Self::LastAcker { .. } => None,
        }
    }

    /// Waiting rather than trouble: it usually passes by itself and deserves no warning.
    pub fn passes(&self) -> bool {
        matches!(self, Self::UnknownVolumes { idle, .. } if idle.is_empty()) || matches!(self, Self::NoDonor { .. })
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
            Self::NumbersUsedTwice { member, others } => {
                let have = others.iter().map(|(m, errant)| format!("{m} has {}", list(errant)));
                write!(
                    f,
                    "{member} was named and lacks transactions that it wrote itself: {}; it would give their numbers out again. Name another member, or take the volumes of those that have them away first",
                    list(have)
                )
            }
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
            Self::ErrantTransactions { member, errant, saves: true } => write!(
                f,
                "{member} has transactions that the primary never had ({}); they are saved on its volume before it is re-seeded",
                list(errant)
            ),
            Self::ErrantTransactions { member, errant, saves: false } => write!(
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
            Self::AutomaticFailoverOff { primary } => write!(
                f,
                "{primary}, the primary, is down, and primary.automaticFailover is off; bring it back, or name the member whose data counts in the annotation k8s.mariadb.com/use-data-of"
            ),
            Self::SoloPrimary { primary } => write!(
                f,
                "{primary}, the primary, is down, and it was going on alone: nobody else is known to hold everything that it acknowledged. Bring it back; or accept what may be lost and name the member whose data counts in the annotation k8s.mariadb.com/use-data-of"
            ),
            Self::AckersMissing { primary, missing } => write!(
                f,
                "{primary}, the primary, is down, and what it acknowledged last may be held by {} alone. Bring back one of the two; or accept what may be lost and name the member whose data counts in the annotation k8s.mariadb.com/use-data-of",
                list(missing.iter().map(|(member, why)| format!("{member} ({why})")))
            ),
            Self::NoCandidate { primary, members } if members.is_empty() => {
                write!(f, "{primary}, the primary, is down, and no other member may be primary; bring it back")
            }
            Self::NoCandidate { primary, members } => write!(
                f,
                "{primary}, the primary, is down, and nobody can take over: {}",
                list(
                    members.iter().filter(|(m, _)| m != primary).map(|(member, verdict)| format!("{member} {verdict}"))
                )
            ),
            Self::StillReceiving { primary, by } => write!(
                f,
                "{primary}, the primary, is silent here, but {by} still receives from it: it is the operator that cannot reach it"
            ),
            Self::TooManyChanges { changes, within } => write!(
                f,
                "{changes} failovers within {} minutes; the primary is left where it is. Find out what makes it fail; the next failover is possible when that time is over",
                within.as_secs() / 60
            ),
            Self::CoolingDown { primary } => write!(
                f,
                "{primary}, the primary, is silent, and the last change was only a moment ago (failover.cooldown); it is waited for"
            ),
            Self::NotFenced { primary } => write!(
                f,
                "{primary}, the primary, is silent here, and with durability Available it may still take writes: the record (the Lease) was renewed within failover.timeout, or never in this epoch. It is replaced when that has stopped, or when its container is known to be gone"
            ),
            Self::DrainStalled { member, for_ } => write!(
                f,
                "{member} shall take over and has not applied anything of what it has received for {} s; look at its last error",
                for_.as_secs()
            ),
            Self::TargetRefused { member, reason: _, why } => write!(f, "no switchover to {member}: it {why}"),
            Self::NoTarget { members } => write!(
                f,
                "no switchover: nobody can take over ({})",
                list(members.iter().map(|(member, verdict)| format!("{member} {verdict}")))
            ),
            Self::PrimaryNotWell { message } => {
                write!(f, "no switchover while the primary is not well ({message})")
            }
            Self::LongTransaction { primary, transaction: LongTransaction { connection, user, seconds } } => write!(
                f,
                "no switchover while a transaction of {user} on {primary} is open that has written (for {seconds} s so far): it would be \
                 rolled back; wait for its end, or end it there: KILL {connection}"
            ),
            Self::LastAcker { members } => write!(
                f,
                "{} would be taken away, and nobody else acknowledges: with durability Strict all writes would wait. Want two members \
                 or more, or durability Safe",
                list(members)
            ),
            Self::NeedsAPerson { member, error } => write!(f, "replication of {member} is broken: {error}"),
        }
    }
}
