//! What is thought of each member as the next primary.

use super::pass::Pass;
use super::repair::{LOG_RESET, Need, need, words};
use super::view::{self, Member};
use crate::gtid::GtidPosition;
use crate::history::{self, Errant};
use crate::plan::{Judged, Verdict};

/// All that a member holds: applied, received, or in relay log files.
pub(super) fn held(member: Member<'_>) -> GtidPosition {
    let Some(state) = member.state() else { return GtidPosition::default() };
    let mut position = GtidPosition::default();
    if let Some(server) = &state.server {
        position = server.gtid_slave_pos.furthest(&server.gtid_binlog_pos);
        if let Some(replication) = &server.replication {
            position = position.furthest(&replication.gtid_io_pos);
        }
    }
    for more in [state.fence.as_ref().map(|fence| &fence.received), state.relay.as_ref()].into_iter().flatten() {
        position = position.furthest(more);
    }
    position
}

/// All that it has applied.
pub(super) fn applied(member: Member<'_>) -> GtidPosition {
    member.server().map(|server| server.gtid_slave_pos.furthest(&server.gtid_binlog_pos)).unwrap_or_default()
}

/// Transactions in its binary log that no primary wrote in its term. Where the record has no history of the
/// beginning, what came before is not judged.
pub(super) fn out_of_term(pass: &Pass<'_>, member: Member<'_>) -> Vec<Errant> {
    let terms = &pass.record.history;
    let Some(server) = member.server() else { return Vec::new() };
    server
        .gtid_binlog_state
        .transactions()
        .filter(|&gtid| history::out_of_term(gtid, terms))
        .map(|gtid| Errant { domain: gtid.domain, server_id: gtid.server_id, known: 0, last: gtid.sequence })
        .collect()
}

/// A member as it stands, before others are looked at.
pub(super) fn verdict(pass: &Pass<'_>, member: Member<'_>) -> Verdict {
    if pass.is_holder(member) || pass.record.holder.as_ref().is_some_and(|h| h.member == *member.name()) {
        return Verdict::OldPrimary;
    }
    if !member.intent.candidate {
        return Verdict::NoCandidate;
    }
    if member.intent.hands_off {
        return Verdict::HandsOff;
    }
    let Some(state) = member.state() else { return Verdict::Silent { why: member.why_silent() } };
    if member.data_id().is_none() || member.server().is_none() {
        return Verdict::NotRunning;
    }
    if state.leaving || pass.goes(member) {
        return Verdict::Leaving;
    }
    let errant = match pass.primary().and_then(|primary| member.verdict(primary, &pass.record.history)) {
        Some(view::Verdict::Errant(errant)) => errant,
        Some(view::Verdict::Clean | view::Verdict::Undecided) => Vec::new(),
        None => out_of_term(pass, member),
    };
    if !errant.is_empty() {
        return Verdict::Errant { errant };
    }
    if member.server().is_some_and(|server| server.log_reset) {
        return Verdict::Broken { why: LOG_RESET.to_owned() };
    }
    if let Some(replication) = member.replication()
        && let Need::Repair(error) | Need::Reseed(error) | Need::Person(error) = need(replication)
    {
        return Verdict::Broken { why: words(&error) };
    }
    Verdict::Fit
}

/// Every member but nobody chosen: who is behind the most advanced is told so.
pub(super) fn all(pass: &Pass<'_>) -> Vec<Judged> {
    let best = pass
        .members()
        .filter(|member| verdict(pass, *member) == Verdict::Fit)
        .map(held)
        .fold(GtidPosition::default(), |best, position| best.furthest(&position));
    pass.members()
        .map(|member| {
            let position = held(member);
            let mut verdict = verdict(pass, member);
            if verdict == Verdict::Fit && !position.covers(&best) {
                verdict = Verdict::Behind { by: position.behind(&best) };
            }
            let fenced = member.state().and_then(|state| state.fence.as_ref()).map(|fence| fence.how);
            Judged { name: member.name().clone(), position, fenced, verdict }
        })
        .collect()
}

/// The best of these: least left to apply, then the objects' wish, then their order.
pub(super) fn best<'a>(pass: &Pass<'a>, among: impl IntoIterator<Item = Member<'a>>) -> Option<Member<'a>> {
    among
        .into_iter()
        .enumerate()
        .min_by_key(|(order, member)| {
            let left = applied(*member).behind(&held(*member));
            (left, *member.name() != pass.intent.wanted_primary, *order)
        })
        .map(|(_, member)| member)
}
