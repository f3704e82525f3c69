//! Somebody who is no member acknowledges: commits return that no member has. What it acknowledged before it was seen no promise covers
//! (docs/failover.md, section 4); from the first swap of an operator that has heard of it, everything does.

use crate::world::World;

impl World {
    /// A replica of nobody's connects to member `n`, acknowledges what waits there, and is sent away. `false`: nothing waits there.
    pub(crate) fn stranger(&mut self, n: usize) -> bool {
        let epoch = self.lease.record.epoch;
        // (A former primary that nobody has closed yet would return commits to it, too. That is not covered at all.)
        if self.holder() != Some(n) || !self.settings.durability.promises() {
            return false;
        }
        let member = &mut self.members[n];
        let primary =
            member.process.as_ref().is_some_and(|p| p.answers() && !p.read_only && p.waits && p.epoch == epoch);
        if !primary || member.disk.waiting == 0 {
            return false;
        }
        let from = member.disk.content.len() - member.disk.waiting;
        member.disk.waiting = 0;
        member.strangers += 1;
        let returned = member.disk.content[from..].to_vec();
        for entry in returned {
            self.trace(entry, || format!("acknowledged to db-{n} by a stranger"));
            match self.members[n].marker.as_mut().filter(|marker| marker.1 == entry) {
                Some(marker) => marker.2 = true,
                None => self.uncovered.push((entry, epoch)),
            }
        }
        true
    }

    /// Operator `i` has heard of it and swapped the record: the promise covers again what clients have.
    pub(crate) fn strangers_are_known(&mut self, i: usize) {
        for (entry, epoch) in std::mem::take(&mut self.operators[i].heard_of) {
            let before = self.uncovered.len();
            self.uncovered.retain(|(other, _)| *other != entry);
            // What is gone by then, or was left behind by a change of primary that was decided before, was never covered.
            let covered = self.uncovered.len() < before && epoch == self.lease.record.epoch;
            if covered && self.members.iter().any(|member| member.disk.holds(entry)) {
                self.acknowledged.push((entry, epoch));
                self.stats.acknowledged += 1;
            }
        }
    }
}
