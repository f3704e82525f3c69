//! Operators: they look, decide, swap the record, and tell; they crash between any two of these, and a former one may
//! still act late.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use topology::action::Action;
use topology::member::{MemberName, MemberState};
use topology::memory::Memory;
use topology::observation::{Agent, Claim, Observation, Pod, Seen};
use topology::plan::{Outcome, PlanKind};
use topology::{Command, Course, Decision, Record, Time, decide};

use crate::laws::Violation;
use crate::mutant::Mutant;
use crate::server::Entry;
use crate::story::stamp;
use crate::world::{Message, Node, Stop, World};

/// An operator.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) id: u64,
    pub(crate) alive: bool,
    /// Acknowledged by strangers: its last report of the primary tells of them.
    told_of: Vec<(Entry, u64)>,
    /// ... and it has looked at that.
    pub(crate) heard_of: Vec<(Entry, u64)>,
    kept: Option<(Record, u64)>,
    /// When the record was last seen to be written by somebody else.
    renewed: Time,
    course: Course,
    memories: BTreeMap<MemberName, Memory>,
    heard: BTreeMap<MemberName, (Heard, Time)>,
    not_before: Time,
    /// It was stopped after it had decided: it will go on from there, whatever happened meanwhile.
    late: Option<(Box<Decision>, u64, Time)>,
    /// It will be stopped so.
    pub(crate) to_stop: bool,
    /// Its orders are on their way for so much longer.
    orders_take: Duration,
    pub(crate) well: bool,
    /// What stands in the way, by name, and what it tells people.
    pub(crate) refusals: Vec<&'static str>,
    pub(crate) health: String,
    pub(crate) operation: String,
}

#[derive(Debug, Clone)]
enum Heard {
    State(Box<MemberState>),
    Silent(Time),
}

impl Operator {
    /// It knows of the changes up to epoch `told` that they have been told.
    pub(crate) fn new(id: u64, told: u64) -> Self {
        Self {
            id,
            alive: true,
            told_of: Vec::new(),
            heard_of: Vec::new(),
            kept: None,
            renewed: Time::default(),
            course: Course { told, counted: told, ..Course::default() },
            memories: BTreeMap::new(),
            heard: BTreeMap::new(),
            not_before: Time(0),
            late: None,
            to_stop: false,
            orders_take: Duration::ZERO,
            well: false,
            refusals: Vec::new(),
            health: String::new(),
            operation: String::new(),
        }
    }
}

impl World {
    pub(crate) fn answer(
        &mut self,
        operator: u64,
        n: usize,
        command: &Command,
        result: Result<(), String>,
        last: bool,
    ) {
        let (now, name) = (self.now, self.members[n].name.clone());
        let state = result.is_ok().then(|| self.report(n));
        let Some(operator) = self.operators.iter_mut().find(|other| other.id == operator) else { return };
        let memory = operator.memories.entry(name.clone()).or_default();
        memory.end(command, result);
        if last {
            memory.back();
        }
        if let Some(state) = state {
            operator.heard.insert(name, (Heard::State(Box::new(state)), now));
        }
    }

    /// One step of one operator.
    pub(crate) fn run_operator(&mut self, i: usize) -> Result<(), Box<Violation>> {
        if let Some((decision, version, at)) = self.operators[i].late.clone() {
            if self.now >= at {
                self.operators[i].alive = false;
                self.tell(|| "a former operator acts late".to_owned());
                return self.swap_and_tell(i, &decision, version);
            }
            return Ok(());
        }
        self.listen(i);
        if self.now < self.operators[i].not_before || !self.reach(Node::Operator, Node::Api) {
            return Ok(());
        }
        let lease = (self.lease.record.clone(), self.lease.version);
        // The watch shows what others write.
        if self.limited() && self.operators[i].kept.as_ref().is_none_or(|(_, known)| *known != lease.1) {
            self.operators[i].kept = None;
            self.operators[i].renewed = self.now;
        }
        let (record, version) = self.operators[i].kept.get_or_insert(lease).clone();
        let observation = self.observe(i);
        let believed = self.believed(&record);
        let mut decision = decide(&self.intent, &believed, &observation, self.now);
        for refusal in &decision.report.refusals {
            *self.stats.refusals.entry(refusal.reason()).or_default() += 1;
        }
        self.operators[i].well = decision.report.health.ok && decision.orders.is_empty() && decision.record.is_none();
        let operator = &mut self.operators[i];
        operator.refusals = decision.report.refusals.iter().map(topology::refusal::Refusal::reason).collect();
        operator.health.clone_from(&decision.report.health.message);
        operator.operation = decision.report.operation.clone().unwrap_or_default();
        self.spoil(&record, &mut decision);
        if decision.record.is_some() || !decision.orders.is_empty() {
            let forced = match self.settings.stop {
                Some(Stop::BeforeSwap(at)) if at == self.stats.decisions => Some(false),
                Some(Stop::BeforeOrders(at)) if at == self.stats.decisions => Some(true),
                _ => None,
            };
            self.stats.decisions += 1;
            let by_chance = self.operators[i].to_stop.then(|| self.chance(2));
            if let Some(after_swap) = forced.or(by_chance) {
                return self.stop(i, decision, version, after_swap);
            }
        }
        self.swap_and_tell(i, &decision, version)
    }

