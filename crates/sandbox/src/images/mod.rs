//! Images that pods can run: built-in root filesystems and archives that were loaded.

mod archive;
pub mod builtin;
pub mod reference;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use builtin::Release;
use reference::Reference;

/// What can be wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nobody knows the image.
    #[error(
        "image \"{0}\" is not known here: the sandbox has no registry. It has mariadb:11.8*, mariadb:10.11*, debian:13, \
         debian:12{1}; load others with `kubectl mariadb sandbox images load FILE`"
    )]
    Unknown(String, String),
    /// The name cannot be one.
    #[error("couldn't parse image name \"{0}\": invalid reference format")]
    Invalid(String),
    /// `imagePullPolicy: Never`.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    NeverPull(String),
    /// A root filesystem could not be made.
    #[error("making the root filesystem of Debian {0}: {1}")]
    Build(&'static str, String),
    /// An archive could not be loaded.
    #[error("{file}: {reason}")]
    Archive {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of images cannot be used.
    #[error("images in {folder}: {reason}")]
    Store {
        /// The folder.
        folder: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The part of an image's configuration that running it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User (and group) by name or number.
    pub user: String,
    /// Environment, `NAME=value`.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Program that `args` are given to.
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: String,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

/// An image from an archive, as kept in the list of images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Loaded {
    /// Digest of its configuration.
    pub id: String,
    /// Folders of its layers, lowest first.
    layers: Vec<String>,
    config: ImageConfig,
}

/// An image that is ready to run.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its identity for `imageID`.
    pub id: String,
    /// Folders, the lowest layer first.
    pub layers: Vec<PathBuf>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// The version in it, where it is not what the tag asked for.
    pub other_version: Option<String>,
}

/// One line of `images list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name, or pattern of names.
    pub name: String,
    /// Identity or origin.
    pub id: String,
    /// Whether it can run at once.
    pub present: bool,
}

/// The images of one sandbox.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// Images kept in this folder, and the built-in ones.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Whether the image can run without pulling anything.
    pub fn is_present(&self, name: &str) -> bool {
        let Some(reference) = Reference::parse(name) else { return false };
        matches!(self.find(&reference), Ok(Some(_))) || builtin::release(&reference).is_some_and(Release::is_present)
    }

    /// The image, made first where that is possible.
    pub async fn ensure(&self, name: &str, may_pull: bool, progress: impl Fn(&str)) -> Result<Image, ImageError> {
        let reference = Reference::parse(name).ok_or_else(|| ImageError::Invalid(name.to_owned()))?;
        if let Some(image) = self.find(&reference)? {
            return Ok(image);
        }
        let Some(release) = builtin::release(&reference) else {
            if !may_pull {
                return Err(ImageError::NeverPull(name.to_owned()));
            }
            let loaded = self.read_index()?.into_keys().fold(String::new(), |list, name| list + ", " + &name);
            return Err(ImageError::Unknown(name.to_owned(), loaded));
        };
        if !release.is_present() {
            if !may_pull {
                return Err(ImageError::NeverPull(name.to_owned()));
            }
            release.ensure(progress).await?;
        }
        Ok(builtin_image(&reference, release))
    }

    /// Loads an archive; returns the names of the images in it.
    pub fn load(&self, file: &Path) -> Result<Vec<String>, ImageError> {
        let failed = |e: std::io::Error| self.failed(&e);
        std::fs::create_dir_all(self.dir.join("layers")).map_err(failed)?;
        let lock = File::create(self.dir.join("lock")).map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let images = archive::load(file, &self.dir)?;
        let mut index = self.read_index()?;
        let names = images.iter().map(|(name, _)| name.clone()).collect();
        index.extend(images);
        let text = serde_json::to_vec_pretty(&index).map_err(|e| failed(e.into()))?;
        let temporary = self.dir.join("index.json.tmp");
        std::fs::write(&temporary, text).map_err(failed)?;
        std::fs::rename(&temporary, self.dir.join("index.json")).map_err(failed)?;
        Ok(names)
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let mut list: Vec<Listed> = builtin::RELEASES
            .iter()
            .flat_map(|release| {
                let id = match release.version() {
                    Some(version) if release.is_present() => {
                        format!("MariaDB {version}, {}", release.rootfs().display())
                    }
                    _ => format!("made from Debian {} on first use", release.suite),
                };
                let name = format!("mariadb:{}*", release.mariadb);
                [Listed { name, id, present: release.is_present() }]
            })
            .collect();
        list.extend(self.read_index()?.into_iter().map(|(name, loaded)| Listed { name, id: loaded.id, present: true }));
        Ok(list)
    }

    fn find(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let index = self.read_index()?;
        let by_digest = || index.values().find(|loaded| Some(&loaded.id) == reference.digest.as_ref());
        Ok(index.get(&reference.short()).or_else(by_digest).map(|loaded| Image {
            id: loaded.id.clone(),
            layers: loaded.layers.iter().map(|layer| self.dir.join("layers").join(layer)).collect(),
            config: loaded.config.clone(),
            other_version: None,
        }))
    }

    fn failed(&self, reason: &dyn std::fmt::Display) -> ImageError {
        ImageError::Store { folder: self.dir.display().to_string(), reason: reason.to_string() }
    }

    fn read_index(&self) -> Result<BTreeMap<String, Loaded>, ImageError> {
        let failed = |e: String| self.failed(&e);
        match std::fs::read(self.dir.join("index.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(failed(e.to_string())),
        }
    }
}

fn builtin_image(reference: &Reference, release: Release) -> Image {
    let version = release.version().unwrap_or_else(|| release.mariadb.to_owned());
    let asked = reference.tag.split('-').next().unwrap_or_default();
    let is_number = asked.starts_with(|c: char| c.is_ascii_digit());
    let fits = version == asked || version.strip_prefix(asked).is_some_and(|rest| rest.starts_with('.'));
    let is_mariadb = reference.repository == "mariadb";
    let env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "LANG=C.UTF-8".to_owned(),
        format!("MARIADB_VERSION={version}"),
    ];
    let cmd = vec![if is_mariadb { "mariadbd" } else { "bash" }.to_owned()];
    Image {
        id: format!("sandbox://{}/mariadb-{version}", release.folder),
        layers: vec![release.rootfs()],
        config: ImageConfig { env, cmd, ..ImageConfig::default() },
        other_version: (is_mariadb && is_number && !fits).then_some(version),
    }
}
