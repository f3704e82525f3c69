//! The primary changes hands.

use std::time::Duration;

use super::{log, reasons};
use crate::decision::Decision;
use crate::intent::{Durability, Request};
use crate::member::{LongTransaction, Phase, ThreadState};
use crate::observation::Pod;
use crate::plan::{Change, Forecast, Outcome};
use crate::scenario::{World, intent, name};

pub(super) fn safe(replicas: u32) -> World {
    world(replicas, Durability::Safe)
}

pub(super) fn world(replicas: u32, durability: Durability) -> World {
    let mut intent = intent(replicas);
    intent.durability = durability;
    let mut world = World::new(intent);
    let decision = world.settle();
    assert!(decision.report.health.ok, "{:?}", decision.report);
    world.write("db-0", 3);
    world.settle();
    log(&mut world);
    world
}

pub(super) fn holder(world: &World) -> &str {
    &world.record.holder.as_ref().expect("a holder").member.0
}

pub(super) fn ackers(world: &World) -> Vec<&str> {
    let mut all: Vec<&str> = world.record.ackers.values().map(|acker| acker.member.0.as_str()).collect();
    all.sort_unstable();
    all
}

/// The only change that it tells of.
pub(super) fn the_change(mut decision: Decision) -> Change {
    assert_eq!(decision.changes.len(), 1, "{:?}", decision.changes);
    decision.changes.remove(0)
}

/// Passes until the primary has changed and is told; that pass's decision.
pub(super) fn change(world: &mut World) -> Decision {
    for _ in 0..100 {
        let decision = world.pass(|_| true);
        if !decision.changes.is_empty() {
            return decision;
        }
    }
    panic!("no change: {:?} {}", world.decide().report, world.log.join("\n"));
}

#[test]
fn ackers_are_admitted_and_solo_is_cleared() {
    let mut world = safe(3);
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1", "db-2"], false));
    assert!(world.server("db-0").semi_sync.waits);
    let forecast = world.decide().forecast;
    assert!(matches!(forecast, Some(Forecast::Failover { .. })), "{forecast:?}");
    let decision = world.run_for(60);
    assert_eq!((decision.record, decision.orders.len(), decision.look_again), (None, 0, None), "{:?}", decision.report);
}

#[test]
fn strict_opens_with_its_first_acker() {
    let world = world(2, Durability::Strict);
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1"], false));
}

#[test]
fn strict_copies_from_a_closed_primary_when_its_last_ackers_data_is_lost() {
    let mut world = world(2, Durability::Strict);
    world.lose_volume("db-1");
    // A session waits from now on: whatever is copied from an open primary waits behind it.
    world.server("db-0").semi_sync.waiting = 1;
    assert!(world.settle().report.health.ok, "{}", world.log.join("\n"));
    assert_eq!((ackers(&world), world.record.solo, world.record.epoch), (vec!["db-1"], false, 1));
    assert!(!world.server("db-0").read_only && world.server("db-0").semi_sync.waits);
    let lines = log(&mut world);
    let (closed, copied) = (lines.find("db-0 close"), lines.find("db-1 clone"));
    assert!(closed.is_some() && closed < copied, "{lines}");
}

#[test]
fn strict_seeds_its_last_acker_afresh_when_root_wrote_there() {
    let mut world = world(2, Durability::Strict);
    world.write("db-1", 1);
    world.write("db-0", 1);
    world.server("db-0").semi_sync.waiting = 1;
    world.run_for(60);
    assert!(world.settle().report.health.ok, "{}", world.log.join("\n"));
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1"], false));
    let lines = log(&mut world);
    let (saved, seeded) = (lines.find("db-1 SaveErrant"), lines.find("db-1 reseed"));
    assert!(saved.is_some() && saved < seeded, "{lines}");
    assert_eq!(world.members[&name("db-0")].content, world.members[&name("db-1")].content);
}

#[test]
fn strict_keeps_an_acker_that_may_come_back() {
    let mut world = world(2, Durability::Strict);
    world.kill_server("db-1");
    world.member("db-1").silent = true;
    world.server("db-0").semi_sync.waiting = 1;
    world.run_for(60);
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1"], false));
    assert!(!world.server("db-0").read_only);
}

