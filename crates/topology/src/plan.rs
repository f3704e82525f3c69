//! Decisions that take more than one step: what is under way, and what is told of it when it is over.
//!
//! A plan belongs to one revision of the record. As soon as the record has another one (somebody else decided), the plan
//! is void and everything is decided anew from what is seen. So a plan is kept in memory only: losing it costs patience,
//! never safety.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::action::Stamp;
use crate::gtid::GtidPosition;
use crate::history::Errant;
use crate::member::{DataId, Fenced, MemberName};
use crate::record::Acker;
use crate::time::Time;

/// What is carried from one decision to the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// The decision under way.
    pub plan: Option<Plan>,
    /// When the primary changed last.
    pub changed: Option<Time>,
    /// When it failed over, lately. A switchover is nobody's failure.
    pub failovers: Vec<Time>,
    /// The primary has been found down since, without a break.
    pub down_since: Option<Time>,
    /// Writes have not been possible since.
    pub closed_since: Option<Time>,
    /// A change whose new primary is in the record, and not yet open or not yet safe.
    pub finishing: Option<Change>,
    /// The last epoch that is counted in `changed` and `failovers`.
    pub counted: u64,
    /// The last epoch whose beginning has been told.
    pub told: u64,
    /// The record knows of a change that nobody has told, since.
    pub untold: Option<Time>,
    /// The last plan of each kind that failed: when, how many in a row.
    pub failures: BTreeMap<&'static str, Failure>,
}

/// Attempts that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In a row.
    pub count: u32,
    /// The last one.
    pub last: Time,
    /// Why.
    pub why: String,
}

/// A decision under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its own: void under any other.
    pub stamp: Stamp,
    /// What it is.
    pub kind: PlanKind,
    /// When it was decided.
    pub since: Time,
    /// When its current step began.
    pub step_since: Time,
    /// When each step that is over ended, in order.
    pub phases: Vec<(Phase, Time)>,
}

/// What is under way.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanKind {
    /// The primary is down: the ackers are fenced, read and drained, and one of them is promoted.
    Failover {
        /// Why.
        cause: Cause,
        /// Who is fenced, and how long the drain has not moved.
        drained_to: BTreeMap<MemberName, (GtidPosition, Time)>,
    },
    /// The primary hands over to another member.
    Switchover {
        /// Why.
        cause: Cause,
        /// To whom.
        target: MemberName,
        /// Where it is.
        step: SwitchStep,
    },
    /// Ackers that no longer acknowledge are locked out; they leave the record when another one holds a marker.
    Expel {
        /// They.
        members: BTreeMap<DataId, Acker>,
        /// Why, for people.
        why: String,
    },
    /// A marker shall prove that the ackers hold everything: then `solo` is cleared.
    Prove,
    /// Waits are off; a marker shall show that an acker is near: then they go on.
    Near,
}

impl PlanKind {
    /// Another member shall be primary.
    pub fn moves_the_primary(&self) -> bool {
        matches!(self, Self::Failover { .. } | Self::Switchover { .. })
    }

    /// The old primary takes no writes any more, or cannot return them.
    pub fn closed_the_primary(&self) -> bool {
        self.moves_the_primary() && !matches!(self, Self::Switchover { step: SwitchStep::Close, .. })
    }

    /// Who shall be primary, once the old one is closed.
    pub fn next_primary(&self) -> Option<&MemberName> {
        match self {
            Self::Switchover { target, .. } if self.closed_the_primary() => Some(target),
            _ => None,
        }
    }
}

/// Steps of a switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchStep {
    /// The old primary goes read-only, its clients are cut.
    Close,
    /// The target applies all of this; nobody is locked out yet.
    Reach(GtidPosition),
    /// All ackers are locked out on the old primary, and its position is read again.
    LockOut(GtidPosition),
}

/// A part of a change of primary, by what ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From the last moment at which the primary was well until it was found down.
    Noticed,
    /// Until nobody could acknowledge any more (failover), or the old primary was read-only (switchover).
    Fenced,
    /// Until the new primary had applied everything.
    Drained,
    /// Until the record named it.
    Chosen,
    /// Until it was open for writes.
    Promoted,
    /// Until a replica acknowledged.
    Admitted,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Noticed => "noticed",
            Self::Fenced => "fenced",
            Self::Drained => "drained",
            Self::Chosen => "chosen",
            Self::Promoted => "promoted",
            Self::Admitted => "admitted",
        })
    }
}

