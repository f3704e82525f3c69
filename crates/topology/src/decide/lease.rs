//! `Available`: the holder's time is limited, and its agent must know whom to ask when it cannot renew the record.

use std::collections::BTreeSet;

use super::pass::{Flow, Pass};

/// Names in the record who may take over from a holder that nobody hears.
pub(super) fn name_candidates(pass: &mut Pass<'_>) -> Flow {
    let Some(holder) = &pass.record.holder else { return Flow::Next };
    let limited = pass.intent.replication && !pass.intent.durability.promises() && pass.intent.failover.automatic;
    let candidates: BTreeSet<_> = if limited {
        pass.intent.candidates().map(|member| member.name.clone()).filter(|name| *name != holder.member).collect()
    } else {
        BTreeSet::new()
    };
    if !limited {
        pass.next.renewed_with = None;
    }
    pass.next.candidates = candidates;
    Flow::Next
}
