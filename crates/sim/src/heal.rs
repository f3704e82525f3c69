//! The faults are over: the topology is well again within so many passes, by itself wherever the data is there.

use std::time::Duration;

use crate::laws::{Law, Violation};
use crate::server::Entry;
use crate::world::{Member, World};

/// Within so many passes (a tenth of a second each) all is well.
const LIMIT: u32 = 1500;
/// What a person is asked stands for so many passes before it is answered.
const PERSON_AFTER: u32 = 100;
/// A failover that is tried once more and finds nobody takes a moment, in which nothing is asked.
const FORGOTTEN_AFTER: u32 = 20;
/// Refusals that only a person's word ends.
const ASKING: [&str; 4] = ["PrimaryVolumeLost", "HistoriesDiverge", "SoloPrimary", "AckersMissing"];
/// Refusals that end by themselves.
const PASSING: [&str; 2] = ["TooManyChanges", "CoolingDown"];

impl World {
    /// Faults are over: all is well again within a bound, and everything that was acknowledged is there.
    pub(crate) fn heal(&mut self) -> Result<(), Box<Violation>> {
        self.end_faults();
        let mut unequal = None;
        let (mut asked_for, mut silent_for) = (0, 0);
        for pass in 1..=LIMIT {
            self.step()?;
            if pass > 20 && pass % 10 == 0 && self.is_well() {
                unequal = self.check_end()?;
                if unequal.is_none() {
                    self.stats.healed_within = (pass, pass.into());
                    self.stats.given_up = self.given_up.len() as u64;
                    return Ok(());
                }
            }
            if pass > 600 && pass % 100 == 0 {
                // What waits for minutes (too many changes, patience with re-seeding) gets them.
                self.now = self.now.after(Duration::from_secs(120));
                self.confirm_all();
            }
            let asked = self.asked();
            silent_for = if asked.is_some() { 0 } else { silent_for + 1 };
            asked_for = if silent_for > FORGOTTEN_AFTER { 0 } else { asked_for + u32::from(asked.is_some()) };
            if let Some(asked) = asked
                && asked_for == PERSON_AFTER
            {
                if self.members.iter().all(|member| member.disk.data_id.is_none()) {
                    // Backups are another matter.
                    self.tell(|| "no disk holds data any more".to_owned());
                    *self.stats.persons.entry("no data left").or_default() += 1;
                    return Ok(());
                }
                self.answer_in_person(asked)?;
            }
        }
        let how = self.operators.last().map(|operator| format!("{} ({})", operator.health, operator.operation));
        Err(unequal.unwrap_or_else(|| self.broken(Law::Healthy, None, how.unwrap_or_default())))
    }

    fn is_well(&self) -> bool {
        self.operators.last().is_some_and(|operator| operator.well) && self.messages.is_empty()
    }

    /// All acknowledged transactions are there; `Some`: and members differ.
    fn check_end(&mut self) -> Result<Option<Box<Violation>>, Box<Violation>> {
        let Some(primary) = self.holder() else {
            return Err(self.broken(Law::Healthy, None, "no primary".to_owned()));
        };
        self.check_opened(primary)?;
        Ok(self.check_all_told().and_then(|()| self.check_equal(primary)).err())
    }

    /// A refusal that asks for a person.
    fn asked(&self) -> Option<&'static str> {
        let reasons = &self.operators.last()?.refusals;
        // Where time helps, nobody is asked.
        let passes = reasons.iter().any(|name| PASSING.contains(name));
        ASKING.into_iter().filter(|_| !passes).find(|name| reasons.contains(name))
    }

    /// A person names the member that has most. Nobody is asked while the primary's data is there, nor while the ackers
    /// have everything, are there, and root has written on none of them.
    fn answer_in_person(&mut self, asked: &'static str) -> Result<(), Box<Violation>> {
        let record = &self.lease.record;
        let holder_lost = record.holder.as_ref().is_none_or(|holder| self.lost.contains(&holder.data_id));
        let ackers_lost = record.ackers.keys().any(|data_id| self.lost.contains(data_id));
        let holds_more = |member: &Member| {
            let acker = member.disk.data_id.as_ref().is_some_and(|data_id| record.is_acker(data_id));
            acker && self.by_root.iter().any(|entry| member.disk.holds(*entry))
        };
        let errant = self.members.iter().any(holds_more);
        if !(holder_lost && (record.solo || ackers_lost || errant)) {
            let how = format!("{asked} stands although the data is there");
            return Err(self.broken(Law::PersonAskedRightly, None, how));
        }
        let has = |n: usize, entry: Entry| self.members[n].disk.can_have(entry);
        let held = |n: usize| self.acknowledged.iter().filter(|(entry, _)| has(n, *entry)).count();
        // Nobody who lacks what it wrote itself: it would be refused (`NumbersUsedTwice`).
        let ahead = |n: usize| {
            let (own, id) = (&self.members[n].disk, self.members[n].server_id);
            let logs = |member: &Member| {
                [&member.disk.content, &member.disk.relay, &member.disk.aside].map(Vec::clone).concat()
            };
            let last = own.content.iter().filter(|e| e.server_id == id).map(|e| e.sequence).max().unwrap_or(0);
            self.members.iter().flat_map(logs).any(|e| e.server_id == id && e.sequence > last)
        };
        let best = (0..self.members.len())
            .filter(|n| self.members[*n].disk.data_id.is_some())
            .max_by_key(|n| (!ahead(*n), held(*n)));
        let Some(best) = best else { return Ok(()) };
        let lacks: Vec<_> = self.acknowledged.iter().map(|(entry, _)| *entry).filter(|e| !has(best, *e)).collect();
        self.tell(|| format!("a person is asked ({asked}) and says: the data of db-{best} counts"));
        self.given_up.extend(lacks);
        self.intent.use_data_of = Some(self.members[best].name.clone());
        *self.stats.persons.entry(asked).or_default() += 1;
        Ok(())
    }
}
