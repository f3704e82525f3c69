//! Which pods may be restarted or taken away: what the *resources* loop asks for, and what the *replication* loop has let go.
//!
//! Both loops run in one process, so this lies in memory. Losing it costs a pass: the one asks again, the other answers
//! again. A pod is meant by its UID: a release of one does not release the next of its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::watches::{Caches, Key};

/// A pod's name and UID.
pub(crate) type PodId = (String, String);

#[derive(Debug, Default)]
struct Book {
    /// By object.
    asked: BTreeMap<Key, BTreeSet<PodId>>,
    /// By topology.
    released: BTreeMap<Key, BTreeSet<PodId>>,
}

/// It.
#[derive(Debug, Clone, Default)]
pub struct Releases {
    book: Arc<Mutex<Book>>,
}

impl Releases {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These pods of an object shall be restarted or taken away, and no others.
    pub(crate) fn ask(&self, caches: &Caches, object: &Key, pods: &BTreeSet<PodId>) {
        let news = {
            let mut book = self.book();
            if pods.is_empty() {
                book.asked.remove(object).is_some()
            } else {
                book.asked.insert(object.clone(), pods.clone()).as_ref() != Some(pods)
            }
        };
        if news {
            caches.raise();
        }
    }

    /// What is asked for an object.
    pub(crate) fn asked(&self, object: &Key) -> BTreeSet<PodId> {
        self.book().asked.get(object).cloned().unwrap_or_default()
    }

    /// These pods of a topology may go now, and no others. Says whether that is news.
    pub(crate) fn publish(&self, topology: &Key, pods: &BTreeSet<PodId>) -> bool {
        let mut book = self.book();
        if pods.is_empty() {
            book.released.remove(topology).is_some()
        } else {
            book.released.insert(topology.clone(), pods.clone()).as_ref() != Some(pods)
        }
    }

    /// May this pod go?
    pub(crate) fn is_released(&self, namespace: &str, pod: &PodId) -> bool {
        self.book().released.iter().any(|((of, _), pods)| of == namespace && pods.contains(pod))
    }
}
