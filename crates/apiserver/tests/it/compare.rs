//! Expectations with placeholders, compared with answers.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

/// The run's own values: `ns`, `id`, `var.NAME`.
pub(crate) type Environment = BTreeMap<String, Value>;

/// How two values are compared.
#[derive(Clone, Copy)]
pub(crate) struct Mode<'a> {
    /// What the expectation leaves out may be there.
    pub(crate) subset: bool,
    /// Lists that are matched by a key, by pointer.
    pub(crate) keys: Option<&'a Map<String, Value>>,
}

fn pattern(name: &str) -> Option<&'static str> {
    Some(match name {
        "uid" => r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "rv" => r"[1-9][0-9]*",
        "time" => r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        "microtime" => r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
        "ip" => r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}",
        "rand" => r"[a-z0-9]{5}",
        "hash" => r"[a-z0-9]+",
        "int" => r"-?\d+",
        "num" => r"-?\d+(?:\.\d+)?",
        "age" => r"(?:<unknown>|<invalid>|(?:\d+(?:ms|[smhdy]))+)",
        "continue" => r"[A-Za-z0-9_=-]+",
        "token" => r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
        "node" => r"[a-z0-9.-]+",
        "word" => r#"[^\s"]+"#,
        "any" => r"(?s:.*)",
        _ => return None,
    })
}

/// Splits a text at its placeholders: literal, name, literal, ...
fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        out.push((false, &rest[..start]));
        out.push((true, &rest[start + 2..start + length]));
        rest = &rest[start + length + 1..];
    }
    out.push((false, rest));
    out.retain(|(name, text)| *name || !text.is_empty());
    out
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Fills the run's values into a request.
pub(crate) fn fill(value: &Value, environment: &Environment) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match pieces(text).as_slice() {
            [(true, name)] => environment.get(*name).cloned().ok_or_else(|| format!("no value for {name}"))?,
            parts => {
                let mut out = String::new();
                for (is_name, part) in parts {
                    if *is_name {
                        out.push_str(&plain(environment.get(*part).ok_or_else(|| format!("no value for {part}"))?));
                    } else {
                        out.push_str(part);
                    }
                }
                Value::String(out)
            }
        },
        Value::Array(list) => list.iter().map(|v| fill(v, environment)).collect::<Result<_, _>>()?,
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, inner) in map {
                let key = plain(&fill(&Value::String(key.clone()), environment)?);
                out.insert(key, fill(inner, environment)?);
            }
            Value::Object(out)
        }
        other => other.clone(),
    })
}

fn text_matches(expected: &str, actual: &Value, environment: &Environment) -> bool {
    let parts = pieces(expected);
    if let [(true, name)] = parts.as_slice() {
        match (pattern(name), *name) {
            (None, _) => return environment.get(*name) == Some(actual),
            (_, "any") => return true,
            (_, "int" | "num") if actual.is_number() => return true,
            _ => {}
        }
    }
    let Some(actual) = actual.as_str() else { return false };
    let mut regex = String::from("^(?:");
    for (is_name, part) in parts {
        match (is_name, pattern(part)) {
            (true, Some(pattern)) => regex.push_str(pattern),
            (true, None) => regex.push_str(&regex::escape(&environment.get(part).map(plain).unwrap_or_default())),
            (false, _) => regex.push_str(&regex::escape(part)),
        }
    }
    regex.push_str(")$");
    Regex::new(&regex).is_ok_and(|r| r.is_match(actual))
}

/// The value at a JSON pointer.
pub(crate) fn at<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    pointer.split('/').skip(1).try_fold(value, |value, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Object(map) => map.get(&part),
            Value::Array(list) => list.get(if part == "first" { 0 } else { part.parse().ok()? }),
            _ => None,
        }
    })
}

/// Takes out what pointers name; `*` is every entry, `[key=value]` the entries that have it.
pub(crate) fn strip(value: &mut Value, pointers: &[Value]) {
    for pointer in pointers.iter().filter_map(Value::as_str) {
        let parts: Vec<String> = pointer.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
        take(value, &parts);
    }
}

