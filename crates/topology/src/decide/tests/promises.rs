//! What must be true of servers before a promise counts, and what breaks one.

use std::time::Duration;

use super::changes::{ackers, change, holder, safe, the_change, world};
use super::{log, reasons};
use crate::gtid::{BinlogState, GtidPosition};
use crate::intent::Durability;
use crate::member::{Phase, Trouble};
use crate::observation::Pod;
use crate::scenario::{World, name};

/// Without a promise until now: the servers were started with waits that end by themselves, and replicas that do not acknowledge.
fn promised_later() -> World {
    let mut world = world(3, Durability::Available { semi_sync: false });
    for member in ["db-0", "db-1", "db-2"] {
        let semi_sync = &mut world.server(member).semi_sync;
        (semi_sync.without_end, semi_sync.acknowledges) = (false, false);
    }
    world.intent.durability = Durability::Safe;
    world
}

#[test]
fn whoever_does_not_acknowledge_is_no_acker() {
    let mut world = promised_later();
    world.run_for(30);
    assert_eq!((ackers(&world), world.record.solo), (vec![], true), "{}", world.log.join("\n"));
    world.kill_server("db-0");
    world.member("db-0").silent = true;
    world.member("db-0").pod = Pod::Exited { why: "OOMKilled".to_owned() };
    assert_eq!(reasons(&world.run_for(10)), ["SoloPrimary"]);
}

#[test]
fn waits_that_end_by_themselves_are_none() {
    let mut world = promised_later();
    // Restarted since, but for the primary.
    for member in ["db-1", "db-2"] {
        world.server(member).semi_sync.acknowledges = true;
    }
    world.settle();
    assert!(world.server("db-0").semi_sync.promises());
    assert_eq!((ackers(&world), world.record.solo), (vec!["db-1", "db-2"], false));
    // Somebody sets a time limit by hand.
    world.server("db-0").semi_sync.without_end = false;
    world.pass(|_| true);
    assert!(world.record.solo);
    world.settle();
    assert!(world.server("db-0").semi_sync.promises() && !world.record.solo);
}

/// Found on real servers: in one of two cuts `solo` was recorded before the silence was noticed, and no failover was possible.
#[test]
fn sessions_that_waited_when_the_primary_was_heard_last_are_no_lost_acknowledgement() {
    let mut world = safe(3);
    world.write("db-0", 1);
    world.server("db-0").semi_sync.waiting = 3;
    world.pass(|_| true);
    world.freeze("db-0", true);
    for _ in 0..4 {
        world.pass(|_| true);
    }
    assert!(!world.record.solo, "{}", world.log.join("\n"));
    world.freeze("db-0", false);
    for _ in 0..4 {
        world.pass(|_| true);
    }
    assert!(world.log.iter().any(|line| line.contains("SetWaiting { on: false }")), "it says so itself");
}

/// Found by the bench: what replicas had received after the frozen server's last answer was taken for errant, and nobody for fit.
#[test]
fn what_a_frozen_primary_wrote_last_is_not_errant() {
    let mut world = safe(3);
    let before = world.server("db-0").clone();
    world.write("db-0", 1);
    world.pass(|_| true);
    *world.server("db-0") = before;
    let began = world.now;
    world.member("db-0").hangs_since = Some(began);
    world.run_for(1);
    world.member("db-0").state.trouble = Some(Trouble::Unresponsive);
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
    // `failover.timeout` counts from its last answer; each step takes a pass here.
    assert!(world.now.since(began) < Duration::from_secs(8), "{:?}", world.now.since(began));
}

