//! Sets of fields, as `fieldsV1` writes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of paths: a tree whose nodes may be members themselves. Its keys are those of
/// `fieldsV1`: `f:name`, `k:{"name":"a"}`, `v:"x"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// A set of one path: this one.
    pub(crate) fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Reads `fieldsV1`; `None` when it is none.
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (key, below) in value.as_object()? {
            if key == "." {
                set.member = true;
                continue;
            }
            let known = ["f:", "k:", "v:", "i:"].iter().any(|p| key.starts_with(p));
            let mut child = known.then(|| Self::parse(below)).flatten()?;
            child.member |= child.children.is_empty();
            set.children.insert(key.clone(), child);
        }
        Some(set)
    }

    /// Writes `fieldsV1`.
    pub(crate) fn render(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.render());
        }
        Value::Object(map)
    }

    /// Adds a child, unless it is empty.
    pub(crate) fn add(&mut self, key: String, child: Self) {
        if !child.is_empty() {
            let merged = match self.children.remove(&key) {
                Some(before) => before.union(&child),
                None => child,
            };
            self.children.insert(key, merged);
        }
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.member |= other.member;
        for (key, child) in &other.children {
            let merged = out.children.get(key).map_or_else(|| child.clone(), |own| own.union(child));
            out.children.insert(key.clone(), merged);
        }
        out
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (key, child) in &self.children {
            let rest = other.children.get(key).map_or_else(|| child.clone(), |o| child.difference(o));
            out.add(key.clone(), rest);
        }
        out
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(o) = other.children.get(key) {
                out.add(key.clone(), child.intersection(o));
            }
        }
        out
    }

    /// Takes out a path with everything below it.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.children.remove(*first);
        } else if let Some(child) = self.children.get_mut(*first) {
            child.remove(rest);
            if child.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// The members, as conflicts name them: `.spec.containers[name="a"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.walk("", &mut out);
        out
    }

    fn walk(&self, prefix: &str, out: &mut Vec<String>) {
        if self.member {
            out.push(prefix.to_owned());
        }
        for (key, child) in &self.children {
            child.walk(&format!("{prefix}{}", shown(key)), out);
        }
    }
}

fn shown(key: &str) -> String {
    let (kind, rest) = key.split_at(key.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let fields: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let parts: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_survive_their_text_and_name_paths() {
        let text = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}, "f:data": {}});
        let set = FieldSet::parse(&text).unwrap();
        assert_eq!(set.render(), text);
        assert_eq!(set.paths(), [".data", ".spec.containers[name=\"a\"]", ".spec.containers[name=\"a\"].image"]);
        assert!(set.difference(&set).is_empty());
        assert_eq!(set.intersection(&set), set);
        assert!(FieldSet::parse(&json!({"x": {}})).is_none());
    }
}
