//! `durability: Available`: the holder's time is limited, since no acknowledgement stands between two writers.
//!
//! The holder's agent renews the record every third of `failover.timeout`. When two thirds have gone by since it *asked* for the last
//! renewal that succeeded, it closes the server; somebody else takes over after three thirds at the earliest. Where the API server does
//! not answer, it stays primary only while the agent of every candidate confirms that; each then takes part in no failover for that
//! time. A container that is stopped as a whole (SIGSTOP) and goes on later closes its server a moment after it went on: only a promise
//! (`Safe`, `Strict`) covers that moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use protocol::{AgentClient, Confirm, Refusal};
use topology::member::{DataId, MemberName, MemberState, Phase, Volume};
use topology::record::Record;

use crate::actions::not_possible;
use crate::{Shared, actions, config, guard, opening, receive, record};

/// How often a closed server's agent looks whether it was opened, or its configuration changed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A server that was closed for want of time is opened again by whoever decides; by its own agent when nobody did for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A failover is decided within, once its candidates are fenced.
const DECIDED_WITHIN: Duration = Duration::from_secs(10);

/// What the clock says.
pub(crate) struct Time {
    started: Instant,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// When the last proof was asked for that nobody else may be primary.
    proven: Option<Instant>,
    /// Whom to ask where the API server does not answer.
    candidates: BTreeSet<MemberName>,
    /// What was read or written last.
    lease: Option<(Api<Lease>, Lease)>,
    /// The API server did not answer last.
    unheard: bool,
    /// It was closed for want of time.
    lapsed: Option<Instant>,
    /// Confirmed to a primary: no part in a failover until then.
    lent: Option<Instant>,
    /// Fenced for a failover: nothing is confirmed until then.
    taken: Option<Instant>,
    /// What the configuration said last.
    limit: Option<Duration>,
    /// When its server last said whether it takes writes, it did.
    was_open: bool,
}

impl Default for Time {
    fn default() -> Self {
        Self { started: Instant::now(), times: Mutex::default() }
    }
}

