//! The primary is down: fence, read, drain, choose, promote (docs/failover.md, section 6).

use std::collections::BTreeMap;
use std::time::Duration;

use super::course::{FAILOVERS_WITHIN, MOST_FAILOVERS};
use super::diagnose::{Diagnosis, SERVER_EXITED, SLOW_START, diagnose, left};
use super::first::{promote, start, take_at_word, word};
use super::judge::{self, applied, held};
use super::pass::{Flow, Pass};
use super::telling::{note_change, note_rollback};
use super::view::Member;
use crate::action::Action;
use crate::decision::{Refusal, list};
use crate::gtid::GtidPosition;
use crate::member::{DataId, MemberState};
use crate::memory::Kind;
use crate::mutant::{self, Mutant};
use crate::plan::{Cause, Phase, Plan, PlanKind, Verdict};
use crate::time::Time;

const NAME: &str = "failover";
/// Fencing takes 2 s at most where a server must be killed for it; agents that do not say so by then are gone.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// What stands in the way of a failover, looked at without touching anything.
pub(super) fn obstacle(pass: &Pass<'_>) -> Option<Refusal> {
    let holder = pass.record.holder.as_ref()?;
    let primary = holder.member.clone();
    if !pass.intent.failover.automatic {
        return Some(Refusal::AutomaticFailoverOff { primary });
    }
    let candidates: Vec<Member<'_>> = pass.others().into_iter().filter(|member| member.intent.candidate).collect();
    if candidates.is_empty() {
        return Some(Refusal::NoCandidate { primary, members: Vec::new() });
    }
    if pass.intent.durability.promises() {
        // A stranger that was seen a moment ago counts before that is recorded.
        let stranger = pass.member(&primary).and_then(|member| member.seen).is_some_and(|seen| seen.memory.stranger);
        if pass.record.solo || stranger {
            return Some(Refusal::SoloPrimary { primary });
        }
        let missing: Vec<_> = pass
            .record
            .ackers
            .iter()
            .filter_map(|(data_id, acker)| match acker_member(pass, data_id) {
                Some(member) if member.server().is_some() => None,
                Some(member) => Some((acker.member.clone(), format!("{} starts", member.name()))),
                None => {
                    let why = pass.member(&acker.member).map_or_else(
                        || "it is no member".to_owned(),
                        |member| match member.data_id() {
                            Some(other) => format!("its volume holds other data ({other})"),
                            None => member.why_silent(),
                        },
                    );
                    Some((acker.member.clone(), why))
                }
            })
            .collect();
        if !missing.is_empty() {
            return Some(Refusal::AckersMissing { primary, missing });
        }
    }
    let fit = |member: &Member<'_>| {
        let acker = pass.is_acker(*member);
        (acker || !pass.intent.durability.promises()) && matches!(judge::verdict(pass, *member), Verdict::Fit)
    };
    if candidates.iter().any(fit) {
        return None;
    }
    let members = judge::all(pass).into_iter().map(|judged| (judged.name, judged.verdict.to_string())).collect();
    Some(Refusal::NoCandidate { primary, members })
}

/// What makes primaries fail would make the next one fail, too.
pub(super) fn too_many(pass: &Pass<'_>) -> Option<Refusal> {
    let changes = pass.course.failovers.len();
    (changes >= MOST_FAILOVERS).then_some(Refusal::TooManyChanges { changes, within: FAILOVERS_WITHIN })
}

/// The member whose data that is, answering.
fn acker_member<'a>(pass: &Pass<'a>, data_id: &DataId) -> Option<Member<'a>> {
    pass.members().find(|member| member.data_id() == Some(data_id))
}

/// Is the primary down for long enough, and may another one take over?
pub(super) fn consider(pass: &mut Pass<'_>) -> Flow {
    if !pass.intent.replication {
        return Flow::Next;
    }
    let diagnosis = diagnose(pass);
    if !pass.intent.failover.automatic && word(pass).is_none() {
        // Gone data is told elsewhere, with the same way out.
        let down = matches!(&diagnosis, Diagnosis::Confirmed(cause) | Diagnosis::Suspected { cause, .. }
            if cause.reason != "DataGone" && cause.reason != SLOW_START);
        if let Some(holder) = pass.record.holder.as_ref().filter(|_| down) {
            pass.refuse(Refusal::AutomaticFailoverOff { primary: holder.member.clone() });
        }
        return Flow::Next;
    }
    let Some(cause) = due(pass, diagnosis) else { return Flow::Next };
    if pass.course.failures.contains_key(NAME) && pass.primary().is_none() && word(pass).is_some() {
        return Flow::Next; // It was tried, and a person has named another way.
    }
    if let Some(refusal) = obstacle(pass).or_else(|| too_many(pass)) {
        return refused(pass, cause, refusal);
    }
    let pause = pass.pause(NAME);
    if !pause.is_zero() {
        pass.look_again_in(pause);
        return Flow::Next;
    }
    begin(pass, cause)
}

