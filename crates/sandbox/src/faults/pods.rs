//! Signals for the processes of a pod, sent from outside as the kernel or a person on the node would.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use rustix::process::{Pid, Signal, kill_process};

use super::{FaultError, Faults, PodAct};
use crate::cgroup;
use crate::node::shared::PodShared;

impl Faults {
    /// The API's object.
    pub(super) async fn object(&self, namespace: &str, name: &str) -> Result<Pod, FaultError> {
        let api: Api<Pod> = Api::namespaced(self.context().client.clone(), namespace);
        let found = api.get_opt(name).await.map_err(|e| FaultError::Api(Box::new(e)))?;
        found.ok_or_else(|| FaultError::NotFound {
            kind: "pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    pub(super) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        container: Option<&str>,
        process: Option<&str>,
        act: PodAct,
    ) -> Result<String, FaultError> {
        let object = self.object(namespace, name).await?;
        let pod = self.pods.find(&object.uid().unwrap_or_default());
        let pod = pod.ok_or_else(|| FaultError::NotRunning(name.to_owned()))?;
        let containers = containers(&pod, container)?;
        if act == PodAct::Oom {
            let [one] = containers.as_slice() else {
                return Err(FaultError::WhichContainer { pod: name.to_owned(), known: containers.join(", ") });
            };
            if let Some(running) = pod.running(one) {
                running.blame_memory();
            }
        }
        let signal = match act {
            PodAct::Freeze => Signal::STOP,
            PodAct::Thaw => Signal::CONT,
            PodAct::Kill | PodAct::Oom => Signal::KILL,
        };
        let groups: Vec<String> = containers.iter().map(|c| format!("{}/{c}", pod.cgroup())).collect();
        if let Some(process) = process {
            one_process(name, &groups, process, signal)?;
        } else {
            // Reading the groups again and again may take a moment where processes fork.
            let work = move || groups.iter().for_each(|group| cgroup::signal_all(group, signal));
            let _ = tokio::task::spawn_blocking(work).await;
        }
        let verb = match act {
            PodAct::Freeze => "frozen",
            PodAct::Thaw => "thawed",
            PodAct::Kill => "killed",
            PodAct::Oom => "killed for lack of memory",
        };
        let what = process.map_or_else(|| "all processes".to_owned(), |process| format!("process {process}"));
        Ok(format!("pod {name}: {what} of {} {verb}", containers.join(", ")))
    }
}

/// The containers that are meant, and run.
fn containers(pod: &Arc<PodShared>, wanted: Option<&str>) -> Result<Vec<String>, FaultError> {
    let running = pod.all_running();
    match wanted {
        _ if running.is_empty() => Err(FaultError::NotRunning(pod.name.clone())),
        None => Ok(running),
        Some(wanted) if running.iter().any(|name| name == wanted) => Ok(vec![wanted.to_owned()]),
        Some(wanted) => Err(FaultError::UnknownContainer {
            pod: pod.name.clone(),
            container: wanted.to_owned(),
            known: running.join(", "),
        }),
    }
}

/// The kernel keeps 15 letters of a process's name.
fn one_process(pod: &str, groups: &[String], wanted: &str, signal: Signal) -> Result<(), FaultError> {
    let name = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        text.trim_end().to_owned()
    };
    let processes: Vec<(i32, String)> =
        groups.iter().flat_map(|group| cgroup::processes(group)).map(|pid| (pid, name(pid))).collect();
    let short: String = wanted.chars().take(15).collect();
    let mut found = false;
    for (pid, _) in processes.iter().filter(|(_, name)| *name == short) {
        found = true;
        if let Some(pid) = Pid::from_raw(*pid) {
            let _ = kill_process(pid, signal);
        }
    }
    if found {
        return Ok(());
    }
    let mut known: Vec<String> = processes.into_iter().map(|(_, name)| name).collect();
    known.sort();
    known.dedup();
    let (pod, process) = (pod.to_owned(), wanted.to_owned());
    Err(FaultError::UnknownProcess { pod, process, known: known.join(", ") })
}
