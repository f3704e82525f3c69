//! Typed objects and sets of fields: what an object holds, how two differ, how one is merged into
//! another, and how what nobody owns any more is taken out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::{Schema, Topology, Type, defaults};

/// How a value is shared by its writers.
fn sharing(schema: Option<&Schema>, value: &Value) -> Topology {
    let untyped = schema.is_none_or(|s| s.resolve().ty == Type::Any && s.resolve().items.is_none());
    match (schema, value) {
        (Some(schema), _) if !untyped || schema.topology.is_some() => schema.sharing(),
        (_, Value::Array(_)) => Topology::Atomic,
        _ => Topology::Granular,
    }
}

/// The key of a list's entry.
fn element(list: Option<&Schema>, topology: &Topology, entry: &Value) -> Option<String> {
    match topology {
        Topology::Set => Some(format!("v:{entry}")),
        Topology::Map(keys) => {
            let item = list.and_then(Schema::item);
            let mut fields = Map::new();
            for key in keys {
                let own = entry.get(key).filter(|v| !v.is_null()).cloned();
                if let Some(value) = own.or_else(|| default(item, key)) {
                    fields.insert(key.clone(), value);
                }
            }
            (!fields.is_empty()).then(|| format!("k:{}", Value::Object(fields)))
        }
        _ => None,
    }
}

fn default(item: Option<&Schema>, key: &str) -> Option<Value> {
    let item = item?;
    if let Some(default) = item.properties.get(key).and_then(|p| p.default.clone()) {
        return Some(default);
    }
    let mut probe = json!({});
    defaults::builtin(item, &mut probe);
    let fallback = || {
        let target = item.resolve();
        let plain = !target.name.is_empty() && target.required.iter().any(|r| r == key);
        plain.then(|| zero_of(target.properties.get(key)?.resolve().ty)).flatten()
    };
    probe.get(key).cloned().or_else(fallback)
}

/// What a required field of a built-in kind is when it is left out.
fn zero_of(ty: Type) -> Option<Value> {
    match ty {
        Type::String => Some("".into()),
        Type::Integer | Type::Number => Some(0.into()),
        Type::Boolean => Some(false.into()),
        _ => None,
    }
}

fn is_declared(schema: Option<&Schema>, name: &str) -> bool {
    schema.is_some_and(|s| s.resolve().properties.contains_key(name))
}

/// The fields of a configuration.
pub(crate) fn fields(schema: Option<&Schema>, value: &Value) -> FieldSet {
    let topology = sharing(schema, value);
    match value {
        Value::Object(map) if topology != Topology::Atomic => {
            let mut set = FieldSet::default();
            for (name, inner) in map {
                let mut child = fields(schema.and_then(|s| s.field(name)), inner);
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                child.member |= empty || !is_declared(schema, name);
                set.add(format!("f:{name}"), child);
            }
            set
        }
        Value::Array(list) if topology != Topology::Atomic && topology != Topology::Granular => {
            let mut set = FieldSet::default();
            for entry in list {
                if let Some(key) = element(schema, &topology, entry) {
                    let mut child = if topology == Topology::Set {
                        FieldSet::leaf()
                    } else {
                        fields(schema.and_then(Schema::item), entry)
                    };
                    child.member = true;
                    set.add(key, child);
                }
            }
            set
        }
        _ => FieldSet::leaf(),
    }
}

/// How two states differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) added: FieldSet,
    pub(crate) removed: FieldSet,
    pub(crate) modified: FieldSet,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }

    fn add(&mut self, key: &str, child: Self) {
        self.added.add(key.to_owned(), child.added);
        self.removed.add(key.to_owned(), child.removed);
        self.modified.add(key.to_owned(), child.modified);
    }
}