    /// It is stopped in the middle of a decision, and goes on later.
    fn stop(&mut self, i: usize, decision: Decision, version: u64, after_swap: bool) -> Result<(), Box<Violation>> {
        let wait = Duration::from_millis(self.rng.random_range(100..4000));
        if after_swap {
            self.tell(|| "the operator is stopped after its swap; its orders come late".to_owned());
            self.operators[i].alive = false;
            self.operators[i].orders_take = wait;
            return self.swap_and_tell(i, &decision, version);
        }
        self.operators[i].late = Some((Box::new(decision), version, self.now.after(wait)));
        self.tell(|| "the operator is stopped in the middle; another one takes over".to_owned());
        let id = self.rng.random_range(2..u64::MAX);
        self.operators.push(Operator::new(id, self.told()));
        Ok(())
    }

    /// Counts an action. `true`: it was the operator's last.
    fn dies_after_this(&mut self, i: usize) -> bool {
        let last = self.settings.stop == Some(Stop::AfterAction(self.stats.actions));
        self.stats.actions += 1;
        if last {
            self.tell(|| "the operator dies".to_owned());
            self.operators[i].alive = false;
        }
        last
    }

    fn swap_and_tell(&mut self, i: usize, decision: &Decision, version: u64) -> Result<(), Box<Violation>> {
        let now = self.now;
        if let Some(record) = &decision.record {
            let same = self.lease.version == version || self.settings.mutant == Some(Mutant::NoCompareAndSwap);
            if !same || !self.reach(Node::Operator, Node::Api) {
                self.operators[i].kept = None;
                return Ok(());
            }
            if self.lease.record.epoch != record.epoch
                || self.lease.record.ackers != record.ackers
                || self.lease.record.solo != record.solo
            {
                self.tell(|| {
                    let holder = record.holder.as_ref().map_or("nobody", |holder| holder.member.0.as_str());
                    let ackers: Vec<_> = record.ackers.values().map(|acker| acker.member.0.as_str()).collect();
                    let ackers = if ackers.is_empty() { "none".to_owned() } else { ackers.join(" and ") };
                    let solo = if record.solo { ", solo" } else { "" };
                    format!("{} RECORD: {holder} is primary, ackers: {ackers}{solo}", stamp(record.stamp()))
                });
            }
            if record.epoch > self.lease.record.epoch {
                self.check_told(record, &decision.course)?;
                self.check_met_once(decision)?;
                self.begun.extend(decision.course.finishing.as_ref().map(|change| (change.epoch, change.lost.clone())));
            }
            self.strangers_are_known(i);
            self.lease.record = record.clone();
            self.lease.version += 1;
            self.operators[i].kept = Some((record.clone(), self.lease.version));
            if self.dies_after_this(i) {
                return Ok(());
            }
            if self.chance(60) {
                // The swap succeeded, and its answer is lost.
                self.operators[i].kept = None;
                return Ok(());
            }
        } else if self.lease.version != version {
            // Orders of a plan that is void by now go out all the same: agents refuse what is stale.
            self.operators[i].kept = None;
        }
        self.operators[i].course = decision.course.clone();
        let done = decision.changes.iter().filter(|change| change.outcome == Outcome::Done);
        self.told.extend(done.map(|change| (change.epoch, change.lost.clone())));
        self.restart_released(&decision.released);
        let mut by_member: BTreeMap<usize, Vec<Command>> = BTreeMap::new();
        for (member, command) in decision.commands() {
            if let Some(n) = self.index(member) {
                by_member.entry(n).or_default().push(command);
            }
        }
        for (n, commands) in by_member {
            let name = self.members[n].name.clone();
            self.operators[i].memories.entry(name).or_default().begin(&commands, now);
            let wait = Duration::from_millis(self.rng.random_range(0..300));
            let operator = self.operators[i].id;
            let at = now.after(wait + self.operators[i].orders_take);
            self.messages.push((at, Message::Orders { operator, member: n, commands }));
            if self.dies_after_this(i) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes in what agents report: now and then late.
    fn listen(&mut self, i: usize) {
        for n in 0..self.members.len() {
            let name = self.members[n].name.clone();
            let reached = self.members[n].up && self.reach(Node::Member(n), Node::Operator);
            if !reached {
                let since = match self.operators[i].heard.get(&name) {
                    Some((Heard::Silent(since), _)) => *since,
                    _ => self.now,
                };
                if self.holder() == Some(n) {
                    self.operators[i].told_of.clear();
                }
                self.operators[i].heard.insert(name, (Heard::Silent(since), self.now));
            } else if !self.chance(4) {
                let state = self.report(n);
                let now = self.now;
                if self.holder() == Some(n) {
                    let epoch = self.lease.record.epoch;
                    let tells = self.members[n].strangers > 0;
                    let here = self.uncovered.iter().filter(|(_, written)| tells && *written == epoch);
                    // (A report that nobody has looked at before the next one came is not heard of.)
                    self.operators[i].told_of = here.copied().collect();
                }
                self.operators[i].heard.insert(name, (Heard::State(Box::new(state)), now));
            }
        }
    }

    fn observe(&mut self, i: usize) -> Observation {
        let now = self.now;
        let draw = self.rng.random();
        let renewed = match self.settings.mutant {
            Some(Mutant::TakeAtOnce) => Time::default(),
            _ => self.operators[i].renewed,
        };
        let ups: Vec<bool> = self.members.iter().map(|member| member.up).collect();
        let names: Vec<MemberName> = self.members.iter().map(|member| member.name.clone()).collect();
        let operator = &mut self.operators[i];
        operator.heard_of.append(&mut operator.told_of);
        let mut members = BTreeMap::new();
        for (name, up) in names.into_iter().zip(ups) {
            let memory = operator.memories.entry(name.clone()).or_default();
            let agent = match operator.heard.get(&name) {
                Some((Heard::State(state), at)) => {
                    let mut state = state.clone();
                    let answered = at.before(Duration::from_millis(std::mem::take(&mut state.answer_age_ms)));
                    memory.observe(&state, answered, now);
                    Agent::Answers { state, at: *at, answered }
                }
                Some((Heard::Silent(since), _)) => Agent::Silent {
                    since: *since,
                    attempts: u32::try_from(now.since(*since).as_millis() / 300).unwrap_or(u32::MAX),
                    why: "no answer".to_owned(),
                },
                None => Agent::Silent { since: now, attempts: 0, why: "not yet".to_owned() },
            };
            let pod = if up { Pod::Running } else { Pod::Absent };
            members.insert(name, Seen { pod, claim: Claim::Bound, agent, memory: memory.clone() });
        }
        Observation { members, idle_claims: Vec::new(), draw, course: operator.course.clone(), renewed }
    }

    /// The record as the core is told it: broken on purpose by one mutant.
    fn believed(&self, record: &Record) -> Record {
        let holder = record.holder.as_ref().map(|holder| &holder.data_id);
        let primary = self.members.iter().find(|member| member.disk.data_id.as_ref() == holder);
        let down = primary.is_none_or(|primary| primary.process.is_none() || !primary.up);
        let ignores = self.settings.mutant == Some(Mutant::IgnoreSolo) && down;
        Record { solo: record.solo && !ignores, ..record.clone() }
    }

    /// Breaks a decision on purpose.
    fn spoil(&mut self, before: &Record, decision: &mut Decision) {
        let Some(mutant) = self.settings.mutant else { return };
        if mutant == Mutant::FollowOnce {
            let follows = |name: &MemberName| {
                self.members.iter().any(|member| member.name == *name && member.disk.source.is_some())
            };
            decision.orders.retain(|order| !matches!(order.action, Action::Follow { .. }) || !follows(&order.member));
            return;
        }
        let at_times = self.chance(2);
        let Some(record) = decision.record.as_mut() else { return };
        match mutant {
            Mutant::ForgetEpoch if record.epoch > before.epoch && before.epoch > 0 => {
                record.epoch = before.epoch;
                decision.stamp = record.stamp();
            }
            Mutant::SayNothing => record.begun.clear(),
            Mutant::ExpelWithoutMarker => {
                if let Some(plan) = &decision.course.plan
                    && let PlanKind::Expel { members, .. } = &plan.kind
                {
                    record.ackers.retain(|data_id, _| !members.contains_key(data_id));
                    decision.orders.clear();
                    decision.course.plan = None;
                }
            }
            Mutant::AdmitBeforeRecording
                if at_times
                    && record.epoch == before.epoch
                    && record.ackers.keys().any(|data_id| !before.ackers.contains_key(data_id)) =>
            {
                decision.record = None;
                decision.stamp = before.stamp();
            }
            _ => {}
        }
    }
}
