//! Persistent volumes on this machine's disk: folders, or, where the storage class says `enforceSize: "true"`, file systems
//! in sparse files, which are full when their size is used up.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{NodeContext, mount};
use crate::command::{CommandError, run};
use crate::events::reference;
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

/// Whether a class's volumes are held to their size.
pub(crate) fn enforces_size(class: &StorageClass) -> bool {
    class.parameters.as_ref().and_then(|p| p.get("enforceSize")).is_some_and(|value| value == "true")
}

/// The size that a volume is held to, if it is.
async fn enforced_size(client: &Client, volume: &PersistentVolume) -> Result<Option<u64>, kube::Error> {
    let Some(spec) = &volume.spec else { return Ok(None) };
    let Some(class) = spec.storage_class_name.as_deref().filter(|c| !c.is_empty()) else { return Ok(None) };
    let class = Api::<StorageClass>::all(client.clone()).get_opt(class).await?;
    if !class.as_ref().is_some_and(enforces_size) {
        return Ok(None);
    }
    let capacity = spec.capacity.as_ref().and_then(|c| c.get("storage"));
    Ok(capacity.and_then(|q| quantity::units(&q.0)).map(|bytes| bytes as u64))
}

/// The file of a volume that has a file system of its own.
pub(crate) fn image(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(format!("{name}.img"))
}

/// The folder of a volume, made and mounted if need be. `alone`: no other pod uses the volume, so that it may be mounted anew.
pub(crate) async fn folder(
    context: &NodeContext,
    volume: &PersistentVolume,
    alone: bool,
) -> Result<PathBuf, DiskError> {
    let (name, volumes) = (volume.name_any(), context.paths.volumes());
    let path = volumes.join(&name);
    let io = |source| DiskError::Io { volume: name.clone(), source };
    let is_new = !path.exists();
    std::fs::create_dir_all(&path).map_err(io)?;
    let image = image(&volumes, &name);
    let api = |source| DiskError::Api { volume: name.clone(), source: Box::new(source) };
    let wanted = enforced_size(&context.client, volume).await.map_err(api)?;
    // A folder that holds data stays a folder: nothing is hidden behind a mount.
    match wanted.filter(|_| is_new || image.exists()) {
        Some(bytes) => {
            host::check(&[host::MKFS]).map_err(DiskError::Host)?;
            let disk = Disk { path: &path, image: &image, bytes };
            let size = disk.mount(alone).await.map_err(|source| match source {
                Failure::Command(source) => DiskError::Command { volume: name.clone(), source },
                Failure::Io(source) => DiskError::Io { volume: name.clone(), source },
            })?;
            tell(context, volume, size).await.map_err(api)?;
        }
        None if wanted.is_some() => tell(context, volume, Size::Reached).await.map_err(api)?,
        None => {}
    }
    Ok(path)
}

/// Whether a file system is as large as its volume is to be.
enum Size {
    Reached,
    /// Not before it is mounted anew.
    Waits,
}

enum Failure {
    Command(CommandError),
    Io(std::io::Error),
}

/// A file system of its own.
struct Disk<'a> {
    path: &'a Path,
    image: &'a Path,
    /// Its size, as it is to be.
    bytes: u64,
}

async fn tool<const N: usize>(name: &str, arguments: [&OsStr; N]) -> Result<String, Failure> {
    run(name, arguments).await.map_err(Failure::Command)
}

