//! What must hold, whatever happens.

use std::fmt;

use topology::{Course, Decision, Record};

use crate::server::{Disk, Entry, Io, Process};
use crate::world::{Member, Node, Settings, World};

/// What must hold (docs/failover.md, section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// What was acknowledged is on every later primary, while a disk that holds it survives.
    NothingLost,
    /// In one epoch one member is opened.
    OneWriter,
    /// Once another member holds the record, the former holder cannot return a commit to anybody.
    FormerIsMute,
    /// Nobody's data or relay log goes that alone holds an acknowledged transaction.
    NeverTheLastCopy,
    /// What the primary has not is saved before it goes.
    ErrantSaved,
    /// With faults over all is well within a bounded number of passes.
    Healthy,
    /// Then every member has the same, in the same order.
    Equal,
    /// A person is asked only where data is gone.
    PersonAskedRightly,
    /// Every change of primary is told, whoever decided it and whatever became of them, and with it what it lost.
    ChangeTold,
    /// A request for a switchover is met once.
    MetOnce,
    /// Without a promise: what was lost is told.
    LossTold,
    /// Without a promise: two members never take writes at one moment.
    OneAtATime,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingLost => "no acknowledged transaction is lost",
            Self::OneWriter => "one writer in one epoch",
            Self::FormerIsMute => "a former primary cannot acknowledge anything",
            Self::NeverTheLastCopy => "nobody is wiped who alone holds an acknowledged transaction",
            Self::ErrantSaved => "errant transactions are saved before they go",
            Self::Healthy => "healthy when faults are over",
            Self::Equal => "members are equal when all is well",
            Self::PersonAskedRightly => "a person is asked only where data is lost",
            Self::ChangeTold => "every change of primary is told",
            Self::MetOnce => "a request is met once",
            Self::LossTold => "what may be lost is told",
            Self::OneAtATime => "one member at a time takes writes",
        })
    }
}

