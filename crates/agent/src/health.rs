//! Can an open primary write? Full and hung disks do not show otherwise: its commits hang for ever, its replicas look perfect.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use topology::member::{LongTransaction, Trouble};

use crate::places::Places;
use crate::{Shared, config, guard, sessions, state};

const EVERY: Duration = Duration::from_secs(2);
/// What a small write may take.
const LIMIT: Duration = Duration::from_secs(3);
/// New blocks each time: overwriting old ones succeeds on a full disk.
const BYTES: usize = 64 * 1024;

/// What the guard of the record knows.
#[derive(Default)]
pub(crate) struct Health {
    /// Others acknowledge and are proven to have everything.
    stand_ins: AtomicBool,
}

impl Health {
    pub(crate) fn note_stand_ins(&self, there_are: bool) {
        self.stand_ins.store(there_are, Ordering::Relaxed);
    }
}

/// Tries small writes, for ever. A primary that cannot write for `failover.timeout` is killed, where others can take over: a
/// server that hangs would hold its clients.
pub(crate) async fn probe_writes(shared: Arc<Shared>) {
    let mut since: Option<Instant> = None;
    let mut session = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let probed = if guard::open(&shared.state.now()) {
            probe(&shared, &mut session).await
        } else {
            session = None;
            Ok(())
        };
        match probed {
            Ok(()) => {
                if since.take().is_some() {
                    tracing::info!("writes succeed again");
                }
                let long_transaction = long_transaction(&mut session).await;
                shared.state.update(|state| {
                    state.long_transaction = long_transaction;
                    if state.trouble == Some(Trouble::CannotWrite) {
                        state.trouble = None;
                    }
                });
            }
            Err(why) => {
                let first = since.is_none();
                let since = *since.get_or_insert_with(Instant::now);
                if first {
                    tracing::warn!(why, "this primary cannot write");
                }
                shared.state.update(|state| {
                    if state.trouble.is_none() {
                        state.trouble = Some(Trouble::CannotWrite);
                    }
                });
                let patience = Duration::from_millis(config::current(&shared).failover_timeout_ms);
                if since.elapsed() >= patience && shared.health.stand_ins.load(Ordering::Relaxed) {
                    tracing::warn!(why, "others can take over: the server is killed");
                    shared.server.kill(&shared).await;
                }
            }
        }
    }
}

/// In the session of the small writes; a replica has none.
async fn long_transaction(session: &mut Option<sql::Session>) -> Option<LongTransaction> {
    let found = session.as_mut()?.long_transaction().await;
    found.inspect_err(|error| tracing::debug!(%error, "long transactions are not known")).ok()?
}

async fn probe(shared: &Arc<Shared>, session: &mut Option<sql::Session>) -> Result<(), String> {
    let places = shared.places.clone();
    // A write that hangs cannot be ended: it is waited for as long as it takes, told of in time.
    let mut file = tokio::task::spawn_blocking(move || write_file(&places));
    match tokio::time::timeout(LIMIT, &mut file).await {
        Ok(Ok(result)) => result.map_err(|e| format!("the volume: {e}"))?,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("the volume: no answer within {LIMIT:?}")),
    }
    write_row(shared, session).await
}

fn write_file(places: &Places) -> std::io::Result<()> {
    let path = places.state().join("probe");
    let written = std::fs::File::create(&path).and_then(|mut file| {
        file.write_all(&vec![1; BYTES])?;
        file.sync_data()
    });
    std::fs::remove_file(&path)?;
    written
}

/// Not in the binary log: replicas need not hear of it. A lock that somebody holds on all writes (a backup) is no trouble.
async fn write_row(shared: &Shared, place: &mut Option<sql::Session>) -> Result<(), String> {
    let mut session = match place.take() {
        Some(session) => session,
        // Does not answer at all: that is told by whoever asks for the state.
        None => match sql::Session::open(&state::target(shared)).await {
            Ok(session) => session,
            Err(_) => return Ok(()),
        },
    };
    match session.try_own_write(LIMIT).await {
        Some(Ok(())) => {
            *place = Some(session);
            Ok(())
        }
        Some(Err(error)) if error.errno().is_some() => Err(error.to_string()),
        Some(Err(_)) => Ok(()),
        None => {
            let id = session.id();
            let Ok(mut other) = sessions::open(shared).await else { return Ok(()) };
            let waits_for_somebody = other.waits_for_a_lock(id).await.unwrap_or(true);
            let _ = other.run("KILL", LIMIT, &format!("KILL {id}")).await;
            if waits_for_somebody { Ok(()) } else { Err(format!("a row: no answer within {LIMIT:?}")) }
        }
    }
}
