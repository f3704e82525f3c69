//! Containers by `runc`, one short-lived `runc` process for each step. The processes of containers become children of
//! the sandbox (it is their sub-reaper), which therefore learns every exit at once and the exit code with it.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

use super::orphans::{Awaited, Starting};
use crate::command::run;

/// What `runc` could not do.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// runc says why.
    #[error("{0}")]
    Runc(String),
    /// A system call around it.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The failure.
        source: std::io::Error,
    },
}

fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> RuntimeError {
    move |source| RuntimeError::Io { step, source }
}

/// `runc` with its state folder.
#[derive(Debug)]
pub struct Runtime {
    root: PathBuf,
    scratch: PathBuf,
    counter: AtomicU64,
}

/// Standard streams of a process; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub struct Streams {
    /// Read by the process.
    pub stdin: Option<OwnedFd>,
    /// Written by the process.
    pub stdout: Option<OwnedFd>,
    /// Written by the process.
    pub stderr: Option<OwnedFd>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal for one that was killed.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// A process in a container.
#[derive(Debug)]
pub struct Process {
    pidfd: AsyncFd<OwnedFd>,
    _awaited: Awaited,
}

impl Process {
    fn open(pid: i32) -> Result<Self, RuntimeError> {
        let pid = Pid::from_raw(pid).ok_or_else(|| RuntimeError::Runc("runc reported no process id".to_owned()))?;
        let awaited = Awaited::new(pid);
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| io("pidfd")(e.into()))?;
        // The replacement is an unsafe function; an owned descriptor is what it asks for.
        #[expect(deprecated)]
        let pidfd = AsyncFd::with_interest(fd, tokio::io::Interest::READABLE).map_err(io("watching a process"))?;
        Ok(Self { pidfd, _awaited: awaited })
    }

    /// Waits until it ends; to be called once, by its owner.
    pub async fn wait(&self) -> Exit {
        let lost = Exit { code: 137, signal: None };
        if self.pidfd.readable().await.is_err() {
            return lost;
        }
        let id = WaitId::PidFd(std::os::fd::AsFd::as_fd(self.pidfd.get_ref()));
        match rustix::process::waitid(id, WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit { code, signal: None },
                (None, Some(signal)) => Exit { code: 128 + signal, signal: Some(signal) },
                (None, None) => lost,
            },
            _ => lost,
        }
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal);
    }
}

/// Options of a process that is started in a running container.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Gives the process a terminal.
    pub tty: bool,
}

impl Runtime {
    /// Keeps runc's state below `run`.
    pub fn new(run: &Path) -> Result<Self, RuntimeError> {
        let (root, scratch) = (run.join("runc"), run.join("tmp"));
        for dir in [&root, &scratch] {
            std::fs::create_dir_all(dir).map_err(io("runtime folder"))?;
        }
        Ok(Self { root, scratch, counter: AtomicU64::new(0) })
    }

    fn scratch(&self, suffix: &str) -> PathBuf {
        self.scratch.join(format!("{}.{suffix}", self.counter.fetch_add(1, Ordering::Relaxed)))
    }

    /// Creates and starts a container from its bundle. With `tty` the terminal's end comes back.
    pub async fn start(
        &self,
        id: &str,
        bundle: &Path,
        streams: Streams,
        tty: bool,
    ) -> Result<(Process, Option<OwnedFd>), RuntimeError> {
        let arguments = [OsString::from("--bundle"), bundle.into(), id.into()];
        let result = self.detached("run", arguments.into(), streams, tty).await;
        if result.is_err() {
            let _ = self.delete(id).await;
        }
        result
    }

    /// Starts another process in a container.
    pub async fn exec(
        &self,
        id: &str,
        options: &ExecOptions,
        streams: Streams,
    ) -> Result<(Process, Option<OwnedFd>), RuntimeError> {
        let mut arguments = Vec::new();
        if options.tty {
            arguments.push("--tty".into());
            arguments.push("--env".into());
            arguments.push("TERM=xterm".into());
        }
        arguments.push(id.into());
        arguments.extend(options.command.iter().map(OsString::from));
        self.detached("exec", arguments, streams, options.tty).await
    }

    async fn detached(
        &self,
        verb: &str,
        arguments: Vec<OsString>,
        streams: Streams,
        tty: bool,
    ) -> Result<(Process, Option<OwnedFd>), RuntimeError> {
        let _starting = Starting::new();
        let (log, pid_file, socket) = (self.scratch("log"), self.scratch("pid"), self.scratch("tty"));
        let console =
            if tty { Some(tokio::net::UnixListener::bind(&socket).map_err(io("terminal's socket"))?) } else { None };
        let to_stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let mut command = tokio::process::Command::new("runc");
        command.arg("--root").arg(&self.root).arg("--log").arg(&log).args(["--log-format", "json", verb, "--detach"]);
        command.arg("--pid-file").arg(&pid_file);
        if tty {
            command.arg("--console-socket").arg(&socket);
        }
        command.args(arguments);
        command.stdin(to_stdio(streams.stdin)).stdout(to_stdio(streams.stdout)).stderr(to_stdio(streams.stderr));
        let mut child = command.spawn().map_err(io("runc"))?;
        // The parent's copies of the container's ends of pipes go now, or nobody would ever see their end.
        drop(command);
        let terminal = match console {
            Some(listener) => tokio::select! {
                terminal = receive_terminal(listener) => terminal.ok(),
                _ = child.wait() => None,
            },
            None => None,
        };
        let status = child.wait().await.map_err(io("runc"))?;
        let result = if status.success() {
            let text = std::fs::read_to_string(&pid_file).map_err(io("process id"));
            text.and_then(|t| Process::open(t.trim().parse().unwrap_or(0)))
        } else {
            Err(RuntimeError::Runc(last_error(&log).unwrap_or_else(|| format!("runc {verb}: {status}"))))
        };
        for file in [&log, &pid_file, &socket] {
            let _ = std::fs::remove_file(file);
        }
        result.map(|process| (process, terminal))
    }

    /// Removes a container, killing what is left of it.
    pub async fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let root = self.root.as_os_str();
        let arguments = ["--root".as_ref(), root, "delete".as_ref(), "--force".as_ref(), id.as_ref()];
        match tokio::time::timeout(Duration::from_secs(20), run("runc", arguments)).await {
            Ok(result) => result.map(drop).map_err(|e| RuntimeError::Runc(e.to_string())),
            Err(_) => Err(RuntimeError::Runc(format!("runc delete {id} hangs"))),
        }
    }
}

/// The last error of runc's log.
fn last_error(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned)).flatten()
    })
}

/// Accepts runc's connection and takes the terminal out of its message.
async fn receive_terminal(listener: tokio::net::UnixListener) -> std::io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    tokio::task::spawn_blocking(move || {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0u8; 4096];
        recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .ok_or_else(|| std::io::Error::other("runc sent no terminal"))
    })
    .await
    .map_err(std::io::Error::other)?
}
