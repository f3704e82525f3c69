//! The member's volume: what lies in it, and whose it is.

use std::fs;
use std::io;
use std::path::Path;

use protocol::AgentConfig;
use serde::{Deserialize, Serialize};
use topology::member::{DataId, Disk, Volume};

use crate::Me;
use crate::places::Places;

/// The mark in a data directory: whose data it is.
const MARK: &str = "mariadb-operator.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    data_id: DataId,
    topology_uid: String,
    /// Namespace and name of the topology: an object that is deleted and made again takes its data up.
    #[serde(default)]
    topology: Option<String>,
}

/// Whose data it should be.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    uid: String,
    topology: String,
}

impl Owner {
    pub(crate) fn new(config: &AgentConfig, me: &Me) -> Self {
        Self { uid: config.topology_uid.clone(), topology: format!("{}/{}", me.namespace, config.topology) }
    }

    fn is(&self, mark: &Mark) -> bool {
        mark.topology_uid == self.uid || mark.topology.as_ref() == Some(&self.topology)
    }
}

/// Makes the agent's own folder, takes the lock, removes what an interrupted clone left.
pub(crate) fn prepare(places: &Places, me: &Me) -> io::Result<()> {
    fs::create_dir_all(places.state())?;
    lock(places, me)?;
    finish_renames(places)?;
    for leftover in [places.data_new(), places.data_old()] {
        remove(&leftover)?;
    }
    Ok(())
}

/// An agent that ended between the two renames of a replacement: the new directory is whole once it is marked, else the old
/// one comes back.
fn finish_renames(places: &Places) -> io::Result<()> {
    if places.data().exists() {
        return Ok(());
    }
    if places.data_new().join(MARK).exists() {
        fs::rename(places.data_new(), places.data())
    } else if places.data_old().exists() {
        fs::rename(places.data_old(), places.data())
    } else {
        Ok(())
    }
}

/// The lock is held as long as the process lives; the file names the pod for people.
fn lock(places: &Places, me: &Me) -> io::Result<()> {
    let path = places.state().join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(io::Error::other(format!("the volume is in use by pod {}", holder.trim())));
        }
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    fs::write(&path, format!("{} {}\n", me.pod, me.uid))?;
    // Never closed: process 1 holds it until it ends.
    std::mem::forget(file);
    Ok(())
}

/// What the volume holds.
pub(crate) fn look(places: &Places, owner: &Owner) -> Volume {
    let data = places.data();
    match fs::read(data.join(MARK)) {
        Ok(bytes) => match serde_json::from_slice::<Mark>(&bytes) {
            Ok(mark) if owner.is(&mark) => Volume::Data { data_id: mark.data_id },
            Ok(mark) => {
                let whose = mark.topology.unwrap_or_else(|| format!("uid {}", mark.topology_uid));
                Volume::Foreign { found: format!("data of another topology ({whose})") }
            }
            Err(error) => Volume::Foreign { found: format!("data whose mark cannot be read: {error}") },
        },
        Err(_) => unmarked(places),
    }
}

fn unmarked(places: &Places) -> Volume {
    let names = |path: &Path| -> Vec<String> {
        fs::read_dir(path)
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect())
            .unwrap_or_default()
    };
    let inside = names(&places.data());
    if inside.iter().any(|name| name != "lost+found") {
        return Volume::Foreign { found: "a data directory that this operator did not make".into() };
    }
    let known = ["data", "agent", "lost+found"];
    let mut others: Vec<_> = names(&places.volume).into_iter().filter(|name| !known.contains(&name.as_str())).collect();
    if others.is_empty() {
        return Volume::Empty;
    }
    others.sort();
    others.truncate(5);
    Volume::Foreign { found: format!("files that are not ours: {}", others.join(", ")) }
}

/// Marks a data directory as this topology's, under an id.
fn mark(folder: &Path, data_id: &DataId, owner: &Owner) -> io::Result<()> {
    let Owner { uid, topology } = owner.clone();
    let mark = Mark { data_id: data_id.clone(), topology_uid: uid, topology: Some(topology) };
    let file = fs::File::create(folder.join(MARK))?;
    serde_json::to_writer(&file, &mark)?;
    file.sync_all()
}

