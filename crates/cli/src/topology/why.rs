//! The last changes of primary and what is refused, with the evidence, newest first.

use std::fmt::Write as _;

use api::primary_change::{ChangeOutcome, PrimaryChange};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;

use super::{Topology, table, time};

/// Warnings that are shown.
const WARNINGS: usize = 8;

pub(super) fn text(
    topology: &Topology,
    changes: &[PrimaryChange],
    warnings: &[Event],
    last: usize,
    now: Timestamp,
) -> String {
    let mut text = String::new();
    let replication = topology.root.status.as_ref().and_then(|status| status.replication.as_ref());
    for refusal in replication.iter().flat_map(|replication| &replication.refusals) {
        let since = refusal.since.as_ref().map(|since| time::age(since.0, now)).unwrap_or_default();
        let _ = writeln!(text, "Refused, for {since}: {}\n  {}\n", refusal.reason, refusal.message);
    }
    if changes.is_empty() {
        let _ = writeln!(text, "The primary of {} has not changed since this is written down.", topology.name());
    }
    for change in changes.iter().take(last) {
        text.push_str(&of_change(change, now));
        text.push('\n');
    }
    if changes.len() > last {
        let _ = writeln!(text, "{} older ones: --last {}", changes.len() - last, changes.len());
    }
    if !warnings.is_empty() {
        let _ = writeln!(text, "Warnings of late:");
        let rows: Vec<Vec<String>> = warnings
            .iter()
            .take(WARNINGS)
            .map(|event| {
                let age = format!("  {} ago", time::age(time::of_event(event), now));
                vec![age, event.reason.clone().unwrap_or_default(), event.note.clone().unwrap_or_default()]
            })
            .collect();
        text.push_str(&table(&rows));
    }
    text
}

/// One change, whole.
pub(super) fn of_change(change: &PrimaryChange, now: Timestamp) -> String {
    let nobody = || "nobody".to_owned();
    let (from, to) = (change.from.clone().unwrap_or_else(nobody), change.to.clone().unwrap_or_else(nobody));
    let outcome = match change.outcome {
        ChangeOutcome::Done => String::new(),
        ChangeOutcome::RolledBack => ", rolled back".to_owned(),
        ChangeOutcome::Refused => ", refused".to_owned(),
    };
    let mut text = format!(
        "{} {from} -> {to}{outcome}, epoch {}, {} ago ({:.0})\n",
        change.type_.as_str(),
        change.epoch,
        time::age(change.began.0, now),
        change.began.0
    );
    let mut facts: Vec<Vec<String>> = Vec::new();
    let mut fact = |key: &str, value: String| facts.push(vec![format!("  {key}"), value]);
    fact("Cause", format!("{}: {}", change.cause.reason, change.cause.message));
    if let Some(request) = &change.cause.request {
        fact("Request", request.clone());
    }
    if let Some(why) = &change.cause.not_done {
        fact("Not done", why.clone());
    }
    if let Some(down) = &change.writes_down {
        fact("Writes", format!("down for {down}"));
    }
    if !change.phases.is_empty() {
        let phases: Vec<String> = change.phases.iter().map(|phase| format!("{} {}", phase.name, phase.took)).collect();
        fact("Phases", phases.join(", "));
    }
    let lost = match (change.lost.is_empty(), change.outcome) {
        (true, ChangeOutcome::Done) => Some("nothing".to_owned()),
        (true, _) => None,
        (false, _) => Some(change.lost.join("; ")),
    };
    if let Some(lost) = lost {
        fact("Lost", lost);
    }
    text.push_str(&table(&facts));
    let rows: Vec<Vec<String>> = change
        .members
        .iter()
        .map(|member| {
            let position = member.position.clone().unwrap_or_else(|| "-".to_owned());
            let fenced = member.fenced.as_ref().map(|how| format!("; fenced ({how})")).unwrap_or_default();
            vec![format!("  {}", member.name), position, format!("{}{fenced}", member.reason)]
        })
        .collect();
    text.push_str(&table(&rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_with_its_evidence() {
        let change: PrimaryChange = serde_json::from_value(json!({
            "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "PrimaryChange", "metadata": {"name": "db-2"},
            "type": "Failover", "outcome": "Done", "from": "db-0", "to": "db-1", "epoch": 2, "writesDown": "410ms",
            "cause": {"reason": "ServerExited", "message": "killed"}, "message": "m",
            "phases": [{"name": "fenced", "took": "12ms", "milliseconds": 12}],
            "members": [{"name": "db-1", "verdict": "Chosen", "reason": "chosen", "position": "0-1-5", "fenced": "Stopped"}],
            "began": "2026-11-23T10:00:00.000000Z", "ended": "2026-11-23T10:00:01.000000Z"
        }))
        .expect("a change");
        let said = of_change(&change, "2026-11-23T10:01:00Z".parse().expect("a moment"));
        for part in [
            "Failover db-0 -> db-1, epoch 2, 60s ago",
            "ServerExited: killed",
            "down for 410ms",
            "fenced 12ms",
            "chosen; fenced (Stopped)",
            "nothing",
        ] {
            assert!(said.contains(part), "{part} is missing in\n{said}");
        }
    }
}
