//! Carrying out what the controller says: one action at a time, nothing under a stale stamp.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::{Outcome, Refusal, paths};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use topology::action::{Action, Replaced, Source, Waits};
use topology::member::{Phase, Volume};
use topology::{Command, DataId, Stamp};

use crate::server::{STOP_LIMIT, StartAs};
use crate::sessions::InUse;
use crate::{
    Shared, bootstrap, errant, fence, lease, opening, receive, relay, replaced, sessions, state, tail, volume,
};

/// Where the IO thread reconnects in the middle of a transaction and that was its end, it skips what it has got already and stops ("received a
/// terminal event from group ... whose retrieval was interrupted with reconnect"), again and again, until the SQL thread was stopped as well (11.8).
const RELAY_LOG_WRITE_FAILED: u32 = 1595;
/// It only saves time: where it takes longer, it saves none.
const STOP_RECEIVING_LIMIT: Duration = Duration::from_millis(200);
/// Copies that hold prepared transactions are made again so often in all.
const MOST_COPIES: u32 = 4;

/// The action under way, and what stops it.
#[derive(Default)]
pub(crate) struct Doing {
    now: Mutex<Option<(&'static str, CancellationToken)>>,
    free: Notify,
}

/// Holds the place of the one action under way.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Turn {
    /// Something more urgent wants the turn.
    pub(crate) async fn interrupted(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.shared.doing.lock() = None;
        self.shared.doing.free.notify_waiters();
    }
}

pub(crate) fn take_turn(shared: &Arc<Shared>, name: &'static str) -> Result<Turn, Refusal> {
    let mut doing = shared.doing.lock();
    if let Some((doing, _)) = &*doing {
        return Err(Refusal::Busy { doing: (*doing).into() });
    }
    let stop = CancellationToken::new();
    *doing = Some((name, stop.clone()));
    Ok(Turn { shared: Arc::clone(shared), stop })
}

/// What cannot wait for anything else.
fn cuts_in(action: &Action) -> bool {
    matches!(action, Action::Fence | Action::SetReadOnly { kill: true, .. })
}

