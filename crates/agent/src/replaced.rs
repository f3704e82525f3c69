//! Data that a copy replaces: as it was judged, or it stays. The server runs on while the copy comes, and root passes `read_only`.

use std::sync::Arc;
use std::time::Duration;

use protocol::Refusal;
use topology::action::Replaced;
use topology::history::changed_since;
use topology::member::Phase;

use crate::actions::{failed, session, statement};
use crate::{Shared, state};

/// A lock that no commit passes: clients that might hold it up are cut before.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Is everything in the server's binary log what was judged, or replicated since?
pub(crate) async fn check(shared: &Arc<Shared>, judged: &Replaced) -> Result<(), Refusal> {
    let mut session = session(shared).await?;
    compare(shared, &mut session, judged).await
}

async fn compare(shared: &Shared, session: &mut sql::Session, judged: &Replaced) -> Result<(), Refusal> {
    let server = state::ask(shared, session).await.map_err(|e| statement(&e))?;
    match changed_since(&server, &judged.binlog_state) {
        None => Ok(()),
        Some(gtid) => Err(failed(
            "DataChanged",
            format!("its binary log has changed since the data was judged ({gtid}): nothing is replaced"),
        )),
    }
}

/// Ends the server whose data goes. Nothing is committed between the last look and its end.
pub(crate) async fn end_server(shared: &Arc<Shared>, judged: &Replaced) -> Result<(), Phase> {
    let end = async {
        let mut session = session(shared).await?;
        session.lock_commits(LOCK_LIMIT).await.map_err(|e| statement(&e))?;
        compare(shared, &mut session, judged).await?;
        if shared.server.end(shared).await {
            Ok(())
        } else {
            Err(failed("CloneFailed", "the former server does not end"))
        }
    };
    end.await.map_err(|refusal| match refusal {
        Refusal::Failed { reason, message } => Phase::Failed { reason, message },
        other => Phase::Failed { reason: "CloneFailed".into(), message: other.to_string() },
    })
}
