//! Events on objects, written in the background; the same event again raises a count.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that are remembered so that repetitions are counted.
const REMEMBERED: usize = 512;

/// Writes events for one component.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    source: EventSource,
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// Starts the task that writes.
    pub fn start(client: Client) -> Self {
        let (queue, inbox) = mpsc::channel(256);
        tokio::spawn(write(client, inbox));
        Self { queue }
    }

    /// Records an event; it is dropped when far too many wait already.
    pub fn record(
        &self,
        about: ObjectReference,
        component: &str,
        host: &str,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let source = EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()) };
        if self.queue.try_send(Note { about, source, warning, reason, message }).is_err() {
            tracing::debug!(reason, "event dropped");
        }
    }
}

/// A reference to an object, for its events.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

async fn write(client: Client, mut inbox: mpsc::Receiver<Note>) {
    let mut known: HashMap<(String, String, String, String), (String, i32)> = HashMap::new();
    while let Some(note) = inbox.recv().await {
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = (
            note.about.uid.clone().unwrap_or_default(),
            note.about.field_path.clone().unwrap_or_default(),
            note.reason.to_owned(),
            note.message.clone(),
        );
        let now = Time(jiff::Timestamp::now());
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = json!({ "count": count, "lastTimestamp": now });
            if api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                continue;
            }
            known.remove(&key);
        }
        let name = format!("{}.{:016x}", note.about.name.clone().unwrap_or_default(), rand::random::<u64>());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: note.about,
            reason: Some(note.reason.to_owned()),
            message: Some(note.message),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            reporting_component: note.source.component.clone().unwrap_or_default().into(),
            reporting_instance: note.source.host.clone().unwrap_or_default().into(),
            source: Some(note.source),
            ..Event::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(key, (name, 1));
            }
            Err(error) => tracing::debug!("event {}: {error}", note.reason),
        }
    }
}
