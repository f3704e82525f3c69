//! Who may acknowledge, and what is proven about it (docs/failover.md, section 4).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::course::TICK;
use super::diagnose::{Diagnosis, diagnose, left};
use super::follow::follows;
use super::judge::held;
use super::pass::{Flow, Pass};
use super::primary::LOGIN_REFUSED;
use super::repair::{Need, need, need_elsewhere};
use super::view::{self, Member};
use crate::action::Action;
use crate::gtid::GtidPosition;
use crate::intent::Durability;
use crate::member::{DataId, Phase, ReplicationState, ThreadState};
use crate::memory::Kind;
use crate::mutant::{self, Mutant};
use crate::plan::{Plan, PlanKind};
use crate::record::Acker;
use crate::time::Time;

const EXPEL: &str = "expel";
pub(super) const PROVE: &str = "prove";
pub(super) const NEAR: &str = "near";
/// An acker that holds a marker within this is near: waiting for it does not stall writes.
const NEAR_LIMIT: Duration = Duration::from_secs(1);
/// A marker that an acker holds comes back at once; one that does not was acknowledged into a broken connection.
const LOST_LIMIT: Duration = Duration::from_secs(1);
/// Nobody proved anything by then: tried again later.
const PROVE_LIMIT: Duration = Duration::from_secs(5);

/// Why a member is not good enough to acknowledge.
pub(super) struct Unfit {
    why: String,
    /// That is sure at once.
    sure: bool,
    /// Only other data helps: it can neither acknowledge nor take over with what it has.
    for_good: bool,
}

/// Is this member good enough to acknowledge?
pub(super) fn fit(pass: &Pass<'_>, member: Member<'_>) -> Result<(), Unfit> {
    let unfit = |why: &str, sure| Err(Unfit { why: why.to_owned(), sure, for_good: false });
    let recovers = member.intent.replica.recovery.enabled;
    if !member.intent.candidate {
        return unfit("is no candidate", true);
    }
    if pass.goes(member) || member.state().is_some_and(|state| state.leaving) {
        return unfit("shall be restarted or taken away", true);
    }
    let Some(state) = member.state() else { return unfit(&member.why_silent(), false) };
    match &state.phase {
        Phase::Running => {}
        Phase::Starting => return unfit("starts", true),
        _ => return unfit("has no server that runs", true),
    }
    let Some(server) = &state.server else { return unfit("has a server that does not answer", false) };
    if !server.semi_sync.acknowledges {
        // Its durability was another one when it was started.
        return unfit("does not acknowledge before it is restarted (rpl_semi_sync_slave_enabled is off)", true);
    }
    if server.log_reset {
        let why = "has an emptied binary log (RESET MASTER)".to_owned();
        return Err(Unfit { why, sure: true, for_good: recovers });
    }
    let lead = pass.lead();
    if let Some(primary) = lead
        && let Some(view::Verdict::Errant(_)) = member.verdict(primary, &pass.record.history)
    {
        let why = "has transactions that the primary never had".to_owned();
        return Err(Unfit { why, sure: true, for_good: recovers });
    }
    let Some(replication) = &server.replication else { return Ok(()) };
    let elsewhere = lead.is_some_and(|primary| !follows(member, &pass.intent.source(member.intent, primary.intent)));
    match if elsewhere { need_elsewhere(replication) } else { need(replication) } {
        // It is re-seeded as soon as it is no acker any more.
        Need::Reseed(_) => {
            let why = "does not replicate, and must be re-seeded".to_owned();
            Err(Unfit { why, sure: true, for_good: recovers })
        }
        need @ (Need::Repair(_) | Need::Person(_)) => {
            let since = member.seen.and_then(|seen| seen.memory.trouble_since).unwrap_or(pass.now);
            let lasts = pass.now.since(since) >= member.intent.replica.recovery.threshold;
            let for_good = recovers && lasts && matches!(need, Need::Repair(_));
            Err(Unfit { why: "does not replicate".to_owned(), sure: lasts, for_good })
        }
        Need::Nothing | Need::Start | Need::Retry(_) => Ok(()),
    }
}

