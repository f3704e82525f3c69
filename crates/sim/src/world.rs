//! The world: members, the record in its API, operators, messages on their way, clients, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use topology::action::{Endpoint, Replaced};
use topology::intent::{Durability, Failover, Intent, MemberIntent, Recovery, ReplicaIntent};
use topology::member::{DataId, Fence, MemberName};
use topology::{Command, Record, Stamp, Time};

use crate::clock::Clock;
use crate::laws::Violation;
use crate::mutant::Mutant;
use crate::operator::Operator;
use crate::server::{Disk, Entry, Io, Process};

/// A step of the world.
pub(crate) const STEP: Duration = Duration::from_millis(100);

/// Without a promise a commit waits for so long.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// The operator is stopped once, in every run at another point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It dies right after its n-th action: a swap of the record, or an order sent.
    AfterAction(u64),
    /// At its n-th decision it is stopped before the swap, and carries on later, when another one has taken over.
    BeforeSwap(u64),
    /// At its n-th decision it is stopped after the swap: its orders come late.
    BeforeOrders(u64),
}

/// A kind of fault of which there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// A disk is lost.
    DiskLost,
    /// The operator is stopped between two actions, and goes on late.
    OperatorStopped,
    /// Root writes on a replica.
    RootWrites,
    /// People ask for other primaries, have pods restarted, and say hands off.
    People,
}

impl More {
    /// All of them.
    pub const ALL: [More; 4] = [More::DiskLost, More::OperatorStopped, More::RootWrites, More::People];
}

/// What a run is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What chance does.
    pub seed: u64,
    /// Members.
    pub members: usize,
    /// Steps with faults.
    pub steps: u32,
    /// One in so many steps has a fault.
    pub calm: u32,
    /// One fault in five is of this kind.
    pub more: Option<More>,
    /// What commits wait for.
    pub durability: Durability,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// Where the operator is stopped, beyond what chance does.
    pub stop: Option<Stop>,
    /// Every line of the story is kept: a run that breaks a law is played again so.
    pub story: bool,
}

/// What happened in a run.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Steps.
    pub steps: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Epochs that began.
    pub changes: u64,
    /// Swaps of the record and orders sent.
    pub actions: u64,
    /// Decisions that did something.
    pub decisions: u64,
    /// Commits that were acknowledged to clients.
    pub acknowledged: u64,
    /// Refusals, by name: passes in which they stood.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Runs in which a person had to name whose data counts, by the refusal that asked for it.
    pub persons: BTreeMap<&'static str, u64>,
    /// Acknowledged transactions that were given up so, or went with every disk that held them.
    pub given_up: u64,
    /// Passes from the end of the faults until all was well: the most of any run, and of all runs together.
    pub healed_within: (u32, u64),
}

impl Stats {
    /// Both together.
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.changes += other.changes;
        self.acknowledged += other.acknowledged;
        self.given_up += other.given_up;
        self.healed_within.0 = self.healed_within.0.max(other.healed_within.0);
        self.healed_within.1 += other.healed_within.1;
        for (name, count) in &other.persons {
            *self.persons.entry(name).or_default() += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (name, count) in &other.refusals {
            *self.refusals.entry(name).or_default() += count;
        }
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |all: &BTreeMap<&'static str, u64>| {
            all.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        let faults: u64 = self.faults.values().sum();
        writeln!(f, "{} steps, {} commits acknowledged", self.steps, self.acknowledged)?;
        writeln!(f, "{} changes of primary", self.changes)?;
        let (most, all) = self.healed_within;
        writeln!(f, "well again after at most {most} passes; {all} passes in all runs")?;
        writeln!(
            f,
            "a person had to say whose data counts: {}; {} transactions given up",
            list(&self.persons),
            self.given_up
        )?;
        writeln!(f, "{faults} faults: {}", list(&self.faults))?;
        write!(f, "refusals, in passes: {}", list(&self.refusals))
    }
}

