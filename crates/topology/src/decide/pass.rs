//! One pass over one observation: what the rules have said so far.

use std::collections::BTreeSet;
use std::time::Duration;

use super::report;
use super::view::Member;
use crate::action::Action;
use crate::decision::{Decision, Event, Order, Refusal};
use crate::intent::{Durability, Intent};
use crate::member::MemberName;
use crate::memory::Kind;
use crate::observation::Observation;
use crate::plan::{Change, Course, Forecast};
use crate::record::Record;
use crate::time::Time;

/// Go on with the next rule?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Stop,
}

pub(super) struct Pass<'a> {
    pub(super) intent: &'a Intent,
    /// The record as it stands.
    pub(super) record: &'a Record,
    pub(super) seen: &'a Observation,
    pub(super) now: Time,
    /// The record as it shall be; its revision is set at the end.
    pub(super) next: Record,
    pub(super) operation: Option<String>,
    pub(super) hands_off: bool,
    /// Members that get no orders.
    pub(super) excluded: Vec<MemberName>,
    orders: Vec<Order>,
    refusals: Vec<Refusal>,
    events: Vec<Event>,
    look_again: Option<Duration>,
    ids: usize,
    /// Members whose data must be replaced, with the error (found by the repair rules, carried out by the seed rules).
    pub(super) broken: Vec<(MemberName, String)>,
    /// Orders belong to the plan under way: the record is not swapped for them.
    pub(super) under_plan: bool,
    /// What is under way.
    pub(super) course: Course,
    pub(super) changes: Vec<Change>,
    pub(super) released: BTreeSet<MemberName>,
    pub(super) forecast: Option<Forecast>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(intent: &'a Intent, record: &'a Record, seen: &'a Observation, now: Time) -> Self {
        Self {
            intent,
            record,
            seen,
            now,
            next: record.clone(),
            operation: None,
            hands_off: false,
            excluded: Vec::new(),
            orders: Vec::new(),
            refusals: Vec::new(),
            events: Vec::new(),
            look_again: None,
            ids: 0,
            broken: Vec::new(),
            under_plan: false,
            course: seen.course.clone(),
            changes: Vec::new(),
            released: BTreeSet::new(),
            forecast: None,
        }
    }

    /// All members of the intent, in its order.
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let seen = self.seen;
        self.intent.members.iter().map(move |intent| Member { intent, seen: seen.members.get(&intent.name) })
    }

    pub(super) fn member(&self, name: &MemberName) -> Option<Member<'a>> {
        self.members().find(|member| member.name() == name)
    }

    /// The member whose volume holds the data of the record's holder.
    pub(super) fn primary(&self) -> Option<Member<'a>> {
        let holder = self.record.holder.as_ref()?;
        self.members().find(|member| member.data_id() == Some(&holder.data_id))
    }

    /// The primary, when it runs and is open.
    pub(super) fn open_primary(&self) -> Option<Member<'a>> {
        self.primary().filter(|primary| primary.server().is_some_and(|server| !server.read_only))
    }

    /// The primary, when its server runs and it is open, or waits for its first acker before it opens (`Strict`).
    pub(super) fn lead(&self) -> Option<Member<'a>> {
        self.primary()
            .filter(|primary| primary.server().is_some_and(|server| !server.read_only || self.opens_with_an_acker()))
    }

    /// `Strict`, and nobody acknowledges in this epoch yet: accounts, copies and admissions come before the first write.
    pub(super) fn opens_with_an_acker(&self) -> bool {
        self.intent.replication
            && self.intent.durability == Durability::Strict
            && self.record.ackers.is_empty()
            && self.intent.candidates().count() > 1
    }

    pub(super) fn is_holder(&self, member: Member<'_>) -> bool {
        self.record.holder.as_ref().is_some_and(|holder| member.data_id() == Some(&holder.data_id))
    }

    /// Its acknowledgement lets a commit return, by the record as it stands.
    pub(super) fn is_acker(&self, member: Member<'_>) -> bool {
        member.data_id().is_some_and(|data_id| self.record.is_acker(data_id))
    }

    /// All members but the primary.
    pub(super) fn others(&self) -> Vec<Member<'a>> {
        self.members().filter(|member| !self.is_holder(*member)).collect()
    }

    /// It shall be restarted or taken away, and may be.
    pub(super) fn goes(&self, member: Member<'_>) -> bool {
        self.intent.vacate.contains(member.name()) && !self.is_kept(member)
    }

    /// It shall be taken away, and nobody else would acknowledge where commits wait for that whatever happens (`Strict`).
    pub(super) fn is_kept(&self, member: Member<'_>) -> bool {
        let (vacate, holder) = (&self.intent.vacate, self.record.holder.as_ref());
        let surplus = |name: &crate::MemberName| self.member(name).is_none_or(|other| other.intent.surplus);
        self.intent.durability == Durability::Strict
            && member.intent.surplus
            && holder.is_some_and(|holder| !vacate.contains(&holder.member))
            && self.record.ackers.values().any(|acker| acker.member == *member.name())
            && self.record.ackers.values().all(|acker| surplus(&acker.member))
    }

    /// It can take an order, and has none yet in this pass.
    pub(super) fn can_order(&mut self, member: Member<'_>) -> bool {
        let busy = member.seen.map_or(Duration::ZERO, |seen| seen.memory.not_before.since(self.now));
        if !busy.is_zero() {
            self.look_again_in(busy);
            return false;
        }
        member.free()
            && !member.intent.hands_off
            && !self.excluded.contains(member.name())
            && !self.orders.iter().any(|order| order.member == *member.name())
    }

    /// Gives an order.
    pub(super) fn order(&mut self, member: Member<'_>, action: Action) {
        self.orders.push(Order { member: member.name().clone(), action });
    }

    /// Gives an order, unless one of its kind was given to this member too short a time ago.
    pub(super) fn order_patiently(&mut self, member: Member<'_>, action: Action) -> bool {
        let wait = member.seen.map_or(Duration::ZERO, |seen| seen.memory.wait_until(&action, self.now));
        if wait.is_zero() {
            self.order(member, action);
            true
        } else {
            self.look_again_in(wait);
            false
        }
    }

    pub(super) fn ordered(&self, matches: impl Fn(&Action) -> bool) -> usize {
        self.orders.iter().filter(|order| matches(&order.action)).count()
    }

    pub(super) fn orders(&self) -> &[Order] {
        &self.orders
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    pub(super) fn event(&mut self, reason: &'static str, member: Member<'_>, message: String) {
        self.events.push(Event { warning: false, reason, message, member: Some(member.name().clone()) });
    }

    pub(super) fn warn(&mut self, reason: &'static str, member: Member<'_>, message: String) {
        self.events.push(Event { warning: true, reason, message, member: Some(member.name().clone()) });
    }

    pub(super) fn look_again_in(&mut self, wait: Duration) {
        self.look_again = Some(self.look_again.map_or(wait, |other| other.min(wait)));
    }

    pub(super) fn new_data_id(&mut self) -> crate::DataId {
        self.ids += 1;
        self.seen.new_data_id(self.ids)
    }

    /// How many orders of the last attempts of a kind failed, and with what.
    pub(super) fn attempts(member: Member<'_>, kind: Kind) -> u32 {
        member.seen.map_or(0, |seen| seen.memory.count(kind))
    }

    pub(super) fn finish(self) -> Decision {
        let report = report::report(&self, &self.refusals, self.operation.clone(), self.events.clone());
        let changed = self.next != *self.record;
        let record = (changed || !self.orders.is_empty() && !self.under_plan).then(|| {
            // A rule that starts a new epoch, or rebuilds, has raised it already.
            let revision = self.next.revision.max(self.record.revision + 1);
            Record { revision, ..self.next.clone() }
        });
        let stamp = record.as_ref().unwrap_or(self.record).stamp();
        let dropped = record.as_ref().is_some_and(|record| record.stamp() < self.record.stamp());
        debug_assert!(!dropped, "a decision never goes back");
        Decision {
            record,
            stamp,
            orders: self.orders,
            report,
            look_again: self.look_again,
            course: self.course,
            changes: self.changes,
            released: self.released,
            forecast: self.forecast,
        }
    }
}