/// Has it received nothing for so long that it cannot count any more? If not yet, this is looked at again in time.
fn deaf(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    let Some(since) = deaf_since(pass, member) else { return false };
    let left = left(pass.now, since, pass.intent.failover.timeout);
    if !left.is_zero() {
        pass.look_again_in(left);
    }
    left.is_zero()
}

/// Since when it has received nothing; `None`: it receives.
fn deaf_since(pass: &Pass<'_>, member: Member<'_>) -> Option<Time> {
    let seen = member.seen?;
    match &seen.agent {
        crate::observation::Agent::Silent { since, .. } => Some((*since).max(seen.memory.still_since)),
        crate::observation::Agent::Answers { .. } => {
            // From when it was let in: before that it could not receive.
            let tried = |kind| {
                let memory = pass.lead().and_then(|primary| primary.seen).map(|seen| &seen.memory);
                memory.and_then(|memory| memory.tries.get(&kind)).map_or(Time::default(), |tries| tries.last)
            };
            Some(seen.memory.deaf_since?.max(tried(Kind::Unlock)).max(tried(Kind::Open)))
        }
    }
}

/// Keeps the accounts, the ackers, the waits and `solo` as they should be.
pub(super) fn keep(pass: &mut Pass<'_>) -> Flow {
    if !pass.intent.replication {
        return Flow::Next;
    }
    let Some(primary) = pass.lead() else { return Flow::Next };
    if !pass.intent.durability.promises() {
        return forget(pass, primary);
    }
    // Where all of them stop, who may acknowledge stays as it is: whoever comes back finds it.
    if !pass.can_order(primary) || pass.closes(primary) {
        return Flow::Next;
    }
    let steps = [locks, expel, admit, waits, prove];
    for step in steps {
        if step(pass, primary) == Flow::Stop {
            return Flow::Stop;
        }
    }
    Flow::Next
}

/// Without a promise there are no ackers.
fn forget(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let Some(state) = primary.state() else { return Flow::Next };
    let locked: Vec<String> = ours(pass).filter(|account| state.locks.accounts.contains(account)).collect();
    if !locked.is_empty() && pass.can_order(primary) {
        pass.order_patiently(primary, Action::Unlock { accounts: locked });
    }
    if !pass.record.ackers.is_empty() || !pass.record.solo {
        pass.next.ackers.clear();
        pass.next.solo = true;
    }
    Flow::Next
}

/// Accounts of members.
fn ours<'p>(pass: &'p Pass<'_>) -> impl Iterator<Item = String> + use<'p> {
    pass.intent.members.iter().map(|member| pass.intent.account(member))
}

/// Accounts that are on the primary: it was told to make them, or somebody has replicated with them.
fn accounts_there(pass: &Pass<'_>, primary: Member<'_>) -> BTreeSet<String> {
    let mut there = primary.seen.map(|seen| seen.memory.accounts.clone()).unwrap_or_default();
    there.extend(
        pass.members().filter(|member| member.replication().is_some()).map(|member| pass.intent.account(member.intent)),
    );
    there
}

/// Somebody who is nobody's member may have acknowledged what no acker has. That is recorded before anything else is, a plan under way
/// is void by it: whoever decides next may never hear of it.
pub(super) fn strangers(pass: &mut Pass<'_>) -> Flow {
    let promised = pass.intent.replication && pass.intent.durability.promises() && !pass.record.solo;
    // Also of one whose data is gone, or that is not heard any more.
    let holder = pass.record.holder.as_ref().filter(|_| promised);
    let Some(primary) = holder.and_then(|holder| pass.primary().or_else(|| pass.member(&holder.member))) else {
        return Flow::Next;
    };
    if !primary.seen.is_some_and(|seen| seen.memory.stranger) {
        return Flow::Next;
    }
    pass.next.solo = true;
    pass.warn(
        "StrangerAcknowledged",
        primary,
        format!(
            "a replica that is no member had semi-synchronous replication on and connected to {name}: its connection was killed, but it \
             may have acknowledged transactions before; no failover before an acker is proven to hold everything",
            name = primary.name()
        ),
    );
    Flow::Stop
}

