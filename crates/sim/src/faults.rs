//! What goes wrong.

use std::collections::BTreeSet;

use rand::Rng as _;
use topology::MemberName;
use topology::intent::{HandsOff, Request};

use crate::server::{Disk, Hang};
use crate::world::{More, Node, World};

impl World {
    fn count(&mut self, kind: &'static str) {
        *self.stats.faults.entry(kind).or_default() += 1;
    }

    /// Something goes wrong, or is mended.
    pub(crate) fn fault(&mut self) {
        let n = self.rng.random_range(0..self.members.len());
        // The primary is the most interesting one.
        let holder = self.lease.record.holder.as_ref().and_then(|holder| self.index(&holder.member));
        let n = if self.chance(2) { holder.unwrap_or(n) } else { n };
        let settings = self.settings.more;
        let more = settings.filter(|_| self.chance(5));
        let kind = match more {
            Some(More::DiskLost) => 97,
            Some(More::OperatorStopped) => 90,
            Some(More::RootWrites) => 98,
            Some(More::People) => return self.people(n),
            None => self.rng.random_range(0..100),
        };
        match kind {
            0..20 => {
                self.tell(|| format!("FAULT the server of db-{n} is killed"));
                self.count("server killed");
                self.crash(n);
            }
            20..30 => {
                self.tell(|| format!("FAULT the pod of db-{n} is killed, and comes back"));
                self.count("pod killed");
                self.crash(n);
                self.restart_agent(n);
            }
            30..36 => {
                self.tell(|| format!("FAULT the node of db-{n} is off"));
                self.count("node off");
                self.crash(n);
                self.restart_agent(n);
                self.members[n].up = false;
            }
            36..46 => {
                if let Some(off) = (0..self.members.len()).find(|n| !self.members[*n].up) {
                    self.tell(|| format!("the node of db-{off} is back"));
                    self.members[off].up = true;
                }
            }
            46..58 => {
                let other = match self.rng.random_range(0..10) {
                    0..3 => Node::Operator,
                    3..5 => Node::Api,
                    5 => Node::Clients,
                    _ => Node::Member((n + self.rng.random_range(1..self.members.len())) % self.members.len()),
                };
                self.cut(Node::Member(n), other);
            }
            58..62 => {
                self.tell(|| format!("FAULT db-{n} is cut off from everything"));
                self.count("cut off");
                for other in 0..self.members.len() {
                    if other != n {
                        self.cuts.insert((Node::Member(n.min(other)), Node::Member(n.max(other))));
                    }
                }
                for other in [Node::Operator, Node::Api] {
                    self.cuts.insert((Node::Member(n), other));
                }
            }
            62..74 => {
                self.tell(|| "the network is whole again".to_owned());
                self.cuts.clear();
            }
            74..79 => {
                self.count("API away");
                self.cut(Node::Operator, Node::Api);
            }
            79..84 => {
                self.tell(|| format!("FAULT the server of db-{n} is frozen or thawed"));
                self.count("server frozen");
                let answer = self.members[n].process.as_ref().filter(|p| p.answers()).map(|p| self.server(n, p));
                let since = self.now;
                if let Some(process) = self.members[n].process.as_mut() {
                    process.hangs = if process.hangs.is_some() { None } else { Some(Hang { since, answer }) };
                }
            }
            84..90 => {
                self.tell(|| "FAULT the operator is killed".to_owned());
                self.count("operator killed");
                for operator in &mut self.operators {
                    operator.alive = false;
                }
            }
            90..95 => {
                self.count("operator stopped between two actions");
                if let Some(operator) = self.operators.last_mut() {
                    operator.to_stop = true;
                }
            }
            95 => {
                if self.stranger(n) {
                    self.tell(|| format!("FAULT a stranger acknowledges to db-{n}"));
                    self.count("stranger acknowledges");
                }
            }
            96 => {
                let target = self.rng.random_range(0..self.members.len());
                self.tell(|| format!("db-{target} is wanted as primary"));
                self.count("switchover asked for");
                self.intent.wanted_primary = self.members[target].name.clone();
            }
            97 => {
                self.tell(|| format!("FAULT the disk of db-{n} is lost"));
                self.count("disk lost");
                self.lost.extend(self.members[n].disk.data_id.clone());
                self.crash(n);
                self.restart_agent(n);
                self.members[n].disk = Disk::default();
            }
            98 => {
                // Root passes read_only: what is written so is nobody's promise.
                let replica = self.members[n].process.as_ref().is_some_and(|p| p.answers() && p.read_only && !p.waits);
                // One GTID for two transactions cannot be told from one: a former primary that has not caught up may do so.
                let next = self.next_entry(n).gtid();
                let taken = self.members.iter().any(|member| member.disk.content.iter().any(|own| own.gtid() == next));
                if replica && !taken && self.members[n].disk.source.is_some() {
                    self.tell(|| format!("FAULT root writes on db-{n}"));
                    self.count("root writes on a replica");
                    let entry = self.next_entry(n);
                    self.by_root.insert(entry);
                    self.members[n].disk.content.push(entry);
                }
            }
            _ => {
                self.tell(|| "FAULT everything is killed".to_owned());
                self.count("everything killed");
                for n in 0..self.members.len() {
                    self.crash(n);
                    self.restart_agent(n);
                }
            }
        }
    }

