//! The life of one container: image, configuration, start, probes, end, and again.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, LifecycleHandler,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::bundle::{BindMount, Bundle};
use super::health::{run_hook, watch_health};
use super::logs::{Log, Stream, tail};
use super::running::{Running, copy_terminal, pipe};
use super::runtime::{Exit, Streams};
use super::shared::{PodShared, Stop, now};
use super::status::wait_state;
use super::{env, mount, user, volumes};
use crate::images::reference::Reference;
use crate::images::{Image, ImageError};

/// When a container begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// After every end.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

/// How the life of a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself, for good.
    Exited(i32),
    /// Because the pod was told to end.
    Stopped,
}

/// A container that cannot be configured, or not be started.
enum StartError {
    /// `CreateContainerConfigError`: tried again by itself, does not count as a run.
    Config(String),
    /// `RunContainerError`: counts as a run that failed.
    Run(String),
}

/// Why a run ends.
enum Cause {
    Exit(Exit),
    Told,
    Unhealthy(String, Option<i64>),
}

/// What leads one container.
pub(crate) struct ContainerTask {
    pub(crate) shared: Arc<PodShared>,
    pub(crate) container: Arc<Container>,
    pub(crate) restart: Restart,
    pub(crate) stop: watch::Receiver<Stop>,
}

impl ContainerTask {
    fn name(&self) -> &str {
        &self.container.name
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow() != Stop::Run
    }

