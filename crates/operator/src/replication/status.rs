//! `.status` as this loop writes it: what is said of each object, and when a difference is worth a write.

use std::time::Duration;

use api::status::{MariaDBStatus, MemberStatus, RefusalStatus, ReplicationStatus, RequestStatus, condition};
use api::{MariaDB, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time as MetaTime};
use k8s_openapi::jiff::Timestamp;
use topology::intent::Durability;
use topology::{Forecast, Record};

use super::outlook;
use topology::decision::{Health, MemberReport, Report, Role, Standing};
use topology::gtid::GtidPosition;
use topology::member::ThreadState;

/// Positions and lag are written at most so often.
const POSITIONS: Duration = Duration::from_secs(60);
/// How far a copy is, at most so often.
const PROGRESS: Duration = Duration::from_secs(5);

/// What is said of one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) status: MariaDBStatus,
    copying: bool,
}

/// What a topology's status is made from.
pub(super) struct Source<'a> {
    pub(super) report: &'a Report,
    pub(super) record: &'a Record,
    pub(super) durability: Option<Durability>,
    pub(super) forecast: Option<&'a Forecast>,
    pub(super) request: Option<&'a RequestStatus>,
}

/// The status of one object: of the root about all members, of others about their own.
pub(super) fn of_object(source: &Source<'_>, object: &MariaDB, is_root: bool, now: Timestamp) -> Said {
    let name = object.metadata.name.clone().unwrap_or_default();
    let before = object.status.clone().unwrap_or_default();
    let own: Vec<&MemberReport> =
        source.report.members.iter().filter(|member| is_root || member.object == name).collect();
    let health = if is_root { source.report.health.clone() } else { own_health(source.report, &own) };
    let known = before.replication.as_ref().map(|r| r.members.as_slice()).unwrap_or_default();
    let primary = source.report.primary.as_ref().map(|member| member.0.clone());
    let pod_index =
        primary.as_deref().and_then(|pod| names::ordinal(&name, pod)).and_then(|ordinal| i32::try_from(ordinal).ok());
    let replicates = source.durability.is_some();
    let promises = source.durability.is_some_and(Durability::promises);
    let forecast = source.forecast.filter(|_| is_root && replicates);
    let generation = object.metadata.generation;
    let mut conditions = vec![condition(&before, condition::REPLICATION_HEALTHY, generation, &health, now)];
    conditions.extend(forecast.map(|forecast| {
        condition(&before, condition::SAFE_TO_FAILOVER, generation, &outlook::health(forecast, promises), now)
    }));
    let ackers = || source.record.ackers.values().map(|acker| acker.member.0.clone()).collect();
    let refusals = before.replication.as_ref().map(|known| known.refusals.as_slice()).unwrap_or_default();
    Said {
        copying: own.iter().any(|member| member.progress.is_some()),
        status: MariaDBStatus {
            conditions,
            current_primary: primary,
            current_primary_pod_index: pod_index,
            lag_text: lag_text(source.report, &name, is_root),
            version: own.iter().find_map(|member| member.version.clone()),
            replication: Some(ReplicationStatus {
                epoch: i64::try_from(source.record.epoch).ok(),
                durability: source.durability.map(|durability| durability_word(durability).to_owned()),
                ackers: (is_root && promises).then(ackers),
                solo: replicates.then_some(source.record.solo),
                members: own.iter().map(|member| member_status(member, known, now)).collect(),
                operation: operation(source.report, &own, is_root),
                if_primary_fails: forecast.map(|forecast| outlook::sentence(forecast, promises)),
                candidates: forecast.map(outlook::candidates).unwrap_or_default(),
                request: source.request.filter(|_| is_root).cloned(),
                refusals: if is_root { said_refusals(source.report, refusals, now) } else { Vec::new() },
            }),
            ..MariaDBStatus::default()
        },
    }
}

/// The status of an object that belongs to no topology.
pub(super) fn of_orphan(object: &MariaDB, reason: &'static str, message: String, now: Timestamp) -> Said {
    let before = object.status.clone().unwrap_or_default();
    let health = Health { ok: false, reason, message };
    Said {
        copying: false,
        status: MariaDBStatus {
            conditions: vec![condition(
                &before,
                condition::REPLICATION_HEALTHY,
                object.metadata.generation,
                &health,
                now,
            )],
            ..MariaDBStatus::default()
        },
    }
}

