//! An OCI image archive without Docker: an image layout (<https://github.com/opencontainers/image-spec>) in a tar file, with one
//! layer that holds the static binary. containerd (`ctr images import`), Docker 25+ and Podman load it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The user that the operator runs as: "nonroot" of distroless images, known to policies by that number.
const USER: &str = "65532:65532";

/// A binary, and the image that is named after it.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    name: &'static str,
    /// What cargo builds: the operator together with everything else, so that dependencies are built once.
    build: &'static [&'static str],
}

pub(crate) const OPERATOR: Subject = Subject { name: "mariadb-operator", build: &["--workspace", "--bins"] };
pub(crate) const MUTANTS: Subject = Subject {
    name: "mariadb-operator-mutants",
    build: &["--bin", "mariadb-operator-mutants", "--features", "cli/mutants"],
};

pub(crate) fn run(profile: &str, output: &Path, subject: Subject) -> anyhow::Result<()> {
    let binary = build(profile, subject)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no name known for the architecture {other} in image configurations"),
    };
    let binary = std::fs::read(&binary).with_context(|| binary.display().to_string())?;
    let archive = archive(&binary, architecture, subject.name)?;
    if let Some(parent) = output.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Written aside and renamed: a reader never sees half an archive, nor that of another one who writes it at the same time.
    let unfinished = output.with_extension(format!("unfinished-{}", std::process::id()));
    std::fs::write(&unfinished, &archive).with_context(|| unfinished.display().to_string())?;
    std::fs::rename(&unfinished, output)?;
    let size = archive.len() as f64 / 1_048_576.0;
    println!("{} ({size:.1} MiB): {}:{}", output.display(), subject.name, version());
    Ok(())
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Builds the binary and gives a stripped copy of it.
fn build(profile: &str, subject: Subject) -> anyhow::Result<PathBuf> {
    let root = crate::root();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    // Whoever runs under cargo has these from it. `ring` is built anew when they change, and all that uses TLS with it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let output = command
        .current_dir(&root)
        .args(["build", "--quiet", "--profile", profile])
        .args(subject.build)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo build")?;
    if !output.status.success() {
        bail!("cargo build: {}", output.status);
    }
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == subject.name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")?;
    let stripped = executable.with_extension("stripped");
    let status =
        Command::new("strip").arg("-o").arg(&stripped).arg(&executable).status().context("strip (package binutils)")?;
    if !status.success() {
        bail!("strip: {status}");
    }
    Ok(stripped)
}

/// One file in the layer; times and owners are fixed so that the same binary gives the same image.
fn layer(binary: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "mariadb-operator", binary, 0o755)?;
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, path: &str, data: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, data)?;
    Ok(())
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold("sha256:".to_owned(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn descriptor(media_type: &str, data: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(data), "size": data.len() })
}

fn archive(binary: &[u8], architecture: &str, name: &str) -> anyhow::Result<Vec<u8>> {
    let layer = layer(binary)?;
    let diff_id = digest(&layer);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&layer)?;
    let compressed = gzip.finish()?;

    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": USER,
            "Entrypoint": ["/mariadb-operator"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": name,
                "org.opencontainers.image.version": version(),
                "org.opencontainers.image.licenses": "Apache-2.0"
            }
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "cargo xtask image" }]
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)]
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": version(),
        "io.containerd.image.name": format!("docker.io/library/{name}:{}", version())
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry]
    }))?;

    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut tar, "index.json", &index, 0o644)?;
    for blob in [&config, &manifest, &compressed] {
        append(&mut tar, &format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]), blob, 0o644)?;
    }
    // Docker before 25 and older Podman look for this file instead of index.json.
    let legacy = serde_json::to_vec(&json!([{
        "Config": format!("blobs/sha256/{}", &digest(&config)["sha256:".len()..]),
        "RepoTags": [format!("{name}:{}", version())],
        "Layers": [format!("blobs/sha256/{}", &digest(&compressed)["sha256:".len()..])]
    }]))?;
    append(&mut tar, "manifest.json", &legacy, 0o644)?;
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        assert_eq!(archive(b"binary", "amd64", "image").unwrap(), archive(b"binary", "amd64", "image").unwrap());
    }

    #[test]
    fn every_blob_lies_under_its_digest() {
        let archive = archive(b"binary", "amd64", "image").unwrap();
        let mut blobs = 0;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&data), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }
}
