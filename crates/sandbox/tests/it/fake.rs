//! A very small stand-in for an API server: enough for the node to run pods against.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::StreamExt;

#[derive(Clone)]
pub(crate) struct Fake {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    version: Arc<std::sync::atomic::AtomicU64>,
    events: broadcast::Sender<(String, Value)>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self { objects: Arc::default(), version: Arc::default(), events: broadcast::Sender::new(1000) }
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(Router::new().fallback(handle).with_state(self.clone()), "default")
    }

    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        self.objects.lock().unwrap().iter().filter(|(k, _)| k.contains(collection)).map(|(_, v)| v.clone()).collect()
    }

    fn store(&self, key: String, mut value: Value, kind: &str) -> Value {
        let version = self.version.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        if kind == "DELETED" {
            self.objects.lock().unwrap().remove(&key);
        } else {
            self.objects.lock().unwrap().insert(key.clone(), value.clone());
        }
        let _ = self.events.send((key, json!({ "type": kind, "object": value })));
        value
    }
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else if key == "podIPs" {
                    target.insert(key.clone(), json!([value[1]]));
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn missing() -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "not found", "reason": "NotFound", "code": 404 });
    (StatusCode::NOT_FOUND, axum::Json(status)).into_response()
}

/// Keys are paths without the namespaces part for collections: `/api/v1/namespaces/NS/pods/NAME`.
async fn handle(State(fake): State<Fake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    let path = parts.uri.path().trim_end_matches("/status").to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    let value = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
    if path.ends_with("/token") {
        return axum::Json(json!({ "status": { "token": "a-token", "expirationTimestamp": "2030-01-01T00:00:00Z" } }))
            .into_response();
    }
    let plural = *segments.last().unwrap();
    let is_collection = !fake.objects.lock().unwrap().contains_key(&path)
        && ["pods", "secrets", "configmaps", "services", "endpointslices", "events", "nodes"].contains(&plural);
    match parts.method {
        Method::GET if is_collection => {
            let belongs = {
                let (path, plural) = (path.clone(), plural.to_owned());
                move |key: &str| {
                    key.starts_with(&path) || (!path.contains("namespaces") && key.contains(&format!("/{plural}/")))
                }
            };
            if query.contains("watch=true") {
                let stream = tokio_stream::wrappers::BroadcastStream::new(fake.events.subscribe());
                let lines = stream.filter_map(move |event| {
                    let (key, event) = event.ok()?;
                    belongs(&key).then(|| Ok::<_, Infallible>(format!("{event}\n")))
                });
                return Body::from_stream(lines).into_response();
            }
            let items: Vec<Value> =
                fake.objects.lock().unwrap().iter().filter(|(k, _)| belongs(k)).map(|(_, v)| v.clone()).collect();
            axum::Json(
                json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items }),
            )
            .into_response()
        }
        Method::GET => match fake.objects.lock().unwrap().get(&path) {
            Some(object) => axum::Json(object.clone()).into_response(),
            None => missing(),
        },
        Method::POST => {
            let mut object = value();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            object["metadata"]["namespace"] = json!(segments.iter().skip_while(|s| **s != "namespaces").nth(1));
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
            axum::Json(fake.store(format!("{path}/{name}"), object, "ADDED")).into_response()
        }
        Method::PATCH => {
            let Some(mut object) = fake.objects.lock().unwrap().get(&path).cloned() else { return missing() };
            merge(&mut object, &value());
            axum::Json(fake.store(path, object, "MODIFIED")).into_response()
        }
        Method::DELETE => {
            let Some(mut object) = fake.objects.lock().unwrap().get(&path).cloned() else { return missing() };
            let grace = value()["gracePeriodSeconds"].as_i64().unwrap_or(30);
            if grace == 0 {
                return axum::Json(fake.store(path, object, "DELETED")).into_response();
            }
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            axum::Json(fake.store(path, object, "MODIFIED")).into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}