#[test]
fn a_dead_primary_is_followed_by_the_most_advanced_acker() {
    let mut world = safe(3);
    world.write("db-0", 5);
    world.kill_server("db-0");
    let decision = change(&mut world);
    let change = the_change(decision);
    assert_eq!((change.outcome, change.switchover, &*change.cause.reason), (Outcome::Done, false, "ServerExited"));
    assert_ne!(holder(&world), "db-0");
    assert_eq!(world.record.epoch, 2);
    world.settle();
    assert_eq!(ackers(&world).len(), 2, "the old primary is back: {}", world.log.join("\n"));
    assert!(!world.record.solo);
}

#[test]
fn a_change_is_told_though_whoever_decided_it_is_gone() {
    // Before its orders arrive, and when the new primary is open already.
    for opened in [false, true] {
        let mut world = safe(3);
        world.kill_server("db-0");
        loop {
            let decision = world.decide();
            let swaps = decision.record.as_ref().is_some_and(|next| next.epoch > 1);
            world.carry_out(&decision, |_| opened || !swaps);
            if swaps {
                break;
            }
        }
        world.restart_controller();
        // Nobody is heard in its first passes.
        for model in world.members.values_mut() {
            model.silent = true;
        }
        for _ in 0..4 {
            assert!(world.pass(|_| true).changes.is_empty(), "it is not known yet whether the new primary is open");
        }
        for model in world.members.values_mut() {
            model.silent = false;
        }
        let change = the_change(change(&mut world));
        assert_eq!((change.outcome, change.switchover, change.epoch), (Outcome::Done, false, 2));
        assert_eq!((change.from, &*change.cause.reason), (Some(name("db-0")), "ServerExited"));
        assert_eq!(change.to.as_ref().map(|to| to.0.as_str()), Some(holder(&world)));
        assert_eq!(change.closed_for.is_none(), opened, "when it was opened is known");
        assert!(world.run_for(30).changes.is_empty(), "it is told once");
    }
}

#[test]
fn a_fourth_failover_in_ten_minutes_is_refused_and_that_is_foretold() {
    let mut world = safe(3);
    for _ in 0..3 {
        assert!(matches!(world.decide().forecast, Some(Forecast::Failover { .. })));
        let primary = holder(&world).to_owned();
        world.kill_server(&primary);
        change(&mut world);
        world.settle();
    }
    assert!(matches!(world.decide().forecast, Some(Forecast::Refused { reason: "TooManyChanges", .. })));
    world.run_for(600);
    assert!(matches!(world.decide().forecast, Some(Forecast::Failover { .. })));
}

/// Without a promise, cut off from everything.
fn unheard(replicas: u32) -> World {
    let mut world = world(replicas, Durability::Available { semi_sync: false });
    world.member("db-0").silent = true;
    for other in ["db-1", "db-2"] {
        world.replication(other).receives = false;
    }
    world
}

#[test]
fn without_a_promise_the_clock_decides_over_a_primary_that_nobody_hears() {
    let mut world = unheard(3);
    world.kill_server("db-0");
    let cut = world.now;
    let change = the_change(change(&mut world));
    assert_eq!((change.cause.reason, change.outcome), ("Silent".into(), Outcome::Done));
    assert!(world.now.since(cut) >= Duration::from_secs(5), "its time was not up");
}

#[test]
fn without_a_promise_a_primary_that_renews_the_record_stays() {
    let mut world = unheard(3);
    world.renews_unheard = true;
    for _ in 0..60 {
        world.pass(|_| true);
        // They are cut off from it, too.
        for other in ["db-1", "db-2"] {
            world.replication(other).receives = false;
        }
    }
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 1));
    assert!(reasons(&world.decide()).contains(&"NotFenced"), "{:?}", world.decide().report);
}

#[test]
fn without_a_promise_only_those_take_over_whom_the_primary_would_have_asked() {
    let mut world = unheard(3);
    world.kill_server("db-0");
    // db-1 became a candidate after the record was renewed last; db-2 is far behind.
    world.record.renewed_with = Some([name("db-2")].into());
    change(&mut world);
    assert_eq!(holder(&world), "db-2");
}

