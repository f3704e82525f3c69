//! The tail of a binary log that crash recovery is about to drop: copied aside first, for people.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use topology::member::Phase;

use crate::{Shared, places::Places};

/// Recovery drops only from the newest file; the one before it is kept as well, for what a rotation may have cut.
const FILES: usize = 2;

/// A new folder for something that is kept.
pub(crate) fn folder(places: &Places, what: &str) -> std::io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let folder = places.state().join("errant").join(format!("{now}-{what}"));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The server's binary logs, oldest first.
pub(crate) fn binary_logs(places: &Places) -> std::io::Result<Vec<PathBuf>> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(places.data())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let numbered = path
                .extension()
                .is_some_and(|e| !e.is_empty() && e.to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
            numbered && !name.contains("relay")
        })
        .collect();
    logs.sort();
    Ok(logs)
}

/// Copies the newest binary logs aside.
pub(crate) async fn keep(shared: &Arc<Shared>) -> Result<(), Phase> {
    let places = shared.places.clone();
    let copied = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let logs = binary_logs(&places)?;
        let folder = folder(&places, "tail")?;
        for log in logs.iter().rev().take(FILES) {
            std::fs::copy(log, folder.join(log.file_name().unwrap_or_default()))?;
        }
        std::fs::File::open(&folder)?.sync_all()
    });
    let failed = |message: String| Phase::Failed { reason: "TailNotKept".into(), message };
    copied.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(format!("the tail of the binary log: {e}")))
}
