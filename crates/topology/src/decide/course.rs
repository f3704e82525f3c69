//! Plans: decisions of several steps. A plan is void as soon as the record has moved on without it; while it is not,
//! nothing else is decided.

use std::time::Duration;

use super::ackers::{NEAR, PROVE};
use super::diagnose::{Diagnosis, diagnose};
use super::pass::{Flow, Pass};
use super::view::Member;
use super::{ackers, failover, switchover};
use crate::action::Action;
use crate::plan::{Cause, Change, Failure, Outcome, Phase, Plan, PlanKind};
use crate::record::{Begun, Record};
use crate::time::Time;

/// A plan is looked after so often, even if nothing is heard.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Failovers within [`FAILOVERS_WITHIN`] that stop further ones.
pub(super) const MOST_FAILOVERS: usize = 3;
/// See [`MOST_FAILOVERS`].
pub(super) const FAILOVERS_WITHIN: Duration = Duration::from_secs(600);
/// A marker that was not held in time is followed by another one after this, at the latest.
const MARKER_PAUSE: Duration = Duration::from_secs(2);
/// A change is told as it stands when its end has not come by then.
const FINISH_LIMIT: Duration = Duration::from_secs(20);

/// Notes since when the primary is down or closed, and drops a plan that is void.
pub(super) fn keep_course(pass: &mut Pass<'_>) -> Flow {
    let diagnosis = diagnose(pass);
    match &diagnosis {
        // Silence is noticed late: it is down since it was heard last, as far as anybody can tell.
        Diagnosis::Confirmed(_) | Diagnosis::Suspected { since: None, .. } => {
            pass.course.down_since.get_or_insert(pass.now);
        }
        Diagnosis::Suspected { since: Some(since), .. } => {
            pass.course.down_since.get_or_insert(*since);
        }
        Diagnosis::Well => pass.course.down_since = None,
        Diagnosis::NoPrimary | Diagnosis::Underway => {}
    }
    if pass.open_primary().is_some() {
        pass.course.closed_since = None;
    } else if pass.record.holder.is_some() {
        pass.course.closed_since.get_or_insert(pass.now);
    }
    let now = pass.now;
    pass.course.failovers.retain(|&at| now.since(at) < FAILOVERS_WITHIN);
    if pass.course.plan.as_ref().is_some_and(|plan| plan.stamp != pass.record.stamp()) {
        pass.course.plan = None;
    }
    recall(pass);
    finish_change(pass);
    Flow::Next
}

/// Carries on with the plan under way.
pub(super) fn proceed(pass: &mut Pass<'_>) -> Flow {
    let Some(plan) = pass.course.plan.clone() else { return Flow::Next };
    pass.under_plan = true;
    pass.look_again_in(TICK);
    match &plan.kind {
        PlanKind::Failover { .. } => failover::proceed(pass, plan),
        PlanKind::Switchover { .. } => switchover::proceed(pass, plan),
        PlanKind::Expel { .. } | PlanKind::Prove | PlanKind::Near => ackers::proceed(pass, plan),
    }
}

impl Pass<'_> {
    /// Begins a plan: its own revision, swapped in before its first orders.
    pub(super) fn begin(&mut self, kind: PlanKind) {
        self.next.revision = self.record.revision + 1;
        let stamp = self.next.stamp();
        let (since, step_since) = (self.now, self.now);
        self.course.plan = Some(Plan { stamp, kind, since, step_since, phases: Vec::new() });
        self.look_again_in(TICK);
    }

    /// Puts the plan back, changed.
    pub(super) fn go_on(&mut self, plan: Plan) {
        self.course.plan = Some(plan);
    }

    /// The plan is over, and what follows is a new decision.
    pub(super) fn end_plan(&mut self) {
        self.course.plan = None;
        self.under_plan = false;
    }

    /// The plan did what it should.
    pub(super) fn succeed(&mut self, name: &'static str) {
        self.course.failures.remove(name);
        self.end_plan();
    }

    /// The plan cannot be carried out now; it is tried again after a while.
    pub(super) fn fail(&mut self, name: &'static str, why: String) {
        let count = self.course.failures.get(name).map_or(0, |failure| failure.count) + 1;
        self.course.failures.insert(name, Failure { count, last: self.now, why });
        self.end_plan();
        self.look_again_in(Duration::ZERO.max(TICK));
    }

    /// How long a plan that failed waits before the next attempt.
    pub(super) fn pause(&self, name: &str) -> Duration {
        let Some(failure) = self.course.failures.get(name) else { return Duration::ZERO };
        let pause = Duration::from_millis([200, 1000, 2000, 5000, 10_000, 30_000][(failure.count as usize - 1).min(5)]);
        // A marker costs a row, and until one is held in time no failover is possible.
        let longest = if name == NEAR || name == PROVE { MARKER_PAUSE } else { Duration::MAX };
        pause.min(longest).saturating_sub(self.now.since(failure.last))
    }

    /// An order that does not wait for what the member is doing: it cuts in, or is a step of the plan under way.
    pub(super) fn order_at_once(&mut self, member: Member<'_>, action: Action) {
        self.order(member, action);
    }

    /// Replication accounts of candidates that are not ackers in `record`, but of `but`, which is the primary.
    pub(super) fn accounts_to_lock(&self, record: &Record, but: &crate::MemberName) -> Vec<String> {
        let acker = |server_id: u32| record.ackers.values().any(|acker| acker.server_id == server_id);
        self.intent
            .candidates()
            .filter(|member| member.name != *but && !acker(member.server_id))
            .map(|member| self.intent.account(member))
            .collect()
    }

    /// Replication accounts of the ackers.
    pub(super) fn accounts_of_ackers(&self, record: &Record) -> Vec<String> {
        record.ackers.values().map(|acker| self.intent.account_of(acker.server_id)).collect()
    }
}

