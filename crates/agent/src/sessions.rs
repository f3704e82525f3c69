//! The agent's own logins. Some are kept open: a server that is overrun by clients (error 1040) takes no new one, and just then it may have
//! to be told something.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sql::{Session, SqlError};

use crate::{Shared, state};

/// So many are kept besides those in use: one for an order, one for what watches over it.
const KEPT: usize = 2;
/// How often they are looked after.
const EVERY: Duration = Duration::from_millis(500);
/// The server closes what is idle for its `wait_timeout`, which users set.
const PINGS: u32 = 10;

/// Sessions that nobody uses now.
#[derive(Clone, Default)]
pub(crate) struct Spares(Arc<Mutex<Vec<Session>>>);

impl Spares {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, session: Session) {
        let mut kept = self.lock();
        if kept.len() < KEPT {
            kept.push(session);
        }
    }
}

/// A session in use. What comes back in order is used again, as if logged in anew.
pub(crate) struct InUse {
    session: Option<Session>,
    spares: Spares,
}

impl Deref for InUse {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is taken out only when this is dropped")
    }
}

impl DerefMut for InUse {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is taken out only when this is dropped")
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take().filter(Session::is_idle) else { return };
        let spares = self.spares.clone();
        tokio::spawn(async move {
            if session.reset().await {
                spares.put(session);
            }
        });
    }
}

/// Logs in, or takes a session that is there.
pub(crate) async fn open(shared: &Shared) -> Result<InUse, SqlError> {
    let in_use = |session| InUse { session: Some(session), spares: shared.spares.clone() };
    loop {
        let Some(mut spare) = shared.spares.lock().pop() else { break };
        // Of a server that was started anew, or closed by it.
        if spare.ping().await {
            return Ok(in_use(spare));
        }
    }
    Session::open(&state::target(shared)).await.map(in_use)
}

/// Keeps some, for ever.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(EVERY).await;
        if shared.state.now().server.is_none() {
            shared.spares.lock().clear();
            continue;
        }
        round = round.wrapping_add(1);
        let spare = if round.is_multiple_of(PINGS) { shared.spares.lock().pop() } else { None };
        if let Some(mut spare) = spare
            && spare.ping().await
        {
            // At the other end: each has its turn.
            shared.spares.lock().insert(0, spare);
        }
        if shared.spares.lock().len() < KEPT
            && let Ok(session) = Session::open(&state::target(&shared)).await
        {
            shared.spares.put(session);
        }
    }
}
