//! Every member but the primary follows it, by the primary's own service name.

use std::time::Duration;

use super::first::was_primary;
use super::judge::{applied, held};
use super::pass::{Flow, Pass};
use super::repair::replay;
use super::view::{Member, Verdict};
use crate::action::{Action, Source};
use crate::member::ReplicationState;
use crate::memory::Kind;

/// Wrong password, or no such account.
const ACCESS_DENIED: u32 = 1045;

/// A relay log that does not move for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Members that do not follow yet, or follow another one, are pointed at the primary.
pub(super) fn follow_primary(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.lead().filter(|_| pass.intent.replication) else { return Flow::Next };
    for member in pass.others() {
        if member.data_id().is_none() || member.server().is_none() || !pass.can_order(member) {
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

/// The accounts are there, and it is refused: what it logs in with is older than they are, or they are set right just now.
fn needs_the_password(member: Member<'_>, primary: Member<'_>) -> bool {
    let refused = member.replication().and_then(|replication| replication.io_error.as_ref());
    let set = primary.seen.is_some_and(|seen| {
        let memory = &seen.memory;
        memory.count(Kind::Accounts) > 0 && !memory.in_flight && !memory.failed(Kind::Accounts)
    });
    set && refused.is_some_and(|error| error.errno == ACCESS_DENIED)
}

/// A candidate is admitted before it connects: whoever connects may acknowledge.
fn let_in(pass: &Pass<'_>, member: Member<'_>, primary: Member<'_>, source: &Source) -> bool {
    if !pass.intent.durability.promises() || !member.intent.candidate {
        return true;
    }
    let locked = primary.state().is_some_and(|state| state.locks.accounts.contains(&source.user));
    member.data_id().is_some_and(|data_id| pass.record.is_acker(data_id)) && !locked
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
