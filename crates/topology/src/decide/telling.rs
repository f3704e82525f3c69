//! Changes of primary are told when they are over, whoever decided them: the record knows how its last epochs began.

use std::time::Duration;

use super::pass::Pass;
use super::view::Member;
use crate::plan::{Cause, Change, Outcome, Phase, Plan, PlanKind, Verdict};
use crate::record::{Begun, Former, Holder};

/// A change is told as it stands when its end has not come by then.
const FINISH_LIMIT: Duration = Duration::from_secs(20);

/// Notes a change whose swap is made; it is told when it is over.
pub(super) fn note_change(pass: &mut Pass<'_>, plan: &Plan, cause: Cause, to: Member<'_>, lost: Vec<String>) {
    let switchover = matches!(plan.kind, PlanKind::Switchover { .. });
    let mut phases = plan.phases.clone();
    phases.push((Phase::Chosen, pass.now));
    let mut members = super::judge::all(pass);
    for judged in &mut members {
        if judged.name == *to.name() {
            judged.verdict = Verdict::Chosen;
        }
    }
    let former =
        |Holder { data_id: _, member, pod_uid }: &Holder| Former { member: member.clone(), pod_uid: pod_uid.clone() };
    let begun = Begun {
        epoch: pass.next.epoch,
        switchover,
        cause,
        began: pass.course.down_since.filter(|_| !switchover).unwrap_or(plan.since),
        swapped: pass.now,
        from: pass.record.holder.as_ref().map(former),
        to: to.name().clone(),
        lost,
    };
    // Those before it are over, whatever they still waited for.
    tell_all(pass);
    count_one(pass, &begun);
    pass.next.note_begun(begun.clone());
    pass.course.finishing = Some(Change { members, phases, ..change(begun) });
}

/// A change as the record tells of it: nobody knows more of it any more.
fn change(begun: Begun) -> Change {
    let Begun { epoch, switchover, cause, began, swapped, from, to, lost } = begun;
    Change {
        switchover,
        outcome: Outcome::Done,
        cause,
        epoch,
        from_pod: from.as_ref().map(|from| from.pod_uid.clone()),
        from: from.map(|from| from.member),
        to: Some(to),
        members: Vec::new(),
        phases: vec![(Phase::Chosen, swapped)],
        began,
        ended: swapped,
        closed_for: None,
        lost,
    }
}

/// Counts the changes that the record knows of, whoever decided them.
pub(super) fn count(pass: &mut Pass<'_>) {
    let record = pass.record;
    for begun in &record.begun {
        count_one(pass, begun);
    }
}

fn count_one(pass: &mut Pass<'_>, begun: &Begun) {
    if begun.epoch <= pass.course.counted {
        return;
    }
    // Clocks differ.
    let at = begun.swapped.min(pass.now);
    pass.course.counted = begun.epoch;
    pass.course.changed = pass.course.changed.max(Some(at));
    if !begun.switchover {
        pass.course.failovers.push(at);
    }
}

/// What the record knows and nobody has told, or is about to: whoever decided it ended first, or never heard that its swap was made.
fn untold(pass: &Pass<'_>) -> Vec<Begun> {
    let finishing = pass.course.finishing.as_ref().map_or(0, |change| change.epoch);
    let known = pass.course.told.max(finishing);
    pass.record.begun.iter().filter(|begun| begun.epoch > known).cloned().collect()
}

/// Takes up what nobody has told, once it is known whether the new primary is open.
pub(super) fn recall(pass: &mut Pass<'_>) {
    let mut untold = untold(pass);
    if untold.is_empty() {
        pass.course.untold = None;
        return;
    }
    let since = *pass.course.untold.get_or_insert(pass.now);
    let unheard = pass.record.holder.is_some() && pass.primary().is_none();
    if unheard && pass.now.since(since) < FINISH_LIMIT {
        pass.look_again_in(FINISH_LIMIT.saturating_sub(pass.now.since(since)));
        return;
    }
    // One that is open already: since when is not known. One that is about to open is followed to its end.
    let last = untold.pop_if(|last| last.epoch == pass.record.epoch && pass.open_primary().is_none());
    tell_finishing(pass);
    for begun in untold {
        tell(pass, change(begun));
    }
    pass.course.finishing = last.map(change);
}

/// Tells everything that waits to be told.
fn tell_all(pass: &mut Pass<'_>) {
    tell_finishing(pass);
    for begun in untold(pass) {
        tell(pass, change(begun));
    }
}

fn tell_finishing(pass: &mut Pass<'_>) {
    if let Some(change) = pass.course.finishing.take() {
        tell(pass, change);
    }
}

/// A change of primary is over.
fn tell(pass: &mut Pass<'_>, mut change: Change) {
    change.ended = pass.now;
    pass.course.told = pass.course.told.max(change.epoch);
    pass.changes.push(change);
}

/// Tells a change when its new primary is open, and somebody acknowledges or nobody is awaited.
pub(super) fn finish_change(pass: &mut Pass<'_>) {
    let Some(mut change) = pass.course.finishing.take() else { return };
    let reached = |change: &Change, phase| change.phases.iter().any(|(known, _)| *known == phase);
    let swapped = change.swapped().unwrap_or(change.began);
    let over = change.epoch != pass.record.epoch || pass.now.since(swapped) > FINISH_LIMIT;
    if !reached(&change, Phase::Promoted) && pass.open_primary().is_some() && change.epoch == pass.record.epoch {
        change.phases.push((Phase::Promoted, pass.now));
        change.closed_for = Some(pass.now.since(change.began));
    }
    let waits = pass.open_primary().and_then(Member::server).is_some_and(|server| server.semi_sync.waits);
    let admitted = !pass.record.solo || !pass.intent.durability.promises();
    if reached(&change, Phase::Promoted) && !reached(&change, Phase::Admitted) && (admitted || !waits) {
        if admitted && pass.intent.durability.promises() {
            change.phases.push((Phase::Admitted, pass.now));
            change.closed_for = Some(pass.now.since(change.began));
        }
        tell(pass, change);
    } else if over {
        tell(pass, change);
    } else {
        pass.course.finishing = Some(change);
    }
}

/// Tells of an attempt that was undone.
pub(super) fn note_rollback(pass: &mut Pass<'_>, plan: &Plan, why: String) {
    let (switchover, cause, to) = match &plan.kind {
        PlanKind::Failover { cause, .. } => (false, cause.clone(), None),
        PlanKind::Switchover { cause, target, .. } => (true, cause.clone(), Some(target.clone())),
        PlanKind::Expel { .. } | PlanKind::Prove | PlanKind::Near => return,
    };
    pass.changes.push(Change {
        switchover,
        outcome: Outcome::RolledBack { why },
        cause,
        epoch: pass.record.epoch + 1,
        from: pass.record.holder.as_ref().map(|holder| holder.member.clone()),
        from_pod: None,
        to,
        members: super::judge::all(pass),
        phases: plan.phases.clone(),
        began: plan.since,
        ended: pass.now,
        closed_for: None,
        lost: Vec::new(),
    });
}