/// Candidates that are not ackers are locked out; everybody else is let in.
fn locks(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let Some(state) = primary.state() else { return Flow::Next };
    let known = accounts_there(pass, primary);
    let locked = &state.locks.accounts;
    let outside = pass.accounts_to_lock(pass.record, primary.name());
    let lock: Vec<String> =
        outside.iter().filter(|account| known.contains(*account) && !locked.contains(*account)).cloned().collect();
    if !lock.is_empty() && !mutant::is(Mutant::NoExpulsion) {
        pass.order_patiently(primary, Action::Lock { accounts: lock });
        return Flow::Stop;
    }
    // Those of ackers, and of members that never acknowledge; other people's accounts are their own business.
    let unlock: Vec<String> =
        ours(pass).filter(|account| locked.contains(account) && !outside.contains(account)).collect();
    if !unlock.is_empty() {
        pass.order_patiently(primary, Action::Unlock { accounts: unlock });
        return Flow::Stop;
    }
    Flow::Next
}

fn reasons(leave: &BTreeMap<DataId, (Acker, String)>) -> String {
    leave.values().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// Ackers that cannot acknowledge any more leave.
fn expel(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let mut leave: BTreeMap<DataId, (Acker, String)> = BTreeMap::new();
    for (data_id, acker) in &pass.record.ackers {
        let reason = match pass.member(&acker.member) {
            None => Some("is no member any more".to_owned()),
            Some(member) => match member.data_id() {
                Some(other) if other != data_id => Some("holds other data".to_owned()),
                _ => match fit(pass, member) {
                    Err(unfit) if unfit.sure || deaf(pass, member) => Some(unfit.why),
                    Ok(()) if deaf(pass, member) && replicates(member) => Some("receives nothing".to_owned()),
                    _ => None,
                },
            },
        };
        if let Some(reason) = reason {
            leave.insert(data_id.clone(), (acker.clone(), format!("{} {reason}", acker.member)));
        }
    }
    if leave.is_empty() {
        return Flow::Next;
    }
    if leave.len() == pass.record.ackers.len() && pass.intent.durability == Durability::Strict {
        // The last one stays, unless it is of no use any more; those that are not make room for others.
        let all = leave.clone();
        leave.retain(|data_id, (acker, _)| useless(pass, data_id, acker));
        if leave.is_empty() {
            pass.operation = Some(format!("writes wait: {}", reasons(&all)));
            return Flow::Next;
        }
    }
    let last = leave.len() == pass.record.ackers.len();
    let why = reasons(&leave);
    let leave: BTreeMap<DataId, Acker> = leave.into_iter().map(|(data_id, (acker, _))| (data_id, acker)).collect();
    let pause = pass.pause(EXPEL);
    if !pause.is_zero() {
        pass.look_again_in(pause);
        return Flow::Next;
    }
    if mutant::is(Mutant::NoExpulsion) && !last {
        pass.next.ackers.retain(|data_id, _| !leave.contains_key(data_id));
        return Flow::Stop;
    }
    let accounts = leave.values().map(|acker| pass.intent.account_of(acker.server_id)).collect();
    pass.warn(
        "ExpellingAcker",
        primary,
        format!("{why}: it is locked out on {}, and does not acknowledge any more", primary.name()),
    );
    pass.begin(PlanKind::Expel { members: leave, why });
    pass.order(primary, Action::Lock { accounts });
    if !last {
        pass.order(primary, Action::CommitMarker);
    }
    Flow::Stop
}

/// Its data does not exist any more: its member answers, and holds other data or none.
fn gone(pass: &Pass<'_>, data_id: &DataId, acker: &Acker) -> bool {
    pass.member(&acker.member).is_some_and(|member| member.state().is_some() && member.data_id() != Some(data_id))
}

/// Its data is gone, or can only be replaced: as it is it will neither acknowledge nor take over.
fn useless(pass: &Pass<'_>, data_id: &DataId, acker: &Acker) -> bool {
    let unfit = |member| fit(pass, member).is_err_and(|unfit| unfit.for_good);
    gone(pass, data_id, acker) || pass.member(&acker.member).is_some_and(unfit)
}

fn replicates(member: Member<'_>) -> bool {
    member.replication().is_some()
}

/// It tries to connect to the primary and does not even reach it: its account is not what keeps it out. Let in now, it would
/// be expelled a moment later, and so on.
fn cut_off(pass: &Pass<'_>, member: Member<'_>, primary: Member<'_>) -> bool {
    let Some(replication) = member.replication() else { return false };
    let here = follows(member, &pass.intent.source(member.intent, primary.intent));
    let error = replication.io_error.as_ref().filter(|_| replication.io == ThreadState::Connecting);
    here && error.is_some_and(|error| !LOGIN_REFUSED.contains(&error.errno))
}

/// Members that may acknowledge are let in.
fn admit(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let known = accounts_there(pass, primary);
    let mut accounts = Vec::new();
    let mut names = Vec::new();
    for member in pass.others() {
        let Some(data_id) = member.data_id() else { continue };
        let account = pass.intent.account(member.intent);
        if pass.record.is_acker(data_id) || fit(pass, member).is_err() || !known.contains(&account) {
            continue;
        }
        if pass.excluded.contains(member.name()) || member.intent.hands_off || cut_off(pass, member, primary) {
            continue;
        }
        match member.verdict(primary, &pass.record.history) {
            Some(view::Verdict::Clean) => {}
            Some(view::Verdict::Undecided) => {
                pass.look_again_in(Duration::from_millis(500));
                continue;
            }
            Some(view::Verdict::Errant(_)) | None => continue,
        }
        // One life of a pod replaces another.
        pass.next.ackers.retain(|_, acker| acker.member != *member.name());
        let acker = Acker { member: member.name().clone(), server_id: member.intent.server_id };
        pass.next.ackers.insert(data_id.clone(), acker);
        accounts.push(account);
        names.push(member.name().clone());
    }
    if accounts.is_empty() {
        return Flow::Next;
    }
    if pass.next.ackers.len() < pass.record.ackers.len() + accounts.len() {
        // An acker's old life is expelled first.
        pass.next.ackers.clone_from(&pass.record.ackers);
        return Flow::Next;
    }
    pass.order(primary, Action::Unlock { accounts });
    for name in names {
        if let Some(member) = pass.member(&name) {
            pass.event("AdmittingAcker", member, format!("{name} may acknowledge"));
        }
    }
    Flow::Stop
}

/// Waits are on exactly while somebody acknowledges, or must (`Strict`).
fn waits(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let Some(server) = primary.server().filter(|server| !server.read_only) else { return Flow::Next };
    let on = server.semi_sync.promises();
    let strict = pass.intent.durability == Durability::Strict;
    let off = |pass: &mut Pass<'_>| {
        pass.next.solo = true;
        pass.order_patiently(primary, Action::SetWaiting { on: false });
        Flow::Stop
    };
    if !on && !pass.record.solo {
        // Somebody switched them off, or the server was opened without.
        pass.next.solo = true;
        return Flow::Stop;
    }
    if server.semi_sync.waits && pass.record.ackers.is_empty() && !strict {
        return off(pass);
    }
    if !on && strict {
        pass.order_patiently(primary, Action::SetWaiting { on: true });
        return Flow::Stop;
    }
    let lost = on && server.semi_sync.waiting > 0 && stuck(pass, primary);
    if lost && strict {
        pass.warn(
            "AcknowledgementLost",
            primary,
            format!("{} waits for an acknowledgement that is lost; its server is restarted as primary", primary.name()),
        );
        pass.order_patiently(primary, Action::RestartServer);
        return Flow::Stop;
    }
    if lost {
        return off(pass);
    }
    if !on && !pass.record.ackers.is_empty() && somebody_receives(pass, primary) {
        return begin_with_marker(pass, primary, PlanKind::Near, NEAR);
    }
    Flow::Next
}

