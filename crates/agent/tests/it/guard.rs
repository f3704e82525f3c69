//! What a member does and notices by itself.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use topology::action::{Action, Opening};
use topology::member::{MemberName, MemberState, Phase, Trouble};
use topology::record::{Acker, Holder, Record, Term};
use topology::{DataId, GtidPosition};

use super::changes::{account, replicating, topology};
use super::harness::{Lab, Settings};
use super::scenarios::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_full_disk_is_noticed_on_a_primary", a_full_disk_is_noticed_on_a_primary),
        trial(
            "a_primary_that_cannot_write_is_killed_where_others_can",
            a_primary_that_cannot_write_is_killed_where_others_can,
        ),
        trial("a_lock_on_all_writes_is_no_trouble", a_lock_on_all_writes_is_no_trouble),
        trial("a_long_transaction_is_told_of", a_long_transaction_is_told_of),
        trial("a_server_that_is_overrun_does_as_it_is_told", a_server_that_is_overrun_does_as_it_is_told),
        trial("a_frozen_server_is_noticed", a_frozen_server_is_noticed),
        trial("a_demotion_asked_for_again_and_again_ends", a_demotion_asked_for_again_and_again_ends),
        trial("a_lost_acknowledgement_comes_back", a_lost_acknowledgement_comes_back),
        trial("a_stranger_does_not_acknowledge", a_stranger_does_not_acknowledge),
        trial("a_primary_steps_down_by_the_record_alone", a_primary_steps_down_by_the_record_alone),
        trial(
            "a_primary_that_is_told_to_stop_waits_to_be_relieved",
            a_primary_that_is_told_to_stop_waits_to_be_relieved,
        ),
        trial("a_holder_comes_back_without_the_operator", a_holder_comes_back_without_the_operator),
    ]
}

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn is_open(state: &MemberState) -> bool {
    state.server.as_ref().is_some_and(|server| !server.read_only)
}

fn id(n: usize) -> DataId {
    DataId(format!("data-{n}"))
}

pub(crate) fn record(holder: usize, epoch: u64, ackers: &[usize]) -> Record {
    let member = |n: usize| MemberName(format!("db-{n}"));
    Record {
        epoch,
        revision: 100,
        holder: Some(Holder { data_id: id(holder), member: member(holder), pod_uid: format!("pod-{holder}") }),
        ackers: ackers.iter().map(|&n| (id(n), Acker { member: member(n), server_id: n as u32 + 1 })).collect(),
        history: vec![Term {
            epoch,
            server_id: holder as u32 + 1,
            data_id: id(holder),
            start: GtidPosition::default(),
        }],
        ..Record::default()
    }
}

const FULL: &str = "dd if=/dev/zero of=/var/lib/mysql/filler bs=16k 2>/dev/null; true";

fn on_a_small_disk(name: &str, ackers: &[usize]) -> Lab {
    let mut lab = Lab::new(name);
    lab.api(&record(0, 1, ackers));
    lab.primary_with(0, &Settings { volume_mib: Some(400), ..Settings::default() });
    lab
}

fn a_full_disk_is_noticed_on_a_primary() {
    let lab = on_a_small_disk("diskfull", &[]);
    lab.shell(0, FULL);
    lab.eventually(0, SOON, |state| state.trouble == Some(Trouble::CannotWrite));
    // Nobody could take over: it is left alone, longer than the failover timeout.
    std::thread::sleep(Duration::from_secs(8));
    lab.eventually(0, SOON, |state| state.trouble == Some(Trouble::CannotWrite) && state.phase == Phase::Running);
    lab.shell(0, "rm /var/lib/mysql/filler");
    lab.eventually(0, SOON, |state| state.trouble.is_none());
}

fn a_primary_that_cannot_write_is_killed_where_others_can() {
    let lab = on_a_small_disk("killfull", &[1]);
    // The guard of the record has looked.
    std::thread::sleep(Duration::from_secs(3));
    lab.shell(0, FULL);
    lab.eventually(0, SOON, |state| state.trouble == Some(Trouble::CannotWrite));
    lab.eventually(0, SOON, |state| state.phase == Phase::Waiting && state.server.is_none());
}

