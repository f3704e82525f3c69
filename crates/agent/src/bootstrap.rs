//! The first member: a new data directory with its accounts, time zones and the user's scripts. The binary log is off for all
//! of it: what is made here is not history that a replica would have to replay.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use topology::DataId;
use topology::member::Phase;

use crate::config::{program, wait_with_stderr};
use crate::{Shared, config, login, processes, volume};

/// `mariadb-install-db` takes seconds; on a slow disk, minutes.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// The temporary server answers within.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A user's script may load a lot of data.
const SCRIPT_LIMIT: Duration = Duration::from_secs(24 * 3600);
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);

fn failed(message: impl Into<String>) -> Phase {
    Phase::Failed { reason: "InitialiseFailed".into(), message: message.into() }
}

/// Makes the data directory under `data_id`. It appears whole, by rename, or not at all.
pub(crate) async fn initialise(shared: &Shared, data_id: &DataId) -> Result<(), Phase> {
    let started = Instant::now();
    let places = &shared.places;
    let data = places.data_new();
    let io = |what: &str, e: std::io::Error| failed(format!("{what}: {e}"));
    volume::remove_in_background(&data).await.map_err(|e| io("data.new", e))?;
    std::fs::create_dir_all(&data).map_err(|e| io("data.new", e))?;
    config::render(places, &shared.config, &shared.me).map_err(|e| io("my.cnf", e))?;
    config::check(shared).await?;
    let result = make(shared, &data).await;
    if let Err(phase) = result {
        let _ = volume::remove_in_background(&data).await;
        return Err(phase);
    }
    let owner = volume::Owner::new(&shared.config, &shared.me);
    volume::finish(places, data_id, owner).await.map_err(|e| io("data", e))?;
    tracing::info!(seconds = started.elapsed().as_secs_f32(), "data directory made");
    Ok(())
}

/// What must not come from the user's configuration while the directory is made. Nothing is flushed meanwhile: the whole
/// directory is, before it gets its name (`mariadb-install-db` takes 0.5 s so, and 3 s otherwise).
fn small(command: &mut tokio::process::Command, data: &Path) {
    command.arg(format!("--datadir={}", data.display())).args([
        "--skip-log-bin",
        "--innodb-buffer-pool-size=32M",
        "--innodb-log-file-size=16M",
        "--loose-debug-no-sync",
        "--loose-innodb-flush-method=nosync",
        "--loose-innodb-doublewrite=0",
        "--innodb-flush-log-at-trx-commit=0",
        // The user's zone is in tables that do not exist yet: the server would not start.
        "--default-time-zone=SYSTEM",
    ]);
}

async fn make(shared: &Shared, data: &Path) -> Result<(), Phase> {
    let places = &shared.places;
    let mut install = program(places, "mariadb-install-db");
    install.arg(format!("--defaults-file={}", places.my_cnf().display()));
    small(&mut install, data);
    install
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--force"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = processes::spawn(&mut install).map_err(|e| failed(format!("mariadb-install-db: {e}")))?;
    let (status, stderr) = tokio::time::timeout(INSTALL_LIMIT, wait_with_stderr(child))
        .await
        .map_err(|_| failed("mariadb-install-db does not end"))?
        .map_err(|e| failed(format!("mariadb-install-db: {e}")))?;
    if !status.success() {
        return Err(failed(format!("mariadb-install-db: {status}: {}", last_lines(&stderr))));
    }

    // A server that only this container reaches, for accounts and scripts; those look for the usual socket.
    let socket = places.socket();
    let _ = std::fs::remove_file(&socket);
    let secret = login::prepare(places).map_err(|e| failed(format!("the agent's login: {e}")))?;
    let mut server = program(places, "mariadbd");
    server.arg(format!("--defaults-file={}", places.my_cnf().display()));
    small(&mut server, data);
    server.args(["--skip-networking", "--read-only=OFF", "--skip-slave-start"]);
    server.arg(format!("--socket={}", socket.display()));
    server.arg(format!("--init-file={}", login::init_file(places).display()));
    let mut server = processes::spawn(&mut server).map_err(|e| failed(format!("mariadbd: {e}")))?;
    let target = sql::Target::Socket { path: socket.clone(), user: login::USER.into(), password: secret };
    let work = async {
        let mut session = first_session(&target).await?;
        accounts(shared, &mut session).await?;
        time_zones(shared, &socket).await?;
        scripts(shared, &socket).await
    };
    let result = tokio::select! {
        result = work => result,
        status = server.child.wait() => Err(failed(format!("the temporary server ended: {status:?}"))),
    };
    if let Some(pid) = server.pid() {
        processes::kill(pid, Signal::SIGTERM);
    }
    let ended = tokio::time::timeout(START_LIMIT, server.child.wait()).await;
    if !matches!(ended, Ok(Ok(_))) {
        return result.and(Err(failed("the temporary server does not stop")));
    }
    result
}

