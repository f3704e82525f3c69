//! From nothing to a replicating topology, and what stands in the way.

use super::{log, reasons};
use crate::intent::{HandsOff, Intent};
use crate::member::{DataId, Phase, Volume};
use crate::observation::{Claim, Pod};
use crate::scenario::{World, intent, member_intent, name};

#[test]
fn one_member() {
    let mut world = World::new(intent(1));
    let decision = world.settle();
    assert_eq!(log(&mut world), "db-0 initialise\ndb-0 open");
    assert!(decision.report.health.ok, "{:?}", decision.report.health);
    assert_eq!(decision.report.health.message, "db-0 is open for writes");
}

#[test]
fn three_members_of_one_object() {
    let mut world = World::new(intent(3));
    let decision = world.settle();
    assert_eq!(
        log(&mut world),
        "db-0 initialise\n\
         db-0 open\ndb-0 accounts repl_1 repl_2 repl_3\n\
         db-1 clone db-0\ndb-2 clone db-0\n\
         db-1 follow db-0\ndb-2 follow db-0"
    );
    assert_eq!(decision.report.health.message, "db-0 is open for writes, 2 replicas follow it");
    assert_eq!((world.record.epoch, world.record.history.len(), world.record.first.is_none()), (1, 1, true));
    assert_eq!(world.record.holder.as_ref().expect("a holder").member, name("db-0"));
}

fn split() -> Intent {
    let mut intent = intent(1);
    intent.replication = true;
    intent.members.extend((0..3).map(|n| member_intent(&format!("replica-{n}"), 101 + n)));
    intent
}

#[test]
fn split_objects() {
    let mut world = World::new(split());
    assert!(world.settle().report.health.ok);
    assert_eq!(world.log.iter().filter(|line| line.contains(" clone db-0")).count(), 3);
}

#[test]
fn replicas_created_when_the_primary_holds_data_are_copied_from_it_and_then_from_each_other() {
    let mut world = World::new(intent(1));
    world.settle();
    world.write("db-0", 50_000);
    log(&mut world);
    world.intent = split();
    world.create_missing();
    assert!(world.settle().report.health.ok);
    let log = log(&mut world);
    assert!(log.starts_with("replica-0 clone db-0\ndb-0 accounts") || log.starts_with("replica-0 clone db-0"), "{log}");
    assert_eq!(log.matches("clone db-0").count(), 1, "a big primary is read once: {log}");
    assert!(log.contains("clone replica-"), "{log}");
}

#[test]
fn one_more_by_scale_comes_from_a_replica() {
    let mut world = World::new(intent(3));
    world.settle();
    log(&mut world);
    world.intent = intent(4);
    world.create_missing();
    world.settle();
    assert_eq!(log(&mut world), "db-3 clone db-1\ndb-0 accounts repl_1 repl_2 repl_3 repl_4\ndb-3 follow db-0");
}

#[test]
fn nothing_is_made_before_every_volume_is_known() {
    let mut world = World::new(intent(3));
    world.member("db-2").pod = Pod::NotRunning { why: "ImagePullBackOff".to_owned() };
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["UnknownVolumes"]));
    assert_eq!(decision.report.operation.as_deref(), Some("waiting for db-2"));
    assert!(decision.report.health.message.contains("waiting for db-2 (ImagePullBackOff)"));
    // An unbound claim is empty.
    world.member("db-2").claim = Claim::Unbound;
    world.settle();
    assert!(log(&mut world).starts_with("db-0 initialise"));
}

#[test]
fn claims_of_members_that_do_not_run_stand_in_the_way() {
    let mut world = World::new(intent(1));
    world.idle_claims = vec!["storage-db-1".to_owned()];
    let decision = world.settle();
    assert_eq!(reasons(&decision), ["UnknownVolumes"]);
    assert!(decision.report.health.message.contains("storage-db-1"));
}

#[test]
fn a_foreign_volume_is_named_and_left_alone() {
    let mut world = World::new(intent(2));
    world.member("db-1").state.volume = Volume::Foreign { found: "ibdata1".to_owned() };
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["ForeignVolume"]));
    // Later, too: the others work, it waits.
    let mut world = World::new(intent(3));
    world.settle();
    log(&mut world);
    world.restart_pod("db-2");
    world.member("db-2").state.volume = Volume::Foreign { found: "ibdata1".to_owned() };
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["ForeignVolume"]));
}

#[test]
fn a_crash_between_record_and_act_repeats_the_same_id() {
    let mut world = World::new(intent(2));
    let first = world.pass(|_| false);
    let id = first.record.expect("a record").first.expect("the chosen member");
    world.restart_controller();
    world.pass(|_| true);
    world.pass(|_| true);
    assert_eq!(world.member("db-0").state.volume, Volume::Data { data_id: id.data_id });
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_failed_initialisation_is_said_and_tried_again() {
    let mut world = World::new(intent(1));
    world.pass(|_| false);
    world.member("db-0").state.phase =
        Phase::Failed { reason: "InstallFailed".to_owned(), message: "no space left".to_owned() };
    let decision = world.decide();
    assert_eq!(reasons(&decision), ["CannotInitialise"]);
    assert!(world.settle().report.health.ok);
}

#[test]
fn hands_off() {
    let mut world = World::new(intent(2));
    world.intent.hands_off = Some(HandsOff::Suspend);
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), decision.report.health.reason), ("", "Suspended"));
}

