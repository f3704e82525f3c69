//! A replica that shall receive and acknowledge nothing more, and what it holds then.

use std::sync::Arc;
use std::time::Duration;

use protocol::{Outcome, Refusal};
use topology::member::{Fence, Fenced, ThreadState};
use topology::{GtidPosition, Stamp};

use crate::actions::{failed, not_possible, seen, session, statement};
use crate::{Shared, relay, sessions, state};

/// A STOP that takes longer, and does not hang in `connect()`, is a disk that is full or hangs.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// A STOP that is caught in `connect()` shows within.
const CONNECT_LOOK: Duration = Duration::from_millis(300);

/// Stops receiving, whatever else is under way.
pub(crate) async fn fence(shared: &Arc<Shared>, stamp: Stamp) -> Result<Outcome, Refusal> {
    // A backup would hold the STOP up.
    let donations = {
        let mut place = shared.donations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *place)
    };
    donations.cancel();
    if !shared.server.is_running() {
        return Err(not_possible("the server is not running: it is started first, and does not receive then"));
    }
    let how = match tokio::time::timeout(STOP_LIMIT * 2, stop(shared)).await {
        Ok(Ok(how)) => how,
        other => {
            tracing::warn!(?other, "receiving cannot be stopped; the server is killed");
            if !shared.server.kill(shared).await {
                return Err(failed("NotGone", "the server was killed, and its process does not go"));
            }
            return Err(failed(
                "ServerKilled",
                "receiving could not be stopped; the server was killed, and is read when it is back",
            ));
        }
    };
    let mut session = session(shared).await?;
    let mut question = shared.questions.next();
    let mut server = state::ask(shared, &mut session).await.map_err(|e| statement(&e))?;
    if how == Fenced::Stopped && relay::aside(shared, &server).is_some() {
        // What was received before a restart is kept aside, and only applied from there.
        session.stop_replication().await.map_err(|e| statement(&e))?;
        question = shared.questions.next();
        server = state::ask(shared, &mut session).await.map_err(|e| statement(&e))?;
    }
    let more = relay::look(shared, &mut session, &server).await;
    let mut received = server.gtid_slave_pos.furthest(&server.gtid_binlog_pos);
    if let Some(replication) = &server.replication {
        received = received.furthest(&replication.gtid_io_pos);
    }
    if let Some(more) = &more {
        received = received.furthest(more);
    }
    let news = shared.questions.is_news(question);
    shared.state.update(|state| {
        if news {
            state.server = Some(server);
            state.relay = more;
        }
        state.fence = Some(Fence { stamp, how, received });
    });
    Ok(Outcome::Done)
}

async fn stop(shared: &Arc<Shared>) -> Result<Fenced, Refusal> {
    let mut session = session(shared).await?;
    // A START that was interrupted must not take effect later.
    session.end_replication_statements().await.map_err(|e| statement(&e))?;
    match session.stop_receiving(CONNECT_LOOK).await {
        Some(Ok(())) => return Ok(Fenced::Stopped),
        Some(Err(error)) => return Err(statement(&error)),
        None => {}
    }
    let until = tokio::time::Instant::now() + STOP_LIMIT;
    let mut session = sessions::open(shared).await.map_err(|e| statement(&e))?;
    loop {
        let replication = session.replication().await.map_err(|e| statement(&e))?;
        match replication.map(|replication| replication.io) {
            None | Some(ThreadState::No) => return Ok(Fenced::Stopped),
            // Told to stop in connect(): it will not receive again.
            Some(ThreadState::Connecting) => return Ok(Fenced::Connecting),
            Some(ThreadState::Yes) if tokio::time::Instant::now() > until => {
                return Err(failed("StopHangs", "STOP SLAVE IO_THREAD does not end"));
            }
            Some(ThreadState::Yes) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until all of this is applied.
pub(crate) async fn await_position(
    shared: &Arc<Shared>,
    position: &GtidPosition,
    limit_ms: u32,
) -> Result<Outcome, Refusal> {
    let mut session = session(shared).await?;
    let limit = Duration::from_millis(limit_ms.into());
    let reached = session.await_position(position, limit).await.map_err(|e| statement(&e))?;
    seen(shared, &mut session).await;
    if reached { Ok(Outcome::Done) } else { Err(failed("NotReached", format!("{position} is not applied in time"))) }
}
