//! What a member has and others have not: relay logs that are not applied, transactions that no primary wrote.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;
use protocol::{ClientError, Refusal};
use topology::action::Action;
use topology::history::Errant;
use topology::member::{MemberState, ServerState};
use topology::{DataId, GtidPosition};

use super::changes::{account, topology};
use super::harness::{self, Lab};
use super::scenarios::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_relay_log_is_applied_from_its_files", a_relay_log_is_applied_from_its_files),
        trial("a_relay_log_is_applied_from_its_files_on_an_older_version", on_an_older_version),
        trial(
            "a_relay_log_is_kept_aside_until_it_was_fetched_again",
            a_relay_log_is_kept_aside_until_it_was_fetched_again,
        ),
        trial("what_is_not_applied_outlives_a_new_password", what_is_not_applied_outlives_a_new_password),
        trial("a_gap_in_the_relay_log_is_noticed", a_gap_in_the_relay_log_is_noticed),
        trial("what_crash_recovery_drops_is_written_down", what_crash_recovery_drops_is_written_down),
        trial("errant_transactions_are_written_down", errant_transactions_are_written_down),
    ]
}

const SOON: Duration = Duration::from_secs(20);

fn server(state: &MemberState) -> &ServerState {
    state.server.as_ref().expect("a server")
}

fn applied(state: &MemberState) -> GtidPosition {
    let server = server(state);
    server.gtid_slave_pos.furthest(&server.gtid_binlog_pos)
}

/// Many transactions, with all that is hard to carry through a text.
fn fill(lab: &Lab, n: usize, transactions: usize) {
    let mut sql = "SET NAMES utf8mb4; CREATE TABLE IF NOT EXISTS app.h (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB, t TEXT) CHARSET utf8mb4;".to_owned();
    for i in 0..transactions {
        let values = match i % 4 {
            0 => "REPEAT(UUID(), 50000), 'ü \u{1F600} ; '' \\\\ delimiter'",
            1 => "UNHEX('00FF0A0D1A27225C'), 'a\\r\\nb\\0c'",
            2 => "NULL, REPEAT('x', 1000)",
            _ => "RANDOM_BYTES(1000), NULL",
        };
        let _ = write!(sql, "INSERT INTO app.h (v, t) VALUES ({values});");
    }
    sql.push_str(
        "CREATE OR REPLACE VIEW app.w AS SELECT COUNT(*) FROM app.h; UPDATE app.h SET t = CONCAT(t, '!') WHERE id % 2;",
    );
    lab.sql(n, &sql);
}

const SUM: &str = "CHECKSUM TABLE app.h EXTENDED";

/// A primary and a replica whose relay log holds `transactions` that it has not applied; the replica's server was killed and is
/// running again. What the table should be, and how far the relay log goes.
fn behind(lab: &mut Lab, transactions: usize) -> (String, GtidPosition) {
    lab.primary(0);
    fill(lab, 0, 4);
    lab.replica(1, 0, 0);
    let position = |lab: &Lab| applied(&lab.state(0).unwrap());
    lab.eventually(1, SOON, |state| state.server.is_some() && applied(state) == position(lab));
    lab.sql(1, "STOP SLAVE SQL_THREAD");
    for _ in 0..3 {
        fill(lab, 0, transactions / 3);
        // Several files, as in a long life.
        lab.sql(1, "FLUSH RELAY LOGS");
    }
    let sum = lab.sql(0, SUM);
    let end: GtidPosition = lab.sql(0, "SELECT @@gtid_binlog_pos").parse().unwrap();
    lab.eventually(1, SOON, |state| {
        let replication = state.server.as_ref().and_then(|s| s.replication.as_ref());
        replication.is_some_and(|r| r.gtid_io_pos == end)
    });
    lab.kill_server(1);
    let state = lab.start_server(1);
    assert_eq!(state.relay.as_ref(), Some(&end), "{state:#?}");
    assert!(!applied(&state).covers(&end));
    (sum, end)
}

fn replayed(mut lab: Lab) {
    let (sum, end) = behind(&mut lab, 30);
    lab.kill(0);
    lab.tell(1, Action::ReplayRelayLog).unwrap();
    let state = lab.eventually(1, SOON, |state| state.relay.is_none());
    assert_eq!((&server(&state).gtid_slave_pos, &server(&state).gtid_binlog_pos), (&end, &end));
    assert_eq!(lab.sql(1, SUM), sum);
    assert_eq!(lab.sql(1, "SELECT @@global.max_allowed_packet"), "16777216");
    // The writer's ids are kept, and told again nothing happens.
    assert_eq!(lab.sql(1, "SELECT @@gtid_binlog_state"), end.to_string());
    lab.tell(1, Action::ReplayRelayLog).unwrap();
    assert_eq!(lab.sql(1, SUM), sum);
    // It goes on as primary.
    lab.tell(1, Action::OpenForWrites { opening: topology::action::Opening::default() }).unwrap();
    fill(&lab, 1, 4);
}

