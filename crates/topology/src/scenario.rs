//! A small world for tests: members that do what they are told (or not), and the loop that decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Action, Command, Endpoint, Replaced, Stamp, Waits};
use crate::decide::decide;
use crate::decision::Decision;
use crate::gtid::{BinlogState, Gtid, GtidPosition};
use crate::history::changed_since;
use crate::intent::{Durability, Failover, Intent, MemberIntent, Recovery, ReplicaIntent};
use crate::member::{
    DataId, Fence, Fenced, Locks, Marker, MemberName, MemberState, Phase, ReplicationState, SemiSync, ServerError,
    ServerState, ThreadState, Volume,
};
use crate::memory::Memory;
use crate::observation::{Agent, Claim, Observation, Pod, Seen};
use crate::plan::{Course, Outcome};
use crate::record::Record;
use crate::time::Time;

/// As a server is configured where commits are promised.
const SEMI_SYNC: SemiSync = SemiSync { waits: false, clients: 0, waiting: 0, acknowledges: true, without_end: true };

/// Transactions: who wrote them, and their number.
type Content = BTreeSet<(u32, u64)>;

pub(crate) fn name(text: &str) -> MemberName {
    MemberName(text.to_owned())
}

pub(crate) fn member_intent(member: &str, server_id: u32) -> MemberIntent {
    let host = format!("{member}.ns.svc");
    MemberIntent {
        name: name(member),
        object: member.rsplit_once('-').expect("a pod's name").0.to_owned(),
        server_id,
        hands_off: false,
        surplus: false,
        server: Endpoint { host: host.clone(), port: 3306 },
        agent: Endpoint { host, port: 7443 },
        donor: true,
        candidate: true,
        replica: ReplicaIntent {
            through: None,
            tls: true,
            connect_retry: 1,
            connect_retries: 10,
            heartbeat_ms: 1000,
            delay: 0,
            max_lag: 30,
            recovery: Recovery { enabled: true, threshold: Duration::from_secs(300) },
        },
    }
}

/// A root `db` with `replicas` members.
pub(crate) fn intent(replicas: u32) -> Intent {
    Intent {
        topology: "db".to_owned(),
        replication: replicas > 1,
        hands_off: None,
        wanted_primary: name("db-0"),
        use_data_of: None,
        durability: Durability::Available { semi_sync: false },
        failover: Failover::default(),
        request: None,
        vacate: BTreeSet::new(),
        replication_user: "repl".to_owned(),
        members: (0..replicas).map(|n| member_intent(&format!("db-{n}"), n + 1)).collect(),
    }
}

pub(crate) fn replica_state(member: &str, server_id: u32, data_id: &str) -> MemberState {
    MemberState {
        name: name(member),
        pod_uid: format!("uid-{member}"),
        server_id,
        sequence: 0,
        accepted: Stamp::default(),
        volume: Volume::Data { data_id: DataId(data_id.to_owned()) },
        phase: Phase::Running,
        server: Some(ServerState {
            version: "11.8.6-MariaDB".to_owned(),
            read_only: true,
            gtid_binlog_pos: GtidPosition::default(),
            gtid_slave_pos: GtidPosition::default(),
            gtid_binlog_state: BinlogState::default(),
            replication: Some(replication("db-0.ns.svc", server_id)),
            log_reset: false,
            semi_sync: SEMI_SYNC,
        }),
        disk: None,
        config_hash: None,
        fence: None,
        relay: None,
        marker: None,
        locks: Locks::default(),
        saved: Vec::new(),
        leaving: false,
        dropped: None,
        strangers: 0,
        trouble: None,
        options_refused: None,
        long_transaction: None,
        answer_age_ms: 0,
    }
}

fn replication(host: &str, server_id: u32) -> ReplicationState {
    ReplicationState {
        host: host.to_owned(),
        port: 3306,
        user: format!("repl_{server_id}"),
        io: ThreadState::Yes,
        sql: ThreadState::Yes,
        gtid_io_pos: GtidPosition::default(),
        receives: true,
        io_error: None,
        sql_error: None,
        passed_over: 0,
        seconds_behind: Some(0),
    }
}

