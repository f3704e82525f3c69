//! What people are told: every member's standing, and one sentence about the whole.

use std::time::Duration;

use super::judge;
use super::pass::Pass;
use super::repair::{Need, connecting, need, words};
use super::view::{Content, Member};
use crate::decision::{Event, Health, MemberReport, Refusal, Report, Role, Standing, list};
use crate::intent::{HandsOff, ReplicaIntent};
use crate::member::{Phase, ThreadState};
use crate::observation::{Agent, Pod};
use crate::plan::Verdict;

pub(super) fn report(pass: &Pass<'_>, refusals: &[Refusal], operation: Option<String>, events: Vec<Event>) -> Report {
    let members: Vec<MemberReport> = pass.members().map(|member| member_report(pass, refusals, member)).collect();
    let primary = pass.next.holder.as_ref().map(|holder| holder.member.clone());
    let health = health(pass, refusals, &members, operation.as_deref());
    let operation = operation.or_else(|| underway(&members));
    Report { health, primary, operation, refusals: refusals.to_vec(), members, events }
}

fn underway(members: &[MemberReport]) -> Option<String> {
    let busy: Vec<String> = members
        .iter()
        .filter(|member| member.standing == Standing::Underway)
        .map(|member| format!("{} {}", member.name, member.text))
        .collect();
    (!busy.is_empty()).then(|| list(busy))
}

fn health(pass: &Pass<'_>, refusals: &[Refusal], members: &[MemberReport], operation: Option<&str>) -> Health {
    let no = |reason, message| Health { ok: false, reason, message };
    if let Some(hands_off) = pass.intent.hands_off {
        let (reason, field) = match hands_off {
            HandsOff::Suspend => ("Suspended", "spec.suspend"),
            HandsOff::Maintenance => ("Maintenance", "spec.maintenance"),
        };
        return no(reason, format!("{field} is set: the topology is only watched"));
    }
    if members.is_empty() {
        return no("NoMembers", "no member should run".to_owned());
    }
    // Waiting for a donor is told by the members that wait.
    let refusals: Vec<&Refusal> = refusals.iter().filter(|r| !matches!(r, Refusal::NoDonor { .. })).collect();
    if let Some(first) = refusals.iter().find(|refusal| !refusal.passes()).or(refusals.first()) {
        let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        let reason = if first.passes() { "Initialising" } else { first.reason() };
        return no(reason, texts.join(". "));
    }
    let of = |standing: Standing| members.iter().filter(move |member| member.standing == standing);
    let said = |standing: Standing| list(of(standing).map(|member| format!("{} {}", member.name, member.text)));
    if pass.next.holder.is_none() {
        return no("Initialising", operation.unwrap_or("there is no primary yet").to_owned());
    }
    if let Some(primary) = members.iter().find(|m| m.role == Role::Primary && m.standing != Standing::Well) {
        return no("PrimaryNotReady", format!("{} {}", primary.name, primary.text));
    }
    if pass.primary().is_none() && pass.next.epoch == pass.record.epoch {
        return no("PrimaryNotReady", operation.unwrap_or("the primary does not answer").to_owned());
    }
    if of(Standing::Broken).next().is_some() {
        return no("ReplicaBroken", said(Standing::Broken));
    }
    if of(Standing::Silent).next().is_some() {
        return no("MemberUnreachable", said(Standing::Silent));
    }
    if of(Standing::Underway).next().is_some() {
        return no("MembersJoining", said(Standing::Underway));
    }
    if of(Standing::Waiting).next().is_some() {
        return no("MembersMissing", said(Standing::Waiting));
    }
    if of(Standing::Lagging).next().is_some() {
        return no("ReplicasLag", said(Standing::Lagging));
    }
    let primary = pass.next.holder.as_ref().map(|holder| holder.member.0.clone()).unwrap_or_default();
    let message = match members.len() - 1 {
        0 => format!("{primary} is open for writes"),
        1 => format!("{primary} is open for writes, 1 replica follows it"),
        n => format!("{primary} is open for writes, {n} replicas follow it"),
    };
    Health { ok: true, reason: "AllMembersWell", message }
}

