//! What must hold, whatever happens.

use std::fmt;

use crate::server::Entry;
use crate::world::World;

/// A law that was broken.
#[derive(Debug)]
pub struct Violation {
    /// The run.
    pub seed: u64,
    /// Which law.
    pub law: &'static str,
    /// How.
    pub how: String,
    /// What happened before, one line each.
    pub story: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}: {}", self.seed, self.law, self.how)?;
        let from = self.story.len().saturating_sub(150);
        for line in &self.story[from..] {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl World {
    #[expect(clippy::unnecessary_box_returns, reason = "every function here returns it so: it is rare and large")]
    pub(crate) fn broken(&self, law: &'static str, how: String) -> Box<Violation> {
        let mut story = self.story.clone();
        if self.settings.story {
            story.extend(self.portrait());
        }
        Box::new(Violation { seed: self.seed, law, how, story })
    }

    /// The record and every member, as they are.
    fn portrait(&self) -> Vec<String> {
        let record = &self.lease.record;
        let holder = record.holder.as_ref().map_or("nobody", |holder| holder.member.0.as_str());
        let ackers: Vec<&str> = record.ackers.values().map(|acker| acker.member.0.as_str()).collect();
        let solo = if record.solo { ", solo" } else { "" };
        let epoch = record.epoch;
        let mut lines =
            vec![format!("in the end: {holder} is primary of epoch {epoch}, ackers: {}{solo}", ackers.join(" "))];
        lines.extend(self.members.iter().map(|member| format!("  {}: {}", member.name, member.portrait())));
        lines
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
                return Err(self.broken("no acknowledged transaction is lost", how));
            }
        }
        Ok(())
    }

    /// Member `n` was opened: nobody else was in this epoch, and everything that was acknowledged is there.
    pub(crate) fn check_only_writer(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let Some(data_id) = self.members[n].disk.data_id.clone() else { return Ok(()) };
        let epoch = self.members[n].process.as_ref().map_or(0, |process| process.epoch);
        let opened = self.opened.entry(epoch).or_insert_with(|| data_id.clone());
        if *opened != data_id {
            let how = format!("db-{n} was opened in epoch {epoch}, which is another one's");
            return Err(self.broken("one writer in one epoch", how));
        }
        Ok(())
    }

    /// When all is well again, every member has what the primary has, in its order, and nothing else.
    pub(crate) fn check_equal(&self, primary: usize) -> Result<(), Box<Violation>> {
        let all = &self.members[primary].disk.content;
        for (n, member) in self.members.iter().enumerate() {
            let own = &member.disk.content;
            let equal = own.iter().zip(all).take_while(|(a, b)| a == b).count();
            if equal < own.len().min(all.len()) {
                let how = format!("db-{n} has {} where the primary db-{primary} has {}", own[equal], all[equal]);
                return Err(self.broken("members are equal when all is well", how));
            }
        }
        Ok(())
    }

    /// A commit was acknowledged to a client by member `n`.
    pub(crate) fn acknowledge(&mut self, n: usize, entry: Entry) -> Result<(), Box<Violation>> {
        let epoch = self.members[n].process.as_ref().map_or(0, |process| process.epoch);
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
            return Err(self.broken("no acknowledged transaction is lost", how));
        }
        let Some(data_id) = self.members[n].disk.data_id.clone() else { return Ok(()) };
        let writer = self.writers.entry(epoch).or_insert_with(|| data_id.clone());
        if *writer != data_id && self.settings.durability.promises() {
            let how = format!("db-{n} acknowledged {entry} in epoch {epoch}, which is another one's");
            return Err(self.broken("one writer in one epoch", how));
        }
        Ok(())
    }

    /// These went from member `n`'s disk.
    pub(crate) fn check_discard(&self, n: usize, entries: &[Entry]) -> Result<(), Box<Violation>> {
        self.alone(n, entries, |entry| self.survives(entry))
    }

    fn alone(&self, n: usize, gone: &[Entry], survives: impl Fn(Entry) -> bool) -> Result<(), Box<Violation>> {
        let acknowledged = |entry: Entry| self.acknowledged.iter().any(|(known, _)| *known == entry);
        let lost = gone.iter().find(|e| !self.given_up.contains(*e) && !survives(**e) && acknowledged(**e));
        let Some(entry) = lost else { return Ok(()) };
        let how = format!("db-{n} alone held {entry}");
        Err(self.broken("nobody is wiped who alone holds an acknowledged transaction", how))
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
            let known = primary.is_some_and(|primary| primary.holds(entry));
            let saved = own
                .saved
                .iter()
                .any(|e| e.server_id == entry.server_id && e.known < entry.sequence && entry.sequence <= e.last);
            if !known && !saved {
                let how = format!("{entry} of db-{n} was neither on the primary nor saved");
                return Err(self.broken("errant transactions are saved before they go", how));
            }
        }
        Ok(())
    }
}
