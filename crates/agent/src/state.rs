//! What is known, and how it gets known: the server is asked a few times a second over one connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use topology::Stamp;
use topology::member::{MemberName, MemberState, Phase, Trouble, UNRESPONSIVE, Volume};

use crate::{Me, Shared, login, volume};

/// How often the server is asked.
const EVERY: Duration = Duration::from_millis(200);
/// How often while something is waited for that only the server tells.
const CHANGING_EVERY: Duration = Duration::from_millis(20);
/// How often for a moment after each order. (Its own answer tells what it did.)
const HURRY_EVERY: Duration = Duration::from_millis(50);
/// How often a server that does not answer yet is tried.
const STARTING_EVERY: Duration = Duration::from_millis(50);
/// A server that does not answer is told of so often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(10);

/// The member's state, watched by streams and probes.
pub(crate) struct Board {
    state: watch::Sender<MemberState>,
}

impl Board {
    pub(crate) fn new(me: &Me, server_id: u32, volume: Volume, accepted: Stamp) -> Self {
        let mut state = MemberState::new(MemberName(me.pod.clone()), me.uid.clone(), server_id, accepted, volume);
        // Above whatever an agent of this pod has told before: nobody changes his mind a million times a second.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        state.sequence = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        Self { state: watch::Sender::new(state) }
    }

    /// Changes the state; watchers hear of it only when it is different.
    pub(crate) fn update(&self, change: impl FnOnce(&mut MemberState)) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            let changed = *state != before;
            state.sequence += u64::from(changed);
            changed
        });
    }

    pub(crate) fn now(&self) -> MemberState {
        self.state.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<MemberState> {
        self.state.subscribe()
    }
}

/// Where the agent logs in.
pub(crate) fn target(shared: &Shared) -> sql::Target {
    sql::Target::Socket { path: shared.places.socket(), user: login::USER.into(), password: login::secret() }
}

/// Questions in the order in which they were asked. Several connections ask at once: an answer that comes late is older than what was told
/// already, and would take it back.
#[derive(Default)]
pub(crate) struct Questions {
    asked: AtomicU64,
    told: Mutex<Option<Question>>,
}

/// One that was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    number: u64,
    at: Instant,
}

impl Questions {
    /// One that is about to be asked.
    pub(crate) fn next(&self) -> Question {
        Question { number: self.asked.fetch_add(1, Ordering::SeqCst) + 1, at: Instant::now() }
    }

    /// Whether the answer to this one is to be told: nothing later was.
    pub(crate) fn is_news(&self, question: Question) -> bool {
        let mut told = lock(&self.told);
        let news = told.is_none_or(|told| question.number >= told.number);
        if news {
            *told = Some(question);
        }
        news
    }

    /// How old the last answer that was told is: what it says was so when it was asked for, or later.
    pub(crate) fn age(&self) -> Duration {
        lock(&self.told).map(|told| told.at.elapsed()).unwrap_or_default()
    }
}

/// The server's facts, and whether something still comes from its source.
pub(crate) async fn ask(
    shared: &Shared,
    session: &mut sql::Session,
) -> Result<topology::member::ServerState, sql::SqlError> {
    session.state(&shared.reception).await
}

/// Its position is set on purpose until this is dropped.
pub(crate) struct Moving<'a>(&'a Shared);

/// From here on.
pub(crate) fn moving(shared: &Shared) -> Moving<'_> {
    lock(&shared.reception).hold();
    Moving(shared)
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        lock(&self.0.reception).begin_anew();
    }
}

/// Other data: nothing that was seen of the former one is true of it.
pub(crate) fn forget_reception(shared: &Shared) {
    *lock(&shared.reception) = sql::Reception::default();
}

/// A server that does not answer for a while is told of before it does.
async fn noticed<T>(shared: &Shared, answer: impl Future<Output = T>) -> T {
    tokio::pin!(answer);
    if let Ok(answer) = tokio::time::timeout(UNRESPONSIVE, &mut answer).await {
        return answer;
    }
    shared.state.update(|state| {
        if state.phase == Phase::Running && state.trouble.is_none() {
            state.trouble = Some(Trouble::Unresponsive);
        }
    });
    answer.await
}