fn member_report(pass: &Pass<'_>, refusals: &[Refusal], member: Member<'_>) -> MemberReport {
    let state = member.state();
    let server = member.server();
    let replication = member.replication();
    let primary = pass.primary();
    let lag = if pass.is_holder(member) { None } else { member.lag(primary) };
    let (standing, text) = with_failure(pass, member, standing(pass, refusals, member, lag));
    let role = match pass.next.holder.as_ref().map(|holder| &holder.member) {
        None => Role::Unknown,
        Some(holder) if holder == member.name() => Role::Primary,
        Some(_) => Role::Replica,
    };
    MemberReport {
        name: member.name().clone(),
        object: member.intent.object.clone(),
        server_id: member.intent.server_id,
        role,
        standing,
        word: word(member, role, standing),
        text,
        progress: progress(member),
        reachable: state.is_some(),
        version: server.map(|server| server.version.clone()),
        source: replication.map(|replication| source_name(pass, &replication.host)),
        io: replication.map(|replication| replication.io),
        sql: replication.map(|replication| replication.sql),
        lag,
        unfit: match judge::verdict(pass, member) {
            Verdict::Fit | Verdict::Chosen | Verdict::OldPrimary | Verdict::Behind { .. } => None,
            unfit => Some(unfit.reason()),
        },
        long_transaction: state
            .and_then(|state| state.long_transaction.as_ref())
            .map(|transaction| (transaction.connection, transaction.user.clone())),
        dropped: state.and_then(|state| state.dropped.clone()),
        last_error: replication.and_then(|r| r.sql_error.clone().or_else(|| r.io_error.clone())),
        options_refused: state.and_then(|state| state.options_refused.clone()),
        binlog_pos: server.map(|server| server.gtid_binlog_pos.clone()).unwrap_or_default(),
        slave_pos: server.map(|server| server.gtid_slave_pos.clone()).unwrap_or_default(),
    }
}

/// What is under way and failed the last time says so; after three times it is broken.
fn with_failure(pass: &Pass<'_>, member: Member<'_>, (standing, text): (Standing, String)) -> (Standing, String) {
    let tells = standing == Standing::Underway || standing == Standing::Well && pass.is_holder(member);
    let memory = member.seen.map(|seen| &seen.memory).filter(|_| tells);
    let Some((kind, error)) = memory.and_then(|memory| memory.failing(pass.now)) else { return (standing, text) };
    let standing = if Pass::attempts(member, kind) < 3 { standing } else { Standing::Broken };
    (standing, format!("{text}; {} failed: {error}", kind.describe()))
}

