//! A primary: opened and closed, replicas locked out and let in, waits and markers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Outcome, Refusal};
use tokio::task::AbortHandle;
use topology::Stamp;
use topology::action::{Opening, Waits};
use topology::member::Marker;

use crate::actions::{failed, seen, session, statement, take_turn};
use crate::{Shared, lease, sessions, state};

/// A demotion succeeds in this time, or the server is killed.
const DEMOTION_LIMIT: Duration = Duration::from_secs(2);
/// A switchover that cannot close the primary in this time is given up.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// Longer than anybody waits for a marker; under `Strict` it may wait as long as writes do.
const MARKER_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Since when a demotion has been tried: the same order under a later decision does not begin its time anew.
#[derive(Default)]
pub(crate) struct Demoting(std::sync::Mutex<Option<Instant>>);

impl Demoting {
    /// What is left of `limit`.
    fn left(&self, limit: Duration) -> Duration {
        let mut since = self.lock();
        if since.is_some_and(|since| since.elapsed() > limit * 2) {
            *since = None; // Given up long ago.
        }
        limit.saturating_sub(since.get_or_insert_with(Instant::now).elapsed())
    }

    fn over(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The marker that waits: its task and the server's number of its connection.
#[derive(Default)]
pub(crate) struct Waiting(std::sync::Mutex<Option<(AbortHandle, u32)>>);

/// Opens for writes: locks first, then waits, then writes.
pub(crate) async fn open(shared: &Arc<Shared>, stamp: Stamp, opening: &Opening) -> Result<Outcome, Refusal> {
    lease::begin(shared).await?;
    let (mut session, mut other) = (session(shared).await?, session(shared).await?);
    let opened = async {
        let (stopped, ()) = tokio::try_join!(other.leave_source(), session.lock_accounts(&opening.lock))?;
        session.unlock_accounts(&opening.unlock).await?;
        if opening.anew {
            session.forget_positions().await?;
        }
        session.open_for_writes(opening.wait).await?;
        Ok::<_, sql::SqlError>(stopped)
    };
    let stopped = opened.await.map_err(|e| statement(&e))?;
    shared.state.update(|state| state.fence = None);
    seen(shared, &mut session).await;
    // What clients wait for is done. (Forgetting takes as long as all of this; where the STOP is caught in connect(), longer.)
    let forgotten = if stopped { other.forget_source().await } else { Ok(false) };
    if !forgotten.as_ref().is_ok_and(|done| *done) {
        tracing::warn!(?forgotten, "the old source is not forgotten yet");
        tokio::spawn(forget_later(Arc::clone(shared), stamp.epoch));
    }
    seen(shared, &mut session).await;
    // A change of the secret's password reaches root's accounts next.
    look_at_locks(shared, &mut session, Some(stamp)).await.map_err(|e| statement(&e))?;
    if let Some(password) = shared.places.root_password().filter(|_| !shared.config.root_empty_password) {
        let ensured = tokio::time::timeout(DEMOTION_LIMIT, session.ensure_password("root", &password)).await;
        match ensured {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(statement(&error)),
            // Its commit waits for an acknowledgement.
            Err(_) => tracing::warn!("root's new password is not acknowledged yet"),
        }
    }
    Ok(Outcome::Done)
}

/// In this epoch it is the primary and receives from nobody. In a later one it may follow another member, and what it has
/// received then is not to be thrown away.
async fn forget_later(shared: Arc<Shared>, epoch: u64) {
    const AGAIN: Duration = Duration::from_secs(5);
    loop {
        tokio::time::sleep(AGAIN).await;
        let Ok(turn) = take_turn(&shared, "forgetting the old source") else { continue };
        if shared.stamps.highest().epoch != epoch {
            return;
        }
        let Ok(mut session) = sessions::open(&shared).await else { return };
        let forgotten = tokio::select! {
            forgotten = session.forget_source() => forgotten,
            () = turn.interrupted() => continue,
        };
        match forgotten {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the old source is not forgotten yet"),
        }
    }
}

/// Closes for writes. `kill`: where that does not succeed at once, or sessions wait for an acknowledgement, the server goes.
pub(crate) async fn close(shared: &Arc<Shared>, grace_ms: u32, kill: bool) -> Result<Outcome, Refusal> {
    if kill {
        close_within(shared, grace_ms, DEMOTION_LIMIT).await
    } else {
        try_close(shared, grace_ms, CLOSE_LIMIT).await
    }
}

async fn try_close(shared: &Arc<Shared>, grace_ms: u32, limit: Duration) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    let grace = Duration::from_millis(grace_ms.into());
    session.set_read_only(grace, limit).await.map_err(|e| statement(&e))?;
    seen(shared, &mut session).await;
    Ok(Outcome::Done)
}

/// Closes for writes in this time, or kills the server.
pub(crate) async fn close_within(shared: &Arc<Shared>, grace_ms: u32, limit: Duration) -> Result<Outcome, Refusal> {
    let closed = async {
        let mut session = session(shared).await?;
        let server = state::ask(shared, &mut session).await.map_err(|e| statement(&e))?;
        if server.semi_sync.waiting > 0 {
            return Err(failed("SessionsWait", "sessions wait for an acknowledgement"));
        }
        drop(session);
        try_close(shared, grace_ms, limit).await
    };
    let ended = tokio::time::timeout(shared.demoting.left(limit), closed).await;
    shared.demoting.over();
    match ended {
        Ok(Ok(done)) => Ok(done),
        other => {
            let why = match other {
                Ok(Err(refusal)) => refusal.to_string(),
                _ => "it does not answer in time".to_owned(),
            };
            tracing::warn!(why, "the server cannot be closed; it is killed");
            if shared.server.kill(shared).await {
                Ok(Outcome::Done)
            } else {
                Err(failed("NotGone", "the server was killed, and its process does not go"))
            }
        }
    }
}

/// Locks replicas out.
pub(crate) async fn lock(shared: &Arc<Shared>, stamp: Stamp, accounts: &[String]) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    session.lock_accounts(accounts).await.map_err(|e| statement(&e))?;
    // The positions are read after nobody could acknowledge any more.
    seen(shared, &mut session).await;
    look_at_locks(shared, &mut session, Some(stamp)).await.map_err(|e| statement(&e))?;
    Ok(Outcome::Done)
}

