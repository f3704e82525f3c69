//! Images that need no registry: root filesystems of Debian releases with Debian's MariaDB in them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::ImageError;
use super::reference::Reference;
use crate::host;

/// A Debian release and the MariaDB that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Name of the folder in the cache.
    pub folder: &'static str,
    /// Debian's code name.
    pub suite: &'static str,
    /// MariaDB's release series.
    pub mariadb: &'static str,
    debian: &'static str,
}

/// The releases on offer.
pub const RELEASES: [Release; 2] = [
    Release { folder: "debian13", suite: "trixie", mariadb: "11.8", debian: "13" },
    Release { folder: "debian12", suite: "bookworm", mariadb: "10.11", debian: "12" },
];

/// Where root filesystems are kept for all sandboxes of a machine; `MARIADB_SANDBOX_CACHE` names another place.
pub fn cache() -> PathBuf {
    std::env::var_os("MARIADB_SANDBOX_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/mariadb-operator-sandbox"), PathBuf::from)
        .join("rootfs")
}

/// The release that stands for an image, if one does. `mariadb:11.8.x` is any 11.8, `mariadb:11` the latest of 11 that
/// there is.
pub fn release(reference: &Reference) -> Option<Release> {
    let tag = reference.tag.as_str();
    let within =
        |series: &str| tag.strip_prefix(series).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    RELEASES.into_iter().find(|release| match reference.repository.as_str() {
        "mariadb" => match release.folder {
            "debian13" => within("11.8") || ["11", "lts", "latest"].contains(&tag),
            _ => within("10.11") || tag == "10",
        },
        "debian" => tag == release.debian || tag.split('-').next() == Some(release.suite),
        _ => false,
    })
}

impl Release {
    /// Its root filesystem.
    pub fn rootfs(self) -> PathBuf {
        cache().join(self.folder)
    }

    fn marker(self) -> PathBuf {
        cache().join(format!("{}.ok", self.folder))
    }

    /// Whether the root filesystem is complete.
    pub fn is_present(self) -> bool {
        self.marker().is_file() && self.rootfs().join("usr/sbin/mariadbd").is_file()
    }

    /// The server's version, from the package database of the root filesystem.
    pub fn version(self) -> Option<String> {
        let status = std::fs::read_to_string(self.rootfs().join("var/lib/dpkg/status")).ok()?;
        let package = status.split("\n\n").find(|p| p.lines().any(|l| l == "Package: mariadb-server"))?;
        let version = package.lines().find_map(|l| l.strip_prefix("Version: "))?;
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        Some(version.split(['-', '+', '~']).next().unwrap_or(version).to_owned())
    }

    /// Makes the root filesystem unless it is there. `progress` hears what is going on. Several callers, in several
    /// processes, wait for each other.
    pub async fn ensure(self, progress: impl Fn(&str)) -> Result<(), ImageError> {
        if self.is_present() {
            return Ok(());
        }
        host::check(&[host::MMDEBSTRAP]).map_err(|e| ImageError::Build(self.suite, e.to_string()))?;
        let failed = |what: &str, e: &dyn std::fmt::Display| ImageError::Build(self.suite, format!("{what}: {e}"));
        let cache = cache();
        std::fs::create_dir_all(&cache).map_err(|e| failed("cache", &e))?;
        let lock = File::create(cache.join(format!("{}.lock", self.folder))).map_err(|e| failed("lock", &e))?;
        progress("waiting for another process that makes this image");
        let lock = tokio::task::spawn_blocking(move || {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map(|()| lock)
        })
        .await
        .map_err(|e| failed("lock", &e))?
        .map_err(|e| failed("lock", &e))?;
        if self.is_present() {
            return Ok(());
        }
        let new = cache.join(format!("{}.new", self.folder));
        for old in [&new, &self.rootfs()] {
            if old.exists() {
                std::fs::remove_dir_all(old).map_err(|e| failed("removing an incomplete root filesystem", &e))?;
            }
        }
        self.debootstrap(&new, &progress).await?;
        progress("checking");
        for file in ["usr/sbin/mariadbd", "usr/bin/mariadb", "usr/bin/mariadb-backup", "etc/passwd", "bin/sh"] {
            if !new.join(file).exists() {
                return Err(ImageError::Build(self.suite, format!("{file} is missing in the new root filesystem")));
            }
        }
        std::fs::rename(&new, self.rootfs()).map_err(|e| failed("rename", &e))?;
        std::fs::write(self.marker(), "made by kubectl-mariadb sandbox\n").map_err(|e| failed("marker", &e))?;
        drop(lock);
        Ok(())
    }

