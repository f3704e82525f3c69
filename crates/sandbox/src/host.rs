//! What the machine must offer, checked before anything is touched.

use std::path::PathBuf;

/// What is missing on this machine.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not root: network namespaces, mounts and user ids of pods need it.
    #[error(
        "the sandbox must run as root: it makes network namespaces, mounts and processes with other user ids \
         (try: sudo {0})"
    )]
    NotRoot(String),
    /// A tool is not installed.
    #[error("missing on this machine: {}. On Debian: apt-get install {}", tools(.0), packages(.0))]
    MissingTools(Vec<Tool>),
}

/// A tool and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Name of the program.
    pub name: &'static str,
    /// Debian package.
    pub package: &'static str,
}

/// Tools without which nothing works.
pub const REQUIRED: &[Tool] = &[
    Tool { name: "runc", package: "runc" },
    Tool { name: "ip", package: "iproute2" },
    Tool { name: "nft", package: "nftables" },
];

/// Makes the root filesystems of the built-in images.
pub const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };
/// Makes volumes of a limited size.
pub const MKFS: Tool = Tool { name: "mkfs.ext4", package: "e2fsprogs" };

fn tools(missing: &[Tool]) -> String {
    missing.iter().map(|t| t.name).collect::<Vec<_>>().join(", ")
}

fn packages(missing: &[Tool]) -> String {
    missing.iter().map(|t| t.package).collect::<Vec<_>>().join(" ")
}

/// Finds a program in `PATH` and where Debian keeps system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Fails with everything that is missing at once.
pub fn check(tools: &[Tool]) -> Result<(), HostError> {
    if !rustix::process::geteuid().is_root() {
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        return Err(HostError::NotRoot(command));
    }
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| find(tool.name).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { Err(HostError::MissingTools(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_with_their_packages() {
        let error = HostError::MissingTools(vec![REQUIRED[1], REQUIRED[2]]);
        assert_eq!(error.to_string(), "missing on this machine: ip, nft. On Debian: apt-get install iproute2 nftables");
    }
}
