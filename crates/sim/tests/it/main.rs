//! Many runs; the operator stopped at every single point; and mutants, each of which must be caught by a law that it breaks.

mod model;

use sim::{More, Mutant, Settings, Stop, many, run, settings};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// So many runs, or those of `SIM_RUNS`; one run, with its story, with `SIM_SEED`.
#[test]
fn nothing_is_lost_whatever_happens() {
    if let Some(seed) = number("SIM_SEED") {
        let (story, violation) = sim::tell(&settings(seed));
        println!("{story}");
        if let Some(violation) = violation {
            panic!("{}: {}", violation.law, violation.how);
        }
        return;
    }
    let count = number("SIM_RUNS").unwrap_or(20_000);
    let began = std::time::Instant::now();
    let (stats, violation) = many(0, count, settings);
    if let Some((seed, violation)) = violation {
        panic!("{violation}\nagain: SIM_SEED={seed} cargo test -p sim nothing_is_lost -- --nocapture");
    }
    println!("{count} runs in {:.1} s, {stats}", began.elapsed().as_secs_f64());
    assert!(count < 100 || stats.changes > count, "the primary changed too seldom for this to mean anything");
}

/// Requests, restarts and hands off in between: those who ask for things cost nothing, either.
#[test]
fn nothing_is_lost_whatever_people_ask_for() {
    let (stats, violation) = many(0, 4000, |seed| Settings { more: Some(More::People), ..settings(seed) });
    if let Some((seed, violation)) = violation {
        panic!("{violation}\nagain: cargo run -p sim -- --more People --seed {seed}");
    }
    println!("{stats}");
}

/// Runs the same seeds again and again, with the operator stopped at one point more each time.
fn stopped_at_every_point(
    seeds: std::ops::Range<u64>,
    points: impl Fn(&sim::Stats) -> u64,
    stop: impl Fn(u64) -> Stop + Sync,
) {
    let mut runs = 0;
    for seed in seeds {
        let count = points(&run(&settings(seed)).unwrap_or_else(|violation| panic!("{violation}")));
        let (_, violation) = many(0, count, |point| Settings { stop: Some(stop(point)), ..settings(seed) });
        if let Some((_, violation)) = violation {
            panic!("{violation}");
        }
        runs += count;
    }
    println!("{runs} runs");
    assert!(runs > 500, "so few points show little");
}

#[test]
fn the_operator_may_die_after_any_single_action() {
    stopped_at_every_point(0..16, |stats| stats.actions, Stop::AfterAction);
}

#[test]
fn a_former_leader_may_swap_late_wherever_it_was() {
    stopped_at_every_point(16..32, |stats| stats.decisions, Stop::BeforeSwap);
}

#[test]
fn a_former_leaders_orders_may_come_late_wherever_it_was() {
    stopped_at_every_point(32..48, |stats| stats.decisions, Stop::BeforeOrders);
}

fn caught(mutant: Mutant) {
    let mut from = 0;
    while from < 20_000 {
        let (_, violation) = many(from, 20_000 - from, |seed| mutant.settings(seed));
        let Some((seed, violation)) = violation else { break };
        if mutant.breaks().contains(&violation.law) {
            println!("{mutant:?}: seed {seed}: {}: {}", violation.law, violation.how);
            return;
        }
        println!("{mutant:?}: seed {seed}: {} (not its own)", violation.law);
        from = seed + 1;
    }
    panic!("{mutant:?} was not caught by {:?}", mutant.breaks());
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