#[test]
fn writes_are_down_since_the_primary_was_heard_last() {
    let mut world = safe(3);
    let heard = world.now;
    // As after a cut: nobody hears anything of it.
    world.kill_server("db-0");
    world.member("db-0").silent = true;
    let change = the_change(change(&mut world));
    assert_eq!(change.cause.reason, "Silent");
    assert!(change.began.since(heard) < Duration::from_secs(1), "{:?}", change.began);
    assert!(change.closed_for.is_some_and(|down| down >= Duration::from_secs(5)), "{:?}", change.closed_for);
}

#[test]
fn what_root_wrote_on_an_acker_does_not_stop_a_failover_to_another_one() {
    let mut world = safe(3);
    world.write("db-1", 1);
    world.kill_server("db-0");
    world.member("db-0").silent = true;
    world.member("db-0").pod = Pod::Exited { why: "OOMKilled".to_owned() };
    change(&mut world);
    assert_eq!(holder(&world), "db-2");
    world.run_for(30);
    let lines = log(&mut world);
    assert!(lines.contains("db-1 SaveErrant") && lines.contains("db-1 reseed"), "{lines}");
}

#[test]
fn a_word_is_heard_where_a_failover_cannot_succeed() {
    let mut world = safe(3);
    // db-1 has received more than db-2, and root wrote there: neither may be chosen.
    let more = format!("0-1-{}", world.server("db-0").gtid_binlog_pos.sequence(0) + 1);
    world.server("db-1").gtid_slave_pos = more.parse().expect("a position");
    world.server("db-1").gtid_binlog_pos = more.parse().expect("a position");
    world.write("db-1", 1);
    world.lose_volume("db-0");
    world.run_for(60);
    assert_eq!(holder(&world), "db-0");
    world.intent.use_data_of = Some(name("db-1"));
    world.run_for(60);
    assert_eq!(holder(&world), "db-1");
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_silent_primary_is_replaced_after_the_timeout_unless_somebody_hears_it() {
    let mut world = safe(3);
    world.member("db-0").silent = true;
    let decision = world.run_for(20);
    assert_eq!((holder(&world), reasons(&decision)), ("db-0", vec!["StillReceiving"]));
    world.member("db-0").cut = true;
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn an_acker_that_is_missing_stops_a_failover() {
    let mut world = safe(3);
    world.member("db-2").pod = Pod::NotRunning { why: "ImagePullBackOff".to_owned() };
    world.kill_server("db-0");
    world.member("db-0").silent = true;
    world.member("db-0").pod = Pod::Exited { why: "OOMKilled".to_owned() };
    let decision = world.run_for(30);
    assert_eq!((holder(&world), reasons(&decision)), ("db-0", vec!["AckersMissing"]));
    world.member("db-2").pod = Pod::Running;
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn a_lost_replica_is_expelled_and_costs_no_failover() {
    let mut world = safe(3);
    world.kill_server("db-1");
    world.member("db-1").silent = true;
    world.member("db-1").pod = Pod::Absent;
    world.run_for(30);
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-2"], false));
    world.kill_server("db-0");
    change(&mut world);
    assert_eq!(holder(&world), "db-2");
}

#[test]
fn the_last_acker_lost_means_solo_and_no_failover() {
    let mut world = safe(2);
    world.kill_server("db-1");
    world.member("db-1").silent = true;
    world.member("db-1").pod = Pod::Absent;
    world.run_for(10);
    assert_eq!((ackers(&world).len(), world.record.solo), (0, true));
    assert!(!world.server("db-0").semi_sync.waits);
    assert!(matches!(world.decide().forecast, Some(Forecast::Refused { reason: "SoloPrimary", .. })));
    world.member("db-1").pod = Pod::Running;
    world.member("db-1").silent = false;
    world.settle();
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1"], false));
    assert!(world.server("db-0").semi_sync.waits);
}

/// Both are told: the second one took the failover's place in the record that people read.
#[test]
fn a_failover_that_ends_as_a_request_is_refused_is_told() {
    let mut world = safe(3);
    world.kill_server("db-0");
    while world.record.epoch < 2 {
        world.pass(|_| true);
    }
    let other = if holder(&world) == "db-1" { "db-2" } else { "db-1" };
    world.member(other).silent = true;
    let target = Some(name("db-0"));
    world.intent.request = Some(Request { id: "1".to_owned(), target, why: "asked by the test".to_owned() });
    let mut told = Vec::new();
    for _ in 0..60 {
        told.extend(world.pass(|_| true).changes);
    }
    let outcomes: Vec<_> = told.iter().map(|change| (change.switchover, change.outcome == Outcome::Done)).collect();
    assert!(outcomes.contains(&(false, true)), "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|(switchover, _)| *switchover).count(), 1, "{outcomes:?}");
}

/// Found by the bench: nothing changes while the only acker stays silent, and writes waited until somebody looked by chance.
#[test]
fn silence_is_looked_at_again_when_its_time_is_over() {
    type Deed = fn(&mut World);
    let deeds: [Deed; 2] = [|world| world.member("db-1").silent = true, |world| world.member("db-1").cut = true];
    for deed in deeds {
        let mut world = safe(2);
        deed(&mut world);
        world.pass(|_| true);
        let again = world.pass(|_| true).look_again;
        let timeout = world.intent.failover.timeout;
        assert!(again.is_some_and(|again| again <= timeout), "{again:?}");
    }
}

#[test]
fn an_acker_has_its_time_to_connect_after_it_was_let_in() {
    let mut world = safe(2);
    world.member("db-1").cut = true;
    world.run_for(30);
    log(&mut world);
    // It had not received for long when it was let in: expelling it for that at once would go round and round.
    world.run_for(60);
    let let_in = log(&mut world).lines().filter(|line| line.contains("Unlock")).count();
    assert!(let_in <= 60 / 5, "let in {let_in} times");
    world.member("db-1").cut = false;
    // It is let in again with patience.
    world.run_for(90);
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1"], false));
}

/// All pods are new, and no server runs.
fn all_were_down() -> World {
    let mut world = safe(3);
    for member in ["db-2", "db-1", "db-0"] {
        world.restart_pod(member);
    }
    world
}

#[test]
fn cold_start_resumes_the_holder() {
    let mut world = all_were_down();
    world.settle();
    assert_eq!((holder(&world), world.record.epoch, world.record.solo), ("db-0", 1, false));
}

/// Found by a test on real servers: whoever was quicker took over, though nobody was lost.
#[test]
fn cold_start_resumes_the_holder_that_is_the_last_to_return() {
    let mut world = all_were_down();
    world.member("db-0").silent = true;
    world.run_for(3);
    assert_eq!(world.member("db-1").state.phase, Phase::Running);
    world.member("db-0").silent = false;
    world.settle();
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 1));
    // One that is alone in this is replaced as usual, although its pod is a new one.
    world.restart_pod("db-0");
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn cold_start_without_the_holder_is_a_failover() {
    let mut world = all_were_down();
    world.member("db-0").silent = true;
    world.member("db-0").pod = Pod::Absent;
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn a_switchover_that_is_wanted_happens_once() {
    let mut world = safe(3);
    world.intent.wanted_primary = name("db-2");
    let decision = change(&mut world);
    let change = the_change(decision);
    assert!(change.switchover && change.outcome == Outcome::Done, "{change:?}");
    assert_eq!(holder(&world), "db-2");
    world.settle();
    assert_eq!(ackers(&world), vec!["db-0", "db-1"]);
    // After a failover the stale wish does not pull the primary back.
    world.kill_server("db-2");
    world.run_for(30);
    assert_ne!(holder(&world), "db-2");
}

#[test]
fn a_request_for_nonsense_is_answered_with_a_reason() {
    let mut world = safe(2);
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-7")), why: "asked by the test".to_owned() });
    let decision = change(&mut world);
    let Outcome::RolledBack { why } = the_change(decision).outcome else { panic!("done") };
    assert_eq!(why, "no switchover to db-7: it is no member of this topology");
    assert_eq!(world.record.answered, ["1"]);
    assert!(world.settle().report.health.ok);
}

#[test]
fn a_target_that_still_follows_a_former_primary_is_refused() {
    let mut world = safe(3);
    world.replication("db-1").host = "db-2.ns.svc".to_owned();
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() });
    let decision = change(&mut world);
    let Outcome::RolledBack { why } = the_change(decision).outcome else { panic!("done") };
    assert_eq!(why, "no switchover to db-1: it does not follow the primary yet");
}

#[test]
fn nobody_who_writes_for_long_is_cut_for_a_request() {
    let mut world = safe(3);
    let long = LongTransaction { connection: 15, user: "app".to_owned(), seconds: 70 };
    world.member("db-0").state.long_transaction = Some(long.clone());
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() });
    let Outcome::RolledBack { why } = the_change(change(&mut world)).outcome else { panic!("done") };
    assert!(why.starts_with("no switchover while a transaction of app on db-0 is open"), "{why}");
    assert!(
        why.ends_with("(for 70 s so far): it would be rolled back; wait for its end, or end it there: KILL 15"),
        "{why}"
    );
    world.log.clear();
    // A wish stays, and is granted when the transaction is over.
    world.intent.wanted_primary = name("db-1");
    let decision = world.run_for(10);
    let refusals: Vec<_> = decision.report.refusals.iter().map(crate::decision::Refusal::reason).collect();
    assert_eq!((refusals.as_slice(), world.log.as_slice()), (["LongTransaction"].as_slice(), [].as_slice()));
    world.member("db-0").state.long_transaction = None;
    world.settle();
    assert_eq!(holder(&world), "db-1");
    // A pod that is told to stop goes in any case.
    world.member("db-1").state.long_transaction = Some(long);
    world.member("db-1").state.leaving = true;
    world.settle();
    assert_ne!(holder(&world), "db-1");
}

