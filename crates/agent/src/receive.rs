//! A copy of a running member, streamed from its agent.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::client::{CloneFrame, CloneStream};
use protocol::clone::{End, Start};
use protocol::{AgentClient, Identity};
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use topology::action::{Endpoint, Replaced};
use topology::member::Phase;
use topology::{DataId, GtidPosition};

use crate::bootstrap::last_lines;
use crate::config::{program, wait_with_stderr};
use crate::server::{STOP_LIMIT, StartAs};
use crate::{Shared, config, processes, replaced, sessions, state, volume};

/// A donor that says nothing for so long is given up: `BACKUP STAGE BLOCK_COMMIT` can wait behind a statement, for a while.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const PREPARE_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A position that the copied server must be given before it replicates.
const POSITION: &str = "mariadb-operator-position";

fn failed(reason: &str, message: impl Into<String>) -> Phase {
    Phase::Failed { reason: reason.into(), message: message.into() }
}

/// Replaces what is in the volume by a copy. What is there stays until the copy is whole, where there is room for both.
pub(crate) async fn clone(
    shared: &Arc<Shared>,
    donor: &Endpoint,
    data_id: &DataId,
    replaces: Option<&Replaced>,
) -> Result<(), Phase> {
    let started = Instant::now();
    let result = receive(shared, donor, data_id, replaces).await;
    if result.is_err() {
        let _ = volume::remove_in_background(&shared.places.data_new()).await;
    } else {
        tracing::info!(donor = donor.host, seconds = started.elapsed().as_secs_f32(), "copied");
    }
    result
}

async fn receive(
    shared: &Arc<Shared>,
    donor: &Endpoint,
    data_id: &DataId,
    replaces: Option<&Replaced>,
) -> Result<(), Phase> {
    let places = &shared.places;
    let io = |what: &str, e: std::io::Error| failed("CloneFailed", format!("{what}: {e}"));
    // Options that the server would refuse are known before anything is copied.
    config::render(places, &shared.config, &shared.me).map_err(|e| io("my.cnf", e))?;
    config::check(shared).await?;
    let target = places.data_new();
    volume::remove_in_background(&target).await.map_err(|e| io("data.new", e))?;

    let identity = identity(places).map_err(|e| io("certificates", e))?;
    let tls = identity.client().map_err(|e| failed("CloneFailed", e.to_string()))?;
    let client = AgentClient::by_host(&donor.host, donor.port, Arc::new(tls))
        .map_err(|e| failed("CloneFailed", e.to_string()))?;
    let donor_failed = |e: protocol::ClientError| failed("DonorFailed", format!("{}: {e}", donor.host));
    let mut stream = client.clone_data().await.map_err(donor_failed)?;
    let CloneFrame::Start(start) = stream.next(SILENCE_LIMIT).await.map_err(donor_failed)? else {
        return Err(failed("DonorFailed", format!("{}: did not say what is to come", donor.host)));
    };
    make_room(shared, start.estimated_bytes, replaces).await?;
    std::fs::create_dir_all(&target).map_err(|e| io("data.new", e))?;

    let mut unpack = program(places, "mbstream");
    unpack.args(["-x", "-C"]).arg(&target).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = processes::spawn(&mut unpack).map_err(|e| io("mbstream", e))?;
    let mut stdin = child.child.stdin.take().ok_or_else(|| failed("CloneFailed", "mbstream has no standard input"))?;
    let unpacked = tokio::spawn(wait_with_stderr(child));

    let copied = pump(shared, donor, &start, &mut stream, &mut stdin).await;
    // mbstream ends with its input: it is waited for in any case, so that nothing is written behind our back.
    drop(stdin);
    let ended = unpacked.await;
    match (copied, &ended) {
        (Ok(()), Ok(Ok((status, _)))) if status.success() => {}
        (Ok(()) | Err(None), _) => return Err(unpack_failed(shared, ended)),
        (Err(Some(phase)), _) => return Err(phase),
    }
    prepare(shared).await?;

    let position = if start.from_primary { Some(position(shared)?) } else { None };
    volume::unmark(&target).map_err(|e| io("the mark", e))?;
    if let Some(position) = position {
        std::fs::write(target.join(POSITION), position.to_string()).map_err(|e| io("the position", e))?;
    }
    end_former_server(shared, replaces).await?;
    shared.state.update(|state| state.phase = Phase::Starting);
    let owner = volume::Owner::new(&shared.config, &shared.me);
    volume::finish(places, data_id, owner).await.map_err(|e| io("data", e))?;
    crate::state::forget_reception(shared);
    Ok(())
}

