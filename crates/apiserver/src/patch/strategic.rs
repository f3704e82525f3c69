//! Strategic merge patch: lists merged by key, with the directives `$patch`, `$retainKeys`,
//! `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

use serde_json::{Map, Value};

use crate::schema::Schema;

/// Why a patch cannot be applied.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The patch itself is wrong.
    Patch(String),
    /// The patch does not fit the object.
    Type(String),
}

/// Applies a patch to an object of this schema.
pub(crate) fn apply(schema: &Schema, old: &Value, patch: &Value) -> Result<Value, Fault> {
    let empty = Map::new();
    let mut target = old.as_object().unwrap_or(&empty).clone();
    let patch = patch.as_object().unwrap_or(&empty);
    merge_map(Some(schema), &mut target, patch)?;
    Ok(Value::Object(target))
}

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

fn merge_map(
    schema: Option<&Schema>,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), Fault> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Fault::Patch(format!("Unknown patch type found: {other}"))),
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        let missing = patch.keys().find(|k| !k.starts_with('$') && !keep.iter().any(|kept| kept == k.as_str()));
        if missing.is_some() {
            return Err(Fault::Patch("invalid patch format of retainKeys".to_owned()));
        }
        target.retain(|k, _| keep.iter().any(|kept| kept == k.as_str()));
    }
    for (key, list) in patch.iter().filter(|(k, _)| k.starts_with(DELETE)) {
        let field = &key[DELETE.len()..];
        if let (Some(Value::Array(current)), Value::Array(gone)) = (target.get_mut(field), list) {
            current.retain(|v| !gone.contains(v));
        }
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        let below = schema.and_then(|s| s.field(key));
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(fields) => {
                if let Some(Value::Object(inner)) = target.get_mut(key) {
                    let deleted = fields.get("$patch").and_then(Value::as_str) == Some("delete");
                    merge_map(below, inner, fields)?;
                    if deleted {
                        target.remove(key);
                    }
                } else if fields.get("$patch").and_then(Value::as_str) != Some("delete") {
                    let mut inner = Map::new();
                    merge_map(below, &mut inner, fields)?;
                    target.insert(key.clone(), Value::Object(inner));
                }
            }
            Value::Array(entries) => {
                let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
                let current = match target.get(key) {
                    Some(Value::Array(current)) => current.clone(),
                    _ => Vec::new(),
                };
                target.insert(key.clone(), Value::Array(merge_list(below, &current, entries, order)?));
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
    // An order without the list itself only sorts.
    for (key, order) in patch.iter().filter(|(k, _)| k.starts_with(ORDER)) {
        let field = &key[ORDER.len()..];
        if patch.contains_key(field) {
            continue;
        }
        if let (Some(Value::Array(current)), Value::Array(order)) = (target.get(field), order) {
            let below = schema.and_then(|s| s.field(field));
            let sorted = merge_list(below, current, &[], Some(order))?;
            target.insert(field.to_owned(), Value::Array(sorted));
        }
    }
    Ok(())
}

fn merge_list(
    schema: Option<&Schema>,
    current: &[Value],
    patch: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, Fault> {
    let strategy = schema.map(|s| &s.patch);
    if !strategy.is_some_and(|s| s.merge) {
        return Ok(clean_list(patch));
    }
    let Some(key) = strategy.and_then(|s| s.key.as_deref()) else {
        let mut merged = current.to_vec();
        merged.extend(patch.iter().filter(|v| !current.contains(v)).cloned().collect::<Vec<_>>());
        let mut seen = Vec::new();
        merged.retain(|v| {
            let new = !seen.contains(v);
            seen.push(v.clone());
            new
        });
        let own: Vec<Value> = patch.to_vec();
        return Ok(sort(merged, current, order.unwrap_or(&own), |v| Some(v)));
    };
    if let Some(order) = order {
        in_order(key, patch, order)?;
    }
    let item = schema.and_then(Schema::item);
    let mut merged = current.to_vec();
    if patch.iter().any(|p| p.get("$patch").and_then(Value::as_str) == Some("replace")) {
        let rest = patch.iter().filter(|p| p.get("$patch").is_none());
        return Ok(rest.cloned().collect());
    }
    for entry in patch {
        let Some(fields) = entry.as_object() else {
            return Err(Fault::Type(format!("expected an object in the list, found {entry}")));
        };
        let directive = fields.get("$patch").and_then(Value::as_str);
        let Some(value) = fields.get(key) else {
            return Err(Fault::Type(format!("map: {} does not contain declared merge key: {key}", go_map(fields))));
        };
        match directive {
            Some("delete") => merged.retain(|m| m.get(key) != Some(value)),
            Some("merge") | None => {
                if let Some(Value::Object(found)) = merged.iter_mut().find(|m| m.get(key) == Some(value)) {
                    let fields: Map<String, Value> =
                        fields.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())).collect();
                    merge_map(item, found, &fields)?;
                } else {
                    let mut fresh = Map::new();
                    let fields: Map<String, Value> =
                        fields.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())).collect();
                    merge_map(item, &mut fresh, &fields)?;
                    merged.push(Value::Object(fresh));
                }
            }
            Some(other) => return Err(Fault::Type(format!("unknown patch type: {other} in map: {}", go_map(fields)))),
        }
    }
    let own: Vec<Value> = patch.to_vec();
    let wanted: Vec<Value> =
        order.unwrap_or(&own).iter().map(|o| o.get(key).cloned().unwrap_or_else(|| o.clone())).collect();
    Ok(sort(merged, current, &wanted, |v| v.get(key)))
}