/// What is not done without being asked: done where a person has said whose data counts, told otherwise.
fn refused(pass: &mut Pass<'_>, cause: Cause, refusal: Refusal) -> Flow {
    // It is being started, and has everything.
    if cause.reason == SLOW_START || cause.reason == SERVER_EXITED && word(pass).is_some() {
        return Flow::Next;
    }
    let Some(named) = word(pass).filter(|named| !pass.is_holder(*named)) else {
        pass.refuse(refusal);
        return Flow::Next;
    };
    pass.operation = Some(format!("{}: {} takes over, as a person says", cause.message, named.name()));
    if let Some(primary) = pass.primary().filter(|primary| primary.state().is_some_and(may_still_write)) {
        pass.order_at_once(primary, Action::SetReadOnly { grace_ms: 0, kill: true });
    }
    for member in pass.others() {
        if member.data_id().is_some() && member.idle() {
            start(pass, member);
        }
    }
    take_at_word(pass, named);
    if pass.next.epoch > pass.record.epoch {
        let lost = vec![format!(
            "a person has named the data of {} although this stood in the way: {refusal}. What only others have acknowledged is not \
             on it, and is saved from their volumes where they come back",
            named.name()
        )];
        let (since, stamp) = (pass.now, pass.next.stamp());
        let kind = PlanKind::Failover { cause: cause.clone(), drained_to: BTreeMap::new() };
        note_change(pass, &Plan { stamp, kind, since, step_since: since, phases: Vec::new() }, cause, named, lost);
    }
    Flow::Stop
}

/// Its server runs, or does not say.
fn may_still_write(state: &MemberState) -> bool {
    state.server.as_ref().is_some_and(|server| !server.read_only) || state.trouble.is_some()
}

/// `Available`: nobody else decides over a primary that nobody hears than the clock. Its agent renews the record, and closes it when
/// it could not do so for two thirds of this time.
fn time_is_up(pass: &Pass<'_>) -> bool {
    pass.record.renewed_with.is_some() && left(pass.now, pass.seen.renewed, time_limit(pass)).is_zero()
}

/// How long nobody may have heard of the primary: what it counts with itself, where that is longer (a new value reaches its agent
/// later than the operator).
fn time_limit(pass: &Pass<'_>) -> Duration {
    pass.record.renewed_for.unwrap_or_default().max(pass.intent.failover.timeout)
}

/// `Available`: one that the old primary's agent would have had to ask, and that would have refused this.
fn was_to_be_asked(pass: &Pass<'_>, member: Member<'_>) -> bool {
    pass.record.renewed_with.as_ref().is_some_and(|known| known.contains(member.name()))
}

/// Evidence that has lasted long enough; what is still missing is looked for again.
fn due(pass: &mut Pass<'_>, diagnosis: Diagnosis) -> Option<Cause> {
    let down_since = pass.course.down_since.unwrap_or(pass.now);
    let failover = pass.intent.failover.clone();
    let wait = |pass: &mut Pass<'_>, since: Time, wait: Duration| {
        let left = left(pass.now, since, wait);
        if !left.is_zero() {
            pass.look_again_in(left);
        }
        left.is_zero()
    };
    match diagnosis {
        Diagnosis::NoPrimary | Diagnosis::Well | Diagnosis::Underway => None,
        Diagnosis::Confirmed(cause) => wait(pass, down_since, failover.delay).then_some(cause),
        Diagnosis::Suspected { cause, since, attempts, vetoed_by } => {
            let name = pass.record.holder.as_ref().map(|holder| holder.member.clone())?;
            pass.operation = Some(format!("{}; a failover is considered", cause.message));
            if !wait(pass, since.unwrap_or(down_since), failover.timeout + failover.delay) {
                return None;
            }
            if attempts.is_some_and(|attempts| attempts < failover.retries) {
                pass.look_again_in(Duration::from_millis(200));
                return None;
            }
            if let Some(by) = vetoed_by {
                pass.refuse(Refusal::StillReceiving { primary: name, by });
                pass.look_again_in(Duration::from_millis(200));
                return None;
            }
            if !pass.intent.durability.promises() && !time_is_up(pass) {
                let left = left(pass.now, pass.seen.renewed, time_limit(pass));
                // Of a primary that is gone, a third of its time has gone by before anybody waits for the rest.
                if left > failover.timeout / 2 || pass.record.renewed_with.is_none() {
                    pass.refuse(Refusal::NotFenced { primary: name });
                }
                pass.look_again_in(left.max(Duration::from_millis(50)));
                return None;
            }
            if let Some(last) = pass.course.changed
                && !wait(pass, last, failover.cooldown)
            {
                pass.refuse(Refusal::CoolingDown { primary: name });
                return None;
            }
            Some(cause)
        }
    }
}

