//! Replication that does not work: started again where that can help, its data replaced where it must be, reported
//! either way.

use super::follow::follows;
use super::pass::{Flow, Pass};
use super::primary::LOGIN_REFUSED;
use super::seed;
use super::view::{Member, Verdict};
use crate::action::Action;
use crate::decision::Refusal;
use crate::member::{ReplicationState, ServerError, ThreadState};
use crate::memory::{Kind, works};

/// What a broken replication connection needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: it works, or it is connecting.
    Nothing,
    /// A START; nothing is wrong.
    Start,
    /// A START, later and later; after the threshold other data.
    Repair(ServerError),
    /// A START, later and later: other data would not help (a full disk, a lock).
    Retry(ServerError),
    /// Other data, at once.
    Reseed(ServerError),
    /// A person.
    Person(ServerError),
}

/// Own GTID unknown to the source, or its binary logs are gone.
const POSITION_UNKNOWN: u32 = 1236;
/// Out of order under `gtid_strict_mode`.
const OUT_OF_ORDER: u32 = 1950;
/// Same `server_id` as the source.
const SAME_SERVER_ID: u32 = 1593;
/// Event larger than `slave_max_allowed_packet`.
const PACKET_TOO_LARGE: u32 = 1153;
/// Errors of the SQL thread that come from outside its data: disk full, table full, no memory, locks, shutdown.
const OUTSIDE: [u32; 9] = [28, 1021, 1037, 1041, 1053, 1114, 1205, 1213, 1927];

/// Errors by what they call for (MariaDB's numbers; what each looks like was tried on 10.11 and 11.8).
pub(super) fn need(replication: &ReplicationState) -> Need {
    let ReplicationState { io, sql, io_error, sql_error, .. } = replication;
    if let Some(error) = passed_over(replication) {
        return Need::Reseed(error);
    }
    if works(replication) {
        return Need::Nothing;
    }
    if *sql == ThreadState::No
        && let Some(error) = sql_error
    {
        return match error.errno {
            OUT_OF_ORDER => Need::Reseed(error.clone()),
            errno if OUTSIDE.contains(&errno) => Need::Retry(error.clone()),
            _ => Need::Repair(error.clone()),
        };
    }
    if *io == ThreadState::No
        && let Some(error) = io_error
    {
        return match error.errno {
            POSITION_UNKNOWN => Need::Reseed(error.clone()),
            SAME_SERVER_ID | PACKET_TOO_LARGE => Need::Person(error.clone()),
            _ => Need::Retry(error.clone()),
        };
    }
    if *io == ThreadState::No || *sql == ThreadState::No { Need::Start } else { Need::Nothing }
}

/// The same for a member that still has a former source: what that one refused says nothing about the primary, and
/// pointing it there starts it again. Only data that diverged stays so.
pub(super) fn need_elsewhere(replication: &ReplicationState) -> Need {
    if let Some(error) = passed_over(replication) {
        return Need::Reseed(error);
    }
    match (replication.sql, &replication.sql_error) {
        (ThreadState::No, Some(error)) if error.errno == OUT_OF_ORDER => Need::Reseed(error.clone()),
        _ => Need::Nothing,
    }
}

/// Somebody has set its position by hand: what lies between is not in its data, and nothing but other data helps.
fn passed_over(replication: &ReplicationState) -> Option<ServerError> {
    let count = replication.passed_over;
    let passed = if count == 1 { "transaction was" } else { "transactions were" };
    (count > 0).then(|| ServerError {
        errno: 0,
        message: format!("its gtid_slave_pos was set by hand, {count} {passed} passed over"),
    })
}

/// For people: number and words, the words cut where they get long.
pub(super) fn words(error: &ServerError) -> String {
    let mut message: String = error.message.chars().take(300).collect();
    if message.len() < error.message.len() {
        message.push_str("...");
    }
    if error.errno == 0 { message } else { format!("error {}: {message}", error.errno) }
}

/// For people: what is wrong with a member whose binary log somebody emptied, and what they meant to do.
pub(super) const LOG_RESET: &str = "somebody typed RESET MASTER on it, as a promotion by hand does: what it writes next would be \
     numbered from 1 again, and others would miss rows in silence. To move the primary: kubectl mariadb switchover --to POD";

