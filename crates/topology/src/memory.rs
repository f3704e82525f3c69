//! What is remembered of a member from one observation to the next: since when it is well or broken, and what was
//! tried. Losing it (the controller restarts) costs patience, never safety.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Action, Command, Source, Stamp};
use crate::gtid::GtidPosition;
use crate::member::{MemberState, Phase, ReplicationState, ThreadState, Trouble, Volume};
use crate::time::Time;

/// A replica counts as repaired, and its counters start anew, when it has been well for so long.
const SETTLED: Duration = Duration::from_secs(60);

/// A replica's trouble is over when it has been well for so long; a thread that dies a moment after each start is one
/// trouble, not many.
const RECOVERED: Duration = Duration::from_secs(10);

/// An agent that was busy is asked again after so long.
const BUSY: Duration = Duration::from_millis(100);

/// What failed is tried again so soon after its pause, or not at all.
const REPEATED_WITHIN: Duration = Duration::from_secs(10);

/// What was switched is given so long to show, before it is switched again.
const SWITCHED: Duration = Duration::from_secs(1);

/// What is remembered of a member.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Decisions whose commands are on their way.
    on_the_way: u32,
    /// The last stamp that it accepted a command under; reports with a lower one are old news.
    pub sent: Option<Stamp>,
    /// Replication has not worked since, but for moments.
    pub trouble_since: Option<Time>,
    /// Replication has worked without a break since.
    pub well_since: Option<Time>,
    /// Its positions have not moved since.
    pub still_since: Time,
    /// Its server runs and does not do what it should, or does not answer, since.
    pub unwell_since: Option<Time>,
    /// Its server has been starting since.
    pub starting_since: Option<Time>,
    /// Its server has run since.
    pub running_since: Option<Time>,
    /// It has a source and does not receive from it since.
    pub deaf_since: Option<Time>,
    /// Somebody who is no member may have acknowledged to it since the last marker.
    pub stranger: bool,
    /// Those that it had sent away before.
    strangers: u32,
    /// It was busy with something: nothing is asked of it before this.
    pub not_before: Time,
    /// What was tried, by kind.
    pub tries: BTreeMap<Kind, Tries>,
    /// The source it was last told to follow.
    pub followed: Option<Source>,
    /// Accounts it was last told to have.
    pub accounts: BTreeSet<String>,
    identity: Option<(String, Volume)>,
    positions: Option<(GtidPosition, GtidPosition)>,
}

/// Kinds of action whose failures are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// First data.
    Initialise,
    /// A copy into an empty volume.
    Clone,
    /// A copy over data.
    Reseed,
    /// The server.
    Start,
    /// `read_only=OFF`.
    Open,
    /// `read_only=ON`, if it can be had.
    Close,
    /// `read_only=ON`, or the server goes: what was refused before in a friendlier way is no reason to wait.
    Demote,
    /// Replication accounts.
    Accounts,
    /// `CHANGE MASTER`.
    Follow,
    /// `START SLAVE`.
    StartReplication,
    /// Receiving stopped, and an epoch promised.
    Fence,
    /// Receiving stopped.
    StopReceiving,
    /// `CHANGE MASTER`, and no `START SLAVE` yet.
    PointAt,
    /// Accounts locked.
    Lock,
    /// Accounts unlocked.
    Unlock,
    /// A marker.
    Marker,
    /// Waits on or off.
    Waiting,
    /// A position.
    Await,
    /// The relay log from its files.
    Replay,
    /// Errant transactions written down.
    Save,
    /// Anything else.
    Other,
}

/// Attempts of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tries {
    /// How many, since it last worked for good.
    pub count: u32,
    /// When the last one began.
    pub last: Time,
    /// What became of it, if it failed.
    pub error: Option<String>,
    /// What it was to bring about, where orders of one kind differ in that.
    aim: Option<Action>,
    /// What was known before, without what was known before that.
    before: Option<Box<Tries>>,
}

