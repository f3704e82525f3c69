//! Watches: what changed after a version, as a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::{Context, Shape, check_options, number, selectors, shape, table, version_number, with_warnings};
use crate::selector::{Fields, Labels};
use crate::status::ApiError;
use crate::store::{Change, Object, StoreError};

/// How often a watch that wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(55);

struct Watch {
    context: Context,
    labels: Labels,
    fields: Fields,
    /// Everything up to here was told.
    revision: u64,
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    /// A table's column definitions come with the first event only.
    columns_told: bool,
    changed: tokio::sync::watch::Receiver<u64>,
    end: Instant,
    closing: bool,
}

/// Starts a watch.
pub(crate) fn start(context: Context) -> Result<Response, ApiError> {
    if !context.kind.allows("watch") {
        return Err(ApiError::method_not_allowed());
    }
    let (labels, mut fields) = selectors(&context)?;
    check_options(&context, true)?;
    if let Some(name) = &context.target.name {
        fields = Fields::named(name);
    }
    let limit = number(&context, "timeoutSeconds")?
        .filter(|s| *s > 0)
        .map_or(crate::server::WATCH_LIMIT, |s| Duration::from_secs(s as u64));
    let version = context.query.get("resourceVersion").unwrap_or_default().to_owned();
    let wanted = match version.as_str() {
        "" => 0,
        text => version_number(text).map_err(|e| ApiError::new(500, "", e))?,
    };
    let initial = context.query.flag("sendInitialEvents");
    let store = context.server.store();
    let changed = store.subscribe();
    let bookmarks = context.query.flag("allowWatchBookmarks") == Some(true);
    let kind_json = if context.accept.stream { "application/json;stream=watch" } else { "application/json" };
    let mut watch = Watch {
        labels,
        fields,
        revision: 0,
        ready: VecDeque::new(),
        bookmarks,
        columns_told: false,
        changed,
        end: Instant::now() + limit,
        closing: false,
        context,
    };
    watch.begin(wanted, version.is_empty() || version == "0", initial);
    watch.changed.mark_changed();
    let warned = with_warnings(&watch.context, Response::new(Body::empty()));
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), watch))
    });
    let mut response = Response::new(Body::from_stream(stream));
    *response.headers_mut() = warned.headers().clone();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind_json));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

impl Watch {
    /// Queues what comes before live events.
    fn begin(&mut self, wanted: u64, any: bool, initial: Option<bool>) {
        let store = self.context.server.store();
        let resource = self.context.kind.storage();
        if initial == Some(true) || (any && initial.is_none()) {
            let (revision, objects) = store.list(&resource, self.context.target.namespace.as_deref());
            self.revision = revision;
            for object in objects {
                let value = self.context.present(&object);
                if self.selects(&value) {
                    self.tell("ADDED", value);
                }
            }
            if initial == Some(true) && self.bookmarks {
                self.bookmark(true);
            }
        } else if any {
            self.revision = store.revision();
        } else {
            self.revision = wanted;
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.closing {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    self.catch_up();
                }
                () = tokio::time::sleep_until(self.end) => {
                    self.catch_up();
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                    self.closing = true;
                }
                () = tokio::time::sleep_until(next_bookmark), if self.bookmarks => {
                    self.bookmark(false);
                    next_bookmark = Instant::now() + BOOKMARK_EVERY;
                }
            }
        }
    }

    fn catch_up(&mut self) {
        let resource = self.context.kind.storage();
        match self.context.server.store().changes(Some(&resource), self.revision) {
            Ok((revision, changes)) => {
                for change in changes {
                    self.change(&change);
                }
                // A watch from a version that is yet to come waits for it.
                self.revision = self.revision.max(revision);
                let kind = &self.context.kind;
                if self.context.server.kinds().find(&kind.group, &kind.version, &kind.plural).is_none() {
                    self.closing = true;
                }
            }
            Err(StoreError::Compacted { asked, oldest }) => {
                self.fail(&ApiError::expired(format!("too old resource version: {asked} ({oldest})")));
            }
            Err(other) => self.fail(&ApiError::internal(other)),
        }
    }

    fn change(&mut self, change: &Change) {
        if self.context.target.namespace.as_ref().is_some_and(|ns| *ns != change.new.namespace) {
            return;
        }
        let new = self.context.present(&change.new);
        let show = |object: &Arc<Object>| self.context.present(object);
        let matched_before = change.old.as_ref().map(show).filter(|old| self.selects(old));
        let matches_now = !change.deleted && self.selects(&new);
        match (matched_before, matches_now) {
            (None, true) => self.tell("ADDED", new),
            (Some(_), true) => self.tell("MODIFIED", new),
            (Some(mut old), false) => {
                old["metadata"]["resourceVersion"] = change.revision.to_string().into();
                self.tell("DELETED", old);
            }
            (None, false) => {}
        }
    }

    fn selects(&self, value: &Value) -> bool {
        self.labels.matches(&value["metadata"]["labels"]) && self.fields.matches(value, &self.context.hooks)
    }

    fn tell(&mut self, kind: &str, value: Value) {
        let object = match &self.context.accept.shape {
            Shape::Table(version) => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let mut table = table(&self.context, version, std::slice::from_ref(&value), &metadata);
                if self.columns_told {
                    table["columnDefinitions"] = Value::Null;
                }
                self.columns_told = true;
                table
            }
            other => shape(&self.context, other, value),
        };
        self.push(kind, &object);
    }

    fn bookmark(&mut self, initial_events_end: bool) {
        let kind = &self.context.kind;
        let mut value = json!({
            "kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string()},
        });
        if initial_events_end {
            value["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match &self.context.accept.shape {
            Shape::Table(version) => {
                let metadata = value["metadata"].clone();
                let list = json!({"resourceVersion": metadata["resourceVersion"]});
                let mut table = table(&self.context, version, std::slice::from_ref(&value), &list);
                if self.columns_told {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
            other => shape(&self.context, other, value),
        };
        self.push("BOOKMARK", &object);
    }

    fn fail(&mut self, error: &ApiError) {
        self.push("ERROR", &error.body());
        self.closing = true;
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.ready.push_back(line.into());
    }
}