#[test]
fn a_target_that_turns_out_to_have_more_is_not_taken() {
    let mut world = safe(3);
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() });
    world.pass(|_| true);
    // Root writes there meanwhile.
    world.write("db-1", 1);
    let decision = change(&mut world);
    assert!(matches!(the_change(decision).outcome, Outcome::RolledBack { .. }));
    assert_eq!(holder(&world), "db-0");
}

#[test]
fn a_target_that_does_not_follow_rolls_back() {
    let mut world = safe(3);
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() });
    world.pass(|_| true);
    world.write("db-0", 4);
    world.member("db-1").cut = true;
    let decision = change(&mut world);
    assert!(matches!(the_change(decision).outcome, Outcome::RolledBack { .. }));
    assert_eq!((holder(&world), world.record.solo), ("db-0", true));
    world.member("db-1").cut = false;
    assert!(world.settle().report.health.ok);
    assert!(!world.record.solo && !world.server("db-0").read_only);
}

#[test]
fn the_others_stop_receiving_for_a_switchover_and_receive_again_when_it_is_given_up() {
    let mut world = safe(3);
    let wish = Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() };
    world.intent.request = Some(wish);
    log(&mut world);
    for _ in 0..3 {
        world.pass(|_| true);
    }
    assert!(log(&mut world).contains("db-2 StopReceiving"));
    assert_eq!(world.replication("db-2").io, ThreadState::No);
    world.member("db-1").silent = true;
    let decision = change(&mut world);
    assert!(matches!(the_change(decision).outcome, Outcome::RolledBack { .. }));
    world.run_for(2);
    assert_eq!((world.replication("db-2").io, world.server("db-0").read_only), (ThreadState::Yes, false));
}

