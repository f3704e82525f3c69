//! The real decision core against a model of everything else: MariaDB servers, their agents, the API, the network, clients
//! and time, with random faults from a seed. A run that breaks a law prints its story and is played again by its seed.

mod agent;
mod faults;
mod heal;
mod laws;
mod many;
mod mutant;
mod operator;
mod server;
mod world;

pub use laws::Violation;
pub use many::{many, settings};
pub use mutant::Mutant;
pub use world::{Settings, Stats, World};

/// One run. `Err`: a law was broken; the story is in it.
pub fn run(seed: u64, settings: &Settings) -> Result<Stats, Box<Violation>> {
    // Stories cost more than the run: only one that broke a law is told, when it is played again.
    play(seed, settings).or_else(|_| play(seed, &Settings { story: true, ..settings.clone() }))
}

fn play(seed: u64, settings: &Settings) -> Result<Stats, Box<Violation>> {
    let mut world = World::new(seed, settings.clone());
    world.live()?;
    world.heal()?;
    Ok(world.stats)
}
