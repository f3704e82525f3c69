//! Loading images from files: OCI layouts and `docker save` archives, as one tar file (gzip or not).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::{ImageConfig, ImageError, Loaded};

fn bad(file: &Path, reason: impl std::fmt::Display) -> ImageError {
    ImageError::Archive { file: file.display().to_string(), reason: reason.to_string() }
}

/// Reads an archive, unpacks layers that are not there yet below `store`, and returns the images by name.
pub(super) fn load(file: &Path, store: &Path) -> Result<Vec<(String, Loaded)>, ImageError> {
    let failed = |e: std::io::Error| bad(file, e.to_string());
    let scratch = store.join(format!("loading-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(failed)?;
    let result = load_unpacked(file, store, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

fn load_unpacked(file: &Path, store: &Path, scratch: &Path) -> Result<Vec<(String, Loaded)>, ImageError> {
    let failed = |e: std::io::Error| bad(file, e.to_string());
    let source = File::open(file).map_err(failed)?;
    tar::Archive::new(maybe_gzip(source).map_err(failed)?).unpack(scratch).map_err(failed)?;
    let descriptions = if scratch.join("manifest.json").is_file() {
        docker(file, scratch)?
    } else if scratch.join("index.json").is_file() {
        oci(file, scratch)?
    } else {
        return Err(bad(file, "neither index.json nor manifest.json in it".to_owned()));
    };
    let mut images = Vec::new();
    for description in descriptions {
        let text = std::fs::read(&description.config).map_err(failed)?;
        let config: ConfigFile =
            serde_json::from_slice(&text).map_err(|e| bad(file, format!("image configuration: {e}")))?;
        let mut layers = Vec::new();
        for layer in &description.layers {
            layers.push(unpack_layer(layer, store).map_err(failed)?);
        }
        let loaded = Loaded { id: digest(&text), layers, config: config.config };
        if description.names.is_empty() {
            images.push((loaded.id.clone(), loaded.clone()));
        }
        images.extend(description.names.into_iter().map(|name| (name, loaded.clone())));
    }
    Ok(images)
}

struct Description {
    names: Vec<String>,
    config: PathBuf,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: ImageConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

fn read_json<T: serde::de::DeserializeOwned>(archive: &Path, file: &Path) -> Result<T, ImageError> {
    let failed = |e: String| bad(archive, format!("{}: {e}", file.display()));
    let text = std::fs::read(file).map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))
}

fn docker(archive: &Path, scratch: &Path) -> Result<Vec<Description>, ImageError> {
    let manifests: Vec<DockerManifest> = read_json(archive, &scratch.join("manifest.json"))?;
    let describe = |m: DockerManifest| Description {
        names: m.repo_tags.unwrap_or_default().iter().filter_map(|n| Reference::parse(n)).map(|r| r.short()).collect(),
        config: inside(scratch, &m.config),
        layers: m.layers.iter().map(|layer| inside(scratch, layer)).collect(),
    };
    Ok(manifests.into_iter().map(describe).collect())
}

fn oci(archive: &Path, scratch: &Path) -> Result<Vec<Description>, ImageError> {
    let index: Index = read_json(archive, &scratch.join("index.json"))?;
    let mut result = Vec::new();
    for descriptor in index.manifests {
        let names = descriptor
            .annotations
            .iter()
            .filter(|(key, _)| {
                ["io.containerd.image.name", "org.opencontainers.image.ref.name"].contains(&key.as_str())
            })
            // A bare tag without a name (some tools write that) names nothing.
            .filter(|(_, name)| name.contains(':') || name.contains('/'))
            .filter_map(|(_, name)| Reference::parse(name))
            .map(|r| r.short())
            .collect::<std::collections::BTreeSet<_>>();
        let mut target = descriptor;
        if target.media_type.contains("index") || target.media_type.contains("manifest.list") {
            let nested: Index = read_json(archive, &blob(scratch, &target.digest))?;
            let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            let fits =
                |d: &Descriptor| d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture);
            target = nested
                .manifests
                .into_iter()
                .find(fits)
                .ok_or_else(|| bad(archive, format!("no image for linux/{architecture} in it")))?;
        }
        let manifest: Manifest = read_json(archive, &blob(scratch, &target.digest))?;
        result.push(Description {
            names: names.into_iter().collect(),
            config: blob(scratch, &manifest.config.digest),
            layers: manifest.layers.iter().map(|layer| blob(scratch, &layer.digest)).collect(),
        });
    }
    Ok(result)
}

fn blob(scratch: &Path, digest: &str) -> PathBuf {
    inside(scratch, &format!("blobs/{}", digest.replace(':', "/")))
}

/// Joins without leaving the folder.
fn inside(root: &Path, name: &str) -> PathBuf {
    root.join(Path::new(name).components().filter(|c| matches!(c, Component::Normal(_))).collect::<PathBuf>())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn maybe_gzip(mut file: File) -> std::io::Result<Box<dyn Read>> {
    let mut magic = [0; 2];
    let is_gzip = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
    file.rewind()?;
    let file = BufReader::with_capacity(64 * 1024, file);
    Ok(if is_gzip { Box::new(GzDecoder::new(file)) } else { Box::new(file) })
}

fn file_digest(file: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

/// Unpacks a layer into a folder named by its digest; removed files become overlayfs' own marks.
fn unpack_layer(layer: &Path, store: &Path) -> std::io::Result<String> {
    let name = file_digest(layer)?;
    let target = store.join("layers").join(&name);
    if target.is_dir() {
        return Ok(name);
    }
    let new = store.join("layers").join(format!("{name}.new"));
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir_all(&new)?;
    let mut archive = tar::Archive::new(maybe_gzip(File::open(layer)?)?);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(removed) = file_name.strip_prefix(".wh.") else {
            entry.unpack_in(&new)?;
            continue;
        };
        let folder = inside(&new, &path.parent().unwrap_or(Path::new("")).to_string_lossy());
        std::fs::create_dir_all(&folder)?;
        if removed == ".wh..opq" {
            rustix::fs::setxattr(&folder, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())?;
        } else {
            use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
            mknodat(CWD, folder.join(removed), FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?;
        }
    }
    std::fs::rename(&new, &target)?;
    Ok(name)
}
