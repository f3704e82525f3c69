//! A pod's volumes as folders of the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, ResourceExt};

use super::attachments::Refusal;
use super::env::NodeFacts;
use super::{NodeContext, disk, mount, object_volumes};
use crate::quantity;

/// A volume that cannot be had (yet); becomes an event `FailedMount`, and the pod waits.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// An object that the volume needs is not there.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {kind} \"{name}\" not found")]
    Missing {
        /// The volume.
        volume: String,
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object lacks a key that the volume lists.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : references non-existent config key: {key}")]
    Key {
        /// The volume.
        volume: String,
        /// The key.
        key: String,
    },
    /// The claim has no volume yet.
    #[error("Unable to attach or mount volumes: claim \"{0}\" is not bound")]
    Unbound(String),
    /// Kinds of volumes that the sandbox leaves out.
    #[error("MountVolume.SetUp failed for volume \"{0}\" : {1} is not supported by the sandbox")]
    Unsupported(String, &'static str),
    /// A file could not be written.
    #[error("MountVolume.SetUp failed for volume \"{0}\" : {1}")]
    Io(String, std::io::Error),
    /// The volume's size cannot be enforced.
    #[error("MountVolume.SetUp failed for volume \"{0}\" : {1}")]
    Disk(String, #[source] disk::DiskError),
    /// Others have it, or nobody can.
    #[error("{verb} for volume \"{0}\" {1}", verb = if *.1 == Refusal::OtherNode { "Multi-Attach error" } else { "MountVolume.SetUp failed" })]
    InUse(String, Refusal),
    /// The API did not answer.
    #[error("MountVolume.SetUp failed for volume \"{0}\" : {1}")]
    Api(String, #[source] Box<kube::Error>),
}

impl VolumeError {
    /// Reason of the event.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InUse(_, Refusal::OtherNode) => "FailedAttachVolume",
            _ => "FailedMount",
        }
    }
}

/// Where a pod's volumes are made from and to.
#[allow(missing_debug_implementations)] // a client has none
pub struct VolumeContext<'a> {
    /// The API, all folders, and what is in use.
    pub node: &'a NodeContext,
    /// The pod.
    pub pod: &'a Pod,
    /// What the node knows of it.
    pub facts: &'a NodeFacts,
    /// Folder for the pod's own volumes.
    pub dir: &'a Path,
}

/// Makes one volume ready and returns its folder. Called again for a pod that restarts: nothing is lost then.
pub async fn prepare(context: &VolumeContext<'_>, volume: &Volume) -> Result<PathBuf, VolumeError> {
    let target = context.dir.join(&volume.name);
    let io = |e| VolumeError::Io(volume.name.clone(), e);
    let security = context.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let fs_group = security.and_then(|s| s.fs_group).map(|g| g as u32);
    if let Some(claim) = &volume.persistent_volume_claim {
        let path = persistent(context, volume, &claim.claim_name).await?;
        if let Some(group) = fs_group.filter(|_| claim.read_only != Some(true)) {
            let on_mismatch = security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
            let path = path.clone();
            let result = tokio::task::spawn_blocking(move || give_to_group(&path, group, on_mismatch)).await;
            result.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(io)?;
        }
        return Ok(path);
    }
    if let Some(empty) = &volume.empty_dir {
        let memory = empty.medium.as_deref() == Some("Memory");
        if !target.exists() {
            fs::create_dir_all(&target).map_err(io)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o777)).map_err(io)?;
        }
        if memory && !mount::is_mount(&target) {
            let size = empty.size_limit.as_ref().and_then(|q| quantity::units(&q.0)).map(|b| b as u64);
            mount::tmpfs(&target, size, 0o777).map_err(io)?;
        }
        if let Some(group) = fs_group {
            give_to_group(&target, group, false).map_err(io)?;
        }
        return Ok(target);
    }
    if is_from_objects(volume) {
        object_volumes::write_objects(context, volume).await?;
        return Ok(target);
    }
    let kind = if volume.host_path.is_some() {
        "hostPath"
    } else if volume.csi.is_some() {
        "csi"
    } else if volume.ephemeral.is_some() {
        "ephemeral"
    } else if volume.nfs.is_some() {
        "nfs"
    } else {
        "its kind"
    };
    Err(VolumeError::Unsupported(volume.name.clone(), kind))
}

