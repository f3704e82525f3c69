//! Which objects form a topology: a root, and all whose `replication.replica.primaryName` leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One object, as far as forming topologies goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// The object that its members replicate from.
    pub(crate) primary: Option<String>,
    /// It replicates at all.
    pub(crate) replicates: bool,
}

/// Why an object belongs to no topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// It waits for an object that does not exist.
    Missing { primary: String },
    /// Following the names leads back to it.
    Circle { names: Vec<String> },
    /// The root has no replication.
    RootDoesNotReplicate { root: String },
}

impl Orphan {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "PrimaryNotFound",
            Self::Circle { .. } => "PrimaryCircle",
            Self::RootDoesNotReplicate { .. } => "PrimaryDoesNotReplicate",
        }
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { primary } => write!(
                f,
                "spec.replication.replica.primaryName: there is no MariaDB {primary} in this namespace; waiting for it"
            ),
            Self::Circle { names } => {
                write!(f, "spec.replication.replica.primaryName leads in a circle: {}", names.join(" -> "))
            }
            Self::RootDoesNotReplicate { root } => {
                write!(f, "the MariaDB {root} has no spec.replication.enabled; its members cannot be followed")
            }
        }
    }
}

/// The topologies of one namespace: root -> all its objects (the root too), and those that belong to none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) roots: BTreeMap<String, BTreeSet<String>>,
    pub(crate) orphans: BTreeMap<String, Orphan>,
}

/// Forms topologies.
pub(crate) fn form(objects: &[Link]) -> Families {
    let by_name: BTreeMap<&str, &Link> = objects.iter().map(|object| (object.name.as_str(), object)).collect();
    let mut families = Families::default();
    for object in objects {
        match root_of(object, &by_name) {
            Ok(root) => {
                families.roots.entry(root.to_owned()).or_default().insert(object.name.clone());
            }
            Err(orphan) => {
                families.orphans.insert(object.name.clone(), orphan);
            }
        }
    }
    families
}

fn root_of<'a>(object: &'a Link, by_name: &BTreeMap<&str, &'a Link>) -> Result<&'a str, Orphan> {
    let mut path = vec![object.name.as_str()];
    let mut current = object;
    while let Some(primary) = &current.primary {
        if path.contains(&primary.as_str()) {
            let names = path.iter().map(ToString::to_string).chain([primary.clone()]).collect();
            return Err(Orphan::Circle { names });
        }
        current = by_name.get(primary.as_str()).ok_or_else(|| Orphan::Missing { primary: primary.clone() })?;
        path.push(&current.name);
    }
    if path.len() > 1 && !current.replicates {
        return Err(Orphan::RootDoesNotReplicate { root: current.name.clone() });
    }
    Ok(&current.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, primary: Option<&str>) -> Link {
        Link { name: name.to_owned(), primary: primary.map(str::to_owned), replicates: true }
    }

    #[test]
    fn roots_and_cascades() {
        let formed = form(&[object("a", None), object("b", Some("a")), object("c", Some("b")), object("z", None)]);
        assert_eq!(formed.roots["a"].iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(formed.roots["z"].len(), 1);
        assert!(formed.orphans.is_empty());
    }

    #[test]
    fn orphans_say_why() {
        let lone = Link { replicates: false, ..object("lone", None) };
        let formed = form(&[
            object("b", Some("gone")),
            object("x", Some("y")),
            object("y", Some("x")),
            object("s", Some("s")),
            lone,
            object("t", Some("lone")),
        ]);
        let said: Vec<String> = formed.orphans.values().map(ToString::to_string).collect();
        assert_eq!(formed.orphans.values().map(Orphan::reason).collect::<BTreeSet<_>>().len(), 3);
        assert!(said[0].contains("there is no MariaDB gone"), "{said:?}");
        assert!(said[1].ends_with("s -> s"), "{said:?}");
        assert!(said[3].ends_with("x -> y -> x"), "{said:?}");
        assert_eq!(formed.roots.len(), 1);
    }
}