impl Time {
    fn lock(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a primary may go unheard; `None`: its time is not limited. Read anew: the durability may have been changed.
/// What cannot be read is as it was.
fn limit(shared: &Shared) -> Option<Duration> {
    let mut times = shared.time.lock();
    if let Ok(config) = config::agent(&shared.places) {
        times.limit = config.lease_limit_ms.map(Duration::from_millis);
    }
    times.limit
}

/// Its server takes writes, or may: one that took some, runs and says nothing any more is not known to be closed.
fn may_write(shared: &Shared, state: &MemberState) -> bool {
    let mut times = shared.time.lock();
    if state.server.is_some() || state.phase != Phase::Running {
        times.was_open = guard::open(state);
    }
    times.was_open
}

/// Why this member takes no part in a failover now; otherwise it confirms nothing for a while.
pub(crate) fn take_part(shared: &Shared) -> Result<(), Refusal> {
    let Some(limit) = limit(shared) else { return Ok(()) };
    let mut times = shared.time.lock();
    // What an agent before this one confirmed is not known.
    let until = times.lent.into_iter().chain([shared.time.started + limit]).max();
    let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
    if !left.is_zero() {
        let left = left.as_secs_f32();
        return Err(not_possible(format!(
            "the primary may have been promised that nobody takes over for another {left:.1} s"
        )));
    }
    times.taken = Some(Instant::now() + DECIDED_WITHIN);
    Ok(())
}

/// Confirms to the primary of an epoch that it may stay for `ask.limit_ms`.
pub(crate) fn confirm(shared: &Shared, ask: &Confirm) -> Result<(), Refusal> {
    let highest = shared.stamps.highest();
    if highest.epoch > ask.epoch {
        return Err(Refusal::Stale { highest });
    }
    let state = shared.state.now();
    let now = Instant::now();
    let mut times = shared.time.lock();
    if guard::open(&state) || state.fence.is_some() || times.taken.is_some_and(|until| now < until) {
        return Err(not_possible("another member takes over, or has"));
    }
    let until = now + Duration::from_millis(ask.limit_ms);
    times.lent = Some(times.lent.map_or(until, |known| known.max(until)));
    Ok(())
}

/// Before a server is opened: the record still names it, and its time begins.
pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<(), Refusal> {
    let Some(limit) = limit(shared) else { return Ok(()) };
    let asked = Instant::now();
    match tokio::time::timeout(limit / 6, renew(shared, limit)).await {
        Ok(Ok(Renewed::Mine)) => {
            let mut times = shared.time.lock();
            // Opened again: whoever closes it from now on means it.
            (times.proven, times.lapsed) = (Some(asked), None);
            Ok(())
        }
        Ok(Ok(Renewed::Other(_))) => Err(not_possible("the record does not name this data as the holder")),
        Ok(Err(why)) => Err(actions::failed("NotRenewed", why)),
        Err(_) => Err(actions::failed("NotRenewed", "the API does not answer in time")),
    }
}

/// Keeps an open server's time from running out, and closes it when it does.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        let Some(limit) = limit(&shared) else {
            // Should it be limited again, that begins then.
            shared.time.lock().proven = None;
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let state = shared.state.now();
        if !may_write(&shared, &state) {
            reopen(&shared, limit).await;
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        // One that was opened before its time was limited: nobody takes over before it has renewed the record once.
        let proven = *shared.time.lock().proven.get_or_insert_with(Instant::now);
        let age = proven.elapsed();
        if age >= limit * 2 / 3 {
            close(&shared, limit).await;
        } else if age >= limit / 3 && state.trouble.is_none() && state.server.is_some() {
            prove(&shared, limit).await;
            // Where nothing came of it, it is tried again at once, but for this.
            tokio::time::sleep(limit / 60).await;
        } else {
            let next = if age < limit / 3 { limit / 3 } else { limit * 2 / 3 };
            tokio::time::sleep(next.saturating_sub(age).min(LOOK_EVERY)).await;
        }
    }
}

/// Asks the API server; where it did not answer last, the candidates' agents, too.
async fn prove(shared: &Arc<Shared>, limit: Duration) {
    let asked = Instant::now();
    let unheard = shared.time.lock().unheard;
    let record = tokio::time::timeout(limit / 6, renew(shared, limit));
    let (renewed, confirmed) =
        if unheard { tokio::join!(record, ask_all(shared, limit)) } else { (record.await, false) };
    let renewed = renewed.unwrap_or_else(|_| Err("the API does not answer in time".to_owned()));
    if unheard != renewed.is_err() {
        match &renewed {
            Ok(_) => tracing::info!("the record is renewed again"),
            Err(why) => tracing::warn!(why, "the record cannot be renewed: the other members are asked"),
        }
    }
    {
        let mut times = shared.time.lock();
        times.unheard = renewed.is_err();
        if confirmed && renewed.is_err() || matches!(renewed, Ok(Renewed::Mine)) {
            times.proven = Some(asked);
        }
    }
    if let Ok(Renewed::Other(record)) = renewed {
        tracing::warn!(epoch = record.epoch, "another member is primary: this one steps down");
        if let Err(why) = guard::step_down(shared, record.stamp()).await {
            tracing::warn!(why, "not stepped down");
        }
    }
}

enum Renewed {
    /// The record names this member's data.
    Mine,
    /// It names other data.
    Other(Box<Record>),
}

/// Writes into the record that its holder is there, and whom it would ask.
async fn renew(shared: &Arc<Shared>, limit: Duration) -> Result<Renewed, String> {
    let Volume::Data { data_id } = shared.state.now().volume else { return Err("no data".into()) };
    let known = shared.time.lock().lease.take();
    let (api, mut lease) = if let Some(known) = known {
        known
    } else {
        let api = record::leases(shared).await?;
        let lease = record::in_time(api.get(&shared.config.lease)).await?;
        (api, lease)
    };
    // Somebody else's write comes in between now and then.
    for _ in 0..3 {
        let record = record::parse(&lease)?;
        if !holds(&record, &data_id) {
            // What was kept may be old.
            lease = record::in_time(api.get(&shared.config.lease)).await?;
            let record = record::parse(&lease)?;
            if !holds(&record, &data_id) {
                return Ok(Renewed::Other(Box::new(record)));
            }
        }
        let candidates = record.candidates.clone();
        match record::in_time_or_lost(api.replace(
            &shared.config.lease,
            &PostParams::default(),
            &renewed(&lease, &record, limit),
        ))
        .await?
        {
            Some(written) => {
                let mut times = shared.time.lock();
                times.candidates = candidates;
                times.lease = Some((api, written));
                return Ok(Renewed::Mine);
            }
            None => lease = record::in_time(api.get(&shared.config.lease)).await?,
        }
    }
    Err("the record: written by others again and again".to_owned())
}

fn holds(record: &Record, data_id: &DataId) -> bool {
    record.holder.as_ref().is_some_and(|holder| holder.data_id == *data_id)
}

fn renewed(lease: &Lease, record: &Record, limit: Duration) -> Lease {
    let renewed_with = Some(record.candidates.clone());
    let record = Record { renewed_with, renewed_for: Some(limit), ..record.clone() };
    let mut lease = lease.clone();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.extend(record.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)));
    lease.metadata.managed_fields = None;
    let spec = lease.spec.get_or_insert_default();
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.lease_duration_seconds = i32::try_from(limit.as_secs().max(1)).ok();
    lease
}

