//! What agents do.

use std::fs;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use protocol::{AGENT_COMMON_NAME, ClientError, Refusal};
use topology::action::{Action, Replaced};
use topology::member::{Phase, ThreadState, Volume};
use topology::{Command, DataId, Stamp};

use super::harness::{self, Lab, Settings};

pub(crate) fn trials() -> Vec<Trial> {
    let all: [(&str, fn()); 14] = [
        ("a_primary_and_two_replicas", a_primary_and_two_replicas),
        ("a_killed_server_is_reported_and_starts_again", a_killed_server_is_reported_and_starts_again),
        ("a_killed_member_keeps_its_data_and_its_stamp", a_killed_member_keeps_its_data_and_its_stamp),
        ("stale_stamps_and_strangers_are_refused", stale_stamps_and_strangers_are_refused),
        ("other_data_is_never_touched", other_data_is_never_touched),
        ("a_bad_option_is_named_with_its_line", a_bad_option_is_named_with_its_line),
        ("a_donor_that_dies_leaves_nothing_behind", a_donor_that_dies_leaves_nothing_behind),
        ("a_replica_is_copied_anew", a_replica_is_copied_anew),
        ("a_copy_replaces_only_what_was_judged", a_copy_replaces_only_what_was_judged),
        ("an_older_version", an_older_version),
        ("a_full_disk_leaves_nothing_behind", a_full_disk_leaves_nothing_behind),
        ("scripts_and_bad_values", scripts_and_bad_values),
        ("following_again_and_new_passwords", following_again_and_new_passwords),
        ("rate_of_a_copy_and_memory", rate_of_a_copy_and_memory),
    ];
    all.into_iter().map(|(name, scenario)| trial(name, scenario)).collect()
}

pub(crate) fn trial(name: &'static str, scenario: fn()) -> Trial {
    Trial::test(name, move || {
        // A thread of its own: the scenario moves it into the lab's network.
        let done = std::thread::Builder::new().name(name.to_owned()).spawn(scenario).expect("a thread").join();
        done.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default().into()
        })
    })
}

const SOON: Duration = Duration::from_secs(20);

