//! Disks that are full, and disks that hang.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;

use super::{FaultError, Faults, VolumeAct};
use crate::command::run;
use crate::node::register::LIMITED;
use crate::node::{disk, mount};

/// Where the space of a full volume goes: a place that every such file system has and that pods do not look at.
const FILLER: &str = "lost+found/sandbox-fill";

impl Faults {
    /// The mounted file system of a claim: volume and folder.
    async fn file_system(&self, namespace: &str, claim: &str) -> Result<(String, PathBuf), FaultError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context().client.clone(), namespace);
        let found = api.get_opt(claim).await.map_err(|e| FaultError::Api(Box::new(e)))?;
        let (kind, name) = ("claim", claim.to_owned());
        let object = found.ok_or(FaultError::NotFound { kind, namespace: namespace.to_owned(), name })?;
        let volume = object.spec.and_then(|s| s.volume_name).filter(|v| !v.is_empty());
        let volume = volume.ok_or_else(|| FaultError::Unbound(claim.to_owned()))?;
        let folder = self.context().paths.volumes().join(&volume);
        if !disk::image(&self.context().paths.volumes(), &volume).exists() {
            return Err(FaultError::Folder { claim: claim.to_owned(), volume, class: LIMITED });
        }
        if !mount::is_mount(&folder) {
            return Err(FaultError::NotMounted(volume));
        }
        Ok((volume, folder))
    }

    pub(super) async fn volume(&self, namespace: &str, claim: &str, act: VolumeAct) -> Result<String, FaultError> {
        let (volume, folder) = self.file_system(namespace, claim).await?;
        let attachments = &self.context().attachments;
        let io = |source| FaultError::Io { volume: volume.clone(), source };
        let freeze = |flag: &'static str| {
            let (folder, volume) = (folder.clone(), volume.clone());
            async move {
                let done = run("fsfreeze", [flag.as_ref(), folder.as_os_str()]).await;
                done.map_err(|source| FaultError::Command { volume, source })
            }
        };
        let hangs = attachments.hanging().contains(&volume);
        Ok(match act {
            VolumeAct::Fill { .. } | VolumeAct::Free if hangs => {
                return Err(io(std::io::Error::other("its disk hangs; release it first")));
            }
            VolumeAct::Fill { leave } => {
                let work = tokio::task::spawn_blocking(move || fill(&folder, leave)).await;
                let taken = work.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(io)?;
                format!("volume {volume} is full: {taken} bytes taken, {leave} left")
            }
            VolumeAct::Free => {
                match std::fs::remove_file(folder.join(FILLER)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
                    _ => {}
                }
                format!("volume {volume} has its space back")
            }
            VolumeAct::Hang if hangs => format!("volume {volume} hangs already"),
            VolumeAct::Hang => {
                attachments.set_hanging(&volume, true);
                if let Err(error) = freeze("--freeze").await {
                    attachments.set_hanging(&volume, false);
                    return Err(error);
                }
                format!("volume {volume} hangs")
            }
            VolumeAct::Release if !hangs => format!("volume {volume} does not hang"),
            VolumeAct::Release => {
                freeze("--unfreeze").await?;
                attachments.set_hanging(&volume, false);
                format!("volume {volume} answers again")
            }
        })
    }

    /// Lets every disk that hangs answer again.
    pub(crate) async fn release_volumes(&self) {
        let volumes = self.context().paths.volumes();
        for volume in self.context().attachments.hanging() {
            match run("fsfreeze", ["--unfreeze".as_ref(), volumes.join(&volume).as_os_str()]).await {
                Ok(_) => drop(self.context().attachments.set_hanging(&volume, false)),
                Err(error) => tracing::warn!("volume {volume}: {error}"),
            }
        }
    }
}

/// Takes all space but `leave` bytes; tells how much that was.
fn fill(folder: &Path, leave: u64) -> std::io::Result<u64> {
    use rustix::fs::{FallocateFlags, fallocate, statvfs};
    let path = folder.join(FILLER);
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let mut size = file.metadata()?.len();
    let free = || statvfs(folder).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    // Ever smaller pieces: what is free is not one piece, and bookkeeping takes some of it.
    let mut piece = free()?.saturating_sub(leave).max(4096);
    while piece >= 4096 {
        let room = free()?.saturating_sub(leave);
        if room < 4096 && leave > 0 {
            break;
        }
        let step = if leave > 0 { piece.min(room) } else { piece } & !4095;
        match fallocate(&file, FallocateFlags::empty(), size, step) {
            Ok(()) => size += step,
            Err(rustix::io::Errno::NOSPC) => piece /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Lets every frozen file system below a folder go on, before processes and mounts there are ended.
pub(crate) fn thaw_below(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && mount::is_mount(&path) {
            // One that is not frozen is refused, which is as good.
            let _ = std::process::Command::new("fsfreeze")
                .arg("--unfreeze")
                .arg(&path)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}
