//! The sandbox's fault switches, as typed, and what `kubectl` says of them.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, Failure, skipped};

pub(crate) const SCENARIOS: &[(&str, super::Scenario)] = &[
    ("switches::nodes_pods_volumes_and_the_api", nodes_pods_volumes_and_the_api),
    ("switches::kubectl_drain_and_force_deletion", kubectl_drain_and_force_deletion),
    ("switches::without_root_and_without_a_reader", without_root_and_without_a_reader),
];

const MINUTE: Duration = Duration::from_secs(60);

/// A StatefulSet whose pods write into volumes with file systems of their own.
fn manifest(replicas: usize) -> String {
    format!(
        r"apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: w}}
spec:
  replicas: {replicas}
  podManagementPolicy: Parallel
  serviceName: w
  selector: {{matchLabels: {{app: w}}}}
  template:
    metadata: {{labels: {{app: w}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}]
      containers:
      - name: main
        image: debian:13
        command: [sh, -c, 'while :; do echo x >> /d/log; sleep 0.1; done']
        volumeMounts: [{{name: d, mountPath: /d}}]
  volumeClaimTemplates:
  - metadata: {{name: d}}
    spec: {{accessModes: [ReadWriteOnce], storageClassName: limited, resources: {{requests: {{storage: 32Mi}}}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: w}}
spec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: w}}}}}}
"
    )
}

fn ready(cluster: &Cluster, namespace: &str, replicas: u64) -> Result<(), Failure> {
    cluster.eventually(&format!("{replicas} ready"), MINUTE, || {
        let set = cluster.get(namespace, "statefulset", "w")?.ok_or("no set")?;
        let pods = cluster.list(namespace, "pods", "app=w")?;
        let going = pods.iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        match set["status"]["readyReplicas"].as_u64() {
            Some(n) if n == replicas && !going => Ok(()),
            other => Err(format!("{other:?}, going: {going}")),
        }
    })
}

