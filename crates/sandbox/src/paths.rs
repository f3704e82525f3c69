//! Where a sandbox keeps things.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What must vanish with a sandbox lies in folders below this one.
pub(crate) const ALL_RUNS: &str = "/run/mariadb-operator-sandbox";

/// The path without symbolic links, also of a folder that is not there yet: its name must not change when it is made.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The folders and names of one sandbox. State lies in its directory; what must vanish with the sandbox lies in `/run`.
#[derive(Debug, Clone)]
pub struct Paths {
    dir: PathBuf,
    id: String,
}

impl Paths {
    /// Paths of the sandbox in `dir` (made absolute, so that every process sees the same names).
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        let dir = real(&std::path::absolute(dir)?);
        let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let id = format!("{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        Ok(Self { dir, id })
    }

    /// Short name, the same for the same directory.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The API server's state.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Ports and address ranges, chosen once.
    pub fn settings(&self) -> PathBuf {
        self.dir.join("sandbox.json")
    }

    /// Locked while the sandbox runs; holds its process id.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Exists while the sandbox is ready.
    pub fn ready(&self) -> PathBuf {
        self.dir.join("ready")
    }

    /// What a detached sandbox prints.
    pub fn log(&self) -> PathBuf {
        self.dir.join("sandbox.log")
    }

    /// Persistent volumes, one folder each.
    pub fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// Pods' folders, by UID.
    pub fn pods(&self) -> PathBuf {
        self.dir.join("pods")
    }

    /// Images loaded by `images load`.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Sockets, runc's state, bundles.
    pub fn run(&self) -> PathBuf {
        Path::new(ALL_RUNS).join(&self.id)
    }

    /// The socket for fault switches.
    pub fn control(&self) -> PathBuf {
        self.run().join("control")
    }

    /// runc's `--root`.
    pub fn runc(&self) -> PathBuf {
        self.run().join("runc")
    }

    /// Name of the cgroup that holds every process of every pod.
    pub fn cgroup(&self) -> String {
        format!("mariadb-sandbox-{}", self.id)
    }

    /// Prefix of the names of network namespaces.
    pub fn netns_prefix(&self) -> String {
        format!("mdbsbx-{}", self.id)
    }

    /// Network interface on the host's side.
    pub fn host_interface(&self) -> String {
        format!("mdb{}", self.id)
    }
}