/// Sessions wait although an acker holds all that was written, for a while.
fn stuck(pass: &mut Pass<'_>, primary: Member<'_>) -> bool {
    let (Some(server), Some(seen)) = (primary.server(), primary.seen) else { return false };
    if !acker_holds(pass, &server.gtid_binlog_pos, None) {
        return false;
    }
    // As it says itself. One that was just cut off, or froze, said that sessions wait, as they nearly always do, and says nothing more.
    let still = primary.answered_at().unwrap_or_default().since(seen.memory.still_since);
    if still < LOST_LIMIT {
        pass.look_again_in(LOST_LIMIT.saturating_sub(still));
    }
    still >= LOST_LIMIT
}

/// `solo` is cleared by a marker that an acker holds.
fn prove(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let waits = primary.server().is_some_and(|server| !server.read_only && server.semi_sync.promises());
    if !pass.record.solo || pass.record.ackers.is_empty() || !waits || !somebody_receives(pass, primary) {
        return Flow::Next;
    }
    begin_with_marker(pass, primary, PlanKind::Prove, PROVE)
}

fn begin_with_marker(pass: &mut Pass<'_>, primary: Member<'_>, kind: PlanKind, name: &'static str) -> Flow {
    let pause = pass.pause(name);
    if !pause.is_zero() {
        pass.look_again_in(pause);
        return Flow::Next;
    }
    pass.begin(kind);
    pass.order(primary, Action::CommitMarker);
    Flow::Stop
}

