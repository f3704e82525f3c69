//! A topology that ran, and then something happened.

use super::{log, reasons};
use crate::decision::{Decision, Standing};
use crate::member::{Phase, ServerError, ThreadState};
use crate::observation::{Claim, Pod};
use crate::scenario::{World, intent, name};

fn running(replicas: u32) -> World {
    let mut world = World::new(intent(replicas));
    // What becomes of a primary that stays the primary; `changes` has the rest.
    world.intent.failover.automatic = false;
    assert!(world.settle().report.health.ok);
    world.write("db-0", 3);
    world.settle();
    log(&mut world);
    world
}

fn error(errno: u32) -> ServerError {
    ServerError { errno, message: "by the test".to_owned() }
}

fn standing(decision: &Decision, member: &str) -> Standing {
    decision.report.members.iter().find(|m| m.name == name(member)).expect("a member").standing
}

#[test]
fn a_steady_state_decides_nothing() {
    let mut world = running(3);
    let decision = world.run_for(120);
    assert_eq!((decision.record, decision.orders.len(), decision.look_again), (None, 0, None));
    world.restart_controller();
    let decision = world.run_for(5);
    assert_eq!((decision.record, log(&mut world).as_str()), (None, ""), "nor does a new controller");
}

#[test]
fn a_restarted_primary_is_started_and_opened() {
    let mut world = running(3);
    world.restart_pod("db-0");
    let decision = world.settle();
    assert_eq!(log(&mut world), "db-0 start\ndb-0 open");
    assert!(decision.report.health.ok);
    assert_eq!(
        (world.record.epoch, world.record.holder.as_ref().expect("a holder").pod_uid.as_str()),
        (1, "uid-db-0'")
    );
}

#[test]
fn a_restarted_replica_is_started_and_replicates() {
    let mut world = running(3);
    world.restart_pod("db-1");
    assert!(world.settle().report.health.ok);
    assert_eq!(log(&mut world), "db-1 start\ndb-1 start-replication");
}

#[test]
fn all_members_at_once() {
    let mut world = running(3);
    for member in ["db-0", "db-1", "db-2"] {
        world.restart_pod(member);
    }
    assert!(world.settle().report.health.ok);
    assert!(log(&mut world).starts_with("db-0 start\ndb-1 start\ndb-2 start\ndb-0 open"));
}

#[test]
fn a_stray_writer_is_closed_with_an_event() {
    let mut world = running(2);
    world.server("db-1").read_only = false;
    let decision = world.pass(|_| true);
    assert_eq!(log(&mut world), "db-1 close");
    assert!(decision.report.events.iter().any(|event| event.warning && event.reason == "UnexpectedlyWritable"));
    assert!(world.settle().report.health.ok);
}

#[test]
fn the_primary_opened_again_after_read_only() {
    let mut world = running(2);
    world.server("db-0").read_only = true;
    world.settle();
    assert!(log(&mut world).starts_with("db-0 open"));
}

#[test]
fn stopped_threads_are_started() {
    let mut world = running(2);
    world.replication("db-1").sql = ThreadState::No;
    assert!(world.settle().report.health.ok);
    assert_eq!(log(&mut world), "db-1 start-replication");
}

#[test]
fn errors_are_retried_with_patience_and_then_reseeded() {
    let mut world = running(3);
    let mut reseeded_after = None;
    for second in 0..400 {
        if world.member("db-1").state.server.as_ref().is_some_and(|s| s.replication.is_some())
            && !world.log.iter().any(|line| line.contains("reseed"))
        {
            world.replication("db-1").sql = ThreadState::No;
            world.replication("db-1").sql_error = Some(error(1062));
        }
        world.pass(|_| true);
        world.pass(|_| true);
        if reseeded_after.is_none() && world.log.iter().any(|line| line.contains("reseed")) {
            reseeded_after = Some(second);
        }
    }
    let starts = world.log.iter().filter(|line| line.ends_with("start-replication")).count();
    assert!((8..14).contains(&starts), "{starts} starts:\n{}", world.log.join("\n"));
    assert!(reseeded_after.is_some_and(|s| (299..=303).contains(&s)), "{reseeded_after:?}");
    assert!(world.log.iter().any(|line| line == "db-1 reseed db-2"));
    assert!(world.decide().report.health.ok);
}