fn a_lock_on_all_writes_is_no_trouble() {
    let mut lab = Lab::new("ftwrl");
    lab.primary(0);
    let sleeps = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(10)";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            lab.shell(
                0,
                &format!("mariadb -u root -p\"$(cat /etc/mariadb-operator/root/root-password)\" -e '{sleeps}'"),
            )
        });
        let until = Instant::now() + Duration::from_secs(9);
        while Instant::now() < until {
            assert_eq!(lab.state(0).unwrap().trouble, None);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

fn a_long_transaction_is_told_of() {
    let mut lab = Lab::new("long");
    // What a transaction's start is compared with is not in that time zone.
    let my_cnf = "[mariadb]\ndefault_time_zone='+05:00'\n".to_owned();
    lab.primary_with(0, &Settings { my_cnf, ..Settings::default() });
    lab.sql(0, "CREATE TABLE app.l (i INT)");
    std::thread::scope(|scope| {
        scope.spawn(|| lab.sql(0, "BEGIN; SELECT SLEEP(17)"));
        scope.spawn(|| lab.sql(0, "BEGIN; INSERT INTO app.l VALUES (1); SELECT SLEEP(17); COMMIT"));
        let state = lab.eventually(0, SOON, |state| state.long_transaction.is_some());
        let long = state.long_transaction.unwrap();
        assert_eq!((long.user.as_str(), long.seconds), ("root", 10));
        let id = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%' AND ID = ";
        assert_eq!(lab.sql(0, &format!("{id}{}", long.connection)), long.connection.to_string());
        assert_eq!(lab.sql(0, "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0"), "1");
    });
    lab.eventually(0, SOON, |state| state.long_transaction.is_none());
}

/// Clients that connect again and again while their commits wait take all connections; root has the one that is kept for it.
fn a_server_that_is_overrun_does_as_it_is_told() {
    let mut lab = Lab::new("overrun");
    lab.primary(0);
    lab.sql(0, "CREATE USER crowd@localhost IDENTIFIED BY 'crowd'");
    // What the agent keeps ready is there by then.
    std::thread::sleep(Duration::from_secs(2));
    lab.sql(0, "SET GLOBAL max_connections=10");
    let orders = [true, false, true, false].map(|on| (lab.next_stamp(), on));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let crowd = "for i in $(seq 20); do mariadb -u crowd -pcrowd -e 'SELECT SLEEP(6)' & done 2>/dev/null; wait";
            lab.shell(0, &format!("{crowd} || true"))
        });
        std::thread::sleep(Duration::from_secs(1));
        scope.spawn(|| lab.sql(0, "SELECT SLEEP(4)"));
        std::thread::sleep(Duration::from_secs(1));
        let refused = lab.shell(0, "mariadb -u crowd -pcrowd -e 'SELECT 1' 2>&1 || true");
        assert!(refused.contains("1040"), "{refused}");
        for (stamp, on) in orders {
            lab.tell_as(0, stamp, &Action::SetWaiting { on }).unwrap();
        }
    });
}

/// To a process of member 0.
fn signal(lab: &Lab, process: &str, signal: Signal) {
    kill(Pid::from_raw(lab.process(0, process).unwrap()), signal).unwrap();
}

fn a_frozen_server_is_noticed() {
    let mut lab = Lab::new("frozen");
    lab.primary(0);
    signal(&lab, "mariadbd", Signal::SIGSTOP);
    let began = Instant::now();
    lab.eventually(0, SOON, |state| state.trouble == Some(Trouble::Unresponsive) || state.server.is_none());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let aged = lab.state(0).unwrap().answer_age_ms;
    assert!(aged >= 1000, "what is told of the server is {aged} ms old");
    signal(&lab, "mariadbd", Signal::SIGCONT);
    lab.eventually(0, SOON, |state| state.trouble.is_none() && state.server.is_some() && state.answer_age_ms < 1000);
}