fn take(value: &mut Value, parts: &[String]) {
    let Some((head, tail)) = parts.split_first() else { return };
    let chosen = |index: usize, entry: &Value| match head
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .and_then(|h| h.split_once('='))
    {
        Some((key, wanted)) => entry.get(key).and_then(Value::as_str) == Some(wanted),
        None => head == "*" || head.parse() == Ok(index),
    };
    match value {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().filter(|k| head == "*" || *k == head).cloned().collect();
            for key in keys {
                if tail.is_empty() {
                    map.remove(&key);
                } else if let Some(inner) = map.get_mut(&key) {
                    take(inner, tail);
                }
            }
        }
        Value::Array(list) => {
            let mut index = 0;
            list.retain_mut(|entry| {
                let hit = chosen(index, entry);
                index += 1;
                if hit && !tail.is_empty() {
                    take(entry, tail);
                }
                !(hit && tail.is_empty())
            });
        }
        _ => {}
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

/// Lists the differences.
pub(crate) fn differences(
    expected: &Value,
    actual: &Value,
    environment: &Environment,
    mode: Mode<'_>,
    path: &str,
    out: &mut Vec<String>,
) {
    let mut tell =
        |path: &str, expected: &str, actual: &str| out.push(format!("{path}: expected {expected}, got {actual}"));
    match (expected, actual) {
        (Value::String(text), _) => {
            if !text_matches(text, actual, environment) {
                tell(path, &short(expected), &short(actual));
            }
        }
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                let below = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                match found.get(key) {
                    None => out.push(format!("{below}: expected {}, got nothing", short(value))),
                    Some(actual) => differences(value, actual, environment, mode, &below, out),
                }
            }
            if !mode.subset {
                for (key, value) in found.iter().filter(|(k, _)| !wanted.contains_key(*k)) {
                    out.push(format!("{path}/{key}: expected nothing, got {}", short(value)));
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) => lists(wanted, found, environment, mode, path, out),
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        _ => tell(path, &short(expected), &short(actual)),
    }
}

fn lists(
    wanted: &[Value],
    found: &[Value],
    environment: &Environment,
    mode: Mode<'_>,
    path: &str,
    out: &mut Vec<String>,
) {
    let generic: Vec<&str> =
        path.split('/').map(|p| if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p }).collect();
    let key = mode.keys.and_then(|k| k.get(path).or_else(|| k.get(&generic.join("/")))).and_then(Value::as_str);
    match key {
        Some("@set") => {
            let mut left: Vec<&Value> = found.iter().collect();
            for (index, value) in wanted.iter().enumerate() {
                let hit = left.iter().position(|actual| {
                    let mut none = Vec::new();
                    differences(value, actual, environment, mode, &format!("{path}/{index}"), &mut none);
                    none.is_empty()
                });
                match hit {
                    Some(hit) => drop(left.remove(hit)),
                    None => out.push(format!("{path}/{index}: expected {}, which no entry is", short(value))),
                }
            }
            if !left.is_empty() && !mode.subset {
                out.push(format!("{path}: {} more entries than expected", left.len()));
            }
        }
        Some(keys) => {
            let key_of = |value: &Value| -> Vec<String> {
                let pointer = |k: &str| if k.starts_with('/') { k.to_owned() } else { format!("/{k}") };
                let part = |k: &str| at(value, &pointer(k)).map(|v| fill(v, environment).unwrap_or_else(|_| v.clone()));
                keys.split(',').map(|k| part(k).map(|v| v.to_string()).unwrap_or_default()).collect()
            };
            for (index, value) in wanted.iter().enumerate() {
                match found.iter().find(|f| key_of(f) == key_of(value)) {
                    None => out.push(format!("{path}/{index}: expected {}, got nothing", short(value))),
                    Some(actual) => differences(value, actual, environment, mode, &format!("{path}/{index}"), out),
                }
            }
            if !mode.subset && wanted.len() != found.len() {
                out.push(format!("{path}: expected {} entries, got {}", wanted.len(), found.len()));
            }
        }
        None => {
            for index in 0..wanted.len().max(found.len()) {
                let below = format!("{path}/{index}");
                match (wanted.get(index), found.get(index)) {
                    (Some(value), Some(actual)) => differences(value, actual, environment, mode, &below, out),
                    (Some(value), None) => out.push(format!("{below}: expected {}, got nothing", short(value))),
                    (None, Some(actual)) if !mode.subset => {
                        out.push(format!("{below}: expected nothing, got {}", short(actual)));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The message of a `Status` with several causes, its parts sorted.
pub(crate) fn sort_errors(value: &Value) -> Value {
    let Some(message) = value.get("message").and_then(Value::as_str) else { return value.clone() };
    let flat: String = message.chars().filter(|c| !"[]".contains(*c)).collect();
    let flat = flat.replace("is invalid: ", "is invalid, ").replace("decoding error: ", "decoding error, ");
    let mut parts: Vec<String> = vec![String::new()];
    let chars: Vec<char> = flat.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let split = chars[i] == ','
            && chars.get(i + 1) == Some(&' ')
            && chars.get(i + 2).is_some_and(|c| c.is_ascii_alphabetic() || ".<".contains(*c));
        if split {
            parts.push(String::new());
            i += 2;
            continue;
        }
        parts.last_mut().expect("never empty").push(chars[i]);
        i += 1;
    }
    parts.sort();
    let mut value = value.clone();
    value["message"] = parts.join(", ").into();
    value
}
