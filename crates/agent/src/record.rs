//! What a member may do without being told: databases come back although the operator is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use topology::action::Waits;
use topology::member::{DataId, Phase, Volume};
use topology::record::Record;

use crate::{Shared, actions, config, lease, sessions};

/// With no decision for so long, the holder's agent starts it as primary. The only member of a topology does so at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// The API server answers within.
const API_LIMIT: Duration = Duration::from_secs(5);
/// Crash recovery can take long.
const RECOVERY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Starts the server of the record's holder whenever it is down and nobody decides.
pub(crate) async fn start_without_decision(shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let mut pause = RETRY.0;
    loop {
        let down = |state: &topology::MemberState| {
            state.phase == Phase::Waiting && matches!(state.volume, Volume::Data { .. })
        };
        if state.wait_for(down).await.is_err() {
            return;
        }
        // Read anew: others may have joined since this pod was made.
        let alone = config::agent(&shared.places).is_ok_and(|config| config.single_member);
        let decided = state.wait_for(|state| !down(state));
        if !alone && tokio::time::timeout(PATIENCE, decided).await.is_ok() {
            continue;
        }
        match resume(&shared).await {
            Ok(()) => pause = RETRY.0,
            Err(why) => {
                tracing::info!(why, "no decision: waiting");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// Starts and opens the server under a revision of its own, if the record still names this data as the holder.
async fn resume(shared: &Arc<Shared>) -> Result<(), String> {
    let _turn = actions::take_turn(shared, "starting without a decision").map_err(|busy| busy.to_string())?;
    let Volume::Data { data_id } = shared.state.now().volume else { return Err("no data".into()) };
    let api = leases(shared).await?;
    let record = swap(&api, &shared.config.lease, &data_id).await?;
    let stamp = record.stamp();
    if let Err(highest) = shared.stamps.accept(stamp).map_err(|e| format!("the stamp cannot be saved: {e}"))? {
        return Err(format!("the record is older ({stamp:?}) than what was accepted here ({highest:?})"));
    }
    shared.state.update(|state| state.accepted = stamp);
    tracing::info!(epoch = stamp.epoch, revision = stamp.revision, "no decision: starting as the record's holder");
    if let Err(phase) = shared.server.start(shared).await {
        let text = format!("{phase:?}");
        shared.state.update(|state| state.phase = phase);
        return Err(text);
    }
    let mut state = shared.state.subscribe();
    let up = state.wait_for(|state| state.phase != Phase::Starting);
    let phase = tokio::time::timeout(RECOVERY_LIMIT, up)
        .await
        .map_err(|_| "still starting".to_owned())?
        .map_err(|e| e.to_string())?
        .phase
        .clone();
    if phase != Phase::Running {
        return Err(format!("{phase:?}"));
    }
    take_up(shared, &record).await
}

/// Opens a running server under a revision of its own, if the record still names this data as the holder.
pub(crate) async fn reopen(shared: &Arc<Shared>) -> Result<(), String> {
    let _turn = actions::take_turn(shared, "opening again without a decision").map_err(|busy| busy.to_string())?;
    let Volume::Data { data_id } = shared.state.now().volume else { return Err("no data".into()) };
    let record = swap(&leases(shared).await?, &shared.config.lease, &data_id).await?;
    let stamp = record.stamp();
    if let Err(highest) = shared.stamps.accept(stamp).map_err(|e| format!("the stamp cannot be saved: {e}"))? {
        return Err(format!("the record is older ({stamp:?}) than what was accepted here ({highest:?})"));
    }
    shared.state.update(|state| state.accepted = stamp);
    tracing::info!(epoch = stamp.epoch, revision = stamp.revision, "no decision: opening again as the record's holder");
    take_up(shared, &record).await
}

/// The server of the record's holder runs: it takes writes.
async fn take_up(shared: &Arc<Shared>, record: &Record) -> Result<(), String> {
    let mut session = sessions::open(shared).await.map_err(|e| e.to_string())?;
    // It may have been chosen, and died before it was told to open: what it replicated from is forgotten as then.
    if !session.forget_source().await.map_err(|e| e.to_string())? {
        return Err("its replication does not stop".into());
    }
    if shared.config.commits.strict && record.ackers.is_empty() && !shared.config.single_member {
        // Its commits would wait, and copies of it with them: a replica that acknowledges comes first.
        actions::seen(shared, &mut session).await;
        return Ok(());
    }
    // Locks are as the server had them. Nobody to wait for: only where that is recorded.
    let alone = record.solo && record.ackers.is_empty() && !shared.config.commits.strict;
    let wait = if shared.config.commits.promised && !alone { Waits::WithoutEnd } else { Waits::Off };
    lease::begin(shared).await.map_err(|refusal| refusal.to_string())?;
    session.open_for_writes(wait).await.map_err(|e| e.to_string())?;
    actions::seen(shared, &mut session).await;
    Ok(())
}

pub(crate) async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    let answer =
        tokio::time::timeout(API_LIMIT, call).await.map_err(|_| "the API does not answer in time".to_owned())?;
    answer.map_err(|e| format!("the record: {e}"))
}

/// The same for a write; `None`: somebody else has written since.
pub(crate) async fn in_time_or_lost<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Option<T>, String> {
    let call = async {
        match call.await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            other => other.map(Some),
        }
    };
    in_time(call).await
}

pub(crate) async fn leases(shared: &Shared) -> Result<Api<Lease>, String> {
    Ok(Api::namespaced(in_time(Client::try_default()).await?, &shared.me.namespace))
}

pub(crate) fn parse(lease: &Lease) -> Result<Record, String> {
    let empty = BTreeMap::new();
    let annotations = lease.metadata.annotations.as_ref().unwrap_or(&empty);
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    Record::parse(holder, |key| annotations.get(key).map(String::as_str)).map_err(|e| format!("the record: {e}"))
}

/// Reads the record again and again.
#[derive(Default)]
pub(crate) struct Leases {
    api: Option<Api<Lease>>,
    /// Why it could not be read last.
    trouble: String,
}

impl Leases {
    /// The record; `Some(None)`: there is none, or it is being deleted with its topology; `None`: it cannot be read.
    pub(crate) async fn record(&mut self, shared: &Shared) -> Option<Option<Record>> {
        match self.read(shared).await {
            Ok(record) => {
                self.trouble.clear();
                Some(record)
            }
            Err(why) => {
                if why != self.trouble {
                    tracing::warn!(why, "the record cannot be read");
                    self.trouble = why;
                }
                None
            }
        }
    }

    async fn read(&mut self, shared: &Shared) -> Result<Option<Record>, String> {
        let api = match self.api.take() {
            Some(api) => api,
            None => leases(shared).await?,
        };
        // Kept only where it works: a token or a CA may have been renewed.
        let answer = tokio::time::timeout(API_LIMIT, api.get_opt(&shared.config.lease));
        let lease = match answer.await.map_err(|_| "the API does not answer in time".to_owned())? {
            Ok(lease) => lease,
            // What let this member in goes with the topology, and may go first.
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => None,
            Err(error) => return Err(format!("the record: {error}")),
        };
        self.api = Some(api);
        lease.filter(|lease| lease.metadata.deletion_timestamp.is_none()).as_ref().map(parse).transpose()
    }
}

/// The record's next revision, its content unchanged: the decision that this start belongs to.
async fn swap(api: &Api<Lease>, name: &str, data_id: &DataId) -> Result<Record, String> {
    let mut lease = in_time(api.get(name)).await?;
    let record = parse(&lease)?;
    if record.holder.as_ref().is_none_or(|holder| holder.data_id != *data_id) {
        return Err("the record does not name this data as the holder".into());
    }
    let record = record.next();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.extend(record.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)));
    lease.metadata.managed_fields = None;
    // Carries the version that was read: refused when anybody decided since.
    in_time(api.replace(name, &PostParams::default(), &lease)).await?;
    Ok(record)
}
