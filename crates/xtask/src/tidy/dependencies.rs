//! What `cargo deny` would check, from `cargo metadata`: licences, crates that come twice, and sources other than crates.io; and
//! what it does not: dependencies that a manifest names and no source mentions. See `docs/adr/0006-no-cargo-deny.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Licences that a static binary under Apache-2.0 may carry.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Mozilla's list of root certificates: data, not code.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that come in more than one version, and who holds the older one back.
const TWICE: &[(&str, &str)] = &[
    ("base64", "mysql_common and axum use the older"),
    ("bit-vec", "proptest's bit-set uses the older"),
    ("cpufeatures", "sha1 and sha2 0.10 use the older"),
    ("getrandom", "ring uses 0.2, rand 0.9 uses 0.3"),
    ("hashbrown", "kube-runtime uses an older one, stateright's dashmap the oldest"),
    ("rand", "tungstenite uses 0.9, as we do; mysql_async 0.10"),
    ("rand_core", "see rand"),
    ("syn", "a macro library: nothing of it is in the binary"),
    ("synstructure", "see syn"),
    ("thiserror", "kube's cel uses 1"),
    ("thiserror-impl", "see thiserror"),
];

pub(super) fn check(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let metadata = metadata(root)?;
    let packages = metadata["packages"].as_array().context("cargo metadata: packages")?;
    licences(packages, complaints);
    origins(packages, complaints);
    duplicates(packages, complaints);
    untaken(root, packages, complaints)?;
    features(root, complaints)?;
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        unmentioned(package, complaints)?;
    }
    Ok(())
}

/// The packages that are built for this machine.
fn metadata(root: &Path) -> anyhow::Result<Value> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = cargo(root, &["metadata", "--format-version", "1", "--locked", "--filter-platform", &host])?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// What cargo prints.
fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(arguments).stderr(std::process::Stdio::inherit());
    let output = command.output().with_context(|| format!("cargo {}", arguments[0]))?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments[0], output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("cargo {}", arguments[0]))
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

fn licences(packages: &[Value], complaints: &mut Vec<String>) {
    for package in packages {
        let licence = text(package, "license");
        if !allowed(licence) {
            complaints.push(format!("{} {}: licence {licence:?}", text(package, "name"), text(package, "version")));
        }
    }
}

/// Whether an SPDX expression (or the older form with slashes) can be met by the licences that are allowed.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> bool {
    let mut met = both(words);
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words);
    }
    met
}

fn both(words: &mut Words<'_>) -> bool {
    let mut met = one(words);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words);
    }
    met
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = either(words);
        return words.next_if_eq(&")").is_some() && met;
    }
    let Some(licence) = words.next() else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or_default();
        return LICENCES.contains(&format!("{licence} WITH {exception}").as_str());
    }
    LICENCES.contains(&licence)
}

fn origins(packages: &[Value], complaints: &mut Vec<String>) {
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
    for package in packages {
        if package["source"].as_str().is_some_and(|source| source != CRATES_IO) {
            complaints.push(format!("{}: comes from {}", text(package, "name"), text(package, "source")));
        }
    }
}

fn duplicates(packages: &[Value], complaints: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    versions.retain(|_, versions| versions.len() > 1);
    for (name, versions) in &versions {
        if !TWICE.iter().any(|(known, _)| known == name) {
            let versions: Vec<&str> = versions.iter().copied().collect();
            complaints.push(format!("{name}: comes as {}; one is enough, or say why in xtask", versions.join(" and ")));
        }
    }
    for (name, _) in TWICE {
        if !versions.contains_key(name) {
            complaints.push(format!("{name}: comes once now; take it out of the table in xtask"));
        }
    }
}

/// Dependencies that the workspace offers and none of its crates takes.
fn untaken(root: &Path, packages: &[Value], complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let offered = manifest.split("\n[").find(|section| section.starts_with("workspace.dependencies]"));
    let taken: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .flat_map(|package| package["dependencies"].as_array().into_iter().flatten())
        .map(|dependency| text(dependency, "name"))
        .collect();
    for line in offered.context("Cargo.toml: no [workspace.dependencies]")?.lines().skip(1) {
        let name = line.split(' ').next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('#') && !taken.contains(name) {
            complaints.push(format!("Cargo.toml: {name}: no crate takes it"));
        }
    }
    Ok(())
}

/// Binaries and tests must ask for the same features: otherwise a dependency, and all that stands on it, is built twice.
fn features(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let tree = |edges: &str| -> anyhow::Result<BTreeSet<String>> {
        let arguments =
            ["tree", "--locked", "--workspace", "--prefix", "none", "--format", "{p} {f}", "--edges", edges];
        let text = cargo(root, &arguments)?;
        Ok(text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
    };
    let all = tree("all")?;
    for dependency in tree("normal,build")?.difference(&all) {
        complaints.push(format!("{dependency}: has other features in tests (see `use fastrand` in xtask)"));
    }
    Ok(())
}

/// Dependencies of a crate of this workspace that none of its sources mentions.
fn unmentioned(package: &Value, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let manifest = Path::new(text(package, "manifest_path"));
    let folder = manifest.parent().context("a manifest lies in a folder")?;
    let main = mentions(&folder.join("src"))?;
    let mut tests = BTreeSet::new();
    for other in ["tests", "examples", "benches"] {
        tests.extend(mentions(&folder.join(other))?);
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = dependency["rename"].as_str().unwrap_or(text(dependency, "name"));
        let word = name.replace('-', "_");
        if main.contains(&word) {
            continue;
        }
        let complaint = match (dependency["kind"].as_str(), tests.contains(&word)) {
            (None, true) => "only tests mention it: a dev-dependency",
            (None | Some("dev"), false) => "no source mentions it",
            _ => continue,
        };
        complaints.push(format!("{}: {name}: {complaint}", text(package, "name")));
    }
    Ok(())
}

/// The words in the sources of a folder, comments left out.
fn mentions(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    if !folder.exists() {
        return Ok(words);
    }
    for file in super::sources(folder)? {
        let source = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
        let split = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.extend(split.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn licence_expressions() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 / MIT", true),
            ("GPL-3.0", false),
            ("MIT OR LGPL-2.1-or-later", true),
            ("MIT AND LGPL-2.1-or-later", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR GPL-3.0) AND GPL-3.0", false),
            ("GPL-3.0 OR MIT AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("(MIT", false),
            ("MIT)", false),
            ("", false),
        ] {
            assert_eq!(allowed(expression), expected, "{expression}");
        }
    }
}
