//! Control groups: runc makes them; here they are read, emptied by force and removed, whichever version is mounted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const ROOT: &str = "/sys/fs/cgroup";

/// Every hierarchy's folder for a group (`path` begins without a slash).
fn folders(path: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").is_file() {
        return vec![root.join(path)];
    }
    std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join(path))
        .filter(|p| p.is_dir())
        .collect()
}

/// Whether the kernel killed a process of the group for lack of memory.
pub(crate) fn was_oom_killed(path: &str) -> bool {
    let root = Path::new(ROOT);
    let files = [root.join("memory").join(path).join("memory.oom_control"), root.join(path).join("memory.events")];
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|n| n.trim().parse::<u64>().is_ok_and(|n| n > 0))
    })
}

/// The processes in a group and below it.
pub(crate) fn processes(path: &str) -> BTreeSet<i32> {
    fn collect(folder: &Path, found: &mut BTreeSet<i32>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                collect(&entry.path(), found);
            }
        }
        let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    let mut found = BTreeSet::new();
    for folder in folders(path) {
        collect(&folder, &mut found);
    }
    found
}

/// Sends a signal to every process of a group and below it, until nobody is left who has not had it: a process may have
/// made another one meanwhile.
pub(crate) fn signal_all(path: &str, signal: Signal) {
    let mut told = BTreeSet::new();
    for _ in 0..50 {
        let new: Vec<i32> = processes(path).into_iter().filter(|pid| told.insert(*pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Kills everything in a group and below it, and removes the groups. Blocks for as long as that takes (at most 5 s).
pub fn destroy(path: &str) {
    for _ in 0..250 {
        let folders = folders(path);
        if folders.is_empty() {
            return;
        }
        for folder in folders {
            if !kill_below(&folder) {
                remove_below(&folder);
            }
        }
        if self::folders(path).iter().all(|f| !f.exists()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::warn!("control group {path} cannot be removed");
}

/// Kills processes; tells whether there were any.
fn kill_below(folder: &Path) -> bool {
    let mut found = false;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found |= kill_below(&entry.path());
        }
    }
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|l| l.parse().ok()).filter_map(Pid::from_raw) {
        found = true;
        let _ = kill_process(pid, Signal::KILL);
    }
    found
}

fn remove_below(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}