#[test]
fn what_cannot_heal_is_reseeded_at_once_one_at_a_time() {
    let mut world = running(4);
    for member in ["db-1", "db-2"] {
        world.replication(member).io = ThreadState::No;
        world.replication(member).io_error = Some(error(1236));
    }
    let decision = world.pass(|_| true);
    assert_eq!(log(&mut world), "db-1 reseed db-3");
    assert!(decision.report.events.iter().any(|event| event.warning && event.reason == "Reseeding"));
    assert!(world.settle().report.health.ok);
    assert_eq!(world.log.iter().filter(|line| line.contains("reseed")).count(), 1, "{:?}", world.log);
    assert!(world.log.iter().any(|line| line.starts_with("db-2 reseed")));
}

#[test]
fn recovery_can_be_forbidden() {
    let mut world = running(2);
    world.intent.members[1].replica.recovery.enabled = false;
    world.replication("db-1").io = ThreadState::No;
    world.replication("db-1").io_error = Some(error(1236));
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["RecoveryDisabled"]));
    assert_eq!(standing(&decision, "db-1"), Standing::Broken);
}

#[test]
fn errant_transactions_are_kept_where_recovery_is_off() {
    let mut world = running(2);
    world.intent.members[1].replica.recovery.enabled = false;
    world.write("db-1", 1);
    world.replication("db-1").sql = ThreadState::No;
    world.replication("db-1").sql_error = Some(error(1950));
    let decision = world.run_for(900);
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["ErrantTransactions", "RecoveryDisabled"]));
    assert!(decision.report.health.message.contains("(up to 0-2-4)"), "{}", decision.report.health.message);
}

#[test]
fn a_replica_ahead_of_a_primary_that_lost_its_tail_is_kept_where_recovery_is_off() {
    let mut world = running(2);
    world.intent.members[1].replica.recovery.enabled = false;
    let short: crate::GtidPosition = "0-1-2".parse().expect("a position");
    world.server("db-0").gtid_binlog_pos = short;
    world.server("db-0").gtid_binlog_state = "0-1-2".parse().expect("a state");
    world.replication("db-1").io = ThreadState::No;
    world.replication("db-1").io_error = Some(error(1236));
    let decision = world.run_for(10);
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["ErrantTransactions", "RecoveryDisabled"]));
}