/// Tells what the server said to a question, together with what its relay log holds.
pub(crate) async fn publish(
    shared: &Shared,
    session: &mut sql::Session,
    question: Question,
    server: topology::member::ServerState,
) {
    let relay = crate::relay::look(shared, session, &server).await;
    if !shared.questions.is_news(question) {
        return;
    }
    shared.state.update(|state| {
        state.server = Some(server);
        state.relay = relay;
        if state.trouble == Some(Trouble::Unresponsive) {
            state.trouble = None;
        }
        if state.phase == Phase::Starting {
            tracing::info!("mariadbd answers");
            state.phase = Phase::Running;
        }
    });
}

fn lock<T>(place: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A change is under way: what it waits for shows at once.
fn changing(shared: &Shared) -> bool {
    let state = shared.state.now();
    state.marker.is_some_and(|marker| marker.gtid.is_none())
        || state
            .fence
            .is_some_and(|fence| state.server.is_some_and(|server| !server.gtid_slave_pos.covers(&fence.received)))
}

/// Until the server is asked again.
async fn pause(shared: &Shared) {
    let pause = match (changing(shared), shared.in_a_hurry()) {
        (true, _) => CHANGING_EVERY,
        (false, true) => HURRY_EVERY,
        (false, false) => EVERY,
    };
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = shared.ask_now.notified() => {}
    }
}

/// Asks the server, for ever.
pub(crate) async fn poll(shared: Arc<Shared>) {
    let mut session: Option<sql::Session> = None;
    let mut told = Instant::now();
    // What it had applied, and logged, before is not compared with what follows.
    let mut restarted = true;
    loop {
        if !shared.server.is_running() {
            (session, restarted) = (None, true);
            told = Instant::now();
            tokio::time::sleep(STARTING_EVERY).await;
            continue;
        }
        let question = shared.questions.next();
        let answer = match &mut session {
            Some(session) => noticed(&shared, ask(&shared, session)).await,
            None => match sql::Session::open(&target(&shared)).await {
                Ok(mut opened) => {
                    if restarted {
                        lock(&shared.reception).restarted();
                        restarted = false;
                    }
                    let answer = ask(&shared, &mut opened).await;
                    if let Err(error) = crate::opening::look_at_locks(&shared, &mut opened, None).await {
                        tracing::warn!(%error, "locks are not known");
                    }
                    session = Some(opened);
                    answer
                }
                Err(error) => Err(error),
            },
        };
        match answer {
            Ok(server) => {
                if let Some(session) = &mut session {
                    publish(&shared, session, question, server).await;
                }
                pause(&shared).await;
            }
            Err(error) => {
                session = None;
                let starting = shared.state.now().phase == Phase::Starting;
                if told.elapsed() > TELL_EVERY {
                    told = Instant::now();
                    tracing::warn!(%error, starting, "mariadbd does not answer");
                }
                if !starting {
                    shared.state.update(|state| state.server = None);
                }
                tokio::time::sleep(if starting { STARTING_EVERY } else { EVERY }).await;
            }
        }
    }
}

/// Looks at the disk, for ever.
pub(crate) async fn watch_disk(shared: Arc<Shared>) {
    loop {
        let disk = volume::disk(&shared.places);
        shared.state.update(|state| {
            // Only what matters: a state that changes with every written page would be a stream of noise.
            let moved = match (state.disk, disk) {
                (Some(old), Some(new)) => old.total != new.total || old.free.abs_diff(new.free) > new.total / 100,
                (old, new) => old != new,
            };
            if moved {
                state.disk = disk;
            }
        });
        tokio::time::sleep(DISK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_late_is_no_news() {
        let questions = Questions::default();
        let (first, second) = (questions.next(), questions.next());
        assert!(questions.is_news(second));
        assert!(!questions.is_news(first), "asked before, and answered after");
        assert!(questions.is_news(questions.next()));
    }
}