/// Removes a mark that came with a copy.
pub(crate) fn unmark(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Marks what is in `data.new` as this topology's and puts it in place; all of it is on disk before it gets its name.
pub(crate) async fn finish(places: &Places, data_id: &DataId, owner: Owner) -> io::Result<()> {
    let (places, data_id) = (places.clone(), data_id.clone());
    in_background(move || {
        // Neither mbstream nor a server told not to flush has done it.
        rustix::fs::syncfs(fs::File::open(places.data_new())?)?;
        mark(&places.data_new(), &data_id, &owner)?;
        put_in_place(&places)
    })
    .await
}

/// What may take long on a large volume is kept off the one thread that answers the controller.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// [`remove`], off the agent's thread.
pub(crate) async fn remove_in_background(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    in_background(move || remove(&path)).await
}

/// `data.new` becomes `data`; what was there is removed afterwards.
fn put_in_place(places: &Places) -> io::Result<()> {
    sync_tree_root(&places.data_new())?;
    if places.data().exists() {
        fs::rename(places.data(), places.data_old())?;
    }
    fs::rename(places.data_new(), places.data())?;
    sync_tree_root(&places.volume)?;
    remove(&places.data_old())
}

fn sync_tree_root(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Removes a folder of ours, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Free and total bytes.
pub(crate) fn disk(places: &Places) -> Option<Disk> {
    let stat = rustix::fs::statvfs(&places.volume).ok()?;
    Some(Disk { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
}

/// Bytes of all files below a folder.
pub(crate) fn size(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(name: &str) -> Places {
        let volume = std::env::temp_dir().join(format!("volume-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&volume);
        fs::create_dir_all(&volume).unwrap();
        Places { volume, ..Places::default() }
    }

    #[test]
    fn empty_ours_and_foreign() {
        let places = places("kinds");
        let owner = |uid: &str, topology: &str| Owner { uid: uid.into(), topology: topology.into() };
        let ours = owner("uid", "ns/db");
        assert_eq!(look(&places, &ours), Volume::Empty);
        fs::create_dir_all(places.volume.join("lost+found")).unwrap();
        fs::create_dir_all(places.state()).unwrap();
        fs::create_dir_all(places.data()).unwrap();
        assert_eq!(look(&places, &ours), Volume::Empty);
        fs::write(places.data().join("ibdata1"), "x").unwrap();
        assert!(matches!(look(&places, &ours), Volume::Foreign { .. }));
        mark(&places.data(), &DataId("a".into()), &ours).unwrap();
        assert_eq!(look(&places, &ours), Volume::Data { data_id: DataId("a".into()) });
        assert_eq!(look(&places, &owner("made again", "ns/db")), Volume::Data { data_id: DataId("a".into()) });
        assert!(matches!(look(&places, &owner("another", "ns/another")), Volume::Foreign { .. }));
        fs::remove_dir_all(&places.volume).unwrap();
    }

    #[test]
    fn a_volume_with_a_plain_data_directory_is_foreign() {
        let places = places("plain");
        fs::write(places.volume.join("ibdata1"), "x").unwrap();
        let owner = Owner { uid: "uid".into(), topology: "ns/db".into() };
        assert!(matches!(look(&places, &owner), Volume::Foreign { .. }));
        fs::remove_dir_all(&places.volume).unwrap();
    }

    #[test]
    fn a_copy_is_put_in_place_by_rename() {
        let places = places("rename");
        fs::create_dir_all(places.data()).unwrap();
        fs::write(places.data().join("old"), "x").unwrap();
        fs::create_dir_all(places.data_new()).unwrap();
        fs::write(places.data_new().join("new"), "x").unwrap();
        put_in_place(&places).unwrap();
        assert!(places.data().join("new").exists() && !places.data_old().exists() && !places.data_new().exists());
        fs::remove_dir_all(&places.volume).unwrap();
    }

    #[test]
    fn a_replacement_that_was_cut_short_loses_nothing() {
        let places = places("short");
        let owner = Owner { uid: "uid".into(), topology: "ns/db".into() };
        // Between the renames: the copy is whole.
        fs::create_dir_all(places.data_old()).unwrap();
        fs::create_dir_all(places.data_new()).unwrap();
        mark(&places.data_new(), &DataId("new".into()), &owner).unwrap();
        finish_renames(&places).unwrap();
        assert_eq!(look(&places, &owner), Volume::Data { data_id: DataId("new".into()) });
        // The copy is not whole: the old data comes back.
        fs::remove_dir_all(places.data()).unwrap();
        mark(&places.data_old(), &DataId("old".into()), &owner).unwrap();
        fs::create_dir_all(places.data_new()).unwrap();
        finish_renames(&places).unwrap();
        assert_eq!(look(&places, &owner), Volume::Data { data_id: DataId("old".into()) });
        fs::remove_dir_all(&places.volume).unwrap();
    }
}
