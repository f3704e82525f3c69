//! The tail of a binary log that crash recovery is about to drop: copied aside first, for people. What was dropped of it stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use topology::member::{Dropped, Phase};

use crate::{Shared, binlog, errant, places::Places, volume};

/// Recovery drops only from the newest files: the log is rotated rarely, and nobody waits across two rotations.
const FILES: usize = 2;
const RAW: &str = "dropped.bin";
const SQL: &str = "dropped.sql";

/// The server's binary logs, oldest first.
fn binary_logs(places: &Places) -> io::Result<Vec<PathBuf>> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(places.data())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = path.extension().unwrap_or_default().to_string_lossy();
            !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
                && !name.contains("relay")
                && binlog::is_one(path)
        })
        .collect();
    logs.sort();
    Ok(logs)
}

/// Copies the newest binary logs aside; where to.
pub(crate) async fn keep(shared: &Arc<Shared>) -> Result<PathBuf, Phase> {
    let places = shared.places.clone();
    let copied = volume::in_background(move || {
        let logs = binary_logs(&places)?;
        let folder = errant::new_folder(&places, "tail")?;
        for log in logs.iter().rev().take(FILES) {
            std::fs::copy(log, folder.join(log.file_name().unwrap_or_default()))?;
        }
        std::fs::File::open(&folder)?.sync_all()?;
        Ok(folder)
    });
    copied.await.map_err(|e| Phase::Failed {
        reason: "TailNotKept".into(),
        message: format!("the tail of the binary log: {e}"),
    })
}

/// Once the server is up: what recovery dropped is written down, and the copies go.
pub(crate) async fn settle(shared: Arc<Shared>, folder: PathBuf) {
    let mut watch = shared.state.subscribe();
    let settled = watch.wait_for(|state| state.phase != Phase::Starting).await.map(|state| state.phase.clone());
    if !matches!(settled, Ok(Phase::Running)) {
        return;
    }
    match dropped(&shared.places, &folder).await {
        Ok(0) => tracing::info!("crash recovery dropped nothing"),
        Ok(transactions) => {
            tracing::warn!(transactions, folder = %folder.display(), "crash recovery dropped what nobody acknowledged");
            let folder = folder.display().to_string();
            shared.state.update(|state| state.dropped = Some(Dropped { transactions, folder }));
        }
        Err(why) => tracing::warn!(why, folder = %folder.display(), "what crash recovery dropped is in the copies"),
    }
}

async fn dropped(places: &Places, folder: &Path) -> Result<u64, String> {
    let (data, place) = (places.data(), folder.to_owned());
    let count = volume::in_background(move || write_down(&data, &place)).await.map_err(|e| e.to_string())?;
    if count == 0 {
        volume::remove_in_background(folder).await.map_err(|e| e.to_string())?;
    } else {
        errant::decode(places, &folder.join(RAW), &folder.join(SQL)).await?;
    }
    Ok(count)
}

/// Transactions of the copies that lie behind the end of the files that they were copied from.
fn write_down(data: &Path, folder: &Path) -> io::Result<u64> {
    let mut copies: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    copies.sort();
    let length = |path: &PathBuf| match std::fs::metadata(data.join(path.file_name().unwrap_or_default())) {
        Ok(meta) => Ok(meta.len()),
        // Gone as a whole.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    };
    let lengths: Vec<u64> = copies.iter().map(length).collect::<io::Result<_>>()?;
    let found = errant::extract(&copies, &folder.join(RAW), |transaction| {
        transaction.parts.first().is_some_and(|part| lengths.get(part.file).is_some_and(|&end| part.from >= end))
    })?;
    if found.count > 0 {
        std::fs::File::open(folder.join(RAW))?.sync_all()?;
        copies.iter().try_for_each(std::fs::remove_file)?;
    }
    Ok(found.count)
}
