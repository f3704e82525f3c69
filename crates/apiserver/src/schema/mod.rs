//! Structural schemas, the one description that built-in kinds and custom resources share.
//!
//! Decoding, defaulting, pruning, validation, patch strategies and field ownership all walk a
//! [`Schema`]. Built-in types come from [`builtin`], those of custom resources from the
//! `openAPIV3Schema` of their definition.

pub mod builtin;
pub mod decode;
pub mod defaults;
pub mod parse;
pub mod parts;
pub mod prune;
pub mod quantity;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// The JSON type a node accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Type {
    /// Anything.
    #[default]
    Any,
    /// A struct or a map.
    Object,
    /// A list.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A truth value.
    Boolean,
    /// A whole number or a string (`x-kubernetes-int-or-string`).
    IntOrString,
    /// A resource quantity: decoded from numbers and strings, stored as its canonical string.
    Quantity,
    /// `metav1.Time`: RFC 3339, stored in seconds and UTC.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// Base64.
    Bytes,
}

/// How several writers share a list or a map (`x-kubernetes-list-type`, `x-kubernetes-map-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// The whole value has one owner.
    Atomic,
    /// Each field, or each entry, has its own.
    Granular,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by these keys.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a field (`x-kubernetes-patch-strategy`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged, by `key` where there is one.
    pub merge: bool,
    /// Keys that the patch's `$retainKeys` leaves out are dropped.
    pub retain_keys: bool,
    /// `x-kubernetes-patch-merge-key`.
    pub key: Option<String>,
}

/// What an object accepts beyond its properties.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Nothing is said: unknown fields are pruned.
    #[default]
    None,
    /// `additionalProperties: true`.
    Any,
    /// A map of this.
    Schema(Box<Schema>),
}

/// One node.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// The built-in definition's name, such as `core.v1.Container`; empty elsewhere.
    pub name: Arc<str>,
    /// What it accepts.
    pub ty: Type,
    /// `format`, such as `int32` or `date-time`.
    pub format: Option<String>,
    /// The built-in definition this stands for.
    pub reference: Option<Arc<str>>,
    /// Whether `null` is a value.
    pub nullable: bool,
    /// Known fields.
    pub properties: BTreeMap<String, Schema>,
    /// Other fields.
    pub additional: Additional,
    /// A list's entries.
    pub items: Option<Box<Schema>>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// Ownership of a list or map, where declared.
    pub topology: Option<Topology>,
    /// Strategic merge, where declared.
    pub patch: PatchStrategy,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `default`.
    pub default: Option<Value>,
    /// Value validations (custom resources only).
    pub checks: Option<Box<validate::Checks>>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<crate::crd::cel::Rule>,
}

impl Schema {
    /// The definition behind a reference, or the node itself.
    pub fn resolve(&self) -> &Schema {
        match &self.reference {
            Some(name) => builtin::definition(name).unwrap_or(self),
            None => self,
        }
    }

    /// The schema of the field `name`: a property, or the entry of a map. `None` when unknown.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        let target = self.resolve();
        target.properties.get(name).or(match &target.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// The schema of a list's entries.
    pub fn item(&self) -> Option<&Schema> {
        self.resolve().items.as_deref()
    }

    /// Whether this is a map of arbitrary keys, not a struct.
    pub fn is_map(&self) -> bool {
        let target = self.resolve();
        target.properties.is_empty() && matches!(target.additional, Additional::Schema(_) | Additional::Any)
    }

    /// How writers share this list or map. Lists are atomic and objects granular unless declared
    /// otherwise; a list with a patch strategy but no list type takes its keys from there, as
    /// Kubernetes does.
    pub fn sharing(&self) -> Topology {
        let target = self.resolve();
        if let Some(topology) = self.topology.as_ref().or(target.topology.as_ref()) {
            return topology.clone();
        }
        if target.ty == Type::Array {
            return match (&self.patch.key, self.patch.merge) {
                (Some(key), true) => Topology::Map(vec![key.clone()]),
                (None, true) => Topology::Set,
                _ => Topology::Atomic,
            };
        }
        Topology::Granular
    }

    /// Whether unknown fields below this node are kept.
    pub fn keeps_unknown(&self) -> bool {
        let target = self.resolve();
        self.preserve_unknown
            || target.preserve_unknown
            || matches!(target.additional, Additional::Any)
            || target.ty == Type::Any
    }
}