#[test]
fn a_target_receives_again_what_root_has_written_while_replicas_were_locked_out() {
    let mut world = safe(3);
    world.intent.request =
        Some(Request { id: "1".to_owned(), target: Some(name("db-1")), why: "asked by the test".to_owned() });
    while world.replication("db-1").io == ThreadState::Yes {
        world.pass(|_| true);
    }
    world.write("db-0", 1);
    let told = the_change(change(&mut world));
    assert_eq!((told.outcome, holder(&world)), (Outcome::Done, "db-1"));
    assert!(world.server("db-1").gtid_binlog_state.has("0-1-1".parse().expect("a GTID")));
    world.settle();
    let all = world.member("db-0").content.clone();
    assert_eq!(world.member("db-1").content, all);
}

#[test]
fn a_primary_that_shall_go_hands_over_first() {
    let mut world = safe(3);
    world.intent.vacate.insert(name("db-0"));
    assert!(!world.pass(|_| true).released.contains(&name("db-0")));
    change(&mut world);
    let decision = world.run_for(10);
    assert!(decision.released.contains(&name("db-0")), "{:?}", decision.report);
    assert_eq!(ackers(&world).len(), 1);
}

#[test]
fn all_of_them_go_in_order() {
    let mut world = safe(3);
    for member in ["db-0", "db-1", "db-2"] {
        world.intent.vacate.insert(name(member));
    }
    let before = (world.record.ackers.clone(), world.record.solo);
    let decision = world.run_for(10);
    assert_eq!((decision.released.len(), holder(&world), world.record.epoch), (3, "db-0", 1));
    assert!(world.server("db-0").read_only);
    assert_eq!((before.0.len(), before.1), (2, false));
    assert_eq!((world.record.ackers.clone(), world.record.solo), before);
}

