//! `pods/log`.

use axum::body::Body;
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Query, StreamError, container};
use crate::node::logs::{LogOptions, Stream, read};
use crate::node::shared::PodShared;

pub(super) fn log(pod: &PodShared, query: &Query) -> Result<Response, StreamError> {
    let name = container(pod, query)?;
    let mut state = pod.state();
    let status = state.container(&name).cloned().unwrap_or_default();
    let current = status.state.as_ref();
    let waits = current.and_then(|s| s.waiting.as_ref());
    let has_run = |run: i32| pod.log_path(&name, run).is_file();
    let run = if query.flag("previous") {
        // A container that waits for its next run has ended its latest one: that is the previous one then.
        let between = waits.is_some() && has_run(status.restart_count);
        let run = if between { status.restart_count } else { status.restart_count - 1 };
        if run < 0 || !has_run(run) {
            let text = format!("previous terminated container \"{name}\" in pod \"{}\" not found", pod.name);
            return Err(StreamError::bad(text));
        }
        run
    } else {
        if let Some(waiting) = waits.filter(|_| !has_run(status.restart_count)) {
            let reason = waiting.reason.as_deref().unwrap_or("ContainerCreating");
            let verb = if reason.contains("Image") { "trying and failing to pull image" } else { reason };
            return Err(StreamError::bad(format!(
                "container \"{name}\" in pod \"{}\" is waiting to start: {verb}",
                pod.name
            )));
        }
        status.restart_count
    };
    let since = match (query.number::<i64>("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => Some(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)),
        (None, Some(time)) => {
            Some(time.parse().map_err(|_| StreamError::bad(format!("sinceTime: invalid time {time:?}")))?)
        }
        (None, None) => None,
    };
    let options = LogOptions {
        tail: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
        stream: match query.get("stream") {
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            _ => None,
        },
    };
    // Only a container that runs writes on.
    let follow = if query.flag("follow") { pod.running(&name).map(|r| r.log.written()) } else { None };
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(read(pod.log_path(&name, run), options, follow, sender));
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>));
    Response::builder()
        .header("content-type", "text/plain")
        .body(body)
        .map_err(|e| StreamError::internal(e.to_string()))
}
