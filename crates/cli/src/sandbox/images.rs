//! `sandbox images`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sandbox::images::ImageStore;
use sandbox::paths::Paths;

#[derive(Debug, Args)]
pub(super) struct ImagesArguments {
    #[command(subcommand)]
    command: ImagesCommand,
}

#[derive(Debug, Subcommand)]
enum ImagesCommand {
    /// List the images that pods can run.
    List,
    /// Load images from an archive (OCI layout or `docker save`, as one tar file).
    Load {
        /// The archive.
        file: PathBuf,
    },
    /// Make images ready now, instead of when the first pod needs them.
    Pull {
        /// Such as mariadb:11.8.
        #[arg(required = true)]
        images: Vec<String>,
    },
}

pub(super) fn run(paths: &Paths, arguments: ImagesArguments) -> anyhow::Result<()> {
    let store = ImageStore::new(paths.images());
    match arguments.command {
        ImagesCommand::List => {
            println!("{:<40} {:<8} FROM", "IMAGE", "PRESENT");
            for image in store.list()? {
                println!("{:<40} {:<8} {}", image.name, if image.present { "yes" } else { "no" }, image.id);
            }
        }
        ImagesCommand::Load { file } => {
            for name in store.load(&file)? {
                println!("loaded {name}");
            }
        }
        ImagesCommand::Pull { images } => {
            let runtime = super::up::runtime()?;
            for name in images {
                pull(&runtime, &store, &name)?;
            }
        }
    }
    Ok(())
}

fn pull(runtime: &tokio::runtime::Runtime, store: &ImageStore, name: &str) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed}  {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = runtime.block_on(store.ensure(name, true, |line| bar.set_message(line.to_owned())));
    bar.finish_and_clear();
    let image = result?;
    println!("{name} is ready ({})", image.id);
    if let Some(version) = image.other_version {
        println!("note: it runs MariaDB {version}, not the version that its tag names");
    }
    Ok(())
}
