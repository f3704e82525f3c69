//! Is the primary down, and how sure is that?

use std::time::Duration;

use super::pass::Pass;
use super::view::{Content, Member};
use crate::intent::Durability;
use crate::member::{DataId, Phase, ServerState, ThreadState, Trouble};
use crate::memory::Kind;
use crate::observation::{Agent, Pod};
use crate::plan::Cause;
use crate::record::Acker;
use crate::time::Time;

/// Its server is not running: it can be started again.
pub(super) const SERVER_EXITED: &str = "ServerExited";
/// Its server has been starting for long: it may be recovering, and have everything.
pub(super) const SLOW_START: &str = "SlowStart";

/// What is thought of the record's holder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Diagnosis {
    /// There is none.
    NoPrimary,
    /// Its server runs and answers.
    Well,
    /// It is on its way, or nothing bad is known of it yet.
    Underway,
    /// Its server is gone for sure.
    Confirmed(Cause),
    /// It may be down.
    Suspected {
        cause: Cause,
        /// Since when nothing good was heard of it; `None`: the caller knows.
        since: Option<Time>,
        /// Attempts to reach it must have failed as well.
        attempts: Option<u32>,
        /// A replica that still receives from it.
        vetoed_by: Option<crate::MemberName>,
    },
}

/// A server that has been starting for so many times `failover.timeout` is not waited for where another one can take over.
const SLOW: u32 = 2;

fn cause(reason: &'static str, message: String) -> Cause {
    Cause { reason: reason.into(), message, request: None }
}

pub(super) fn diagnose(pass: &Pass<'_>) -> Diagnosis {
    let Some(holder) = &pass.record.holder else { return Diagnosis::NoPrimary };
    if let Some(primary) = pass.primary() {
        return of_answering(pass, primary);
    }
    let Some(member) = pass.member(&holder.member) else {
        return Diagnosis::Confirmed(cause("MemberGone", format!("{} is no member any more", holder.member)));
    };
    if member.state().is_some() {
        let what = match member.content() {
            Content::Data(_) => "holds other data",
            Content::Foreign(_) => "holds something else",
            Content::Nothing | Content::Unknown => "is empty",
        };
        return Diagnosis::Confirmed(cause("DataGone", format!("the volume of {} {what}", member.name())));
    }
    let Some(seen) = member.seen else { return Diagnosis::Underway };
    let name = member.name();
    match (&seen.pod, &seen.agent) {
        // An answer that is older than the last order: it is about to say more.
        (_, Agent::Answers { .. }) => Diagnosis::Underway,
        (Pod::Exited { why }, Agent::Silent { .. }) => {
            Diagnosis::Confirmed(cause("ContainerTerminated", format!("the container of {name} ended: {why}")))
        }
        (Pod::Absent, Agent::Silent { .. }) => suspected(
            pass,
            cause("PodGone", format!("the pod of {name} does not exist (it may still run on a lost node)")),
            None,
            None,
        ),
        (Pod::Running | Pod::NotRunning { .. }, Agent::Silent { since, attempts, why }) => suspected(
            pass,
            cause("Silent", format!("the agent of {name} does not answer: {why}")),
            (since.0 > 0).then_some(*since),
            Some(*attempts),
        ),
    }
}

