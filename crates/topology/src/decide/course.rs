//! Plans: decisions of several steps. A plan is void as soon as the record has moved on without it; while it is not,
//! nothing else is decided.

use std::time::Duration;

use super::ackers::{NEAR, PROVE};
use super::diagnose::{Diagnosis, diagnose};
use super::pass::{Flow, Pass};
use super::view::Member;
use super::{ackers, failover, switchover, telling};
use crate::action::Action;
use crate::plan::{Failure, Plan, PlanKind};
use crate::record::Record;

/// A plan is looked after so often, even if nothing is heard.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Failovers within [`FAILOVERS_WITHIN`] that stop further ones.
pub(super) const MOST_FAILOVERS: usize = 3;
/// See [`MOST_FAILOVERS`].
pub(super) const FAILOVERS_WITHIN: Duration = Duration::from_secs(600);
/// A marker that was not held in time is followed by another one after this, at the latest.
const MARKER_PAUSE: Duration = Duration::from_secs(2);

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
    telling::count(pass);
    let now = pass.now;
    pass.course.failovers.retain(|&at| now.since(at) < FAILOVERS_WITHIN);
    if pass.course.plan.as_ref().is_some_and(|plan| plan.stamp != pass.record.stamp()) {
        pass.course.plan = None;
    }
    telling::recall(pass);
    telling::finish_change(pass);
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
