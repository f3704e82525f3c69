//! What `kubectl logs`, `exec`, `attach`, `cp` and `port-forward` talk to: requests on a pod that become streams.

mod channels;
mod delegate;
mod forward;
mod output;
mod spdy;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use crate::network::links::Peer;
use crate::node::Pods;
use crate::node::shared::PodShared;

/// Subprotocols of exec and attach, the newest first.
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Port-forward: SPDY frames inside of WebSocket messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Answers such requests.
#[derive(Debug, Clone)]
pub struct Streams {
    pods: Pods,
}

/// A request that cannot be met.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    status: StatusCode,
    reason: &'static str,
    message: String,
}

impl StreamError {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    fn missing(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: "NotFound", message: message.into() }
    }

    fn internal(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, reason: "InternalError", message: message.into() }
    }
}

impl IntoResponse for StreamError {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
        });
        (self.status, axum::Json(status)).into_response()
    }
}

/// The query of a request, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let bytes = text.as_bytes();
            let mut result = Vec::with_capacity(bytes.len());
            let mut i = 0;
            while i < bytes.len() {
                let hex = (bytes[i] == b'%')
                    .then(|| bytes.get(i + 1..i + 3))
                    .flatten()
                    .and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
                match (hex, bytes[i]) {
                    (Some(byte), _) => {
                        result.push(byte);
                        i += 2;
                    }
                    (None, b'+') => result.push(b' '),
                    (None, byte) => result.push(byte),
                }
                i += 1;
            }
            String::from_utf8_lossy(&result).into_owned()
        };
        Self(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v == "true" || v == "1")
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, StreamError> {
        self.get(key)
            .map(|v| v.parse().map_err(|_| StreamError::bad(format!("{key}: invalid number {v:?}"))))
            .transpose()
    }
}

impl Streams {
    /// Streams of these pods.
    pub fn new(pods: Pods) -> Self {
        Self { pods }
    }

    /// Answers a request on `pods/NAME/SUBRESOURCE`.
    pub async fn handle(&self, pod: &Value, subresource: &str, request: Request<Body>) -> Response {
        let pod = self.pod(pod);
        let result = match (pod, subresource) {
            (Err(error), _) => Err(error),
            (Ok(pod), "log") => output::log(&pod, &Query::parse(request.uri().query().unwrap_or_default())),
            (Ok(pod), "exec" | "attach" | "portforward") => upgrade(pod, subresource, request).await,
            (Ok(_), other) => Err(StreamError::missing(format!("pods have no {other}"))),
        };
        result.unwrap_or_else(IntoResponse::into_response)
    }

    /// The pod behind an object, if its node answers.
    fn pod(&self, object: &Value) -> Result<Arc<PodShared>, StreamError> {
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
        let context = self.pods.context();
        // The administrator's requests get through when the API is away for others.
        let reached = context.links.read(|table| {
            let link = table.nodes.get(node);
            link.is_none_or(|l| !l.stopped && !l.cut && !l.from.contains(&Peer::Api))
        });
        if !reached {
            let address = context.links.read(|table| table.nodes.get(node).and_then(|l| l.address));
            let address = address.map(|a| a.to_string()).unwrap_or_default();
            return Err(StreamError::internal(format!("error dialing backend: dial tcp {address}:10250: i/o timeout")));
        }
        self.pods.find(object["metadata"]["uid"].as_str().unwrap_or_default()).ok_or_else(|| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            StreamError::bad(format!("pod {name} does not have a host assigned, or its node does not run it yet"))
        })
    }
}

async fn upgrade(pod: Arc<PodShared>, subresource: &str, request: Request<Body>) -> Result<Response, StreamError> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        StreamError::bad(format!("{subresource} needs a WebSocket: the sandbox does not speak SPDY directly"))
    })?;
    match subresource {
        "portforward" => {
            let upgrade = upgrade.protocols([TUNNEL]).max_message_size(4 << 20);
            Ok(upgrade.on_upgrade(move |socket| forward::serve(pod, socket)))
        }
        "exec" => {
            let target = channels::Exec::new(&pod, &query)?;
            Ok(channels(upgrade).on_upgrade(move |socket: WebSocket| target.serve(socket)))
        }
        _ => {
            let target = channels::Attach::new(&pod, &query)?;
            Ok(channels(upgrade).on_upgrade(move |socket: WebSocket| target.serve(socket)))
        }
    }
}

fn channels(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.protocols(CHANNELS).max_message_size(4 << 20).write_buffer_size(0)
}

/// The container that a request means: the one it names, or the only one.
pub(crate) fn container(pod: &PodShared, query: &Query) -> Result<String, StreamError> {
    let spec: PodSpec = pod.spec();
    let names =
        |list: &[k8s_openapi::api::core::v1::Container]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let (main, init) = (names(&spec.containers), names(spec.init_containers.as_deref().unwrap_or_default()));
    match query.get("container").filter(|c| !c.is_empty()) {
        Some(wanted) if main.iter().chain(&init).any(|c| c == wanted) => Ok(wanted.to_owned()),
        Some(wanted) => Err(StreamError::bad(format!("container {wanted} is not valid for pod {}", pod.name))),
        None if main.len() == 1 => Ok(main[0].clone()),
        None => {
            let more = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(StreamError::bad(format!(
                "a container name must be specified for pod {}, choose one of: [{}]{more}",
                pod.name,
                main.join(" ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a%2Bb+c&stdin=true&tty=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a+b c"]);
        assert!(query.flag("stdin"));
        assert!(!query.flag("tty"));
    }
}
