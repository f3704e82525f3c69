//! The cluster under test: the sandbox of this workspace, or any cluster whose kubeconfig is in `E2E_KUBECONFIG`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A scenario's failure: what was expected and what was seen.
pub(crate) type Failure = String;

/// What a failure begins with that no second try may hide: acknowledged rows are missing, two members took writes, the primary
/// moved where it must not.
pub(crate) const BROKEN: &str = "a promise was broken";

/// Such a failure.
pub(crate) fn broken(what: impl std::fmt::Display) -> Failure {
    format!("{BROKEN}: {what}")
}

/// Where the scenarios run.
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    sandbox: Option<SandboxDir>,
}

struct SandboxDir {
    dir: PathBuf,
    keep: bool,
}

/// On what scenarios can run here.
pub(crate) enum Where {
    /// On sandboxes that they start.
    Sandboxes,
    /// On the cluster of `E2E_KUBECONFIG`, with the operator installed there already.
    Named(Cluster),
}

fn archive() -> PathBuf {
    workspace().join("target/mariadb-operator.oci.tar")
}

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace exists")
}

fn kubectl_mariadb() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kubectl-mariadb"))
}

/// Says something on the real standard error: the test harness captures the print macros.
pub(crate) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Says that something is left out, and why.
pub(crate) fn skipped(what: &str) {
    say(&format!("skipped: {what}"));
}

