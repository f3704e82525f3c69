//! What happens by itself: garbage collection, namespaces that empty themselves, and the objects
//! that every cluster and namespace has.

mod collect;
mod namespaces;

use std::time::Duration;

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::server::Server;

/// How long a pod may take to end, given what was asked for. Zero for all other kinds.
pub(crate) fn grace(kind: &Kind, value: &Value, asked: Option<i64>) -> i64 {
    if kind.kind != "Pod" || !kind.group.is_empty() {
        return 0;
    }
    let waiting = value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if waiting || ended {
        return 0;
    }
    let grace = asked.unwrap_or_else(|| value["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30));
    // A negative period means "at once, but gracefully".
    if grace < 0 { 1 } else { grace }
}

/// Whether something other than finalizers in the metadata holds an object: a namespace's own.
pub(crate) fn may_go(kind: &Kind, value: &Value) -> bool {
    let namespace = kind.kind == "Namespace" && kind.group.is_empty();
    !namespace || value["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

/// Makes what every cluster has.
pub(crate) fn bootstrap(server: &Server) {
    let namespaces = (String::new(), "namespaces".to_owned());
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        if server.store().get(&namespaces, "", name).is_some() {
            continue;
        }
        let value = json!({
            "metadata": {
                "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now(),
                "labels": {"kubernetes.io/metadata.name": name},
            },
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        if let Err(error) = server.store().put(&namespaces, value, 0) {
            tracing::error!(%error, name, "cannot create a namespace");
        }
    }
    namespaces::furnish(server);
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Runs the loops, where there is a runtime to run them.
pub(crate) fn start(server: &Server) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let weak = server.weak();
    let mut changed = server.store().subscribe();
    changed.mark_changed();
    runtime.spawn(async move {
        let mut graph = collect::Graph::default();
        loop {
            // Some things are waited for that no change announces, such as a clock.
            let wait = tokio::time::timeout(Duration::from_secs(5), changed.changed()).await;
            if matches!(wait, Ok(Err(_))) {
                return;
            }
            let Some(server) = weak.upgrade() else { return };
            graph.follow(&server);
            graph.collect(&server);
            namespaces::furnish(&server);
            namespaces::empty(&server);
            crate::auth::fill_token_secrets(&server);
            drop(server);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