/// An acker receives from the primary: one that is still connected to a former one proves nothing.
fn somebody_receives(pass: &Pass<'_>, primary: Member<'_>) -> bool {
    ackers(pass).any(|(_, member)| {
        let source = pass.intent.source(member.intent, primary.intent);
        let receives = |replication: &ReplicationState| replication.io == ThreadState::Yes && replication.receives;
        follows(member, &source) && member.replication().is_some_and(receives)
    })
}

fn ackers<'a, 'p>(pass: &'p Pass<'a>) -> impl Iterator<Item = (&'p DataId, Member<'a>)> {
    pass.record
        .ackers
        .keys()
        .filter_map(|data_id| Some((data_id, pass.members().find(|member| member.data_id() == Some(data_id))?)))
}

/// Does an acker hold all of this? `but`: those that do not count.
fn acker_holds(pass: &Pass<'_>, position: &GtidPosition, but: Option<&BTreeMap<DataId, Acker>>) -> bool {
    ackers(pass)
        .filter(|(data_id, _)| but.is_none_or(|but| !but.contains_key(*data_id)))
        .any(|(_, member)| held(member).covers(position))
}

/// The marker of this plan: its transaction, once its commit has returned.
fn marker(primary: Member<'_>, plan: &Plan) -> Option<GtidPosition> {
    let marker = primary.state()?.marker.as_ref().filter(|marker| marker.stamp == plan.stamp)?;
    let gtid = marker.gtid?;
    Some(GtidPosition([(gtid.domain, gtid)].into()))
}

