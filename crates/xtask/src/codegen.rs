//! Generated files: the CRDs, what installs the operator, the field reference. `--check` (and a test) fails when one is stale.

mod install;
mod reference;

use std::fs;

use anyhow::{Context as _, bail};

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = crate::root();
    let mut stale = Vec::new();
    for (path, content) in files()? {
        let file = root.join(&path);
        if fs::read_to_string(&file).is_ok_and(|old| old == content) {
            continue;
        }
        if check {
            stale.push(path);
            continue;
        }
        fs::create_dir_all(file.parent().context("a generated file lies in a folder")?)?;
        fs::write(&file, content).with_context(|| path.clone())?;
        println!("{path}");
    }
    if stale.is_empty() { Ok(()) } else { bail!("stale, run `cargo xtask codegen`: {}", stale.join(", ")) }
}

/// Path and content of each generated file.
fn files() -> anyhow::Result<Vec<(String, String)>> {
    const MADE: &str = "# Made by `cargo xtask codegen`; changes here are lost.\n";
    let mut files = Vec::new();
    let mut crds = String::new();
    for crd in api::crds() {
        let name = &crd.spec.names.plural;
        let yaml = serde_saphyr::to_string(&crd).with_context(|| format!("CRD {name}"))?;
        files.push((format!("deploy/crds/{}_{name}.yaml", crd.spec.group), format!("{MADE}{yaml}")));
        crds.push_str(&yaml);
        crds.push_str("---\n");
        files.push((
            format!("docs/reference/{}.md", crd.spec.names.singular.as_deref().unwrap_or(name)),
            reference::page(&crd),
        ));
    }
    files.push(("deploy/install.yaml".to_owned(), format!("{MADE}{crds}{}", install::manifests())));
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_files_are_fresh() {
        super::run(true).unwrap();
    }
}
