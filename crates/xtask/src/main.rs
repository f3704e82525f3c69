//! The project's own chores: generated files, tidy checks, packaging. `cargo xtask help` lists them.

mod codegen;
mod image;
mod tidy;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
// Tests (insta) ask for its default features, binaries (kube) do not: kube and all above it would be built once for each.
use fastrand as _;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the generated files: CRDs, install.yaml, the field reference.
    Codegen {
        /// Write nothing; fail when a file is stale.
        #[arg(long)]
        check: bool,
    },
    /// Check what no compiler checks: file sizes, layers, dependencies and their licences, words that must not be left.
    Tidy,
    /// Write an OCI archive of the operator: one layer with the static binary.
    Image {
        /// Cargo profile to build with.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Where to write the archive.
        #[arg(long, default_value = "target/mariadb-operator.oci.tar")]
        output: PathBuf,
        /// Of the operator that is broken on purpose (docs/chaos.md), as `mariadb-operator-mutants`.
        #[arg(long)]
        mutants: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Codegen { check } => codegen::run(check),
        Task::Tidy => tidy::run(),
        Task::Image { profile, output, mutants } => {
            image::run(&profile, &output, if mutants { image::MUTANTS } else { image::OPERATOR })
        }
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
