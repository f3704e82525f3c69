//! Copies: a member with an empty volume gets one, and a replica that cannot be repaired gets another.

use std::time::Duration;

use super::first::report_failure;
use super::pass::{Flow, Pass};
use super::view::{Content, Member, Verdict};
use crate::action::{Action, Replaced};
use crate::decision::Refusal;
use crate::history::Errant;
use crate::member::{MemberName, Phase, ThreadState};
use crate::memory::Kind;

/// A primary that has written less than this is so small that several copies at once cost nothing.
const SMALL: u64 = 10_000;

/// So many copies an agent gives at once.
const AT_ONCE: usize = 3;

/// A donor that is further behind than this, in seconds, would only pass its lag on.
const DONOR_LAG: u64 = 10;

/// A replica that has not moved for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Members with empty volumes are cloned.
pub(super) fn empty_members(pass: &mut Pass<'_>) -> Flow {
    if !pass.intent.replication {
        return Flow::Next;
    }
    for member in pass.others() {
        if member.content() != Content::Nothing || member.state().is_none() {
            continue;
        }
        if pass.record.holder.as_ref().is_some_and(|holder| holder.member == *member.name()) && pass.primary().is_none()
        {
            continue; // The primary's own volume, empty: said elsewhere, and not filled before a person has spoken.
        }
        report_failure(pass, member, |member, message| Refusal::CannotClone { member, message });
        if !pass.can_order(member) {
            continue;
        }
        let Some(donor) = donor(pass, member) else { continue };
        let data_id = pass.new_data_id();
        let action = Action::Clone { donor: donor.intent.agent.clone(), data_id, replaces: None };
        if pass.order_patiently(member, action) {
            pass.event("Cloning", member, format!("{} is copied from {}", member.name(), donor.name()));
        }
    }
    Flow::Next
}

/// Whom to copy from: a healthy replica that was compared, rather than the primary, whose commits would stall. A big
/// data set is read once at a time.
fn donor<'a>(pass: &mut Pass<'a>, target: Member<'_>) -> Option<Member<'a>> {
    let opens = pass.orders().iter().any(|order| matches!(order.action, Action::OpenForWrites { .. }));
    let begins_anew = |primary: &Member<'_>| primary.server().is_some_and(super::primary::replicated_more);
    let Some(primary) = pass.lead().filter(|primary| !opens && !begins_anew(primary)) else {
        pass.refuse(Refusal::NoDonor { member: target.name().clone() });
        return None;
    };
    let replica = pass
        .others()
        .into_iter()
        .filter(|member| member.name() != target.name() && member.intent.donor && member.replicates())
        .filter(|member| member.lag(Some(primary)).is_some_and(|lag| lag <= DONOR_LAG))
        .filter(|member| {
            matches!(member.verdict(primary, &pass.record.history), Some(Verdict::Clean | Verdict::Undecided))
        })
        .find(|member| copies_from(pass, *member) == 0);
    if replica.is_some() {
        return replica;
    }
    if pass.opens_with_an_acker() && primary.server().is_some_and(|server| !server.read_only) {
        close_for_copy(pass, primary, target);
        return None;
    }
    let written: u64 = primary.server().map_or(u64::MAX, |s| s.gtid_binlog_pos.0.values().map(|g| g.sequence).sum());
    if written < SMALL {
        return (copies_from(pass, primary) < AT_ONCE).then_some(primary);
    }
    (copies_from(pass, primary) == 0 && !donor_underway(pass)).then_some(primary)
}

/// `Strict` with no acker left: whatever is written waits, and a copy waits behind it. So the primary is closed (killed,
/// where sessions wait already: what they wrote is kept, and nobody was told), copied as it is, and opens again with the
/// first acker.
fn close_for_copy(pass: &mut Pass<'_>, primary: Member<'_>, target: Member<'_>) {
    if !pass.can_order(primary) || !pass.order_patiently(primary, Action::SetReadOnly { grace_ms: 0, kill: true }) {
        return;
    }
    pass.warn(
        "ClosedForCopy",
        primary,
        format!(
            "nobody acknowledges what is written on {}, so its commits wait: it is closed until {} has a copy",
            primary.name(),
            target.name()
        ),
    );
}

