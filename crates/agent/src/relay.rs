//! Relay logs are data: with both threads stopped (after every restart, say) MariaDB throws the relay log away as soon as either
//! is started, although it may hold transactions that were acknowledged and not yet applied. So what the files hold is told,
//! can be applied from them, and is kept aside until it was fetched again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::{Outcome, Refusal};
use serde::{Deserialize, Serialize};
use topology::history::{self, has_applied};
use topology::member::{ServerState, ThreadState, Volume};
use topology::{DataId, GtidPosition};

use crate::actions::{failed, not_possible, seen, session, statement};
use crate::binlog::{self, Writer};
use crate::bootstrap::last_lines;
use crate::config::{program, wait_with_stderr};
use crate::places::Places;
use crate::{Shared, login, processes, volume};

/// A relay log may be as large as the volume.
const REPLAY_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Row events can be so large, and their text form is one statement.
const LARGEST_PACKET: u64 = 1 << 30;
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
const NOTE: &str = "held.json";

/// What is known of the relay log.
#[derive(Default)]
pub(crate) struct Relay {
    /// Read last: the files as they were, and how far they go.
    read: Mutex<Option<(Files, GtidPosition)>>,
    /// Kept aside, and how far it goes.
    aside: Mutex<Option<Aside>>,
}

type Files = Vec<(PathBuf, u64)>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Aside {
    data_id: DataId,
    held: GtidPosition,
    /// Relative to the folder, in order.
    files: Vec<PathBuf>,
}

