//! The OCI configuration of a container. Pure: everything it needs comes in.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};

use super::user::User;
use crate::quantity;

/// What a container manager grants by default.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, for `privileged` containers and `add: [ALL]`.
const ALL_CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// A folder or file of the host that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: String,
    /// Whether it may not be written.
    pub read_only: bool,
}

/// Everything that the configuration is made from.
#[derive(Debug)]
pub struct Bundle<'a> {
    /// The container.
    pub container: &'a Container,
    /// Mounted root filesystem.
    pub rootfs: &'a Path,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// Identity.
    pub user: User,
    /// The pod's name for itself.
    pub hostname: String,
    /// Volumes and the pod's own files.
    pub mounts: Vec<BindMount>,
    /// The pod's network namespace.
    pub network: &'a Path,
    /// Control group, from the root of each hierarchy.
    pub cgroup: String,
}

impl Bundle<'_> {
    /// The text of `config.json`.
    pub fn config(&self) -> Value {
        let security = self.container.security_context.as_ref();
        let privileged = security.and_then(|s| s.privileged) == Some(true);
        let read_only = security.and_then(|s| s.read_only_root_filesystem) == Some(true);
        let no_new_privileges = security.and_then(|s| s.allow_privilege_escalation) == Some(false);
        let capabilities = self.capabilities(privileged);
        let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let tty = self.container.tty == Some(true);
        let user = json!({ "uid": self.user.uid, "gid": self.user.gid, "additionalGids": self.user.groups });
        let masked = if privileged {
            json!([])
        } else {
            json!(["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"])
        };
        let read_only_paths = if privileged {
            json!([])
        } else {
            json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
        };
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": tty,
                "user": user,
                "args": self.args,
                "env": env,
                "cwd": self.cwd,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "rlimits": [open_files()],
                "noNewPrivileges": no_new_privileges,
            },
            "root": { "path": self.rootfs, "readonly": read_only },
            "hostname": self.hostname,
            "mounts": self.mounts(privileged),
            "linux": {
                "cgroupsPath": self.cgroup,
                "resources": self.resources(),
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                    { "type": "network", "path": self.network },
                ],
                "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
                "maskedPaths": masked,
                "readonlyPaths": read_only_paths,
            },
        })
    }

    fn capabilities(&self, privileged: bool) -> Vec<String> {
        let change = self.container.security_context.as_ref().and_then(|s| s.capabilities.as_ref());
        let plain = |name: &String| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
        let added: Vec<String> = change.and_then(|c| c.add.as_ref()).into_iter().flatten().map(plain).collect();
        let dropped: Vec<String> = change.and_then(|c| c.drop.as_ref()).into_iter().flatten().map(plain).collect();
        let all = |list: &[String]| list.iter().any(|c| c == "ALL");
        let mut set: Vec<String> = if privileged || all(&added) {
            ALL_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect()
        } else if all(&dropped) {
            Vec::new()
        } else {
            CAPABILITIES.iter().map(|c| (*c).to_owned()).collect()
        };
        set.retain(|c| privileged || !dropped.contains(c));
        set.extend(added.into_iter().filter(|c| ALL_CAPABILITIES.contains(&c.as_str())));
        set.sort_unstable();
        set.dedup();
        set.iter().map(|c| format!("CAP_{c}")).collect()
    }

    fn resources(&self) -> Value {
        let limits = self.container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let limit = |name: &str| limits.and_then(|l| l.get(name)).map(|q| q.0.as_str());
        let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        if let Some(bytes) = limit("memory").and_then(quantity::units).filter(|b| *b > 0) {
            resources["memory"] = json!({ "limit": bytes as i64 });
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i128;
        // A limit beyond the machine's processors limits nothing.
        if let Some(millis) = limit("cpu").and_then(quantity::millis).filter(|m| *m > 0 && *m < cpus * 1000) {
            resources["cpu"] = json!({ "quota": (millis as i64 * 100).max(1000), "period": 100_000 });
        }
        resources
    }

    fn mounts(&self, privileged: bool) -> Value {
        let sys = if privileged { "rw" } else { "ro" };
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
            json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
            json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys] }),
        ];
        // Folders before what lies in them.
        let mut binds: Vec<&BindMount> = self.mounts.iter().collect();
        binds.sort_by_key(|b| Path::new(&b.destination).components().count());
        for bind in binds {
            let mode = if bind.read_only { "ro" } else { "rw" };
            mounts.push(json!({
                "destination": bind.destination, "type": "bind", "source": bind.source,
                "options": ["rbind", "rprivate", mode],
            }));
        }
        Value::Array(mounts)
    }
}

