//! Every member but the primary follows it, by the primary's own service name.

use std::time::Duration;

use super::ackers;
use super::first::was_primary;
use super::judge::{applied, held};
use super::pass::{Flow, Pass};
use super::repair::replay;
use super::view::{Member, Verdict};
use crate::action::{Action, Source};
use crate::member::{MemberName, ReplicationState};
use crate::memory::Kind;
use crate::record::Acker;

/// Wrong password, or no such account.
const ACCESS_DENIED: u32 = 1045;

/// A relay log that does not move for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Members that do not follow yet, or follow another one, are pointed at the primary.
pub(super) fn follow_primary(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.lead().filter(|_| pass.intent.replication) else { return Flow::Next };
    for member in pass.others() {
        // One that is open is closed first, whatever that takes: told to follow, it would switch its waits off and return what nobody has.
        if member.data_id().is_none()
            || member.server().is_none_or(|server| !server.read_only)
            || !pass.can_order(member)
        {
            continue;
        }
        let source = pass.intent.source(member.intent, primary.intent);
        if follows(member, &source) && !needs_the_password(member, primary) {
            continue;
        }
        if member.replication().is_none() && !joins_clean(pass, member, primary) {
            continue;
        }
        if replay(pass, member) || !let_in(pass, member, primary, &source) || !drained(pass, member) {
            continue;
        }
        let ready = primary.seen.is_some_and(|seen| seen.memory.accounts.contains(&source.user));
        if !ready && member.replication().is_none() {
            continue; // The accounts come first.
        }
        let at = source.endpoint.host.clone();
        let demote = was_primary(pass, member);
        if pass.order_patiently(member, Action::Follow { source, demote }) {
            pass.event("Following", member, format!("{} replicates from {} ({at})", member.name(), primary.name()));
        }
    }
    Flow::Next
}

/// Members that nothing stands in the way of acknowledging to `primary` from its first write on: they are in the record with the swap that
/// makes it primary, let in by the order that opens it, and pointed at it meanwhile. Its commits wait for the first of them.
pub(super) fn beside_the_new_primary(pass: &mut Pass<'_>, primary: Member<'_>) -> Vec<MemberName> {
    if !pass.intent.durability.promises() || !pass.intent.replication {
        return Vec::new();
    }
    let all = applied(primary);
    let locked = primary.state().map(|state| state.locks.accounts.clone()).unwrap_or_default();
    let old = pass.record.holder.clone();
    let others = pass.others().into_iter().filter(|member| member.name() != primary.name());
    let ready: Vec<Member<'_>> = others
        .filter(|member| old.as_ref().is_none_or(|old| old.member != *member.name()) && member.free())
        // It has replicated, so that its account is there; and not locked from when this one was primary before: it would be
        // refused, and try again a second later.
        .filter(|member| member.replication().is_some() && !locked.contains(&pass.intent.account(member.intent)))
        .filter(|member| {
            !pass.excluded.contains(member.name())
                && !member.intent.hands_off
                && !member.has_relay_log(&pass.record.history)
        })
        // Nothing of its own, applied or not.
        .filter(|member| applied(*member).covers(&held(*member)) && all.covers(&held(*member)))
        .filter(|member| member.verdict(primary, &pass.next.history) == Some(Verdict::Clean))
        .filter(|member| ackers::fit(pass, *member).is_ok())
        .collect();
    for member in &ready {
        let Some(data_id) = member.data_id() else { continue };
        let acker = Acker { member: member.name().clone(), server_id: member.intent.server_id };
        pass.next.ackers.insert(data_id.clone(), acker);
    }
    ready.into_iter().map(|member| member.name().clone()).collect()
}

pub(super) fn follow_at_once(pass: &mut Pass<'_>, primary: Member<'_>, members: &[MemberName]) {
    for name in members {
        let Some(member) = pass.member(name) else { continue };
        let source = pass.intent.source(member.intent, primary.intent);
        let demote = was_primary(pass, member);
        pass.order_at_once(member, Action::Follow { source, demote });
        pass.event("Following", member, format!("{} replicates from {}", member.name(), primary.name()));
    }
}

/// The accounts are there, and it is refused: what it logs in with is older than they are, or they are set right just now.
fn needs_the_password(member: Member<'_>, primary: Member<'_>) -> bool {
    let refused = member.replication().and_then(|replication| replication.io_error.as_ref());
    let set = primary.seen.is_some_and(|seen| {
        let memory = &seen.memory;
        memory.count(Kind::Accounts) > 0 && !memory.in_flight() && !memory.failed(Kind::Accounts)
    });
    set && refused.is_some_and(|error| error.errno == ACCESS_DENIED)
}

/// A candidate is admitted before it connects: whoever connects may acknowledge.
fn let_in(pass: &Pass<'_>, member: Member<'_>, primary: Member<'_>, source: &Source) -> bool {
    if !pass.intent.durability.promises() || !member.intent.candidate {
        return true;
    }
    let locked = primary.state().is_some_and(|state| state.locks.accounts.contains(&source.user));
    pass.is_acker(member) && !locked
}

/// Pointing it elsewhere throws its relay log away: what is in there is applied first, as long as that moves.
fn drained(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    let still = member.seen.map_or(Duration::MAX, |seen| pass.now.since(seen.memory.still_since));
    if member.replication().is_none() || applied(member).covers(&held(member)) || still > PATIENCE {
        return true;
    }
    pass.look_again_in(Duration::from_millis(50));
    false
}

/// What does not replicate yet is compared before it joins.
fn joins_clean(pass: &mut Pass<'_>, member: Member<'_>, primary: Member<'_>) -> bool {
    match member.verdict(primary, &pass.record.history) {
        Some(Verdict::Clean) => true,
        Some(Verdict::Undecided) => {
            pass.look_again_in(Duration::from_secs(2));
            false
        }
        Some(Verdict::Errant(_)) | None => false,
    }
}

/// Is it set up to replicate from there?
pub(super) fn follows(member: Member<'_>, source: &Source) -> bool {
    let Some(ReplicationState { host, port, user, .. }) = member.replication() else { return false };
    let told = member.seen.and_then(|seen| seen.memory.followed.as_ref());
    *host == source.endpoint.host
        && *port == source.endpoint.port
        && *user == source.user
        && told.is_none_or(|told| told == source)
}
