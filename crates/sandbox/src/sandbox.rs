//! The whole: API server, controllers, nodes, network and DNS, started and stopped together.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::task::JoinSet;

use crate::api::gate::Gate;
use crate::api::{self, ApiError};
use crate::events::Recorder;
use crate::faults::{self, Faults};
use crate::host::{self, HostError};
use crate::images::ImageStore;
use crate::instance::{self, Instance, InstanceError};
use crate::network::links::Links;
use crate::network::policy_watch;
use crate::network::services::rules;
use crate::network::table::ServiceTable;
use crate::network::{Network, NetworkError};
use crate::node::attachments::Attachments;
use crate::node::register::{nodes, register};
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::{NodeContext, Pods, heartbeat, orphans};
use crate::pace::Pace;
use crate::paths::Paths;
use crate::settings::{Settings, SettingsError};
use crate::streams::Streams;

/// How a sandbox is to be.
#[derive(Debug)]
pub struct Options {
    /// Where it keeps things.
    pub paths: Paths,
    /// Number of virtual nodes; as before (or four) when not given.
    pub nodes: Option<usize>,
    /// How quick it is.
    pub pace: Pace,
    /// The process that cleans up after a sandbox that dies: a command that calls [`instance::clean_up_after`]. Without
    /// one only [`Sandbox::shut_down`] cleans up.
    pub janitor: Option<Command>,
}

/// A sandbox that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The machine lacks something.
    #[error(transparent)]
    Host(HostError),
    /// The directory is taken or cannot be used.
    #[error(transparent)]
    Instance(InstanceError),
    /// Ports or addresses.
    #[error(transparent)]
    Settings(SettingsError),
    /// The network.
    #[error(transparent)]
    Network(NetworkError),
    /// Containers.
    #[error(transparent)]
    Runtime(RuntimeError),
    /// The API server.
    #[error(transparent)]
    Api(ApiError),
    /// The first objects could not be written.
    #[error("registering nodes: {0}")]
    Register(Box<kube::Error>),
    /// A file could not be written.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Sandbox {
    paths: Paths,
    settings: Settings,
    instance: Instance,
    network: Arc<Network>,
    pods: Pods,
    faults: Faults,
    tasks: JoinSet<()>,
    client: ClientHandle,
}

struct ClientHandle(Client);

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Sandbox {
    /// Starts everything; when this returns, the nodes are ready.
    pub async fn start(options: Options) -> Result<Self, SandboxError> {
        let Options { paths, nodes: node_count, pace, janitor } = options;
        host::check(host::REQUIRED).map_err(SandboxError::Host)?;
        let mut instance = Instance::take(&paths).map_err(SandboxError::Instance)?;
        // What a predecessor left that died together with its janitor.
        instance::clean_up_files(&paths);
        if let Some(command) = janitor {
            instance.start_janitor(command).map_err(SandboxError::Instance)?;
        }
        let io = |what: &std::path::Path| {
            let what = what.display().to_string();
            move |source| SandboxError::Io { what, source }
        };
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| io(paths.dir())(e.into()))?;
        for dir in [paths.volumes(), paths.pods(), paths.run()] {
            std::fs::create_dir_all(&dir).map_err(io(&dir))?;
        }
        let starting = instance::one_start_at_a_time().map_err(SandboxError::Instance)?;
        let settings = Settings::load_or_choose(&paths.settings(), node_count).map_err(SandboxError::Settings)?;
        settings.check_range(&paths.host_interface()).map_err(SandboxError::Settings)?;
        let addresses = settings.addresses();
        let node_addresses = nodes(addresses, settings.nodes);
        let network = Network::create(&paths, addresses, node_addresses.values().copied()).await;
        let network = Arc::new(network.map_err(SandboxError::Network)?);
        let links = Arc::new(Links::new(Arc::clone(&network), &node_addresses));
        let server = api::open(&paths, &settings).map_err(SandboxError::Api)?;
        let client = server.client();
        let runtime = Arc::new(Runtime::new(&paths.run()).map_err(SandboxError::Runtime)?);
        let context = Arc::new(NodeContext {
            client: client.clone(),
            paths: paths.clone(),
            network: Arc::clone(&network),
            images: ImageStore::new(paths.images()),
            runtime,
            events: Recorder::start(client.clone()),
            links: Arc::clone(&links),
            attachments: Attachments::default(),
            pace,
        });
        let pods = Pods::new(context, node_addresses.clone());
        let gate = Gate::default();
        let faults = Faults::new(pods.clone(), gate.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(orphans::reap());
        let streams = Streams::new(pods.clone());
        server.serve(&network, streams, gate, &mut tasks).await.map_err(SandboxError::Api)?;
        drop(starting);
        server.write_kubeconfig(&paths.kubeconfig()).map_err(SandboxError::Api)?;
        register(&client, addresses, settings.nodes).await.map_err(|e| SandboxError::Register(Box::new(e)))?;
        tasks.spawn(heartbeat::run(client.clone(), Arc::clone(&links), node_addresses, pace));
        tasks.spawn(crate::controllers::run(client.clone(), pace, links.subscribe()));
        let control = faults::control::listen(&paths.control()).map_err(io(&paths.control()))?;
        tasks.spawn(faults::control::serve(control, faults.clone()));
        let table = ServiceTable::default();
        tasks.spawn({
            let (table, client) = (table.clone(), client.clone());
            async move { table.follow(client).await }
        });
        tasks.spawn(balance(Arc::clone(&network), table.clone()));
        tasks.spawn(policy_watch::follow(client.clone(), Arc::clone(&network), Arc::clone(&links)));
        tasks.spawn({
            let network = Arc::clone(&network);
            async move {
                if let Err(error) = crate::dns::serve(&network, table).await {
                    tracing::error!("DNS: {error}");
                }
            }
        });
        tasks.spawn({
            let pods = pods.clone();
            async move { Box::pin(pods.follow()).await }
        });
        std::fs::write(paths.ready(), format!("{}\n", std::process::id())).map_err(io(&paths.ready()))?;
        Ok(Self { paths, settings, instance, network, pods, faults, tasks, client: ClientHandle(client) })
    }

    /// The API, as an administrator, without a socket.
    pub fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// The fault switches.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Folders and files.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Ports and addresses.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ends all pods and removes everything but the state. Containers have `grace` to end by themselves.
    pub async fn shut_down(mut self, grace: Duration) {
        let _ = std::fs::remove_file(self.paths.ready());
        // Processes that wait for a disk cannot end.
        self.faults.release_volumes().await;
        self.pods.shut_down(grace).await;
        self.tasks.shutdown().await;
        self.network.destroy().await;
        let (paths, instance) = (self.paths, self.instance);
        let _ = tokio::task::spawn_blocking(move || {
            instance::clean_up_files(&paths);
            instance.finish();
        })
        .await;
    }
}

/// Keeps the rules for services as the table says.
async fn balance(network: Arc<Network>, table: ServiceTable) {
    let addresses = network.addresses();
    let mut changes = table.subscribe();
    let mut applied = String::new();
    loop {
        // Several objects often change together.
        tokio::time::sleep(Duration::from_millis(2)).await;
        changes.mark_unchanged();
        let mut ports = table.read(crate::network::table::Contents::service_ports);
        // The sandbox itself answers there.
        ports.retain(|p| p.address != addresses.api() && p.address != addresses.dns());
        let text = rules(addresses, &ports);
        if text != applied {
            match network.apply_rules(text.clone()).await {
                Ok(()) => applied = text,
                Err(error) => tracing::error!("{error}"),
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
