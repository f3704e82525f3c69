//! Writes down what the replication loop says: status and events. On its own, so that a slow API server never
//! holds up a decision.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::MariaDB;
use api::status::RequestStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event as Published, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use topology::decision::{Event, Report};
use topology::intent::Durability;
use topology::{Forecast, Record};

use super::status::{self, Said, Source};
use super::{FIELD_MANAGER, Inputs};

/// An API server that does not answer in this time is asked again a little later.
const LIMIT: Duration = Duration::from_secs(10);
/// What changes at once is told at once: so long is waited for the rest of it. In a change of primary the API server has more urgent work.
/// (Who is primary is told without delay: people's scripts write there.)
const SETTLE: Duration = Duration::from_millis(150);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(2);
/// How long what was written counts as what is there, until the watch has brought it back.
const ECHO: Duration = Duration::from_secs(10);

/// What is to be written down after a pass.
#[derive(Debug, Clone)]
pub(super) struct Briefing {
    pub(super) report: Report,
    pub(super) record: Record,
    /// Names of the topology's objects, the root first.
    pub(super) objects: Vec<String>,
    /// `None`: no replication.
    pub(super) durability: Option<Durability>,
    /// What would happen if the primary died now.
    pub(super) forecast: Option<Forecast>,
    /// The request for a switchover that stands.
    pub(super) request: Option<RequestStatus>,
}

pub(super) struct Clerk {
    inputs: Inputs,
    namespace: String,
    briefings: watch::Receiver<Option<Arc<Briefing>>>,
    events: mpsc::UnboundedReceiver<Event>,
    written: BTreeMap<String, (Said, Instant)>,
}

impl Clerk {
    pub(super) fn new(
        inputs: Inputs,
        namespace: String,
        briefings: watch::Receiver<Option<Arc<Briefing>>>,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        Self { inputs, namespace, briefings, events, written: BTreeMap::new() }
    }

    /// Works until the runner is gone.
    pub(super) async fn run(mut self) {
        let mut pending: VecDeque<Event> = VecDeque::new();
        let mut next = Duration::MAX;
        let mut told = None;
        loop {
            tokio::select! {
                changed = self.briefings.changed() => if changed.is_err() { return },
                event = self.events.recv() => pending.extend(event),
                () = tokio::time::sleep(next.min(Duration::from_secs(3600))) => {}
            }
            let holder = |briefing: &Arc<Briefing>| briefing.record.holder.as_ref().map(|holder| holder.member.clone());
            let primary = self.briefings.borrow().as_ref().and_then(holder);
            if std::mem::replace(&mut told, primary.clone()) == primary {
                tokio::time::sleep(SETTLE).await;
            }
            while let Ok(event) = self.events.try_recv() {
                pending.push_back(event);
            }
            let Some(briefing) = self.briefings.borrow_and_update().clone() else { continue };
            next = self.statuses(&briefing).await;
            let Some(root) = briefing.objects.first().and_then(|name| self.object(name)) else { continue };
            while let Some(event) = pending.pop_front() {
                self.publish(&root, &event).await;
            }
        }
    }

    fn object(&self, name: &str) -> Option<Arc<MariaDB>> {
        self.inputs.objects.get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// Writes what is worth it. Returns when to come back.
    async fn statuses(&mut self, briefing: &Briefing) -> Duration {
        let mut next = Duration::MAX;
        let source = Source {
            report: &briefing.report,
            record: &briefing.record,
            durability: briefing.durability,
            forecast: briefing.forecast.as_ref(),
            request: briefing.request.as_ref(),
        };
        for (i, name) in briefing.objects.iter().enumerate() {
            let Some(object) = self.object(name) else { continue };
            let wait = self.write(&object, |object, now| status::of_object(&source, object, i == 0, now)).await;
            next = next.min(wait);
        }
        next
    }

    async fn write(&mut self, object: &MariaDB, say: impl FnOnce(&MariaDB, Timestamp) -> Said) -> Duration {
        write_status(&self.inputs, &mut self.written, object, say).await
    }

    async fn publish(&self, root: &MariaDB, event: &Event) {
        let secondary = event.member.as_ref().map(|member| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(member.0.clone()),
            ..ObjectReference::default()
        });
        let published = Published {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            // Events may hold 1 KiB.
            note: Some(event.message.chars().take(900).collect()),
            action: "Replicate".to_owned(),
            secondary,
        };
        let root = root.object_ref(&());
        if let Err(error) = in_time(self.inputs.events.publish(&published, &root)).await {
            tracing::warn!(namespace = self.namespace, reason = event.reason, error, "an event was not published");
        }
    }
}

/// Writes an object's status if that is worth it, and says when to come back.
pub(super) async fn write_status(
    inputs: &Inputs,
    written: &mut BTreeMap<String, (Said, Instant)>,
    object: &MariaDB,
    say: impl FnOnce(&MariaDB, Timestamp) -> Said,
) -> Duration {
    let name = object.name_any();
    let last = written.get(&name);
    let since_last = last.map_or(Duration::MAX, |(_, at)| at.elapsed());
    let echoed = last.filter(|_| since_last < ECHO).map(|(said, _)| said.status.clone());
    let mut known = object.clone();
    if let Some(status) = echoed {
        known.status = Some(status);
    }
    let said = say(&known, Timestamp::now());
    match status::worth_writing(&said, known.status.as_ref(), since_last) {
        None => return Duration::MAX,
        Some(wait) if !wait.is_zero() => return wait,
        Some(_) => {}
    }
    let api: Api<MariaDB> =
        Api::namespaced(inputs.client.clone(), object.metadata.namespace.as_deref().unwrap_or("default"));
    let body = json!({"apiVersion": MariaDB::api_version(&()), "kind": MariaDB::kind(&()),
        "metadata": {"name": name}, "status": said.status});
    match in_time(async { api.patch_status(&name, &apply(), &Patch::Apply(&body)).await }).await {
        Ok(_) => {
            written.insert(name, (said, Instant::now()));
            Duration::MAX
        }
        Err(error) => {
            tracing::warn!(object = name, error, "the status was not written");
            PAUSE
        }
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}
