//! A pod's volumes as folders of the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource,
    Secret, Volume,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::attachments::Refusal;
use super::env::{NodeFacts, field, resource_field};
use super::{NodeContext, disk, mount};
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

/// A file of a volume made from objects.
struct Item {
    path: String,
    data: Vec<u8>,
    mode: u32,
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
        write_objects(context, volume).await?;
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

/// Writes (or rewrites) the files of such a volume. Tells whether anything changed.
pub async fn write_objects(context: &VolumeContext<'_>, volume: &Volume) -> Result<bool, VolumeError> {
    let mut items = Vec::new();
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(0o644) as u32;
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        secret_items(context, volume, name, source.items.as_deref(), optional, mode, &mut items).await?;
    } else if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(0o644) as u32;
        let optional = source.optional == Some(true);
        config_map_items(context, volume, &source.name, source.items.as_deref(), optional, mode, &mut items).await?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(0o644) as u32;
        downward_items(context, source.items.as_deref().unwrap_or_default(), mode, &mut items);
    } else if let Some(source) = &volume.projected {
        projected_items(context, volume, source, &mut items).await?;
    }
    let security = context.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let fs_group = security.and_then(|s| s.fs_group).map(|g| g as u32);
    write_atomically(&context.dir.join(&volume.name), &items, fs_group)
        .map_err(|e| VolumeError::Io(volume.name.clone(), e))
}

fn api_error(volume: &Volume) -> impl Fn(kube::Error) -> VolumeError {
    let name = volume.name.clone();
    move |e| VolumeError::Api(name.clone(), Box::new(e))
}

fn choose(
    volume: &Volume,
    data: BTreeMap<String, Vec<u8>>,
    wanted: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    items: &mut Vec<Item>,
) -> Result<(), VolumeError> {
    let Some(wanted) = wanted.filter(|w| !w.is_empty()) else {
        items.extend(data.into_iter().map(|(path, data)| Item { path, data, mode }));
        return Ok(());
    };
    for item in wanted {
        match data.get(&item.key) {
            Some(bytes) => items.push(Item {
                path: item.path.clone(),
                data: bytes.clone(),
                mode: item.mode.map_or(mode, |m| m as u32),
            }),
            None if optional => {}
            None => return Err(VolumeError::Key { volume: volume.name.clone(), key: item.key.clone() }),
        }
    }
    Ok(())
}

async fn secret_items(
    context: &VolumeContext<'_>,
    volume: &Volume,
    name: &str,
    wanted: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    items: &mut Vec<Item>,
) -> Result<(), VolumeError> {
    let namespace = context.pod.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.node.client.clone(), &namespace);
    let Some(secret) = api.get_opt(name).await.map_err(api_error(volume))? else {
        if optional {
            return Ok(());
        }
        return Err(VolumeError::Missing { volume: volume.name.clone(), kind: "secret", name: name.to_owned() });
    };
    let data = secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect();
    choose(volume, data, wanted, optional, mode, items)
}

async fn config_map_items(
    context: &VolumeContext<'_>,
    volume: &Volume,
    name: &str,
    wanted: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    items: &mut Vec<Item>,
) -> Result<(), VolumeError> {
    let namespace = context.pod.namespace().unwrap_or_default();
    let api: Api<ConfigMap> = Api::namespaced(context.node.client.clone(), &namespace);
    let Some(map) = api.get_opt(name).await.map_err(api_error(volume))? else {
        if optional {
            return Ok(());
        }
        return Err(VolumeError::Missing { volume: volume.name.clone(), kind: "configmap", name: name.to_owned() });
    };
    let mut data: BTreeMap<String, Vec<u8>> =
        map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
    data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
    choose(volume, data, wanted, optional, mode, items)
}

fn downward_items(context: &VolumeContext<'_>, wanted: &[DownwardAPIVolumeFile], mode: u32, items: &mut Vec<Item>) {
    for file in wanted {
        let text = if let Some(reference) = &file.field_ref {
            field(context.pod, context.facts, &reference.field_path)
        } else if let Some(selector) = &file.resource_field_ref {
            let containers = context.pod.spec.iter().flat_map(|s| &s.containers);
            containers
                .filter(|c| Some(&c.name) == selector.container_name.as_ref())
                .find_map(|c| resource_field(c, selector))
        } else {
            None
        };
        let mode = file.mode.map_or(mode, |m| m as u32);
        items.push(Item { path: file.path.clone(), data: text.unwrap_or_default().into_bytes(), mode });
    }
}