#[test]
fn a_moment_between_two_reports_is_no_divergence() {
    let mut world = running(2);
    // The replica's report is newer than the primary's.
    world.server("db-1").gtid_binlog_state = "0-1-9".parse().expect("a state");
    world.server("db-1").gtid_slave_pos = "0-1-9".parse().expect("a position");
    world.server("db-1").gtid_binlog_pos = "0-1-9".parse().expect("a position");
    assert_eq!(reasons(&world.decide()), Vec::<&str>::new());
    world.write("db-0", 6);
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_replica_that_passed_transactions_over_is_seeded_afresh() {
    let mut world = running(3);
    world.replication("db-1").passed_over = 5;
    world.run_for(5);
    let lines = log(&mut world);
    assert!(lines.contains("db-1 reseed"), "{lines}");
    assert!(!lines.contains("from db-1"), "nobody is copied from it: {lines}");
}

/// Found by simulation: root wrote on a replica after its last report, and before the order to replace its data was carried out.
#[test]
fn what_is_written_after_a_re_seed_was_decided_is_saved_first() {
    let mut world = running(3);
    world.replication("db-1").passed_over = 5;
    let decision = world.decide();
    assert!(
        decision
            .commands()
            .any(|(_, command)| matches!(command.action, crate::Action::Clone { replaces: Some(_), .. }))
    );
    world.write("db-1", 1);
    world.carry_out(&decision, |_| true);
    world.run_for(60);
    let lines = log(&mut world);
    let saves = "SaveErrant { errant: [Errant { domain: 0, server_id: 2, known: 0, last: 4 }] }";
    assert_eq!(lines, format!("db-1 reseed db-2\ndb-1 {saves}\ndb-1 reseed db-2\ndb-1 follow db-0"));
    assert!(world.settle().report.health.ok);
}

/// What is refused, in words.
fn told(decision: &Decision) -> Vec<String> {
    decision.report.refusals.iter().map(ToString::to_string).collect()
}

/// Found by a storm: the donor was needed elsewhere, the data that was to be replaced was served on, and its member counted as one whose
/// server does not start, for ever.
#[test]
fn a_re_seed_that_comes_to_nothing_is_tried_again_soon() {
    let mut world = running(3);
    world.replication("db-1").passed_over = 5;
    world.member("db-1").donor_fails = Some("db-2 is needed".to_owned());
    world.pass(|_| true);
    assert_eq!(log(&mut world), "db-1 reseed db-2");
    assert_eq!(told(&world.pass(|_| true)), ["db-1 could not be seeded: db-2 is needed"]);
    assert_eq!(log(&mut world), "db-1 start");
    assert_eq!(told(&world.pass(|_| true)), ["db-1 could not be seeded: db-2 is needed"]);
    world.run_for(5);
    assert_eq!(log(&mut world).lines().next(), Some("db-1 reseed db-2"));
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_re_seed_that_is_refused_says_why() {
    let mut world = running(3);
    world.replication("db-1").passed_over = 5;
    world.member("db-1").refuses = Some("its server does not answer".to_owned());
    world.pass(|_| true);
    assert_eq!(told(&world.decide()), ["db-1 could not be seeded: its server does not answer"]);
}

#[test]
fn a_refused_login_sets_the_accounts_right() {
    let mut world = running(2);
    world.replication("db-1").io = ThreadState::Connecting;
    world.replication("db-1").io_error = Some(error(1045));
    world.pass(|_| true);
    // And it gets the password that they have now.
    assert_eq!(log(&mut world), "db-0 accounts repl_1 repl_2\ndb-1 follow db-0");
}

#[test]
fn a_replica_that_cannot_connect_is_broken_after_a_while() {
    let mut world = running(2);
    world.replication("db-1").host = "db-0.ns.svc".to_owned();
    for (seconds, expected) in [(0, Standing::Underway), (20, Standing::Broken)] {
        for _ in 0..=seconds * 2 {
            world.pass(|_| true);
            world.replication("db-1").io = ThreadState::Connecting;
            world.replication("db-1").io_error = Some(error(2003));
        }
        let decision = world.decide();
        assert_eq!(standing(&decision, "db-1"), expected, "{decision:?}");
    }
}

#[test]
fn the_primary_s_volume_gone_while_others_hold_data() {
    let mut world = running(3);
    world.lose_volume("db-0");
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), reasons(&decision)), ("", vec!["PrimaryVolumeLost"]));
    let message = &decision.report.health.message;
    assert!(message.contains("its volume is empty") && message.contains("db-1 and db-2"), "{message}");
    // A person names whose data counts; the old primary is then a replica like any other.
    world.intent.use_data_of = Some(name("db-1"));
    assert!(world.settle().report.health.ok);
    assert_eq!((world.record.epoch, world.record.holder.as_ref().expect("a holder").member.0.as_str()), (2, "db-1"));
    assert!(log(&mut world).contains("db-0 clone"));
}

#[test]
fn the_primary_s_claim_gone() {
    let mut world = running(2);
    world.member("db-0").pod = Pod::NotRunning { why: "Unschedulable".to_owned() };
    world.member("db-0").claim = Claim::Unbound;
    let decision = world.settle();
    assert_eq!(reasons(&decision), ["AutomaticFailoverOff", "PrimaryVolumeLost"]);
}

#[test]
fn a_silent_primary_is_waited_for() {
    let mut world = running(2);
    world.member("db-0").silent = true;
    let decision = world.settle();
    assert_eq!((log(&mut world).as_str(), decision.report.health.reason), ("", "AutomaticFailoverOff"));
    assert_eq!(standing(&decision, "db-0"), Standing::Silent);
}

