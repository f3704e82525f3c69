//! Many runs; and mutants, each of which must be caught.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Mutant, Settings, Stats, Violation};
use topology::intent::Durability;

fn settings(seed: u64) -> Settings {
    Settings {
        members: if seed % 4 == 3 { 2 } else { 3 },
        steps: 200,
        calm: [5, 10, 20][usize::try_from(seed % 3).expect("small")],
        durability: if seed % 5 == 4 { Durability::Strict } else { Durability::Safe },
        mutant: None,
    }
}

/// Runs on all cores; the first violation by seed.
fn runs(from: u64, count: u64, settings: impl Fn(u64) -> Settings + Sync) -> (Stats, Option<Box<Violation>>) {
    let next = AtomicU64::new(from);
    let sum = Mutex::new((Stats::default(), None::<Box<Violation>>));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || sum.lock().expect("no panic").1.is_some() {
                        return;
                    }
                    let result = sim::run(seed, &settings(seed));
                    let mut sum = sum.lock().expect("no panic");
                    match result {
                        Ok(stats) => sum.0.add(&stats),
                        Err(violation) => {
                            if sum.1.as_ref().is_none_or(|known| known.seed > violation.seed) {
                                sum.1 = Some(violation);
                            }
                        }
                    }
                }
            });
        }
    });
    sum.into_inner().expect("no panic")
}

/// So many runs, or those of `SIM_RUNS`; one run with `SIM_SEED`.
#[test]
fn nothing_is_lost_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIM_RUNS").unwrap_or(20_000)),
    };
    let began = std::time::Instant::now();
    let (stats, violation) = runs(from, count, settings);
    if let Some(violation) = violation {
        panic!("{violation}\nagain: SIM_SEED={} cargo test -p sim nothing_is_lost", violation.seed);
    }
    println!("{count} runs, {} steps in {:.1} s", stats.steps, began.elapsed().as_secs_f64());
    println!("faults: {:?}", stats.faults);
    println!(
        "{} epochs, {} commits acknowledged, {} runs wait for a person (a disk was lost)",
        stats.changes, stats.acknowledged, stats.needs_person
    );
    println!("refusals (passes): {:?}", stats.refusals);
    assert!(count < 100 || stats.changes > count, "the primary changed too seldom for this to mean anything");
}

fn caught(mutant: Mutant) {
    let (_, violation) = runs(0, 4000, |seed| Settings { mutant: Some(mutant), ..settings(seed) });
    let violation = violation.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
    println!("{mutant:?}: seed {}: {}: {}", violation.seed, violation.law, violation.how);
}

#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        caught(mutant);
    }
}