/// Found by the bench: a server that froze had said that sessions wait, as they nearly always do; its agent, which goes on reporting,
/// was taken for a witness that they still did a second later.
#[test]
fn the_last_word_of_a_frozen_primary_is_no_lost_acknowledgement() {
    let mut world = safe(3);
    world.server("db-0").semi_sync.waiting = 2;
    world.pass(|_| true);
    world.member("db-0").hangs_since = Some(world.now);
    world.run_for(4);
    assert!(!world.record.solo, "{:?}", world.log);
    world.member("db-0").state.trouble = Some(Trouble::Unresponsive);
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn after_a_stranger_a_marker_proves_anew() {
    let mut world = safe(3);
    world.member("db-0").state.strangers = 1;
    let decision = world.pass(|_| true);
    assert!(world.record.solo);
    assert!(decision.report.events.iter().any(|event| event.reason == "StrangerAcknowledged"));
    log(&mut world);
    world.settle();
    assert!(!world.record.solo);
    assert!(log(&mut world).contains("db-0 CommitMarker"));
    assert_eq!((world.run_for(20).record, log(&mut world).as_str()), (None, ""), "once");
}

#[test]
fn a_stranger_that_was_seen_counts_before_it_is_recorded() {
    let mut world = safe(3);
    world.member("db-0").state.strangers = 1;
    // The pass that sees it is lost with its swap; then the primary dies.
    let seen = world.decide();
    assert!(seen.record.is_some_and(|record| record.solo));
    world.kill_server("db-0");
    (world.member("db-0").silent, world.member("db-0").pod) = (true, Pod::Exited { why: "OOMKilled".to_owned() });
    assert_eq!(reasons(&world.run_for(10)), ["SoloPrimary"]);
}

/// Found by simulation: the failover was under way already when the cut off primary could be heard again, and told of a stranger.
#[test]
fn a_stranger_that_is_heard_of_in_the_middle_of_a_failover_ends_it() {
    let mut world = safe(3);
    world.kill_server("db-0");
    world.pass(|_| true);
    let fenced = |world: &mut World| world.member("db-1").state.fence.is_some();
    for _ in 0..100 {
        if fenced(&mut world) {
            break;
        }
        world.pass(|_| true);
    }
    assert!(fenced(&mut world) && holder(&world) == "db-0");
    world.member("db-0").state.strangers = 1;
    world.pass(|_| true);
    assert_eq!((holder(&world), world.record.solo), ("db-0", true));
    world.settle();
    assert_eq!(holder(&world), "db-0", "it was started again");
}

/// Found by simulation: a primary whose server had ended was started by its own agent, and another one was made primary on its last report.
#[test]
fn without_a_promise_a_server_that_ended_counts_when_its_agent_has_taken_the_order() {
    let ended = |takes_orders: bool| {
        let mut world = world(3, Durability::Available { semi_sync: false });
        world.member("db-0").refuses = (!takes_orders).then(|| "it starts without a decision".to_owned());
        world.kill_server("db-0");
        for _ in 0..20 {
            world.pass(|_| true);
        }
        holder(&world).to_owned()
    };
    assert_ne!(ended(true), "db-0");
    assert_eq!(ended(false), "db-0");
}

#[test]
fn strictly_a_primary_that_no_acker_hears_is_replaced() {
    let mut world = world(3, Durability::Strict);
    // Cut off from its replicas only.
    world.member("db-0").cut = true;
    world.server("db-0").semi_sync.waiting = 1;
    let began = world.now;
    let told = the_change(change(&mut world));
    assert_eq!(told.cause.reason, "NobodyAcknowledges");
    assert!(world.now.since(began) >= Duration::from_secs(5));
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn strictly_one_acker_that_hears_is_enough() {
    let mut world = world(3, Durability::Strict);
    world.server("db-0").semi_sync.waiting = 1;
    world.member("db-2").cut = true;
    world.run_for(30);
    assert_eq!((holder(&world), ackers(&world)), ("db-0", vec!["db-1"]));
}

#[test]
fn a_primary_that_starts_for_long_is_not_waited_for() {
    let mut world = safe(3);
    world.member("db-0").state.phase = Phase::Starting;
    world.member("db-0").state.server = None;
    let began = world.now;
    let told = the_change(change(&mut world));
    assert_eq!(told.cause.reason, "SlowStart");
    assert!(world.now.since(began) >= Duration::from_secs(10));
}

#[test]
fn a_primary_that_starts_for_long_is_waited_for_where_nobody_else_has_everything() {
    let mut world = safe(3);
    world.record.solo = true;
    world.member("db-0").state.phase = Phase::Starting;
    world.member("db-0").state.server = None;
    let decision = world.run_for(60);
    assert_eq!((holder(&world), reasons(&decision)), ("db-0", vec![]));
}

/// Its agent is heard, the API server is not heard by it: it was closed, and nobody lets it open again.
#[test]
fn without_a_promise_a_primary_that_cannot_be_opened_is_replaced() {
    let mut world = world(3, Durability::Available { semi_sync: false });
    world.server("db-0").read_only = true;
    world.member("db-0").refuses = Some("NotRenewed: the API does not answer in time".to_owned());
    let told = the_change(change(&mut world));
    assert_eq!(told.cause.reason, "CannotOpen");
    assert_ne!(holder(&world), "db-0");
}

/// A new limit reaches the operator before it reaches the agent of a primary that nobody hears.
#[test]
fn without_a_promise_the_longer_limit_counts() {
    let mut world = world(3, Durability::Available { semi_sync: false });
    world.run_for(2);
    world.record.renewed_for = Some(Duration::from_secs(30));
    (world.member("db-0").silent, world.member("db-0").cut) = (true, true);
    let began = world.now;
    change(&mut world);
    assert!(world.now.since(began) >= Duration::from_secs(30));
}

#[test]
fn an_emptied_binary_log_is_replaced_and_what_was_written_since_is_saved() {
    let mut world = safe(3);
    world.intent.wanted_primary = name("db-1");
    change(&mut world);
    world.settle();
    world.intent.wanted_primary = name("db-0");
    change(&mut world);
    world.settle();
    log(&mut world);
    // A promotion by hand: numbers that it has used before.
    let server = world.server("db-1");
    server.log_reset = true;
    (server.gtid_binlog_pos, server.gtid_binlog_state) = (GtidPosition::default(), BinlogState::default());
    server.gtid_slave_pos = GtidPosition::default();
    server.replication = None;
    server.read_only = false;
    world.write("db-1", 1);
    world.run_for(120);
    let lines = log(&mut world);
    let (saved, replaced) = (lines.find("db-1 SaveErrant"), lines.find("db-1 reseed"));
    assert!(saved.is_some() && saved < replaced, "{lines}");
    assert_eq!(holder(&world), "db-0");
}