impl Doing {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(&'static str, CancellationToken)>> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Ends what is under way, where that can be ended (copies and starts go on: no server is there to be fenced), and takes
/// the turn.
pub(crate) async fn cut_in(shared: &Arc<Shared>, name: &'static str) -> Result<Turn, Refusal> {
    const LIMIT: Duration = Duration::from_secs(1);
    let until = tokio::time::Instant::now() + LIMIT;
    loop {
        let free = shared.doing.free.notified();
        if let Some((doing, stop)) = &*shared.doing.lock() {
            tracing::info!(doing, name, "interrupted");
            stop.cancel();
        }
        match take_turn(shared, name) {
            Ok(turn) => return Ok(turn),
            Err(busy) => {
                if tokio::time::timeout_at(until, free).await.is_err() {
                    return Err(busy);
                }
            }
        }
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Initialise { .. } => "Initialise",
        Action::Clone { .. } => "Clone",
        Action::StartServer { .. } => "StartServer",
        Action::RestartServer => "RestartServer",
        Action::OpenForWrites { .. } => "OpenForWrites",
        Action::SetReadOnly { .. } => "SetReadOnly",
        Action::Lock { .. } => "Lock",
        Action::Unlock { .. } => "Unlock",
        Action::CommitMarker => "CommitMarker",
        Action::SetWaiting { .. } => "SetWaiting",
        Action::Fence => "Fence",
        Action::AwaitPosition { .. } => "AwaitPosition",
        Action::ReplayRelayLog => "ReplayRelayLog",
        Action::SaveErrant { .. } => "SaveErrant",
        Action::EnsureReplicationAccounts { .. } => "EnsureReplicationAccounts",
        Action::Follow { .. } => "Follow",
        Action::StartReplication => "StartReplication",
        Action::PointAt { .. } => "PointAt",
        Action::StopReceiving => "StopReceiving",
    }
}

/// Carries a command out, or starts to.
pub(crate) async fn command(shared: &Arc<Shared>, command: Command) -> Result<Outcome, Refusal> {
    let Command { stamp, action } = command;
    shared.hurry();
    if matches!(action, Action::Fence) {
        lease::take_part(shared)?;
    }
    let turn = if cuts_in(&action) { cut_in(shared, name(&action)).await? } else { take_turn(shared, name(&action))? };
    match shared.stamps.accept(stamp) {
        Ok(Ok(())) => {}
        Ok(Err(highest)) => return Err(Refusal::Stale { highest }),
        Err(error) => return Err(failed("StampNotSaved", format!("the stamp cannot be saved: {error}"))),
    }
    shared.state.update(|state| state.accepted = shared.stamps.highest());
    tracing::info!(action = name(&action), epoch = stamp.epoch, revision = stamp.revision, "told");
    let stopped = turn.stop.clone();
    let act = act(shared, turn, stamp, action);
    let result = tokio::select! {
        result = act => result,
        () = stopped.cancelled() => Err(failed("Interrupted", "something more urgent came in between")),
    };
    if let Err(refusal) = &result {
        tracing::warn!(%refusal, "not done");
    }
    result
}

pub(crate) fn failed(reason: &str, message: impl Into<String>) -> Refusal {
    Refusal::Failed { reason: reason.into(), message: message.into() }
}

pub(crate) fn not_possible(why: impl Into<String>) -> Refusal {
    Refusal::NotPossible { why: why.into() }
}

pub(crate) fn statement(error: &sql::SqlError) -> Refusal {
    failed(error.reason(), error.to_string())
}

async fn act(shared: &Arc<Shared>, turn: Turn, stamp: Stamp, action: Action) -> Result<Outcome, Refusal> {
    match action {
        Action::Initialise { data_id } => initialise(shared, turn, data_id),
        Action::Clone { donor, data_id, replaces } => clone(shared, turn, donor, data_id, replaces).await,
        Action::StartServer { as_replica } => start(shared, turn, as_replica),
        Action::RestartServer => {
            if !shared.server.is_running() {
                return start(shared, turn, false);
            }
            long(shared, turn, |shared| async move {
                shared.server.stop(&shared, STOP_LIMIT).await;
                receive::start(&shared).await
            });
            Ok(Outcome::Started)
        }
        Action::OpenForWrites { opening } => opening::open(shared, stamp, &opening).await,
        Action::SetReadOnly { grace_ms, kill } => opening::close(shared, grace_ms, kill).await,
        Action::Lock { accounts } => opening::lock(shared, stamp, &accounts).await,
        Action::Unlock { accounts } => opening::unlock(shared, &accounts).await,
        Action::SetWaiting { on } => opening::set_waiting(shared, on).await,
        Action::CommitMarker => opening::commit_marker(shared, stamp).await,
        Action::Fence => fence::fence(shared, stamp).await,
        Action::AwaitPosition { position, limit_ms } => fence::await_position(shared, &position, limit_ms).await,
        Action::EnsureReplicationAccounts { users, login_only } => accounts(shared, &users, &login_only).await,
        Action::Follow { source, demote } => follow(shared, &source, demote).await,
        Action::StartReplication => {
            let mut session = session(shared).await?;
            let replication = session.replication().await.map_err(|e| statement(&e))?;
            if replication.and_then(|r| r.io_error).is_some_and(|error| error.errno == RELAY_LOG_WRITE_FAILED) {
                session.stop_replication().await.map_err(|e| statement(&e))?;
            }
            relay::keep(shared, &mut session).await?;
            session.start_replication().await.map_err(|e| statement(&e))?;
            shared.state.update(|state| state.fence = None);
            seen(shared, &mut session).await;
            Ok(Outcome::Done)
        }
        Action::PointAt { source } => point_at(shared, &source).await,
        Action::StopReceiving => {
            let mut session = session(shared).await?;
            let stopped = session.stop_receiving(STOP_RECEIVING_LIMIT).await;
            stopped
                .ok_or_else(|| failed("StopHangs", "STOP SLAVE IO_THREAD does not end"))?
                .map_err(|e| statement(&e))?;
            seen(shared, &mut session).await;
            Ok(Outcome::Done)
        }
        Action::ReplayRelayLog => patiently(turn, relay::replay(Arc::clone(shared))).await,
        Action::SaveErrant { errant } => patiently(turn, errant::save(Arc::clone(shared), errant)).await,
    }
}

pub(crate) async fn session(shared: &Shared) -> Result<InUse, Refusal> {
    if !shared.server.is_running() {
        return Err(not_possible("the server is not running"));
    }
    sessions::open(shared).await.map_err(|e| statement(&e))
}

/// The controller sees the effect of an action in the state at once, not at the next poll.
pub(crate) async fn seen(shared: &Shared, session: &mut sql::Session) {
    let question = shared.questions.next();
    if let Ok(server) = state::ask(shared, session).await {
        state::publish(shared, session, question, server).await;
    }
}

/// Goes on in the background when it takes longer than a command may; then only the state tells how it goes.
async fn patiently<F>(turn: Turn, work: F) -> Result<Outcome, Refusal>
where
    F: Future<Output = Result<Outcome, Refusal>> + Send + 'static,
{
    const LIMIT: Duration = Duration::from_secs(20);
    let stop = turn.stop.clone();
    let task = tokio::spawn(async move {
        let result = tokio::select! {
            result = work => result,
            () = stop.cancelled() => Err(failed("Interrupted", "something more urgent came in between")),
        };
        drop(turn);
        if let Err(refusal) = &result {
            tracing::warn!(%refusal, "not done");
        }
        result
    });
    match tokio::time::timeout(LIMIT, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(failed("AgentFailed", error.to_string())),
        Err(_) => Ok(Outcome::Started),
    }
}

/// Goes on in the background; a failure becomes the phase.
fn long<F>(shared: &Arc<Shared>, turn: Turn, work: impl FnOnce(Arc<Shared>) -> F + Send + 'static)
where
    F: Future<Output = Result<(), Phase>> + Send + 'static,
{
    let shared = Arc::clone(shared);
    let work = work(Arc::clone(&shared));
    tokio::spawn(async move {
        if let Err(phase) = work.await {
            tracing::warn!(?phase, "failed");
            shared.state.update(|state| state.phase = phase);
        }
        drop(turn);
    });
}

fn start(shared: &Arc<Shared>, turn: Turn, as_replica: bool) -> Result<Outcome, Refusal> {
    if shared.server.is_running() {
        // A copy came to nothing, and the data that it was to replace is served on.
        shared.state.update(|state| {
            if matches!(state.phase, Phase::Failed { .. } | Phase::ConfigRefused { .. }) && state.server.is_some() {
                state.phase = Phase::Running;
            }
        });
        return Ok(Outcome::Done);
    }
    match shared.state.now().volume {
        Volume::Data { .. } => {}
        Volume::Empty => return Err(not_possible("the volume is empty")),
        Volume::Foreign { found } => return Err(not_possible(format!("the volume holds {found}"))),
    }
    shared.state.update(|state| state.phase = Phase::Starting);
    long(shared, turn, move |shared| async move {
        if as_replica {
            let kept = tail::keep(&shared).await?;
            tokio::spawn(tail::settle(Arc::clone(&shared), kept));
        }
        receive::start_as(&shared, if as_replica { StartAs::Replica } else { StartAs::ItIs }).await
    });
    Ok(Outcome::Started)
}

fn initialise(shared: &Arc<Shared>, turn: Turn, data_id: DataId) -> Result<Outcome, Refusal> {
    match shared.state.now().volume {
        Volume::Data { data_id: there } if there == data_id => return start(shared, turn, false),
        Volume::Empty => {}
        Volume::Data { data_id } => return Err(not_possible(format!("the volume holds data already ({data_id})"))),
        Volume::Foreign { found } => return Err(not_possible(format!("the volume holds {found}"))),
    }
    shared.state.update(|state| state.phase = Phase::Initialising);
    long(shared, turn, |shared| async move {
        bootstrap::initialise(&shared, &data_id).await?;
        look_again(&shared);
        shared.server.start(&shared).await
    });
    Ok(Outcome::Started)
}

async fn clone(
    shared: &Arc<Shared>,
    turn: Turn,
    donor: topology::action::Endpoint,
    data_id: DataId,
    replaces: Option<Replaced>,
) -> Result<Outcome, Refusal> {
    match (shared.state.now().volume, &replaces) {
        (Volume::Data { data_id: there }, _) if there == data_id => return start(shared, turn, false),
        (Volume::Empty, _) => {}
        (Volume::Data { data_id: there }, Some(judged)) if there == judged.data_id => {
            replaced::check(shared, judged).await?;
        }
        (Volume::Data { data_id: there }, _) => {
            return Err(not_possible(format!("the volume holds data that this clone does not replace ({there})")));
        }
        (Volume::Foreign { found }, _) => return Err(not_possible(format!("the volume holds {found}"))),
    }
    let phase = Phase::Cloning { donor: donor.host.clone(), received: 0, total: None };
    shared.state.update(|state| state.phase = phase);
    long(shared, turn, |shared| async move {
        for _ in 0..MOST_COPIES {
            let result = receive::clone(&shared, &donor, &data_id, replaces.as_ref()).await;
            look_again(&shared);
            result?;
            let usable = receive::start_copy(&shared).await;
            look_again(&shared);
            if usable? {
                return Ok(());
            }
        }
        let message = format!("{MOST_COPIES} copies in a row held prepared transactions and did not start");
        Err(Phase::Failed { reason: "CloneFailed".into(), message })
    });
    Ok(Outcome::Started)
}

fn look_again(shared: &Shared) {
    let volume = volume::look(&shared.places, &volume::Owner::new(&shared.config, &shared.me));
    let saved = errant::saved(&shared.places, &volume);
    shared.state.update(|state| {
        state.volume = volume;
        state.saved = saved;
    });
}

/// What was told last, so that a change of the mounted password can be followed up.
#[derive(Default)]
pub(crate) struct Told {
    /// Replication accounts: those that replicate, and the one that only logs in.
    accounts: Mutex<Option<(Vec<String>, String)>>,
    /// The source, and the password that the connection has.
    source: Mutex<Option<(Source, String)>>,
}

impl Told {
    /// Accounts that replicate.
    pub(crate) fn accounts(&self) -> Option<Vec<String>> {
        recall(&self.accounts).map(|(users, _)| users)
    }
}

fn remember<T>(place: &Mutex<Option<T>>, what: Option<T>) {
    *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = what;
}

fn recall<T: Clone>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

fn replication_password(shared: &Shared) -> Result<String, Refusal> {
    let missing = || not_possible(format!("no {} is mounted", paths::REPLICATION_PASSWORD));
    shared.places.replication_password().ok_or_else(missing)
}

async fn accounts(shared: &Arc<Shared>, users: &[String], login_only: &str) -> Result<Outcome, Refusal> {
    let password = replication_password(shared)?;
    let mut session = session(shared).await?;
    let all = users.iter().map(|user| (user.as_str(), true)).chain([(login_only, false)]);
    for (user, replicates) in all {
        let account = sql::Account {
            user,
            password: &password,
            replicates,
            tls: replicates && shared.config.tls,
            // Members that are no candidates are let in by whoever decides.
            locked: replicates && shared.config.commits.promised,
        };
        session.ensure_account(&account).await.map_err(|e| statement(&e))?;
    }
    session.ensure_marker_table().await.map_err(|e| statement(&e))?;
    opening::look_at_locks(shared, &mut session, None).await.map_err(|e| statement(&e))?;
    remember(&shared.told.accounts, Some((users.to_vec(), login_only.to_owned())));
    Ok(Outcome::Done)
}

/// A former primary whose commits still wait for acknowledgements would wait for them as it applies. One that is open is closed first:
/// without its waits it would return what nobody has. Sessions that wait are not let go (that would do the same): the server goes, and its
/// recovery drops what they wrote.
async fn stop_waiting(shared: &Arc<Shared>, session: &mut sql::Session) -> Result<(), Refusal> {
    let server = state::ask(shared, session).await.map_err(|e| statement(&e))?;
    if !server.read_only {
        return Err(not_possible("the server takes writes: it is closed first"));
    }
    if !server.semi_sync.waits {
        return Ok(());
    }
    if server.semi_sync.waiting > 0 {
        shared.server.kill(shared).await;
        return Err(failed("SessionsWait", "sessions waited for an acknowledgement: the server was killed"));
    }
    session.set_waiting(Waits::Off).await.map_err(|e| statement(&e))
}

/// As to follow it, but for the start.
async fn point_at(shared: &Arc<Shared>, source: &Source) -> Result<Outcome, Refusal> {
    let password = replication_password(shared)?;
    let ca = shared.places.server_tls.join("ca.crt");
    let mut session = session(shared).await?;
    stop_waiting(shared, &mut session).await?;
    remember(&shared.told.source, None);
    let follow = sql::Follow { source, password: &password, demote: false, password_known: false, ca: &ca };
    set_source(shared, &mut session, &follow).await?;
    remember(&shared.told.source, Some((source.clone(), password)));
    seen(shared, &mut session).await;
    Ok(Outcome::Done)
}

/// `CHANGE MASTER`, with both threads stopped.
async fn set_source(shared: &Arc<Shared>, session: &mut sql::Session, follow: &sql::Follow<'_>) -> Result<(), Refusal> {
    // First stopped, then looked at: what a running SQL thread has not applied yet goes with CHANGE MASTER, and may have been
    // acknowledged.
    session.stop_replication().await.map_err(|e| statement(&e))?;
    relay::keep(shared, session).await?;
    let _moving = state::moving(shared);
    session.point_at(follow).await.map_err(|e| statement(&e))
}

async fn follow(shared: &Arc<Shared>, source: &Source, demote: bool) -> Result<Outcome, Refusal> {
    let password = replication_password(shared)?;
    let ca = shared.places.server_tls.join("ca.crt");
    let mut session = session(shared).await?;
    stop_waiting(shared, &mut session).await?;
    let password_known = recall(&shared.told.source).is_some_and(|(_, known)| known == password);
    remember(&shared.told.source, None);
    let follow = sql::Follow { source, password: &password, demote, password_known, ca: &ca };
    if session.follows(&follow).await.map_err(|e| statement(&e))? {
        relay::keep(shared, &mut session).await?;
    } else {
        set_source(shared, &mut session, &follow).await?;
    }
    {
        let _moving = state::moving(shared);
        session.start_replication().await.map_err(|e| statement(&e))?;
    }
    shared.state.update(|state| state.fence = None);
    remember(&shared.told.source, Some((source.clone(), password)));
    unlock_all(shared, &mut session, &source.user).await?;
    // The threads connect within a moment: wait for that, so that the next look sees them so.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen(shared, &mut session).await;
        let running =
            shared.state.now().server.and_then(|s| s.replication).is_some_and(|r| {
                r.io == topology::member::ThreadState::Yes && r.sql == topology::member::ThreadState::Yes
            });
        if running {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// Nobody acknowledges to a replica: locks that it has from when it was primary (or from its donor) would keep the others out in the
/// moment in which it is primary again, and a refused replica comes back a second later. Its next opening locks anew whom it must.
async fn unlock_all(shared: &Arc<Shared>, session: &mut sql::Session, own: &str) -> Result<(), Refusal> {
    let prefix = own.trim_end_matches(|c: char| c.is_ascii_digit());
    let locked = session.locked_accounts().await.map_err(|e| statement(&e))?;
    let ours: Vec<String> = locked
        .into_iter()
        .filter(|account| account.strip_prefix(prefix).is_some_and(|id| id.parse::<u32>().is_ok()))
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    session.unlock_accounts(&ours).await.map_err(|e| statement(&e))?;
    opening::look_at_locks(shared, session, None).await.map_err(|e| statement(&e))
}

/// A changed Secret is mounted by and by; what has it from there follows: the accounts on the primary, the connection of a replica.
pub(crate) async fn follow_passwords(shared: Arc<Shared>) {
    const LOOK_EVERY: Duration = Duration::from_secs(5);
    let passwords = |shared: &Shared| {
        (shared.places.root_password(), shared.places.user_password(), shared.places.replication_password())
    };
    let mut applied = passwords(&shared);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = passwords(&shared);
        let Some(server) = shared.state.now().server else { continue };
        if now == applied {
            continue;
        }
        let Ok(turn) = take_turn(&shared, "new passwords") else { continue };
        // Who is being read for a failover receives nothing before that is decided.
        if shared.state.now().fence.is_some() {
            continue;
        }
        let take_over = async {
            match &server.replication {
                None if !server.read_only => passwords_of_primary(&shared).await,
                _ => match recall(&shared.told.source) {
                    Some((source, known)) if now.2.as_ref() != Some(&known) => {
                        follow(&shared, &source, false).await.map(drop)
                    }
                    _ => Ok(()),
                },
            }
        };
        let result = tokio::select! {
            result = take_over => result,
            () = turn.interrupted() => Err(failed("Interrupted", "something more urgent came in between")),
        };
        drop(turn);
        match result {
            Ok(()) => applied = now,
            Err(error) => tracing::warn!(%error, "new passwords are not in force yet"),
        }
    }
}

async fn passwords_of_primary(shared: &Arc<Shared>) -> Result<(), Refusal> {
    tracing::info!("passwords changed: the accounts get them");
    if let Some((users, login_only)) = recall(&shared.told.accounts) {
        accounts(shared, &users, &login_only).await?;
    }
    let mut session = session(shared).await?;
    if let (Some(user), Some(password)) = (&shared.config.username, shared.places.user_password()) {
        session.ensure_password(user, &password).await.map_err(|e| statement(&e))?;
    }
    if let Some(password) = shared.places.root_password().filter(|_| !shared.config.root_empty_password) {
        session.ensure_password("root", &password).await.map_err(|e| statement(&e))?;
    }
    Ok(())
}
