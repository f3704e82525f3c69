//! What a failover waits for: `failover.timeout`, `retries`, `autoFailoverDelay`, `cooldown`, `syncTimeout`.

use std::time::Duration;

use super::changes::{change, holder, safe, the_change};
use super::reasons;
use crate::plan::Outcome;
use crate::scenario::{World, name};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How long it took until another one was primary.
fn took(world: &mut World) -> Duration {
    let before = world.now;
    change(world);
    assert_ne!(holder(world), "db-0");
    world.now.since(before)
}

fn silence(world: &mut World) {
    world.kill_server("db-0");
    world.member("db-0").silent = true;
}

#[test]
fn a_confirmed_death_waits_for_the_delay_only() {
    let mut world = safe(3);
    world.kill_server("db-0");
    assert!(took(&mut world) < seconds(5));
    let mut world = safe(3);
    world.intent.failover.delay = seconds(12);
    world.kill_server("db-0");
    // Its agent would start it again.
    world.member("db-0").refuses = Some("its disk is full".to_owned());
    assert!(took(&mut world) >= seconds(12));
}

#[test]
fn silence_waits_for_the_timeout_and_the_delay() {
    for (timeout, delay) in [(5, 0), (30, 0), (5, 10)] {
        let mut world = safe(3);
        (world.intent.failover.timeout, world.intent.failover.delay) = (seconds(timeout), seconds(delay));
        silence(&mut world);
        let took = took(&mut world);
        let least = seconds(timeout + delay);
        assert!(took >= least && took < least + seconds(5), "{timeout} s, {delay} s: {took:?}");
    }
}

#[test]
fn silence_waits_for_so_many_attempts() {
    let mut world = safe(3);
    world.intent.failover.retries = u32::MAX;
    silence(&mut world);
    world.run_for(60);
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 1));
    world.intent.failover.retries = 3;
    change(&mut world);
    assert_ne!(holder(&world), "db-0");
}

#[test]
fn suspicion_soon_after_a_change_waits_for_the_cooldown() {
    let mut world = safe(3);
    world.intent.failover.cooldown = seconds(60);
    world.kill_server("db-0");
    change(&mut world);
    let (first, changed) = (holder(&world).to_owned(), world.now);
    world.settle();
    world.kill_server(&first);
    world.member(&first).silent = true;
    let decision = world.run_for(20);
    assert!(reasons(&decision).contains(&"CoolingDown"), "{:?}", decision.report.refusals);
    assert_eq!(holder(&world), first);
    change(&mut world);
    assert!(holder(&world) != first && world.now.since(changed) >= seconds(60));
}

#[test]
fn a_drain_that_does_not_move_is_undone() {
    let mut world = safe(2);
    // Received, and not applied.
    let more = format!("0-1-{}", world.server("db-0").gtid_binlog_pos.sequence(0) + 1);
    world.replication("db-1").gtid_io_pos = more.parse().expect("a position");
    world.kill_server("db-0");
    world.member("db-0").refuses = Some("its disk is full".to_owned());
    let before = world.now;
    let decision = change(&mut world);
    assert!(reasons(&decision).contains(&"DrainStalled"), "{:?}", decision.report.refusals);
    let change = the_change(decision);
    assert!(matches!(&change.outcome, Outcome::RolledBack { why } if why.contains("does not apply")), "{change:?}");
    assert!(world.now.since(before) >= world.intent.failover.sync_timeout);
    assert_eq!(world.record.holder.as_ref().map(|holder| &holder.member), Some(&name("db-0")));
}
