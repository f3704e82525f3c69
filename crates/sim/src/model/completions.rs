//! The swap that completes a plan: it succeeds only from the plan's own revision.

use super::mutants::Mutant;
use super::state::{Operator, Order, Plan, Record, State, Step, covers, has, members, only, set};
use super::{Action, Fact, Model};

/// What the record says from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// A member may acknowledge; it was let in before.
    Admitted,
    /// The acker has left, and another one holds the marker.
    Expelled,
    /// The acker has left, nobody else is proven to hold everything, and commits go on without.
    Alone,
    /// An acker holds everything.
    Proven,
    /// A new epoch.
    Promoted {
        /// Its primary.
        target: u8,
        /// Members that have applied all they hold, and hold nothing that it lacks, may acknowledge from its first write on.
        beside: bool,
    },
}

impl Model {
    pub(super) fn completions(&self, state: &State, operator: u8, actions: &mut Vec<Action>) {
        let own = state.operators[usize::from(operator)];
        if !self.current(state, own) {
            return;
        }
        let ackers = state.record.ackers;
        let held = |by, position| State::of(by).any(|n| covers(state.member(n).held(), position));
        let mut complete = |completion| actions.push(Action::Complete { operator, completion });
        match own.plan {
            Plan::Admit(who) => {
                if !has(state.member(own.primary).locked, who) {
                    complete(Completion::Admitted);
                }
            }
            Plan::Expel { member, step } => {
                let remain = ackers & !only(member);
                let proven = match step {
                    Step::Begun => return,
                    Step::Locked(_) => self.breaks(Mutant::ExpelWithoutMarker) && remain != 0,
                    Step::At(marker) => held(remain, marker),
                };
                if proven {
                    complete(Completion::Expelled);
                }
                complete(Completion::Alone);
            }
            Plan::Prove { step } => {
                let proven = match step {
                    Step::At(marker) => held(ackers, marker),
                    _ => self.breaks(Mutant::ProveWithoutMarker),
                };
                if proven {
                    complete(Completion::Proven);
                }
            }
            Plan::FailOver => {
                let fenced = ackers & !own.ackers;
                if own.ackers != 0 && !(self.breaks(Mutant::FenceOnlyOne) && fenced != 0) || state.left.changes == 0 {
                    return;
                }
                let everybody = if self.breaks(Mutant::FenceOnlyOne) { fenced } else { ackers };
                let everything = State::of(everybody).fold(0, |all, n| all | state.member(n).held());
                for target in State::of(everybody) {
                    let member = state.member(target);
                    let has_it = if self.breaks(Mutant::NoDrain) { member.held() } else { member.log };
                    if covers(has_it, everything) {
                        for beside in [true, false] {
                            complete(Completion::Promoted { target, beside });
                        }
                    }
                }
            }
            Plan::SwitchOver { to, step: Step::Locked(position) } => {
                let same = state.member(own.primary).log == position && state.clean(to);
                if same && state.left.changes > 0 {
                    for beside in [true, false] {
                        complete(Completion::Promoted { target: to, beside });
                    }
                }
            }
            Plan::Nothing | Plan::Order(_) | Plan::SwitchOver { .. } => {}
        }
    }

    pub(super) fn complete(&self, state: &mut State, operator: u8, completion: Completion) {
        let beside = match completion {
            Completion::Promoted { target, beside: true } => {
                let all = state.member(target).log;
                let old = state.record.holder;
                set(members().filter(|n| {
                    let there = state.member(*n);
                    *n != target && *n != old && covers(there.log, there.held()) && covers(all, there.held())
                }))
            }
            _ => 0,
        };
        let own = &mut state.operators[usize::from(operator)];
        let record = &mut state.record;
        record.revision += 1;
        own.revision = record.revision;
        let plan = std::mem::replace(&mut own.plan, Plan::Nothing);
        match (completion, plan) {
            (Completion::Admitted, Plan::Admit(member)) => record.ackers |= only(member),
            (Completion::Expelled, Plan::Expel { member, .. }) => {
                self.note(Fact::Expelled);
                record.ackers &= !only(member);
            }
            (Completion::Alone, Plan::Expel { member, .. }) => {
                record.ackers &= !only(member);
                record.solo |= !self.breaks(Mutant::AloneUnrecorded);
                own.plan = Plan::Order(Order::Wait(false));
            }
            (Completion::Proven, _) => {
                self.note(Fact::Proven);
                record.solo = false;
            }
            (Completion::Promoted { target, .. }, plan) => {
                self.note(if plan == Plan::FailOver { Fact::FailedOver } else { Fact::SwitchedOver });
                let revision = record.revision;
                *record = Record { revision, holder: target, ackers: beside, solo: true, opened: false };
                *own = Operator { plan: Plan::Order(Order::Open), revision, primary: target, ackers: beside };
                state.left.changes -= 1;
            }
            _ => {}
        }
    }
}