/// A member's name where the host is one's service, else the host.
fn source_name(pass: &Pass<'_>, host: &str) -> String {
    pass.members()
        .find(|member| member.intent.server.host == host)
        .map_or_else(|| host.to_owned(), |member| member.name().0.clone())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn progress(member: Member<'_>) -> Option<String> {
    let Some(Phase::Cloning { donor: _, received, total }) = member.phase() else { return None };
    Some(match total {
        Some(total) if *total > 0 => {
            format!("{} of about {} ({}%)", mebibytes(*received), mebibytes(*total), (received * 100 / total).min(100))
        }
        _ => mebibytes(*received),
    })
}

fn standing(pass: &Pass<'_>, refusals: &[Refusal], member: Member<'_>, lag: Option<u64>) -> (Standing, String) {
    let text = |standing, text: &str| (standing, text.to_owned());
    let Some(state) = member.state() else {
        return match member.seen {
            Some(seen) if seen.pod == Pod::Running && matches!(seen.agent, Agent::Answers { .. }) => {
                text(Standing::Underway, "carries out an order")
            }
            Some(seen) if seen.pod == Pod::Running => (Standing::Silent, format!("is silent: {}", member.why_silent())),
            _ => (Standing::Waiting, format!("waits: {}", member.why_silent())),
        };
    };
    if member.intent.hands_off && state.server.as_ref().is_none_or(|server| server.replication.is_none()) {
        return text(Standing::Waiting, "is left alone: its object is suspended");
    }
    if let Some(refusal) = refusals.iter().find(|r| r.member() == Some(member.name()) && !r.passes()) {
        return (Standing::Broken, format!("{}: {refusal}", refusal.reason()));
    }
    match &state.phase {
        Phase::Waiting => match member.content() {
            Content::Nothing => text(Standing::Underway, "waits to be seeded"),
            _ => text(Standing::Underway, "waits to be started"),
        },
        Phase::Initialising => text(Standing::Underway, "makes the first data"),
        Phase::Cloning { donor, .. } => (Standing::Underway, format!("is copied from {}", donor_name(pass, donor))),
        Phase::Starting => text(Standing::Underway, "starts"),
        Phase::Stopping => text(Standing::Underway, "stops"),
        Phase::Failed { reason, message } => (Standing::Broken, format!("{reason}: {message}")),
        Phase::ConfigRefused { message, .. } => (Standing::Broken, format!("refuses its configuration: {message}")),
        Phase::Running => running(pass, member, lag),
    }
}

fn word(member: Member<'_>, role: Role, standing: Standing) -> &'static str {
    match (standing, member.phase()) {
        (Standing::Silent, _) => "unreachable",
        (Standing::Broken, _) => "broken",
        (_, Some(Phase::Initialising)) => "initialising",
        (_, Some(Phase::Cloning { .. })) => "cloning",
        (_, Some(Phase::Starting)) => "starting",
        (_, Some(Phase::Stopping)) => "stopping",
        (_, Some(Phase::Waiting)) | (Standing::Waiting, _) => "waiting",
        _ => match role {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Unknown => "waiting",
        },
    }
}

fn donor_name(pass: &Pass<'_>, host: &str) -> String {
    pass.members()
        .find(|member| member.intent.agent.host == host)
        .map_or_else(|| host.to_owned(), |member| member.name().0.clone())
}

fn running(pass: &Pass<'_>, member: Member<'_>, lag: Option<u64>) -> (Standing, String) {
    let text = |standing, text: &str| (standing, text.to_owned());
    let Some(server) = member.server() else { return text(Standing::Broken, "has a server that does not answer") };
    if pass.is_holder(member) {
        return if server.read_only {
            text(Standing::Underway, "opens for writes")
        } else {
            text(Standing::Well, "is open for writes")
        };
    }
    if !pass.intent.replication {
        return text(Standing::Underway, "opens for writes");
    }
    let Some(replication) = &server.replication else {
        return text(Standing::Underway, "joins");
    };
    // A delayed replica is behind on purpose.
    let bound = u64::from(member.intent.replica.max_lag) + u64::from(member.intent.replica.delay);
    match need(replication) {
        Need::Start => text(Standing::Underway, "starts to replicate"),
        Need::Repair(error) | Need::Retry(error) | Need::Reseed(error) | Need::Person(error) => {
            (Standing::Broken, format!("does not replicate ({})", words(&error)))
        }
        Need::Nothing if replication.io == ThreadState::Connecting => {
            let since = member.seen.and_then(|seen| seen.memory.trouble_since).unwrap_or(pass.now);
            let ReplicaIntent { connect_retry, connect_retries, .. } = &member.intent.replica;
            // The server does not count them. A source that restarts is away for a moment.
            let given = Duration::from_secs(u64::from(*connect_retry) * u64::from(*connect_retries));
            match connecting(replication).filter(|_| pass.now.since(since) >= given) {
                Some(why) => (Standing::Broken, why),
                None => text(Standing::Underway, "connects to its source"),
            }
        }
        // A connection that is cut without a word looks well for as long as `slave_net_timeout`.
        Need::Nothing if !replication.receives && pass.open_primary().is_some() => {
            text(Standing::Underway, "hears nothing from its source")
        }
        Need::Nothing if lag.is_some_and(|lag| lag > bound) => {
            (Standing::Lagging, format!("lags by more than {bound} s"))
        }
        Need::Nothing => text(Standing::Well, "replicates"),
    }
}
