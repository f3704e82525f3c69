//! The kinds that are served: built-in ones from `data/kinds.json`, custom ones from their
//! definitions. Everything that handles objects asks a [`Kind`], so that no kind needs code of
//! its own to be stored, patched or listed.

mod hooks;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde::Deserialize;
use serde_json::Value;

use crate::crd::Custom;
use crate::schema::{Schema, builtin};

pub use hooks::hooks;

/// All verbs of an ordinary resource, in the order of discovery.
pub const ALL_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One version of a resource.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// Version within the group.
    pub version: String,
    /// Name in objects.
    pub kind: String,
    /// Name of its lists.
    pub list_kind: String,
    /// Name in paths.
    pub plural: String,
    /// Other name for kubectl.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Groups of kinds for kubectl, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: Vec<String>,
    /// Names of its subresources.
    pub subresources: Vec<String>,
    /// Structure of its objects.
    pub schema: SchemaSource,
    /// The warning that it is deprecated, if it is.
    pub deprecation: Option<String>,
    /// Where it comes from a definition.
    pub custom: Option<Arc<Custom>>,
}

/// Where a kind's schema lives.
#[derive(Debug, Clone)]
pub enum SchemaSource {
    /// Built in.
    Builtin(&'static Schema),
    /// Of a custom resource definition.
    Custom(Arc<Schema>),
}

impl Kind {
    /// Structure of its objects.
    pub fn schema(&self) -> &Schema {
        match &self.schema {
            SchemaSource::Builtin(schema) => schema,
            SchemaSource::Custom(schema) => schema,
        }
    }

    /// `group/version`, or the version alone.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `plural.group`, as messages name a resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Kind.group`, as messages name a kind.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Whether it has this subresource.
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s == subresource)
    }

    /// Whether this verb is allowed on it.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The key under which its objects are stored, whatever version they are asked for in. Events
    /// of both groups are one store.
    pub fn storage(&self) -> (String, String) {
        if self.kind == "Event" && self.group == "events.k8s.io" {
            return (String::new(), self.plural.clone());
        }
        (self.group.clone(), self.plural.clone())
    }

    /// Whether `metadata.generation` counts changes of the specification.
    pub fn has_generation(&self) -> bool {
        if self.custom.is_some() {
            return true;
        }
        let has_spec = self.schema().field("spec").is_some();
        match (self.group.as_str(), self.kind.as_str()) {
            ("", "Pod" | "PodTemplate" | "ReplicationController")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("scheduling.k8s.io", "PriorityClass") => true,
            ("" | "coordination.k8s.io" | "autoscaling", _) => false,
            _ => has_spec,
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    group: String,
    version: String,
    kind: String,
    plural: String,
    namespaced: bool,
    short: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<String>,
    verbs: Option<Vec<String>>,
    deprecation: Option<String>,
}

/// The built-in kinds.
pub fn builtins() -> Vec<Kind> {
    let entries: Vec<Entry> =
        serde_json::from_str(include_str!("../../data/kinds.json")).expect("data/kinds.json is checked by a test");
    entries.into_iter().filter_map(kind).collect()
}

fn kind(entry: Entry) -> Option<Kind> {
    let schema = builtin::definition(&builtin::definition_name(&entry.group, &entry.version, &entry.kind))?;
    Some(Kind {
        list_kind: format!("{}List", entry.kind),
        singular: entry.kind.to_lowercase(),
        schema: SchemaSource::Builtin(schema),
        custom: None,
        deprecation: entry.deprecation,
        verbs: entry.verbs.unwrap_or_else(|| ALL_VERBS.iter().map(ToString::to_string).collect()),
        group: entry.group,
        version: entry.version,
        kind: entry.kind,
        plural: entry.plural,
        short_names: entry.short,
        categories: entry.categories,
        namespaced: entry.namespaced,
        subresources: entry.subresources,
    })
}

/// All kinds that are served now.
#[derive(Debug)]
pub struct Kinds {
    builtin: Vec<Arc<Kind>>,
    custom: RwLock<BTreeMap<String, Vec<Arc<Kind>>>>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self { builtin: builtins().into_iter().map(Arc::new).collect(), custom: RwLock::default() }
    }
}

impl Kinds {
    /// Finds a resource by its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.all().into_iter().find(|k| k.plural == plural && k.group == group && k.version == version)
    }

    /// Finds a kind by its name in objects.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.all().into_iter().find(|k| k.kind == kind && k.group == group && k.version == version)
    }

    /// Every kind in every version, groups together.
    pub fn all(&self) -> Vec<Arc<Kind>> {
        let custom = self.custom.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.builtin.iter().chain(custom.values().flatten()).cloned().collect()
    }

    /// Serves what an accepted definition defines; replaces what it defined before.
    pub fn install(&self, name: &str, kinds: Vec<Kind>) {
        let mut custom = self.custom.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        custom.insert(name.to_owned(), kinds.into_iter().map(Arc::new).collect());
    }

    /// Names of the definitions whose kinds are served.
    pub fn definitions(&self) -> Vec<String> {
        self.custom.read().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned().collect()
    }

    /// Stops serving a definition's kinds.
    pub fn remove(&self, name: &str) {
        self.custom.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name);
    }

    /// The kind that a body of `apiVersion` and `kind` is of.
    pub fn of(&self, object: &Value) -> Option<Arc<Kind>> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.find_kind(group, version, object.get("kind")?.as_str()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_schema() {
        let entries: Vec<Entry> = serde_json::from_str(include_str!("../../data/kinds.json")).unwrap();
        for entry in entries {
            let name = builtin::definition_name(&entry.group, &entry.version, &entry.kind);
            assert!(builtin::definition(&name).is_some(), "{name}");
        }
    }
}
