//! Ways to break what is decided or carried out. Each must be caught.

use crate::world::Settings;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A new primary opens before it has applied what it had received.
    SkipDrain,
    /// A change of primary does not raise the epoch.
    ForgetEpoch,
    /// `RESET MASTER` when a primary opens.
    ResetMaster,
    /// An acker is dropped from the record at once, without lock and marker.
    ExpelWithoutMarker,
    /// Replicas are let in before the record says that they may acknowledge.
    AdmitBeforeRecording,
    /// Ackers are not stopped from receiving.
    NoFence,
    /// A lock leaves open connections alone.
    LockWithoutKill,
    /// A failover although `solo` says that it is not proven that the ackers have everything.
    IgnoreSolo,
    /// Agents do not compare stamps.
    NoCompare,
    /// A lost race for the record is not noticed.
    NoCompareAndSwap,
    /// Errant transactions are said to be saved, and are not.
    SaveNothing,
    /// Relay logs that a start of replication throws away are not kept aside.
    KeepNothingAside,
}

impl Mutant {
    /// What a run must be like for this to matter.
    #[must_use]
    pub fn settings(self, seed: u64) -> Settings {
        // What is thrown away is missed only when nobody else has it any more.
        let losses = (self == Mutant::KeepNothingAside).then_some(5);
        Settings { mutant: Some(self), losses, ..crate::settings(seed) }
    }

    /// All of them.
    pub const ALL: [Mutant; 12] = [
        Mutant::SkipDrain,
        Mutant::ForgetEpoch,
        Mutant::ResetMaster,
        Mutant::ExpelWithoutMarker,
        Mutant::AdmitBeforeRecording,
        Mutant::NoFence,
        Mutant::LockWithoutKill,
        Mutant::IgnoreSolo,
        Mutant::NoCompare,
        Mutant::NoCompareAndSwap,
        Mutant::SaveNothing,
        Mutant::KeepNothingAside,
    ];
}
