//! The life of one container: image, configuration, start, probes, end, and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, LifecycleHandler,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::health::{run_hook, watch_health};
use super::logs::tail;
use super::mount;
use super::running::Running;
use super::runtime::Exit;
use super::shared::{PodShared, Stop, now};
use super::status::wait_state;
use crate::images::Image;

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
pub(super) enum StartError {
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
    pub(super) fn name(&self) -> &str {
        &self.container.name
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow() != Stop::Run
    }

    /// Waits, unless the pod is told to end; true when it was.
    pub(super) async fn pause(&mut self, duration: Duration) -> bool {
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

    pub(super) fn event(&self, warning: bool, reason: &'static str, message: String) {
        self.shared.event(Some(self.name()), warning, reason, message);
    }

    pub(super) fn wait_with(&self, reason: &str, message: Option<String>) {
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

    pub(super) fn cgroup(&self) -> String {
        format!("{}/{}", self.shared.cgroup(), self.name())
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

/// Removes what earlier runs left. Their logs stay elsewhere.
fn remove_old_runs(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        mount::unmount_below(&entry.path());
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