impl Disk<'_> {
    async fn mount(&self, alone: bool) -> Result<Size, Failure> {
        if !self.image.exists() {
            let new = self.image.with_extension("new");
            std::fs::File::create(&new).and_then(|file| file.set_len(self.bytes)).map_err(Failure::Io)?;
            tool("mkfs.ext4", ["-q".as_ref(), "-m".as_ref(), "0".as_ref(), new.as_os_str()]).await?;
            std::fs::rename(&new, self.image).map_err(Failure::Io)?;
        }
        if mount::is_mount(self.path) {
            match self.grow_mounted().await? {
                Size::Waits if alone && mount::unmount_idle(self.path) => {}
                size => return Ok(size),
            }
        }
        if self.is_small(self.image)? {
            self.lengthen().await?;
            // Required before a file system grows that is not mounted. 1: something was repaired.
            match tool("e2fsck", ["-f".as_ref(), "-p".as_ref(), self.image.as_os_str()]).await {
                Err(Failure::Command(CommandError::Failed { status, .. })) if status.code() == Some(1) => {}
                other => drop(other?),
            }
            tool("resize2fs", [self.image.as_os_str()]).await?;
        }
        tool("mount", ["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), self.path.as_os_str()]).await?;
        Ok(Size::Reached)
    }

    /// Grows while it is in use. The kernel lets only those do so who may exceed resource limits (`CAP_SYS_RESOURCE`), which
    /// root in a container or a small virtual machine may not.
    async fn grow_mounted(&self) -> Result<Size, Failure> {
        let device = tool("findmnt", ["-n".as_ref(), "-o".as_ref(), "SOURCE".as_ref(), self.path.as_os_str()]).await?;
        let device = Path::new(device.trim());
        if !self.is_small(device)? {
            return Ok(Size::Reached);
        }
        self.lengthen().await?;
        tool("losetup", ["-c".as_ref(), device.as_os_str()]).await?;
        match tool("resize2fs", [device.as_os_str()]).await {
            Ok(_) => Ok(Size::Reached),
            Err(Failure::Command(error)) => {
                tracing::info!("{} grows when it is mounted anew: {error}", self.path.display());
                Ok(Size::Waits)
            }
            Err(other) => Err(other),
        }
    }

    async fn lengthen(&self) -> Result<(), Failure> {
        let size = self.bytes.to_string();
        tool("truncate", ["-s".as_ref(), format!(">{size}").as_ref(), self.image.as_os_str()]).await.map(drop)
    }

    /// Whether the file system on a device (or in a file) lacks more than the rest of a block.
    fn is_small(&self, device: &Path) -> Result<bool, Failure> {
        let size = file_system_size(device).map_err(Failure::Io)?;
        Ok(size + 4096 <= self.bytes)
    }
}

/// Size of an ext4 file system, as its superblock says (ext4 documentation, "Super Block": blocks at 0x4, block size at 0x18).
fn file_system_size(device: &Path) -> std::io::Result<u64> {
    let mut block = [0u8; 0x1c];
    let mut file = std::fs::File::open(device)?;
    file.seek(SeekFrom::Start(1024))?;
    file.read_exact(&mut block)?;
    let number = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    Ok(u64::from(number(0x4)) * (1024 << number(0x18).min(6)))
}

/// Tells the volume's claim how large its file system is, where that is news.
async fn tell(context: &NodeContext, volume: &PersistentVolume, size: Size) -> Result<(), kube::Error> {
    let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Ok(()) };
    let (namespace, name) = (claim.namespace.clone().unwrap_or_default(), claim.name.clone().unwrap_or_default());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let Some(object) = api.get_opt(&name).await?.filter(|object| object.metadata.uid == claim.uid) else {
        return Ok(());
    };
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
    let told = object.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
    let conditions = object.status.as_ref().and_then(|s| s.conditions.as_ref());
    let pending = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == RESIZE_PENDING));
    let (status, warning, reason, message) = match size {
        Size::Reached if told == capacity && !pending => return Ok(()),
        Size::Reached => (
            json!({ "capacity": { "storage": capacity }, "conditions": null }),
            false,
            "FileSystemResizeSuccessful",
            "MountVolume.NodeExpandVolume succeeded for volume",
        ),
        Size::Waits if pending && told != capacity => return Ok(()),
        Size::Waits => (
            json!({ "conditions": [resize_pending()] }),
            true,
            "FileSystemResizeRequired",
            "The kernel does not let this file system grow while it is in use (no CAP_SYS_RESOURCE): it grows when its pod starts anew",
        ),
    };
    let message = format!("{message} {}", volume.name_any());
    context.events.record(reference(&object), "kubelet", "", warning, reason, message.trim().to_owned());
    let patch = json!({ "metadata": { "uid": object.uid() }, "status": status });
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

const RESIZE_PENDING: &str = "FileSystemResizePending";

/// The condition of a claim whose volume has grown and whose file system has not.
pub(crate) fn resize_pending() -> serde_json::Value {
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
    json!({ "type": RESIZE_PENDING, "status": "True", "lastTransitionTime": now,
            "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node." })
}

/// Lets volumes grow, and removes what volumes held whose objects are deleted. Never returns.
pub(crate) async fn follow(context: &NodeContext) {
    let volumes = context.paths.volumes();
    let api = Api::<PersistentVolume>::all(context.client.clone());
    let mut stream = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    loop {
        match stream.try_next().await {
            Ok(Some(Event::Apply(object))) => {
                if let Err(error) = grow(context, &volumes, &object).await {
                    tracing::warn!("{error}");
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

/// A volume that is in use grows at once; one that is not, when it is mounted.
async fn grow(context: &NodeContext, volumes: &Path, object: &PersistentVolume) -> Result<(), DiskError> {
    let name = object.name_any();
    let path = volumes.join(&name);
    let hangs = context.attachments.hanging().contains(&name);
    if path.exists() && !hangs && (mount::is_mount(&path) || !image(volumes, &name).exists()) {
        folder(context, object, false).await?;
    }
    Ok(())
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
