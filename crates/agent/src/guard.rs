//! What a primary does without being told: it steps down when it learns of another one, gets back acknowledgements that were lost
//! with a connection, and hands over before it stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use topology::MemberState;
use topology::member::Volume;

use crate::record::Leases;
use crate::{Shared, actions, config, opening, sessions};

/// How often an open server's agent looks at the record.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often one that is about to stop does.
const LEAVE_EVERY: Duration = Duration::from_millis(500);
/// An acker that stops waits so long for being let go. (Writes pause for a moment where it was the only one.)
const ACKER_PATIENCE: Duration = Duration::from_secs(10);
/// A switchover is over in this time after the old primary was closed.
const CLOSED_PATIENCE: Duration = Duration::from_secs(5);
/// Sessions that wait so long without any acknowledgement while an acker is connected.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// Between two markers for that, at first and at most.
const MARKERS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Does it take writes?
pub(crate) fn open(state: &MemberState) -> bool {
    state.server.as_ref().is_some_and(|server| !server.read_only)
}

/// Steps down when the record names another holder: from the API alone, whoever else is away.
pub(crate) async fn watch_the_record(shared: Arc<Shared>) {
    let mut leases = Leases::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = shared.state.now();
        if !open(&now) {
            continue;
        }
        let Some(record) = leases.record(&shared).await else { continue };
        let (Some(record), Volume::Data { data_id }) = (record, now.volume) else { continue };
        let holds = record.holder.as_ref().is_none_or(|holder| holder.data_id == data_id);
        // Nobody else acknowledges, or nobody is proven to have everything: then a server that cannot write is still the best.
        shared.health.note_stand_ins(holds && !record.solo && !record.ackers.is_empty());
        if holds || record.epoch < now.accepted.epoch {
            continue; // An older record is one that somebody put back.
        }
        tracing::warn!(epoch = record.epoch, "another member is primary: this one steps down");
        if let Err(why) = step_down(&shared, record.stamp()).await {
            tracing::warn!(why, "not stepped down");
        }
    }
}

pub(crate) async fn step_down(shared: &Arc<Shared>, stamp: topology::Stamp) -> Result<(), String> {
    let _turn = actions::cut_in(shared, "stepping down").await.map_err(|busy| busy.to_string())?;
    match shared.stamps.accept(stamp) {
        Ok(Ok(())) => {}
        // Whoever told it that knows better.
        Ok(Err(highest)) => return Err(format!("{highest:?} was accepted since")),
        // A full disk is no reason to go on.
        Err(error) => tracing::warn!(%error, "the stamp cannot be saved"),
    }
    shared.state.update(|state| state.accepted = shared.stamps.highest());
    opening::close(shared, 0, true).await.map(drop).map_err(|refusal| refusal.to_string())
}