async fn first_session(target: &sql::Target) -> Result<sql::Session, Phase> {
    let end = Instant::now() + START_LIMIT;
    loop {
        match sql::Session::open(target).await {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() > end => return Err(failed(format!("the temporary server: {error}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
}

async fn accounts(shared: &Shared, session: &mut sql::Session) -> Result<(), Phase> {
    let mut statements = vec![
        // A mode of the user's (NO_BACKSLASH_ESCAPES) would make another password of a quoted one; or refuse what follows.
        "SET SESSION sql_mode='', SESSION sql_safe_updates=0".to_owned(),
        "DELETE FROM mysql.global_priv WHERE User=''".to_owned(),
        "DELETE FROM mysql.global_priv WHERE User='root' AND Host<>'localhost'".to_owned(),
        "DROP DATABASE IF EXISTS test".to_owned(),
        "FLUSH PRIVILEGES".to_owned(),
    ];
    let password = if shared.config.root_empty_password {
        String::new()
    } else {
        shared.places.root_password().ok_or_else(|| failed("root's password is not mounted"))?
    };
    let password = sql::quote(&password);
    statements.push(format!("ALTER USER 'root'@'localhost' IDENTIFIED BY {password}"));
    statements.push(format!("CREATE USER 'root'@'%' IDENTIFIED BY {password}"));
    statements.push("GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION".to_owned());
    if let Some(database) = &shared.config.database {
        statements.push(format!("CREATE DATABASE IF NOT EXISTS {}", sql::identifier(database)));
    }
    if let Some(user) = &shared.config.username {
        let name = format!("{}@'%'", sql::quote(user));
        let password =
            shared.places.user_password().ok_or_else(|| failed(format!("the password of {user} is not mounted")))?;
        statements.push(format!("CREATE USER {name} IDENTIFIED BY {}", sql::quote(&password)));
        if let Some(database) = &shared.config.database {
            // In GRANT the underscore of a database's name is a wildcard.
            let database = sql::identifier(&database.replace('_', "\\_"));
            statements.push(format!("GRANT ALL PRIVILEGES ON {database}.* TO {name}"));
        }
    }
    for statement in statements {
        session.run("the first accounts", STATEMENT_LIMIT, &statement).await.map_err(|e| failed(e.to_string()))?;
    }
    Ok(())
}

/// The image's client, as the agent's account.
fn client(shared: &Shared, socket: &Path, script: &str) -> tokio::process::Command {
    let mut command = program(&shared.places, "sh");
    command
        .arg("-c")
        .arg(script)
        .env("SOCKET", socket)
        .env("DEFAULTS", login::client_file(&shared.places))
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped());
    command
}

const CLIENT: &str = "mariadb --defaults-extra-file=\"$DEFAULTS\" --skip-ssl --socket=\"$SOCKET\"";

async fn run_script(mut command: tokio::process::Command, what: &str) -> Result<(), Phase> {
    let child = processes::spawn(&mut command).map_err(|e| failed(format!("{what}: {e}")))?;
    let (status, stderr) = tokio::time::timeout(SCRIPT_LIMIT, wait_with_stderr(child))
        .await
        .map_err(|_| failed(format!("{what} does not end")))?
        .map_err(|e| failed(format!("{what}: {e}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("{what}: {status}: {}", last_lines(&stderr)))) }
}

async fn time_zones(shared: &Shared, socket: &Path) -> Result<(), Phase> {
    if !shared.config.time_zone_tables {
        return Ok(());
    }
    let script = format!(
        "[ -d /usr/share/zoneinfo/Europe ] || exit 0; mariadb-tzinfo-to-sql --skip-write-binlog /usr/share/zoneinfo 2>/dev/null | {CLIENT} mysql"
    );
    run_script(client(shared, socket, &script), "time zone tables").await
}

/// As the official image: `*.sh`, `*.sql`, `*.sql.gz`, in order.
async fn scripts(shared: &Shared, socket: &Path) -> Result<(), Phase> {
    let Ok(entries) = std::fs::read_dir(&shared.places.init_scripts) else { return Ok(()) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let database = if shared.config.database.is_some() { " \"$DATABASE\"" } else { "" };
        let extension = |path: &Path| path.extension().map(|text| text.to_string_lossy().into_owned());
        let inner = file.file_stem().and_then(|stem| extension(Path::new(stem)));
        let shell = extension(&file).as_deref() == Some("sh");
        let script = match (extension(&file).as_deref(), inner.as_deref()) {
            (Some("gz"), Some("sql")) => format!("gunzip -c \"$FILE\" | {CLIENT}{database}"),
            (Some("sql"), _) => format!("{CLIENT}{database} < \"$FILE\""),
            (Some("sh"), _) => "exec bash \"$FILE\"".to_owned(),
            _ => {
                tracing::info!(name, "ignored: neither .sql, .sql.gz nor .sh");
                continue;
            }
        };
        tracing::info!(name, "runs");
        let mut command = client(shared, socket, &script);
        command.env("FILE", &file).env("DATABASE", shared.config.database.as_deref().unwrap_or_default());
        if shell {
            for (variable, value) in for_scripts(shared, socket) {
                command.env(variable, value);
            }
        }
        run_script(command, &name).await?;
    }
    Ok(())
}

/// What a shell script of the official image finds in its environment.
fn for_scripts(shared: &Shared, socket: &Path) -> Vec<(&'static str, String)> {
    let config = &shared.config;
    let mut all = vec![("SOCKET", socket.display().to_string())];
    let root = shared.places.root_password().filter(|_| !config.root_empty_password);
    let user = shared.places.user_password().filter(|_| config.username.is_some());
    let optional = [
        ("MARIADB_ROOT_PASSWORD", root),
        ("MARIADB_DATABASE", config.database.clone()),
        ("MARIADB_USER", config.username.clone()),
        ("MARIADB_PASSWORD", user),
    ];
    all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    all
}

pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_time_zone_waits_for_its_tables() {
        let mut command = tokio::process::Command::new("mariadbd");
        small(&mut command, Path::new("/data"));
        assert!(command.as_std().get_args().any(|argument| argument == "--default-time-zone=SYSTEM"));
    }
}
