//! The topology as a tree: who replicates from whom, how each does, and what would happen if the primary died now.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use api::primary_change::PrimaryChange;
use api::resolved::WantedPrimary;
use api::status::{MariaDBStatus, MemberStatus, condition};
use api::{MariaDB, names};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{Topology, table, time};

pub(super) fn text(topology: &Topology, changes: &[PrimaryChange], now: Timestamp) -> String {
    let named = named(&topology.root);
    of(&topology.name(), topology.root.status.as_ref(), named.as_deref(), topology.objects.len(), changes, now)
}

/// The primary that the object names, where it names one.
fn named(root: &MariaDB) -> Option<String> {
    let primary = root.spec.replication.as_ref()?.primary.as_ref()?;
    if primary.pod_index.is_none() && primary.member.is_none() {
        return None;
    }
    match api::resolve(root).ok()?.replication?.wanted_primary {
        WantedPrimary::PodIndex(ordinal) => Some(names::pod(&root.name_any(), ordinal)),
        WantedPrimary::Member(member) => Some(member),
    }
}

fn of(
    name: &str,
    status: Option<&MariaDBStatus>,
    named: Option<&str>,
    objects: usize,
    changes: &[PrimaryChange],
    now: Timestamp,
) -> String {
    let Some((status, replication)) = status.and_then(|status| Some((status, status.replication.as_ref()?))) else {
        return format!("{name}: the operator has said nothing of it yet (is it running?)\n");
    };
    let mut text = String::new();
    let mut about = vec![name.to_owned()];
    about.extend(replication.durability.as_ref().map(|durability| format!("durability {durability}")));
    about.extend(replication.epoch.map(|epoch| format!("epoch {epoch}")));
    about.extend(status.version.clone());
    if objects > 1 {
        about.push(format!("{objects} objects"));
    }
    let _ = writeln!(text, "{}", about.join(", "));
    let ackers: BTreeSet<&str> = replication.ackers.iter().flatten().map(String::as_str).collect();
    let mut rows =
        vec![["MEMBER", "ROLE", "LAG", "ACKER", "IO/SQL", "POSITION", "SINCE", ""].map(str::to_owned).to_vec()];
    let primary = status.current_primary.as_deref();
    for (branch, member) in tree(&replication.members, primary) {
        rows.push(row(&branch, member, primary == Some(member.name.as_str()), &ackers, now));
    }
    text.push_str(&table(&rows));
    text.push('\n');

    let mut facts: Vec<Vec<String>> = Vec::new();
    let mut fact = |key: &str, value: String| facts.push(vec![key.to_owned(), value]);
    for kind in [condition::REPLICATION_HEALTHY, condition::READY] {
        if let Some(known) = status.conditions.iter().find(|known| known.type_ == kind) {
            let since = time::age(known.last_transition_time.0, now);
            fact(&format!("{kind}:"), format!("{} ({}, {since}): {}", known.status, known.reason, known.message));
        }
    }
    if let Some(operation) = &replication.operation {
        fact("Under way:", operation.clone());
    }
    // What is under way or refused may be just that.
    let settled = replication.operation.is_none() && replication.refusals.is_empty();
    if let (Some(named), Some(primary)) = (named.filter(|named| settled && primary != Some(*named)), primary) {
        let back = format!("kubectl mariadb switchover {name} --to {named}");
        fact(
            "The object names:",
            format!("{named}; only a change of that asks for a switchover. In place of {primary}: {back}"),
        );
    }
    if replication.solo == Some(true) {
        fact("Solo:", "it is not proven that another member holds everything that was acknowledged".to_owned());
    }
    match &replication.if_primary_fails {
        Some(forecast) => fact("If the primary died now:", forecast.clone()),
        None => fact("If the primary died now:", "the operator cannot say".to_owned()),
    }
    for refusal in &replication.refusals {
        fact("Refused:", format!("{}: {}", refusal.reason, refusal.message));
    }
    if let Some(request) = &replication.request {
        let message = request.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        fact("Last request:", format!("{} {}{message}", request.id, request.phase));
    }
    match changes.first() {
        Some(change) => {
            fact("Last change:", format!("{} ago: {}", time::age(change.ended.0, now), change.message));
        }
        None => fact("Last change:", "none that is known".to_owned()),
    }
    text.push_str(&table(&facts));
    text
}