pub(crate) fn with_sql_error(mut state: MemberState, errno: u32) -> MemberState {
    if let Some(replication) = state.server.as_mut().and_then(|server| server.replication.as_mut()) {
        replication.sql = ThreadState::No;
        replication.sql_error = Some(ServerError { errno, message: "broken by the test".to_owned() });
    }
    state
}

/// A member that does as it is told.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) pod: Pod,
    pub(crate) claim: Claim,
    pub(crate) state: MemberState,
    pub(crate) silent: bool,
    /// Other members do not reach it.
    pub(crate) cut: bool,
    silent_since: Option<Time>,
    /// Which transactions are in the data, whatever the server's variables say: (server id, sequence).
    pub(crate) content: Content,
    /// What is still heard of it, while its reports are held up.
    frozen: Option<(MemberState, Time)>,
    /// Its agent reports, and its server has not answered since.
    pub(crate) hangs_since: Option<Time>,
    /// Every order is refused with this.
    pub(crate) refuses: Option<String>,
    /// The next copy in place of its data comes to nothing.
    pub(crate) donor_fails: Option<String>,
    /// The data, while no server runs on it.
    disk: Option<ServerState>,
    /// What is still to happen of the last long action.
    pending: Option<(Phase, Volume)>,
    memory: Memory,
}

/// The world.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) intent: Intent,
    pub(crate) record: Record,
    pub(crate) members: BTreeMap<MemberName, Model>,
    pub(crate) idle_claims: Vec<String>,
    pub(crate) now: Time,
    /// What happened, one line an order.
    pub(crate) log: Vec<String>,
    /// Who was opened in which epoch.
    pub(crate) opened: BTreeMap<u64, DataId>,
    draw: u128,
    course: Course,
    /// The last change that was told.
    told: u64,
    /// Where its time is limited, the holder's agent renews the record although the operator does not hear it.
    pub(crate) renews_unheard: bool,
    renewed: Time,
}

impl World {
    /// New members with empty volumes.
    pub(crate) fn new(intent: Intent) -> Self {
        let mut world = Self {
            intent,
            record: Record::default(),
            members: BTreeMap::new(),
            idle_claims: Vec::new(),
            now: Time(1_000_000),
            log: Vec::new(),
            opened: BTreeMap::new(),
            draw: 0,
            course: Course::default(),
            told: 0,
            renews_unheard: false,
            renewed: Time(1_000_000),
        };
        world.create_missing();
        world
    }

    /// Makes pods and volumes for members that have none.
    pub(crate) fn create_missing(&mut self) {
        for intent in &self.intent.members {
            self.members.entry(intent.name.clone()).or_insert_with(|| Model {
                pod: Pod::Running,
                claim: Claim::Bound,
                state: MemberState {
                    volume: Volume::Empty,
                    phase: Phase::Waiting,
                    server: None,
                    ..replica_state(&intent.name.0, intent.server_id, "")
                },
                silent: false,
                cut: false,
                silent_since: None,
                content: BTreeSet::new(),
                frozen: None,
                hangs_since: None,
                refuses: None,
                donor_fails: None,
                disk: None,
                pending: None,
                memory: Memory::default(),
            });
        }
    }

    pub(crate) fn member(&mut self, member: &str) -> &mut Model {
        self.members.get_mut(&name(member)).expect("a member of this world")
    }

    pub(crate) fn server(&mut self, member: &str) -> &mut ServerState {
        self.member(member).state.server.as_mut().expect("a running server")
    }

    pub(crate) fn replication(&mut self, member: &str) -> &mut ReplicationState {
        self.server(member).replication.as_mut().expect("a replica")
    }

    /// Its reports are held up, or come again.
    pub(crate) fn freeze(&mut self, member: &str, frozen: bool) {
        let now = self.now;
        let model = self.member(member);
        model.frozen = frozen.then(|| (model.state.clone(), now));
    }

