//! Processes that became children of the sandbox without its knowing, and have ended: what a `runc` left that failed
//! half-way (a command that is started in a container that ends), and what was started for somebody who did not wait.
//! Nobody else reaps them; and the process 1 of their container does not end before they are reaped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions};

/// Its own processes are reaped at once; one that is seen dead twice has nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A start that has taken so long hangs, and tells no pid any more.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What somebody waits for. Children belong to the whole process, and so does this.
static KNOWN: Mutex<Known> = Mutex::new(Known { awaited: BTreeMap::new(), starting: BTreeMap::new(), last: 0 });

struct Known {
    /// Processes that somebody waits for, and how many do: a pid may be used again.
    awaited: BTreeMap<i32, u32>,
    /// Starts of processes whose pids are not known yet.
    starting: BTreeMap<u64, Instant>,
    last: u64,
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Nobody waits for this process, nor will anybody: all starts that were under way when it was first seen dead are over.
    fn is_orphan(&self, pid: i32, first_seen: Instant) -> bool {
        let may_be_its = |since: &Instant| *since <= first_seen && since.elapsed() < START_LIMIT;
        !self.awaited.contains_key(&pid) && !self.starting.values().any(may_be_its)
    }
}

/// A process that somebody waits for, for as long as this lives.
#[derive(Debug)]
pub(super) struct Awaited(i32);

impl Awaited {
    pub(super) fn new(pid: Pid) -> Self {
        let pid = pid.as_raw_nonzero().get();
        *known().awaited.entry(pid).or_default() += 1;
        Self(pid)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = known().awaited.entry(self.0) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// A process that is being started, for as long as this lives.
#[derive(Debug)]
pub(super) struct Starting(u64);

impl Starting {
    pub(super) fn new() -> Self {
        let mut known = known();
        known.last += 1;
        let id = known.last;
        known.starting.insert(id, Instant::now());
        Self(id)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        known().starting.remove(&self.0);
    }
}

/// Reaps them. Never returns.
pub async fn reap() {
    let mut seen: BTreeMap<i32, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(dead) = tokio::task::spawn_blocking(dead).await else { continue };
        let now = Instant::now();
        seen = dead.into_iter().map(|pid| (pid, seen.get(&pid).copied().unwrap_or(now))).collect();
        // Nobody begins to wait for one of them meanwhile.
        let known = known();
        for (&pid, _) in seen.iter().filter(|&(&pid, &since)| since < now && known.is_orphan(pid, since)) {
            let reaped = Pid::from_raw(pid)
                .map(|pid| rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG));
            tracing::debug!(pid, ?reaped, "an orphan was reaped");
        }
    }
}

/// Children that have ended, and that the sandbox did not start itself.
fn dead() -> Vec<i32> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // Nearly always there is none.
    if !matches!(rustix::process::waitid(WaitId::All, look), Ok(Some(_))) {
        return Vec::new();
    }
    let own = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| Status::parse(&text));
    let depth = own.map_or(1, |own| own.depth);
    let me = std::process::id().cast_signed();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let status = Status::parse(&std::fs::read_to_string(entry.path().join("status")).ok()?)?;
            (status.dead && status.parent == me && status.is_of_a_container(depth)).then_some(pid)
        })
        .collect()
}

/// What `/proc/PID/status` tells of a process.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    dead: bool,
    parent: i32,
    /// In how many namespaces of process ids it has one.
    depth: usize,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        Some(Self {
            name: field("Name")?.to_owned(),
            dead: field("State")?.starts_with('Z'),
            parent: field("PPid")?.parse().ok()?,
            depth: field("NSpid")?.split_whitespace().count(),
        })
    }

    /// In a container, or on its way into one. (The tools that the sandbox starts have other names, and are waited for.)
    fn is_of_a_container(&self, sandbox: usize) -> bool {
        self.depth > sandbox || self.name.starts_with("runc:[")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: &str, ids: &str) -> Status {
        let text = format!("Name:\t{name}\nUmask:\t0022\nState:\t{state}\nPPid:\t70\nNSpid:\t{ids}\n");
        Status::parse(&text).expect("a status")
    }

    #[test]
    fn whoever_is_about_to_wait_is_waited_for() {
        // No child of this process ever has such a pid.
        let pid = i32::MAX;
        let orphan = |first_seen| known().is_orphan(pid, first_seen);
        let before = Instant::now();
        let starting = Starting::new();
        std::thread::sleep(Duration::from_millis(2));
        assert!(!orphan(Instant::now()) && orphan(before));
        let awaited = [Pid::from_raw(pid), Pid::from_raw(pid)].map(|pid| Awaited::new(pid.expect("a pid")));
        drop(starting);
        let [one, other] = awaited;
        drop(one);
        assert!(!orphan(Instant::now()), "the other one still waits");
        drop(other);
        assert!(orphan(Instant::now()));
    }

    #[test]
    fn tools_of_the_sandbox_are_let_alone() {
        let dead = "Z (zombie)";
        assert!(status("runc:[2:INIT]", dead, "71\t129").is_of_a_container(1));
        assert!(status("runc:[1:CHILD]", dead, "71").is_of_a_container(1));
        assert!(status("sh", dead, "71\t12").is_of_a_container(1));
        assert!(!status("sh", dead, "71\t12").is_of_a_container(2));
        assert!(!status("runc", dead, "71").is_of_a_container(1));
        assert!(!status("ip", dead, "71").is_of_a_container(1));
        assert!(status("ip", dead, "71").dead && !status("ip", "S (sleeping)", "71").dead);
    }
}
