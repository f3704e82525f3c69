//! The conditions of a definition: whether its names are free, and whether it is served.

use serde_json::{Value, json};

use super::{text, texts};

/// The status a definition should have, given the other definitions of its group; `None` when it
/// has it already.
pub fn status(definition: &Value, others: &[&Value], now: &str) -> Option<Value> {
    let group = text(definition, "/spec/group");
    let rivals: Vec<&Value> = others
        .iter()
        .copied()
        .filter(|o| text(o, "/spec/group") == group && text(o, "/metadata/name") != text(definition, "/metadata/name"))
        .collect();
    let mut accepted = definition.pointer("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let mut conflict: Option<(&str, String)> = None;
    let wanted = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let taken = |keys: &[&str], name: &str| {
        rivals.iter().any(|rival| {
            let names = rival.pointer("/status/acceptedNames");
            keys.iter().any(|key| {
                let value = names.and_then(|n| n.get(*key));
                value.and_then(Value::as_str) == Some(name)
                    || value.and_then(Value::as_array).is_some_and(|list| list.iter().any(|n| n.as_str() == Some(name)))
            })
        })
    };
    let resources = ["plural", "singular", "shortNames"];
    let kinds = ["kind", "listKind"];
    for (key, keys, reason) in [
        ("plural", &resources[..], "PluralConflict"),
        ("singular", &resources[..], "SingularConflict"),
        ("shortNames", &resources[..], "ShortNamesConflict"),
        ("kind", &kinds[..], "KindConflict"),
        ("listKind", &kinds[..], "ListKindConflict"),
    ] {
        let names = match wanted.get(key) {
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(_)) => texts(&wanted, &format!("/{key}")),
            _ => Vec::new(),
        };
        match names.iter().find(|name| taken(keys, name)) {
            Some(name) => {
                conflict = Some((reason, format!("{name:?} is already in use")));
            }
            None => copy(&wanted, &mut accepted, key),
        }
    }
    copy(&wanted, &mut accepted, "categories");

    let mut conditions: Vec<Value> =
        definition.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let established = super::is(definition, "Established");
    let (names, serving) = if let Some((reason, message)) = &conflict {
        (("False", *reason, message.as_str()), ("False", "NotAccepted", "not all names are accepted"))
    } else {
        let serving = ("True", "InitialNamesAccepted", "the initial names have been accepted");
        (("True", "NoConflicts", "no conflicts found"), serving)
    };
    let serving = (!established).then_some(serving);
    set(&mut conditions, "NamesAccepted", names, now);
    if let Some(serving) = serving {
        set(&mut conditions, "Established", serving, now);
    }
    let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    status["conditions"] = conditions.into();
    status["acceptedNames"] = accepted;
    (definition.get("status") != Some(&status)).then_some(status)
}

fn copy(from: &Value, to: &mut Value, key: &str) {
    if let Some(to) = to.as_object_mut() {
        match from.get(key) {
            Some(value) => to.insert(key.to_owned(), value.clone()),
            None => to.remove(key),
        };
    }
}

/// Sets a condition; its time moves only when its status does.
pub fn set(conditions: &mut Vec<Value>, ty: &str, (status, reason, message): (&str, &str, &str), now: &str) {
    let before = conditions.iter().position(|c| text(c, "/type") == ty);
    let time = match before.map(|i| &conditions[i]) {
        Some(old) if text(old, "/status") == status => text(old, "/lastTransitionTime").to_owned(),
        _ => now.to_owned(),
    };
    let condition =
        json!({"type": ty, "status": status, "lastTransitionTime": time, "reason": reason, "message": message});
    match before {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}