/// Found by the model: an earlier decision's order to switch waits off may arrive before the marker of the proof.
#[test]
fn a_marker_that_did_not_wait_proves_nothing() {
    let mut world = safe(3);
    (world.record.solo, world.record.revision) = (true, world.record.revision + 1);
    world.pass(|_| true);
    assert!(world.log.last().is_some_and(|last| last.contains("arker")), "{:?}", world.log);
    world.server("db-0").semi_sync.waits = false;
    world.pass(|_| true);
    assert!(world.record.solo, "nothing waits on db-0");
}

#[test]
fn nobody_goes_before_the_primary_is_closed() {
    let mut world = safe(2);
    for member in ["db-0", "db-1"] {
        world.intent.vacate.insert(name(member));
    }
    let decision = world.decide();
    assert!(decision.released.is_empty() && !world.record.solo, "{:?}", decision.released);
}

#[test]
fn errant_transactions_are_saved_before_a_member_is_seeded_afresh() {
    let mut world = safe(3);
    world.write("db-0", 2);
    world.kill_server("db-0");
    // Nobody has received the last two.
    change(&mut world);
    world.write("db-1", 1);
    world.run_for(30);
    let lines = world.log.join("\n");
    let (saved, seeded) = (lines.find("db-0 SaveErrant"), lines.find("db-0 reseed"));
    assert!(saved.is_some() && saved < seeded, "{lines}");
}

/// db-0 and db-1 lost their volumes; db-2 had received, and acknowledged, more than it had applied when it stopped.
fn only_a_relay_log_is_left() -> World {
    let mut world = safe(3);
    let all = world.server("db-0").gtid_binlog_pos.sequence(0) + 2;
    for member in ["db-0", "db-1"] {
        world.lose_volume(member);
    }
    world.kill_server("db-2");
    world.member("db-2").state.relay = Some(format!("0-1-{all}").parse().expect("a position"));
    world
}

#[test]
fn whoever_is_named_applies_what_it_had_received_before_it_opens() {
    let mut world = only_a_relay_log_is_left();
    let decision = world.run_for(10);
    assert_eq!(holder(&world), "db-0");
    assert!(reasons(&decision).contains(&"PrimaryVolumeLost"), "{:?}", reasons(&decision));
    log(&mut world);
    world.intent.use_data_of = Some(name("db-2"));
    assert!(world.settle().report.health.ok);
    let lines = log(&mut world);
    let (replayed, opened) = (lines.find("db-2 ReplayRelayLog"), lines.find("db-2 open"));
    assert!(replayed.is_some() && replayed < opened, "{lines}");
}

#[test]
fn nobody_is_taken_who_would_give_numbers_out_again() {
    let mut world = safe(3);
    world.intent.wanted_primary = name("db-1");
    change(&mut world);
    world.settle();
    // db-0 wrote more in its term than it has now (a crash dropped it, or its volume was put back); db-2 has that.
    let next = world.server("db-0").gtid_binlog_pos.sequence(0) + 1;
    let gtid = crate::gtid::Gtid { domain: 0, server_id: 1, sequence: next };
    world.server("db-2").gtid_binlog_state.add(gtid);
    world.lose_volume("db-1");
    world.intent.use_data_of = Some(name("db-0"));
    world.intent.failover.automatic = false;
    let decision = world.run_for(10);
    assert_eq!(holder(&world), "db-1");
    assert!(reasons(&decision).contains(&"NumbersUsedTwice"), "{:?}", reasons(&decision));
    world.intent.use_data_of = Some(name("db-2"));
    world.run_for(10);
    assert_eq!(holder(&world), "db-2");
}

