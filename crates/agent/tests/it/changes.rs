//! What a change of primary asks of agents, step by step, on real servers.

use std::time::{Duration, Instant};

use topology::GtidPosition;
use topology::action::{Action, Opening, Waits};
use topology::member::{Fenced, Phase, ThreadState};

use crate::harness::{Lab, Settings};
use crate::scenarios::trial;

const SOON: Duration = Duration::from_secs(15);

pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
    vec![
        trial("a_failover_by_hand_loses_nothing", a_failover_by_hand_loses_nothing),
        trial("a_lock_means_that_nobody_acknowledges", a_lock_means_that_nobody_acknowledges),
        trial("a_primary_that_cannot_be_closed_is_killed", a_primary_that_cannot_be_closed_is_killed),
        trial("a_switchover_by_hand_loses_nothing", a_switchover_by_hand_loses_nothing),
        trial("a_fence_cuts_in", a_fence_cuts_in),
    ]
}

pub(crate) fn account(n: usize) -> String {
    format!("repl_{}", n + 1)
}

/// Member 0 is primary and waits, 1 and 2 acknowledge.
pub(crate) fn topology(name: &str) -> Lab {
    let mut lab = Lab::new(name);
    let settings = Settings { promised: true, ..Settings::default() };
    lab.primary_with(0, &settings);
    lab.tell(0, Action::Unlock { accounts: vec![account(1), account(2)] }).unwrap();
    for n in [1, 2] {
        lab.replica_with(n, 0, 0, &settings);
        replicating(&lab, n);
    }
    lab.tell(0, Action::SetWaiting { on: true }).unwrap();
    lab.sql(0, "CREATE TABLE app.w (id INT PRIMARY KEY)");
    lab
}

pub(crate) fn replicating(lab: &Lab, n: usize) {
    lab.eventually(n, SOON, |state| {
        let replication = state.server.as_ref().and_then(|server| server.replication.as_ref());
        replication.is_some_and(|r| r.io == ThreadState::Yes && r.sql == ThreadState::Yes && r.receives)
    });
}

fn kill_server(lab: &Lab, n: usize) {
    let pid = lab.process(n, "mariadbd").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    lab.eventually(n, SOON, |state| state.phase == Phase::Waiting);
}

fn a_failover_by_hand_loses_nothing() {
    let mut lab = topology("byhand");
    for id in 0..50 {
        lab.sql(0, &format!("INSERT INTO app.w VALUES ({id})"));
    }
    let killed = Instant::now();
    kill_server(&lab, 0);
    let mut received = GtidPosition::default();
    for n in [1, 2] {
        lab.tell(n, Action::Fence).unwrap();
        let fence = lab.state(n).unwrap().fence.expect("a fence");
        assert_eq!(fence.how, Fenced::Stopped);
        received = received.furthest(&fence.received);
    }
    lab.tell(1, Action::AwaitPosition { position: received.clone(), limit_ms: 5000 }).unwrap();
    let opening = Opening { wait: Waits::WithoutEnd, lock: vec![account(0), account(2)], unlock: vec![], anew: false };
    lab.tell(1, Action::OpenForWrites { opening }).unwrap();
    println!("open again after {:?}", killed.elapsed());
    let state = lab.state(1).unwrap();
    assert!(state.fence.is_none() && state.locks.accounts.contains(&account(2)), "{:?}", state.locks);
    assert!(state.server.as_ref().is_some_and(|s| !s.read_only && s.semi_sync.waits && s.replication.is_none()));
    assert_eq!(lab.sql(1, "SELECT COUNT(*) FROM app.w"), "50");

    // Nobody acknowledges yet: a marker waits; once the other one follows, it returns.
    lab.tell(1, Action::CommitMarker).unwrap();
    assert_eq!(lab.state(1).unwrap().marker.expect("a marker").gtid, None);
    lab.tell(1, Action::Unlock { accounts: vec![account(2)] }).unwrap();
    lab.tell(2, Lab::follow(2, 1)).unwrap();
    let state = lab.eventually(1, SOON, |state| state.marker.as_ref().is_some_and(|marker| marker.gtid.is_some()));
    let marker = state.marker.and_then(|marker| marker.gtid).expect("a marker");
    lab.eventually(2, SOON, |state| {
        state.server.as_ref().is_some_and(|s| s.gtid_slave_pos.sequence(marker.domain) >= marker.sequence)
    });

    // The old primary is back as a replica: what nobody acknowledged is dropped.
    lab.tell(0, Action::StartServer { as_replica: true }).unwrap();
    lab.running(0);
    lab.tell(1, Action::Unlock { accounts: vec![account(0)] }).unwrap();
    let Action::Follow { source, .. } = Lab::follow(0, 1) else { unreachable!() };
    lab.tell(0, Action::Follow { source, demote: true }).unwrap();
    replicating(&lab, 0);
    lab.sql(1, "INSERT INTO app.w VALUES (1000)");
    lab.eventually(0, SOON, |_| lab.sql(0, "SELECT COUNT(*) FROM app.w") == "51");
}

