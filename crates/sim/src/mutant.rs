//! Ways to break what is decided or carried out. Each must be caught.

use topology::intent::Durability;

use crate::laws::Law;
use crate::world::{More, Settings};

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
    /// An acknowledgement of somebody who is no member counts.
    WelcomeStrangers,
    /// Agents do not compare stamps.
    NoCompare,
    /// A lost race for the record is not noticed.
    NoCompareAndSwap,
    /// Errant transactions are said to be saved, and are not.
    SaveNothing,
    /// A copy takes the place of what has been written since that was decided.
    WipeUnseen,
    /// A former primary's own events are skipped when they come back to it (`rpl_semi_sync_slave_enabled=OFF`).
    SkipOwnEvents,
    /// Members that still follow a former primary are left alone.
    FollowOnce,
    /// Relay logs that a start of replication throws away are not kept aside.
    KeepNothingAside,
    /// The record does not say how an epoch began.
    SayNothing,
    /// Without a promise: the record is taken from a primary that nobody hears before its time is up.
    TakeAtOnce,
    /// Without a promise: a primary that nobody confirms stays open.
    NeverClose,
    /// Without a promise: whoever confirmed a primary takes over from it all the same.
    ConfirmAndTakePart,
}

impl Mutant {
    /// The laws that it breaks.
    #[must_use]
    pub fn breaks(self) -> &'static [Law] {
        match self {
            Mutant::SkipDrain | Mutant::IgnoreSolo | Mutant::WelcomeStrangers => &[Law::NothingLost],
            Mutant::ExpelWithoutMarker | Mutant::AdmitBeforeRecording => &[Law::NothingLost, Law::NeverTheLastCopy],
            Mutant::ForgetEpoch => &[Law::OneWriter],
            Mutant::ResetMaster => &[Law::NothingLost, Law::Equal],
            // Seen as a loss, or as the danger of one.
            Mutant::NoFence | Mutant::LockWithoutKill | Mutant::NoCompareAndSwap => {
                &[Law::NothingLost, Law::FormerIsMute, Law::OneWriter]
            }
            // Whatever was ordered once may happen at any time.
            Mutant::NoCompare => &[
                Law::NothingLost,
                Law::FormerIsMute,
                Law::OneWriter,
                Law::Equal,
                Law::ErrantSaved,
                Law::NeverTheLastCopy,
            ],
            Mutant::SaveNothing | Mutant::WipeUnseen => &[Law::ErrantSaved],
            Mutant::SkipOwnEvents => &[Law::Equal],
            Mutant::FollowOnce => &[Law::Healthy],
            Mutant::KeepNothingAside => &[Law::NeverTheLastCopy],
            Mutant::SayNothing => &[Law::ChangeTold],
            Mutant::TakeAtOnce | Mutant::NeverClose | Mutant::ConfirmAndTakePart => &[Law::OneAtATime],
        }
    }

    /// What a run must be like for this to matter.
    #[must_use]
    pub fn settings(self, seed: u64) -> Settings {
        let more = match self {
            // What is thrown away is missed only when nobody else has it any more.
            Mutant::KeepNothingAside => Some(More::DiskLost),
            Mutant::NoCompare | Mutant::NoCompareAndSwap => Some(More::OperatorStopped),
            Mutant::WipeUnseen => Some(More::RootWrites),
            _ => None,
        };
        let usual = crate::settings(seed);
        let durability = match self {
            Mutant::TakeAtOnce | Mutant::NeverClose | Mutant::ConfirmAndTakePart => {
                Durability::Available { semi_sync: seed.is_multiple_of(2) }
            }
            _ => usual.durability,
        };
        Settings { mutant: Some(self), more, durability, ..usual }
    }

    /// All of them.
    pub const ALL: [Mutant; 20] = [
        Mutant::SkipDrain,
        Mutant::ForgetEpoch,
        Mutant::ResetMaster,
        Mutant::ExpelWithoutMarker,
        Mutant::AdmitBeforeRecording,
        Mutant::NoFence,
        Mutant::LockWithoutKill,
        Mutant::IgnoreSolo,
        Mutant::WelcomeStrangers,
        Mutant::NoCompare,
        Mutant::NoCompareAndSwap,
        Mutant::SaveNothing,
        Mutant::WipeUnseen,
        Mutant::SkipOwnEvents,
        Mutant::FollowOnce,
        Mutant::KeepNothingAside,
        Mutant::SayNothing,
        Mutant::TakeAtOnce,
        Mutant::NeverClose,
        Mutant::ConfirmAndTakePart,
    ];
}
