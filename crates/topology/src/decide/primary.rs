//! The primary: the holder of the lease runs, is open for writes, and nobody else is.

use std::collections::BTreeSet;

use super::first::{start, start_epoch, word};
use super::pass::{Flow, Pass};
use super::view::{Content, Member};
use crate::action::{Action, Opening};
use crate::decision::Refusal;
use crate::member::Phase;
use crate::memory::Kind;
use crate::record::Holder;

/// MariaDB's errors for an account that cannot log in: wrong password or no such account, and a locked one.
pub(super) const LOGIN_REFUSED: [u32; 2] = [1045, 4151];

/// A member that is writable and does not hold the lease is closed at once.
pub(super) fn close_strays(pass: &mut Pass<'_>) -> Flow {
    for member in pass.members() {
        let stray = !pass.is_holder(member) && member.server().is_some_and(|server| !server.read_only);
        if stray
            && pass.can_order(member)
            && pass.order_patiently(member, Action::SetReadOnly { grace_ms: 0, kill: true })
        {
            pass.warn(
                "UnexpectedlyWritable",
                member,
                format!("{} was writable without holding the lease; it is set read-only", member.name()),
            );
        }
    }
    Flow::Next
}

/// Opens a member for writes, with the accounts that the others need.
pub(super) fn open(pass: &mut Pass<'_>, member: Member<'_>) {
    if !pass.order_patiently(member, Action::OpenForWrites { opening: Opening::default() }) {
        return;
    }
    if pass.intent.replication {
        let ensure = ensure_accounts(pass);
        pass.order(member, ensure);
    }
    pass.operation = Some(format!("{} opens for writes", member.name()));
    pass.event("OpeningPrimary", member, format!("{} opens for writes", member.name()));
}

fn ensure_accounts(pass: &Pass<'_>) -> Action {
    Action::EnsureReplicationAccounts {
        users: pass.members().map(|member| pass.intent.account(member.intent)).collect(),
        login_only: pass.intent.replication_user.clone(),
    }
}

/// The holder's server runs and is open. Where its data is gone, that is said, and nothing is made in its place
/// unless a person names whose data counts.
pub(super) fn keep_open(pass: &mut Pass<'_>) -> Flow {
    let Some(holder) = pass.record.holder.clone() else { return Flow::Next };
    let Some(primary) = pass.primary() else {
        lost_primary(pass, &holder);
        return Flow::Next;
    };
    match (primary.phase(), primary.server()) {
        (Some(Phase::Running), Some(server)) if server.read_only => {
            if pass.can_order(primary) {
                note_pod(pass, primary);
                open(pass, primary);
            }
        }
        (Some(Phase::Running), _) => {}
        _ => {
            pass.operation = Some(format!("{}, the primary, starts", primary.name()));
            start(pass, primary);
        }
    }
    Flow::Next
}

fn note_pod(pass: &mut Pass<'_>, primary: Member<'_>) {
    if let (Some(state), Some(holder)) = (primary.state(), &mut pass.next.holder) {
        holder.pod_uid.clone_from(&state.pod_uid);
        holder.member = primary.name().clone();
    }
}

fn lost_primary(pass: &mut Pass<'_>, holder: &Holder) {
    let Some(member) = pass.member(&holder.member) else {
        pass.refuse(Refusal::PrimaryNotAMember { member: holder.member.clone() });
        return;
    };
    let found = match member.content() {
        Content::Unknown => {
            pass.operation = Some(format!("waiting for {}, the primary ({})", member.name(), member.why_silent()));
            return;
        }
        Content::Nothing if member.state().is_some() => "its volume is empty".to_owned(),
        Content::Nothing => "its volume does not exist".to_owned(),
        Content::Foreign(found) => found.to_owned(),
        Content::Data(other) => format!("its volume holds other data, {other}"),
    };
    if let Some(named) = word(pass).filter(|named| named.server().is_some() && pass.can_order(*named)) {
        start_epoch(pass, named);
        return;
    }
    let others =
        pass.members().filter(|member| member.data_id().is_some()).map(|member| member.name().clone()).collect();
    pass.refuse(Refusal::PrimaryVolumeLost { member: member.name().clone(), found, others });
}

/// The accounts exist before somebody needs one, and are set right when somebody cannot log in.
pub(super) fn accounts(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.open_primary().filter(|_| pass.intent.replication) else { return Flow::Next };
    let there: BTreeSet<String> = primary.seen.map(|seen| seen.memory.accounts.clone()).unwrap_or_default();
    let mut missing = false;
    let mut refused = false;
    for member in pass.others() {
        missing |= needs_account(member) && !there.contains(&pass.intent.account(member.intent));
        refused |=
            member.replication().and_then(|r| r.io_error.as_ref()).is_some_and(|e| LOGIN_REFUSED.contains(&e.errno));
    }
    if !(missing || refused) || !pass.can_order(primary) {
        return Flow::Next;
    }
    let ensure = ensure_accounts(pass);
    let failed = primary.seen.is_some_and(|seen| seen.memory.failed(Kind::Accounts));
    if missing && !refused && !failed {
        pass.order(primary, ensure);
    } else {
        pass.order_patiently(primary, ensure);
    }
    Flow::Next
}

/// A member that does not replicate yet will log in soon.
fn needs_account(member: Member<'_>) -> bool {
    member.data_id().is_some() && member.server().is_some() && member.replication().is_none()
}

/// Servers of the other members that are not running are started: read-only, replication stopped.
pub(super) fn start_others(pass: &mut Pass<'_>) -> Flow {
    for member in pass.others() {
        if member.data_id().is_some() && member.idle() {
            start(pass, member);
        }
    }
    Flow::Next
}
