//! `kubectl mariadb`: what a person types.

#[path = "../output.rs"]
mod output;
#[path = "../sandbox/mod.rs"]
mod sandbox_commands;
#[path = "../topology/mod.rs"]
mod topology_commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "kubectl-mariadb",
    bin_name = "kubectl mariadb",
    version,
    about = "MariaDB on Kubernetes, and a sandbox to try it in"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a topology as a tree: roles, positions, lag, and what would happen if the primary died now.
    Status(topology_commands::StatusArguments),
    /// Tell why the primary changed, or did not: the last changes with their evidence, newest first.
    Why(topology_commands::WhyArguments),
    /// Make another member the primary.
    Switchover(topology_commands::SwitchoverArguments),
    /// A small Kubernetes on this machine, with real MariaDB servers in its pods.
    Sandbox(sandbox_commands::SandboxArguments),
}

fn main() -> ExitCode {
    output::end_when_nobody_reads();
    // Threads start later: the sandbox first gives itself a mount namespace.
    let result = match Arguments::parse().command {
        Command::Sandbox(arguments) => sandbox_commands::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Status(arguments) => topology_commands::status(&arguments),
        Command::Why(arguments) => topology_commands::why(&arguments),
        Command::Switchover(arguments) => topology_commands::switchover(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
