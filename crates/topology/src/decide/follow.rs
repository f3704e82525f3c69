//! Every member but the primary follows it, by the primary's own service name.

use super::pass::{Flow, Pass};
use super::view::{Member, Verdict};
use crate::action::{Action, Source};
use crate::member::ReplicationState;

pub(super) fn follow_primary(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.open_primary().filter(|_| pass.intent.replication) else { return Flow::Next };
    for member in pass.others() {
        if member.data_id().is_none() || member.server().is_none() || !pass.can_order(member) {
            continue;
        }
        let source = pass.intent.source(member.intent, primary.intent);
        if follows(member, &source) {
            continue;
        }
        if member.replication().is_none() && !joins_clean(pass, member, primary) {
            continue;
        }
        let ready = primary.seen.is_some_and(|seen| seen.memory.accounts.contains(&source.user));
        if !ready && member.replication().is_none() {
            continue; // The accounts come first.
        }
        let at = source.endpoint.host.clone();
        if pass.order_patiently(member, Action::Follow { source, demote: false }) {
            pass.event("Following", member, format!("{} replicates from {} ({at})", member.name(), primary.name()));
        }
    }
    Flow::Next
}

/// What does not replicate yet is compared before it joins.
fn joins_clean(pass: &mut Pass<'_>, member: Member<'_>, primary: Member<'_>) -> bool {
    match member.verdict(primary, &pass.record.history) {
        Some(Verdict::Clean) => true,
        Some(Verdict::Undecided) => {
            pass.look_again_in(std::time::Duration::from_secs(2));
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
