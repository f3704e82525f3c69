//! `sandbox up`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use sandbox::pace::Pace;
use sandbox::paths::Paths;
use sandbox::{Options, Sandbox, host, instance};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct UpArguments {
    /// Return when it is ready, and leave it running.
    #[arg(long, short)]
    detach: bool,
    /// Number of virtual nodes [default: as before, at first 4].
    #[arg(long)]
    nodes: Option<usize>,
    /// How quick it is.
    #[arg(long, value_enum, default_value_t = PaceName::Quick)]
    pace: PaceName,
    /// Seconds that containers have to end by themselves when the sandbox stops.
    #[arg(long, default_value_t = 10)]
    grace: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaceName {
    /// As fast as it can.
    Quick,
    /// With a cluster's delays.
    Cluster,
}

/// The runtime of these commands: two threads are enough, and small.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("starting")
}

pub(super) fn run(paths: &Paths, arguments: &UpArguments) -> anyhow::Result<()> {
    host::check(host::REQUIRED)?;
    if arguments.nodes == Some(0) {
        bail!("--nodes must be at least 1");
    }
    if let Some(process) = instance::running(paths).filter(|p| std::path::Path::new(&format!("/proc/{p}/exe")).exists())
    {
        return Err(instance::InstanceError::Running(process).into());
    }
    if arguments.detach {
        detach(paths, arguments)?;
        explain(paths, true);
        return Ok(());
    }
    let log = tracing_subscriber::EnvFilter::try_from_env("MARIADB_SANDBOX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    instance::isolate().context("a mount namespace of its own")?;
    runtime()?.block_on(serve(paths, arguments))
}

async fn serve(paths: &Paths, arguments: &UpArguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut janitor = Command::new(std::env::current_exe().context("own path")?);
    janitor.args(["sandbox", "janitor", "--dir"]).arg(paths.dir());
    let pace = match arguments.pace {
        PaceName::Quick => Pace::QUICK,
        PaceName::Cluster => Pace::CLUSTER,
    };
    let options = Options { paths: paths.clone(), nodes: arguments.nodes, pace, janitor: Some(janitor) };
    let sandbox = Sandbox::start(options).await?;
    explain(paths, false);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    sandbox.shut_down(Duration::from_secs(arguments.grace)).await;
    Ok(())
}

/// Starts the sandbox as a process of its own, and waits until it is ready.
fn detach(paths: &Paths, arguments: &UpArguments) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    std::fs::create_dir_all(paths.dir()).with_context(|| paths.dir().display().to_string())?;
    // Left by a sandbox that was killed.
    let _ = std::fs::remove_file(paths.ready());
    let mut log = OpenOptions::new().create(true).append(true).open(paths.log()).context("log")?;
    let begin = log.metadata().map_or(0, |m| m.len());
    writeln!(log, "--- sandbox up").context("log")?;
    let mut command = Command::new(std::env::current_exe().context("own path")?);
    command.args(["sandbox", "up", "--dir"]).arg(paths.dir());
    command.args(["--grace", &arguments.grace.to_string()]);
    if let Some(nodes) = arguments.nodes {
        command.args(["--nodes", &nodes.to_string()]);
    }
    if matches!(arguments.pace, PaceName::Cluster) {
        command.args(["--pace", "cluster"]);
    }
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("starting the sandbox")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !paths.ready().exists() {
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read(paths.log()).unwrap_or_default();
            let tail = String::from_utf8_lossy(&text[(begin as usize).min(text.len())..]).into_owned();
            // All of it: a tool's own words may take several lines.
            let reason = tail.rsplit_once("Error: ").map_or(tail.as_str(), |(_, reason)| reason);
            bail!("the sandbox did not start ({status}): {}", reason.trim());
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!("the sandbox is not ready after a minute; see {}", paths.log().display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn explain(paths: &Paths, detached: bool) {
    println!("The sandbox is up. Use it:");
    println!();
    println!("  export KUBECONFIG={}", paths.kubeconfig().display());
    println!("  kubectl get nodes");
    println!();
    if detached {
        println!("Stop it: kubectl mariadb sandbox down --dir {}", paths.dir().display());
    } else {
        println!("Stop it with Ctrl-C.");
    }
}
