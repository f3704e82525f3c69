//! `sim [--runs N] [--seed S] [--mutant NAME]`: N runs from seed S on; one run, with its story, where only the seed is given.

use std::process::ExitCode;

use sim::Mutant;

fn main() -> ExitCode {
    let (mut runs, mut seed, mut mutant) = (None, None, None::<Mutant>);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let understood = match word.as_str() {
            "--runs" => number(&value, &mut runs),
            "--seed" => number(&value, &mut seed),
            "--mutant" => {
                mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == value);
                mutant.is_some()
            }
            _ => false,
        };
        if !understood {
            eprintln!("usage: sim [--runs N] [--seed S] [--mutant NAME]");
            return ExitCode::from(2);
        }
    }
    let settings = |seed| mutant.map_or_else(|| sim::settings(seed), |mutant| mutant.settings(seed));
    if let (Some(seed), None) = (seed, runs) {
        let (story, violation) = sim::tell(&settings(seed));
        println!("{story}");
        return match violation {
            None => {
                println!("every law holds");
                ExitCode::SUCCESS
            }
            Some(violation) => {
                println!("{}: {}", violation.law, violation.how);
                ExitCode::FAILURE
            }
        };
    }
    let runs = runs.unwrap_or(20_000);
    let began = std::time::Instant::now();
    let (stats, violation) = sim::many(seed.unwrap_or(0), runs, settings);
    if let Some((seed, violation)) = violation {
        println!("{violation}again: cargo run -p sim -- --seed {seed}");
        return ExitCode::FAILURE;
    }
    println!("{runs} runs in {:.1} s, {stats}", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn number(text: &str, place: &mut Option<u64>) -> bool {
    *place = text.parse().ok();
    place.is_some()
}
