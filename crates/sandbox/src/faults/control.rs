//! How another process throws a switch: a socket in the sandbox's folder below `/run`, one line of JSON each way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::{Fault, Faults};
use crate::paths::Paths;

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Done(String),
    Refused(String),
}

/// A request that was not met.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The sandbox says why.
    #[error("{0}")]
    Refused(String),
    /// Nobody listens.
    #[error("no sandbox runs in {0}")]
    NotRunning(String),
    /// The conversation broke off.
    #[error("talking to the sandbox: {0}")]
    Io(std::io::Error),
}

/// Listens; only root may connect.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests. Never returns.
pub(crate) async fn serve(listener: UnixListener, faults: Faults) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let faults = faults.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &faults).await {
                        tracing::debug!("control: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("control: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, faults: &Faults) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Fault>(&line) {
        Ok(fault) => match faults.apply(fault.clone()).await {
            Ok(text) => {
                tracing::info!("fault switch: {text}");
                Answer::Done(text)
            }
            Err(error) => Answer::Refused(error.to_string()),
        },
        Err(error) => Answer::Refused(format!("not understood: {error} (is the sandbox of another version?)")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

/// Throws a switch of a sandbox that runs in another process; the text says what happened.
pub fn request(paths: &Paths, fault: &Fault) -> Result<String, ControlError> {
    let stream = std::os::unix::net::UnixStream::connect(paths.control()).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning(paths.dir().display().to_string())
        }
        _ => ControlError::Io(error),
    })?;
    let text = serde_json::to_string(fault).map_err(|e| ControlError::Io(e.into()))?;
    writeln!(&stream, "{text}").map_err(ControlError::Io)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).map_err(ControlError::Io)?;
    match serde_json::from_str(&line).map_err(|e| ControlError::Io(e.into()))? {
        Answer::Done(text) => Ok(text),
        Answer::Refused(text) => Err(ControlError::Refused(text)),
    }
}
