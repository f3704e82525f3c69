//! The agent's configuration and the server's: read from the mounted ConfigMap, rendered for this member, checked before the
//! server is started with it.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use protocol::{AgentConfig, paths};
use topology::member::Phase;

use crate::places::Places;
use crate::{Me, Shared, StartError};

/// Reads `agent.json`.
pub(crate) fn agent(places: &Places) -> Result<AgentConfig, StartError> {
    let path = places.config.join(paths::AGENT_JSON);
    let fail = |message: String| StartError::Config { path: path.display().to_string(), message };
    let bytes = std::fs::read(&path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))
}

/// The same as it is mounted now, for what takes effect without a restart; as it was at the start where that is not to be read.
pub(crate) fn current(shared: &Shared) -> AgentConfig {
    agent(&shared.places).unwrap_or_else(|_| shared.config.clone())
}

/// Hash of what is mounted: tells whether a running server was started with it.
pub(crate) fn hash(places: &Places) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in paths::CNF_PARTS {
        for byte in std::fs::read(places.config.join(part)).unwrap_or_default().into_iter().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

/// Renders `my.cnf` for this member and writes it.
pub(crate) fn render(places: &Places, config: &AgentConfig, me: &Me) -> std::io::Result<()> {
    let mut text = String::from("# Rendered by the agent; changes here are lost.\n");
    for part in paths::CNF_PARTS {
        let content = std::fs::read_to_string(places.config.join(part)).unwrap_or_default();
        let _ = write!(text, "\n# {part}\n{}\n", content.trim_end());
    }
    let show = |path: std::path::PathBuf| path.display().to_string();
    let _ = write!(
        text,
        "\n# This member.\n[mariadbd]\nserver-id={}\nreport-host={}\nport={}\ndatadir={}\nsocket={}\npid-file={}\n\
         read-only=ON\nskip-slave-start=ON\nevent-scheduler=OFF\n",
        config.server_id_base + me.ordinal(),
        me.host(),
        config.port,
        show(places.data()),
        show(places.socket()),
        show(places.run.join("mariadbd.pid")),
    );
    if config.tls {
        let file = |name: &str| show(places.server_tls.join(name));
        let _ = write!(text, "ssl-ca={}\nssl-cert={}\nssl-key={}\n", file("ca.crt"), file("tls.crt"), file("tls.key"));
    }
    std::fs::create_dir_all(&places.run)?;
    std::fs::write(places.my_cnf(), text)
}

/// A program of the image, without what the server need not know.
pub(crate) fn program(places: &Places, name: &str) -> tokio::process::Command {
    let mut command = match places.enter.split_first() {
        None => tokio::process::Command::new(name),
        Some((first, rest)) => {
            let mut command = tokio::process::Command::new(first);
            command.args(rest).arg(name);
            command
        }
    };
    for variable in ["MARIADB_ROOT_PASSWORD", "MYSQL_ROOT_PASSWORD"] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// How long the server may take to say whether it understands its options.
const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// Asks the server whether it understands its options; what it refuses otherwise.
pub(crate) async fn check(shared: &Shared) -> Result<(), Phase> {
    let mut command = program(&shared.places, "mariadbd");
    command
        .arg(format!("--defaults-file={}", shared.places.my_cnf().display()))
        .args(["--help", "--verbose", "--log-error="])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = async {
        let child =
            crate::processes::spawn(&mut command).map_err(|e| failed("CannotStart", format!("mariadbd: {e}")))?;
        wait_with_stderr(child).await.map_err(|e| failed("CannotStart", format!("mariadbd: {e}")))
    };
    let (status, stderr) = tokio::time::timeout(CHECK_LIMIT, output)
        .await
        .map_err(|_| failed("CannotStart", "mariadbd --help does not end".into()))??;
    if status.success() {
        return Ok(());
    }
    Err(refused(&shared.places, &stderr))
}

fn failed(reason: &str, message: String) -> Phase {
    Phase::Failed { reason: reason.into(), message }
}

/// Waits for a child and gives the last 16 KiB that it said on standard error.
pub(crate) async fn wait_with_stderr(
    mut child: crate::processes::Owned,
) -> std::io::Result<(std::process::ExitStatus, String)> {
    use tokio::io::AsyncReadExt as _;
    const KEEP: usize = 16 * 1024;
    let mut text = Vec::new();
    if let Some(mut stderr) = child.child.stderr.take() {
        let mut buffer = vec![0; 4096];
        loop {
            let n = stderr.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..n]);
            if text.len() > 2 * KEEP {
                text.drain(..text.len() - KEEP);
            }
        }
    }
    let status = child.child.wait().await?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// Some values are refused only by a server that really starts.
pub(crate) fn refused_at_start(places: &Places, words: &str) -> Option<Phase> {
    words.lines().any(|line| line.contains("[ERROR]") && complaint(line).is_some()).then(|| refused(places, words))
}

/// What the server's words say about its options.
fn refused(places: &Places, stderr: &str) -> Phase {
    let user = std::fs::read_to_string(places.config.join(paths::CNF_PARTS[1])).unwrap_or_default();
    let line = complaint(stderr);
    let Some(line) = line else {
        let last: Vec<_> = stderr.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        return failed("CannotStart", last.into_iter().rev().collect::<Vec<_>>().join("; "));
    };
    let option = option_named(line);
    let at = option.as_deref().and_then(|option| line_of(&user, option));
    Phase::ConfigRefused { line: at, message: line.trim().to_owned(), option }
}

/// The first line that is about an option.
fn complaint(stderr: &str) -> Option<&str> {
    const SIGNS: [&str; 9] = [
        "unknown variable",
        "unknown option",
        "ambiguous option",
        "Unknown suffix",
        "Error while setting value",
        "requires an argument",
        "option '",
        "Unknown collation",
        "Unknown character set",
    ];
    stderr
        .lines()
        .find(|line| line.contains("[ERROR]") && SIGNS.iter().any(|sign| line.contains(sign)))
        .or_else(|| stderr.lines().find(|line| SIGNS.iter().any(|sign| line.contains(sign))))
}

/// The option in the server's complaint: the last word in quotes that looks like one, without dashes and value.
fn option_named(line: &str) -> Option<String> {
    let looks_right =
        |text: &str| text.len() > 2 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    line.split(['\'', '"', '`'])
        .skip(1)
        .map(|quoted| quoted.trim_start_matches('-').split('=').next().unwrap_or_default())
        .filter(|text| looks_right(text) && text.bytes().any(|b| b.is_ascii_alphabetic()))
        .last()
        .map(str::to_owned)
}

/// The 1-based line of the user's `my.cnf` that sets an option; dashes and underscores are one.
fn line_of(user: &str, option: &str) -> Option<u32> {
    let normal = |text: &str| text.trim().trim_start_matches("loose-").replace('_', "-").to_lowercase();
    let position = user.lines().position(|line| {
        let line = line.trim();
        !line.starts_with(['#', ';', '[']) && normal(line.split('=').next().unwrap_or_default()) == normal(option)
    })?;
    Some(position as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_and_its_line_are_found() {
        let stderr = "2026-11-23 10:00:00 0 [Warning] something 'else'\n\
                      2026-11-23 10:00:00 0 [ERROR] mariadbd: unknown variable 'no-such-option=1'\n\
                      2026-11-23 10:00:00 0 [ERROR] Aborting\n";
        let line = complaint(stderr).unwrap();
        assert_eq!(option_named(line).as_deref(), Some("no-such-option"));
        assert_eq!(line_of("[mariadb]\n# x\nno_such_option = 1\n", "no-such-option"), Some(3));
        assert_eq!(line_of("[mariadb]\n", "no-such-option"), None);
    }

    #[test]
    fn a_bad_value_names_its_option() {
        let line = "[ERROR] mariadbd: Error while setting value 'bogus' to 'binlog-format'";
        assert_eq!(option_named(line).as_deref(), Some("binlog-format"));
    }
}
