//! A planned change of primary (docs/failover.md, section 7).

use std::collections::BTreeSet;
use std::time::Duration;

use super::diagnose::{Diagnosis, diagnose};
use super::follow::follows;
use super::judge::{self, applied};
use super::pass::{Flow, Pass};
use super::primary::opening;
use super::telling::{note_change, note_rollback};
use super::view::Member;
use crate::action::Action;
use crate::decision::{Refusal, list};
use crate::gtid::GtidPosition;
use crate::member::{MemberName, ThreadState};
use crate::memory::Kind;
use crate::plan::{Cause, Phase, Plan, PlanKind, SwitchStep, Verdict};

const NAME: &str = "switchover";

/// The others stop receiving within; one that does not follows later.
const SIBLINGS_LIMIT: Duration = Duration::from_millis(100);

struct Asked {
    cause: Cause,
    target: Option<MemberName>,
    /// A request that is answered once, whatever comes of it.
    once: bool,
    /// The pod goes in any case.
    urgent: bool,
}

/// Somebody wants another primary: for these reasons, in this order.
fn asked(pass: &Pass<'_>) -> Vec<Asked> {
    let intent = pass.intent;
    let Some(holder) = &pass.record.holder else { return Vec::new() };
    let mut all = Vec::new();
    if let Some(request) = intent.request.as_ref().filter(|request| !pass.record.answered.contains(&request.id)) {
        let cause =
            Cause { reason: "Requested".into(), message: request.why.clone(), request: Some(request.id.clone()) };
        all.push(Asked { cause, target: request.target.clone(), once: true, urgent: false });
    }
    let leaving = pass.primary().and_then(Member::state).is_some_and(|state| state.leaving);
    let goes = leaving || intent.vacate.contains(&holder.member);
    // A wish stands until it can be met: what came to nothing does not stand in the way of a primary that goes.
    let tried = goes && pass.course.failures.contains_key(NAME);
    if pass.record.wanted.as_ref() != Some(&intent.wanted_primary) && pass.record.wanted.is_some() && !tried {
        let message = format!("{} is wanted as primary", intent.wanted_primary);
        let cause = Cause { reason: "PrimaryWanted".into(), message, request: None };
        all.push(Asked { cause, target: Some(intent.wanted_primary.clone()), once: false, urgent: false });
    }
    if goes {
        let reason = if leaving { "PodStops" } else { "MemberVacated" };
        let message = format!("{} shall be restarted or taken away", holder.member);
        let cause = Cause { reason: reason.into(), message, request: None };
        all.push(Asked { cause, target: None, once: false, urgent: leaving });
    }
    all
}

/// Is a switchover asked for, and can it work? What cannot is told, and does not stand in the way of what can.
pub(super) fn consider(pass: &mut Pass<'_>) -> Flow {
    if !pass.intent.replication {
        return Flow::Next;
    }
    if pass.record.wanted.is_none() && pass.record.holder.is_some() {
        pass.next.wanted = Some(pass.intent.wanted_primary.clone());
    }
    for asked in asked(pass) {
        match attempt(pass, asked) {
            Attempt::Begun => return Flow::Stop,
            Attempt::Over => return Flow::Next,
            Attempt::Refused => {}
        }
    }
    Flow::Next
}

enum Attempt {
    Begun,
    /// It was answered, or waits for its moment.
    Over,
    /// It stands, and cannot be met now.
    Refused,
}

fn attempt(pass: &mut Pass<'_>, asked: Asked) -> Attempt {
    let holder = pass.record.holder.as_ref().map(|holder| holder.member.clone());
    if asked.target.is_some() && asked.target == holder {
        // It is so already.
        let refusal = Refusal::TargetRefused {
            member: asked.target.clone().unwrap_or_else(|| pass.intent.wanted_primary.clone()),
            reason: "TargetIsPrimary",
            why: "is the primary already".to_owned(),
        };
        answer(pass, &asked, asked.once.then_some(refusal));
        return Attempt::Over;
    }
    let Some(primary) = pass.open_primary().filter(|_| diagnose(pass) == Diagnosis::Well) else {
        let refusal = Refusal::PrimaryNotWell { message: asked.cause.message.clone() };
        return refused(pass, &asked, refusal);
    };
    let target = match &asked.target {
        Some(name) => named_target(pass, name),
        None => best_target(pass),
    };
    let target = match target.and_then(|target| nobody_writes_for_long(primary, &asked).map(|()| target)) {
        Ok(target) => target,
        Err(refusal) => return refused(pass, &asked, refusal),
    };
    let pause = pass.pause(NAME);
    if !pause.is_zero() {
        pass.look_again_in(pause);
        return Attempt::Over;
    }
    if !pass.can_order(primary) {
        return Attempt::Over;
    }
    pass.operation = Some(format!("the primary moves from {} to {}", primary.name(), target.name()));
    pass.event(
        "SwitchingOver",
        target,
        format!("{}: the primary moves from {} to {}", asked.cause.message, primary.name(), target.name()),
    );
    pass.begin(PlanKind::Switchover { cause: asked.cause, target: target.name().clone(), step: SwitchStep::Close });
    let grace_ms = u32::try_from(pass.intent.failover.grace.as_millis()).unwrap_or(u32::MAX);
    pass.order(primary, Action::SetReadOnly { grace_ms, kill: false });
    stop_siblings(pass, primary, target);
    Attempt::Begun
}

