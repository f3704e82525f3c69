//! States that differ only in who is called what are one: members, and operators.

use super::state::{self, MEMBERS, NOBODY, Operator, Order, Plan, Set, State, members};

/// The new number of each member.
#[derive(Clone, Copy)]
struct Names([u8; MEMBERS as usize]);

/// The holder is called 0; of the two ways to call the others, and the two to call the operators, the one that sorts first.
pub(super) fn fold(state: &mut State) {
    let [first, second] = match state.record.holder {
        0 => [[0, 1, 2], [0, 2, 1]],
        1 => [[1, 0, 2], [2, 0, 1]],
        _ => [[1, 2, 0], [2, 1, 0]],
    };
    *state = Names(first).of_state(state).min(Names(second).of_state(state));
}

impl Names {
    fn of(self, n: u8) -> u8 {
        if n == NOBODY { NOBODY } else { self.0[usize::from(n)] }
    }

    fn of_set(self, set: Set) -> Set {
        state::set(State::of(set).map(|n| self.of(n)))
    }

    fn of_state(self, state: &State) -> State {
        let mut new = *state;
        for n in members() {
            let mut member = *state.member(n);
            member.source = self.of(member.source);
            member.locked = self.of_set(member.locked);
            member.lingering = self.of_set(member.lingering);
            *new.member_mut(self.of(n)) = member;
        }
        new.record.holder = self.of(new.record.holder);
        new.record.ackers = self.of_set(new.record.ackers);
        for own in &mut new.operators {
            *own = self.of_operator(*own);
        }
        new.operators.sort_unstable();
        new
    }

    fn of_operator(self, own: Operator) -> Operator {
        let plan = match own.plan {
            Plan::Nothing => return Operator::IDLE,
            Plan::Order(Order::Lock(set)) => Plan::Order(Order::Lock(self.of_set(set))),
            Plan::Order(Order::Unlock(n)) => Plan::Order(Order::Unlock(self.of(n))),
            Plan::Order(Order::Start(n)) => Plan::Order(Order::Start(self.of(n))),
            Plan::Order(Order::Follow { member, copy }) => Plan::Order(Order::Follow { member: self.of(member), copy }),
            Plan::Admit(n) => Plan::Admit(self.of(n)),
            Plan::Expel { member, step } => Plan::Expel { member: self.of(member), step },
            Plan::SwitchOver { to, step } => Plan::SwitchOver { to: self.of(to), step },
            plan @ (Plan::Order(Order::Wait(_) | Order::Open | Order::Resume { .. })
            | Plan::Prove { .. }
            | Plan::FailOver) => plan,
        };
        Operator { plan, primary: self.of(own.primary), ackers: self.of_set(own.ackers), ..own }
    }
}