fn succeed(what: &str, mut command: Command) -> Result<Output, Failure> {
    let output = command.output().map_err(|e| format!("{what}: cannot run: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

impl Cluster {
    /// Where the scenarios can run; for sandboxes the operator's image is made. `None`: this machine can do neither; the reason was
    /// printed.
    pub(crate) fn prepare() -> Result<Option<Where>, Failure> {
        if let Ok(path) = std::env::var("E2E_KUBECONFIG") {
            return Ok(Some(Where::Named(Self { kubeconfig: path.into(), sandbox: None })));
        }
        if !rustix::process::geteuid().is_root() {
            skipped("end to end: the sandbox needs root, and E2E_KUBECONFIG names no cluster");
            return Ok(None);
        }
        let mut image = Command::new(env!("CARGO"));
        image.args(["xtask", "image", "--profile", "dev", "--output"]).arg(archive()).current_dir(workspace());
        // What cargo tells this test of its package: a build script (`ring`) would take it for a change and run again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                image.env_remove(&name);
            }
        }
        succeed("cargo xtask image", image)?;
        Ok(Some(Where::Sandboxes))
    }

    /// Starts a sandbox with the operator in it.
    pub(crate) fn start(name: &str) -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("mariadb-e2e-{name}-{}", std::process::id()));
        let keep = std::env::var_os("E2E_KEEP").is_some();
        let cluster = Self { kubeconfig: dir.join("kubeconfig"), sandbox: Some(SandboxDir { dir: dir.clone(), keep }) };
        cluster.sandbox_up()?;
        cluster.sandbox_command("images load", &["images", "load", &archive().to_string_lossy()])?;
        let install = workspace().join("deploy/install.yaml");
        cluster.kubectl(&["apply", "-f", &install.to_string_lossy()])?;
        cluster.kubectl(&[
            "rollout",
            "status",
            "deployment/mariadb-operator",
            "-n",
            "mariadb-operator",
            "--timeout=60s",
        ])?;
        Ok(cluster)
    }

    /// `kubectl-mariadb sandbox up --detach`.
    pub(crate) fn sandbox_up(&self) -> Result<(), Failure> {
        self.sandbox_command("sandbox up", &["up", "--detach"]).map(drop)
    }

    /// A `kubectl-mariadb sandbox` command for this sandbox.
    pub(crate) fn sandbox_command(&self, what: &str, args: &[&str]) -> Result<Output, Failure> {
        let sandbox = self.sandbox.as_ref().ok_or("not a sandbox")?;
        let mut command = kubectl_mariadb();
        command.arg("sandbox").args(args).arg("--dir").arg(&sandbox.dir).stdin(Stdio::null());
        succeed(what, command)
    }

    /// The sandbox's folder; `None` on another cluster.
    pub(crate) fn sandbox_dir(&self) -> Option<&Path> {
        self.sandbox.as_ref().map(|s| s.dir.as_path())
    }

    fn command(&self, args: &[&str]) -> Command {
        let cached = workspace().join(".cache/bin/kubectl");
        let mut command = Command::new(if cached.exists() { cached } else { "kubectl".into() });
        command.args(args).env("KUBECONFIG", &self.kubeconfig).current_dir(workspace()).stdin(Stdio::null());
        command
    }

    /// Runs kubectl; its standard output. Fails with everything it printed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, Failure> {
        let output = succeed(&format!("kubectl {}", args.join(" ")), self.command(args))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kubectl and the kubeconfig, for commands that outlive a call.
    pub(crate) fn kubectl_and_config(&self) -> (PathBuf, PathBuf) {
        (self.command(&[]).get_program().into(), self.kubeconfig.clone())
    }

    /// Starts kubectl and does not wait for it; nobody reads what it prints.
    pub(crate) fn kubectl_spawn(&self, args: &[&str]) -> Result<Child, Failure> {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|e| format!("kubectl {}: {e}", args.join(" ")))
    }

    /// Runs kubectl with something on its standard input; its standard output.
    pub(crate) fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String, Failure> {
        let output = self.with_stdin(args, stdin)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs `kubectl mariadb`; its standard output. Fails with everything it printed.
    pub(crate) fn mariadb(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = kubectl_mariadb();
        command.args(args).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        let output = succeed(&format!("kubectl mariadb {}", args.join(" ")), command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `kubectl mariadb`; its exit status, standard output and standard error.
    pub(crate) fn mariadb_exit(&self, args: &[&str]) -> Result<(i32, String, String), Failure> {
        let mut command = kubectl_mariadb();
        command.args(args).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        let output = command.output().map_err(|e| format!("kubectl mariadb: {e}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// Runs kubectl that must fail; what it printed on standard error.
    pub(crate) fn kubectl_refused(&self, args: &[&str], stdin: &str) -> Result<String, Failure> {
        let output = self.with_stdin(args, stdin)?;
        if output.status.success() {
            return Err(format!(
                "kubectl {} was accepted: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stdout)
            ));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn with_stdin(&self, args: &[&str], stdin: &str) -> Result<Output, Failure> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("kubectl: {e}"))?;
        child.stdin.take().expect("piped").write_all(stdin.as_bytes()).map_err(|e| format!("kubectl: {e}"))?;
        child.wait_with_output().map_err(|e| format!("kubectl: {e}"))
    }

    /// `kubectl apply -f -` of a manifest.
    pub(crate) fn apply(&self, namespace: &str, manifest: &str) -> Result<(), Failure> {
        let output = self.with_stdin(&["apply", "-n", namespace, "-f", "-"], manifest)?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("kubectl apply: {}\n{manifest}", String::from_utf8_lossy(&output.stderr)))
    }

    /// An object as JSON; `None` when it does not exist.
    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>, Failure> {
        let text = self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found"])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).map_err(|e| format!("get {kind} {name}: {e}"))
    }

    /// A list's items.
    pub(crate) fn list(&self, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>, Failure> {
        let text = self.kubectl(&["get", kind, "-n", namespace, "-l", selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).map_err(|e| format!("list {kind}: {e}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Runs SQL as root in a member's pod, the way a user types it; rows as text.
    pub(crate) fn sql(&self, namespace: &str, pod: &str, sql: &str) -> Result<String, Failure> {
        let script = "exec mariadb -u root -p\"${MARIADB_ROOT_PASSWORD}\" -N -B -e \"$0\"";
        self.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", script, sql])
            .map(|text| text.trim_end().to_owned())
    }

    /// Asks again until `check` is content, or fails with its last complaint.
    pub(crate) fn eventually<T>(
        &self,
        what: &str,
        limit: Duration,
        mut check: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let end = Instant::now() + limit;
        loop {
            match check() {
                Ok(value) => return Ok(value),
                Err(why) if Instant::now() >= end => return Err(format!("{what}: not within {limit:?}: {why}")),
                Err(_) => std::thread::sleep(Duration::from_millis(150)),
            }
        }
    }

    /// A condition's (status, reason, message) of a MariaDB object.
    pub(crate) fn condition(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
    ) -> Result<(String, String, String), Failure> {
        let object = self.get(namespace, "mariadb", name)?.ok_or_else(|| format!("no mariadb {name}"))?;
        object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind)
            .map(|c| {
                let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
                (text("status"), text("reason"), text("message"))
            })
            .ok_or_else(|| format!("mariadb {name} has no condition {kind}: {}", object["status"]))
    }

    /// Waits for a condition to have this status and a message that holds the text.
    pub(crate) fn await_condition(
        &self,
        namespace: &str,
        name: &str,
        (kind, status, text): (&str, &str, &str),
        limit: Duration,
    ) -> Result<(), Failure> {
        self.eventually(&format!("{name}: {kind}={status} with {text:?}"), limit, || {
            let (is, reason, message) = self.condition(namespace, name, kind)?;
            if is == status && (message.contains(text) || reason.contains(text)) {
                Ok(())
            } else {
                Err(format!("{kind}={is} {reason}: {message}"))
            }
        })
    }

    /// Waits until the object is Ready and its replication healthy.
    pub(crate) fn await_healthy(&self, namespace: &str, name: &str, limit: Duration) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        self.await_condition(namespace, name, ("Ready", "True", ""), limit)?;
        self.await_condition(
            namespace,
            name,
            ("ReplicationHealthy", "True", ""),
            end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1)),
        )
    }

    /// What a person would look at when something failed.
    pub(crate) fn explain(&self, namespace: &str) -> String {
        let mut text = String::new();
        for args in [
            &["get", "mariadb,statefulsets,pods,pvc", "-n", namespace, "-o", "wide"][..],
            &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"],
            &["get", "primarychanges", "-n", namespace, "-o", "wide"],
            &["get", "lease", "-n", namespace, "-o", "jsonpath={range .items[*]}{.metadata.annotations}{\"\\n\"}{end}"],
            &[
                "get",
                "mariadb",
                "-n",
                namespace,
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status}{\"\\n\"}{end}",
            ],
        ] {
            let output = self.command(args).output();
            text.push_str(&format!("$ kubectl {}\n", args.join(" ")));
            if let Ok(output) = output {
                text.push_str(&String::from_utf8_lossy(&output.stdout));
                text.push_str(&String::from_utf8_lossy(&output.stderr));
            }
        }
        let logs = self.kubectl(&["logs", "deployment/mariadb-operator", "-n", "mariadb-operator", "--tail=1000"]);
        let ours = format!("namespace=\"{namespace}\"");
        text.push_str(&last("the operator's log", 60, &logs.unwrap_or_default(), |line| line.contains(&ours)));
        let pods = self.kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).unwrap_or_default();
        for pod in pods.lines() {
            let log = self.kubectl(&["logs", pod, "-n", namespace, "-c", "mariadb", "--tail=400"]).unwrap_or_default();
            text.push_str(&last(pod, 40, &log, |line| !line.contains("Aborted connection")));
            let sql = "SHOW FULL PROCESSLIST; SHOW SLAVE STATUS\\G";
            let ask = format!("timeout 5 mariadb -u root -p\"$MARIADB_ROOT_PASSWORD\" -e '{sql}'");
            let answer = self.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", &ask]);
            text.push_str(&answer.unwrap_or_else(|failure| failure));
        }
        text
    }
}

/// The last of these lines.
fn last(of: &str, count: usize, text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| wanted(line)).collect();
    let from = lines.len().saturating_sub(count);
    format!("-- {of}, the last lines\n{}\n", lines[from..].join("\n"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(sandbox) = &self.sandbox else { return };
        if sandbox.keep {
            eprintln!("kept: {}", sandbox.dir.display());
            return;
        }
        let _ = kubectl_mariadb().args(["sandbox", "down", "--dir"]).arg(&sandbox.dir).output();
        let _ = std::fs::remove_dir_all(&sandbox.dir);
    }
}
