//! Processes that became children of the sandbox without its knowing, and have ended: what a `runc` left that failed
//! half-way (a command that is started in a container that ends), and what was started for somebody who did not wait.
//! Nobody else reaps them; and the process 1 of their container does not end before they are reaped.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions};

/// Its own processes are reaped at once; one that is seen dead twice has nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Processes that somebody waits for. Children belong to the whole process, and so does this.
static AWAITED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn awaited() -> MutexGuard<'static, BTreeSet<i32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that somebody waits for, for as long as this lives.
#[derive(Debug)]
pub(super) struct Awaited(Pid);

impl Awaited {
    pub(super) fn new(pid: Pid) -> Self {
        awaited().insert(pid.as_raw_nonzero().get());
        Self(pid)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        awaited().remove(&self.0.as_raw_nonzero().get());
    }
}

/// Reaps them. Never returns.
pub async fn reap() {
    let mut last = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(seen) = tokio::task::spawn_blocking(dead).await else { continue };
        for pid in seen.intersection(&last).filter(|pid| !awaited().contains(pid)) {
            let reaped = Pid::from_raw(*pid)
                .map(|pid| rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG));
            tracing::debug!(pid, ?reaped, "an orphan was reaped");
        }
        last = seen;
    }
}

/// Children that have ended, and that the sandbox did not start itself.
fn dead() -> BTreeSet<i32> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // Nearly always there is none.
    if !matches!(rustix::process::waitid(WaitId::All, look), Ok(Some(_))) {
        return BTreeSet::new();
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