/// Do all candidates' agents confirm that this member stays primary?
async fn ask_all(shared: &Arc<Shared>, limit: Duration) -> bool {
    let candidates = shared.time.lock().candidates.clone();
    let epoch = shared.state.now().accepted.epoch;
    let ask = Confirm { epoch, limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
    let asked = candidates.iter().map(|member| async {
        match tokio::time::timeout(limit / 6, confirmed_by(shared, member, &ask)).await {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::warn!(member = member.0, why, "does not confirm");
                false
            }
            Err(_) => {
                tracing::warn!(member = member.0, "does not confirm: no answer in time");
                false
            }
        }
    });
    futures::future::join_all(asked).await.into_iter().all(|confirmed| confirmed)
}

async fn confirmed_by(shared: &Shared, member: &MemberName, ask: &Confirm) -> Result<(), String> {
    let identity = receive::identity(&shared.places).map_err(|e| e.to_string())?;
    let tls = identity.client().map_err(|e| e.to_string())?;
    let host = format!("{member}.{}.svc", shared.me.namespace);
    let client = AgentClient::by_host(&host, shared.places.agent_port, Arc::new(tls)).map_err(|e| e.to_string())?;
    client.confirm(ask).await.map_err(|e| e.to_string())
}

/// Its time is nearly up.
async fn close(shared: &Arc<Shared>, limit: Duration) {
    tracing::warn!("nobody confirms that this member is still the primary: it is closed");
    shared.time.lock().lapsed = Some(Instant::now());
    let turn = tokio::time::timeout(limit / 12, actions::cut_in(shared, "closing for want of time")).await;
    if let Ok(Ok(_turn)) = turn {
        if let Err(refusal) = opening::close_within(shared, 0, limit / 12).await {
            tracing::warn!(%refusal, "not closed");
        }
    } else {
        tracing::warn!("what is under way does not end: the server is killed");
        shared.server.kill(shared).await;
    }
    // Where neither helped (a disk that hangs), it is tried again.
    tokio::time::sleep(LOOK_EVERY).await;
}

/// After that: the time begins anew when the record can be renewed. Whoever decides opens it; where nobody does, its own agent.
async fn reopen(shared: &Arc<Shared>, limit: Duration) {
    let lapsed = shared.time.lock().lapsed;
    let Some(lapsed) = lapsed.filter(|lapsed| lapsed.elapsed() >= PATIENCE) else { return };
    if !shared.server.is_running() {
        // It is started by whoever starts one that is down.
        shared.time.lock().lapsed = None;
        return;
    }
    match tokio::time::timeout(limit, renew(shared, limit)).await {
        Ok(Ok(Renewed::Mine)) => match record::reopen(shared).await {
            Ok(()) => shared.time.lock().lapsed = None,
            Err(why) => {
                tracing::info!(why, "not opened again");
                shared.time.lock().lapsed = Some(lapsed + PATIENCE);
            }
        },
        Ok(Ok(Renewed::Other(_))) => shared.time.lock().lapsed = None,
        Ok(Err(_)) | Err(_) => shared.time.lock().lapsed = Some(lapsed + PATIENCE / 2),
    }
}