/// An object that is not the root is well when its own members are.
fn own_health(report: &Report, own: &[&MemberReport]) -> Health {
    let unwell: Vec<String> = own
        .iter()
        .filter(|member| member.standing != Standing::Well)
        .map(|member| format!("{} {}", member.name, member.text))
        .collect();
    if own.is_empty() {
        return Health { ok: false, reason: "NoMembers", message: "no member should run".to_owned() };
    }
    if report.primary.is_none() {
        return report.health.clone();
    }
    match own.iter().map(|member| member.standing).max() {
        Some(Standing::Well) | None => {
            let message = match own.len() {
                1 => "its member replicates".to_owned(),
                n => format!("all {n} members replicate"),
            };
            Health { ok: true, reason: "AllMembersWell", message }
        }
        Some(worst) => {
            let reason = match worst {
                Standing::Lagging => "ReplicasLag",
                Standing::Underway => "MembersJoining",
                Standing::Waiting => "MembersMissing",
                Standing::Silent => "MemberUnreachable",
                Standing::Broken | Standing::Well => "ReplicaBroken",
            };
            Health { ok: false, reason, message: unwell.join("; ") }
        }
    }
}

/// As users write it.
fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Strict => "Strict",
        Durability::Safe => "Safe",
        Durability::Available { .. } => "Available",
    }
}

fn said_refusals(report: &Report, known: &[RefusalStatus], now: Timestamp) -> Vec<RefusalStatus> {
    report
        .refusals
        .iter()
        .map(|refusal| {
            let (reason, message) = (refusal.reason().to_owned(), shorten(&refusal.to_string()));
            let since = known
                .iter()
                .find(|before| before.reason == reason)
                .and_then(|before| before.since.clone())
                .unwrap_or(MetaTime(seconds(now)));
            RefusalStatus { reason, message, since: Some(since) }
        })
        .collect()
}

fn condition(
    before: &MariaDBStatus,
    kind: &str,
    generation: Option<i64>,
    health: &Health,
    now: Timestamp,
) -> Condition {
    let status = if health.ok { "True" } else { "False" };
    let last_transition_time = before
        .conditions
        .iter()
        .find(|known| known.type_ == kind && known.status == status)
        .map_or(MetaTime(seconds(now)), |known| known.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: health.reason.to_owned(),
        message: shorten(&health.message),
        observed_generation: generation,
        last_transition_time,
    }
}

/// Conditions may hold 32 KiB; people read less.
fn shorten(message: &str) -> String {
    let mut short: String = message.chars().take(2000).collect();
    if short.len() < message.len() {
        short.push_str("...");
    }
    short
}

/// Times in `.status` have whole seconds.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn member_status(member: &MemberReport, known: &[MemberStatus], now: Timestamp) -> MemberStatus {
    let since = known
        .iter()
        .find(|before| before.name == member.name.0 && before.role.as_deref() == Some(member.word))
        .and_then(|before| before.since.clone())
        .unwrap_or(MetaTime(seconds(now)));
    let gtid = if member.role == Role::Primary { &member.binlog_pos } else { &member.slave_pos };
    let replicates = member.role != Role::Primary;
    let last_error = match (&member.last_error, member.standing) {
        (Some(error), _) if error.errno != 0 => Some(format!("{}: {}", error.errno, error.message)),
        (_, Standing::Broken | Standing::Silent | Standing::Waiting) => Some(member.text.clone()),
        _ => member.options_refused.as_ref().map(|why| format!("refuses its configuration: {why}")),
    };
    MemberStatus {
        name: member.name.0.clone(),
        role: Some(member.word.to_owned()),
        source: member.source.clone().filter(|_| replicates),
        gtid: text(gtid),
        io: member.io.filter(|_| replicates).map(thread),
        sql: member.sql.filter(|_| replicates).map(thread),
        lag: member.lag.and_then(|lag| i64::try_from(lag).ok()),
        last_error: last_error.map(|error| shorten(&error)),
        unfit: member.unfit.map(str::to_owned),
        long_transaction: member
            .long_transaction
            .as_ref()
            .filter(|_| !replicates)
            .map(|(connection, user)| format!("connection {connection} of {user}")),
        server_id: Some(i64::from(member.server_id)),
        reachable: Some(member.reachable),
        since: Some(since),
    }
}

fn text(position: &GtidPosition) -> Option<String> {
    (!position.0.is_empty()).then(|| position.to_string())
}

fn thread(state: ThreadState) -> String {
    match state {
        ThreadState::Yes => "Yes",
        ThreadState::No => "No",
        ThreadState::Connecting => "Connecting",
    }
    .to_owned()
}

/// Worst lag of the object's own replicas (of the whole topology on the root).
fn lag_text(report: &Report, object: &str, is_root: bool) -> Option<String> {
    let replicas = || report.members.iter().filter(|m| m.role == Role::Replica && (is_root || m.object == object));
    replicas().next()?;
    match replicas().map(|member| member.lag).collect::<Option<Vec<u64>>>() {
        Some(lags) => lags.into_iter().max().map(|lag| format!("{lag}s")),
        None => Some("unknown".to_owned()),
    }
}

