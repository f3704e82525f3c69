//! Who asks for another primary, and is not heard, or not twice.

use super::changes::{ackers, change, holder, safe, the_change, world};
use super::reasons;
use crate::action::{Action, Stamp};
use crate::intent::{Durability, HandsOff, Request};
use crate::member::ThreadState;
use crate::plan::{Outcome, PlanKind};
use crate::record::Record;
use crate::scenario::{World, name};

fn request(id: &str, target: Option<&str>) -> Request {
    Request { id: id.to_owned(), target: target.map(name), why: "asked by the test".to_owned() }
}

#[test]
fn a_wish_that_cannot_be_met_keeps_no_primary_from_going() {
    for leaves in [true, false] {
        let mut world = safe(3);
        // Stopped by hand, which is left alone.
        world.replication("db-1").sql = ThreadState::No;
        world.intent.wanted_primary = name("db-1");
        assert_eq!(reasons(&world.decide()), ["TargetBroken"]);
        if leaves {
            world.member("db-0").state.leaving = true;
        } else {
            world.intent.vacate.insert(name("db-0"));
        }
        let change = the_change(change(&mut world));
        assert_eq!((change.outcome, change.switchover, change.to), (Outcome::Done, true, Some(name("db-2"))));
    }
}

#[test]
fn nobody_to_hand_over_to_is_said() {
    let mut world = safe(2);
    world.replication("db-1").sql = ThreadState::No;
    world.intent.request = Some(request("1", None));
    let Outcome::RolledBack { why } = the_change(change(&mut world)).outcome else { panic!("done") };
    assert!(why.starts_with("no switchover: nobody can take over"), "{why}");
}

#[test]
fn a_target_that_is_silent_or_lags_is_refused() {
    let mut world = safe(3);
    world.member("db-1").silent = true;
    world.intent.request = Some(request("1", Some("db-1")));
    world.pass(|_| true);
    let refused = |world: &mut World| {
        let Outcome::RolledBack { why } = the_change(change(world)).outcome else { panic!("done") };
        why
    };
    assert_eq!(world.record.answered, ["1"]);
    world.member("db-1").silent = false;
    world.settle();
    world.write("db-0", 1);
    world.replication("db-1").seconds_behind = Some(31);
    world.intent.request = Some(request("2", Some("db-1")));
    assert_eq!(refused(&mut world), "no switchover to db-1: it lags by 31 s");
    world.write("db-0", 1);
    world.replication("db-1").seconds_behind = None;
    world.intent.request = Some(request("3", Some("db-1")));
    assert_eq!(refused(&mut world), "no switchover to db-1: it has a lag that is not known");
}

#[test]
fn a_request_is_met_once_whatever_is_put_back() {
    let mut world = safe(3);
    world.intent.request = Some(request("1", Some("db-1")));
    world.settle();
    world.intent.request = Some(request("2", Some("db-0")));
    world.settle();
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 3));
    // The object of an old backup.
    world.intent.request = Some(request("1", Some("db-1")));
    world.settle();
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 3));
    // The record is gone.
    world.record = Record::default();
    world.settle();
    assert_eq!(holder(&world), "db-0", "{}", world.log.join("\n"));
    assert_eq!(world.record.answered, ["1"]);
}

#[test]
fn hands_off_in_the_middle_gives_the_writes_back() {
    let mut world = safe(3);
    world.intent.request = Some(request("1", Some("db-1")));
    while !world.server("db-0").read_only {
        world.pass(|_| true);
    }
    world.intent.hands_off = Some(HandsOff::Suspend);
    for member in &mut world.intent.members {
        member.hands_off = true;
    }
    let change = the_change(change(&mut world));
    assert!(matches!(&change.outcome, Outcome::RolledBack { why } if why.contains("suspended")), "{change:?}");
    assert!(!world.server("db-0").read_only);
    let decision = world.run_for(30);
    assert_eq!((decision.orders.len(), decision.record, holder(&world)), (0, None, "db-0"));
}

#[test]
fn strict_keeps_the_last_that_acknowledge() {
    for (replicas, surplus) in [(2, vec!["db-1"]), (3, vec!["db-1", "db-2"])] {
        let mut world = world(replicas, Durability::Strict);
        for member in &surplus {
            world.intent.vacate.insert(name(member));
            world.intent.members.iter_mut().filter(|m| m.name == name(member)).for_each(|m| m.surplus = true);
        }
        let decision = world.run_for(60);
        assert_eq!((reasons(&decision), decision.released.len()), (vec!["LastAcker"], 0));
        assert_eq!(ackers(&world), surplus);
        world.write("db-0", 1);
        // To nobody: everything stops in order.
        world.intent.vacate.insert(name("db-0"));
        world.intent.members.iter_mut().for_each(|member| member.surplus = true);
        assert_eq!(world.run_for(60).released.len(), replicas as usize);
    }
    // Another one acknowledges.
    let mut world = world(3, Durability::Strict);
    world.intent.vacate.insert(name("db-2"));
    world.intent.members[2].surplus = true;
    assert!(world.run_for(60).released.contains(&name("db-2")));
    assert_eq!(ackers(&world), ["db-1"]);
}

#[test]
fn a_primary_that_follows_somebody_is_told_to_forget_that() {
    let mut world = safe(2);
    world.run_for(60);
    let replication = world.replication("db-1").clone();
    world.server("db-0").replication = Some(replication);
    let decision = world.decide();
    assert!(decision.report.events.iter().any(|event| event.reason == "UnexpectedSource"));
    assert!(matches!(decision.orders.as_slice(), [order] if matches!(order.action, Action::OpenForWrites { .. })));
    world.settle();
    assert!(world.server("db-0").replication.is_none());
}

#[test]
fn a_primary_whose_numbers_begin_again_begins_a_term_of_its_own() {
    let mut world = safe(3);
    world.write("db-0", 30);
    world.intent.request = Some(request("1", Some("db-1")));
    world.settle();
    assert_eq!((world.record.epoch, world.record.history.len()), (2, 2));
    let id = world.server("db-1").gtid_binlog_pos.0[&0].server_id;
    let server = world.server("db-1");
    server.log_reset = true;
    server.gtid_binlog_pos = format!("0-{id}-1").parse().expect("a position");
    server.gtid_binlog_state = format!("0-{id}-1").parse().expect("a state");
    let decision = world.decide();
    let record = decision.record.expect("a new term");
    assert_eq!((record.epoch, record.history.len()), (3, 1));
    assert_eq!(record.history[0].start.to_string(), format!("0-{id}-1"));
    assert!(decision.stamp > Stamp { epoch: 2, revision: u64::MAX });
    assert!(decision.course.plan.is_none_or(|plan| !matches!(plan.kind, PlanKind::Failover { .. })));
}
