//! Many runs; and mutants, each of which must be caught.

use sim::{Mutant, many, settings};

/// So many runs, or those of `SIM_RUNS`; one run with `SIM_SEED`.
#[test]
fn nothing_is_lost_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIM_RUNS").unwrap_or(20_000)),
    };
    let began = std::time::Instant::now();
    let (stats, violation) = many(from, count, settings);
    if let Some(violation) = violation {
        panic!("{violation}\nagain: SIM_SEED={} cargo test -p sim nothing_is_lost", violation.seed);
    }
    println!("{count} runs in {:.1} s, {stats}", began.elapsed().as_secs_f64());
    assert!(count < 100 || stats.changes > count, "the primary changed too seldom for this to mean anything");
}

fn caught(mutant: Mutant) {
    let (_, violation) = many(0, 4000, |seed| mutant.settings(seed));
    let violation = violation.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
    println!("{mutant:?}: seed {}: {}: {}", violation.seed, violation.law, violation.how);
}

#[test]
fn every_mutant_is_caught() {
    let only = std::env::var("SIM_MUTANT").ok();
    for mutant in Mutant::ALL {
        if only.as_ref().is_none_or(|only| *only == format!("{mutant:?}")) {
            caught(mutant);
        }
    }
}