    async fn debootstrap(self, target: &Path, progress: &impl Fn(&str)) -> Result<(), ImageError> {
        let failed = |e: &dyn std::fmt::Display| ImageError::Build(self.suite, format!("mmdebstrap: {e}"));
        let mirror = mirror();
        // The account has the number that it has in MariaDB's own images, and the server listens beyond loopback.
        let hook = r#"chroot "$1" sh -c '
            mysql_uid=$(id -u mysql) && mysql_gid=$(id -g mysql) &&
            sed -i "s/^mysql:x:$mysql_uid:$mysql_gid:/mysql:x:999:999:/" /etc/passwd &&
            sed -i "s/^mysql:x:$mysql_gid:/mysql:x:999:/" /etc/group &&
            find /var /run /etc -xdev -user $mysql_uid -exec chown -h 999:999 {} + ;
            sed -i "s/^bind-address/#bind-address/" /etc/mysql/mariadb.conf.d/50-server.cnf ;
            rm -rf /var/lib/mysql/* /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*;
            mkdir -p /docker-entrypoint-initdb.d'"#;
        let mut child = tokio::process::Command::new("mmdebstrap")
            .arg("--variant=minbase")
            .arg("--include=mariadb-server,mariadb-client,mariadb-backup")
            .arg("--aptopt=Acquire::Retries \"3\"")
            .arg(format!("--customize-hook={hook}"))
            .args([self.suite.as_ref(), target.as_os_str(), mirror.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(&e))?;
        let mut last = std::collections::VecDeque::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                progress(line.trim_start_matches("I: "));
                last.push_back(line);
                if last.len() > 8 {
                    last.pop_front();
                }
            }
        }
        let status = child.wait().await.map_err(|e| failed(&e))?;
        if status.success() {
            return Ok(());
        }
        let tail = last.into_iter().collect::<Vec<_>>().join("\n");
        Err(failed(&format!("{status}; mirror {mirror}\n{tail}")))
    }
}

/// The Debian mirror that this machine uses itself, else Debian's own.
fn mirror() -> String {
    const DEFAULT: &str = "http://deb.debian.org/debian";
    if let Ok(mirror) = std::env::var("MARIADB_SANDBOX_MIRROR") {
        return mirror;
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        files.push(entry.path());
    }
    files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .unwrap_or_else(|| DEFAULT.to_owned())
}

/// The first address of a Debian archive (path `/debian`) in an apt source list of either format.
fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: &str, folder: Option<&str>) {
        let reference = Reference::parse(image).expect("a name");
        assert_eq!(release(&reference).map(|r| r.folder), folder, "{image}");
    }

    #[test]
    fn tags_choose_a_release() {
        check("mariadb:11.8", Some("debian13"));
        check("mariadb:11.8.2-noble", Some("debian13"));
        check("docker.io/library/mariadb:10.11.11", Some("debian12"));
        check("debian:bookworm-slim", Some("debian12"));
        check("debian:13", Some("debian13"));
        check("mariadb:11.80", None);
        check("mariadb:12.0", None);
        check("busybox", None);
    }

    #[test]
    fn the_machines_mirror_is_used() {
        let list = "# http://snapshot.example/debian\nTypes: deb\nURIs: http://mirror.example/debian/\nSuites: x\n";
        assert_eq!(mirror_in(list).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_in("deb http://x.example/debian-security y main").as_deref(), None);
    }
}