/// Carries the stream into mbstream's input. `Err(None)`: mbstream takes no more, and its own end tells why.
async fn pump(
    shared: &Shared,
    donor: &Endpoint,
    start: &Start,
    stream: &mut CloneStream,
    stdin: &mut ChildStdin,
) -> Result<(), Option<Phase>> {
    let donor_failed = |message: String| Some(failed("DonorFailed", format!("{}: {message}", donor.host)));
    let mut received = 0;
    let mut told = Instant::now();
    let tell = |received| {
        let phase = Phase::Cloning { donor: donor.host.clone(), received, total: Some(start.estimated_bytes) };
        shared.state.update(|state| state.phase = phase);
    };
    tell(0);
    loop {
        match stream.next(SILENCE_LIMIT).await.map_err(|e| donor_failed(e.to_string()))? {
            CloneFrame::Data(bytes) => {
                stdin.write_all(&bytes).await.map_err(|_| None)?;
                received += bytes.len() as u64;
                if told.elapsed() > PROGRESS_EVERY {
                    told = Instant::now();
                    tell(received);
                }
            }
            CloneFrame::End(End::Complete) => break,
            CloneFrame::End(End::Failed { message }) => return Err(donor_failed(format!("mariadb-backup: {message}"))),
            CloneFrame::Start(_) => return Err(donor_failed("began twice".into())),
        }
    }
    tell(received);
    stdin.flush().await.map_err(|_| None)
}

pub(crate) fn identity(places: &crate::Places) -> std::io::Result<Identity> {
    let read = |name: &str| std::fs::read(places.agent_tls.join(name));
    Ok(Identity { ca: read("ca.crt")?, certificate: read("tls.crt")?, key: read("tls.key")? })
}

/// Of the data that the copy replaces, where there is some.
async fn end_former_server(shared: &Arc<Shared>, replaces: Option<&Replaced>) -> Result<(), Phase> {
    if let Some(judged) = replaces.filter(|_| shared.places.data().exists()) {
        return replaced::end_server(shared, judged).await;
    }
    shared.server.stop(shared, STOP_LIMIT).await;
    Ok(())
}

/// Where there is no room for two copies the old one goes first. The controller has made sure that nothing in it is missed.
async fn make_room(shared: &Arc<Shared>, estimated: u64, replaces: Option<&Replaced>) -> Result<(), Phase> {
    let places = &shared.places;
    let Some(disk) = volume::disk(places) else { return Ok(()) };
    let needed = estimated + estimated / 10;
    if disk.free >= needed || !places.data().exists() {
        if disk.free < estimated / 2 {
            return Err(failed("DiskFull", format!("{} bytes are free, about {estimated} are to come", disk.free)));
        }
        return Ok(());
    }
    tracing::warn!(free = disk.free, needed, "no room for two copies: the old data goes first");
    end_former_server(shared, replaces).await?;
    let removed = volume::remove_in_background(&places.data()).await;
    removed.map_err(|e| failed("CloneFailed", format!("the old data: {e}")))
}

type Unpacked = Result<std::io::Result<(std::process::ExitStatus, String)>, tokio::task::JoinError>;