/// A member that will soon be a donor is worth waiting for.
fn donor_underway(pass: &mut Pass<'_>) -> bool {
    let underway = pass.others().into_iter().any(|member| {
        let joins = match member.replication() {
            None => member.server().is_some(),
            Some(replication) => replication.io != ThreadState::No && replication.sql == ThreadState::Yes,
        };
        let still = member.seen.map_or(Duration::MAX, |seen| pass.now.since(seen.memory.still_since));
        member.intent.donor && joins && still < PATIENCE
    });
    if underway {
        pass.look_again_in(Duration::from_secs(1));
    }
    underway
}

/// Copies that are being read from this member, or were ordered in this pass.
fn copies_from(pass: &Pass<'_>, donor: Member<'_>) -> usize {
    let host = &donor.intent.agent.host;
    let running = pass
        .members()
        .filter(|member| matches!(member.phase(), Some(Phase::Cloning { donor, .. }) if donor == host))
        .count();
    running + pass.ordered(|action| matches!(action, Action::Clone { donor, .. } if donor.host == *host))
}

/// Replicas whose data must be replaced: one at a time, never one that acknowledges, never one with transactions that
/// would be lost.
pub(super) fn broken_members(pass: &mut Pass<'_>) -> Flow {
    for (name, error) in std::mem::take(&mut pass.broken) {
        if let Some(member) = pass.member(&name) {
            reseed(pass, member, &error);
        }
        pass.broken.push((name, error));
    }
    Flow::Next
}

fn reseed(pass: &mut Pass<'_>, member: Member<'_>, error: &str) {
    let name = member.name();
    let (Some(data_id), Some(primary)) = (member.data_id(), pass.lead()) else { return };
    if member.server().is_some_and(|server| !server.read_only) {
        return; // What is written on it now would go unsaved: it is closed first.
    }
    if !member.intent.replica.recovery.enabled {
        pass.refuse(Refusal::RecoveryDisabled { member: name.clone(), error: error.to_owned() });
        return;
    }
    match member.verdict(primary, &pass.record.history) {
        Some(Verdict::Clean) => {}
        // Nothing is wiped before it was saved.
        Some(Verdict::Errant(errant)) if saved(member, &errant) => {}
        Some(Verdict::Errant(_)) => return,
        Some(Verdict::Undecided) | None => {
            pass.look_again_in(Duration::from_secs(2));
            return;
        }
    }
    if pass.next.is_acker(data_id) || busy_with_copies(pass) || !pass.can_order(member) {
        return;
    }
    let wait = member.seen.map_or(Duration::ZERO, |seen| seen.memory.wait_for(Kind::Reseed, pass.now));
    if !wait.is_zero() {
        pass.refuse(match member.seen.and_then(|seen| seen.memory.error(Kind::Reseed)) {
            Some(message) => Refusal::CannotClone { member: name.clone(), message: message.to_owned() },
            None => Refusal::ReseedDidNotHelp { member: name.clone(), error: error.to_owned() },
        });
        pass.look_again_in(wait);
        return;
    }
    let (Some(donor), Some(server)) = (donor(pass, member), member.server()) else { return };
    let new = pass.new_data_id();
    let replaces = Replaced { data_id: data_id.clone(), binlog_state: server.gtid_binlog_state.clone() };
    pass.order(member, Action::Clone { donor: donor.intent.agent.clone(), data_id: new, replaces: Some(replaces) });
    pass.warn(
        "Reseeding",
        member,
        format!(
            "replication of {name} cannot be repaired ({error}); its data is replaced by a copy from {}",
            donor.name()
        ),
    );
}

/// Every one of these was written down on the member's volume.
pub(super) fn saved(member: Member<'_>, errant: &[Errant]) -> bool {
    let saved = member.state().map(|state| state.saved.as_slice()).unwrap_or_default();
    errant.iter().all(|e| {
        saved
            .iter()
            .any(|s| s.domain == e.domain && s.server_id == e.server_id && s.last >= e.last && s.known <= e.known)
    })
}

fn busy_with_copies(pass: &Pass<'_>) -> bool {
    let copying = |name: &MemberName| {
        pass.orders().iter().any(|order| order.member == *name && matches!(order.action, Action::Clone { .. }))
    };
    pass.members().any(|member| matches!(member.phase(), Some(Phase::Cloning { .. })) || copying(member.name()))
}