fn lock<T>(place: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn folder(places: &Places) -> PathBuf {
    places.state().join("relay")
}

impl Relay {
    /// Takes up what was kept aside before the agent started.
    pub(crate) fn load(places: &Places) -> Self {
        let aside = std::fs::read(folder(places).join(NOTE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { read: Mutex::default(), aside: Mutex::new(aside) }
    }
}

/// What is kept aside of this data and not yet applied: up to here.
pub(crate) fn aside(shared: &Shared, server: &ServerState) -> Option<GtidPosition> {
    let aside = lock(&shared.relay.aside).clone()?;
    let Volume::Data { data_id } = shared.state.now().volume else { return None };
    let missing = aside.data_id == data_id && !has_applied(server, &aside.held);
    missing.then_some(aside.held)
}

fn applied(server: &ServerState) -> GtidPosition {
    server.gtid_slave_pos.furthest(&server.gtid_binlog_pos)
}

fn stopped(server: &ServerState) -> bool {
    server.replication.as_ref().is_some_and(|r| r.io == ThreadState::No && r.sql == ThreadState::No)
}

/// How far the relay log goes, where both threads are stopped and it holds more than is applied.
pub(crate) async fn look(shared: &Shared, session: &mut sql::Session, server: &ServerState) -> Option<GtidPosition> {
    if !stopped(server) {
        *lock(&shared.relay.read) = None;
        forget_what_is_applied(shared, server);
        return None;
    }
    let held = match held(shared, session).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the relay log cannot be read");
            GtidPosition::default()
        }
    };
    let held = aside(shared, server).map_or(held.clone(), |more| held.furthest(&more));
    (!has_applied(server, &held)).then_some(held)
}

async fn held(shared: &Shared, session: &mut sql::Session) -> Result<GtidPosition, String> {
    let files = files(shared, session).await?;
    if let Some((known, held)) = &*lock(&shared.relay.read)
        && *known == files
    {
        return Ok(held.clone());
    }
    let paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    let held = volume::in_background(move || binlog::reach(&paths)).await.map_err(|e| e.to_string())?;
    *lock(&shared.relay.read) = Some((files, held.clone()));
    Ok(held)
}

/// The relay log's files with their lengths.
async fn files(shared: &Shared, session: &mut sql::Session) -> Result<Files, String> {
    let index = session.log_indexes().await.map_err(|e| e.to_string())?.relay;
    let Some(index) = index else { return Ok(Vec::new()) };
    let paths = binlog::indexed(&shared.places.data(), &index).map_err(|e| e.to_string())?;
    let length = |path: PathBuf| std::fs::metadata(&path).map(|meta| (path, meta.len()));
    paths.into_iter().map(length).collect::<io::Result<_>>().map_err(|e| e.to_string())
}

/// Both threads are about to be started, which throws the relay log away: its files are linked aside.
pub(crate) async fn keep(shared: &Shared, session: &mut sql::Session) -> Result<(), Refusal> {
    let server = crate::state::ask(shared, session).await.map_err(|e| statement(&e))?;
    let Some(held) = look(shared, session, &server).await else { return Ok(()) };
    let Volume::Data { data_id } = shared.state.now().volume else { return Ok(()) };
    if aside(shared, &server).is_some_and(|kept| kept.covers(&held)) {
        return Ok(());
    }
    let fail = |message: String| failed("RelayLogNotKept", format!("the relay log cannot be kept aside: {message}"));
    let files = files(shared, session).await.map_err(fail)?;
    let before = lock(&shared.relay.aside).clone().filter(|aside| aside.data_id == data_id);
    let place = folder(&shared.places);
    let kept = volume::in_background(move || link(&place, before, &files, data_id, held)).await;
    let kept = kept.map_err(|e| fail(e.to_string()))?;
    tracing::info!(held = %kept.held, "the relay log holds more than is applied: it is kept aside until that was fetched again");
    *lock(&shared.relay.aside) = Some(kept);
    Ok(())
}

/// Links, not copies: the server removes its own names of the files and never writes to them again.
fn link(place: &Path, before: Option<Aside>, files: &Files, data_id: DataId, held: GtidPosition) -> io::Result<Aside> {
    let mut all = if let Some(before) = before {
        before.files
    } else {
        volume::remove(place)?;
        Vec::new()
    };
    std::fs::create_dir_all(place)?;
    let round = all.len();
    for (path, _) in files {
        let name = format!("{round}-{}", path.file_name().unwrap_or_default().to_string_lossy());
        let target = place.join(&name);
        let _ = std::fs::remove_file(&target);
        if std::fs::hard_link(path, &target).is_err() {
            std::fs::copy(path, &target)?;
        }
        all.push(name.into());
    }
    let aside = Aside { data_id, held, files: all };
    let unfinished = place.join("held.unfinished");
    std::fs::write(&unfinished, serde_json::to_vec(&aside)?)?;
    std::fs::File::open(&unfinished)?.sync_all()?;
    std::fs::rename(&unfinished, place.join(NOTE))?;
    std::fs::File::open(place)?.sync_all()?;
    Ok(aside)
}

fn forget_what_is_applied(shared: &Shared, server: &ServerState) {
    let mut kept = lock(&shared.relay.aside);
    let Some(aside) = &*kept else { return };
    let other = matches!(shared.state.now().volume, Volume::Data { data_id } if data_id != aside.data_id);
    if other || has_applied(server, &aside.held) {
        tracing::info!(held = %aside.held, "what was kept aside of the relay log is applied");
        *kept = None;
        drop(kept);
        let _ = volume::remove(&folder(&shared.places));
    }
}

/// Applies what the files hold, in place of the SQL thread.
pub(crate) async fn replay(shared: Arc<Shared>) -> Result<Outcome, Refusal> {
    let mut session = session(&shared).await?;
    let server = crate::state::ask(&shared, &mut session).await.map_err(|e| statement(&e))?;
    if !stopped(&server) {
        return Err(not_possible("a replication thread runs, or none is configured"));
    }
    if look(&shared, &mut session, &server).await.is_none() {
        return Ok(Outcome::Done);
    }
    let fail = |message: String| failed("ReplayFailed", format!("the relay log cannot be applied: {message}"));
    let mut all: Vec<PathBuf> = Vec::new();
    if aside(&shared, &server).is_some() {
        let kept = lock(&shared.relay.aside).clone();
        all.extend(kept.into_iter().flat_map(|kept| kept.files).map(|file| folder(&shared.places).join(file)));
    }
    all.extend(files(&shared, &mut session).await.map_err(fail)?.into_iter().map(|(path, _)| path));

    let packet = session.number("max_allowed_packet").await.map_err(|e| statement(&e))?;
    let set_packet = |bytes: u64| format!("SET GLOBAL max_allowed_packet={bytes}");
    let name = "max_allowed_packet";
    session.run(name, CHANGE_LIMIT, &set_packet(LARGEST_PACKET)).await.map_err(|e| statement(&e))?;
    let before = applied(&server);
    let result = tokio::time::timeout(REPLAY_LIMIT, pipe(&shared, all, server)).await;
    session.run(name, CHANGE_LIMIT, &set_packet(packet)).await.map_err(|e| statement(&e))?;
    let server = crate::state::ask(&shared, &mut session).await.map_err(|e| statement(&e))?;
    // Also after a failure: what was applied is applied. (But what it had before may not be what the files hold under the same numbers.)
    if matches!(result, Ok(Ok(_))) || applied(&server) != before {
        let _moving = crate::state::moving(&shared);
        session.set_slave_position(&applied(&server)).await.map_err(|e| statement(&e))?;
    }
    seen(&shared, &mut session).await;
    match result {
        Ok(Ok(transactions)) => {
            tracing::info!(transactions, position = %applied(&server), "the relay log is applied from its files");
            Ok(Outcome::Done)
        }
        Ok(Err(message)) => Err(fail(message)),
        Err(_) => Err(fail("it does not end".into())),
    }
}

/// `mariadb-binlog | mariadb`, fed with what `server` has not; how many transactions that was.
async fn pipe(shared: &Shared, files: Vec<PathBuf>, server: ServerState) -> Result<u64, String> {
    let places = &shared.places;
    let mut decode = program(places, "mariadb-binlog");
    decode
        .args(["--no-defaults", "--verify-binlog-checksum", "--loose-gtid-strict-mode=0", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut decode = processes::spawn(&mut decode).map_err(|e| format!("mariadb-binlog: {e}"))?;
    let (Some(input), Some(output)) = (decode.child.stdin.take(), decode.child.stdout.take()) else {
        return Err("mariadb-binlog has no pipes".into());
    };
    let output: Stdio = output.try_into().map_err(|e: io::Error| e.to_string())?;
    let mut apply = program(places, "mariadb");
    apply
        .arg(format!("--defaults-extra-file={}", login::client_file(places).display()))
        .args(["--skip-ssl", "--batch", "--binary-mode", "--max-allowed-packet=1G"])
        .arg(format!("--socket={}", places.socket().display()))
        .stdin(output)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let apply = processes::spawn(&mut apply).map_err(|e| format!("mariadb: {e}"))?;
    let input: OwnedFd = input.into_owned_fd().map_err(|e| e.to_string())?;
    let fed = tokio::task::spawn_blocking(move || feed(input.into(), &files, &server));
    let (decoded, applied) = tokio::join!(wait_with_stderr(decode), wait_with_stderr(apply));
    let fed = fed.await.map_err(|e| e.to_string())?;
    for (what, ended) in [("mariadb", applied), ("mariadb-binlog", decoded)] {
        let (status, words) = ended.map_err(|e| format!("{what}: {e}"))?;
        if !status.success() {
            // What is wrong with the files themselves says more.
            if let Err(Fed::Gap(gap)) = &fed {
                return Err(gap.clone());
            }
            return Err(format!("{what}: {status}: {}", last_lines(&words)));
        }
    }
    fed.map_err(|e| match e {
        Fed::Gap(gap) => gap,
        Fed::Io(error) => error.to_string(),
    })
}

enum Fed {
    Gap(String),
    Io(io::Error),
}

/// Feeds what `server` has not, if nothing is missing in between: a file that is not there would go unnoticed otherwise.
fn feed(input: std::fs::File, files: &[PathBuf], server: &ServerState) -> Result<u64, Fed> {
    let position = applied(server);
    let mut reached: BTreeMap<u32, u64> = position.0.iter().map(|(&domain, gtid)| (domain, gtid.sequence)).collect();
    let mut writer = Writer::new(io::BufWriter::with_capacity(256 * 1024, input));
    let mut count = 0;
    let mut gap = None;
    let result = binlog::transactions(files, |transaction| {
        let gtid = transaction.gtid;
        let own = position.0.get(&gtid.domain).filter(|own| own.sequence >= gtid.sequence);
        if let Some(own) = own.filter(|_| !history::applied(server, gtid)) {
            // Left out as applied, it would be missing, and nothing would tell later.
            gap = Some(format!("{gtid} is not there, and {own} is: the data has diverged"));
            return Err(io::Error::other("diverged"));
        }
        let reached = reached.entry(gtid.domain).or_default();
        if gtid.sequence <= *reached {
            return Ok(());
        }
        if gtid.sequence != *reached + 1 {
            gap = Some(format!("after {}-{} comes {gtid}: what lies between is missing", gtid.domain, *reached));
            return Err(io::Error::other("a gap"));
        }
        *reached = gtid.sequence;
        count += 1;
        writer.add(files, transaction)
    });
    let finished = writer.finish().map(drop);
    match (gap, result, finished) {
        (Some(gap), ..) => Err(Fed::Gap(gap)),
        (None, Err(error), _) | (None, Ok(()), Err(error)) => Err(Fed::Io(error)),
        (None, Ok(()), Ok(())) => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_add_up_and_name_the_data() {
        let base = std::env::temp_dir().join(format!("relay-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        let (place, file) = (base.join("relay"), base.join("relay-bin.000001"));
        std::fs::write(&file, "x").unwrap();
        let files = vec![(file.clone(), 1)];
        let id = || DataId("d".into());
        let position = |text: &str| text.parse::<GtidPosition>().unwrap();
        let first = link(&place, None, &files, id(), position("0-1-5")).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "y").unwrap();
        let both = link(&place, Some(first), &files, id(), position("0-1-9")).unwrap();
        let read = |i: usize| std::fs::read_to_string(place.join(&both.files[i])).unwrap();
        assert_eq!((both.files.len(), read(0), read(1)), (2, "x".into(), "y".into()));
        let places = Places { volume: base.clone(), ..Places::default() };
        std::fs::create_dir_all(places.state()).unwrap();
        std::fs::rename(&place, folder(&places)).unwrap();
        assert_eq!(*lock(&Relay::load(&places).aside), Some(both));
        std::fs::remove_dir_all(base).unwrap();
    }
}