impl Kind {
    /// Of an action.
    pub fn of(action: &Action) -> Self {
        match action {
            Action::Initialise { .. } => Self::Initialise,
            Action::Clone { replaces: None, .. } => Self::Clone,
            Action::Clone { replaces: Some(_), .. } => Self::Reseed,
            Action::StartServer { .. } => Self::Start,
            Action::OpenForWrites { .. } => Self::Open,
            Action::SetReadOnly { kill: false, .. } => Self::Close,
            Action::SetReadOnly { kill: true, .. } => Self::Demote,
            Action::EnsureReplicationAccounts { .. } => Self::Accounts,
            Action::Follow { .. } => Self::Follow,
            Action::StartReplication => Self::StartReplication,
            Action::Fence => Self::Fence,
            Action::StopReceiving => Self::StopReceiving,
            Action::PointAt { .. } => Self::PointAt,
            Action::Lock { .. } => Self::Lock,
            Action::Unlock { .. } => Self::Unlock,
            Action::CommitMarker => Self::Marker,
            Action::SetWaiting { .. } => Self::Waiting,
            Action::AwaitPosition { .. } => Self::Await,
            Action::ReplayRelayLog => Self::Replay,
            Action::SaveErrant { .. } => Self::Save,
            _ => Self::Other,
        }
    }

    /// What was tried, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Initialise => "making the first data",
            Self::Clone => "seeding it",
            Self::Reseed => "re-seeding it",
            Self::Start => "starting its server",
            Self::Open => "opening it for writes",
            Self::Close | Self::Demote => "setting it read-only",
            Self::Accounts => "setting up replication accounts on it",
            Self::Follow | Self::PointAt => "pointing it at its source",
            Self::StartReplication => "starting its replication",
            Self::Fence | Self::StopReceiving => "stopping it from receiving",
            Self::Lock => "locking replicas out on it",
            Self::Unlock => "letting replicas in on it",
            Self::Marker => "committing a marker on it",
            Self::Waiting => "switching the waits of its commits",
            Self::Await => "reaching a position",
            Self::Replay => "applying its relay log",
            Self::Save => "saving its errant transactions",
            Self::Other => "the last order",
        }
    }

    /// Done as soon as it is carried out, and wanted again whenever things turn: many of them are no sign of trouble.
    fn is_a_switch(self) -> bool {
        match self {
            Self::Open
            | Self::Close
            | Self::Demote
            | Self::Accounts
            | Self::Fence
            | Self::StopReceiving
            | Self::PointAt
            | Self::Lock
            | Self::Unlock
            | Self::Marker
            | Self::Waiting
            | Self::Await => true,
            Self::Initialise
            | Self::Clone
            | Self::Reseed
            | Self::Start
            | Self::Follow
            | Self::StartReplication
            | Self::Replay
            | Self::Save
            | Self::Other => false,
        }
    }

    /// The pause before the next attempt after `count` of them.
    fn pause(self, count: u32) -> Duration {
        let seconds = match (self, count) {
            (_, 0) => 0,
            (Self::Reseed, n) => [30, 120, 600, 1800][(n as usize - 1).min(3)],
            (Self::Clone | Self::Initialise, n) => [2, 5, 15, 60][(n as usize - 1).min(3)],
            (_, n) => [1, 2, 5, 10, 30, 60][(n as usize - 1).min(5)],
        };
        Duration::from_secs(seconds)
    }
}

impl Memory {
    /// Takes a report in; its server last answered its agent at `answered`.
    pub fn observe(&mut self, state: &MemberState, answered: Time, now: Time) {
        let identity = (state.pod_uid.clone(), state.volume.clone());
        if self.identity.as_ref() != Some(&identity) {
            // Another life: what was set up in the last one is gone. What was tried on it still counts, but for a
            // new pod, which starts with a clean slate.
            if self.identity.as_ref().is_some_and(|(pod_uid, _)| *pod_uid != identity.0) {
                self.tries.clear();
                self.sent = None;
            }
            self.followed = None;
            self.accounts.clear();
            self.identity = Some(identity);
        }
        if let Phase::Failed { message, .. } = &state.phase
            && let Some(tries) = self.tries.get_mut(&Kind::Reseed)
        {
            tries.error.get_or_insert_with(|| message.clone());
        }
        self.stranger |= state.strangers > self.strangers;
        self.strangers = state.strangers;
        let positions = state.server.as_ref().map(|server| {
            let received = server.replication.as_ref().map(|r| r.gtid_io_pos.clone()).unwrap_or_default();
            (server.gtid_binlog_pos.furthest(&server.gtid_slave_pos), received)
        });
        if positions != self.positions {
            self.positions = positions;
            self.still_since = now;
        }
        let unwell = state.trouble.is_some() || state.phase == Phase::Running && state.server.is_none();
        // It is told of when it has lasted for a while.
        let unwell_from = if state.trouble == Some(Trouble::Unresponsive) { answered } else { now };
        keep(&mut self.unwell_since, unwell, unwell_from);
        keep(&mut self.starting_since, state.phase == Phase::Starting, now);
        keep(&mut self.running_since, state.phase == Phase::Running, now);
        let replication = state.server.as_ref().and_then(|server| server.replication.as_ref());
        let deaf = replication.is_some_and(|r| r.io != ThreadState::Yes || !r.receives);
        keep(&mut self.deaf_since, deaf, now);
        match state.server.as_ref().and_then(|server| server.replication.as_ref()) {
            Some(replication) if works(replication) => {
                let since = *self.well_since.get_or_insert(now);
                if now.since(since) >= RECOVERED {
                    self.trouble_since = None;
                }
                if now.since(since) >= SETTLED {
                    self.forget_tries(now);
                }
            }
            Some(_) => {
                self.well_since = None;
                self.trouble_since.get_or_insert(now);
            }
            None => {
                self.trouble_since = None;
                let open = state.server.as_ref().is_some_and(|server| !server.read_only);
                let since = *self.well_since.get_or_insert(now);
                if !open {
                    self.well_since = None;
                } else if now.since(since) >= SETTLED {
                    self.forget_tries(now);
                }
            }
        }
    }

