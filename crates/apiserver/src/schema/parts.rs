//! The walk that all judges of custom resources share: over the parts of a value that its schema describes.

use serde_json::Value;

use super::{Additional, Schema};

/// Where a part stands in the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A field of an object.
    Field(&'a str),
    /// An entry of a list.
    Entry(usize),
}

/// A field or entry, with its schema.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Where it stands.
    pub step: Step<'a>,
    /// What describes it.
    pub schema: &'a Schema,
    /// What it is.
    pub value: &'a Value,
}

impl Part<'_> {
    /// Its path, given that of the whole.
    pub fn at(&self, path: &str) -> String {
        match self.step {
            Step::Field(name) => child(path, name),
            Step::Entry(index) => format!("{path}[{index}]"),
        }
    }
}

/// The path of a field below `path`.
pub fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Schema {
    /// The parts of a value that this describes, but for the metadata of resources, which is judged by its own type.
    pub fn parts<'a>(&'a self, value: &'a Value) -> Vec<Part<'a>> {
        let described = |name: &str| {
            self.properties.get(name).or(match &self.additional {
                Additional::Schema(entry) => Some(&**entry),
                _ => None,
            })
        };
        match value {
            Value::Object(fields) => fields
                .iter()
                .filter_map(|(name, value)| Some(Part { step: Step::Field(name), schema: described(name)?, value }))
                .filter(|part| part.schema.reference.is_none())
                .collect(),
            Value::Array(entries) => {
                let Some(items) = self.items.as_deref() else { return Vec::new() };
                let part = |(index, value)| Part { step: Step::Entry(index), schema: items, value };
                entries.iter().enumerate().map(part).collect()
            }
            _ => Vec::new(),
        }
    }
}
