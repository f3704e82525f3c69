//! Switchovers that cannot finish give the writes back; those that can cut whoever is still there.

use std::process::Child;
use std::time::Duration;

use super::cluster::{Cluster, Failure, broken};
use super::failover::{await_safe, primary};
use super::moments::{epoch, equal_in_the_end};
use super::replication::{await_rows, same_rows, small, write_rows};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] =
    &[("switchovers::one_that_is_rolled_back_and_one_that_is_done", one_that_is_rolled_back_and_one_that_is_done)];

const MINUTE: Duration = Duration::from_secs(60);
const PAIR: [&str; 2] = ["db-0", "db-1"];
/// What a session that stays is busy with.
const STAY: &str = "SELECT SLEEP(300)";

/// A session that stays until it is ended: `sql`, then it sleeps.
pub(crate) fn session(cluster: &Cluster, namespace: &str, pod: &str, login: &str, sql: &str) -> Result<Child, Failure> {
    let script = format!("exec mariadb {login} -e \"{sql}; {STAY}\"");
    let child = cluster.kubectl_spawn(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", &script])?;
    cluster.eventually(&format!("{pod} has the session"), MINUTE / 2, || match sleeper(cluster, namespace, pod)? {
        Some(_) => Ok(()),
        None => Err("not yet".to_owned()),
    })?;
    Ok(child)
}

/// The id of the session that sleeps.
pub(crate) fn sleeper(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Option<String>, Failure> {
    let sql =
        format!("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE '%{STAY}' AND ID <> CONNECTION_ID()");
    let text = cluster.sql(namespace, pod, &sql)?;
    Ok((!text.is_empty()).then_some(text))
}

fn one_that_is_rolled_back_and_one_that_is_done(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let spec = "  replicas: 2\n  replication:\n    enabled: true\n    replica:\n      syncTimeout: 3s\n";
    cluster.apply(namespace, &small("db", spec))?;
    await_safe(cluster, namespace, "db")?;
    write_rows(cluster, namespace, "db-0", 10)?;
    await_rows(cluster, namespace, &PAIR, 10)?;
    cluster.sql(namespace, "db-0", "CREATE USER app@'%' IDENTIFIED BY 'App-1-app'; GRANT ALL ON t.* TO app@'%'")?;
    rolled_back(cluster, namespace)?;
    done(cluster, namespace)?;
    refused_while_somebody_writes_for_long(cluster, namespace)
}

/// The target has the rows, and cannot apply them: somebody holds the table.
fn rolled_back(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let before = epoch(cluster, namespace)?;
    let root = "-u root -p\"${MARIADB_ROOT_PASSWORD}\"";
    let mut holder = session(cluster, namespace, "db-1", root, "LOCK TABLES t.t WRITE")?;
    cluster.sql(namespace, "db-0", "INSERT INTO t.t (v) VALUES ('waits on db-1')")?;
    let answer = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-1", "--timeout", "40s"]);
    // The old primary takes writes while the target still hangs.
    let written = cluster.eventually("writes on the old primary", MINUTE / 2, || {
        cluster.sql(namespace, "db-0", "INSERT INTO t.t (v) VALUES ('after')")
    });
    let now = primary(cluster, namespace, "db")?;
    let id = sleeper(cluster, namespace, "db-1")?.ok_or("the session that held the table is gone")?;
    cluster.sql(namespace, "db-1", &format!("KILL {id}"))?;
    let _ = holder.wait();
    let (code, out, err) = answer?;
    if code != 4 || !out.contains("db-1 did not reach") {
        return Err(format!("switchover: {code}: {out}{err}"));
    }
    written?;
    if now != "db-0" || epoch(cluster, namespace)? != before {
        return Err(broken(format_args!("given up, and {now} is the primary in epoch {}", epoch(cluster, namespace)?)));
    }
    equal_in_the_end(cluster, namespace, &PAIR, 12)?;
    await_safe(cluster, namespace, "db")
}

/// A client in the middle of a transaction on the old primary loses its session, and the transaction.
fn done(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let app = "-h db-0 -u app -pApp-1-app";
    let mut held = session(cluster, namespace, "db-0", app, "BEGIN; INSERT INTO t.t (v) VALUES ('never committed')")?;
    let (code, out, err) = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-1"])?;
    let ended = cluster.eventually("the client's session ends", MINUTE / 6, || match held.try_wait() {
        Ok(Some(status)) if !status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    if ended.is_err() {
        let _ = held.kill();
        let _ = held.wait();
    }
    if code != 0 {
        return Err(format!("switchover: {code}: {out}{err}"));
    }
    ended?;
    if let Some(id) = sleeper(cluster, namespace, "db-0")? {
        return Err(broken(format_args!("session {id} outlived the switchover")));
    }
    await_rows(cluster, namespace, &PAIR, 13)?;
    same_rows(cluster, namespace, &PAIR)?;
    if primary(cluster, namespace, "db")? != "db-1" {
        return Err(broken("db-1 is not the primary"));
    }
    await_safe(cluster, namespace, "db")
}

/// Who has been writing for ten seconds is not cut for a request; for a pod that is told to stop, who writes for however long.
fn refused_while_somebody_writes_for_long(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let app = "-h db-1 -u app -pApp-1-app";
    let mut held = session(cluster, namespace, "db-1", app, "BEGIN; INSERT INTO t.t (v) VALUES ('takes long')")?;
    let refused = cluster.eventually("the transaction counts as long", MINUTE / 2, || {
        let id = sleeper(cluster, namespace, "db-1")?.ok_or("the session is gone")?;
        let seconds = "SELECT TIMESTAMPDIFF(SECOND, trx_started, NOW()) FROM information_schema.INNODB_TRX";
        let lasts: u64 = cluster
            .sql(namespace, "db-1", &format!("{seconds} WHERE trx_mysql_thread_id = {id}"))?
            .parse()
            .map_err(|_| "it has no transaction".to_owned())?;
        if lasts < 14 {
            return Err(format!("{lasts} s"));
        }
        let foreseen = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-0", "--dry-run"])?;
        if foreseen.0 != 3
            || !foreseen.1.contains(&format!("LongTransaction: a transaction on db-1 (connection {id} of app"))
        {
            return Err(format!("foreseen: {foreseen:?}"));
        }
        let (code, out, err) = cluster.mariadb_exit(&["switchover", "db", "-n", namespace, "--to", "db-0"])?;
        let told = out.contains("a transaction of app on db-1") && out.contains(&format!("KILL {id}"));
        if code == 3 && told { Ok(()) } else { Err(broken(format_args!("switchover: {code}: {out}{err}"))) }
    });
    let stays = held.try_wait().is_ok_and(|status| status.is_none());
    cluster.kubectl(&["delete", "pod", "db-1", "-n", namespace, "--wait=false"])?;
    let moved = cluster.eventually("db-0 is the primary", MINUTE, || match primary(cluster, namespace, "db")? {
        now if now == "db-0" => Ok(()),
        now => Err(format!("it is {now}")),
    });
    let _ = held.kill();
    let _ = held.wait();
    refused?;
    if !stays {
        return Err("a switchover that was refused has cut the session".to_owned());
    }
    moved?;
    equal_in_the_end(cluster, namespace, &PAIR, 13)?;
    await_safe(cluster, namespace, "db")
}
