//! Chaos: clients that note what they were told, faults in random order, and a checker over what is left (docs/chaos.md).

mod checker;
mod checker_trials;
mod clients;
mod crowd;
mod entry;
mod faults;
mod history;
mod load;
mod mutants;
mod random;
mod remains;
mod storm;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::cluster::{Cluster, Failure, broken, say};
use super::replication::small;
use clients::Clients;
use history::{History, Outcome};
use storm::{Storm, Tally};

pub(crate) use super::cluster::BROKEN;
pub(crate) use checker_trials::TRIALS;
pub(crate) use entry::Entry;
pub(crate) use faults::{Ground, Kind, kill_operator};
pub(crate) use load::Load;

/// Faults stop nodes and the operator: it comes alone.
pub(crate) fn scenarios() -> &'static [(&'static str, super::Scenario)] {
    // An operator that is broken on purpose has an image of its own, which only `make chaos MUTANTS=1` builds.
    if std::env::var_os("CHAOS_MUTANTS").is_some() { mutants::SCENARIOS } else { &[("chaos::storm", storm)] }
}

const ROOT: &str = "db";
const MEMBERS: u32 = 3;
/// The short run that every test run has.
const SHORT: Duration = Duration::from_secs(60);
const SHORT_SEED: u64 = 4;
/// A long run, and the faults that it must have had.
const LONG: Duration = Duration::from_secs(30 * 60);
const LEAST: u32 = 150;
/// So many violations are shown.
const SHOWN: usize = 40;
/// All members have the same by then, once they are well.
const EQUAL_LIMIT: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Result<Option<u64>, Failure> {
    match std::env::var(variable) {
        Err(_) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| format!("{variable}={text:?} is not a number")),
    }
}

/// So many members; `extra` is YAML below `spec.replication`, indented by four.
fn manifest(cluster: &Cluster, members: u32, extra: &str) -> String {
    // Disks that can be full and hang; failovers within seconds, so that many fit into a run.
    let class = if cluster.sandbox_dir().is_some() { "    storageClassName: limited\n" } else { "" };
    let text = small(
        ROOT,
        &format!(
            "  replicas: {members}\n  replication:\n    enabled: true\n{extra}    failover:\n      timeout: 2s\n      cooldown: 5s\n"
        ),
    );
    text.replace("    size: 1Gi\n", &format!("    size: 1Gi\n{class}"))
}

fn member_names(members: u32) -> Vec<String> {
    (0..members).map(|n| format!("{ROOT}-{n}")).collect()
}

/// The topology, with the clients' table and account.
pub(crate) fn set_up(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    set_up_as(cluster, namespace, MEMBERS, "")
}

/// The same with so many members, and more below `spec.replication`.
fn set_up_as(cluster: &Cluster, namespace: &str, members: u32, extra: &str) -> Result<(), Failure> {
    cluster.apply(namespace, &manifest(cluster, members, extra))?;
    cluster.await_healthy(namespace, ROOT, Duration::from_secs(120))?;
    cluster.await_condition(namespace, ROOT, ("SafeToFailover", "True", ""), Duration::from_secs(60))?;
    let sql = format!(
        "CREATE DATABASE chaos; \
         CREATE TABLE chaos.writes (n BIGINT AUTO_INCREMENT PRIMARY KEY, client INT NOT NULL, sequence BIGINT NOT NULL, \
         server INT NOT NULL, KEY (client, sequence)); \
         CREATE USER {account}@'%' IDENTIFIED BY '{password}'; GRANT ALL ON chaos.* TO {account}@'%'",
        account = clients::ACCOUNT,
        password = clients::PASSWORD
    );
    cluster.sql(namespace, &format!("{ROOT}-0"), &sql).map(drop)
}

/// `CHAOS_MINUTES`, `CHAOS_SEED`, `CHAOS_WRITERS`: a longer run, another one, a heavier one.
fn storm(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    let length = number("CHAOS_MINUTES")?.map_or(SHORT, |minutes| Duration::from_secs(minutes * 60));
    let seed = number("CHAOS_SEED")?.unwrap_or(SHORT_SEED);
    let writers = number("CHAOS_WRITERS")?.map_or(Ok(4), u32::try_from).map_err(|e| format!("CHAOS_WRITERS: {e}"))?;
    say(&format!("chaos: seed {seed}, for {} s, {writers} writers", length.as_secs()));
    set_up(cluster, namespace)?;
    let members = member_names(MEMBERS);
    let primary_entry = Entry::of(cluster, namespace, &format!("{ROOT}-primary"))?;
    let replica_entry = Entry::of(cluster, namespace, &format!("{ROOT}-replica"))?;
    let clients = Clients::start(&primary_entry, &replica_entry, writers, 2)?;
    let ground = Ground { cluster, namespace, root: ROOT, members: &members, primary_entry };
    let mut storm = Storm::new(ground, seed);
    storm.rage(length);
    storm.heal();
    let before = clients.acknowledged();
    let writes_go_on = cluster.eventually("writes go on", Duration::from_secs(30), || {
        if clients.acknowledged() > before { Ok(()) } else { Err("none is acknowledged".to_owned()) }
    });
    let ran = clients.elapsed();
    let history = clients.finish()?;
    let judged = writes_go_on.and_then(|()| judge(cluster, namespace, &members, &history));
    let tally = &storm.tally;
    report(tally, &history, ran);
    say(&format!("chaos: seed {seed}"));
    judged?;
    if !tally.unwell.is_empty() {
        return Err(format!("not well again in time: {}", tally.unwell.join("; ")));
    }
    if length >= LONG { enough(tally) } else { Ok(()) }
}

