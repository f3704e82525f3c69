//! `kubectl mariadb`: what a person types.

#[path = "../sandbox/mod.rs"]
mod sandbox_commands;

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
    /// A small Kubernetes on this machine, with real MariaDB servers in its pods.
    Sandbox(sandbox_commands::SandboxArguments),
}

fn main() -> ExitCode {
    // Threads start later: the sandbox first gives itself a mount namespace.
    let result = match Arguments::parse().command {
        Command::Sandbox(arguments) => sandbox_commands::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
