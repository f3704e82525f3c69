//! Checks, and what came of them.

use std::fmt;

use stateright::{Checker, Expectation, HasDiscoveries, Model as _};

use super::mutants::Mutant;
use super::state::Bounds;
use super::{Model, Notes, story};

/// What came of a check.
#[derive(Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Length of the longest history that was needed to reach one.
    pub depth: usize,
    /// Laws that do not hold, with the shortest history of each, a step a line.
    pub violations: Vec<(&'static str, Vec<String>)>,
    /// What never happened, and should have.
    pub never: Vec<&'static str>,
}

impl Outcome {
    /// Every law holds, and everything happened that should.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty() && self.never.is_empty()
    }

    /// How much was looked at, in a line.
    #[must_use]
    pub fn size(&self, bounds: Bounds) -> String {
        format!("{} unique states, depth {}, bounds: {bounds}", self.states, self.depth)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for (law, story) in &self.violations {
            lines.push(format!("broken: {law}"));
            lines.extend(story.iter().enumerate().map(|(n, line)| format!("{:4}. {line}", n + 1)));
        }
        if self.violations.is_empty() {
            lines.push("every law holds".to_owned());
        }
        lines.extend(self.never.iter().map(|never| format!("never happened: {never}")));
        write!(f, "{}", lines.join("\n"))
    }
}

/// Checks every history within the bounds, on one thread.
pub fn check(bounds: Bounds) -> Outcome {
    let checker = Model { bounds, mutant: None, names: false, notes: Notes::default() }.checker().spawn_bfs().join();
    outcome(&checker)
}

/// The same with a rule switched off, until a law is broken.
pub fn check_broken(bounds: Bounds, mutant: Mutant) -> Outcome {
    let checker = Model { bounds, mutant: Some(mutant), names: true, notes: Notes::default() }.checker();
    outcome(&checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join())
}

fn outcome(checker: &impl Checker<Model>) -> Outcome {
    let model = checker.model();
    let mut violations = Vec::new();
    let mut never = Vec::new();
    let found = checker.discoveries();
    for property in model.properties() {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Always, Some(path)) => {
                violations.push((property.name, story::tell(&path.clone().into_vec())));
            }
            (Expectation::Sometimes, None) => never.push(property.name),
            _ => {}
        }
    }
    Outcome { states: checker.unique_state_count(), depth: checker.max_depth() - 1, violations, never }
}
