//! What is seen of a topology at one moment.

use std::collections::BTreeMap;

use crate::member::{DataId, MemberName, MemberState};
use crate::memory::Memory;
use crate::plan::Course;
use crate::time::Time;

/// A topology as seen.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Every member of the intent.
    pub members: BTreeMap<MemberName, Seen>,
    /// Bound volume claims of members that should not run now (scaled down): nobody can say what they hold.
    pub idle_claims: Vec<String>,
    /// Randomness for new data ids.
    pub draw: u128,
    /// What was under way when the last decision was taken ([`crate::Decision::course`]). Losing it costs patience, never
    /// safety.
    pub course: Course,
    /// Since when nobody else has written the record, as far as is known: its holder may have renewed it until then.
    pub renewed: Time,
}

/// A member as seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its pod.
    pub pod: Pod,
    /// Its volume claim.
    pub claim: Claim,
    /// Its agent.
    pub agent: Agent,
    /// What is remembered of it.
    pub memory: Memory,
}

/// A member's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pod {
    /// There is none.
    Absent,
    /// It is there and its container `mariadb` does not run.
    NotRunning {
        /// For people: `ImagePullBackOff: ...`, `Unschedulable: ...`.
        why: String,
    },
    /// Its container ended, as its own kubelet reports: whatever ran in it is gone.
    Exited {
        /// For people: `OOMKilled (exit code 137)`.
        why: String,
    },
    /// Its container runs, or did when something was last heard of its node.
    Running,
}

/// A member's volume claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is none: nothing can be in it.
    Absent,
    /// Not bound yet: nothing can be in it.
    Unbound,
    /// There is a volume.
    Bound,
    /// The volume lives and dies with the pod.
    Ephemeral,
}

/// A member's agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Agent {
    /// No stream.
    Silent {
        /// Since when.
        since: Time,
        /// Failed attempts to reach it since then.
        attempts: u32,
        /// For people.
        why: String,
    },
    /// It reports.
    Answers {
        /// The report.
        state: Box<MemberState>,
        /// When it came.
        at: Time,
        /// When its server last answered it: what the report says of the server was so then.
        answered: Time,
    },
}

impl Observation {
    /// A data id that nobody has: the `n`th of this observation's draw.
    pub fn new_data_id(&self, n: usize) -> DataId {
        DataId(format!("{:032x}", self.draw.wrapping_add(n as u128)))
    }
}
