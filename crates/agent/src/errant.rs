//! What a member has and no primary wrote: written down on the volume, as readable SQL and as raw events, before anything that
//! holds it is replaced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Outcome, Refusal};
use serde::{Deserialize, Serialize};
use topology::history::Errant;
use topology::member::Volume;
use topology::{BinlogState, DataId, Gtid};

use crate::actions::{failed, not_possible, session, statement};
use crate::binlog::{self, Transaction, Writer};
use crate::bootstrap::last_lines;
use crate::config::{program, wait_with_stderr};
use crate::places::Places;
use crate::{Shared, processes, state, volume};

const RAW: &str = "events.bin";
const SQL: &str = "statements.sql";
/// Written last: what is in the folder is whole.
const NOTE: &str = "errant.json";
const DECODE_LIMIT: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    data_id: DataId,
    errant: Vec<Errant>,
    transactions: u64,
}

fn folder(places: &Places) -> PathBuf {
    places.state().join("errant")
}

/// A new folder for something that is kept for people.
pub(crate) fn new_folder(places: &Places, what: &str) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let base = folder(places);
    std::fs::create_dir_all(&base)?;
    let mut name = format!(
        "{}-{what}",
        jiff::Timestamp::from_second(now as i64).map_err(io::Error::other)?.strftime("%Y%m%dT%H%M%SZ")
    );
    // Two within one second.
    while base.join(&name).exists() {
        name.push('x');
    }
    std::fs::create_dir(base.join(&name))?;
    Ok(base.join(name))
}

/// What was saved of this data.
pub(crate) fn saved(places: &Places, volume: &Volume) -> Vec<Errant> {
    let Volume::Data { data_id } = volume else { return Vec::new() };
    let mut all: Vec<Errant> = std::fs::read_dir(folder(places))
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join(NOTE)).ok())
        .filter_map(|bytes| serde_json::from_slice::<Note>(&bytes).ok())
        .filter(|note| note.data_id == *data_id)
        .flat_map(|note| note.errant)
        .collect();
    all.sort();
    all.dedup();
    all
}

fn is_one_of(errant: &[Errant], gtid: Gtid) -> bool {
    errant.iter().any(|e| {
        e.domain == gtid.domain && e.server_id == gtid.server_id && e.known < gtid.sequence && gtid.sequence <= e.last
    })
}

/// Writes these transactions down.
pub(crate) async fn save(shared: Arc<Shared>, errant: Vec<Errant>) -> Result<Outcome, Refusal> {
    let before = saved(&shared.places, &shared.state.now().volume);
    let missing: Vec<Errant> = errant.into_iter().filter(|e| !before.contains(e)).collect();
    if missing.is_empty() {
        shared.state.update(|state| state.saved = before);
        return Ok(Outcome::Done);
    }
    let Volume::Data { data_id } = shared.state.now().volume else { return Err(not_possible("there is no data")) };
    let mut session = session(&shared).await?;
    let logged = state::ask(&shared, &mut session).await.map_err(|e| statement(&e))?.gtid_binlog_state;
    let index = session.log_indexes().await.map_err(|e| statement(&e))?.binary;
    let index = index.ok_or_else(|| not_possible("the binary log is off: errant transactions cannot be read"))?;
    let fail = |message: String| failed("ErrantNotSaved", format!("errant transactions cannot be saved: {message}"));
    let files = binlog::indexed(&shared.places.data(), &index).map_err(|e| fail(e.to_string()))?;
    let place = new_folder(&shared.places, &data_id.0).map_err(|e| fail(e.to_string()))?;
    let result = write(&shared.places, &place, files, &missing, (&logged, shared.state.now().server_id), data_id).await;
    match result {
        Ok(transactions) => {
            tracing::warn!(transactions, folder = %place.display(), "errant transactions are written down");
            let all = saved(&shared.places, &shared.state.now().volume);
            shared.state.update(|state| state.saved = all);
            Ok(Outcome::Done)
        }
        Err(message) => {
            let _ = volume::remove_in_background(&place).await;
            Err(fail(message))
        }
    }
}