fn begin(pass: &mut Pass<'_>, cause: Cause) -> Flow {
    pass.operation = Some(format!("{}: another member takes over", cause.message));
    if let Some(primary) = pass.record.holder.as_ref().and_then(|holder| pass.member(&holder.member)) {
        pass.warn("FailingOver", primary, format!("{}; another member takes over", cause.message));
    }
    pass.begin(PlanKind::Failover { cause, drained_to: BTreeMap::new() });
    let fenced: Vec<Member<'_>> = to_fence(pass);
    for member in fenced.into_iter().filter(|_| !mutant::is(Mutant::NoFence)) {
        pass.order_at_once(member, Action::Fence);
    }
    // Without a promise also one whose server is gone: its agent starts it by itself where nobody decides.
    let promises = pass.intent.durability.promises();
    let to_close = |primary: &Member<'_>| {
        primary.state().is_some_and(|state| !promises || state.server.is_some() || state.trouble.is_some())
    };
    if let Some(primary) = pass.primary().filter(to_close) {
        pass.order_at_once(primary, Action::SetReadOnly { grace_ms: 0, kill: true });
    }
    Flow::Stop
}

/// All ackers; without a promise, all candidates that answer.
fn to_fence<'a>(pass: &Pass<'a>) -> Vec<Member<'a>> {
    let promises = pass.intent.durability.promises();
    let fenced = |member: &Member<'_>| {
        if promises { pass.is_acker(*member) } else { member.intent.candidate && member.server().is_some() }
    };
    pass.others().into_iter().filter(fenced).collect()
}

/// The next step.
pub(super) fn proceed(pass: &mut Pass<'_>, mut plan: Plan) -> Flow {
    let PlanKind::Failover { cause, .. } = &plan.kind else { return Flow::Next };
    let cause = cause.clone();
    pass.operation = Some(format!("{}: another member takes over", cause.message));
    let fenced = to_fence(pass);
    // An acker that fell silent, or lost its data, is not among those that are fenced.
    let enough = !pass.intent.durability.promises() || fenced.len() == pass.record.ackers.len();
    let done = |member: &Member<'_>| {
        let fence = member.state().and_then(|state| state.fence.as_ref());
        mutant::is(Mutant::NoFence) || fence.is_some_and(|fence| fence.stamp == plan.stamp)
    };
    if !enough || !fenced.iter().all(done) {
        let failed = fenced.iter().find(|member| member.seen.is_some_and(|seen| seen.memory.failed(Kind::Fence)));
        if let Some(member) = failed {
            let why = format!("{} could not be stopped from receiving", member.name());
            return undo(pass, &plan, why);
        }
        if pass.now.since(plan.since) > FENCE_LIMIT {
            let names = list(fenced.iter().filter(|member| !done(member)).map(|member| member.name()));
            return undo(pass, &plan, format!("not everybody could be stopped from receiving ({names})"));
        }
        pass.go_on(plan);
        return Flow::Stop;
    }
    if !plan.phases.iter().any(|(phase, _)| *phase == Phase::Fenced) {
        plan.phases.push((Phase::Noticed, plan.since));
        plan.phases.push((Phase::Fenced, pass.now));
        plan.step_since = pass.now;
    }
    if diagnose(pass) == Diagnosis::Well && pass.open_primary().is_some() {
        return undo(pass, &plan, "the primary is back".to_owned());
    }
    let confirmed = matches!(diagnose(pass), Diagnosis::Confirmed(_));
    let promises = pass.intent.durability.promises();
    let by_the_clock = !promises && !confirmed;
    if !promises && confirmed && !has_heard(pass, &plan) {
        if pass.now.since(plan.since) > FENCE_LIMIT {
            return undo(pass, &plan, "the old primary's agent does not take the order to stay closed".to_owned());
        }
        pass.go_on(plan);
        return Flow::Stop;
    }
    if by_the_clock && !time_is_up(pass) {
        return undo(pass, &plan, "the primary has renewed the record".to_owned());
    }
    let everything =
        fenced.iter().map(|member| received(pass, *member)).fold(GtidPosition::default(), |a, b| a.furthest(&b));
    let fit: Vec<Member<'_>> = fenced
        .iter()
        .copied()
        .filter(|member| held(*member).covers(&everything) && judge::verdict(pass, *member) == Verdict::Fit)
        .filter(|member| !by_the_clock || was_to_be_asked(pass, *member))
        .collect();
    let Some(target) = judge::best(pass, fit) else {
        return undo(pass, &plan, "no candidate holds everything that was read".to_owned());
    };
    if !applied(target).covers(&everything) && !mutant::is(Mutant::NoDrain) {
        return drain(pass, plan, target);
    }
    plan.phases.push((Phase::Drained, pass.now));
    let lost = lost(pass, &everything);
    note_then_promote(pass, &plan, cause, target, lost);
    Flow::Stop
}