fn operation(report: &Report, own: &[&MemberReport], is_root: bool) -> Option<String> {
    let copies: Vec<String> = own
        .iter()
        .filter_map(|member| {
            let progress = member.progress.as_ref()?;
            Some(format!("{} {}: {progress}", member.name, member.text))
        })
        .collect();
    match (copies.is_empty(), is_root) {
        (false, _) => Some(copies.join(", ")),
        (true, true) => report.operation.clone(),
        (true, false) => None,
    }
}

/// Without what may wait.
fn at_once(status: &MariaDBStatus) -> MariaDBStatus {
    let mut status = own_fields(status);
    status.lag_text = status.lag_text.filter(|text| text == "unknown");
    if let Some(replication) = &mut status.replication {
        for member in &mut replication.members {
            member.gtid = None;
            member.lag = None;
        }
    }
    status
}

/// The fields that are this loop's.
fn own_fields(status: &MariaDBStatus) -> MariaDBStatus {
    let MariaDBStatus {
        conditions,
        observed_generation: _,
        replicas: _,
        ready_replicas: _,
        replicas_text: _,
        selector: _,
        current_primary,
        current_primary_pod_index,
        lag_text,
        version,
        replication,
    } = status.clone();
    MariaDBStatus {
        conditions: conditions
            .into_iter()
            .filter(|c| matches!(c.type_.as_str(), condition::REPLICATION_HEALTHY | condition::SAFE_TO_FAILOVER))
            .collect(),
        current_primary,
        current_primary_pod_index,
        lag_text,
        version,
        replication,
        ..MariaDBStatus::default()
    }
}

/// How long `said` may wait before it is written; `None`: nothing new.
pub(super) fn worth_writing(said: &Said, before: Option<&MariaDBStatus>, since_last: Duration) -> Option<Duration> {
    let before = before.map(own_fields).unwrap_or_default();
    if said.status == before {
        return None;
    }
    let (mut new, mut old) = (at_once(&said.status), at_once(&before));
    if said.copying {
        for status in [&mut new, &mut old] {
            if let Some(replication) = &mut status.replication {
                replication.operation = None;
            }
        }
    }
    if new != old {
        return Some(Duration::ZERO);
    }
    let pause = if said.copying { PROGRESS } else { POSITIONS };
    Some(pause.saturating_sub(since_last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::member::MemberName;

    fn member(name: &str, role: Role, standing: Standing, lag: Option<u64>) -> MemberReport {
        MemberReport {
            name: MemberName(name.into()),
            object: "db".into(),
            server_id: 1,
            role,
            standing,
            word: if role == Role::Primary { "primary" } else { "replica" },
            text: "replicates".into(),
            progress: None,
            reachable: true,
            version: Some("11.8.6-MariaDB".into()),
            source: None,
            io: None,
            sql: None,
            lag,
            unfit: None,
            long_transaction: None,
            dropped: None,
            last_error: None,
            options_refused: None,
            binlog_pos: "0-1-5".parse().expect("a position"),
            slave_pos: GtidPosition::default(),
        }
    }

    fn report(lag: Option<u64>) -> Report {
        Report {
            health: Health { ok: true, reason: "AllMembersWell", message: "fine".into() },
            primary: Some(MemberName("db-0".into())),
            operation: None,
            refusals: Vec::new(),
            members: vec![
                member("db-0", Role::Primary, Standing::Well, None),
                member("db-1", Role::Replica, Standing::Well, lag),
            ],
            events: Vec::new(),
        }
    }

    fn said(report: &Report, object: &MariaDB, second: i64) -> Said {
        let source = Source {
            report,
            record: &Record::default(),
            durability: Some(Durability::Safe),
            forecast: None,
            request: None,
        };
        of_object(&source, object, true, Timestamp::from_second(second).expect("a time"))
    }

    fn object() -> MariaDB {
        let mut object: MariaDB =
            serde_json::from_value(serde_json::json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
                "metadata": {"name": "db"}, "spec": {}}))
            .expect("an object");
        object.metadata.generation = Some(1);
        object
    }

    #[test]
    fn a_steady_state_is_not_written() {
        let mut object = object();
        object.status = Some(said(&report(Some(0)), &object, 100).status);
        let later = said(&report(Some(0)), &object, 5000);
        assert_eq!(worth_writing(&later, object.status.as_ref(), Duration::from_secs(9999)), None);
    }

    #[test]
    fn positions_wait_and_health_does_not() {
        let mut object = object();
        object.status = Some(said(&report(Some(0)), &object, 100).status);
        let lag = said(&report(Some(3)), &object, 110);
        assert_eq!(worth_writing(&lag, object.status.as_ref(), Duration::from_secs(10)), Some(Duration::from_secs(50)));
        let mut broken = report(Some(0));
        broken.health = Health { ok: false, reason: "ReplicaBroken", message: "db-1".into() };
        let broken = said(&broken, &object, 110);
        assert_eq!(worth_writing(&broken, object.status.as_ref(), Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(broken.status.conditions[0].last_transition_time.0.as_second(), 110);
    }
}
