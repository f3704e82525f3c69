//! The simple JSON paths of printer columns.

use serde_json::Value;

/// The cell of a custom resource's column: the first match, if it is of the column's type.
pub(super) fn cell(object: &Value, path: &str, ty: &str, now: jiff::Timestamp) -> Value {
    let Some(value) = find(object, path).into_iter().next() else { return Value::Null };
    match (ty, value) {
        (_, Value::Null) => Value::Null,
        ("integer", value) => value.as_i64().map_or(Value::Null, Value::from),
        ("number", Value::Number(n)) => Value::Number(n.clone()),
        ("boolean", Value::Bool(b)) => Value::Bool(*b),
        ("string", Value::String(s)) => Value::String(s.clone()),
        ("string", value) => Value::String(value.to_string()),
        ("date", Value::String(s)) => Value::String(super::age(Some(s), now)),
        _ => Value::Null,
    }
}

/// Everything that `path` matches.
fn find<'v>(object: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![object];
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = closing(inner) else { return Vec::new() };
            let (step, after) = (&inner[..end], &inner[end + 1..]);
            found = found.into_iter().flat_map(|value| bracket(value, step)).collect();
            rest = after;
        } else {
            let text = rest.trim_start_matches('.');
            let (name, after) = field(text);
            if name.is_empty() {
                return found;
            }
            found = if name == "*" {
                found.into_iter().flat_map(children).collect()
            } else {
                found.into_iter().filter_map(|value| value.get(name.as_str())).collect()
            };
            rest = after;
        }
    }
    found
}

/// Where a bracket closes, quotes and nested brackets left aside.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(index),
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

/// A field's name, with its escaped dots, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[index..]),
            c => name.push(c),
        }
    }
    (name, "")
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn bracket<'v>(value: &'v Value, step: &str) -> Vec<&'v Value> {
    if step == "*" {
        return children(value);
    }
    if let Ok(index) = step.parse::<i64>() {
        let Some(list) = value.as_array() else { return Vec::new() };
        let index = if index < 0 { index + list.len() as i64 } else { index };
        return usize::try_from(index).ok().and_then(|i| list.get(i)).into_iter().collect();
    }
    if let Some(filter) = step.strip_prefix("?(").and_then(|s| s.strip_suffix(')')) {
        let (path, operator, wanted) = match filter.split_once("==") {
            Some((path, wanted)) => (path, true, wanted),
            None => match filter.split_once("!=") {
                Some((path, wanted)) => (path, false, wanted),
                None => (filter, true, ""),
            },
        };
        let path = path.trim().trim_start_matches('@');
        let wanted = wanted.trim().trim_matches(['"', '\'']);
        let matches = |entry: &&Value| {
            let got = find(entry, path).into_iter().next();
            if wanted.is_empty() {
                return got.is_some();
            }
            let text = got.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            (text.as_deref() == Some(wanted)) == operator
        };
        return value.as_array().into_iter().flatten().filter(matches).collect();
    }
    value.get(step.trim_matches(['"', '\''])).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({"a": {"b.c/d": 1}, "l": [{"type": "X", "v": 1}, {"type": "Ready", "v": 2}]});
        for (path, wanted) in [
            (".a.b\\.c/d", json!(1)),
            (".l[?(@.type==\"Ready\")].v", json!(2)),
            (".l[0].v", json!(1)),
            (".l[*].type", json!("X")),
        ] {
            assert_eq!(find(&object, path).first().copied(), Some(&wanted), "{path}");
        }
    }
}
