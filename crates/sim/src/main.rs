//! `sim [--runs N] [--seed S] [--mutant NAME] [--durability NAME] [--more NAME]`: N runs from seed S on; one run, with its story, where only the seed is given.
//! `sim model ...`: the protocol, checked exhaustively.

use std::process::ExitCode;

use sim::model::{self, Bounds};
use sim::{More, Mutant};
use topology::intent::Durability;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("model") {
        return model(std::env::args().skip(2));
    }
    let (mut runs, mut seed, mut mutant, mut durability) = (None, None, None::<Mutant>, None::<String>);
    let mut more = None;
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
            "--durability" => {
                durability = ["Strict", "Safe", "Available"].contains(&value.as_str()).then_some(value);
                durability.is_some()
            }
            "--more" => {
                more = More::ALL.into_iter().find(|more| format!("{more:?}") == value);
                more.is_some()
            }
            _ => false,
        };
        if !understood {
            return usage();
        }
    }
    let settings = |seed: u64| {
        let settings = mutant.map_or_else(|| sim::settings(seed), |mutant| mutant.settings(seed));
        let durability = match durability.as_deref() {
            Some("Strict") => Durability::Strict,
            Some("Safe") => Durability::Safe,
            Some(_) => Durability::Available { semi_sync: seed.is_multiple_of(2) },
            None => settings.durability,
        };
        sim::Settings { durability, more: more.or(settings.more), ..settings }
    };
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

/// `sim model`: every history within the bounds; with a mutant (or `all`), the shortest one that breaks a law.
fn model(mut words: impl Iterator<Item = String>) -> ExitCode {
    let mut bounds = Bounds::default();
    let mut mutants = Vec::new();
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let place = match word.as_str() {
            "--transactions" => &mut bounds.transactions,
            "--crashes" => &mut bounds.crashes,
            "--changes" => &mut bounds.changes,
            "--decisions" => &mut bounds.decisions,
            "--mutant" => {
                let named = |mutant: &model::Mutant| {
                    value == "all" && !model::Mutant::SPARE.contains(mutant) || format!("{mutant:?}") == value
                };
                mutants.extend(model::Mutant::ALL.into_iter().chain(model::Mutant::SPARE).filter(named));
                continue;
            }
            _ => return usage(),
        };
        let Ok(number) = value.parse() else { return usage() };
        *place = number;
    }
    let told = |mutant: Option<model::Mutant>| {
        let began = std::time::Instant::now();
        let outcome = mutant.map_or_else(|| model::check(bounds), |mutant| model::check_broken(bounds, mutant));
        if let Some(mutant) = mutant {
            println!("{mutant:?}");
        }
        println!("{outcome}");
        println!("{:.1} s", began.elapsed().as_secs_f64());
        println!("model: {}", outcome.size(bounds));
        outcome
    };
    let well = if mutants.is_empty() {
        told(None).holds()
    } else {
        mutants.into_iter().filter(|mutant| told(Some(*mutant)).violations.is_empty()).count() == 0
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: sim [--runs N] [--seed S] [--mutant NAME] [--durability Strict|Safe|Available] [--more DiskLost|OperatorStopped|RootWrites|People]"
    );
    eprintln!("       sim model [--transactions N] [--crashes N] [--changes N] [--decisions N] [--mutant NAME|all]");
    ExitCode::from(2)
}

fn number(text: &str, place: &mut Option<u64>) -> bool {
    *place = text.parse().ok();
    place.is_some()
}
