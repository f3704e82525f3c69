//! What is stored: every object as compact JSON, one revision counter, and the recent changes.
//!
//! A write is made durable (in [`log`]) before anyone can see it. Lists are consistent snapshots,
//! and the changes after a list's revision are exactly what a watch from there gets.

mod log;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;

use log::{Log, Record};

/// How many changes, and how many bytes of them, are kept for watches.
const HISTORY_EVENTS: usize = 4096;
const HISTORY_BYTES: usize = 6 << 20;

/// Group and plural under which a kind is stored.
pub type Resource = (String, String);

/// One stored version of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Its resourceVersion.
    pub revision: u64,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    json: Box<str>,
}

impl Object {
    /// The object, without `kind`. Custom resources keep the `apiVersion` that they are stored in.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// The same as text: an object, never empty.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// One change.
#[derive(Debug)]
pub struct Change {
    /// The revision it made.
    pub revision: u64,
    /// What kind of object.
    pub resource: Arc<Resource>,
    /// The state before, if the object existed.
    pub old: Option<Arc<Object>>,
    /// The state after; for a deletion the last state, with the deletion's revision.
    pub new: Arc<Object>,
    /// Whether this is a deletion.
    pub deleted: bool,
}

/// Why a read or write of the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The object is not at the expected revision (or exists, or does not).
    #[error("the object has been modified")]
    Clash,
    /// The history does not reach back that far.
    #[error("too old resource version: {asked} ({oldest})")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest one known.
        oldest: u64,
    },
    /// A log or snapshot cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Resource, BTreeMap<(String, String), Arc<Object>>>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// The revision before the oldest change in `history`.
    oldest: u64,
    log: Option<Log>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    head: watch::Sender<u64>,
}

impl Store {
    /// Opens the store in a directory, or in memory alone.
    pub fn open(dir: Option<&Path>) -> Result<Self, StoreError> {
        let mut state = State { revision: 1, oldest: 1, ..State::default() };
        if let Some(dir) = dir {
            let log = Log::open(dir, |record| state.load(&record))?;
            state.log = Some(log);
            state.oldest = state.revision;
        }
        let (head, _) = watch::channel(state.revision);
        Ok(Self { state: Mutex::new(state), head })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Forgets the changes so far: nobody can have seen what was before.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        state.oldest = state.revision;
        state.history.clear();
        state.history_bytes = 0;
    }

    /// Tells of every new revision.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// One object.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock().objects.get(resource)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The objects of a kind, in all namespaces or one, by namespace and name, and the revision of
    /// the list.
    pub fn list(&self, resource: &Resource, namespace: Option<&str>) -> (u64, Vec<Arc<Object>>) {
        let state = self.lock();
        (state.revision, state.list(resource, namespace))
    }

