//! The protocol of docs/failover.md, checked exhaustively: every history within [`Bounds`] of three members, two operators and
//! the record. It is written anew from the rules, not the code that runs: `sim`'s runs are about that.

mod check;
mod completions;
mod decisions;
mod fold;
mod laws;
mod mutants;
mod names;
mod orders;
mod state;
mod steps;
mod story;

use std::sync::atomic::{AtomicBool, Ordering};

pub use check::{Outcome, check, check_broken};
pub use completions::Completion;
pub use decisions::Decision;
pub use mutants::Mutant;
pub use state::Bounds;
pub use steps::Action;

/// What is checked.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    mutant: Option<Mutant>,
    /// Operators keep their names: there are about twice as many states, and their histories can be told.
    names: bool,
    notes: Notes,
}

/// Something that must have happened somewhere, or the laws held because nothing did.
#[derive(Debug, Clone, Copy)]
enum Fact {
    FailedOver,
    SwitchedOver,
    RolledBack,
    Expelled,
    WentAlone,
    WaitedAgain,
    Proven,
    LateRefused,
}

/// What the checker need not look for in states. It keeps the path to each state that it is told of, over the one before: so each
/// is told once, and a broken law where it is broken first.
#[derive(Debug, Default)]
struct Notes {
    happened: [AtomicBool; Fact::LateRefused as usize + 1],
    told: [AtomicBool; Fact::LateRefused as usize + 1],
    broken: [AtomicBool; 3],
}

impl Model {
    fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant.is_some_and(|broken| broken == mutant || broken.and() == Some(mutant))
    }

    fn note(&self, fact: Fact) {
        self.notes.happened[fact as usize].store(true, Ordering::Relaxed);
    }

    /// It has happened.
    fn happened(&self, fact: Fact) -> bool {
        let fact = fact as usize;
        self.notes.happened[fact].load(Ordering::Relaxed) && !self.notes.told[fact].swap(true, Ordering::Relaxed)
    }

    /// The law with this number holds, or was broken before.
    fn keeps(&self, law: usize, holds: bool) -> bool {
        holds || self.notes.broken[law].swap(true, Ordering::Relaxed)
    }
}
