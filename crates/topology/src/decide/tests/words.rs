//! What a person may decide where the operator refuses to (docs/failover.md, section 9).

use super::changes::{change, holder, safe, the_change};
use super::{log, reasons};
use crate::member::{Phase, Trouble};
use crate::observation::Pod;
use crate::plan::Outcome;
use crate::scenario::{World, name};

/// The primary does not answer any more, and nobody receives from it.
fn lost(world: &mut World) {
    let primary = world.member("db-0");
    (primary.silent, primary.cut) = (true, true);
}

fn taken(mut world: World, refusal: &str) {
    let refused = world.run_for(30);
    assert_eq!((holder(&world), reasons(&refused)), ("db-0", vec![refusal]));
    world.intent.use_data_of = Some(name("db-2"));
    let told = the_change(change(&mut world));
    assert_eq!((holder(&world), &told.outcome), ("db-2", &Outcome::Done));
    assert!(told.lost[0].contains("db-2"), "{:?}", told.lost);
}

#[test]
fn a_primary_that_went_on_alone() {
    let mut world = safe(3);
    world.record.solo = true;
    world.server("db-0").semi_sync.waits = false;
    world.replication("db-1").receives = false;
    lost(&mut world);
    taken(world, "SoloPrimary");
}

#[test]
fn an_acker_that_does_not_answer() {
    let mut world = safe(3);
    world.member("db-1").pod = Pod::NotRunning { why: "ImagePullBackOff".to_owned() };
    (world.member("db-1").silent, world.member("db-1").cut) = (true, true);
    lost(&mut world);
    taken(world, "AckersMissing");
}

#[test]
fn failovers_that_were_switched_off() {
    let mut world = safe(3);
    world.intent.failover.automatic = false;
    lost(&mut world);
    taken(world, "AutomaticFailoverOff");
}

#[test]
fn a_fourth_failover_in_ten_minutes() {
    let mut world = safe(3);
    for _ in 0..3 {
        let primary = holder(&world).to_owned();
        world.kill_server(&primary);
        change(&mut world);
        world.settle();
    }
    let primary = holder(&world).to_owned();
    let other = if primary == "db-2" { "db-1" } else { "db-2" };
    (world.member(&primary).silent, world.member(&primary).cut) = (true, true);
    assert_eq!(reasons(&world.run_for(90)), ["TooManyChanges"]);
    world.intent.use_data_of = Some(name(other));
    change(&mut world);
    assert_eq!(holder(&world), other);
}

/// The old primary answers, and its server does not: it is closed, or killed, first.
#[test]
fn a_primary_that_still_answers_is_closed() {
    let mut world = safe(3);
    world.intent.failover.automatic = false;
    world.member("db-0").state.trouble = Some(Trouble::Unresponsive);
    world.run_for(30);
    log(&mut world);
    world.intent.use_data_of = Some(name("db-1"));
    change(&mut world);
    let lines = log(&mut world);
    let (closed, opened) = (lines.find("db-0 close"), lines.find("db-1 open"));
    assert!(closed.is_some() && closed < opened, "{lines}");
}

#[test]
fn a_primary_that_can_be_started_is_not_given_up() {
    let mut world = safe(3);
    world.record.solo = true;
    world.intent.use_data_of = Some(name("db-1"));
    world.kill_server("db-0");
    world.run_for(30);
    assert_eq!((holder(&world), world.record.epoch), ("db-0", 1));
    assert_eq!(world.member("db-0").state.phase, Phase::Running);
}

/// An annotation that is left in place is no answer to the next question.
#[test]
fn a_word_is_heard_once() {
    let mut world = safe(3);
    world.intent.failover.automatic = false;
    lost(&mut world);
    world.intent.use_data_of = Some(name("db-2"));
    change(&mut world);
    (world.member("db-0").silent, world.member("db-0").cut) = (false, false);
    world.settle();
    // Back to db-1, as planned; then that one dies.
    world.intent.wanted_primary = name("db-1");
    change(&mut world);
    world.settle();
    (world.member("db-1").silent, world.member("db-1").cut) = (true, true);
    let decision = world.run_for(60);
    assert_eq!((holder(&world), reasons(&decision)), ("db-1", vec!["AutomaticFailoverOff"]));
    world.intent.use_data_of = None;
    world.run_for(5);
    world.intent.use_data_of = Some(name("db-2"));
    change(&mut world);
    assert_eq!(holder(&world), "db-2");
}