/// What container managers give, but not more than this process may give.
fn open_files() -> Value {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let hard = own.min(524_288);
    json!({ "type": "RLIMIT_NOFILE", "soft": hard.min(65536), "hard": hard })
}

/// Text of a pod's `/etc/hosts`.
pub fn hosts(spec: &PodSpec, hostname: &str, namespace: &str, address: Ipv4Addr) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let _ = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => {
            writeln!(text, "{address}\t{hostname}.{subdomain}.{namespace}.svc.cluster.local\t{hostname}")
        }
        None => writeln!(text, "{address}\t{hostname}"),
    };
    for alias in spec.host_aliases.iter().flatten() {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"));
    }
    text
}

/// Text of a pod's `/etc/resolv.conf`.
pub fn resolv_conf(spec: &PodSpec, namespace: &str, dns: Ipv4Addr) -> String {
    let own = spec.dns_policy.as_deref() == Some("None");
    let config = spec.dns_config.as_ref();
    let mut servers = if own { Vec::new() } else { vec![dns.to_string()] };
    servers.extend(config.and_then(|c| c.nameservers.clone()).unwrap_or_default());
    let mut search = if own {
        Vec::new()
    } else {
        vec![format!("{namespace}.svc.cluster.local"), "svc.cluster.local".to_owned(), "cluster.local".to_owned()]
    };
    search.extend(config.and_then(|c| c.searches.clone()).unwrap_or_default());
    let given: Vec<(String, Option<String>)> = config
        .and_then(|c| c.options.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|o| Some((o.name.clone()?, o.value.clone())))
        .collect();
    let mut options = Vec::new();
    if !own && !given.iter().any(|(name, _)| name == "ndots") {
        options.push("ndots:5".to_owned());
    }
    options.extend(given.into_iter().map(|(name, value)| value.map_or(name.clone(), |v| format!("{name}:{v}"))));
    let mut text = String::new();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_searches_the_namespace_first() {
        let text = resolv_conf(&PodSpec::default(), "production", Ipv4Addr::new(10, 70, 128, 10));
        assert_eq!(
            text,
            "search production.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.70.128.10\noptions ndots:5\n"
        );
    }

    fn bundle_for(container: &Container) -> Value {
        Bundle {
            container,
            rootfs: Path::new("/r"),
            args: vec!["true".into()],
            env: vec![],
            cwd: "/".into(),
            user: User { uid: 999, gid: 999, groups: vec![999], home: "/".into() },
            hostname: "h".into(),
            mounts: vec![],
            network: Path::new("/n"),
            cgroup: "/c".into(),
        }
        .config()
    }

    #[test]
    fn capabilities_follow_the_security_context() {
        let container = |value| serde_json::from_value::<Container>(value).expect("a container");
        let dropped =
            bundle_for(&container(json!({ "name": "a", "securityContext": { "capabilities": { "drop": ["ALL"] } } })));
        assert_eq!(dropped["process"]["capabilities"]["bounding"], json!([]));
        let one = bundle_for(&container(
            json!({ "name": "a", "securityContext": { "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] } } }),
        ));
        assert_eq!(one["process"]["capabilities"]["bounding"], json!(["CAP_NET_BIND_SERVICE"]));
        let default = bundle_for(&container(json!({ "name": "a" })));
        assert_eq!(default["process"]["capabilities"]["bounding"].as_array().map(Vec::len), Some(14));
    }

    #[test]
    fn memory_limits_are_enforced() {
        let container = serde_json::from_value(
            json!({ "name": "a", "resources": { "limits": { "memory": "64Mi", "cpu": "100m" } } }),
        );
        let config = bundle_for(&container.expect("a container"));
        assert_eq!(config["linux"]["resources"]["memory"]["limit"], json!(67_108_864));
        assert_eq!(config["linux"]["resources"]["cpu"]["quota"], json!(10_000));
    }
}