fn unpack_failed(shared: &Shared, ended: Unpacked) -> Phase {
    let how = match ended {
        Ok(Ok((status, stderr))) => format!("{status}: {}", last_lines(&stderr)),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let full = how.contains("No space left") || volume::disk(&shared.places).is_some_and(|disk| disk.free < 1 << 20);
    let reason = if full { "DiskFull" } else { "CloneFailed" };
    failed(reason, format!("mbstream: {how}"))
}

/// Makes the copy consistent. An empty target would "succeed", so its own word counts as well as its exit status.
async fn prepare(shared: &Shared) -> Result<(), Phase> {
    let mut command = program(&shared.places, "mariadb-backup");
    command
        .args(["--prepare", "--use-memory=128M"])
        .arg(format!("--target-dir={}", shared.places.data_new().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = processes::spawn(&mut command).map_err(|e| failed("CloneFailed", format!("mariadb-backup: {e}")))?;
    let (status, stderr) = tokio::time::timeout(PREPARE_LIMIT, wait_with_stderr(child))
        .await
        .map_err(|_| failed("CloneFailed", "mariadb-backup --prepare does not end"))?
        .map_err(|e| failed("CloneFailed", format!("mariadb-backup: {e}")))?;
    if status.success() && stderr.contains("completed OK!") {
        return Ok(());
    }
    let full = stderr.contains("No space left");
    let reason = if full { "DiskFull" } else { "CloneFailed" };
    Err(failed(reason, format!("mariadb-backup --prepare: {status}: {}", last_lines(&stderr))))
}

/// The primary's position at the moment of the copy: `FILE<TAB>POS<TAB>GTIDS`, in a file whose name depends on the version.
fn position(shared: &Shared) -> Result<GtidPosition, Phase> {
    let text = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"]
        .iter()
        .find_map(|name| std::fs::read_to_string(shared.places.data_new().join(name)).ok())
        .ok_or_else(|| failed("CloneFailed", "the copy does not say its position"))?;
    let gtids = text.trim().splitn(3, char::is_whitespace).nth(2).unwrap_or_default();
    gtids.replace('\n', "").parse().map_err(|e| failed("CloneFailed", format!("the copy's position: {e}")))
}

/// Starts the server of a copy that was just put in place. `false`: this copy cannot be used and is gone; another one may do.
pub(crate) async fn start_copy(shared: &Arc<Shared>) -> Result<bool, Phase> {
    start(shared).await?;
    let mut watch = shared.state.subscribe();
    let settled = watch.wait_for(|state| state.phase != Phase::Starting).await.map(|state| state.phase.clone());
    let Ok(Phase::Failed { message, .. }) = settled else { return Ok(true) };
    // A copy of a replica that applies can hold transactions between prepare and commit (5 of 36 did).
    if !message.contains("prepared transactions") {
        return Ok(true);
    }
    tracing::warn!(message, "this copy does not start; it is made again");
    let removed = volume::remove_in_background(&shared.places.data()).await;
    removed.map_err(|e| failed("CloneFailed", format!("a copy that does not start: {e}")))?;
    Ok(false)
}

/// Starts the server as it is.
pub(crate) async fn start(shared: &Arc<Shared>) -> Result<(), Phase> {
    start_as(shared, StartAs::ItIs).await
}

/// Starts the server; one that was copied gets its position before anybody can tell it to replicate.
pub(crate) async fn start_as(shared: &Arc<Shared>, how: StartAs) -> Result<(), Phase> {
    shared.server.start_as(shared, how).await?;
    let file = shared.places.data().join(POSITION);
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    let position: GtidPosition =
        text.trim().parse().map_err(|e| failed("CloneFailed", format!("the copy's position: {e}")))?;
    let mut watch = shared.state.subscribe();
    let settled = watch.wait_for(|state| state.phase != Phase::Starting).await;
    if !settled.is_ok_and(|state| state.phase == Phase::Running) {
        return Ok(());
    }
    let set = async {
        let mut session = sessions::open(shared).await?;
        session.set_slave_position(&position).await?;
        Ok::<_, sql::SqlError>((shared.questions.next(), state::ask(shared, &mut session).await?))
    };
    let (question, server) = set.await.map_err(|e| failed("CloneFailed", format!("the copy's position: {e}")))?;
    std::fs::remove_file(&file).map_err(|e| failed("CloneFailed", format!("the position: {e}")))?;
    if shared.questions.is_news(question) {
        shared.state.update(|state| state.server = Some(server));
    }
    Ok(())
}
