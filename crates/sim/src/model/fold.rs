//! States that differ in nothing that could matter are one.

use super::Model;
use super::state::{NOBODY, Operator, Order, Plan, State, Step, members, set};
use super::{Fact, names};

impl Model {
    pub(super) fn fold(&self, state: &mut State) {
        for operator in 0..2 {
            self.forget(state, operator);
        }
        rank(state);
        for n in members() {
            let followed = members().any(|replica| state.member(replica).source == n);
            let member = state.member_mut(n);
            if member.source != NOBODY && !followed {
                // Opening sets them. An agent that resumes does not: that nobody is locked out is the worst that it can find.
                member.locked = 0;
                member.lingering = 0;
                member.waits = true;
            }
        }
        if !self.names {
            names::fold(state);
        }
    }

    /// A plan that can neither be completed nor has an order that an agent would still accept.
    fn forget(&self, state: &mut State, operator: u8) {
        let own = state.operators[usize::from(operator)];
        if own.plan == Plan::Nothing {
            state.operators[usize::from(operator)] = Operator::IDLE;
            return;
        }
        if self.current(state, own) && !matches!(own.plan, Plan::Order(_)) {
            return;
        }
        let accepted = |n: u8| self.accepts(state.member(n), own.revision);
        let acts = match own.plan {
            Plan::Order(Order::Start(n) | Order::Follow { member: n, .. }) => accepted(n),
            // Their later steps only show something to whoever may still swap.
            Plan::Expel { step, .. } | Plan::Prove { step } => step == Step::Begun && accepted(own.primary),
            Plan::FailOver => {
                let left = set(State::of(own.ackers).filter(|n| accepted(*n)));
                state.operators[usize::from(operator)].ackers = left;
                left != 0
            }
            Plan::Nothing | Plan::Order(_) | Plan::Admit(_) | Plan::SwitchOver { .. } => accepted(own.primary),
        };
        if !acts {
            self.note(Fact::LateRefused);
            state.operators[usize::from(operator)] = Operator::IDLE;
        }
    }
}

/// Revisions matter by their order only.
fn rank(state: &mut State) {
    let mut known = [state.record.revision, state.operators[0].revision, state.operators[1].revision];
    for (n, own) in state.operators.iter().enumerate() {
        if own.plan == Plan::Nothing {
            known[n + 1] = state.record.revision;
        }
    }
    known.sort_unstable();
    // 1 for the lowest, so that 0 is lower than all of them.
    let place = |revision: u8| -> u8 {
        let mut place = 1;
        for (n, one) in known.iter().enumerate() {
            if *one >= revision {
                break;
            }
            if known.get(n + 1).is_none_or(|next| next != one) {
                place += 1;
            }
        }
        place
    };
    for n in 0..state.members.len() {
        let accepted = place(state.members[n].accepted);
        state.members[n].accepted = accepted;
    }
    for own in &mut state.operators {
        if own.plan != Plan::Nothing {
            own.revision = place(own.revision);
        }
    }
    state.record.revision = place(state.record.revision);
}
