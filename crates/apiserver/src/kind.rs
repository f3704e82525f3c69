//! The seam between the server, which treats every kind alike, and what is particular to a kind:
//! [`Kind`] and [`Kinds`] say what a kind is, [`Hooks`] what it does. The server calls the hooks in
//! the order in which they stand here.

use serde_json::Value;

pub use crate::kinds::{Kind, Kinds};
use crate::status::ApiError;
use crate::store::Store;
use crate::validate::FieldError;

/// What is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of the object itself.
    Update,
    /// A change through a subresource (`status`, `scale`, `ephemeralcontainers`, ...).
    Subresource,
    /// A deletion (only for `admit`).
    Delete,
}

/// What a write is judged by.
pub struct Write<'a> {
    /// All kinds.
    pub kinds: &'a Kinds,
    /// The kind written.
    pub kind: &'a Kind,
    /// What is being done.
    pub operation: Operation,
    /// The subresource written, or empty.
    pub subresource: &'a str,
    /// Who writes.
    pub user: &'a crate::identity::Identity,
    /// What is stored.
    pub store: &'a Store,
    /// Whether the outcome is thrown away.
    pub dry_run: bool,
    /// The network (a /16) that services' addresses come from.
    pub service_network: [u8; 2],
}

/// Admission: what is done, the new state, the old one.
pub type Admit = fn(&Write<'_>, Option<&mut Value>, Option<&Value>) -> Result<(), ApiError>;

/// The behaviour of a kind that is not data. Every hook is a function of its arguments; the
/// default of each does nothing.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Fills in defaults beyond those of `defaults.json` or the schema (which the server applies
    /// before). Called on create, on every update's outcome, and on the outcome of patches.
    pub default: fn(&mut Value),
    /// Sets what only the server sets, and takes out what a writer may not set (`old` is `None` on
    /// create). Isolation of status and spec, generation and metadata are done by the server.
    pub prepare: fn(&mut Value, Option<&Value>),
    /// Admission that looks at other objects, or mutates (clusterIP, service account of pods,
    /// quota, ...). `object` is `None` on deletion.
    pub admit: Admit,
    /// Judges the outcome (`old` is `None` on create).
    pub validate: fn(&Value, Option<&Value>, Operation) -> Vec<FieldError>,
    /// Warnings for the writer, such as deprecated fields.
    pub warn: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Marks the stored object before a deletion is decided, such as with a finalizer that lets the
    /// kind clean up.
    pub begin_delete: fn(&mut Value),
    /// Converts from the stored version to this kind's, and back (core and `events.k8s.io` events).
    pub from_storage: Option<fn(&mut Value)>,
    /// See `from_storage`.
    pub to_storage: Option<fn(&mut Value)>,
    /// The value of a field selector's field; `None` when the kind does not know the field.
    /// `metadata.name` and `metadata.namespace` are the server's.
    pub field: fn(&Value, &str) -> Option<String>,
    /// The fields that `field` knows.
    pub fields: &'static [&'static str],
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            default: |_| {},
            prepare: |_, _| {},
            admit: |_, _, _| Ok(()),
            validate: |_, _, _| Vec::new(),
            warn: |_, _| Vec::new(),
            begin_delete: |_| {},
            from_storage: None,
            to_storage: None,
            field: |_, _| None,
            fields: &[],
        }
    }
}