/// Lets replicas in.
pub(crate) async fn unlock(shared: &Arc<Shared>, accounts: &[String]) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    session.unlock_accounts(accounts).await.map_err(|e| statement(&e))?;
    look_at_locks(shared, &mut session, None).await.map_err(|e| statement(&e))?;
    Ok(Outcome::Done)
}

/// Tells which accounts are locked; with a stamp when none of their connections is left under it.
pub(crate) async fn look_at_locks(
    shared: &Shared,
    session: &mut sql::Session,
    stamp: Option<Stamp>,
) -> Result<(), sql::SqlError> {
    let accounts = session.locked_accounts().await?;
    shared.state.update(|state| {
        state.locks.accounts = accounts;
        if let Some(stamp) = stamp {
            state.locks.stamp = stamp;
        }
    });
    Ok(())
}

/// Waits on or off.
pub(crate) async fn set_waiting(shared: &Arc<Shared>, on: bool) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    session.set_waiting(if on { Waits::WithoutEnd } else { Waits::Off }).await.map_err(|e| statement(&e))?;
    seen(shared, &mut session).await;
    Ok(Outcome::Done)
}

/// Commits a marker, on a connection of its own: it may wait long.
pub(crate) async fn commit_marker(shared: &Arc<Shared>, stamp: Stamp) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    end_waiting(&shared.marker, &mut session).await;
    let id = session.id();
    shared.state.update(|state| state.marker = Some(Marker { stamp, gtid: None }));
    let writer = Arc::clone(shared);
    let (returned, back) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let result = session.commit_marker(MARKER_LIMIT).await;
        match result {
            Ok(gtid) => {
                seen(&writer, &mut session).await;
                writer.state.update(|state| {
                    if let Some(marker) = state.marker.as_mut().filter(|marker| marker.stamp == stamp) {
                        marker.gtid = gtid;
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "no marker"),
        }
        let _ = returned.send(());
    });
    *shared.marker.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((task.abort_handle(), id));
    // Usually it is back at once: then the answer to the order tells it already.
    let _ = tokio::time::timeout(Duration::from_millis(50), back).await;
    Ok(Outcome::Done)
}

/// Commits a marker that nobody asked for: any commit brings back acknowledgements that were lost with a connection.
pub(crate) async fn commit_own_marker(shared: &Arc<Shared>) -> Result<(), Refusal> {
    let mut session = session(shared).await?;
    end_waiting(&shared.own_marker, &mut session).await;
    let id = session.id();
    let task = tokio::spawn(async move {
        if let Err(error) = session.commit_marker(MARKER_LIMIT).await {
            tracing::warn!(%error, "no marker");
        }
    });
    *shared.own_marker.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((task.abort_handle(), id));
    Ok(())
}

/// At most one marker waits: the last one is ended (its row stays committed).
async fn end_waiting(marker: &Waiting, session: &mut sql::Session) {
    let waiting = marker.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some((task, id)) = waiting.filter(|(task, _)| !task.is_finished()) else { return };
    task.abort();
    if let Err(error) = session.run("KILL", Duration::from_secs(2), &format!("KILL {id}")).await {
        tracing::debug!(%error, "the marker that waited is gone already");
    }
}