/// Notes a change whose swap is made; it is told when it is over.
pub(super) fn note_change(pass: &mut Pass<'_>, plan: &Plan, cause: Cause, to: Member<'_>, lost: Vec<String>) {
    let switchover = matches!(plan.kind, PlanKind::Switchover { .. });
    let mut phases = plan.phases.clone();
    phases.push((Phase::Chosen, pass.now));
    let mut members = super::judge::all(pass);
    for judged in &mut members {
        if judged.name == *to.name() {
            judged.verdict = crate::plan::Verdict::Chosen;
        }
    }
    let began = pass.course.down_since.filter(|_| !switchover).unwrap_or(plan.since);
    pass.course.changed = Some(pass.now);
    if !switchover {
        pass.course.failovers.push(pass.now);
    }
    let begun = Begun {
        epoch: pass.next.epoch,
        switchover,
        cause,
        at: began,
        from: pass.record.holder.as_ref().map(|holder| holder.member.clone()),
        to: to.name().clone(),
        lost,
    };
    pass.next.note_begun(begun.clone());
    // The one before is over, whatever it still waited for.
    if let Some(change) = pass.course.finishing.take() {
        tell(pass, change);
    }
    pass.course.finishing = Some(Change { members, phases, ..change(begun, pass.now) });
}

/// A change as the record tells of it.
fn change(begun: Begun, now: Time) -> Change {
    let Begun { epoch, switchover, cause, at, from, to, lost } = begun;
    Change {
        switchover,
        outcome: Outcome::Done,
        cause,
        epoch,
        from,
        to: Some(to),
        members: Vec::new(),
        phases: Vec::new(),
        began: at,
        ended: now,
        closed_for: None,
        lost,
    }
}

/// Tells what the record knows and nobody has told: whoever decided it ended first, or never heard that its swap was made.
fn recall(pass: &mut Pass<'_>) {
    let finishing = pass.course.finishing.as_ref().map_or(0, |change| change.epoch);
    let known = pass.course.told.max(finishing);
    for begun in pass.record.begun.iter().filter(|begun| begun.epoch > known) {
        // Clocks differ.
        let at = begun.at.min(pass.now);
        pass.course.changed = pass.course.changed.max(Some(at));
        if !begun.switchover {
            pass.course.failovers.push(at);
        }
        let change = change(Begun { at, ..begun.clone() }, pass.now);
        if let Some(before) = pass.course.finishing.take() {
            tell(pass, before);
        }
        // When a primary was opened that is found open is not known any more.
        if begun.epoch < pass.record.epoch || pass.open_primary().is_some() {
            tell(pass, change);
        } else {
            pass.course.finishing = Some(change);
        }
    }
}

/// A change of primary is over.
fn tell(pass: &mut Pass<'_>, mut change: Change) {
    change.ended = pass.now;
    pass.course.told = pass.course.told.max(change.epoch);
    pass.changes.push(change);
}

/// Tells a change when its new primary is open, and somebody acknowledges or nobody is awaited.
fn finish_change(pass: &mut Pass<'_>) {
    let Some(mut change) = pass.course.finishing.take() else { return };
    let reached = |change: &Change, phase| change.phases.iter().any(|(known, _)| *known == phase);
    let swapped = pass.course.changed.unwrap_or(change.began);
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
        to,
        members: super::judge::all(pass),
        phases: plan.phases.clone(),
        began: plan.since,
        ended: pass.now,
        closed_for: None,
        lost: Vec::new(),
    });
}
