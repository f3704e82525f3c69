//! Where things lie; tests put them elsewhere.

use std::path::{Path, PathBuf};

use protocol::{AGENT_PORT, PROBE_PORT, paths};

/// Paths and ports of one agent.
#[derive(Debug, Clone)]
pub struct Places {
    /// The member's volume.
    pub volume: PathBuf,
    /// Sockets and the rendered `my.cnf`.
    pub run: PathBuf,
    /// The ConfigMap.
    pub config: PathBuf,
    /// Secret with root's password.
    pub root_secret: PathBuf,
    /// Secret with the replication password.
    pub replication_secret: PathBuf,
    /// Secret with the first account's password.
    pub user_secret: PathBuf,
    /// The server's certificate.
    pub server_tls: PathBuf,
    /// The agent's certificate.
    pub agent_tls: PathBuf,
    /// Scripts for a new data directory.
    pub init_scripts: PathBuf,
    /// Put before every program of the image (`chroot DIR`, say); empty in a pod.
    pub enter: Vec<String>,
    /// Port of the agent's API.
    pub agent_port: u16,
    /// Port of the probes.
    pub probe_port: u16,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            volume: paths::VOLUME.into(),
            run: paths::RUN_DIR.into(),
            config: paths::CONFIG_DIR.into(),
            root_secret: paths::ROOT_SECRET_DIR.into(),
            replication_secret: paths::REPLICATION_SECRET_DIR.into(),
            user_secret: paths::USER_SECRET_DIR.into(),
            server_tls: paths::SERVER_TLS_DIR.into(),
            agent_tls: paths::AGENT_TLS_DIR.into(),
            init_scripts: "/docker-entrypoint-initdb.d".into(),
            enter: Vec::new(),
            agent_port: AGENT_PORT,
            probe_port: PROBE_PORT,
        }
    }
}

impl Places {
    /// The server's `datadir`.
    pub fn data(&self) -> PathBuf {
        self.volume.join("data")
    }

    /// A data directory in the making.
    pub fn data_new(&self) -> PathBuf {
        self.volume.join("data.new")
    }

    /// A data directory that was replaced and is being removed.
    pub fn data_old(&self) -> PathBuf {
        self.volume.join("data.old")
    }

    /// The agent's own state.
    pub fn state(&self) -> PathBuf {
        self.volume.join("agent")
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("mysqld.sock")
    }

    /// The rendered configuration.
    pub fn my_cnf(&self) -> PathBuf {
        self.run.join("my.cnf")
    }

    /// A mounted password; `None` when there is none. Trailing newlines do not count.
    pub fn password(folder: &Path, file: &str) -> Option<String> {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    }

    /// Root's password.
    pub fn root_password(&self) -> Option<String> {
        Self::password(&self.root_secret, paths::ROOT_PASSWORD)
    }

    /// The replication password.
    pub fn replication_password(&self) -> Option<String> {
        Self::password(&self.replication_secret, paths::REPLICATION_PASSWORD)
    }

    /// The first account's password.
    pub fn user_password(&self) -> Option<String> {
        Self::password(&self.user_secret, paths::USER_PASSWORD)
    }
}
