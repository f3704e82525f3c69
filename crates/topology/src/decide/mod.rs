//! What to do next: an ordered list of small rules over one observation.
//!
//! Each rule looks at the whole picture ([`pass::Pass`]), may give orders, refuse something by name, or end the
//! pass. A member gets at most one order a pass, except where a rule gives it a sequence.

mod ackers;
mod course;
mod diagnose;
mod failover;
mod first;
mod follow;
mod judge;
mod lease;
mod pass;
mod primary;
mod release;
mod repair;
mod report;
mod seed;
mod switchover;
mod telling;
#[cfg(test)]
mod tests;
mod view;

use crate::decision::Decision;
use crate::intent::Intent;
use crate::observation::Observation;
use crate::record::Record;
use crate::time::Time;
use pass::{Flow, Pass};

/// The rules, in order.
const RULES: &[fn(&mut Pass<'_>) -> Flow] = &[
    first::hands_off,
    first::duplicate_server_ids,
    first::stale_record,
    first::foreign_volumes,
    course::keep_course,
    ackers::strangers,
    course::proceed,
    first::forget_word,
    primary::close_strays,
    first::first_data,
    first::lost_record,
    failover::consider,
    primary::keep_open,
    switchover::consider,
    lease::name_candidates,
    ackers::keep,
    primary::accounts,
    primary::start_others,
    seed::empty_members,
    follow::follow_primary,
    repair::errant_transactions,
    repair::emptied_logs,
    repair::stopped_threads,
    seed::broken_members,
    release::release,
];

/// Decides. `record` is [`Record::default`] where no Lease exists yet.
pub fn decide(intent: &Intent, record: &Record, seen: &Observation, now: Time) -> Decision {
    let mut pass = Pass::new(intent, record, seen, now);
    for rule in RULES {
        if rule(&mut pass) == Flow::Stop {
            break;
        }
    }
    pass.finish()
}
