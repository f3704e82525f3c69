use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandbox::host;
use sandbox::images::ImageStore;
use sandbox::network::Network;
use sandbox::network::services::{ServicePort, Transport, rules};
use sandbox::node::runtime::{ExecOptions, Exit, Process, Runtime, Streams};
use sandbox::node::{mount, orphans};
use sandbox::paths::Paths;
use sandbox::settings::Settings;
use serde_json::json;
use tokio::io::AsyncReadExt;

/// Whether this machine can run pods; says why not.
pub(crate) fn able(test: &str) -> bool {
    match host::check(host::REQUIRED) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("skipped {test}: {error}");
            false
        }
    }
}

pub(crate) struct Machine {
    pub(crate) paths: Paths,
    pub(crate) network: Arc<Network>,
    runtime: Runtime,
    image: Vec<PathBuf>,
}

impl Machine {
    pub(crate) async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sandbox-it-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        let paths = Paths::new(&dir).expect("paths");
        let _starting = sandbox::instance::one_start_at_a_time().expect("a turn");
        let settings = Settings::load_or_choose(&paths.settings(), None).expect("settings");
        let network = Arc::new(
            Network::create(&paths, settings.addresses(), [settings.addresses().node(0)]).await.expect("network"),
        );
        let runtime = Runtime::new(&paths.run()).expect("runtime");
        let image = ImageStore::new(paths.images()).ensure("debian:13", true, |_| ()).await.expect("image");
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).expect("sub-reaper");
        Self { paths, network, runtime, image: image.layers }
    }

    /// Runs a shell script as a container; its exit and its output.
    async fn run(&self, id: &str, namespace: &std::path::Path, script: &str) -> (Exit, String) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        let streams = Streams { stdin: None, stdout: writer.try_clone().ok(), stderr: Some(writer) };
        let process = self.start(id, namespace, script, streams).await;
        let exit = process.wait().await;
        let mut text = String::new();
        let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(reader).expect("pipe");
        pipe.read_to_string(&mut text).await.expect("output");
        self.runtime.delete(id).await.expect("delete");
        (exit, text)
    }

    /// Starts a shell script as a container.
    async fn start(&self, id: &str, namespace: &std::path::Path, script: &str, streams: Streams) -> Process {
        let bundle = self.paths.dir().join(id);
        let rootfs = bundle.join("rootfs");
        mount::overlay(&self.image, &bundle.join("upper"), &bundle.join("work"), &rootfs).expect("overlay");
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "cwd": "/" },
            "root": { "path": rootfs },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.paths.cgroup()),
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network", "path": namespace }],
            },
        });
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("config");
        self.runtime.start(id, &bundle, streams, false).await.expect("start").0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        sandbox::cgroup::destroy(&self.paths.cgroup());
        mount::unmount_below(self.paths.dir());
        let network = Arc::clone(&self.network);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(network.destroy());
        })
        .join()
        .expect("cleanup");
        let _ = std::fs::remove_dir_all(self.paths.run());
        let _ = std::fs::remove_dir_all(self.paths.dir());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_report_how_they_ended() {
    if !able("containers_report_how_they_ended") {
        return;
    }
    let machine = Machine::new("exit").await;
    let pod = machine.network.add_pod("a").await.expect("pod");
    let (exit, text) = machine.run("one", &pod.namespace, "echo pid $$; exit 3").await;
    assert_eq!((exit.code, text.as_str()), (3, "pid 1\n"));
    let (exit, _) = machine.run("two", &pod.namespace, "sh -c 'sleep 0.1; kill -9 1' & sleep 5").await;
    assert_eq!(exit.signal, None, "process 1 cannot be killed from inside");
    machine.network.remove_pod(&pod).await.expect("remove");
}

/// A container ends when its last process has been reaped: also one that nobody waits for any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_end_though_a_command_in_them_was_forgotten() {
    if !able("containers_end_though_a_command_in_them_was_forgotten") {
        return;
    }
    let machine = Machine::new("orphan").await;
    let reaper = tokio::spawn(orphans::reap());
    let pod = machine.network.add_pod("a").await.expect("pod");
    let process = machine.start("one", &pod.namespace, "exec sleep 1000", Streams::default()).await;
    let command = ExecOptions { command: vec!["touch".to_owned(), "/ran".to_owned()], tty: false };
    let given_up =
        tokio::time::timeout(Duration::from_millis(1), machine.runtime.exec("one", &command, Streams::default()));
    assert!(given_up.await.is_err(), "a command takes longer to start");
    let ran = machine.paths.dir().join("one/upper/ran");
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while !ran.exists() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ran.exists(), "the command did not run");
    process.signal(rustix::process::Signal::KILL);
    let exit = tokio::time::timeout(Duration::from_secs(20), process.wait()).await;
    assert_eq!(exit.expect("the container does not end").signal, Some(9));
    machine.runtime.delete("one").await.expect("delete");
    machine.network.remove_pod(&pod).await.expect("remove");
    reaper.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_returns_while_a_process_of_its_last_life_lingers() {
    if !able("a_pod_returns_while_a_process_of_its_last_life_lingers") {
        return;
    }
    let machine = Machine::new("linger").await;
    let pod = machine.network.add_pod("a").await.expect("pod");
    // As a server that hangs on its disk: its network namespace lives on without a name.
    let lingering = sandbox::network::NetnsThread::enter(&pod.namespace).expect("thread");
    machine.network.remove_pod(&pod).await.expect("remove");
    let again = machine.network.add_pod("a").await.expect("the same pod again");
    machine.network.remove_pod(&again).await.expect("remove");
    drop(lingering);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_balance_over_pods() {
    if !able("services_balance_over_pods") {
        return;
    }
    let machine = Machine::new("net").await;
    let mut endpoints = Vec::new();
    let mut pods = Vec::new();
    for key in ["a", "b"] {
        let pod = machine.network.add_pod(key).await.expect("pod");
        let thread = sandbox::network::NetnsThread::enter(&pod.namespace).expect("thread");
        let address = pod.address;
        let listener =
            thread.run(move || std::net::TcpListener::bind((address, 80)).expect("bind")).await.expect("listener");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                use std::io::Write;
                let _ = write!(stream, "{address}");
            }
        });
        endpoints.push((pod.address, 80));
        pods.push((pod, thread));
    }
    let addresses = machine.network.addresses();
    let service = Ipv4Addr::from(u32::from(addresses.api()) + 100);
    let port = ServicePort {
        address: service,
        transport: Transport::Tcp,
        port: 8080,
        sticky: false,
        endpoints: endpoints.clone(),
    };
    machine.network.apply_rules(rules(addresses, &[port])).await.expect("rules");
    let ask = move || {
        let mut stream = std::net::TcpStream::connect_timeout(&(service, 8080).into(), Duration::from_secs(2))?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(ask().expect("from the host"));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (_, thread) in &pods {
        for _ in 0..10 {
            thread.run(ask).await.expect("thread").expect("from a pod, also to itself");
        }
    }
    machine.network.apply_rules(rules(addresses, &[])).await.expect("rules");
    let error = ask().expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let (exit, text) = machine.run("dns", &pods[0].0.namespace, "cat /proc/net/route | wc -l").await;
    assert_eq!((exit.code, text.trim()), (0, "3"));
}