/// Somebody on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Member(usize),
    Operator,
    Api,
    Clients,
}

/// A copy that is being received.
#[derive(Debug, Clone)]
pub(crate) struct Cloning {
    pub(crate) donor: usize,
    pub(crate) data_id: DataId,
    pub(crate) replaces: Option<Replaced>,
    /// The epoch in which it was ordered.
    pub(crate) epoch: u64,
    pub(crate) left: u32,
}

/// A wait for a position.
#[derive(Debug, Clone)]
pub(crate) struct Await {
    pub(crate) command: Command,
    pub(crate) operator: u64,
    pub(crate) until: Time,
}

/// A member: disk, agent, server.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: MemberName,
    pub(crate) server_id: u32,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// Its pod runs.
    pub(crate) up: bool,
    pub(crate) life: u32,
    /// A server was started in this life of its agent.
    pub(crate) has_run: bool,
    pub(crate) sequence: u64,
    pub(crate) fence: Option<Fence>,
    /// The last marker: its decision, its transaction, and whether its commit has returned.
    pub(crate) marker: Option<(Stamp, Entry, bool)>,
    pub(crate) locks_stamp: Stamp,
    pub(crate) cloning: Option<Cloning>,
    /// The last copy came to nothing, and nothing was told since.
    pub(crate) clone_failed: bool,
    pub(crate) awaits: Vec<Await>,
    /// No decision since.
    pub(crate) idle_since: Time,
    /// Said to be saved.
    pub(crate) claims_saved: Vec<topology::history::Errant>,
    /// Its own start, to be opened when it answers.
    pub(crate) resumes: Option<Record>,
    pub(crate) clock: Clock,
    /// Connections of strangers that its agent has sent away since its start.
    pub(crate) strangers: u32,
}

impl Member {
    /// Its agent starts a server.
    pub(crate) fn launch(&mut self) {
        self.process = Some(Process::new());
        self.has_run = true;
    }
}

/// The record and its version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    pub(crate) record: Record,
    pub(crate) version: u64,
}

/// Something on its way.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// Orders of one pass for one member, to be carried out one after the other.
    Orders { operator: u64, member: usize, commands: Vec<Command> },
    /// What came of one.
    Answer { operator: u64, member: usize, command: Command, result: Result<(), String>, last: bool },
}

/// The world.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) tags: u64,
    pub(crate) rng: StdRng,
    pub(crate) now: Time,
    pub(crate) intent: Intent,
    pub(crate) members: Vec<Member>,
    pub(crate) lease: Lease,
    pub(crate) operators: Vec<Operator>,
    pub(crate) messages: Vec<(Time, Message)>,
    pub(crate) cuts: BTreeSet<(Node, Node)>,
    pub(crate) acknowledged: Vec<(Entry, u64)>,
    /// Acknowledged by a stranger of whom no operator has told the record.
    pub(crate) uncovered: Vec<(Entry, u64)>,
    pub(crate) writers: BTreeMap<u64, DataId>,
    pub(crate) opened: BTreeMap<u64, DataId>,
    /// Data that went with its disk.
    pub(crate) lost: BTreeSet<DataId>,
    /// What was acknowledged and a person has given up.
    pub(crate) given_up: BTreeSet<Entry>,
    /// Requests for a switchover that were met, and how many were made.
    pub(crate) met: BTreeSet<String>,
    pub(crate) requests: u64,
    /// The epochs that a change began, and what it lost; and those of which that was told.
    pub(crate) begun: BTreeMap<u64, Vec<String>>,
    pub(crate) told: BTreeMap<u64, Vec<String>>,
    /// Written by root on a replica.
    pub(crate) by_root: BTreeSet<Entry>,
    pub(crate) stats: Stats,
    pub(crate) story: Vec<String>,
    /// What became of each transaction, by its tag.
    pub(crate) trails: BTreeMap<u64, Vec<String>>,
}

fn host(n: usize) -> String {
    format!("db-{n}.sim")
}