/// An acknowledgement that was lost with a broken connection is not sent again; any later commit brings it.
pub(crate) async fn bring_back_acknowledgements(shared: Arc<Shared>) {
    let mut watch = shared.state.subscribe();
    let mut pause = MARKERS.0;
    loop {
        let wait = |state: &MemberState| {
            open(state) && state.server.as_ref().is_some_and(|s| s.semi_sync.waiting > 0 && s.semi_sync.clients > 0)
        };
        if watch.wait_for(wait).await.is_err() {
            return;
        }
        match nobody_acknowledges(&shared).await {
            Ok(true) => {
                tracing::info!("sessions wait although an acker is connected: a marker is committed");
                if let Err(refusal) = opening::commit_own_marker(&shared).await {
                    tracing::warn!(%refusal, "no marker");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MARKERS.1);
            }
            Ok(false) => {
                pause = MARKERS.0;
                tokio::time::sleep(LOST_AFTER).await;
            }
            Err(error) => {
                tracing::debug!(%error, "acknowledgements are not known");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn nobody_acknowledges(shared: &Shared) -> Result<bool, sql::SqlError> {
    let mut session = sessions::open(shared).await?;
    let before = session.acknowledgements().await?;
    tokio::time::sleep(LOST_AFTER).await;
    let after = session.acknowledgements().await?;
    Ok(before.waiting > 0 && after.waiting > 0 && after.clients > 0 && before.acknowledged == after.acknowledged)
}

/// The server's log names each connection that may acknowledge, with its number: nothing else tells them from plain replicas.
/// Any replica that connects with semi-synchronous replication on acknowledges; who may is ours to enforce.
pub(crate) fn hear(shared: &Arc<Shared>, line: &str) {
    if lost_its_source(line) {
        // Perhaps the primary is gone, or hands over: what this one has counts in a moment.
        shared.hurry();
    }
    if !shared.config.commits.promised {
        return;
    }
    let Some((connection, server_id)) = acknowledging(line) else { return };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(error) = send_away(&shared, connection, server_id).await {
            tracing::warn!(%error, connection, server_id, "a connection that acknowledges could not be judged");
        }
    });
}

/// `2026-11-23 14:53:12 25 [Note] Start semi-sync binlog_dump to slave (server_id: 2), pos(mariadb-bin.000001, 4)`
fn acknowledging(line: &str) -> Option<(u64, u32)> {
    let (before, after) = line.split_once("Start semi-sync binlog_dump to slave (server_id: ")?;
    let connection = before.split_whitespace().nth(2)?.parse().ok()?;
    let server_id = after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((connection, server_id))
}

/// `... [ERROR] Error reading packet from server: Lost connection to server during query (server_errno=2013)`
fn lost_its_source(line: &str) -> bool {
    line.contains("[ERROR] Error reading packet from server")
}

async fn send_away(shared: &Arc<Shared>, connection: u64, server_id: u32) -> Result<(), sql::SqlError> {
    // Before the accounts are known nobody is a stranger.
    let Some(accounts) = shared.told.accounts() else { return Ok(()) };
    let mut session = sessions::open(shared).await?;
    let Some(user) = session.user_of(connection).await? else { return Ok(()) };
    if accounts.contains(&user) {
        return Ok(());
    }
    tracing::warn!(user, server_id, "a stranger's replica would acknowledge: its connection is killed");
    session.run("KILL", LOOK_EVERY, &format!("KILL {connection}")).await?;
    shared.state.update(|state| state.strangers += 1);
    Ok(())
}

/// The pod was told to stop: returns when this member is not needed any more, or has waited long enough.
pub(crate) async fn leave(shared: &Arc<Shared>) {
    shared.state.update(|state| state.leaving = true);
    let config = config::current(shared);
    if !config.replication || config.single_member || !shared.server.is_running() {
        return;
    }
    let started = Instant::now();
    let half = Duration::from_secs(config.grace_seconds / 2);
    let mut leases = Leases::default();
    let mut last_open = started;
    loop {
        let now = shared.state.now();
        let opened = open(&now);
        if opened {
            last_open = Instant::now();
        }
        let Volume::Data { data_id } = now.volume else { return };
        if !shared.server.is_running() {
            return;
        }
        let limit = match leases.record(shared).await {
            Some(Some(record)) if record.holder.as_ref().is_some_and(|holder| holder.data_id == data_id) => half,
            Some(Some(record)) if record.is_acker(&data_id) => half.min(ACKER_PATIENCE),
            // It is not needed, or everything goes.
            Some(_) => return,
            None if opened => half,
            None => half.min(ACKER_PATIENCE),
        };
        // Closed by whoever decides, and nobody took over: everything stops in order (scaled to 0, say).
        if last_open.elapsed() > CLOSED_PATIENCE {
            return;
        }
        if started.elapsed() > limit {
            tracing::warn!(waited = ?started.elapsed(), "nobody took over; the server stops all the same");
            return;
        }
        tokio::time::sleep(LEAVE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_that_acknowledge_are_known_by_the_log() {
        let line = "2026-11-23 14:53:12 25 [Note] Start semi-sync binlog_dump to slave (server_id: 102), pos(mariadb-bin.000001, 4)";
        assert_eq!(super::acknowledging(line), Some((25, 102)));
        let line = "2026-11-23 14:53:12 25 [Note] Start asynchronous binlog_dump to slave (server_id: 2), pos(, 4)";
        assert_eq!(super::acknowledging(line), None);
        assert!(!super::lost_its_source(line));
        let line = "2026-11-30 17:34:39 87 [ERROR] Error reading packet from server: Lost connection to server during query (server_errno=2013)";
        assert!(super::lost_its_source(line));
    }
}
