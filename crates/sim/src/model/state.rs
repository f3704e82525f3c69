//! What there is: three servers, the record, and two operators. Small enough that millions of it fit into memory.

/// A set of members, or of transactions: bit `n` for number `n`. Transactions are numbered as they are written.
pub(super) type Set = u8;

/// How many members there are.
pub(super) const MEMBERS: u8 = 3;
/// The source of a server that replicates from nobody: one that is, or was, a primary.
pub(super) const NOBODY: u8 = MEMBERS;

/// Just this one.
pub(super) const fn only(n: u8) -> Set {
    1 << n
}

/// Is it in there?
pub(super) const fn has(set: Set, n: u8) -> bool {
    set & only(n) != 0
}

/// Is everything of `part` in `whole`?
pub(super) const fn covers(whole: Set, part: Set) -> bool {
    part & !whole == 0
}

/// Everybody but this one.
pub(super) const fn others(n: u8) -> Set {
    (only(MEMBERS) - 1) & !only(n)
}

/// These.
pub(super) fn set(numbers: impl Iterator<Item = u8>) -> Set {
    numbers.fold(0, |set, n| set | only(n))
}

/// The numbers of the members.
pub(super) fn members() -> std::ops::Range<u8> {
    0..MEMBERS
}

/// A server with its agent and its disk. One that is down or cut off is one that takes no step for a while: whatever could
/// reach it may as well not happen, so there is nothing to note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Member {
    /// Transactions in its binary log, applied.
    pub(super) log: Set,
    /// Received, on its disk, and not applied yet.
    pub(super) relay: Set,
    /// Whom it replicates from.
    pub(super) source: u8,
    /// It receives.
    pub(super) receives: bool,
    /// It takes clients' writes.
    pub(super) open: bool,
    /// Its commits wait for an acknowledgement.
    pub(super) waits: bool,
    /// Members whose accounts are locked here.
    pub(super) locked: Set,
    /// Members that are still connected although their accounts are locked: only where a lock kills no connections.
    pub(super) lingering: Set,
    /// The highest revision that its agent has accepted.
    pub(super) accepted: u8,
}

impl Member {
    /// All that its disk holds.
    pub(super) fn held(&self) -> Set {
        self.log | self.relay
    }
}

/// The record in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Record {
    /// Grows with every swap; an epoch begins with a swap, so this is the whole stamp.
    pub(super) revision: u8,
    pub(super) holder: u8,
    pub(super) ackers: Set,
    pub(super) solo: bool,
    /// The holder has opened in this epoch. (Not in the real record: members tell it.)
    pub(super) opened: bool,
}

/// An operator: what it has swapped in, and has yet to carry out. The other one may swap before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Operator {
    pub(super) plan: Plan,
    /// The revision of the decision: its orders carry it, and its last swap succeeds only from it.
    pub(super) revision: u8,
    /// The primary that it is about.
    pub(super) primary: u8,
    /// The ackers that it is about.
    pub(super) ackers: Set,
}

/// What is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Plan {
    Nothing,
    /// One order after a decision that is complete.
    Order(Order),
    /// Only where a member is let in before that is recorded.
    Admit(u8),
    Expel {
        member: u8,
        step: Step,
    },
    Prove {
        step: Step,
    },
    /// `ackers` of the operator are those that are not fenced yet.
    FailOver,
    SwitchOver {
        to: u8,
        step: Step,
    },
}

/// How far a plan has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Step {
    Begun,
    /// The replicas concerned are locked out; a switchover has read this position before.
    Locked(Set),
    /// A marker is committed, or the primary closed, at this position.
    At(Set),
}

/// What an agent is told after the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Order {
    /// To the primary: this member may log in.
    Unlock(u8),
    /// To the primary: commits wait, or not.
    Wait(bool),
    /// To the primary: forget the source, let the plan's ackers in and nobody else, take writes.
    Open,
    /// To the primary: these may log in no more.
    Lock(Set),
    /// The agent to itself: forget the source, take writes, with the locks that are there.
    Resume { wait: bool },
    /// To a member: receive again.
    Start(u8),
    /// To a member: replicate from the primary, with its own data or a fresh copy.
    Follow { member: u8, copy: bool },
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub(super) members: [Member; MEMBERS as usize],
    pub(super) record: Record,
    pub(super) operators: [Operator; 2],
    /// How many transactions were written.
    pub(super) written: u8,
    /// Those whose clients were told so, or could have been.
    pub(super) acknowledged: Set,
    /// What may still happen.
    pub(super) left: Bounds,
}

/// What may happen in one history, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bounds {
    /// Transactions.
    pub transactions: u8,
    /// Crashes of members.
    pub crashes: u8,
    /// Changes of primary.
    pub changes: u8,
    /// Decisions of operators.
    pub decisions: u8,
}

impl State {
    pub(super) fn member(&self, n: u8) -> &Member {
        &self.members[usize::from(n)]
    }

    pub(super) fn member_mut(&mut self, n: u8) -> &mut Member {
        &mut self.members[usize::from(n)]
    }

    /// The record's holder.
    pub(super) fn primary(&self) -> &Member {
        self.member(self.record.holder)
    }

    /// Members of the set.
    pub(super) fn of(set: Set) -> impl Iterator<Item = u8> {
        members().filter(move |n| has(set, *n))
    }

    /// Members that could acknowledge on the primary, and are not recorded.
    pub(super) fn strangers(&self) -> Set {
        others(self.record.holder) & !self.record.ackers & !self.primary().locked
    }

    /// A replica follows this member and can connect.
    pub(super) fn receives_from(&self, replica: u8, from: u8) -> bool {
        let (replica, source, number) = (self.member(replica), self.member(from), only(replica));
        replica.source == from && replica.receives && (source.locked & number == 0 || source.lingering & number != 0)
    }

    /// It has nothing that the primary lacks.
    pub(super) fn clean(&self, n: u8) -> bool {
        covers(self.primary().log, self.member(n).held())
    }
}

impl Operator {
    pub(super) const IDLE: Operator = Operator { plan: Plan::Nothing, revision: 0, primary: 0, ackers: 0 };
}

impl Default for Bounds {
    fn default() -> Self {
        Self { transactions: 2, crashes: 1, changes: 2, decisions: 5 }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { transactions, crashes, changes, decisions } = self;
        write!(f, "{decisions} decisions, {changes} changes of primary, {transactions} transactions, {crashes} crashes")
    }
}
