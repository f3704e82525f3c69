//! Runs one scenario against a server of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apiserver::{Identity, Options, Server};
use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tower::ServiceExt as _;

use crate::compare::{Environment, Mode, at, differences, fill, sort_errors, strip};
use crate::kubectl::Kubectl;

/// Each step's name, and what differs.
pub(crate) type Outcome = Vec<(String, Vec<String>)>;

struct Answer {
    status: u16,
    headers: HeaderMap,
    json: Option<Value>,
    text: String,
}

struct Seen {
    uid: String,
    version: String,
    generation: Option<i64>,
}

struct Runner {
    router: Router,
    scenario: Value,
    environment: Environment,
    seen: BTreeMap<String, Seen>,
    kubectl: Option<Kubectl>,
    /// How long a poll may take.
    patience: f64,
}

/// Runs a scenario. `waits`: it may poll for what comes, else only for a moment.
pub(crate) async fn run(scenario: Value, kubectl: Option<PathBuf>, waits: bool) -> Outcome {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let letters = b"bcdfghjklmnpqrstvwxz";
    let id: String = (0..6).map(|i| char::from(letters[(number as usize / 20_usize.pow(i)) % 20])).collect();
    let server = Server::open(Options { ca: Some("ca".to_owned()), ..Options::default() }).expect("a server");
    let environment = [("id".to_owned(), json!(id)), ("ns".to_owned(), json!(format!("conf-{id}")))].into();
    let kubectl = match kubectl.filter(|_| scenario["kind"] == "kubectl") {
        None => None,
        Some(binary) => Some(Kubectl::start(binary, server.router(), &format!("conf-{id}")).await.expect("a port")),
    };
    let patience = if waits { 10.0 } else { 1.0 };
    let mut runner =
        Runner { router: server.router(), scenario, environment, seen: BTreeMap::new(), kubectl, patience };
    let mut outcome = Vec::new();
    if let Err(error) = runner.set_up().await {
        return vec![("(set-up)".to_owned(), vec![error])];
    }
    let steps = runner.scenario["steps"].as_array().cloned().unwrap_or_default();
    for step in steps {
        let complaints = Box::pin(runner.step(&step)).await;
        let flaky = step.get("flaky").is_some_and(|f| !f.is_null());
        outcome
            .push((step["name"].as_str().unwrap_or_default().to_owned(), if flaky { Vec::new() } else { complaints }));
    }
    outcome
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Runner {
    async fn set_up(&mut self) -> Result<(), String> {
        if self.scenario["no_namespace"] == true {
            return Ok(());
        }
        let ns = self.environment["ns"].clone();
        let mut labels = self.scenario["ns_labels"].as_object().cloned().unwrap_or_default();
        labels.insert("conf".to_owned(), json!("1"));
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns, "labels": labels}});
        let answer = self.send(&json!({"method": "POST", "path": "/api/v1/namespaces", "body": body}), None).await;
        if answer.status != 201 {
            return Err(answer.text);
        }
        for part in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            let path = format!("/api/v1/namespaces/{}/{part}", ns.as_str().unwrap_or_default());
            for _ in 0..200 {
                if self.send(&json!({"method": "GET", "path": path}), None).await.status == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn request(request: &Value, auth: Option<&str>) -> Request<Body> {
        let mut path = request["path"].as_str().unwrap_or_default().to_owned();
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let mut pairs = Vec::new();
        for (key, value) in request["query"].as_object().into_iter().flatten() {
            match value {
                Value::Array(values) => pairs.extend(values.iter().map(|v| (key, text(v)))),
                other => pairs.push((key, text(other))),
            }
        }
        for (index, (key, value)) in pairs.iter().enumerate() {
            path.push(if index == 0 && !path.contains('?') { '?' } else { '&' });
            let _ = write!(path, "{}={}", escape(key), escape(value));
        }
        let body = if let Some(raw) = request["raw"].as_str() {
            Some(raw.as_bytes().to_vec())
        } else if let Some(raw) = request["raw_base64"].as_str() {
            base64::engine::general_purpose::STANDARD.decode(raw).ok()
        } else {
            request.get("body").map(|b| b.to_string().into_bytes())
        };
        let mut headers: BTreeMap<String, String> = [("accept", "application/json"), ("user-agent", "conf/1.0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        if body.is_some() {
            headers.insert("content-type".to_owned(), "application/json".to_owned());
        }
        for (key, value) in request["headers"].as_object().into_iter().flatten() {
            headers.remove(&key.to_lowercase());
            if let Some(value) = value.as_str() {
                headers.insert(key.to_lowercase(), value.to_owned());
            }
        }
        headers.retain(|k, v| !(k == "content-type" && v.is_empty()));
        if let Some(token) = auth.and_then(|a| a.strip_prefix("token:")) {
            headers.insert("authorization".to_owned(), format!("Bearer {token}"));
        }
        let mut builder = Request::builder().method(request["method"].as_str().unwrap_or("GET")).uri(path);
        for (key, value) in headers {
            builder = builder.header(key, value);
        }
        if auth == Some("anonymous") {
            builder = builder.extension(Identity::anonymous());
        }
        builder.body(body.map_or_else(Body::empty, Body::from)).expect("a request")
    }

    async fn send(&self, request: &Value, auth: Option<&str>) -> Answer {
        let response = self.router.clone().oneshot(Self::request(request, auth)).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, json: serde_json::from_str(&text).ok(), text }
    }

    async fn step(&mut self, step: &Value) -> Vec<String> {
        if step["replay"] == false {
            return Vec::new();
        }
        let outcome = if step.get("watch").is_some() {
            Box::pin(self.watch(step)).await
        } else if step.get("kubectl").is_some() {
            Box::pin(self.command(step)).await
        } else {
            self.exchange(step).await
        };
        outcome.unwrap_or_else(|missing| vec![missing])
    }

    fn auth(&self, step: &Value) -> Result<Option<String>, String> {
        step.get("auth")
            .filter(|a| !a.is_null())
            .map(|a| fill(a, &self.environment).map(|a| a.as_str().unwrap_or_default().to_owned()))
            .transpose()
    }

    /// Runs `kubectl`, again until it does what it did.
    async fn command(&mut self, step: &Value) -> Result<Vec<String>, String> {
        let end = Instant::now() + Kubectl::patience(step);
        loop {
            let kubectl = self.kubectl.as_ref().ok_or("kubectl is not installed")?;
            let running = kubectl.start_step(step, &self.environment).await?;
            let mut complaints = Vec::new();
            for inner in list(&step["during"]) {
                let found = Box::pin(self.step(inner)).await;
                complaints.extend(found.into_iter().map(|c| format!("during {}: {c}", inner["name"])));
            }
            complaints.extend(running.finish(step, &self.environment).await?);
            if complaints.is_empty() || Instant::now() > end {
                return Ok(complaints);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn exchange(&mut self, step: &Value) -> Result<Vec<String>, String> {
        let request = fill(&step["request"], &self.environment)?;
        let auth = self.auth(step)?;
        if let Some(seconds) = step["sleep_s"].as_f64() {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        }
        let poll = step.get("poll").filter(|p| !p.is_null());
        let end = Instant::now()
            + Duration::from_secs_f64(poll.map_or(0.0, |p| p["timeout_s"].as_f64().unwrap_or(30.0).min(self.patience)));
        let answer = loop {
            let answer = self.send(&request, auth.as_deref()).await;
            if poll.is_none_or(|p| self.settled(p, &answer)) || Instant::now() > end {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        };
        // First, so that the expectation may name what this answer gives.
        let mut complaints = Vec::new();
        for (name, pointer) in step["capture"].as_object().into_iter().flatten() {
            let pointer = pointer.as_str().unwrap_or_default();
            let value = match pointer.strip_prefix("header:") {
                Some(header) => answer.headers.get(header).and_then(|v| v.to_str().ok()).map(Value::from),
                None => answer.json.as_ref().and_then(|j| at(j, pointer)).cloned(),
            };
            match value {
                Some(value) => drop(self.environment.insert(format!("var.{name}"), value)),
                None => complaints.push(format!("nothing at {pointer} to keep as {name}")),
            }
        }
        complaints.extend(self.check(step, &request, &answer));
        Ok(complaints)
    }

    fn settled(&self, poll: &Value, answer: &Answer) -> bool {
        if poll["status"].as_u64().is_some_and(|s| s != u64::from(answer.status)) {
            return false;
        }
        poll["until"].as_object().into_iter().flatten().all(|(pointer, wanted)| {
            let found = answer.json.as_ref().and_then(|j| at(j, pointer)).filter(|v| !v.is_null());
            match wanted {
                Value::String(s) if s == "(present)" => found.is_some(),
                Value::String(s) if s == "(absent)" => found.is_none(),
                Value::Object(map) => map.iter().all(|(key, wanted)| match key.as_str() {
                    "(length)" => {
                        found.and_then(Value::as_array).map_or(0, Vec::len) as u64 == wanted.as_u64().unwrap_or(0)
                    }
                    "(condition)" => {
                        found.map_or(&[][..], list).iter().any(|c| c["type"] == wanted[0] && c["status"] == wanted[1])
                    }
                    "(contains)" => {
                        found.map(Value::to_string).unwrap_or_default().contains(wanted.as_str().unwrap_or_default())
                    }
                    "(not)" => found != Some(wanted),
                    _ => found == Some(&Value::Object(map.clone())),
                }),
                other => fill(other, &self.environment).is_ok_and(|w| found == Some(&w)),
            }
        })
    }

    fn relations(&mut self, value: &Value, update: bool) -> Vec<String> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name, uid) = (text("/kind"), text("/metadata/name"), text("/metadata/uid"));
        if kind.is_empty() || name.is_empty() || uid.is_empty() || kind == "Scale" {
            return Vec::new();
        }
        let key = format!("{kind}/{name}");
        let now = Seen {
            uid,
            version: text("/metadata/resourceVersion"),
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64),
        };
        let mut out = Vec::new();
        if let Some(old) = self.seen.get(&key) {
            if old.uid == now.uid {
                if !now.version.is_empty() && !old.version.is_empty() {
                    out.push(format!("{}:{key}", if now.version == old.version { "rv_same" } else { "rv_changed" }));
                }
                if let (Some(new), Some(old)) = (now.generation, old.generation) {
                    out.push(match new - old {
                        0 => format!("generation_same:{key}"),
                        1 => format!("generation_incremented:{key}"),
                        moved => format!("generation_moved_{moved}:{key}"),
                    });
                }
            } else {
                out.push(format!("uid_changed:{key}"));
            }
        }
        if update {
            self.seen.insert(key, now);
        }
        out
    }

    fn ignored(&self, step: &Value) -> Vec<Value> {
        list(&self.scenario["ignore"]).iter().chain(list(&step["ignore"])).cloned().collect()
    }

    fn check(&mut self, step: &Value, request: &Value, answer: &Answer) -> Vec<String> {
        let expected = &step["response"];
        let mut out = Vec::new();
        let dry = request.to_string().contains("dryRun");
        let relations = match &answer.json {
            Some(json) if answer.status < 300 => self.relations(&json.clone(), !dry),
            _ => Vec::new(),
        };
        if expected["status"].as_u64() != Some(u64::from(answer.status)) {
            out.push(format!("status {} expected, got {}: {}", expected["status"], answer.status, answer.text));
            return out;
        }
        let set: Map<String, Value> = [("header warning".to_owned(), json!("@set"))].into_iter().collect();
        let mode = Mode { subset: false, keys: Some(&set) };
        let headers = expected["headers"].as_object().cloned().unwrap_or_default();
        let shown = |name: &str| -> Value {
            let all: Vec<Value> = answer
                .headers
                .get_all(name)
                .iter()
                .filter_map(|v| std::str::from_utf8(v.as_bytes()).ok())
                .map(Value::from)
                .collect();
            match (name, all.as_slice()) {
                (_, []) => Value::Null,
                ("warning", _) => all.into(),
                (_, [first, ..]) => first.clone(),
            }
        };
        for (name, value) in &headers {
            differences(value, &shown(name), &self.environment, mode, &format!("header {name}"), &mut out);
        }
        if !headers.contains_key("warning") && expected["any_warnings"] != true && !shown("warning").is_null() {
            out.push(format!("unexpected warning {}", shown("warning")));
        }
        if let Some(body) = expected.get("body") {
            let mut actual = answer.json.clone().unwrap_or_else(|| Value::String(answer.text.clone()));
            strip(&mut actual, &self.ignored(step));
            let mut keys = expected["list_keys"].as_object().cloned().unwrap_or_default();
            let mut wanted = body.clone();
            // Fields are sent in the order of their names, so what is wrong with them comes in another order.
            let unordered = wanted["message"].as_str().is_some_and(|m| m.contains("strict decoding error"));
            if expected["unordered_errors"] == true || unordered {
                (wanted, actual) = (sort_errors(&wanted), sort_errors(&actual));
                keys.insert("/details/causes".to_owned(), json!("@set"));
            }
            let mode = Mode { subset: expected["match"] == "subset", keys: Some(&keys) };
            differences(&wanted, &actual, &self.environment, mode, "", &mut out);
        } else if let Some(text) = expected.get("text") {
            differences(text, &Value::String(answer.text.clone()), &self.environment, mode, "text", &mut out);
        }
        if answer.status < 300 {
            for wanted in list(&step["expect"]) {
                match fill(wanted, &self.environment) {
                    Ok(wanted) if relations.iter().any(|r| *r == wanted) => {}
                    other => out.push(format!("{other:?} expected, got {relations:?}")),
                }
            }
        }
        out
    }

    async fn watch(&mut self, step: &Value) -> Result<Vec<String>, String> {
        let watch = fill(&step["watch"], &self.environment)?;
        let mut query = watch["query"].as_object().cloned().unwrap_or_default();
        if !watch["path"].as_str().unwrap_or_default().contains("/watch/") {
            query.entry("watch").or_insert_with(|| json!("1"));
        }
        let request = json!({"method": "GET", "path": watch["path"], "query": query, "headers": watch["headers"]});
        let auth = self.auth(step)?;
        let response = self.router.clone().oneshot(Self::request(&request, auth.as_deref())).await.expect("infallible");
        let mut out = Vec::new();
        let (parts, mut body) = response.into_parts();
        let wanted_status = step["status"].as_u64().unwrap_or(200);
        if parts.status.as_u16() != 200 || wanted_status != 200 {
            let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if u64::from(parts.status.as_u16()) != wanted_status {
                return Ok(vec![format!("status {wanted_status} expected, got {}: {text}", parts.status)]);
            }
            let actual = serde_json::from_str(&text).unwrap_or(Value::String(text));
            differences(
                &step["response"]["body"],
                &actual,
                &self.environment,
                Mode { subset: false, keys: None },
                "",
                &mut out,
            );
            return Ok(out);
        }
        let events: Arc<Mutex<(Vec<Value>, bool)>> = Arc::default();
        let (sink, bookmarks) = (events.clone(), watch["bookmarks"] == true);
        let reader = tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
                    if event["type"] == "BOOKMARK"
                        && !bookmarks
                        && !event.to_string().contains("k8s.io/initial-events-end")
                    {
                        continue;
                    }
                    sink.lock().await.0.push(event);
                }
            }
            sink.lock().await.1 = true;
        });
        for inner in list(&step["during"]) {
            let complaints = Box::pin(self.step(inner)).await;
            out.extend(complaints.into_iter().map(|c| format!("during {}: {c}", inner["name"])));
        }
        let expected = list(&step["events"]).to_vec();
        let begun = Instant::now();
        let limit = Duration::from_secs_f64(
            watch["wait_s"].as_f64().unwrap_or(15.0).min(10.0) + if watch["until_closed"] == true { 20.0 } else { 0.0 },
        );
        let mut quiet_since = Instant::now();
        let mut count = 0;
        let (events, closed) = loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let state = events.lock().await;
            if state.0.len() != count {
                (count, quiet_since) = (state.0.len(), Instant::now());
            }
            let quiet = quiet_since.elapsed() > Duration::from_secs_f64(watch["quiet_s"].as_f64().unwrap_or(0.4));
            let done = watch["until_closed"] != true && quiet && count >= expected.len();
            if state.1 || done || begun.elapsed() > limit {
                break state.clone();
            }
        };
        reader.abort();
        let ignored = self.ignored(step);
        let mut actual = events;
        for event in actual.iter_mut().filter_map(|e| e.get_mut("object")) {
            strip(event, &ignored);
        }
        let mut expected = expected;
        if step["order"] == "per-object" {
            let key = |e: &Value| (e["object"]["kind"].to_string(), e["object"]["metadata"]["name"].to_string());
            expected.sort_by_key(key);
            actual.sort_by_key(key);
        }
        let mode = Mode { subset: step["match"] == "subset", keys: None };
        differences(
            &Value::Array(expected),
            &Value::Array(actual.clone()),
            &self.environment,
            mode,
            "events",
            &mut out,
        );
        if step["closed"].as_bool().is_some_and(|c| c != closed) {
            out.push(format!("closed by the server: {closed}"));
        }
        for (name, pointer) in step["capture"].as_object().into_iter().flatten() {
            if let Some(value) = at(&Value::Array(actual.clone()), pointer.as_str().unwrap_or_default()) {
                self.environment.insert(format!("var.{name}"), value.clone());
            }
        }
        Ok(out)
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~,:/".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
