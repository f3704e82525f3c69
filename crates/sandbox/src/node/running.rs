//! A container that runs: its processes, streams and terminal.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::FusedFuture;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::logs::{Log, Stream};
use super::runtime::{ExecOptions, Process, Runtime, RuntimeError, Streams};
use super::terminal::Terminal;

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) process: Process,
    pub(crate) log: Arc<Log>,
    /// The writing end of its standard input, where it has one.
    pub(crate) stdin: Mutex<Option<OwnedFd>>,
    /// Its terminal, where it has one.
    pub(crate) terminal: Option<Arc<OwnedFd>>,
    ended: watch::Sender<bool>,
    /// Whether it is being killed as the kernel kills for lack of memory.
    oom: AtomicBool,
}

impl Running {
    pub(crate) fn new(
        id: String,
        runtime: Arc<Runtime>,
        process: Process,
        log: Arc<Log>,
        stdin: Option<OwnedFd>,
        terminal: Option<Arc<OwnedFd>>,
    ) -> Self {
        let (stdin, ended) = (Mutex::new(stdin), watch::Sender::new(false));
        Self { id, runtime, process, log, stdin, terminal, ended, oom: AtomicBool::new(false) }
    }

    /// Its end is to be told as one for lack of memory.
    pub(crate) fn blame_memory(&self) {
        self.oom.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.oom.load(Ordering::Relaxed)
    }

    /// Tells those who wait for its end.
    pub(crate) fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Resolves when the container has ended.
    pub(crate) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Starts a further process in the container.
    pub(crate) async fn exec(
        &self,
        options: &ExecOptions,
        streams: Streams,
    ) -> Result<(Process, Option<OwnedFd>), RuntimeError> {
        self.runtime.exec(&self.id, options, streams).await
    }

    /// Runs a command to its end; its exit code and the beginning of what it printed.
    pub(crate) async fn run_command(&self, command: Vec<String>, limit: Duration) -> Result<(i32, String), String> {
        let (reader, writer) = pipe().map_err(|e| e.to_string())?;
        let errors = writer.try_clone().map_err(|e| e.to_string())?;
        let streams = Streams { stdin: None, stdout: Some(writer), stderr: Some(errors) };
        let options = ExecOptions { command: command.clone(), tty: false };
        let work = async {
            let (process, _) = self.exec(&options, streams).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(process)
        };
        let deadline = Instant::now() + limit;
        let late = || format!("command {command:?} timed out after {limit:?}");
        let process = tokio::time::timeout_at(deadline, work).await.map_err(|_| late())??;
        let output = Mutex::new(Vec::new());
        let read = async {
            use tokio::io::AsyncReadExt;
            let Ok(mut pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(reader) else { return };
            let mut part = [0u8; 1024];
            while let Ok(length @ 1..) = pipe.read(&mut part).await {
                // The rest is read, so that the command does not wait, and forgotten.
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                let room = 10_240usize.saturating_sub(output.len());
                output.extend_from_slice(&part[..length.min(room)]);
            }
        };
        let mut read = std::pin::pin!(read.fuse());
        let finished = async {
            tokio::select! {
                exit = process.wait() => return exit,
                () = &mut read => {}
            }
            process.wait().await
        };
        let Ok(exit) = tokio::time::timeout_at(deadline, finished).await else {
            process.signal(Signal::KILL);
            process.wait().await;
            return Err(late());
        };
        // What is left in the pipe comes at once; a child that keeps it open is not waited for.
        if !read.is_terminated() {
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut read).await;
        }
        Ok((
            exit.code,
            String::from_utf8_lossy(&output.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_owned(),
        ))
    }
}

/// A pipe whose ends no other process inherits.
pub(crate) fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Into::into)
}

/// Copies what a terminal shows into the log.
pub(crate) async fn copy_terminal(log: Arc<Log>, terminal: OwnedFd) {
    let Ok(terminal) = Terminal::new(terminal) else { return };
    let mut pending = Vec::new();
    let mut buffer = [0u8; 2048];
    while let Ok(length @ 1..) = terminal.read(&mut buffer).await {
        log.append(Stream::Stdout, &mut pending, &buffer[..length]);
    }
    if !pending.is_empty() {
        log.append(Stream::Stdout, &mut pending, b"\n");
    }
}