    /// The list as it was at `revision`.
    pub fn list_at(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Object>>, StoreError> {
        let state = self.lock();
        if revision < state.oldest {
            return Err(StoreError::Compacted { asked: revision, oldest: state.oldest });
        }
        let mut objects: BTreeMap<(String, String), Arc<Object>> =
            state.list(resource, namespace).into_iter().map(|o| ((o.namespace.clone(), o.name.clone()), o)).collect();
        let later = state.history.iter().rev().take_while(|c| c.revision > revision);
        for change in later.filter(|c| *c.resource == *resource && namespace.is_none_or(|ns| ns == c.new.namespace)) {
            let key = (change.new.namespace.clone(), change.new.name.clone());
            match &change.old {
                Some(old) => objects.insert(key, old.clone()),
                None => objects.remove(&key),
            };
        }
        Ok(objects.into_values().collect())
    }

    /// Kinds of which anything is stored.
    pub fn resources(&self) -> Vec<Resource> {
        self.lock().objects.iter().filter(|(_, o)| !o.is_empty()).map(|(r, _)| r.clone()).collect()
    }

    /// The changes after a revision, of one kind or all, and the revision they reach to.
    pub fn changes(&self, resource: Option<&Resource>, after: u64) -> Result<(u64, Vec<Arc<Change>>), StoreError> {
        let state = self.lock();
        if after < state.oldest {
            return Err(StoreError::Compacted { asked: after, oldest: state.oldest });
        }
        let start = state.history.partition_point(|c| c.revision <= after);
        let changes =
            state.history.range(start..).filter(|c| resource.is_none_or(|r| *c.resource == *r)).cloned().collect();
        Ok((state.revision, changes))
    }

    /// Creates (`expected` 0) or replaces an object that is at revision `expected`. The revision is
    /// written into its metadata.
    pub fn put(&self, resource: &Resource, value: Value, expected: u64) -> Result<Arc<Object>, StoreError> {
        self.commit(resource, value, expected, false)
    }

    /// Deletes an object that is at revision `expected`; `last` is its last state.
    pub fn delete(&self, resource: &Resource, last: Value, expected: u64) -> Result<Arc<Object>, StoreError> {
        self.commit(resource, last, expected, true)
    }

    fn commit(
        &self,
        resource: &Resource,
        mut value: Value,
        expected: u64,
        delete: bool,
    ) -> Result<Arc<Object>, StoreError> {
        let text = |value: &Value, field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (text(&value, "namespace"), text(&value, "name"));
        let mut state = self.lock();
        let old = state.objects.get(resource).and_then(|objects| objects.get(&key)).cloned();
        if old.as_ref().map_or(0, |o| o.revision) != expected || (delete && old.is_none()) {
            return Err(StoreError::Clash);
        }
        let revision = state.revision + 1;
        if let Some(map) = value.as_object_mut() {
            map.remove("kind");
        }
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let json = value.to_string().into_boxed_str();
        let object = Arc::new(Object { revision, namespace: key.0.clone(), name: key.1.clone(), json });
        let record =
            Record { revision, resource, namespace: &key.0, name: &key.1, json: (!delete).then_some(&*object.json) };
        if let Some(log) = &mut state.log {
            log.append(&record)?;
        }
        let objects = state.objects.entry(resource.clone()).or_default();
        if delete {
            objects.remove(&key);
        } else {
            objects.insert(key, object.clone());
        }
        state.revision = revision;
        state.remember(Change {
            revision,
            resource: Arc::new(resource.clone()),
            old,
            new: object.clone(),
            deleted: delete,
        });
        state.compact()?;
        drop(state);
        self.head.send_replace(revision);
        Ok(object)
    }
}

impl State {
    fn load(&mut self, record: &Record<'_>) {
        self.revision = self.revision.max(record.revision);
        if record.name.is_empty() {
            return;
        }
        let key = (record.namespace.to_owned(), record.name.to_owned());
        let objects = self.objects.entry(record.resource.clone()).or_default();
        match record.json {
            None => drop(objects.remove(&key)),
            Some(json) => {
                let object = Object {
                    revision: record.revision,
                    namespace: key.0.clone(),
                    name: key.1.clone(),
                    json: json.into(),
                };
                objects.insert(key, Arc::new(object));
            }
        }
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(objects) = self.objects.get(resource) else { return Vec::new() };
        match namespace {
            None => objects.values().cloned().collect(),
            Some(ns) => {
                let from = (ns.to_owned(), String::new());
                let range = objects.range::<(String, String), _>((Bound::Included(&from), Bound::Unbounded));
                range.take_while(|((n, _), _)| n == ns).map(|(_, o)| o.clone()).collect()
            }
        }
    }

    fn remember(&mut self, change: Change) {
        self.history_bytes += change.new.json.len();
        self.history.push_back(Arc::new(change));
        while self.history.len() > HISTORY_EVENTS || self.history_bytes > HISTORY_BYTES {
            let Some(gone) = self.history.pop_front() else { break };
            self.history_bytes -= gone.new.json.len();
            self.oldest = gone.revision;
        }
    }

    /// Writes a snapshot when the log has grown long beside what is alive.
    fn compact(&mut self) -> Result<(), StoreError> {
        let Self { revision, objects, log: Some(log), .. } = self else { return Ok(()) };
        if !log.is_long() {
            return Ok(());
        }
        let records = objects.iter().flat_map(|(resource, objects)| {
            objects.values().map(move |o| Record {
                revision: o.revision,
                resource,
                namespace: &o.namespace,
                name: &o.name,
                json: Some(&o.json),
            })
        });
        log.snapshot(*revision, records)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods() -> Resource {
        (String::new(), "pods".to_owned())
    }

    fn pod(name: &str, n: u32) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "n": n})
    }

    #[test]
    fn lists_go_back_in_time() {
        let store = Store::open(None).unwrap();
        let a = store.put(&pods(), pod("a", 1), 0).unwrap();
        let then = store.revision();
        store.put(&pods(), pod("b", 1), 0).unwrap();
        store.put(&pods(), pod("a", 2), a.revision).unwrap();
        let old = store.list_at(&pods(), Some("d"), then).unwrap();
        assert_eq!(old.len(), 1);
        assert_eq!(old[0].value()["n"], 1);
        assert_eq!(store.list(&pods(), None).1.len(), 2);
        assert_eq!(store.changes(Some(&pods()), then).unwrap().1.len(), 2);
    }

    #[test]
    fn a_stale_write_clashes() {
        let store = Store::open(None).unwrap();
        let a = store.put(&pods(), pod("a", 1), 0).unwrap();
        assert!(matches!(store.put(&pods(), pod("a", 2), 0), Err(StoreError::Clash)));
        store.delete(&pods(), pod("a", 1), a.revision).unwrap();
        assert!(matches!(store.delete(&pods(), pod("a", 1), a.revision), Err(StoreError::Clash)));
    }
}
