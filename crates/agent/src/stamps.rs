//! The highest stamp that was accepted, on disk before anything is done under it.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use topology::Stamp;

use crate::places::Places;

/// Keeper of the highest stamp.
pub(crate) struct Stamps {
    file: PathBuf,
    highest: Mutex<Stamp>,
}

impl Stamps {
    pub(crate) fn load(places: &Places) -> std::io::Result<Self> {
        let file = places.state().join("stamp.json");
        let highest = match std::fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| std::io::Error::other(format!("{}: {e}", file.display())))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stamp::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, highest: Mutex::new(highest) })
    }

    pub(crate) fn highest(&self) -> Stamp {
        *self.lock()
    }

    /// Accepts a stamp that is not lower than any before; the highest otherwise.
    pub(crate) fn accept(&self, stamp: Stamp) -> std::io::Result<Result<(), Stamp>> {
        let mut highest = self.lock();
        if stamp < *highest {
            return Ok(Err(*highest));
        }
        if stamp > *highest {
            let unfinished = self.file.with_extension("unfinished");
            let mut file = std::fs::File::create(&unfinished)?;
            file.write_all(&serde_json::to_vec(&stamp)?)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &self.file)?;
            if let Some(folder) = self.file.parent() {
                std::fs::File::open(folder)?.sync_all()?;
            }
            *highest = stamp;
        }
        Ok(Ok(()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stamp> {
        self.highest.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_stamps_are_refused_also_after_a_restart() {
        let folder = std::env::temp_dir().join(format!("stamps-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("agent")).unwrap();
        let places = Places { volume: folder.clone(), ..Places::default() };
        let stamp = |epoch, revision| Stamp { epoch, revision };
        let stamps = Stamps::load(&places).unwrap();
        assert_eq!(stamps.accept(stamp(1, 5)).unwrap(), Ok(()));
        assert_eq!(stamps.accept(stamp(1, 5)).unwrap(), Ok(()));
        let stamps = Stamps::load(&places).unwrap();
        assert_eq!(stamps.accept(stamp(1, 4)).unwrap(), Err(stamp(1, 5)));
        assert_eq!(stamps.accept(stamp(0, 9)).unwrap(), Err(stamp(1, 5)));
        assert_eq!(stamps.accept(stamp(2, 0)).unwrap(), Ok(()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