/// Without a promise nothing but its own agent keeps an old primary whose server ended from taking writes: it may just have been started
/// without a decision. That it is down counts when its agent has said so since it took this plan's order.
fn has_heard(pass: &Pass<'_>, plan: &Plan) -> bool {
    pass.primary().and_then(Member::state).is_none_or(|state| state.accepted >= plan.stamp)
}

/// What a fenced member holds of its primary's: not what was written on it alone, which others need not have.
fn received(pass: &Pass<'_>, member: Member<'_>) -> GtidPosition {
    let Some(server) = member.server().filter(|_| !judge::out_of_term(pass, member).is_empty()) else {
        return held(member);
    };
    let relay = member.state().and_then(|state| state.relay.as_ref());
    let io = server.replication.as_ref().map(|replication| &replication.gtid_io_pos);
    [relay, io].into_iter().flatten().fold(server.gtid_slave_pos.clone(), |a, b| a.furthest(b))
}

fn note_then_promote(pass: &mut Pass<'_>, plan: &Plan, cause: Cause, target: Member<'_>, lost: Vec<String>) {
    pass.end_plan();
    promote(pass, target);
    note_change(pass, plan, cause, target, lost);
    pass.course.failures.remove(NAME);
}

/// Without a promise: what the old primary was last seen to have beyond what is taken over.
fn lost(pass: &Pass<'_>, everything: &GtidPosition) -> Vec<String> {
    if pass.intent.durability.promises() {
        return Vec::new();
    }
    vec![format!(
        "durability Available: transactions after {everything} that the old primary had acknowledged are not on the new one, if there were any"
    )]
}

/// The target applies what it has received.
fn drain(pass: &mut Pass<'_>, mut plan: Plan, target: Member<'_>) -> Flow {
    let position = applied(target);
    let name = target.name().clone();
    pass.operation = Some(format!("{name} applies what it has received before it takes over"));
    let moved = pass.now;
    let PlanKind::Failover { drained_to, .. } = &mut plan.kind else { return Flow::Next };
    let entry = drained_to.entry(name.clone()).or_insert((position.clone(), moved));
    if entry.0 != position {
        *entry = (position, moved);
    }
    let still = moved.since(entry.1);
    if still >= pass.intent.failover.sync_timeout {
        pass.refuse(Refusal::DrainStalled { member: name.clone(), for_: still });
        return undo(pass, &plan, format!("{name} does not apply what it has received"));
    }
    let stopped = target.state().is_some_and(|state| state.relay.is_some());
    if stopped && target.seen.is_some_and(|seen| !seen.memory.in_flight()) {
        pass.order_patiently(target, Action::ReplayRelayLog);
    }
    pass.go_on(plan);
    Flow::Stop
}

/// A new decision: whoever was fenced receives again.
fn undo(pass: &mut Pass<'_>, plan: &Plan, why: String) -> Flow {
    note_rollback(pass, plan, why.clone());
    pass.operation = Some(format!("the failover is given up for now: {why}"));
    pass.fail(NAME, why);
    for member in to_fence(pass) {
        if member.state().is_some_and(|state| state.fence.is_some()) && !member.has_relay_log(&pass.record.history) {
            pass.order_at_once(member, Action::StartReplication);
        }
    }
    pass.next.revision = pass.record.revision + 1;
    Flow::Stop
}
