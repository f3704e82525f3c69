//! Members as isolated processes: network, mount and process namespaces of their own, a bridge between them.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use protocol::config::AgentConfig;
use protocol::{AgentClient, CONTROLLER_COMMON_NAME, Identity, paths};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use topology::action::{Action, Endpoint};
use topology::member::{MemberState, Phase};
use topology::{Command as Order, DataId, Stamp};

/// Set in the environment of a process that is to be an agent.
pub(crate) const AS_AGENT: &str = "AGENT_TEST_AS_AGENT";
const ROOTFS: &str = "/var/cache/mariadb-operator-sandbox/rootfs/debian13";
/// MariaDB 10.11.
pub(crate) const OLDER: &str = "/var/cache/mariadb-operator-sandbox/rootfs/debian12";

/// How agents reach the API, where a scenario has one.
const KUBECONFIG: &str = "/etc/kubeconfig";

/// Says on the real standard error that something is left out.
pub(crate) fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

/// What this machine lacks.
pub(crate) fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !Path::new(&format!("{ROOTFS}.ok")).exists() {
        return Some(format!("no root file system in {ROOTFS} (kubectl-mariadb sandbox images pull mariadb:11.8)"));
    }
    None
}

pub(crate) fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network with a CA, for the members of one scenario.
pub(crate) struct Lab {
    name: String,
    dir: PathBuf,
    runtime: tokio::runtime::Runtime,
    ca: CertifiedIssuer<'static, KeyPair>,
    members: Vec<Option<Child>>,
    stamp: Stamp,
    rootfs: &'static str,
}

/// What differs between members' configurations.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) my_cnf: String,
    /// Commits wait for acknowledgements.
    pub(crate) promised: bool,
    /// A primary's time is limited.
    pub(crate) lease_limit_ms: Option<u64>,
    /// The volume is no larger than so many MiB.
    pub(crate) volume_mib: Option<u32>,
    /// Scripts in `/docker-entrypoint-initdb.d`.
    pub(crate) scripts: Vec<(&'static str, &'static str)>,
}

impl Lab {
    pub(crate) fn new(name: &str) -> Self {
        Self::on(name, ROOTFS)
    }

    pub(crate) fn on(name: &str, rootfs: &'static str) -> Self {
        let short = format!("at{}{}", std::process::id() % 100_000, &name[..3.min(name.len())]);
        let dir = std::env::temp_dir().join(format!("agent-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        run(&format!(
            "ip netns add {short}; ip -n {short} link set lo up; ip -n {short} link add br0 type bridge; \
             ip -n {short} addr add 10.77.0.1/24 dev br0; ip -n {short} link set br0 up"
        ));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        // This thread's sockets are in the lab's network from here on.
        let namespace = fs::File::open(format!("/run/netns/{short}")).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { name: short, dir, runtime, ca, members: Vec::new(), stamp: Stamp { epoch: 1, revision: 0 }, rootfs }
    }