fn replicates(lab: &Lab, n: usize, rows: &str) {
    lab.eventually(n, SOON, |state| {
        let replication = state.server.as_ref().and_then(|s| s.replication.as_ref());
        replication.is_some_and(|r| r.io == ThreadState::Yes && r.sql == ThreadState::Yes)
    });
    for _ in 0..100 {
        if lab.sql(n, "SELECT COUNT(*) FROM app.t") == rows {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("db-{n}: {} rows, not {rows}", lab.sql(n, "SELECT COUNT(*) FROM app.t"));
}

const FILL: &str = "CREATE TABLE IF NOT EXISTS app.t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT); INSERT INTO app.t (v) SELECT UUID() FROM app.seq_1_to_500";

fn a_primary_and_two_replicas() {
    let mut lab = Lab::new("three");
    lab.primary(0);
    lab.sql(0, FILL);
    // What the binary log does not hold comes with the copy.
    lab.sql(0, "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY");
    lab.replica(1, 0, 0);
    lab.replica(2, 1, 0);
    lab.sql(0, FILL);
    replicates(&lab, 1, "1000");
    replicates(&lab, 2, "1000");
    assert_eq!(lab.sql(1, "SELECT @@server_id, @@read_only"), "2\t1");
    assert_eq!(lab.sql(0, "SELECT @@server_id, @@read_only"), "1\t0");
    // The server does not know root's password; there are no accounts without a name.
    let pid = lab.process(0, "mariadbd").unwrap();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("root'pw"));
    assert_eq!(lab.sql(0, "SELECT COUNT(*) FROM mysql.user WHERE User=''"), "0");
    // Idempotent: told again, nothing changes.
    let before = lab.sql(0, "SELECT @@gtid_binlog_pos");
    let users = vec!["repl_1".to_owned(), "repl_2".to_owned()];
    lab.tell(0, Action::EnsureReplicationAccounts { users, login_only: "repl".into() }).unwrap();
    assert_eq!(lab.sql(0, "SELECT @@gtid_binlog_pos"), before);
}

fn a_killed_server_is_reported_and_starts_again() {
    let mut lab = Lab::new("crash");
    lab.primary(0);
    lab.sql(0, FILL);
    let pid = lab.process(0, "mariadbd").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    lab.eventually(0, SOON, |state| state.phase == Phase::Waiting && state.server.is_none());
    lab.tell(0, Action::StartServer { as_replica: false }).unwrap();
    let state = lab.running(0);
    assert!(state.server.unwrap().read_only, "a server starts read-only");
    assert_eq!(lab.sql(0, "SELECT COUNT(*) FROM app.t"), "500");
}

fn a_killed_member_keeps_its_data_and_its_stamp() {
    let mut lab = Lab::new("kill");
    lab.primary(0);
    lab.sql(0, FILL);
    let accepted = lab.state(0).unwrap().accepted;
    lab.kill(0);
    lab.start(0);
    let state = lab.state(0).unwrap();
    assert_eq!(
        (state.volume, state.phase, state.accepted),
        (Volume::Data { data_id: DataId("data-0".into()) }, Phase::Waiting, accepted)
    );
    lab.tell(0, Action::StartServer { as_replica: false }).unwrap();
    lab.running(0);
    assert_eq!(lab.sql(0, "SELECT COUNT(*) FROM app.t"), "500");
}

fn stale_stamps_and_strangers_are_refused() {
    let mut lab = Lab::new("stale");
    lab.prepare(0, &Settings::default());
    lab.start(0);
    let stamp = |epoch, revision| Stamp { epoch, revision };
    // Nothing to start: refused, but the stamp counts.
    let refused = lab.tell_as(0, stamp(3, 7), &Action::StartServer { as_replica: false }).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(Refusal::NotPossible { .. })), "{refused}");
    for lower in [stamp(3, 6), stamp(2, 100)] {
        let refused = lab.tell_as(0, lower, &Action::StartServer { as_replica: false }).unwrap_err();
        assert!(
            matches!(refused, ClientError::Refused(Refusal::Stale { highest }) if highest == stamp(3, 7)),
            "{refused}"
        );
    }
    let stranger = lab.client(0, AGENT_COMMON_NAME);
    let order = Command { stamp: stamp(9, 9), action: Action::StartServer { as_replica: false } };
    let refused = lab.block_on(stranger.command(&order)).unwrap_err();
    assert!(matches!(refused, ClientError::Unexpected { status, .. } if status == 403), "{refused}");
}

fn other_data_is_never_touched() {
    let mut lab = Lab::new("other");
    lab.prepare(0, &Settings::default());
    let volume = lab.volume(0);
    fs::write(volume.join("ibdata1"), "precious").unwrap();
    lab.start(0);
    assert!(matches!(lab.state(0).unwrap().volume, Volume::Foreign { .. }));
    let clone = Action::Clone { donor: Lab::agent_of(1), data_id: DataId("x".into()), replaces: Some(judged("y", "")) };
    for action in [Action::Initialise { data_id: DataId("x".into()) }, clone, Action::StartServer { as_replica: false }]
    {
        let refused = lab.tell(0, action).unwrap_err();
        assert!(matches!(refused, ClientError::Refused(Refusal::NotPossible { .. })), "{refused}");
    }
    assert_eq!(fs::read_to_string(volume.join("ibdata1")).unwrap(), "precious");
}

fn a_bad_option_is_named_with_its_line() {
    let mut lab = Lab::new("option");
    lab.prepare(0, &Settings { my_cnf: "[mariadb]\n# a comment\nno_such_option = 1\n".into(), ..Settings::default() });
    lab.start(0);
    lab.tell(0, Action::Initialise { data_id: DataId("x".into()) }).unwrap();
    let state =
        lab.eventually(0, SOON, |state| matches!(state.phase, Phase::ConfigRefused { .. } | Phase::Failed { .. }));
    let Phase::ConfigRefused { option, line, message } = state.phase else { panic!("{state:?}") };
    assert_eq!(
        (option.as_deref().map(|o| o.replace('_', "-")), line),
        (Some("no-such-option".into()), Some(3)),
        "{message}"
    );
    assert_eq!(state.volume, Volume::Empty);
}

