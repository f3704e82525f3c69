//! The *resources* loop: for each object dereference -> resolve -> build -> apply -> status, until all is as it should be.
//!
//! One task per object, so that one that fails never holds up another. It sleeps until something that concerns it changes.

mod apply;
mod certificates;
mod dereference;
mod numbers;
mod reconcile;
mod roll;
mod secrets;
mod status;
mod volumes;

use std::collections::BTreeMap;
use std::time::Duration;

use api::MariaDB;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::watches::Key;
use apply::Applied;

pub(crate) use apply::SharedClaims;
pub(crate) use numbers::SharedNumbers;

/// Everything is looked at again so often, also when no change was seen.
const RESYNC: Duration = Duration::from_secs(600);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Changes that come together are handled together.
const SETTLE: Duration = Duration::from_millis(15);
/// A pass that hangs is given up.
const PASS_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for one answer of the API server (the client repeats refused calls by itself, for longer than is good).
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// Something must come first; nothing failed.
    #[error("{message}")]
    Waiting { reason: &'static str, message: String },
    /// What was read has mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Mistakes(Vec<api::Mistake>),
    /// A child's name is taken.
    #[error("{kind} {name} belongs to {owner}: two objects cannot have one child name; rename one of them")]
    NameTaken { kind: &'static str, name: String, owner: String },
    /// The API server refused or failed.
    #[error("{what}: {}", plain(source))]
    Api { what: String, source: Box<kube::Error> },
    /// It did not answer.
    #[error("{what}: no answer from the API server within {CALL_LIMIT:?}")]
    Silent { what: String },
    /// A certificate could not be made.
    #[error("{what}: {message}")]
    Certificate { what: String, message: String },
}

impl Trouble {
    /// The API server understood, and will not.
    fn is_refusal(&self) -> bool {
        let code = match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => status.code,
                _ => return false,
            },
            _ => return false,
        };
        matches!(code, 400 | 403 | 422)
    }

    /// For conditions, events and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Waiting { reason, .. } => reason,
            Self::Mistakes(_) => "ConfigInvalid",
            Self::NameTaken { .. } => "NameTaken",
            Self::Api { .. } => "ApiError",
            Self::Silent { .. } => "ApiTimeout",
            Self::Certificate { .. } => "CertificateError",
        }
    }
}

/// What the API server said, without the client's wrapping.
fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.trim().to_owned(),
        other => other.to_string(),
    }
}

/// A call with its limit.
async fn call<T>(what: impl Fn() -> String, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Trouble::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(Trouble::Silent { what: what() }),
    }
}

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut running: BTreeMap<Key, (String, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted: BTreeMap<Key, String> = context
            .caches
            .objects
            .state()
            .iter()
            .filter(|object| object.metadata.deletion_timestamp.is_none())
            .map(|object| {
                ((object.namespace().unwrap_or_default(), object.name_any()), object.uid().unwrap_or_default())
            })
            .collect();
        running.retain(|key, (uid, task)| {
            let keep = wanted.get(key) == Some(uid) && !task.is_finished();
            if !keep {
                task.abort();
                context.caches.forget(key);
                apply::release(&context.claims, uid, None);
            }
            keep
        });
        for (key, uid) in wanted {
            running.entry(key.clone()).or_insert_with(|| {
                let worker = Worker::new(context.clone(), key, uid.clone());
                (uid, tokio::spawn(worker.run()))
            });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = context.caches.objects_changed() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
    for (_, (_, task)) in running {
        task.abort();
    }
}

/// The task of one object.
struct Worker {
    context: Context,
    key: Key,
    uid: String,
    /// What was applied, so that nothing is applied twice.
    applied: Applied,
    /// The pod that was deleted last to have it replaced: the cache may still show it.
    replaced: Option<String>,
    /// The object as our last write of its status gave it: the cache may still show an older one.
    written: Option<MariaDB>,
}

impl Worker {
    fn new(context: Context, key: Key, uid: String) -> Self {
        Self { context, key, uid, applied: Applied::default(), replaced: None, written: None }
    }

    async fn run(mut self) {
        let sleeper = self.context.caches.sleeper(&self.key);
        let mut pause = BACKOFF.0;
        loop {
            let passed = tokio::time::timeout(PASS_LIMIT, Box::pin(self.pass())).await;
            let wait = match passed {
                Ok(Some(Ok(next))) => {
                    pause = BACKOFF.0;
                    next.unwrap_or(RESYNC)
                }
                Ok(Some(Err(()))) | Err(_) => {
                    let wait = pause.mul_f64(rand::random_range(0.8..1.2));
                    pause = (pause * 2).min(BACKOFF.1);
                    wait
                }
                // The object is gone.
                Ok(None) => return,
            };
            tokio::select! {
                () = sleeper.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One pass. Gives when to look again (`None`: when something changes), or that it failed.
    async fn pass(&mut self) -> Option<Result<Option<Duration>, ()>> {
        let (namespace, name) = self.key.clone();
        let object = self.context.caches.objects.get(&ObjectRef::new(&name).within(&namespace))?;
        if object.uid().as_deref() != Some(&self.uid) || object.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let outcome = Box::pin(reconcile::reconcile(self, &object)).await;
        if let Err(trouble) = &outcome.result
            && !matches!(trouble, Trouble::Waiting { .. })
        {
            tracing::warn!(namespace, object = name, reason = trouble.reason(), error = %trouble, "not as it should be");
        }
        let written = Box::pin(status::write(self, &object, &outcome)).await;
        if let Err(error) = &written {
            tracing::warn!(namespace, object = name, %error, "the status was not written");
        }
        Some(match (outcome.result, written) {
            (Ok(next), Ok(())) => Ok(next),
            // What is waited for wakes this task when it comes; a look now and then costs little.
            (Err(Trouble::Waiting { .. }), Ok(())) => Ok(Some(Duration::from_secs(10))),
            _ => Err(()),
        })
    }
}
