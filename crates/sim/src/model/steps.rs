//! Everything that can happen next.

use stateright::Property;

use super::completions::Completion;
use super::decisions::Decision;
use super::state::{MEMBERS, Member, NOBODY, Operator, Order, Plan, Record, State, members, only, others};
use super::{Fact, Model, laws};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A transaction is written on a primary, or what was one: by a client, or by root where it is closed.
    Write(u8),
    /// A replica receives the next transaction, and acknowledges it.
    Receive(u8),
    /// A replica applies what it has received.
    Apply(u8),
    /// A server dies and starts again: read-only, replication stopped.
    Crash(u8),
    /// A former primary learns that it is one, and closes.
    StepDown(u8),
    /// An operator decides, and swaps the record.
    Decide {
        /// Which.
        operator: u8,
        /// What.
        decision: Decision,
    },
    /// An agent carries out an operator's next order.
    Carry {
        /// Whose.
        operator: u8,
        /// The agent's member.
        member: u8,
    },
    /// An operator completes its plan: the record is swapped.
    Complete {
        /// Which.
        operator: u8,
        /// How.
        completion: Completion,
    },
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    /// Member 0 is open; both others follow it and acknowledge. Or a switchover from it to member 1 was recorded a moment ago.
    fn init_states(&self) -> Vec<State> {
        let replica = Member {
            log: 0,
            relay: 0,
            source: 0,
            receives: true,
            open: false,
            waits: true,
            locked: 0,
            lingering: 0,
            accepted: 1,
        };
        let mut all = [replica; MEMBERS as usize];
        all[0] = Member { source: NOBODY, receives: false, open: true, ..replica };
        let quiet = State {
            members: all,
            record: Record { revision: 1, holder: 0, ackers: others(0), solo: false, opened: true },
            operators: [Operator::IDLE; 2],
            written: 0,
            acknowledged: 0,
            left: self.bounds,
        };
        let mut changed = quiet;
        changed.members[0] = Member { open: false, locked: others(0), ..all[0] };
        changed.record = Record { revision: 2, holder: 1, ackers: 0, solo: true, opened: false };
        changed.operators[0] = Operator { plan: Plan::Order(Order::Open), revision: 2, primary: 1, ackers: 0 };
        changed.left.changes = self.bounds.changes.saturating_sub(1);
        self.fold(&mut changed);
        vec![quiet, changed]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for n in members() {
            let member = state.member(n);
            if member.source == NOBODY && state.written < self.bounds.transactions && (member.open || member.waits) {
                actions.push(Action::Write(n));
            }
            if next_to_receive(state, n).is_some() {
                actions.push(Action::Receive(n));
            }
            if member.relay != 0 {
                actions.push(Action::Apply(n));
            }
            if state.left.crashes > 0 && (member.open || member.receives) {
                actions.push(Action::Crash(n));
            }
            if member.open && n != state.record.holder {
                actions.push(Action::StepDown(n));
            }
        }
        for operator in 0..2 {
            self.orders(state, operator, actions);
            self.completions(state, operator, actions);
            self.decisions(state, operator, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Write(n) => {
                let transaction = only(state.written);
                state.written += 1;
                state.member_mut(n).log |= transaction;
                if !state.member(n).waits {
                    state.acknowledged |= transaction;
                }
            }
            Action::Receive(n) => {
                let transaction = next_to_receive(&state, n)?;
                let source = state.member(n).source;
                state.member_mut(n).relay |= transaction;
                if state.member(source).source == NOBODY {
                    state.acknowledged |= transaction;
                }
            }
            Action::Apply(n) => {
                let member = state.member_mut(n);
                member.log |= member.relay;
                member.relay = 0;
            }
            Action::Crash(n) => {
                state.left.crashes -= 1;
                let member = state.member_mut(n);
                member.open = false;
                member.receives = false;
                member.lingering = 0;
                for other in members().filter(|other| *other != n) {
                    state.member_mut(other).lingering &= !only(n);
                }
            }
            Action::StepDown(n) => state.member_mut(n).open = false,
            Action::Decide { operator, decision } => self.decide(&mut state, operator, decision),
            Action::Carry { operator, member } => self.carry(&mut state, operator, member),
            Action::Complete { operator, completion } => self.complete(&mut state, operator, completion),
        }
        self.fold(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Model>> {
        let mut all: Vec<Property<Model>> = vec![
            Property::always("nothing acknowledged is lost", |model, state| model.keeps(0, laws::nothing_lost(state))),
            Property::always("only the holder could return a commit", |model, state| {
                model.keeps(1, laws::one_returns(state))
            }),
            Property::always("an acker holds everything that was acknowledged, or solo is set", |model, state| {
                model.keeps(2, laws::proven(state))
            }),
            Property::sometimes("a failover", |model, _| model.happened(Fact::FailedOver)),
            Property::sometimes("a switchover", |model, _| model.happened(Fact::SwitchedOver)),
            Property::sometimes("a roll-back", |model, _| model.happened(Fact::RolledBack)),
            Property::sometimes("an acker expelled by a marker", |model, _| model.happened(Fact::Expelled)),
            Property::sometimes("a primary goes on alone", |model, _| model.happened(Fact::WentAlone)),
            Property::sometimes("its commits wait again", |model, _| model.happened(Fact::WaitedAgain)),
            Property::sometimes("solo cleared by a marker", |model, _| model.happened(Fact::Proven)),
            Property::sometimes("a late operator refused", |model, _| model.happened(Fact::LateRefused)),
        ];
        if self.mutant.is_some() {
            // Harm that is done, not the danger of it.
            all.truncate(2);
        }
        all
    }
}

/// What a replica receives next: the first that its source has and it has not.
fn next_to_receive(state: &State, n: u8) -> Option<u8> {
    let member = state.member(n);
    if member.source == NOBODY || !state.receives_from(n, member.source) {
        return None;
    }
    let missing = state.member(member.source).log & !member.held();
    (missing != 0).then(|| missing & missing.wrapping_neg())
}
