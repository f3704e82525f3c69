//! Steps that run `kubectl`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use regex::Regex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tower::util::MapRequestLayer;

use crate::compare::{Environment, Mode, differences, fill};

/// The longest that a command may take, and the longest that one is tried again.
const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: f64 = 5.0;

/// How long a command may take to do what it was given to do.
const SETTLE: Duration = Duration::from_millis(500);

/// `kubectl`, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("kubectl")).find(|path| path.is_file())
}

/// A home directory with a kubeconfig for a server of its own.
pub(crate) struct Kubectl {
    binary: PathBuf,
    home: PathBuf,
    /// How many watches were begun.
    watches: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// What a command did: its exit code (or that it was stopped), standard output and error.
struct Ran {
    exit: Value,
    stdout: String,
    stderr: String,
}

impl Kubectl {
    /// Serves `router` on a port of its own.
    pub(crate) async fn start(binary: PathBuf, router: Router, namespace: &str) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let home = std::env::temp_dir().join(format!("apiserver-{}-{namespace}", std::process::id()));
        std::fs::create_dir_all(&home)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": base}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(home.join("config"), config.to_string())?;
        let watches = Arc::new(AtomicUsize::new(0));
        let begun = watches.clone();
        let router = router.layer(MapRequestLayer::new(move |request: Request<Body>| {
            if request.uri().query().is_some_and(|q| q.contains("watch=")) {
                begun.fetch_add(1, Ordering::Relaxed);
            }
            request
        }));
        let server = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { binary, home, watches, server })
    }

    /// How often a step is tried again before its outcome counts.
    pub(crate) fn patience(step: &Value) -> Duration {
        Duration::from_secs_f64(step["kubectl"]["retry_s"].as_f64().unwrap_or(0.0).min(PATIENCE))
    }

    fn spawn(&self, step: &Value, environment: &Environment) -> Result<Child, String> {
        let told = |error: std::io::Error| error.to_string();
        let spec = &step["kubectl"];
        let text = |value: &Value| fill(value, environment).map(|v| v.as_str().unwrap_or_default().to_owned());
        for (name, content) in spec["files"].as_object().into_iter().flatten() {
            let content = match content.as_str() {
                Some(plain) if !plain.starts_with("json:") => plain.to_owned(),
                _ => content.to_string(),
            };
            std::fs::write(self.home.join(name), text(&Value::String(content))?).map_err(told)?;
        }
        let argv = spec["argv"].as_array().into_iter().flatten().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut command = Command::new(&self.binary);
        command.args(argv).current_dir(&self.home).env_clear().kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.home);
        command.env("KUBECONFIG", self.home.join("config")).env("LANG", "C.UTF-8").env("TZ", "UTC");
        for (name, value) in spec["env"].as_object().into_iter().flatten() {
            command.env(name, value.as_str().unwrap_or_default());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(told)
    }

    /// Starts the command of a step.
    pub(crate) async fn start_step(&self, step: &Value, environment: &Environment) -> Result<Running, String> {
        let watches = self.watches.load(Ordering::Relaxed);
        let mut child = self.spawn(step, environment)?;
        if let (Some(mut stdin), Some(text)) = (child.stdin.take(), step["kubectl"]["stdin"].as_str()) {
            let text = fill(&Value::String(text.to_owned()), environment)?;
            stdin.write_all(text.as_str().unwrap_or_default().as_bytes()).await.map_err(|e| e.to_string())?;
        }
        let background = step["kubectl"].get("background").cloned();
        if let Some(background) = &background {
            // Most of what goes on watches something. When it does, what comes next can be done.
            let begun = Instant::now();
            let limit = 2.0 * background["start_s"].as_f64().unwrap_or(2.0);
            while self.watches.load(Ordering::Relaxed) == watches && begun.elapsed().as_secs_f64() < limit {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(SETTLE).await;
        }
        Ok(Running { child, background })
    }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    background: Option<Value>,
}

impl Running {
    /// Waits for its end, after stopping it if it would go on, and compares.
    pub(crate) async fn finish(mut self, step: &Value, environment: &Environment) -> Result<Vec<String>, String> {
        let mut stopped = false;
        if let Some(background) = &self.background {
            let own = step["kubectl"]["argv"][0] == "wait";
            let pause = Duration::from_secs_f64(background["stop_s"].as_f64().unwrap_or(1.0)) + SETTLE;
            // `wait` ends by itself, and is only stopped if it does not.
            let _ = tokio::time::timeout(if own { LIMIT } else { pause }, self.child.wait()).await;
            stopped = true;
            if let (Ok(None), Some(pid)) = (self.child.try_wait(), self.child.id()) {
                let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status().await;
            }
        }
        let begun = Instant::now();
        let output = tokio::time::timeout(LIMIT, self.child.wait_with_output()).await;
        let output = output.map_err(|_| format!("not done after {:?}", begun.elapsed()))?.map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exit = if stopped { json!("stopped") } else { json!(output.status.code()) };
        Ok(judge(step, &Ran { exit, stdout: text(&output.stdout), stderr: text(&output.stderr) }, environment))
    }
}

fn judge(step: &Value, ran: &Ran, environment: &Environment) -> Vec<String> {
    let mut out = Vec::new();
    if step["result"]["exit"] != ran.exit {
        out.push(format!("exit {} expected, got {}: {}", step["result"]["exit"], ran.exit, ran.stderr));
    }
    for (name, found) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let Some(wanted) = step["result"][name].as_str() else { continue };
        let (mut wanted, mut found) = (lines(wanted), lines(found));
        if step["kubectl"]["any_order"] == true {
            wanted.sort();
            found.sort();
        }
        let (wanted, found) = (Value::from(wanted), Value::from(found));
        differences(&wanted, &found, environment, Mode { subset: false, keys: None }, name, &mut out);
    }
    out
}

/// The lines of a text. Columns are as wide as generated values make them: runs of blanks count as two.
fn lines(text: &str) -> Vec<String> {
    let blanks = Regex::new(r"(\S) {2,}").expect("a regex");
    text.trim_end_matches('\n').split('\n').map(|l| blanks.replace_all(l.trim_end(), "$1  ").into_owned()).collect()
}