fn member_intent(n: usize) -> MemberIntent {
    MemberIntent {
        name: MemberName(format!("db-{n}")),
        object: "db".to_owned(),
        server_id: u32::try_from(n).unwrap_or(0) + 1,
        hands_off: false,
        surplus: false,
        server: Endpoint { host: host(n), port: 3306 },
        agent: Endpoint { host: host(n), port: 7443 },
        donor: true,
        candidate: true,
        replica: ReplicaIntent {
            through: None,
            tls: false,
            connect_retry: 1,
            connect_retries: 10,
            heartbeat_ms: 1000,
            delay: 0,
            max_lag: 30,
            recovery: Recovery { enabled: true, threshold: Duration::from_secs(1) },
        },
    }
}

impl World {
    /// A topology that runs and is well.
    pub(crate) fn new(settings: Settings) -> Self {
        let intent = Intent {
            topology: "db".to_owned(),
            replication: true,
            hands_off: None,
            wanted_primary: MemberName("db-0".to_owned()),
            use_data_of: None,
            durability: settings.durability,
            failover: Failover {
                timeout: Duration::from_secs(1),
                retries: 2,
                cooldown: Duration::from_secs(2),
                sync_timeout: Duration::from_secs(2),
                ..Failover::default()
            },
            request: None,
            vacate: BTreeSet::new(),
            replication_user: "repl".to_owned(),
            members: (0..settings.members).map(member_intent).collect(),
        };
        let members = intent
            .members
            .iter()
            .map(|member| Member {
                name: member.name.clone(),
                server_id: member.server_id,
                disk: Disk::default(),
                process: None,
                up: true,
                life: 0,
                sequence: 0,
                fence: None,
                marker: None,
                locks_stamp: Stamp::default(),
                cloning: None,
                clone_failed: false,
                awaits: Vec::new(),
                idle_since: Time(1_000_000),
                claims_saved: Vec::new(),
                resumes: None,
                clock: Clock::default(),
                has_run: false,
                strangers: 0,
            })
            .collect();
        Self {
            tags: 0,
            rng: StdRng::seed_from_u64(settings.seed),
            now: Time(1_000_000),
            members,
            lease: Lease::default(),
            operators: vec![Operator::new(1, 0)],
            messages: Vec::new(),
            cuts: BTreeSet::new(),
            acknowledged: Vec::new(),
            uncovered: Vec::new(),
            writers: BTreeMap::new(),
            opened: BTreeMap::new(),
            lost: BTreeSet::new(),
            given_up: BTreeSet::new(),
            met: BTreeSet::new(),
            requests: 0,
            begun: BTreeMap::new(),
            told: BTreeMap::new(),
            by_root: BTreeSet::new(),
            stats: Stats::default(),
            story: Vec::new(),
            trails: BTreeMap::new(),
            intent,
            settings,
        }
    }