    fn identity(&self, common_name: &str, names: Vec<String>) -> Identity {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        Identity {
            ca: self.ca.pem().into_bytes(),
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    /// The network's namespace; those of its members are called after it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn root(&self, n: usize) -> PathBuf {
        self.dir.join(format!("db-{n}"))
    }

    /// A member's volume.
    pub(crate) fn volume(&self, n: usize) -> PathBuf {
        self.root(n).join("volume")
    }

    fn host(n: usize) -> String {
        format!("db-{n}.test.svc")
    }

    pub(crate) fn agent_of(n: usize) -> Endpoint {
        Endpoint { host: Self::host(n), port: protocol::AGENT_PORT }
    }

    pub(crate) fn server_of(n: usize) -> Endpoint {
        Endpoint { host: Self::host(n), port: 3306 }
    }

    /// Makes a member's files, without starting it.
    pub(crate) fn prepare(&self, n: usize, settings: &Settings) {
        let member = self.root(n);
        let upper = member.join("upper");
        let inside = |path: &str| upper.join(path.trim_start_matches('/'));
        let write = |path: PathBuf, text: &[u8]| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // The CA is not used on this plain connection; without one the system's would be looked for, which images lack.
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://10.77.0.1:8080', certificate-authority: {}/ca.crt}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n",
            paths::AGENT_TLS_DIR
        );
        write(inside(KUBECONFIG), kubeconfig.as_bytes());
        for path in ["work", "root", "volume"] {
            fs::create_dir_all(member.join(path)).unwrap();
        }
        for path in [paths::VOLUME, paths::RUN_DIR, "/tmp"] {
            fs::create_dir_all(inside(path)).unwrap();
        }
        let config = AgentConfig {
            topology: "db".into(),
            topology_uid: "uid-1".into(),
            lease: "db-topology".into(),
            server_id_base: 1,
            port: 3306,
            replication: true,
            single_member: false,
            database: Some("app".into()),
            username: None,
            root_empty_password: false,
            time_zone_tables: false,
            tls: true,
            max_lag_seconds: 30,
            commits: protocol::config::Commits { promised: settings.promised, strict: false },
            failover_timeout_ms: 5000,
            lease_limit_ms: settings.lease_limit_ms,
            grace_seconds: 20,
            probes: protocol::config::UserProbes::default(),
        };
        let folder = inside(paths::CONFIG_DIR);
        write(folder.join(paths::AGENT_JSON), &serde_json::to_vec(&config).unwrap());
        let small = "[mariadbd]\ninnodb-buffer-pool-size=16M\ninnodb-log-file-size=16M\nlog-bin=mariadb-bin\nrelay-log=relay-bin\n\
                     gtid-strict-mode=ON\nskip-name-resolve=ON\nslave-net-timeout=5\n";
        write(folder.join(paths::CNF_PARTS[0]), small.as_bytes());
        for (name, script) in &settings.scripts {
            write(inside("/docker-entrypoint-initdb.d").join(name), script.as_bytes());
        }
        if let Some(mib) = settings.volume_mib {
            fs::write(member.join("volume-mib"), mib.to_string()).unwrap();
        }
        write(folder.join(paths::CNF_PARTS[1]), settings.my_cnf.as_bytes());
        let mut enforced = "[mariadbd]\nbinlog-format=ROW\nlog-slave-updates=ON\n".to_owned();
        if settings.promised {
            enforced.push_str(
                "sync-binlog=1\nsync-relay-log=1\nrpl-semi-sync-master-wait-point=AFTER_SYNC\n\
                 rpl-semi-sync-master-timeout=1000000000000\nrpl-semi-sync-slave-kill-conn-timeout=1\n\
                 rpl-semi-sync-slave-enabled=ON\n",
            );
        }
        write(folder.join(paths::CNF_PARTS[3]), enforced.as_bytes());
        write(inside(paths::ROOT_SECRET_DIR).join(paths::ROOT_PASSWORD), b"root'pw\\");
        write(inside(paths::REPLICATION_SECRET_DIR).join(paths::REPLICATION_PASSWORD), b"repl-pw\n");
        let names = || vec![Self::host(n), "localhost".to_owned()];
        for (folder, identity) in [
            (paths::AGENT_TLS_DIR, self.identity(protocol::AGENT_COMMON_NAME, names())),
            (paths::SERVER_TLS_DIR, self.identity("server", names())),
        ] {
            let folder = inside(folder);
            write(folder.join("ca.crt"), &identity.ca);
            write(folder.join("tls.crt"), &identity.certificate);
            write(folder.join("tls.key"), &identity.key);
        }
        let hosts: Vec<String> = (0..4).map(|n| format!("10.77.0.{} {}", 10 + n, Self::host(n))).collect();
        let hosts = hosts.join("\n");
        write(inside("/etc/hosts"), format!("127.0.0.1 localhost\n{hosts}\n").as_bytes());
        fs::copy(std::env::current_exe().unwrap(), upper.join("agent-under-test")).unwrap();
        fs::set_permissions(upper.join("agent-under-test"), fs::Permissions::from_mode(0o755)).unwrap();
        run(&format!(
            "chown -R 999:999 {0}/../volume {0}/run/mysqld {0}/tmp {0}/etc/mariadb-operator",
            upper.display()
        ));
        let ns = format!("{}m{n}", self.name);
        run(&format!(
            "ip netns add {ns}; ip link add {ns}a type veth peer name {ns}b; ip link set {ns}a netns {}; ip link set {ns}b netns {ns}; \
             ip -n {0} link set {ns}a master br0 up; ip -n {ns} addr add 10.77.0.{1}/24 dev {ns}b; ip -n {ns} link set {ns}b up; \
             ip -n {ns} link set lo up",
            self.name,
            10 + n
        ));
    }