    /// Forgets what was tried long ago. What failed counts for longer: a primary is well while the accounts on it
    /// cannot be made.
    fn forget_tries(&mut self, now: Time) {
        self.tries.retain(|_, tries| {
            let keep = if tries.error.is_some() { SETTLED * 10 } else { SETTLED };
            now.since(tries.last) < keep
        });
    }

    /// Commands are on their way: those of one decision may overtake those of the next.
    pub fn in_flight(&self) -> bool {
        self.on_the_way > 0
    }

    /// The commands of a decision go out.
    pub fn begin(&mut self, commands: &[Command], now: Time) {
        self.on_the_way += 1;
        for command in commands {
            if matches!(command.action, Action::CommitMarker) {
                self.stranger = false;
            }
            let aim = aim(&command.action);
            let kind = Kind::of(&command.action);
            let before = self.tries.remove(&kind);
            let over = before.as_ref().is_none_or(|before| before.is_over(aim));
            let count = if over { 1 } else { before.as_ref().map_or(0, |before| before.count) + 1 };
            let before = before.map(|before| Box::new(Tries { before: None, ..before }));
            self.tries.insert(kind, Tries { count, last: now, error: None, aim: aim.cloned(), before });
        }
    }

    /// The last answer to the commands of a decision is there.
    pub fn back(&mut self) {
        self.on_the_way = self.on_the_way.saturating_sub(1);
    }

    /// One is through: `Ok` when it was accepted and is done or under way.
    pub fn end(&mut self, command: &Command, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.sent = self.sent.max(Some(command.stamp));
                if matches!(command.action, Action::Follow { .. } | Action::StartReplication) {
                    // It has a new source, and all its time to reach it.
                    self.deaf_since = None;
                }
                match &command.action {
                    Action::Follow { source, demote: _ } => self.followed = Some(source.clone()),
                    Action::EnsureReplicationAccounts { users, login_only: _ } => {
                        self.accounts = users.iter().cloned().collect();
                    }
                    _ => {}
                }
            }
            Err(error) => {
                if let Some(tries) = self.tries.get_mut(&Kind::of(&command.action)) {
                    tries.error = Some(error);
                }
            }
        }
    }

    /// It is being opened for writes: the order is on its way, and nothing was ordered since.
    pub fn opening(&self) -> bool {
        let last = self.tries.values().map(|tries| tries.last).max();
        self.in_flight() && self.tries.get(&Kind::Open).is_some_and(|tries| Some(tries.last) == last)
    }

    /// The last attempt of a kind that failed, and is not old news. (One that was not repeated when its pause was over is needed no more:
    /// what was ordered may have been done, and the answer lost.)
    pub fn failing(&self, now: Time) -> Option<(Kind, &str)> {
        let (kind, tries) = self.tries.iter().max_by_key(|(_, tries)| tries.last)?;
        let repeated = now.since(tries.last) <= kind.pause(tries.count) + REPEATED_WITHIN;
        tries.error.as_deref().filter(|_| repeated).map(|error| (*kind, error))
    }

    /// Did the last attempt of this kind fail?
    pub fn failed(&self, kind: Kind) -> bool {
        self.error(kind).is_some()
    }

    /// Why the last attempt of this kind failed.
    pub fn error(&self, kind: Kind) -> Option<&str> {
        self.tries.get(&kind)?.error.as_deref()
    }

    /// It could not take the command yet: as if nothing had been tried, and a moment's pause.
    pub fn busy(&mut self, command: &Command, now: Time) {
        self.not_before = now.after(BUSY);
        let kind = Kind::of(&command.action);
        if let Some(before) = self.tries.remove(&kind).and_then(|tries| tries.before) {
            self.tries.insert(kind, *before);
        }
    }

    /// How often this was tried since it last worked for good.
    pub fn count(&self, kind: Kind) -> u32 {
        self.tries.get(&kind).map_or(0, |tries| tries.count)
    }

    /// How long until a kind may be tried (again); zero: now.
    pub fn wait_for(&self, kind: Kind, now: Time) -> Duration {
        let Some(tries) = self.tries.get(&kind) else { return Duration::ZERO };
        // A copy that was refused, or came to nothing, has replaced nothing that could have helped.
        let whole = kind != Kind::Reseed || tries.error.is_none();
        let mut pause = if whole { kind } else { Kind::Clone }.pause(tries.count);
        if tries.error.is_none() && kind.is_a_switch() {
            pause = pause.min(SWITCHED);
        }
        pause.saturating_sub(now.since(tries.last))
    }

    /// The same for one action: what aims at something else than the last one, which was carried out, waits for nothing.
    pub fn wait_until(&self, action: &Action, now: Time) -> Duration {
        let kind = Kind::of(action);
        if self.tries.get(&kind).is_some_and(|tries| tries.is_over(aim(action))) {
            return Duration::ZERO;
        }
        self.wait_for(kind, now)
    }
}

