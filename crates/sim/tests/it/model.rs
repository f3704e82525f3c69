//! The protocol, checked exhaustively (docs/failover.md, section 11).

use sim::model::{Bounds, Mutant, check, check_broken};

/// What a minute of one core is enough for on a slow machine; `cargo run -p sim --release -- model` goes further.
const BOUNDS: [Bounds; 2] = [
    Bounds { transactions: 1, crashes: 1, changes: 2, decisions: 5 },
    Bounds { transactions: 2, crashes: 1, changes: 2, decisions: 4 },
];

#[test]
fn every_history_keeps_the_laws() {
    for bounds in BOUNDS {
        let outcome = check(bounds);
        println!("model: {}", outcome.size(bounds));
        assert!(outcome.holds(), "{outcome}");
        assert!(outcome.states > 1_000_000, "so few states show little");
    }
}

#[test]
fn every_rule_is_missed() {
    for mutant in Mutant::ALL {
        let bounds = Bounds { transactions: 1, crashes: 0, changes: 2, decisions: mutant.decisions() };
        let outcome = check_broken(bounds, mutant);
        println!("{mutant:?}: {outcome}");
        assert!(!outcome.violations.is_empty(), "{mutant:?} breaks no law");
    }
}