    /// Starts the agent of a prepared member.
    pub(crate) fn start(&mut self, n: usize) {
        let member = self.root(n);
        let volume = match fs::read_to_string(member.join("volume-mib")) {
            Ok(mib) => format!("-t tmpfs -o size={mib}m,uid=999,gid=999 tmpfs"),
            Err(_) => format!("--bind {}/volume", member.display()),
        };
        let script = format!(
            "mount --make-rprivate /; mount -t overlay overlay -o lowerdir={1},upperdir={0}/upper,workdir={0}/work {0}/root; \
             mount {volume} {0}/root/var/lib/mysql; mount --bind /dev {0}/root/dev; mount -t proc proc {0}/root/proc; \
             exec chroot --userspec=999:999 {0}/root /agent-under-test",
            member.display(),
            self.rootfs,
        );
        let log = fs::OpenOptions::new().create(true).append(true).open(member.join("log")).unwrap();
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &format!("{}m{n}", self.name),
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                &script,
            ])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env(AS_AGENT, "1")
            .env("KUBECONFIG", KUBECONFIG)
            .env("POD_NAME", format!("db-{n}"))
            .env("POD_NAMESPACE", "test")
            .env("POD_UID", format!("pod-{n}"))
            .env("MARIADB_ROOT_PASSWORD", "root'pw\\")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        if self.members.len() <= n {
            self.members.resize_with(n + 1, || None);
        }
        self.members[n] = Some(child);
        self.eventually(n, Duration::from_secs(10), |_| true);
    }

    /// Ends a member at once: everything in its process namespace dies.
    pub(crate) fn kill(&mut self, n: usize) {
        // A change of user clears the parent-death signal, so the namespace's process 1 is killed itself.
        let first = self.process(n, "agent-under-tes");
        if let Some(mut child) = self.members.get_mut(n).and_then(Option::take) {
            if let Some(pid) = first {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn client(&self, n: usize, common_name: &str) -> AgentClient {
        let tls = self.identity(common_name, vec!["client".into()]).client().unwrap();
        let address: SocketAddr = format!("10.77.0.{}:{}", 10 + n, protocol::AGENT_PORT).parse().unwrap();
        AgentClient::new(address, &Self::host(n), Arc::new(tls)).unwrap()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn state(&self, n: usize) -> Result<MemberState, protocol::ClientError> {
        let client = self.client(n, CONTROLLER_COMMON_NAME);
        self.block_on(client.state())
    }

    /// Waits until the state is as wanted.
    pub(crate) fn eventually(&self, n: usize, limit: Duration, wanted: impl Fn(&MemberState) -> bool) -> MemberState {
        let end = Instant::now() + limit;
        loop {
            let state = self.state(n);
            match &state {
                Ok(state) if wanted(state) => return state.clone(),
                _ if Instant::now() > end => panic!("db-{n}: not within {limit:?}: {state:#?}\n{}", self.log(n)),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    pub(crate) fn running(&self, n: usize) -> MemberState {
        self.eventually(n, Duration::from_secs(60), |state| {
            assert!(
                !matches!(state.phase, Phase::Failed { .. } | Phase::ConfigRefused { .. }),
                "{state:#?}\n{}",
                self.log(n)
            );
            state.phase == Phase::Running && state.server.is_some()
        })
    }

    /// A shell command in the member's container.
    pub(crate) fn shell(&self, n: usize, command: &str) -> String {
        let pid = self.process(n, "agent-under-tes").expect("an agent");
        let output = Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--mount", "--net", "--pid", "--root", "--wd", "--"])
            .args(["setpriv", "--reuid=999", "--regid=999", "--clear-groups", "sh", "-c", command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Anonymous memory of a member's agent, KiB.
    pub(crate) fn agent_memory(&self, n: usize) -> u64 {
        let pid = self.process(n, "agent-under-tes").expect("an agent");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn log(&self, n: usize) -> String {
        fs::read_to_string(self.root(n).join("log")).unwrap_or_default()
    }

    /// Tells a member, under the next revision.
    #[expect(clippy::needless_pass_by_value, reason = "actions are made where they are told")]
    pub(crate) fn tell(&mut self, n: usize, action: Action) -> Result<protocol::Outcome, protocol::ClientError> {
        self.stamp.revision += 1;
        let stamp = self.stamp;
        self.tell_as(n, stamp, &action)
    }

    pub(crate) fn next_stamp(&mut self) -> Stamp {
        self.stamp.revision += 1;
        self.stamp
    }

    /// Tells a member and does not wait.
    pub(crate) fn tell_in_background(
        &self,
        n: usize,
        stamp: Stamp,
        action: Action,
    ) -> std::thread::JoinHandle<Result<protocol::Outcome, protocol::ClientError>> {
        let client = self.client(n, CONTROLLER_COMMON_NAME);
        // A thread inherits this one's network.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(client.command(&Order { stamp, action }))
        })
    }

    pub(crate) fn tell_as(
        &self,
        n: usize,
        stamp: Stamp,
        action: &Action,
    ) -> Result<protocol::Outcome, protocol::ClientError> {
        let client = self.client(n, CONTROLLER_COMMON_NAME);
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.block_on(client.command(&Order { stamp, action: action.clone() })) {
                Err(protocol::ClientError::Refused(protocol::Refusal::Busy { .. })) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    /// A new primary on member `n`.
    pub(crate) fn primary(&mut self, n: usize) {
        self.primary_with(n, &Settings::default());
    }

    pub(crate) fn primary_with(&mut self, n: usize, settings: &Settings) {
        self.prepare(n, settings);
        self.start(n);
        self.tell(n, Action::Initialise { data_id: DataId(format!("data-{n}")) }).unwrap();
        self.running(n);
        self.tell(n, Action::OpenForWrites { opening: topology::action::Opening::default() }).unwrap();
        let users = (1..5).map(|id| format!("repl_{id}")).collect();
        self.tell(n, Action::EnsureReplicationAccounts { users, login_only: "repl".into() }).unwrap();
    }

    /// A member that is copied from `donor` and follows `primary`.
    pub(crate) fn replica(&mut self, n: usize, donor: usize, primary: usize) {
        self.replica_with(n, donor, primary, &Settings::default());
    }

    pub(crate) fn replica_with(&mut self, n: usize, donor: usize, primary: usize, settings: &Settings) {
        self.prepare(n, settings);
        self.start(n);
        self.tell(
            n,
            Action::Clone { donor: Self::agent_of(donor), data_id: DataId(format!("data-{n}")), replaces: None },
        )
        .unwrap();
        self.running(n);
        self.tell(n, Self::follow(n, primary)).unwrap();
    }

    /// The order to replace the data of a member, as it is now, by a copy.
    pub(crate) fn anew(&self, n: usize, donor: usize, data_id: &str) -> Action {
        let state = self.state(n).unwrap();
        let topology::member::Volume::Data { data_id: there } = state.volume else { panic!("no data: {state:?}") };
        let binlog_state = self.sql(n, "SELECT @@gtid_binlog_state").parse().unwrap();
        Action::Clone {
            donor: Self::agent_of(donor),
            data_id: DataId(data_id.into()),
            replaces: Some(topology::action::Replaced { data_id: there, binlog_state }),
        }
    }

    pub(crate) fn follow(n: usize, primary: usize) -> Action {
        Action::Follow {
            source: topology::action::Source {
                endpoint: Self::server_of(primary),
                user: format!("repl_{}", n + 1),
                tls: true,
                connect_retry: 1,
                heartbeat_ms: 1000,
                delay: 0,
            },
            demote: false,
        }
    }

    /// An API for the members that are made after it, with the record in it.
    pub(crate) fn api(&self, record: &topology::record::Record) -> Api<Lease> {
        let (ready, address) = std::sync::mpsc::channel();
        // A thread inherits this one's network; it ends with the process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = apiserver::Server::open(apiserver::Options::default()).unwrap();
                let listener = tokio::net::TcpListener::bind("10.77.0.1:8080").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, server.router()).await.unwrap();
            });
        });
        let address = address.recv().unwrap();
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        self.block_on(async {
            let client = kube::Client::try_from(config).unwrap();
            let namespace = serde_json::json!({"metadata": {"name": "test"}});
            let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
            namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
            let leases = Api::<Lease>::namespaced(client, "test");
            leases.create(&PostParams::default(), &lease(record)).await.unwrap();
            leases
        })
    }

    /// Somebody decided.
    pub(crate) fn decided(&self, leases: &Api<Lease>, record: &topology::record::Record) {
        self.block_on(async {
            // A primary may renew it in between.
            for _ in 0..5 {
                let known = leases.get("db-topology").await.unwrap();
                let mut new = lease(record);
                new.metadata.resource_version = known.metadata.resource_version;
                if leases.replace("db-topology", &PostParams::default(), &new).await.is_ok() {
                    return;
                }
            }
            panic!("the record cannot be written");
        });
    }

    /// Kills a member's server and waits until its agent says so.
    pub(crate) fn kill_server(&self, n: usize) {
        let pid = self.process(n, "mariadbd").expect("a server");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        self.eventually(n, Duration::from_secs(10), |state| state.phase == Phase::Waiting && state.server.is_none());
    }

    /// Starts a member's server again, as it is.
    pub(crate) fn start_server(&mut self, n: usize) -> MemberState {
        self.tell(n, Action::StartServer { as_replica: false }).unwrap();
        self.running(n)
    }

    /// SQL as a user types it in the container, with root's password; rows as text.
    pub(crate) fn sql(&self, n: usize, sql: &str) -> String {
        let root = self.root(n).join("root");
        let pid = self.process(n, "mariadbd").expect("a server");
        let output = Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--mount", "--net", "--pid", "--root", "--wd", "--"])
            .args(["mariadb", "-u", "root", "-proot'pw\\", "-N", "-B", "-e", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {sql}: {}", root.display(), String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// pid, on this machine, of a member's process of that name.
    pub(crate) fn process(&self, n: usize, name: &str) -> Option<i32> {
        let root = self.root(n).join("root");
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let mine = fs::read_link(entry.path().join("root")).is_ok_and(|path| path == root);
            if mine && comm.trim() == name {
                return Some(pid);
            }
        }
        None
    }
}

fn lease(record: &topology::record::Record) -> Lease {
    let annotations = record.annotations();
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "db-topology", "annotations": annotations},
        "spec": {"holderIdentity": record.holder_identity()},
    }))
    .unwrap()
}

impl Drop for Lab {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
        let names: Vec<_> =
            (0..self.members.len()).map(|n| format!("{}m{n}", self.name)).chain([self.name.clone()]).collect();
        for name in names {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