fn refused(pass: &mut Pass<'_>, asked: &Asked, refusal: Refusal) -> Attempt {
    if asked.once {
        answer(pass, asked, Some(refusal));
        return Attempt::Over;
    }
    pass.refuse(refusal);
    Attempt::Refused
}

/// Its clients are cut: what one of them has been writing for long would be rolled back, and that takes as long once more.
fn nobody_writes_for_long(primary: Member<'_>, asked: &Asked) -> Result<(), Refusal> {
    match primary.state().and_then(|state| state.long_transaction.clone()) {
        Some(transaction) if !asked.urgent => {
            Err(Refusal::LongTransaction { primary: primary.name().clone(), transaction })
        }
        _ => Ok(()),
    }
}

/// The request was looked at, and that is that.
fn answer(pass: &mut Pass<'_>, asked: &Asked, refusal: Option<Refusal>) {
    settle_request(pass, &asked.cause);
    if let Some(refusal) = refusal {
        let now = pass.now;
        let plan = Plan {
            stamp: pass.record.stamp(),
            kind: PlanKind::Switchover {
                cause: asked.cause.clone(),
                target: asked.target.clone().unwrap_or_else(|| MemberName(String::new())),
                step: SwitchStep::Close,
            },
            since: now,
            step_since: now,
            phases: Vec::new(),
        };
        note_rollback(pass, &plan, refusal.to_string());
        pass.refuse(refusal);
    }
}

/// Requests that a change answers are not answered again.
fn settle_request(pass: &mut Pass<'_>, cause: &Cause) {
    if let Some(id) = &cause.request {
        pass.next.note_answered(id);
    } else if cause.reason == "PrimaryWanted" {
        pass.next.wanted = Some(pass.intent.wanted_primary.clone());
    }
}

fn named_target<'a>(pass: &Pass<'a>, name: &MemberName) -> Result<Member<'a>, Refusal> {
    let refused = |reason, why: String| Err(Refusal::TargetRefused { member: name.clone(), reason, why });
    let Some(member) = pass.member(name) else {
        return refused("TargetUnknown", "is no member of this topology".to_owned());
    };
    let verdict = judge::verdict(pass, member);
    let reason = match &verdict {
        Verdict::Fit | Verdict::Chosen | Verdict::Behind { .. } => None,
        Verdict::OldPrimary => Some("TargetIsPrimary"),
        Verdict::NoCandidate | Verdict::HandsOff => Some("TargetNotCandidate"),
        Verdict::Silent { .. } | Verdict::NotRunning | Verdict::Leaving => Some("TargetSilent"),
        Verdict::Errant { .. } => Some("TargetErrant"),
        Verdict::Broken { .. } => Some("TargetBroken"),
    };
    if let Some(reason) = reason {
        return refused(reason, verdict.to_string());
    }
    if !member.replicates() {
        return refused("TargetBroken", "does not replicate now".to_owned());
    }
    // What it still gets from a former primary is nobody's, and may hide behind equal numbers.
    let elsewhere =
        pass.primary().is_some_and(|primary| !follows(member, &pass.intent.source(member.intent, primary.intent)));
    if elsewhere {
        return refused("TargetBroken", "does not follow the primary yet".to_owned());
    }
    let lag = member.lag(pass.primary());
    if lag.is_none_or(|lag| lag > u64::from(member.intent.replica.max_lag)) {
        let why = lag.map_or_else(|| "has a lag that is not known".to_owned(), |lag| format!("lags by {lag} s"));
        return refused("TargetLags", why);
    }
    Ok(member)
}

fn best_target<'a>(pass: &Pass<'a>) -> Result<Member<'a>, Refusal> {
    let fit = pass.others().into_iter().filter(|member| named_target(pass, member.name()).is_ok());
    judge::best(pass, fit).ok_or_else(|| Refusal::NoTarget {
        members: judge::all(pass).into_iter().map(|judged| (judged.name, judged.verdict.to_string())).collect(),
    })
}

