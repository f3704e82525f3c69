//! The `Table` form of objects, which `kubectl get` shows. The columns of built-in kinds are in
//! `data/tables.json`, each with the expression that fills it (see [`cells`]); those of custom
//! resources come from `additionalPrinterColumns`.

mod cells;
mod jsonpath;
mod pod;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::schema::builtin;

/// What the default `Age` column of custom resources says of itself.
pub const AGE: &str = "@meta.v1.ObjectMeta.creationTimestamp";

/// A column of a built-in kind: name, type, format, priority, description, expression.
type Column = (String, String, String, i64, String, String);

static TABLES: LazyLock<BTreeMap<String, Vec<Column>>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/tables.json")).expect("data/tables.json is checked by a test")
});

/// `columnDefinitions` of a kind.
pub fn columns(kind: &Kind) -> Value {
    let name = definition("Name", "string", "name", 0, "@meta.v1.ObjectMeta.name");
    let columns: Vec<Value> = match (&kind.custom, TABLES.get(&kind.kind)) {
        (Some(custom), _) => {
            let own = custom.columns.iter().map(|c| {
                let path = || format!("Custom resource definition column (in JSONPath format): {}", c.path);
                let description = if c.description.is_empty() { path() } else { c.description.clone() };
                definition(&c.name, &c.ty, &c.format, c.priority, &description)
            });
            std::iter::once(name).chain(own).collect()
        }
        (None, Some(columns)) => columns.iter().map(|c| definition(&c.0, &c.1, &c.2, c.3, &c.4)).collect(),
        (None, None) => vec![name, definition("Created At", "date", "", 0, AGE)],
    };
    Value::Array(columns)
}

fn definition(name: &str, ty: &str, format: &str, priority: i64, description: &str) -> Value {
    let description = match description.strip_prefix('@') {
        Some(field) => described(field),
        None => description,
    };
    json!({"name": name, "type": ty, "format": format, "description": description, "priority": priority})
}

/// The documentation of a field, named by its short definition and field.
fn described(field: &str) -> &'static str {
    let Some((short, name)) = field.rsplit_once('.') else { return "" };
    let documents = builtin::documents();
    let document = documents.iter().find(|(full, _)| builtin::short_name(full) == short).map(|(_, d)| d);
    document.and_then(|d| d.get("properties")?.get(name)?.get("description")?.as_str()).unwrap_or_default()
}

/// The cells of one object.
pub fn cells(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let name = || object.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    match (&kind.custom, TABLES.get(&kind.kind)) {
        (Some(custom), _) => {
            let own = custom.columns.iter().map(|c| jsonpath::cell(object, &c.path, &c.ty, now));
            std::iter::once(name()).chain(own).collect()
        }
        (None, Some(columns)) => columns.iter().map(|c| cells::cell(object, &c.5, now)).collect(),
        (None, None) => vec![name(), object.pointer("/metadata/creationTimestamp").cloned().unwrap_or(Value::Null)],
    }
}

/// One row. `include` is the request's `includeObject`: `None`, `Metadata` or `Object`;
/// `meta_version` is the version of `meta.k8s.io` asked for.
pub fn row(kind: &Kind, object: &Value, include: &str, meta_version: &str, now: jiff::Timestamp) -> Value {
    let shown = match include {
        "None" => Value::Null,
        "Object" => object.clone(),
        _ => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{meta_version}"),
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        }),
    };
    let mut row = json!({"cells": cells(kind, object, now), "object": shown});
    if kind.kind == "Pod" && kind.group.is_empty() {
        let finished = match object.pointer("/status/phase").and_then(Value::as_str) {
            Some("Succeeded") => Some(("Succeeded", "The pod has completed successfully.")),
            Some("Failed") => Some(("Failed", "The pod failed.")),
            _ => None,
        };
        if let Some((reason, message)) = finished {
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
        }
    }
    row
}

/// A whole table. `metadata` is the list's, or that of the single object's version; columns are
/// left out of all events of a watch but the first.
pub fn render(
    kind: &Kind,
    objects: &[Value],
    metadata: &Value,
    include: &str,
    meta_version: &str,
    with_columns: bool,
    now: jiff::Timestamp,
) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{meta_version}"),
        "metadata": metadata,
        "columnDefinitions": if with_columns { columns(kind) } else { Value::Null },
        "rows": objects.iter().map(|o| row(kind, o, include, meta_version, now)).collect::<Vec<_>>(),
    })
}

/// How long ago a time was, as kubectl shows it; `<unknown>` without one.
pub fn age(time: Option<&str>, now: jiff::Timestamp) -> String {
    match time.map(str::parse::<jiff::Timestamp>) {
        None => "<unknown>".into(),
        Some(Err(_)) => "<invalid>".into(),
        Some(Ok(time)) => duration(now.as_second() - time.as_second()),
    }
}

/// A duration as kubectl shows it: two units at most, fewer the longer it is.
pub fn duration(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (150, "2m30s"),
            (700, "11m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn every_description_is_found() {
        for (kind, columns) in TABLES.iter() {
            for column in columns {
                if let Some(field) = column.4.strip_prefix('@') {
                    assert!(!described(field).is_empty(), "{kind}: {field}");
                }
            }
        }
    }
}