fn is_vacant(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Compares two states.
pub(crate) fn compare(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut out = Difference::default();
    let kind = |v: Option<&Value>| match v {
        Some(Value::Object(_)) => Some('o'),
        Some(Value::Array(_)) => Some('a'),
        None | Some(Value::Null) => None,
        Some(_) => Some('s'),
    };
    let (a, b) = (kind(old), kind(new));
    let shape = if a == b || b.is_none() {
        a
    } else if a.is_none() {
        b
    } else {
        Some('s')
    };
    let sample = if shape == Some('a') { Value::Array(Vec::new()) } else { Value::Null };
    let topology = sharing(schema, &sample);
    let granular = match shape {
        Some('o') => topology != Topology::Atomic,
        Some('a') => matches!(topology, Topology::Set | Topology::Map(_)),
        _ => false,
    };
    if !granular || (is_vacant(old) && is_vacant(new)) {
        match (old, new) {
            (None, None) => {}
            (None, Some(_)) => out.added.member = true,
            (Some(_), None) => out.removed.member = true,
            (Some(old), Some(new)) => out.modified.member = old != new,
        }
        return out;
    }
    if shape == Some('o') {
        let empty = Map::new();
        let map = |v: Option<&Value>| v.and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone());
        let (old, new) = (map(old), map(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let below = schema.and_then(|s| s.field(name));
            out.add(&format!("f:{name}"), compare(below, old.get(name), new.get(name)));
        }
    } else {
        let index = |v: Option<&Value>| -> BTreeMap<String, Value> {
            let entries = v.and_then(Value::as_array).into_iter().flatten();
            entries.filter_map(|e| element(schema, &topology, e).map(|k| (k, e.clone()))).collect()
        };
        let (old, new) = (index(old), index(new));
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let item = schema.and_then(Schema::item);
        for key in keys {
            out.add(key, compare(item, old.get(key), new.get(key)));
        }
    }
    out.added.member |= old.is_none();
    out.removed.member |= new.is_none();
    out
}

/// Merges a configuration into an object.
pub(crate) fn merge(schema: Option<&Schema>, live: Option<&Value>, config: &Value) -> Value {
    let topology = sharing(schema, config);
    match (live, config) {
        (_, Value::Object(fields)) if topology != Topology::Atomic => {
            let mut out = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in fields {
                let merged = merge(schema.and_then(|s| s.field(name)), out.get(name), value);
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Some(Value::Array(old)), Value::Array(new)) if matches!(topology, Topology::Set | Topology::Map(_)) => {
            Value::Array(merge_list(schema, &topology, old, new))
        }
        _ => config.clone(),
    }
}

/// Merges keyed lists: the configuration's entries in its order, the others where they stood.
fn merge_list(schema: Option<&Schema>, topology: &Topology, old: &[Value], new: &[Value]) -> Vec<Value> {
    let keys = |list: &[Value]| -> Vec<Option<String>> { list.iter().map(|e| element(schema, topology, e)).collect() };
    let (left, right) = (keys(old), keys(new));
    let find = |keys: &[Option<String>], key: &Option<String>| keys.iter().position(|k| k.is_some() && k == key);
    let item = schema.and_then(Schema::item);
    let mut shared = right.iter().filter(|k| find(&left, k).is_some()).cloned().collect::<Vec<_>>().into_iter();
    let mut next = shared.next();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l].is_some() && left[l] == right[r] {
                out.push(merge(item, Some(&old[l]), &new[r]));
                done.extend(right[r].clone());
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            if find(&right, &left[l]).is_some() && next.is_some() && next.as_ref() != Some(&left[l]) {
                // Shared, but not the one whose turn it is.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if find(&right, &left[l]).is_none() {
                out.push(old[l].clone());
                l += 1;
                continue;
            }
            if left[l].as_ref().is_some_and(|k| done.contains(k)) {
                l += 1;
            }
        }
        if r < right.len() {
            let before = find(&left, &right[r]).map(|i| &old[i]);
            out.push(merge(item, before, &new[r]));
            done.extend(right[r].clone());
            if next.is_some() && next.as_ref() == Some(&right[r]) {
                next = shared.next();
            }
            r += 1;
        }
    }
    out
}

/// Takes out what `last` names and `owned` does not.
pub(crate) fn prune(schema: Option<&Schema>, value: &mut Value, last: &FieldSet, owned: &FieldSet, root: bool) {
    let nothing = FieldSet::default();
    for (key, gone) in &last.children {
        let kept = owned.children.get(key);
        let whole = kept.is_none() && !(root && key == "f:metadata");
        let kept = kept.unwrap_or(&nothing);
        match value {
            Value::Object(map) => {
                let Some(name) = key.strip_prefix("f:") else { continue };
                if whole {
                    map.remove(name);
                } else if let Some(inner) = map.get_mut(name) {
                    prune(schema.and_then(|s| s.field(name)), inner, gone, kept, false);
                }
            }
            Value::Array(entries) => {
                let topology = sharing(schema, &Value::Array(Vec::new()));
                let Some(position) = entries.iter().position(|e| element(schema, &topology, e).as_deref() == Some(key))
                else {
                    continue;
                };
                if whole {
                    entries.remove(position);
                } else {
                    prune(schema.and_then(Schema::item), &mut entries[position], gone, kept, false);
                }
            }
            _ => {}
        }
    }
}