#[test]
fn relay_logs_count_when_the_record_is_lost() {
    let mut world = only_a_relay_log_is_left();
    world.record = crate::Record::default();
    world.intent.wanted_primary = name("db-2");
    assert!(world.settle().report.health.ok);
    let lines = log(&mut world);
    let (replayed, opened) = (lines.find("db-2 ReplayRelayLog"), lines.find("db-2 open"));
    assert!(replayed.is_some() && replayed < opened, "{lines}");
}

#[test]
fn a_member_that_does_not_reach_the_primary_is_not_let_in_again_and_again() {
    let mut world = safe(3);
    world.member("db-2").cut = true;
    world.run_for(20);
    log(&mut world);
    let revision = world.record.revision;
    world.run_for(120);
    assert_eq!((log(&mut world).as_str(), world.record.revision), ("", revision));
    world.member("db-2").cut = false;
    assert!(world.run_for(5).report.health.ok);
    assert_eq!(ackers(&world), vec!["db-1", "db-2"]);
}

#[test]
fn what_its_former_source_refused_does_not_keep_a_member_out() {
    let mut world = safe(3);
    world.member("db-2").cut = true;
    world.run_for(20);
    world.intent.wanted_primary = name("db-1");
    change(&mut world);
    let replication = world.replication("db-2");
    replication.io = crate::member::ThreadState::No;
    replication.io_error = Some(crate::member::ServerError { errno: 1236, message: "by the test".to_owned() });
    world.member("db-2").cut = false;
    assert!(world.settle().report.health.ok, "{:?}", world.decide().report.health);
    assert!(log(&mut world).contains("db-2 follow db-1"));
}

#[test]
fn a_member_that_applied_out_of_order_from_a_former_source_is_seeded_afresh() {
    let mut world = safe(3);
    world.member("db-2").cut = true;
    world.run_for(20);
    world.intent.wanted_primary = name("db-1");
    change(&mut world);
    let replication = world.replication("db-2");
    replication.sql = crate::member::ThreadState::No;
    replication.sql_error = Some(crate::member::ServerError { errno: 1950, message: "by the test".to_owned() });
    world.member("db-2").cut = false;
    world.run_for(60);
    assert!(world.settle().report.health.ok, "{:?}", world.decide().report.health);
    assert!(log(&mut world).contains("db-2 reseed"));
}

#[test]
fn all_that_is_not_the_primarys_is_saved_what_may_be_on_its_way_too() {
    let mut world = world(3, Durability::Available { semi_sync: false });
    // db-2 has more of db-0's than db-0 has (it dropped them), and what root wrote.
    let next = world.server("db-0").gtid_binlog_pos.sequence(0) + 1;
    world.server("db-2").gtid_binlog_state.add(crate::gtid::Gtid { domain: 0, server_id: 1, sequence: next });
    world.write("db-2", 2);
    let refusals = world.decide().report.refusals;
    let named = refusals.iter().find_map(|refusal| match refusal {
        crate::refusal::Refusal::ErrantTransactions { errant, .. } => {
            Some(errant.iter().map(|e| e.server_id).collect())
        }
        _ => None,
    });
    assert_eq!(named, Some(vec![1, 3]), "{refusals:?}");
}

#[test]
fn ten_changes_leave_all_members_equal() {
    let mut world = safe(3);
    for n in 0..10 {
        let target = format!("db-{}", (n + 1) % 3);
        world.intent.wanted_primary = name(&target);
        world.run_for(10);
        assert_eq!(holder(&world), target);
        world.write(&target, 2);
    }
    // What was wanted does not count as a failure: a primary that dies after it is replaced.
    let last = holder(&world).to_owned();
    world.kill_server(&last);
    world.run_for(10);
    assert_ne!(holder(&world), last);
    world.run_for(30);
    assert!(world.settle().report.health.ok);
    let all: Vec<_> = world.members.values().map(|model| &model.content).collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}
