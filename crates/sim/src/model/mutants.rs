//! The protocol's rules, each of which can be switched off. Each must be missed.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A decision that does not change the record's content begins without a swap, under the revision that is there.
    SharedRevision,
    /// Agents do not compare revisions.
    NoCompare,
    /// A swap succeeds although the record has moved on.
    NoCompareAndSwap,
    /// A lock leaves connections alone that are there already.
    LockWithoutKill,
    /// A switchover's roll-back lets the ackers in again, and records none.
    RollBackForgetsAckers,
    /// A switchover's roll-back does not set `solo`.
    RollBackForgetsSolo,
    /// An acker leaves the record once it is locked out: nobody has shown that it holds what that one acknowledged.
    ExpelWithoutMarker,
    /// An acker leaves the record after a marker, and is never locked out.
    ExpelWithoutLock,
    /// `solo` is cleared as soon as there is an acker.
    ProveWithoutMarker,
    /// A marker counts that was committed while nothing waited.
    MarkerWithoutWaits,
    /// A member is let in first, and recorded then.
    AdmitBeforeRecording,
    /// A failover fences nobody.
    NoFence,
    /// A failover fences one acker, and takes that one.
    FenceOnlyOne,
    /// A failover takes a member that has not applied what it received.
    NoDrain,
    /// A failover although `solo` is set.
    IgnoreSolo,
    /// Waits are switched off first, and `solo` is recorded never.
    AloneUnrecorded,
    /// A new primary opens with the locks that it has from before.
    OpenWithoutLocks,
    /// `solo` is cleared although somebody is let in who is not recorded.
    StrangersStay,
    /// A switchover does not lock the ackers out before it reads the position for the last time.
    SwitchOverWithoutLocks,
}

impl Mutant {
    /// A second rule that is switched off with it: while that one holds, the first is not missed.
    #[must_use]
    pub const fn and(self) -> Option<Mutant> {
        match self {
            Mutant::RollBackForgetsAckers | Mutant::OpenWithoutLocks => Some(Mutant::StrangersStay),
            _ => None,
        }
    }

    /// So many decisions are needed until it does harm.
    #[must_use]
    pub const fn decisions(self) -> u8 {
        match self {
            Mutant::NoDrain | Mutant::NoFence | Mutant::FenceOnlyOne | Mutant::LockWithoutKill => 1,
            Mutant::StrangersStay => 6,
            Mutant::RollBackForgetsAckers | Mutant::OpenWithoutLocks => 5,
            _ => 3,
        }
    }

    /// Rules that are not missed within any bounds tried so far: what they prevent is prevented elsewhere, too.
    pub const SPARE: [Mutant; 1] = [Mutant::RollBackForgetsSolo];

    /// All the others.
    pub const ALL: [Mutant; 18] = [
        Mutant::SharedRevision,
        Mutant::NoCompare,
        Mutant::NoCompareAndSwap,
        Mutant::LockWithoutKill,
        Mutant::RollBackForgetsAckers,
        Mutant::ExpelWithoutMarker,
        Mutant::ExpelWithoutLock,
        Mutant::ProveWithoutMarker,
        Mutant::MarkerWithoutWaits,
        Mutant::AdmitBeforeRecording,
        Mutant::NoFence,
        Mutant::FenceOnlyOne,
        Mutant::NoDrain,
        Mutant::IgnoreSolo,
        Mutant::AloneUnrecorded,
        Mutant::OpenWithoutLocks,
        Mutant::StrangersStay,
        Mutant::SwitchOverWithoutLocks,
    ];
}