/// What the command prints on standard output.
fn switch(cluster: &Cluster, args: &[&str]) -> Result<String, Failure> {
    let output = cluster.sandbox_command(&args.join(" "), args)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn says(cluster: &Cluster, args: &[&str], expected: &str) -> Result<(), Failure> {
    let text = switch(cluster, args)?;
    if text == expected { Ok(()) } else { Err(format!("sandbox {}: {text:?}, not {expected:?}", args.join(" "))) }
}

fn refused(cluster: &Cluster, args: &[&str], expected: &str) -> Result<(), Failure> {
    match switch(cluster, args) {
        Err(text) if text.contains(expected) => Ok(()),
        other => Err(format!("sandbox {}: {other:?}, expected a refusal with {expected:?}", args.join(" "))),
    }
}

fn node_of(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String, Failure> {
    let pod = cluster.get(namespace, "pod", pod)?.ok_or("no pod")?;
    pod["spec"]["nodeName"].as_str().map(str::to_owned).ok_or_else(|| "no node".to_owned())
}

fn node_is(cluster: &Cluster, node: &str, wanted: &str) -> Result<(), Failure> {
    cluster.eventually(&format!("{node} Ready={wanted}"), MINUTE, || {
        let object = cluster.get("default", "node", node)?.ok_or("no node")?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let status = conditions.iter().find(|c| c["type"] == "Ready").map(|c| c["status"].clone());
        let taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted = taints.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == "NoExecute");
        match status {
            Some(Value::String(status)) if status == wanted && tainted == (wanted == "Unknown") => Ok(()),
            other => Err(format!("{other:?}, taints {taints:?}")),
        }
    })
}

fn nodes_pods_volumes_and_the_api(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if cluster.sandbox_dir().is_none() {
        skipped("nodes_pods_volumes_and_the_api: not a sandbox");
        return Ok(());
    }
    cluster.apply(namespace, &manifest(1))?;
    ready(cluster, namespace, 1)?;
    let pod = ["w-0", "-n", namespace];
    let on = |verb: &'static str| [&["pod", verb][..], &pod].concat();
    says(cluster, &on("freeze"), "pod w-0: all processes of main frozen")?;
    says(cluster, &on("thaw"), "pod w-0: all processes of main thawed")?;
    says(cluster, &on("oom"), "pod w-0: all processes of main killed for lack of memory")?;
    let last = ".status.containerStatuses[0].lastState.terminated";
    let path = format!("jsonpath={{{last}.reason}} {{{last}.exitCode}}");
    cluster.eventually("OOMKilled", MINUTE, || {
        let text = cluster.kubectl(&["get", "pod", "w-0", "-n", namespace, "-o", &path])?;
        if text == "OOMKilled 137" { Ok(()) } else { Err(text) }
    })?;
    ready(cluster, namespace, 1)?;
    refused(cluster, &["pod", "kill", "nobody", "-n", namespace], "pod \"nobody\" not found")?;
    refused(cluster, &[&on("kill")[..], &["--process", "mariadbd"]].concat(), "no process is called \"mariadbd\"")?;

    let volume = |verb: &'static str| ["volume", verb, "d-w-0", "-n", namespace];
    let write = ["exec", "w-0", "-n", namespace, "--", "sh", "-c", "echo 1 > /d/new-$$ && sync"];
    switch(cluster, &volume("fill"))?;
    let full = cluster.kubectl_refused(&["exec", "w-0", "-n", namespace, "--", "cp", "/bin/bash", "/d/x"], "")?;
    if !full.contains("No space left on device") {
        return Err(format!("a full disk: {full}"));
    }
    switch(cluster, &volume("free"))?;
    cluster.kubectl(&write)?;
    switch(cluster, &volume("hang"))?;
    let status = switch(cluster, &["status"])?;
    if !status.contains("Fault       volume pvc-") {
        return Err(format!("sandbox status: {status}"));
    }
    switch(cluster, &volume("release"))?;
    cluster.kubectl(&write)?;
    refused(cluster, &["volume", "hang", "nothing", "-n", namespace], "claim \"nothing\" not found")?;

    says(cluster, &["api", "slow", "--by", "50ms"], "the API answers pods 50ms later")?;
    says(cluster, &["api", "away", "--for", "1s"], "the API is away for 1s")?;
    says(cluster, &["api", "back"], "the API is back")?;

    let node = node_of(cluster, namespace, "w-0")?;
    says(cluster, &["node", "cut", &node, "--from", "api"], &format!("node {node} is cut off from api"))?;
    node_is(cluster, &node, "Unknown")?;
    says(cluster, &["node", "heal", &node], &format!("node {node} has no cuts"))?;
    node_is(cluster, &node, "True")?;
    ready(cluster, namespace, 1)?;
    refused(cluster, &["node", "stop", "node-99"], "no node is called \"node-99\": there are node-1, ")
}

fn kubectl_drain_and_force_deletion(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    if cluster.sandbox_dir().is_none() {
        skipped("kubectl_drain_and_force_deletion: not a sandbox");
        return Ok(());
    }
    cluster.apply(namespace, &manifest(2))?;
    ready(cluster, namespace, 2)?;
    let node = node_of(cluster, namespace, "w-1")?;
    let drained =
        cluster.kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"]);
    cluster.kubectl(&["uncordon", &node])?;
    if !drained?.contains("pod/w-1 evicted") {
        return Err("w-1 was not evicted".to_owned());
    }
    ready(cluster, namespace, 2)?;
    if node_of(cluster, namespace, "w-1")? == node {
        return Err("w-1 is where it was".to_owned());
    }

    // A node without power: its pod is evicted, but stays until somebody deletes it by force.
    let node = node_of(cluster, namespace, "w-0")?;
    says(cluster, &["node", "stop", &node], &format!("node {node} is stopped"))?;
    let after = || {
        node_is(cluster, &node, "Unknown")?;
        cluster.eventually("w-0 is evicted", MINUTE, || {
            let pod = cluster.get(namespace, "pod", "w-0")?.ok_or("it is gone")?;
            if pod["metadata"]["deletionTimestamp"].is_null() { Err("not yet".to_owned()) } else { Ok(()) }
        })?;
        cluster.kubectl(&["delete", "pod", "w-0", "-n", namespace, "--force", "--grace-period=0"])?;
        ready(cluster, namespace, 2)?;
        if node_of(cluster, namespace, "w-0")? == node { Err("w-0 is on a dead node".to_owned()) } else { Ok(()) }
    };
    let result = after();
    says(cluster, &["node", "start", &node], &format!("node {node} is started"))?;
    result?;
    node_is(cluster, &node, "True")
}

/// What a person sees who forgot `sudo`, or who pipes the output into `head`.
fn without_root_and_without_a_reader(cluster: &Cluster, _namespace: &str) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt as _;
    let Some(dir) = cluster.sandbox_dir() else {
        skipped("without_root_and_without_a_reader: not a sandbox");
        return Ok(());
    };
    let program = env!("CARGO_BIN_EXE_kubectl-mariadb");
    for verb in [&["up"][..], &["status"], &["node", "stop", "node-1"]] {
        let mut command = std::process::Command::new(program);
        command.arg("sandbox").args(verb).arg("--dir").arg(dir).uid(65534).gid(65534);
        let output = command.output().map_err(|e| format!("{program}: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !text.contains("the sandbox must run as root") || !text.contains("try: sudo") {
            return Err(format!("sandbox {verb:?} without root: {} {text}", output.status));
        }
    }
    // A pipe that nobody reads from: its reading end is closed before the program writes.
    let (reader, writer) = std::io::pipe().map_err(|e| e.to_string())?;
    drop(reader);
    let mut command = std::process::Command::new(program);
    command.args(["sandbox", "status", "--dir"]).arg(dir).stdout(writer).stderr(std::process::Stdio::piped());
    let output = command.spawn().and_then(std::process::Child::wait_with_output).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(141) && text.is_empty() {
        Ok(())
    } else {
        Err(format!("sandbox status without a reader: {} {text}", output.status))
    }
}