/// Refuses a patch whose entries are not all in its order, as they stand.
fn in_order(key: &str, patch: &[Value], order: &[Value]) -> Result<(), Fault> {
    let entries: Vec<&Value> = patch.iter().filter(|p| p.get("$patch").is_none_or(|d| d != "delete")).collect();
    let mut rest = order.iter();
    if entries.iter().all(|entry| rest.any(|o| o.get(key) == entry.get(key))) {
        return Ok(());
    }
    let shown = |list: &[Value]| go_value(&Value::Array(list.to_vec()));
    Err(Fault::Type(format!(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        shown(patch),
        shown(order)
    )))
}

/// A list that replaces another, without directives and nulls in it.
fn clean_list(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|v| v.get("$patch").is_none()).cloned().collect()
}

/// Sorts by the patch's order; what it does not name keeps its place relative to what stood
/// around it on the server.
fn sort(merged: Vec<Value>, server: &[Value], order: &[Value], key: impl Fn(&Value) -> Option<&Value>) -> Vec<Value> {
    let place = |v: &Value| key(v).and_then(|k| order.iter().position(|o| o == k));
    let was = |v: &Value| key(v).and_then(|k| server.iter().position(|s| key(s) == Some(k)));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|v| place(v).is_some());
    named.sort_by_key(|v| place(v));
    others.sort_by_key(|v| was(v).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut left, mut right) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => out.extend(left.by_ref()),
            (None, Some(_)) => out.extend(right.by_ref()),
            (Some(a), Some(b)) => {
                // An entry new to the server comes before those that it does not order.
                let server_first = matches!((was(a), was(b)), (Some(a), Some(b)) if b < a);
                out.extend(if server_first { right.next() } else { left.next() });
            }
        }
    }
}

/// A value as Go prints it.
pub(crate) fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Object(map) => go_map(map),
        Value::Array(list) => format!("[{}]", list.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

fn go_map(map: &Map<String, Value>) -> String {
    let fields: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v))).collect();
    format!("map[{}]", fields.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    #[test]
    fn containers_merge_by_name() {
        let pod = builtin::definition("core.v1.Pod").unwrap();
        let old = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "$patch": "delete"}]}});
        let new = apply(pod, &old, &patch).unwrap();
        // What the patch adds comes first, as the recorded exchanges show.
        assert_eq!(
            new,
            json!({"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}]}})
        );
    }
}
