//! Agents: what they are told, what they do by themselves, what they report.

use std::time::Duration;

use topology::action::{Action, Replaced, Waits};
use topology::gtid::GtidPosition;
use topology::history::changed_since;
use topology::member::{
    Fence, Fenced, Locks, Marker, MemberState, Phase, ReplicationState, SemiSync, ServerError, ServerState,
    ThreadState, Trouble, UNRESPONSIVE, Volume,
};
use topology::{Command, Time};

use crate::laws::Violation;
use crate::mutant::Mutant;
use crate::server::{Disk, Io, Process};
use crate::world::{Await, Cloning, Message, Node, World};

/// With no decision for so long the holder's agent starts it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A question that was not answered for so long is given up.
const GIVEN_UP: Duration = Duration::from_secs(5);

fn server_id(account: &str) -> u32 {
    account.rsplit('_').next().and_then(|id| id.parse().ok()).unwrap_or(0)
}

impl World {
    /// Messages that are due.
    pub(crate) fn deliver(&mut self) -> Result<(), Box<Violation>> {
        let now = self.now;
        let due: Vec<Message> = {
            let (due, later) = std::mem::take(&mut self.messages).into_iter().partition(|(at, _)| *at <= now);
            self.messages = later;
            let due: Vec<(Time, Message)> = due;
            due.into_iter().map(|(_, message)| message).collect()
        };
        for message in due {
            match message {
                Message::Orders { operator, member, commands } => self.carry_out(operator, member, commands)?,
                Message::Answer { operator, member, command, result, last } => {
                    self.answer(operator, member, &command, result, last);
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, operator: u64, n: usize, mut commands: Vec<Command>) -> Result<(), Box<Violation>> {
        if commands.is_empty() {
            return Ok(());
        }
        let command = commands.remove(0);
        let last = commands.is_empty();
        let reached = self.members[n].up && self.reach(Node::Member(n), Node::Operator);
        let result = if reached { self.execute(operator, n, &command)? } else { Some(Err("no answer".to_owned())) };
        let Some(result) = result else { return Ok(()) };
        let ok = result.is_ok();
        self.reply(operator, n, command, result, last || !ok);
        if ok && !last {
            self.messages.push((self.now, Message::Orders { operator, member: n, commands }));
        }
        Ok(())
    }

    /// What came of a command; nobody hears it now and then.
    pub(crate) fn reply(
        &mut self,
        operator: u64,
        n: usize,
        command: Command,
        mut result: Result<(), String>,
        last: bool,
    ) {
        if !self.reach(Node::Member(n), Node::Operator) || self.chance(50) {
            // It took effect, and nobody hears of it.
            result = Err("no answer".to_owned());
        }
        self.messages.push((self.now, Message::Answer { operator, member: n, command, result, last }));
    }

    /// `None`: the answer comes later.
    fn execute(
        &mut self,
        operator: u64,
        n: usize,
        command: &Command,
    ) -> Result<Option<Result<(), String>>, Box<Violation>> {
        let stale = command.stamp < self.members[n].disk.accepted && self.settings.mutant != Some(Mutant::NoCompare);
        if stale {
            self.tell_order(n, command, Some("a later decision was accepted already"));
            return Ok(Some(Err("stale".to_owned())));
        }
        let member = &mut self.members[n];
        member.disk.accepted = command.stamp.max(member.disk.accepted);
        member.sequence += 1;
        member.idle_since = self.now;
        member.resumes = None;
        self.tell_order(n, command, None);
        let result = self.act(operator, n, command)?;
        if let Some(Err(why)) = &result {
            self.tell(|| format!("  db-{n} could not: {why}"));
        }
        Ok(result)
    }

    fn act(
        &mut self,
        operator: u64,
        n: usize,
        command: &Command,
    ) -> Result<Option<Result<(), String>>, Box<Violation>> {
        let stamp = command.stamp;
        let refuse = |why: &str| Ok(Some(Err(why.to_owned())));
        let done = Ok(Some(Ok(())));
        let member = &mut self.members[n];
        match &command.action {
            Action::Initialise { data_id } => {
                if member.disk.data_id.is_some() {
                    return refuse("there is data");
                }
                member.disk =
                    Disk { data_id: Some(data_id.clone()), accepted: member.disk.accepted, ..Disk::default() };
                member.launch();
                return done;
            }
            Action::Clone { donor, data_id, replaces } => {
                if member.disk.data_id.is_some()
                    && member.disk.data_id.as_ref() != replaces.as_ref().map(|judged| &judged.data_id)
                {
                    return refuse("other data");
                }
                if self.changed(n, replaces.as_ref()) {
                    return refuse("its binary log is not what it was");
                }
                let Some(donor) = self.by_host(&donor.host) else { return refuse("no donor") };
                self.members[n].clone_failed = false;
                // What is there stays until the copy is complete, and is replaced by a rename.
                self.members[n].cloning = Some(Cloning {
                    donor,
                    data_id: data_id.clone(),
                    replaces: replaces.clone(),
                    epoch: stamp.epoch,
                    left: 4,
                });
                return done;
            }
            Action::StartServer { as_replica } => {
                if member.disk.data_id.is_none() {
                    return refuse("no data");
                }
                member.clone_failed = false;
                if member.process.is_none() {
                    self.start(n, *as_replica)?;
                }
                return done;
            }
            _ => {}
        }
        let hangs = member.process.as_ref().is_some_and(|process| process.hangs.is_some());
        if hangs && matches!(command.action, Action::SetReadOnly { kill: true, .. }) {
            member.process = None;
            return done;
        }
        if !member.process.as_ref().is_some_and(Process::answers) {
            // Frozen: what was told is ended before the failure is reported.
            return refuse("no server that answers");
        }
        let mutant = self.settings.mutant;
        if matches!(command.action, Action::Fence) && !self.take_part(n) {
            return refuse("it confirmed the primary");
        }
        if matches!(command.action, Action::OpenForWrites { .. }) {
            if !self.begin_time(n) {
                return refuse("the record cannot be renewed");
            }
            self.forget_relay_log(n)?;
        }
        let member = &mut self.members[n];
        let Some(process) = member.process.as_mut() else { return refuse("no server") };
        match &command.action {
            Action::RestartServer => {
                self.start(n, false)?;
            }
            Action::OpenForWrites { opening } => {
                lock(&mut member.disk, process, &opening.lock, mutant);
                for account in &opening.unlock {
                    member.disk.locked.remove(&server_id(account));
                }
                member.disk.source = None;
                (process.io, process.sql, process.diverged) = (Io::No, false, false);
                process.waits = opening.wait != Waits::Off;
                process.read_only = false;
                process.epoch = stamp.epoch;
                member.fence = None;
                member.locks_stamp = stamp;
                if mutant == Some(Mutant::ResetMaster) {
                    member.disk.binlog_from = member.disk.content.len();
                    let id = member.server_id;
                    member.disk.content.push(crate::server::Entry { server_id: id, sequence: 0, tag: 0 });
                }
                self.check_only_writer(n)?;
                self.check_opened(n)?;
            }
            Action::SetReadOnly { kill, .. } => {
                if member.disk.waiting == 0 {
                    process.read_only = true;
                } else if *kill {
                    member.process = None;
                } else {
                    return refuse("sessions wait");
                }
            }
            Action::Lock { accounts } => {
                lock(&mut member.disk, process, accounts, mutant);
                member.locks_stamp = stamp;
            }
            Action::Unlock { accounts } => {
                for account in accounts {
                    member.disk.locked.remove(&server_id(account));
                }
            }
            Action::CommitMarker => {
                let entry = self.next_entry(n);
                self.members[n].marker = Some((stamp, entry, false));
                self.commit_this(n, entry)?;
            }
            Action::SetWaiting { on } => {
                process.waits = *on;
                if !*on {
                    self.release_all(n)?;
                }
            }
            Action::Fence => {
                if mutant == Some(Mutant::NoFence) {
                    process.start_applying();
                } else {
                    process.stop_receiving();
                }
                if !member.disk.aside.is_empty() {
                    // Only applied from there.
                    process.sql = false;
                }
                let received = member.disk.held();
                member.fence = Some(Fence { stamp, how: Fenced::Stopped, received });
                if mutant != Some(Mutant::NoFence) {
                    self.disconnect(n);
                }
            }
            Action::AwaitPosition { position, limit_ms } => {
                if !applied(&member.disk).covers(position) {
                    let until = self.now.after(Duration::from_millis((*limit_ms).into()));
                    member.awaits.push(Await { command: command.clone(), operator, until });
                    return Ok(None);
                }
            }
            Action::ReplayRelayLog => {
                if process.io != Io::No || process.sql {
                    return refuse("a replication thread runs");
                }
                for entry in [member.disk.aside.clone(), member.disk.relay.clone()].concat() {
                    let member = &mut self.members[n];
                    let last = member.disk.last_sequence();
                    if entry.sequence <= last && member.disk.lacks(&[entry]) {
                        return refuse("the data has diverged");
                    }
                    if entry.sequence > last + 1 {
                        return refuse("what lies between is missing");
                    }
                    if entry.sequence > last {
                        member.disk.content.push(entry);
                        member.disk.slave_pos = Some(entry);
                        self.trace(entry, || format!("applied by db-{n}, from its relay log files"));
                    }
                }
                self.members[n].disk.relay.clear();
            }
            Action::SaveErrant { errant } => {
                member.claims_saved.extend(errant.iter().copied());
                if mutant != Some(Mutant::SaveNothing) {
                    member.disk.saved.extend(errant.iter().copied());
                }
            }
            Action::Follow { source, demote } => {
                if !process.read_only {
                    return refuse("it is open");
                }
                if process.waits {
                    if member.disk.waiting > 0 {
                        member.process = None;
                        return refuse("sessions waited");
                    }
                    process.waits = false;
                }
                if *demote && let Some(last) = member.disk.content.last() {
                    member.disk.slave_pos = Some(*last);
                }
                let Some(source) = self.by_host(&source.endpoint.host) else { return refuse("no such host") };
                self.disconnect(n);
                let stopped = self.members[n].process.as_ref().is_some_and(|p| p.io == Io::No || p.io == Io::Refused);
                if stopped || self.members[n].disk.source != Some(source) {
                    self.keep_relay_log_aside(n)?;
                }
                let member = &mut self.members[n];
                member.disk.source = Some(source);
                // Locks of its own are nobody's business any more.
                member.disk.locked.clear();
                member.fence = None;
                if let Some(process) = member.process.as_mut() {
                    (process.io, process.sql, process.diverged) = (Io::Connecting, true, false);
                }
            }
            Action::StartReplication => {
                member.fence = None;
                let stopped = process.io == Io::No && !process.sql;
                (process.io, process.sql, process.diverged) = (Io::Connecting, true, false);
                if stopped {
                    // Either thread, started while both were stopped, throws the relay log away.
                    self.keep_relay_log_aside(n)?;
                }
            }
            Action::PointAt { source } => {
                if !process.read_only {
                    return refuse("it is open");
                }
                let Some(source) = self.by_host(&source.endpoint.host) else { return refuse("no such host") };
                self.disconnect(n);
                if self.members[n].disk.source != Some(source) {
                    if let Some(process) = self.members[n].process.as_mut() {
                        (process.io, process.sql, process.diverged) = (Io::No, false, false);
                    }
                    self.keep_relay_log_aside(n)?;
                    self.members[n].disk.source = Some(source);
                }
            }
            Action::StopReceiving => {
                process.stop_receiving();
                self.disconnect(n);
            }
            Action::EnsureReplicationAccounts { .. }
            | Action::Initialise { .. }
            | Action::Clone { .. }
            | Action::StartServer { .. } => {}
        }
        done
    }

    /// What is in the relay log and not applied goes.
    fn forget_relay_log(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let relay = std::mem::take(&mut self.members[n].disk.relay);
        let aside = std::mem::take(&mut self.members[n].disk.aside);
        self.check_discard(n, &relay, "forgotten with the relay log")?;
        self.check_discard(n, &aside, "forgotten with what was kept aside")
    }

    /// What is in the relay log would be thrown away: the agent keeps it until it was fetched again.
    fn keep_relay_log_aside(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let disk = &mut self.members[n].disk;
        let relay = std::mem::take(&mut disk.relay);
        if self.settings.mutant == Some(Mutant::KeepNothingAside) {
            return self.check_discard(n, &relay, "thrown away with the relay log");
        }
        let new = relay.into_iter().filter(|entry| disk.aside.last().is_none_or(|last| last.sequence < entry.sequence));
        disk.aside.extend(new.collect::<Vec<_>>());
        Ok(())
    }

    /// What was kept aside is not needed any more.
    fn forget_what_is_applied(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let disk = &mut self.members[n].disk;
        if disk.aside.last().is_some() && !disk.lacks(&disk.aside) {
            let aside = std::mem::take(&mut disk.aside);
            return self.check_discard(n, &aside, "applied, and not kept aside any more");
        }
        Ok(())
    }

    /// Switched off: everything that waits returns, as if it had been acknowledged.
    pub(crate) fn release_all(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let disk = &mut self.members[n].disk;
        let from = disk.content.len() - disk.waiting;
        disk.waiting = 0;
        let waited: Vec<_> = self.members[n].disk.content[from..].to_vec();
        for entry in waited {
            self.release(n, entry)?;
        }
        Ok(())
    }

    /// Its connection to its source is gone.
    pub(crate) fn disconnect(&mut self, n: usize) {
        let id = self.members[n].server_id;
        for member in &mut self.members {
            if let Some(process) = member.process.as_mut() {
                process.connected.remove(&id);
            }
        }
    }

    /// What an agent does by itself in a step.
    pub(crate) fn run_agent(&mut self, n: usize) -> Result<(), Box<Violation>> {
        if !self.members[n].up {
            return Ok(());
        }
        self.go_on_cloning(n)?;
        self.forget_what_is_applied(n)?;
        self.look_at_awaits(n);
        self.resume(n)?;
        self.mind_the_record(n);
        self.mind_the_clock(n)?;
        // Sessions wait although an acker is connected: a marker of its own makes it acknowledge again.
        let lost = self.members[n].disk.waiting > 0
            && self.members[n].process.as_ref().is_some_and(|p| p.answers() && p.waits && !p.connected.is_empty());
        if lost && self.chance(5) {
            let entry = self.next_entry(n);
            let kept = self.members[n].marker.replace((topology::Stamp::default(), entry, false));
            self.commit_this(n, entry)?;
            if kept.is_some() {
                self.members[n].marker = kept;
            }
        }
        Ok(())
    }

    /// Is what a copy would replace something else than was judged, or not to be seen?
    fn changed(&self, n: usize, judged: Option<&Replaced>) -> bool {
        let member = &self.members[n];
        let Some(judged) = judged.filter(|_| self.settings.mutant != Some(Mutant::WipeUnseen)) else { return false };
        let process = member.process.as_ref().filter(|process| process.answers());
        process.is_none_or(|process| changed_since(&self.server(n, process), &judged.binlog_state).is_some())
    }

    fn go_on_cloning(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let Some(cloning) = self.members[n].cloning.as_mut() else { return Ok(()) };
        cloning.left = cloning.left.saturating_sub(1);
        if cloning.left > 0 {
            return Ok(());
        }
        let Some(Cloning { donor, data_id, replaces, epoch, .. }) = self.members[n].cloning.take() else {
            return Ok(());
        };
        let from = &self.members[donor];
        let there =
            from.process.as_ref().is_some_and(Process::answers) && self.reach(Node::Member(n), Node::Member(donor));
        self.members[n].sequence += 1;
        self.members[n].clone_failed = true;
        if !there || self.members[donor].disk.waiting > 0 {
            return Ok(()); // A donor that fails, or whose commits wait, gives nothing.
        }
        if self.changed(n, replaces.as_ref()) {
            self.tell(|| format!("  db-{n} keeps its data: its binary log is not what it was"));
            return Ok(());
        }
        let from = self.members[donor].disk.clone();
        // Without a promise a new primary may lack what the one had that this member was compared with.
        if self.settings.durability.promises() || epoch == self.lease.record.epoch {
            self.check_wipe(n, &from.content)?;
        }
        for entry in self.members[n].disk.content.clone() {
            self.trace(entry, || format!("gone from db-{n} with its former data"));
        }
        for entry in &from.content {
            self.trace(*entry, || format!("in the copy that db-{n} got from db-{donor}"));
        }
        let accepted = self.members[n].disk.accepted;
        let saved = std::mem::take(&mut self.members[n].disk.saved);
        let position = from.content.last().copied();
        self.disconnect(n);
        let member = &mut self.members[n];
        member.disk = Disk {
            data_id: Some(data_id),
            binlog_from: from.content.len(),
            slave_pos: position,
            content: from.content,
            locked: from.locked,
            accepted,
            saved,
            ..Disk::default()
        };
        (member.fence, member.marker, member.clone_failed) = (None, None, false);
        member.claims_saved.clear();
        member.launch();
        Ok(())
    }

    fn look_at_awaits(&mut self, n: usize) {
        let now = self.now;
        for wait in std::mem::take(&mut self.members[n].awaits) {
            let Action::AwaitPosition { position, .. } = &wait.command.action else { continue };
            let answers = self.members[n].process.as_ref().is_some_and(Process::answers);
            let result = if answers && applied(&self.members[n].disk).covers(position) {
                Ok(())
            } else if now >= wait.until || !answers {
                Err("not in time".to_owned())
            } else {
                self.members[n].awaits.push(wait);
                continue;
            };
            self.members[n].sequence += 1;
            self.reply(wait.operator, n, wait.command, result, true);
        }
    }

    /// Databases come back without the operator: the holder's agent swaps the record itself, and opens.
    fn resume(&mut self, n: usize) -> Result<(), Box<Violation>> {
        let member = &self.members[n];
        if let Some(record) = member.resumes.clone() {
            if member.process.as_ref().is_some_and(Process::answers) {
                let alone = record.solo && record.ackers.is_empty();
                let strict = self.settings.durability == topology::intent::Durability::Strict;
                self.forget_relay_log(n)?;
                let member = &mut self.members[n];
                member.resumes = None;
                member.disk.source = None;
                if !self.begin_time(n) {
                    return Ok(());
                }
                let member = &mut self.members[n];
                if strict && record.ackers.is_empty() {
                    return Ok(()); // Its commits would wait, and copies of it with them.
                }
                if let Some(process) = member.process.as_mut() {
                    process.waits = !alone || strict;
                    process.read_only = false;
                    process.epoch = record.epoch;
                }
                self.tell(|| format!("db-{n} opens by itself"));
                self.check_only_writer(n)?;
                self.check_opened(n)?;
            }
            return Ok(());
        }
        let idle = self.now.since(member.idle_since) >= PATIENCE;
        if member.process.is_some() || member.cloning.is_some() || !idle || !self.reach(Node::Member(n), Node::Api) {
            return Ok(());
        }
        let holder = self.lease.record.holder.as_ref();
        let holds =
            member.disk.data_id.is_some() && holder.map(|holder| &holder.data_id) == member.disk.data_id.as_ref();
        let record = self.lease.record.next();
        if !holds || record.stamp() < member.disk.accepted {
            return Ok(());
        }
        self.lease.record = record.clone();
        self.lease.version += 1;
        let member = &mut self.members[n];
        member.disk.accepted = record.stamp();
        member.idle_since = self.now;
        self.start(n, false)?;
        self.members[n].resumes = Some(record);
        self.tell(|| format!("db-{n} starts by itself"));
        Ok(())
    }

    /// An open server whose record names another one steps down.
    fn mind_the_record(&mut self, n: usize) {
        let open = self.members[n].process.as_ref().is_some_and(|process| process.answers() && !process.read_only);
        if !open || !self.reach(Node::Member(n), Node::Api) || !self.chance(20) {
            return;
        }
        let holder = self.lease.record.holder.as_ref().map(|holder| &holder.data_id);
        if holder.is_some() && holder != self.members[n].disk.data_id.as_ref() {
            self.tell(|| format!("db-{n} steps down by itself"));
            let member = &mut self.members[n];
            if member.disk.waiting > 0 {
                member.process = None;
            } else if let Some(process) = member.process.as_mut() {
                process.read_only = true;
            }
            member.sequence += 1;
        }
    }

    /// Its server starts on the data that is there.
    fn start(&mut self, n: usize, as_replica: bool) -> Result<(), Box<Violation>> {
        let disk = &mut self.members[n].disk;
        let mut dropped = Vec::new();
        if as_replica {
            let keep = disk.content.len() - disk.waiting;
            dropped = disk.content.split_off(keep);
            disk.binlog_from = disk.binlog_from.min(keep);
        }
        // Otherwise recovery commits what its binary log holds: nobody was told, and nobody can be now.
        disk.waiting = 0;
        let member = &mut self.members[n];
        member.launch();
        member.locks_stamp = topology::Stamp::default();
        (member.marker, member.fence) = (None, None);
        member.sequence += 1;
        self.check_discard(n, &dropped, "dropped in the crash recovery")
    }

    /// The agent's report.
    pub(crate) fn report(&self, n: usize) -> MemberState {
        let member = &self.members[n];
        let disk = &member.disk;
        let volume = match &disk.data_id {
            Some(data_id) => Volume::Data { data_id: data_id.clone() },
            None => Volume::Empty,
        };
        let mut state = MemberState::new(
            member.name.clone(),
            format!("pod-{n}-{}", member.life),
            member.server_id,
            disk.accepted,
            volume,
        );
        state.sequence = member.sequence;
        state.phase = match (&member.process, &member.cloning) {
            (_, Some(cloning)) => Phase::Cloning {
                donor: self.intent.members[cloning.donor].agent.host.clone(),
                received: 0,
                total: None,
            },
            _ if member.clone_failed => {
                Phase::Failed { reason: "CloneFailed".to_owned(), message: "the copy came to nothing".to_owned() }
            }
            (None, None) => Phase::Waiting,
            (Some(process), None) if process.starting > 0 => Phase::Starting,
            (Some(_), None) => Phase::Running,
        };
        state.server =
            member.process.as_ref().filter(|process| process.answers()).map(|process| self.server(n, process));
        if let Some(hang) = member.process.as_ref().and_then(|process| process.hangs.as_ref()) {
            let lasts = self.now.since(hang.since);
            state.server = hang.answer.clone().filter(|_| lasts < GIVEN_UP);
            state.answer_age_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            state.trouble = (lasts >= UNRESPONSIVE).then_some(Trouble::Unresponsive);
        }
        state.config_hash = member.has_run.then(|| "c".to_owned());
        state.fence.clone_from(&member.fence);
        let stopped = member.process.as_ref().is_some_and(|p| p.answers() && p.io == Io::No && !p.sql);
        let held = disk.held();
        state.relay = (stopped && (disk.lacks(&disk.relay) || disk.lacks(&disk.aside))).then_some(held);
        state.marker = member.marker.map(|(stamp, entry, back)| Marker { stamp, gtid: back.then(|| entry.gtid()) });
        state.locks =
            Locks { stamp: member.locks_stamp, accounts: disk.locked.iter().map(|id| format!("repl_{id}")).collect() };
        state.saved.clone_from(&member.claims_saved);
        state.strangers = if self.settings.mutant == Some(Mutant::WelcomeStrangers) { 0 } else { member.strangers };
        state
    }

    pub(crate) fn server(&self, n: usize, process: &Process) -> ServerState {
        let disk = &self.members[n].disk;
        let mut slave_pos = disk.slave_pos();
        if self.settings.mutant == Some(Mutant::SkipDrain) && self.members[n].fence.is_some() {
            slave_pos = disk.received();
        }
        let error = |errno| Some(ServerError { errno, message: String::new() });
        let replication = disk.source.map(|source| ReplicationState {
            host: self.intent.members[source].server.host.clone(),
            port: 3306,
            user: format!("repl_{}", self.members[n].server_id),
            io: match process.io {
                Io::No | Io::Refused => ThreadState::No,
                Io::Connecting => ThreadState::Connecting,
                Io::Yes => ThreadState::Yes,
            },
            sql: if process.sql { ThreadState::Yes } else { ThreadState::No },
            gtid_io_pos: disk.received(),
            receives: process.io == Io::Yes,
            io_error: match process.io {
                Io::Refused => error(1236),
                Io::Connecting if process.kept_out => error(4151),
                Io::Connecting if process.unreached => error(2003),
                Io::No | Io::Connecting | Io::Yes => None,
            },
            sql_error: if process.diverged { error(1950) } else { None },
            passed_over: 0,
            seconds_behind: Some(0),
        });
        ServerState {
            version: "11.8.6-MariaDB".to_owned(),
            read_only: process.read_only,
            gtid_binlog_pos: disk.binlog_pos(),
            gtid_slave_pos: slave_pos,
            gtid_binlog_state: disk.binlog_state(),
            replication,
            log_reset: false,
            semi_sync: SemiSync {
                waits: process.waits,
                clients: u32::try_from(process.connected.len()).unwrap_or(u32::MAX),
                waiting: u32::try_from(disk.waiting).unwrap_or(u32::MAX),
                acknowledges: true,
                without_end: true,
            },
        }
    }
}

fn applied(disk: &Disk) -> GtidPosition {
    disk.slave_pos().furthest(&disk.binlog_pos())
}

fn lock(disk: &mut Disk, process: &mut Process, accounts: &[String], mutant: Option<Mutant>) {
    for account in accounts {
        let id = server_id(account);
        disk.locked.insert(id);
        if mutant != Some(Mutant::LockWithoutKill) {
            process.connected.remove(&id);
        }
    }
}