    /// The pod is replaced; its volume stays.
    pub(crate) fn restart_pod(&mut self, member: &str) {
        let model = self.member(member);
        model.frozen = None;
        model.state.pod_uid.push('\'');
        if let Some(mut server) = model.state.server.take() {
            server.read_only = true;
            server.semi_sync = SEMI_SYNC;
            if let Some(replication) = server.replication.as_mut() {
                (replication.io, replication.sql) = (ThreadState::No, ThreadState::No);
                (replication.io_error, replication.sql_error) = (None, None);
            }
            model.disk = Some(server);
        }
        model.state.phase = Phase::Waiting;
        model.state.config_hash = None;
        (model.state.fence, model.state.marker) = (None, None);
        model.state.locks.stamp = Stamp::default();
        model.pending = None;
    }

    /// The server ends, the agent says so.
    pub(crate) fn kill_server(&mut self, member: &str) {
        let uid = self.member(member).state.pod_uid.clone();
        self.restart_pod(member);
        let state = &mut self.member(member).state;
        (state.pod_uid, state.config_hash) = (uid, Some("c".to_owned()));
    }

    /// The volume is lost, the pod replaced.
    pub(crate) fn lose_volume(&mut self, member: &str) {
        self.restart_pod(member);
        let model = self.member(member);
        model.disk = None;
        model.content.clear();
        model.state.volume = Volume::Empty;
        model.state.accepted = Stamp::default();
    }

    /// The controller is replaced.
    pub(crate) fn restart_controller(&mut self) {
        for model in self.members.values_mut() {
            (model.memory, model.frozen) = (Memory::default(), None);
        }
        self.course = Course { told: self.told, counted: self.told, ..Course::default() };
    }

    pub(crate) fn write(&mut self, member: &str, transactions: u64) {
        let model = self.member(member);
        let server_id = model.state.server_id;
        let server = model.state.server.as_mut().expect("a running server");
        let before = server.gtid_binlog_pos.furthest(&server.gtid_slave_pos).sequence(0);
        let sequence = before + transactions;
        model.content.extend((before + 1..=sequence).map(|n| (server_id, n)));
        let gtid = Gtid { domain: 0, server_id, sequence };
        server.gtid_binlog_pos.0.insert(0, gtid);
        server.gtid_binlog_state.add(gtid);
    }

    /// Replicas apply what their source has.
    fn replicate(&mut self) {
        let sources: BTreeMap<String, (ServerState, Content, Locks)> = self
            .members
            .values()
            .filter(|m| m.pod == Pod::Running && !m.cut)
            .filter_map(|m| {
                let seen = (m.state.server.clone()?, m.content.clone(), m.state.locks.clone());
                Some((format!("{}.ns.svc", m.state.name), seen))
            })
            .collect();
        for model in self.members.values_mut() {
            let Some(server) = model.state.server.as_mut() else { continue };
            let Some(replication) = server.replication.as_mut() else { continue };
            let source = sources.get(&replication.host).filter(|_| !model.cut);
            let locked = source.is_some_and(|(_, _, locks)| locks.accounts.contains(&replication.user));
            let source = source.filter(|_| !locked);
            if replication.io != ThreadState::No {
                replication.io = if source.is_some() { ThreadState::Yes } else { ThreadState::Connecting };
            }
            replication.receives = source.is_some();
            if replication.io == ThreadState::Connecting {
                let (errno, message) = if locked { (4151, "locked") } else { (2003, "no connection") };
                replication.io_error = Some(ServerError { errno, message: message.to_owned() });
            }
            if replication.io == ThreadState::Yes
                && let Some((source, ..)) = source
            {
                replication.io_error = None;
                replication.gtid_io_pos = replication.gtid_io_pos.furthest(&source.gtid_binlog_pos);
            }
            if let (true, Some((source, content, _))) = (crate::memory::works(replication), source) {
                model.content.extend(content);
                server.gtid_slave_pos = server.gtid_slave_pos.furthest(&source.gtid_binlog_pos);
                server.gtid_binlog_pos = server.gtid_binlog_pos.furthest(&source.gtid_binlog_pos);
                server.gtid_binlog_state = server.gtid_binlog_state.union(&source.gtid_binlog_state);
            }
        }
    }

