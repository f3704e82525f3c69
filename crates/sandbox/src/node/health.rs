//! Hooks and probes of a container that runs.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use tokio::sync::mpsc;

use super::probe::{self, Target};
use super::running::Running;
use super::shared::PodShared;

/// Runs a hook of the container's life.
pub(crate) async fn run_hook(
    shared: &PodShared,
    container: &Arc<Container>,
    hook: &LifecycleHandler,
    running: &Arc<Running>,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return match running.run_command(exec.command.clone().unwrap_or_default(), limit).await? {
            (0, _) => Ok(()),
            (code, output) => Err(format!("command exited with {code}: {output}")),
        };
    }
    if let Some(get) = &hook.http_get {
        let address = shared.address().ok_or("the pod has no address")?;
        let (container, running) = (Arc::clone(container), Arc::clone(running));
        let target = Target { node: shared.host(), address, container, running };
        return tokio::time::timeout(limit, probe::http_get(get, &target)).await.map_err(|_| "timed out".to_owned())?;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(limit.min(Duration::from_secs(sleep.seconds.max(0) as u64))).await;
    }
    Ok(())
}

/// Runs the hook after the start, then all probes, until the container ends (then this task is aborted).
pub(crate) async fn watch_health(
    shared: Arc<PodShared>,
    container: Arc<Container>,
    running: Arc<Running>,
    unhealthy: mpsc::Sender<(String, Option<i64>)>,
) {
    let name = container.name.clone();
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.clone()) {
        let result = run_hook(&shared, &container, &hook, &running, Duration::from_secs(300)).await;
        if let Err(error) = result {
            shared.event(Some(&name), true, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
            let _ = unhealthy.send((format!("FailedPostStartHook: container {name}"), None)).await;
            return;
        }
    }
    let Some(address) = shared.address() else { return };
    let target = Target { node: shared.host(), address, container: Arc::clone(&container), running };
    if let Some(probe) = &container.startup_probe
        && !rounds(&shared, &target, probe, "Startup", |_| {}, true).await
    {
        let _ = unhealthy.send(failed(&name, "startup", probe)).await;
        return;
    }
    let has_readiness = container.readiness_probe.is_some();
    shared.update_container(&name, |status| {
        status.started = Some(true);
        status.ready = !has_readiness;
    });
    let liveness = async {
        if let Some(probe) = &container.liveness_probe
            && !rounds(&shared, &target, probe, "Liveness", |_| {}, false).await
        {
            let _ = unhealthy.send(failed(&name, "liveness", probe)).await;
        }
    };
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            let set = |ready: bool| shared.update_container(&name, |status| status.ready = ready);
            rounds(&shared, &target, probe, "Readiness", set, false).await;
        }
    };
    tokio::join!(liveness, readiness);
}

fn failed(name: &str, probe: &str, definition: &Probe) -> (String, Option<i64>) {
    (format!("Container {name} failed {probe} probe, will be restarted"), definition.termination_grace_period_seconds)
}

/// Looks again and again. A startup probe returns true at its success; a liveness or startup probe false at its failure; a
/// readiness probe tells what it saw and never returns.
async fn rounds(
    shared: &PodShared,
    target: &Target,
    probe: &Probe,
    kind: &'static str,
    mut tell: impl FnMut(bool),
    once: bool,
) -> bool {
    let seconds = |n: Option<i32>, default: i32| Duration::from_secs(n.unwrap_or(default).max(0) as u64);
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let needed = probe.success_threshold.unwrap_or(1).max(1);
    let tolerated = probe.failure_threshold.unwrap_or(3).max(1);
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut good, mut bad) = (0, 0);
    loop {
        ticks.tick().await;
        match probe::look(probe, target).await {
            Ok(()) => {
                (good, bad) = (good + 1, 0);
                if good >= needed {
                    if once {
                        return true;
                    }
                    if good == needed {
                        tell(true);
                    }
                }
            }
            Err(error) => {
                (good, bad) = (0, bad + 1);
                shared.event(Some(&target.container.name), true, "Unhealthy", format!("{kind} probe failed: {error}"));
                if bad >= tolerated {
                    if kind != "Readiness" {
                        return false;
                    }
                    if bad == tolerated {
                        tell(false);
                    }
                }
            }
        }
    }
}
