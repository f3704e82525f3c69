//! Members that shall be restarted or taken away are let go when nothing depends on them any more; and what would happen
//! if the primary died now.

use std::collections::BTreeSet;
use std::time::Duration;

use super::failover::{obstacle, too_many};
use super::judge::{self, applied};
use super::pass::{Flow, Pass};
use super::view::Member;
use crate::action::Action;
use crate::decision::Refusal;
use crate::intent::Durability;
use crate::plan::{Forecast, Verdict};

impl Pass<'_> {
    /// The primary goes, and nobody can take its place: everything stops in order.
    pub(super) fn closes(&self, primary: Member<'_>) -> bool {
        let goes = |member: Member<'_>| {
            self.intent.vacate.contains(member.name()) || member.state().is_some_and(|state| state.leaving)
        };
        goes(primary) && !self.others().into_iter().any(|member| member.intent.candidate && !goes(member))
    }
}

pub(super) fn release(pass: &mut Pass<'_>) -> Flow {
    forecast(pass);
    for name in pass.intent.vacate.clone() {
        let Some(member) = pass.member(&name) else {
            pass.released.insert(name);
            continue;
        };
        if pass.is_kept(member) {
            let ackers = pass.record.ackers.values().map(|acker| acker.member.clone()).collect();
            pass.refuse(Refusal::LastAcker { members: ackers });
        } else if pass.is_holder(member) || pass.record.holder.as_ref().is_some_and(|holder| holder.member == name) {
            primary(pass, member);
        } else if !acker(pass, member) {
            pass.released.insert(name);
        } else if pass.primary().is_none_or(|primary| primary.server().is_none() || pass.closes(primary)) {
            // Nothing is written any more, and the record is left as it is.
            if pass.open_primary().is_none() && reached(pass, member) {
                pass.released.insert(name);
            }
        } else if pass.intent.durability == Durability::Strict && pass.record.ackers.len() == 1 {
            // Writes wait until it is back.
            pass.released.insert(name);
        }
    }
    Flow::Next
}

fn acker(pass: &Pass<'_>, member: Member<'_>) -> bool {
    let named = pass.record.ackers.values().any(|acker| acker.member == *member.name());
    pass.intent.durability.promises() && named
}

/// It has all that the primary has, or nobody can say.
fn reached(pass: &Pass<'_>, member: Member<'_>) -> bool {
    match pass.primary().and_then(Member::server) {
        Some(server) => applied(member).covers(&server.gtid_binlog_pos),
        None => true,
    }
}

/// The primary goes only when it is not the primary any more; with nobody to hand over to, it is closed, and the others
/// catch up first.
fn primary(pass: &mut Pass<'_>, primary: Member<'_>) {
    if primary.server().is_none() {
        if pass.closes(primary) || primary.state().is_none() {
            pass.released.insert(primary.name().clone());
        }
        return;
    }
    if !pass.closes(primary) {
        return; // A switchover comes first.
    }
    let open = primary.server().is_some_and(|server| !server.read_only);
    if open {
        if pass.can_order(primary) {
            pass.order_patiently(primary, Action::SetReadOnly { grace_ms: 0, kill: true });
        }
        return;
    }
    let replicas: Vec<Member<'_>> = pass.others().into_iter().filter(|member| member.replicates()).collect();
    if replicas.iter().all(|member| reached(pass, *member)) {
        pass.released.insert(primary.name().clone());
    } else {
        pass.look_again_in(Duration::from_millis(200));
    }
}

fn forecast(pass: &mut Pass<'_>) {
    if !pass.intent.replication || pass.record.holder.is_none() {
        return;
    }
    pass.forecast = Some(if let Some(refusal) = obstacle(pass).or_else(|| too_many(pass)) {
        Forecast::Refused { reason: refusal.reason(), message: refusal.to_string() }
    } else {
        let fit: Vec<Member<'_>> = pass
            .others()
            .into_iter()
            .filter(|member| judge::verdict(pass, *member) == Verdict::Fit)
            .filter(|member| !pass.intent.durability.promises() || acker(pass, *member))
            .collect();
        let Some(best) = judge::best(pass, fit.iter().copied()) else { return };
        let others: BTreeSet<_> =
            fit.iter().map(|member| member.name().clone()).filter(|name| name != best.name()).collect();
        Forecast::Failover { to: best.name().clone(), others }
    });
}