/// The next step of an expulsion or a proof.
pub(super) fn proceed(pass: &mut Pass<'_>, plan: Plan) -> Flow {
    let Some(primary) = pass.lead().filter(|_| diagnose(pass) == Diagnosis::Well) else {
        // Whatever was begun is visible, and decided anew when the primary is back or another one is.
        pass.end_plan();
        return Flow::Next;
    };
    match plan.kind.clone() {
        PlanKind::Expel { members, why } => proceed_expulsion(pass, plan, primary, &members, &why),
        PlanKind::Prove => {
            // Still on: an earlier decision's order to switch them off may have arrived before the marker. From now on
            // nothing lower is accepted, and whatever is higher moves the record on.
            let waits = primary.server().is_some_and(|server| !server.read_only && server.semi_sync.promises());
            if waits && marker(primary, &plan).is_some_and(|position| acker_holds(pass, &position, None)) {
                pass.succeed(PROVE);
                pass.next.solo = false;
                pass.event("AckersProven", primary, "an acker holds everything that was ever acknowledged".to_owned());
                return Flow::Stop;
            }
            give_up_after(pass, plan, PROVE, PROVE_LIMIT, "no acker proved that it holds everything")
        }
        PlanKind::Near => {
            if marker(primary, &plan).is_some_and(|position| acker_holds(pass, &position, None)) {
                pass.order(primary, Action::SetWaiting { on: true });
                pass.course.failures.remove(NEAR);
                pass.course.plan = None;
                return Flow::Stop;
            }
            give_up_after(pass, plan, NEAR, NEAR_LIMIT, "no acker is near")
        }
        PlanKind::Failover { .. } | PlanKind::Switchover { .. } => Flow::Next,
    }
}

fn give_up_after(pass: &mut Pass<'_>, plan: Plan, name: &'static str, limit: Duration, why: &str) -> Flow {
    if pass.now.since(plan.since) > limit {
        pass.fail(name, why.to_owned());
        return Flow::Next;
    }
    pass.look_again_in(TICK);
    pass.go_on(plan);
    Flow::Stop
}

fn proceed_expulsion(
    pass: &mut Pass<'_>,
    plan: Plan,
    primary: Member<'_>,
    members: &BTreeMap<DataId, Acker>,
    why: &str,
) -> Flow {
    let accounts: Vec<String> = members.values().map(|acker| pass.intent.account_of(acker.server_id)).collect();
    let Some(state) = primary.state() else { return Flow::Stop };
    let locked =
        state.locks.stamp == plan.stamp && accounts.iter().all(|account| state.locks.accounts.contains(account));
    if !locked {
        let failed = primary.seen.is_some_and(|seen| seen.memory.failed(Kind::Lock));
        let limit = if failed { Duration::ZERO } else { PROVE_LIMIT };
        return give_up_after(pass, plan, EXPEL, limit, "they could not be locked out");
    }
    let remain = pass.record.ackers.keys().any(|data_id| !members.contains_key(data_id));
    let held = marker(primary, &plan).is_some_and(|position| acker_holds(pass, &position, Some(members)));
    let proven = remain && held;
    // `Safe` goes on alone; `Strict` gives up only what can be of no use any more, and goes on waiting.
    let safe = pass.intent.durability == Durability::Safe;
    let useless = members.iter().all(|(data_id, acker)| useless(pass, data_id, acker));
    let patience_over = pass.now.since(plan.since) > LOST_LIMIT;
    let alone = !remain && (safe || useless) || safe && patience_over;
    if !proven && !alone {
        return give_up_after(pass, plan, EXPEL, PROVE_LIMIT, "no other acker holds the marker");
    }
    pass.succeed(EXPEL);
    pass.next.ackers.retain(|data_id, _| !members.contains_key(data_id));
    if proven {
        pass.event("AckerExpelled", primary, format!("{why}: it does not acknowledge any more"));
        return Flow::Stop;
    }
    pass.next.solo = true;
    let name = primary.name();
    let then = if safe {
        pass.order(primary, Action::SetWaiting { on: false });
        format!("{name} goes on alone")
    } else {
        format!("writes on {name} wait")
    };
    pass.warn("Solo", primary, format!("{why}, and nobody else acknowledges: {then}, and no failover is possible"));
    Flow::Stop
}