    fn observe(&mut self) -> Observation {
        self.draw += 1000;
        let members = self
            .members
            .iter_mut()
            .filter(|(member, _)| self.intent.member(member).is_some())
            .map(|(member, model)| {
                let answers = model.pod == Pod::Running && !model.silent;
                let (heard, at) = model.frozen.clone().unwrap_or_else(|| (model.state.clone(), self.now));
                let answered = model.hangs_since.unwrap_or(at);
                if answers {
                    model.memory.observe(&heard, answered, self.now);
                }
                let silent_since = if answers { None } else { Some(model.silent_since.unwrap_or(self.now)) };
                model.silent_since = silent_since;
                let since = silent_since.unwrap_or(self.now);
                let attempts = u32::try_from(self.now.since(since).as_secs()).expect("not that long");
                let agent = if answers {
                    Agent::Answers { state: Box::new(heard), at, answered }
                } else {
                    Agent::Silent { since, attempts, why: "no connection".to_owned() }
                };
                (
                    member.clone(),
                    Seen { pod: model.pod.clone(), claim: model.claim, agent, memory: model.memory.clone() },
                )
            })
            .collect();
        Observation {
            members,
            idle_claims: self.idle_claims.clone(),
            draw: self.draw,
            course: self.course.clone(),
            renewed: self.renewed,
        }
    }

    /// The holder's agent renews the record, where it must.
    fn renew(&mut self) {
        let Some(holder) = &self.record.holder else { return };
        let runs = self.members.get(&holder.member).is_some_and(|model| {
            let open = model.state.server.as_ref().is_some_and(|server| !server.read_only);
            open && (!model.silent || self.renews_unheard)
        });
        if runs && self.intent.replication && !self.intent.durability.promises() && self.intent.failover.automatic {
            self.renewed = self.now;
            self.record.renewed_with = Some(self.record.candidates.clone());
            self.record.renewed_for = Some(self.intent.failover.timeout);
        }
    }

    /// Looks and decides, without doing anything.
    pub(crate) fn decide(&mut self) -> Decision {
        let seen = self.observe();
        decide(&self.intent, &self.record, &seen, self.now)
    }

    /// One pass: look, decide, record, act; then half a second goes by. `obeys`: does the n-th order arrive?
    pub(crate) fn pass(&mut self, obeys: impl FnMut(usize) -> bool) -> Decision {
        let decision = self.decide();
        self.carry_out(&decision, obeys);
        decision
    }

    /// The rest of a pass.
    pub(crate) fn carry_out(&mut self, decision: &Decision, mut obeys: impl FnMut(usize) -> bool) {
        if let Some(record) = &decision.record {
            assert!(record.stamp() > self.record.stamp(), "every swap raises the stamp");
            self.record = record.clone();
        }
        self.course = decision.course.clone();
        let done = decision.changes.iter().filter(|change| change.outcome == Outcome::Done);
        self.told = done.map(|change| change.epoch).fold(self.told, u64::max);
        let commands: Vec<_> = decision.commands().map(|(member, command)| (member.clone(), command)).collect();
        for (n, (member, command)) in commands.into_iter().enumerate() {
            self.check(&member, &command);
            if obeys(n) {
                self.execute(&member, &command);
            }
        }
        self.replicate();
        self.renew();
        self.now = self.now.after(Duration::from_millis(500));
        for model in self.members.values_mut() {
            if let Some((phase, volume)) = model.pending.take() {
                model.state.volume = volume;
                model.state.phase = phase;
                if model.state.phase == Phase::Running && model.state.server.is_none() {
                    let mut new = replica_state("x-0", 0, "x").server.expect("a running server");
                    new.replication = None;
                    model.state.server = Some(model.disk.take().unwrap_or(new));
                }
            }
        }
    }