/// Why the primary changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// PascalCase: `ServerExited`, `ContainerTerminated`, `Silent`, `Unresponsive`, `Requested`, `PodStops`, ...
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// The request that it answers.
    pub request: Option<String>,
}

/// A change of primary, or an attempt at one, that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Planned.
    pub switchover: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// The epoch that it began, or that it would have.
    pub epoch: u64,
    /// The old primary.
    pub from: Option<MemberName>,
    /// The UID of the pod in which that was told to open.
    pub from_pod: Option<String>,
    /// The new primary.
    pub to: Option<MemberName>,
    /// Every member at the moment of the choice.
    pub members: Vec<Judged>,
    /// When each phase ended, in order, from `began`.
    pub phases: Vec<(Phase, Time)>,
    /// When it was noticed.
    pub began: Time,
    /// When it was over.
    pub ended: Time,
    /// How long writes were not possible, where that is known.
    pub closed_for: Option<Duration>,
    /// What was, or may have been, lost: for people. Empty: nothing.
    pub lost: Vec<String>,
}

impl Change {
    /// When the record named the new primary; `None`: it never did.
    pub fn swapped(&self) -> Option<Time> {
        self.phases.iter().find(|(phase, _)| *phase == Phase::Chosen).map(|(_, at)| *at)
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is a new primary.
    Done,
    /// The old one has the writes back.
    RolledBack {
        /// Why.
        why: String,
    },
}

/// A member when the choice was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Who.
    pub name: MemberName,
    /// What it held, applied or received.
    pub position: GtidPosition,
    /// How it was fenced.
    pub fenced: Option<Fenced>,
    /// What was thought of it.
    pub verdict: Verdict,
}

/// What is thought of a member as a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was chosen.
    Chosen,
    /// It could have been.
    Fit,
    /// It is the old primary.
    OldPrimary,
    /// It may not be primary (delayed, regional, `candidate: false`).
    NoCandidate,
    /// Its agent does not answer.
    Silent {
        /// Why.
        why: String,
    },
    /// It has no data, or no server that could be read.
    NotRunning,
    /// It has what the primary never had.
    Errant {
        /// Which.
        errant: Vec<Errant>,
    },
    /// Another one held more.
    Behind {
        /// By so many transactions.
        by: u64,
    },
    /// Its replication does not work.
    Broken {
        /// Why.
        why: String,
    },
    /// It shall be restarted or taken away.
    Leaving,
    /// Somebody said hands off.
    HandsOff,
}

impl Verdict {
    /// PascalCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chosen => "Chosen",
            Self::Fit => "Fit",
            Self::OldPrimary => "OldPrimary",
            Self::NoCandidate => "NoCandidate",
            Self::Silent { .. } => "Silent",
            Self::NotRunning => "NotRunning",
            Self::Errant { .. } => "ErrantTransactions",
            Self::Behind { .. } => "Behind",
            Self::Broken { .. } => "ReplicationBroken",
            Self::Leaving => "Leaving",
            Self::HandsOff => "HandsOff",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => write!(f, "chosen"),
            Self::Fit => write!(f, "could have been chosen"),
            Self::OldPrimary => write!(f, "was the primary"),
            Self::NoCandidate => write!(f, "is no candidate"),
            Self::Silent { why } => write!(f, "is silent ({why})"),
            Self::NotRunning => write!(f, "has no server that runs"),
            Self::Errant { errant } => {
                write!(f, "has transactions that no primary wrote ({})", crate::decision::list(errant))
            }
            Self::Behind { by } => write!(f, "is behind by {by} transactions"),
            Self::Broken { why } => write!(f, "does not replicate ({why})"),
            Self::Leaving => write!(f, "shall be restarted or taken away"),
            Self::HandsOff => write!(f, "is left alone: its object is suspended"),
        }
    }
}

/// What would happen if the primary died now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forecast {
    /// This member would take over.
    Failover {
        /// Who.
        to: MemberName,
        /// Who else could.
        others: BTreeSet<MemberName>,
    },
    /// Nobody would, before something else happens.
    Refused {
        /// PascalCase.
        reason: &'static str,
        /// For people.
        message: String,
    },
}