fn row(branch: &str, member: &MemberStatus, primary: bool, ackers: &BTreeSet<&str>, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let threads = match (&member.io, &member.sql) {
        (Some(io), Some(sql)) => format!("{io}/{sql}"),
        _ => dash(),
    };
    let lag = match member.lag {
        Some(lag) => format!("{lag}s"),
        None if primary => dash(),
        None => "unknown".to_owned(),
    };
    let trouble = match (&member.last_error, member.reachable) {
        (Some(error), _) => error.clone(),
        (None, Some(false)) => "its agent does not answer".to_owned(),
        (None, _) => {
            member.long_transaction.as_ref().map(|client| format!("long transaction: {client}")).unwrap_or_default()
        }
    };
    vec![
        format!("{branch}{}", member.name),
        member.role.clone().unwrap_or_else(dash),
        lag,
        if ackers.contains(member.name.as_str()) { "yes".to_owned() } else { dash() },
        threads,
        member.gtid.clone().unwrap_or_else(dash),
        member.since.as_ref().map_or_else(dash, |since| time::age(since.0, now)),
        trouble,
    ]
}

/// Members below the one that they replicate from, the primary first; with the lines in front.
fn tree<'a>(members: &'a [MemberStatus], primary: Option<&str>) -> Vec<(String, &'a MemberStatus)> {
    fn parent<'a>(members: &'a [MemberStatus], primary: Option<&str>, member: &'a MemberStatus) -> Option<&'a str> {
        if primary == Some(member.name.as_str()) {
            return None;
        }
        let source = member.source.as_deref()?;
        members.iter().map(|other| other.name.as_str()).find(|name| *name == source && *name != member.name)
    }
    fn below<'a>(
        members: &'a [MemberStatus],
        primary: Option<&str>,
        of: &MemberStatus,
        indent: &str,
        seen: &mut BTreeSet<&'a str>,
        lines: &mut Vec<(String, &'a MemberStatus)>,
    ) {
        let children: Vec<&MemberStatus> = members
            .iter()
            .filter(|member| parent(members, primary, member) == Some(of.name.as_str()))
            .filter(|member| seen.insert(member.name.as_str()))
            .collect();
        for (i, child) in children.iter().enumerate() {
            let last = i + 1 == children.len();
            lines.push((format!("{indent}{}", if last { "└─ " } else { "├─ " }), child));
            below(members, primary, child, &format!("{indent}{}", if last { "   " } else { "│  " }), seen, lines);
        }
    }
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    let mut tops: Vec<&MemberStatus> =
        members.iter().filter(|member| parent(members, primary, member).is_none()).collect();
    tops.sort_by_key(|member| primary != Some(member.name.as_str()));
    for top in tops {
        if seen.insert(top.name.as_str()) {
            lines.push((String::new(), top));
            below(members, primary, top, "", &mut seen, &mut lines);
        }
    }
    // Members that replicate from each other, in a circle.
    lines.extend(members.iter().filter(|member| !seen.contains(member.name.as_str())).map(|m| (String::new(), m)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cascade_is_a_tree() {
        let status: MariaDBStatus = serde_json::from_value(json!({
            "currentPrimary": "db-1", "version": "11.8.6-MariaDB",
            "conditions": [{"type": "ReplicationHealthy", "status": "True", "reason": "AllMembersWell", "message": "fine",
                "lastTransitionTime": "2026-11-23T10:00:00Z"}],
            "replication": {"epoch": 2, "durability": "Safe", "ackers": ["db-0"], "solo": false,
                "ifPrimaryFails": "db-0 would take over",
                "members": [
                    {"name": "db-0", "role": "replica", "source": "db-1", "lag": 0, "io": "Yes", "sql": "Yes", "gtid": "0-1-7"},
                    {"name": "db-1", "role": "primary", "gtid": "0-1-7"},
                    {"name": "far-0", "role": "replica", "source": "db-0", "io": "Yes", "sql": "No", "lastError": "1062: x"}]}}))
        .expect("a status");
        let now: Timestamp = "2026-11-23T10:05:00Z".parse().expect("a moment");
        let said = of("db", Some(&status), Some("db-1"), 2, &[], now);
        assert!(!said.contains("The object names"), "{said}");
        let elsewhere = of("db", Some(&status), Some("db-0"), 2, &[], now);
        assert!(elsewhere.contains("kubectl mariadb switchover db --to db-0"), "{elsewhere}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "db, durability Safe, epoch 2, 11.8.6-MariaDB, 2 objects");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["db-1", "primary", "-", "-", "-", "0-1-7", "-"]);
        assert!(lines[3].starts_with("└─ db-0") && lines[3].contains("yes"), "{said}");
        assert!(lines[4].starts_with("   └─ far-0") && lines[4].ends_with("1062: x"), "{said}");
        assert!(said.contains("ReplicationHealthy:") && said.contains("True (AllMembersWell, 5m): fine"), "{said}");
        assert!(said.contains("db-0 would take over"));
        assert!(of("db", None, None, 1, &[], now).contains("said nothing"));
    }

    #[test]
    fn a_circle_ends() {
        let member = |name: &str, source: &str| MemberStatus {
            name: name.into(),
            source: Some(source.into()),
            ..MemberStatus::default()
        };
        let members = [member("a", "b"), member("b", "a")];
        assert_eq!(tree(&members, None).len(), 2);
    }
}