impl Tries {
    /// The last one was carried out, and something else is wanted now.
    fn is_over(&self, wanted: Option<&Action>) -> bool {
        self.error.is_none() && self.aim.as_ref() != wanted
    }
}

/// What an action brings about, where that tells two of one kind apart.
fn aim(action: &Action) -> Option<&Action> {
    matches!(action, Action::Follow { .. } | Action::SetWaiting { .. }).then_some(action)
}

/// Since when something holds.
fn keep(since: &mut Option<Time>, holds: bool, now: Time) {
    if holds {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}

/// Both threads run and nothing is wrong.
pub fn works(replication: &ReplicationState) -> bool {
    replication.io == ThreadState::Yes && replication.sql == ThreadState::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{self, replica_state};

    fn at(seconds: u64) -> Time {
        Time(seconds * 1000)
    }

    #[test]
    fn a_flapping_replica_is_one_trouble() {
        let mut memory = Memory::default();
        let (well, broken) =
            (replica_state("db-1", 2, "a"), scenario::with_sql_error(replica_state("db-1", 2, "a"), 1062));
        memory.observe(&broken, at(0), at(0));
        memory.observe(&well, at(5), at(5));
        memory.observe(&broken, at(6), at(6));
        assert_eq!(memory.trouble_since, Some(at(0)));
        memory.observe(&well, at(20), at(20));
        memory.observe(&well, at(31), at(31));
        assert_eq!(memory.trouble_since, None);
    }

    #[test]
    fn attempts_wait_longer_and_longer() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp { epoch: 1, revision: 5 }, action: Action::StartReplication };
        let mut waits = Vec::new();
        for _ in 0..8 {
            memory.begin(std::slice::from_ref(&command), at(100));
            memory.end(&command, Ok(()));
            waits.push(memory.wait_for(Kind::StartReplication, at(100)).as_secs());
        }
        assert_eq!(waits, [1, 2, 5, 10, 30, 60, 60, 60]);
        assert_eq!(memory.wait_for(Kind::StartReplication, at(150)).as_secs(), 10);
    }

    /// Found on real servers: after a minute with many changes, the sixth unlocking waited for half a minute, and commits with it.
    #[test]
    fn switching_often_is_no_trouble() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp::default(), action: Action::Unlock { accounts: Vec::new() } };
        for _ in 0..8 {
            memory.begin(std::slice::from_ref(&command), at(100));
            memory.end(&command, Ok(()));
        }
        assert_eq!(memory.wait_until(&command.action, at(100)), SWITCHED);
        memory.begin(std::slice::from_ref(&command), at(100));
        memory.end(&command, Err("no".to_owned()));
        assert!(memory.wait_until(&command.action, at(100)) > SWITCHED);
    }

    #[test]
    fn another_aim_waits_for_nothing() {
        let mut memory = Memory::default();
        let waits = |on| Command { stamp: Stamp::default(), action: Action::SetWaiting { on } };
        for round in 0..8 {
            let command = waits(round % 2 == 0);
            assert_eq!(memory.wait_until(&command.action, at(100)), Duration::ZERO);
            memory.begin(std::slice::from_ref(&command), at(100));
            memory.end(&command, Ok(()));
            assert_eq!(memory.wait_until(&command.action, at(100)).as_secs(), 1);
        }
        // But what failed is not over.
        memory.begin(&[waits(true)], at(200));
        memory.end(&waits(true), Err("no".to_owned()));
        assert!(memory.wait_until(&waits(false).action, at(200)) > Duration::ZERO);
    }

    #[test]
    fn a_demotion_does_not_wait_for_what_was_refused_before() {
        let close = |kill| Command { stamp: Stamp::default(), action: Action::SetReadOnly { grace_ms: 0, kill } };
        let mut memory = Memory::default();
        for _ in 0..4 {
            memory.begin(&[close(false)], at(100));
            memory.end(&close(false), Err("sessions wait".to_owned()));
        }
        assert!(memory.wait_until(&close(false).action, at(100)) > Duration::ZERO);
        assert_eq!(memory.wait_until(&close(true).action, at(100)), Duration::ZERO);
    }

    #[test]
    fn being_busy_is_no_failure() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp::default(), action: Action::StartReplication };
        memory.begin(std::slice::from_ref(&command), at(1));
        memory.busy(&command, at(1));
        memory.back();
        assert_eq!((memory.count(Kind::StartReplication), memory.in_flight()), (0, false));
        assert_eq!(memory.not_before, Time(1100));
    }

    /// Found on real servers: a primary that was busy when it was to open was asked again a second later, for it had been opened before.
    #[test]
    fn being_busy_leaves_what_was_known_as_it_was() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp::default(), action: Action::Unlock { accounts: Vec::new() } };
        memory.begin(std::slice::from_ref(&command), at(1));
        memory.end(&command, Ok(()));
        memory.begin(std::slice::from_ref(&command), at(100));
        memory.busy(&command, at(100));
        assert_eq!((memory.count(Kind::Unlock), memory.wait_for(Kind::Unlock, at(100))), (1, Duration::ZERO));
    }

    #[test]
    fn an_answer_to_an_earlier_decision_leaves_the_next_ones_commands_on_their_way() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp::default(), action: Action::StopReceiving };
        memory.begin(std::slice::from_ref(&command), at(1));
        memory.begin(std::slice::from_ref(&command), at(2));
        memory.back();
        assert!(memory.in_flight());
        memory.back();
        assert!(!memory.in_flight());
    }

    /// Found by simulation: what was ordered was done, its answer was lost, and the topology counted as broken for ten minutes.
    #[test]
    fn a_failure_that_is_not_repeated_is_over() {
        let mut memory = Memory::default();
        let command = Command { stamp: Stamp::default(), action: Action::Unlock { accounts: Vec::new() } };
        memory.begin(std::slice::from_ref(&command), at(1));
        memory.end(&command, Err("no answer".to_owned()));
        assert_eq!(memory.failing(at(2)), Some((Kind::Unlock, "no answer")));
        assert_eq!(memory.failing(at(30)), None);
    }

    #[test]
    fn a_minute_of_health_clears_the_counters() {
        let mut memory = Memory::default();
        memory.observe(&replica_state("db-1", 2, "a"), at(0), at(0));
        let command = Command { stamp: Stamp::default(), action: Action::StartReplication };
        memory.begin(&[command], at(1));
        memory.observe(&replica_state("db-1", 2, "a"), at(59), at(59));
        assert_eq!(memory.count(Kind::StartReplication), 1);
        memory.observe(&replica_state("db-1", 2, "a"), at(61), at(61));
        assert_eq!(memory.count(Kind::StartReplication), 0);
    }

    #[test]
    fn another_life_forgets_what_was_set_up() {
        let mut memory = Memory { accounts: BTreeSet::from(["repl_2".to_owned()]), ..Memory::default() };
        memory.observe(&replica_state("db-1", 2, "a"), at(0), at(0));
        memory.accounts.insert("repl_2".to_owned());
        memory.observe(&replica_state("db-1", 2, "b"), at(1), at(1));
        assert!(memory.accounts.is_empty());
    }
}
