//! Volumes whose files come from the API: Secrets, ConfigMaps, the pod's own fields, tokens.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Secret, Volume};
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::env::{field, resource_field};
use super::volumes::{VolumeContext, VolumeError, api_error};

/// A file of a volume made from objects.
struct Item {
    path: String,
    data: Vec<u8>,
    mode: u32,
}

/// Writes (or rewrites) the files of such a volume. Tells whether anything changed.
pub(crate) async fn write_objects(context: &VolumeContext<'_>, volume: &Volume) -> Result<bool, VolumeError> {
    let mut items = Vec::new();
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(0o644) as u32;
        let name = source.secret_name.as_deref().unwrap_or_default();
        let wanted = Wanted { name, items: source.items.as_deref(), optional: source.optional, mode };
        object_items::<Secret>(context, volume, wanted, &mut items).await?;
    } else if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(0o644) as u32;
        let wanted = Wanted { name: &source.name, items: source.items.as_deref(), optional: source.optional, mode };
        object_items::<ConfigMap>(context, volume, wanted, &mut items).await?;
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

/// What Secrets and ConfigMaps have in common: files by key.
trait Source: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned {
    /// In messages.
    const KIND: &'static str;

    fn files(self) -> BTreeMap<String, Vec<u8>>;
}

impl Source for Secret {
    const KIND: &'static str = "secret";

    fn files(self) -> BTreeMap<String, Vec<u8>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

impl Source for ConfigMap {
    const KIND: &'static str = "configmap";

    fn files(self) -> BTreeMap<String, Vec<u8>> {
        let text = self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        text.chain(self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0))).collect()
    }
}

/// What a volume takes of an object.
struct Wanted<'a> {
    name: &'a str,
    /// Some keys only.
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
}

async fn object_items<K: Source>(
    context: &VolumeContext<'_>,
    volume: &Volume,
    wanted: Wanted<'_>,
    items: &mut Vec<Item>,
) -> Result<(), VolumeError> {
    let api: Api<K> = Api::namespaced(context.node.client.clone(), &context.pod.namespace().unwrap_or_default());
    let optional = wanted.optional == Some(true);
    match api.get_opt(wanted.name).await.map_err(api_error(volume))? {
        Some(object) => choose(volume, object.files(), wanted.items, optional, wanted.mode, items),
        None if optional => Ok(()),
        None => {
            let (volume, name) = (volume.name.clone(), wanted.name.to_owned());
            Err(VolumeError::Missing { volume, kind: K::KIND, name })
        }
    }
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
            let wanted = Wanted { name: &secret.name, items: secret.items.as_deref(), optional: secret.optional, mode };
            object_items::<Secret>(context, volume, wanted, items).await?;
        }
        if let Some(map) = &source.config_map {
            let wanted = Wanted { name: &map.name, items: map.items.as_deref(), optional: map.optional, mode };
            object_items::<ConfigMap>(context, volume, wanted, items).await?;
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
}