    /// Somebody wants something.
    fn people(&mut self, n: usize) {
        match self.rng.random_range(0..4) {
            0 | 1 => {
                self.requests += 1;
                // Now and then one that was made before, as of an object that was put back.
                let id = if self.chance(4) { self.rng.random_range(0..=self.requests) } else { self.requests };
                let target = (!self.chance(3)).then(|| self.members[n].name.clone());
                self.tell(|| format!("request {id}: {}", target.as_ref().map_or("any", |target| &target.0)));
                self.count("request for a switchover");
                self.intent.request = Some(Request { id: id.to_string(), target, why: "somebody asked".to_owned() });
            }
            2 => {
                self.tell(|| format!("the pod of db-{n} shall be restarted"));
                self.count("restart asked for");
                self.intent.vacate.insert(self.members[n].name.clone());
            }
            _ => {
                let off = self.intent.hands_off.is_none();
                self.tell(|| format!("hands off: {off}"));
                self.count("hands off, or on again");
                self.hands_off(off);
            }
        }
    }

    fn hands_off(&mut self, off: bool) {
        self.intent.hands_off = off.then_some(HandsOff::Suspend);
        self.intent.members.iter_mut().for_each(|member| member.hands_off = off);
    }

    /// Pods that were let go are restarted.
    pub(crate) fn restart_released(&mut self, released: &BTreeSet<MemberName>) {
        for name in released {
            if let Some(n) = self.index(name).filter(|_| self.intent.vacate.remove(name)) {
                self.tell(|| format!("the pod of db-{n} is restarted"));
                self.crash(n);
                self.restart_agent(n);
            }
        }
    }

    fn cut(&mut self, a: Node, b: Node) {
        self.tell(|| format!("FAULT {a:?} and {b:?} do not reach each other"));
        self.count("cut");
        self.cuts.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn crash(&mut self, n: usize) {
        self.disconnect(n);
        let now = self.now;
        let member = &mut self.members[n];
        member.clone_failed &= member.process.take().is_none();
        member.resumes = None;
        member.idle_since = now;
        member.sequence += 1;
    }

    fn restart_agent(&mut self, n: usize) {
        let member = &mut self.members[n];
        member.life += 1;
        (member.fence, member.marker, member.cloning, member.clone_failed) = (None, None, None, false);
        member.locks_stamp = topology::Stamp::default();
        (member.strangers, member.has_run) = (0, false);
        self.forget_time(n);
        let member = &mut self.members[n];
        for wait in std::mem::take(&mut member.awaits) {
            self.reply(wait.operator, n, wait.command, Err("the connection broke".to_owned()), true);
        }
    }

    /// Everything is mended.
    pub(crate) fn end_faults(&mut self) {
        self.tell(|| "faults are over".to_owned());
        self.cuts.clear();
        self.hands_off(false);
        for member in &mut self.members {
            member.up = true;
            if let Some(process) = member.process.as_mut() {
                process.hangs = None;
            }
        }
        for operator in &mut self.operators {
            operator.to_stop = false;
        }
    }
}
