//! Faults in random order, some on top of each other, from a seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::cluster::say;
use super::faults::{Ground, Kind, Undo};
use super::random::Random;

/// A topology that is left in peace is well again by then.
const WELL_LIMIT: Duration = Duration::from_secs(120);
/// It is waited for after so many rounds.
const WELL_EVERY: u32 = 5;

/// What was thrown, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How often each kind was thrown.
    pub(crate) thrown: BTreeMap<Kind, u32>,
    /// How many of them while another one was in force.
    pub(crate) overlapping: u32,
    /// Kinds that this cluster cannot have, and how often they were due.
    pub(crate) skipped: BTreeMap<Kind, u32>,
    /// Due, and not possible at that moment (the pod was not there, say).
    pub(crate) missed: u32,
    /// How long it took to be well again, each time it was waited for.
    pub(crate) well_after: Vec<Duration>,
    /// When it was not.
    pub(crate) unwell: Vec<String>,
}

impl Tally {
    pub(crate) fn total(&self) -> u32 {
        self.thrown.values().sum()
    }
}

struct InForce {
    kind: Kind,
    until: Instant,
    undo: Undo,
}

pub(crate) struct Storm<'a> {
    ground: Ground<'a>,
    random: Random,
    /// Kinds still to come before any comes again.
    bag: Vec<Kind>,
    in_force: Vec<InForce>,
    began: Instant,
    pub(crate) tally: Tally,
}

impl<'a> Storm<'a> {
    pub(crate) fn new(ground: Ground<'a>, seed: u64) -> Self {
        Self {
            ground,
            random: Random::new(seed),
            bag: Vec::new(),
            in_force: Vec::new(),
            began: Instant::now(),
            tally: Tally::default(),
        }
    }

    fn tell(&self, what: &str) {
        say(&format!("chaos {:8.2} s  {what}", self.began.elapsed().as_secs_f64()));
    }

    /// For so long; everything has ended then.
    pub(crate) fn rage(&mut self, length: Duration) {
        let mut round = 0;
        while self.began.elapsed() < length {
            round += 1;
            // 1, 2 or 3 faults on top of each other.
            let together = [1, 1, 1, 2, 2, 2, 2, 3, 3][self.random.below(9)];
            for _ in 0..together {
                self.throw();
                let pause = self.random.within(200, 1500);
                self.pass(Duration::from_millis(pause));
            }
            while !self.in_force.is_empty() {
                self.pass(Duration::from_millis(100));
            }
            let calm = self.random.within(500, 4000);
            self.pass(Duration::from_millis(calm));
            if round % WELL_EVERY == 0 {
                self.await_well();
            }
        }
    }

    /// Time passes, and faults end.
    fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let now = Instant::now();
            for over in self.in_force.extract_if(.., |fault| fault.until <= now).collect::<Vec<_>>() {
                self.tell(&format!("over: {}", over.kind));
                if let Err(failure) = self.ground.end(over.undo) {
                    // Two faults on one node, or a pod that was replaced: it has ended already.
                    self.tell(&format!("  {}", failure.lines().last().unwrap_or_default()));
                }
            }
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn next_kind(&mut self) -> Kind {
        if self.bag.is_empty() {
            self.bag = Kind::ALL.to_vec();
            self.random.shuffle(&mut self.bag);
        }
        self.bag.pop().expect("it was just filled")
    }

    fn throw(&mut self) {
        let kind = self.next_kind();
        // Drawn whatever the cluster can do: one seed, one story.
        let at_primary = self.random.percent(65);
        let other = self.random.below(self.ground.members.len());
        let (from, to) = kind.lasts();
        let lasts = Duration::from_millis(self.random.within(from * 1000, to * 1000));
        if kind.needs_sandbox() && self.ground.cluster.sandbox_dir().is_none() {
            *self.tally.skipped.entry(kind).or_default() += 1;
            return;
        }
        let primary = self.ground.primary();
        let member = if at_primary { primary.clone() } else { self.ground.members[other].clone() };
        match self.ground.begin(kind, &member) {
            Ok(undo) => {
                *self.tally.thrown.entry(kind).or_default() += 1;
                let overlaps = !self.in_force.is_empty();
                self.tally.overlapping += u32::from(overlaps);
                let role = if member == primary { "primary" } else { "replica" };
                let beside = if overlaps { ", beside another" } else { "" };
                self.tell(&format!("{kind} ({role} {member}, for {:.1} s{beside})", lasts.as_secs_f64()));
                self.in_force.push(InForce { kind, until: Instant::now() + lasts, undo });
            }
            Err(failure) => {
                self.tally.missed += 1;
                self.tell(&format!("not possible: {kind} ({member}): {}", failure.lines().last().unwrap_or_default()));
            }
        }
    }

    /// Without any fault it becomes well.
    pub(crate) fn await_well(&mut self) {
        match self.ground.await_well(WELL_LIMIT) {
            Ok(took) => {
                self.tell(&format!("well again after {:.1} s", took.as_secs_f64()));
                self.tally.well_after.push(took);
                match self.ground.ask_for_more_failovers() {
                    Ok(false) => {}
                    Ok(true) => {
                        self.tell("three failovers: another operator was started, which hears of none of them");
                    }
                    Err(failure) => self.tell(&format!("no more failovers: {failure}")),
                }
            }
            Err(failure) => {
                let (namespace, cluster) = (self.ground.namespace, self.ground.cluster);
                self.tell(&format!("NOT WELL: {failure}\n{}", cluster.explain(namespace)));
                self.tally.unwell.push(format!("at {:.0} s: {failure}", self.began.elapsed().as_secs_f64()));
            }
        }
    }

    /// The end: nothing is left of any fault.
    pub(crate) fn heal(&mut self) {
        for fault in std::mem::take(&mut self.in_force) {
            let _ = self.ground.end(fault.undo);
        }
        self.ground.heal_all();
        self.await_well();
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        // Also when a test fails in the middle: other scenarios share the cluster.
        for fault in std::mem::take(&mut self.in_force) {
            let _ = self.ground.end(fault.undo);
        }
    }
}
