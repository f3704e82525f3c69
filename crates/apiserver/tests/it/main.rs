//! Replays exchanges recorded from a Kubernetes API server (`tests/conformance`) against this one.
//!
//! `known.json` says of each scenario that is not whole which steps differ, and why; of those whose
//! reason is a component that this crate has not (`needs`), the closing count leaves out. A step that
//! differs without being known fails the test, and so does one that is known and no longer differs.

mod compare;
mod kubectl;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

/// How many scenarios run at a time, each against a server of its own.
const TOGETHER: usize = 24;

/// What the recordings' cluster had that no replay here can have.
const SKIPPED: [&str; 1] = ["kubelet"];

/// Why a scenario is not whole.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The reason, a sentence.
    why: String,
    /// The component that is missing here, as the scenario names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    needs: Option<String>,
    /// The steps that differ.
    steps: BTreeSet<String>,
}

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

/// `REPLAY=area/name` replays what the text occurs in and shows what differs; `REPLAY_KNOWN=1`
/// writes the steps that differ to `known.json` (the reasons are for a person to write).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recorded_exchanges() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let only = std::env::var("REPLAY").ok();
    let known_path = root.join("known.json");
    let mut known: BTreeMap<String, Known> =
        serde_json::from_str(&std::fs::read_to_string(&known_path).expect("a file")).expect("JSON");
    let kubectl = kubectl::find();
    let mut paths = Vec::new();
    scenarios(&root, &mut paths);
    paths.sort();
    let turns = Arc::new(Semaphore::new(TOGETHER));
    let mut running = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).expect("found below the root").with_extension("").display().to_string();
        if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        let scenario: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("JSON");
        let needs = scenario["needs"].as_array().cloned().unwrap_or_default();
        if let Some(lacking) = known.get(&name).and_then(|k| k.needs.as_ref()) {
            assert!(needs.iter().any(|n| n == lacking), "{name} does not need {lacking}");
        }
        if let Some(why) = SKIPPED.iter().find(|s| needs.iter().any(|n| n == **s)) {
            println!("skipped: {name} needs {why}");
        } else if scenario["kind"] == "kubectl" && kubectl.is_none() {
            println!("skipped: {name} needs kubectl, which is not installed");
            known.remove(&name);
        } else {
            let waits = known.get(&name).is_none_or(|k| k.needs.is_none());
            let (turn, kubectl) = (turns.clone(), kubectl.clone());
            let replay = async move {
                let _turn = turn.acquire_owned().await.expect("never closed");
                replay::run(scenario, kubectl, waits).await
            };
            running.push((name, tokio::spawn(replay)));
        }
    }
    let mut differs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut areas: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut apart = 0;
    for (name, task) in running {
        let mut failed = BTreeSet::new();
        for (step, complaints) in task.await.expect("a replay").into_iter().filter(|(_, c)| !c.is_empty()) {
            if only.is_some() {
                println!("{name} {step}\n    {}", complaints.join("\n    "));
            }
            failed.insert(step);
        }
        if known.get(&name).is_some_and(|k| k.needs.is_some()) && !failed.is_empty() {
            apart += 1;
        } else {
            let area = areas.entry(name.split('/').next().unwrap_or_default().to_owned()).or_default();
            area.0 += u32::from(failed.is_empty());
            area.1 += 1;
        }
        differs.insert(name, failed);
    }
    for (area, (whole, all)) in &areas {
        println!("{area:16} {whole:3} of {all:3}");
    }
    let (whole, all) = areas.values().fold((0, 0), |sum, area| (sum.0 + area.0, sum.1 + area.1));
    // Past the harness, which keeps what a test prints to itself.
    let count =
        format!("{whole} of {all} scenarios are as recorded; {apart} more need a component that this crate has not");
    let _ = writeln!(std::io::stderr(), "conformance: {count}");
    if only.is_some() {
        return;
    }
    if std::env::var_os("REPLAY_KNOWN").is_some() {
        for (name, steps) in &differs {
            known.entry(name.clone()).or_default().steps.clone_from(steps);
        }
        known.retain(|_, k| !k.steps.is_empty());
        std::fs::write(&known_path, serde_json::to_string_pretty(&known).expect("JSON") + "\n").expect("written");
    }
    let none = Known::default();
    let mut complaints = Vec::new();
    for (name, failed) in &differs {
        let known = known.get(name).unwrap_or(&none);
        complaints.extend(failed.difference(&known.steps).map(|s| format!("{name}: {s} differs, which is not known")));
        complaints
            .extend(known.steps.difference(failed).map(|s| format!("{name}: {s} is known to differ, and does not")));
    }
    complaints
        .extend(known.iter().filter(|(_, k)| k.why.is_empty()).map(|(name, _)| format!("{name}: no reason given")));
    complaints
        .extend(known.keys().filter(|k| !differs.contains_key(*k)).map(|name| format!("{name}: no such scenario")));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