/// Whether the volume's files come from the API and follow changes there.
pub fn is_from_objects(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

pub(super) fn api_error(volume: &Volume) -> impl Fn(kube::Error) -> VolumeError {
    let name = volume.name.clone();
    move |e| VolumeError::Api(name.clone(), Box::new(e))
}

/// The folder of a claim's volume.
async fn persistent(context: &VolumeContext<'_>, volume: &Volume, claim: &str) -> Result<PathBuf, VolumeError> {
    let namespace = context.pod.namespace().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.node.client.clone(), &namespace);
    let Some(object) = api.get_opt(claim).await.map_err(api_error(volume))? else {
        return Err(VolumeError::Missing {
            volume: volume.name.clone(),
            kind: "persistentvolumeclaim",
            name: claim.to_owned(),
        });
    };
    let bound = object.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = object.spec.and_then(|s| s.volume_name).filter(|n| bound && !n.is_empty());
    let name = name.ok_or_else(|| VolumeError::Unbound(claim.to_owned()))?;
    let failed = |e| VolumeError::Disk(volume.name.clone(), e);
    let api: Api<PersistentVolume> = Api::all(context.node.client.clone());
    let Some(object) = api.get_opt(&name).await.map_err(api_error(volume))? else {
        return Err(VolumeError::Missing { volume: volume.name.clone(), kind: "persistentvolume", name });
    };
    let node = context.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let uid = context.pod.uid().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    // A volume made by hand holds a folder's name on a node; it gets a folder of the sandbox's as all others do.
    if spec.host_path.is_none() && spec.local.is_none() {
        return Err(VolumeError::Unsupported(
            volume.name.clone(),
            "a persistent volume that is neither hostPath nor local",
        ));
    }
    let alone = context.node.attachments.attach(&object, node, &uid);
    let alone = alone.map_err(|e| VolumeError::InUse(name.clone(), e))?;
    disk::folder(context.node, &object, alone).await.map_err(failed)
}

/// Makes a folder and what is in it the group's, as `fsGroup` asks.
fn give_to_group(path: &Path, group: u32, only_on_mismatch: bool) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if only_on_mismatch {
        let root = fs::metadata(path)?;
        if root.gid() == group && root.mode() & 0o2070 == 0o2070 {
            return Ok(());
        }
    }
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group));
    }
    chown(path, None, Some(group))?;
    let extra = if metadata.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o7777 | extra))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group, false)?;
        }
    }
    Ok(())
}

/// The folder or file of a volume that `subPath` names, made if missing; never outside of the volume.
pub fn sub_path(volume: &Path, sub_path: &str) -> std::io::Result<PathBuf> {
    let wanted = Path::new(sub_path);
    if wanted.is_absolute() || wanted.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(std::io::Error::other(format!("subPath \"{sub_path}\" must stay inside of the volume")));
    }
    let path = volume.join(wanted);
    if !path.exists() {
        use std::os::unix::fs::MetadataExt;
        let permissions = fs::metadata(volume)?.permissions();
        let group = fs::metadata(volume)?.gid();
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, permissions)?;
        chown(&path, None, Some(group))?;
    }
    let (root, real) = (volume.canonicalize()?, path.canonicalize()?);
    if real.starts_with(&root) {
        Ok(real)
    } else {
        Err(std::io::Error::other(format!("subPath \"{sub_path}\" leads out of the volume")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = std::env::temp_dir().join(format!("sandbox-subpath-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("dir");
        symlink("/etc", dir.join("out")).expect("link");
        assert!(sub_path(&dir, "a/b").expect("inside").is_dir());
        assert!(sub_path(&dir, "../x").is_err());
        assert!(sub_path(&dir, "out").is_err());
        fs::remove_dir_all(&dir).expect("cleanup");
    }
}
