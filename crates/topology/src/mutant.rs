//! Ways to break decisions on purpose, to show that whoever checks real servers would notice (docs/chaos.md).
//!
//! Only with the feature `mutants`, which nothing but the binary `mariadb-operator-mutants` asks for: an operator that is built for use
//! has no such code, and no variable or argument that could switch it on.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A new primary opens before it has applied what it had received.
    NoDrain = 1,
    /// Ackers are not stopped from receiving before one of them takes over.
    NoFence = 2,
    /// An acker that fell silent is dropped from the record: it is not locked out on the primary, and no marker proves anything.
    NoExpulsion = 3,
}

impl Mutant {
    /// All of them, with the names that people type.
    pub const NAMED: [(&str, Mutant); 3] =
        [("no-drain", Mutant::NoDrain), ("no-fence", Mutant::NoFence), ("no-expulsion", Mutant::NoExpulsion)];
}

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    static ON: AtomicU8 = AtomicU8::new(0);

    /// Breaks it, for the rest of the process's life.
    pub fn set(mutant: super::Mutant) {
        ON.store(mutant as u8, Ordering::Relaxed);
    }

    pub(crate) fn is(mutant: super::Mutant) -> bool {
        ON.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::is;
#[cfg(feature = "mutants")]
pub use switch::set;

/// Nothing is broken.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
