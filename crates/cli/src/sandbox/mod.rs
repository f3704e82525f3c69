//! `kubectl mariadb sandbox ...`: a small Kubernetes on this machine.

mod faults;
mod images;
mod up;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sandbox::faults::{Fault, control};
use sandbox::paths::Paths;
use sandbox::{host, instance};

/// Where a sandbox is kept when nobody says.
const DEFAULT_DIR: &str = ".sandbox";

/// The directory of a sandbox.
#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// Folder that holds the sandbox's state and kubeconfig.
    #[arg(long, env = "MARIADB_SANDBOX_DIR", default_value = DEFAULT_DIR, global = true)]
    dir: PathBuf,
}

impl Directory {
    fn paths(&self) -> anyhow::Result<Paths> {
        Paths::new(&self.dir).with_context(|| self.dir.display().to_string())
    }
}

/// `sandbox` and what follows.
#[derive(Debug, Args)]
pub(crate) struct SandboxArguments {
    #[command(flatten)]
    directory: Directory,
    #[command(subcommand)]
    command: SandboxCommand,
}

#[derive(Debug, Subcommand)]
enum SandboxCommand {
    /// Start a sandbox.
    Up(up::UpArguments),
    /// Stop the sandbox; its state and volumes stay.
    Down {
        /// Seconds that containers have to end by themselves.
        #[arg(long, default_value_t = 30)]
        timeout: u64,
    },
    /// Say whether it runs, and what runs in it.
    Status,
    /// Stop the sandbox and remove its state, volumes and loaded images.
    Reset,
    /// Images that pods can run.
    Images(images::ImagesArguments),
    /// Let a node fail, or mend it.
    Node(faults::NodeArguments),
    /// Let a pod's processes freeze or die.
    Pod(faults::PodArguments),
    /// Let a volume be full or hang, or mend it.
    Volume(faults::VolumeArguments),
    /// Let the API be slow or away for pods, or mend it.
    Api(faults::ApiArguments),
    /// Cleans up after a sandbox that has died.
    #[command(hide = true)]
    Janitor,
}

/// Runs the command. The process has no other threads yet.
pub(crate) fn run(arguments: SandboxArguments) -> anyhow::Result<()> {
    let paths = arguments.directory.paths()?;
    // Everything here belongs to root, the folders of a sandbox that runs included: without root, nothing of it can even be
    // told. What tools are needed beyond that, `up` says.
    host::check(&[])?;
    match arguments.command {
        SandboxCommand::Up(up) => up::run(&paths, &up),
        SandboxCommand::Down { timeout } => down(&paths, Duration::from_secs(timeout)),
        SandboxCommand::Status => status(&paths),
        SandboxCommand::Reset => reset(&paths),
        SandboxCommand::Images(images) => images::run(&paths, images),
        SandboxCommand::Node(node) => faults::node(&paths, node),
        SandboxCommand::Pod(pod) => faults::pod(&paths, pod),
        SandboxCommand::Volume(volume) => faults::volume(&paths, volume),
        SandboxCommand::Api(api) => faults::api(&paths, &api),
        SandboxCommand::Janitor => {
            instance::clean_up_after(&paths);
            Ok(())
        }
    }
}

fn down(paths: &Paths, patience: Duration) -> anyhow::Result<()> {
    match instance::stop(paths, patience) {
        Ok(()) => {
            println!("The sandbox in {} is down. State and volumes stay for the next `up`.", paths.dir().display());
        }
        Err(error @ instance::InstanceError::NotRunning(_)) => println!("Nothing to do: {error}."),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn reset(paths: &Paths) -> anyhow::Result<()> {
    match instance::stop(paths, Duration::from_secs(10)) {
        Ok(()) | Err(instance::InstanceError::NotRunning(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // Only what a sandbox makes: the folder may hold other things.
    for folder in [paths.state(), paths.volumes(), paths.pods(), paths.images()] {
        remove(std::fs::remove_dir_all(&folder), &folder)?;
    }
    for file in [paths.kubeconfig(), paths.settings(), paths.log(), paths.lock()] {
        remove(std::fs::remove_file(&file), &file)?;
    }
    // Stays when something else is in it.
    let _ = std::fs::remove_dir(paths.dir());
    println!("The sandbox in {} is gone.", paths.dir().display());
    Ok(())
}

fn remove(result: std::io::Result<()>, path: &std::path::Path) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn status(paths: &Paths) -> anyhow::Result<()> {
    let Some(process) = instance::running(paths) else {
        println!("No sandbox runs in {}.", paths.dir().display());
        println!("Start one: kubectl mariadb sandbox up --detach --dir {}", paths.dir().display());
        return Ok(());
    };
    println!("Sandbox     {} (process {process})", paths.dir().display());
    if !paths.ready().exists() {
        println!("State       starting or stopping");
        return Ok(());
    }
    let settings = sandbox::settings::Settings::load_or_choose(&paths.settings(), None)?;
    println!("API         https://127.0.0.1:{}", settings.api_port);
    println!("Kubeconfig  {}", paths.kubeconfig().display());
    println!("Pods        {}", settings.addresses().pods());
    println!("Services    {}", settings.addresses().services());
    for fault in control::request(paths, &Fault::List)?.lines() {
        println!("Fault       {fault}");
    }
    up::runtime()?.block_on(live_status(paths))
}

/// The API as its administrator.
async fn client(paths: &Paths) -> anyhow::Result<kube::Client> {
    if !paths.ready().exists() {
        return Err(instance::InstanceError::NotRunning(paths.dir().display().to_string()).into());
    }
    let config = kube::config::Kubeconfig::read_from(paths.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// What runs, as the API says.
async fn live_status(paths: &Paths) -> anyhow::Result<()> {
    use k8s_openapi::api::core::v1::{Event, Node, Pod};
    use kube::api::ListParams;
    use kube::{Api, ResourceExt};
    let client = client(paths).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let names: Vec<String> = nodes.iter().map(ResourceExt::name_any).collect();
    println!("Nodes       {}", names.join(", "));
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
    println!("Running     {} pods", pods.items.len());
    for pod in &pods {
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
        let ready = status
            .and_then(|s| s.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("-");
        let note = if ready { "ready" } else { phase };
        println!("  {:<48} {note:<10} {node}", format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
    }
    let differing = ListParams::default().fields("reason=ImageVersionDiffers");
    let events = Api::<Event>::all(client).list(&differing).await?;
    let notes: std::collections::BTreeSet<String> = events
        .into_iter()
        .filter(|e| e.reason.as_deref() == Some("ImageVersionDiffers"))
        .filter_map(|e| e.message)
        .collect();
    for note in notes {
        println!("Note        {note}");
    }
    Ok(())
}
