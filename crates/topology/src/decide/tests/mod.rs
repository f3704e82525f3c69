//! Scenarios and laws of [`super::decide`].

mod bring_up;
mod changes;
mod laws;
mod patience;
mod promises;
mod trouble;
mod wishes;
mod words;

use crate::decision::{Decision, Refusal};
use crate::scenario::World;

/// The log since the last time it was taken.
fn log(world: &mut World) -> String {
    std::mem::take(&mut world.log).join("\n")
}

fn reasons(decision: &Decision) -> Vec<&'static str> {
    decision.report.refusals.iter().map(Refusal::reason).collect()
}