    /// The laws that no order may break.
    fn check(&mut self, member: &MemberName, command: &Command) {
        let volumes: Vec<&Volume> = self.members.values().map(|model| &model.state.volume).collect();
        let own = &self.members[member].state.volume;
        match &command.action {
            Action::Initialise { .. } => {
                assert!(volumes.iter().all(|v| **v == Volume::Empty), "initialised over data somewhere: {volumes:?}");
                // Another world begins: nothing of the last one is left.
                self.opened.retain(|epoch, _| *epoch > command.stamp.epoch + 1);
            }
            Action::Follow { .. } => {
                // As far as reports tell that are not held up; its agent refuses as well.
                let model = &self.members[member];
                let seen = model.frozen.as_ref().map_or(&model.state, |(state, _)| state);
                let open = seen.server.as_ref().is_some_and(|server| !server.read_only);
                assert!(!open, "{member} is open, and would switch its waits off");
            }
            Action::Clone { replaces, .. } => match (own, replaces) {
                (Volume::Empty, None) => {}
                // Its agent refuses.
                (_, Some(replaced)) if changed(&self.members[member].state, replaced) => {}
                (Volume::Data { data_id }, Some(replaced)) if *data_id == replaced.data_id => {
                    let holder = self.record.holder_identity();
                    assert_ne!(holder, Some(data_id.0.as_str()), "the primary's data was to be replaced");
                    let primary = self.members.values().find(|model| {
                        matches!(&model.state.volume, Volume::Data { data_id } if Some(data_id.0.as_str()) == holder)
                    });
                    let primary = primary.expect("a re-seed without a primary");
                    let saved = &self.members[member].state.saved;
                    let lost: Vec<_> = self.members[member]
                        .content
                        .difference(&primary.content)
                        .filter(|(server_id, n)| {
                            !saved.iter().any(|e| e.server_id == *server_id && e.known < *n && *n <= e.last)
                        })
                        .collect();
                    assert!(lost.is_empty(), "a re-seed of {member} would lose {lost:?}");
                }
                other => panic!("a clone over what it does not name: {other:?}"),
            },
            Action::OpenForWrites { .. } => {
                let Volume::Data { data_id } = own else { panic!("opened without data") };
                assert_eq!(self.record.holder_identity(), Some(data_id.0.as_str()), "opened without the lease");
                let opened = self.opened.entry(command.stamp.epoch).or_insert_with(|| data_id.clone());
                assert_eq!(opened, data_id, "two writers in one epoch");
            }
            _ => {}
        }
    }