/// A binary log that was emptied cannot be filled again: other data, once what was written since is saved.
pub(super) fn emptied_logs(pass: &mut Pass<'_>) -> Flow {
    for member in pass.others() {
        if member.server().is_some_and(|server| server.log_reset) {
            pass.broken.push((member.name().clone(), LOG_RESET.to_owned()));
        }
    }
    Flow::Next
}

/// Members that have what the primary has not are named, working or not. Their data is replaced only after that was saved.
pub(super) fn errant_transactions(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.primary() else { return Flow::Next };
    for member in pass.others() {
        let Some(Verdict::Errant(errant)) = member.verdict(primary, &pass.record.history) else { continue };
        let recovers = member.intent.replica.recovery.enabled && pass.lead().is_some();
        // While it is open there is more of them with every write.
        let closed = member.server().is_some_and(|server| server.read_only);
        if recovers && closed && seed::saved(member, &errant) {
            let what = format!("transactions that the primary never had: {}", crate::decision::list(&errant));
            pass.broken.push((member.name().clone(), what));
            continue;
        }
        if recovers
            && closed
            && pass.can_order(member)
            && pass.order_patiently(member, Action::SaveErrant { errant: errant.clone() })
        {
            pass.warn(
                "ErrantTransactions",
                member,
                format!(
                    "{} has transactions that the primary never had ({}); they are saved on its volume before its data is replaced",
                    member.name(),
                    crate::decision::list(&errant)
                ),
            );
        }
        pass.refuse(Refusal::ErrantTransactions { member: member.name().clone(), errant, saves: recovers });
    }
    Flow::Next
}

/// Threads that stopped.
pub(super) fn stopped_threads(pass: &mut Pass<'_>) -> Flow {
    let Some(primary) = pass.primary().filter(|_| pass.intent.replication) else { return Flow::Next };
    for member in pass.others() {
        let Some(replication) = member.replication() else { continue };
        let here = follows(member, &pass.intent.source(member.intent, primary.intent));
        match if here { need(replication) } else { need_elsewhere(replication) } {
            Need::Nothing => {}
            Need::Start => restart(pass, member, None),
            Need::Retry(error) => restart(pass, member, Some(&error)),
            Need::Person(error) => {
                pass.refuse(Refusal::NeedsAPerson { member: member.name().clone(), error: words(&error) });
                restart(pass, member, Some(&error));
            }
            Need::Reseed(error) => pass.broken.push((member.name().clone(), words(&error))),
            Need::Repair(error) => {
                let since = member.seen.and_then(|seen| seen.memory.trouble_since).unwrap_or(pass.now);
                let threshold = member.intent.replica.recovery.threshold;
                let broken_for = pass.now.since(since);
                if broken_for >= threshold {
                    pass.broken.push((member.name().clone(), words(&error)));
                } else {
                    pass.look_again_in(threshold.saturating_sub(broken_for));
                    restart(pass, member, Some(&error));
                }
            }
        }
    }
    Flow::Next
}

fn restart(pass: &mut Pass<'_>, member: Member<'_>, error: Option<&ServerError>) {
    if replay(pass, member) {
        return;
    }
    if !pass.can_order(member) || !pass.order_patiently(member, Action::StartReplication) {
        return;
    }
    let attempt = Pass::attempts(member, Kind::StartReplication) + 1;
    match error {
        None => pass.event("StartingReplication", member, format!("replication of {} is started", member.name())),
        Some(error) => pass.warn(
            "RestartingReplication",
            member,
            format!(
                "replication of {} stopped ({}) and is started again, attempt {attempt}",
                member.name(),
                words(error)
            ),
        ),
    }
}

/// What an acker has received it has acknowledged: that is applied from the files before a thread is started, or pointed
/// elsewhere. `true`: it is, or will be.
pub(super) fn replay(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    if !pass.is_acker(member) || !member.has_relay_log(&pass.record.history) {
        return false;
    }
    if pass.can_order(member) && pass.order_patiently(member, Action::ReplayRelayLog) {
        pass.event(
            "ReplayingRelayLog",
            member,
            format!("{} applies what it had received before it stopped", member.name()),
        );
    }
    true
}

/// Why the IO thread does not get through, for people.
pub(super) fn connecting(replication: &ReplicationState) -> Option<String> {
    let error = replication.io_error.as_ref().filter(|_| replication.io == ThreadState::Connecting)?;
    Some(match error.errno {
        errno if LOGIN_REFUSED.contains(&errno) => format!("cannot log in to its source ({})", words(error)),
        _ => format!("cannot connect to its source ({})", words(error)),
    })
}