fn a_donor_that_dies_leaves_nothing_behind() {
    let mut lab = Lab::new("donor");
    lab.primary(0);
    // Large enough that the copy takes a while.
    lab.sql(
        0,
        "CREATE TABLE app.big (v LONGBLOB); INSERT INTO app.big SELECT REPEAT(UUID(), 200000) FROM app.seq_1_to_40",
    );
    lab.prepare(1, &Settings::default());
    lab.start(1);
    let clone = Action::Clone { donor: Lab::agent_of(0), data_id: DataId("data-1".into()), replaces: None };
    lab.tell(1, clone.clone()).unwrap();
    lab.eventually(1, SOON, |state| {
        matches!(&state.phase, Phase::Cloning { received, .. } if *received > 0)
            || matches!(state.phase, Phase::Failed { .. })
    });
    lab.kill(0);
    let state = lab
        .eventually(1, Duration::from_secs(90), |state| matches!(state.phase, Phase::Failed { .. } | Phase::Running));
    let Phase::Failed { reason, .. } = &state.phase else { panic!("{state:?}") };
    assert_eq!((reason.as_str(), &state.volume), ("DonorFailed", &Volume::Empty));
    assert!(!lab.volume(1).join("data.new").exists());
    // It works once the donor is back.
    lab.start(0);
    lab.tell(0, Action::StartServer { as_replica: false }).unwrap();
    lab.running(0);
    lab.tell(1, clone).unwrap();
    lab.running(1);
    assert_eq!(lab.sql(1, "SELECT COUNT(*) FROM app.big"), "40");
}

fn a_replica_is_copied_anew() {
    let mut lab = Lab::new("anew");
    lab.primary(0);
    lab.sql(0, FILL);
    lab.replica(1, 0, 0);
    replicates(&lab, 1, "500");
    let wrong = Action::Clone {
        donor: Lab::agent_of(0),
        data_id: DataId("new".into()),
        replaces: Some(judged("another", "0-1-1")),
    };
    let refused = lab.tell(1, wrong).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(Refusal::NotPossible { .. })), "{refused}");
    lab.tell(1, lab.anew(1, 0, "new")).unwrap();
    lab.eventually(1, SOON, |state| {
        state.volume == Volume::Data { data_id: DataId("new".into()) } && state.phase == Phase::Running
    });
    lab.tell(1, Lab::follow(1, 0)).unwrap();
    lab.sql(0, FILL);
    replicates(&lab, 1, "1000");
}

fn judged(data_id: &str, binlog_state: &str) -> Replaced {
    Replaced { data_id: DataId(data_id.into()), binlog_state: binlog_state.parse().unwrap() }
}

