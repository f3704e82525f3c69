//! The decision core: what was observed of a topology, and what follows from it.
//!
//! Pure: no I/O, no clock, no async. Time comes in as an argument. Everything here can be tried from a
//! test or a simulation without a server, a cluster or a runtime.

pub mod action;
pub mod decide;
pub mod decision;
pub mod gtid;
pub mod history;
pub mod intent;
pub mod member;
pub mod memory;
pub mod mutant;
pub mod observation;
pub mod plan;
pub mod record;
pub mod refusal;
#[cfg(test)]
mod scenario;
pub mod time;

pub use action::{Action, Command, Stamp};
pub use decide::decide;
pub use decision::Decision;
pub use gtid::{BinlogState, Gtid, GtidPosition};
pub use intent::Intent;
pub use member::{DataId, MemberName, MemberState};
pub use observation::Observation;
pub use plan::{Change, Course, Forecast, Plan};
pub use record::Record;
pub use time::Time;