/// The first fault of a configuration against its schema, worded as typed objects word it.
pub(crate) fn fault(schema: Option<&Schema>, value: &Value, path: &str) -> Option<String> {
    let schema = schema?;
    let target = schema.resolve();
    let shown = |v: &Value| match v {
        Value::String(_) if schema.name.is_empty() && target.name.is_empty() && target.ty != Type::Array => {
            "string".to_owned()
        }
        Value::String(text) => format!("&{{{text}}}"),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    };
    let wrong = |what: &str| Some(format!("{path}: expected {what}, got {}", shown(value)));
    if value.is_null() {
        return None;
    }
    match target.ty {
        Type::Object => {
            let Some(map) = value.as_object() else { return wrong("map") };
            for (name, inner) in map {
                match schema.field(name) {
                    Some(below) => {
                        if let Some(fault) = fault(Some(below), inner, &format!("{path}.{name}")) {
                            return Some(fault);
                        }
                    }
                    None if schema.keeps_unknown() => {}
                    None => return Some(format!("{path}.{name}: field not declared in schema")),
                }
            }
            None
        }
        Type::Array => {
            let Some(list) = value.as_array() else { return wrong("list") };
            let topology = schema.sharing();
            let mut seen = BTreeSet::new();
            for (index, entry) in list.iter().enumerate() {
                let key = element(Some(schema), &topology, entry);
                if matches!(topology, Topology::Map(_)) && key.is_none() {
                    let keys = if let Topology::Map(keys) = &topology { keys.join(" ") } else { String::new() };
                    return Some(format!(
                        "{path}: element {index}: associative list with keys has an element that omits all key fields [{keys:?}] (and doesn't have default values for any key fields)"
                    ));
                }
                let step = key.as_deref().map_or_else(|| format!("[{index}]"), step);
                if let Some(key) = key
                    && !seen.insert(key)
                {
                    return Some(format!("{path}: duplicate entries for key {step}"));
                }
                if let Some(fault) = fault(schema.item(), entry, &format!("{path}{step}")) {
                    return Some(fault);
                }
            }
            None
        }
        Type::String | Type::Bytes | Type::Time | Type::MicroTime if !value.is_string() => wrong("string"),
        Type::Boolean if !value.is_boolean() => wrong("boolean"),
        Type::Integer | Type::Number if !value.is_number() => wrong("numeric (int or float)"),
        _ => None,
    }
}

fn step(key: &str) -> String {
    let mut set = FieldSet::default();
    set.add(key.to_owned(), FieldSet::leaf());
    set.paths().pop().unwrap_or_default()
}

/// What Go's encoder writes of an empty object of a built-in kind: fields that are always there.
pub(crate) fn zero(schema: &Schema, depth: usize) -> Value {
    let target = schema.resolve();
    let mut out = Map::new();
    if depth > 12 {
        return Value::Object(out);
    }
    let mut defaulted = json!({});
    if depth > 0 || !target.name.is_empty() {
        let mut shallow = json!({});
        shallow_defaults(schema, &mut shallow);
        defaulted = shallow;
    }
    for (name, property) in &target.properties {
        let inner = property.resolve();
        let required = target.required.contains(name);
        let always = defaulted.get(name).is_some_and(|v| v.as_object().is_some_and(Map::is_empty));
        let is_struct = inner.ty == Type::Object && !inner.properties.is_empty();
        if name == "metadata" || (is_struct && (always || name == "template")) {
            out.insert(name.clone(), zero(property, depth + 1));
        } else if required {
            out.insert(name.clone(), zero_of(inner.ty).unwrap_or(Value::Null));
        }
    }
    Value::Object(out)
}

fn shallow_defaults(schema: &Schema, value: &mut Value) {
    defaults::builtin(schema, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;

    #[test]
    fn lists_merge_by_key_and_what_was_dropped_goes() {
        let pod = builtin::definition("core.v1.Pod");
        let live = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let config = json!({"spec": {"containers": [{"name": "b", "image": "2"}]}});
        let merged = merge(pod, Some(&live), &config);
        assert_eq!(merged, json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}));
        let mut pruned = merged.clone();
        prune(pod, &mut pruned, &fields(pod, &live), &fields(pod, &config), true);
        assert_eq!(pruned, config);
        let difference = compare(pod, Some(&live), Some(&merged));
        assert_eq!(difference.modified.paths(), [".spec.containers[name=\"b\"].image"]);
    }
}
