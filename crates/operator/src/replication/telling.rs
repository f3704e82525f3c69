//! Events that come from comparing two reports: new refusals, and health lost and won.

use topology::decision::{Event, Refusal, Report, Role, Standing};
use topology::member::Dropped;

/// Something is wrong, rather than new or on its way.
fn trouble(report: &Report) -> bool {
    let unwell = |standing: Standing| matches!(standing, Standing::Broken | Standing::Silent | Standing::Lagging);
    report
        .members
        .iter()
        .any(|member| unwell(member.standing) || member.role == Role::Primary && member.standing != Standing::Well)
}

/// What to tell of `now` that was not so before; of its health only when no change of primary is under way.
pub(super) fn changes(before: Option<&Report>, now: &Report, changing: bool) -> Vec<Event> {
    let known = |refusal: &Refusal| {
        before.is_some_and(|before| {
            before.refusals.iter().any(|old| old.reason() == refusal.reason() && old.member() == refusal.member())
        })
    };
    let mut events: Vec<Event> = now
        .refusals
        .iter()
        .filter(|refusal| !refusal.passes() && !known(refusal))
        .map(|refusal| Event {
            warning: true,
            reason: refusal.reason(),
            message: refusal.to_string(),
            member: refusal.member().cloned(),
        })
        .collect();
    for member in &now.members {
        let known = before.and_then(|before| before.members.iter().find(|old| old.name == member.name));
        if let Some(Dropped { transactions, folder }) = &member.dropped
            // One that was silent told it before.
            && known.is_some_and(|known| known.reachable && known.dropped != member.dropped)
        {
            events.push(Event {
                warning: true,
                reason: "UnacknowledgedDropped",
                message: format!(
                    "{} had been the primary: {transactions} transactions that nobody had acknowledged were dropped by its crash \
                     recovery; they are written down in {folder}",
                    member.name
                ),
                member: Some(member.name.clone()),
            });
        }
    }
    if let Some(before) = before.filter(|_| !changing) {
        let health = |warning, reason| Event { warning, reason, message: now.health.message.clone(), member: None };
        match (before.health.ok, now.health.ok) {
            (false, true) => events.push(health(false, "ReplicationHealthy")),
            (true, false) if now.refusals.is_empty() && trouble(now) => events.push(health(true, now.health.reason)),
            _ => {}
        }
    }
    events
}
