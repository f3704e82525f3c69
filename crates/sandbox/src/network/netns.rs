//! A thread that lives in another network namespace: sockets and child processes that it makes belong there.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;

use nix::sched::{CloneFlags, setns};

type Job = Box<dyn FnOnce() + Send>;

/// Handle of the thread. It ends when the handle is dropped.
#[derive(Debug, Clone)]
pub struct NetnsThread {
    jobs: mpsc::Sender<Job>,
}

impl NetnsThread {
    /// Starts a thread in the namespace that `path` (`/run/netns/NAME`) names.
    pub fn enter(path: &Path) -> std::io::Result<Self> {
        let namespace = File::open(path)?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (entered, result) = mpsc::channel();
        std::thread::Builder::new().name("cluster-net".to_owned()).stack_size(256 * 1024).spawn(move || {
            let outcome = setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
            let failed = outcome.is_err();
            if entered.send(outcome).is_err() || failed {
                return;
            }
            while let Ok(job) = inbox.recv() {
                job();
            }
        })?;
        result.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended early")))?;
        Ok(Self { jobs })
    }

    /// Runs a closure there and waits for it.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
        let (answer, result) = tokio::sync::oneshot::channel();
        let gone = || std::io::Error::other("the network namespace's thread is gone");
        self.jobs
            .send(Box::new(move || {
                // Nobody waiting any more is fine: the caller was dropped.
                let _ = answer.send(job());
            }))
            .map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }
}