async fn projected_items(
    context: &VolumeContext<'_>,
    volume: &Volume,
    projected: &ProjectedVolumeSource,
    items: &mut Vec<Item>,
) -> Result<(), VolumeError> {
    let mode = projected.default_mode.unwrap_or(0o644) as u32;
    for source in projected.sources.iter().flatten() {
        if let Some(secret) = &source.secret {
            let optional = secret.optional == Some(true);
            secret_items(context, volume, &secret.name, secret.items.as_deref(), optional, mode, items).await?;
        }
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            config_map_items(context, volume, &map.name, map.items.as_deref(), optional, mode, items).await?;
        }
        if let Some(downward) = &source.downward_api {
            downward_items(context, downward.items.as_deref().unwrap_or_default(), mode, items);
        }
        if let Some(token) = &source.service_account_token {
            let text = request_token(context, volume, token.audience.clone(), token.expiration_seconds).await?;
            // As a kubelet: the group may read it, or everybody when there is no group.
            let has_group = context
                .pod
                .spec
                .as_ref()
                .and_then(|s| s.security_context.as_ref())
                .is_some_and(|s| s.fs_group.is_some());
            let mode = if has_group { 0o640 } else { 0o644 };
            items.push(Item { path: token.path.clone(), data: text.into_bytes(), mode });
        }
    }
    Ok(())
}

async fn request_token(
    context: &VolumeContext<'_>,
    volume: &Volume,
    audience: Option<String>,
    expiration: Option<i64>,
) -> Result<String, VolumeError> {
    use k8s_openapi::api::authentication::v1::BoundObjectReference;
    let namespace = context.pod.namespace().unwrap_or_default();
    let account =
        context.pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|a| vec![a]),
            expiration_seconds: expiration,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(context.pod.name_any()),
                uid: context.pod.uid(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(context.node.client.clone(), &namespace);
    let answer =
        api.create_token_request(&account, &PostParams::default(), &request).await.map_err(api_error(volume))?;
    Ok(answer.status.and_then(|s| s.token).unwrap_or_default())
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
    context.node.attachments.attach(&object, node, &uid).map_err(|e| VolumeError::InUse(name.clone(), e))?;
    disk::folder(&context.node.client, &context.node.paths.volumes(), &object).await.map_err(failed)
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

/// Writes files so that readers see all of the old ones or all of the new ones: a new folder, then one rename of the link
/// `..data`, through which every visible name leads.
fn write_atomically(target: &Path, items: &[Item], group: Option<u32>) -> std::io::Result<bool> {
    fs::create_dir_all(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    let link = target.join("..data");
    let old = fs::read_link(&link).ok();
    if let Some(old) = &old {
        let old = target.join(old);
        let same = |item: &Item| fs::read(old.join(&item.path)).is_ok_and(|data| data == item.data);
        if items.iter().all(same) && count_files(&old) == items.len() {
            return Ok(false);
        }
    }
    let stamp = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let new = target.join(&stamp);
    fs::create_dir_all(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    let mut visible = std::collections::BTreeSet::new();
    for item in items {
        let relative: PathBuf =
            Path::new(&item.path).components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let Some(Component::Normal(first)) = relative.components().next() else { continue };
        visible.insert(first.to_owned());
        let file = new.join(&relative);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, &item.data)?;
        let mode = if group.is_some() { item.mode | 0o440 } else { item.mode };
        if let Some(group) = group {
            chown(&file, None, Some(group))?;
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    let temporary = target.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&stamp, &temporary)?;
    fs::rename(&temporary, &link)?;
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !visible.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in visible {
        let file = target.join(&name);
        if fs::symlink_metadata(&file).is_err() {
            symlink(Path::new("..data").join(&name), &file)?;
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(target.join(old));
    }
    Ok(true)
}

fn count_files(folder: &Path) -> usize {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| if entry.file_type().is_ok_and(|t| t.is_dir()) { count_files(&entry.path()) } else { 1 })
        .sum()
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
    use super::*;

    #[test]
    fn files_change_all_at_once() {
        let dir = std::env::temp_dir().join(format!("sandbox-volumes-{}", std::process::id()));
        let item = |path: &str, text: &str| Item { path: path.into(), data: text.into(), mode: 0o644 };
        assert!(write_atomically(&dir, &[item("a", "1"), item("d/b", "2")], None).expect("first"));
        assert_eq!(fs::read_to_string(dir.join("a")).expect("a"), "1");
        assert_eq!(fs::read_to_string(dir.join("d/b")).expect("b"), "2");
        assert!(!write_atomically(&dir, &[item("a", "1"), item("d/b", "2")], None).expect("unchanged"));
        assert!(write_atomically(&dir, &[item("a", "3")], None).expect("second"));
        assert_eq!(fs::read_to_string(dir.join("a")).expect("a"), "3");
        assert!(!dir.join("d").exists());
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 3, "a, ..data and one folder");
        fs::remove_dir_all(&dir).expect("cleanup");
    }

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
