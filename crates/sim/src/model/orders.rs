//! What agents carry out, and what they refuse.

use super::mutants::Mutant;
use super::state::{Member, NOBODY, Operator, Order, Plan, Set, State, Step, covers, has, members, only, others, set};
use super::{Action, Fact, Model};

impl Model {
    /// Orders that this operator may have sent and that an agent would carry out now.
    pub(super) fn orders(&self, state: &State, operator: u8, actions: &mut Vec<Action>) {
        let own = state.operators[usize::from(operator)];
        for member in members() {
            if addressed(state, own, member) && self.accepts(state.member(member), own.revision) {
                actions.push(Action::Carry { operator, member });
            }
        }
    }

    pub(super) fn accepts(&self, member: &Member, revision: u8) -> bool {
        revision >= member.accepted || self.breaks(Mutant::NoCompare)
    }

    /// The member's agent does as it is told.
    pub(super) fn carry(&self, state: &mut State, operator: u8, number: u8) {
        let Operator { plan, revision, primary, mut ackers } = state.operators[usize::from(operator)];
        let log = state.member(primary).log;
        let member = state.member_mut(number);
        member.accepted = member.accepted.max(revision);
        let next = match plan {
            Plan::Nothing => Plan::Nothing,
            Plan::Admit(who) => {
                member.locked &= !only(who);
                plan
            }
            Plan::Order(order) => {
                match order {
                    Order::Lock(who) => self.lock(state, number, who),
                    _ => self.obey(member, order, ackers, log, primary),
                }
                let opens = matches!(order, Order::Open | Order::Resume { .. });
                state.record.opened |= opens && state.record.holder == number;
                Plan::Nothing
            }
            Plan::Expel { member: who, step: Step::Begun } => {
                if !self.breaks(Mutant::ExpelWithoutLock) {
                    self.lock(state, number, only(who));
                }
                Plan::Expel { member: who, step: Step::Locked(0) }
            }
            Plan::Expel { member: who, .. } => Plan::Expel { member: who, step: Step::At(member.log) },
            // A marker that did not wait proves nothing: waits may have been switched off under an earlier revision, late.
            Plan::Prove { .. } if !member.waits && !self.breaks(Mutant::MarkerWithoutWaits) => Plan::Nothing,
            Plan::Prove { .. } => Plan::Prove { step: Step::At(member.log) },
            Plan::FailOver => {
                member.receives = false;
                ackers &= !only(number);
                Plan::FailOver
            }
            Plan::SwitchOver { to, step: Step::Begun } => {
                member.open = false;
                Plan::SwitchOver { to, step: Step::At(member.log) }
            }
            Plan::SwitchOver { to, step: Step::At(position) } => {
                if !self.breaks(Mutant::SwitchOverWithoutLocks) {
                    self.lock(state, number, others(number));
                }
                Plan::SwitchOver { to, step: Step::Locked(position) }
            }
            // Somebody has written meanwhile: once more.
            Plan::SwitchOver { to, step: Step::Locked(_) } => {
                member.locked &= !ackers;
                Plan::SwitchOver { to, step: Step::At(member.log) }
            }
        };
        // Who stops receiving, or changes its source, is not connected any more.
        let still = set(members().filter(|n| state.member(*n).receives && state.member(*n).source == primary));
        state.member_mut(primary).lingering &= still;
        state.operators[usize::from(operator)] = Operator { plan: next, revision, primary, ackers };
    }

    fn lock(&self, state: &mut State, number: u8, who: Set) {
        if self.breaks(Mutant::LockWithoutKill) {
            let connected = set(State::of(who).filter(|n| state.receives_from(*n, number)));
            state.member_mut(number).lingering |= connected;
        }
        state.member_mut(number).locked |= who;
    }

    fn obey(&self, member: &mut Member, order: Order, ackers: Set, log: Set, primary: u8) {
        match order {
            Order::Unlock(who) => member.locked &= !only(who),
            Order::Lock(who) => member.locked |= who,
            Order::Wait(on) => {
                self.note(if on { Fact::WaitedAgain } else { Fact::WentAlone });
                member.waits = on;
            }
            Order::Resume { wait } => open(member, wait),
            Order::Open => {
                if !self.breaks(Mutant::OpenWithoutLocks) {
                    member.locked = others(primary);
                }
                member.locked &= !ackers;
                member.lingering = 0;
                open(member, true);
            }
            Order::Start(_) => member.receives = true,
            Order::Follow { copy, .. } => {
                if copy {
                    member.log = log;
                    member.relay = 0;
                }
                member.open = false;
                member.source = primary;
                member.receives = true;
            }
        }
    }
}

/// Forgets the source (`RESET SLAVE ALL`: relay logs are gone), and takes writes.
fn open(member: &mut Member, wait: bool) {
    *member = Member { relay: 0, source: NOBODY, receives: false, waits: wait, open: true, ..*member };
}

/// Is this member told something next?
fn addressed(state: &State, own: Operator, member: u8) -> bool {
    let primary = member == own.primary;
    match own.plan {
        Plan::Nothing => false,
        Plan::Order(Order::Unlock(_) | Order::Lock(_) | Order::Wait(_) | Order::Open | Order::Resume { .. })
        | Plan::SwitchOver { step: Step::Begun, .. } => primary,
        Plan::Order(Order::Start(who) | Order::Follow { member: who, .. }) => member == who,
        Plan::Admit(who) => primary && has(state.member(member).locked, who),
        Plan::Expel { step, .. } => primary && matches!(step, Step::Begun | Step::Locked(_)),
        Plan::Prove { step } => primary && step == Step::Begun,
        Plan::FailOver => has(own.ackers, member),
        Plan::SwitchOver { to, step: Step::At(position) } => primary && covers(state.member(to).log, position),
        Plan::SwitchOver { step: Step::Locked(position), .. } => primary && state.member(member).log != position,
    }
}
