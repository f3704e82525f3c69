//! Replays exchanges recorded from a Kubernetes API server (`tests/conformance`) against this one.

mod compare;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a scenario may need beside an API server; those that need these are not replayed here.
const ABSENT: [&str; 13] = [
    "kubelet",
    "scheduler",
    "compacted-history",
    "statefulset-controller",
    "deployment-controller",
    "job-controller",
    "disruption-controller",
    "endpointslice-controller",
    "pv-controller",
    "pvc-protection-controller",
    "no-kubelet-on-unknown-nodes",
    "watch-list",
    "gc-of-custom-resources",
];

fn scenarios(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            scenarios(&path, out);
        } else if path.extension().is_some_and(|e| e == "json") && path.file_name().is_some_and(|n| n != "known.json") {
            out.push(path);
        }
    }
}

/// Every step that differs is in `known.json`.
/// `REPLAY=area/name` replays one and shows what differs; `REPLAY_KNOWN=1` writes `known.json`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recorded_exchanges() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let only = std::env::var("REPLAY").ok();
    let mut paths = Vec::new();
    scenarios(&root, &mut paths);
    paths.sort();
    let mut running = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).expect("found below the root").with_extension("").display().to_string();
        let scenario: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("JSON");
        let needs = scenario["needs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let absent = needs.into_iter().any(|n| ABSENT.contains(&n)) || scenario["kind"] == "kubectl";
        if absent || only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        running.push((name, tokio::spawn(replay::run(scenario))));
    }
    let mut failed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (total, mut steps) = (running.len(), 0);
    for (name, task) in running {
        for (step, complaints) in task.await.expect("a replay") {
            steps += 1;
            if !complaints.is_empty() {
                if only.is_some() {
                    println!("{name} {step}\n    {}", complaints.join("\n    "));
                }
                failed.entry(name.clone()).or_default().insert(step);
            }
        }
    }
    let differ: usize = failed.values().map(BTreeSet::len).sum();
    let passed = total - failed.len();
    println!("{passed} of {total} scenarios and {} of {steps} steps are as recorded", steps - differ);
    if only.is_some() {
        return;
    }
    let known_path = root.join("known.json");
    if std::env::var_os("REPLAY_KNOWN").is_some() {
        std::fs::write(&known_path, serde_json::to_string_pretty(&failed).expect("JSON") + "\n").expect("written");
    }
    let known: BTreeMap<String, BTreeSet<String>> =
        serde_json::from_str(&std::fs::read_to_string(known_path).unwrap_or_else(|_| "{}".into())).expect("JSON");
    let news: Vec<String> = failed
        .iter()
        .flat_map(|(name, steps)| {
            steps
                .iter()
                .filter(|s| !known.get(name).is_some_and(|k| k.contains(*s)))
                .map(move |s| format!("{name}: {s}"))
        })
        .collect();
    assert!(news.is_empty(), "these differ and are not known to:\n{}", news.join("\n"));
}