/// The next step.
pub(super) fn proceed(pass: &mut Pass<'_>, mut plan: Plan) -> Flow {
    let PlanKind::Switchover { cause, target, step } = plan.kind.clone() else { return Flow::Next };
    match diagnose(pass) {
        Diagnosis::Well => {}
        Diagnosis::Underway => {
            if pass.now.since(plan.since) > pass.intent.failover.sync_timeout {
                pass.fail(NAME, "the primary does not answer".to_owned());
                return Flow::Next;
            }
            pass.go_on(plan);
            return Flow::Stop;
        }
        // It is a failover's now: no acker is missing, and what they hold is all there is.
        Diagnosis::Confirmed(_) | Diagnosis::Suspected { .. } | Diagnosis::NoPrimary => {
            note_rollback(pass, &plan, "the primary went down".to_owned());
            pass.fail(NAME, "the primary went down".to_owned());
            return Flow::Next;
        }
    }
    let (Some(primary), Some(target)) = (pass.primary(), pass.member(&target)) else {
        return roll_back(pass, &plan, &cause, "the target is no member any more".to_owned());
    };
    pass.operation = Some(format!("the primary moves from {} to {}", primary.name(), target.name()));
    let Some(server) = primary.server() else { return Flow::Stop };
    if pass.now.since(plan.since) > pass.intent.failover.sync_timeout {
        let why = match step {
            SwitchStep::Close => format!("{} could not be set read-only in time", primary.name()),
            SwitchStep::Reach(position) => format!("{} did not reach {position} in time", target.name()),
            SwitchStep::LockOut(_) => "the replicas could not be locked out in time".to_owned(),
        };
        return roll_back(pass, &plan, &cause, why);
    }
    if target.state().is_none()
        && matches!(&target.seen.map(|s| &s.agent), Some(crate::observation::Agent::Silent { .. }))
    {
        return roll_back(pass, &plan, &cause, format!("{} fell silent", target.name()));
    }
    let failed = |member: Member<'_>, kind| member.seen.is_some_and(|seen| seen.memory.failed(kind));
    let idle = |member: Member<'_>| member.seen.is_some_and(|seen| !seen.memory.in_flight());
    match step {
        SwitchStep::Close => {
            if failed(primary, Kind::Close) {
                return roll_back(pass, &plan, &cause, format!("{} could not be set read-only", primary.name()));
            }
            if server.read_only && idle(primary) {
                plan.phases.push((Phase::Noticed, plan.since));
                plan.phases.push((Phase::Fenced, pass.now));
                return reach(pass, plan, target, server.gtid_binlog_pos.clone());
            }
        }
        SwitchStep::Reach(position) => {
            if failed(target, Kind::Await) {
                return roll_back(pass, &plan, &cause, format!("{} did not reach {position}", target.name()));
            }
            // A report may overtake the answer to the order: until that is there, its agent would refuse the next one.
            if applied(target).covers(&position) && idle(target) {
                if !pass.intent.durability.promises() {
                    return complete_if_equal(pass, plan, cause, primary, target, &position);
                }
                let but = target_and_primary_accounts(pass, primary);
                set_step(&mut plan, SwitchStep::LockOut(position), pass.now);
                pass.order_at_once(primary, Action::Lock { accounts: but });
                pass.order_at_once(target, Action::StopReceiving);
                point_siblings(pass, target);
                pass.go_on(plan);
                return Flow::Stop;
            }
        }
        SwitchStep::LockOut(position) => {
            if failed(primary, Kind::Lock) {
                return roll_back(pass, &plan, &cause, "the replicas could not be locked out".to_owned());
            }
            let all: BTreeSet<String> = target_and_primary_accounts(pass, primary).into_iter().collect();
            let locks = primary.state().map(|state| &state.locks);
            let locked = locks.is_some_and(|locks| locks.stamp == plan.stamp && locks.accounts.is_superset(&all));
            let waited = pass.now.since(plan.step_since) > SIBLINGS_LIMIT;
            let siblings = waited || pass.others().into_iter().filter(|other| other.state().is_some()).all(idle);
            if !(locked && idle(primary)) {
                point_siblings(pass, target);
            } else if idle(target) && siblings {
                return complete_if_equal(pass, plan, cause, primary, target, &position);
            }
        }
    }
    pass.go_on(plan);
    Flow::Stop
}

fn target_and_primary_accounts(pass: &Pass<'_>, primary: Member<'_>) -> Vec<String> {
    pass.intent
        .candidates()
        .filter(|member| member.name != *primary.name())
        .map(|member| pass.intent.account(member))
        .collect()
}

fn set_step(plan: &mut Plan, to: SwitchStep, now: crate::Time) {
    if let PlanKind::Switchover { step, .. } = &mut plan.kind {
        *step = to;
    }
    plan.step_since = now;
}

