//! The other side of a clone: `mariadb-backup` of this member, framed, while the server goes on working.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use protocol::clone::{DATA, END, End, START, Start};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::bootstrap::last_lines;
use crate::config::program;
use crate::{Shared, login, processes, volume};

/// A frame's payload: large enough that framing costs nothing.
const FRAME: usize = 256 * 1024;
/// So many frames may wait for a slow network.
const WAITING: usize = 4;
/// Copies at the same time.
const MOST: usize = 3;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

type Frames = mpsc::Receiver<Result<Bytes, std::io::Error>>;

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 5);
    frame.put_u8(kind);
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

/// Starts a copy; its frames. `Err`: why there is none.
pub(crate) fn donate(shared: &Arc<Shared>) -> Result<Frames, String> {
    let Some(server) = shared.state.now().server else { return Err("the server is not running".into()) };
    if RUNNING.fetch_add(1, Ordering::SeqCst) >= MOST {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        return Err(format!("{MOST} copies are being made already"));
    }
    let place = Place;
    let mut command = program(&shared.places, "mariadb-backup");
    command
        .arg(format!("--defaults-file={}", login::backup_file(&shared.places).display()))
        .args(["--backup", "--stream=mbstream", "--skip-ssl", "--ftwrl-wait-timeout=30"])
        .arg(format!("--user={}", login::USER))
        .arg(format!("--socket={}", shared.places.socket().display()))
        .arg(format!("--datadir={}", shared.places.data().display()))
        .arg(format!("--target-dir={}", shared.places.run.join("backup").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (sender, frames) = mpsc::channel(WAITING);
    let data = shared.places.data();
    let stop = shared.donations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    tokio::spawn(async move {
        let _place = place;
        let estimated_bytes = tokio::task::spawn_blocking(move || data_size(&data)).await.unwrap_or_default();
        let start = Start { estimated_bytes, version: server.version, from_primary: server.replication.is_none() };
        let failed = sender.clone();
        if stop.run_until_cancelled(copy(command, start, sender)).await.is_none() {
            let end = End::Failed { message: "ended: this member is needed for a change of primary".into() };
            if let Ok(json) = serde_json::to_vec(&end) {
                let _ = failed.send(Ok(frame(END, &json))).await;
            }
        }
    });
    Ok(frames)
}

/// Without logs, which are not copied.
fn data_size(folder: &std::path::Path) -> u64 {
    let log = |name: &str| name.contains("-bin.") || name.contains("relay") || name.starts_with("ib_logfile");
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| !log(&entry.file_name().to_string_lossy()))
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => volume::size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

async fn copy(mut command: tokio::process::Command, start: Start, sender: mpsc::Sender<Result<Bytes, std::io::Error>>) {
    let end = match stream(&mut command, &start, &sender).await {
        Ok(()) => End::Complete,
        Err(None) => return, // Nobody listens any more: the child was killed.
        Err(Some(message)) => End::Failed { message },
    };
    tracing::info!(?end, "copy given");
    if let Ok(json) = serde_json::to_vec(&end) {
        let _ = sender.send(Ok(frame(END, &json))).await;
    }
}

async fn stream(
    command: &mut tokio::process::Command,
    start: &Start,
    sender: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(), Option<String>> {
    let json = serde_json::to_vec(start).map_err(|e| Some(e.to_string()))?;
    let send = async |bytes: Bytes| sender.send(Ok(bytes)).await.map_err(|_| None);
    send(frame(START, &json)).await?;
    let mut child = processes::spawn(command).map_err(|e| Some(format!("cannot start: {e}")))?;
    let (Some(mut stdout), Some(stderr)) = (child.child.stdout.take(), child.child.stderr.take()) else {
        return Err(Some("no pipes".into()));
    };
    let words = tokio::spawn(tail(stderr));
    loop {
        let mut payload = BytesMut::with_capacity(FRAME + 5);
        payload.put_bytes(0, 5);
        while payload.len() < FRAME {
            let read = stdout.read_buf(&mut payload).await.map_err(|e| Some(e.to_string()))?;
            if read == 0 {
                break;
            }
        }
        let length = payload.len() - 5;
        if length == 0 {
            break;
        }
        payload[0] = DATA;
        payload[1..5].copy_from_slice(&(length as u32).to_be_bytes());
        send(payload.freeze()).await?;
    }
    let status = child.child.wait().await.map_err(|e| Some(e.to_string()))?;
    let words = tokio::time::timeout(Duration::from_secs(5), words).await.ok().and_then(Result::ok).unwrap_or_default();
    if status.success() && words.contains("completed OK!") {
        Ok(())
    } else {
        Err(Some(format!("{status}: {}", last_lines(&words))))
    }
}

/// The last words of a long talker.
async fn tail(mut stderr: tokio::process::ChildStderr) -> String {
    const KEEP: usize = 8 * 1024;
    let mut text = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(n) = stderr.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..n]);
        if text.len() > 2 * KEEP {
            text.drain(..text.len() - KEEP);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
