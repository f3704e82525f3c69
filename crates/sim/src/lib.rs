//! The real decision core against a model of everything else: MariaDB servers, their agents, the API, the network, clients
//! and time, with random faults from a seed. A run that breaks a law prints its story and is played again by its seed.

mod agent;
mod clock;
mod faults;
mod heal;
mod laws;
mod many;
pub mod model;
mod mutant;
mod operator;
mod server;
mod story;
mod strangers;
mod world;

pub use laws::{Law, Violation};
pub use many::{many, settings};
pub use mutant::Mutant;
use world::World;
pub use world::{More, Settings, Stats, Stop};

/// One run. `Err`: a law was broken; the story is in it.
pub fn run(settings: &Settings) -> Result<Stats, Box<Violation>> {
    // Stories cost more than the run: only one that broke a law is told, when it is played again.
    let quiet = Settings { story: false, ..settings.clone() };
    World::new(quiet).play().map(|world| world.stats).map_err(|violation| tell(settings).1.unwrap_or(violation))
}

/// One run and its story, and what law it broke.
pub fn tell(settings: &Settings) -> (String, Option<Box<Violation>>) {
    match World::new(Settings { story: true, ..settings.clone() }).play() {
        Ok(world) => (world.whole_story(None).join("\n"), None),
        Err(violation) => (violation.story.join("\n"), Some(violation)),
    }
}
