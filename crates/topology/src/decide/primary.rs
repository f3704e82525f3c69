//! The primary: the holder of the lease runs, is open for writes, and nobody else is.

use std::collections::BTreeSet;
use std::time::Duration;

use super::first::{start, start_anew, take_at_word, word};
use super::pass::{Flow, Pass};
use super::view::{Content, Member};
use crate::action::{Action, Opening, Waits};
use crate::decision::Refusal;
use crate::gtid::Gtid;
use crate::intent::Durability;
use crate::member::{MemberName, Phase, ServerState};
use crate::memory::Kind;
use crate::record::{Holder, Record};

/// A new primary's agent has forgotten its old source by then.
const FORGETS_WITHIN: Duration = Duration::from_secs(30);
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
                format!(
                    "{name} was writable without holding the lease (somebody typed SET GLOBAL read_only=0?); it is set read-only, and \
                     what was written on it is saved before its data is replaced. To move the primary: kubectl mariadb switchover \
                     --to {name}",
                    name = member.name()
                ),
            );
        }
    }
    Flow::Next
}

/// What is set when `holder` opens under `record`.
pub(super) fn opening(pass: &Pass<'_>, record: &Record, holder: &MemberName) -> Opening {
    match pass.intent.durability {
        Durability::Available { semi_sync } => Opening {
            wait: if semi_sync && pass.intent.replication { Waits::AsConfigured } else { Waits::Off },
            lock: Vec::new(),
            // A copy has the locks of its donor.
            unlock: pass.members().map(|member| pass.intent.account(member.intent)).collect(),
            anew: false,
        },
        strict_or_safe => {
            let somebody = pass
                .members()
                .any(|member| member.name() != holder && member.intent.candidate && member.replication().is_some());
            let wait = strict_or_safe == Durability::Strict || !record.ackers.is_empty() || somebody;
            Opening {
                wait: if wait { Waits::WithoutEnd } else { Waits::Off },
                lock: pass.accounts_to_lock(record, holder),
                unlock: pass.accounts_of_ackers(record),
                anew: false,
            }
        }
    }
}

/// Opens a member for writes, with the accounts that the others need.
fn open(pass: &mut Pass<'_>, member: Member<'_>) {
    let wait = member.seen.map_or(Duration::ZERO, |seen| seen.memory.wait_for(Kind::Open, pass.now));
    if wait.is_zero() {
        open_at_once(pass, member);
    } else {
        pass.look_again_in(wait);
    }
}

/// The same, however often it was tried.
pub(super) fn open_at_once(pass: &mut Pass<'_>, member: Member<'_>) {
    if pass.intent.replication && pass.intent.durability == Durability::Strict && pass.next.ackers.is_empty() {
        // Its first acker comes first: nothing is written before.
        pass.operation = Some(format!("{} waits for a replica that acknowledges", member.name()));
        if pass.intent.candidates().count() > 1 {
            if pass.next != *pass.record {
                let ensure = ensure_accounts(pass);
                pass.order(member, ensure);
            }
            return;
        }
    }
    let opening = opening(pass, &pass.next.clone(), member.name());
    pass.order(member, Action::OpenForWrites { opening });
    // Later primaries have the accounts from the first one.
    if pass.intent.replication && pass.record.history.is_empty() {
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
            if pass.closes(primary) {
                pass.operation = Some(format!("{} stops taking writes", primary.name()));
            } else if pass.can_order(primary) {
                note_pod(pass, primary);
                after_lock_out(pass, primary);
                open(pass, primary);
            }
        }
        (Some(Phase::Running), Some(server)) => {
            if log_restarted(pass, server) {
                return start_anew(pass, primary);
            }
            if replicated_more(server) {
                if pass.can_order(primary) {
                    open_anew(pass, primary);
                }
                return Flow::Next;
            }
            if server.replication.is_some() && !pass.opens_with_an_acker() && pass.can_order(primary) {
                forget_source(pass, primary, server);
            }
        }
        (Some(Phase::Running), None) => {}
        _ => {
            pass.operation = Some(format!("{}, the primary, starts", primary.name()));
            start(pass, primary);
        }
    }
    Flow::Next
}

/// Somebody emptied its binary log (`RESET MASTER`): it numbers what it writes from 1 again, below what its term began with.
fn log_restarted(pass: &Pass<'_>, server: &ServerState) -> bool {
    let Some(term) = pass.record.history.last() else { return false };
    let below = |(domain, start): (&u32, &Gtid)| server.gtid_binlog_pos.sequence(*domain) < start.sequence;
    server.log_reset && term.start.0.iter().any(below)
}

/// ... and what it replicated before would be taken for its position, by a copy of it too.
pub(super) fn replicated_more(server: &ServerState) -> bool {
    let more = |(domain, last): (&u32, &Gtid)| last.sequence > server.gtid_binlog_pos.sequence(*domain);
    server.log_reset && server.gtid_slave_pos.0.iter().any(more)
}

pub(super) fn open_anew(pass: &mut Pass<'_>, primary: Member<'_>) {
    let opening = Opening { anew: true, ..opening(pass, &pass.next.clone(), primary.name()) };
    pass.order_patiently(primary, Action::OpenForWrites { opening });
}

/// A primary receives from nobody. Right after it opened, its agent is about to forget its old source.
fn forget_source(pass: &mut Pass<'_>, primary: Member<'_>, server: &ServerState) {
    let Some(memory) = primary.seen.map(|seen| &seen.memory) else { return };
    let opened = memory.tries.get(&Kind::Open).map(|tries| tries.last);
    if opened.max(memory.running_since).is_none_or(|since| pass.now.since(since) < FORGETS_WITHIN) {
        return;
    }
    let from = server.replication.as_ref().map(|replication| replication.host.clone()).unwrap_or_default();
    pass.warn(
        "UnexpectedSource",
        primary,
        format!(
            "{name} is the primary and was told to follow {from} (somebody typed CHANGE MASTER?); that is forgotten. To move the primary: \
             kubectl mariadb switchover --to POD",
            name = primary.name()
        ),
    );
    open(pass, primary);
}

/// A switchover that nobody carries on had locked the ackers out: whoever opens again wins over a late actor, and what
/// root may have written meanwhile is not proven to be anywhere else.
fn after_lock_out(pass: &mut Pass<'_>, primary: Member<'_>) {
    let accounts = pass.accounts_of_ackers(pass.record);
    let locked =
        primary.state().is_some_and(|state| accounts.iter().any(|account| state.locks.accounts.contains(account)));
    if locked {
        pass.next.solo = true;
    }
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
        take_at_word(pass, named);
        return;
    }
    let others =
        pass.members().filter(|member| member.data_id().is_some()).map(|member| member.name().clone()).collect();
    pass.refuse(Refusal::PrimaryVolumeLost { member: member.name().clone(), found, others });
}

/// The accounts exist before somebody needs one, and are set right when somebody cannot log in.
pub(super) fn accounts(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.lead().filter(|_| pass.intent.replication) else { return Flow::Next };
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

/// A member that has data and a server will log in soon, if it does not replicate yet.
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