/// Each decision orders it anew and interrupts the one before: the time after which the server is killed goes on.
fn a_demotion_asked_for_again_and_again_ends() {
    let mut lab = Lab::new("demoted");
    lab.primary(0);
    signal(&lab, "mariadbd", Signal::SIGSTOP);
    let began = Instant::now();
    let mut orders = Vec::new();
    while lab.process(0, "mariadbd").is_some() {
        assert!(began.elapsed() < Duration::from_secs(4), "asked {} times", orders.len());
        let stamp = lab.next_stamp();
        orders.push(lab.tell_in_background(0, stamp, Action::SetReadOnly { grace_ms: 0, kill: true }));
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(orders.len() > 1);
    for order in orders {
        // All but one were interrupted.
        let _ = order.join().unwrap();
    }
}

fn a_lost_acknowledgement_comes_back() {
    let mut lab = topology("lostack");
    lab.tell(0, Action::Lock { accounts: vec![account(2)] }).unwrap();
    // The only acker receives the transaction without acknowledging it, and comes back with it.
    lab.sql(1, "STOP SLAVE IO_THREAD; SET GLOBAL rpl_semi_sync_slave_enabled=OFF; START SLAVE IO_THREAD");
    replicating(&lab, 1);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| lab.sql(0, "INSERT INTO app.w VALUES (1)"));
        lab.eventually(0, SOON, |state| state.server.as_ref().is_some_and(|s| s.semi_sync.waiting > 0));
        lab.eventually(1, SOON, |_| lab.sql(1, "SELECT COUNT(*) FROM app.w") == "1");
        assert!(!write.is_finished());
        lab.sql(1, "STOP SLAVE IO_THREAD; SET GLOBAL rpl_semi_sync_slave_enabled=ON; START SLAVE IO_THREAD");
        let began = Instant::now();
        write.join().unwrap();
        println!("acknowledged {:?} after the acker was told to come back", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

fn a_stranger_does_not_acknowledge() {
    let mut lab = topology("stranger");
    lab.sql(0, "CREATE USER spy@'%' IDENTIFIED BY 'spy'; GRANT REPLICATION SLAVE ON *.* TO spy@'%'");
    lab.tell(0, Action::Lock { accounts: vec![account(1), account(2)] }).unwrap();
    lab.sql(1, "STOP SLAVE; CHANGE MASTER TO MASTER_USER='spy', MASTER_PASSWORD='spy'; START SLAVE");
    lab.eventually(0, SOON, |_| lab.log(0).contains("stranger"));
    lab.eventually(0, SOON, |state| state.strangers > 0);
    lab.eventually(0, SOON, |state| state.server.as_ref().is_some_and(|s| s.semi_sync.clients == 0));
}

fn a_primary_steps_down_by_the_record_alone() {
    let mut lab = Lab::new("depose");
    let leases = lab.api(&record(0, 1, &[]));
    lab.primary(0);
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_open(&lab.state(0).unwrap()), "it is the holder");
    // An older record that names another one is no reason.
    lab.decided(&leases, &record(1, 0, &[]));
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_open(&lab.state(0).unwrap()));
    lab.decided(&leases, &record(1, 2, &[]));
    let state = lab.eventually(0, Duration::from_secs(5), |state| !is_open(state));
    assert_eq!(state.accepted.epoch, 2);
    let refused = lab.tell(0, Action::OpenForWrites { opening: Opening::default() }).unwrap_err();
    assert!(refused.to_string().contains("stale"), "{refused}");
}

fn a_primary_that_is_told_to_stop_waits_to_be_relieved() {
    let mut lab = Lab::new("leaving");
    let leases = lab.api(&record(0, 1, &[]));
    lab.primary(0);
    signal(&lab, "agent-under-tes", Signal::SIGTERM);
    let state = lab.eventually(0, SOON, |state| state.leaving);
    assert!(is_open(&state));
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_open(&lab.state(0).unwrap()), "it serves until somebody takes over");
    lab.decided(&leases, &record(1, 2, &[]));
    let until = Instant::now() + Duration::from_secs(6);
    while lab.process(0, "agent-under-tes").is_some() {
        assert!(Instant::now() < until, "{}", lab.log(0));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The operator is away: after half a minute the holder's agent opens its server by a decision of its own.
fn a_holder_comes_back_without_the_operator() {
    let mut lab = Lab::new("alone");
    let leases = lab.api(&record(0, 1, &[1]));
    lab.primary_with(0, &Settings { promised: true, ..Settings::default() });
    lab.kill_server(0);
    let state = lab.eventually(0, Duration::from_secs(45), is_open);
    assert!(state.server.is_some_and(|server| server.semi_sync.waits), "an acker is in the record");
    let lease = lab.block_on(leases.get("db-topology")).unwrap();
    let revision = lease.metadata.annotations.unwrap()["k8s.mariadb.com/revision"].clone();
    assert_eq!((revision.as_str(), state.accepted.revision), ("101", 101));
}