fn reach(pass: &mut Pass<'_>, mut plan: Plan, target: Member<'_>, position: GtidPosition) -> Flow {
    let limit_ms = u32::try_from(pass.intent.failover.sync_timeout.as_millis()).unwrap_or(u32::MAX);
    if target.replication().is_some_and(|replication| replication.io == ThreadState::No) {
        pass.order_at_once(target, Action::StartReplication);
    }
    pass.order_at_once(target, Action::AwaitPosition { position: position.clone(), limit_ms });
    set_step(&mut plan, SwitchStep::Reach(position), pass.now);
    pass.go_on(plan);
    Flow::Stop
}

/// The other ackers receive nothing more from the old primary: what they lack they get from the new one, and are there sooner. Stopped once they
/// are locked out, each would first try to log in again, to end what is left of its connection. Given up, the switchover leaves
/// them to the rule for threads that stopped.
fn stop_siblings(pass: &mut Pass<'_>, primary: Member<'_>, target: Member<'_>) {
    for member in pass.others() {
        let here = follows(member, &pass.intent.source(member.intent, primary.intent));
        if pass.is_acker(member)
            && here
            && member.replicates()
            && member.name() != target.name()
            && pass.can_order(member)
        {
            pass.order(member, Action::StopReceiving);
        }
    }
}

/// Those that have stopped receiving, and have applied all of it, are pointed at the target.
fn point_siblings(pass: &mut Pass<'_>, target: Member<'_>) {
    for member in pass.others() {
        let source = pass.intent.source(member.intent, target.intent);
        let stopped = member.replication().is_some_and(|replication| {
            replication.io == ThreadState::No
                && replication.sql == ThreadState::Yes
                && replication.host != source.endpoint.host
        });
        let ready = stopped && pass.is_acker(member) && applied(member).covers(&judge::held(member));
        if ready && member.name() != target.name() && pass.can_order(member) {
            pass.order(member, Action::PointAt { source });
        }
    }
}

/// Nobody can acknowledge any more on the old primary. If it has written nothing since (root may have), the target has
/// everything.
fn complete_if_equal(
    pass: &mut Pass<'_>,
    mut plan: Plan,
    cause: Cause,
    primary: Member<'_>,
    target: Member<'_>,
    reached: &GtidPosition,
) -> Flow {
    let Some(server) = primary.server() else { return Flow::Stop };
    let last = server.gtid_binlog_pos.clone();
    if last != *reached {
        let accounts = pass.accounts_of_ackers(pass.record);
        if !accounts.is_empty() {
            pass.order_at_once(primary, Action::Unlock { accounts });
        }
        return reach(pass, plan, target, last);
    }
    if let Verdict::Errant { errant } = judge::verdict(pass, target) {
        let why = format!("{} has transactions that {} never had: {}", target.name(), primary.name(), list(&errant));
        return roll_back(pass, &plan, &cause, why);
    }
    plan.phases.push((Phase::Drained, pass.now));
    pass.end_plan();
    if !super::first::promote(pass, target) {
        return roll_back(pass, &plan, &cause, format!("{} does not answer", target.name()));
    }
    settle_request(pass, &cause);
    note_change(pass, &plan, cause, target, Vec::new());
    pass.course.failures.remove(NAME);
    Flow::Stop
}

/// Nobody is to touch anything from now on: what is under way is undone first, where that can be.
pub(super) fn give_up(pass: &mut Pass<'_>) -> Flow {
    let Some(plan) = pass.course.plan.clone().filter(|plan| plan.stamp == pass.record.stamp()) else {
        return Flow::Next;
    };
    let PlanKind::Switchover { cause, .. } = &plan.kind else { return Flow::Next };
    pass.under_plan = true;
    roll_back(pass, &plan, cause, "its object is suspended or in maintenance".to_owned())
}

/// A new decision: the old primary has the writes back. `solo`: only one of two late actors can win.
fn roll_back(pass: &mut Pass<'_>, plan: &Plan, cause: &Cause, why: String) -> Flow {
    note_rollback(pass, plan, why.clone());
    if cause.request.is_some() {
        settle_request(pass, cause);
    }
    pass.operation = Some(format!("the switchover is given up: {why}"));
    if let Some(primary) = pass.primary() {
        pass.warn(
            "SwitchoverRolledBack",
            primary,
            format!("the switchover is given up, {} stays: {why}", primary.name()),
        );
    }
    pass.fail(NAME, why);
    pass.next.revision = pass.record.revision + 1;
    pass.next.solo = true;
    if let Some(primary) = pass.primary().filter(|primary| primary.server().is_some()) {
        let opening = opening(pass, &pass.next.clone(), primary.name());
        pass.order_at_once(primary, Action::OpenForWrites { opening });
    }
    Flow::Stop
}
