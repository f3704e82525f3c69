//! `sim [--runs N] [--seed S] [--mutant NAME]`: N runs from seed S on; one run, with its story, where only the seed is given.

use std::process::ExitCode;

use sim::Mutant;

fn main() -> ExitCode {
    let (mut runs, mut seed, mut mutant) = (None, None, None::<Mutant>);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--mutant" {
            let name = words.next().unwrap_or_default();
            mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
            if mutant.is_none() {
                return usage();
            }
            continue;
        }
        let place = match word.as_str() {
            "--runs" => &mut runs,
            "--seed" => &mut seed,
            _ => return usage(),
        };
        let Some(number) = words.next().and_then(|text| text.parse::<u64>().ok()) else { return usage() };
        *place = Some(number);
    }
    let runs = runs.unwrap_or(if seed.is_some() { 1 } else { 20_000 });
    let began = std::time::Instant::now();
    let (stats, violation) = sim::many(seed.unwrap_or(0), runs, |seed| {
        mutant.map_or_else(|| sim::settings(seed), |mutant| mutant.settings(seed))
    });
    if let Some(violation) = violation {
        println!("{violation}again: cargo run -p sim -- --seed {}", violation.seed);
        return ExitCode::FAILURE;
    }
    println!("{runs} runs in {:.1} s, {stats}", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: sim [--runs N] [--seed S] [--mutant NAME]");
    ExitCode::from(2)
}
