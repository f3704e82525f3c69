//! Events on objects.
//!
//! `kube`'s recorder takes an event of the same reason for a repetition, whatever its text, and goes on showing the first text
//! ("db-0 is open for writes", long after db-1 is). Here only the same text is a repetition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event as Said, EventType};
use serde_json::json;
use tokio::time::Instant;

/// A repetition within this time is counted; later it is an event of its own.
const SERIES: Duration = Duration::from_secs(360);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: String,
    note: Option<String>,
    related: Option<String>,
}

struct Known {
    name: String,
    count: i32,
    at: Instant,
}

/// Publishes events; its clones share what they remember.
#[derive(Clone)]
pub struct Events {
    client: kube::Client,
    controller: String,
    instance: String,
    known: Arc<Mutex<HashMap<Key, Known>>>,
}

impl Events {
    /// `instance`: the name of the pod that reports.
    pub fn new(client: kube::Client, controller: &str, instance: &str) -> Self {
        Self { client, controller: controller.to_owned(), instance: instance.to_owned(), known: Arc::default() }
    }

    /// Publishes an event about `object`, or counts it where the same was said a short while ago.
    pub async fn publish(&self, said: &Said, object: &ObjectReference) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or("default"));
        let key = Key {
            uid: object.uid.clone().unwrap_or_default(),
            reason: said.reason.clone(),
            note: said.note.clone(),
            related: said.secondary.as_ref().and_then(|related| related.name.clone()),
        };
        let now = MicroTime(Timestamp::now());
        if let Some((name, count)) = self.repeated(&key) {
            let series = json!({"series": {"count": count, "lastObservedTime": now}});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(&series)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or("object"), now.0.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: object.namespace.clone().or_else(|| Some("default".to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(now),
            type_: Some(match said.type_ {
                EventType::Normal => "Normal".to_owned(),
                EventType::Warning => "Warning".to_owned(),
            }),
            reason: Some(said.reason.clone()),
            note: said.note.clone(),
            action: Some(said.action.clone()),
            regarding: Some(object.clone()),
            related: said.secondary.clone(),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            series: None::<EventSeries>,
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        self.lock().insert(key, Known { name, count: 1, at: Instant::now() });
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event that says the same, and how often it has been said with this time.
    fn repeated(&self, key: &Key) -> Option<(String, i32)> {
        let mut known = self.lock();
        known.retain(|_, event| event.at.elapsed() < SERIES);
        let event = known.get_mut(key)?;
        (event.count, event.at) = (event.count + 1, Instant::now());
        Some((event.name.clone(), event.count))
    }
}