    pub(crate) fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_range(0..one_in) == 0
    }

    pub(crate) fn reach(&self, a: Node, b: Node) -> bool {
        !self.cuts.contains(&(a.min(b), a.max(b)))
    }

    pub(crate) fn index(&self, name: &MemberName) -> Option<usize> {
        self.members.iter().position(|member| member.name == *name)
    }

    /// The member whose disk holds the data of the record's holder.
    pub(crate) fn holder(&self) -> Option<usize> {
        let holder = self.lease.record.holder.as_ref()?;
        (0..self.members.len()).find(|n| self.members[*n].disk.data_id.as_ref() == Some(&holder.data_id))
    }

    pub(crate) fn by_host(&self, host: &str) -> Option<usize> {
        (0..self.members.len()).find(|n| self.intent.members[*n].server.host == host)
    }

    /// A whole run.
    pub(crate) fn play(mut self) -> Result<Self, Box<Violation>> {
        self.live()?;
        self.heal()?;
        Ok(self)
    }

    /// Steps with faults.
    fn live(&mut self) -> Result<(), Box<Violation>> {
        // Brought up in peace.
        for _ in 0..60 {
            self.step()?;
        }
        for _ in 0..self.settings.steps {
            if self.chance(self.settings.calm) {
                self.fault();
            }
            self.step()?;
        }
        Ok(())
    }

    /// A tenth of a second.
    pub(crate) fn step(&mut self) -> Result<(), Box<Violation>> {
        self.stats.steps += 1;
        self.now = self.now.after(STEP);
        self.deliver()?;
        self.clients()?;
        for n in 0..self.members.len() {
            self.run_server(n)?;
        }
        for n in 0..self.members.len() {
            self.run_agent(n)?;
        }
        let epoch = self.lease.record.epoch;
        for i in 0..self.operators.len() {
            self.run_operator(i)?;
        }
        if self.settings.durability.promises() {
            self.check_former_primaries()?;
        } else {
            self.check_one_at_a_time()?;
        }
        self.operators.retain(|operator| operator.alive);
        if self.operators.is_empty() {
            let id = self.rng.random_range(2..u64::MAX);
            self.operators.push(Operator::new(id, self.told()));
        }
        self.stats.changes += self.lease.record.epoch.saturating_sub(epoch);
        Ok(())
    }

    /// Clients write wherever they can.
    fn clients(&mut self) -> Result<(), Box<Violation>> {
        for n in 0..self.members.len() {
            let open = self.members[n].process.as_ref().is_some_and(|process| process.answers() && !process.read_only);
            if open && self.reach(Node::Member(n), Node::Clients) && self.chance(2) {
                self.commit(n)?;
            }
        }
        Ok(())
    }

    /// A commit on member `n`; it returns at once where nothing is waited for.
    pub(crate) fn commit(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let entry = self.next_entry(n);
        self.commit_this(n, entry)
    }

    /// What member `n` writes next.
    pub(crate) fn next_entry(&mut self, n: usize) -> Entry {
        self.tags += 1;
        let member = &self.members[n];
        Entry { server_id: member.server_id, sequence: member.disk.last_sequence() + 1, tag: self.tags }
    }

    /// See [`World::commit`].
    pub(crate) fn commit_this(&mut self, n: usize, entry: Entry) -> Result<(), Box<Violation>> {
        self.trace(entry, || format!("written on db-{n}"));
        let member = &mut self.members[n];
        member.disk.content.push(entry);
        if member.process.as_ref().is_some_and(|process| process.waits && !process.fell_back) {
            member.disk.waiting += 1;
        } else {
            self.release(n, entry)?;
        }
        Ok(())
    }

    /// A commit returns.
    pub(crate) fn release(&mut self, n: usize, entry: Entry) -> Result<(), Box<Violation>> {
        if let Some(marker) = self.members[n].marker.as_mut().filter(|marker| marker.1 == entry) {
            marker.2 = true;
            return Ok(());
        }
        self.acknowledge(n, entry)
    }

    /// Replication of one server, as a replica.
    fn run_server(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let Some(process) = self.members[n].process.as_mut() else { return Ok(()) };
        if process.starting > 0 {
            process.starting -= 1;
            return Ok(());
        }
        if process.hangs.is_some() {
            return Ok(());
        }
        self.fall_back(n)?;
        self.receive(n)?;
        self.apply(n);
        Ok(())
    }

    /// `rpl_semi_sync_master_timeout`, which only promises switch off.
    fn fall_back(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let (now, waiting) = (self.now, self.members[n].disk.waiting > 0);
        let Some(process) = self.members[n].process.as_mut().filter(|_| !self.settings.durability.promises()) else {
            return Ok(());
        };
        let since = if waiting {
            process.waiting_since.get_or_insert(now)
        } else {
            &mut process.waiting_since.take().unwrap_or(now)
        };
        if now.since(*since) < ACK_TIMEOUT {
            return Ok(());
        }
        (process.fell_back, process.waiting_since) = (true, None);
        self.release_all(n)
    }

    fn receive(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let (Some(source), Some(process)) = (self.members[n].disk.source, self.members[n].process.as_ref()) else {
            return Ok(());
        };
        if matches!(process.io, Io::No | Io::Refused) {
            return Ok(());
        }
        let id = self.members[n].server_id;
        let other = &self.members[source];
        let connected = other.process.as_ref().is_some_and(|p| p.connected.contains(&id));
        let there =
            other.process.as_ref().is_some_and(Process::answers) && self.reach(Node::Member(n), Node::Member(source));
        let let_in = connected || !other.disk.locked.contains(&id);
        if !there || !let_in {
            if there && let Some(process) = self.members[source].process.as_mut() {
                process.connected.remove(&id);
            }
            self.set_io(n, Io::Connecting);
            if let Some(process) = self.members[n].process.as_mut() {
                (process.unreached, process.kept_out) = (!there, there);
            }
            return Ok(());
        }
        let own = &self.members[n].disk;
        let last = own.relay.last().copied().or(own.slave_pos);
        let next = match last {
            None => Some(0),
            Some(last) => {
                self.members[source].disk.content.iter().rposition(|entry| entry.gtid() == last.gtid()).map(|i| i + 1)
            }
        };
        let Some(next) = next.filter(|next| *next >= self.members[source].disk.binlog_from) else {
            self.set_io(n, Io::Refused);
            return Ok(());
        };
        if !connected && let Some(process) = self.members[source].process.as_mut() {
            process.connected.insert(id);
        }
        self.set_io(n, Io::Yes);
        let count = self.rng.random_range(0..4_usize);
        let new: Vec<Entry> = self.members[source].disk.content[next..].iter().take(count).copied().collect();
        let Some(&received) = new.last() else { return Ok(()) };
        for entry in &new {
            self.trace(*entry, || format!("received by db-{n} from db-{source}"));
        }
        self.members[n].disk.relay.extend(new);
        if self.chance(40) {
            self.trace(received, || format!("its acknowledgement by db-{n} is lost"));
            // The acknowledgement is lost with its connection, and not sent again.
            if let Some(process) = self.members[source].process.as_mut() {
                process.connected.remove(&id);
            }
            return Ok(());
        }
        self.acknowledged_up_to(source, received)
    }

    fn set_io(&mut self, n: usize, io: Io) {
        if let Some(process) = self.members[n].process.as_mut() {
            process.io = io;
        }
    }

    /// A replica has acknowledged: everything up to there returns.
    fn acknowledged_up_to(&mut self, source: usize, received: Entry) -> Result<(), Box<Violation>> {
        if let Some(process) = self.members[source].process.as_mut() {
            (process.fell_back, process.waiting_since) = (false, None);
        }
        let disk = &self.members[source].disk;
        let from = disk.content.len() - disk.waiting;
        let Some(at) = disk.content.iter().rposition(|entry| entry.gtid() == received.gtid()) else { return Ok(()) };
        for i in from..=at {
            if i < self.members[source].disk.content.len() {
                let entry = self.members[source].disk.content[i];
                self.members[source].disk.waiting -= 1;
                self.release(source, entry)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, n: usize) {
        let count = self.rng.random_range(0..4_usize);
        for _ in 0..count {
            let member = &mut self.members[n];
            let Some(process) = member.process.as_mut().filter(|process| process.sql) else { return };
            if member.disk.relay.is_empty() {
                return;
            }
            let entry = member.disk.relay[0];
            if entry.sequence <= member.disk.last_sequence() {
                process.sql = false;
                process.diverged = true;
                return;
            }
            member.disk.relay.remove(0);
            if self.settings.mutant == Some(Mutant::SkipOwnEvents) && entry.server_id == member.server_id {
                member.disk.slave_pos = Some(entry);
                continue;
            }
            member.disk.content.push(entry);
            member.disk.slave_pos = Some(entry);
            self.trace(entry, || format!("applied by db-{n}"));
        }
    }
}
