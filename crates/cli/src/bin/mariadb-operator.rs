//! The binary in the operator's image: the controller, the agent in each database pod, and what puts the agent there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "mariadb-operator", version, about = "Kubernetes operator for MariaDB replication")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controllers (the operator's Deployment).
    Controller,
    /// Run as process 1 of a database pod.
    Agent,
    /// Copy this binary (init container of a database pod).
    Install {
        /// Where to.
        target: PathBuf,
    },
    /// Print the CRDs as YAML.
    Crds,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        // Process 1 must be single-threaded while it prepares itself: the agent builds its own runtime.
        Command::Agent => return agent::main(),
        Command::Controller => return operator::main(),
        Command::Install { target } => install(&target),
        Command::Crds => crds(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mariadb-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Copies this binary beside the target and renames it: a restarted init container finds the old one whole, even in use.
fn install(target: &Path) -> anyhow::Result<()> {
    let source = std::env::current_exe().context("own path")?;
    let unfinished = target.with_extension("unfinished");
    std::fs::copy(&source, &unfinished)
        .with_context(|| format!("copy {} to {}", source.display(), unfinished.display()))?;
    std::fs::rename(&unfinished, target).with_context(|| format!("rename to {}", target.display()))?;
    println!("installed {}", target.display());
    Ok(())
}

fn crds() -> anyhow::Result<()> {
    for crd in api::crds() {
        println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
    }
    Ok(())
}