async fn write(
    places: &Places,
    place: &Path,
    files: Vec<PathBuf>,
    errant: &[Errant],
    (logged, own): (&BinlogState, u32),
    data_id: DataId,
) -> Result<u64, String> {
    let raw = place.join(RAW);
    let wanted = errant.to_vec();
    let target = raw.clone();
    let found = volume::in_background(move || extract(&files, &target, |t| is_one_of(&wanted, t.gtid)));
    let found = found.await.map_err(|e| e.to_string())?;
    for e in errant {
        // The last one there is: its end marks that nothing was cut off. The rest may have been removed from the log long ago; and
        // what came with a copy of the data was never in it: the donor was compared with the primary of its day, so that only a
        // primary which has lost its own history (RESET MASTER) takes that for errant.
        // (Its own it has written itself.)
        let pair = (e.domain, e.server_id);
        let last = match logged.0.get(&pair) {
            _ if e.server_id == own => e.last,
            logged => logged.map_or(0, |&logged| logged.min(e.last)),
        };
        if last < e.last {
            tracing::warn!(errant = %e, "came with the copy that this data is, as far as it is in no binary log");
        }
        if last > e.known && found.last.get(&pair).is_none_or(|&found| found < last) {
            return Err(format!("{}-{}-{last} is not in the binary log", e.domain, e.server_id));
        }
    }
    if found.count > 0 {
        decode(places, &raw, &place.join(SQL)).await?;
    } else {
        std::fs::write(place.join(SQL), "-- None of them is in the binary log.\n").map_err(|e| e.to_string())?;
    }
    let note = Note { data_id, errant: errant.to_vec(), transactions: found.count };
    let place = place.to_owned();
    let noted = volume::in_background(move || {
        for file in [RAW, SQL] {
            std::fs::File::open(place.join(file))?.sync_all()?;
        }
        let unfinished = place.join("errant.unfinished");
        std::fs::write(&unfinished, serde_json::to_vec_pretty(&note)?)?;
        std::fs::File::open(&unfinished)?.sync_all()?;
        std::fs::rename(&unfinished, place.join(NOTE))?;
        std::fs::File::open(&place)?.sync_all()?;
        place.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
    });
    noted.await.map_err(|e| e.to_string())?;
    Ok(found.count)
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) count: u64,
    last: BTreeMap<(u32, u32), u64>,
}

/// Copies the transactions that are wanted into a binary log of their own.
pub(crate) fn extract(
    files: &[PathBuf],
    target: &Path,
    wanted: impl Fn(&Transaction<'_>) -> bool,
) -> io::Result<Found> {
    let mut writer = Writer::new(io::BufWriter::new(std::fs::File::create(target)?));
    let mut found = Found::default();
    binlog::transactions(files, |transaction| {
        if !wanted(transaction) {
            return Ok(());
        }
        found.count += 1;
        let Gtid { domain, server_id, sequence } = transaction.gtid;
        let last = found.last.entry((domain, server_id)).or_default();
        *last = sequence.max(*last);
        writer.add(files, transaction)
    })?;
    writer.finish()?;
    Ok(found)
}

/// The readable form of raw events.
pub(crate) async fn decode(places: &Places, raw: &Path, target: &Path) -> Result<(), String> {
    let file = std::fs::File::create(target).map_err(|e| e.to_string())?;
    let mut command = program(places, "mariadb-binlog");
    command
        .args(["--no-defaults", "--verbose", "--base64-output=DECODE-ROWS", "--loose-gtid-strict-mode=0"])
        .arg(raw)
        .stdout(Stdio::from(file))
        .stderr(Stdio::piped());
    let child = processes::spawn(&mut command).map_err(|e| format!("mariadb-binlog: {e}"))?;
    let (status, words) = tokio::time::timeout(DECODE_LIMIT, wait_with_stderr(child))
        .await
        .map_err(|_| "mariadb-binlog does not end".to_owned())?
        .map_err(|e| format!("mariadb-binlog: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("mariadb-binlog: {status}: {}", last_lines(&words))) }
}