/// A law that was broken.
#[derive(Debug)]
pub struct Violation {
    /// The run.
    pub settings: Settings,
    /// Which law.
    pub law: Law,
    /// How.
    pub how: String,
    /// What happened before, one line each; kept only where [`crate::Settings::story`] is set.
    pub story: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { seed, stop, mutant, .. } = &self.settings;
        write!(f, "seed {seed}")?;
        if let Some(stop) = stop {
            write!(f, ", the operator stopped {stop:?}")?;
        }
        if let Some(mutant) = mutant {
            write!(f, ", {mutant:?}")?;
        }
        writeln!(f, ": {}: {}", self.law, self.how)?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl World {
    /// `about`: the transaction whose own story is told at the end.
    #[expect(clippy::unnecessary_box_returns, reason = "every function here returns it so: it is rare and large")]
    pub(crate) fn broken(&self, law: Law, about: Option<Entry>, how: String) -> Box<Violation> {
        Box::new(Violation { settings: self.settings.clone(), law, how, story: self.whole_story(about) })
    }

    /// Some disk still has it.
    fn survives(&self, entry: Entry) -> bool {
        self.members.iter().any(|member| member.disk.holds(entry))
    }

    /// A primary was opened: everything that was acknowledged is there.
    pub(crate) fn check_opened(&self, n: usize) -> Result<(), Box<Violation>> {
        let epoch = self.members[n].process.as_ref().map_or(0, |process| process.epoch);
        // One that opens although its term is over (its agent had the record's word before) cannot return a commit: that law is
        // looked after where commits return.
        if !self.settings.durability.promises() || epoch < self.lease.record.epoch {
            return Ok(());
        }
        let content = &self.members[n].disk.content;
        for &(entry, _) in self.acknowledged.iter().rev() {
            if content.iter().rev().any(|own| *own == entry) {
                continue;
            }
            if self.survives(entry) && !self.given_up.contains(&entry) {
                let how = format!("db-{n} was opened without {entry}, which was acknowledged");
                return Err(self.broken(Law::NothingLost, Some(entry), how));
            }
        }
        Ok(())
    }

    /// A new epoch is about to be recorded. Without a promise its primary may lack what was acknowledged, and that is told.
    pub(crate) fn check_told(&mut self, next: &Record, course: &Course) -> Result<(), Box<Violation>> {
        if self.settings.durability.promises() {
            return Ok(());
        }
        let data_id = next.holder.as_ref().map(|holder| &holder.data_id);
        let Some(new) = self.members.iter().find(|member| member.disk.data_id.as_ref() == data_id) else {
            return Ok(());
        };
        let acknowledged = self.acknowledged.iter().map(|(entry, _)| *entry);
        let lacks = |entry: &Entry| !new.disk.holds(*entry) && !self.given_up.contains(entry);
        let lacks: Vec<Entry> = acknowledged.filter(lacks).collect();
        let told = course.finishing.as_ref().is_some_and(|change| !change.lost.is_empty());
        if let Some(entry) = lacks.first().filter(|_| !told) {
            let how = format!("{} takes over without {entry}, and nobody is told", new.name);
            return Err(self.broken(Law::LossTold, Some(*entry), how));
        }
        self.given_up.extend(lacks);
        Ok(())
    }

    /// A new epoch is about to be recorded: nobody asked for it whose request was met before.
    pub(crate) fn check_met_once(&mut self, decision: &Decision) -> Result<(), Box<Violation>> {
        let change = decision.course.finishing.as_ref();
        let Some(id) = change.and_then(|change| change.cause.request.clone()) else { return Ok(()) };
        if self.met.insert(id.clone()) {
            return Ok(());
        }
        Err(self.broken(Law::MetOnce, None, format!("request {id} is met again")))
    }

    /// The last epoch whose beginning was told.
    pub(crate) fn told(&self) -> u64 {
        self.told.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// When all is well again, all changes have been told.
    pub(crate) fn check_all_told(&self) -> Result<(), Box<Violation>> {
        match self.begun.iter().find(|(epoch, lost)| self.told.get(epoch) != Some(lost)) {
            None => Ok(()),
            Some((epoch, _)) => {
                let how = format!("nobody is told how epoch {epoch} began, or not all of it");
                Err(self.broken(Law::ChangeTold, None, how))
            }
        }
    }

    /// Member `n` was opened: nobody else was in this epoch, and everything that was acknowledged is there.
    pub(crate) fn check_only_writer(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let Some(data_id) = self.members[n].disk.data_id.clone() else { return Ok(()) };
        let epoch = self.members[n].process.as_ref().map_or(0, |process| process.epoch);
        let opened = self.opened.entry(epoch).or_insert_with(|| data_id.clone());
        if *opened != data_id {
            let how = format!("db-{n} was opened in epoch {epoch}, which is another one's");
            return Err(self.broken(Law::OneWriter, None, how));
        }
        Ok(())
    }

    /// When all is well again, every member has what the primary has, in its order, and nothing else.
    pub(crate) fn check_equal(&self, primary: usize) -> Result<(), Box<Violation>> {
        let all = &self.members[primary].disk.content;
        for (n, member) in self.members.iter().enumerate() {
            let own = &member.disk.content;
            // Without a promise numbers may be given out twice (docs/failover.md, section 2): then they are all that can be equal.
            let promises = self.settings.durability.promises();
            let same = |a: &Entry, b: &Entry| if promises { a == b } else { a.gtid() == b.gtid() };
            let equal = own.iter().zip(all).take_while(|(a, b)| same(a, b)).count();
            if equal < own.len().min(all.len()) {
                let how = format!("db-{n} has {} where the primary db-{primary} has {}", own[equal], all[equal]);
                return Err(self.broken(Law::Equal, Some(own[equal]), how));
            }
        }
        Ok(())
    }

    /// A commit was acknowledged to a client by member `n`.
    pub(crate) fn acknowledge(&mut self, n: usize, entry: Entry) -> Result<(), Box<Violation>> {
        let epoch = self.members[n].process.as_ref().map_or(0, |process| process.epoch);
        self.trace(entry, || format!("acknowledged to its client by db-{n}, opened in epoch {epoch}"));
        self.acknowledged.push((entry, epoch));
        self.stats.acknowledged += 1;
        let holder = self.lease.record.holder.as_ref().filter(|_| self.lease.record.epoch > epoch);
        let successor =
            self.members.iter().find(|m| holder.is_some_and(|h| m.disk.data_id.as_ref() == Some(&h.data_id)));
        if let Some(successor) = successor.filter(|successor| !successor.disk.holds(entry))
            && self.settings.durability.promises()
        {
            let how = format!(
                "db-{n} acknowledged {entry} in epoch {epoch} after {} had taken over without it",
                successor.name
            );
            return Err(self.broken(Law::NothingLost, Some(entry), how));
        }
        let Some(data_id) = self.members[n].disk.data_id.clone() else { return Ok(()) };
        let writer = self.writers.entry(epoch).or_insert_with(|| data_id.clone());
        if *writer != data_id && self.settings.durability.promises() {
            let how = format!("db-{n} acknowledged {entry} in epoch {epoch}, which is another one's");
            return Err(self.broken(Law::OneWriter, None, how));
        }
        Ok(())
    }

    /// These went from member `n`'s disk.
    pub(crate) fn check_discard(&mut self, n: usize, entries: &[Entry], how: &str) -> Result<(), Box<Violation>> {
        for entry in entries {
            self.trace(*entry, || format!("{how} of db-{n}"));
        }
        self.alone(n, entries, |entry| self.survives(entry))
    }

    fn alone(&self, n: usize, gone: &[Entry], survives: impl Fn(Entry) -> bool) -> Result<(), Box<Violation>> {
        if !self.settings.durability.promises() {
            return Ok(()); // What the new primary has not is saved, and seeded afresh: that law is another one.
        }
        let acknowledged = |entry: Entry| self.acknowledged.iter().any(|(known, _)| *known == entry);
        let lost = gone.iter().find(|e| !self.given_up.contains(*e) && !survives(**e) && acknowledged(**e));
        let Some(entry) = lost else { return Ok(()) };
        let how = format!("db-{n} alone held {entry}");
        Err(self.broken(Law::NeverTheLastCopy, Some(*entry), how))
    }

    /// Could a commit return to a client on member `n` now, or as soon as a replica connects?
    fn could_acknowledge(&self, n: usize) -> bool {
        let member = &self.members[n];
        let Some(process) = member.process.as_ref().filter(|process| process.answers() && !process.read_only) else {
            return false;
        };
        let would_acknowledge = |(other, replica): (usize, &Member)| {
            let let_in =
                process.connected.contains(&replica.server_id) || !member.disk.locked.contains(&replica.server_id);
            let receives = |p: &Process| p.answers() && matches!(p.io, Io::Yes | Io::Connecting);
            replica.disk.source == Some(n)
                && replica.process.as_ref().is_some_and(receives)
                && let_in
                && self.reach(Node::Member(n), Node::Member(other))
        };
        !process.waits || self.members.iter().enumerate().any(would_acknowledge)
    }

    /// Whoever is not the holder any more cannot return a commit, wherever it is and whatever it knows.
    pub(crate) fn check_former_primaries(&self) -> Result<(), Box<Violation>> {
        let holder = self.holder();
        let former = (0..self.members.len()).filter(|n| Some(*n) != holder && self.lease.record.holder.is_some());
        let Some(loud) = former.into_iter().find(|n| self.could_acknowledge(*n)) else { return Ok(()) };
        let epoch = self.members[loud].process.as_ref().map_or(0, |process| process.epoch);
        let how = format!("db-{loud}, opened in epoch {epoch}, could acknowledge in epoch {}", self.lease.record.epoch);
        Err(self.broken(Law::FormerIsMute, None, how))
    }

    /// Member `n`'s data is about to be replaced by this.
    pub(crate) fn check_wipe(&self, n: usize, copy: &[Entry]) -> Result<(), Box<Violation>> {
        let own = &self.members[n].disk;
        let all = own.content.iter().chain(&own.relay).chain(&own.aside);
        let gone: Vec<Entry> = all.copied().filter(|entry| !copy.contains(entry)).collect();
        let others = || self.members.iter().enumerate().filter(|(other, _)| *other != n);
        self.alone(n, &gone, |entry| others().any(|(_, member)| member.disk.holds(entry)))?;
        let primary = self.holder().map(|holder| &self.members[holder].disk);
        for entry in gone.into_iter().filter(|entry| own.content.contains(entry)) {
            let promises = self.settings.durability.promises();
            // Without a promise numbers may be given out twice: one that was used again tells nothing any more.
            let used_again = |disk: &Disk| {
                disk.content.iter().any(|e| e.server_id == entry.server_id && e.sequence >= entry.sequence)
            };
            let known = primary.is_some_and(|primary| primary.holds(entry) || !promises && used_again(primary));
            // By whomever: what was saved stays on the volume, and a copy has no binary log of what came with it.
            let saved = self
                .members
                .iter()
                .flat_map(|member| &member.disk.saved)
                .any(|e| e.server_id == entry.server_id && e.known < entry.sequence && entry.sequence <= e.last);
            // Another one that has it is asked in its turn. (A copy has no binary log of what came with it, and cannot save that.)
            let elsewhere = || others().any(|(_, member)| member.disk.content.contains(&entry));
            if !known && !saved && !elsewhere() {
                let how = format!("{entry} of db-{n} was neither on the primary nor saved");
                return Err(self.broken(Law::ErrantSaved, Some(entry), how));
            }
        }
        Ok(())
    }
}
