//! Dynamic variables: when the mounted configuration changes, the running server takes them over without a restart.
//!
//! This needs no decision: it changes neither who may write nor who replicates. (On a cluster the kubelet brings a changed
//! ConfigMap into the pod within about a minute.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::paths;
use topology::member::Phase;

use crate::places::Places;
use crate::{Shared, actions};

const LOOK_EVERY: Duration = Duration::from_secs(2);

type Variables = BTreeMap<String, String>;

/// What the running server was started with, or has taken over since; `None`: no server was started.
#[derive(Debug, Default)]
pub(crate) struct InForce(Mutex<Option<Variables>>);

impl InForce {
    fn lock(&self) -> MutexGuard<'_, Option<Variables>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server is about to be started with what is mounted.
    pub(crate) fn started(&self, places: &Places) {
        *self.lock() = mounted(places);
    }
}

/// `None` while the ConfigMap is not (or not wholly) there: nothing is concluded from that.
fn mounted(places: &Places) -> Option<Variables> {
    serde_json::from_slice(&std::fs::read(places.config.join(paths::VARIABLES_JSON)).ok()?).ok()
}

/// What to set: changed ones to their new value, vanished ones to the server's own default.
fn changes(old: &Variables, new: &Variables) -> Vec<(String, String)> {
    let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changed
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(gone.map(|name| (name.clone(), "DEFAULT".to_owned())))
        .collect()
}

/// Looks at the mounted variables for ever.
pub(crate) async fn follow(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(new) = mounted(&shared.places) else { continue };
        let Some(old) = shared.variables.lock().clone() else { continue };
        if old == new || shared.state.now().phase != Phase::Running {
            continue;
        }
        let Ok(mut session) = actions::session(&shared).await else { continue };
        let mut refused = Vec::new();
        let mut broken = false;
        for (name, value) in changes(&old, &new) {
            match session.set_variable(&name, &value).await {
                Ok(()) => tracing::info!(name, value, "variable changed"),
                Err(sql::SqlError::Refused { errno, message, .. }) => {
                    refused.push(format!("{name}={value}: {message} ({errno})"));
                }
                Err(_) => broken = true,
            }
        }
        // No connection any more: once again, from the beginning; setting a value twice does no harm.
        if broken {
            continue;
        }
        // What was refused stays as it was, until the option is changed again; a restart would not help either.
        *shared.variables.lock() = Some(new);
        let refused = (!refused.is_empty()).then(|| refused.join("; "));
        if let Some(refused) = &refused {
            tracing::warn!(refused, "the server does not take over changed options");
        }
        shared.state.update(|state| state.options_refused = refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanishes_gets_its_default() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        let old: Variables = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let new: Variables = map(&[("a", "1"), ("b", "4"), ("d", "5")]);
        let set: Vec<(String, String)> = changes(&old, &new);
        let set: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(set, [("b", "4"), ("d", "5"), ("c", "DEFAULT")]);
    }
}