fn of_answering(pass: &Pass<'_>, primary: Member<'_>) -> Diagnosis {
    let name = primary.name();
    let Some(state) = primary.state() else { return Diagnosis::Underway };
    let memory = primary.seen.map(|seen| &seen.memory);
    let suspected_since = |since, reason, message| Diagnosis::Suspected {
        cause: cause(reason, message),
        since,
        attempts: None,
        vetoed_by: None,
    };
    let unwell = |reason, message| suspected_since(memory.and_then(|memory| memory.unwell_since), reason, message);
    match (&state.phase, state.trouble, &state.server) {
        (_, Some(Trouble::NotGone), _) => unwell("NotGone", format!("the server of {name} was killed and does not go")),
        (Phase::Running, Some(Trouble::CannotWrite), _) => {
            unwell("CannotWrite", format!("the server of {name} cannot write"))
        }
        (Phase::Running, Some(Trouble::Unresponsive), _) | (Phase::Running, None, None) => {
            unwell("Unresponsive", format!("the server of {name} does not answer"))
        }
        (Phase::Running, None, Some(server)) => {
            if let Some(since) = unheard_by_ackers(pass, primary, server) {
                let why = format!("{name} waits for an acknowledgement, and no acker receives anything from it");
                return suspected_since(Some(since), "NobodyAcknowledges", why);
            }
            if let Some(since) = cannot_open(pass, primary, server) {
                return suspected_since(Some(since), "CannotOpen", format!("{name} could not be opened again"));
            }
            Diagnosis::Well
        }
        (Phase::Waiting, ..) if resumes(pass, primary) => Diagnosis::Underway,
        (Phase::Waiting, ..) => {
            Diagnosis::Confirmed(cause(SERVER_EXITED, format!("the server of {name} is not running")))
        }
        (Phase::Failed { reason: _, message } | Phase::ConfigRefused { message, .. }, ..) => {
            Diagnosis::Confirmed(cause("ServerDoesNotStart", format!("the server of {name} does not start: {message}")))
        }
        (Phase::Starting, ..) => match memory.and_then(|memory| memory.starting_since) {
            Some(since) if pass.now.since(since) >= pass.intent.failover.timeout * SLOW => {
                suspected_since(Some(since), SLOW_START, format!("the server of {name} has not started yet"))
            }
            _ => Diagnosis::Underway,
        },
        (Phase::Stopping | Phase::Initialising | Phase::Cloning { .. }, ..) => Diagnosis::Underway,
    }
}

/// All members were down, and are coming back: the holder has everything, and is started before anybody else is chosen, also where
/// another one was quicker. (Its pod is a new one. Where only its server ended, others that ran on take over at once.)
fn resumes(pass: &Pass<'_>, primary: Member<'_>) -> bool {
    let (Some(state), Some(seen)) = (primary.state(), primary.seen) else { return false };
    let down_since = pass.course.down_since.unwrap_or(pass.now);
    let ran_on = |member: &Member<'_>| {
        let since = member.seen.and_then(|seen| seen.memory.running_since);
        member.intent.candidate && since.is_some_and(|since| since < down_since)
    };
    state.config_hash.is_none() && !seen.memory.failed(Kind::Start) && !pass.others().iter().any(ran_on)
}

/// `Strict`: since when no acker has received anything, while commits wait for them, for `failover.timeout` at least. All of them say
/// so themselves, and none is locked out: it is the primary that is cut off from them, and one of them can take over.
fn unheard_by_ackers(pass: &Pass<'_>, primary: Member<'_>, server: &ServerState) -> Option<Time> {
    if pass.intent.durability != Durability::Strict || server.semi_sync.waiting == 0 {
        return None;
    }
    let locked = &primary.state()?.locks.accounts;
    let deaf = |(data_id, acker): (&DataId, &Acker)| {
        let member = pass.members().find(|member| member.data_id() == Some(data_id))?;
        let since = member.seen?.memory.deaf_since;
        since.filter(|_| !locked.contains(&pass.intent.account_of(acker.server_id)))
    };
    let all: Option<Vec<Time>> = pass.record.ackers.iter().map(deaf).collect();
    all?.into_iter().max().filter(|since| pass.now.since(*since) >= pass.intent.failover.timeout)
}

/// `Available`: since when it has been closed and could not be opened again, for want of anybody who confirms it. Its agent is heard,
/// and somebody else could take over.
fn cannot_open(pass: &Pass<'_>, primary: Member<'_>, server: &ServerState) -> Option<Time> {
    let fails = primary.seen.is_some_and(|seen| seen.memory.failed(Kind::Open));
    pass.course.closed_since.filter(|_| server.read_only && fails && !pass.intent.durability.promises())
}

fn suspected(pass: &Pass<'_>, cause: Cause, since: Option<Time>, attempts: Option<u32>) -> Diagnosis {
    let host = pass
        .record
        .holder
        .as_ref()
        .and_then(|holder| pass.member(&holder.member))
        .map(|member| member.intent.server.host.as_str());
    let vetoed_by = pass
        .others()
        .into_iter()
        .find(|member| {
            member.replication().is_some_and(|replication| {
                replication.io == ThreadState::Yes && replication.receives && Some(replication.host.as_str()) == host
            })
        })
        .map(|member| member.name().clone());
    Diagnosis::Suspected { cause, since, attempts, vetoed_by }
}

/// What is left of a wait that began at `since`.
pub(super) fn left(now: Time, since: Time, wait: Duration) -> Duration {
    wait.saturating_sub(now.since(since))
}
