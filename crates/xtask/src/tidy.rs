//! What no compiler checks: sizes of files, the layers of the workspace, dependencies, words that must not be left.

mod dependencies;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// No source file is longer.
const MAX_LINES: usize = 800;
/// ARCHITECTURE.md is a map, not the territory.
const MAX_ARCHITECTURE_LINES: usize = 200;

/// Each crate and the crates of this workspace that it may depend on.
const LAYERS: &[(&str, &[&str])] = &[
    ("topology", &[]),
    ("api", &[]),
    ("sql", &["topology"]),
    ("protocol", &["topology"]),
    ("manifests", &["api", "protocol"]),
    ("agent", &["sql", "protocol", "topology"]),
    ("operator", &["api", "manifests", "topology", "sql", "protocol"]),
    ("apiserver", &[]),
    ("sandbox", &["apiserver"]),
    ("sim", &["topology"]),
    ("xtask", &["api", "manifests"]),
    ("cli", &["agent", "api", "apiserver", "manifests", "operator", "protocol", "sandbox", "sql", "topology"]),
];

pub(crate) fn run() -> anyhow::Result<()> {
    let root = crate::root();
    let mut complaints = Vec::new();
    layers(&root, &mut complaints)?;
    dependencies::check(&root, &mut complaints)?;
    for file in sources(&root.join("crates"))? {
        source(&root, &file, &mut complaints)?;
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    if architecture.lines().count() > MAX_ARCHITECTURE_LINES {
        complaints.push(format!("ARCHITECTURE.md: more than {MAX_ARCHITECTURE_LINES} lines"));
    }
    for (name, _) in LAYERS {
        if !architecture.contains(&format!("`{name}`")) {
            complaints.push(format!("ARCHITECTURE.md: does not mention the crate `{name}`"));
        }
    }
    if complaints.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("not tidy:\n  {}", complaints.join("\n  "))
}

/// Crates depend only on those that the table allows (dev-dependencies are free).
fn layers(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(allowed) = allowed.get(name.as_str()) else {
            complaints.push(format!("crates/{name}: not in the table of layers (xtask/src/tidy.rs)"));
            continue;
        };
        let manifest = fs::read_to_string(root.join("crates").join(&name).join("Cargo.toml"))?;
        let dependencies = manifest
            .split("\n[")
            .filter(|section| section.starts_with("dependencies]"))
            .flat_map(str::lines)
            .filter_map(|line| line.split(['.', ' ', '=']).next());
        for dependency in dependencies {
            if LAYERS.iter().any(|(known, _)| *known == dependency) && !allowed.contains(&dependency) {
                complaints.push(format!("crates/{name}: may not depend on {dependency}"));
            }
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!("crates/{name}: does not take the workspace's lints"));
        }
    }
    Ok(())
}

fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn source(root: &Path, file: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(file)?;
    let name = file.strip_prefix(root).unwrap_or(file).display();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{name}: {lines} lines; a folder with smaller files reads better"));
    }
    // Spelled so that this file does not complain about itself.
    let unfinished = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
    ];
    for (number, line) in text.lines().enumerate() {
        for word in unfinished {
            if line.contains(word) {
                complaints.push(format!("{name}:{}: {word}", number + 1));
            }
        }
        if line.ends_with([' ', '\t']) && !line.trim_start().starts_with("//!") {
            complaints.push(format!("{name}:{}: blanks at the end of the line", number + 1));
        }
    }
    for forbidden in ["utils.rs", "helpers.rs", "common.rs", "manager.rs"] {
        if file.ends_with(forbidden) {
            complaints.push(format!("{name}: the name says nothing"));
        }
    }
    Ok(())
}