/// A long run that found nothing means little where little was thrown.
fn enough(tally: &Tally) -> Result<(), Failure> {
    let (total, overlapping) = (tally.total(), tally.overlapping);
    if total >= LEAST && overlapping * 3 >= total {
        return Ok(());
    }
    Err(format!(
        "{total} faults, {overlapping} beside another one: at least {LEAST}, a third of them so, make a long run"
    ))
}

/// Waits until the members are equal, or will not be, and compares what is there with what clients were told.
fn judge(cluster: &Cluster, namespace: &str, members: &[String], history: &History) -> Result<(), Failure> {
    // Whether they are is said below, as a violation.
    let _ = await_equal(cluster, namespace, members);
    let remains = remains::collect(cluster, namespace, ROOT, members)?;
    let violations = checker::check(history, &remains);
    let transactions: Vec<String> =
        remains.members.iter().map(|member| format!("{} on {}", member.binlog.len(), member.name)).collect();
    say(&format!(
        "chaos: {} terms; transactions in binary logs: {}; rows that a reader saw and that are gone (unacknowledged): {}",
        remains.terms.len(),
        transactions.join(", "),
        checker::seen_and_gone(history, &remains)
    ));
    if violations.is_empty() {
        return Ok(());
    }
    let mut kinds = BTreeMap::<_, u32>::new();
    for violation in &violations {
        *kinds.entry(violation.kind()).or_default() += 1;
    }
    let mut text = broken(format_args!("{kinds:?}:"));
    for violation in violations.iter().take(SHOWN) {
        let _ = write!(text, "\n  {violation}");
    }
    for term in &remains.terms {
        let _ = write!(text, "\n  epoch {}: server {} from {}", term.epoch, term.server_id, term.start);
    }
    Err(text)
}

fn await_equal(cluster: &Cluster, namespace: &str, members: &[String]) -> Result<(), Failure> {
    cluster.eventually("all members are equal", EQUAL_LIMIT, || {
        let prints: Vec<String> =
            members.iter().map(|pod| remains::fingerprint(cluster, namespace, pod)).collect::<Result<_, _>>()?;
        if prints.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{prints:?}")) }
    })
}

fn report(tally: &Tally, history: &History, ran: Duration) {
    let count = |outcome| history.writes.iter().filter(|write| write.outcome == outcome).count();
    say(&format!(
        "chaos: {} rows sent in {:.0} s: {} acknowledged, {} refused, {} unknown; {} connections failed; {} reads, {} failed",
        history.writes.len(),
        ran.as_secs_f64(),
        count(Outcome::Acknowledged),
        count(Outcome::Refused),
        count(Outcome::Unknown),
        history.failed_connections,
        history.reads,
        history.failed_reads
    ));
    let mut well: Vec<f64> = tally.well_after.iter().map(Duration::as_secs_f64).collect();
    well.sort_by(f64::total_cmp);
    if let (Some(last), Some(median)) = (well.last(), well.get(well.len() / 2)) {
        say(&format!("chaos: well again after {median:.1} s (median of {}), {last:.1} s at most", well.len()));
    }
    for kind in Kind::ALL {
        let thrown = tally.thrown.get(&kind).copied().unwrap_or_default();
        let skipped = tally.skipped.get(&kind).copied().unwrap_or_default();
        let note =
            if skipped > 0 { format!("  (skipped {skipped} times: not on this cluster)") } else { String::new() };
        say(&format!("chaos: {kind:<32} {thrown:>4}{note}"));
    }
    say(&format!(
        "chaos: {} faults, {} of them beside another one; {} were not possible at their moment; {} skipped",
        tally.total(),
        tally.overlapping,
        tally.missed,
        tally.skipped.values().sum::<u32>()
    ));
}
