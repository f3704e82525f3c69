//! Running the few external tools that the sandbox needs (`ip`, `nft`, `runc`, `mount` helpers).

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A tool that could not be run, or that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tool is not there, or the process could not be started.
    #[error("cannot run {tool}: {source}")]
    Start {
        /// Name of the tool.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// The tool ended with a failure.
    #[error("{tool} failed ({status}): {stderr}")]
    Failed {
        /// Name of the tool with its first arguments.
        tool: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said, shortened.
        stderr: String,
    },
}

/// Runs a tool to its end and returns what it printed.
pub(crate) async fn run<I, S>(tool: &str, args: I) -> Result<String, CommandError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run_with_input(tool, args, None).await
}

/// As [`run`], with text for the tool's standard input.
pub(crate) async fn run_with_input<I, S>(tool: &str, args: I, input: Option<&str>) -> Result<String, CommandError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(tool);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let start = |source| CommandError::Start { tool: tool.to_owned(), source };
    let mut child = command.spawn().map_err(start)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A tool that fails early closes its input: its exit status tells more than this write.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if stderr.len() > 2000 {
        let cut = (0..=2000).rev().find(|i| stderr.is_char_boundary(*i)).unwrap_or(0);
        stderr.truncate(cut);
    }
    Err(CommandError::Failed { tool: tool.to_owned(), status: output.status, stderr })
}
