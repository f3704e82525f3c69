//! Persistent volumes on this machine's disk: folders, or, where the storage class says `enforceSize: "true"`, file systems
//! in sparse files, which are full when their size is used up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};

use super::mount;
use crate::command::{CommandError, run};
use crate::host;
use crate::quantity;

/// A volume whose size cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A tool is missing.
    #[error(transparent)]
    Host(host::HostError),
    /// A tool failed.
    #[error("volume {volume}: {source}")]
    Command {
        /// The volume.
        volume: String,
        /// The tool's failure.
        source: CommandError,
    },
    /// A file could not be made.
    #[error("volume {volume}: {source}")]
    Io {
        /// The volume.
        volume: String,
        /// The failure.
        source: std::io::Error,
    },
    /// The API did not answer.
    #[error("volume {volume}: {source}")]
    Api {
        /// The volume.
        volume: String,
        /// The failure.
        source: Box<kube::Error>,
    },
}

/// The size that a volume is held to, if it is.
async fn enforced_size(client: &Client, volume: &PersistentVolume) -> Result<Option<u64>, kube::Error> {
    let Some(spec) = &volume.spec else { return Ok(None) };
    let Some(class) = spec.storage_class_name.as_deref().filter(|c| !c.is_empty()) else { return Ok(None) };
    let class = Api::<StorageClass>::all(client.clone()).get_opt(class).await?;
    let parameters = class.and_then(|c| c.parameters).unwrap_or_default();
    if parameters.get("enforceSize").map(String::as_str) != Some("true") {
        return Ok(None);
    }
    let capacity = spec.capacity.as_ref().and_then(|c| c.get("storage"));
    Ok(capacity.and_then(|q| quantity::units(&q.0)).map(|bytes| bytes as u64))
}

/// The folder of a volume, made and mounted if need be.
pub(crate) async fn folder(client: &Client, volumes: &Path, volume: &PersistentVolume) -> Result<PathBuf, DiskError> {
    let name = volume.name_any();
    let path = volumes.join(&name);
    let io = |source| DiskError::Io { volume: name.clone(), source };
    let is_new = !path.exists();
    std::fs::create_dir_all(&path).map_err(io)?;
    let image = image(volumes, &name);
    let wanted = enforced_size(client, volume)
        .await
        .map_err(|source| DiskError::Api { volume: name.clone(), source: Box::new(source) })?;
    // A folder that holds data stays a folder: nothing is hidden behind a mount.
    let limited = wanted.filter(|_| is_new || image.exists());
    if let Some(bytes) = limited {
        limit(&path, &image, &name, bytes).await?;
    }
    Ok(path)
}

fn image(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(format!("{name}.img"))
}

async fn limit(path: &Path, image: &Path, name: &str, bytes: u64) -> Result<(), DiskError> {
    host::check(&[host::MKFS]).map_err(DiskError::Host)?;
    let io = |source| DiskError::Io { volume: name.to_owned(), source };
    let command = |source| DiskError::Command { volume: name.to_owned(), source };
    if !image.exists() {
        let new = image.with_extension("new");
        std::fs::File::create(&new).and_then(|file| file.set_len(bytes)).map_err(io)?;
        run("mkfs.ext4", ["-q".as_ref(), "-m".as_ref(), "0".as_ref(), new.as_os_str()]).await.map_err(command)?;
        std::fs::rename(&new, image).map_err(io)?;
    }
    if !mount::is_mount(path) {
        run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), path.as_os_str()]).await.map_err(command)?;
    }
    grow(path, image, bytes).await.map_err(command)
}

/// Makes the file system larger while it is in use.
async fn grow(path: &Path, image: &Path, bytes: u64) -> Result<(), CommandError> {
    let length = std::fs::metadata(image).map_or(bytes, |m| m.len());
    if length >= bytes {
        return Ok(());
    }
    run("truncate", ["-s".as_ref(), bytes.to_string().as_ref(), image.as_os_str()]).await?;
    let source = run("findmnt", ["-n".as_ref(), "-o".as_ref(), "SOURCE".as_ref(), path.as_os_str()]).await?;
    run("losetup", ["-c", source.trim()]).await?;
    run("resize2fs", [source.trim()]).await.map(drop)
}

/// Lets volumes grow, and removes what volumes held whose objects are deleted. Never returns.
pub(crate) async fn follow(client: Client, volumes: PathBuf) {
    let api = Api::<PersistentVolume>::all(client.clone());
    let mut stream = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    loop {
        match stream.try_next().await {
            Ok(Some(Event::Apply(object))) => {
                let name = object.name_any();
                let (path, image) = (volumes.join(&name), image(&volumes, &name));
                if mount::is_mount(&path)
                    && let Ok(Some(bytes)) = enforced_size(&client, &object).await
                    && let Err(error) = grow(&path, &image, bytes).await
                {
                    tracing::warn!("volume {name}: {error}");
                }
            }
            Ok(Some(Event::Delete(object))) => {
                let reclaim = object.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
                if reclaim == Some("Delete") {
                    let (name, volumes) = (object.name_any(), volumes.clone());
                    let _ = tokio::task::spawn_blocking(move || remove(&volumes, &name)).await;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("watching persistent volumes: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

fn remove(volumes: &Path, name: &str) {
    let path = volumes.join(name);
    mount::unmount(&path);
    for result in [std::fs::remove_dir_all(&path), std::fs::remove_file(image(volumes, name))] {
        if let Err(error) = result
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}
