//! `sim [--runs N] [--seed S]`: N runs from seed S on; one run, with its story, where only the seed is given.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut runs, mut seed) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
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
    let (stats, violation) = sim::many(seed.unwrap_or(0), runs, sim::settings);
    if let Some(violation) = violation {
        println!("{violation}again: cargo run -p sim -- --seed {}", violation.seed);
        return ExitCode::FAILURE;
    }
    println!("{runs} runs in {:.1} s, {stats}", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: sim [--runs N] [--seed S]");
    ExitCode::from(2)
}
