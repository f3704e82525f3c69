//! One sandbox for each directory, and nothing left behind when it dies.
//!
//! The sandbox holds a lock on `DIR/lock`. Its janitor, a second process, holds the same lock and waits for the sandbox's
//! end, however that comes; it then kills every process of every pod and removes mounts, networks and control groups.
//! Only after that the lock is free, so a new sandbox never meets the remains of an old one.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use crate::network;
use crate::node::mount::unmount_below;
use crate::paths::{self, Paths};

/// What is wrong with the directory or the process in it.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one runs.
    #[error("a sandbox runs in this directory already (process {0}); see `kubectl mariadb sandbox status`")]
    Running(i32),
    /// None runs.
    #[error("no sandbox runs in {0}")]
    NotRunning(String),
    /// It does not end.
    #[error("the sandbox (process {0}) does not end")]
    Stuck(i32),
    /// A file or process could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The failure.
        source: std::io::Error,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> InstanceError {
    let what = what.into();
    move |source| InstanceError::Io { what, source }
}

/// Gives the process a mount namespace of its own, so that its mounts go with it. To be called before any thread starts.
pub fn isolate() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(())
}

/// The lock of a running sandbox.
#[derive(Debug)]
pub struct Instance {
    lock: File,
    janitor: Option<Janitor>,
}

#[derive(Debug)]
struct Janitor {
    child: Child,
    /// Its end tells the janitor that the sandbox is gone.
    pipe: OwnedFd,
}

/// The process that runs in the directory, if one does.
pub fn running(paths: &Paths) -> Option<i32> {
    let mut file = OpenOptions::new().read(true).write(true).open(paths.lock()).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(text.trim().parse().unwrap_or(0))
}

impl Instance {
    /// Takes the directory. Waits for the janitor of a sandbox that has just died.
    pub fn take(paths: &Paths) -> Result<Self, InstanceError> {
        std::fs::create_dir_all(paths.dir()).map_err(io(paths.dir().display().to_string()))?;
        let path = paths.lock();
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(path.display().to_string()))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            lock.rewind().and_then(|()| lock.read_to_string(&mut text)).map_err(io("lock"))?;
            let owner = text.trim().parse().unwrap_or(0);
            if is_alive(owner) || Instant::now() > deadline {
                return Err(InstanceError::Running(owner));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io("lock"))?;
        Ok(Self { lock, janitor: None })
    }

    /// Starts the janitor: `command` must end in a call of [`clean_up_after`].
    pub fn start_janitor(&mut self, mut command: Command) -> Result<(), InstanceError> {
        let (reader, pipe) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| io("janitor")(e.into()))?;
        // The janitor's output is the lock file: that is how it shares the lock.
        let lock = self.lock.try_clone().map_err(io("janitor"))?;
        command.stdin(Stdio::from(reader)).stdout(Stdio::from(lock)).stderr(Stdio::null());
        let child = command.spawn().map_err(io("janitor"))?;
        self.janitor = Some(Janitor { child, pipe });
        Ok(())
    }

    /// Lets the janitor do its work now, and waits for it.
    pub fn finish(self) {
        if let Some(Janitor { mut child, pipe }) = self.janitor {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// Waits until no other sandbox of this machine is starting, and keeps others waiting until it is dropped: free ranges of
/// addresses and ports are found by looking at what is in use, and two that look at once find the same.
pub fn one_start_at_a_time() -> Result<File, InstanceError> {
    let dir = Path::new(paths::ALL_RUNS);
    std::fs::create_dir_all(dir).map_err(io(paths::ALL_RUNS))?;
    let path = dir.join("starting");
    let lock = File::create(&path).map_err(io(path.display().to_string()))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| io(path.display().to_string())(e.into()))?;
    Ok(lock)
}

fn is_alive(process: i32) -> bool {
    process > 0 && Path::new(&format!("/proc/{process}/exe")).exists()
}

/// What the janitor does: waits for the end of its input, and then removes everything that the sandbox made outside of
/// its directory.
pub fn clean_up_after(paths: &Paths) {
    // Signals for the sandbox's terminal are not for the janitor.
    let _ = nix::unistd::setsid();
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    clean_up(paths);
}

/// Kills pods' processes, and removes mounts, networks and control groups.
pub fn clean_up(paths: &Paths) {
    clean_up_files(paths);
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        runtime.block_on(network::remove_leftovers(&paths.netns_prefix(), &paths.host_interface()));
    }
}

/// Kills pods' processes and removes mounts, but leaves the network.
pub(crate) fn clean_up_files(paths: &Paths) {
    // Processes that wait for a disk cannot end.
    crate::faults::volumes::thaw_below(&paths.volumes());
    crate::cgroup::destroy(&paths.cgroup());
    unmount_below(&paths.pods());
    unmount_below(&paths.volumes());
    let _ = std::fs::remove_dir_all(paths.run());
    let _ = std::fs::remove_file(paths.ready());
}

/// Ends the sandbox of a directory and waits until everything is cleaned up.
pub fn stop(paths: &Paths, patience: Duration) -> Result<(), InstanceError> {
    let Some(process) = running(paths) else {
        // It may have died with its machine: nothing is held then, and what is left is removed.
        clean_up(paths);
        return Err(InstanceError::NotRunning(paths.dir().display().to_string()));
    };
    let pid = Pid::from_raw(process).ok_or(InstanceError::Stuck(process))?;
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(20))] {
        let _ = rustix::process::kill_process(pid, signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if running(paths).is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Err(InstanceError::Stuck(process))
}