#[test]
fn equal_server_ids_are_refused() {
    let mut world = World::new(intent(2));
    world.member("db-1").state.server_id = 1;
    assert_eq!(reasons(&world.settle()), ["DuplicateServerId"]);
    assert_eq!(log(&mut world), "db-0 initialise\ndb-0 open\ndb-0 accounts repl_1 repl_2");
}

#[test]
fn a_lost_record_is_rebuilt_from_the_data() {
    let mut world = World::new(intent(3));
    world.settle();
    world.write("db-0", 5);
    world.settle();
    log(&mut world);
    let before = world.record.clone();
    world.record = crate::Record::default();
    for member in ["db-0", "db-1", "db-2"] {
        world.restart_pod(member);
    }
    assert!(world.settle().report.health.ok);
    assert!(log(&mut world).starts_with("db-0 start\ndb-1 start\ndb-2 start\ndb-0 open"));
    assert_eq!(world.record.epoch, before.epoch + 2);
    assert!(world.record.revision > before.revision);
}

#[test]
fn without_record_and_first_volume_nothing_is_initialised() {
    let mut world = World::new(intent(3));
    world.settle();
    log(&mut world);
    world.record = crate::Record::default();
    world.lose_volume("db-0");
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["FirstVolumeEmpty"]));
    world.intent.use_data_of = Some(name("db-2"));
    assert!(world.settle().report.health.ok);
    assert_eq!(world.record.holder.as_ref().expect("a holder").member, name("db-2"));
}

#[test]
fn a_restored_lease_is_lifted_above_what_agents_know() {
    let mut world = World::new(intent(2));
    world.settle();
    let now = world.record.clone();
    world.record.revision -= 2;
    assert!(world.settle().report.health.ok);
    assert!(world.record.revision > now.revision && world.record.epoch == now.epoch);
    assert_eq!(world.record.holder, now.holder);
}

#[test]
fn diverged_members_without_a_record_need_a_word() {
    let mut world = World::new(intent(2));
    world.settle();
    world.record = crate::Record::default();
    world.replication("db-1").sql = crate::member::ThreadState::No;
    world.write("db-0", 3);
    world.write("db-1", 2);
    let decision = world.run_for(5);
    assert_eq!(reasons(&decision), ["HistoriesDiverge"]);
    assert!(
        decision.report.health.message.contains("db-1 alone has up to 0-2-2"),
        "{}",
        decision.report.health.message
    );
    world.intent.use_data_of = Some(name("db-0"));
    let decision = world.run_for(10);
    assert_eq!(reasons(&decision), Vec::<&str>::new());
    assert!(log(&mut world).contains("db-1 SaveErrant"), "what db-1 alone had was saved");
    assert_eq!(world.record.holder.as_ref().map(|h| h.member.clone()), Some(name("db-0")));
    assert_ne!(world.record.holder_identity(), Some(DataId("x".into()).0.as_str()));
}

/// Found on real servers: the report of one that was open was older than its last write, and the other was chosen.
#[test]
fn nobody_is_chosen_while_somebody_may_write() {
    let mut world = World::new(intent(2));
    world.settle();
    log(&mut world);
    world.record = crate::Record::default();
    world.replication("db-1").io = crate::member::ThreadState::No;
    world.replication("db-1").sql = crate::member::ThreadState::No;
    assert!(!world.server("db-0").read_only);
    assert!(world.decide().record.is_none_or(|record| record.holder.is_none()));
    world.pass(|_| false);
    world.write("db-0", 1);
    world.settle();
    assert!(log(&mut world).starts_with("db-0 close"), "it is closed first");
    assert_eq!(world.record.holder.as_ref().map(|h| h.member.clone()), Some(name("db-0")));
}

#[test]
fn an_errant_member_is_not_lost_with_the_record() {
    let mut world = World::new(intent(3));
    world.intent.members[2].replica.recovery.enabled = false;
    world.settle();
    world.write("db-0", 5);
    world.settle();
    world.write("db-2", 1);
    world.replication("db-2").sql = crate::member::ThreadState::No;
    world.write("db-0", 2);
    world.replication("db-1").seconds_behind = Some(0);
    let decision = world.decide();
    assert_eq!(reasons(&decision), ["ErrantTransactions"]);
    world.server("db-1").gtid_slave_pos = "0-1-7".parse().expect("a position");
    log(&mut world);
    world.record = crate::Record::default();
    for member in ["db-0", "db-1", "db-2"] {
        world.restart_pod(member);
    }
    let decision = world.run_for(400);
    assert_eq!(reasons(&decision), ["HistoriesDiverge"]);
    assert_eq!(log(&mut world), "db-0 start\ndb-1 start\ndb-2 start");
    world.intent.use_data_of = Some(name("db-0"));
    let decision = world.run_for(400);
    assert_eq!(reasons(&decision), ["ErrantTransactions"]);
    assert!(!log(&mut world).contains("reseed"));
}