fn a_relay_log_is_applied_from_its_files() {
    replayed(Lab::new("replay"));
}

fn on_an_older_version() {
    if !std::path::Path::new(&format!("{}.ok", harness::OLDER)).exists() {
        harness::skipped(&format!("on_an_older_version: no root file system in {}", harness::OLDER));
        return;
    }
    replayed(Lab::on("ten-replay", harness::OLDER));
}

fn a_relay_log_is_kept_aside_until_it_was_fetched_again() {
    let mut lab = Lab::new("aside");
    let (sum, end) = behind(&mut lab, 30);
    // The source is away: nothing can be fetched again.
    lab.kill_server(0);
    lab.tell(1, Action::StartReplication).unwrap();
    lab.eventually(1, SOON, |state| state.relay.is_none());
    let kept = lab.volume(1).join("agent/relay");
    assert!(kept.join("held.json").exists());
    // Fenced, it counts as held; it can be applied.
    lab.tell(1, Action::Fence).unwrap();
    let state = lab.state(1).unwrap();
    assert_eq!((state.fence.as_ref().map(|fence| &fence.received), state.relay.as_ref()), (Some(&end), Some(&end)));
    lab.tell(1, Action::ReplayRelayLog).unwrap();
    let state = lab.state(1).unwrap();
    assert_eq!((state.relay.as_ref(), lab.sql(1, SUM)), (None, sum));
    // Back with its source, what was kept goes.
    lab.start_server(0);
    lab.tell(0, Action::OpenForWrites { opening: topology::action::Opening::default() }).unwrap();
    lab.tell(1, Action::StartReplication).unwrap();
    let until = std::time::Instant::now() + SOON;
    while kept.exists() {
        assert!(std::time::Instant::now() < until, "{}", lab.log(1));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What an acker has received it has acknowledged; a new password is taken over by CHANGE MASTER, which throws the relay log away.
fn what_is_not_applied_outlives_a_new_password() {
    let mut lab = Lab::new("password");
    lab.primary(0);
    fill(&lab, 0, 4);
    lab.replica(1, 0, 0);
    let start = applied(&lab.state(0).unwrap());
    lab.eventually(1, SOON, |state| state.server.is_some() && applied(state) == start);
    let kept = lab.volume(1).join("agent/relay/held.json");
    let end = std::thread::scope(|scope| {
        scope.spawn(|| lab.sql(1, "LOCK TABLES app.h READ; SELECT SLEEP(15)"));
        std::thread::sleep(Duration::from_secs(1));
        fill(&lab, 0, 8);
        let end: GtidPosition = lab.sql(0, "SELECT @@gtid_binlog_pos").parse().unwrap();
        lab.eventually(1, SOON, |state| {
            state.server.as_ref().and_then(|s| s.replication.as_ref()).is_some_and(|r| r.gtid_io_pos == end)
        });
        // Nothing can be fetched again.
        lab.kill_server(0);
        lab.shell(1, "echo changed > /etc/mariadb-operator/replication/replication-password");
        let until = std::time::Instant::now() + SOON;
        while !kept.exists() {
            assert!(std::time::Instant::now() < until, "{}", lab.log(1));
            std::thread::sleep(Duration::from_millis(100));
        }
        end
    });
    lab.tell(1, Action::Fence).unwrap();
    let state = lab.state(1).unwrap();
    assert_eq!(state.fence.as_ref().map(|fence| &fence.received), Some(&end));
    lab.tell(1, Action::ReplayRelayLog).unwrap();
    lab.eventually(1, SOON, |state| state.relay.is_none() && state.server.is_some() && applied(state) == end);
    assert_eq!(lab.sql(1, "SELECT COUNT(*) FROM app.h"), "12");
}

fn a_gap_in_the_relay_log_is_noticed() {
    let mut lab = Lab::new("gap");
    let (_, end) = behind(&mut lab, 30);
    // The first file that is needed is gone.
    let data = lab.volume(1).join("data");
    let index = fs::read_to_string(data.join("relay-bin.index")).unwrap();
    let before = lab.sql(1, "SELECT @@gtid_binlog_pos");
    let first = index.lines().find(|name| fs::metadata(data.join(name)).unwrap().len() > 100_000).unwrap();
    let rest: Vec<_> = index.lines().filter(|name| *name != first).collect();
    fs::write(data.join("relay-bin.index"), rest.join("\n") + "\n").unwrap();
    let refused = lab.tell(1, Action::ReplayRelayLog).unwrap_err();
    let ClientError::Refused(Refusal::Failed { reason, message }) = &refused else { panic!("{refused}") };
    assert!(reason == "ReplayFailed" && message.contains("missing"), "{refused}");
    // What is missing is not passed over.
    assert_eq!(lab.sql(1, "SELECT @@gtid_binlog_pos"), before);
    assert_eq!(lab.state(1).unwrap().relay, Some(end));
}

fn what_crash_recovery_drops_is_written_down() {
    let mut lab = topology("dropped");
    lab.sql(0, "INSERT INTO app.w VALUES (1)");
    lab.tell(0, Action::Lock { accounts: vec![account(1), account(2)] }).unwrap();
    std::thread::scope(|scope| {
        // Nobody acknowledges it: the client sees the server go.
        scope.spawn(|| {
            let password = "$(cat /etc/mariadb-operator/root/root-password)";
            lab.shell(0, &format!("mariadb -u root -p\"{password}\" -e 'INSERT INTO app.w VALUES (4711)' || true"))
        });
        lab.eventually(0, SOON, |state| state.server.as_ref().is_some_and(|s| s.semi_sync.waiting > 0));
        lab.kill_server(0);
    });
    lab.tell(0, Action::StartServer { as_replica: true }).unwrap();
    lab.running(0);
    assert_eq!(lab.sql(0, "SELECT COUNT(*) FROM app.w"), "1");
    let kept = "cat /var/lib/mysql/agent/errant/*-tail/dropped.sql 2>/dev/null || true";
    lab.eventually(0, SOON, |_| lab.shell(0, kept).contains("@1=4711"));
    assert!(!lab.shell(0, kept).contains("@1=1 "), "what was acknowledged was not dropped");
    lab.eventually(0, SOON, |_| lab.shell(0, "ls /var/lib/mysql/agent/errant/*-tail").split_whitespace().count() == 2);
    // Started so again, nothing is dropped and nothing kept.
    lab.kill_server(0);
    lab.tell(0, Action::StartServer { as_replica: true }).unwrap();
    lab.running(0);
    lab.eventually(0, SOON, |_| lab.shell(0, "ls /var/lib/mysql/agent/errant").split_whitespace().count() == 1);
}

fn errant_transactions_are_written_down() {
    let mut lab = Lab::new("errant");
    lab.primary(0);
    fill(&lab, 0, 4);
    lab.replica(1, 0, 0);
    let end: GtidPosition = lab.sql(0, "SELECT @@gtid_binlog_pos").parse().unwrap();
    lab.eventually(1, SOON, |state| state.server.is_some() && applied(state) == end);
    // Root passes read_only.
    lab.sql(
        1,
        "INSERT INTO app.h (t) VALUES ('only here'); FLUSH BINARY LOGS; INSERT INTO app.h (t) VALUES ('and here')",
    );
    let known = end.sequence(0);
    let errant = |known, last| Errant { domain: 0, server_id: 2, known, last };
    let refused = lab.tell(1, Action::SaveErrant { errant: vec![errant(known, known + 3)] }).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(Refusal::Failed { .. })), "{refused}");
    assert!(lab.state(1).unwrap().saved.is_empty());
    let all = vec![errant(known, known + 2)];
    lab.tell(1, Action::SaveErrant { errant: all.clone() }).unwrap();
    assert_eq!(lab.state(1).unwrap().saved, all);
    // Told again, nothing is written twice.
    lab.tell(1, Action::SaveErrant { errant: all.clone() }).unwrap();
    let folders: Vec<_> =
        fs::read_dir(lab.volume(1).join("agent/errant")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = folders.as_slice() else { panic!("{folders:?}") };
    assert!(folder.to_string_lossy().ends_with("-data-1"), "{}", folder.display());
    let statements = fs::read_to_string(folder.join("statements.sql")).unwrap();
    assert!(statements.contains("only here") && statements.contains("and here"), "{statements}");
    assert!(!statements.contains("delimiter!"), "what the primary wrote is not errant");
    // The raw events can be applied elsewhere.
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let raw = lab.shell(
        1,
        &format!("mariadb-binlog --no-defaults /var/lib/mysql/agent/errant/{name}/events.bin | grep -c '#.*GTID 0-2-'"),
    );
    assert_eq!(raw, "2");
    // Another life of the agent knows it; another copy of the data does not claim it.
    lab.kill(1);
    lab.start(1);
    assert_eq!(lab.state(1).unwrap().saved, all);
    lab.start_server(1);
    lab.tell(1, lab.anew(1, 0, "new")).unwrap();
    let state = lab.eventually(1, SOON, |state| {
        state.volume == topology::member::Volume::Data { data_id: DataId("new".into()) } && state.server.is_some()
    });
    assert!(state.saved.is_empty());
    assert!(folder.join("errant.json").exists());
}