/// Root writes on a replica whose data is to be replaced: before the order comes, and while the copy does.
fn a_copy_replaces_only_what_was_judged() {
    let mut lab = Lab::new("judged");
    lab.primary(0);
    lab.sql(0, FILL);
    // Large enough that the copy takes a while.
    lab.sql(
        0,
        "CREATE TABLE app.big (v LONGBLOB); INSERT INTO app.big SELECT REPEAT(UUID(), 200000) FROM app.seq_1_to_40",
    );
    lab.replica(1, 0, 0);
    replicates(&lab, 1, "500");
    let changed = |reason: &str| assert_eq!(reason, "DataChanged");

    let early = lab.anew(1, 0, "early");
    lab.sql(1, "SET gtid_domain_id=7; CREATE TABLE app.own (v VARCHAR(20)); INSERT INTO app.own VALUES ('before')");
    match lab.tell(1, early).unwrap_err() {
        ClientError::Refused(Refusal::Failed { reason, .. }) => changed(&reason),
        other => panic!("{other}"),
    }

    lab.tell(1, lab.anew(1, 0, "late")).unwrap();
    lab.eventually(1, SOON, |state| matches!(&state.phase, Phase::Cloning { received, .. } if *received > 0));
    lab.sql(1, "SET gtid_domain_id=7; INSERT INTO app.own VALUES ('meanwhile')");
    let state = lab.eventually(1, SOON, |state| !matches!(state.phase, Phase::Cloning { .. }));
    let Phase::Failed { reason, .. } = &state.phase else { panic!("{state:?}") };
    changed(reason);
    assert_eq!(state.volume, Volume::Data { data_id: DataId("data-1".into()) });
    assert_eq!(lab.sql(1, "SELECT GROUP_CONCAT(v) FROM app.own"), "before,meanwhile");
    assert!(!lab.volume(1).join("data.new").exists());
    // What failed was the copy: the server runs, and counts again once that is heard.
    lab.tell(1, Action::StartServer { as_replica: false }).unwrap();
    assert_eq!(lab.state(1).unwrap().phase, Phase::Running);

    // What it replicates on is no change, and a client that holds a lock is cut.
    let again = lab.anew(1, 0, "again");
    lab.sql(0, FILL);
    replicates(&lab, 1, "1000");
    let holds = "mariadb -u root -p\"$(cat /etc/mariadb-operator/root/root-password)\" \
                 -e 'LOCK TABLES app.own WRITE; SELECT SLEEP(60)' || echo cut";
    let stamp = lab.next_stamp();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| lab.shell(1, holds));
        std::thread::sleep(Duration::from_millis(500));
        lab.tell_as(1, stamp, &again).unwrap();
        assert_eq!(client.join().unwrap(), "cut");
    });
    lab.eventually(1, SOON, |state| {
        state.volume == Volume::Data { data_id: DataId("again".into()) } && state.phase == Phase::Running
    });
    assert_eq!(lab.sql(1, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'own'"), "0");
}

fn an_older_version() {
    if !std::path::Path::new(&format!("{}.ok", harness::OLDER)).exists() {
        harness::skipped(&format!("an_older_version: no root file system in {}", harness::OLDER));
        return;
    }
    let mut lab = Lab::on("older", harness::OLDER);
    lab.primary(0);
    lab.sql(0, FILL);
    lab.replica(1, 0, 0);
    lab.replica(2, 1, 0);
    lab.sql(0, FILL);
    replicates(&lab, 1, "1000");
    replicates(&lab, 2, "1000");
    assert!(lab.sql(2, "SELECT VERSION()").starts_with("10.11"));
}

fn a_full_disk_leaves_nothing_behind() {
    let mut lab = Lab::new("full");
    lab.primary(0);
    lab.sql(
        0,
        "CREATE TABLE app.big (v LONGBLOB); INSERT INTO app.big SELECT REPEAT(UUID(), 100000) FROM app.seq_1_to_40",
    );
    for (n, mib, when) in [(1, 150, "while copying"), (2, 40, "beforehand")] {
        lab.prepare(n, &Settings { volume_mib: Some(mib), ..Settings::default() });
        lab.start(n);
        let clone = Action::Clone { donor: Lab::agent_of(0), data_id: DataId("x".into()), replaces: None };
        lab.tell(n, clone).unwrap();
        let state = lab.eventually(n, SOON, |state| matches!(state.phase, Phase::Failed { .. } | Phase::Running));
        let Phase::Failed { reason, message } = &state.phase else { panic!("{when}: {state:?}") };
        assert_eq!((reason.as_str(), &state.volume), ("DiskFull", &Volume::Empty), "{when}: {message}");
        assert_eq!(lab.shell(n, "ls /var/lib/mysql"), "agent", "{when}");
    }
    // The donor does not suffer.
    lab.sql(0, FILL);
}

fn scripts_and_bad_values() {
    let mut lab = Lab::new("values");
    // Understood by `--help`, refused by a server that starts.
    let my_cnf = "[mariadb]\nlog-bin=/no/such/folder/bin\n".to_owned();
    let scripts = vec![
        ("1.sql", "CREATE TABLE made (v INT); INSERT INTO made VALUES (1);"),
        ("2.sh", "mariadb -u root -p\"$MARIADB_ROOT_PASSWORD\" -e 'INSERT INTO app.made VALUES (2)'"),
    ];
    lab.prepare(0, &Settings { my_cnf, scripts, ..Settings::default() });
    lab.start(0);
    lab.tell(0, Action::Initialise { data_id: DataId("data-0".into()) }).unwrap();
    let state = lab.eventually(0, SOON, |state| matches!(state.phase, Phase::Failed { .. } | Phase::Running));
    let Phase::Failed { message, .. } = &state.phase else { panic!("{state:?}") };
    assert!(message.contains("/no/such/folder"), "{message}");
    // Put right, the data is there.
    lab.shell(0, "echo > /etc/mariadb-operator/config/20-user.cnf");
    lab.tell(0, Action::StartServer { as_replica: false }).unwrap();
    lab.running(0);
    assert_eq!(lab.sql(0, "SELECT SUM(v) FROM app.made"), "3");
    assert_eq!(lab.sql(0, "SELECT @@gtid_binlog_pos"), "");
}

fn following_again_and_new_passwords() {
    let mut lab = Lab::new("again");
    lab.primary(0);
    lab.sql(0, FILL);
    lab.replica(1, 0, 0);
    replicates(&lab, 1, "500");
    // Told again, the connection is not even interrupted.
    let dump = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
    let before = lab.sql(0, dump);
    lab.tell(1, Lab::follow(1, 0)).unwrap();
    assert_eq!(lab.sql(0, dump), before);
    // The Secrets change.
    for n in [0, 1] {
        lab.shell(n, "echo changed > /etc/mariadb-operator/replication/replication-password");
    }
    let end = Instant::now() + SOON;
    loop {
        let now = lab.sql(0, dump);
        if !now.is_empty() && now != before {
            break;
        }
        assert!(Instant::now() < end, "{}", lab.log(1));
        std::thread::sleep(Duration::from_millis(200));
    }
    lab.sql(0, FILL);
    replicates(&lab, 1, "1000");
}

/// Measured against `mariadb-backup | mbstream -x` in the donor's own container, without a network.
fn rate_of_a_copy_and_memory() {
    let mut lab = Lab::new("rate");
    lab.primary(0);
    lab.sql(
        0,
        "SET SESSION sql_log_bin=0; CREATE TABLE app.big (v LONGBLOB); INSERT INTO app.big SELECT REPEAT(UUID(), 200000) FROM app.seq_1_to_60",
    );
    lab.prepare(1, &Settings::default());
    lab.start(1);
    let plain = "mkdir -p /var/lib/mysql/agent/plain && cd /var/lib/mysql/agent/plain && mariadb-backup \
        --defaults-file=/run/mysqld/agent-backup.cnf --backup --stream=mbstream --skip-ssl --user=mysql --socket=/run/mysqld/mysqld.sock \
        --datadir=/var/lib/mysql/data --target-dir=/tmp/plain 2>/dev/null | mbstream -x; rm -rf /var/lib/mysql/agent/plain";
    let started = Instant::now();
    lab.shell(0, plain);
    let plain = started.elapsed();
    let idle = lab.agent_memory(1);
    let started = Instant::now();
    lab.tell(1, Action::Clone { donor: Lab::agent_of(0), data_id: DataId("data-1".into()), replaces: None }).unwrap();
    lab.eventually(1, 3 * SOON, |state| !matches!(state.phase, Phase::Cloning { .. }));
    let whole = started.elapsed();
    lab.running(1);
    let (donor, copied) = (lab.agent_memory(0), lab.agent_memory(1));
    eprintln!(
        "copy of about 500 MiB: {whole:?} with prepare, plain pipe without {plain:?}; agents' anonymous memory: {idle} KiB idle, {donor} KiB donor, {copied} KiB copied"
    );
    assert!(donor.max(copied) < 32 * 1024, "{donor} {copied} KiB");
}
