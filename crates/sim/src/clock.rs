//! Without a promise time stands between two writers: agents renew the record, ask each other, and close what nobody confirms.

use std::collections::BTreeSet;
use std::time::Duration;

use topology::Time;
use topology::intent::Durability;
use topology::member::MemberName;

use crate::laws::{Law, Violation};
use crate::mutant::Mutant;
use crate::server::Process;
use crate::world::{Node, World};

/// What a member's agent knows of its own time, and of what it confirmed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// When the last proof was asked for that nobody else may be primary.
    pub(crate) proven: Time,
    /// Whom to ask.
    candidates: BTreeSet<MemberName>,
    /// No part in a failover until then.
    pub(crate) lent: Time,
    /// Confirms nothing until then.
    pub(crate) taken: Time,
    /// It was closed for want of time.
    lapsed: Option<Time>,
}

/// A fence is followed by a decision within.
const DECIDED_WITHIN: Duration = Duration::from_secs(10);
/// Opened by its own agent where nobody else does.
const PATIENCE: Duration = Duration::from_secs(5);

impl World {
    /// Is a primary's time limited?
    pub(crate) fn limited(&self) -> bool {
        matches!(self.settings.durability, Durability::Available { .. })
    }

    fn limit(&self) -> Duration {
        self.intent.failover.timeout
    }

    fn is_open(&self, n: usize) -> bool {
        self.members[n].up && self.members[n].process.as_ref().is_some_and(|p| p.answers() && !p.read_only)
    }

    /// Writes into the record that its holder is there. `None`: the API is not reached; `false`: somebody else is the holder.
    fn renew(&mut self, n: usize) -> Option<bool> {
        if !self.reach(Node::Member(n), Node::Api) {
            return None;
        }
        let holder = self.lease.record.holder.as_ref().map(|holder| &holder.data_id);
        if holder.is_none() || holder != self.members[n].disk.data_id.as_ref() {
            return Some(false);
        }
        let candidates = self.lease.record.candidates.clone();
        self.lease.record.renewed_with = Some(candidates.clone());
        self.lease.record.renewed_for = Some(self.limit());
        self.lease.version += 1;
        let clock = &mut self.members[n].clock;
        (clock.candidates, clock.proven) = (candidates, self.now);
        Some(true)
    }

    /// Before a server is opened. `false`: it must not be.
    pub(crate) fn begin_time(&mut self, n: usize) -> bool {
        if !self.limited() {
            return true;
        }
        self.members[n].clock.lapsed = None;
        self.renew(n) == Some(true)
    }

    /// Told to take part in a failover. `false`: it confirmed to a primary that it does not.
    pub(crate) fn take_part(&mut self, n: usize) -> bool {
        if !self.limited() {
            return true;
        }
        if self.members[n].clock.lent > self.now && self.settings.mutant != Some(Mutant::ConfirmAndTakePart) {
            return false;
        }
        self.members[n].clock.taken = self.now.after(DECIDED_WITHIN);
        true
    }

    fn confirms(&mut self, n: usize, asking: usize) -> bool {
        let there = self.members[n].up && self.reach(Node::Member(n), Node::Member(asking));
        let member = &self.members[n];
        let knows_better = member.disk.accepted.epoch > self.members[asking].disk.accepted.epoch;
        if !there || knows_better || self.is_open(n) || member.fence.is_some() || member.clock.taken > self.now {
            return false;
        }
        let until = self.now.after(self.limit());
        let clock = &mut self.members[n].clock;
        clock.lent = clock.lent.max(until);
        true
    }

    /// An agent that was started again does not know what the one before it confirmed.
    pub(crate) fn forget_time(&mut self, n: usize) {
        self.members[n].clock = Clock { lent: self.now.after(self.limit()), ..Clock::default() };
    }

    /// Time goes by in which nothing else happens than that primaries are confirmed.
    pub(crate) fn confirm_all(&mut self) {
        for member in &mut self.members {
            member.clock.proven = self.now;
        }
    }

    /// An agent's step.
    pub(crate) fn mind_the_clock(&mut self, n: usize) -> Result<(), Box<Violation>> {
        if !self.limited() {
            return Ok(());
        }
        let Some(process) = self.members[n].process.as_ref().filter(|process| !process.read_only) else {
            return self.reopen(n);
        };
        let frozen = !process.answers();
        let age = self.now.since(self.members[n].clock.proven);
        if age >= self.limit() * 2 / 3 {
            if self.settings.mutant != Some(Mutant::NeverClose) {
                self.tell(|| format!("db-{n} closes itself: nobody confirms it"));
                self.members[n].clock.lapsed = Some(self.now);
                self.close(n);
            }
            return Ok(());
        }
        if age < self.limit() / 3 || frozen {
            return Ok(());
        }
        match self.renew(n) {
            Some(true) => {}
            Some(false) => {
                self.tell(|| format!("db-{n} steps down by itself"));
                self.close(n);
            }
            None => {
                let asked: Vec<usize> =
                    self.members[n].clock.candidates.clone().iter().filter_map(|name| self.index(name)).collect();
                // Each of them is asked, whatever the others say.
                let confirmed: Vec<bool> = asked.into_iter().map(|other| self.confirms(other, n)).collect();
                if confirmed.into_iter().all(|confirmed| confirmed) {
                    self.members[n].clock.proven = self.now;
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, n: usize) {
        let member = &mut self.members[n];
        member.sequence += 1;
        if member.disk.waiting > 0 || !member.process.as_ref().is_some_and(Process::answers) {
            member.process = None;
        } else if let Some(process) = member.process.as_mut() {
            process.read_only = true;
        }
    }

    /// Whoever decides opens it again; where nobody does, its own agent.
    fn reopen(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let Some(lapsed) = self.members[n].clock.lapsed else { return Ok(()) };
        let answers = self.members[n].process.as_ref().is_some_and(Process::answers);
        if self.now.since(lapsed) < PATIENCE || !answers || !self.reach(Node::Member(n), Node::Api) {
            return Ok(());
        }
        self.members[n].clock.lapsed = None;
        if self.renew(n) != Some(true) || self.lease.record.stamp() < self.members[n].disk.accepted {
            return Ok(());
        }
        let record = self.lease.record.next();
        self.lease.record = record.clone();
        self.lease.version += 1;
        self.tell(|| format!("db-{n} opens again by itself"));
        let member = &mut self.members[n];
        member.disk.accepted = record.stamp();
        member.disk.source = None;
        if let Some(process) = member.process.as_mut() {
            process.read_only = false;
            process.epoch = record.epoch;
        }
        self.check_only_writer(n)
    }

    /// Two that take writes at one moment.
    pub(crate) fn check_one_at_a_time(&self) -> Result<(), Box<Violation>> {
        let open: Vec<usize> = (0..self.members.len()).filter(|n| self.is_open(*n)).collect();
        if let [one, other, ..] = open[..] {
            let how = format!("db-{one} and db-{other} both take writes in epoch {}", self.lease.record.epoch);
            return Err(self.broken(Law::OneAtATime, None, how));
        }
        Ok(())
    }
}
