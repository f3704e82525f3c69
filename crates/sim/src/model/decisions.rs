//! What an operator decides: each decision is a swap of the record, and leaves something to carry out.
//!
//! Deciding and swapping is one step here. An operator that looked earlier, and swaps after somebody else did, fails and has
//! done nothing; and whatever a member did between its look and its swap it could as well have done after the swap. (What was
//! looked at is not older than the record, though.)

use super::mutants::Mutant;
use super::state::{Operator, Order, Plan, Set, State, Step, has, members, only};
use super::{Action, Fact, Model};

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// An acker shall leave.
    Expel(u8),
    /// A member may acknowledge.
    Admit(u8),
    /// Commits wait again.
    WaitsOn,
    /// An acknowledgement seems to be lost: commits go on without.
    WaitsOff,
    /// Show that an acker holds everything.
    Prove,
    /// Another member shall take over.
    FailOver,
    /// Another member shall take over while the primary is well.
    SwitchOver(u8),
    /// The switchover is given up.
    RollBack,
    /// The holder is closed (it was restarted, or a switchover was left where it was) and opens again.
    Reopen,
    /// The holder's agent opens it, and asks nobody: the locks stay as they are.
    Resume,
    /// Whoever could acknowledge and is not recorded is locked out.
    LockOut,
    /// A member that receives nothing (fenced, or restarted) shall receive.
    Start(u8),
    /// A member that follows somebody else, or has what the primary lacks, shall follow the primary.
    Follow(u8),
}

impl Model {
    /// What this operator could decide now. Evidence is not asked for: a primary that is well may seem dead.
    pub(super) fn decisions(&self, state: &State, operator: u8, actions: &mut Vec<Action>) {
        let own = state.operators[usize::from(operator)];
        let other = state.operators[usize::from(1 - operator)];
        if state.left.decisions == 0 {
            return;
        }
        if matches!(own.plan, Plan::SwitchOver { .. }) && self.current(state, own) {
            actions.push(Action::Decide { operator, decision: Decision::RollBack });
        }
        // The one that has nothing to do decides: whatever can happen when the busy one forgets its plan can happen then, too.
        let busy = |operator: Operator| operator.plan != Plan::Nothing;
        if !busy(other) && (busy(own) || operator == 1) {
            return;
        }
        let record = &state.record;
        let primary = state.primary();
        let orderly = state.strangers() == 0 || self.breaks(Mutant::StrangersStay);
        let mut decide = |decision| actions.push(Action::Decide { operator, decision });
        for member in members().filter(|member| *member != record.holder) {
            let there = state.member(member);
            if has(record.ackers, member) {
                decide(Decision::Expel(member));
            }
            let outside = !has(record.ackers, member) || has(primary.locked, member);
            if outside && orderly && record.opened && state.clean(member) {
                decide(Decision::Admit(member));
            }
            let follows = there.source == record.holder;
            if follows && !there.receives {
                decide(Decision::Start(member));
            }
            let copy = !state.clean(member);
            // Those that were recorded with the swap are pointed at the new primary while it opens.
            if (record.opened || has(record.ackers, member))
                && (!follows || copy)
                && !(copy && has(record.ackers, member))
            {
                decide(Decision::Follow(member));
            }
            if follows && record.opened && primary.open && state.left.changes > 0 {
                decide(Decision::SwitchOver(member));
            }
        }
        if primary.open && record.opened {
            if primary.waits {
                decide(Decision::WaitsOff);
            } else if record.ackers != 0 && orderly {
                decide(Decision::WaitsOn);
            }
            if !orderly {
                decide(Decision::LockOut);
            } else if primary.waits && record.solo && record.ackers != 0 {
                decide(Decision::Prove);
            }
        }
        if record.ackers != 0 && state.left.changes > 0 && (!record.solo || self.breaks(Mutant::IgnoreSolo)) {
            decide(Decision::FailOver);
        }
        if !primary.open {
            decide(Decision::Reopen);
            decide(Decision::Resume);
        }
    }

    /// The swap, and what is left to carry out.
    pub(super) fn decide(&self, state: &mut State, operator: u8, decision: Decision) {
        state.left.decisions -= 1;
        let before = state.record;
        let primary = before.holder;
        let mut ackers: Set = before.ackers;
        let plan = match decision {
            Decision::Expel(member) => Plan::Expel { member, step: Step::Begun },
            Decision::Admit(member) if self.breaks(Mutant::AdmitBeforeRecording) => Plan::Admit(member),
            Decision::Admit(member) => {
                state.record.ackers |= only(member);
                Plan::Order(Order::Unlock(member))
            }
            Decision::WaitsOn => Plan::Order(Order::Wait(true)),
            Decision::WaitsOff => {
                state.record.solo |= !self.breaks(Mutant::AloneUnrecorded);
                Plan::Order(Order::Wait(false))
            }
            Decision::Prove => Plan::Prove { step: Step::Begun },
            Decision::FailOver => Plan::FailOver,
            Decision::SwitchOver(to) => Plan::SwitchOver { to, step: Step::Begun },
            Decision::RollBack => {
                self.note(Fact::RolledBack);
                state.record.solo |= !self.breaks(Mutant::RollBackForgetsSolo);
                if self.breaks(Mutant::RollBackForgetsAckers) {
                    state.record.ackers = 0;
                }
                Plan::Order(Order::Open)
            }
            Decision::Reopen => {
                let locked = state.primary().locked & before.ackers != 0;
                state.record.solo |= locked;
                Plan::Order(Order::Open)
            }
            Decision::Resume => Plan::Order(Order::Resume { wait: !before.solo || before.ackers != 0 }),
            Decision::LockOut => Plan::Order(Order::Lock(state.strangers())),
            Decision::Start(member) => Plan::Order(Order::Start(member)),
            Decision::Follow(member) => {
                let copy = !state.clean(member);
                Plan::Order(Order::Follow { member, copy })
            }
        };
        if matches!(plan, Plan::FailOver) && self.breaks(Mutant::NoFence) {
            ackers = 0;
        }
        let record = &mut state.record;
        if *record != before || !self.breaks(Mutant::SharedRevision) {
            record.revision += 1;
        }
        let revision = record.revision;
        state.operators[usize::from(operator)] = Operator { plan, revision, primary, ackers };
    }

    /// Nobody has swapped since: the last swap of this plan would succeed.
    pub(super) fn current(&self, state: &State, operator: Operator) -> bool {
        operator.revision == state.record.revision || self.breaks(Mutant::NoCompareAndSwap)
    }
}