fn a_lock_means_that_nobody_acknowledges() {
    let mut lab = topology("lock");
    lab.tell(0, Action::Lock { accounts: vec![account(1)] }).unwrap();
    lab.sql(0, "INSERT INTO app.w VALUES (1)"); // The other one acknowledges.
    lab.tell(0, Action::Lock { accounts: vec![account(1), account(2)] }).unwrap();
    let state = lab.state(0).unwrap();
    assert_eq!(state.locks.accounts.iter().filter(|a| **a == account(1) || **a == account(2)).count(), 2);
    assert_eq!(state.locks.stamp, state.accepted);
    lab.tell(0, Action::CommitMarker).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let state = lab.state(0).unwrap();
    assert_eq!(state.marker.expect("a marker").gtid, None, "somebody acknowledged");
    assert!(state.server.is_some_and(|server| server.semi_sync.waiting > 0));
    lab.tell(0, Action::Unlock { accounts: vec![account(2)] }).unwrap();
    lab.eventually(0, SOON, |state| state.marker.as_ref().is_some_and(|marker| marker.gtid.is_some()));
}

fn a_primary_that_cannot_be_closed_is_killed() {
    let mut lab = topology("close");
    lab.tell(0, Action::SetReadOnly { grace_ms: 0, kill: true }).unwrap();
    assert!(lab.state(0).unwrap().server.expect("a server").read_only, "nothing waited: it is only closed");
    let opening = Opening { wait: Waits::WithoutEnd, lock: vec![account(1), account(2)], unlock: vec![], anew: false };
    lab.tell(0, Action::OpenForWrites { opening }).unwrap();
    lab.tell(0, Action::CommitMarker).unwrap();
    lab.eventually(0, SOON, |state| state.server.as_ref().is_some_and(|s| s.semi_sync.waiting > 0));
    // Before it follows anybody: without its waits it would return what nobody has.
    let refused = lab.tell(0, Lab::follow(0, 1)).unwrap_err();
    assert!(refused.to_string().contains("closed first"), "{refused}");
    assert!(lab.state(0).unwrap().server.is_some_and(|server| server.semi_sync.waits));
    lab.tell(0, Action::SetReadOnly { grace_ms: 0, kill: true }).unwrap();
    lab.eventually(0, SOON, |state| state.phase == Phase::Waiting && state.server.is_none());
}

fn a_switchover_by_hand_loses_nothing() {
    let mut lab = topology("switch");
    lab.sql(0, "INSERT INTO app.w VALUES (1), (2), (3)");
    let started = Instant::now();
    lab.tell(0, Action::SetReadOnly { grace_ms: 0, kill: false }).unwrap();
    let position = lab.state(0).unwrap().server.expect("a server").gtid_binlog_pos;
    let limit_ms = 5000;
    lab.tell(1, Action::AwaitPosition { position: position.clone(), limit_ms }).unwrap();
    lab.tell(0, Action::Lock { accounts: vec![account(1), account(2)] }).unwrap();
    assert_eq!(lab.state(0).unwrap().server.expect("a server").gtid_binlog_pos, position);
    let opening = Opening { wait: Waits::WithoutEnd, lock: vec![account(0), account(2)], unlock: vec![], anew: false };
    lab.tell(1, Action::OpenForWrites { opening }).unwrap();
    println!("open again after {:?}", started.elapsed());
    lab.tell(1, Action::Unlock { accounts: vec![account(0), account(2)] }).unwrap();
    for (n, demote) in [(0, true), (2, false)] {
        let Action::Follow { source, .. } = Lab::follow(n, 1) else { unreachable!() };
        lab.tell(n, Action::Follow { source, demote }).unwrap();
        replicating(&lab, n);
    }
    lab.sql(1, "INSERT INTO app.w VALUES (4)");
    for n in [0, 2] {
        lab.eventually(n, SOON, |_| lab.sql(n, "SELECT COUNT(*) FROM app.w") == "4");
    }
}

fn a_fence_cuts_in() {
    let mut lab = topology("cutin");
    let far: GtidPosition = "0-1-100000".parse().unwrap();
    let stamp = lab.next_stamp();
    let waits = lab.tell_in_background(1, stamp, Action::AwaitPosition { position: far, limit_ms: 60_000 });
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    lab.tell(1, Action::Fence).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(lab.state(1).unwrap().fence.is_some());
    assert!(waits.join().unwrap().is_err(), "what was under way is told as not done");
    lab.tell(1, Action::StartReplication).unwrap();
    replicating(&lab, 1);
    assert!(lab.state(1).unwrap().fence.is_none());
}