    /// Waits, unless the pod is told to end; true when it was.
    async fn pause(&mut self, duration: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = self.stop.wait_for(|stop| *stop != Stop::Run) => {}
        }
        self.stopping()
    }

    /// Leads the container until it has ended for good.
    pub(crate) async fn run(mut self) -> Outcome {
        if let Some(outcome) = self.carry_on_after_restart() {
            return outcome;
        }
        let backoff = self.shared.context.pace.crash_backoff;
        let mut failures = 0u32;
        loop {
            let Some(image) = self.pull().await else { return Outcome::Stopped };
            let started = Instant::now();
            let code = match self.start(&image).await {
                Ok(running) => {
                    let code = self.supervise(running).await;
                    if self.stopping() {
                        return Outcome::Stopped;
                    }
                    code
                }
                Err(StartError::Config(message)) => {
                    self.event(true, "Failed", format!("Error: {message}"));
                    self.wait_with("CreateContainerConfigError", Some(message));
                    // A Secret or ConfigMap that appears wakes the pod at once.
                    let refresh = self.shared.refresh.notified();
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(2)) => {}
                        () = refresh => {}
                        _ = self.stop.wait_for(|stop| *stop != Stop::Run) => return Outcome::Stopped,
                    }
                    continue;
                }
                Err(StartError::Run(message)) => {
                    self.event(true, "Failed", format!("Error: {message}"));
                    self.record_failed_start(message);
                    128
                }
            };
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => code != 0,
                Restart::Never => false,
            };
            if !again {
                return Outcome::Exited(code);
            }
            failures = if started.elapsed() > backoff.reset { 1 } else { failures + 1 };
            let delay = backoff.delay(failures);
            if !delay.is_zero() {
                let pod = format!("{}_{}({})", self.shared.name, self.shared.namespace, self.shared.uid);
                let text = format!("restarting failed container {} in pod {pod}", self.name());
                self.event(true, "BackOff", format!("Back-off {text}"));
                let message = format!("back-off {delay:?} restarting failed container={} pod={pod}", self.name());
                self.end_of_run("CrashLoopBackOff", Some(message));
                if self.pause(delay).await {
                    return Outcome::Stopped;
                }
            }
            if self.stopping() {
                return Outcome::Stopped;
            }
        }
    }

    /// A container of a pod that a previous sandbox ran: one that ended for good does not run again.
    fn carry_on_after_restart(&self) -> Option<Outcome> {
        let mut state = self.shared.state();
        let status = state.container(self.name())?;
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        let code = ended.exit_code;
        let over = match self.restart {
            Restart::Always => false,
            Restart::OnFailure => code == 0,
            Restart::Never => true,
        };
        let is_init = state.init.iter().any(|s| s.name == self.name());
        // Init containers run again with the pod's new network and mounts.
        (over && !is_init).then_some(Outcome::Exited(code))
    }

    fn event(&self, warning: bool, reason: &'static str, message: String) {
        self.shared.event(Some(self.name()), warning, reason, message);
    }

    fn wait_with(&self, reason: &str, message: Option<String>) {
        let keeps_last = |state: &Option<ContainerState>| state.as_ref().is_some_and(|s| s.terminated.is_some());
        self.shared.update_container(self.name(), |status| {
            if keeps_last(&status.state) {
                status.last_state = status.state.take();
            }
            status.state = Some(wait_state(reason, message));
            status.ready = false;
        });
    }

    /// The last run becomes `lastState`, and the container waits.
    fn end_of_run(&self, reason: &str, message: Option<String>) {
        self.wait_with(reason, message);
    }

    fn record_failed_start(&self, message: String) {
        self.shared.update_container(self.name(), |status| {
            if let Some(old) = status.state.take().filter(|s| s.terminated.is_some()) {
                status.last_state = Some(old);
            }
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 128,
                    reason: Some("StartError".to_owned()),
                    message: Some(message),
                    finished_at: Some(now()),
                    started_at: Some(Time(jiff::Timestamp::UNIX_EPOCH)),
                    container_id: status.container_id.clone(),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            });
            status.ready = false;
            status.started = Some(false);
        });
    }

    /// Gets the image, for as long as that takes; `None` when the pod is told to end before.
    async fn pull(&mut self) -> Option<Image> {
        let name = self.container.image.clone().unwrap_or_default();
        let policy = self.container.image_pull_policy.clone();
        let images = self.shared.context.images.clone();
        let always = match policy.as_deref() {
            Some(policy) => policy == "Always",
            None => Reference::parse(&name).is_some_and(|r| r.pull_always_by_default()),
        };
        let may_pull = policy.as_deref() != Some("Never");
        let mut failures = 0u32;
        loop {
            let present = images.is_present(&name);
            if !present && may_pull {
                self.event(false, "Pulling", format!("Pulling image \"{name}\""));
            }
            let began = Instant::now();
            let progress = |line: &str| tracing::debug!(image = name, "{line}");
            let mut stop = self.stop.clone();
            let result = tokio::select! {
                result = images.ensure(&name, may_pull, progress) => result,
                _ = stop.wait_for(|stop| *stop != Stop::Run) => return None,
            };
            match result {
                Ok(image) => {
                    if present && !always {
                        self.event(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
                    } else {
                        let time = Duration::from_millis(began.elapsed().as_millis() as u64);
                        self.event(false, "Pulled", format!("Successfully pulled image \"{name}\" in {time:?}"));
                    }
                    if let Some(version) = &image.other_version {
                        let text = format!(
                            "image \"{name}\" runs MariaDB {version}: the sandbox has what Debian has of this series"
                        );
                        self.event(true, "ImageVersionDiffers", text);
                    }
                    return Some(image);
                }
                Err(error) => {
                    let (reason, message) = match &error {
                        ImageError::Invalid(_) => ("InvalidImageName", error.to_string()),
                        ImageError::NeverPull(_) => ("ErrImageNeverPull", error.to_string()),
                        _ => ("ErrImagePull", error.to_string()),
                    };
                    failures += 1;
                    self.event(true, "Failed", format!("Failed to pull image \"{name}\": {message}"));
                    self.event(true, "Failed", format!("Error: {reason}"));
                    self.wait_with(reason, Some(message.clone()));
                    if self.pause(Duration::from_millis(500)).await {
                        return None;
                    }
                    if reason == "ErrImagePull" {
                        self.event(false, "BackOff", format!("Back-off pulling image \"{name}\""));
                        let text = format!("Back-off pulling image \"{name}\": {reason}: {message}");
                        self.wait_with("ImagePullBackOff", Some(text));
                    }
                    let delay = self.shared.context.pace.crash_backoff.delay(failures + 1);
                    if self.pause(delay).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Configures and starts the container.
    async fn start(&mut self, image: &Image) -> Result<Arc<Running>, StartError> {
        let shared = Arc::clone(&self.shared);
        let spec = shared.spec();
        let name = self.name().to_owned();
        let mut state = shared.state();
        let status = state.container(&name).cloned().unwrap_or_default();
        let ran_before =
            [&status.state, &status.last_state].into_iter().any(|s| s.as_ref().is_some_and(|s| s.terminated.is_some()));
        let run = if ran_before { status.restart_count + 1 } else { 0 };

        let dir = shared.dir().join("containers").join(&name);
        let bundle_dir = dir.join(run.to_string());
        remove_old_runs(&dir);
        let config = |e: std::io::Error| StartError::Config(e.to_string());
        let rootfs = bundle_dir.join("rootfs");
        mount::overlay(&image.layers, &bundle_dir.join("upper"), &bundle_dir.join("work"), &rootfs).map_err(config)?;
        let prepared = self.configure(image, &spec, &bundle_dir, &rootfs).await;
        let result = match prepared {
            Ok(()) => self.launch(&bundle_dir, run).await,
            Err(error) => Err(error),
        };
        let running = match result {
            Ok(running) => running,
            Err(error) => {
                mount::unmount(&rootfs);
                return Err(error);
            }
        };
        let started = now();
        shared.update_container(&name, |status| {
            if let Some(old) = status.state.take().filter(|s| s.terminated.is_some()) {
                status.last_state = Some(old);
            }
            status.restart_count = run;
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(started) }),
                ..ContainerState::default()
            });
            status.image = self.container.image.clone().unwrap_or_default();
            status.image_id.clone_from(&image.id);
            status.container_id = Some(format!("sandbox://{}", running.id));
            status.started = Some(false);
            status.ready = false;
        });
        shared.set_running(&name, Some(Arc::clone(&running)));
        self.event(false, "Created", format!("Created container: {name}"));
        self.event(false, "Started", format!("Started container {name}"));
        Ok(running)
    }

    async fn configure(
        &self,
        image: &Image,
        spec: &k8s_openapi::api::core::v1::PodSpec,
        bundle_dir: &std::path::Path,
        rootfs: &std::path::Path,
    ) -> Result<(), StartError> {
        let shared = &self.shared;
        let fail = |e: &dyn std::fmt::Display| StartError::Config(e.to_string());
        let user = user::resolve(spec, &self.container, &image.config.user, rootfs).map_err(|e| fail(&e))?;
        let own = env::resolve(&shared.context.client, &shared.pod(), &self.container, &shared.facts())
            .await
            .map_err(|e| fail(&e))?;
        let known: BTreeMap<String, String> = own.iter().cloned().collect();
        let mut environment: Vec<(String, String)> = image
            .config
            .env
            .iter()
            .filter_map(|e| e.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let hostname = shared.hostname();
        let api = shared.context.network.addresses().api().to_string();
        for (key, value) in [
            ("HOSTNAME", hostname.as_str()),
            ("KUBERNETES_SERVICE_HOST", &api),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ] {
            environment.push((key.to_owned(), value.to_owned()));
        }
        let defaults =
            [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", user.home.as_str())];
        for (key, value) in defaults {
            if !environment.iter().chain(&own).any(|(k, _)| k == key) {
                environment.push((key.to_owned(), value.to_owned()));
            }
        }
        for (key, value) in own {
            environment.retain(|(k, _)| *k != key);
            environment.push((key, value));
        }
        let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
            list.as_ref().filter(|l| !l.is_empty()).map(|l| l.iter().map(|text| env::expand(text, &known)).collect())
        };
        let (command, arguments) = (expanded(&self.container.command), expanded(&self.container.args));
        let args: Vec<String> = match (command, arguments) {
            (Some(command), arguments) => command.into_iter().chain(arguments.unwrap_or_default()).collect(),
            (None, Some(arguments)) => image.config.entrypoint.iter().cloned().chain(arguments).collect(),
            (None, None) => image.config.entrypoint.iter().chain(&image.config.cmd).cloned().collect(),
        };
        if args.is_empty() {
            return Err(StartError::Config("no command specified".to_owned()));
        }
        let cwd = [self.container.working_dir.as_deref(), Some(image.config.working_dir.as_str())]
            .into_iter()
            .flatten()
            .find(|dir| !dir.is_empty())
            .unwrap_or("/")
            .to_owned();
        let inside = rootfs.join(cwd.trim_start_matches('/'));
        if !inside.exists() && !cwd.split('/').any(|part| part == "..") {
            let _ = std::fs::create_dir_all(&inside);
        }
        let mounts = self.mounts(spec, bundle_dir).map_err(|e| fail(&e))?;
        let network = shared.network.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let network = network.ok_or_else(|| StartError::Config("the pod has no network".to_owned()))?;
        let bundle = Bundle {
            container: &self.container,
            rootfs,
            args,
            env: environment,
            cwd,
            user,
            hostname,
            mounts,
            network: &network.namespace,
            cgroup: format!("/{}", self.cgroup()),
        };
        std::fs::write(bundle_dir.join("config.json"), bundle.config().to_string()).map_err(|e| fail(&e))
    }

    fn cgroup(&self) -> String {
        format!("{}/{}", self.shared.cgroup(), self.name())
    }

    fn mounts(
        &self,
        spec: &k8s_openapi::api::core::v1::PodSpec,
        bundle_dir: &std::path::Path,
    ) -> std::io::Result<Vec<BindMount>> {
        let shared = &self.shared;
        let etc = shared.dir().join("etc");
        let own = |file: &str, destination: &str| BindMount {
            source: etc.join(file),
            destination: destination.to_owned(),
            read_only: false,
        };
        let mut mounts = vec![
            own("hosts", "/etc/hosts"),
            own("hostname", "/etc/hostname"),
            own("resolv.conf", "/etc/resolv.conf"),
            BindMount { source: shared.dir().join("shm"), destination: "/dev/shm".to_owned(), read_only: false },
        ];
        let message = bundle_dir.join("termination-log");
        std::fs::write(&message, "")?;
        std::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666))?;
        mounts.push(BindMount {
            source: message,
            destination: self
                .container
                .termination_message_path
                .clone()
                .filter(|p| !p.is_empty())
                .unwrap_or_else(|| "/dev/termination-log".to_owned()),
            read_only: false,
        });
        let ready = shared.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for wanted in self.container.volume_mounts.iter().flatten() {
            let Some(folder) = ready.get(&wanted.name) else {
                return Err(std::io::Error::other(format!("volume \"{}\" is not ready", wanted.name)));
            };
            let part = wanted.sub_path.clone().filter(|p| !p.is_empty()).or_else(|| {
                let facts = shared.facts();
                let known = self.container.env.iter().flatten().filter_map(|e| {
                    let field = e.value_from.as_ref().and_then(|f| f.field_ref.as_ref());
                    let value = match field {
                        Some(field) => env::field(&shared.pod(), &facts, &field.field_path)?,
                        None => e.value.clone()?,
                    };
                    Some((e.name.clone(), value))
                });
                wanted.sub_path_expr.as_ref().map(|text| env::expand(text, &known.collect()))
            });
            let source = match part {
                Some(part) => volumes::sub_path(folder, &part)?,
                None => folder.clone(),
            };
            let volume = spec.volumes.iter().flatten().find(|v| v.name == wanted.name);
            let read_only = wanted.read_only == Some(true)
                || volume.is_some_and(|v| {
                    volumes::is_from_objects(v)
                        || v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true))
                });
            mounts.retain(|m| m.destination != wanted.mount_path);
            mounts.push(BindMount { source, destination: wanted.mount_path.clone(), read_only });
        }
        if let Some(folder) = ready.get(super::pod::ACCOUNT_VOLUME)
            && !mounts.iter().any(|m| m.destination == ACCOUNT)
        {
            mounts.push(BindMount { source: folder.clone(), destination: ACCOUNT.to_owned(), read_only: true });
        }
        Ok(mounts)
    }

    async fn launch(&self, bundle_dir: &std::path::Path, run: i32) -> Result<Arc<Running>, StartError> {
        let shared = &self.shared;
        let fail = |e: &dyn std::fmt::Display| StartError::Run(e.to_string());
        let log = Log::open(&shared.log_path(self.name(), run)).map_err(|e| fail(&e))?;
        let tty = self.container.tty == Some(true);
        let id = format!("{}-{}-{run}", shared.uid, self.name());
        let mut streams = Streams::default();
        let mut outputs: Vec<(Stream, OwnedFd)> = Vec::new();
        let mut stdin = None;
        if !tty {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let (reader, writer) = pipe().map_err(|e| fail(&e))?;
                outputs.push((stream, reader));
                let slot = if stream == Stream::Stdout { &mut streams.stdout } else { &mut streams.stderr };
                *slot = Some(writer);
            }
            if self.container.stdin == Some(true) {
                let (reader, writer) = pipe().map_err(|e| fail(&e))?;
                streams.stdin = Some(reader);
                stdin = Some(writer);
            }
            for writer in [&streams.stdout, &streams.stderr].into_iter().flatten() {
                // Programs reopen /dev/stdout under their own user id.
                let _ = rustix::fs::fchmod(writer, rustix::fs::Mode::from_raw_mode(0o666));
            }
        }
        let runtime = Arc::clone(&shared.context.runtime);
        let (process, terminal) =
            runtime.start(&id, bundle_dir, streams, tty).await.map_err(|e| fail(&shorten(&e.to_string())))?;
        for (stream, reader) in outputs {
            tokio::spawn(Arc::clone(&log).copy(stream, reader));
        }
        let terminal = terminal.map(Arc::new);
        if let Some(terminal) = &terminal
            && let Ok(copy) = terminal.try_clone()
        {
            tokio::spawn(copy_terminal(Arc::clone(&log), copy));
        }
        Ok(Arc::new(Running::new(id, runtime, process, log, stdin, terminal)))
    }

    /// Watches over a container that runs until it has ended; returns the exit code.
    async fn supervise(&mut self, running: Arc<Running>) -> i32 {
        let began = now();
        let (unhealthy, mut complaints) = mpsc::channel::<(String, Option<i64>)>(1);
        let probes = tokio::spawn(watch_health(
            Arc::clone(&self.shared),
            Arc::clone(&self.container),
            Arc::clone(&running),
            unhealthy,
        ));
        let mut stop = self.stop.clone();
        let cause = tokio::select! {
            exit = running.process.wait() => Cause::Exit(exit),
            _ = stop.wait_for(|stop| *stop != Stop::Run) => Cause::Told,
            Some((message, grace)) = complaints.recv() => Cause::Unhealthy(message, grace),
        };
        let exit = match cause {
            Cause::Exit(exit) => exit,
            Cause::Told => {
                self.event(false, "Killing", format!("Stopping container {}", self.name()));
                self.end(&running, None).await
            }
            Cause::Unhealthy(message, grace) => {
                self.event(false, "Killing", message);
                self.end(&running, grace).await
            }
        };
        probes.abort();
        running.set_ended();
        self.shared.set_running(self.name(), None);
        let oom = running.is_out_of_memory() || crate::cgroup::was_oom_killed(&self.cgroup());
        // The last output is on its way: the pipes end with the processes.
        for _ in 0..20 {
            if Arc::strong_count(&running.log) <= 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.record_exit(&running, exit, oom, began);
        if let Err(error) = running.runtime.delete(&running.id).await {
            tracing::warn!("{}: {error}", running.id);
        }
        let status = self.shared.state();
        let run = status.clone().container(self.name()).map_or(0, |s| s.restart_count);
        mount::unmount(&self.bundle_dir(run).join("rootfs"));
        exit.code
    }

    fn bundle_dir(&self, run: i32) -> PathBuf {
        self.shared.dir().join("containers").join(self.name()).join(run.to_string())
    }

    fn record_exit(&self, running: &Running, exit: Exit, oom: bool, began: Time) {
        let (mut state, name) = (self.shared.state(), self.name());
        let run = state.container(name).map_or(0, |s| s.restart_count);
        let reason = match (oom, exit.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            _ => "Error",
        };
        let text = std::fs::read(self.bundle_dir(run).join("termination-log")).unwrap_or_default();
        let mut message = String::from_utf8_lossy(&text[..text.len().min(4096)]).into_owned();
        let fallback = self.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if message.is_empty() && fallback && exit.code != 0 {
            message = tail(&self.shared.log_path(name, run), 80, 2048);
        }
        self.shared.update_container(name, |status| {
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: exit.code,
                    signal: None,
                    reason: Some(reason.to_owned()),
                    message: Some(message).filter(|m| !m.is_empty()),
                    started_at: Some(began),
                    finished_at: Some(now()),
                    container_id: Some(format!("sandbox://{}", running.id)),
                }),
                ..ContainerState::default()
            });
            // A finished init container counts as ready.
            status.ready = exit.code == 0 && self.restart != Restart::Always && self.is_init();
            status.started = Some(false);
        });
    }

    fn is_init(&self) -> bool {
        self.shared.spec().init_containers.iter().flatten().any(|c| c.name == self.name())
    }

    /// Ends a container that runs: hook, signal, and force when its time is over.
    async fn end(&self, running: &Arc<Running>, grace: Option<i64>) -> Exit {
        let spec_grace = self.shared.spec().termination_grace_period_seconds.unwrap_or(30);
        let default = Instant::now() + Duration::from_secs(grace.unwrap_or(spec_grace).max(0) as u64);
        let mut stop = self.stop.clone();
        let deadline = |stop: Stop| match stop {
            Stop::Run => default,
            Stop::Graceful(until) => until,
            Stop::Now => Instant::now(),
        };
        if *stop.borrow() == Stop::Now {
            running.process.signal(Signal::KILL);
            return running.process.wait().await;
        }
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let gentle = async {
            if let Some(hook) = hook {
                let limit = deadline(*self.stop.borrow()).saturating_duration_since(Instant::now());
                if let Err(error) = self.run_hook(&hook, running, limit).await {
                    self.event(true, "FailedPreStopHook", format!("PreStopHook failed: {error}"));
                }
            }
            running.process.signal(Signal::TERM);
            std::future::pending::<()>().await;
        };
        let mut gentle = std::pin::pin!(gentle);
        loop {
            let until = deadline(*stop.borrow_and_update());
            tokio::select! {
                exit = running.process.wait() => return exit,
                () = &mut gentle => {}
                () = tokio::time::sleep_until(until) => break,
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        running.process.signal(Signal::KILL);
        running.process.wait().await
    }

    async fn run_hook(&self, hook: &LifecycleHandler, running: &Arc<Running>, limit: Duration) -> Result<(), String> {
        run_hook(&self.shared, &self.container, hook, running, limit).await
    }
}

/// Where programs look for the service account's token.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Removes what earlier runs left. Their logs stay elsewhere.
fn remove_old_runs(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        mount::unmount_below(&entry.path());
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

fn shorten(message: &str) -> String {
    message.chars().take(1000).collect()
}