    fn execute(&mut self, member: &MemberName, command: &Command) {
        let now = self.now;
        let copies: BTreeMap<String, (Option<ServerState>, Content)> = self
            .members
            .iter()
            .map(|(other, model)| (format!("{other}.ns.svc"), (model.state.server.clone(), model.content.clone())))
            .collect();
        let model = self.members.get_mut(member).expect("a member of this world");
        model.memory.begin(std::slice::from_ref(command), now);
        model.memory.back();
        let answers = model.pod == Pod::Running && !model.silent && command.stamp >= model.state.accepted;
        if !answers {
            model.memory.end(command, Err("no answer".to_owned()));
            return;
        }
        self.log.push(format!("{member} {}", word(&command.action)));
        let open = model.state.server.as_ref().is_some_and(|server| !server.read_only);
        let takes_writes = open && matches!(command.action, Action::Follow { .. });
        let other =
            matches!(&command.action, Action::Clone { replaces: Some(judged), .. } if changed(&model.state, judged));
        let refusal = takes_writes.then_some("the server takes writes").or(other.then_some("its binary log changed"));
        if let Some(error) = model.refuses.clone().or(refusal.map(str::to_owned)) {
            model.memory.end(command, Err(error));
            return;
        }
        model.state.accepted = command.stamp;
        let server_id = model.state.server_id;
        match &command.action {
            Action::Initialise { data_id } => {
                model.state.phase = Phase::Initialising;
                model.pending = Some((Phase::Running, Volume::Data { data_id: data_id.clone() }));
            }
            Action::Clone { donor, .. } if copies[&donor.host].0.as_ref().is_some_and(|s| s.semi_sync.waiting > 0) => {
                panic!("a copy of {member} was begun from {}, and waits behind its commits for ever", donor.host);
            }
            Action::Clone { replaces: Some(_), .. } if model.donor_fails.is_some() => {
                let message = model.donor_fails.take().unwrap_or_default();
                model.state.phase = Phase::Failed { reason: "DonorFailed".to_owned(), message };
            }
            Action::Clone { donor, data_id, replaces: _ } => {
                model.state.phase = Phase::Cloning { donor: donor.host.clone(), received: 0, total: None };
                (model.state.server, model.disk) = (None, None);
                model.content.clear();
                if let Some((Some(mut server), content)) = copies.get(&donor.host).cloned() {
                    model.content = content;
                    server.gtid_slave_pos = server.gtid_slave_pos.furthest(&server.gtid_binlog_pos);
                    server.gtid_binlog_pos = GtidPosition::default();
                    server.gtid_binlog_state = BinlogState::default();
                    server.read_only = true;
                    server.replication = None;
                    model.state.server = Some(server);
                    model.pending = Some((Phase::Running, Volume::Data { data_id: data_id.clone() }));
                } else {
                    let failed = Phase::Failed { reason: "CloneFailed".to_owned(), message: "no donor".to_owned() };
                    model.pending = Some((failed, Volume::Empty));
                }
            }
            Action::StartServer { .. } => {
                model.state.phase = Phase::Starting;
                model.state.config_hash = Some("c".to_owned());
                model.pending = Some((Phase::Running, model.state.volume.clone()));
            }
            Action::Fence => {
                let server = model.state.server.as_mut().expect("a server to fence");
                if let Some(replication) = server.replication.as_mut() {
                    replication.io = ThreadState::No;
                }
                let received = server.replication.as_ref().map(|r| r.gtid_io_pos.clone()).unwrap_or_default();
                let received = received.furthest(&server.gtid_slave_pos);
                model.state.fence = Some(Fence { stamp: command.stamp, how: Fenced::Stopped, received });
            }
            Action::Lock { accounts } => {
                model.state.locks.stamp = command.stamp;
                model.state.locks.accounts.extend(accounts.iter().cloned());
            }
            Action::Unlock { accounts } => model.state.locks.accounts.retain(|account| !accounts.contains(account)),
            Action::CommitMarker => {
                let server = model.state.server.as_mut().expect("a server");
                let sequence = server.gtid_binlog_pos.furthest(&server.gtid_slave_pos).sequence(0) + 1;
                let gtid = Gtid { domain: 0, server_id, sequence };
                server.gtid_binlog_pos.0.insert(0, gtid);
                server.gtid_binlog_state.add(gtid);
                model.content.insert((server_id, sequence));
                model.state.marker = Some(Marker { stamp: command.stamp, gtid: Some(gtid) });
            }
            Action::SetReadOnly { kill: true, .. }
                if model.state.server.as_ref().is_some_and(|server| server.semi_sync.waiting > 0) =>
            {
                self.kill_server(&member.0);
                self.member(&member.0).memory.end(command, Ok(()));
                return;
            }
            Action::ReplayRelayLog => {
                if let (Some(relay), Some(server)) = (model.state.relay.take(), model.state.server.as_mut()) {
                    server.gtid_slave_pos = server.gtid_slave_pos.furthest(&relay);
                    server.gtid_binlog_pos = server.gtid_binlog_pos.furthest(&relay);
                    relay.0.values().for_each(|gtid| server.gtid_binlog_state.add(*gtid));
                }
            }
            Action::SaveErrant { errant } => model.state.saved.extend(errant.iter().copied()),
            action => {
                if let Some(server) = model.state.server.as_mut() {
                    match action {
                        Action::OpenForWrites { opening } => {
                            server.read_only = false;
                            server.replication = None;
                            server.semi_sync.waits = opening.wait != Waits::Off;
                            server.semi_sync.without_end |= opening.wait == Waits::WithoutEnd;
                            let locks = &mut model.state.locks.accounts;
                            locks.extend(opening.lock.iter().cloned());
                            locks.retain(|account| !opening.unlock.contains(account));
                            model.state.fence = None;
                        }
                        Action::SetWaiting { on } => {
                            server.semi_sync.waits = *on;
                            server.semi_sync.without_end |= *on;
                        }
                        Action::SetReadOnly { .. } => server.read_only = true,
                        Action::Follow { source, .. } => {
                            let mut new = replication(&source.endpoint.host, server_id);
                            new.gtid_io_pos = server.gtid_slave_pos.furthest(&server.gtid_binlog_pos);
                            server.gtid_slave_pos = new.gtid_io_pos.clone();
                            server.replication = Some(new);
                            model.state.fence = None;
                        }
                        Action::PointAt { source } => {
                            let received =
                                server.replication.as_ref().map(|r| r.gtid_io_pos.clone()).unwrap_or_default();
                            let mut new = replication(&source.endpoint.host, server_id);
                            (new.io, new.sql) = (ThreadState::No, ThreadState::No);
                            new.gtid_io_pos = server.gtid_slave_pos.furthest(&received);
                            server.replication = Some(new);
                        }
                        Action::StopReceiving => {
                            if let Some(replication) = server.replication.as_mut() {
                                replication.io = ThreadState::No;
                            }
                        }
                        Action::StartReplication => {
                            model.state.fence = None;
                            if let Some(replication) = server.replication.as_mut() {
                                (replication.io, replication.sql) = (ThreadState::Yes, ThreadState::Yes);
                                (replication.io_error, replication.sql_error) = (None, None);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        model.memory.end(command, Ok(()));
    }

    /// Passes until nothing is ordered any more; panics when that does not come.
    pub(crate) fn settle(&mut self) -> Decision {
        for _ in 0..400 {
            let decision = self.pass(|_| true);
            let busy = self.members.values().any(|model| model.pending.is_some());
            if decision.orders.is_empty() && decision.record.is_none() && !busy && decision.look_again.is_none() {
                return decision;
            }
        }
        panic!("does not settle: {:#?}\n{}", self.decide().report, self.log.join("\n"));
    }

    /// Passes for so long.
    pub(crate) fn run_for(&mut self, seconds: u64) -> Decision {
        (0..seconds * 2).map(|_| self.pass(|_| true)).last().expect("at least one pass")
    }
}

/// What agents ask before a copy takes the place of data.
fn changed(state: &MemberState, judged: &Replaced) -> bool {
    state.server.as_ref().is_none_or(|server| changed_since(server, &judged.binlog_state).is_some())
}

fn word(action: &Action) -> String {
    match action {
        Action::Initialise { .. } => "initialise".to_owned(),
        Action::Clone { donor, replaces, .. } => {
            format!(
                "{} {}",
                if replaces.is_some() { "reseed" } else { "clone" },
                donor.host.trim_end_matches(".ns.svc")
            )
        }
        Action::StartServer { .. } => "start".to_owned(),
        Action::OpenForWrites { .. } => "open".to_owned(),
        Action::SetReadOnly { .. } => "close".to_owned(),
        Action::EnsureReplicationAccounts { users, .. } => format!("accounts {}", users.join(" ")),
        Action::Follow { source, .. } => format!("follow {}", source.endpoint.host.trim_end_matches(".ns.svc")),
        Action::StartReplication => "start-replication".to_owned(),
        other => format!("{other:?}"),
    }
}
