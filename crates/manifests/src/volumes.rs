//! The volumes of a member's pod and where they are mounted: as `protocol::paths` says.

use api::names;
use api::resolved::{RootPassword, SecretKey};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    SecretVolumeSource, Volume, VolumeMount, VolumeResourceRequirements,
};
use protocol::paths;

use crate::{Input, metadata};

/// Volume that the init container puts the binary into.
pub(crate) const BINARY: &str = "agent";

/// Keys are for the server's group alone.
const SECRET_MODE: i32 = 0o440;

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn secret(name: &str, secret: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        default_mode: Some(SECRET_MODE),
        items,
        ..SecretVolumeSource::default()
    };
    Volume { name: name.to_owned(), secret: Some(source), ..Volume::default() }
}

fn password(name: &str, key: &SecretKey, file: &str) -> Volume {
    let item = KeyToPath { key: key.key.clone(), path: file.to_owned(), ..KeyToPath::default() };
    secret(name, &key.name, Some(vec![item]))
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Our volumes with their mounts in the container `mariadb`, then the user's.
pub(crate) fn volumes(input: &Input<'_>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let object = input.object;
    let mut volumes = vec![empty(BINARY), empty("run"), empty("tmp")];
    let mut mounts = vec![
        mount(names::CLAIM, paths::VOLUME, false),
        mount(BINARY, paths::BINARY_DIR, true),
        mount("run", paths::RUN_DIR, false),
        mount("tmp", "/tmp", false),
        mount("config", paths::CONFIG_DIR, true),
        mount("agent-tls", paths::AGENT_TLS_DIR, true),
    ];
    if object.storage.ephemeral {
        let size_limit = Some(object.storage.size.quantity());
        volumes.push(Volume {
            name: names::CLAIM.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() }),
            ..Volume::default()
        });
    }
    volumes.push(Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::config(&object.name),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    });
    volumes.push(secret("agent-tls", &names::agent_tls(&object.name), None));
    if object.tls {
        volumes.push(secret("server-tls", &names::server_tls(&object.name), None));
        mounts.push(mount("server-tls", paths::SERVER_TLS_DIR, true));
    }
    if let RootPassword::Secret(key) = &object.root_password {
        volumes.push(password("root-password", key, paths::ROOT_PASSWORD));
        mounts.push(mount("root-password", paths::ROOT_SECRET_DIR, true));
    }
    if let Some(key) = input.replication_password {
        volumes.push(password("replication-password", key, paths::REPLICATION_PASSWORD));
        mounts.push(mount("replication-password", paths::REPLICATION_SECRET_DIR, true));
    }
    if let Some(user) = &object.user {
        volumes.push(password("user-password", &user.password, paths::USER_PASSWORD));
        mounts.push(mount("user-password", paths::USER_SECRET_DIR, true));
    }
    volumes.extend(object.pod.volumes.clone());
    mounts.extend(object.pod.volume_mounts.clone());
    (volumes, mounts)
}

/// The claim of each member.
pub(crate) fn claims(input: &Input<'_>) -> Option<Vec<PersistentVolumeClaim>> {
    let storage = &input.object.storage;
    if storage.ephemeral {
        return None;
    }
    let mut spec = storage.template.clone().unwrap_or_else(|| PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        ..PersistentVolumeClaimSpec::default()
    });
    spec.access_modes.get_or_insert_with(|| vec!["ReadWriteOnce".to_owned()]);
    spec.storage_class_name.clone_from(&storage.class);
    spec.resources
        .get_or_insert_with(VolumeResourceRequirements::default)
        .requests
        .get_or_insert_default()
        .insert("storage".to_owned(), storage.size.quantity());
    Some(vec![PersistentVolumeClaim { metadata: metadata::claim(input), spec: Some(spec), status: None }])
}