#[test]
fn a_clone_that_fails_is_said_and_tried_again() {
    let mut world = running(2);
    world.intent = intent(3);
    world.create_missing();
    world.pass(|_| true);
    log(&mut world);
    world.member("db-2").state.phase =
        Phase::Failed { reason: "DonorFailed".to_owned(), message: "the donor died".to_owned() };
    world.member("db-2").state.volume = crate::member::Volume::Empty;
    world.member("db-2").state.server = None;
    let decision = world.pass(|_| true);
    assert_eq!(reasons(&decision), ["CannotClone"]);
    assert_eq!(log(&mut world), "", "not at once");
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_server_that_does_not_start_is_tried_again_and_again() {
    let mut world = running(2);
    world.restart_pod("db-1");
    for _ in 0..240 {
        world.pass(|_| true);
        let model = world.member("db-1");
        model.state.server = None;
        model.state.phase = Phase::Failed { reason: "StartFailed".to_owned(), message: "signal 6".to_owned() };
    }
    let starts = world.log.iter().filter(|line| *line == "db-1 start").count();
    assert!((6..=9).contains(&starts), "{starts}");
    assert_eq!(reasons(&world.decide()), ["CannotStart"]);
    assert!(world.members[&name("db-1")].state.server.is_none());
}

#[test]
fn a_suspended_object_s_members_are_left_alone() {
    let mut world = running(3);
    world.intent.members[1].hands_off = true;
    world.restart_pod("db-1");
    world.replication("db-2").sql = ThreadState::No;
    let decision = world.settle();
    assert_eq!(log(&mut world), "db-2 start-replication");
    assert_eq!(decision.report.health.reason, "MembersMissing");
}

#[test]
fn lag_is_reported() {
    let mut world = running(2);
    world.write("db-0", 5);
    world.replication("db-1").seconds_behind = Some(45);
    let decision = world.decide();
    assert_eq!(decision.report.health.reason, "ReplicasLag");
    assert_eq!(decision.report.members[1].lag, Some(45));
}

#[test]
fn orders_that_fail_are_told() {
    let mut world = running(2);
    world.server("db-1").replication = None;
    world.member("db-1").refuses = Some("disk full".to_owned());
    world.pass(|_| true);
    let text = |decision: &Decision| decision.report.members[1].text.clone();
    let decision = world.decide();
    assert_eq!(text(&decision), "joins; pointing it at its source failed: disk full");
    assert_eq!(standing(&decision, "db-1"), Standing::Underway);
    let decision = world.run_for(60);
    assert_eq!(standing(&decision, "db-1"), Standing::Broken);
    assert!(log(&mut world).lines().count() < 9);
    world.member("db-1").refuses = None;
    assert!(world.settle().report.health.ok);
}

#[test]
fn accounts_that_cannot_be_made_are_tried_with_patience() {
    let mut world = running(2);
    world.intent = intent(3);
    world.create_missing();
    world.member("db-0").refuses = Some("no password is mounted".to_owned());
    let decision = world.run_for(60);
    let tries = log(&mut world).matches("accounts").count();
    assert!((3..9).contains(&tries), "{tries}");
    assert!(decision.report.health.message.contains("no password is mounted"), "{:?}", decision.report.health);
    world.member("db-0").refuses = None;
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_replica_that_does_not_connect_is_broken_after_as_many_attempts_as_asked_for() {
    for (retries, seconds) in [(3, 3), (10, 10), (30, 30)] {
        let mut world = running(3);
        for member in &mut world.intent.members {
            member.replica.connect_retries = retries;
        }
        world.member("db-1").cut = true;
        let began = world.now;
        let broken = (0..200).find(|_| standing(&world.pass(|_| true), "db-1") == Standing::Broken);
        let took = world.now.since(began).as_secs();
        assert!(broken.is_some() && (seconds..=seconds + 2).contains(&took), "{took} s");
    }
}

/// Found by the simulation: it had refused to be closed for a switchover, was not closed for a while after the failover, and replaced as
/// it was; what was written on it meanwhile was neither acknowledged nor saved.
#[test]
fn a_former_primary_is_closed_before_its_data_is_looked_at() {
    let mut world = running(3);
    world.intent.durability = crate::intent::Durability::Safe;
    world.intent.failover.automatic = true;
    world.settle();
    (world.member("db-0").silent, world.member("db-0").cut) = (true, true);
    world.run_for(30);
    assert_ne!(world.record.holder.as_ref().expect("a holder").member, name("db-0"));
    world.write("db-0", 2);
    log(&mut world);
    (world.member("db-0").silent, world.member("db-0").cut) = (false, false);
    world.run_for(60);
    let lines = log(&mut world);
    let (closed, saved) = (lines.find("db-0 close"), lines.find("db-0 SaveErrant"));
    assert!(closed.is_some() && closed < saved, "{lines}");
    assert!(lines.contains("db-0 reseed"), "{lines}");
}
